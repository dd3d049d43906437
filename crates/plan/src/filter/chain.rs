//! Chains, rules and statements.
//!
//! Each type prints itself in nft's syntax. Meaning is the kernel's: the statements of a rule run from left to right,
//! a failed match ends the rule, a verdict ends the chain.

use std::borrow::Cow;
use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use weft_model::{Family, IfName};

use super::atom::protocol_name;
use super::{Comment, Ident, Type};

/// A netfilter hook.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HookKind {
    /// Before the routing decision.
    Prerouting,
    /// To this host.
    Input,
    /// Through this host.
    Forward,
    /// From this host.
    Output,
    /// After the routing decision.
    Postrouting,
}

impl fmt::Display for HookKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            HookKind::Prerouting => "prerouting",
            HookKind::Input => "input",
            HookKind::Forward => "forward",
            HookKind::Output => "output",
            HookKind::Postrouting => "postrouting",
        })
    }
}

/// Where a base chain sits. Its policy is always accept: what must not pass is dropped by a rule that says why.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hook {
    /// The hook.
    pub at: HookKind,
    /// True for `type nat`, false for `type filter`.
    pub nat: bool,
    /// Lower runs first. `raw` is −300, conntrack −200, `dstnat` −100, `filter` 0, `srcnat` 100.
    pub priority: i32,
}

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
    /// The transport protocol's number (`meta l4proto`).
    L4Proto,
    /// Source address of a family; a packet of the other family doesn't match.
    Saddr(Family),
    /// Destination address of a family; a packet of the other family doesn't match.
    Daddr(Family),
    /// Source port (`th sport`).
    Sport,
    /// Destination port (`th dport`).
    Dport,
    /// ICMPv6 message type; another protocol doesn't match.
    Icmpv6Type,
    /// Whether the destination is this host's own (`fib daddr type`).
    FibDaddrType,
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
            Field::Mark | Field::CtMark => Type::Mark,
            Field::L4Proto => Type::InetProto,
            Field::Saddr(Family::V4) | Field::Daddr(Family::V4) => Type::Ipv4Addr,
            Field::Saddr(Family::V6) | Field::Daddr(Family::V6) => Type::Ipv6Addr,
            Field::Sport | Field::Dport => Type::InetService,
            Field::Random(_) => Type::Number,
            Field::Icmpv6Type
            | Field::FibDaddrType
            | Field::CtState
            | Field::CtStatus
            | Field::CtDirection => return None,
        })
    }
}

impl Field {
    /// Whether it is read from the packet's connection.
    fn is_of_connection(self) -> bool {
        matches!(self, Field::CtMark | Field::CtState | Field::CtStatus | Field::CtDirection)
    }
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self {
            Field::Iifname => "iifname",
            Field::Oifname => "oifname",
            Field::Mark => "meta mark",
            Field::CtMark => "ct mark",
            Field::L4Proto => "meta l4proto",
            Field::Saddr(Family::V4) => "ip saddr",
            Field::Saddr(Family::V6) => "ip6 saddr",
            Field::Daddr(Family::V4) => "ip daddr",
            Field::Daddr(Family::V6) => "ip6 daddr",
            Field::Sport => "th sport",
            Field::Dport => "th dport",
            Field::Icmpv6Type => "icmpv6 type",
            Field::FibDaddrType => "fib daddr type",
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
    /// `local`, for [`Field::FibDaddrType`].
    Local,
    /// Connection states.
    State(ConntrackState),
    /// Connection status.
    Status(ConntrackStatus),
    /// The answering way, for [`Field::CtDirection`].
    Reply,
}

/// How a field is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Comparison {
    /// It is the value, lies in the block, or has one of the bits.
    Is,
    /// It doesn't.
    IsNot,
}

/// What becomes of the packet.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verdict {
    /// It passes this base chain.
    Accept,
    /// It ends here.
    Drop,
    /// Back to the calling chain.
    Return,
    /// On to a chain, and back.
    Jump(Ident),
    /// On to a chain, and not back.
    Goto(Ident),
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Verdict::Accept => f.write_str("accept"),
            Verdict::Drop => f.write_str("drop"),
            Verdict::Return => f.write_str("return"),
            Verdict::Jump(chain) => write!(f, "jump {chain}"),
            Verdict::Goto(chain) => write!(f, "goto {chain}"),
        }
    }
}

/// How a packet is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reject {
    /// ICMP or ICMPv6 port unreachable, by the packet's family (`reject with icmpx port-unreachable`).
    PortUnreachable,
    /// ICMP or ICMPv6 administratively prohibited (`reject with icmpx admin-prohibited`).
    AdminProhibited,
    /// A TCP reset (`reject with tcp reset`).
    TcpReset,
}

/// Where address translation leads.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NatTarget {
    /// One address, the port kept.
    Address(IpAddr),
    /// Address and port from a map with data (address . port).
    AddressPortFrom {
        /// Family of the packets and of the map's addresses.
        family: Family,
        /// The look-up's key.
        key: Vec<Field>,
        /// The map.
        map: Ident,
    },
}

/// One statement of a rule.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Statement {
    /// Goes on only where the comparison holds.
    Match(Field, Comparison, Value),
    /// Goes on only where the concatenated fields are (or are not) a key of the set.
    Lookup(Vec<Field>, Comparison, Ident),
    /// Counts packets and bytes.
    Counter,
    /// Keeps the packet out of connection tracking.
    Notrack,
    /// Sets the packet's mark.
    SetMark(u32),
    /// Sets the packet's mark from a map with mark data; without the key, ends the rule.
    SetMarkFrom(Vec<Field>, Ident),
    /// Copies the packet's mark to the connection's.
    SaveMark,
    /// Takes the verdict from a verdict map; without the key, goes on.
    VerdictFrom(Vec<Field>, Ident),
    /// Rewrites the destination; the map missing the key ends the rule.
    Dnat(NatTarget),
    /// Rewrites the source.
    Snat(NatTarget),
    /// Rewrites the source to the leaving link's address, ports fully randomised.
    Masquerade,
    /// Refuses the packet.
    Reject(Reject),
    /// Ends the chain.
    Verdict(Verdict),
}

impl Statement {
    /// Whether a rule with it makes the kernel track connections. Without any such rule in a network namespace nothing is
    /// tracked there, and nat chains are never asked (`nf_ct_netns_get` in the expressions' set-up).
    pub fn asks_for_tracking(&self) -> bool {
        match self {
            Statement::Match(field, ..) => field.is_of_connection(),
            Statement::Lookup(key, ..) | Statement::SetMarkFrom(key, _) | Statement::VerdictFrom(key, _) => {
                key.iter().any(|field| field.is_of_connection())
            }
            Statement::SaveMark | Statement::Dnat(_) | Statement::Snat(_) | Statement::Masquerade => true,
            Statement::Counter
            | Statement::Notrack
            | Statement::SetMark(_)
            | Statement::Reject(_)
            | Statement::Verdict(_) => false,
        }
    }
}

/// One rule.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rule {
    /// Its statements, in order.
    pub statements: Vec<Statement>,
    /// Why it is there: shown by `nft list` and by `weft explain`.
    pub comment: Comment,
}

impl Rule {
    /// A rule with a reason.
    pub fn new(comment: impl Into<Comment>, statements: impl IntoIterator<Item = Statement>) -> Self {
        Self { statements: statements.into_iter().collect(), comment: comment.into() }
    }
}

/// One chain.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Chain {
    /// Where it hangs; `None` for a chain that others jump to.
    pub hook: Option<Hook>,
    /// Its rules, in order.
    pub rules: Vec<Rule>,
}

fn fields(list: &[Field], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    for (at, field) in list.iter().enumerate() {
        write!(f, "{}{field}", if at == 0 { "" } else { " . " })?;
    }
    Ok(())
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
        }
    }
}

fn icmpv6_name(kind: u8) -> Option<&'static str> {
    match kind {
        133 => Some("nd-router-solicit"),
        134 => Some("nd-router-advert"),
        135 => Some("nd-neighbor-solicit"),
        136 => Some("nd-neighbor-advert"),
        143 => Some("mld2-listener-report"),
        _ => None,
    }
}

impl fmt::Display for Statement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let not = |c: &Comparison| if *c == Comparison::Is { "" } else { "!= " };
        match self {
            Statement::Match(field @ Field::L4Proto, c, Value::Byte(n)) if protocol_name(*n).is_some() => {
                write!(f, "{field} {}{}", not(c), protocol_name(*n).unwrap_or_default())
            }
            Statement::Match(field @ Field::Icmpv6Type, c, Value::Byte(n)) if icmpv6_name(*n).is_some() => {
                write!(f, "{field} {}{}", not(c), icmpv6_name(*n).unwrap_or_default())
            }
            // "None of the bits", which `!=` would not mean.
            Statement::Match(field @ (Field::CtState | Field::CtStatus), Comparison::IsNot, value) => {
                write!(f, "{field} ! {value}")
            }
            Statement::Match(field, c, value) => write!(f, "{field} {}{value}", not(c)),
            Statement::Lookup(key, c, set) => {
                fields(key, f)?;
                write!(f, " {}@{set}", not(c))
            }
            Statement::Counter => f.write_str("counter"),
            Statement::Notrack => f.write_str("notrack"),
            Statement::SetMark(mark) => write!(f, "meta mark set {mark:#010x}"),
            Statement::SetMarkFrom(key, map) => {
                f.write_str("meta mark set ")?;
                fields(key, f)?;
                write!(f, " map @{map}")
            }
            Statement::SaveMark => f.write_str("ct mark set meta mark"),
            Statement::VerdictFrom(key, map) => {
                fields(key, f)?;
                write!(f, " vmap @{map}")
            }
            Statement::Dnat(target) => write!(f, "dnat {target}"),
            Statement::Snat(target) => write!(f, "snat {target}"),
            Statement::Masquerade => f.write_str("masquerade fully-random"),
            Statement::Reject(Reject::PortUnreachable) => f.write_str("reject"),
            Statement::Reject(Reject::AdminProhibited) => f.write_str("reject with icmpx admin-prohibited"),
            Statement::Reject(Reject::TcpReset) => f.write_str("reject with tcp reset"),
            Statement::Verdict(verdict) => write!(f, "{verdict}"),
        }
    }
}

impl fmt::Display for NatTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let family = |v: Family| if v == Family::V4 { "ip" } else { "ip6" };
        match self {
            NatTarget::Address(address) => write!(f, "{} to {address}", family(Family::of(*address))),
            NatTarget::AddressPortFrom { family: v, key, map } => {
                write!(f, "{} to ", family(*v))?;
                fields(key, f)?;
                write!(f, " map @{map}")
            }
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, statement) in self.statements.iter().enumerate() {
            write!(f, "{}{statement}", if at == 0 { "" } else { " " })?;
        }
        if self.comment.is_empty() { Ok(()) } else { write!(f, " comment \"{}\"", self.comment) }
    }
}
