//! A filter in the kernel that keeps our own notifications from a socket.
//!
//! A first plan with hundreds of thousands of elements is as many notifications. They would not fit the socket's buffer, and
//! what doesn't fit reads as "anything may have changed", so that all would be listed and compared once more. The packet filter
//! names the port that asked in each message, and all messages of one datagram are of one transaction.

use std::io;
use std::os::fd::AsRawFd;

use netlink_sys::Socket;

/// Where `nlmsg_pid` is in a message (`struct nlmsghdr`).
const PORT_AT: u32 = 12;

/// Drops every datagram whose first message bears one of these ports; none at all for no port.
pub(super) fn leave_out(socket: &Socket, ports: &[u32]) -> io::Result<()> {
    if ports.is_empty() {
        return Ok(());
    }
    let program = program(ports);
    attach(socket.as_raw_fd(), &program)
}

/// Loads the port, compares it with each, and drops or keeps the datagram (`linux/filter.h`). Words are loaded as if they
/// were in network order.
fn program(ports: &[u32]) -> Vec<libc::sock_filter> {
    let step = |code: u32, jt: usize, k: u32| libc::sock_filter {
        // Codes are 16 bits wide; whoever has more than 255 ports has the last ones' messages kept.
        code: code as u16,
        jt: u8::try_from(jt).unwrap_or(0),
        jf: 0,
        k,
    };
    let load = step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, PORT_AT);
    let compare = ports
        .iter()
        .enumerate()
        .map(|(at, port)| step(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, ports.len() - at, port.to_be()));
    let keep = step(libc::BPF_RET | libc::BPF_K, 0, u32::MAX);
    let drop = step(libc::BPF_RET | libc::BPF_K, 0, 0);
    std::iter::once(load).chain(compare).chain([keep, drop]).collect()
}

#[allow(unsafe_code)]
fn attach(fd: i32, program: &[libc::sock_filter]) -> io::Result<()> {
    let program = libc::sock_fprog {
        // A few ports' worth.
        len: program.len() as u16,
        filter: program.as_ptr().cast_mut(),
    };
    // SAFETY: the kernel copies the program, which lives through the call, and never writes to it.
    let done = unsafe {
        libc::setsockopt(
            fd,
            libc::SOL_SOCKET,
            libc::SO_ATTACH_FILTER,
            std::ptr::from_ref(&program).cast(),
            size_of::<libc::sock_fprog>() as u32,
        )
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
