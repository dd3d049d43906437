//! Opening a container's network namespace, and making sure that it is one.
//!
//! What always holds: a descriptor from [`open`] is a network namespace and not our own, so that nobody who passes a
//! wrong path gets the host's links rebuilt.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};

use nix::libc;
use nix::sys::statfs::{NSFS_MAGIC, fstatfs};

/// Why a path is not a container's network namespace.
#[derive(Debug)]
pub enum NetnsError {
    /// It can't be opened.
    Open(io::Error),
    /// It is something else.
    Other,
    /// It is the namespace that we are in.
    Own,
}

impl NetnsError {
    /// What is wrong, to follow the path.
    pub fn reason(&self) -> String {
        match self {
            NetnsError::Open(error) => format!("can't be opened: {error}"),
            NetnsError::Other => "is not a network namespace".into(),
            NetnsError::Own => "is the namespace that the plugin runs in, not a container's".into(),
        }
    }
}

/// Opens the namespace at `path`; the descriptor closes on exec.
///
/// # Errors
/// A [`NetnsError`] where the path leads to no foreign network namespace.
pub fn open(path: &str) -> Result<OwnedFd, NetnsError> {
    // O_NONBLOCK, because the path may lead to a FIFO by mistake.
    let flags = libc::O_CLOEXEC | libc::O_NONBLOCK | libc::O_NOCTTY;
    let file = File::options().read(true).custom_flags(flags).open(path).map_err(NetnsError::Open)?;
    let kind = fstatfs(&file).map_err(|errno| NetnsError::Open(errno.into()))?;
    if kind.filesystem_type() != NSFS_MAGIC || namespace_type(&file) != Some(libc::CLONE_NEWNET) {
        return Err(NetnsError::Other);
    }
    let theirs = file.metadata().map_err(NetnsError::Open)?;
    // Without /proc nothing can be compared; then the namespace counts as foreign.
    let own = std::fs::metadata("/proc/self/ns/net");
    if own.is_ok_and(|own| (own.dev(), own.ino()) == (theirs.dev(), theirs.ino())) {
        return Err(NetnsError::Own);
    }
    Ok(file.into())
}

/// `NS_GET_NSTYPE` of linux/nsfs.h, `_IO(0xb7, 3)`: the CLONE_NEW… flag of a namespace's kind.
const NS_GET_NSTYPE: libc::Ioctl = 0xb703;

#[allow(unsafe_code)]
fn namespace_type(file: &File) -> Option<libc::c_int> {
    // SAFETY: the request takes no argument and writes no memory; the descriptor is open for the whole call.
    let kind = unsafe { libc::ioctl(file.as_raw_fd(), NS_GET_NSTYPE) };
    (kind >= 0).then_some(kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_foreign_network_namespace_will_do() {
        let check = |path: &str, expected: &str| {
            let reason = open(path).map(|_| ()).unwrap_err().reason();
            assert!(reason.starts_with(expected), "{path}: {reason}");
        };
        check("/proc/self/ns/net", "is the namespace that the plugin runs in");
        check("/proc/self/ns/mnt", "is not a network namespace");
        check("/proc/self/status", "is not a network namespace");
        check("/", "is not a network namespace");
        check("/no/such/file", "can't be opened: No such file");
        check("", "can't be opened");
    }
}
