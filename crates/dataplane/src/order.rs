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
//! is no longer declared goes with the last. A chain whose rules change does so when all has come that it may ask for now, and
//! before anything goes that it asked for until then.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

use rustc_hash::FxHashMap;
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
    /// Its rules change: from asking for what was to asking for what will be.
    Switch,
    /// It goes, from a set of this rank.
    Go(u8),
    /// With what is no longer declared.
    Last,
}

fn take_turns(batch: &mut [Op<'_>], rank: impl Fn(&Ident) -> u8) {
    let ranks = Ranks::of(batch, rank);
    if ranks.sets.values().chain(ranks.leaving.values()).all(|rank| *rank == 0) {
        return;
    }
    let moments: Vec<Option<Moment>> = batch.iter().map(|op| ranks.moment(op)).collect();
    let known = batch.iter().zip(&moments);
    let turns = Turns::of(known.filter_map(|(op, moment)| Some(((*moment)?, op.key()))));
    for (op, moment) in batch.iter_mut().zip(moments) {
        if let Some(moment) = moment {
            op.take_turn(turns.number(moment));
        }
    }
}

/// What of the sets of a batch says when its changes are due.
struct Ranks<'a> {
    /// Of sets whose elements change.
    sets: FxHashMap<&'a Ident, u8>,
    /// Of sets that go; 0 where it isn't known.
    leaving: FxHashMap<&'a Ident, u8>,
    /// A set is made anew. The chains that look into it have to change with it.
    anew: bool,
}

impl<'a> Ranks<'a> {
    fn of(batch: &[Op<'a>], rank: impl Fn(&Ident) -> u8) -> Self {
        let mut ranks = Ranks { sets: FxHashMap::default(), leaving: FxHashMap::default(), anew: false };
        for op in batch {
            match (op, op.key()) {
                (_, KernelKey::Element(set, _)) => {
                    ranks.sets.entry(set).or_insert_with(|| rank(set));
                }
                (Op::Remove { was, .. }, KernelKey::Set(set)) => {
                    let rank = if let Some(KernelRow::Set(spec)) = was { spec.rank } else { 0 };
                    ranks.leaving.insert(set, rank);
                }
                (Op::Set { row: KernelRow::Set(is), was: Some(KernelRow::Set(was)), .. }, _) => {
                    ranks.anew |= !is.declares_like(was);
                }
                _ => {}
            }
        }
        ranks
    }

    fn moment(&self, op: &Op<'_>) -> Option<Moment> {
        Some(match (op, op.key()) {
            (Op::Set { .. }, KernelKey::Element(set, _)) => Moment::Come(self.sets[set]),
            (Op::Remove { .. }, KernelKey::Element(set, _)) => match self.leaving.get(set) {
                Some(0) => Moment::Last,
                Some(rank) => Moment::Go(*rank),
                None => Moment::Go(self.sets[set]),
            },
            (Op::Set { was: Some(_), .. }, KernelKey::Chain(_)) if !self.anew => Moment::Switch,
            (Op::Set { .. }, KernelKey::Set(_) | KernelKey::Chain(_)) => Moment::First,
            (Op::Remove { .. }, KernelKey::Set(_) | KernelKey::Chain(_)) => Moment::Last,
            _ => return None,
        })
    }
}

/// The transactions of a batch.
struct Turns {
    /// Ranks of elements that come or change, lowest first.
    come: Vec<u8>,
    /// Ranks of elements that go, highest first.
    go: Vec<u8>,
    /// Goers wait for a transaction of their own: what was asked for an answer, and has none any more, may be asked before
    /// what has it now.
    goers_wait: bool,
}

impl Turns {
    fn of<'k>(changes: impl Iterator<Item = (Moment, &'k KernelKey)>) -> Self {
        let (mut come, mut go) = (BTreeMap::new(), BTreeMap::new());
        let mut switches = false;
        for (moment, key) in changes {
            let (sets, rank): (&mut BTreeMap<u8, BTreeSet<&Ident>>, u8) = match moment {
                Moment::Come(rank) => (&mut come, rank),
                Moment::Go(rank) => (&mut go, rank),
                Moment::Switch => {
                    switches = true;
                    continue;
                }
                Moment::First | Moment::Last => continue,
            };
            if let KernelKey::Element(set, _) = key {
                sets.entry(rank).or_default().insert(set);
            }
        }
        let meet = match (come.last_key_value(), go.last_key_value()) {
            (Some((last, into)), Some((first, from))) => match first.cmp(last) {
                Ordering::Less => true,
                // Between sets of one rank things move.
                Ordering::Equal => into.union(from).count() > 1,
                Ordering::Greater => false,
            },
            _ => false,
        };
        Self {
            come: come.into_keys().collect(),
            go: go.into_keys().rev().collect(),
            goers_wait: switches || meet,
        }
    }

    /// Number of the transaction in which the last elements come, and chains change.
    fn last_to_come(&self) -> usize {
        self.come.len().saturating_sub(1)
    }

    /// Number of the transaction in which the first elements go. It is the one in which the last ones come, unless these
    /// stand above, or are looked for where others go, or chains change with them: what leads away from an element has to be
    /// in force before it goes.
    fn first_to_go(&self) -> usize {
        self.last_to_come() + usize::from(self.goers_wait)
    }

    fn number(&self, moment: Moment) -> u8 {
        let place = |list: &[u8], rank: u8| list.iter().position(|r| *r == rank).unwrap_or_default();
        let turn = match moment {
            Moment::First => 0,
            Moment::Come(rank) => place(&self.come, rank),
            Moment::Switch => self.last_to_come(),
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
    use crate::fake::rows::{chain, element, fdb, neighbour, pod, ranked_set, route, set, sysctl, vxlan};
    use weft_plan::{SetSpec, Type, text};

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

    /// Arranges elements of sets whose names end in their rank: `+` comes, `-` goes; a set that comes or goes is
    /// written alone, and so is a chain, whose name begins with a capital; `~` is one whose rules change. `!` is a set that goes
    /// and was of rank 2, `*` one that is made anew. Prints the transactions.
    fn check_turns(changes: &[&str], expected: &str) {
        let rows: Vec<(&str, Row)> = changes
            .iter()
            .map(|change| {
                let row = match change[1..].split_once(' ') {
                    Some((name, port)) => element(name, port.parse().unwrap()),
                    None if change[1..].starts_with(char::is_uppercase) => chain(&change[1..]),
                    None if change.starts_with('!') => ranked_set(&change[1..], 2),
                    None => set(&change[1..]),
                };
                (&change[..1], row)
            })
            .collect();
        let another = KernelRow::Set(Box::new(SetSpec::set(&[Type::Mark], "of another type")));
        let mut batch: Vec<Op<'_>> = rows
            .iter()
            .map(|(sign, (key, row))| match *sign {
                "+" => Op::set(key, row, None),
                "~" => Op::set(key, row, Some(row)),
                "!" => Op::remove(key, Some(row)),
                "*" => Op::set(key, row, Some(&another)),
                _ => Op::remove(key, None),
            })
            .collect();
        arrange(&mut batch, |set| set.as_str()[set.as_str().len() - 1..].parse().unwrap());
        let name = |op: &Op<'_>| {
            let (sign, (key, _)) = rows.iter().find(|(_, row)| row.0 == *op.key()).unwrap();
            match key {
                KernelKey::Element(set, port) => format!("{sign}{set} {}", port.iter().next().unwrap()),
                KernelKey::Set(name) | KernelKey::Chain(name) => format!("{sign}{name}"),
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
        // Something moves from one set to another: who asks the new one first finds it in the old one yet.
        check_turns(&["+c2 1", "-d2 1", "-b1 1"], "+c2 1 | -d2 1 | -b1 1");
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
        // A set that is made anew takes the chains along that look into it.
        check_turns(&["~C", "*d2", "+c2 1", "+a0 1"], "~C *d2 +a0 1 | +c2 1");
    }

    #[test]
    fn a_chain_changes_between_what_it_asks_for_and_what_it_asked_for() {
        check_turns(&["~C", "+a0 1", "+c2 1", "-c2 2"], "+a0 1 | ~C +c2 1 | -c2 2");
        // It asks another set, new or old.
        check_turns(&["~C", "+d2", "+d2 1", "-c2 1", "+a0 1"], "+d2 +a0 1 | ~C +d2 1 | -c2 1");
        check_turns(&["~C", "+c2 1", "-d2", "-d2 1"], "~C +c2 1 | -d2 -d2 1");
        // What it led to goes after the elements that led there, though their set goes too.
        check_turns(&["~C", "!d2", "-d2 1", "-b1 1"], "~C | -d2 1 | !d2 -b1 1");
        check_turns(&["~C", "-c2 1", "-a0 1"], "~C | -c2 1 | -a0 1");
        // One that is new is there first, and one that goes does so last.
        check_turns(&["+C", "+a0 1", "+c2 1", "-D", "-c2 2"], "+C +a0 1 | -D +c2 1 -c2 2");
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
