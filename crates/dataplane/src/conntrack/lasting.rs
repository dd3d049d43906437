//! Connections of TCP and other protocols that notice by themselves when their other side goes, but not when it merely leaves the
//! service: they end a while after their end has left. Pure, but for clocks' readings that it is given.
//!
//! What always holds: only what a map with [`Flush::Served`] led is suspected, by the bit in its mark; who is served or listed again
//! by the time keeps what it has, because endpoints are moved from one slice to another by two changes; with the whole map, that
//! is with services as such, nothing ends.
//!
//! What is absent: UDP, which [`super::suspects`] ends at once.

use std::collections::{BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use rustc_hash::{FxHashMap, FxHashSet};
use weft_model::Family;
use weft_plan::filter::Flush;
use weft_plan::{Ident, KernelKey, KernelRow, Plan, marks};

use super::suspects::{confined, serves};
use super::{End, Entry, Flow, Narrowing, UDP};

/// For how long at least an end may be away until its connections end.
const HOLD: Duration = Duration::from_millis(1500);
/// For how long what leaves is gathered, so that one look at the kernel's table does for all.
const GATHER: Duration = Duration::from_millis(500);
/// How many of an end's marks are compared with a connection's: it has one of the first, unless many hash alike.
const MARKS: usize = 16;

/// Those of one map.
#[derive(Debug, Default)]
struct Led {
    /// Where elements led that have gone.
    flows: FxHashSet<Flow>,
    /// All that it led, in this family.
    all: Option<Family>,
}

/// Connections that may have to end, by the map that led them.
#[derive(Debug, Default)]
pub(crate) struct Lasting {
    by_map: FxHashMap<Ident, Led>,
}

impl Lasting {
    /// An element of the map has gone, or leads elsewhere.
    pub(super) fn left(&mut self, map: &Ident, flow: Option<Flow>) {
        if let Some(flow) = flow.filter(|flow| flow.protocol != UDP) {
            self.by_map.entry(map.clone()).or_default().flows.insert(flow);
        }
    }

    /// Nobody saw what came and went in the map.
    pub(super) fn unseen(&mut self, map: &Ident, family: Family) {
        self.by_map.entry(map.clone()).or_default().all = Some(family);
    }

    fn merge(&mut self, other: Lasting) {
        for (map, led) in other.by_map {
            let known = self.by_map.entry(map).or_default();
            known.flows.extend(led.flows);
            known.all = led.all.or(known.all);
        }
    }

    /// The lists in which all of their connections are.
    pub(crate) fn lists(&self, plan: &Plan) -> Vec<Narrowing> {
        let of_map =
            |(map, led): (&Ident, &Led)| {
                let Some((mark, _)) = served(plan, map) else { return Vec::new() };
                if led.all.is_some() {
                    return vec![Narrowing::Marked(mark)];
                }
                let ends: BTreeSet<(End, u8)> =
                    led.flows.iter().map(|flow| (flow.led_to, flow.protocol)).collect();
                confined(&ends, Narrowing::Marked(mark), |((address, port), protocol)| {
                    Narrowing::AnsweredBy { address, protocol, port }
                })
            };
        self.by_map.iter().flat_map(of_map).collect::<BTreeSet<_>>().into_iter().collect()
    }

    /// True where this connection is one of them, and its end is in neither map.
    pub(crate) fn end(&self, plan: &Plan, entry: &Entry) -> bool {
        if entry.original.protocol == UDP || !entry.is_translated() {
            return false;
        }
        let original = &entry.original;
        let flow = Flow {
            to: Some(original.destination),
            protocol: original.protocol,
            port: original.destination_port,
            led_to: (entry.reply.source, entry.reply.source_port),
        };
        self.by_map.iter().any(|(map, led)| {
            let Some((mark, listed)) = served(plan, map) else { return false };
            let is_unseen = led.all == Some(Family::of(original.destination)) && bears_number_of(entry);
            entry.mark & mark == mark
                && (is_unseen || led.flows.contains(&flow))
                && !serves(plan, map, entry)
                && !serves(plan, listed, entry)
        })
    }
}

/// The mark by which connections of a map are known, and the map beside it; `None` for a map that isn't there any more.
fn served<'a>(plan: &'a Plan, map: &Ident) -> Option<(u32, &'a Ident)> {
    match plan.kernel.get(&KernelKey::Set(map.clone()))? {
        KernelRow::Set(spec) => match &spec.flush {
            Some(Flush::Served { mark, listed }) => Some((*mark, listed)),
            _ => None,
        },
        _ => None,
    }
}

/// True where the connection's mark is one that its end can have: another program's bit 31 alone says nothing.
fn bears_number_of(entry: &Entry) -> bool {
    let mut own = marks::of_endpoint((entry.reply.source, entry.reply.source_port)).take(MARKS);
    own.any(|mark| mark == entry.mark & (marks::CHOSEN | marks::NUMBER))
}

/// Those whose time hasn't come, in the order in which it will.
#[derive(Debug, Default)]
pub(crate) struct Held {
    waiting: VecDeque<(Instant, Lasting)>,
}

impl Held {
    /// These too, from now on.
    pub(crate) fn add(&mut self, now: Instant, lasting: Lasting) {
        if lasting.by_map.is_empty() {
            return;
        }
        match self.waiting.back_mut() {
            Some((since, known)) if now < *since + GATHER => known.merge(lasting),
            _ => self.waiting.push_back((now, lasting)),
        }
    }

    /// When the first of them are to be looked at.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.waiting.front().map(|(since, _)| *since + GATHER + HOLD)
    }

    /// Those whose time has come.
    pub(crate) fn take(&mut self, now: Instant) -> Option<Lasting> {
        self.due().filter(|due| *due <= now)?;
        self.waiting.pop_front().map(|(_, lasting)| lasting)
    }
}
