//! The directory store: a folder of manifests, shared by the nodes of a cluster.
//!
//! People write `*.yaml`, `*.yml` and `*.json` anywhere in the folder; nodes write under `.weft/`:
//!
//! ```text
//! .weft/nodes/NODE.json                 what a node says of itself
//! .weft/pods/NODE/NAMESPACE_NAME.json   what it says of a pod on it
//! .weft/claims/NETWORK/BLOCK            the node that has a block, "/" written as "_"
//! .weft/machines/NODE                   the machine that is the node
//! ```
//!
//! What always holds: only node NODE writes files that bear its name, and of machines that have that name by mistake, one does. A file that can't be read, is half written or is
//! broken in part never reads as a deletion. The folder's disappearance is an outage, not an empty cluster.
//! `docs/interfaces/cluster-state.md` is the long form.

mod claim;
mod follow;
mod layout;
mod notify;
mod place;
mod publish;
mod scan;
mod version;
mod watch;

use std::io::{PipeReader, PipeWriter, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use weft_model::{Cidr, Network, NodeName};

use self::place::Place;
use crate::store::{Claim, Event, Forgotten, Published, Store, StoreError};

/// Times and limits of a directory store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirectoryOptions {
    /// How long changes are gathered before they are looked at; the first one after as long a silence is not waited with.
    pub debounce: Duration,
    /// How long a file must stay as it is before a deletion in it, or a version that looks cut off, is believed.
    pub settle: Duration,
    /// How long a writer may keep a file open in silence before it is read all the same.
    pub open: Duration,
    /// Time between full looks at the folder where the kernel tells of changes: only a safety net.
    pub safety_poll: Duration,
    /// The same where it doesn't, because another machine makes them (NFS, SMB, 9p, FUSE and their kind).
    pub shared_poll: Duration,
    /// Bytes above which a file is not read.
    pub max_file: u64,
    /// This machine's node, and what tells the machine from another one of that name: a word of its own, the same after each start. `None`
    /// where nothing does.
    pub machine: Option<(NodeName, String)>,
    /// Time between looks at which machine is the node.
    pub look: Duration,
}

impl Default for DirectoryOptions {
    fn default() -> Self {
        Self {
            debounce: Duration::from_millis(10),
            settle: Duration::from_millis(300),
            open: Duration::from_secs(5),
            safety_poll: Duration::from_secs(30),
            shared_poll: Duration::from_secs(1),
            max_file: 64 << 20,
            machine: None,
            look: Duration::from_secs(5),
        }
    }
}

/// A [`Store`] over a folder.
#[derive(Debug)]
pub struct DirectoryStore {
    root: PathBuf,
    options: DirectoryOptions,
    place: Option<Place>,
    /// Nobody reads it: once there is a byte in it, every watch sees it for good.
    stopped: PipeReader,
    stop: PipeWriter,
    is_stopped: AtomicBool,
}

impl DirectoryStore {
    /// Opens the folder `root`, which must exist.
    ///
    /// # Errors
    /// When it doesn't, or isn't a folder.
    pub fn open(root: &Path, options: DirectoryOptions) -> Result<Self, StoreError> {
        let failed = |source| StoreError::OpenFolder { path: root.to_owned(), source };
        std::fs::read_dir(root).map_err(failed)?;
        let (stopped, stop) = std::io::pipe().map_err(failed)?;
        let place = options.machine.clone();
        let place = place.map(|(node, machine)| Place::of(node, machine, options.look));
        let is_stopped = AtomicBool::new(false);
        Ok(Self { root: root.to_owned(), options, place, stopped, stop, is_stopped })
    }

    /// Refuses to speak for this machine's node while another machine is it.
    fn admit(&self, node: &NodeName) -> Result<(), StoreError> {
        self.place.as_ref().map_or(Ok(()), |place| place.admit(&self.root, node))
    }

    /// Whether anything may still be said.
    fn may_speak(&self) -> std::io::Result<()> {
        match self.is_stopped.load(Ordering::SeqCst) {
            true => Err(std::io::Error::other("this store was stopped")),
            false => Ok(()),
        }
    }

    /// The folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Reads the folder once, as [`Store::watch`] would begin: the facts, and what is wrong with them.
    ///
    /// # Errors
    /// When the folder can't be read.
    pub fn read_once(&self) -> Result<Vec<Event>, StoreError> {
        let mut follower = follow::Follower::new(&self.root, &self.options);
        let mut events = Vec::new();
        follower
            .load(&mut |event| events.push(event))
            .map_err(|source| StoreError::OpenFolder { path: self.root.clone(), source })?;
        events.extend(follower.drain());
        Ok(events)
    }
}

impl Store for DirectoryStore {
    fn watch(&self, sink: &mut dyn FnMut(Event) -> ControlFlow<()>) -> Result<(), StoreError> {
        watch::watch(&self.root, (&self.options, self.place.as_ref()), &self.stopped, sink)
    }

    fn stop(&self) {
        self.is_stopped.store(true, Ordering::SeqCst);
        // The pipe holds more than the few bytes that this can ever write, so it neither blocks nor fails.
        let _ = (&self.stop).write(b".");
    }

    fn publish(&self, fact: &Published) -> Result<(), StoreError> {
        self.admit(match fact {
            Published::Node(node) => &node.name,
            Published::Pod(pod) => &pod.node,
            Published::PodGone { node, .. } => node,
        })?;
        publish::publish(&self.root, fact, &|| self.may_speak())
    }

    fn claim_pod_cidrs(
        &self,
        network: &Network,
        node: &NodeName,
        in_use: &[Cidr],
    ) -> Result<Claim, StoreError> {
        self.admit(node)?;
        claim::claim(&self.root, network, node, in_use)
    }

    fn claim_another(
        &self,
        network: &Network,
        node: &NodeName,
        full: &[Cidr],
        in_use: &[Cidr],
    ) -> Result<Cidr, StoreError> {
        self.admit(node)?;
        claim::claim_another(&self.root, network, node, (full, in_use))
    }

    fn machine_of(&self, node: &NodeName) -> Result<Option<String>, StoreError> {
        Place::machine_of(&self.root, node)
    }

    fn forget_node(&self, node: &NodeName) -> Result<Forgotten, StoreError> {
        let published = publish::forget(&self.root, node)?;
        let claimed = claim::forget(&self.root, node)?;
        Ok(published | claimed | Place::forget(self.place.as_ref(), &self.root, node)?)
    }
}
