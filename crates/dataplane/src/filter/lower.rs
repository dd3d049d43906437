//! The plan's rules → the kernel's expressions, the way nft itself translates them.
//!
//! What always holds: the dependencies that nft adds (`meta nfproto` before an IP header's field, `meta l4proto` before
//! ICMPv6's) are added here too, once a rule and just before they are needed, because nft leaves them out of its
//! listing: a listing of these expressions is the rule as it was written, and loads to the same expressions again.
//! A statement looks up once at most: look-ups chained through registers are what nft 1.0.6 aborts on.

use std::net::IpAddr;

use ipnet::IpNet;
use weft_model::Family;
use weft_plan::filter::{
    Comparison, ConntrackState, ConntrackStatus, NatTarget, Reject, Statement, Value, block_mask,
};
use weft_plan::{Field, Ident, Rule};

use super::expression::{Expression, Found, Register, Source};
use super::uapi as k;

const ICMPV6: u8 = 58;
const TCP: u8 = 6;

/// One rule's expressions.
pub fn rule(rule: &Rule) -> Vec<Expression> {
    let mut lowering = Lowering::default();
    for statement in &rule.statements {
        lowering.statement(statement);
    }
    lowering.out
}

/// The number of a family in netfilter (`NFPROTO_*`).
pub(super) fn nfproto(family: Family) -> u8 {
    match family {
        Family::V4 => k::NFPROTO_IPV4,
        Family::V6 => k::NFPROTO_IPV6,
    }
}

/// The bytes of an address, in network order.
pub(super) fn address_bytes(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(a) => a.octets().to_vec(),
        IpAddr::V6(a) => a.octets().to_vec(),
    }
}

/// Family of an address field, its offset in the IP header, and its length.
pub(super) fn address_place(field: Field) -> Option<(Family, u32, u32)> {
    match field {
        Field::Saddr(Family::V4) => Some((Family::V4, 12, 4)),
        Field::Daddr(Family::V4) => Some((Family::V4, 16, 4)),
        Field::Saddr(Family::V6) => Some((Family::V6, 8, 16)),
        Field::Daddr(Family::V6) => Some((Family::V6, 24, 16)),
        _ => None,
    }
}

/// Where a field is loaded from, and the bytes that it takes.
pub(super) fn source(field: Field) -> (Source, u32) {
    match field {
        Field::Iifname => (Source::Meta(k::NFT_META_IIFNAME), 16),
        Field::Oifname => (Source::Meta(k::NFT_META_OIFNAME), 16),
        Field::Mark => (Source::Meta(k::NFT_META_MARK), 4),
        Field::CtMark | Field::CtMarkMasked(_) => (Source::Ct(k::NFT_CT_MARK), 4),
        Field::CtOriginalDaddr(Family::V4) => (Source::CtOriginal(k::NFT_CT_DST_IP), 4),
        Field::CtOriginalDaddr(Family::V6) => (Source::CtOriginal(k::NFT_CT_DST_IP6), 16),
        Field::CtOriginalDport => (Source::CtOriginal(k::NFT_CT_PROTO_DST), 2),
        Field::L4Proto => (Source::Meta(k::NFT_META_L4PROTO), 1),
        // What is hashed or cut.
        Field::SaddrHash(family) | Field::SaddrBlock(family, _) => source(Field::Saddr(family)),
        Field::DaddrHash(family) => source(Field::Daddr(family)),
        Field::Saddr(_) | Field::Daddr(_) => {
            let (_, offset, length) = address_place(field).unwrap_or((Family::V4, 12, 4));
            (Source::Payload(k::NFT_PAYLOAD_NETWORK_HEADER, offset, length), length)
        }
        Field::Sport => (Source::Payload(k::NFT_PAYLOAD_TRANSPORT_HEADER, 0, 2), 2),
        Field::Dport => (Source::Payload(k::NFT_PAYLOAD_TRANSPORT_HEADER, 2, 2), 2),
        Field::TcpFlags => (Source::Payload(k::NFT_PAYLOAD_TRANSPORT_HEADER, TCP_FLAGS, 1), 1),
        Field::Icmpv6Type => (Source::Payload(k::NFT_PAYLOAD_TRANSPORT_HEADER, 0, 1), 1),
        Field::FibDaddrType => (Source::FibDaddrType, 4),
        Field::FibSaddrType => (Source::FibSaddrType, 4),
        Field::CtState => (Source::Ct(k::NFT_CT_STATE), 4),
        Field::CtStatus => (Source::Ct(k::NFT_CT_STATUS), 4),
        Field::CtDirection => (Source::Ct(k::NFT_CT_DIRECTION), 1),
        Field::Random(modulus) => (Source::Random(modulus), 4),
    }
}

/// Where the flags are in a TCP header (RFC 9293, section 3.1), and the bit of SYN.
pub(super) const TCP_FLAGS: u32 = 13;
pub(super) const SYN: u8 = 2;
/// `IP_CT_DIR_REPLY`.
pub(super) const REPLY: u8 = 1;

/// The bits that a conntrack state stands for.
pub(super) fn state_bits(state: ConntrackState) -> u32 {
    match state {
        ConntrackState::Invalid => 1,
        ConntrackState::EstablishedOrRelated => 2 | 4,
        ConntrackState::Untracked => 64,
    }
}

/// The bits that a conntrack status stands for (`IPS_DST_NAT`).
pub(super) fn status_bits(status: ConntrackStatus) -> u32 {
    match status {
        ConntrackStatus::Dnat => 32,
    }
}

/// Type and code of "port unreachable" in a rule for this family, or for both.
pub(super) fn port_unreachable(family: Option<Family>) -> (u32, u8) {
    match family {
        None => (k::NFT_REJECT_ICMPX_UNREACH, k::NFT_REJECT_ICMPX_PORT_UNREACH),
        Some(Family::V4) => (k::NFT_REJECT_ICMP_UNREACH, k::ICMP_PORT_UNREACH),
        Some(Family::V6) => (k::NFT_REJECT_ICMP_UNREACH, k::ICMPV6_PORT_UNREACH),
    }
}

#[derive(Default)]
struct Lowering {
    out: Vec<Expression>,
    family: Option<Family>,
    protocol: Option<u8>,
}

const FIRST: Register = Register(0);
/// Where nft 1.0.6 puts the data for a map that packets write, and a hash's input, however long the key is: one over 16
/// bytes would be overwritten there.
pub(super) const DATA: Register = Register(4);

/// The words that a field takes in a key.
pub(super) fn key_words(field: Field) -> u32 {
    match field {
        Field::SaddrHash(_) | Field::DaddrHash(_) => 1,
        _ => source(field).1.div_ceil(4),
    }
}

impl Lowering {
    fn load(&mut self, source: Source, register: Register) {
        self.out.push(Expression::Load(source, register));
    }

    fn compare(&mut self, comparison: Comparison, data: &[u8]) {
        let operation = match comparison {
            Comparison::Is => k::NFT_CMP_EQ,
            Comparison::IsNot => k::NFT_CMP_NEQ,
        };
        self.out.push(Expression::Compare { register: FIRST, operation, data: data.to_vec() });
    }

    fn need_family(&mut self, family: Family) {
        if self.family != Some(family) {
            self.load(Source::Meta(k::NFT_META_NFPROTO), FIRST);
            self.compare(Comparison::Is, &[nfproto(family)]);
            self.family = Some(family);
        }
    }

    fn need_protocol(&mut self, protocol: u8) {
        if self.protocol != Some(protocol) {
            self.load(Source::Meta(k::NFT_META_L4PROTO), FIRST);
            self.compare(Comparison::Is, &[protocol]);
            self.protocol = Some(protocol);
        }
    }

    fn need_for(&mut self, field: Field) {
        match field {
            Field::Saddr(family)
            | Field::SaddrBlock(family, _)
            | Field::Daddr(family)
            | Field::SaddrHash(family)
            | Field::DaddrHash(family) => self.need_family(family),
            Field::TcpFlags => self.need_protocol(TCP),
            Field::Icmpv6Type => {
                // After "meta l4proto ipv6-icmp" nft asks for no family.
                if self.protocol != Some(ICMPV6) {
                    self.need_family(Family::V6);
                }
                self.need_protocol(ICMPV6);
            }
            _ => {}
        }
    }

    /// Loads a concatenation: each part begins at a word of its own. What is hashed goes by way of `scratch`.
    fn load_key(&mut self, key: &[Field], scratch: Register) {
        for field in key {
            self.need_for(*field);
        }
        let mut word = 0;
        for field in key {
            let register = Register(word);
            let (from, bytes) = source(*field);
            match field {
                Field::SaddrHash(_) | Field::DaddrHash(_) => {
                    self.load(from, scratch);
                    self.out.push(Expression::Hash { from: scratch, length: bytes, to: register });
                }
                Field::CtMarkMasked(bits) => {
                    self.load(from, register);
                    self.out.push(Expression::Mask(register, bits.to_ne_bytes().to_vec()));
                }
                Field::SaddrBlock(family, prefix) => {
                    self.load(from, register);
                    self.out.push(Expression::Mask(register, address_bytes(block_mask(*family, *prefix))));
                }
                _ => self.load(from, register),
            }
            word += key_words(*field);
        }
    }

    /// Looks a key up and leaves what is found in the first register.
    fn load_found(&mut self, key: &[Field], map: &Ident) {
        let words: u32 = key.iter().map(|field| key_words(*field)).sum();
        // Where nft has its scratch: behind the register of the statement and those of the key.
        self.load_key(key, Register(DATA.0 + words));
        self.out.push(Expression::Lookup(map.clone(), FIRST, Found::In(FIRST)));
    }

    fn dynset(&mut self, operation: u32, map: &Ident, key: &[Field], data: Field, timeout: Option<u64>) {
        self.load_key(key, DATA);
        self.load(source(data).0, DATA);
        let map = map.clone();
        self.out.push(Expression::Dynset { operation, map, key: FIRST, data: DATA, timeout });
    }

    fn test_bits(&mut self, comparison: Comparison, bits: &[u8]) {
        self.out.push(Expression::Mask(FIRST, bits.to_vec()));
        // "Is" holds where one of the bits is set: the rest differs from zero.
        let comparison = match comparison {
            Comparison::Is => Comparison::IsNot,
            Comparison::IsNot => Comparison::Is,
        };
        self.compare(comparison, &vec![0; bits.len()]);
    }

    /// A block whose length is whole bytes is loaded that short; others are masked; nft does the same.
    fn match_net(&mut self, field: Field, comparison: Comparison, net: IpNet) {
        let bytes = address_bytes(net.network());
        let prefix = u32::from(net.prefix_len());
        let (whole, _) = source(field);
        if prefix != 0 && prefix.is_multiple_of(8) {
            let short = prefix / 8;
            self.load(
                match whole {
                    Source::Payload(base, offset, _) => Source::Payload(base, offset, short),
                    // Of a connection's address only the comparison is short.
                    other => other,
                },
                FIRST,
            );
            self.compare(comparison, &bytes[..short as usize]);
        } else {
            self.load(whole, FIRST);
            self.out.push(Expression::Mask(FIRST, address_bytes(net.netmask())));
            self.compare(comparison, &bytes);
        }
    }

    fn match_value(&mut self, field: Field, comparison: Comparison, value: &Value) {
        if let (Field::L4Proto, Comparison::Is, Value::Byte(protocol)) = (field, comparison, value) {
            return self.need_protocol(*protocol);
        }
        self.need_for(field);
        if let Value::Net(net) = value {
            return self.match_net(field, comparison, *net);
        }
        let (from, _) = source(field);
        self.load(from, FIRST);
        if let Field::CtMarkMasked(bits) = field {
            self.out.push(Expression::Mask(FIRST, bits.to_ne_bytes().to_vec()));
        }
        match value {
            Value::Link(name) => {
                let mut bytes = [0; 16];
                bytes[..name.as_str().len()].copy_from_slice(name.as_str().as_bytes());
                self.compare(comparison, &bytes);
            }
            Value::LinkPrefix(prefix) => self.compare(comparison, prefix.as_bytes()),
            Value::Byte(byte) => self.compare(comparison, &[*byte]),
            Value::Port(port) => self.compare(comparison, &port.to_be_bytes()),
            Value::Address(address) => self.compare(comparison, &address_bytes(*address)),
            Value::Mark(number) | Value::Number(number) => self.compare(comparison, &number.to_ne_bytes()),
            Value::Local => self.compare(comparison, &k::RTN_LOCAL.to_ne_bytes()),
            Value::State(state) => self.test_bits(comparison, &state_bits(*state).to_ne_bytes()),
            Value::Status(status) => self.test_bits(comparison, &status_bits(*status).to_ne_bytes()),
            Value::Syn => self.test_bits(comparison, &[SYN]),
            Value::Reply => self.compare(comparison, &[REPLY]),
            Value::Net(_) => {}
        }
    }

    fn nat(&mut self, kind: u32, target: &NatTarget) {
        match target {
            NatTarget::Address(address) => {
                self.out.push(Expression::Immediate(FIRST, address_bytes(*address)));
                let family = nfproto(Family::of(*address));
                self.out.push(Expression::Nat(kind, family, FIRST, None));
            }
            NatTarget::AddressPortFrom { family, key, map } => {
                self.load_found(key, map);
                let port = Register(u32::from(family.bits()) / 32);
                self.out.push(Expression::Nat(kind, nfproto(*family), FIRST, Some(port)));
            }
        }
    }

    fn statement(&mut self, statement: &Statement) {
        match statement {
            Statement::Match(field, comparison, value) => self.match_value(*field, *comparison, value),
            Statement::Lookup(key, comparison, set) => {
                self.load_key(key, DATA);
                let inverted = *comparison == Comparison::IsNot;
                self.out.push(Expression::Lookup(set.clone(), FIRST, Found::Match { inverted }));
            }
            Statement::Counter => self.out.push(Expression::Counter { packets: 0, bytes: 0 }),
            Statement::Notrack => self.out.push(Expression::Notrack),
            Statement::SetMarkBits(bits) => {
                self.load(Source::Meta(k::NFT_META_MARK), FIRST);
                self.out.push(Expression::Or(FIRST, *bits));
                self.out.push(Expression::SetMeta(k::NFT_META_MARK, FIRST));
            }
            Statement::SetMarkFrom(key, map) => {
                self.load_found(key, map);
                self.out.push(Expression::SetMeta(k::NFT_META_MARK, FIRST));
            }
            Statement::SaveMark => {
                self.load(Source::Meta(k::NFT_META_MARK), FIRST);
                self.out.push(Expression::SetCt(k::NFT_CT_MARK, FIRST));
            }
            Statement::SetCtMark(mark) => {
                self.out.push(Expression::Immediate(FIRST, mark.to_ne_bytes().to_vec()));
                self.out.push(Expression::SetCt(k::NFT_CT_MARK, FIRST));
            }
            Statement::SetCtMarkFrom(key, map) => {
                self.load_found(key, map);
                self.out.push(Expression::SetCt(k::NFT_CT_MARK, FIRST));
            }
            Statement::Update { map, key, timeout_seconds, data } => {
                let timeout = Some(u64::from(*timeout_seconds) * 1000);
                self.dynset(k::NFT_DYNSET_OP_UPDATE, map, key, *data, timeout);
            }
            Statement::Delete { map, key, data } => {
                self.dynset(k::NFT_DYNSET_OP_DELETE, map, key, *data, None);
            }
            Statement::VerdictFrom(key, map) => {
                self.load_key(key, DATA);
                self.out.push(Expression::Lookup(map.clone(), FIRST, Found::Verdict));
            }
            Statement::Dnat(target) => self.nat(k::NFT_NAT_DNAT, target),
            Statement::Snat(target) => self.nat(k::NFT_NAT_SNAT, target),
            Statement::Masquerade => {
                self.out.push(Expression::Masquerade(k::NF_NAT_RANGE_PROTO_RANDOM_FULLY));
            }
            Statement::Reject(reject) => self.reject(*reject),
            Statement::Verdict(verdict) => self.out.push(Expression::Verdict(verdict.clone())),
        }
    }

    fn reject(&mut self, reject: Reject) {
        let (kind, code) = match reject {
            // Where the family is known, nft reads its own listing's bare "reject" as that family's.
            Reject::PortUnreachable => port_unreachable(self.family),
            Reject::AdminProhibited => (k::NFT_REJECT_ICMPX_UNREACH, k::NFT_REJECT_ICMPX_ADMIN_PROHIBITED),
            Reject::TcpReset => {
                self.need_protocol(TCP);
                (k::NFT_REJECT_TCP_RST, 0)
            }
        };
        self.out.push(Expression::Reject(kind, code));
    }
}
