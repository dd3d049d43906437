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

use weft_model::Port;
use weft_model::net::fnv1a;

/// Set in the mark of every connection that a service has led somewhere.
pub const CHOSEN: u32 = 1 << 31;
/// Where the class is.
pub const CLASS_MASK: u32 = 0xff << CLASS_SHIFT;
/// Where the group is.
pub const GROUP_MASK: u32 = (1 << CLASS_SHIFT) - 1;
const CLASS_SHIFT: u32 = 23;

/// Up to here a group has as many slots as endpoints.
const EXACT: u32 = 64;
/// Slots of the first class beyond; each further one has twice as many.
const FIRST_LARGE: u32 = 1024;
/// Number of classes beyond.
const LARGE_CLASSES: u32 = 7;
/// Slots that an endpoint of a large group has at least, so that none gets an eighth more than another.
const SLOTS_EACH: u32 = 8;
/// Endpoints that a group can have; more are left out, with a warning.
pub const MOST_ENDPOINTS: usize = (FIRST_LARGE << (LARGE_CLASSES - 1)) as usize / SLOTS_EACH as usize;

/// How a packet to a service's port is handled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// One of this many slots is picked at random.
    Slots(u32),
    /// There is no endpoint: the sender is told.
    Refuse,
    /// There are endpoints, but none that a traffic policy allows from here: another node may be asked.
    Absent,
}

impl Class {
    /// Every class, in the order of their codes.
    pub fn all() -> impl Iterator<Item = Class> {
        let exact = (1..=EXACT).map(Class::Slots);
        let large = (0..LARGE_CLASSES).map(|step| Class::Slots(FIRST_LARGE << step));
        exact.chain(large).chain([Class::Refuse, Class::Absent])
    }

    /// The class of a group with this many endpoints, at most [`MOST_ENDPOINTS`]; none is [`Class::Refuse`].
    pub fn of(endpoints: usize) -> Class {
        let endpoints = endpoints.min(MOST_ENDPOINTS) as u32;
        if endpoints == 0 {
            return Class::Refuse;
        }
        if endpoints <= EXACT {
            return Class::Slots(endpoints);
        }
        let mut slots = FIRST_LARGE;
        while slots < endpoints * SLOTS_EACH {
            slots *= 2;
        }
        Class::Slots(slots)
    }

    /// The endpoint, by its place among `endpoints`, that a slot leads to: each has the same number of slots, or one more.
    pub fn endpoint_at(slot: u32, slots: u32, endpoints: usize) -> usize {
        (u64::from(slot) * endpoints as u64 / u64::from(slots)) as usize
    }

    /// The mark's bits for it.
    pub fn bits(self) -> u32 {
        let code = match self {
            Class::Slots(slots) if slots <= EXACT => slots,
            Class::Slots(slots) => EXACT + 1 + (slots / FIRST_LARGE).ilog2(),
            Class::Refuse => 0xfe,
            Class::Absent => 0xff,
        };
        code << CLASS_SHIFT
    }
}

/// Numbers for the endpoints of one port of one service, in the order of the list, which must be sorted and without
/// doubles: a hash of each, and where two hash alike the later one gets the next free number.
pub fn endpoint_marks(endpoints: &[(IpAddr, Port)]) -> Vec<u32> {
    let mut taken: Vec<u32> = Vec::with_capacity(endpoints.len());
    for (address, port) in endpoints {
        let hash = match address {
            IpAddr::V4(a) => fnv1a(&[&a.octets()[..], &port.get().to_be_bytes()].concat()),
            IpAddr::V6(a) => fnv1a(&[&a.octets()[..], &port.get().to_be_bytes()].concat()),
        };
        let mut mark = (hash ^ (hash >> 32)) as u32 | CHOSEN;
        while taken.contains(&mark) {
            mark = mark.wrapping_add(1) | CHOSEN;
        }
        taken.push(mark);
    }
    taken
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn classes_have_codes_of_their_own_below_the_chosen_bit() {
        let codes: BTreeSet<u32> = Class::all().map(Class::bits).collect();
        assert_eq!(codes.len(), Class::all().count());
        assert!(codes.iter().all(|code| code & !CLASS_MASK == 0 && code & CHOSEN == 0 && *code != 0));
    }

    #[test]
    fn every_endpoint_has_its_share_of_slots() {
        for endpoints in [1, 2, 3, 63, 64, 65, 100, 127, 128, 129, 1000, MOST_ENDPOINTS, MOST_ENDPOINTS + 1] {
            let Class::Slots(slots) = Class::of(endpoints) else { panic!("{endpoints} endpoints: refused") };
            assert!(Class::all().any(|class| class == Class::Slots(slots)), "{slots}");
            let endpoints = endpoints.min(MOST_ENDPOINTS);
            let mut shares = vec![0_u32; endpoints];
            for slot in 0..slots {
                shares[Class::endpoint_at(slot, slots, endpoints)] += 1;
            }
            let (least, most) = (shares.iter().min().unwrap(), shares.iter().max().unwrap());
            assert!(most - least <= 1, "{endpoints}: {least} to {most}");
            assert!(slots as usize == endpoints || *least >= SLOTS_EACH, "{endpoints}: {least}");
        }
        assert_eq!(Class::of(0), Class::Refuse);
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
