//! Domain names as they travel: length-prefixed labels, 255 bytes at most, in their sender's case.

use std::fmt::Write;

use weft_plan::DnsName;

/// Longest name on the wire, in bytes, the root label included (RFC 1035 §2.3.4).
pub const MAX_NAME: usize = 255;

/// An uncompressed name: labels, then the root label.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WireName(Vec<u8>);

impl WireName {
    /// Takes the name at `at` of a message, following compression pointers, each of which must lead backwards.
    /// Returns it with the place after it; `None` where it is broken.
    pub fn read(message: &[u8], at: usize) -> Option<(Self, usize)> {
        let mut wire = Vec::with_capacity(64);
        let mut at = at;
        let mut end = None;
        // Pointers may only lead before the part that holds them, so this ends.
        let mut part = at;
        loop {
            let length = usize::from(*message.get(at)?);
            match length {
                0 => {
                    wire.push(0);
                    return Some((Self(wire), end.unwrap_or(at + 1)));
                }
                1..=63 => {
                    let label = message.get(at..at + 1 + length)?;
                    if wire.len() + label.len() + 1 > MAX_NAME {
                        return None;
                    }
                    wire.extend_from_slice(label);
                    at += 1 + length;
                }
                192.. => {
                    let target = (length & 0x3f) << 8 | usize::from(*message.get(at + 1)?);
                    if target >= part {
                        return None;
                    }
                    end.get_or_insert(at + 2);
                    at = target;
                    part = target;
                }
                _ => return None,
            }
        }
    }

    /// A plan's name; `None` where it doesn't fit the wire format.
    pub fn of(name: &DnsName) -> Option<Self> {
        if !name.is_encodable() {
            return None;
        }
        let mut wire = Vec::with_capacity(name.as_str().len() + 2);
        for label in name.as_str().split('.').filter(|l| !l.is_empty()) {
            wire.push(u8::try_from(label.len()).ok()?);
            wire.extend_from_slice(label.as_bytes());
        }
        wire.push(0);
        Some(Self(wire))
    }

    /// Its bytes, the root label included.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The labels, without the root.
    pub fn labels(&self) -> impl Iterator<Item = &[u8]> {
        let mut rest = self.0.as_slice();
        std::iter::from_fn(move || {
            let (&length, after) = rest.split_first()?;
            if length == 0 {
                return None;
            }
            let (label, next) = after.split_at(usize::from(length));
            rest = next;
            Some(label)
        })
    }

    /// Lower-case text without the final dot, as a plan's names are. Bytes that no plan's name has are written `\DDD`, so
    /// that each dot of the text stands between two labels.
    pub fn text(&self) -> String {
        let mut text = String::with_capacity(self.0.len());
        for label in self.labels() {
            if !text.is_empty() {
                text.push('.');
            }
            for &byte in label {
                if byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_' {
                    text.push(char::from(byte.to_ascii_lowercase()));
                } else {
                    let _ = write!(text, "\\{byte:03}");
                }
            }
        }
        text
    }

    /// The name without its first `labels` labels; the root where it has no more.
    #[must_use]
    pub fn without(&self, labels: usize) -> Self {
        let skip: usize = self.labels().take(labels).map(|label| 1 + label.len()).sum();
        Self(self.0[skip..].to_vec())
    }

    /// True where both are one name, whatever their case.
    pub fn is_same(&self, other: &Self) -> bool {
        // Length bytes are at most 63, so they have no case.
        self.0.eq_ignore_ascii_case(&other.0)
    }

    /// Gives each letter the case that a bit of `random` says, beginning anew after 64 letters
    /// (draft-vixie-dnsext-dns0x20).
    pub fn randomize_case(&mut self, random: u64) {
        let mut at = 0;
        let mut letter = 0;
        while let Some(&length) = self.0.get(at) {
            let end = at + 1 + usize::from(length);
            for byte in self.0.iter_mut().take(end).skip(at + 1) {
                if byte.is_ascii_alphabetic() {
                    *byte = if random >> (letter % 64) & 1 == 1 {
                        byte.to_ascii_uppercase()
                    } else {
                        byte.to_ascii_lowercase()
                    };
                    letter += 1;
                }
            }
            at = end;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_with_pointers_that_lead_backwards() {
        let check = |message: &[u8], at: usize, expected: Option<(&str, usize)>| {
            let read = WireName::read(message, at).map(|(name, end)| (name.text(), end));
            assert_eq!(read, expected.map(|(n, e)| (n.to_owned(), e)), "{message:?}");
        };
        check(b"\x03Web\x02ns\0", 0, Some(("web.ns", 8)));
        check(b"\0", 0, Some(("", 1)));
        check(b"\x02ns\0\x03web\xc0\x00", 4, Some(("web.ns", 10)));
        check(b"\x03a.b\x01\xff\0", 0, Some(("a\\046b.\\255", 7)));
        check(b"\xc0\x00", 0, None);
        check(b"\x01a\xc0\x00", 0, None);
        check(b"\x01a\xc0\x05\0\0", 0, None);
        check(b"\x03we", 0, None);
        check(b"\x03web", 0, None);
        check(b"\x40a", 0, None);
        check(b"\xc0", 0, None);
        check(b"", 0, None);
        let mut long = vec![0x3f];
        long.extend([b'x'; 63]);
        let mut message = long.repeat(4);
        message.push(0);
        check(&message, 0, None);
    }

    #[test]
    fn case_is_drawn_bit_by_bit() {
        let mut name = WireName::of(&DnsName::new("web-1.ns")).unwrap();
        name.randomize_case(0b10101);
        assert_eq!(name.as_bytes(), b"\x05WeB-1\x02nS\0");
        assert!(name.is_same(&WireName::of(&DnsName::new("web-1.ns")).unwrap()));
    }
}
