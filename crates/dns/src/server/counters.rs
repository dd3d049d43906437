//! What a server has done since it began.

use std::sync::atomic::{AtomicU64, Ordering};

/// Sums since the server began.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Requests by UDP, broken ones too.
    pub udp: u64,
    /// Requests by TCP, broken ones too.
    pub tcp: u64,
    /// Replies by response code 0 to 5: NOERROR, FORMERR, SERVFAIL, NXDOMAIN, NOTIMP, REFUSED.
    pub rcodes: [u64; 6],
    /// Replies with another response code.
    pub other_rcodes: u64,
    /// Requests that resolvers were asked for.
    pub forwarded: u64,
    /// Those of them that no resolver replied to.
    pub failed: u64,
    /// Requests that got no reply: they were none, or the socket was full.
    pub dropped: u64,
}

/// The same, as it grows.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub udp: AtomicU64,
    pub tcp: AtomicU64,
    pub forwarded: AtomicU64,
    pub failed: AtomicU64,
    pub dropped: AtomicU64,
    rcodes: [AtomicU64; 6],
    other_rcodes: AtomicU64,
}

/// Counts one more.
pub(super) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

impl Tally {
    pub fn reply(&self, rcode: u16) {
        count(self.rcodes.get(usize::from(rcode)).unwrap_or(&self.other_rcodes));
    }

    pub fn read(&self) -> Counters {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counters {
            udp: read(&self.udp),
            tcp: read(&self.tcp),
            rcodes: std::array::from_fn(|at| read(&self.rcodes[at])),
            other_rcodes: read(&self.other_rcodes),
            forwarded: read(&self.forwarded),
            failed: read(&self.failed),
            dropped: read(&self.dropped),
        }
    }
}
