//! Connection tracking of one node: who talks to whom, and how addresses were translated.
//!
//! The meaning is that of `nf_conntrack` and `nf_nat`: a connection has the headers of both directions; translating one
//! packet means giving it what the other direction, inverted, says. Time-outs, port clashes and protocol states beyond "first packet"
//! and "answer" are left out.

use weft_model::FactKey;

use super::packet::{Headers, Transport};

/// Which part of a connection's addresses a hook may rewrite (`nf_nat_manip_type`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Manip {
    /// At prerouting and output.
    Destination,
    /// At input and postrouting.
    Source,
}

/// One connection.
#[derive(Debug, Clone)]
pub(super) struct Connection {
    /// Headers of its first packet as it came.
    pub original: Headers,
    /// Headers of an answer as it will come.
    pub reply: Headers,
    /// Its destination was rewritten (`IPS_DST_NAT`).
    pub dnat: bool,
    /// Its source was rewritten (`IPS_SRC_NAT`).
    pub snat: bool,
    /// The nat chains have had their say on the destination.
    pub destination_settled: bool,
    /// The nat chains have had their say on the source.
    pub source_settled: bool,
    /// An answer was seen.
    pub answered: bool,
    /// The first packet got through this node; until then nobody else finds the connection.
    pub confirmed: bool,
    /// `ct mark`.
    pub mark: u32,
    destination_by: Option<FactKey>,
    source_by: Option<FactKey>,
}

/// A packet's direction in its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    Original,
    Reply,
}

/// What a packet knows of its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tracking {
    /// Not looked up yet, or not placeable: `ct state invalid`.
    None,
    /// Kept out by `notrack`.
    Untracked,
    /// A connection of this node's table.
    Tracked(usize, Direction),
}

/// The place of a packet in its conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// The first packet: SYN, echo request, first datagram.
    Opening,
    /// The answer to it: SYN-ACK, echo reply, a datagram back.
    Answer,
}

/// One node's connections.
#[derive(Debug, Clone, Default)]
pub(super) struct Connections(Vec<Connection>);

impl Connections {
    /// Places a packet (`nf_conntrack_in`): finds its connection, or begins one. An answer that belongs to nothing is placed for
    /// datagrams only: TCP, SCTP and ICMP know that it can't be a beginning.
    pub fn place(&mut self, headers: &Headers, phase: Phase) -> Tracking {
        let confirmed = || self.0.iter().enumerate().filter(|(_, c)| c.confirmed);
        if let Some((at, _)) = confirmed().find(|(_, c)| c.original == *headers) {
            return Tracking::Tracked(at, Direction::Original);
        }
        if let Some((at, _)) = confirmed().find(|(_, c)| c.reply == *headers) {
            self.0[at].answered = true;
            return Tracking::Tracked(at, Direction::Reply);
        }
        let datagram = matches!(headers.transport, Transport::Ports(weft_model::Protocol::Udp));
        if phase == Phase::Answer && !datagram {
            return Tracking::None;
        }
        self.0.push(Connection {
            original: *headers,
            reply: headers.reversed(),
            dnat: false,
            snat: false,
            destination_settled: false,
            source_settled: false,
            answered: false,
            confirmed: false,
            mark: 0,
            destination_by: None,
            source_by: None,
        });
        Tracking::Tracked(self.0.len() - 1, Direction::Original)
    }

    /// The connection at a place that [`Connections::place`] gave.
    pub fn get(&self, at: usize) -> Option<&Connection> {
        self.0.get(at)
    }

    /// The same, to change.
    pub fn get_mut(&mut self, at: usize) -> Option<&mut Connection> {
        self.0.get_mut(at)
    }
}

impl Connection {
    /// True until the nat chains of a kind were asked (`nf_nat_initialized`).
    pub fn is_open(&self, manip: Manip) -> bool {
        match manip {
            Manip::Destination => !self.destination_settled,
            Manip::Source => !self.source_settled,
        }
    }

    /// The nat chains of a kind were asked, and said nothing.
    pub fn settle(&mut self, manip: Manip) {
        match manip {
            Manip::Destination => self.destination_settled = true,
            Manip::Source => self.source_settled = true,
        }
    }

    /// Remembers the fact behind a decision of the nat chains.
    pub fn decided_by(&mut self, manip: Manip, fact: Option<FactKey>) {
        match manip {
            Manip::Destination => self.destination_by = fact.or(self.destination_by.take()),
            Manip::Source => self.source_by = fact.or(self.source_by.take()),
        }
    }

    /// The fact behind what [`Connection::rewrite`] does to such a packet: what was done one way is undone the other.
    pub fn author(&self, manip: Manip, direction: Direction) -> Option<&FactKey> {
        match (direction, manip) {
            (Direction::Original, Manip::Destination) | (Direction::Reply, Manip::Source) => {
                self.destination_by.as_ref()
            }
            (Direction::Original, Manip::Source) | (Direction::Reply, Manip::Destination) => {
                self.source_by.as_ref()
            }
        }
    }

    /// Decides a translation (`nf_nat_setup_info`): the packet gets this address, and this port where one is given.
    pub fn translate(&mut self, manip: Manip, address: std::net::IpAddr, port: Option<u16>) {
        let now = self.reply.reversed();
        let mut wanted = now;
        let ports = wanted.transport != Transport::Icmp;
        match manip {
            Manip::Destination => {
                wanted.destination = address;
                wanted.dport = port.filter(|_| ports).unwrap_or(wanted.dport);
                self.dnat |= wanted != now;
            }
            Manip::Source => {
                wanted.source = address;
                wanted.sport = port.filter(|_| ports).unwrap_or(wanted.sport);
                self.snat |= wanted != now;
            }
        }
        self.reply = wanted.reversed();
        self.settle(manip);
    }

    /// Rewrites a packet as the connection says (`nf_nat_packet`); true where that changed it.
    pub fn rewrite(&self, manip: Manip, direction: Direction, headers: &mut Headers) -> bool {
        let before = *headers;
        let (translated, target) = match (direction, manip) {
            (Direction::Original, Manip::Destination) => (self.dnat, self.reply.reversed()),
            (Direction::Original, Manip::Source) => (self.snat, self.reply.reversed()),
            (Direction::Reply, Manip::Destination) => (self.snat, self.original.reversed()),
            (Direction::Reply, Manip::Source) => (self.dnat, self.original.reversed()),
        };
        if translated && manip == Manip::Destination {
            (headers.destination, headers.dport) = (target.destination, target.dport);
        } else if translated {
            (headers.source, headers.sport) = (target.source, target.sport);
        }
        *headers != before
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use weft_model::Protocol;

    use super::*;

    fn headers(source: &str, destination: &str, transport: Transport) -> Headers {
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        let (source, destination) = (address(source), address(destination));
        Headers { source, destination, transport, sport: 1000, dport: 80 }
    }

    #[test]
    fn an_answer_is_translated_back() {
        let tcp = Transport::Ports(Protocol::Tcp);
        let mut connections = Connections::default();
        let opening = headers("192.0.2.9", "192.0.2.1", tcp);
        let Tracking::Tracked(at, Direction::Original) = connections.place(&opening, Phase::Opening) else {
            panic!("a first packet begins a connection")
        };
        let connection = connections.get_mut(at).unwrap();
        connection.translate(Manip::Destination, "10.244.1.2".parse().unwrap(), Some(8080));
        connection.translate(Manip::Source, "192.0.2.1".parse().unwrap(), None);
        connection.confirmed = true;
        let mut packet = opening;
        assert!(connection.rewrite(Manip::Destination, Direction::Original, &mut packet));
        assert!(connection.rewrite(Manip::Source, Direction::Original, &mut packet));
        assert_eq!(packet.to_string(), "tcp 192.0.2.1:1000 → 10.244.1.2:8080");

        let mut answer = packet.reversed();
        assert_eq!(connections.place(&answer, Phase::Answer), Tracking::Tracked(at, Direction::Reply));
        let connection = connections.get(at).unwrap();
        assert!(connection.rewrite(Manip::Destination, Direction::Reply, &mut answer));
        assert!(connection.rewrite(Manip::Source, Direction::Reply, &mut answer));
        assert_eq!(answer, opening.reversed());
    }

    #[test]
    fn answers_to_nothing() {
        let place = |transport| {
            Connections::default().place(&headers("192.0.2.9", "192.0.2.1", transport), Phase::Answer)
        };
        assert_eq!(place(Transport::Ports(Protocol::Tcp)), Tracking::None);
        assert_eq!(place(Transport::Icmp), Tracking::None);
        assert_eq!(place(Transport::Ports(Protocol::Udp)), Tracking::Tracked(0, Direction::Original));
    }
}
