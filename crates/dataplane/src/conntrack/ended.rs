//! Which connections a batch of changes brings under suspicion: by the elements that came and went. Pure.

use rustc_hash::{FxHashMap, FxHashSet};
use weft_model::Family;
use weft_plan::filter::{Element, Flush};
use weft_plan::{Atom, Atoms, Ident, KernelKey, KernelRow, Plan, Type};

use super::suspects::{End, Flow, Served, Suspects, UDP, Who, address, end_of};
use crate::kernel::Op;

/// What a key says of connections: the address that they were opened to, if it matters, protocol and port.
fn opened(key: &Atoms) -> Option<(Option<std::net::IpAddr>, u8, u16)> {
    let port = key.iter().find_map(|atom| if let Atom::Port(port) = atom { Some(port) } else { None })?;
    let protocol =
        key.iter().find_map(|atom| if let Atom::Proto(number) = atom { Some(number) } else { None })?;
    Some((key.iter().find_map(|atom| address(&atom)), protocol, port))
}

/// Where a map that serves has its element, and where it leads; `None` for what is not UDP.
fn served(key: &Atoms, element: &Element) -> Option<(End, End)> {
    let (Some(to), UDP, port) = opened(key)? else { return None };
    Some(((to, port), end_of(&element.data)?))
}

fn flow(key: &Atoms, element: &Element) -> Option<Flow> {
    let (to, protocol, port) = opened(key)?;
    Some(Flow { to, protocol, port, led_to: end_of(&element.data)? })
}

/// Those whom the changes of a batch bring under suspicion. `done` says which of the batch's changes are in force.
pub(crate) fn by_batch(plan: &Plan, batch: &[Op<'_>], done: impl Fn(usize) -> bool) -> Suspects {
    let mut suspects = Suspects::default();
    if !batch.iter().any(|op| matches!(op.key(), KernelKey::Element(..))) {
        return suspects;
    }
    let mut sets: FxHashMap<&Ident, Option<Flush>> = FxHashMap::default();
    // What a set said that goes with its elements.
    for op in batch {
        if let (Op::Remove { was: Some(KernelRow::Set(spec)), .. }, KernelKey::Set(name)) = (op, op.key()) {
            sets.insert(name, spec.flush.clone());
        }
    }
    let mut here = FxHashSet::default();
    for (at, op) in batch.iter().enumerate() {
        let KernelKey::Element(set, key) = op.key() else { continue };
        let flush = sets.entry(set).or_insert_with(|| match plan.kernel.get(&KernelKey::Set(set.clone())) {
            Some(KernelRow::Set(spec)) => spec.flush.clone(),
            _ => None,
        });
        let Some(flush) = flush.as_ref().filter(|_| done(at)) else { continue };
        let is = match op {
            Op::Set { row: KernelRow::Element(element), .. } => Some(element),
            _ => None,
        };
        let was = match op.was() {
            Some(KernelRow::Element(element)) => Some(element),
            _ => None,
        };
        match flush {
            Flush::Led => {
                here.extend(is.and_then(|element| flow(key, element)));
                suspects.led.extend(was.and_then(|element| flow(key, element)));
            }
            Flush::Listed { of } => suspects.lasting.left(of, was.and_then(|element| flow(key, element))),
            Flush::Served { mark, .. } => {
                suspects.lasting.left(set, was.and_then(|element| flow(key, element)));
                let (is, was) = (is.and_then(|e| served(key, e)), was.and_then(|e| served(key, e)));
                if is.is_none() && was.is_none() {
                    continue;
                }
                let found = suspects.served.entry(set.clone()).or_default();
                found.mark = *mark;
                if let Some((opened, end)) = was {
                    found.opened.entry(opened).or_insert(Who::Marked);
                    found.left.insert(end);
                }
                if let Some((opened, _)) = is {
                    found.opened.insert(opened, Who::Everybody);
                }
            }
        }
    }
    suspects.led.retain(|flow| !here.contains(flow));
    suspects
}

/// Everybody whom a map of the plan serves or should have served: nobody saw what came and went. Looks at every row.
pub(crate) fn by_plan(plan: &Plan) -> Suspects {
    let mut suspects = Suspects::default();
    for (key, entry) in plan.kernel.iter() {
        if let (KernelKey::Set(name), KernelRow::Set(spec)) = (key, &entry.value)
            && let Some(Flush::Served { mark, .. }) = spec.flush
        {
            let family = if spec.key.first() == Some(&Type::Ipv4Addr) { Family::V4 } else { Family::V6 };
            let served = Served { mark, all: Some(family), ..Served::default() };
            suspects.served.insert(name.clone(), served);
            suspects.lasting.unseen(name, family);
        }
    }
    for (key, entry) in plan.kernel.iter() {
        if let (KernelKey::Element(set, key), KernelRow::Element(element)) = (key, &entry.value)
            && let Some(found) = suspects.served.get_mut(set)
            && let Some((opened, _)) = served(key, element)
        {
            found.opened.insert(opened, Who::Everybody);
        }
    }
    suspects
}
