//! Sockets that health is asked at.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpListener;
use weft_model::Port;
use weft_plan::Listen;

/// Connections that may wait in the kernel.
const BACKLOG: i32 = 128;

/// The addresses to bind: each, or one of each family that stands for all.
pub(super) fn addresses(listen: &Listen, port: Port) -> Vec<SocketAddr> {
    let ips: Vec<IpAddr> = match listen {
        Listen::Everywhere => vec![Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()],
        Listen::At(ips) => ips.to_vec(),
    };
    ips.into_iter().map(|ip| SocketAddr::new(ip, port.get())).collect()
}

/// Listens at an address, which need not exist yet (IP_FREEBIND); nothing where the machine lacks the whole family.
pub(super) fn listen(address: SocketAddr) -> io::Result<Option<TcpListener>> {
    match bind(address) {
        Err(error) if lacks_family(&error) && address.ip().is_unspecified() => Ok(None),
        Err(error) => Err(error),
        Ok(socket) => TcpListener::from_std(socket.into()).map(Some),
    }
}

fn bind(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv4() {
        socket.set_freebind_v4(true)?;
    } else {
        socket.set_only_v6(true)?;
        socket.set_freebind_v6(true)?;
    }
    // Connections of an earlier agent that are in TIME_WAIT don't keep its successor from the port.
    socket.set_reuse_address(true)?;
    // The next version of this server binds while this one still runs.
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket)
}

fn lacks_family(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EAFNOSUPPORT)
}
