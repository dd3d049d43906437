//! Showing a folder of the real machine on a machine of the lab.
//!
//! A bind mount can't reach over mount namespaces; a detached copy of a mount can be carried over, and attached there
//! (open_tree(2), move_mount(2); Linux 5.2).

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::Machine;
use crate::LabError;

/// `OPEN_TREE_CLONE`, `MOVE_MOUNT_F_EMPTY_PATH` (linux/mount.h).
const CLONE: libc::c_uint = 1;
const FROM_DESCRIPTOR: libc::c_uint = 4;

impl Machine {
    /// Mounts a folder of the real machine at `inside`, for reading and writing, as long as the machine runs.
    pub fn lend(&self, folder: &Path, inside: &str) -> Result<(), LabError> {
        let tree = detached_copy(folder).map_err(LabError::file("open", folder))?;
        self.enter(|| {
            std::fs::create_dir_all(inside).map_err(LabError::file("make", inside))?;
            attach(&tree, Path::new(inside)).map_err(LabError::file("mount something at", inside))
        })?
    }
}

fn path_of(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(|_| io::ErrorKind::InvalidInput.into())
}

#[allow(unsafe_code)]
fn detached_copy(folder: &Path) -> io::Result<OwnedFd> {
    let path = path_of(folder)?;
    let flags = CLONE | libc::O_CLOEXEC.cast_unsigned();
    // SAFETY: the path is a string that ends with a zero, and lives until the call has returned.
    let descriptor = unsafe { libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, path.as_ptr(), flags) };
    let descriptor =
        i32::try_from(descriptor).ok().filter(|d| *d >= 0).ok_or_else(io::Error::last_os_error)?;
    // SAFETY: the kernel has just given us this descriptor, and nobody else knows of it.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

#[allow(unsafe_code)]
fn attach(tree: &OwnedFd, at: &Path) -> io::Result<()> {
    let path = path_of(at)?;
    // SAFETY: both strings end with a zero and live until the call has returned; the descriptor is open.
    let done = unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            tree.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_FDCWD,
            path.as_ptr(),
            FROM_DESCRIPTOR,
        )
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
