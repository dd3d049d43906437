//! Which share of a network's block is free: arithmetic only.
//!
//! Stores decide in their own ways who gets a share; which one to try is the same for all.

use weft_model::net::{number_of, numbered};
use weft_model::{Cidr, Family, Network};

/// Prefix length of a node's share of a block of this family, in bits.
pub(crate) fn share_of(network: &Network, family: Family) -> u8 {
    match family {
        Family::V4 => network.node_prefix_v4,
        Family::V6 => network.node_prefix_v6,
    }
}

/// True where `cidr` is a share as the network gives them out now.
pub(crate) fn is_share(network: &Network, cidr: &Cidr) -> bool {
    let is_around = |block: &Cidr| block.family() == cidr.family() && block.net().contains(&cidr.net());
    cidr.prefix() == share_of(network, cidr.family()) && network.pod_cidrs.iter().any(is_around)
}

/// The lowest share of `block` that overlaps nothing busy: pure. It steps from busy block to busy block, never through
/// all shares.
pub(crate) fn lowest_free(block: Cidr, share: u8, busy: &[Cidr]) -> Option<Cidr> {
    let mut busy: Vec<(u128, u128)> =
        busy.iter().filter(|c| c.family() == block.family()).map(bounds).collect();
    busy.sort_unstable();
    let (mut at, last) = bounds(&block);
    let shift = u32::from(block.family().bits() - share);
    let size = 1_u128.checked_shl(shift)?;
    for (from, to) in busy {
        if to < at {
            continue;
        }
        if from > at.saturating_add(size - 1) {
            break;
        }
        // The next share that begins after this busy block.
        at = (to | (size - 1)).checked_add(1)?;
    }
    (at <= last).then(|| Cidr::around(numbered(block.family(), at), share))
}

fn bounds(cidr: &Cidr) -> (u128, u128) {
    (number_of(cidr.first()), number_of(cidr.net().broadcast()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_free_share_is_found_between_others() {
        let check = |block: &str, share: u8, busy: &[&str], expected: Option<&str>| {
            let busy: Vec<Cidr> = busy.iter().map(|c| c.parse().unwrap()).collect();
            let found = lowest_free(block.parse().unwrap(), share, &busy);
            assert_eq!(found.map(|c| c.to_string()).as_deref(), expected, "{block} /{share} {busy:?}");
        };
        check("10.244.0.0/16", 24, &[], Some("10.244.0.0/24"));
        check("10.244.0.0/16", 24, &["10.244.0.0/24", "10.244.2.0/24"], Some("10.244.1.0/24"));
        // Shares of other sizes, from another version of the network.
        check("10.244.0.0/16", 24, &["10.244.0.0/22"], Some("10.244.4.0/24"));
        check("10.244.0.0/16", 24, &["10.244.0.128/25", "10.244.1.0/25"], Some("10.244.2.0/24"));
        check("10.244.0.0/16", 24, &["10.0.0.0/8"], None);
        check("10.244.0.0/23", 24, &["10.244.0.0/24", "10.244.1.0/24"], None);
        check("10.244.0.0/16", 24, &["fd00::/8"], Some("10.244.0.0/24"));
        check("255.255.0.0/16", 24, &["255.255.0.0/16"], None);
        check("fd00:244::/48", 64, &["fd00:244::/64"], Some("fd00:244:0:1::/64"));
        check("ffff::/16", 64, &["ffff::/16"], None);
    }
}
