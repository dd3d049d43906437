//! What the core is told, and what it tells the threads around it.
//!
//! What store, kernel, plugin and clock have to say arrives as messages, one at a time. The core still reads the time where a
//! deadline or an age is judged, reads and writes this machine's files (leases, records, tombstones, the conflist), and takes
//! the locks of the plans: a run can't be replayed from its messages alone.

use std::collections::BTreeSet;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use weft_cni::CniError;
use weft_cni::weft::{Attach, Gc, WeftConf};
use weft_model::{AttachmentId, Cidr, Host, NetworkName, Warning};
use weft_plan::KernelKey;
use weft_store::Claim;

use crate::core::Core;
use crate::trial::{Lack, Refused};

/// To the core.
pub enum Message {
    /// The store says something.
    Store(weft_store::Event),
    /// The machine's own links are like this now.
    Host(Host),
    /// The kernel thread has applied something.
    Applied(Report),
    /// The CNI plugin asks.
    Cni(CniCall),
    /// Somebody wants to look inside. Runs on the core's thread: be brief.
    Inspect(Box<dyn FnOnce(&Core) + Send>),
    /// Blocks for this node were claimed in the store.
    Claimed(NetworkName, Claim),
    /// The store was asked for another block beside those that are full: the block, or why there is none.
    ClaimedAnother(NetworkName, Result<Cidr, String>),
    /// The kernel thread has tried, and nothing could be applied: why.
    NotApplied(String),
    /// Something that a person should know of a part of the agent; `None` when it is over.
    Trouble(&'static str, Option<String>),
    /// What this kernel refuses, tried out.
    Tried(Result<Vec<Lack>, Refused>),
    /// These health ports can't be had; all that there are now.
    Unserved(Vec<Warning>),
    /// Some time has passed.
    Tick(Instant),
    /// End.
    Stop,
}

/// A row in which the kernel is not as the plan has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Differing {
    /// Which row.
    pub key: KernelKey,
    /// As `weft plan --diff` prints it.
    pub lines: Vec<String>,
}

/// What the kernel thread did.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// The plan up to this generation is in force, but for `failed`.
    pub generation: u64,
    /// Rows that are not in force, and why.
    pub failed: Vec<(KernelKey, String)>,
    /// Those of them that the next comparison may mend: another program took away what they belong to.
    pub passing: BTreeSet<KernelKey>,
    /// Everything was compared, not only what changed.
    pub full: bool,
    /// Rows set or removed.
    pub applied: usize,
    /// Netlink messages sent.
    pub messages: u64,
    /// What stands in pods' way and is not ours to change.
    pub findings: Vec<String>,
    /// How long it took.
    pub took: std::time::Duration,
}

/// The answer to a CNI call: the result's JSON, or the error.
pub type CniAnswer = Result<serde_json::Value, CniError>;

/// Where the answer to a CNI call goes. Dropped unused, it tells whoever waits that there will be none.
pub struct CniReply(Box<dyn FnOnce(CniAnswer) + Send>);

impl CniReply {
    /// A reply that `take` takes: on the core's thread, so it must not wait.
    pub fn new(take: impl FnOnce(CniAnswer) + Send + 'static) -> Self {
        Self(Box::new(take))
    }

    /// As many replies as a call has parts: it is answered with the last of them, and by the first error among them if there is
    /// one. A call without parts is answered at once, with nothing.
    pub fn shared_by(self, parts: usize) -> Vec<Self> {
        if parts == 0 {
            self.send(Ok(serde_json::Value::Null));
            return Vec::new();
        }
        let shared = Arc::new(Mutex::new(Shared {
            open: parts,
            outcome: Ok(serde_json::Value::Null),
            reply: Some(self),
        }));
        let part = |shared: &Arc<Mutex<Shared>>| {
            let shared = shared.clone();
            Self::new(move |answer| shared.lock().unwrap_or_else(PoisonError::into_inner).take(answer))
        };
        (0..parts).map(|_| part(&shared)).collect()
    }

    /// Answers.
    pub fn send(self, answer: CniAnswer) {
        (self.0)(answer);
    }
}

/// What the parts of one call have come to.
struct Shared {
    open: usize,
    outcome: CniAnswer,
    reply: Option<CniReply>,
}

impl Shared {
    fn take(&mut self, answer: CniAnswer) {
        self.open -= 1;
        if self.outcome.is_ok() {
            self.outcome = answer;
        }
        if self.open == 0
            && let Some(reply) = self.reply.take()
        {
            reply.send(self.outcome.clone());
        }
    }
}

/// A call of the CNI plugin.
pub struct CniCall {
    /// What it asks.
    pub verb: CniVerb,
    /// When the plugin gives up.
    pub deadline: Instant,
    /// Where the answer goes.
    pub reply: CniReply,
    /// The plugin's version, where it says one.
    pub plugin_version: Option<String>,
}

/// What the CNI plugin can ask.
pub enum CniVerb {
    /// An interface for the namespace behind the descriptor.
    Add(Box<Attach>, OwnedFd),
    /// Away with it.
    Del(AttachmentId),
    /// Is it as ADD left it?
    Check(Box<Attach>, OwnedFd),
    /// Away with all others.
    Gc(Gc),
    /// Would an ADD be served?
    Status(WeftConf),
}
