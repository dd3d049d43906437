//! Making the sockets.

use std::io;
use std::net::SocketAddr;

use socket2::{Domain, Protocol, Socket, Type};

use super::handle::DnsError;

/// Bytes of requests that may wait in the kernel; it gives less where its own limit is lower.
const RECEIVE_BUFFER: usize = 1 << 20;
/// TCP connections that may wait in the kernel.
const BACKLOG: i32 = 128;

/// The two sockets of one address.
pub(super) struct Pair {
    pub address: SocketAddr,
    pub udp: Socket,
    pub tcp: Socket,
}

impl Pair {
    /// Binds both at `address`, which need not exist yet (IP_FREEBIND).
    pub fn bind(address: SocketAddr) -> Result<Self, DnsError> {
        let failed = |protocol| move |source| DnsError::Bind { protocol, address, source };
        let udp = bind(address, Type::DGRAM).map_err(failed("UDP"))?;
        let _ = udp.set_recv_buffer_size(RECEIVE_BUFFER);
        let bound = udp.local_addr().map_err(failed("UDP"))?.as_socket().unwrap_or(address);
        let tcp = bind(bound, Type::STREAM).map_err(failed("TCP"))?;
        tcp.listen(BACKLOG).map_err(failed("TCP"))?;
        Ok(Self { address: bound, udp, tcp })
    }
}

fn bind(address: SocketAddr, kind: Type) -> io::Result<Socket> {
    let protocol = if kind == Type::DGRAM { Protocol::UDP } else { Protocol::TCP };
    let socket = Socket::new(Domain::for_address(address), kind, Some(protocol))?;
    if address.is_ipv4() {
        socket.set_freebind_v4(true)?;
    } else {
        socket.set_only_v6(true)?;
        socket.set_freebind_v6(true)?;
    }
    // The next version of this server binds while this one still runs.
    socket.set_reuse_port(true)?;
    if kind == Type::STREAM {
        socket.set_reuse_address(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}
