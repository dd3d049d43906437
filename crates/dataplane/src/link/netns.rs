//! Pods' network namespaces: opening them by path, and working inside one.
//!
//! The calling thread goes there and comes back, which takes a few microseconds, where a thread of its own for each visit takes a
//! hundred and more. What always holds: it is back when the call returns, also by a panic; a thread that can't come home ends
//! the process, because everything that it did from then on would be done to the pod's network.

use std::fs::{File, OpenOptions};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;

use nix::errno::Errno;
use nix::sched::{CloneFlags, setns};
use nix::sys::statfs::{FsType, fstatfs};
use weft_model::IfName;

use crate::KernelError;
use crate::netlink::{Rtnl, SocketError};

/// `NSFS_MAGIC` of `linux/magic.h`.
const NSFS: FsType = FsType(0x6e73_6673);

/// The calling thread's own namespace.
const OWN: &str = "/proc/thread-self/ns/net";

/// Opens the namespace at `path`.
///
/// # Errors
/// [`KernelError::Namespace`] where nothing is there, or no namespace.
pub(crate) fn open(link: IfName, path: &str) -> Result<OwnedFd, KernelError> {
    let fail = |reason: String| KernelError::Namespace { link, path: path.to_owned(), reason };
    if path.is_empty() {
        return Err(fail("its path is not known".into()));
    }
    let file = OpenOptions::new()
        .read(true)
        // Whatever stands there, opening it must not block.
        .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open(path)
        .map_err(|e| fail(e.to_string()))?;
    let fd = OwnedFd::from(file);
    if is_namespace(fd.as_fd()) { Ok(fd) } else { Err(fail("it is a file and no namespace".into())) }
}

/// True for a descriptor of a namespace, of whatever kind.
pub(crate) fn is_namespace(fd: BorrowedFd<'_>) -> bool {
    fstatfs(fd).is_ok_and(|fs| fs.filesystem_type() == NSFS)
}

/// Runs `work` inside the namespace.
///
/// # Errors
/// [`KernelError::Enter`].
pub(crate) fn within<T>(
    namespace: BorrowedFd<'_>,
    link: IfName,
    work: impl FnOnce() -> T,
) -> Result<T, KernelError> {
    let fail = |reason: String| KernelError::Enter { object: format!("link {link}"), reason };
    let home = File::open(OWN).map_err(|e| fail(format!("the way back, {OWN}: {e}")))?;
    match setns(namespace, CloneFlags::CLONE_NEWNET) {
        Ok(()) => {}
        Err(Errno::EINVAL) => return Err(fail("it is no network namespace".into())),
        Err(errno) => return Err(fail(errno.desc().into())),
    }
    let _way_back = WayBack(home);
    Ok(work())
}

/// A pod's namespace, and what is at hand to work in it.
#[derive(Debug)]
pub(crate) struct Place {
    namespace: OwnedFd,
    inside: Option<Rtnl>,
}

impl Place {
    /// A namespace of which nothing is needed yet.
    pub(crate) fn new(namespace: OwnedFd) -> Self {
        Self { namespace, inside: None }
    }

    /// Opens a socket inside, where there is none, for the link that will be made soon: that takes as long as a few requests to the
    /// kernel. Where it can't be, [`Place::socket`] will say why.
    pub(crate) fn make_ready(&mut self, link: IfName) {
        if self.inside.is_none() {
            self.inside = socket(self.namespace.as_fd(), link).ok();
        }
    }

    /// A socket inside: the one at hand, or a new one.
    ///
    /// # Errors
    /// As [`socket`].
    pub(crate) fn socket(&mut self, link: IfName) -> Result<Rtnl, KernelError> {
        match self.inside.take() {
            Some(inside) => Ok(inside),
            None => socket(self.namespace.as_fd(), link),
        }
    }

    pub(crate) fn namespace(&self) -> &OwnedFd {
        &self.namespace
    }
}

/// Takes the thread home when dropped.
struct WayBack(File);

impl Drop for WayBack {
    fn drop(&mut self) {
        if let Err(errno) = setns(&self.0, CloneFlags::CLONE_NEWNET) {
            tracing::error!("can't leave a pod's network namespace again: {errno}");
            std::process::abort();
        }
    }
}

/// A socket inside the namespace, for use from outside.
///
/// # Errors
/// [`KernelError::Enter`], or the socket's own.
pub(crate) fn socket(namespace: BorrowedFd<'_>, link: IfName) -> Result<Rtnl, KernelError> {
    let opened: Result<Rtnl, SocketError> = within(namespace, link, Rtnl::open)?;
    Ok(opened?)
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;

    #[test]
    fn the_thread_is_home_again_whatever_happens() {
        let own = || std::fs::read_link(OWN).unwrap();
        let (before, link) = (own(), IfName::new("eth0").unwrap());
        let other = std::thread::spawn(|| {
            nix::sched::unshare(CloneFlags::CLONE_NEWNET).ok()?;
            File::open(OWN).ok()
        });
        let Some(other) = other.join().unwrap() else {
            println!("SKIPPED: the_thread_is_home_again_whatever_happens: no network namespaces");
            return;
        };
        let inside = within(other.as_fd(), link, own).unwrap();
        assert_ne!(inside, before);
        assert_eq!(own(), before);
        let panicked =
            catch_unwind(AssertUnwindSafe(|| within(other.as_fd(), link, || panic!("as it may happen"))));
        assert!(panicked.is_err());
        assert_eq!(own(), before);
        let file = File::open("/proc/self/ns/mnt").unwrap();
        let refused = within(file.as_fd(), link, own).unwrap_err().to_string();
        assert!(refused.contains("it is no network namespace"), "{refused}");
        assert_eq!(own(), before);
    }
}
