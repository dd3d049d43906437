//! Rows of the DNS server: owner names and their records.
//!
//! A row exists for every name that exists, also for names without records of their own (empty non-terminals, RFC
//! 8020): a name without a row is NXDOMAIN, a row without the asked type is NODATA. A row with a [`Zone`] is the top of
//! a zone; what lies in no zone is somebody else's to answer.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

/// A domain name in lower case, absolute, without the final dot; the root is the empty string.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DnsName(Arc<str>);

impl DnsName {
    /// Takes a name; ASCII capitals become small (RFC 4343) and a final dot goes. Its parts were checked as model names,
    /// or are addresses and constants.
    pub fn new(name: &str) -> Self {
        let name = name.strip_suffix('.').unwrap_or(name);
        if name.bytes().any(|b| b.is_ascii_uppercase()) {
            Self(name.to_ascii_lowercase().into())
        } else {
            Self(name.into())
        }
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// True where the name can be sent: labels of 1 to 63 printable bytes, 255 bytes in all (RFC 1035 §2.3.4).
    pub fn is_encodable(&self) -> bool {
        let mut label = 0_u8;
        let fits = self.0.bytes().all(|byte| {
            let begins = byte == b'.';
            let fits =
                if begins { label > 0 } else { label < 63 && byte.is_ascii_graphic() && byte != b'\\' };
            label = if begins { 0 } else { label + 1 };
            fits
        });
        self.0.is_empty() || (self.0.len() <= 253 && fits && label > 0)
    }

    /// The name below this one whose first label or labels are `labels`.
    pub fn child(&self, labels: impl fmt::Display) -> Self {
        if self.0.is_empty() {
            Self::new(&labels.to_string())
        } else {
            Self::new(&format!("{labels}.{}", self.0))
        }
    }

    /// The name without its first label; `None` for the root.
    pub fn parent(&self) -> Option<Self> {
        if self.0.is_empty() {
            return None;
        }
        Some(Self(self.0.split_once('.').map_or("", |(_, rest)| rest).into()))
    }

    /// True for `zone` itself and every name below it.
    pub fn is_in(&self, zone: &DnsName) -> bool {
        zone.0.is_empty()
            || self.0.strip_suffix(zone.as_str()).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    }
}

impl std::borrow::Borrow<str> for DnsName {
    /// Lets a table be asked with a borrowed, lower-case name.
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for DnsName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{}.", self.0))
    }
}

impl fmt::Debug for DnsName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A record's data.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Record {
    /// An IPv4 address.
    A(Ipv4Addr),
    /// An IPv6 address.
    Aaaa(Ipv6Addr),
    /// An alias.
    Cname(DnsName),
    /// The name of an address.
    Ptr(DnsName),
    /// A service's port and host (RFC 2782).
    Srv {
        /// Lower first; Kubernetes demands 0.
        priority: u16,
        /// Share among equals.
        weight: u16,
        /// The port.
        port: u16,
        /// The host.
        target: DnsName,
    },
    /// Text, at most 255 bytes.
    Txt(Box<str>),
    /// A name server of a zone.
    Ns(DnsName),
}

/// What a name holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NameRow {
    /// Its records, sorted, no duplicates; empty for a name that merely exists.
    pub records: Box<[Record]>,
    /// What the names below it are, where they are computed instead of listed.
    pub below: Below,
    /// What holds for the zone that begins here, where one does.
    pub zone: Option<Box<Zone>>,
}

/// What all names of a zone have in common; the row that carries it is the zone's top. A zone ends where another one
/// begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Zone {
    /// The name server in the SOA record.
    pub primary: DnsName,
    /// The mailbox in the SOA record, as a domain name.
    pub mailbox: DnsName,
    /// Time to live of every record, in seconds. Negative answers have this or 300, whichever is less.
    pub ttl: u32,
}

/// How names below a row are found when they have no row of their own.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Below {
    /// They don't exist.
    #[default]
    Nothing,
    /// A single label that is an address with dashes (`10-1-2-3`, `2001-db8--1`) is that address.
    DashedAddresses,
    /// Every name of fewer labels than this below the row exists and holds nothing, as the inner names of a reverse
    /// zone do; names of this many labels or more exist where they have rows.
    InnerNames(u8),
}

impl NameRow {
    /// A row with these records.
    pub fn new(mut records: Vec<Record>) -> Self {
        records.sort();
        records.dedup();
        Self { records: records.into(), below: Below::Nothing, zone: None }
    }

    /// The same row, with the names below it computed.
    #[must_use]
    pub fn with_below(mut self, below: Below) -> Self {
        self.below = below;
        self
    }

    /// The same row as the top of a zone.
    #[must_use]
    pub fn with_zone(mut self, zone: Zone) -> Self {
        self.zone = Some(Box::new(zone));
        self
    }
}

impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Record::A(a) => write!(f, "A {a}"),
            Record::Aaaa(a) => write!(f, "AAAA {a}"),
            Record::Cname(name) => write!(f, "CNAME {name}"),
            Record::Ptr(name) => write!(f, "PTR {name}"),
            Record::Srv { priority, weight, port, target } => {
                write!(f, "SRV {priority} {weight} {port} {target}")
            }
            Record::Txt(text) => write!(f, "TXT {text:?}"),
            Record::Ns(name) => write!(f, "NS {name}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_know_their_zone_and_parent() {
        let zone = DnsName::new("cluster.local.");
        let web = zone.child("web.default.svc");
        assert_eq!(web.to_string(), "web.default.svc.cluster.local.");
        assert!(web.is_in(&zone) && zone.is_in(&zone));
        assert!(!DnsName::new("notcluster.local").is_in(&zone));
        assert_eq!(web.parent().unwrap().as_str(), "default.svc.cluster.local");
        assert_eq!(DnsName::new("LOCAL").parent().unwrap(), DnsName::new(""));
    }

    #[test]
    fn only_names_that_fit_a_message_are_encodable() {
        let check =
            |name: &str, expected: bool| assert_eq!(DnsName::new(name).is_encodable(), expected, "{name:?}");
        check("", true);
        check("_http._tcp.web", true);
        check(&"x".repeat(63), true);
        check(&"x".repeat(64), false);
        check("a..b", false);
        check("a b", false);
        check(&["abcdefg"; 32].join("."), false);
    }
}
