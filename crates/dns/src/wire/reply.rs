//! Writing a reply: straight into the bytes that are sent, names compressed, never longer than the receiver takes.

use rustc_hash::FxHashMap;

use super::name::WireName;
use super::{CLASS_IN, ExtendedError, HEADER, Rcode, Request, flag, rtype};

/// A record that no longer fits; nothing of it was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Full;

/// A reply's sections, in the order in which they are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Section {
    /// What was asked for.
    Answer = 0,
    /// Who says so.
    Authority = 1,
    /// What will be asked next.
    Additional = 2,
}

/// A record's owner.
#[derive(Debug, Clone, Copy)]
pub enum Owner<'a> {
    /// The name in the question, in its sender's case.
    Question,
    /// Some name.
    Name(&'a WireName),
}

/// A piece of a record's data.
#[derive(Debug, Clone, Copy)]
pub enum Part<'a> {
    /// Bytes as they are.
    Bytes(&'a [u8]),
    /// A name that may be compressed (types of RFC 1035).
    Name(&'a WireName),
    /// A name that must be written out (RFC 2782, RFC 3597 §4).
    PlainName(&'a WireName),
}

/// A reply that is being written. Its header flags start as QR, RA, and what is copied from the request.
pub struct Reply<'a> {
    out: &'a mut Vec<u8>,
    request: &'a Request,
    /// What the message may be long without its OPT record, in bytes.
    room: usize,
    flags: u16,
    counts: [u16; 3],
    /// Where a suffix with this hash was written first; filled when the first name but the question's comes.
    suffixes: FxHashMap<u64, u16>,
}

/// Bytes that an OPT record without options takes.
const OPT_LENGTH: usize = 11;

impl<'a> Reply<'a> {
    /// Begins a reply to `request` of at most `limit` bytes in `out`, which is emptied first.
    pub fn begin(request: &'a Request, limit: usize, out: &'a mut Vec<u8>) -> Self {
        out.clear();
        out.resize(HEADER, 0);
        out.extend_from_slice(request.name.as_bytes());
        out.extend_from_slice(&request.rtype.to_be_bytes());
        out.extend_from_slice(&request.class.to_be_bytes());
        let reserved = if request.edns.is_some() { OPT_LENGTH } else { 0 };
        Self {
            out,
            request,
            room: limit - reserved,
            flags: flag::QR | flag::RA | request.flags & (flag::RD | flag::CD),
            counts: [0; 3],
            suffixes: FxHashMap::default(),
        }
    }

    /// Sets a flag of the header.
    pub fn flag(&mut self, flag: u16) {
        self.flags |= flag;
    }

    /// Adds a record; `ttl` is in seconds.
    ///
    /// # Errors
    /// [`Full`] where it doesn't fit; the reply is as before.
    pub fn record(
        &mut self,
        section: Section,
        owner: Owner<'_>,
        (rtype, class): (u16, u16),
        ttl: u32,
        data: &[Part<'_>],
    ) -> Result<(), Full> {
        let start = self.out.len();
        match owner {
            // The question's name is the first thing after the header.
            Owner::Question => self.out.extend_from_slice(&[0xc0, HEADER as u8]),
            Owner::Name(name) => self.name(name, Compression::Allowed),
        }
        self.out.extend_from_slice(&rtype.to_be_bytes());
        self.out.extend_from_slice(&class.to_be_bytes());
        self.out.extend_from_slice(&ttl.to_be_bytes());
        let length_at = self.out.len();
        self.out.extend_from_slice(&[0, 0]);
        for part in data {
            match part {
                Part::Bytes(bytes) => self.out.extend_from_slice(bytes),
                Part::Name(name) => self.name(name, Compression::Allowed),
                Part::PlainName(name) => self.name(name, Compression::Forbidden),
            }
        }
        let length = u16::try_from(self.out.len() - length_at - 2);
        let (Ok(length), true) = (length, self.out.len() <= self.room) else {
            self.out.truncate(start);
            self.suffixes.retain(|_, at| usize::from(*at) < start);
            return Err(Full);
        };
        self.out[length_at..length_at + 2].copy_from_slice(&length.to_be_bytes());
        self.counts[section as usize] += 1;
        Ok(())
    }

    /// Adds a record of class IN whose data has no names.
    ///
    /// # Errors
    /// As [`Reply::record`].
    pub fn address(
        &mut self,
        section: Section,
        owner: Owner<'_>,
        ttl: u32,
        ip: std::net::IpAddr,
    ) -> Result<(), Full> {
        match ip {
            std::net::IpAddr::V4(ip) => {
                self.record(section, owner, (rtype::A, CLASS_IN), ttl, &[Part::Bytes(&ip.octets())])
            }
            std::net::IpAddr::V6(ip) => {
                self.record(section, owner, (rtype::AAAA, CLASS_IN), ttl, &[Part::Bytes(&ip.octets())])
            }
        }
    }

    /// Number of records in a section so far.
    pub fn count(&self, section: Section) -> u16 {
        self.counts[section as usize]
    }

    /// Completes the message: the OPT record where the request had one, with the reason of a failure, and the header.
    pub fn finish(mut self, rcode: Rcode, reason: Option<ExtendedError>) -> u16 {
        self.finish_with(rcode.number(), reason)
    }

    /// As [`Reply::finish`], with a response code of any number; returns it.
    pub fn finish_with(&mut self, rcode: u16, reason: Option<ExtendedError>) -> u16 {
        if let Some(edns) = self.request.edns {
            self.opt(rcode, edns.dnssec_ok, reason);
            self.counts[Section::Additional as usize] += 1;
        }
        let flags = self.flags | rcode & 0xf;
        let [answer, authority, additional] = self.counts;
        let header = [self.request.id, flags, 1, answer, authority, additional];
        for (at, word) in header.iter().enumerate() {
            self.out[2 * at..2 * at + 2].copy_from_slice(&word.to_be_bytes());
        }
        rcode
    }

    fn opt(&mut self, rcode: u16, dnssec_ok: bool, reason: Option<ExtendedError>) {
        // Failures have no records, so a reason fits wherever one is given.
        let option = reason.map_or(Vec::new(), |reason| {
            let length = reason.text.len() as u16 + 2;
            let mut option = [15u16, length, reason.code].map(u16::to_be_bytes).concat();
            option.extend_from_slice(reason.text.as_bytes());
            option
        });
        let option = if self.out.len() + option.len() <= self.room { option } else { Vec::new() };
        self.out.push(0);
        self.out.extend_from_slice(&rtype::OPT.to_be_bytes());
        self.out.extend_from_slice(&UDP_SIZE.to_be_bytes());
        self.out.extend_from_slice(&[(rcode >> 4) as u8, 0, if dnssec_ok { 0x80 } else { 0 }, 0]);
        self.out.extend_from_slice(&(option.len() as u16).to_be_bytes());
        self.out.extend_from_slice(&option);
    }

    fn name(&mut self, name: &WireName, compression: Compression) {
        if self.suffixes.is_empty() {
            self.remember_question();
        }
        let wire = name.as_bytes();
        let mut at = 0;
        while wire[at] != 0 {
            let suffix = &wire[at..];
            let hash = hash(suffix);
            match self.suffixes.get(&hash) {
                Some(&there) if self.is_written(usize::from(there), suffix) => {
                    if compression == Compression::Allowed {
                        self.out.extend_from_slice(&(0xc000 | there).to_be_bytes());
                        return;
                    }
                }
                _ => self.remember(hash, self.out.len()),
            }
            let next = at + 1 + usize::from(wire[at]);
            self.out.extend_from_slice(&wire[at..next]);
            at = next;
        }
        self.out.push(0);
    }

    fn remember(&mut self, hash: u64, at: usize) {
        // Pointers have 14 bits.
        if at < 0x4000 {
            self.suffixes.entry(hash).or_insert(at as u16);
        }
    }

    fn remember_question(&mut self) {
        let wire = self.request.name.as_bytes();
        let mut at = 0;
        while wire[at] != 0 {
            self.remember(hash(&wire[at..]), HEADER + at);
            at += 1 + usize::from(wire[at]);
        }
    }

    /// True where the name at `at` of this message is `suffix`. A hash alone doesn't say so: names come from clients.
    fn is_written(&self, at: usize, suffix: &[u8]) -> bool {
        WireName::read(self.out, at).is_some_and(|(name, _)| name.as_bytes().eq_ignore_ascii_case(suffix))
    }
}

/// UDP payload that this server says it can receive, in bytes (DNS flag day 2020).
pub const UDP_SIZE: u16 = 1232;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Compression {
    Allowed,
    Forbidden,
}

/// FNV-1a over the bytes in lower case.
fn hash(suffix: &[u8]) -> u64 {
    suffix.iter().fold(0xcbf2_9ce4_8422_2325, |h, b| {
        (h ^ u64::from(b.to_ascii_lowercase())).wrapping_mul(0x0100_0000_01b3)
    })
}

/// Writes a reply that is only a header, for requests whose question can't be read.
pub fn bare_header(id: u16, flags: u16, rcode: Rcode, out: &mut Vec<u8>) {
    out.clear();
    let flags = flag::QR | flags & (0x7800 | flag::RD | flag::CD) | flag::RA | rcode.number() & 0xf;
    for word in [id, flags, 0, 0, 0, 0] {
        out.extend_from_slice(&word.to_be_bytes());
    }
}
