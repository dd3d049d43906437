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
    /// When it last reported anything, a refusal too.
    pub heard: Option<Instant>,
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
        let is_recent = |since| is_recent(since, now);
        self.updated.is_some_and(|(at, _)| is_recent(at))
            && self.behind_since.is_none_or(is_recent)
            && !self.refused
    }

    /// True where starting the agent anew would mend nothing: all its threads turn, whatever they find. One that has only begun
    /// is alive, as it may wait for its store. What the kernel refuses it would refuse to the next agent as well, and names
    /// would be away besides.
    pub fn is_alive(&self, now: Instant) -> bool {
        self.heard.is_none_or(|at| is_recent(at, now))
    }
}

fn is_recent(since: Instant, now: Instant) -> bool {
    now.saturating_duration_since(since) < PATIENCE
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
        let well = NodeHealth { updated: said(10), heard: Some(ago(10)), ..NodeHealth::default() };
        check(NodeHealth::default(), false, true);
        check(well, true, true);
        check(NodeHealth { updated: said(61), heard: Some(ago(61)), ..well }, false, false);
        check(NodeHealth { behind_since: Some(ago(5)), ..well }, true, true);
        // Another agent would do no better.
        check(NodeHealth { updated: said(61), ..well }, false, true);
        check(NodeHealth { behind_since: Some(ago(60)), ..well }, false, true);
        check(NodeHealth { refused: true, ..well }, false, true);
        // Whether others should send here is not the proxy's health.
        check(NodeHealth { leaving: true, ..well }, true, true);
    }
}
