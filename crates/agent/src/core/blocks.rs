//! The blocks that the store gave, between its word and the facts that say so.
//!
//! What always holds: what a store has given stands until the facts have told of it, so an answer that comes before its own
//! echo is neither taken back nor asked for again; and a network that lacks something in spite of an answer is asked for at
//! a pace. Nothing here outlives what the facts say: a block that is gone from them is gone.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use weft_model::{Cidr, Network, NetworkName, NodeCidr};

/// How long to wait where an answer didn't give all that is wanted: a single-stack controller in a dual-stack network.
const PAUSE: Duration = Duration::from_secs(60);

/// Where a network's claim stands; nowhere where nothing was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Claim {
    /// The store was asked.
    Asked,
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

    /// True where the store has to be asked, which is then taken as done: a family of the network's has no block among
    /// `known`.
    pub(super) fn ask(&mut self, network: &Network, known: &[NodeCidr], now: Instant) -> bool {
        let has = |whole: &Cidr| {
            let of_network = known.iter().filter(|block| block.network == network.name);
            of_network.into_iter().any(|block| block.cidr.family() == whole.family())
        };
        let open = match self.claims.get(&network.name) {
            None => true,
            Some(Claim::Answered(until)) => now >= *until,
            Some(Claim::Asked | Claim::Given(_)) => false,
        };
        let ask = open && !network.pod_cidrs.iter().all(has);
        if ask {
            self.claims.insert(network.name.clone(), Claim::Asked);
        }
        ask
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
        self.claims.retain(|_, claim| *claim == Claim::Asked);
    }

    /// True while the store is to say which blocks of a network this node has.
    pub(super) fn is_asked(&self, network: &NetworkName) -> bool {
        self.claims.get(network) == Some(&Claim::Asked)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(text: &str) -> NodeCidr {
        NodeCidr { network: NetworkName::ordinary(), cidr: text.parse().unwrap() }
    }

    fn network() -> Network {
        let pod_cidrs = ["10.244.0.0/16", "fd00:244::/48"].map(|text| text.parse().unwrap()).to_vec();
        Network { pod_cidrs, ..Network::ordinary() }
    }

    #[test]
    fn what_was_given_stands_until_the_facts_say_so() {
        let (mut blocks, now, name) = (Blocks::default(), Instant::now(), NetworkName::ordinary());
        let given = [block("10.244.7.0/24"), block("fd00:244:0:7::/64")];
        assert!(blocks.ask(&network(), &[], now));
        assert!(!blocks.ask(&network(), &[], now), "the answer is on its way");
        blocks.answered(&name, &given.clone().map(|block| block.cidr), now);
        // Older facts come late, as often as they like.
        for facts in [vec![], vec![block("10.244.3.0/24")], vec![given[0].clone()]] {
            let known = blocks.known(&facts, now);
            assert_eq!(known, given);
            assert!(!blocks.ask(&network(), &known, now));
        }
        assert_eq!(blocks.known(&given, now), given);
        // From now on the facts count alone.
        blocks.facts_changed();
        assert_eq!(blocks.known(&[], now), []);
        assert!(blocks.ask(&network(), &[], now));
    }

    #[test]
    fn half_an_answer_is_not_asked_for_at_every_tick() {
        let (mut blocks, now, name) = (Blocks::default(), Instant::now(), NetworkName::ordinary());
        let half = [block("10.244.7.0/24")];
        assert!(blocks.ask(&network(), &[], now));
        blocks.answered(&name, &[half[0].cidr], now);
        let known = blocks.known(&half, now);
        assert!(!blocks.ask(&network(), &known, now + PAUSE / 2));
        assert!(blocks.ask(&network(), &known, now + PAUSE));
        // Nothing given is an answer too.
        blocks.answered(&name, &[], now);
        assert!(!blocks.ask(&network(), &known, now));
        blocks.facts_changed();
        assert!(blocks.ask(&network(), &known, now));
    }

    #[test]
    fn what_lapsed_is_not_held_on_to() {
        let (mut blocks, now) = (Blocks::default(), Instant::now());
        blocks.answered(&NetworkName::ordinary(), &[block("10.244.7.0/24").cidr], now);
        blocks.lapsed();
        assert_eq!(blocks.known(&[], now), []);
        assert!(blocks.ask(&network(), &[], now));
    }
}
