//! Identifiers, and the typed values that set keys and map data are made of.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use ipnet::IpNet;
use rustc_hash::FxHashSet;
use weft_model::IfName;

use super::Verdict;

/// The name of a set, map or chain in a table.
///
/// Each name is in memory once, however many elements bear it.
#[derive(Clone)]
pub struct Ident(Arc<Box<str>>);

/// The names that are in use, and some that were.
struct Names {
    known: FxHashSet<Ident>,
    /// How many there may be before those that nobody uses any more are looked for.
    limit: usize,
}

/// What always holds: whoever has a name has the one of this table, so that equal names are the same.
static NAMES: LazyLock<Mutex<Names>> =
    LazyLock::new(|| Mutex::new(Names { known: FxHashSet::default(), limit: 256 }));

impl Ident {
    /// Takes a name that the code has made, and that [`Ident::parse`] would take.
    pub fn new(name: &str) -> Self {
        debug_assert!(Self::is_one(name), "{name:?}");
        Self::known(name)
    }

    /// Takes a name of letters, digits and `_-./`, starting with a letter, at most 199 bytes (`NFT_NAME_MAXLEN` is 256): what
    /// nft's own language can say. Other programs' tables may have others.
    pub fn parse(name: &str) -> Option<Self> {
        Self::is_one(name).then(|| Self::known(name))
    }

    fn is_one(name: &str) -> bool {
        name.len() < 200
            && name.starts_with(|c: char| c.is_ascii_alphabetic())
            && name.chars().all(|c| c.is_ascii_alphanumeric() || "_-./".contains(c))
    }

    fn known(name: &str) -> Self {
        // A panic elsewhere leaves the table whole: each change of it is one call.
        let mut names = NAMES.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = names.known.get(name) {
            return known.clone();
        }
        if names.known.len() >= names.limit {
            names.known.retain(|name| Arc::strong_count(&name.0) > 1);
            names.limit = (2 * names.known.len()).max(256);
        }
        let new = Self(Arc::new(name.into()));
        names.known.insert(new.clone());
        new
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl PartialEq for Ident {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Ident {}

impl PartialOrd for Ident {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Ident {
    /// By their texts, which mostly needn't be read: elements are sorted by sets, and there are few.
    fn cmp(&self, other: &Self) -> Ordering {
        if self == other { Ordering::Equal } else { self.as_str().cmp(other.as_str()) }
    }
}

impl Hash for Ident {
    /// As its text does.
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_str().hash(state);
    }
}

impl Borrow<str> for Ident {
    fn borrow(&self) -> &str {
        self.as_str()
    }
}

impl From<&str> for Ident {
    fn from(name: &str) -> Self {
        Self::new(name)
    }
}

impl fmt::Display for Ident {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for Ident {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// nftables' data types, as far as Weft uses them (`nft describe`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Type {
    /// `ipv4_addr`, 4 bytes, network order.
    Ipv4Addr,
    /// `ipv6_addr`, 16 bytes, network order.
    Ipv6Addr,
    /// `ifname`, 16 bytes, padded with zeros.
    IfName,
    /// `inet_proto`, 1 byte.
    InetProto,
    /// `inet_service`, 2 bytes, network order.
    InetService,
    /// `mark`, 4 bytes, host order.
    Mark,
    /// `integer` of 4 bytes, host order: what `numgen` and `jhash` give. nft has no declaration for it by type; a set with it in its
    /// key is declared by example (`typeof meta mark . numgen random mod 1`), which needs an example for every part: see
    /// [`Type::is_declared_with_numbers`]. As a key's part only.
    Number,
    /// `verdict`: as map data only.
    Verdict,
}

impl Type {
    /// nft's name for it.
    pub fn name(self) -> &'static str {
        match self {
            Type::Ipv4Addr => "ipv4_addr",
            Type::Ipv6Addr => "ipv6_addr",
            Type::IfName => "ifname",
            Type::InetProto => "inet_proto",
            Type::InetService => "inet_service",
            Type::Mark => "mark",
            Type::Number => "integer",
            Type::Verdict => "verdict",
        }
    }

    /// An expression that has this type: what nft declares a set by where numbers are in its key (`typeof`).
    pub fn example(self) -> &'static str {
        match self {
            Type::Ipv4Addr => "ip saddr",
            Type::Ipv6Addr => "ip6 saddr",
            Type::IfName => "iifname",
            Type::InetProto => "meta l4proto",
            Type::InetService => "th dport",
            Type::Mark => "meta mark",
            Type::Number => "numgen random mod 1",
            Type::Verdict => "verdict",
        }
    }

    /// Bytes of a value; 0 for verdicts.
    pub fn size(self) -> usize {
        match self {
            Type::Ipv4Addr | Type::Mark | Type::Number => 4,
            Type::Ipv6Addr | Type::IfName => 16,
            Type::InetProto => 1,
            Type::InetService => 2,
            Type::Verdict => 0,
        }
    }

    /// True for what may stand beside a number in a key.
    pub fn is_declared_with_numbers(self) -> bool {
        matches!(self, Type::Mark | Type::InetProto | Type::InetService | Type::IfName | Type::Number)
    }
}

/// One typed value.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Atom {
    /// An IPv4 address.
    V4(Ipv4Addr),
    /// An IPv6 address.
    V6(Ipv6Addr),
    /// A block of addresses, in interval sets only.
    Net(IpNet),
    /// An interface's name.
    Link(IfName),
    /// An IP protocol number.
    Proto(u8),
    /// A transport port.
    Port(u16),
    /// A packet or connection mark.
    Mark(u32),
    /// A plain number.
    Number(u32),
    /// A verdict, as map data only.
    Verdict(Verdict),
}

impl Atom {
    /// The type whose sets it may be in.
    pub fn kind(&self) -> Type {
        match self {
            Atom::V4(_) | Atom::Net(IpNet::V4(_)) => Type::Ipv4Addr,
            Atom::V6(_) | Atom::Net(IpNet::V6(_)) => Type::Ipv6Addr,
            Atom::Link(_) => Type::IfName,
            Atom::Proto(_) => Type::InetProto,
            Atom::Port(_) => Type::InetService,
            Atom::Mark(_) => Type::Mark,
            Atom::Number(_) => Type::Number,
            Atom::Verdict(_) => Type::Verdict,
        }
    }
}

impl From<IpAddr> for Atom {
    fn from(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(a) => Atom::V4(a),
            IpAddr::V6(a) => Atom::V6(a),
        }
    }
}

impl fmt::Display for Atom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Atom::V4(a) => write!(f, "{a}"),
            Atom::V6(a) => write!(f, "{a}"),
            Atom::Net(net) if net.prefix_len() == net.max_prefix_len() => write!(f, "{}", net.addr()),
            Atom::Net(net) => write!(f, "{net}"),
            Atom::Link(name) => write!(f, "\"{name}\""),
            Atom::Proto(number) => match protocol_name(*number) {
                Some(name) => f.write_str(name),
                None => write!(f, "{number}"),
            },
            Atom::Port(port) => write!(f, "{port}"),
            Atom::Mark(mark) => write!(f, "{mark:#010x}"),
            Atom::Number(number) => write!(f, "{number}"),
            Atom::Verdict(verdict) => write!(f, "{verdict}"),
        }
    }
}

/// nft's name of an IP protocol.
pub(super) fn protocol_name(number: u8) -> Option<&'static str> {
    match number {
        1 => Some("icmp"),
        6 => Some("tcp"),
        17 => Some("udp"),
        58 => Some("ipv6-icmp"),
        132 => Some("sctp"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_names_are_one_and_unused_ones_go() {
        let kept = Ident::new("kept_through_it_all");
        for number in 0..10_000 {
            let name = format!("of_a_service_{number}");
            assert_eq!(Ident::new(&name).as_str(), name);
        }
        assert!(NAMES.lock().unwrap().known.len() < 5_000);
        assert_eq!(Ident::new("kept_through_it_all"), kept);
        assert_ne!(Ident::new("kept_through"), kept);
    }

    #[test]
    fn names_of_other_programs_are_taken_where_nft_can_say_them() {
        let check = |name: &str, expected: bool| {
            let name = Ident::parse(name);
            assert_eq!(name.is_some(), expected, "{name:?}");
            // What was read can be made again.
            name.inspect(|name| assert_eq!(Ident::new(name.as_str()), *name));
        };
        check("nodeport-endpoints-check", true);
        check("service-ULMVA6XW-ns1/svc1/tcp/p80", true);
        check("KUBE-SVC-ERIFXISQEP7F7OF4", true);
        check("2fast", false);
        check("with space", false);
        check("", false);
        check(&"n".repeat(200), false);
    }
}
