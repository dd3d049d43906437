//! Has pods announce a changed MAC over IPv6: a setting of the pod's end, for which the kernel has a file and no request.
//!
//! To find the file of a namespace that wasn't asked for any before, the kernel passes over those of all that were: 0.07 ms on an
//! empty node, 0.3 with 200 pods. So a thread of its own opens it while the rest of the pod is made.
//!
//! What always holds: who asked can see that it is over, or wait for it, and then nobody here holds the namespace open. Where there
//! is no thread, who asks does it himself. The thread ends before the announcer does.

use std::convert::Infallible;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use weft_model::IfName;

use super::netns;
use crate::sysctl;

/// Stack of the thread, in bytes: it opens one file after the other.
const STACK: usize = 128 * 1024;

/// The thread, once there is one, and the way to it.
#[derive(Debug, Default)]
pub(crate) struct Announcer(Option<(Sender<Job>, JoinHandle<()>)>);

/// Says when one pod's is over.
#[derive(Debug)]
pub(crate) struct Announced(Receiver<Infallible>);

#[derive(Debug)]
struct Job {
    namespace: OwnedFd,
    link: IfName,
    /// Nothing is sent: it goes when the work is over, however that ends.
    done: Sender<Infallible>,
}

impl Announcer {
    /// Has the link of this name in the namespace announce a changed MAC.
    pub(crate) fn begin(&mut self, namespace: &OwnedFd, link: IfName) -> Option<Announced> {
        let Ok(own) = namespace.try_clone() else {
            set(namespace, link);
            return None;
        };
        let (done, announced) = channel();
        let job = Job { namespace: own, link, done };
        let left = match self.sender() {
            Some(sender) => sender.send(job).err().map(|unsent| unsent.0),
            None => Some(job),
        };
        if let Some(job) = left {
            job.work();
        }
        Some(Announced(announced))
    }

    fn sender(&mut self) -> Option<&Sender<Job>> {
        if self.0.is_none() {
            let (sender, jobs) = channel::<Job>();
            let work = move || jobs.into_iter().for_each(Job::work);
            let thread = std::thread::Builder::new().name("weft-announce".into()).stack_size(STACK);
            self.0 = thread.spawn(work).ok().map(|thread| (sender, thread));
        }
        self.0.as_ref().map(|(sender, _)| sender)
    }
}

impl Drop for Announcer {
    /// The thread was made in its maker's network namespace, which lives as long as it.
    fn drop(&mut self) {
        if let Some((sender, thread)) = self.0.take() {
            drop(sender);
            // Where it broke, there is nobody left to tell.
            let _ = thread.join();
        }
    }
}

impl Announced {
    /// One that is over when the sender goes.
    #[cfg(test)]
    pub(super) fn pending() -> (Sender<Infallible>, Self) {
        let (done, announced) = channel();
        (done, Self(announced))
    }

    pub(crate) fn is_over(&self) -> bool {
        matches!(self.0.try_recv(), Err(TryRecvError::Disconnected))
    }

    /// Waits until it is over, or as long as that.
    pub(crate) fn wait(self, limit: Duration) {
        let _ = self.0.recv_timeout(limit);
    }
}

impl Job {
    fn work(self) {
        let Job { namespace, link, done } = self;
        set(&namespace, link);
        drop(namespace);
        drop(done);
    }
}

fn set(namespace: &OwnedFd, link: IfName) {
    if let Err(error) = netns::within(namespace.as_fd(), link, || sysctl::announce_neighbour(link)) {
        tracing::debug!(%error, "a changed MAC will not be announced");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of a link that nobody has: the thread looks for its files all the same, and changes nothing.
    #[test]
    fn the_thread_ends_before_its_announcer_does() {
        let namespace = OwnedFd::from(std::fs::File::open("/proc/self/ns/net").unwrap());
        let mut announcer = Announcer::default();
        let begun: Vec<Announced> = (0..64)
            .filter_map(|_| announcer.begin(&namespace, IfName::new("weft-no-link").unwrap()))
            .collect();
        drop(announcer);
        assert_eq!(begun.len(), 64);
        assert!(begun.iter().all(Announced::is_over));
    }

    #[test]
    fn waiting_ends_with_the_work_or_with_the_limit() {
        let (done, announced) = Announced::pending();
        let at = std::time::Instant::now();
        announced.wait(Duration::from_millis(20));
        assert!(at.elapsed() >= Duration::from_millis(20));
        drop(done);
        let (done, announced) = Announced::pending();
        drop(done);
        announced.wait(Duration::from_secs(3600));
    }
}
