//! What a node does next to have a share of a block to itself: the decision alone, without files or servers.
//!
//! What always holds: nobody relies on a claim that isn't confirmed. A claim is made, then seen among all others, those in other
//! networks too, and confirmed only if none overlaps it; else it is taken back. So of two that overlap, the one that was made later
//! sees the other and goes, whatever sizes of share the nodes believe in, whichever networks they are of, and however often an answer
//! is lost and the question put again. What is confirmed stays, also beside one that was made around it since.
//!
//! What is absent: how a claim is made in one step under a name that only one can have. Each store does that in its own way,
//! and sees to it that what is taken back is the claim that was looked at.

use weft_model::{Cidr, Network};

use crate::blocks::{is_share, lowest_free, share_of};

/// How far a claim has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It is there, and its node has not been seen to look at the others' since.
    Made,
    /// Its node relies on it.
    Confirmed,
}

/// A claim that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Claimed {
    pub cidr: Cidr,
    /// The node that has it; a text that is no node's name for a claim that can't be read.
    pub node: String,
    pub standing: Standing,
}

/// What a node needs.
#[derive(Debug)]
pub(crate) struct Wanted<'a> {
    pub node: &'a str,
    /// One of a network's blocks.
    pub block: Cidr,
    /// Prefix length of the share.
    pub share: u8,
    /// What can't be had, besides what is claimed.
    pub busy: &'a [Cidr],
    /// Claims in other networks, whoever made them.
    pub elsewhere: &'a [Cidr],
    /// What the node would rather have than the lowest: what it had before.
    pub before: &'a [Cidr],
    /// Shares of its own that don't count, since they give no more addresses.
    pub full: &'a [Cidr],
}

impl<'a> Wanted<'a> {
    /// A share of one of the network's blocks, as large as the network says.
    pub fn of(network: &Network, block: Cidr, node: &'a str, busy: &'a [Cidr]) -> Self {
        let share = share_of(network, block.family());
        Self { node, block, share, busy, elsewhere: &[], before: &[], full: &[] }
    }
}

/// What to do. After anything but [`Step::Keep`] the claims have to be looked at again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// This is the node's.
    Keep(Cidr),
    /// This is the node's as soon as the store has noted that it relies on it.
    Confirm(Cidr),
    /// The node takes this claim of its own back.
    Back(Cidr),
    /// The node claims this.
    Take(Cidr),
    /// There is nothing left, with so many claims in the block.
    Exhausted(usize),
}

/// The next step, by all claims of the network, and those elsewhere, as they were after the step before.
pub(crate) fn step(claims: &[Claimed], wanted: &Wanted<'_>) -> Step {
    let block = wanted.block;
    let is_inside = |cidr: &Cidr| cidr.family() == block.family() && block.net().contains(&cidr.net());
    let fits = |cidr: &Cidr| cidr.prefix() == wanted.share && is_inside(cidr);
    let own = |standing: Standing| {
        let own = claims.iter().filter(move |c| c.node == wanted.node && c.standing == standing);
        own.map(|c| c.cidr)
    };
    let kept = own(Standing::Confirmed).find(|cidr| fits(cidr) && !wanted.full.contains(cidr));
    let is_alone = |cidr: &Cidr| {
        let is_other = |c: &&Claimed| c.cidr != *cidr || c.node != wanted.node;
        let others = claims.iter().filter(is_other).map(|c| &c.cidr);
        !others.chain(wanted.elsewhere).any(|other| other.overlaps(cidr))
    };
    let mut made = own(Standing::Made).filter(is_inside);
    if let Some(vain) = made.clone().find(|cidr| kept.is_some() || !fits(cidr) || !is_alone(cidr)) {
        return Step::Back(vain);
    }
    if let Some(cidr) = kept {
        return Step::Keep(cidr);
    }
    if let Some(cidr) = made.next() {
        return Step::Confirm(cidr);
    }
    let besides = wanted.elsewhere.iter().chain(wanted.busy);
    let busy: Vec<Cidr> = claims.iter().map(|c| c.cidr).chain(besides.copied()).collect();
    let is_free = |cidr: &&Cidr| fits(cidr) && !busy.iter().any(|b| b.overlaps(cidr));
    let free = wanted.before.iter().find(is_free).copied();
    match free.or_else(|| lowest_free(block, wanted.share, &busy)) {
        Some(cidr) => Step::Take(cidr),
        None => Step::Exhausted(busy.iter().filter(|c| c.overlaps(&block)).count()),
    }
}

/// Where a node whose shares of a family are full finds another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Another {
    /// It has claimed this one already: the answer was lost.
    Has(Cidr),
    /// In one of these blocks of the network's, the first that has something left.
    In(Vec<Cidr>),
}

/// Where another share is to come from, beside `full`, all of one family's that the node has; `own` are its confirmed claims in the network.
/// `None` where it has those without claims: somebody else gives them out, and doesn't reckon with what nodes claim.
pub(crate) fn another(own: &[Cidr], network: &Network, full: &[Cidr]) -> Option<Another> {
    if !own.iter().any(|cidr| full.contains(cidr)) {
        return None;
    }
    let of_family = |cidr: &Cidr| full.iter().any(|full| full.family() == cidr.family());
    let is_besides = |cidr: &&Cidr| of_family(cidr) && is_share(network, cidr) && !full.contains(cidr);
    Some(match own.iter().find(is_besides) {
        Some(cidr) => Another::Has(*cidr),
        None => Another::In(network.pod_cidrs.iter().copied().filter(of_family).collect()),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn claimed(text: &str) -> Claimed {
        let mut words = text.split(' ');
        let (node, cidr) = (words.next().unwrap(), words.next().unwrap());
        let standing = if words.next().is_some() { Standing::Made } else { Standing::Confirmed };
        Claimed { cidr: cidr.parse().unwrap(), node: node.into(), standing }
    }

    #[test]
    fn the_next_step_follows_from_what_is_there() {
        let check = |share, claims: &[&str], busy: &[&str], before: &[&str], expected: &str| {
            let claims: Vec<Claimed> = claims.iter().map(|text| claimed(text)).collect();
            let cidrs = |texts: &[&str]| texts.iter().map(|t| t.parse().unwrap()).collect::<Vec<Cidr>>();
            let (busy, before) = (cidrs(busy), cidrs(before));
            let block = "10.0.0.0/22".parse().unwrap();
            let wanted =
                Wanted { node: "a", block, share, busy: &busy, elsewhere: &[], before: &before, full: &[] };
            let found = match step(&claims, &wanted) {
                Step::Keep(cidr) => format!("keep {cidr}"),
                Step::Confirm(cidr) => format!("confirm {cidr}"),
                Step::Back(cidr) => format!("back {cidr}"),
                Step::Take(cidr) => format!("take {cidr}"),
                Step::Exhausted(taken) => format!("exhausted {taken}"),
            };
            assert_eq!(found, expected, "{claims:?}");
        };
        check(24, &[], &[], &[], "take 10.0.0.0/24");
        check(24, &["b 10.0.0.0/26"], &["10.0.1.0/24"], &[], "take 10.0.2.0/24");
        check(24, &[], &[], &["10.0.3.0/24"], "take 10.0.3.0/24");
        check(24, &["b 10.0.3.0/26 made"], &[], &["10.0.3.0/24"], "take 10.0.0.0/24");
        check(24, &["a 10.0.0.0/24 made"], &[], &[], "confirm 10.0.0.0/24");
        // Somebody relies on a part of it, or is about to.
        check(24, &["a 10.0.0.0/24 made", "b 10.0.0.0/26"], &[], &[], "back 10.0.0.0/24");
        check(24, &["a 10.0.0.0/24 made", "b 10.0.0.0/26 made"], &[], &[], "back 10.0.0.0/24");
        // Who relied on it first, stays.
        check(26, &["a 10.0.0.0/26", "b 10.0.0.0/24 made"], &[], &[], "keep 10.0.0.0/26");
        // The network was different when these were claimed: one is relied on, the other isn't.
        check(24, &["a 10.0.0.0/26"], &[], &[], "take 10.0.1.0/24");
        check(24, &["a 10.0.0.0/26 made"], &[], &[], "back 10.0.0.0/26");
        // An attempt whose answer was lost arrived after all.
        check(24, &["a 10.0.0.0/24", "a 10.0.1.0/24 made"], &[], &[], "back 10.0.1.0/24");
        check(23, &["b 10.0.0.0/24", "b 10.0.2.0/24"], &[], &[], "exhausted 2");
    }

    #[test]
    fn what_is_full_is_no_reason_not_to_claim() {
        let check = |claims: &[&str], full: &[&str], expected: Step| {
            let claims: Vec<Claimed> = claims.iter().map(|text| claimed(text)).collect();
            let full: Vec<Cidr> = full.iter().map(|t| t.parse().unwrap()).collect();
            let block = "10.0.0.0/22".parse().unwrap();
            let wanted =
                Wanted { node: "a", block, share: 24, busy: &[], elsewhere: &[], before: &[], full: &full };
            assert_eq!(step(&claims, &wanted), expected, "{claims:?}");
        };
        let cidr = |text: &str| text.parse::<Cidr>().unwrap();
        let full = ["10.0.0.0/24"];
        check(&["a 10.0.0.0/24"], &full, Step::Take(cidr("10.0.1.0/24")));
        check(&["a 10.0.0.0/24", "a 10.0.1.0/24 made"], &full, Step::Confirm(cidr("10.0.1.0/24")));
        // Asked again after an answer that was lost.
        check(&["a 10.0.0.0/24", "a 10.0.1.0/24"], &full, Step::Keep(cidr("10.0.1.0/24")));
        check(
            &["a 10.0.0.0/24", "a 10.0.1.0/24"],
            &["10.0.0.0/24", "10.0.1.0/24"],
            Step::Take(cidr("10.0.2.0/24")),
        );
        check(&["a 10.0.0.0/24", "b 10.0.1.0/24", "b 10.0.2.0/23"], &full, Step::Exhausted(3));
    }

    #[test]
    fn what_is_claimed_in_another_network_is_anothers() {
        let check = |claims: &[&str], elsewhere: &[&str], expected: Step| {
            let claims: Vec<Claimed> = claims.iter().map(|text| claimed(text)).collect();
            let elsewhere: Vec<Cidr> = elsewhere.iter().map(|t| t.parse().unwrap()).collect();
            let block = "10.0.0.0/22".parse().unwrap();
            let none = (&[][..], &[][..]);
            let wanted = Wanted {
                node: "a",
                block,
                share: 24,
                busy: none.0,
                elsewhere: &elsewhere,
                before: none.0,
                full: none.1,
            };
            assert_eq!(step(&claims, &wanted), expected, "{claims:?} {elsewhere:?}");
        };
        let cidr = |text: &str| text.parse::<Cidr>().unwrap();
        check(&[], &["10.0.0.64/26"], Step::Take(cidr("10.0.1.0/24")));
        check(&["a 10.0.0.0/24 made"], &["10.0.0.64/26"], Step::Back(cidr("10.0.0.0/24")));
        check(&["a 10.0.0.0/24 made"], &["10.0.0.0/24"], Step::Back(cidr("10.0.0.0/24")));
        check(&["a 10.0.0.0/24 made"], &["10.0.1.0/24"], Step::Confirm(cidr("10.0.0.0/24")));
        // What it relies on, stays, though the other network came to have blocks there as well.
        check(&["a 10.0.0.0/24"], &["10.0.0.64/26"], Step::Keep(cidr("10.0.0.0/24")));
        check(&[], &["10.0.0.0/21"], Step::Exhausted(1));
    }

    #[test]
    fn another_share_comes_to_those_who_claimed_what_is_full() {
        let cidrs = |texts: &[&str]| texts.iter().map(|t| t.parse().unwrap()).collect::<Vec<Cidr>>();
        let pod_cidrs = cidrs(&["10.0.0.0/22", "fd00::/48", "10.9.0.0/16"]);
        let network = Network { pod_cidrs, ..Network::ordinary() };
        let check = |own: &[&str], full: &[&str], expected: Option<Another>| {
            assert_eq!(another(&cidrs(own), &network, &cidrs(full)), expected, "{own:?} {full:?}");
        };
        let both = Some(Another::In(cidrs(&["10.0.0.0/22", "10.9.0.0/16"])));
        check(&["10.0.0.0/24", "fd00::/64"], &["10.0.0.0/24"], both.clone());
        check(&["10.0.0.0/24", "fd00::/64"], &["fd00::/64"], Some(Another::In(cidrs(&["fd00::/48"]))));
        check(
            &["10.0.0.0/24", "10.9.3.0/24"],
            &["10.0.0.0/24"],
            Some(Another::Has(cidrs(&["10.9.3.0/24"])[0])),
        );
        // Of another size, from when the network was different.
        check(&["10.0.0.0/26", "10.0.1.0/26"], &["10.0.0.0/26"], both);
        // Somebody else has given it.
        check(&[], &["10.0.0.0/24"], None);
        check(&["fd00::/64"], &["10.0.0.0/24"], None);
    }

    /// What comes to pass, for one of the nodes.
    #[derive(Debug, Clone, Copy)]
    enum Turn {
        /// It looks at the claims.
        Look,
        /// It does what follows from its look, and hears that it is done.
        Act,
        /// The same, and the answer is lost: it knows nothing.
        ActUnheard,
        /// What it does is on its way for long; it has given up waiting.
        Send,
        /// What was on its way arrives.
        Arrive,
        /// It is started again, and believes in shares of this size.
        Restart(u8),
    }

    /// A claim in the model's store, as often as it was changed.
    #[derive(Debug, Clone)]
    struct Kept {
        network: u8,
        claim: Claimed,
        version: usize,
    }

    #[derive(Debug, Default)]
    struct Node {
        /// The network that it claims in; all have one block.
        network: u8,
        share: u8,
        seen: Option<Vec<Kept>>,
        on_their_way: Vec<(Step, usize)>,
        relies: Vec<Cidr>,
    }

    #[derive(Debug, Default)]
    struct Model {
        there: Vec<Kept>,
        versions: usize,
        nodes: Vec<Node>,
    }

    fn name(node: usize) -> String {
        format!("n{node}")
    }

    impl Model {
        /// The step that follows from the node's last look, and the version of the claim that it is about.
        fn decide(&mut self, node: usize) -> Option<(Step, usize)> {
            let seen = self.nodes[node].seen.take()?;
            let Node { network, share, .. } = self.nodes[node];
            let (seen, others): (Vec<Kept>, Vec<Kept>) =
                seen.into_iter().partition(|kept| kept.network == network);
            let claims: Vec<Claimed> = seen.iter().map(|kept| kept.claim.clone()).collect();
            let elsewhere: Vec<Cidr> = others.iter().map(|kept| kept.claim.cidr).collect();
            let (block, none) = ("10.0.0.0/28".parse().unwrap(), &[][..]);
            let wanted = Wanted {
                node: &name(node),
                block,
                share,
                busy: none,
                elsewhere: &elsewhere,
                before: none,
                full: none,
            };
            let step = step(&claims, &wanted);
            let about = |cidr| seen.iter().find(|k| k.claim.cidr == cidr).map_or(0, |k| k.version);
            match step {
                Step::Keep(cidr) | Step::Confirm(cidr) | Step::Back(cidr) => Some((step, about(cidr))),
                Step::Take(_) | Step::Exhausted(_) => Some((step, 0)),
            }
        }

        /// Does it, where the claim is still the one that was seen. True where that went well.
        fn arrive(&mut self, node: usize, (step, version): (Step, usize)) -> bool {
            self.versions += 1;
            let versions = self.versions;
            let network = self.nodes[node].network;
            let same = |k: &Kept, cidr| (k.network, k.claim.cidr, k.version) == (network, cidr, version);
            match step {
                Step::Keep(_) => true,
                Step::Confirm(cidr) => match self.there.iter_mut().find(|k| same(k, cidr)) {
                    Some(kept) => {
                        (kept.claim.standing, kept.version) = (Standing::Confirmed, versions);
                        true
                    }
                    None => false,
                },
                Step::Back(cidr) => {
                    self.there.retain(|k| !same(k, cidr));
                    true
                }
                Step::Take(cidr) => {
                    if !self.there.iter().any(|k| (k.network, k.claim.cidr) == (network, cidr)) {
                        let claim = Claimed { cidr, node: name(node), standing: Standing::Made };
                        self.there.push(Kept { network, claim, version: versions });
                    }
                    true
                }
                Step::Exhausted(_) => false,
            }
        }

        fn turn(&mut self, node: usize, turn: Turn) {
            match turn {
                Turn::Look => self.nodes[node].seen = Some(self.there.clone()),
                Turn::Act => {
                    let Some(decided) = self.decide(node) else { return };
                    if let (true, Step::Keep(cidr) | Step::Confirm(cidr)) =
                        (self.arrive(node, decided), decided.0)
                        && !self.nodes[node].relies.contains(&cidr)
                    {
                        self.nodes[node].relies.push(cidr);
                    }
                }
                Turn::ActUnheard => {
                    if let Some(decided) = self.decide(node) {
                        self.arrive(node, decided);
                    }
                }
                Turn::Send => {
                    let decided = self.decide(node);
                    self.nodes[node].on_their_way.extend(decided);
                }
                Turn::Arrive => {
                    if let Some(decided) = self.nodes[node].on_their_way.pop() {
                        self.arrive(node, decided);
                    }
                }
                Turn::Restart(share) => (self.nodes[node].share, self.nodes[node].seen) = (share, None),
            }
        }

        /// Two nodes that rely on one address.
        fn conflict(&self) -> Option<String> {
            for (i, a) in self.nodes.iter().enumerate() {
                for b in &self.nodes[i + 1..] {
                    for x in &a.relies {
                        if let Some(y) = b.relies.iter().find(|y| y.overlaps(x)) {
                            return Some(format!("{x} and {y}"));
                        }
                    }
                }
            }
            None
        }
    }

    fn turns() -> impl Strategy<Value = Vec<(usize, Turn)>> {
        let turn = prop_oneof![
            6 => Just(Turn::Look),
            6 => Just(Turn::Act),
            2 => Just(Turn::ActUnheard),
            1 => Just(Turn::Send),
            1 => Just(Turn::Arrive),
            1 => (29_u8..=31).prop_map(Turn::Restart),
        ];
        proptest::collection::vec((0..2_usize, turn), 0..60)
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 4000, ..ProptestConfig::default() })]

        #[test]
        fn no_order_of_events_gives_one_address_to_two_nodes(
            turns in turns(),
            shares in (29_u8..=31, 29_u8..=31),
            second in 0..2_u8,
        ) {
            let node = |network, share| Node { network, share, ..Node::default() };
            let mut model = Model { nodes: vec![node(0, shares.0), node(second, shares.1)], ..Model::default() };
            for (node, turn) in &turns {
                model.turn(*node, *turn);
                prop_assert_eq!(model.conflict(), None);
            }
            // Left in peace, one after the other has what it wants, as far as there is room.
            for node in [0, 1] {
                for _ in 0..40 {
                    model.turn(node, Turn::Look);
                    model.turn(node, Turn::Act);
                }
                prop_assert_eq!(model.conflict(), None);
                model.turn(node, Turn::Look);
                let decided = model.decide(node).map(|(step, _)| step);
                prop_assert!(matches!(decided, Some(Step::Keep(_) | Step::Exhausted(_))), "{:?}", decided);
            }
        }
    }
}
