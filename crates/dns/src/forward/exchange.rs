//! One request to one resolver, by a socket of its own: the kernel draws the port, and drops what comes from elsewhere.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};

use crate::relay::{Match, compare};

/// What a resolver made of a request.
#[derive(Debug, PartialEq, Eq)]
pub enum Heard {
    /// It replied.
    Reply(Vec<u8>),
    /// It replied, but with the name in another case than it was asked.
    OtherCase,
    /// It refused, in a bare header.
    Refusal,
}

/// Asks by UDP and waits for the reply, without an end: the caller sets the time.
pub async fn udp(resolver: SocketAddr, message: &[u8], buffer: usize) -> io::Result<Heard> {
    let any: SocketAddr = match resolver {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(resolver).await?;
    socket.send(message).await?;
    let mut reply = vec![0; buffer];
    loop {
        let length = socket.recv(&mut reply).await?;
        match compare(message, &reply[..length]) {
            Match::Reply => {
                reply.truncate(length);
                return Ok(Heard::Reply(reply));
            }
            Match::OtherCase => return Ok(Heard::OtherCase),
            Match::Refusal => return Ok(Heard::Refusal),
            Match::Foreign => {}
        }
    }
}

/// Asks by TCP (RFC 7766) and waits for the reply, without an end: the caller sets the time.
pub async fn tcp(resolver: SocketAddr, message: &[u8]) -> io::Result<Heard> {
    let mut stream = TcpStream::connect(resolver).await?;
    let length = u16::try_from(message.len()).map_err(io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes(), message].concat()).await?;
    let length = stream.read_u16().await?;
    let mut reply = vec![0; usize::from(length)];
    stream.read_exact(&mut reply).await?;
    match compare(message, &reply) {
        Match::Reply => Ok(Heard::Reply(reply)),
        Match::OtherCase => Ok(Heard::OtherCase),
        Match::Refusal => Ok(Heard::Refusal),
        Match::Foreign => {
            Err(io::Error::new(io::ErrorKind::InvalidData, "the reply answers another request"))
        }
    }
}
