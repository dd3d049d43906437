//! What kernels say of a packet's way: this node's row by row, others' as far as the asker has brought their word.
//!
//! An agent asks no other node's agent: it has no port that is open to them. Whoever can reach several agents' sockets, on the nodes
//! of a lab for example, asks each for its kernel's differences and hands them in with the question. A peer's plan is compiled
//! here without the names of its links, so of its differences nobody here can tell which hops they touch.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use weft_compile::oracle::{Conversation, Hop, KernelWord};
use weft_model::NodeName;

use crate::message::Differing;

/// What is known of kernels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kernels {
    own: Vec<Differing>,
    peers: BTreeMap<NodeName, Vec<String>>,
}

/// What another node's agent says of its kernel.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct PeerKernel {
    /// The node.
    pub node: NodeName,
    /// Its answer to `weft plan --diff`: lines, none where the kernel is as its plan has it.
    pub differences: Vec<String>,
}

/// What the kernel of a node on the way says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NodeKernel {
    /// The node.
    pub node: NodeName,
    /// Its kernel's word on all of its plan.
    #[serde(flatten)]
    pub word: KernelWord,
}

impl Kernels {
    /// This node's differences, and what others have said of theirs.
    pub fn new(own: Vec<Differing>, peers: Vec<PeerKernel>) -> Self {
        Self { own, peers: peers.into_iter().map(|peer| (peer.node, peer.differences)).collect() }
    }

    /// Where this node's kernel is not as its plan has it.
    pub fn own(&self) -> &[Differing] {
        &self.own
    }

    /// Gives each hop what its node's kernel says; returns each kernel's word on the whole plan, this node's first.
    pub fn mark(&self, here: &NodeName, conversation: &mut Conversation) -> Vec<NodeKernel> {
        let traces = [Some(&mut conversation.forward), conversation.reply.as_mut()];
        let mut nodes: Vec<NodeKernel> = Vec::new();
        for hop in traces.into_iter().flatten().flat_map(|trace| &mut trace.hops) {
            hop.kernel = Some(self.of_hop(here, hop));
            if nodes.iter().all(|known| known.node != hop.node) {
                nodes.push(NodeKernel { node: hop.node.clone(), word: self.of_node(here, &hop.node) });
            }
        }
        nodes.sort_by_key(|kernel| kernel.node != *here);
        nodes
    }

    fn of_hop(&self, here: &NodeName, hop: &Hop) -> KernelWord {
        if hop.node != *here {
            return match self.of_node(here, &hop.node) {
                KernelWord::Differs { .. } => KernelWord::DiffersSomewhere,
                word => word,
            };
        }
        let touches = |row: &&Differing| hop.look_ups.iter().any(|look_up| look_up.is_about(&row.key));
        differs(self.own.iter().filter(touches).flat_map(|row| row.lines.clone()).collect())
    }

    fn of_node(&self, here: &NodeName, node: &NodeName) -> KernelWord {
        if node == here {
            return differs(self.own.iter().flat_map(|row| row.lines.clone()).collect());
        }
        self.peers.get(node).map_or(KernelWord::NotAsked, |lines| differs(lines.clone()))
    }
}

fn differs(rows: Vec<String>) -> KernelWord {
    if rows.is_empty() { KernelWord::Agrees } else { KernelWord::Differs { rows } }
}
