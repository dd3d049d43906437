//! One tracked connection, as far as selectors ask for it (`linux/netfilter/nfnetlink_conntrack.h`). Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::filter::attribute::{Attributes, Writer};

pub(super) const CTA_TUPLE_ORIG: u16 = 1;
pub(super) const CTA_TUPLE_REPLY: u16 = 2;
pub(super) const CTA_MARK: u16 = 8;
pub(super) const CTA_ID: u16 = 12;
pub(super) const CTA_ZONE: u16 = 18;
const CTA_TUPLE_IP: u16 = 1;
const CTA_TUPLE_PROTO: u16 = 2;
const CTA_IP_V4_SRC: u16 = 1;
const CTA_IP_V4_DST: u16 = 2;
const CTA_IP_V6_SRC: u16 = 3;
const CTA_IP_V6_DST: u16 = 4;
const CTA_PROTO_NUM: u16 = 1;
const CTA_PROTO_SRC_PORT: u16 = 2;
const CTA_PROTO_DST_PORT: u16 = 3;

/// One direction of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tuple {
    /// Sender.
    pub source: IpAddr,
    /// Receiver.
    pub destination: IpAddr,
    /// IP protocol number.
    pub protocol: u8,
    /// Sender's port; 0 for protocols without.
    pub source_port: u16,
    /// Receiver's port; 0 for protocols without.
    pub destination_port: u16,
}

/// One connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// The first packet's direction, before any translation.
    pub original: Tuple,
    /// The answers' direction: its source is where the connection really leads.
    pub reply: Tuple,
    /// The connection's mark.
    pub mark: u32,
}

fn address(a: Attributes<'_>, v4: u16, v6: u16) -> Option<IpAddr> {
    if let Some(found) = a.get(v4) {
        return Some(Ipv4Addr::from(<[u8; 4]>::try_from(found.value).ok()?).into());
    }
    Some(Ipv6Addr::from(<[u8; 16]>::try_from(a.get(v6)?.value).ok()?).into())
}

fn tuple(a: Attributes<'_>) -> Option<Tuple> {
    let addresses = a.get(CTA_TUPLE_IP)?.nested();
    let protocol = a.get(CTA_TUPLE_PROTO)?.nested();
    let port = |kind: u16| {
        protocol.get(kind).and_then(|p| p.value.try_into().ok()).map(u16::from_be_bytes).unwrap_or_default()
    };
    Some(Tuple {
        source: address(addresses, CTA_IP_V4_SRC, CTA_IP_V6_SRC)?,
        destination: address(addresses, CTA_IP_V4_DST, CTA_IP_V6_DST)?,
        protocol: *protocol.get(CTA_PROTO_NUM)?.value.first()?,
        source_port: port(CTA_PROTO_SRC_PORT),
        destination_port: port(CTA_PROTO_DST_PORT),
    })
}

/// What of a tuple a listing is confined to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    /// The protocol alone.
    Neither,
    /// Protocol, and sender's address and port.
    Source(IpAddr, u16),
    /// Protocol, and receiver's address and port.
    Destination(IpAddr, u16),
}

/// Writes these parts of a tuple.
pub(super) fn write_tuple(w: &mut Writer, protocol: u8, side: Side) {
    let mut write = |end: Option<(IpAddr, u16)>, (v4, v6, port_kind): (u16, u16, u16)| {
        w.nest(CTA_TUPLE_IP, |w| match end {
            Some((IpAddr::V4(address), _)) => w.bytes(v4, &address.octets()),
            Some((IpAddr::V6(address), _)) => w.bytes(v6, &address.octets()),
            None => {}
        });
        w.nest(CTA_TUPLE_PROTO, |w| {
            w.bytes(CTA_PROTO_NUM, &[protocol]);
            if let Some((_, port)) = end {
                w.bytes(port_kind, &port.to_be_bytes());
            }
        });
    };
    let source = (CTA_IP_V4_SRC, CTA_IP_V6_SRC, CTA_PROTO_SRC_PORT);
    match side {
        Side::Neither => write(None, source),
        Side::Source(address, port) => write(Some((address, port)), source),
        Side::Destination(address, port) => {
            write(Some((address, port)), (CTA_IP_V4_DST, CTA_IP_V6_DST, CTA_PROTO_DST_PORT));
        }
    }
}

impl Entry {
    /// True where the connection leads elsewhere than it was opened to.
    pub fn is_translated(&self) -> bool {
        let (original, reply) = (&self.original, &self.reply);
        (reply.source, reply.source_port) != (original.destination, original.destination_port)
    }

    /// Reads an entry; `None` where it lacks a direction.
    pub fn read(a: Attributes<'_>) -> Option<Self> {
        Some(Self {
            original: tuple(a.get(CTA_TUPLE_ORIG)?.nested())?,
            reply: tuple(a.get(CTA_TUPLE_REPLY)?.nested())?,
            mark: a.get(CTA_MARK).and_then(|mark| mark.u32()).unwrap_or_default(),
        })
    }
}
