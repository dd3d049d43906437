//! Netlink messages: a builder for what we send, and readers for what comes back.
//!
//! The layout is that of `linux/netlink.h`: a 16-byte header, a fixed header of the message's own, then attributes of
//! type, length and value, each padded to four bytes. Numbers are in host order unless a protocol says otherwise.
//! Readers never trust a length: a truncated attribute ends the iteration.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use weft_model::Mac;

const HEADER: usize = 16;
const NESTED: u16 = 0x8000;
const TYPE_MASK: u16 = 0x3fff;

/// One request, complete but for its sequence number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    bytes: Vec<u8>,
}

impl Message {
    /// A message of type `kind` (`RTM_*`) with `NLM_F_REQUEST | flags` and its fixed header.
    pub fn new(kind: u16, flags: i32, fixed: &[u8]) -> Self {
        let mut bytes = Vec::with_capacity(128);
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&kind.to_ne_bytes());
        bytes.extend_from_slice(&((flags | libc::NLM_F_REQUEST) as u16).to_ne_bytes());
        bytes.extend_from_slice(&[0; 8]);
        bytes.extend_from_slice(fixed);
        let mut message = Self { bytes };
        message.pad();
        message
    }

    /// Adds an attribute.
    #[must_use]
    pub fn attr(mut self, kind: u16, value: &[u8]) -> Self {
        let len = (4 + value.len()) as u16;
        self.bytes.extend_from_slice(&len.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(value);
        self.pad();
        self
    }

    /// Adds a 32-bit number.
    #[must_use]
    pub fn u32(self, kind: u16, value: u32) -> Self {
        self.attr(kind, &value.to_ne_bytes())
    }

    /// Adds a byte.
    #[must_use]
    pub fn u8(self, kind: u16, value: u8) -> Self {
        self.attr(kind, &[value])
    }

    /// Adds text with its final zero.
    #[must_use]
    pub fn text(self, kind: u16, value: &str) -> Self {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.attr(kind, &bytes)
    }

    /// Adds an address in network order.
    #[must_use]
    pub fn address(self, kind: u16, value: IpAddr) -> Self {
        match value {
            IpAddr::V4(a) => self.attr(kind, &a.octets()),
            IpAddr::V6(a) => self.attr(kind, &a.octets()),
        }
    }

    /// Adds an attribute that holds attributes.
    #[must_use]
    pub fn nest(mut self, kind: u16, inner: impl FnOnce(Self) -> Self) -> Self {
        let start = self.bytes.len();
        self = self.attr(kind | NESTED, &[]);
        self = inner(self);
        let len = (self.bytes.len() - start) as u16;
        self.bytes[start..start + 2].copy_from_slice(&len.to_ne_bytes());
        self
    }

    /// Adds raw bytes in an attribute's place: the fixed header that some nested messages begin with.
    #[must_use]
    pub fn raw(mut self, bytes: &[u8]) -> Self {
        self.bytes.extend_from_slice(bytes);
        self.pad();
        self
    }

    /// Length in bytes.
    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// The bytes to send under this sequence number; `ack` adds flags such as `NLM_F_ACK`.
    pub(super) fn write(&self, out: &mut Vec<u8>, sequence: u32, more_flags: i32) {
        let start = out.len();
        out.extend_from_slice(&self.bytes);
        out[start..start + 4].copy_from_slice(&(self.bytes.len() as u32).to_ne_bytes());
        let flags = u16::from_ne_bytes([out[start + 6], out[start + 7]]) | more_flags as u16;
        out[start + 6..start + 8].copy_from_slice(&flags.to_ne_bytes());
        out[start + 8..start + 12].copy_from_slice(&sequence.to_ne_bytes());
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

/// One message of the kernel's.
#[derive(Debug, Clone, Copy)]
pub struct Received<'a> {
    /// `RTM_*`, `NLMSG_*`.
    pub kind: u16,
    /// `NLM_F_*`.
    pub flags: u16,
    /// The request that it answers.
    pub sequence: u32,
    /// The socket whose request caused it; 0 is the kernel itself.
    pub port: u32,
    /// Fixed header and attributes.
    pub body: &'a [u8],
}

impl<'a> Received<'a> {
    /// Splits the first message off a datagram.
    pub fn split(datagram: &'a [u8]) -> Option<(Self, &'a [u8])> {
        let len = number(datagram, 0)? as usize;
        if len < HEADER || len > datagram.len() {
            return None;
        }
        let half = |at: usize| u16::from_ne_bytes([datagram[at], datagram[at + 1]]);
        let message = Self {
            kind: half(4),
            flags: half(6),
            sequence: number(datagram, 8)?,
            port: number(datagram, 12)?,
            body: &datagram[HEADER..len],
        };
        Some((message, &datagram[len.next_multiple_of(4).min(datagram.len())..]))
    }

    /// The attributes behind a fixed header of `fixed` bytes.
    pub fn attributes(&self, fixed: usize) -> Attributes<'a> {
        Attributes::new(self.body.get(fixed..).unwrap_or_default())
    }
}

/// A 32-bit number at a place, in host order.
pub(crate) fn number(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// Iterates over attributes: type without its flag bits, and value.
#[derive(Debug, Clone, Copy)]
pub struct Attributes<'a> {
    rest: &'a [u8],
}

impl<'a> Attributes<'a> {
    /// Attributes in these bytes.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// The value of the first attribute of this type.
    pub fn get(mut self, kind: u16) -> Option<&'a [u8]> {
        self.find(|(k, _)| *k == kind).map(|(_, value)| value)
    }

    /// A 32-bit number.
    pub fn u32(self, kind: u16) -> Option<u32> {
        number(self.get(kind)?, 0)
    }

    /// A byte.
    pub fn u8(self, kind: u16) -> Option<u8> {
        self.get(kind)?.first().copied()
    }

    /// A 16-bit number in network order.
    pub fn be16(self, kind: u16) -> Option<u16> {
        Some(u16::from_be_bytes(self.get(kind)?.get(..2)?.try_into().ok()?))
    }

    /// Text up to its zero.
    pub fn text(self, kind: u16) -> Option<&'a str> {
        let bytes = self.get(kind)?;
        let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
        std::str::from_utf8(&bytes[..end]).ok()
    }

    /// An address of either family, by its length.
    pub fn address(self, kind: u16) -> Option<IpAddr> {
        let bytes = self.get(kind)?;
        if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
            return Some(IpAddr::V4(Ipv4Addr::from(v4)));
        }
        Some(IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?)))
    }

    /// An Ethernet address.
    pub fn mac(self, kind: u16) -> Option<Mac> {
        Some(Mac(self.get(kind)?.try_into().ok()?))
    }

    /// The attributes inside an attribute; none where it is absent.
    pub fn nested(self, kind: u16) -> Attributes<'a> {
        Attributes::new(self.get(kind).unwrap_or_default())
    }
}

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.len() < 4 {
            return None;
        }
        let len = usize::from(u16::from_ne_bytes([self.rest[0], self.rest[1]]));
        let kind = u16::from_ne_bytes([self.rest[2], self.rest[3]]) & TYPE_MASK;
        if len < 4 || len > self.rest.len() {
            self.rest = &[];
            return None;
        }
        let value = &self.rest[4..len];
        self.rest = &self.rest[len.next_multiple_of(4).min(self.rest.len())..];
        Some((kind, value))
    }
}

/// The fixed headers of rtnetlink's messages.
pub(crate) mod headers {
    /// `struct ifinfomsg`: 16 bytes.
    pub(crate) fn link(index: u32, flags: u32, change: u32) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[4..8].copy_from_slice(&index.to_ne_bytes());
        bytes[8..12].copy_from_slice(&flags.to_ne_bytes());
        bytes[12..16].copy_from_slice(&change.to_ne_bytes());
        bytes
    }

    /// `struct ifaddrmsg`: 8 bytes.
    pub(crate) fn address(family: u8, prefix: u8, flags: u8, scope: u8, index: u32) -> [u8; 8] {
        let i = index.to_ne_bytes();
        [family, prefix, flags, scope, i[0], i[1], i[2], i[3]]
    }

    /// `struct ndmsg`: 12 bytes.
    pub(crate) fn neighbour(family: u8, index: u32, state: u16, flags: u8) -> [u8; 12] {
        let (i, s) = (index.to_ne_bytes(), state.to_ne_bytes());
        [family, 0, 0, 0, i[0], i[1], i[2], i[3], s[0], s[1], flags, 0]
    }

    /// `struct rtmsg`, and `struct fib_rule_hdr`, which has the same shape: 12 bytes.
    pub(crate) struct Route {
        pub(crate) family: u8,
        pub(crate) destination_len: u8,
        pub(crate) source_len: u8,
        pub(crate) table: u32,
        pub(crate) protocol: u8,
        pub(crate) scope: u8,
        pub(crate) kind: u8,
        pub(crate) flags: u32,
    }

    impl Route {
        pub(crate) fn bytes(&self) -> [u8; 12] {
            // Tables over 255 don't fit the header; the attribute says the rest (RT_TABLE_COMPAT is 252).
            let table = u8::try_from(self.table).unwrap_or(252);
            let f = self.flags.to_ne_bytes();
            [
                self.family,
                self.destination_len,
                self.source_len,
                0,
                table,
                self.protocol,
                self.scope,
                self.kind,
                f[0],
                f[1],
                f[2],
                f[3],
            ]
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_built_can_be_read() {
        let message = Message::new(16, libc::NLM_F_CREATE, &headers::link(7, 1, 1))
            .text(3, "eth0")
            .nest(18, |m| m.text(1, "veth").nest(2, |m| m.u32(1, 9)));
        let mut bytes = Vec::new();
        message.write(&mut bytes, 5, libc::NLM_F_ACK);
        let (read, rest) = Received::split(&bytes).unwrap();
        assert!(rest.is_empty());
        assert_eq!((read.kind, read.sequence), (16, 5));
        assert_eq!(i32::from(read.flags), libc::NLM_F_CREATE | libc::NLM_F_ACK | libc::NLM_F_REQUEST);
        let attributes = read.attributes(16);
        assert_eq!(attributes.text(3), Some("eth0"));
        assert_eq!(attributes.nested(18).text(1), Some("veth"));
        assert_eq!(attributes.nested(18).nested(2).u32(1), Some(9));
        assert_eq!(number(read.body, 4), Some(7));
    }

    #[test]
    fn a_cut_message_is_no_panic() {
        let message = Message::new(16, 0, &headers::link(7, 1, 1)).text(3, "eth0").u32(4, 1500);
        let mut bytes = Vec::new();
        message.write(&mut bytes, 1, 0);
        for end in 0..bytes.len() {
            assert!(Received::split(&bytes[..end]).is_none());
            let body = &bytes[HEADER.min(end)..end];
            assert!(Attributes::new(body.get(16..).unwrap_or_default()).count() <= 2);
        }
    }
}
