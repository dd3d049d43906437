//! What a statement reads from a packet and its connection, and what that is compared with.

use std::borrow::Cow;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use weft_model::{Family, IfName};

use super::{HASH_MODULUS, HASH_SEED, Type};

/// What a statement reads from the packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Field {
    /// Name of the link that the packet came in by.
    Iifname,
    /// Name of the link that it leaves by.
    Oifname,
    /// The packet's mark.
    Mark,
    /// The connection's mark.
    CtMark,
    /// These bits of the connection's mark, which are neither none nor all; the first or only part of a key.
    CtMarkMasked(u32),
    /// The destination of the connection's first packet as it was sent, before translation; as [`Field::Daddr`] for a
    /// connection of another family.
    CtOriginalDaddr(Family),
    /// The destination port of the connection's first packet as it was sent. nft reads the number back only behind a match
    /// of the protocol in the same rule, and never in a key.
    CtOriginalDport,
    /// The transport protocol's number (`meta l4proto`).
    L4Proto,
    /// Source address of a family; a packet of the other family doesn't match.
    Saddr(Family),
    /// Destination address of a family; a packet of the other family doesn't match.
    Daddr(Family),
    /// The block of this length around the source address, by its first address: longer than none, shorter than an address.
    /// Behind another part of a set's key only.
    SaddrBlock(Family, u8),
    /// A number that stands for the source address: [`super::address_hash`]. For keys with IPv6 addresses in maps that packets
    /// write (decision 0012).
    SaddrHash(Family),
    /// A number that stands for the destination address: [`super::address_hash`].
    DaddrHash(Family),
    /// Source port (`th sport`).
    Sport,
    /// Destination port (`th dport`).
    Dport,
    /// Flags of a TCP segment; another protocol doesn't match.
    TcpFlags,
    /// ICMPv6 message type; another protocol doesn't match.
    Icmpv6Type,
    /// Whether the destination is this host's own (`fib daddr type`).
    FibDaddrType,
    /// Whether the source is this host's own (`fib saddr type`).
    FibSaddrType,
    /// The connection's state (`ct state`).
    CtState,
    /// The connection's status bits (`ct status`).
    CtStatus,
    /// Which way of its connection the packet goes (`ct direction`).
    CtDirection,
    /// A random number below this, which must be over 0 (`numgen random mod N`).
    Random(u32),
}

impl Field {
    /// The type of a set's key that it fits; `None` for what is only ever compared.
    pub fn kind(self) -> Option<Type> {
        Some(match self {
            Field::Iifname | Field::Oifname => Type::IfName,
            Field::Mark | Field::CtMark | Field::CtMarkMasked(_) => Type::Mark,
            Field::L4Proto => Type::InetProto,
            Field::Saddr(family)
            | Field::SaddrBlock(family, _)
            | Field::Daddr(family)
            | Field::CtOriginalDaddr(family) => match family {
                Family::V4 => Type::Ipv4Addr,
                Family::V6 => Type::Ipv6Addr,
            },
            Field::Sport | Field::Dport => Type::InetService,
            Field::Random(_) | Field::SaddrHash(_) | Field::DaddrHash(_) => Type::Number,
            Field::TcpFlags
            | Field::Icmpv6Type
            | Field::CtOriginalDport
            | Field::FibDaddrType
            | Field::FibSaddrType
            | Field::CtState
            | Field::CtStatus
            | Field::CtDirection => return None,
        })
    }

    /// The family of packets or connections that have it; `None` where both do.
    pub fn family(self) -> Option<Family> {
        match self {
            Field::Saddr(family)
            | Field::SaddrBlock(family, _)
            | Field::Daddr(family)
            | Field::SaddrHash(family)
            | Field::DaddrHash(family)
            | Field::CtOriginalDaddr(family) => Some(family),
            Field::Icmpv6Type => Some(Family::V6),
            _ => None,
        }
    }

    /// Whether it is read from the packet's connection.
    pub(super) fn is_of_connection(self) -> bool {
        matches!(
            self,
            Field::CtMark
                | Field::CtMarkMasked(_)
                | Field::CtOriginalDaddr(_)
                | Field::CtOriginalDport
                | Field::CtState
                | Field::CtStatus
                | Field::CtDirection
        )
    }
}

/// The mask that leaves an address its first bits; `prefix` is cut to the family's.
pub fn block_mask(family: Family, prefix: u8) -> IpAddr {
    let absent = u32::from(family.bits().saturating_sub(prefix));
    match family {
        Family::V4 => Ipv4Addr::from(u32::MAX.checked_shl(absent).unwrap_or_default()).into(),
        Family::V6 => Ipv6Addr::from(u128::MAX.checked_shl(absent).unwrap_or_default()).into(),
    }
}

fn write_hash(of: Field, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    write!(f, "jhash {of} mod {HASH_MODULUS} seed {HASH_SEED:#x}")
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self {
            Field::Iifname => "iifname",
            Field::Oifname => "oifname",
            Field::Mark => "meta mark",
            Field::CtMark => "ct mark",
            Field::CtMarkMasked(bits) => return write!(f, "ct mark & {bits:#010x}"),
            Field::CtOriginalDaddr(Family::V4) => "ct original ip daddr",
            Field::CtOriginalDaddr(Family::V6) => "ct original ip6 daddr",
            Field::CtOriginalDport => "ct original proto-dst",
            Field::SaddrBlock(family, prefix) => {
                return write!(f, "{} & {}", Field::Saddr(*family), block_mask(*family, *prefix));
            }
            Field::SaddrHash(family) => return write_hash(Field::Saddr(*family), f),
            Field::DaddrHash(family) => return write_hash(Field::Daddr(*family), f),
            Field::L4Proto => "meta l4proto",
            Field::Saddr(Family::V4) => "ip saddr",
            Field::Saddr(Family::V6) => "ip6 saddr",
            Field::Daddr(Family::V4) => "ip daddr",
            Field::Daddr(Family::V6) => "ip6 daddr",
            Field::Sport => "th sport",
            Field::Dport => "th dport",
            Field::TcpFlags => "tcp flags",
            Field::Icmpv6Type => "icmpv6 type",
            Field::FibDaddrType => "fib daddr type",
            Field::FibSaddrType => "fib saddr type",
            Field::CtState => "ct state",
            Field::CtStatus => "ct status",
            Field::CtDirection => "ct direction",
            Field::Random(modulus) => return write!(f, "numgen random mod {modulus}"),
        };
        f.write_str(text)
    }
}

/// Bits of `ct state` (`NF_CT_STATE_BIT` in the kernel).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ConntrackState {
    /// `established,related`: it belongs to something that was let through.
    EstablishedOrRelated,
    /// `invalid`: conntrack can't place it.
    Invalid,
    /// `untracked`: a `notrack` was passed.
    Untracked,
}

/// Bits of `ct status`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ConntrackStatus {
    /// `dnat`: its destination was rewritten.
    Dnat,
}

/// What a field is compared with.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Value {
    /// A link by name.
    Link(IfName),
    /// All links whose names begin so (`"weftp*"`).
    LinkPrefix(Cow<'static, str>),
    /// An IP protocol number, or an ICMPv6 type.
    Byte(u8),
    /// A port.
    Port(u16),
    /// An address.
    Address(IpAddr),
    /// A block of addresses.
    Net(IpNet),
    /// A mark.
    Mark(u32),
    /// A plain number, for [`Field::Random`].
    Number(u32),
    /// `local`, for [`Field::FibDaddrType`] and [`Field::FibSaddrType`].
    Local,
    /// Connection states.
    State(ConntrackState),
    /// Connection status.
    Status(ConntrackStatus),
    /// The answering way, for [`Field::CtDirection`].
    Reply,
    /// `syn`, for [`Field::TcpFlags`]: the segment opens a connection, or answers one that does.
    Syn,
}

/// How a field is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Comparison {
    /// It is the value, lies in the block, or has one of the bits.
    Is,
    /// It doesn't.
    IsNot,
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Link(name) => write!(f, "\"{name}\""),
            Value::LinkPrefix(prefix) => write!(f, "\"{prefix}*\""),
            Value::Byte(number) => write!(f, "{number}"),
            Value::Port(port) => write!(f, "{port}"),
            Value::Address(address) => write!(f, "{address}"),
            Value::Net(net) => write!(f, "{net}"),
            Value::Mark(mark) => write!(f, "{mark:#010x}"),
            Value::Number(number) => write!(f, "{number}"),
            Value::Local => f.write_str("local"),
            Value::State(ConntrackState::EstablishedOrRelated) => f.write_str("established,related"),
            Value::State(ConntrackState::Invalid) => f.write_str("invalid"),
            Value::State(ConntrackState::Untracked) => f.write_str("untracked"),
            Value::Status(ConntrackStatus::Dnat) => f.write_str("dnat"),
            Value::Reply => f.write_str("reply"),
            Value::Syn => f.write_str("syn"),
        }
    }
}
