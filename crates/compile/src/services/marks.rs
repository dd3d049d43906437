//! How a service's port is handled, as the connection's mark says it while the port is looked up (the layout:
//! [`weft_plan::marks`]).
//!
//! A class says which constant chain picks a slot. A group is one set of endpoints, and its number is its own in the whole
//! cluster ([`super::groups`]).

use weft_plan::marks::CLASS_SHIFT;

/// Groups up to this size have a class each; those beyond share one, and a map says which chain is theirs.
pub const SMALL: u32 = 64;
/// Endpoints that a group can have; more are left out, with a warning.
pub const MOST_ENDPOINTS: usize = 65_535;

/// Stands where a class does, with the number of a list of sources ([`super::sources`]): only these may use the port, and its
/// own mark is asked for then.
pub const SOURCES: u32 = 0xfd << CLASS_SHIFT;

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

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use weft_plan::marks::{CHOSEN, CLASS};

    use super::*;

    #[test]
    fn classes_have_codes_of_their_own_below_the_chosen_bit() {
        let others = [Class::Large(65), Class::Refuse, Class::Absent];
        let codes: Vec<u32> = (1..=SMALL).map(Class::Slots).chain(others).map(Class::bits).collect();
        let codes: Vec<u32> = codes.into_iter().chain([SOURCES]).collect();
        assert_eq!(codes.iter().collect::<BTreeSet<_>>().len(), codes.len());
        assert!(codes.iter().all(|code| code & !CLASS == 0 && code & CHOSEN == 0 && *code != 0));
        assert_eq!(Class::Large(65).bits(), Class::Large(1000).bits());
    }

    #[test]
    fn every_endpoint_has_a_slot() {
        assert_eq!(Class::of(0), Class::Refuse);
        assert_eq!(Class::of(64), Class::Slots(64));
        assert_eq!(Class::of(65), Class::Large(65));
        assert_eq!(Class::of(MOST_ENDPOINTS + 1), Class::Large(MOST_ENDPOINTS as u32));
    }
}
