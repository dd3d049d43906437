//! Pods' network namespaces: opening them by path, and working inside one.
//!
//! A thread enters a namespace and ends there: the thread that calls never leaves its own.

use std::fs::OpenOptions;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;

use nix::sched::{CloneFlags, setns};
use nix::sys::statfs::{FsType, fstatfs};
use weft_model::IfName;

use crate::KernelError;
use crate::netlink::{Rtnl, SocketError};

/// `NSFS_MAGIC` of `linux/magic.h`.
const NSFS: FsType = FsType(0x6e73_6673);

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

/// Runs `work` in a thread inside the namespace.
///
/// # Errors
/// [`KernelError::Enter`].
pub(crate) fn within<T: Send>(
    namespace: BorrowedFd<'_>,
    link: IfName,
    work: impl FnOnce() -> T + Send,
) -> Result<T, KernelError> {
    let fail = |reason: String| KernelError::Enter { object: format!("link {link}"), reason };
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("netns".into());
        let running = thread.spawn_scoped(scope, || {
            setns(namespace, CloneFlags::CLONE_NEWNET)?;
            Ok(work())
        });
        match running.map_err(|e| fail(e.to_string()))?.join() {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(nix::errno::Errno::EINVAL)) => Err(fail("it is no network namespace".into())),
            Ok(Err(errno)) => Err(fail(errno.desc().into())),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

/// A socket inside the namespace, for use from outside.
///
/// # Errors
/// [`KernelError::Enter`], or the socket's own.
pub(crate) fn socket(namespace: BorrowedFd<'_>, link: IfName) -> Result<Rtnl, KernelError> {
    socket_after(namespace, link, || ())
}

/// A socket inside the namespace, after some work there.
///
/// # Errors
/// As [`socket`].
pub(crate) fn socket_after(
    namespace: BorrowedFd<'_>,
    link: IfName,
    work: impl FnOnce() + Send,
) -> Result<Rtnl, KernelError> {
    let opened: Result<Rtnl, SocketError> = within(namespace, link, || {
        work();
        Rtnl::open()
    })?;
    Ok(opened?)
}
