//! In which order a batch's changes are made: a pure function, because most outages hide here.
//!
//! 1. sysctls, so that forwarding is on when the first packet comes;
//! 2. the packet filter, when the batch declares sets or chains: a pod's link must never be up without its chains;
//! 3. links. Where MTUs change: whoever shrinks first shrinks as a sender (pods, then the tunnel), whoever grows first
//!    grows as a receiver (the tunnel, then pods). Then the sysctls of the links themselves;
//! 4. neighbours, then forwarding entries, then routes, then rules: a route never leads to a vtep that is unknown yet;
//! 5. the packet filter, when the batch changes only elements: a mapped port opens when its pod is there, and closes
//!    before its pod goes;
//! 6. openings in foreign firewalls;
//! 7. what goes: rules, routes, forwarding entries, neighbours, links, and sysctls last.
//!
//! The packet filter's changes always stand together. They are one transaction, unless sets of several ranks
//! ([`weft_plan::SetSpec::rank`]) are among them: then each rank's elements come and change in a transaction of their own, from
//! the lowest up, and go in one of their own, from the highest down. What is declared is so in the first one, and what
//! is no longer declared goes with the last.

use std::collections::BTreeSet;

use rustc_hash::{FxHashMap, FxHashSet};
use weft_plan::kernel::LinkKind;
use weft_plan::{Ident, KernelKey, KernelRow};

use crate::kernel::{Op, mtu_of, own_link_of};

/// Sorts a batch, and says which transaction each change of the packet filter belongs to. Of one
/// transaction sets and chains stand first; else changes of one step keep their order. `rank` is that of a set, 0 for one that is gone.
pub fn arrange(batch: &mut [Op<'_>], rank: impl Fn(&Ident) -> u8) {
    take_turns(batch, rank);
    let filter = if batch.iter().any(|op| matches!(op.key(), KernelKey::Set(_) | KernelKey::Chain(_))) {
        Step::Declare
    } else {
        Step::Elements
    };
    let declared = |op: &Op<'_>| !matches!(op.key(), KernelKey::Element(..));
    batch.sort_by_cached_key(|op| (step(op, filter), op.turn(), !declared(op)));
}

/// When an element's change is due, before it is known which of these moments are transactions of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Moment {
    /// With what is declared.
    First,
    /// It comes or changes, in a set of this rank.
    Come(u8),
    /// It goes, from a set of this rank.
    Go(u8),
    /// With what is no longer declared.
    Last,
}

fn take_turns(batch: &mut [Op<'_>], rank: impl Fn(&Ident) -> u8) {
    let mut ranks: FxHashMap<&Ident, u8> = FxHashMap::default();
    let mut leaving: FxHashSet<&Ident> = FxHashSet::default();
    for op in batch.iter() {
        match (op, op.key()) {
            (_, KernelKey::Element(set, _)) => {
                ranks.entry(set).or_insert_with(|| rank(set));
            }
            (Op::Remove { .. }, KernelKey::Set(set)) => {
                leaving.insert(set);
            }
            _ => {}
        }
    }
    if ranks.values().all(|rank| *rank == 0) {
        return;
    }
    let moment = |op: &Op<'_>| match (op, op.key()) {
        (Op::Remove { .. }, KernelKey::Element(set, _)) if leaving.contains(set) => Some(Moment::Last),
        (Op::Set { .. }, KernelKey::Element(set, _)) => Some(Moment::Come(ranks[set])),
        (Op::Remove { .. }, KernelKey::Element(set, _)) => Some(Moment::Go(ranks[set])),
        (Op::Set { .. }, KernelKey::Set(_) | KernelKey::Chain(_)) => Some(Moment::First),
        (Op::Remove { .. }, KernelKey::Set(_) | KernelKey::Chain(_)) => Some(Moment::Last),
        _ => None,
    };
    let moments: Vec<Moment> = batch.iter().filter_map(moment).collect();
    let come: BTreeSet<u8> =
        moments.iter().filter_map(|m| if let Moment::Come(r) = m { Some(*r) } else { None }).collect();
    let go: BTreeSet<u8> =
        moments.iter().filter_map(|m| if let Moment::Go(r) = m { Some(*r) } else { None }).collect();
    let turns = Turns { come: come.into_iter().collect(), go: go.into_iter().rev().collect() };
    for op in batch.iter_mut() {
        if let Some(moment) = moment(op) {
            op.take_turn(turns.of(moment));
        }
    }
}

/// The transactions of a batch.
struct Turns {
    /// Ranks of elements that come or change, lowest first.
    come: Vec<u8>,
    /// Ranks of elements that go, highest first.
    go: Vec<u8>,
}

impl Turns {
    /// Number of the transaction in which the first elements go. It is the one in which the last ones come, unless these
    /// stand above: what leads away from an element has to be in force before it goes.
    fn first_to_go(&self) -> usize {
        match (self.come.last(), self.go.first()) {
            (None, _) => 0,
            (Some(last), Some(first)) if first < last => self.come.len(),
            (Some(_), _) => self.come.len() - 1,
        }
    }

    fn of(&self, moment: Moment) -> u8 {
        let place = |list: &[u8], rank: u8| list.iter().position(|r| *r == rank).unwrap_or_default();
        let turn = match moment {
            Moment::First => 0,
            Moment::Come(rank) => place(&self.come, rank),
            Moment::Go(rank) => self.first_to_go() + place(&self.go, rank),
            Moment::Last => self.first_to_go() + self.go.len().saturating_sub(1),
        };
        // There are at most 256 ranks each way; a batch with that many is no plan's.
        u8::try_from(turn).unwrap_or(u8::MAX)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    SetSysctl,
    Declare,
    ShrinkPod,
    ShrinkTunnel,
    MakeTunnel,
    MakePod,
    SetLinkSysctl,
    SetNeighbour,
    SetFdb,
    SetRoute,
    SetRule,
    Elements,
    Opening,
    RemoveRule,
    RemoveRoute,
    RemoveFdb,
    RemoveNeighbour,
    RemoveLink,
    RestoreSysctl,
}

fn step(op: &Op<'_>, filter: Step) -> Step {
    match (op, op.key()) {
        (_, KernelKey::Set(_) | KernelKey::Chain(_) | KernelKey::Element(..)) => filter,
        (_, KernelKey::Opening(_)) => Step::Opening,
        (Op::Set { row, was, .. }, KernelKey::Link(_)) => link_step(row, *was),
        (Op::Set { .. }, KernelKey::Sysctl(path)) if own_link_of(path).is_some() => Step::SetLinkSysctl,
        (Op::Set { .. }, KernelKey::Sysctl(_)) => Step::SetSysctl,
        (Op::Set { .. }, KernelKey::Neighbour(..)) => Step::SetNeighbour,
        (Op::Set { .. }, KernelKey::Fdb(..)) => Step::SetFdb,
        (Op::Set { .. }, KernelKey::Route(_)) => Step::SetRoute,
        (Op::Set { .. }, KernelKey::Rule(_)) => Step::SetRule,
        (Op::Remove { .. }, KernelKey::Link(_)) => Step::RemoveLink,
        (Op::Remove { .. }, KernelKey::Sysctl(_)) => Step::RestoreSysctl,
        (Op::Remove { .. }, KernelKey::Neighbour(..)) => Step::RemoveNeighbour,
        (Op::Remove { .. }, KernelKey::Fdb(..)) => Step::RemoveFdb,
        (Op::Remove { .. }, KernelKey::Route(_)) => Step::RemoveRoute,
        (Op::Remove { .. }, KernelKey::Rule(_)) => Step::RemoveRule,
    }
}

fn link_step(row: &KernelRow, was: Option<&KernelRow>) -> Step {
    let shrinks = was.and_then(mtu_of) > mtu_of(row);
    let tunnel = matches!(row, KernelRow::Link(link) if !matches!(link.kind, LinkKind::Pod(_)));
    match (shrinks, tunnel) {
        (true, false) => Step::ShrinkPod,
        (true, true) => Step::ShrinkTunnel,
        (false, true) => Step::MakeTunnel,
        (false, false) => Step::MakePod,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::rows::{element, fdb, neighbour, pod, route, set, sysctl, vxlan};
    use weft_plan::text;

    type Row = (KernelKey, KernelRow);

    /// Arranges sets of rows (with what they were) and removals; prints the order.
    fn check(sets: &[(Row, Option<KernelRow>)], removals: &[Row], expected: &str) {
        let mut batch: Vec<Op<'_>> = removals.iter().map(|(key, _)| Op::remove(key, None)).collect();
        batch.extend(sets.iter().map(|((key, row), was)| Op::set(key, row, was.as_ref())));
        // The worst order to begin with.
        batch.reverse();
        arrange(&mut batch, |_| 0);
        let name = |key: &KernelKey, row: &KernelRow| {
            let line = text::kernel_row(key, row);
            line.split_whitespace().take(2).collect::<Vec<_>>().join(" ")
        };
        let lines: Vec<String> = batch
            .iter()
            .map(|op| match op {
                Op::Set { key, row, .. } => format!("+{}", name(key, row)),
                Op::Remove { key, .. } => {
                    let row = &removals.iter().find(|(k, _)| k == *key).unwrap().1;
                    format!("-{}", name(key, row))
                }
            })
            .collect();
        assert_eq!(lines.join("; "), expected);
    }

    #[test]
    fn elements_open_after_the_link_and_close_before_it() {
        check(
            &[(element("pods", 1), None), (pod(1, 1450), None), (route(1), None), (sysctl("1"), None)],
            &[pod(2, 1450), route(2), element("pods", 2)],
            "+sysctl net.ipv4.ip_forward; +link weftp000000001; +route 10.244.0.1/32; \
             +element pods; -element pods; -route 10.244.0.2/32; -link weftp000000002",
        );
    }

    #[test]
    fn declarations_come_before_links_and_take_the_elements_along() {
        check(
            &[(element("pods", 1), None), (set("pods"), None), (pod(1, 1450), None)],
            &[],
            "+set pods; +element pods; +link weftp000000001",
        );
    }

    /// Arranges elements of sets whose names end in their rank: `+` comes, `-` goes; a set or chain that comes or goes is
    /// written alone. Prints the transactions.
    fn check_turns(changes: &[&str], expected: &str) {
        let rows: Vec<(bool, Row)> = changes
            .iter()
            .map(|change| {
                let row = match change[1..].split_once(' ') {
                    Some((name, port)) => element(name, port.parse().unwrap()),
                    None => set(&change[1..]),
                };
                (change.starts_with('+'), row)
            })
            .collect();
        let mut batch: Vec<Op<'_>> = rows
            .iter()
            .map(|(comes, (key, row))| if *comes { Op::set(key, row, None) } else { Op::remove(key, None) })
            .collect();
        arrange(&mut batch, |set| set.as_str()[set.as_str().len() - 1..].parse().unwrap());
        let name = |op: &Op<'_>| {
            let (_, (key, _)) = rows.iter().find(|(_, row)| row.0 == *op.key()).unwrap();
            let sign = if matches!(op, Op::Set { .. }) { "+" } else { "-" };
            match key {
                KernelKey::Element(set, port) => format!("{sign}{set} {}", port.iter().next().unwrap()),
                KernelKey::Set(set) => format!("{sign}{set}"),
                _ => String::new(),
            }
        };
        let turns: Vec<String> = batch
            .chunk_by(|a, b| a.turn() == b.turn())
            .map(|turn| turn.iter().map(name).collect::<Vec<_>>().join(" "))
            .collect();
        assert_eq!(turns.join(" | "), expected);
        for (number, turn) in batch.chunk_by(|a, b| a.turn() == b.turn()).enumerate() {
            assert_eq!(usize::from(turn[0].turn()), number);
        }
    }

    #[test]
    fn what_comes_rises_and_what_goes_falls_through_the_ranks() {
        check_turns(&["+b1 1", "+a0 1", "+c2 1"], "+a0 1 | +b1 1 | +c2 1");
        check_turns(&["-b1 1", "-a0 1", "-c2 1"], "-c2 1 | -b1 1 | -a0 1");
        // One endpoint for another: the new one is there before the slot names it, the old one until no slot does.
        check_turns(&["+b1 1", "+a0 2", "-a0 1"], "+a0 2 | +b1 1 | -a0 1");
        // A service shrinks, another goes: the last to come and the first to go have the same rank.
        check_turns(&["+c2 1", "-c2 2", "-b1 1", "-b1 2", "-a0 2"], "+c2 1 -c2 2 | -b1 1 -b1 2 | -a0 2");
        check_turns(&["+a0 1", "-c2 1", "-b1 1"], "+a0 1 -c2 1 | -b1 1");
        check_turns(&["+c2 1", "-a0 1"], "+c2 1 | -a0 1");
    }

    #[test]
    fn without_ranks_all_is_one_transaction() {
        check_turns(&["+x0", "-a0 1", "+a0 2", "-y0", "-y0 3"], "+x0 -y0 -a0 1 +a0 2 -y0 3");
        check_turns(&["+c2 1", "-c2 2"], "+c2 1 -c2 2");
    }

    #[test]
    fn declarations_come_first_and_go_last_with_their_elements() {
        check_turns(&["+b1 1", "+a0 1", "+a0", "+b1"], "+a0 +b1 +a0 1 | +b1 1");
        check_turns(&["-c2 1", "-c2", "-b1 1", "-a0 1"], "-b1 1 | -c2 -c2 1 -a0 1");
        check_turns(&["+x0", "-c2", "-b1 1"], "+x0 -c2 -b1 1");
        check_turns(&["+x0", "-c2", "+a0 1", "+b1 1"], "+x0 +a0 1 | -c2 +b1 1");
    }

    #[test]
    fn a_shrinking_path_shrinks_at_the_sender_first() {
        check(
            &[(vxlan(4789, 1400), Some(vxlan(4789, 1450).1)), (pod(1, 1400), Some(pod(1, 1450).1))],
            &[],
            "+link weftp000000001; +link weftx9",
        );
    }

    #[test]
    fn a_growing_path_grows_at_the_receiver_first() {
        check(
            &[(pod(1, 1450), Some(pod(1, 1400).1)), (vxlan(4789, 1450), Some(vxlan(4789, 1400).1))],
            &[],
            "+link weftx9; +link weftp000000001",
        );
    }

    #[test]
    fn a_peer_is_known_before_the_route_to_it() {
        check(
            &[(route(3), None), (fdb(3), None), (neighbour(3), None)],
            &[route(4), fdb(4), neighbour(4)],
            "+neighbour 10.244.3.0; +fdb 02:00:00:00:00:03; +route 10.244.0.3/32; \
             -route 10.244.0.4/32; -fdb 02:00:00:00:00:04; -neighbour 10.244.4.0",
        );
    }
}
