//! A lease, and the store that remembers leases.
//!
//! What always holds of every store: [`LeaseStore::reserve`] succeeds for one caller only, and a lease that it
//! returned is still there after the process is killed.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use weft_model::{AttachmentId, IfName};

/// Who holds an address. Weft writes both parts; old versions of host-local wrote the container alone.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseOwner {
    /// The runtime's container id.
    pub container: Arc<str>,
    /// The interface in the container; `None` where the lease doesn't say.
    pub ifname: Option<IfName>,
}

impl LeaseOwner {
    /// True where the lease is this attachment's. An owner without an interface matches every interface of its
    /// container, as it does for host-local.
    pub fn is(&self, attachment: &AttachmentId) -> bool {
        self.container == attachment.container && self.ifname.is_none_or(|name| name == attachment.ifname)
    }
}

impl From<&AttachmentId> for LeaseOwner {
    fn from(id: &AttachmentId) -> Self {
        Self { container: id.container.clone(), ifname: Some(id.ifname) }
    }
}

impl fmt::Display for LeaseOwner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.ifname {
            Some(ifname) => write!(f, "{}:{ifname}", self.container),
            None => write!(f, "{}", self.container),
        }
    }
}

/// One address and its holder.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lease {
    /// The address.
    pub address: IpAddr,
    /// Its holder.
    pub owner: LeaseOwner,
}

/// What became of an attempt to take an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reservation {
    /// It is the caller's now.
    Done,
    /// Somebody else was first.
    Taken(LeaseOwner),
}

/// Remembers who holds which address. Implementations are exclusive by themselves: two stores over the same
/// place, in one process or in several, never both reserve one address.
pub trait LeaseStore: Send {
    /// Takes `address` for `owner`, or says who has it.
    ///
    /// # Errors
    /// When the lease can't be written; then nothing of it is left.
    fn reserve(&mut self, address: IpAddr, owner: &AttachmentId) -> Result<Reservation, LeaseError>;

    /// Gives an address back. Succeeds too where the lease is gone, or where the address has another owner by now,
    /// who keeps it.
    ///
    /// # Errors
    /// When the lease can't be removed.
    fn release(&mut self, lease: &Lease) -> Result<(), LeaseError>;

    /// Every lease there is, in no order.
    ///
    /// # Errors
    /// When the leases can't be read, or [`LeaseError::Vanished`].
    fn list(&self) -> Result<Vec<Lease>, LeaseError>;

    /// Says that after [`LeaseError::Vanished`] all is there again that is known to be held.
    ///
    /// # Errors
    /// When that can't be written.
    fn confirm(&mut self) -> Result<(), LeaseError>;

    /// The address that was reserved last in a range, so that the next search begins after it. Only a hint.
    fn last_reserved(&self, range: usize) -> Option<IpAddr>;

    /// Remembers the hint. It may be lost: then addresses are used again sooner.
    fn set_last_reserved(&mut self, range: usize, address: IpAddr);
}

/// Why leases can't be read or written.
#[derive(Debug, thiserror::Error)]
pub enum LeaseError {
    /// The directory can't be made.
    #[error("cannot create lease directory {}: {source}{}", path.display(), mend(source))]
    CreateDirectory {
        /// The directory.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// The lock can't be taken.
    #[error("cannot lock {}: {source}{}", path.display(), mend(source))]
    Lock {
        /// The lock file.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// The directory can't be listed.
    #[error("cannot list leases in {}: {source}", path.display())]
    List {
        /// The directory.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// Somebody has removed the leases while they were in use: what is there now says nothing of who holds an address.
    #[error("the leases in {} were removed while pods use them; they are made again for this node's pods", path.display())]
    Vanished {
        /// The directory.
        path: PathBuf,
    },
    /// A lease can't be read.
    #[error("cannot read lease {}: {source}", path.display())]
    Read {
        /// The lease's file.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// A lease can't be written.
    #[error("cannot write lease {}: {source}{}", path.display(), mend(source))]
    Write {
        /// The lease's file.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// A lease can't be removed.
    #[error("cannot remove lease {}: {source}{}", path.display(), mend(source))]
    Remove {
        /// The lease's file.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// The kernel doesn't say which boot this is.
    #[error("cannot read {path}: {source}; is /proc mounted?")]
    ReadBoot {
        /// The file in /proc.
        path: &'static str,
        /// The system's answer.
        source: std::io::Error,
    },
    /// The boot's identity can't be written.
    #[error("cannot write {}: {source}{}", path.display(), mend(source))]
    WriteBoot {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
}

/// What to do about the errors that have a usual cause.
fn mend(error: &std::io::Error) -> &'static str {
    match error.kind() {
        std::io::ErrorKind::StorageFull => "; free some space (or inodes) on its file system",
        std::io::ErrorKind::ReadOnlyFilesystem => "; mount its file system read-write",
        std::io::ErrorKind::PermissionDenied => "; run as root, or give this user the directory",
        _ => "",
    }
}
