//! The client of the reachability matrix: many HTTP and UDP probes at once from one process.

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use socket2::{Domain, Socket, Type};

use crate::serve::Greeting;

/// How a target is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    /// HTTP/1.1 GET over TCP.
    Http,
    /// One UDP packet, sent again twice while no answer comes.
    Udp,
}

impl std::fmt::Display for Transport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Http => "HTTP",
            Self::Udp => "UDP",
        })
    }
}

/// Whom to ask, and how.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    /// HTTP or UDP.
    pub transport: Transport,
    /// Address and port.
    pub address: SocketAddr,
    /// How long an answer may take, in milliseconds.
    pub patience_ms: u64,
    /// The address to ask from, which the asker's machine must have; otherwise its kernel chooses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<IpAddr>,
}

impl Target {
    /// How long an answer may take where nothing else is said, in milliseconds.
    const PATIENCE_MS: u64 = 2000;

    /// A target with the usual patience.
    pub fn new(transport: Transport, address: SocketAddr) -> Self {
        Self { transport, address, patience_ms: Self::PATIENCE_MS, from: None }
    }
}

/// What came of a probe.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// It answered.
    Answered {
        /// What the server said.
        greeting: Greeting,
        /// Time from the first packet to the whole answer, in microseconds.
        micros: u64,
    },
    /// A packet came back that refused it (a TCP reset, an ICMP error).
    Refused(String),
    /// Nothing came back.
    Silent,
}

impl Outcome {
    /// What the server said, where it answered.
    pub fn greeting(&self) -> Option<&Greeting> {
        match self {
            Self::Answered { greeting, .. } => Some(greeting),
            Self::Refused(_) | Self::Silent => None,
        }
    }
}

/// At most this many probes run at a time.
const AT_ONCE: usize = 64;

/// Asks every target; the outcomes are in the targets' order.
pub fn probe_all(targets: &[Target]) -> Vec<Outcome> {
    let mut outcomes = Vec::with_capacity(targets.len());
    for batch in targets.chunks(AT_ONCE) {
        std::thread::scope(|scope| {
            let threads: Vec<_> = batch.iter().map(|target| scope.spawn(move || probe(target))).collect();
            outcomes.extend(
                threads
                    .into_iter()
                    .map(|t| t.join().unwrap_or_else(|_| Outcome::Refused("the probe itself failed".into()))),
            );
        });
    }
    outcomes
}

fn probe(target: &Target) -> Outcome {
    let patience = Duration::from_millis(target.patience_ms);
    let start = Instant::now();
    let result = match target.transport {
        Transport::Http => http(target, patience),
        Transport::Udp => udp(target, patience),
    };
    match result {
        Ok(greeting) => Outcome::Answered {
            greeting,
            micros: u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX),
        },
        Err(e) if matches!(e.kind(), io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock) => Outcome::Silent,
        Err(e) => Outcome::Refused(e.to_string()),
    }
}

/// A socket that packets leave from `target.from`, or from the address that the kernel chooses.
fn bound(target: &Target, kind: Type) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(target.address), kind, None)?;
    if let Some(from) = target.from {
        socket.bind(&SocketAddr::new(from, 0).into())?;
    }
    Ok(socket)
}

fn http(target: &Target, patience: Duration) -> io::Result<Greeting> {
    let address = target.address;
    let socket = bound(target, Type::STREAM)?;
    socket.connect_timeout(&address.into(), patience)?;
    let mut stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(patience))?;
    stream.set_write_timeout(Some(patience))?;
    write!(stream, "GET / HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.take(64 << 10).read_to_end(&mut answer)?;
    let body =
        answer.windows(4).position(|w| w == b"\r\n\r\n").map(|at| &answer[at + 4..]).unwrap_or_default();
    parse(body)
}

fn udp(target: &Target, patience: Duration) -> io::Result<Greeting> {
    let socket = UdpSocket::from(bound(target, Type::DGRAM)?);
    socket.connect(target.address)?;
    let mut buffer = [0; 2048];
    let mut last = io::Error::from(io::ErrorKind::TimedOut);
    for _ in 0..3 {
        socket.set_read_timeout(Some((patience / 3).max(Duration::from_millis(1))))?;
        socket.send(b"who are you")?;
        match socket.recv(&mut buffer) {
            Ok(length) => return parse(&buffer[..length]),
            Err(e) if matches!(e.kind(), io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock) => last = e,
            Err(e) => return Err(e),
        }
    }
    Err(last)
}

fn parse(body: &[u8]) -> io::Result<Greeting> {
    serde_json::from_slice(body).map_err(|e| {
        io::Error::new(io::ErrorKind::InvalidData, format!("an answer that is none of ours: {e}"))
    })
}
