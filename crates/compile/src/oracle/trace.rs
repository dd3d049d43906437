//! What became of a packet, and each step on its way: as data, and as text for people.
//!
//! What always holds: each step, and each end but an arrival and a circle, names the fact behind the row that decided.
//! `weft explain` prints the text, and `docs/packet-paths.md` is held to it by a test.
//!
//! What is absent: walking (`walk`). Nothing here looks at a plan.

use std::fmt;
use std::net::IpAddr;

use serde::Serialize;
use weft_model::{AttachmentId, FactKey, IfName, NodeName};
use weft_plan::filter::HookKind;

use super::look_up::LookUp;
use super::packet::{Headers, Start};

/// What kind of step a hop is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// The sender gives the packet to a node.
    Send,
    /// Chains before the routing decision.
    Prerouting,
    /// Chains for packets to this host.
    Input,
    /// Chains for packets through this host.
    Forward,
    /// Chains for packets from this host.
    Output,
    /// Chains after the routing decision.
    Postrouting,
    /// An address or port was rewritten.
    Translate,
    /// The routing decision.
    Route,
    /// Over a link of the plan to a pod.
    Link,
    /// Into a tunnel.
    Encap,
    /// Out of a tunnel.
    Decap,
    /// Over one of the machine's own links.
    Wire,
}

impl From<HookKind> for Stage {
    fn from(hook: HookKind) -> Self {
        match hook {
            HookKind::Prerouting => Stage::Prerouting,
            HookKind::Input => Stage::Input,
            HookKind::Forward => Stage::Forward,
            HookKind::Output => Stage::Output,
            HookKind::Postrouting => Stage::Postrouting,
        }
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Stage::Send => "send",
            Stage::Prerouting => "prerouting",
            Stage::Input => "input",
            Stage::Forward => "forward",
            Stage::Output => "output",
            Stage::Postrouting => "postrouting",
            Stage::Translate => "translate",
            Stage::Route => "route",
            Stage::Link => "link",
            Stage::Encap => "encap",
            Stage::Decap => "decap",
            Stage::Wire => "wire",
        })
    }
}

/// One step of a packet's way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Hop {
    /// The node that it was on.
    pub node: NodeName,
    /// What kind of step.
    pub stage: Stage,
    /// The base chain, where chains decided.
    pub chain: Option<String>,
    /// What was decided, in one line: a rule in nft's words, a route in ip's.
    pub text: String,
    /// The fact behind the row that decided.
    pub origin: FactKey,
    /// What was asked of the node's kernel for it, by silent steps since the hop before too.
    #[serde(skip)]
    pub look_ups: Vec<LookUp>,
    /// What that kernel says, where somebody has asked it: the oracle itself doesn't.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kernel: Option<KernelWord>,
}

/// What a node's kernel says of a step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "says", rename_all = "camelCase")]
pub enum KernelWord {
    /// It holds what the step asked for, as the plan has it.
    Agrees,
    /// It doesn't, in these rows.
    Differs {
        /// Lines as `weft plan --diff` prints them.
        rows: Vec<String>,
    },
    /// It differs from its plan, and only its own node can tell whether in rows that the step asked for.
    DiffersSomewhere,
    /// It was not asked: it is another node's.
    NotAsked,
}

impl KernelWord {
    /// One sign, to stand before a line.
    pub fn sign(&self) -> char {
        match self {
            KernelWord::Agrees => '=',
            KernelWord::Differs { .. } => '!',
            KernelWord::DiffersSomewhere => '~',
            KernelWord::NotAsked => '?',
        }
    }
}

impl fmt::Display for Hop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} ", self.node, self.stage)?;
        if let Some(chain) = &self.chain {
            write!(f, "{chain}: ")?;
        }
        write!(f, "{} [{}]", self.text, self.origin)
    }
}

/// Who got a packet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "receiver", rename_all = "lowercase")]
pub enum Receiver {
    /// A pod.
    Pod {
        /// Its node.
        node: NodeName,
        /// The host end of its link.
        link: IfName,
        /// The interface that got it.
        attachment: AttachmentId,
        /// The link's alias for people: `default/web-0`.
        name: String,
    },
    /// A node itself; whether a process listens there is not in the plan.
    Node {
        /// The node.
        node: NodeName,
    },
    /// Somebody beyond the nodes of this view.
    Outside {
        /// The node that it left.
        node: NodeName,
        /// The link that it left by.
        link: IfName,
        /// The next hop that the route names, if any.
        next_hop: Option<IpAddr>,
    },
}

impl fmt::Display for Receiver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Receiver::Pod { node, link, name, .. } => write!(f, "pod {name} on {node} ({link})"),
            Receiver::Node { node } => write!(f, "node {node}"),
            Receiver::Outside { node, link, next_hop: None } => {
                write!(f, "outside, from {node} by {link}")
            }
            Receiver::Outside { node, link, next_hop: Some(hop) } => {
                write!(f, "outside, from {node} by {link} to {hop}")
            }
        }
    }
}

/// What became of a packet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "verdict", rename_all = "lowercase")]
pub enum Outcome {
    /// It arrived.
    Delivered {
        /// At whom.
        to: Receiver,
        /// The headers that the receiver sees.
        seen: Headers,
    },
    /// It ended in silence.
    Dropped {
        /// Where.
        node: NodeName,
        /// Why, in one line.
        why: String,
        /// The fact behind the row that decided.
        origin: FactKey,
    },
    /// A rule refused it, and the sender is told so.
    Rejected {
        /// Where.
        node: NodeName,
        /// Why, in one line.
        why: String,
        /// The fact behind the row that decided.
        origin: FactKey,
    },
    /// There is no way to its destination, and the sender is told so.
    Unreachable {
        /// Where.
        node: NodeName,
        /// Why, in one line.
        why: String,
        /// The fact behind the row that decided.
        origin: FactKey,
    },
    /// It would go on for ever: its hop limit ran out, or the chains call each other in a circle.
    Looped,
}

impl Outcome {
    /// True where somebody got it.
    pub fn is_delivered(&self) -> bool {
        matches!(self, Outcome::Delivered { .. })
    }

    /// The pod that got it: its node and host end.
    pub fn pod(&self) -> Option<(&NodeName, IfName)> {
        match self {
            Outcome::Delivered { to: Receiver::Pod { node, link, .. }, .. } => Some((node, *link)),
            _ => None,
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Outcome::Delivered { to, seen } => write!(f, "delivered to {to} as {seen}"),
            Outcome::Dropped { node, why, origin } => write!(f, "dropped on {node}: {why} [{origin}]"),
            Outcome::Rejected { node, why, origin } => write!(f, "rejected on {node}: {why} [{origin}]"),
            Outcome::Unreachable { node, why, origin } => {
                write!(f, "unreachable from {node}: {why} [{origin}]")
            }
            Outcome::Looped => {
                f.write_str("looped: its hop limit ran out, or chains call each other in a circle")
            }
        }
    }
}

/// One packet's way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Trace {
    /// Where it was sent.
    pub start: Start,
    /// Its headers as sent; `None` where the sender had no address to send it from.
    pub sent: Option<Headers>,
    /// Each step, in order.
    pub hops: Vec<Hop>,
    /// What became of it.
    #[serde(flatten)]
    pub outcome: Outcome,
}

impl fmt::Display for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(sent) = &self.sent {
            writeln!(f, "{sent}")?;
        }
        for hop in &self.hops {
            writeln!(f, "{} {hop}", hop.kernel.as_ref().map_or(' ', KernelWord::sign))?;
            if let Some(KernelWord::Differs { rows }) = &hop.kernel {
                rows.iter().try_for_each(|row| writeln!(f, "      {row}"))?;
            }
        }
        write!(f, "{}", self.outcome)
    }
}

/// A packet and its answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Conversation {
    /// The first packet.
    pub forward: Trace,
    /// The answer, where the first packet was delivered.
    pub reply: Option<Trace>,
}

impl Conversation {
    /// True where the answer reaches the sender, addressed as the sender expects it.
    pub fn works(&self) -> bool {
        let (Some(sent), Some(reply)) = (&self.forward.sent, &self.reply) else {
            return false;
        };
        let Outcome::Delivered { to, seen } = &reply.outcome else {
            return false;
        };
        let home = match (&self.forward.start, to) {
            (Start::Pod { node, link }, Receiver::Pod { node: n, link: l, .. }) => node == n && link == l,
            (Start::Node { node }, Receiver::Node { node: n }) => node == n,
            (Start::Outside { .. }, Receiver::Outside { .. }) => true,
            _ => false,
        };
        home && *seen == sent.reversed()
    }
}

impl fmt::Display for Conversation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.forward)?;
        if let Some(reply) = &self.reply {
            write!(f, "\nanswer: {reply}")?;
        }
        Ok(())
    }
}
