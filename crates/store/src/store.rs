//! What a store is: facts out, and the node's own facts in.
//!
//! What every store keeps to (`tests/contract` is run against each; each has its outages tested apart): a full snapshot comes
//! before [`Event::Synced`]; what can't be reached or read isn't told as gone; what a node publishes is whole and can be said
//! twice; no address is given to two nodes, nor in two networks.
//!
//! What is absent: where a store keeps all that, and any reading or writing. Plans, and what the facts are for.

use std::net::IpAddr;
use std::ops::{BitOr, ControlFlow};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::clock::BootTime;
use weft_model::{
    Change, Cidr, FactKey, Family, HostPort, Mac, Network, NetworkName, Node, NodeAddress, NodeCidr,
    NodeName, ObjectKey, Vni,
};

/// A place that holds the cluster's facts. Every call may block, on its own thread; a store that needs a runtime
/// brings it along.
pub trait Store: Send + Sync {
    /// Delivers facts until `sink` breaks or [`Store::stop`] is called: first a full snapshot as changes in pieces, then
    /// [`Event::Synced`], then changes as they come. Outages are waited out, with [`Event::Stale`] in between; the
    /// [`Event::Synced`] after one says that all that was missed has been delivered, removals included. What can't be read
    /// is said before it, as [`Remark::Unread`].
    ///
    /// # Errors
    /// Only what waiting can't mend.
    fn watch(&self, sink: &mut dyn FnMut(Event) -> ControlFlow<()>) -> Result<(), StoreError>;

    /// Ends every [`Store::watch`] of this store soon, also later ones, and all that the store does by itself to keep what this
    /// node has: another process of the node's may take over. From any thread.
    fn stop(&self);

    /// Makes a fact that this node owns visible to the others. Level-triggered and atomic: the fact replaces what was
    /// published of the same object, and publishing it twice is the same as once.
    ///
    /// # Errors
    /// When it can't be written; then what was published before still stands.
    fn publish(&self, fact: &Published) -> Result<(), StoreError>;

    /// Makes known that this node's network is in force: the plan has been applied, and pods may come. Saying it twice is
    /// the same as once. A store whose readers have no use for it keeps nothing.
    ///
    /// # Errors
    /// When it can't be written.
    fn announce_ready(&self, node: &NodeName) -> Result<(), StoreError> {
        let _ = node;
        Ok(())
    }

    /// The node's blocks in `network`, taken out of the network's own where the node has none yet; the same again at
    /// every call, and none where the network has no blocks to give. `in_use` are blocks that others have without a
    /// claim, and that are left alone.
    ///
    /// # Errors
    /// When all blocks are taken, or the claim can't be written.
    fn claim_pod_cidrs(
        &self,
        network: &Network,
        node: &NodeName,
        in_use: &[Cidr],
    ) -> Result<Claim, StoreError>;

    /// Another share of the network's blocks for a node that has claimed shares and whose blocks of a family, `full`, give no more
    /// addresses. What it has besides stays as it is. A share that it has claimed and that isn't among those is given again before
    /// another one is made: a question whose answer was lost takes nothing twice. `in_use` is as in [`Store::claim_pod_cidrs`].
    ///
    /// # Errors
    /// [`StoreError::BlocksGiven`] where the node has `full` from others, [`StoreError::BlocksExhausted`] where nothing is left, and where
    /// the claim can't be written.
    fn claim_another(
        &self,
        network: &Network,
        node: &NodeName,
        full: &[Cidr],
        in_use: &[Cidr],
    ) -> Result<Cidr, StoreError>;

    /// How long a node may go on relying on the blocks that it has claimed, at most, by what the store was told last; nothing where it
    /// may not, or where no store can say.
    ///
    /// # Errors
    /// When the store can't be asked.
    fn relied_on_for(&self, node: &NodeName) -> Result<Option<Duration>, StoreError> {
        let _ = node;
        Ok(None)
    }

    /// The machine that is the node, by the word that it made up; nothing where none has said so.
    ///
    /// # Errors
    /// When the store can't be asked.
    fn machine_of(&self, node: &NodeName) -> Result<Option<String>, StoreError>;

    /// Removes all that a node has published and claimed: for a node that is gone for good. Whose node it is isn't asked
    /// ([`Store::machine_of`]). Says whether there was anything: a name that nobody has is a typing mistake, as a rule.
    ///
    /// # Errors
    /// When something of it can't be removed.
    fn forget_node(&self, node: &NodeName) -> Result<Forgotten, StoreError>;
}

/// What a watch delivers.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// These changes, in this order.
    Changes(Vec<Change>),
    /// Everything that the store holds has been delivered.
    Synced,
    /// The store can't be reached: what was delivered is the last that is known.
    Stale {
        /// Since when.
        since: SystemTime,
        /// What is wrong, and the mend.
        reason: String,
    },
    /// A notice was put up, changed, or taken down.
    Notice(Notice),
    /// How far this node may rely on the blocks that it has claimed. A store whose claims never end doesn't say it.
    Hold(Hold),
}

/// How far a node may rely on the blocks that it has claimed, where claims end by themselves. Who may not, gives out no more
/// addresses of them: another node may have them soon. The least comes first.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hold {
    /// Not at all, and why.
    Lapsed(String),
    /// Until then; renewed in good time, as long as the store can be reached.
    Until(BootTime),
    /// There is no claim that could end.
    #[default]
    Unbound,
}

/// Something that a person should know of what the store holds. Level-triggered: it stands until the same `about`
/// comes without a text.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Notice {
    /// What it is about: a file (`apps/web.yaml`), a document in it (`apps/web.yaml:12`), an object or a kind.
    pub about: String,
    /// The text; `None` takes the notice down.
    pub text: Option<Remark>,
}

/// A notice's text, and how much it matters.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Remark {
    /// Nothing is wrong.
    Info(String),
    /// Something is not in force that somebody meant to be.
    Warning(String),
    /// Something can't be read. Until this notice is taken down, a fact that was known and isn't told may be in it: it is not
    /// known to be gone, not even at [`Event::Synced`].
    Unread {
        /// What is wrong, and the mend.
        text: String,
        /// The only fact that can be missing for it; `None` where any can.
        only: Option<FactKey>,
    },
}

impl Remark {
    /// The text alone.
    pub fn text(&self) -> &str {
        match self {
            Remark::Info(text) | Remark::Warning(text) | Remark::Unread { text, .. } => text,
        }
    }
}

/// A node's own facts, as it makes them known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Published {
    /// The node itself.
    Node(PublishedNode),
    /// A pod on it got its addresses.
    Pod(PublishedPod),
    /// A pod on it is gone.
    PodGone {
        /// The node that published it.
        node: NodeName,
        /// Namespace and name.
        key: ObjectKey,
    },
}

/// What a node says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublishedNode {
    /// Its name.
    pub name: NodeName,
    /// Its addresses, the preferred first, with the prefix lengths of their links.
    pub addresses: Vec<NodeAddress>,
    /// The blocks that it has, claimed or given.
    pub pod_cidrs: Vec<NodeCidr>,
    /// MAC of its tunnel end.
    pub vtep_mac: Option<Mac>,
    /// What it says to nodes that are flannel's, while there are any. Only a store from which flannel reads nodes keeps it.
    pub flannel: Option<FlannelWords>,
}

/// What flannel wants to know of a node, beside its addresses and blocks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FlannelWords {
    /// Identifier and MAC of its tunnel end; nothing where nodes are each other's next hops.
    pub tunnel: Option<(Vni, Mac)>,
    /// The families in which flannel's nodes know addresses.
    pub families: Vec<Family>,
}

impl From<&Node> for PublishedNode {
    fn from(node: &Node) -> Self {
        Self {
            name: node.name.clone(),
            addresses: node.addresses.clone(),
            pod_cidrs: node.pod_cidrs.clone(),
            vtep_mac: node.published_vtep_mac,
            flannel: None,
        }
    }
}

/// What a node says of a pod on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublishedPod {
    /// Namespace and name.
    pub key: ObjectKey,
    /// Its uid, where the runtime gave it.
    pub uid: Option<Arc<str>>,
    /// The network that it is on, by the runtime's configuration. A store whose Pods have their addresses from others need not
    /// keep it.
    pub network: NetworkName,
    /// The node that says so.
    pub node: NodeName,
    /// Its addresses.
    pub ips: Vec<IpAddr>,
    /// Ports of the node that lead to it. A store whose Pods say so by themselves (`hostPort` of a container) need not keep
    /// them.
    pub host_ports: Vec<HostPort>,
}

/// What came of claiming blocks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Claim {
    /// The node's blocks: at least one for each of the network's, and all that it has claimed besides and that fit.
    pub cidrs: Vec<Cidr>,
    /// Blocks that the node claimed when the network was different, and that no longer fit it. They stay the node's,
    /// since pods may still use them, until [`Store::forget_node`].
    pub unfit: Vec<Cidr>,
}

impl Claim {
    /// Adds what the node has claimed besides, to what fits the network now or to what doesn't.
    pub(crate) fn add(&mut self, network: &Network, own: impl IntoIterator<Item = Cidr>) {
        let mut own: Vec<Cidr> = own.into_iter().filter(|cidr| !self.cidrs.contains(cidr)).collect();
        own.sort_unstable();
        let (fit, unfit): (Vec<Cidr>, Vec<Cidr>) =
            own.into_iter().partition(|cidr| crate::blocks::is_share(network, cidr));
        self.cidrs.extend(fit);
        self.unfit.extend(unfit);
    }
}

/// Whether a store had anything of a node that it was to forget.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Forgotten {
    /// Nothing was there.
    Nothing,
    /// What was there is gone.
    Something,
}

impl BitOr for Forgotten {
    type Output = Self;

    /// Of two places that were looked into.
    fn bitor(self, other: Self) -> Self {
        self.max(other)
    }
}

/// Why a store can't do what it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A setting can't be used.
    #[error("{field}: {reason}")]
    Settings {
        /// The field of the configuration.
        field: String,
        /// What is wrong with it, and the mend.
        reason: String,
    },
    /// The folder isn't there, or isn't one.
    #[error("cannot open the cluster folder {}: {source}; create it, or name another one", path.display())]
    OpenFolder {
        /// The folder.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// The kernel gives no notifications.
    #[error("cannot watch the cluster folder {}: {source}; raise fs.inotify.max_user_instances", path.display())]
    Watch {
        /// The folder.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// A published fact can't be written.
    #[error("cannot publish {what} as {}: {source}; the folder must be writable for every node", path.display())]
    Publish {
        /// The object.
        what: String,
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// A claim can't be written or read.
    #[error("cannot claim a block in {}: {source}; the folder must be writable for every node", path.display())]
    Claim {
        /// The claim's file or folder.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// The file system has no exclusive way to make a file.
    #[error(
        "the file system of {} can neither link nor rename exclusively, so nodes can't claim pod CIDRs; \
         give each node spec.podCIDRs in its Node manifest", path.display()
    )]
    ClaimUnsupported {
        /// The folder of claims.
        path: PathBuf,
    },
    /// Every block is taken.
    #[error(
        "no block is left in {block} of network {network} for node {node}: all {taken} are claimed; \
         make the network's block larger, or forget nodes that are gone"
    )]
    BlocksExhausted {
        /// The network.
        network: String,
        /// The node that asked.
        node: NodeName,
        /// The network's block.
        block: Cidr,
        /// Claims in it.
        taken: usize,
    },
    /// The node has its blocks from others, who don't reckon with what nodes claim.
    #[error(
        "node {node} has its blocks of network {network} from the cluster (spec.podCIDRs of its Node), so it claims no more itself; \
         delete pods, or have the node made anew with larger blocks (kube-controller-manager --node-cidr-mask-size)"
    )]
    BlocksGiven {
        /// The network.
        network: String,
        /// The node that asked.
        node: NodeName,
    },
    /// What a node has left can't be removed.
    #[error("cannot remove what node {node} has left at {}: {source}; remove it by hand", path.display())]
    Forget {
        /// The node.
        node: NodeName,
        /// The file or folder.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// A server's answer, for stores that have one.
    #[error("{action}: {reason}")]
    Server {
        /// What was tried, on what.
        action: String,
        /// What the server said, and the mend.
        reason: String,
    },
}
