//! Packets: what is sent, and what stands in the headers on the way.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use serde::Serialize;
use weft_model::{Family, IfName, NodeName, Protocol};

/// What a packet carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Transport {
    /// A protocol with ports.
    Ports(Protocol),
    /// An echo request or reply (ICMP or ICMPv6, by the packet's family); both "ports" are its identifier.
    Icmp,
}

impl Transport {
    /// The number in the IP header.
    pub fn number(self, family: Family) -> u8 {
        match (self, family) {
            (Transport::Ports(protocol), _) => protocol.number(),
            (Transport::Icmp, Family::V4) => 1,
            (Transport::Icmp, Family::V6) => 58,
        }
    }
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Transport::Ports(protocol) => write!(f, "{protocol}"),
            Transport::Icmp => f.write_str("icmp"),
        }
    }
}

impl Serialize for Transport {
    /// As text: `tcp`, `udp`, `sctp`, `icmp`.
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Addresses and ports in a packet's headers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Headers {
    /// Source address.
    pub source: IpAddr,
    /// Destination address, of the same family.
    pub destination: IpAddr,
    /// What it carries.
    pub transport: Transport,
    /// Source port.
    pub sport: u16,
    /// Destination port.
    pub dport: u16,
}

impl Headers {
    /// The family of both addresses.
    pub fn family(&self) -> Family {
        Family::of(self.destination)
    }

    /// The headers of an answer.
    #[must_use]
    pub fn reversed(&self) -> Self {
        Self {
            source: self.destination,
            destination: self.source,
            transport: self.transport,
            sport: self.dport,
            dport: self.sport,
        }
    }
}

impl fmt::Display for Headers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.transport {
            Transport::Icmp => write!(f, "icmp {} → {}", self.source, self.destination),
            Transport::Ports(_) => write!(
                f,
                "{} {} → {}",
                self.transport,
                SocketAddr::new(self.source, self.sport),
                SocketAddr::new(self.destination, self.dport)
            ),
        }
    }
}

/// The first packet of a connection, as its sender asks for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Packet {
    /// Source address; `None` for the one that the sender's kernel would choose. From outside it must be given.
    pub source: Option<IpAddr>,
    /// Destination address.
    pub destination: IpAddr,
    /// What it carries.
    pub transport: Transport,
    /// Source port.
    pub sport: u16,
    /// Destination port.
    pub dport: u16,
}

/// A source port as a client's kernel may choose it.
const CLIENT_PORT: u16 = 40_000;

impl Packet {
    /// A packet of a protocol with ports, from a port that any client may have.
    pub fn to(protocol: Protocol, destination: IpAddr, dport: u16) -> Self {
        Self { source: None, destination, transport: Transport::Ports(protocol), sport: CLIENT_PORT, dport }
    }

    /// An echo request.
    pub fn ping(destination: IpAddr) -> Self {
        Self { source: None, destination, transport: Transport::Icmp, sport: CLIENT_PORT, dport: CLIENT_PORT }
    }

    /// The same with this source address.
    #[must_use]
    pub fn from(self, source: IpAddr) -> Self {
        Self { source: Some(source), ..self }
    }

    /// The headers that it gets with `source` where it has none of its own.
    pub(super) fn headers(&self, source: IpAddr) -> Headers {
        Headers {
            source: self.source.unwrap_or(source),
            destination: self.destination,
            transport: self.transport,
            sport: self.sport,
            dport: self.dport,
        }
    }
}

/// Where a packet is sent from.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(tag = "from", rename_all = "lowercase")]
pub enum Start {
    /// A pod, by its node and the host end of its link.
    Pod {
        /// The node.
        node: NodeName,
        /// The host end.
        link: IfName,
    },
    /// A process of a node itself.
    Node {
        /// The node.
        node: NodeName,
    },
    /// Somewhere outside; the packet enters a node by one of the machine's own links.
    Outside {
        /// The node that it enters.
        node: NodeName,
        /// The link; `None` for the one that has the destination, else the first.
        link: Option<IfName>,
    },
}
