//! The blocks that the store gave, between its word and the facts that say so.
//!
//! What always holds: what a store has given stands until the facts have told of it, so an answer that comes before its own
//! echo is neither taken back nor asked for again; and a network that lacks something in spite of an answer is asked for at
//! a pace. A question that waits for its answer is asked with what is known now, not with what was known when it was first asked.
//! Nothing here outlives what the facts say: a block that is gone from them is gone. Another block is asked for only while those that
//! there are have no free address.
//!
//! What is absent: giving blocks back. A node keeps what it needed at its fullest.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use weft_model::{Cidr, Network, NetworkName, NodeCidr};
use weft_store::Claim as Claimed;

/// How long to wait where an answer didn't give all that is wanted: a single-stack controller in a dual-stack network.
const PAUSE: Duration = Duration::from_secs(60);

/// How long an answer may take before it is looked whether the question is still the right one: most come at once.
const OVERDUE: Duration = Duration::from_secs(5);

/// How long to wait where the store had no other block to give: another node may let go of one, or pods here may end.
const AGAIN: Duration = Duration::from_secs(10);

/// What the store is asked for blocks with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// The network, as it is known now.
    pub network: Network,
    /// Blocks of other nodes, which the store may not know of by itself.
    pub in_use: Vec<Cidr>,
    /// Blocks of one family beside which another is needed, all that this node has; none where blocks of a family are missing.
    pub full: Vec<Cidr>,
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
    /// There is no other block beside those that are full, and why: not again before then.
    Refused(String, Instant),
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Blocks {
    claims: BTreeMap<NetworkName, Claim>,
    /// What this node has claimed and can't use, as the store said last.
    unfit: BTreeMap<NetworkName, Vec<Cidr>>,
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

    /// What the store has to be asked, which is then taken as done: a family of the network's has no block among `known`, those of a
    /// family are `full`, or what was asked for that reason is out of date and has no answer yet.
    pub(super) fn ask(
        &mut self,
        network: &Network,
        (known, full): (&[NodeCidr], &[Cidr]),
        in_use: impl FnOnce() -> Vec<Cidr>,
        now: Instant,
    ) -> Option<Question> {
        let has = |whole: &Cidr| {
            let of_network = known.iter().filter(|block| block.network == network.name);
            of_network.into_iter().any(|block| block.cidr.family() == whole.family())
        };
        let is_missing = !network.pod_cidrs.iter().all(has);
        // By hand a node may have blocks of a family that the network has none of.
        let is_source = |whole: &Cidr| full.iter().any(|cidr| cidr.family() == whole.family());
        let full: &[Cidr] = if is_missing || !network.pod_cidrs.iter().any(is_source) { &[] } else { full };
        if full.is_empty() {
            self.claims.retain(|name, claim| *name != network.name || !matches!(claim, Claim::Refused(..)));
        }
        let before = self.claims.get(&network.name);
        let is_open = match before {
            None => true,
            Some(Claim::Asked(_, at)) => now >= *at + OVERDUE,
            // What was given has been used up: that is a new question.
            Some(Claim::Answered(until)) => now >= *until || !full.is_empty(),
            Some(Claim::Refused(_, until)) => now >= *until,
            Some(Claim::Given(_)) => false,
        };
        if !is_open || (!is_missing && full.is_empty()) {
            return None;
        }
        let question = Question { network: network.clone(), in_use: in_use(), full: full.to_vec() };
        if matches!(before, Some(Claim::Asked(asked, _)) if *asked == question) {
            return None;
        }
        self.claims.insert(network.name.clone(), Claim::Asked(question.clone(), now));
        Some(question)
    }

    /// Takes the store's answer.
    pub(super) fn answered(&mut self, network: &NetworkName, claimed: Claimed, now: Instant) {
        let Claimed { cidrs, unfit } = claimed;
        let claim = if cidrs.is_empty() { Claim::Answered(now + PAUSE) } else { Claim::Given(cidrs) };
        self.claims.insert(network.clone(), claim);
        self.unfit.insert(network.clone(), unfit);
    }

    /// Takes another block, beside those that the facts tell of.
    pub(super) fn grown(&mut self, network: &NetworkName, cidr: Cidr, facts: &[NodeCidr], now: Instant) {
        let known = self.known(facts, now);
        let mut cidrs: Vec<Cidr> =
            known.into_iter().filter(|block| block.network == *network).map(|block| block.cidr).collect();
        if !cidrs.contains(&cidr) {
            cidrs.push(cidr);
        }
        self.claims.insert(network.clone(), Claim::Given(cidrs));
    }

    /// Notes why there is no other block.
    pub(super) fn refused(&mut self, network: &NetworkName, reason: String, now: Instant) {
        self.claims.insert(network.clone(), Claim::Refused(reason, now + AGAIN));
    }

    /// What becomes of a network whose blocks here are full, for people; `None` where nobody was asked.
    pub(super) fn outlook(&self, network: &NetworkName) -> Option<String> {
        match self.claims.get(network)? {
            Claim::Asked(..) => Some("another block was asked for: come again".to_owned()),
            Claim::Given(_) => {
                Some("another block was given, and is being made known: come again".to_owned())
            }
            Claim::Refused(reason, _) => Some(reason.clone()),
            Claim::Answered(_) => None,
        }
    }

    /// What a person should know.
    pub(super) fn warnings(&self) -> Vec<String> {
        let refused = self.claims.iter().filter_map(|(network, claim)| match claim {
            Claim::Refused(reason, _) => {
                Some(format!("network {network}: no address is free on this node: {reason}"))
            }
            _ => None,
        });
        let unfit = self.unfit.iter().flat_map(|(network, cidrs)| {
            cidrs.iter().map(move |cidr| {
                format!(
                    "network {network}: block {cidr}, which this node has claimed, no longer fits the network: no addresses come \
                     from it, and it stays the node's until the node is forgotten (`weft forget`)"
                )
            })
        });
        refused.chain(unfit).collect()
    }

    /// The facts about this node or a network have changed: whoever waits may ask at once.
    pub(super) fn facts_changed(&mut self) {
        self.claims.retain(|_, claim| !matches!(claim, Claim::Answered(_) | Claim::Refused(..)));
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

    fn claimed(blocks: &[NodeCidr]) -> Claimed {
        Claimed { cidrs: blocks.iter().map(|block| block.cidr).collect(), unfit: vec![] }
    }

    /// True where the store is asked, while no other node has a block.
    fn asks(blocks: &mut Blocks, known: &[NodeCidr], now: Instant) -> bool {
        blocks.ask(&network(), (known, &[]), Vec::new, now).is_some()
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
        blocks.answered(&name, claimed(&given), now);
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
        blocks.answered(&name, claimed(&half), now);
        let known = blocks.known(&half, now);
        assert!(!asks(&mut blocks, &known, now + PAUSE / 2));
        assert!(asks(&mut blocks, &known, now + PAUSE));
        // Nothing given is an answer too.
        blocks.answered(&name, claimed(&[]), now);
        assert!(!asks(&mut blocks, &known, now));
        blocks.facts_changed();
        assert!(asks(&mut blocks, &known, now));
    }

    #[test]
    fn what_lapsed_is_not_held_on_to() {
        let (mut blocks, now) = (Blocks::default(), Instant::now());
        blocks.answered(&NetworkName::ordinary(), claimed(&[block("10.244.7.0/24")]), now);
        blocks.lapsed();
        assert_eq!(blocks.known(&[], now), []);
        assert!(asks(&mut blocks, &[], now));
    }

    #[test]
    fn a_question_that_waits_is_brought_up_to_date() {
        let (mut blocks, now) = (Blocks::default(), Instant::now());
        let mut ask = |network: &Network, in_use: &[&str], after: Duration| {
            let in_use: Vec<Cidr> = in_use.iter().map(|text| text.parse().unwrap()).collect();
            blocks.ask(network, (&[], &[]), || in_use, now + after).map(|question| question.in_use.len())
        };
        let (other, zero) = (["10.244.0.0/24"], Duration::ZERO);
        assert_eq!(ask(&network(), &[], zero), Some(0));
        assert_eq!(ask(&network(), &other, OVERDUE / 2), None, "the answer may be on its way");
        assert_eq!(ask(&network(), &[], OVERDUE), None);
        assert_eq!(ask(&network(), &other, OVERDUE), Some(1), "another node has one meanwhile");
        assert_eq!(ask(&network(), &other, OVERDUE * 2), None);
        let wider = Network { node_prefix_v4: 25, ..network() };
        assert_eq!(ask(&wider, &other, OVERDUE * 2), Some(1), "and so is what the network says");
        blocks.answered(&NetworkName::ordinary(), claimed(&[block("10.244.7.0/24")]), now);
        let asked = blocks.ask(&network(), (&[], &[]), Vec::new, now);
        assert_eq!(asked, None, "what was given doesn't depend on it any more");
    }

    #[test]
    fn another_block_is_asked_for_while_those_there_are_full() {
        let (mut blocks, now, name) = (Blocks::default(), Instant::now(), NetworkName::ordinary());
        let had = [block("10.244.7.0/24"), block("fd00:244:0:7::/64")];
        let full = [had[0].cidr];
        let ask = |blocks: &mut Blocks, known: &[NodeCidr], full: &[Cidr], now: Instant| {
            blocks.ask(&network(), (known, full), Vec::new, now).map(|question| question.full)
        };
        assert_eq!(ask(&mut blocks, &had, &[], now), None);
        assert_eq!(ask(&mut blocks, &had, &full, now), Some(full.to_vec()));
        assert_eq!(ask(&mut blocks, &had, &full, now), None, "the answer is on its way");
        // It comes beside what there is, and counts before the facts say so.
        let more = block("10.244.9.0/24");
        blocks.grown(&name, more.cidr, &had, now);
        let known = blocks.known(&had, now);
        assert_eq!(known, [had[0].clone(), had[1].clone(), more.clone()]);
        assert_eq!(ask(&mut blocks, &known, &full, now), None);
        assert_eq!(blocks.known(&known, now), known);
        // Those are full by now as well, a moment after they were given.
        let full = [had[0].cidr, more.cidr];
        assert_eq!(ask(&mut blocks, &known, &full, now), Some(full.to_vec()));
        blocks.refused(&name, "nothing is left".into(), now);
        assert_eq!(blocks.outlook(&name).as_deref(), Some("nothing is left"));
        assert_eq!(blocks.warnings().len(), 1);
        assert_eq!(ask(&mut blocks, &known, &full, now + AGAIN / 2), None);
        assert_eq!(ask(&mut blocks, &known, &full, now + AGAIN), Some(full.to_vec()));
        // A pod went: nobody needs it, and there is nothing to warn of.
        blocks.refused(&name, "nothing is left".into(), now);
        assert_eq!(ask(&mut blocks, &known, &[], now), None);
        assert_eq!((blocks.outlook(&name), blocks.warnings()), (None, vec![]));
        // What is missing comes first; and a network without blocks of the family has none to give.
        assert_eq!(ask(&mut blocks, &known[..1], &full, now), Some(vec![]));
        let mut other = Blocks::default();
        let by_hand = Network { pod_cidrs: vec![], ..network() };
        assert_eq!(other.ask(&by_hand, (&known, &full), Vec::new, now), None);
    }

    #[test]
    fn what_no_longer_fits_is_told() {
        let (mut blocks, now) = (Blocks::default(), Instant::now());
        let claim =
            Claimed { cidrs: vec![block("10.9.0.0/26").cidr], unfit: vec![block("10.244.7.0/24").cidr] };
        blocks.answered(&NetworkName::ordinary(), claim, now);
        assert!(blocks.warnings()[0].contains("block 10.244.7.0/24"), "{:?}", blocks.warnings());
    }
}
