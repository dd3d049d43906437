//! Marks of connections and of packets: which bits say what, and the numbers of endpoints that stand there.
//!
//! Of a connection's mark (`ct mark`):
//!
//! | bit 31 | bits 30–23 | bits 22–20 | bits 19–0 | meaning |
//! |---|---|---|---|---|
//! | 0 | class | group | group | while a service is looked up: how many slots its port has, and whose they are |
//! | 0 | 0xfd | list | list | before that, where only some sources may use it: whose they are |
//! | 1 | 0 | 0 | number | an endpoint was chosen; the connection keeps it |
//!
//! Of a packet's own mark (`meta mark`):
//!
//! | bit | meaning |
//! |---|---|
//! | 23 | [`ANSWER`]: a pod answers on a translated connection; set before routing on nodes with a tunnel |
//! | all others | nobody's here: they are neither set nor cleared nor asked |
//!
//! What always holds: the look-up happens once, at a connection's first packet, and ends before routing. From then on the
//! bits of [`FREE`] are zero, and belong to whoever sets them without touching the others.
//! A packet's mark is written bit by bit ([`crate::Statement::SetMarkBits`]), whatever else it bears. [`ANSWER`] isn't among those that
//! are left to others, though no connection has it from us: programs use to restore a connection's mark into its packets, and
//! these would pass the tunnel by.
//!
//! What is absent: marks of packets for services. Between two look-ups it is the connection's mark that carries (decision 0013).

use std::net::IpAddr;

use rustc_hash::FxHashSet;
use weft_model::net::fnv1a;

/// Set in the mark of every connection that a service has led somewhere.
pub const CHOSEN: u32 = 1 << 31;
/// Where the chosen endpoint's number is.
pub const NUMBER: u32 = (1 << 20) - 1;
/// What is left to others once an endpoint was chosen: bits 30–24 and 22–20.
pub const FREE: u32 = !(CHOSEN | NUMBER | ANSWER);
/// Where the class is, while a service is looked up.
pub const CLASS: u32 = 0xff << CLASS_SHIFT;
/// The lowest bit of [`CLASS`].
pub const CLASS_SHIFT: u32 = 23;
/// Where the group is, while a service is looked up.
pub const GROUP: u32 = (1 << CLASS_SHIFT) - 1;

/// Set in the mark of packets that answer a translated connection: they go back as they came, not through a tunnel.
pub const ANSWER: u32 = 1 << 23;

/// The marks that an endpoint can have, in the order in which they are tried: each is its own only among the endpoints of
/// one port of one service.
pub fn of_endpoint((address, port): (IpAddr, u16)) -> impl Iterator<Item = u32> {
    let port = port.to_be_bytes();
    let hash = match address {
        IpAddr::V4(a) => fnv1a(&[&a.octets()[..], &port].concat()),
        IpAddr::V6(a) => fnv1a(&[&a.octets()[..], &port].concat()),
    };
    let first = (hash ^ (hash >> 40) ^ (hash >> 20)) as u32 & NUMBER;
    (0..=NUMBER).map(move |step| first.wrapping_add(step) & NUMBER | CHOSEN)
}

/// Marks for the endpoints of one port of one service, in the order of the list, which must be sorted and without doubles:
/// each has the first of its own that none before it has. Beyond [`NUMBER`] endpoints there are no more.
pub fn of_endpoints(endpoints: &[(IpAddr, u16)]) -> Vec<u32> {
    let mut taken = FxHashSet::default();
    let free = |endpoint: &(IpAddr, u16)| of_endpoint(*endpoint).find(|mark| taken.insert(*mark));
    endpoints.iter().map_while(free).collect()
}

/// Looks for an endpoint as [`of_endpoints`] placed it: at each of its marks in turn until one is nobody's. `at` gives the
/// endpoint that has a mark.
pub fn is_among(endpoint: (IpAddr, u16), at: impl FnMut(u32) -> Option<(IpAddr, u16)>) -> bool {
    of_endpoint(endpoint).map_while(at).any(|found| found == endpoint)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn endpoints(count: u32) -> Vec<(IpAddr, u16)> {
        (0..count).map(|n| (IpAddr::from((10 << 24 | n).to_be_bytes()), 8080)).collect()
    }

    #[test]
    fn the_parts_of_a_mark_do_not_touch() {
        assert_eq!(CHOSEN | CLASS | GROUP, u32::MAX);
        assert_eq!((CHOSEN & CLASS) | (CHOSEN & GROUP) | (CLASS & GROUP) | (CHOSEN & NUMBER), 0);
        assert_eq!((FREE & (CHOSEN | NUMBER), FREE), (0, 0x7f70_0000));
        // What a program may set of a connection's mark, and restore into a packet's, is no answer; nor is what stands there from us.
        assert_eq!(ANSWER & (FREE | CHOSEN | NUMBER), 0);
    }

    #[test]
    fn endpoints_have_marks_of_their_own_and_leave_others_bits_alone() {
        // So many that hundreds hash alike.
        let all = endpoints(30_000);
        let marks = of_endpoints(&all);
        let by_mark: BTreeMap<u32, (IpAddr, u16)> = marks.iter().copied().zip(all.iter().copied()).collect();
        assert_eq!(by_mark.len(), all.len());
        assert!(marks.iter().all(|mark| mark & CHOSEN != 0 && mark & FREE == 0));
        let first = all.iter().map(|endpoint| of_endpoint(*endpoint).next().unwrap());
        let alike = first.zip(&marks).filter(|(first, mark)| first != *mark).count();
        assert!((100..1000).contains(&alike), "{alike} of them hash alike");
        // Each is found where it is, and no other.
        assert!(all.iter().all(|endpoint| is_among(*endpoint, |mark| by_mark.get(&mark).copied())));
        let strangers = all.iter().map(|(address, _)| (*address, 9090));
        assert_eq!(strangers.filter(|e| is_among(*e, |mark| by_mark.get(&mark).copied())).count(), 0);
    }

    #[test]
    fn alone_an_endpoint_has_the_mark_that_it_has_among_others() {
        let all = endpoints(100);
        assert_eq!(of_endpoints(&all)[5..10], of_endpoints(&all[5..10]));
    }
}
