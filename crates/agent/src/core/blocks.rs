//! The blocks that the store gave, between its word and the facts that say so.
//!
//! What always holds: what a store has given stands until the facts have told of it, so an answer that comes before its own
//! echo is neither taken back nor asked for again; and a network that lacks something in spite of an answer is asked for at
//! a pace. A question that waits for its answer is asked with what is known now, not with what was known when it was first asked.
//! Nothing here outlives what the facts say: a block that is gone from them is gone.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use weft_model::{Cidr, Network, NetworkName, NodeCidr};

/// How long to wait where an answer didn't give all that is wanted: a single-stack controller in a dual-stack network.
const PAUSE: Duration = Duration::from_secs(60);

/// How long an answer may take before it is looked whether the question is still the right one: most come at once.
const OVERDUE: Duration = Duration::from_secs(5);

/// What the store is asked for blocks with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Question {
    pub network: Network,
    /// Blocks of other nodes, which the store may not know of by itself.
    pub in_use: Vec<Cidr>,
}

/// Where a network's claim stands; nowhere where nothing was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Claim {
    /// The store was asked this, then.
    Asked(Question, Instant),
    /// It gave these, and the facts don't say so yet.
    Given(Vec<Cidr>),
    /// The facts have said so, or nothing was given: not again before then.
    Answered(Instant),
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Blocks {
    claims: BTreeMap<NetworkName, Claim>,
}

impl Blocks {
    /// This node's blocks: those of the facts, and those given that they don't know of yet.
    pub(super) fn known(&mut self, facts: &[NodeCidr], now: Instant) -> Vec<NodeCidr> {
        let told = |network: &NetworkName, cidr: &Cidr| {
            facts.iter().any(|block| block.network == *network && block.cidr == *cidr)
        };
        for (network, claim) in &mut self.claims {
            if matches!(claim, Claim::Given(cidrs) if cidrs.iter().all(|cidr| told(network, cidr))) {
                *claim = Claim::Answered(now + PAUSE);
            }
        }
        let pending = |network: &NetworkName| match self.claims.get(network) {
            Some(Claim::Given(cidrs)) => Some(cidrs),
            _ => None,
        };
        let mut blocks: Vec<NodeCidr> =
            facts.iter().filter(|block| pending(&block.network).is_none()).cloned().collect();
        for network in self.claims.keys() {
            let given = pending(network).into_iter().flatten();
            blocks.extend(given.map(|cidr| NodeCidr { network: network.clone(), cidr: *cidr }));
        }
        blocks
    }

    /// What the store has to be asked, which is then taken as done: a family of the network's has no block among `known`, or what
    /// was asked for want of one is out of date and has no answer yet.
    pub(super) fn ask(
        &mut self,
        network: &Network,
        known: &[NodeCidr],
        in_use: impl FnOnce() -> Vec<Cidr>,
        now: Instant,
    ) -> Option<Question> {
        let has = |whole: &Cidr| {
            let of_network = known.iter().filter(|block| block.network == network.name);
            of_network.into_iter().any(|block| block.cidr.family() == whole.family())
        };
        let before = self.claims.get(&network.name);
        let is_open = match before {
            None => true,
            Some(Claim::Asked(_, at)) => now >= *at + OVERDUE,
            Some(Claim::Answered(until)) => now >= *until,
            Some(Claim::Given(_)) => false,
        };
        if !is_open || network.pod_cidrs.iter().all(has) {
            return None;
        }
        let question = Question { network: network.clone(), in_use: in_use() };
        if matches!(before, Some(Claim::Asked(asked, _)) if *asked == question) {
            return None;
        }
        self.claims.insert(network.name.clone(), Claim::Asked(question.clone(), now));
        Some(question)
    }

    /// Takes the store's answer.
    pub(super) fn answered(&mut self, network: &NetworkName, cidrs: &[Cidr], now: Instant) {
        let claim =
            if cidrs.is_empty() { Claim::Answered(now + PAUSE) } else { Claim::Given(cidrs.to_vec()) };
        self.claims.insert(network.clone(), claim);
    }

    /// The facts about this node or a network have changed: whoever waits may ask at once.
    pub(super) fn facts_changed(&mut self) {
        self.claims.retain(|_, claim| !matches!(claim, Claim::Answered(_)));
    }

    /// The store has taken claims back: what was given counts no more.
    pub(super) fn lapsed(&mut self) {
        self.claims.retain(|_, claim| matches!(claim, Claim::Asked(..)));
    }

    /// True while the store is to say which blocks of a network this node has.
    pub(super) fn is_asked(&self, network: &NetworkName) -> bool {
        matches!(self.claims.get(network), Some(Claim::Asked(..)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(text: &str) -> NodeCidr {
        NodeCidr { network: NetworkName::ordinary(), cidr: text.parse().unwrap() }
    }

    /// True where the store is asked, while no other node has a block.
    fn asks(blocks: &mut Blocks, known: &[NodeCidr], now: Instant) -> bool {
        blocks.ask(&network(), known, Vec::new, now).is_some()
    }

    fn network() -> Network {
        let pod_cidrs = ["10.244.0.0/16", "fd00:244::/48"].map(|text| text.parse().unwrap()).to_vec();
        Network { pod_cidrs, ..Network::ordinary() }
    }

    #[test]
    fn what_was_given_stands_until_the_facts_say_so() {
        let (mut blocks, now, name) = (Blocks::default(), Instant::now(), NetworkName::ordinary());
        let given = [block("10.244.7.0/24"), block("fd00:244:0:7::/64")];
        assert!(asks(&mut blocks, &[], now));
        assert!(!asks(&mut blocks, &[], now), "the answer is on its way");
        blocks.answered(&name, &given.clone().map(|block| block.cidr), now);
        // Older facts come late, as often as they like.
        for facts in [vec![], vec![block("10.244.3.0/24")], vec![given[0].clone()]] {
            let known = blocks.known(&facts, now);
            assert_eq!(known, given);
            assert!(!asks(&mut blocks, &known, now));
        }
        assert_eq!(blocks.known(&given, now), given);
        // From now on the facts count alone.
        blocks.facts_changed();
        assert_eq!(blocks.known(&[], now), []);
        assert!(asks(&mut blocks, &[], now));
    }

    #[test]
    fn half_an_answer_is_not_asked_for_at_every_tick() {
        let (mut blocks, now, name) = (Blocks::default(), Instant::now(), NetworkName::ordinary());
        let half = [block("10.244.7.0/24")];
        assert!(asks(&mut blocks, &[], now));
        blocks.answered(&name, &[half[0].cidr], now);
        let known = blocks.known(&half, now);
        assert!(!asks(&mut blocks, &known, now + PAUSE / 2));
        assert!(asks(&mut blocks, &known, now + PAUSE));
        // Nothing given is an answer too.
        blocks.answered(&name, &[], now);
        assert!(!asks(&mut blocks, &known, now));
        blocks.facts_changed();
        assert!(asks(&mut blocks, &known, now));
    }

    #[test]
    fn what_lapsed_is_not_held_on_to() {
        let (mut blocks, now) = (Blocks::default(), Instant::now());
        blocks.answered(&NetworkName::ordinary(), &[block("10.244.7.0/24").cidr], now);
        blocks.lapsed();
        assert_eq!(blocks.known(&[], now), []);
        assert!(asks(&mut blocks, &[], now));
    }

    #[test]
    fn a_question_that_waits_is_brought_up_to_date() {
        let (mut blocks, now) = (Blocks::default(), Instant::now());
        let mut ask = |network: &Network, in_use: &[&str], after: Duration| {
            let in_use: Vec<Cidr> = in_use.iter().map(|text| text.parse().unwrap()).collect();
            blocks.ask(network, &[], || in_use, now + after).map(|question| question.in_use.len())
        };
        let (other, zero) = (["10.244.0.0/24"], Duration::ZERO);
        assert_eq!(ask(&network(), &[], zero), Some(0));
        assert_eq!(ask(&network(), &other, OVERDUE / 2), None, "the answer may be on its way");
        assert_eq!(ask(&network(), &[], OVERDUE), None);
        assert_eq!(ask(&network(), &other, OVERDUE), Some(1), "another node has one meanwhile");
        assert_eq!(ask(&network(), &other, OVERDUE * 2), None);
        let wider = Network { node_prefix_v4: 25, ..network() };
        assert_eq!(ask(&wider, &other, OVERDUE * 2), Some(1), "and so is what the network says");
        blocks.answered(&NetworkName::ordinary(), &[block("10.244.7.0/24").cidr], now);
        let asked = blocks.ask(&network(), &[], Vec::new, now);
        assert_eq!(asked, None, "what was given doesn't depend on it any more");
    }
}
