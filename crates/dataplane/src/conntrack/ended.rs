//! Which connections end with a batch of changes: elements that were, and the connections that they translated. Pure.

use rustc_hash::{FxHashMap, FxHashSet};
use weft_plan::filter::{Element, Flush, Flushed};
use weft_plan::{Atom, Ident, KernelKey, KernelRow, Plan, SetSpec, Type};

use super::{Entry, Flow};
use crate::kernel::Op;

/// Protocol number of TCP.
const TCP: u8 = 6;

/// The flow that an element translates; `None` where that is nothing to flush.
fn flow(flush: Flush, key: &[Atom], element: &Element) -> Option<Flow> {
    let [place, Atom::Port(led_port)] = &element.data[..] else { return None };
    let port = key.iter().find_map(|atom| if let Atom::Port(port) = atom { Some(*port) } else { None })?;
    let protocol =
        key.iter().find_map(|atom| if let Atom::Proto(number) = atom { Some(*number) } else { None })?;
    let flushed = flush.which == Flushed::All || protocol != TCP;
    flushed.then_some(())?;
    let to = key.iter().find_map(address);
    Some(Flow { to, protocol, port, led_to: (address(place)?, *led_port), mark: flush.mark })
}

fn address(atom: &Atom) -> Option<std::net::IpAddr> {
    match atom {
        Atom::V4(v4) => Some((*v4).into()),
        Atom::V6(v6) => Some((*v6).into()),
        _ => None,
    }
}

/// The flows of what the changes of a batch took away: elements that went, or lead elsewhere now, and whose flow no element
/// that came in the batch has. `done` says which of the batch's changes are in force.
pub(crate) fn flows(plan: &Plan, batch: &[Op<'_>], done: impl Fn(usize) -> bool) -> Vec<Flow> {
    let had_element = |op: &Op<'_>| matches!((op.key(), op.was()), (KernelKey::Element(..), Some(_)));
    if !batch.iter().any(had_element) {
        return Vec::new();
    }
    let mut sets: FxHashMap<&Ident, Option<Flush>> = FxHashMap::default();
    // What a set said that goes with its elements.
    for op in batch {
        if let (Op::Remove { was: Some(KernelRow::Set(spec)), .. }, KernelKey::Set(name)) = (op, op.key()) {
            sets.insert(name, spec.flush);
        }
    }
    let (mut gone, mut here) = (Vec::new(), FxHashSet::default());
    for (at, op) in batch.iter().enumerate() {
        let KernelKey::Element(set, key) = op.key() else { continue };
        let flush = *sets.entry(set).or_insert_with(|| match plan.kernel.get(&KernelKey::Set(set.clone())) {
            Some(KernelRow::Set(spec)) => spec.flush,
            _ => None,
        });
        let Some(flush) = flush.filter(|_| done(at)) else { continue };
        if let Op::Set { row: KernelRow::Element(element), .. } = op {
            here.extend(flow(flush, key, element));
        }
        if let Some(KernelRow::Element(element)) = op.was() {
            gone.extend(flow(flush, key, element));
        }
    }
    gone.retain(|flow| !here.contains(flow));
    gone
}

/// The sets of a plan whose connections are known by their marks: of each connection that bears these, the plan has the
/// element that it goes by, or it is stale.
pub(crate) struct Known<'a> {
    plan: &'a Plan,
    sets: Vec<(&'a Ident, &'a SetSpec, Flush)>,
}

impl<'a> Known<'a> {
    /// Looks at every row of the plan.
    pub(crate) fn of(plan: &'a Plan) -> Self {
        let sets = plan.kernel.iter().filter_map(|(key, entry)| match (key, &entry.value) {
            (KernelKey::Set(name), KernelRow::Set(spec)) => {
                let flush = spec.flush.filter(|flush| flush.mark != 0 && spec.key.contains(&Type::Mark))?;
                Some((name, &**spec, flush))
            }
            _ => None,
        });
        Self { plan, sets: sets.collect() }
    }

    /// The different bits by which their connections are known.
    pub(crate) fn marks(&self) -> Vec<u32> {
        let mut marks: Vec<u32> = self.sets.iter().map(|(.., flush)| flush.mark).collect();
        marks.sort_unstable();
        marks.dedup();
        marks
    }

    /// True for a translated connection with such a mark that no element of the plan leads where it goes.
    pub(crate) fn lacks(&self, mark: u32, entry: &Entry) -> bool {
        if entry.mark & mark != mark || !entry.is_translated() {
            return false;
        }
        let mut sets = self.sets.iter().filter(|(.., flush)| flush.mark == mark);
        sets.all(|(name, spec, flush)| {
            let spared = flush.which == Flushed::AllButTcp && entry.original.protocol == TCP;
            !spared && !self.has(name, spec, entry)
        })
    }

    fn has(&self, name: &Ident, spec: &SetSpec, entry: &Entry) -> bool {
        let original = &entry.original;
        let atoms: Option<Box<[Atom]>> = spec
            .key
            .iter()
            .map(|kind| match kind {
                Type::Ipv4Addr | Type::Ipv6Addr => {
                    Some(Atom::from(original.destination)).filter(|atom| atom.kind() == *kind)
                }
                Type::InetProto => Some(Atom::Proto(original.protocol)),
                Type::InetService => Some(Atom::Port(original.destination_port)),
                Type::Mark => Some(Atom::Mark(entry.mark)),
                Type::IfName | Type::Number | Type::Verdict => None,
            })
            .collect();
        let Some(key) = atoms else { return false };
        match self.plan.kernel.get(&KernelKey::Element(name.clone(), key)) {
            Some(KernelRow::Element(element)) => {
                *element.data == [Atom::from(entry.reply.source), Atom::Port(entry.reply.source_port)]
            }
            _ => false,
        }
    }
}
