//! Whether a node does what it should with services: pure, from what the core saw last.

use std::time::{Duration, Instant, SystemTime};

/// How long the kernel may lag behind the plan, and the agent be silent, before the node counts as ill. Everything is looked
/// after every ten seconds, so a healthy agent is never silent for nearly as long.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// What the core knows of how this node does.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct NodeHealth {
    /// When the kernel thread last reported success; `None` before the first time.
    pub updated: Option<(Instant, SystemTime)>,
    /// Since when something of the plan is not in force.
    pub behind_since: Option<Instant>,
    /// A part of the packet filter that others rest on is refused.
    pub refused: bool,
    /// The node is about to be removed from the cluster.
    pub leaving: bool,
}

impl NodeHealth {
    /// True where services are led as the plan has it. Never before the first plan is in force: a load balancer would send to
    /// a node that drops.
    pub fn is_in_force(&self, now: Instant) -> bool {
        self.updated.is_some() && self.is_alive(now)
    }

    /// True where starting the agent anew would mend nothing. One that has only begun is alive: it may wait for its store.
    pub fn is_alive(&self, now: Instant) -> bool {
        let recent = |since: Instant| now.saturating_duration_since(since) < PATIENCE;
        self.updated.is_none_or(|(at, _)| recent(at)) && self.behind_since.is_none_or(recent) && !self.refused
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_ill_when_it_lags_or_is_silent_for_too_long() {
        let now = Instant::now() + 10 * PATIENCE;
        let ago = |seconds| now - Duration::from_secs(seconds);
        let said = |seconds| Some((ago(seconds), SystemTime::UNIX_EPOCH));
        let check = |health: NodeHealth, in_force: bool, alive: bool| {
            assert_eq!((health.is_in_force(now), health.is_alive(now)), (in_force, alive), "{health:?}");
        };
        let well = NodeHealth { updated: said(10), ..NodeHealth::default() };
        check(NodeHealth::default(), false, true);
        check(well, true, true);
        check(NodeHealth { updated: said(61), ..well }, false, false);
        check(NodeHealth { behind_since: Some(ago(5)), ..well }, true, true);
        check(NodeHealth { behind_since: Some(ago(60)), ..well }, false, false);
        check(NodeHealth { refused: true, ..well }, false, false);
        // Whether others should send here is not the proxy's health.
        check(NodeHealth { leaving: true, ..well }, true, true);
    }
}
