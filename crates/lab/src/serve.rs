//! The test server of pods and hosts: it says who it is and whom it sees.
//!
//! HTTP on 8080 and UDP on 8081 answer with a [`Greeting`]; UDP packets that begin with `echo` come back as they
//! are; TCP on 8082 swallows what it is sent and then says how many bytes that was.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrIn6, SockaddrStorage, recvmsg, sendmsg,
    setsockopt, sockopt,
};
use serde::{Deserialize, Serialize};

use crate::resolve;

/// Port of the HTTP server.
pub const HTTP: u16 = 8080;
/// Port of the UDP server.
pub const UDP: u16 = 8081;
/// Port of the server that swallows and counts.
pub const SINK: u16 = 8082;
/// The one name that the internet's name server knows; it has the internet host's addresses.
pub const INTERNET_NAME: &str = "www.example.com";
/// First bytes of a UDP packet that is to come back unchanged.
pub const ECHO: &[u8] = b"echo";

/// What a server says of itself and of the client that it sees.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Greeting {
    /// Name of the server: `namespace/pod`, or the machine's.
    pub name: String,
    /// Address and port at which the server was reached, as it sees them.
    pub server: SocketAddr,
    /// Address and port of the client, as the server sees them.
    pub client: SocketAddr,
}

/// Serves until the process is killed; says `ready` once every port is open.
pub fn serve_main(name: &str) -> ExitCode {
    match start(name) {
        Ok(()) => println!("ready"),
        Err(e) => {
            println!("error {e}");
            return ExitCode::FAILURE;
        }
    }
    loop {
        thread::park();
    }
}

/// [`serve_main`], and a name server on UDP port 53: the host that stands for the internet.
pub fn internet_main(name: &str) -> ExitCode {
    match UdpSocket::bind((wildcard(), 53)) {
        Ok(socket) => {
            thread::spawn(move || answer_names(&socket));
            serve_main(name)
        }
        Err(e) => {
            println!("error can't bind UDP port 53: {e}");
            ExitCode::FAILURE
        }
    }
}

fn answer_names(socket: &UdpSocket) {
    let mut buffer = [0; 2048];
    loop {
        let Ok((length, client)) = socket.recv_from(&mut buffer) else { continue };
        if let Some(answer) = resolve::answer_as_internet(&buffer[..length]) {
            let _ = socket.send_to(&answer, client);
        }
    }
}

fn start(name: &str) -> io::Result<()> {
    let http = listen(HTTP)?;
    let greeter = name.to_owned();
    thread::spawn(move || accept(&http, move |stream| greet(stream, &greeter)));
    let sink = listen(SINK)?;
    thread::spawn(move || accept(&sink, swallow));
    let socket = UdpSocket::bind((wildcard(), UDP))
        .map_err(|e| io::Error::new(e.kind(), format!("can't bind UDP port {UDP}: {e}")))?;
    if socket.local_addr()?.is_ipv6() {
        setsockopt(&socket, sockopt::Ipv6RecvPacketInfo, &true)?;
    }
    let name = name.to_owned();
    thread::spawn(move || answer_packets(&socket, &name));
    Ok(())
}

/// The wildcard address that takes in every family that this host has.
fn wildcard() -> IpAddr {
    if std::path::Path::new("/proc/net/if_inet6").exists() {
        return Ipv6Addr::UNSPECIFIED.into();
    }
    Ipv4Addr::UNSPECIFIED.into()
}

fn listen(port: u16) -> io::Result<TcpListener> {
    TcpListener::bind((wildcard(), port))
        .map_err(|e| io::Error::new(e.kind(), format!("can't listen on port {port}: {e}")))
}

fn accept(listener: &TcpListener, serve: impl Fn(TcpStream) -> io::Result<()> + Clone + Send + 'static) {
    for stream in listener.incoming().flatten() {
        let serve = serve.clone();
        // A client that goes away in the middle harms nobody but itself.
        thread::spawn(move || serve(stream));
    }
}

fn greet(mut stream: TcpStream, name: &str) -> io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let greeting = Greeting {
        name: name.into(),
        server: plain(stream.local_addr()?),
        client: plain(stream.peer_addr()?),
    };
    let mut request = Vec::new();
    let mut buffer = [0; 1024];
    while !request.windows(4).any(|w| w == b"\r\n\r\n") && request.len() < 16 << 10 {
        let length = stream.read(&mut buffer)?;
        if length == 0 {
            return Ok(());
        }
        request.extend_from_slice(&buffer[..length]);
    }
    let body = serde_json::to_string(&greeting)? + "\n";
    let length = body.len();
    write!(
        stream,
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    )
}

fn swallow(mut stream: TcpStream) -> io::Result<()> {
    let mut buffer = vec![0; 256 << 10];
    let mut total = 0u64;
    loop {
        match stream.read(&mut buffer)? {
            0 => break,
            length => total += length as u64,
        }
    }
    stream.write_all(&total.to_be_bytes())
}

fn answer_packets(socket: &UdpSocket, name: &str) {
    let mut buffer = [0; 2048];
    loop {
        // An ICMP error about an earlier answer is reported here; the next packet is what matters.
        let Ok((length, client, asked)) = receive(socket, &mut buffer) else { continue };
        let packet = &buffer[..length];
        if packet.starts_with(ECHO) {
            answer(socket, packet, client, asked);
            continue;
        }
        let server = asked.map(|info| SocketAddr::new(Ipv6Addr::from(info.ipi6_addr.s6_addr).into(), UDP));
        let server = server.unwrap_or_else(|| own_address_towards(client).unwrap_or(client));
        let greeting = Greeting { name: name.into(), server: plain(server), client: plain(client) };
        if let Ok(body) = serde_json::to_vec(&greeting) {
            answer(socket, &body, client, asked);
        }
    }
}

/// A packet's length, its sender, and at which address it came; not that where the machine has no IPv6.
fn receive(
    socket: &UdpSocket,
    buffer: &mut [u8],
) -> io::Result<(usize, SocketAddr, Option<libc::in6_pktinfo>)> {
    let mut control = nix::cmsg_space!(libc::in6_pktinfo);
    let mut parts = [io::IoSliceMut::new(buffer)];
    let flags = MsgFlags::empty();
    let message = recvmsg::<SockaddrStorage>(socket.as_raw_fd(), &mut parts, Some(&mut control), flags)?;
    let asked = message.cmsgs()?.find_map(|control| match control {
        ControlMessageOwned::Ipv6PacketInfo(info) => Some(info),
        _ => None,
    });
    let sender = message.address.as_ref();
    let v6 = sender.and_then(|a| a.as_sockaddr_in6()).map(|a| SocketAddr::V6((*a).into()));
    let v4 = || sender.and_then(|a| a.as_sockaddr_in()).map(|a| SocketAddr::V4((*a).into()));
    let sender = v6.or_else(v4).ok_or_else(|| io::Error::other("a packet from nobody"))?;
    Ok((message.bytes, sender, asked))
}

/// Answers from the address that was asked: a machine may have many.
fn answer(socket: &UdpSocket, body: &[u8], client: SocketAddr, asked: Option<libc::in6_pktinfo>) {
    // A client that is gone harms nobody but itself.
    let _ = match (asked, client) {
        (Some(info), SocketAddr::V6(client)) => {
            // By whichever link: only the address is the question's.
            let from = libc::in6_pktinfo { ipi6_ifindex: 0, ..info };
            let (parts, control) = ([io::IoSlice::new(body)], [ControlMessage::Ipv6PacketInfo(&from)]);
            let to = SockaddrIn6::from(client);
            sendmsg(socket.as_raw_fd(), &parts, &control, MsgFlags::empty(), Some(&to))
                .map_err(io::Error::from)
        }
        _ => socket.send_to(body, client),
    };
}

/// The address that an answer to `client` comes from.
fn own_address_towards(client: SocketAddr) -> io::Result<SocketAddr> {
    let client = plain(client);
    let any: IpAddr =
        if client.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect(client)?;
    Ok(SocketAddr::new(socket.local_addr()?.ip(), UDP))
}

/// An IPv4 address that came in over a dual-stack socket, written as what it is.
fn plain(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}
