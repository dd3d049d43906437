//! What the health server is told: ports as the plan has them, and how this node does.

use std::time::{Instant, SystemTime};

use weft_model::FactKey;
use weft_plan::{Changed, KernelKey, Plan};

use super::{Core, Phase};
use crate::health::{NodeHealth, Order};

/// How far the kernel is behind the plan.
#[derive(Debug, Default)]
pub(super) struct Progress {
    /// The plan's generation.
    generation: u64,
    /// The oldest generation that is not in force, and since when it is wanted.
    behind: Option<(u64, Instant)>,
    /// When the kernel thread last reported success.
    updated: Option<(Instant, SystemTime)>,
    /// When it last reported anything.
    heard: Option<Instant>,
}

impl Progress {
    /// Since when something that is wanted is not in force. Under changes without end something always is, and nothing for
    /// long.
    fn behind_since(&mut self, in_force: u64, phase: &Phase, now: Instant) -> Option<Instant> {
        if self.behind.is_some_and(|(wanted, _)| wanted <= in_force) {
            self.behind = None;
        }
        if *phase == Phase::Running && self.behind.is_none() && self.generation > in_force {
            self.behind = Some((self.generation, now));
        }
        self.behind.map(|(_, since)| since)
    }
}

/// What the ports that changed say now.
pub(super) fn orders(plan: &mut Plan) -> Vec<Order> {
    let changed = plan.health.take_changed();
    let order = |Changed { key, .. }| match plan.health.get(&key) {
        Some(row) => Order::Serve(key, row.clone()),
        None => Order::Close(key),
    };
    changed.into_iter().map(order).collect()
}

impl Core {
    /// Gives the health server its orders.
    pub(super) fn order_health(&self, orders: Vec<Order>) {
        for order in orders {
            // Without its server the ports are closed, which a warning says.
            let _ = self.around.health.orders.send(order);
        }
    }

    /// The kernel thread has done something.
    pub(super) fn note_success(&mut self, now: Instant) {
        self.progress.updated = Some((now, SystemTime::now()));
        self.note_sign_of_life(now);
    }

    /// The kernel thread has tried.
    pub(super) fn note_sign_of_life(&mut self, now: Instant) {
        self.progress.heard = Some(now);
    }

    /// Whether starting this agent anew would mend nothing. That it is answered at all is half of it.
    pub fn is_alive(&self, now: Instant) -> bool {
        self.around.health.node.borrow().is_alive(now)
    }

    /// The plan has this generation.
    pub(super) fn note_generation(&mut self, generation: u64) {
        self.progress.generation = generation;
    }

    /// Tells the health server how this node does, where that is news.
    pub(super) fn tell_health(&mut self, now: Instant) {
        let health = NodeHealth {
            updated: self.progress.updated,
            heard: self.progress.heard,
            behind_since: self.progress.behind_since(self.generation_in_force, &self.phase, now),
            refused: self.refused_base().is_some(),
            leaving: self.facts().node(&self.node).is_some_and(|node| node.leaving),
        };
        self.around.health.node.send_if_modified(|said| std::mem::replace(said, health) != health);
    }

    /// A refused part of the packet filter that others rest on: without it a pod could send with any address. One service's
    /// own sets and chains are its own trouble, and no reason to take the whole node out of service.
    pub(super) fn refused_base(&self) -> Option<&KernelKey> {
        if self.failed.is_empty() {
            return None;
        }
        let plan = self.plans.kernel.read().unwrap_or_else(std::sync::PoisonError::into_inner);
        let is_base = |key: &KernelKey| match key {
            KernelKey::Chain(_) | KernelKey::Set(_) => {
                !plan.kernel.entry(key).is_some_and(|entry| matches!(*entry.origin, FactKey::Service(_)))
            }
            _ => false,
        };
        self.failed.keys().find(|key| is_base(key))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn behind_is_what_waits_longest() {
        let begin = Instant::now();
        let at = |seconds| begin + Duration::from_secs(seconds);
        let mut progress = Progress::default();
        let mut check = |generation, in_force, second, expected: Option<u64>| {
            progress.generation = generation;
            assert_eq!(progress.behind_since(in_force, &Phase::Running, at(second)), expected.map(at));
        };
        check(1, 1, 0, None);
        check(2, 1, 1, Some(1));
        check(3, 1, 2, Some(1));
        // What was waited for is there, and something newer isn't.
        check(4, 2, 3, Some(3));
        check(4, 3, 4, Some(3));
        check(4, 4, 5, None);
        // A first comparison that takes long is no lag: there is nothing in force yet to lag behind.
        assert_eq!(
            Progress { generation: 9, ..Progress::default() }.behind_since(0, &Phase::Applying, begin),
            None
        );
    }
}
