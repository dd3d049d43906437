//! Why the packet filter could not be reached, or refused something.

use std::io;

use weft_plan::KernelKey;

use crate::netlink::Refusal;

/// Why a call did nothing; what was in force before is still in force, unless the text says otherwise.
#[derive(Debug, thiserror::Error)]
pub enum FilterError {
    /// The socket could not be made.
    #[error("can't open a netfilter netlink socket: {0}; the kernel needs CONFIG_NETFILTER_NETLINK")]
    Open(#[source] io::Error),
    /// Sending failed.
    #[error("can't send {bytes} bytes to netfilter: {source}")]
    Send {
        /// Size of the message.
        bytes: usize,
        /// The system's words.
        #[source]
        source: io::Error,
    },
    /// Receiving failed.
    #[error("can't read netfilter's answer: {0}")]
    Receive(#[source] io::Error),
    /// A listing was refused.
    #[error(
        "netfilter refuses to list {what}: {refusal}; root, or CAP_NET_ADMIN in a user namespace of its own, is needed"
    )]
    List {
        /// What was asked for.
        what: &'static str,
        /// The kernel's answer.
        refusal: Refusal,
    },
    /// Another program keeps changing the packet filter.
    #[error(
        "the packet filter changed {attempts} times while {what}; another program rewrites it all the time"
    )]
    Unsteady {
        /// What was being done.
        what: &'static str,
        /// How often it was tried.
        attempts: usize,
    },
    /// A set, chain, rule or the table itself was refused.
    #[error("the kernel refuses {object}: {refusal}")]
    Declaration {
        /// The object in nft's words.
        object: String,
        /// The kernel's answer.
        refusal: Refusal,
    },
    /// A set, chain, rule or the table itself needs a part of the packet filter that this kernel was built without.
    #[error(
        "the kernel lacks what {object} needs: {refusal}; load or build in {needs} (weft preflight names the modules)"
    )]
    Lack {
        /// The object in nft's words.
        object: String,
        /// The kernel's answer.
        refusal: Refusal,
        /// The options of the kernel.
        needs: String,
    },
    /// A transaction was refused as a whole.
    #[error("the kernel refuses the whole transaction: {refusal}{mend}")]
    Transaction {
        /// The kernel's answer.
        refusal: Refusal,
        /// What may help; empty, or a clause that begins with "; ".
        mend: &'static str,
    },
    /// A row is none of the packet filter's, or stands under a key of another kind.
    #[error("row {0:?} is no set, chain or element with a row of its kind")]
    ForeignRow(KernelKey),
}

impl FilterError {
    /// True where somebody was faster: what was to be changed has gone, or does not hold still.
    pub fn is_disturbance(&self) -> bool {
        match self {
            FilterError::Unsteady { .. } => true,
            FilterError::Declaration { refusal, .. } | FilterError::Transaction { refusal, .. } => {
                refusal.errno == libc::ENOENT
            }
            _ => false,
        }
    }
}

/// Why one element was left out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ElementFault {
    /// Its set is not there.
    #[error("there is no set or map of that name")]
    NoSet,
    /// It doesn't have the types of its set.
    #[error("it doesn't fit its set: {0}")]
    Misfit(String),
    /// The kernel refuses it.
    #[error("the kernel refuses it: {0}")]
    Refused(Refusal),
}

impl ElementFault {
    /// True where its set is gone, as after `nft flush ruleset`.
    pub fn is_disturbance(&self) -> bool {
        match self {
            ElementFault::NoSet => true,
            ElementFault::Refused(refusal) => refusal.errno == libc::ENOENT,
            ElementFault::Misfit(_) => false,
        }
    }
}

/// An element that was left out while the rest went in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quarantined {
    /// Which element.
    pub key: KernelKey,
    /// Why.
    pub fault: ElementFault,
}
