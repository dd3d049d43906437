//! Why a row could not be applied: one variant for each action that can fail, each with its object and a mend.

use weft_model::IfName;
use weft_plan::kernel::LINK_GROUP;

use crate::netlink::{Refusal, SocketError};

/// Why the kernel is not as the plan says.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KernelError {
    /// The kernel said no.
    #[error("can't {action} {object}: {refusal}")]
    Refused {
        /// "add", "remove", …
        action: &'static str,
        /// The object in `ip`'s words.
        object: String,
        /// Its answer.
        refusal: Refusal,
    },
    /// Somebody else's link has our name.
    #[error(
        "link {name} exists and is not ours: its group is {group}, ours is {LINK_GROUP}; rename it or remove it"
    )]
    ForeignLink {
        /// The name.
        name: IfName,
        /// Its group.
        group: u32,
    },
    /// Somebody else's route has our destination.
    #[error(
        "{object}: another program has a route there; remove it (`ip route show`), or give the cluster other addresses"
    )]
    ForeignRoute {
        /// Our route in `ip`'s words.
        object: String,
    },
    /// The link that a row needs is not there.
    #[error("link {0} does not exist")]
    NoLink(IfName),
    /// An interface of the pod's name is there already.
    #[error(
        "the pod's namespace has an interface {0} already, which we did not make; remove it, or use another name"
    )]
    PodInterfaceTaken(IfName),
    /// A pod's network namespace can't be had.
    #[error(
        "can't open the network namespace {path:?} of link {link}: {reason}; the pod is gone, or this process does not see the runtime's mounts"
    )]
    Namespace {
        /// The pod's link.
        link: IfName,
        /// Where it should be.
        path: String,
        /// What is wrong.
        reason: String,
    },
    /// A thread could not move into a pod's network namespace.
    #[error("can't enter the network namespace of {object}: {reason}; CAP_SYS_ADMIN over it is needed")]
    Enter {
        /// Whose.
        object: String,
        /// The system's words.
        reason: String,
    },
    /// A sysctl can't be read or written.
    #[error(
        "can't {action} /proc/sys/{path}: {reason}; is /proc/sys writable, and does this kernel have the feature?"
    )]
    Sysctl {
        /// "read", "write" or "restore".
        action: &'static str,
        /// Below `/proc/sys`.
        path: String,
        /// The system's words.
        reason: String,
    },
    /// The file that keeps the sysctls' original values can't be used; nothing is changed without it.
    #[error(
        "can't {action} {path} (it keeps the sysctls' original values): {reason}; mend the file, or remove it, and sysctls stay as they are"
    )]
    Originals {
        /// "read" or "write".
        action: &'static str,
        /// The file.
        path: String,
        /// The system's words.
        reason: String,
    },
    /// The netlink socket failed.
    #[error("{0}")]
    Socket(String),
    /// The packet filter refused a row, or could not be reached.
    #[error("packet filter: {0}")]
    Filter(String),
    /// Another program took away, or keeps changing, what a row of the packet filter belongs to. It is being set anew.
    #[error("packet filter: {0}; another program changes it, and it is being mended")]
    Disturbed(String),
    /// A change of the packet filter was not tried, because one that it may lead packets to was refused.
    #[error("not tried, because what it builds on failed: {0}")]
    After(Box<KernelError>),
    /// Tracked connections could not be looked at or removed.
    #[error("connection tracking: {0}")]
    Conntrack(String),
    /// A foreign firewall could not be opened.
    #[error("firewall: {0}")]
    Firewall(String),
    /// A row stands under a key of another kind.
    #[error("the plan contradicts itself: {0}")]
    Inconsistent(String),
    /// The batch ended before this row; only the fake kernel says so.
    #[error("killed before this row was applied")]
    Killed,
}

impl From<SocketError> for KernelError {
    fn from(error: SocketError) -> Self {
        KernelError::Socket(error.to_string())
    }
}

impl KernelError {
    /// True where the next comparison may well mend it, with nobody's help.
    pub fn may_pass(&self) -> bool {
        match self {
            KernelError::Disturbed(_) => true,
            KernelError::After(first) => first.may_pass(),
            _ => false,
        }
    }

    /// The kernel's error number, where it gave one.
    pub fn errno(&self) -> Option<i32> {
        match self {
            KernelError::Refused { refusal, .. } => Some(refusal.errno),
            _ => None,
        }
    }
}
