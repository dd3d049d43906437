//! Chains, rules and statements.
//!
//! Each type prints itself in nft's syntax. Meaning is the kernel's: the statements of a rule run from left to right,
//! a failed match ends the rule, a verdict ends the chain.

use std::fmt;
use std::net::IpAddr;

use weft_model::Family;

use super::atom::protocol_name;
use super::{Comment, Comparison, Field, Ident, Value};

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
    /// Sets these bits of the packet's mark, neither none nor all; the others stay as they were, because packets' marks
    /// belong to others too ([`crate::marks`]).
    SetMarkBits(u32),
    /// Sets the packet's mark from a map with mark data; without the key, ends the rule.
    SetMarkFrom(Vec<Field>, Ident),
    /// Copies the packet's mark to the connection's.
    SaveMark,
    /// Sets the connection's mark.
    SetCtMark(u32),
    /// Sets the connection's mark from a map with mark data; without the key, ends the rule.
    SetCtMarkFrom(Vec<Field>, Ident),
    /// Puts an element into a map that packets write. Of one that is there only the time begins anew: its data stays
    /// (`nft_dynset_eval`), so what should change is deleted first. A full map ends the rule.
    Update {
        /// The map, with a [`super::SetSpec::dynamic_timeout`].
        map: Ident,
        /// The element's key, at most 16 bytes (decision 0012).
        key: Vec<Field>,
        /// Seconds that it stays.
        timeout_seconds: u32,
        /// Its data: a field of the map's one data type.
        data: Field,
    },
    /// Takes an element out of a map that packets write; it needn't be there. The form has data, which
    /// means nothing, but that a packet without it ends the rule.
    Delete {
        /// The map.
        map: Ident,
        /// The element's key, at most 16 bytes.
        key: Vec<Field>,
        /// Any field of the map's data type.
        data: Field,
    },
    /// Takes the verdict from a verdict map; without the key, goes on.
    VerdictFrom(Vec<Field>, Ident),
    /// Rewrites the destination; the map missing the key ends the rule.
    Dnat(NatTarget),
    /// Rewrites the source; where only an address is given, ports are fully randomised.
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
            Statement::Update { key, data, .. } | Statement::Delete { key, data, .. } => {
                data.is_of_connection() || key.iter().any(|field| field.is_of_connection())
            }
            Statement::SaveMark
            | Statement::SetCtMark(_)
            | Statement::SetCtMarkFrom(..)
            | Statement::Dnat(_)
            | Statement::Snat(_)
            | Statement::Masquerade => true,
            Statement::Counter
            | Statement::Notrack
            | Statement::SetMarkBits(_)
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

/// A time as nft prints it: `3h`, `23h59m59s`.
fn time(seconds: u32, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let parts =
        [(seconds / 86_400, 'd'), (seconds / 3600 % 24, 'h'), (seconds / 60 % 60, 'm'), (seconds % 60, 's')];
    if seconds == 0 {
        return f.write_str("0s");
    }
    parts.iter().filter(|(number, _)| *number > 0).try_for_each(|(number, unit)| write!(f, "{number}{unit}"))
}

/// Whether a mask is what nft prints as a prefix's length.
fn is_prefix(bits: u32) -> bool {
    bits.leading_ones() + bits.trailing_zeros() == u32::BITS
}

/// What stands before the value: masked fields are compared in so many words.
fn compared(field: Field, comparison: Comparison) -> &'static str {
    match (field, comparison) {
        (Field::CtMarkMasked(_), Comparison::Is) => "== ",
        (_, Comparison::Is) => "",
        (_, Comparison::IsNot) => "!= ",
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
            Statement::Match(
                field @ (Field::CtState | Field::CtStatus | Field::TcpFlags),
                Comparison::IsNot,
                value,
            ) => {
                write!(f, "{field} ! {value}")
            }
            Statement::Match(Field::CtMarkMasked(bits), c, Value::Mark(mark)) if is_prefix(*bits) => {
                write!(f, "ct mark {}{mark:#010x}/{}", not(c), bits.leading_ones())
            }
            Statement::Match(field, c, value) => write!(f, "{field} {}{value}", compared(*field, *c)),
            Statement::Lookup(key, c, set) => {
                fields(key, f)?;
                let alone = if let [alone] = key[..] { alone } else { Field::Mark };
                write!(f, " {}@{set}", compared(alone, *c))
            }
            Statement::Counter => f.write_str("counter"),
            Statement::Notrack => f.write_str("notrack"),
            Statement::SetMarkBits(bits) => write!(f, "meta mark set meta mark | {bits:#010x}"),
            Statement::SetMarkFrom(key, map) => {
                f.write_str("meta mark set ")?;
                fields(key, f)?;
                write!(f, " map @{map}")
            }
            Statement::SaveMark => f.write_str("ct mark set meta mark"),
            Statement::SetCtMark(mark) => write!(f, "ct mark set {mark:#010x}"),
            Statement::SetCtMarkFrom(key, map) => {
                f.write_str("ct mark set ")?;
                fields(key, f)?;
                write!(f, " map @{map}")
            }
            Statement::Update { map, key, timeout_seconds, data } => {
                write!(f, "update @{map} {{ ")?;
                fields(key, f)?;
                f.write_str(" timeout ")?;
                time(*timeout_seconds, f)?;
                write!(f, " : {data} }}")
            }
            Statement::Delete { map, key, data } => {
                write!(f, "delete @{map} {{ ")?;
                fields(key, f)?;
                write!(f, " : {data} }}")
            }
            Statement::VerdictFrom(key, map) => {
                fields(key, f)?;
                write!(f, " vmap @{map}")
            }
            Statement::Dnat(target) => write!(f, "dnat {target}"),
            Statement::Snat(target @ NatTarget::Address(_)) => write!(f, "snat {target} fully-random"),
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
