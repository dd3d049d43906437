//! Which address comes next: pure.
//!
//! What always holds: an address that comes out lies in one of the blocks, is not reserved, not taken, and is never
//! a network's or a broadcast address. The search starts after the last address given, so that one just freed rests
//! for as long as there are others.
//!
//! Cost: one look-up, and one step for each taken address in the way. Nothing is kept per free address.

use std::collections::BTreeMap;
use std::net::IpAddr;

use weft_model::net::{number_of, numbered};
use weft_model::{Cidr, Family};

use crate::LeaseOwner;

/// The addresses that a node may give to pods of one network.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pool {
    /// The node's blocks, any number of either family, in order of preference.
    pub cidrs: Vec<Cidr>,
    /// Addresses inside them that no pod gets, such as a gateway's.
    pub reserved: Vec<IpAddr>,
    /// Blocks inside them that are somebody else's, as virtual addresses are services'.
    pub closed: Vec<Cidr>,
}

impl Pool {
    /// A pool of blocks with nothing reserved but what the protocols reserve.
    pub fn new(cidrs: Vec<Cidr>) -> Self {
        Self { cidrs, ..Self::default() }
    }

    /// The families that it has addresses of, the preferred first.
    pub fn families(&self) -> Vec<Family> {
        let mut families: Vec<Family> = Vec::new();
        for cidr in &self.cidrs {
            if !families.contains(&cidr.family()) {
                families.push(cidr.family());
            }
        }
        families
    }

    /// The blocks of one family.
    pub fn of(&self, family: Family) -> impl Iterator<Item = Cidr> + '_ {
        self.cidrs.iter().copied().filter(move |c| c.family() == family)
    }

    /// True where `address` lies in a block.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.cidrs.iter().any(|c| c.contains(address))
    }

    /// True where no pod may have `address`: reserved by the caller or by the protocol.
    pub fn is_reserved(&self, address: IpAddr) -> bool {
        self.reserved.contains(&address)
            || self.closed.iter().any(|closed| closed.contains(address))
            || self.cidrs.iter().any(|c| {
                let (first, last) = usable(*c);
                c.contains(address) && (number_of(address) < first || number_of(address) > last)
            })
    }

    /// The next free address of a family, round-robin after `last`; `None` where all are taken.
    pub fn next(
        &self,
        family: Family,
        last: Option<IpAddr>,
        taken: &BTreeMap<IpAddr, LeaseOwner>,
    ) -> Option<IpAddr> {
        let ranges: Vec<(u128, u128)> = self.of(family).flat_map(|cidr| self.open(cidr)).collect();
        let last = last.filter(|a| Family::of(*a) == family).map(number_of);
        let start = last.and_then(|l| Some((ranges.iter().position(|(a, b)| *a <= l && l <= *b)?, l)));
        let free = |from, to| self.first_free(family, from, to, taken);
        let Some((at, last)) = start else {
            return ranges.iter().find_map(|(from, to)| free(*from, *to));
        };
        // The rest of the block that `last` is in, the blocks after it, those before it, and its own beginning.
        let (from, to) = ranges[at];
        let rest = last.checked_add(1).filter(|next| *next <= to).and_then(|next| free(next, to));
        rest.or_else(|| ranges[at + 1..].iter().chain(&ranges[..at]).find_map(|(from, to)| free(*from, *to)))
            .or_else(|| free(from, last))
    }

    /// What of a block isn't closed, in order.
    fn open(&self, cidr: Cidr) -> Vec<(u128, u128)> {
        let (first, last) = usable(cidr);
        let ends = |closed: Cidr| (number_of(closed.first()), number_of(closed.net().broadcast()));
        let mut closed: Vec<(u128, u128)> =
            self.closed.iter().filter(|c| c.overlaps(&cidr)).copied().map(ends).collect();
        closed.sort_unstable();
        let mut open = Vec::new();
        let mut next = Some(first);
        for (from, to) in closed {
            open.extend(next.filter(|next| *next < from).map(|next| (next, from - 1)));
            next = next.max(to.checked_add(1));
            if to >= last {
                return open;
            }
        }
        open.extend(next.filter(|next| *next <= last).map(|next| (next, last)));
        open
    }

    /// The lowest free address from `from` to `to`, both included.
    fn first_free(
        &self,
        family: Family,
        from: u128,
        to: u128,
        taken: &BTreeMap<IpAddr, LeaseOwner>,
    ) -> Option<IpAddr> {
        let mut candidate = from;
        // Taken addresses come in ascending order: the first gap between them is free.
        let mut ahead =
            taken.range(numbered(family, from)..=numbered(family, to)).map(|(a, _)| number_of(*a)).peekable();
        while candidate <= to {
            while ahead.next_if(|a| *a < candidate).is_some() {}
            let is_taken = ahead.peek() == Some(&candidate);
            if !is_taken && !self.reserved.contains(&numbered(family, candidate)) {
                return Some(numbered(family, candidate));
            }
            candidate = candidate.checked_add(1)?;
        }
        None
    }
}

/// First and last address of a block that a host may have. IPv4 loses the network's and the broadcast address, except
/// in a /31 (RFC 3021) and a /32; IPv6 loses the subnet-router anycast address (RFC 4291 §2.6.1), except in a /127
/// (RFC 6164) and a /128.
fn usable(cidr: Cidr) -> (u128, u128) {
    let first = number_of(cidr.first());
    let last = number_of(cidr.net().broadcast());
    match cidr.family() {
        Family::V4 if cidr.prefix() <= 30 => (first + 1, last - 1),
        Family::V6 if cidr.prefix() <= 126 => (first + 1, last),
        _ => (first, last),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(cidrs: &[&str], reserved: &[&str]) -> Pool {
        Pool {
            cidrs: cidrs.iter().map(|c| c.parse().unwrap()).collect(),
            reserved: reserved.iter().map(|a| a.parse().unwrap()).collect(),
            ..Pool::default()
        }
    }

    fn taken(addresses: &[&str]) -> BTreeMap<IpAddr, LeaseOwner> {
        let owner = LeaseOwner { container: "c".into(), ifname: None };
        addresses.iter().map(|a| (a.parse().unwrap(), owner.clone())).collect()
    }

    #[track_caller]
    fn check(pool: &Pool, family: Family, last: Option<&str>, in_use: &[&str], expected: Option<&str>) {
        let next = pool.next(family, last.map(|a| a.parse().unwrap()), &taken(in_use));
        assert_eq!(next.map(|a| a.to_string()).as_deref(), expected);
    }

    #[test]
    fn the_next_address_is_the_one_after_the_last() {
        let four = pool(&["10.0.0.0/29"], &[]);
        check(&four, Family::V4, None, &[], Some("10.0.0.1"));
        check(&four, Family::V4, Some("10.0.0.3"), &[], Some("10.0.0.4"));
        check(&four, Family::V4, Some("10.0.0.3"), &["10.0.0.4", "10.0.0.5"], Some("10.0.0.6"));
        // .7 is the broadcast address: the search wraps around.
        check(&four, Family::V4, Some("10.0.0.6"), &["10.0.0.1"], Some("10.0.0.2"));
        // A hint from another time, of another block or family, is no harm.
        check(&four, Family::V4, Some("10.9.9.9"), &[], Some("10.0.0.1"));
        check(&four, Family::V4, Some("fd00::1"), &[], Some("10.0.0.1"));
        check(&four, Family::V6, None, &[], None);
    }

    #[test]
    fn the_last_given_comes_last() {
        let four = pool(&["10.0.0.0/30"], &[]);
        check(&four, Family::V4, Some("10.0.0.1"), &["10.0.0.2"], Some("10.0.0.1"));
        check(&four, Family::V4, Some("10.0.0.2"), &["10.0.0.1", "10.0.0.2"], None);
    }

    #[test]
    fn what_is_reserved_is_never_given() {
        check(&pool(&["10.0.0.0/30"], &["10.0.0.1"]), Family::V4, None, &[], Some("10.0.0.2"));
        check(&pool(&["10.0.0.0/31"], &[]), Family::V4, None, &[], Some("10.0.0.0"));
        check(&pool(&["10.0.0.9/32"], &[]), Family::V4, None, &[], Some("10.0.0.9"));
        check(&pool(&["fd00::/64"], &["fd00::1"]), Family::V6, None, &[], Some("fd00::2"));
        check(&pool(&["fd00::/127"], &[]), Family::V6, None, &[], Some("fd00::"));
        let pool = pool(&["10.0.0.0/30", "fd00::/64"], &[]);
        for (address, expected) in
            [("10.0.0.0", true), ("10.0.0.1", false), ("10.0.0.3", true), ("fd00::", true)]
        {
            assert_eq!(pool.is_reserved(address.parse().unwrap()), expected, "{address}");
        }
    }

    #[test]
    fn what_is_closed_gives_none() {
        let closed = |cidrs: &[&str], closed: &[&str]| Pool {
            closed: closed.iter().map(|c| c.parse().unwrap()).collect(),
            ..pool(cidrs, &[])
        };
        let two = closed(&["10.0.0.0/28", "10.0.8.0/30"], &["10.0.0.8/30", "10.0.0.0/30", "10.0.0.8/31"]);
        check(&two, Family::V4, None, &[], Some("10.0.0.4"));
        check(&two, Family::V4, Some("10.0.0.7"), &[], Some("10.0.0.12"));
        check(&two, Family::V4, Some("10.0.0.14"), &[], Some("10.0.8.1"));
        // One that lies there from before is a beginning as any other.
        check(&two, Family::V4, Some("10.0.0.9"), &[], Some("10.0.0.4"));
        assert!(two.is_reserved("10.0.0.9".parse().unwrap()));
        check(
            &closed(&["10.0.0.0/29"], &["10.0.0.4/30"]),
            Family::V4,
            Some("10.0.0.3"),
            &[],
            Some("10.0.0.1"),
        );
        check(&closed(&["10.0.0.0/29"], &["10.0.0.0/28"]), Family::V4, None, &[], None);
        let top = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:fff0/125";
        check(&closed(&[top], &[top]), Family::V6, None, &[], None);
        let end = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ff00/120";
        let half = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ff80/121";
        check(
            &closed(&[end], &[half]),
            Family::V6,
            None,
            &[],
            Some("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ff01"),
        );
    }

    #[test]
    fn a_second_block_follows_the_first() {
        let two = pool(&["10.0.0.0/30", "fd00::/64", "10.0.8.0/30"], &[]);
        check(&two, Family::V4, None, &["10.0.0.1", "10.0.0.2"], Some("10.0.8.1"));
        check(&two, Family::V4, Some("10.0.8.2"), &["10.0.8.1"], Some("10.0.0.1"));
        check(&two, Family::V4, Some("10.0.8.1"), &["10.0.8.2", "10.0.0.1", "10.0.0.2"], Some("10.0.8.1"));
        assert_eq!(two.families(), [Family::V4, Family::V6]);
    }

    #[test]
    fn the_ends_of_the_address_space_do_not_overflow() {
        check(
            &pool(&["255.255.255.254/31"], &[]),
            Family::V4,
            Some("255.255.255.255"),
            &[],
            Some("255.255.255.254"),
        );
        let top = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff";
        let first = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffe";
        let pool = pool(&["ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffe/127"], &[]);
        check(&pool, Family::V6, Some(top), &[first], Some(top));
        check(&pool, Family::V6, Some(top), &[first, top], None);
    }
}
