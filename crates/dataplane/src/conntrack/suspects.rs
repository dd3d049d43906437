//! Connections that may have to end: which they are, and how few of all connections the kernel need tell of to find them. Pure.
//!
//! What is led by an element ends with it. What a map serves is only suspected here; the plan decides when they are looked at.

use std::collections::BTreeSet;
use std::net::IpAddr;

use rustc_hash::{FxHashMap, FxHashSet};
use weft_model::Family;
use weft_plan::{Atom, Atoms, Ident, KernelKey, KernelRow, Plan, marks};

use super::{Entry, Lasting};

/// Protocol number of UDP.
pub(super) const UDP: u8 = 17;
/// Up to so many lists of one kind are asked for, each of which the kernel confines to one end's connections. It walks its
/// whole table each time (10 ms for 262,144 empty buckets, which all network namespaces share), so that more share one list.
const FEW: usize = 2;

/// An address and port.
pub(super) type End = (IpAddr, u16);

/// Connections that were opened to one destination and led to another: by an element that is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Flow {
    /// The address that was asked for; `None` for any.
    pub(crate) to: Option<IpAddr>,
    /// IP protocol number.
    pub(crate) protocol: u8,
    /// The port that was asked for.
    pub(crate) port: u16,
    /// The address and port that answer.
    pub(crate) led_to: End,
}

/// What a listing of connections can be confined to. A kernel that doesn't know a filter tells of more: who lists looks at each
/// connection all the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Narrowing {
    /// All connections.
    None,
    /// Those of one protocol in one family.
    Protocol(Family, u8),
    /// Those in whose mark all of these bits are set.
    Marked(u32),
    /// Those in whose mark none of these bits is set.
    Unmarked(u32),
    /// Those that were opened to here (kernels from 5.8 on).
    OpenedTo {
        /// The address.
        address: IpAddr,
        /// IP protocol number.
        protocol: u8,
        /// The port.
        port: u16,
    },
    /// Those that are answered from here (kernels from 5.8 on).
    AnsweredBy {
        /// The address.
        address: IpAddr,
        /// IP protocol number.
        protocol: u8,
        /// The port.
        port: u16,
    },
}

/// Whom of those that were opened to one place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Who {
    /// Those that the map led.
    Marked,
    /// All.
    Everybody,
}

/// Those that a map with [`weft_plan::filter::Flush::Served`] may not serve any more.
#[derive(Debug, Default)]
pub(super) struct Served {
    /// Bit that is set in the marks of those that it led.
    pub(super) mark: u32,
    /// Where they were opened to.
    pub(super) opened: FxHashMap<End, Who>,
    /// Where elements led that have gone.
    pub(super) left: FxHashSet<End>,
    /// All that it led, wherever they were opened to, and its family.
    pub(super) all: Option<Family>,
}

impl Served {
    fn suspects(&self, entry: &Entry) -> bool {
        let original = &entry.original;
        let is_marked = entry.mark & self.mark == self.mark;
        match self.opened.get(&(original.destination, original.destination_port)) {
            Some(Who::Everybody) => true,
            Some(Who::Marked) => is_marked,
            None => is_marked && self.all == Some(Family::of(original.destination)),
        }
    }

    fn merge(&mut self, other: Served) {
        self.mark = other.mark;
        for (end, who) in other.opened {
            let known = self.opened.entry(end).or_insert(who);
            *known = (*known).max(who);
        }
        self.left.extend(other.left);
        self.all = other.all.or(self.all);
    }

    fn lists(&self) -> Vec<Narrowing> {
        if let Some(family) = self.all {
            return vec![Narrowing::Protocol(family, UDP)];
        }
        let everybody: BTreeSet<End> =
            (self.opened.iter()).filter_map(|(end, who)| (*who == Who::Everybody).then_some(*end)).collect();
        let came = confined(&everybody, Narrowing::Unmarked(self.mark), |(address, port)| {
            Narrowing::OpenedTo { address, protocol: UDP, port }
        });
        let left: BTreeSet<End> = self.left.iter().copied().collect();
        let gone = confined(&left, Narrowing::Marked(self.mark), |(address, port)| Narrowing::AnsweredBy {
            address,
            protocol: UDP,
            port,
        });
        came.into_iter().chain(gone).collect()
    }
}

/// A list for each, or one that has all where they are many.
pub(super) fn confined<T: Copy>(
    of: &BTreeSet<T>,
    all: Narrowing,
    one: impl Fn(T) -> Narrowing,
) -> Vec<Narrowing> {
    if of.len() > FEW { vec![all] } else { of.iter().map(|of| one(*of)).collect() }
}

/// Connections that may have to end, arranged so that each connection is asked a few questions however many they are.
#[derive(Debug, Default)]
pub(crate) struct Suspects {
    pub(super) led: FxHashSet<Flow>,
    /// By the map's name.
    pub(super) served: FxHashMap<Ident, Served>,
    /// Those that have a while, and go another way: [`Suspects::take_lasting`].
    pub(super) lasting: Lasting,
}

impl Suspects {
    /// True where nobody is suspected who hasn't a while.
    pub(crate) fn is_empty(&self) -> bool {
        self.led.is_empty() && self.served.is_empty()
    }

    /// Leaves out those that have a while.
    pub(crate) fn take_lasting(&mut self) -> Lasting {
        std::mem::take(&mut self.lasting)
    }

    /// These too, but for those that have a while.
    pub(crate) fn merge(&mut self, other: Suspects) {
        self.led.extend(other.led);
        for (map, served) in other.served {
            self.served.entry(map).or_default().merge(served);
        }
    }

    /// The lists in which all of their connections are.
    pub(crate) fn lists(&self) -> Vec<Narrowing> {
        let ends: BTreeSet<(End, u8)> = self.led.iter().map(|flow| (flow.led_to, flow.protocol)).collect();
        let led = confined(&ends, Narrowing::None, |((address, port), protocol)| Narrowing::AnsweredBy {
            address,
            protocol,
            port,
        });
        if led == [Narrowing::None] {
            return led;
        }
        let served = self.served.values().flat_map(Served::lists);
        led.into_iter().chain(served).collect::<BTreeSet<_>>().into_iter().collect()
    }

    /// True where this connection is one of them, and by this plan leads to nobody.
    pub(crate) fn end(&self, plan: &Plan, entry: &Entry) -> bool {
        let is_led = entry.is_translated() && self.has_led(entry);
        let unserved = |(map, served): (&Ident, &Served)| served.suspects(entry) && !serves(plan, map, entry);
        is_led || entry.original.protocol == UDP && self.served.iter().any(unserved)
    }

    fn has_led(&self, entry: &Entry) -> bool {
        let original = &entry.original;
        let led_to = (entry.reply.source, entry.reply.source_port);
        let (protocol, port) = (original.protocol, original.destination_port);
        [Some(original.destination), None]
            .into_iter()
            .any(|to| self.led.contains(&Flow { to, protocol, port, led_to }))
    }
}

/// True where the map has an element from where the connection was opened to, to where it leads. Which mark the connection
/// bears doesn't matter: the end may have had another one then, and other programs' have none.
pub(super) fn serves(plan: &Plan, map: &Ident, entry: &Entry) -> bool {
    let original = &entry.original;
    marks::is_among((entry.reply.source, entry.reply.source_port), |mark| {
        let key = [
            Atom::from(original.destination),
            Atom::Proto(original.protocol),
            Atom::Port(original.destination_port),
            Atom::Mark(mark),
        ];
        match plan.kernel.get(&KernelKey::Element(map.clone(), key.into()))? {
            KernelRow::Element(element) => end_of(&element.data),
            _ => None,
        }
    })
}

/// The end that an element leads to.
pub(super) fn end_of(data: &Atoms) -> Option<End> {
    match &data.to_vec()[..] {
        [place, Atom::Port(port)] => Some((address(place)?, *port)),
        _ => None,
    }
}

/// The address that an atom says.
pub(super) fn address(atom: &Atom) -> Option<IpAddr> {
    match atom {
        Atom::V4(v4) => Some((*v4).into()),
        Atom::V6(v6) => Some((*v6).into()),
        _ => None,
    }
}
