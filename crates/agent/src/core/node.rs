//! This node's own facts: what it says of itself, and the blocks that it has.

use ipnet::IpNet;
use weft_model::{Cidr, Family, HostLink, NetworkName, NodeAddress, NodeCidr};
use weft_store::{BootTime, Claim, Hold, Published, PublishedNode};

use super::{Core, Phase, PublishWork};

impl Core {
    /// Publishes what this node is, where that has changed, and claims blocks where it has none, or none with a free address.
    pub(super) fn refresh_node(&mut self) {
        if self.phase == Phase::Waiting {
            return;
        }
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

    /// Addresses by configuration, those by which the cluster knows this node where it has them, or those of the link with the default route;
    /// with their prefixes. A node with several links is known by what its kubelet was told (`--node-ip`), and what the cluster's other
    /// programs send to it comes there.
    pub(super) fn own_addresses(&self) -> Vec<NodeAddress> {
        let host = self.compiler.facts().host();
        if !self.config.addresses.is_empty() {
            let prefix = |ip| host.nets().find(|net| net.addr() == ip).map(|net| net.prefix_len());
            return self
                .config
                .addresses
                .iter()
                .map(|ip| NodeAddress { ip: *ip, prefix: prefix(*ip) })
                .collect();
        }
        let nets = match self.config.uplink {
            Some(name) => addresses_of(host.links.iter().find(|link| link.name == name)),
            None => match self.registered() {
                // In a family in which the cluster knows none, none of its nodes is counted on to have one.
                registered if !registered.is_empty() => registered,
                _ => addresses_of(host.links.first()),
            },
        };
        // One of a family is enough for peers; the first is the kernel's own choice.
        Family::ALL
            .into_iter()
            .filter_map(|family| nets.iter().find(|net| Family::of(net.addr()) == family))
            .map(|net| NodeAddress { ip: net.addr(), prefix: Some(net.prefix_len()) })
            .collect()
    }

    /// Those of the addresses by which the cluster knows this node that this machine has.
    fn registered(&self) -> Vec<IpNet> {
        let facts = self.compiler.facts();
        let registered = facts.node(&self.node).into_iter().flat_map(|node| &node.registered);
        registered.filter_map(|ip| facts.host().nets().find(|net| net.addr() == *ip)).collect()
    }

    /// Asks the store for blocks in networks that give some out and of which this node has none, or none with a free address; and again
    /// with what is known now, where the answer is long in coming.
    fn claim_missing(&mut self, have: &[NodeCidr]) {
        let networks: Vec<_> = self.compiler.facts().networks().cloned().collect();
        for network in networks {
            let facts = self.compiler.facts();
            let others = || facts.nodes().filter(|node| node.name != self.node);
            let in_use = || others().flat_map(|node| node.cidrs(&network.name).collect::<Vec<_>>()).collect();
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

fn addresses_of(link: Option<&HostLink>) -> Vec<IpNet> {
    link.map(|link| link.addresses.clone()).unwrap_or_default()
}
