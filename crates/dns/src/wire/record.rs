//! Foreign resource records: finding their parts, and copying them into another message.

use std::ops::Range;

use super::{WireName, read_u16, read_u32, rtype};

/// The parts of one record in a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Foreign {
    /// Its owner.
    pub owner: WireName,
    /// Its type.
    pub rtype: u16,
    /// Its class.
    pub class: u16,
    /// Its time to live, in seconds.
    pub ttl: u32,
    /// Where its data is in the message.
    pub data: Range<usize>,
    /// Where the next record begins.
    pub end: usize,
}

/// Finds the parts of the record at `at`; `None` where it is broken.
pub fn read(message: &[u8], at: usize) -> Option<Foreign> {
    let (owner, at) = WireName::read(message, at)?;
    let length = usize::from(read_u16(message, at + 8)?);
    let data = at + 10..at + 10 + length;
    message.get(data.clone())?;
    Some(Foreign {
        owner,
        rtype: read_u16(message, at)?,
        class: read_u16(message, at + 2)?,
        ttl: read_u32(message, at + 4)?,
        end: data.end,
        data,
    })
}

impl Foreign {
    /// Its data with all names written out. Only the types of RFC 1035 and those that early resolvers compressed can hold
    /// pointers (RFC 3597 §4); all else is copied. `None` where it is broken.
    pub fn expanded_data(&self, message: &[u8]) -> Option<Vec<u8>> {
        let raw = message.get(self.data.clone())?;
        let (fixed, names) = match self.rtype {
            rtype::CNAME | rtype::NS | rtype::PTR | rtype::DNAME => (0, 1),
            rtype::MX => (2, 1),
            rtype::SRV => (6, 1),
            rtype::SOA => (0, 2),
            _ => return Some(raw.to_vec()),
        };
        let mut data = raw.get(..fixed)?.to_vec();
        let mut at = self.data.start + fixed;
        for _ in 0..names {
            let (name, end) = WireName::read(message, at)?;
            data.extend_from_slice(name.as_bytes());
            at = end;
        }
        data.extend_from_slice(message.get(at..self.data.end)?);
        Some(data)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pointers_in_data_are_written_out() {
        let mut message = b"\x02ns\0".to_vec();
        message.extend(b"\xc0\x00\0\x0f\0\x01\0\0\0\x09\0\x07\0\x05\x02mx\xc0\x00");
        let record = read(&message, 4).unwrap();
        assert_eq!((record.rtype, record.ttl, record.end), (rtype::MX, 9, message.len()));
        assert_eq!(record.expanded_data(&message).unwrap(), b"\0\x05\x02mx\x02ns\0");
        assert!(read(&message[..message.len() - 1], 4).is_none());
    }
}
