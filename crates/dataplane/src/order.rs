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
//! The packet filter's changes always stand together: they are one transaction.

use weft_plan::kernel::LinkKind;
use weft_plan::{KernelKey, KernelRow};

use crate::kernel::{Op, mtu_of, own_link_of};

/// Sorts a batch. Changes of one step keep their order.
pub fn arrange(batch: &mut [Op<'_>]) {
    let filter = if batch.iter().any(|op| matches!(op.key(), KernelKey::Set(_) | KernelKey::Chain(_))) {
        Step::Declare
    } else {
        Step::Elements
    };
    batch.sort_by_key(|op| step(op, filter));
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
        let mut batch: Vec<Op<'_>> = removals.iter().map(|(key, _)| Op::Remove { key }).collect();
        batch.extend(sets.iter().map(|((key, row), was)| Op::Set { key, row, was: was.as_ref() }));
        // The worst order to begin with.
        batch.reverse();
        arrange(&mut batch);
        let name = |key: &KernelKey, row: &KernelRow| {
            let line = text::kernel_row(key, row);
            line.split_whitespace().take(2).collect::<Vec<_>>().join(" ")
        };
        let lines: Vec<String> = batch
            .iter()
            .map(|op| match op {
                Op::Set { key, row, .. } => format!("+{}", name(key, row)),
                Op::Remove { key } => {
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
