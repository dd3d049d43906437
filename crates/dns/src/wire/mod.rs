//! The DNS message format (RFC 1035 §4), as far as a server and a forwarder need it: requests are read, replies are
//! written, and foreign records are copied.
//!
//! What always holds: no input makes this code panic, loop, or read past a message.
//!
//! What is absent: a tree of message objects. Replies are written straight into the buffer that is sent.

pub mod name;
pub mod record;
pub mod reply;
pub mod request;

pub use name::WireName;
pub use reply::{Reply, Section};
pub use request::{Edns, Request, Unanswerable};

/// Length of a message's header, in bytes.
pub const HEADER: usize = 12;

/// Header flags, as bits of the header's second 16-bit word (RFC 1035 §4.1.1, RFC 4035 §3.2).
pub mod flag {
    /// This is a reply.
    pub const QR: u16 = 0x8000;
    /// The answer is authoritative.
    pub const AA: u16 = 0x0400;
    /// The reply was cut.
    pub const TC: u16 = 0x0200;
    /// Recursion is desired.
    pub const RD: u16 = 0x0100;
    /// Recursion is available.
    pub const RA: u16 = 0x0080;
    /// The data is authentic.
    pub const AD: u16 = 0x0020;
    /// Checking is disabled.
    pub const CD: u16 = 0x0010;
}

/// Record types (IANA's DNS parameters).
pub mod rtype {
    /// IPv4 address.
    pub const A: u16 = 1;
    /// Name server.
    pub const NS: u16 = 2;
    /// Alias.
    pub const CNAME: u16 = 5;
    /// Start of authority.
    pub const SOA: u16 = 6;
    /// Name of an address.
    pub const PTR: u16 = 12;
    /// Mail exchange.
    pub const MX: u16 = 15;
    /// Text.
    pub const TXT: u16 = 16;
    /// IPv6 address.
    pub const AAAA: u16 = 28;
    /// Service (RFC 2782).
    pub const SRV: u16 = 33;
    /// Alias of a whole tree (RFC 6672).
    pub const DNAME: u16 = 39;
    /// Extension mechanism's pseudo-record (RFC 6891).
    pub const OPT: u16 = 41;
    /// Incremental zone transfer.
    pub const IXFR: u16 = 251;
    /// Zone transfer.
    pub const AXFR: u16 = 252;
    /// Anything at hand (RFC 8482).
    pub const ANY: u16 = 255;
}

/// The class of everything served here: the internet.
pub const CLASS_IN: u16 = 1;

/// What became of a request (RFC 1035 §4.1.1, RFC 6891 §9).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Rcode {
    /// It was answered.
    NoError,
    /// It was not understood.
    FormErr,
    /// It could not be answered.
    ServFail,
    /// The name does not exist.
    NxDomain,
    /// This kind of request is not known here.
    NotImp,
    /// This request is not answered here.
    Refused,
    /// The EDNS version is not known here.
    BadVers,
}

impl Rcode {
    /// Its number; above 15 the upper bits travel in the OPT record.
    pub fn number(self) -> u16 {
        match self {
            Rcode::NoError => 0,
            Rcode::FormErr => 1,
            Rcode::ServFail => 2,
            Rcode::NxDomain => 3,
            Rcode::NotImp => 4,
            Rcode::Refused => 5,
            Rcode::BadVers => 16,
        }
    }
}

/// Why a request failed, for people who read `dig` (RFC 8914).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExtendedError {
    /// IANA's info-code.
    pub code: u16,
    /// A sentence.
    pub text: &'static str,
}

impl ExtendedError {
    /// The cluster's names have not arrived yet.
    pub const NOT_READY: Self = Self { code: 14, text: "the names of the cluster have not arrived yet" };
    /// Aliases lead round in a circle, or are too many.
    pub const ALIAS_LOOP: Self = Self { code: 0, text: "aliases lead in a circle" };
    /// No resolver is configured.
    pub const NO_UPSTREAM: Self = Self { code: 0, text: "no upstream resolver is configured" };
    /// Every resolver failed or was silent.
    pub const UPSTREAMS_SILENT: Self = Self { code: 23, text: "no upstream resolver answered" };
    /// The request came back from the resolver that it was sent to.
    pub const FORWARD_LOOP: Self = Self { code: 0, text: "the upstream resolver asks this server: a loop" };
    /// Too many requests wait for resolvers.
    pub const TOO_MANY: Self = Self { code: 0, text: "too many requests wait for upstream resolvers" };
}

/// Reads 16 bits at `at`; `None` past the end.
pub fn read_u16(message: &[u8], at: usize) -> Option<u16> {
    let bytes = message.get(at..at.checked_add(2)?)?;
    Some(u16::from_be_bytes([bytes[0], bytes[1]]))
}

/// Reads 32 bits at `at`; `None` past the end.
pub fn read_u32(message: &[u8], at: usize) -> Option<u32> {
    let bytes = message.get(at..at.checked_add(4)?)?;
    Some(u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
}
