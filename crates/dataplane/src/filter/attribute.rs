//! Netlink attributes of the nfnetlink subsystems: a writer, a reader, and the message header before them.
//!
//! Numbers in attributes are big-endian (`nf_tables`, `ctnetlink`), lengths in headers are the machine's
//! (`linux/netlink.h`). What always holds: the writer keeps every attribute aligned to 4 bytes, and the reader never
//! reads past what it was given; a truncated attribute ends the list.

/// The attribute holds attributes (`NLA_F_NESTED`).
pub const NESTED: u16 = 0x8000;
const TYPE_MASK: u16 = 0x3fff;
const HEADER: usize = 4;
/// Bytes of `struct nlmsghdr`.
pub const MESSAGE_HEADER: usize = 16;
/// Bytes of `struct nlmsghdr` and `struct nfgenmsg`.
pub const NFNL_HEADER: usize = 20;

fn aligned(length: usize) -> usize {
    length.next_multiple_of(4)
}

/// Writes messages one after the other into one buffer.
#[derive(Debug, Default, Clone)]
pub struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    /// Nothing written yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// What was written.
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// Bytes written so far.
    pub fn written(&self) -> usize {
        self.bytes.len()
    }

    /// Writes a message with the nfnetlink header (`struct nfgenmsg`): `kind` is subsystem and message type, `family` an
    /// `NFPROTO_*`, `resource` the header's `res_id`. The sequence number is `sequence`, the port 0.
    pub fn message(
        &mut self,
        (kind, flags, sequence): (u16, u16, u32),
        (family, resource): (u8, u16),
        body: impl FnOnce(&mut Self),
    ) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(&flags.to_ne_bytes());
        self.bytes.extend_from_slice(&sequence.to_ne_bytes());
        self.bytes.extend_from_slice(&0_u32.to_ne_bytes());
        self.bytes.extend_from_slice(&[family, 0]);
        self.bytes.extend_from_slice(&resource.to_be_bytes());
        body(self);
        let length = (self.bytes.len() - start) as u32;
        self.bytes[start..start + 4].copy_from_slice(&length.to_ne_bytes());
    }

    /// Writes an attribute of bytes.
    pub fn bytes(&mut self, kind: u16, value: &[u8]) {
        self.bytes.extend_from_slice(&((HEADER + value.len()) as u16).to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(value);
        self.bytes.resize(aligned(self.bytes.len()), 0);
    }

    /// Writes a text attribute, with the final zero.
    pub fn text(&mut self, kind: u16, value: &str) {
        let mut bytes = Vec::with_capacity(value.len() + 1);
        bytes.extend_from_slice(value.as_bytes());
        bytes.push(0);
        self.bytes(kind, &bytes);
    }

    /// Writes a 32-bit number, big-endian.
    pub fn u32(&mut self, kind: u16, value: u32) {
        self.bytes(kind, &value.to_be_bytes());
    }

    /// Writes a 64-bit number, big-endian.
    pub fn u64(&mut self, kind: u16, value: u64) {
        self.bytes(kind, &value.to_be_bytes());
    }

    /// Writes an attribute that holds what `body` writes.
    pub fn nest(&mut self, kind: u16, body: impl FnOnce(&mut Self)) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0, 0]);
        self.bytes.extend_from_slice(&(kind | NESTED).to_ne_bytes());
        body(self);
        let length = (self.bytes.len() - start) as u16;
        self.bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes());
    }
}

/// One attribute that was read.
#[derive(Debug, Clone, Copy)]
pub struct Attribute<'a> {
    /// Its type, without the flags.
    pub kind: u16,
    /// Its content.
    pub value: &'a [u8],
}

impl<'a> Attribute<'a> {
    /// A big-endian number; `None` where it doesn't have 4 bytes.
    pub fn u32(&self) -> Option<u32> {
        self.value.try_into().ok().map(u32::from_be_bytes)
    }

    /// A big-endian number; `None` where it doesn't have 8 bytes.
    pub fn u64(&self) -> Option<u64> {
        self.value.try_into().ok().map(u64::from_be_bytes)
    }

    /// Text up to the first zero; `None` where it isn't UTF-8.
    pub fn text(&self) -> Option<&'a str> {
        let end = self.value.iter().position(|b| *b == 0).unwrap_or(self.value.len());
        std::str::from_utf8(&self.value[..end]).ok()
    }

    /// What is nested in it.
    pub fn nested(&self) -> Attributes<'a> {
        Attributes(self.value)
    }
}

/// The attributes in a stretch of bytes.
#[derive(Debug, Clone, Copy)]
pub struct Attributes<'a>(pub &'a [u8]);

impl<'a> Attributes<'a> {
    /// The first attribute of this type.
    pub fn get(&self, kind: u16) -> Option<Attribute<'a>> {
        Attributes(self.0).find(|a| a.kind == kind)
    }
}

impl<'a> Iterator for Attributes<'a> {
    type Item = Attribute<'a>;

    fn next(&mut self) -> Option<Attribute<'a>> {
        let header = self.0.get(..HEADER)?;
        let length = usize::from(u16::from_ne_bytes([header[0], header[1]]));
        let kind = u16::from_ne_bytes([header[2], header[3]]) & TYPE_MASK;
        let value = self.0.get(HEADER..length)?;
        self.0 = self.0.get(aligned(length)..).unwrap_or_default();
        Some(Attribute { kind, value })
    }
}

/// One message that was read.
#[derive(Debug, Clone, Copy)]
pub struct Message<'a> {
    /// Message type, with the subsystem in the upper byte.
    pub kind: u16,
    /// Flags of the header.
    pub flags: u16,
    /// Sequence number.
    pub sequence: u32,
    /// What follows the netlink header.
    pub payload: &'a [u8],
}

impl<'a> Message<'a> {
    /// The family in the nfnetlink header; 0 where there is none.
    pub fn family(&self) -> u8 {
        self.payload.first().copied().unwrap_or_default()
    }

    /// The attributes behind the nfnetlink header.
    pub fn attributes(&self) -> Attributes<'a> {
        Attributes(self.payload.get(4..).unwrap_or_default())
    }
}

/// The messages in a datagram.
#[derive(Debug, Clone, Copy)]
pub struct Messages<'a>(pub &'a [u8]);

impl<'a> Iterator for Messages<'a> {
    type Item = Message<'a>;

    fn next(&mut self) -> Option<Message<'a>> {
        let header = self.0.get(..MESSAGE_HEADER)?;
        let word =
            |at: usize| u32::from_ne_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        let length = word(0) as usize;
        let payload = self.0.get(MESSAGE_HEADER..length)?;
        let message = Message {
            kind: u16::from_ne_bytes([header[4], header[5]]),
            flags: u16::from_ne_bytes([header[6], header[7]]),
            sequence: word(8),
            payload,
        };
        self.0 = self.0.get(aligned(length)..).unwrap_or_default();
        Some(message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_written_is_read() {
        let mut writer = Writer::new();
        writer.message((0x0a01, 5, 7), (1, 10), |w| {
            w.text(1, "weft");
            w.nest(2, |w| {
                w.u32(1, 0xffff_ff00);
                w.u64(2, 1 << 40);
            });
        });
        let bytes = writer.into_bytes();
        let message = Messages(&bytes).next().unwrap();
        assert_eq!((message.kind, message.flags, message.sequence, message.family()), (0x0a01, 5, 7, 1));
        let attributes = message.attributes();
        assert_eq!(attributes.get(1).unwrap().text(), Some("weft"));
        let nested = attributes.get(2).unwrap().nested();
        assert_eq!(nested.get(1).unwrap().u32(), Some(0xffff_ff00));
        assert_eq!(nested.get(2).unwrap().u64(), Some(1 << 40));
        assert!(nested.get(3).is_none());
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_to_an_end(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            for message in Messages(&bytes) {
                prop_assert!(message.payload.len() <= bytes.len());
                for attribute in message.attributes() {
                    prop_assert!(attribute.nested().count() <= bytes.len());
                }
            }
        }
    }
}
