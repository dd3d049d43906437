//! Has pods announce a changed MAC over IPv6: a setting of the pod's end, for which the kernel has a file and no request.
//!
//! To find the file of a namespace that wasn't asked for any before, the kernel passes over those of all that were: 0.07 ms on an
//! empty node, 0.3 with 200 pods. So a thread of its own opens it while the rest of the pod is made.
//!
//! What always holds: who asked can see that it is over, and then nobody here holds the namespace open. Where there is no thread,
//! who asks does it himself.

use std::convert::Infallible;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};

use weft_model::IfName;

use super::netns;
use crate::sysctl;

/// Stack of the thread, in bytes: it opens one file after the other.
const STACK: usize = 128 * 1024;

/// The thread, once there is one.
#[derive(Debug, Default)]
pub(crate) struct Announcer(Option<Sender<Job>>);

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
            self.0 = thread.spawn(work).ok().map(|_| sender);
        }
        self.0.as_ref()
    }
}

impl Announced {
    pub(crate) fn is_over(&self) -> bool {
        matches!(self.0.try_recv(), Err(TryRecvError::Disconnected))
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
