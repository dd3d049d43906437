//! Rows of the DNS server: owner names and their records.
//!
//! A row exists for every name that exists, also for names without records of their own (empty non-terminals, RFC
//! 8020): a name without a row is NXDOMAIN, a row without the asked type is NODATA.

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
            || self
                .0
                .strip_suffix(zone.as_str())
                .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
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
    /// Text.
    Txt(Box<str>),
}

/// What a name holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NameRow {
    /// Its records, sorted, no duplicates; empty for a name that merely exists.
    pub records: Box<[Record]>,
    /// What the names below it are, where they are computed instead of listed.
    pub below: Below,
}

/// How names below a row are found when they have no row of their own.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Below {
    /// They don't exist.
    #[default]
    Nothing,
    /// A single label that is an address with dashes (`10-1-2-3`, `2001-db8--1`) is that address.
    DashedAddresses,
}

impl NameRow {
    /// A row with these records.
    pub fn new(mut records: Vec<Record>) -> Self {
        records.sort();
        records.dedup();
        Self {
            records: records.into(),
            below: Below::Nothing,
        }
    }
}

impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Record::A(a) => write!(f, "A {a}"),
            Record::Aaaa(a) => write!(f, "AAAA {a}"),
            Record::Cname(name) => write!(f, "CNAME {name}"),
            Record::Ptr(name) => write!(f, "PTR {name}"),
            Record::Srv {
                priority,
                weight,
                port,
                target,
            } => write!(f, "SRV {priority} {weight} {port} {target}"),
            Record::Txt(text) => write!(f, "TXT {text:?}"),
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
}
