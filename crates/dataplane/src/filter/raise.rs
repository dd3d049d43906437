//! The kernel's expressions → the plan's rules: the way back from [`super::lower`].
//!
//! What always holds: `lower(raise(x)) == x` wherever `raise` gives something. What the plan's language can't say gives
//! `None`: such a rule is not ours, whoever put it there.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use weft_model::{Family, IfName};
use weft_plan::filter::{Comparison, ConntrackState, ConntrackStatus, NatTarget, Reject, Statement, Value};
use weft_plan::{Field, Rule};

use super::expression::{Expression, Found, Register, Source};
use super::lower::{self, address_place, state_bits, status_bits};
use super::uapi as k;

const FIRST: Register = Register(0);

/// The rule that these expressions are, or `None` where the plan's language has none.
pub fn rule(expressions: &[Expression], comment: &str) -> Option<Rule> {
    let mut raising = Raising { rest: expressions, family: None };
    let mut statements = Vec::new();
    while !raising.rest.is_empty() {
        if let Some(statement) = raising.statement()? {
            statements.push(statement);
        }
    }
    let rule = Rule::new(comment.to_owned(), statements);
    // The kernel may hold what reads alike and is not: a dependency that no field needs, another order.
    same(&lower::rule(&rule), expressions).then_some(rule)
}

/// True where two lists do the same: counters count as equal whatever they stand at.
fn same(left: &[Expression], right: &[Expression]) -> bool {
    let counter = |e: &Expression| matches!(e, Expression::Counter { .. });
    left.len() == right.len() && left.iter().zip(right).all(|(l, r)| l == r || (counter(l) && counter(r)))
}

struct Raising<'a> {
    rest: &'a [Expression],
    family: Option<Family>,
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        return Some(Ipv4Addr::from(v4).into());
    }
    Some(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?).into())
}

fn word(bytes: &[u8]) -> Option<u32> {
    bytes.try_into().ok().map(u32::from_ne_bytes)
}

fn comparison(operation: u32) -> Option<Comparison> {
    match operation {
        k::NFT_CMP_EQ => Some(Comparison::Is),
        k::NFT_CMP_NEQ => Some(Comparison::IsNot),
        _ => None,
    }
}

impl Raising<'_> {
    fn skip(&mut self, count: usize) {
        self.rest = &self.rest[count..];
    }

    /// The next statement; `Some(None)` where a dependency was passed over.
    fn statement(&mut self) -> Option<Option<Statement>> {
        let statement = match self.rest.first()? {
            Expression::Load(..) => return self.after_load(),
            Expression::Counter { .. } => Statement::Counter,
            Expression::Notrack => Statement::Notrack,
            Expression::Verdict(verdict) => Statement::Verdict(verdict.clone()),
            Expression::Masquerade(flags) if *flags == k::NF_NAT_RANGE_PROTO_RANDOM_FULLY => {
                Statement::Masquerade
            }
            Expression::Reject(kind, code) => Statement::Reject(match (*kind, *code) {
                with if with == lower::port_unreachable(self.family) => Reject::PortUnreachable,
                (k::NFT_REJECT_ICMPX_UNREACH, k::NFT_REJECT_ICMPX_ADMIN_PROHIBITED) => {
                    Reject::AdminProhibited
                }
                (k::NFT_REJECT_TCP_RST, 0) => Reject::TcpReset,
                _ => return None,
            }),
            Expression::Immediate(FIRST, bytes) => {
                let statement = match self.rest.get(1)? {
                    Expression::SetCt(k::NFT_CT_MARK, FIRST) => Statement::SetCtMark(word(bytes)?),
                    Expression::Nat(kind, _, FIRST, None) => nat(*kind, NatTarget::Address(address(bytes)?))?,
                    _ => return None,
                };
                self.skip(2);
                return Some(Some(statement));
            }
            _ => return None,
        };
        self.skip(1);
        Some(Some(statement))
    }

    /// A statement that begins by loading registers.
    fn after_load(&mut self) -> Option<Option<Statement>> {
        use Expression::{Compare, Dynset, Load, Lookup, Mask, Or, SetCt, SetMeta};
        match *self.rest {
            [
                Load(Source::Meta(k::NFT_META_NFPROTO), FIRST),
                Compare { operation: k::NFT_CMP_EQ, ref data, .. },
                ..,
            ] => {
                self.family = Some(match data.first().copied()? {
                    k::NFPROTO_IPV4 => Family::V4,
                    k::NFPROTO_IPV6 => Family::V6,
                    _ => return None,
                });
                self.skip(2);
                Some(None)
            }
            [
                Load(Source::Meta(k::NFT_META_L4PROTO), FIRST),
                Compare { operation: k::NFT_CMP_EQ, ref data, .. },
                Load(Source::Payload(k::NFT_PAYLOAD_TRANSPORT_HEADER, at, 1), FIRST),
                ..,
            ] if matches!((at, &data[..]), (0, [58]) | (lower::TCP_FLAGS, [6])) => {
                self.skip(2);
                Some(None)
            }
            [Load(Source::Meta(k::NFT_META_MARK), FIRST), SetCt(k::NFT_CT_MARK, FIRST), ..] => {
                self.skip(2);
                Some(Some(Statement::SaveMark))
            }
            [
                Load(Source::Meta(k::NFT_META_MARK), FIRST),
                Or(FIRST, bits),
                SetMeta(k::NFT_META_MARK, FIRST),
                ..,
            ] => {
                self.skip(3);
                Some(Some(Statement::SetMarkBits(bits)))
            }
            [Load(from, FIRST), Mask(FIRST, ref mask), Compare { operation, ref data, .. }, ..] => {
                let statement = self.masked(from, mask, comparison(operation)?, data)?;
                self.skip(3);
                Some(Some(statement))
            }
            [Load(from, FIRST), Compare { operation, ref data, .. }, ..] => {
                let (field, value) = self.compared(from, data)?;
                self.skip(2);
                Some(Some(Statement::Match(field, comparison(operation)?, value)))
            }
            _ => {
                let key = self.key()?;
                match self.rest {
                    [Lookup(set, FIRST, found), ..] => {
                        self.skip(1);
                        self.looked_up(key, set.clone(), *found).map(Some)
                    }
                    [Load(from, lower::DATA), dynset @ Dynset { .. }, ..] => {
                        let statement = written(dynset, key, self.field(*from)?)?;
                        self.skip(2);
                        Some(Some(statement))
                    }
                    _ => None,
                }
            }
        }
    }

    /// The parts of a key, each in the register behind the one before.
    fn key(&mut self) -> Option<Vec<Field>> {
        use Expression::{Dynset, Hash, Load, Mask};
        let mut key = Vec::new();
        let mut next = 0;
        loop {
            let (field, length) = match *self.rest {
                // What follows a key may stand in the register behind it.
                [Load(_, lower::DATA), Dynset { .. }, ..] => return Some(key),
                [Load(what, scratch), Hash { from, to, .. }, ..] if scratch == from && to.0 == next => {
                    let hashed = match self.field(what)? {
                        Field::Saddr(family) => Field::SaddrHash(family),
                        Field::Daddr(family) => Field::DaddrHash(family),
                        _ => return None,
                    };
                    (hashed, 2)
                }
                [Load(Source::Ct(k::NFT_CT_MARK), register), Mask(masked, ref bits), ..]
                    if register == masked && register.0 == next =>
                {
                    (Field::CtMarkMasked(word(bits)?), 2)
                }
                [Load(from, register), Mask(masked, ref bits), ..]
                    if register == masked && register.0 == next =>
                {
                    let Field::Saddr(family) = self.field(from)? else { return None };
                    let prefix = ipnet::ip_mask_to_prefix(address(bits)?).ok()?;
                    (Field::SaddrBlock(family, prefix), 2)
                }
                [Load(from, register), ..] if register.0 == next => (self.field(from)?, 1),
                [Load(..), ..] => return None,
                _ => return Some(key),
            };
            next += lower::key_words(field);
            key.push(field);
            self.skip(length);
        }
    }

    fn looked_up(&mut self, key: Vec<Field>, set: weft_plan::Ident, found: Found) -> Option<Statement> {
        match found {
            Found::Match { inverted: false } => Some(Statement::Lookup(key, Comparison::Is, set)),
            Found::Match { inverted: true } => Some(Statement::Lookup(key, Comparison::IsNot, set)),
            Found::Verdict => Some(Statement::VerdictFrom(key, set)),
            Found::In(FIRST) => {
                let statement = match self.rest.first()? {
                    Expression::SetMeta(k::NFT_META_MARK, FIRST) => Statement::SetMarkFrom(key, set),
                    Expression::SetCt(k::NFT_CT_MARK, FIRST) => Statement::SetCtMarkFrom(key, set),
                    Expression::Nat(kind, family, FIRST, Some(_)) => {
                        let family = match *family {
                            k::NFPROTO_IPV4 => Family::V4,
                            k::NFPROTO_IPV6 => Family::V6,
                            _ => return None,
                        };
                        nat(*kind, NatTarget::AddressPortFrom { family, key, map: set })?
                    }
                    _ => return None,
                };
                self.skip(1);
                Some(statement)
            }
            Found::In(_) => None,
        }
    }

    /// The field that a full load reads.
    fn field(&self, from: Source) -> Option<Field> {
        let plain = [
            Field::Iifname,
            Field::Oifname,
            Field::Mark,
            Field::CtMark,
            Field::L4Proto,
            Field::Sport,
            Field::Dport,
            Field::TcpFlags,
            Field::Icmpv6Type,
            Field::FibDaddrType,
            Field::FibSaddrType,
            Field::CtOriginalDaddr(Family::V4),
            Field::CtOriginalDaddr(Family::V6),
            Field::CtOriginalDport,
            Field::CtState,
            Field::CtStatus,
            Field::CtDirection,
        ];
        if let Source::Random(modulus) = from {
            return Some(Field::Random(modulus));
        }
        plain.into_iter().chain(self.addresses()).find(|field| lower::source(*field).0 == from)
    }

    /// The address fields that the rule's family allows.
    fn addresses(&self) -> impl Iterator<Item = Field> + use<> {
        self.family.into_iter().flat_map(|family| [Field::Saddr(family), Field::Daddr(family)])
    }

    /// A load and a comparison of its bytes.
    fn compared(&self, from: Source, data: &[u8]) -> Option<(Field, Value)> {
        if let Source::Payload(k::NFT_PAYLOAD_NETWORK_HEADER, offset, length) = from {
            let (field, (_, _, whole)) = self
                .addresses()
                .filter_map(|field| Some((field, address_place(field)?)))
                .find(|(_, place)| place.1 == offset)?;
            let mut bytes = data.to_vec();
            bytes.resize(whole as usize, 0);
            let address = address(&bytes)?;
            if length == whole {
                return Some((field, Value::Address(address)));
            }
            let net = IpNet::new(address, u8::try_from(length * 8).ok()?).ok()?;
            return Some((field, Value::Net(net)));
        }
        let field = self.field(from)?;
        let value = match field {
            Field::Iifname | Field::Oifname if data.len() == 16 => {
                let end = data.iter().position(|b| *b == 0).unwrap_or(16);
                Value::Link(IfName::new(std::str::from_utf8(&data[..end]).ok()?).ok()?)
            }
            Field::Iifname | Field::Oifname => {
                Value::LinkPrefix(std::str::from_utf8(data).ok()?.to_owned().into())
            }
            Field::Mark | Field::CtMark => Value::Mark(word(data)?),
            Field::Random(_) => Value::Number(word(data)?),
            Field::L4Proto | Field::Icmpv6Type => Value::Byte(*data.first()?),
            Field::CtOriginalDaddr(family) => {
                let mut bytes = data.to_vec();
                bytes.resize(usize::from(family.bits() / 8), 0);
                let address = address(&bytes)?;
                if data.len() == bytes.len() {
                    Value::Address(address)
                } else {
                    Value::Net(IpNet::new(address, u8::try_from(data.len() * 8).ok()?).ok()?)
                }
            }
            Field::Sport | Field::Dport | Field::CtOriginalDport => {
                Value::Port(u16::from_be_bytes(data.try_into().ok()?))
            }
            Field::CtDirection if data == [lower::REPLY] => Value::Reply,
            Field::FibDaddrType | Field::FibSaddrType if word(data)? == k::RTN_LOCAL => Value::Local,
            _ => return None,
        };
        Some((field, value))
    }

    /// A load, a mask and a comparison.
    fn masked(&self, from: Source, mask: &[u8], found: Comparison, data: &[u8]) -> Option<Statement> {
        let field = self.field(from)?;
        let bits = match field {
            Field::Saddr(_) | Field::Daddr(_) | Field::CtOriginalDaddr(_) => {
                let prefix = ipnet::ip_mask_to_prefix(address(mask)?).ok()?;
                let net = IpNet::new(address(data)?, prefix).ok()?;
                return Some(Statement::Match(field, found, Value::Net(net)));
            }
            Field::CtMark => {
                let field = Field::CtMarkMasked(word(mask)?);
                return Some(Statement::Match(field, found, Value::Mark(word(data)?)));
            }
            Field::TcpFlags if mask == [lower::SYN] && data == [0] => 0,
            _ => word(mask)?,
        };
        let states =
            [ConntrackState::EstablishedOrRelated, ConntrackState::Invalid, ConntrackState::Untracked];
        let value = match field {
            Field::TcpFlags => Value::Syn,
            Field::CtState => Value::State(states.into_iter().find(|state| state_bits(*state) == bits)?),
            Field::CtStatus if bits == status_bits(ConntrackStatus::Dnat) => {
                Value::Status(ConntrackStatus::Dnat)
            }
            _ => return None,
        };
        // "Is" means that a bit is set: what is left differs from zero.
        let meant = match found {
            Comparison::Is => Comparison::IsNot,
            Comparison::IsNot => Comparison::Is,
        };
        Some(Statement::Match(field, meant, value))
    }
}

/// What an addition to a map, or a removal, says of this key and this data.
fn written(dynset: &Expression, key: Vec<Field>, data: Field) -> Option<Statement> {
    match dynset {
        Expression::Dynset { operation: k::NFT_DYNSET_OP_UPDATE, map, timeout: Some(time), .. } => {
            let timeout_seconds = u32::try_from(time / 1000).ok()?;
            Some(Statement::Update { map: map.clone(), key, timeout_seconds, data })
        }
        Expression::Dynset { operation: k::NFT_DYNSET_OP_DELETE, map, .. } => {
            Some(Statement::Delete { map: map.clone(), key, data })
        }
        _ => None,
    }
}

fn nat(kind: u32, target: NatTarget) -> Option<Statement> {
    match kind {
        k::NFT_NAT_DNAT => Some(Statement::Dnat(target)),
        k::NFT_NAT_SNAT => Some(Statement::Snat(target)),
        _ => None,
    }
}
