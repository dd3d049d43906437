//! Addresses, prefixes, interface names and the other small numbers of networking.
//!
//! What always holds: a [`Port`], [`Vni`], [`IfName`] or [`Cidr`] was checked when it was made, also when it was read from a file,
//! so that whoever has one checks it no more. What is derived ([`Mac::derived`], [`fnv1a`]) is the same on every machine and in
//! every version: peers rely on it without having spoken.
//!
//! What is absent: what a value is for. Any block is a [`Cidr`], whether pods may have it is [`Cidr::for_pods`]; a [`Mac`] is any
//! six bytes.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::num::NonZeroU16;
use std::str::FromStr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// Why a string or number is not a value of the kind asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{value:?} is no valid {what}: {reason}")]
pub struct InvalidNet {
    /// The kind of value, as a user would call it.
    pub what: &'static str,
    /// What was given.
    pub value: String,
    /// The rule that it breaks, or the mend.
    pub reason: String,
}

pub(crate) fn invalid(what: &'static str, value: impl fmt::Display, reason: impl Into<String>) -> InvalidNet {
    InvalidNet { what, value: value.to_string(), reason: reason.into() }
}

/// An address family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Family {
    /// IPv4.
    #[serde(rename = "IPv4")]
    V4,
    /// IPv6.
    #[serde(rename = "IPv6")]
    V6,
}

impl Family {
    /// Both families, IPv4 first.
    pub const ALL: [Family; 2] = [Family::V4, Family::V6];

    /// The family of an address.
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Family::V4 } else { Family::V6 }
    }

    /// Bits in an address of this family: 32 or 128.
    pub fn bits(self) -> u8 {
        match self {
            Family::V4 => 32,
            Family::V6 => 128,
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Family::V4 => "IPv4",
            Family::V6 => "IPv6",
        })
    }
}

/// A transport protocol that Kubernetes knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Protocol {
    /// TCP (6).
    Tcp,
    /// UDP (17).
    Udp,
    /// SCTP (132).
    Sctp,
}

impl Protocol {
    /// The number in the IP header (IANA protocol numbers).
    pub fn number(self) -> u8 {
        match self {
            Protocol::Tcp => 6,
            Protocol::Udp => 17,
            Protocol::Sctp => 132,
        }
    }

    /// The name in lower case, as DNS SRV names and nftables write it.
    pub fn name(self) -> &'static str {
        match self {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
            Protocol::Sctp => "sctp",
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Protocol {
    type Err = InvalidNet;
    /// Accepts any case: Kubernetes writes `TCP`, CNI runtimes write `tcp`.
    fn from_str(value: &str) -> Result<Self, InvalidNet> {
        match value.to_ascii_lowercase().as_str() {
            "tcp" => Ok(Protocol::Tcp),
            "udp" => Ok(Protocol::Udp),
            "sctp" => Ok(Protocol::Sctp),
            _ => Err(invalid("protocol", value, "use TCP, UDP or SCTP")),
        }
    }
}

/// A transport port, 1 to 65535.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct Port(NonZeroU16);

impl Port {
    /// Checks the range.
    ///
    /// # Errors
    /// When `value` is 0 or above 65535.
    pub fn new(value: u32) -> Result<Self, InvalidNet> {
        u16::try_from(value)
            .ok()
            .and_then(NonZeroU16::new)
            .map(Self)
            .ok_or_else(|| invalid("port", value, "it must be 1 to 65535"))
    }

    /// The number.
    pub fn get(self) -> u16 {
        self.0.get()
    }
}

impl TryFrom<u32> for Port {
    type Error = InvalidNet;
    fn try_from(value: u32) -> Result<Self, InvalidNet> {
        Self::new(value)
    }
}

impl From<Port> for u32 {
    fn from(port: Port) -> u32 {
        u32::from(port.get())
    }
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Debug for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// A VXLAN network identifier, 1 to 2^24 − 1 (RFC 7348 §5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct Vni(u32);

impl Vni {
    /// Checks the range.
    ///
    /// # Errors
    /// When `value` is 0 or does not fit 24 bits.
    pub fn new(value: u32) -> Result<Self, InvalidNet> {
        if (1..1 << 24).contains(&value) {
            Ok(Self(value))
        } else {
            Err(invalid("VNI", value, "it must be 1 to 16777215"))
        }
    }

    /// The number.
    pub fn get(self) -> u32 {
        self.0
    }
}

impl TryFrom<u32> for Vni {
    type Error = InvalidNet;
    fn try_from(value: u32) -> Result<Self, InvalidNet> {
        Self::new(value)
    }
}

impl From<Vni> for u32 {
    fn from(vni: Vni) -> u32 {
        vni.0
    }
}

/// A network interface's name: 1–15 bytes, no slash and no white space (`dev_valid_name` in the kernel).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct IfName {
    bytes: [u8; 15],
    len: u8,
}

impl IfName {
    /// Checks `value` and takes it.
    ///
    /// # Errors
    /// When the kernel would refuse the name.
    pub fn new(value: &str) -> Result<Self, InvalidNet> {
        let bad = |reason: &str| Err(invalid("interface name", value, reason));
        if value.is_empty() || value.len() > 15 {
            return bad("it must have 1 to 15 bytes");
        }
        if value == "."
            || value == ".."
            || value.bytes().any(|b| b == b'/' || b == b':' || !b.is_ascii_graphic())
        {
            return bad("slashes, colons and white space are not allowed");
        }
        let mut bytes = [0; 15];
        bytes[..value.len()].copy_from_slice(value.as_bytes());
        Ok(Self { bytes, len: value.len() as u8 })
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        // The constructor took the bytes from a &str of ASCII, so this can't fail.
        std::str::from_utf8(&self.bytes[..usize::from(self.len)]).unwrap_or_default()
    }

    /// The loopback interface.
    pub fn loopback() -> Self {
        let mut bytes = [0; 15];
        bytes[..2].copy_from_slice(b"lo");
        Self { bytes, len: 2 }
    }
}

impl FromStr for IfName {
    type Err = InvalidNet;
    fn from_str(value: &str) -> Result<Self, InvalidNet> {
        Self::new(value)
    }
}

impl TryFrom<String> for IfName {
    type Error = InvalidNet;
    fn try_from(value: String) -> Result<Self, InvalidNet> {
        Self::new(&value)
    }
}

impl From<IfName> for String {
    fn from(name: IfName) -> String {
        name.as_str().to_owned()
    }
}

impl fmt::Display for IfName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl fmt::Debug for IfName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

/// An Ethernet address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// A unicast, locally administered address made from `seed`: the same seed gives the same address on every
    /// node, so that a peer's address needs no exchange. 46 bits of FNV-1a.
    pub fn derived(seed: &str) -> Self {
        let hash = fnv1a(seed.as_bytes());
        let bytes = hash.to_be_bytes();
        Self([(bytes[2] & 0xfc) | 0x02, bytes[3], bytes[4], bytes[5], bytes[6], bytes[7]])
    }

    /// True for an address that a single interface may have.
    pub fn is_unicast(self) -> bool {
        self.0[0] & 1 == 0 && self.0 != [0; 6]
    }
}

/// 64-bit FNV-1a with a final mix: stable across versions and machines, unlike `std`'s hashers, and not for secrets.
pub fn fnv1a(bytes: &[u8]) -> u64 {
    fnv1a_of([bytes])
}

/// [`fnv1a`] of the parts one after the other.
pub fn fnv1a_of<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> u64 {
    let step = |h: u64, b: &u8| (h ^ u64::from(*b)).wrapping_mul(0x100_0000_01b3);
    let mut hash = parts.into_iter().flatten().fold(0xcbf2_9ce4_8422_2325_u64, step);
    hash ^= hash >> 32;
    hash = hash.wrapping_mul(0xd6e8_feb8_6659_fd93);
    hash ^ (hash >> 32)
}

impl FromStr for Mac {
    type Err = InvalidNet;
    fn from_str(value: &str) -> Result<Self, InvalidNet> {
        let bad = || invalid("MAC address", value, "write six pairs of hexadecimal digits joined by colons");
        let mut bytes = [0; 6];
        let mut parts = value.split(':');
        for byte in &mut bytes {
            let part = parts.next().filter(|p| p.len() == 2).ok_or_else(bad)?;
            *byte = u8::from_str_radix(part, 16).map_err(|_| bad())?;
        }
        if parts.next().is_some() {
            return Err(bad());
        }
        Ok(Self(bytes))
    }
}

impl TryFrom<String> for Mac {
    type Error = InvalidNet;
    fn try_from(value: String) -> Result<Self, InvalidNet> {
        value.parse()
    }
}

impl From<Mac> for String {
    fn from(mac: Mac) -> String {
        mac.to_string()
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Blocks that no pod can have an address of, and what each is for.
const SET_APART: [(&str, &str); 8] = [
    ("0.0.0.0/8", "this network"),
    ("127.0.0.0/8", "loopback"),
    ("169.254.0.0/16", "link-local"),
    ("224.0.0.0/3", "multicast and reserved"),
    ("::/96", "loopback and no address"),
    ("::ffff:0:0/96", "IPv4 in IPv6"),
    ("fe80::/10", "link-local"),
    ("ff00::/8", "multicast"),
];

/// An address by which a machine can be reached from another one.
///
/// # Errors
/// Where it is no single machine's: unspecified, loopback, broadcast or multicast.
pub fn machine_address(address: IpAddr) -> Result<IpAddr, InvalidNet> {
    let broadcast = address == IpAddr::V4(Ipv4Addr::BROADCAST);
    if address.is_unspecified() || address.is_loopback() || address.is_multicast() || broadcast {
        return Err(invalid("machine's address", address, "other machines can't reach one by it"));
    }
    Ok(address)
}

/// An address as a number, in the order of addresses; IPv4 below 2^32.
pub fn number_of(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(a) => u128::from(a.to_bits()),
        IpAddr::V6(a) => a.to_bits(),
    }
}

/// The address of a family with this number; for IPv4 its lower 32 bits count.
pub fn numbered(family: Family, number: u128) -> IpAddr {
    match family {
        Family::V4 => IpAddr::V4(Ipv4Addr::from_bits(number as u32)),
        Family::V6 => IpAddr::V6(Ipv6Addr::from_bits(number)),
    }
}

/// True for addresses that mean something on one machine or link only, or many machines at once: unspecified, loopback, link-local,
/// broadcast and multicast. Nobody's packets are to be led there by a translation.
pub fn is_special(address: IpAddr) -> bool {
    let link_local = match address {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    link_local || machine_address(address).is_err()
}

/// A block of addresses: prefix and length, no host bits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Cidr(IpNet);

impl Cidr {
    /// Checks that no bit below the prefix is set.
    ///
    /// # Errors
    /// With the prefix that was probably meant.
    pub fn new(net: IpNet) -> Result<Self, InvalidNet> {
        if net.trunc() == net {
            Ok(Self(net))
        } else {
            Err(invalid("CIDR", net, format!("bits below the prefix are set; write {}", net.trunc())))
        }
    }

    /// The block of length `prefix` that holds `address`; `prefix` is cut to the family's bits.
    pub fn around(address: IpAddr, prefix: u8) -> Self {
        let prefix = prefix.min(Family::of(address).bits());
        Self(IpNet::new_assert(address, prefix).trunc())
    }

    /// The block of one address.
    pub fn host(address: IpAddr) -> Self {
        Self(IpNet::from(address))
    }

    /// As the library's type, for arithmetic.
    pub fn net(&self) -> IpNet {
        self.0
    }

    /// The first address.
    pub fn first(&self) -> IpAddr {
        self.0.network()
    }

    /// Bits of prefix.
    pub fn prefix(&self) -> u8 {
        self.0.prefix_len()
    }

    /// The family of its addresses.
    pub fn family(&self) -> Family {
        Family::of(self.first())
    }

    /// True where `address` lies in the block.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.0.contains(&address)
    }

    /// The block, where ordinary machines may have its addresses.
    ///
    /// # Errors
    /// Where a part of it is set apart for another use (RFC 6890), be it only because the block is far too large.
    pub fn for_pods(self) -> Result<Self, InvalidNet> {
        match SET_APART.iter().find(|(apart, _)| apart.parse().is_ok_and(|apart: Cidr| apart.overlaps(&self)))
        {
            Some((apart, what)) => Err(invalid(
                "block for pods",
                self,
                format!(
                    "it overlaps {apart} ({what}); use private addresses, such as 10.244.0.0/16 or fd00:244::/48"
                ),
            )),
            None => Ok(self),
        }
    }

    /// True where the blocks share an address.
    pub fn overlaps(&self, other: &Cidr) -> bool {
        self.0.contains(&other.0) || other.0.contains(&self.0)
    }
}

impl FromStr for Cidr {
    type Err = InvalidNet;
    fn from_str(value: &str) -> Result<Self, InvalidNet> {
        let net = IpNet::from_str(value).map_err(|_| {
            invalid("CIDR", value, "write ADDRESS/PREFIX, such as 10.244.0.0/16 or fd00:244::/48")
        })?;
        Self::new(net)
    }
}

impl TryFrom<String> for Cidr {
    type Error = InvalidNet;
    fn try_from(value: String) -> Result<Self, InvalidNet> {
        value.parse()
    }
}

impl From<Cidr> for String {
    fn from(cidr: Cidr) -> String {
        cidr.to_string()
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0.to_string())
    }
}

impl fmt::Debug for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cidr_with_host_bits_says_what_was_meant() {
        let error = "10.1.2.3/16".parse::<Cidr>().unwrap_err();
        assert!(error.to_string().contains("write 10.1.0.0/16"), "{error}");
        assert!("fd00::/48".parse::<Cidr>().is_ok());
        assert!("10.0.0.0".parse::<Cidr>().is_err());
    }

    #[test]
    fn blocks_for_pods_hold_ordinary_addresses_only() {
        for bad in [
            "0.0.0.0/0",
            "::/0",
            "127.0.0.0/16",
            "169.254.0.0/16",
            "240.0.0.0/8",
            "fe80::/64",
            "ff00::/8",
            "::/64",
        ] {
            let error = bad.parse::<Cidr>().unwrap().for_pods().unwrap_err();
            assert!(error.to_string().contains("it overlaps"), "{error}");
        }
        for good in ["10.0.0.0/8", "100.64.0.0/10", "192.0.2.0/24", "fd00::/8", "2001:db8::/32"] {
            assert!(good.parse::<Cidr>().unwrap().for_pods().is_ok(), "{good}");
        }
    }

    #[test]
    fn machines_have_addresses_of_their_own() {
        for bad in ["0.0.0.0", "127.0.0.1", "224.0.0.1", "255.255.255.255", "::", "::1", "ff02::1"] {
            assert!(machine_address(bad.parse().unwrap()).is_err(), "{bad}");
        }
        assert!(machine_address("192.0.2.1".parse().unwrap()).is_ok());
    }

    #[test]
    fn derived_macs_are_unicast_local_and_distinct() {
        let (a, b) = (Mac::derived("node-1"), Mac::derived("node-2"));
        assert_ne!(a, b);
        assert_eq!(a, Mac::derived("node-1"));
        for mac in [a, b] {
            assert!(mac.is_unicast());
            assert_eq!(mac.0[0] & 2, 2);
            assert_eq!(mac.to_string().parse::<Mac>().unwrap(), mac);
        }
    }

    #[test]
    fn interface_names_follow_the_kernel() {
        assert_eq!(IfName::new("eth0").unwrap().as_str(), "eth0");
        for bad in ["", "a/b", "a b", "..", "a:b", "sixteen-letters-"] {
            assert!(IfName::new(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn ports_and_vnis_have_ranges() {
        assert!(Port::new(0).is_err() && Port::new(65536).is_err() && Port::new(65535).is_ok());
        assert!(Vni::new(0).is_err() && Vni::new(1 << 24).is_err() && Vni::new(1).is_ok());
    }
}
