//! One accept rule: what it is for, as nftables expressions and as iptables arguments, and back. Pure.

use std::collections::BTreeSet;

use weft_model::{Cidr, Family, Port, Protocol};
use weft_plan::filter::{Comparison, Statement, Value};
use weft_plan::{Field, Opening, Rule, Verdict};

use crate::filter::expression::{Expression, Register, Source};
use crate::filter::{lower, raise, uapi as k};

/// The comment of every rule that is ours.
pub const MARK: &str = "weft";

/// Which packets a base chain sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Path {
    /// Those that pass through this host.
    Forward,
    /// Those for this host.
    Input,
}

impl Path {
    /// iptables' name of the built-in chain.
    pub fn chain(self) -> &'static str {
        match self {
            Path::Forward => "FORWARD",
            Path::Input => "INPUT",
        }
    }
}

/// What a rule lets through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Accept {
    /// Packets from these addresses.
    From(Cidr),
    /// Packets to these addresses.
    To(Cidr),
    /// Packets to this port.
    Port(Protocol, Port),
}

/// The rules that openings ask for on a path, for these families.
pub fn wanted(openings: &BTreeSet<Opening>, path: Path, families: &[Family]) -> BTreeSet<Accept> {
    let mut accepts = BTreeSet::new();
    for opening in openings {
        match (*opening, path) {
            (Opening::Forward(cidr), Path::Forward) if families.contains(&cidr.family()) => {
                accepts.extend([Accept::From(cidr), Accept::To(cidr)]);
            }
            (Opening::Input(protocol, port), Path::Input) => {
                accepts.insert(Accept::Port(protocol, port));
            }
            _ => {}
        }
    }
    accepts
}

fn address_value(cidr: Cidr) -> Value {
    if cidr.prefix() == cidr.family().bits() { Value::Address(cidr.first()) } else { Value::Net(cidr.net()) }
}

/// The two expressions that ask for a packet's family; tables of one family have no need of them.
fn family_test(family: Family) -> [Expression; 2] {
    let register = Register(0);
    [
        Expression::Load(Source::Meta(k::NFT_META_NFPROTO), register),
        Expression::Compare {
            register,
            operation: k::NFT_CMP_EQ,
            data: vec![match family {
                Family::V4 => k::NFPROTO_IPV4,
                Family::V6 => k::NFPROTO_IPV6,
            }],
        },
    ]
}

impl Accept {
    /// The rule for a table of this netfilter family (`NFPROTO_*`).
    pub fn expressions(&self, table_family: u8) -> Vec<Expression> {
        let is = |field: Field, value: Value| Statement::Match(field, Comparison::Is, value);
        let mut statements = match *self {
            Accept::From(cidr) => vec![is(Field::Saddr(cidr.family()), address_value(cidr))],
            Accept::To(cidr) => vec![is(Field::Daddr(cidr.family()), address_value(cidr))],
            Accept::Port(protocol, port) => vec![
                is(Field::L4Proto, Value::Byte(protocol.number())),
                is(Field::Dport, Value::Port(port.get())),
            ],
        };
        statements.extend([Statement::Counter, Statement::Verdict(Verdict::Accept)]);
        let mut expressions = lower::rule(&Rule::new(MARK, statements));
        if let Accept::From(cidr) | Accept::To(cidr) = self
            && table_family != k::NFPROTO_INET
            && expressions.starts_with(&family_test(cidr.family()))
        {
            expressions.drain(..2);
        }
        expressions
    }

    /// What a rule of a table of this family lets through; `None` unless it has exactly our form.
    pub fn read(expressions: &[Expression], table_family: u8) -> Option<Self> {
        let family = match table_family {
            k::NFPROTO_IPV4 => Some(Family::V4),
            k::NFPROTO_IPV6 => Some(Family::V6),
            _ => None,
        };
        let header = |e: &Expression| {
            matches!(e, Expression::Load(Source::Payload(k::NFT_PAYLOAD_NETWORK_HEADER, ..), _))
        };
        let whole: Vec<Expression> = match (family, expressions.first()) {
            (Some(family), Some(first)) if header(first) => {
                family_test(family).into_iter().chain(expressions.iter().cloned()).collect()
            }
            _ => expressions.to_vec(),
        };
        let rule = raise::rule(&whole, MARK)?;
        let cidr = |value: &Value| match value {
            Value::Address(address) => Some(Cidr::host(*address)),
            Value::Net(net) => Cidr::new(*net).ok(),
            _ => None,
        };
        match &rule.statements[..] {
            [
                Statement::Match(field, Comparison::Is, value),
                Statement::Counter,
                Statement::Verdict(Verdict::Accept),
            ] => match field {
                Field::Saddr(_) => cidr(value).map(Accept::From),
                Field::Daddr(_) => cidr(value).map(Accept::To),
                _ => None,
            },
            [
                Statement::Match(Field::L4Proto, Comparison::Is, Value::Byte(number)),
                Statement::Match(Field::Dport, Comparison::Is, Value::Port(port)),
                Statement::Counter,
                Statement::Verdict(Verdict::Accept),
            ] => {
                let protocol = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp]
                    .into_iter()
                    .find(|protocol| protocol.number() == *number)?;
                Some(Accept::Port(protocol, Port::new(u32::from(*port)).ok()?))
            }
            _ => None,
        }
    }

    /// The rule in iptables' words, as `iptables -S` prints it behind the chain's name.
    pub fn arguments(&self) -> Vec<String> {
        let head = match self {
            Accept::From(cidr) => format!("-s {cidr}"),
            Accept::To(cidr) => format!("-d {cidr}"),
            Accept::Port(protocol, port) => format!("-p {protocol} -m {protocol} --dport {port}"),
        };
        format!("{head} -m comment --comment {MARK} -j ACCEPT").split(' ').map(str::to_owned).collect()
    }

    /// The same for somebody else to type: without our mark, so that it is theirs and stays.
    pub fn command(&self) -> String {
        self.arguments().join(" ").replace(&format!(" -m comment --comment {MARK}"), "")
    }

    /// What a rule of somebody else's lets through, where it has our form but for the mark.
    pub fn parse_unmarked(line: &str) -> Option<Self> {
        Self::parse(&line.replace(" -j ACCEPT", &format!(" -m comment --comment {MARK} -j ACCEPT")))
    }

    /// What a line of `iptables -S` behind the chain's name lets through; `None` unless it has exactly our form.
    pub fn parse(line: &str) -> Option<Self> {
        // Some versions quote the comment.
        let line = line.replace(&format!("\"{MARK}\""), MARK);
        let words: Vec<&str> = line.split_whitespace().collect();
        let accept = match words[..] {
            ["-s", cidr, ..] => Accept::From(cidr.parse().ok()?),
            ["-d", cidr, ..] => Accept::To(cidr.parse().ok()?),
            ["-p", protocol, "-m", _, "--dport", port, ..] => {
                Accept::Port(protocol.parse().ok()?, Port::new(port.parse().ok()?).ok()?)
            }
            _ => return None,
        };
        (accept.arguments() == words).then_some(accept)
    }
}
