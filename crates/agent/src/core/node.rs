//! This node's own facts: what it says of itself, and the blocks that it has.

use weft_compile::Context;
use weft_compile::rules::networks::overlap;
use weft_model::{Cidr, Network, NetworkName, NodeAddress, NodeCidr};
use weft_store::{BootTime, Claim, Hold, Published, PublishedNode};

use super::{Core, Phase, PublishWork};
use crate::addresses::own_addresses;

impl Core {
    /// Publishes what this node is, where that has changed, and claims blocks where it has none, or none with a free address.
    pub(super) fn refresh_node(&mut self) {
        if self.phase == Phase::Waiting {
            return;
        }
        let absent = self.config.absent_on(self.compiler.facts().host());
        self.trouble("links", absent.map(|absent| format!("{}; {}", absent.problem, absent.mend)));
        let addresses = self.own_addresses();
        if addresses.is_empty() {
            return;
        }
        let known = self.compiler.facts().node(&self.node);
        let told = known.map(|node| node.pod_cidrs.clone()).unwrap_or_default();
        let vtep_mac = known.and_then(|node| node.published_vtep_mac);
        let pod_cidrs = self.blocks.known(&told, self.now);
        self.claim_missing(&pod_cidrs);
        let flannel = self.words_to_flannel();
        let node = PublishedNode { name: self.node.clone(), addresses, pod_cidrs, vtep_mac, flannel };
        if self.published_node.as_ref() != Some(&node) && !self.loses_what_is_asked_for(&node) {
            self.publish(PublishWork::Publish(Published::Node(node.clone())));
            self.published_node = Some(node);
            if self.conflist_written {
                // Who removed the node from the store has removed this too.
                self.publish(PublishWork::Ready);
            }
        }
    }

    /// True where blocks that this node has published would go, and the store is just being asked for them: peers would lose
    /// their routes for the moment of the answer.
    fn loses_what_is_asked_for(&self, node: &PublishedNode) -> bool {
        let before = self.published_node.iter().flat_map(|node| &node.pod_cidrs);
        before
            .into_iter()
            .any(|block| !node.pod_cidrs.contains(block) && self.blocks.is_asked(&block.network))
    }

    /// The addresses by which this node makes itself known ([`own_addresses`]).
    pub(super) fn own_addresses(&self) -> Vec<NodeAddress> {
        let facts = self.compiler.facts();
        let registered = facts.node(&self.node).map_or(&[][..], |node| &node.registered);
        own_addresses(&self.config.addresses, self.config.uplink, facts.host(), registered)
    }

    /// Asks the store for blocks in networks that give some out and of which this node has none, or none with a free address; and again
    /// with what is known now, where the answer is long in coming.
    fn claim_missing(&mut self, have: &[NodeCidr]) {
        for network in self.giving_networks() {
            let facts = self.compiler.facts();
            // What this node has in the network itself stays its own.
            let in_use = || {
                let all =
                    facts.nodes().flat_map(|node| node.pod_cidrs.iter().map(move |block| (node, block)));
                let others =
                    all.filter(|(node, block)| node.name != self.node || block.network != network.name);
                others.map(|(_, block)| block.cidr).collect()
            };
            let full = self.full_blocks(&network.name, have);
            if let Some(question) = self.blocks.ask(&network, (have, &full), in_use, self.now) {
                if !question.full.is_empty() {
                    tracing::info!(
                        "network {}: no address is free, another block is asked for",
                        network.name
                    );
                }
                self.publish(PublishWork::Claim(Box::new(question)));
            }
        }
    }

    /// Networks that nodes claim blocks of: not those whose blocks overlap an earlier one's.
    fn giving_networks(&self) -> Vec<Network> {
        let context = Context { settings: self.compiler.settings(), facts: self.compiler.facts() };
        let all = context.networks();
        let gives = |network: &&&Network| overlap(network, &all).is_none();
        all.iter().filter(gives).map(|network| (*network).clone()).collect()
    }

    /// All of this node's blocks of a family in a network, where pods have every address of them.
    fn full_blocks(&self, network: &NetworkName, have: &[NodeCidr]) -> Vec<Cidr> {
        let Some(leases) = self.leases.get(network) else { return Vec::new() };
        let Some(family) = leases.full_family(&self.pool(network)) else { return Vec::new() };
        let of_family = |block: &&NodeCidr| block.network == *network && block.cidr.family() == family;
        have.iter().filter(of_family).map(|block| block.cidr).collect()
    }

    /// Why no more addresses of this node's blocks may be given out: other nodes may have them soon. By the clock that goes on while the
    /// machine sleeps, and at each ADD: an agent that was stopped must not go by what it knew before.
    pub(super) fn lapsed(&self) -> Option<String> {
        match &self.hold {
            Hold::Unbound => None,
            Hold::Until(until) if BootTime::now() < *until => None,
            Hold::Until(_) => Some(
                "the store was not reached for so long that another node may get them soon; pods here go on as they are. \
                 Mend the way to the store"
                    .to_owned(),
            ),
            Hold::Lapsed(reason) => Some(reason.clone()),
        }
    }

    /// Says so, and says when it is over.
    pub(super) fn look_at_hold(&mut self) {
        match self.lapsed() {
            Some(reason) => {
                self.trouble("claims", Some(format!("no addresses are given out: {reason}")));
            }
            None => self.trouble("claims", None),
        }
    }

    /// Takes the blocks that the store gave, and makes them known.
    pub(super) fn claimed(&mut self, network: &NetworkName, claim: Claim) {
        self.blocks.answered(network, claim, self.now);
        self.refresh_node();
    }

    /// Takes another block beside those that are full, or notes why there is none.
    pub(super) fn claimed_another(&mut self, network: &NetworkName, answer: Result<Cidr, String>) {
        match answer {
            Ok(cidr) => {
                let told = self.compiler.facts().node(&self.node).map(|node| node.pod_cidrs.clone());
                self.blocks.grown(network, cidr, &told.unwrap_or_default(), self.now);
            }
            Err(reason) => self.blocks.refused(network, reason, self.now),
        }
        self.refresh_node();
    }

    /// The store tells something else of this node than before: what of it is ours is said again, which changes nothing where
    /// it stands as we said it.
    pub(super) fn own_node_changed(&mut self) {
        self.blocks.facts_changed();
        self.published_node = None;
    }

    /// Publishes what somebody else has removed from the store since.
    pub(super) fn publish_missing(&mut self) {
        let facts = self.compiler.facts();
        for record in self.attached.values().filter(|record| !self.adding.contains_key(&record.attachment.id))
        {
            let Some(pod) = self.published(&record.attachment) else { continue };
            let known = facts.pod(&pod.key);
            if known.is_none_or(|fact| fact.ips.is_empty() && !fact.finished) {
                self.publish(PublishWork::Publish(Published::Pod(pod)));
            }
        }
    }

    /// Publishes every pod again after a start, since some may have gone unpublished.
    pub(super) fn publish_pods(&self) {
        for record in self.attached.values() {
            if let Some(pod) = self.published(&record.attachment) {
                self.publish(PublishWork::Publish(Published::Pod(pod)));
            }
        }
        // And takes back those that this node once published and no longer has.
        let gone = self.compiler.facts().pods().filter(|pod| {
            pod.node.as_ref() == Some(&self.node)
                && !pod.host_network
                && !pod.ips.is_empty()
                && !self.is_attached(&pod.key)
        });
        for pod in gone {
            let key = pod.key.clone();
            self.publish(PublishWork::Publish(Published::PodGone { node: self.node.clone(), key }));
        }
    }

    fn is_attached(&self, key: &weft_model::ObjectKey) -> bool {
        self.attached.values().any(|r| r.attachment.pod.as_ref().is_some_and(|pod| pod.key == *key))
    }
}
