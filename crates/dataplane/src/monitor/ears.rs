//! Not hearing for a while: the kernel makes a notification of every element that comes while anybody listens, which takes
//! longer than the element itself. Whoever makes hundreds of thousands of them has the monitor not listen meanwhile, and sees by
//! the packet filter's generation whether anybody else has changed anything.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use netlink_sys::Socket;

/// A socket's membership in one group, which another thread may end and begin anew.
#[derive(Debug)]
pub(crate) struct Ears {
    socket: OwnedFd,
    group: u32,
}

impl Ears {
    /// Those of a socket that is a member.
    pub(super) fn of(socket: &Socket, group: u32) -> io::Result<Self> {
        Ok(Self { socket: socket.as_fd().try_clone_to_owned()?, group })
    }

    /// The socket hears nothing of the group any more.
    pub(crate) fn stop(&self) -> io::Result<()> {
        self.set(libc::NETLINK_DROP_MEMBERSHIP)
    }

    /// The socket hears of the group again.
    pub(crate) fn open(&self) -> io::Result<()> {
        self.set(libc::NETLINK_ADD_MEMBERSHIP)
    }

    #[allow(unsafe_code)]
    fn set(&self, option: i32) -> io::Result<()> {
        // SAFETY: the group's number lives through the call, and its size is given with it.
        let done = unsafe {
            libc::setsockopt(
                self.socket.as_raw_fd(),
                libc::SOL_NETLINK,
                option,
                std::ptr::from_ref(&self.group).cast(),
                size_of::<u32>() as u32,
            )
        };
        if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}
