//! What the connection's mark says while a service is looked up: the one scratch register that the look-ups share.
//!
//! | bit 31 | bits 30–23 | bits 22–0 | meaning |
//! |---|---|---|---|
//! | 0 | class | group | a service's port: how many slots it has, and whose they are |
//! | 1 | endpoint | | the endpoint that was chosen; the connection keeps it |
//!
//! A class says which constant chain picks a slot. A group is one set of endpoints, and its number is its own in the whole
//! cluster ([`super::groups`]). An endpoint's number is its own within one port of one service.

use std::net::IpAddr;

use rustc_hash::FxHashSet;
use weft_model::Port;
use weft_model::net::fnv1a;

/// Set in the mark of every connection that a service has led somewhere.
pub const CHOSEN: u32 = 1 << 31;
/// Where the class is.
pub const CLASS_MASK: u32 = 0xff << CLASS_SHIFT;
/// Where the group is.
pub const GROUP_MASK: u32 = (1 << CLASS_SHIFT) - 1;
const CLASS_SHIFT: u32 = 23;

/// Groups up to this size have a class each; those beyond share one, and a map says which chain is theirs.
pub const SMALL: u32 = 64;
/// Endpoints that a group can have; more are left out, with a warning.
pub const MOST_ENDPOINTS: usize = 65_535;

/// How a packet to a service's port is handled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// One of this many slots is picked at random, at most [`SMALL`]; an endpoint each.
    Slots(u32),
    /// The same for more: the group's own mark leads to the chain that picks.
    Large(u32),
    /// There is no endpoint: the sender is told.
    Refuse,
    /// There are endpoints, but none that a traffic policy allows from here: another node may be asked.
    Absent,
}

impl Class {
    /// The class of a group with this many endpoints, at most [`MOST_ENDPOINTS`]; none is [`Class::Refuse`].
    pub fn of(endpoints: usize) -> Class {
        match endpoints.min(MOST_ENDPOINTS) as u32 {
            0 => Class::Refuse,
            slots if slots <= SMALL => Class::Slots(slots),
            slots => Class::Large(slots),
        }
    }

    /// The mark's bits for it: all large groups have the same.
    pub fn bits(self) -> u32 {
        let code = match self {
            Class::Slots(slots) => slots,
            Class::Large(_) => SMALL + 1,
            Class::Refuse => 0xfe,
            Class::Absent => 0xff,
        };
        code << CLASS_SHIFT
    }
}

/// Numbers for the endpoints of one port of one service, in the order of the list, which must be sorted and without
/// doubles: a hash of each, and where two hash alike the later one gets the next free number.
pub fn endpoint_marks(endpoints: &[(IpAddr, Port)]) -> Vec<u32> {
    let mut taken = FxHashSet::default();
    let mut marks = Vec::with_capacity(endpoints.len());
    for (address, port) in endpoints {
        let hash = match address {
            IpAddr::V4(a) => fnv1a(&[&a.octets()[..], &port.get().to_be_bytes()].concat()),
            IpAddr::V6(a) => fnv1a(&[&a.octets()[..], &port.get().to_be_bytes()].concat()),
        };
        let mut mark = (hash ^ (hash >> 32)) as u32 | CHOSEN;
        while !taken.insert(mark) {
            mark = mark.wrapping_add(1) | CHOSEN;
        }
        marks.push(mark);
    }
    marks
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn classes_have_codes_of_their_own_below_the_chosen_bit() {
        let others = [Class::Large(65), Class::Refuse, Class::Absent];
        let codes: Vec<u32> = (1..=SMALL).map(Class::Slots).chain(others).map(Class::bits).collect();
        assert_eq!(codes.iter().collect::<BTreeSet<_>>().len(), codes.len());
        assert!(codes.iter().all(|code| code & !CLASS_MASK == 0 && code & CHOSEN == 0 && *code != 0));
        assert_eq!(Class::Large(65).bits(), Class::Large(1000).bits());
    }

    #[test]
    fn every_endpoint_has_a_slot() {
        assert_eq!(Class::of(0), Class::Refuse);
        assert_eq!(Class::of(64), Class::Slots(64));
        assert_eq!(Class::of(65), Class::Large(65));
        assert_eq!(Class::of(MOST_ENDPOINTS + 1), Class::Large(MOST_ENDPOINTS as u32));
    }

    #[test]
    fn endpoints_have_numbers_of_their_own() {
        let endpoints: Vec<(IpAddr, Port)> = (0..2000_u16)
            .map(|n| (IpAddr::from([10, 0, (n >> 8) as u8, n as u8]), Port::new(8080).unwrap()))
            .collect();
        let marks = endpoint_marks(&endpoints);
        assert_eq!(marks.iter().collect::<BTreeSet<_>>().len(), endpoints.len());
        assert!(marks.iter().all(|mark| mark & CHOSEN != 0));
        assert_eq!(marks[5..10], endpoint_marks(&endpoints[5..10]));
    }
}
