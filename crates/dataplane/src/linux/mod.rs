//! The real kernel, by netlink.

mod apply;
mod filter;
mod observe;
mod openings;
mod takeover;
mod uninstall;

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustc_hash::FxHashSet;
use weft_model::{AttachmentId, IfName};
use weft_plan::kernel::LinkKind;
use weft_plan::{KernelKey, KernelRow, Link, Opening, RouteKey, Rows};

use crate::KernelError;
use crate::conntrack::{Conntrack, ConntrackError, Entry, Narrowing};
use crate::filter::Nft;
use crate::firewall::Finding;
use crate::kernel::{Effect, Kernel, Observation, Op};
use crate::ledger::Ledger;
use crate::link::announce::Announcer;
use crate::link::netns::Place;
use crate::link::{check, netns};
use crate::netlink::{Removals, Rtnl};
use crate::sysctl::SysctlOriginals;

pub use takeover::{FormerPod, FormerTunnel};
pub use uninstall::Removed;

/// The network namespace that it was opened in.
#[derive(Debug)]
pub struct LinuxKernel {
    rtnl: Rtnl,
    removals: Removals,
    announcer: Announcer,
    filter: Nft,
    /// Opened when connections have to end for the first time.
    conntrack: Option<Conntrack>,
    originals: SysctlOriginals,
    /// Namespaces that runtimes handed over and whose link is not made yet.
    brought: BTreeMap<AttachmentId, Place>,
    /// What we do, for the monitor.
    ledger: Ledger,
    /// What foreign firewalls should let through; unknown before the first look.
    openings: Option<BTreeSet<Opening>>,
    findings: Vec<Finding>,
    /// Routes that are known to be ours: only these are replaced.
    routes: FxHashSet<RouteKey>,
    /// Others changed the packet filter while the monitor didn't hear.
    missed: bool,
}

impl LinuxKernel {
    /// Opens the kernel of the calling thread's network namespace. `state_dir` keeps the sysctls' original values.
    ///
    /// # Errors
    /// Without netlink, or with an unreadable state file.
    pub fn open(state_dir: &Path) -> Result<Self, KernelError> {
        let (rtnl, removals, filter) = (Rtnl::open()?, Removals::open()?, Nft::open()?);
        let ledger = Ledger::default();
        ledger.add_port(rtnl.port());
        ledger.add_port(filter.port());
        removals.ports().for_each(|port| ledger.add_port(port));
        Ok(Self {
            rtnl,
            removals,
            announcer: Announcer::default(),
            filter,
            ledger,
            conntrack: None,
            originals: SysctlOriginals::open(state_dir)?,
            brought: BTreeMap::new(),
            openings: None,
            findings: Vec::new(),
            routes: FxHashSet::default(),
            missed: false,
        })
    }

    /// What a [`crate::Monitor`] needs to tell our changes from others'.
    pub fn ledger(&self) -> Ledger {
        self.ledger.clone()
    }

    /// True, once, where others may have changed what is ours without the monitor's hearing of it: all has to be compared.
    pub fn has_missed(&mut self) -> bool {
        std::mem::take(&mut self.missed)
    }

    /// Takes the namespace that a CNI ADD brought. The next creation of that attachment's link uses it; it is closed when
    /// the link stands, or goes, or by [`LinuxKernel::leave_netns`].
    pub fn register_netns(&mut self, attachment: AttachmentId, namespace: OwnedFd) {
        self.brought.insert(attachment, Place::new(namespace));
    }

    /// Makes ready what can be before the rows are there: sockets in the namespaces that were brought.
    pub fn enter_netns(&mut self) {
        for (attachment, place) in &mut self.brought {
            place.make_ready(attachment.host_link());
        }
    }

    /// Closes the namespace of an ADD that came to nothing.
    pub fn leave_netns(&mut self, attachment: &AttachmentId) {
        self.brought.remove(attachment);
    }

    /// Compares a pod's interface with its row, both ends: a sentence for each difference, none where all is well. Without
    /// `namespace` the row's path is opened.
    ///
    /// # Errors
    /// When the namespace can't be had, or the kernel not be asked.
    pub fn check_pod(
        &mut self,
        name: IfName,
        link: &Link,
        namespace: Option<BorrowedFd<'_>>,
    ) -> Result<Vec<String>, KernelError> {
        let LinkKind::Pod(pod) = &link.kind else {
            return Err(KernelError::Inconsistent(format!("link {name} is no pod's")));
        };
        let opened;
        let namespace = match namespace {
            Some(fd) => fd,
            None => {
                opened = netns::open(name, &pod.netns)?;
                opened.as_fd()
            }
        };
        check::check(&mut self.rtnl, name, link, pod, namespace)
    }
}

impl From<ConntrackError> for KernelError {
    fn from(error: ConntrackError) -> Self {
        KernelError::Conntrack(error.to_string())
    }
}

impl Kernel for LinuxKernel {
    fn observe(&mut self, wanted: &Rows<KernelKey, KernelRow>) -> Result<Observation, KernelError> {
        self.see(Some(wanted))
    }

    fn apply(&mut self, batch: &[Op<'_>]) -> Vec<Result<Effect, KernelError>> {
        self.apply_runs(batch)
    }

    fn forget(
        &mut self,
        narrowing: &Narrowing,
        stale: &dyn Fn(&Entry) -> bool,
    ) -> Result<usize, KernelError> {
        let conntrack = match &mut self.conntrack {
            Some(open) => open,
            none => none.insert(Conntrack::open()?),
        };
        Ok(conntrack.forget(narrowing, stale)?)
    }

    fn messages(&self) -> u64 {
        let conntrack = self.conntrack.as_ref().map_or(0, Conntrack::messages);
        self.rtnl.sent() + self.removals.sent() + self.filter.messages() + conntrack
    }
}
