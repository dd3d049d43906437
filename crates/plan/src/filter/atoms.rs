//! Values next to each other, in as few bytes as they need: the key of an element, or its data.
//!
//! A plan of 30,000 services holds half a million of them. As a list of [`Atom`]s each would be an allocation of its own with 24
//! bytes a value; so most need none at all.
//!
//! What always holds: equal values have equal bytes, and only they. The bytes are nobody else's business.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use weft_model::IfName;

use super::{Atom, Ident, Verdict};

/// Bytes that need no allocation: with it all IPv4 keys and data, and a length and a tag fill three words.
const ROOM: usize = 22;

#[derive(Clone)]
enum Bytes {
    Here { length: u8, bytes: [u8; ROOM] },
    Away(Box<[u8]>),
}

/// A list of values.
#[derive(Clone)]
pub struct Atoms(Bytes);

/// What a value begins with.
mod tag {
    pub(super) const V4: u8 = 0;
    pub(super) const V6: u8 = 1;
    pub(super) const NET_V4: u8 = 2;
    pub(super) const NET_V6: u8 = 3;
    pub(super) const LINK: u8 = 4;
    pub(super) const PROTO: u8 = 5;
    pub(super) const PORT: u8 = 6;
    pub(super) const MARK: u8 = 7;
    pub(super) const NUMBER: u8 = 8;
    pub(super) const ACCEPT: u8 = 9;
    pub(super) const DROP: u8 = 10;
    pub(super) const RETURN: u8 = 11;
    pub(super) const JUMP: u8 = 12;
    pub(super) const GOTO: u8 = 13;
}

impl Atoms {
    /// The values, one by one.
    pub fn iter(&self) -> Iter<'_> {
        Iter { rest: self.bytes() }
    }

    /// The values as a list, to be matched.
    pub fn to_vec(&self) -> Vec<Atom> {
        self.iter().collect()
    }

    /// Number of values.
    pub fn len(&self) -> usize {
        self.iter().count()
    }

    /// True for the data of a set's element.
    pub fn is_empty(&self) -> bool {
        self.bytes().is_empty()
    }

    fn bytes(&self) -> &[u8] {
        match &self.0 {
            Bytes::Here { length, bytes } => &bytes[..usize::from(*length)],
            Bytes::Away(bytes) => bytes,
        }
    }

    fn push(&mut self, atom: &Atom) {
        match atom {
            Atom::V4(address) => self.write(tag::V4, &[&address.octets()]),
            Atom::V6(address) => self.write(tag::V6, &[&address.octets()]),
            Atom::Net(IpNet::V4(net)) => {
                self.write(tag::NET_V4, &[&[net.prefix_len()], &net.addr().octets()]);
            }
            Atom::Net(IpNet::V6(net)) => {
                self.write(tag::NET_V6, &[&[net.prefix_len()], &net.addr().octets()]);
            }
            Atom::Link(name) => self.write_text(tag::LINK, name.as_str()),
            Atom::Proto(number) => self.write(tag::PROTO, &[&[*number]]),
            Atom::Port(port) => self.write(tag::PORT, &[&port.to_be_bytes()]),
            Atom::Mark(mark) => self.write(tag::MARK, &[&mark.to_be_bytes()]),
            Atom::Number(number) => self.write(tag::NUMBER, &[&number.to_be_bytes()]),
            Atom::Verdict(Verdict::Accept) => self.write(tag::ACCEPT, &[]),
            Atom::Verdict(Verdict::Drop) => self.write(tag::DROP, &[]),
            Atom::Verdict(Verdict::Return) => self.write(tag::RETURN, &[]),
            Atom::Verdict(Verdict::Jump(chain)) => self.write_text(tag::JUMP, chain.as_str()),
            Atom::Verdict(Verdict::Goto(chain)) => self.write_text(tag::GOTO, chain.as_str()),
        }
    }

    /// Names of links and chains are shorter than 128 bytes.
    fn write_text(&mut self, tag: u8, text: &str) {
        self.write(tag, &[&[text.len() as u8], text.as_bytes()]);
    }

    fn write(&mut self, tag: u8, parts: &[&[u8]]) {
        let more: usize = 1 + parts.iter().map(|part| part.len()).sum::<usize>();
        match &mut self.0 {
            Bytes::Here { length, bytes } if usize::from(*length) + more <= ROOM => {
                let mut at = usize::from(*length);
                for part in [&[tag][..]].iter().chain(parts) {
                    bytes[at..at + part.len()].copy_from_slice(part);
                    at += part.len();
                }
                *length = at as u8;
            }
            _ => {
                let mut bytes = Vec::with_capacity(self.bytes().len() + more);
                bytes.extend_from_slice(self.bytes());
                bytes.push(tag);
                parts.iter().for_each(|part| bytes.extend_from_slice(part));
                self.0 = Bytes::Away(bytes.into());
            }
        }
    }
}

impl Default for Atoms {
    fn default() -> Self {
        Self(Bytes::Here { length: 0, bytes: [0; ROOM] })
    }
}

impl<'a> FromIterator<&'a Atom> for Atoms {
    fn from_iter<I: IntoIterator<Item = &'a Atom>>(atoms: I) -> Self {
        let mut packed = Self::default();
        atoms.into_iter().for_each(|atom| packed.push(atom));
        packed
    }
}

impl FromIterator<Atom> for Atoms {
    fn from_iter<I: IntoIterator<Item = Atom>>(atoms: I) -> Self {
        let mut packed = Self::default();
        atoms.into_iter().for_each(|atom| packed.push(&atom));
        packed
    }
}

impl<const N: usize> From<[Atom; N]> for Atoms {
    fn from(atoms: [Atom; N]) -> Self {
        atoms.iter().collect()
    }
}

impl From<Vec<Atom>> for Atoms {
    fn from(atoms: Vec<Atom>) -> Self {
        atoms.iter().collect()
    }
}

impl From<&[Atom]> for Atoms {
    fn from(atoms: &[Atom]) -> Self {
        atoms.iter().collect()
    }
}

impl PartialEq for Atoms {
    fn eq(&self, other: &Self) -> bool {
        self.bytes() == other.bytes()
    }
}

impl Eq for Atoms {}

impl Hash for Atoms {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.bytes().hash(state);
    }
}

impl PartialOrd for Atoms {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Atoms {
    /// By their values, as a person would sort them.
    fn cmp(&self, other: &Self) -> Ordering {
        self.iter().cmp(other.iter())
    }
}

impl fmt::Debug for Atoms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

impl<'a> IntoIterator for &'a Atoms {
    type Item = Atom;
    type IntoIter = Iter<'a>;
    fn into_iter(self) -> Iter<'a> {
        self.iter()
    }
}

/// The values of a list, one by one.
#[derive(Debug, Clone)]
pub struct Iter<'a> {
    rest: &'a [u8],
}

impl<'a> Iter<'a> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.rest.split_first_chunk()?;
        self.rest = rest;
        Some(*taken)
    }

    fn text(&mut self) -> Option<&'a str> {
        let [length] = self.take()?;
        let (text, rest) = self.rest.split_at_checked(usize::from(length))?;
        self.rest = rest;
        str::from_utf8(text).ok()
    }

    fn net(&mut self, address: fn(&mut Self) -> Option<IpAddr>) -> Option<Atom> {
        let [prefix] = self.take()?;
        Some(Atom::Net(IpNet::new(address(self)?, prefix).ok()?))
    }
}

impl Iterator for Iter<'_> {
    type Item = Atom;

    fn next(&mut self) -> Option<Atom> {
        let [tag] = self.take()?;
        Some(match tag {
            tag::V4 => Atom::V4(Ipv4Addr::from(self.take::<4>()?)),
            tag::V6 => Atom::V6(Ipv6Addr::from(self.take::<16>()?)),
            tag::NET_V4 => self.net(|iter| Some(iter.take::<4>()?.into()))?,
            tag::NET_V6 => self.net(|iter| Some(iter.take::<16>()?.into()))?,
            tag::LINK => Atom::Link(IfName::new(self.text()?).ok()?),
            tag::PROTO => Atom::Proto(self.take::<1>()?[0]),
            tag::PORT => Atom::Port(u16::from_be_bytes(self.take()?)),
            tag::MARK => Atom::Mark(u32::from_be_bytes(self.take()?)),
            tag::NUMBER => Atom::Number(u32::from_be_bytes(self.take()?)),
            tag::ACCEPT => Atom::Verdict(Verdict::Accept),
            tag::DROP => Atom::Verdict(Verdict::Drop),
            tag::RETURN => Atom::Verdict(Verdict::Return),
            tag::JUMP => Atom::Verdict(Verdict::Jump(Ident::new(self.text()?))),
            tag::GOTO => Atom::Verdict(Verdict::Goto(Ident::new(self.text()?))),
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn atom() -> impl Strategy<Value = Atom> {
        let name = "[a-z][a-z0-9_]{0,14}";
        let verdict = prop_oneof![
            Just(Verdict::Accept),
            Just(Verdict::Drop),
            Just(Verdict::Return),
            name.prop_map(|name| Verdict::Jump(Ident::new(&name))),
            name.prop_map(|name| Verdict::Goto(Ident::new(&name))),
        ];
        let net = (any::<IpAddr>(), 0..=32_u8).prop_map(|(ip, prefix)| IpNet::new(ip, prefix).unwrap());
        prop_oneof![
            any::<Ipv4Addr>().prop_map(Atom::V4),
            any::<Ipv6Addr>().prop_map(Atom::V6),
            net.prop_map(Atom::Net),
            name.prop_map(|name| Atom::Link(IfName::new(&name).unwrap())),
            any::<u8>().prop_map(Atom::Proto),
            any::<u16>().prop_map(Atom::Port),
            // Few, so that lists are equal now and then.
            (0..3_u32).prop_map(Atom::Mark),
            (0..3_u32).prop_map(Atom::Number),
            verdict.prop_map(Atom::Verdict),
        ]
    }

    fn hash(value: &impl Hash) -> u64 {
        let mut hasher = rustc_hash::FxHasher::default();
        value.hash(&mut hasher);
        hasher.finish()
    }

    proptest! {
        #[test]
        fn a_list_is_what_was_put_in(a in prop::collection::vec(atom(), 0..6), b in prop::collection::vec(atom(), 0..3)) {
            let (packed, other) = (Atoms::from(a.clone()), Atoms::from(b.clone()));
            prop_assert_eq!(packed.to_vec(), a.clone());
            prop_assert_eq!((packed.len(), packed.is_empty()), (a.len(), a.is_empty()));
            prop_assert_eq!(packed == other, a == b);
            prop_assert_eq!(packed.cmp(&other), a.cmp(&b));
            prop_assert!(packed != other || hash(&packed) == hash(&other));
        }
    }

    #[test]
    fn keys_and_data_of_services_need_no_allocation() {
        let here = |atoms: &[Atom]| matches!(Atoms::from(atoms).0, Bytes::Here { .. });
        let place = [Atom::V4(Ipv4Addr::LOCALHOST), Atom::Proto(6), Atom::Port(80), Atom::Mark(1)];
        assert!(here(&place));
        assert!(here(&[Atom::V6(Ipv6Addr::LOCALHOST), Atom::Port(80)]));
        assert!(!here(&[Atom::V6(Ipv6Addr::LOCALHOST), Atom::Proto(6), Atom::Port(80), Atom::Mark(1)]));
        assert_eq!(size_of::<Atoms>(), 24);
    }
}
