//! The kernel's expressions, of which its rules are made: one variant for each that Weft's rules need.
//!
//! They stand between the plan's statements ([`super::lower`], [`super::raise`]) and netlink's bytes (`write`, `read`
//! here), and print as `nft --debug=netlink` prints them. What an expression of another program says that these can't
//! hold becomes [`Expression::Other`], which equals nothing that Weft makes.

use std::fmt;

use weft_plan::filter::{HASH_MODULUS, HASH_SEED};
use weft_plan::{Ident, Verdict};

use super::attribute::{Attribute, Attributes, Writer};
use super::uapi as k;

/// A register: the number of its first 32-bit word, from 0 to 15.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Register(pub u32);

impl Register {
    /// The kernel's number: words at a multiple of four have the names of the older 16-byte registers.
    fn number(self) -> u32 {
        if self.0.is_multiple_of(4) { 1 + self.0 / 4 } else { 8 + self.0 }
    }

    fn from_number(number: u32) -> Option<Self> {
        match number {
            1..=4 => Some(Self((number - 1) * 4)),
            8..=23 => Some(Self(number - 8)),
            _ => None,
        }
    }
}

/// What a load puts into a register.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// `meta`: a property of the packet (`NFT_META_*`).
    Meta(u32),
    /// `ct`: a property of the connection (`NFT_CT_*`).
    Ct(u32),
    /// Bytes of a header (`NFT_PAYLOAD_*`): base, offset, length.
    Payload(u32, u32, u32),
    /// `ct original`: a property of the connection's first packet as it was sent (`NFT_CT_*`).
    CtOriginal(u32),
    /// Type of the destination address in the routing tables.
    FibDaddrType,
    /// Type of the source address in the routing tables.
    FibSaddrType,
    /// A random number below this.
    Random(u32),
}

/// Where a look-up puts what it finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// Nowhere: the look-up is a match; `inverted` matches what is absent.
    Match {
        /// Whether absent keys match.
        inverted: bool,
    },
    /// In a register.
    In(Register),
    /// In the verdict register.
    Verdict,
}

/// One expression.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expression {
    /// Loads a register.
    Load(Source, Register),
    /// Ends the rule unless the register's bytes are (`eq`) or are not (`neq`) these.
    Compare {
        /// The register.
        register: Register,
        /// `NFT_CMP_EQ` or `NFT_CMP_NEQ`.
        operation: u32,
        /// The bytes.
        data: Vec<u8>,
    },
    /// Keeps only these bits of the register.
    Mask(Register, Vec<u8>),
    /// Sets these bits of the register's first word and keeps the others.
    Or(Register, u32),
    /// Hashes the bytes of one register into another, as [`weft_plan::filter::address_hash`] does.
    Hash {
        /// The bytes.
        from: Register,
        /// How many.
        length: u32,
        /// The number's place.
        to: Register,
    },
    /// Adds to a map or takes from it (`NFT_DYNSET_OP_*`).
    Dynset {
        /// What is done.
        operation: u32,
        /// The map.
        map: Ident,
        /// The element's key.
        key: Register,
        /// Its data.
        data: Register,
        /// Milliseconds that it stays; none for a deletion.
        timeout: Option<u64>,
    },
    /// Looks the register up in a set or map.
    Lookup(Ident, Register, Found),
    /// Puts bytes into a register.
    Immediate(Register, Vec<u8>),
    /// Decides.
    Verdict(Verdict),
    /// Sets `meta` from a register.
    SetMeta(u32, Register),
    /// Sets `ct` from a register.
    SetCt(u32, Register),
    /// Counts.
    Counter {
        /// Packets so far.
        packets: u64,
        /// Bytes so far.
        bytes: u64,
    },
    /// Keeps the packet out of connection tracking.
    Notrack,
    /// Translates (`NFT_NAT_*`) to an address of this family (`NFPROTO_*`), and to a port.
    Nat(u32, u8, Register, Option<Register>),
    /// Masquerades, with these flags (`NF_NAT_RANGE_*`).
    Masquerade(u32),
    /// Refuses (`NFT_REJECT_*`) with this code.
    Reject(u32, u8),
    /// Anything else, by name.
    Other(Box<str>),
}

/// Writes a value as `struct nft_data`.
pub(super) fn write_data(w: &mut Writer, kind: u16, bytes: &[u8]) {
    w.nest(kind, |w| w.bytes(k::NFTA_DATA_VALUE, bytes));
}

/// Writes a verdict as `struct nft_data`.
pub(super) fn write_verdict(w: &mut Writer, kind: u16, verdict: &Verdict) {
    let (code, chain) = match verdict {
        Verdict::Accept => (k::NF_ACCEPT, None),
        Verdict::Drop => (k::NF_DROP, None),
        Verdict::Return => (k::NFT_RETURN, None),
        Verdict::Jump(chain) => (k::NFT_JUMP, Some(chain)),
        Verdict::Goto(chain) => (k::NFT_GOTO, Some(chain)),
    };
    w.nest(kind, |w| {
        w.nest(k::NFTA_DATA_VERDICT, |w| {
            w.u32(k::NFTA_VERDICT_CODE, code);
            if let Some(chain) = chain {
                w.text(k::NFTA_VERDICT_CHAIN, chain.as_str());
            }
        });
    });
}

/// Reads a verdict from `struct nft_data`.
pub(super) fn read_verdict(data: Attribute<'_>) -> Option<Verdict> {
    let verdict = data.nested().get(k::NFTA_DATA_VERDICT)?.nested();
    let chain = || read_ident(verdict.get(k::NFTA_VERDICT_CHAIN)?);
    match verdict.get(k::NFTA_VERDICT_CODE)?.u32()? {
        k::NF_ACCEPT => Some(Verdict::Accept),
        k::NF_DROP => Some(Verdict::Drop),
        k::NFT_RETURN => Some(Verdict::Return),
        k::NFT_JUMP => Some(Verdict::Jump(chain()?)),
        k::NFT_GOTO => Some(Verdict::Goto(chain()?)),
        _ => None,
    }
}

/// Reads a name; `None` where it has characters that nft's own syntax doesn't allow.
pub(super) fn read_ident(attribute: Attribute<'_>) -> Option<Ident> {
    Ident::parse(attribute.text()?)
}

impl Expression {
    /// Writes the expression as one element of a rule's list.
    pub fn write(&self, w: &mut Writer) {
        let mut one = |name: &str, body: &dyn Fn(&mut Writer)| {
            w.nest(k::NFTA_LIST_ELEM, |w| {
                w.text(k::NFTA_EXPR_NAME, name);
                w.nest(k::NFTA_EXPR_DATA, body);
            });
        };
        match self {
            Expression::Load(source, register) => write_load(&mut one, *source, register.number()),
            Expression::Compare { register, operation, data } => one("cmp", &|w| {
                w.u32(k::NFTA_CMP_SREG, register.number());
                w.u32(k::NFTA_CMP_OP, *operation);
                write_data(w, k::NFTA_CMP_DATA, data);
            }),
            Expression::Mask(register, mask) => {
                one("bitwise", &|w| write_bitwise(w, *register, mask, &vec![0; mask.len()]));
            }
            Expression::Or(register, bits) => {
                let keep = (!bits).to_ne_bytes();
                one("bitwise", &|w| write_bitwise(w, *register, &keep, &bits.to_ne_bytes()));
            }
            Expression::Hash { from, length, to } => one("hash", &|w| write_hash(w, *from, *length, *to)),
            Expression::Dynset { operation, map, key, data, timeout } => one("dynset", &|w| {
                w.text(k::NFTA_DYNSET_SET_NAME, map.as_str());
                w.u32(k::NFTA_DYNSET_OP, *operation);
                w.u32(k::NFTA_DYNSET_SREG_KEY, key.number());
                w.u32(k::NFTA_DYNSET_SREG_DATA, data.number());
                if let Some(milliseconds) = timeout {
                    w.u64(k::NFTA_DYNSET_TIMEOUT, *milliseconds);
                }
            }),
            Expression::Lookup(set, register, found) => {
                one("lookup", &|w| write_lookup(w, set, *register, *found));
            }
            Expression::Immediate(register, data) => one("immediate", &|w| {
                w.u32(k::NFTA_IMMEDIATE_DREG, register.number());
                write_data(w, k::NFTA_IMMEDIATE_DATA, data);
            }),
            Expression::Verdict(verdict) => one("immediate", &|w| {
                w.u32(k::NFTA_IMMEDIATE_DREG, 0);
                write_verdict(w, k::NFTA_IMMEDIATE_DATA, verdict);
            }),
            Expression::SetMeta(key, register) => one("meta", &|w| {
                w.u32(k::NFTA_META_KEY, *key);
                w.u32(k::NFTA_META_SREG, register.number());
            }),
            Expression::SetCt(key, register) => one("ct", &|w| {
                w.u32(k::NFTA_CT_KEY, *key);
                w.u32(k::NFTA_CT_SREG, register.number());
            }),
            Expression::Counter { packets, bytes } => one("counter", &|w| {
                w.u64(k::NFTA_COUNTER_BYTES, *bytes);
                w.u64(k::NFTA_COUNTER_PACKETS, *packets);
            }),
            Expression::Notrack => one("notrack", &|_| {}),
            Expression::Nat(kind, family, address, port) => {
                one("nat", &|w| write_nat(w, *kind, *family, *address, *port));
            }
            Expression::Masquerade(flags) => one("masq", &|w| w.u32(k::NFTA_MASQ_FLAGS, *flags)),
            Expression::Reject(kind, code) => one("reject", &|w| {
                w.u32(k::NFTA_REJECT_TYPE, *kind);
                w.bytes(k::NFTA_REJECT_ICMP_CODE, &[*code]);
            }),
            // Never lowered from a plan; the kernel refuses the bare name of most expressions, which is an error that
            // is seen, not a rule that does something else.
            Expression::Other(name) => one(name, &|_| {}),
        }
    }

    /// Reads one element of a rule's list.
    pub fn read(element: Attribute<'_>) -> Self {
        let attributes = element.nested();
        let name = attributes.get(k::NFTA_EXPR_NAME).and_then(|a| a.text()).unwrap_or_default();
        let data = attributes.get(k::NFTA_EXPR_DATA).map_or(Attributes(&[]), |a| a.nested());
        read_named(name, data).unwrap_or_else(|| Expression::Other(name.into()))
    }
}

/// Writes one expression: its name, and what fills its data.
type WriteOne<'a> = dyn FnMut(&str, &dyn Fn(&mut Writer)) + 'a;

fn write_load(one: &mut WriteOne<'_>, source: Source, register: u32) {
    match source {
        Source::Meta(key) => one("meta", &|w| {
            w.u32(k::NFTA_META_KEY, key);
            w.u32(k::NFTA_META_DREG, register);
        }),
        Source::Ct(key) => one("ct", &|w| {
            w.u32(k::NFTA_CT_KEY, key);
            w.u32(k::NFTA_CT_DREG, register);
        }),
        Source::Payload(base, offset, length) => one("payload", &|w| {
            w.u32(k::NFTA_PAYLOAD_DREG, register);
            w.u32(k::NFTA_PAYLOAD_BASE, base);
            w.u32(k::NFTA_PAYLOAD_OFFSET, offset);
            w.u32(k::NFTA_PAYLOAD_LEN, length);
        }),
        Source::CtOriginal(key) => one("ct", &|w| {
            w.u32(k::NFTA_CT_KEY, key);
            w.u32(k::NFTA_CT_DREG, register);
            w.bytes(k::NFTA_CT_DIRECTION, &[k::IP_CT_DIR_ORIGINAL]);
        }),
        Source::FibDaddrType | Source::FibSaddrType => one("fib", &|w| {
            let of_source = source == Source::FibSaddrType;
            w.u32(k::NFTA_FIB_FLAGS, if of_source { k::NFTA_FIB_F_SADDR } else { k::NFTA_FIB_F_DADDR });
            w.u32(k::NFTA_FIB_RESULT, k::NFT_FIB_RESULT_ADDRTYPE);
            w.u32(k::NFTA_FIB_DREG, register);
        }),
        Source::Random(modulus) => one("numgen", &|w| {
            w.u32(k::NFTA_NG_DREG, register);
            w.u32(k::NFTA_NG_TYPE, k::NFT_NG_RANDOM);
            w.u32(k::NFTA_NG_MODULUS, modulus);
            w.u32(k::NFTA_NG_OFFSET, 0);
        }),
    }
}

/// `register = (register & mask) ^ xor`, of which nft makes all that it says of bits.
fn write_bitwise(w: &mut Writer, register: Register, mask: &[u8], xor: &[u8]) {
    w.u32(k::NFTA_BITWISE_SREG, register.number());
    w.u32(k::NFTA_BITWISE_DREG, register.number());
    w.u32(k::NFTA_BITWISE_LEN, mask.len() as u32);
    w.u32(k::NFTA_BITWISE_OP, 0);
    write_data(w, k::NFTA_BITWISE_MASK, mask);
    write_data(w, k::NFTA_BITWISE_XOR, xor);
}

fn write_hash(w: &mut Writer, from: Register, length: u32, to: Register) {
    w.u32(k::NFTA_HASH_SREG, from.number());
    w.u32(k::NFTA_HASH_DREG, to.number());
    w.u32(k::NFTA_HASH_LEN, length);
    w.u32(k::NFTA_HASH_MODULUS, HASH_MODULUS);
    w.u32(k::NFTA_HASH_SEED, HASH_SEED);
    w.u32(k::NFTA_HASH_TYPE, k::NFT_HASH_JENKINS);
}

fn write_lookup(w: &mut Writer, set: &Ident, register: Register, found: Found) {
    w.text(k::NFTA_LOOKUP_SET, set.as_str());
    w.u32(k::NFTA_LOOKUP_SREG, register.number());
    match found {
        Found::Match { inverted: false } => {}
        Found::Match { inverted: true } => w.u32(k::NFTA_LOOKUP_FLAGS, k::NFT_LOOKUP_F_INV),
        Found::In(register) => w.u32(k::NFTA_LOOKUP_DREG, register.number()),
        Found::Verdict => w.u32(k::NFTA_LOOKUP_DREG, 0),
    }
}

fn write_nat(w: &mut Writer, kind: u32, family: u8, address: Register, port: Option<Register>) {
    w.u32(k::NFTA_NAT_TYPE, kind);
    w.u32(k::NFTA_NAT_FAMILY, u32::from(family));
    w.u32(k::NFTA_NAT_REG_ADDR_MIN, address.number());
    if let Some(port) = port {
        w.u32(k::NFTA_NAT_REG_PROTO_MIN, port.number());
    }
    match nat_flags(kind, port) {
        0 => {}
        flags => w.u32(k::NFTA_NAT_FLAGS, flags),
    }
}

/// `None` where the expression is another, or says more than the variants hold.
fn read_named(name: &str, a: Attributes<'_>) -> Option<Expression> {
    let number = |kind: u16| a.get(kind)?.u32();
    let register = |kind: u16| Register::from_number(number(kind)?);
    let value = |kind: u16| Some(a.get(kind)?.nested().get(k::NFTA_DATA_VALUE)?.value.to_vec());
    let load = |source: Source, kind: u16| Some(Expression::Load(source, register(kind)?));
    match name {
        "meta" => match register(k::NFTA_META_SREG) {
            Some(from) => Some(Expression::SetMeta(number(k::NFTA_META_KEY)?, from)),
            None => load(Source::Meta(number(k::NFTA_META_KEY)?), k::NFTA_META_DREG),
        },
        "ct" => match register(k::NFTA_CT_SREG) {
            Some(from) => Some(Expression::SetCt(number(k::NFTA_CT_KEY)?, from)),
            None if a.count() == 2 => load(Source::Ct(number(k::NFTA_CT_KEY)?), k::NFTA_CT_DREG),
            // A third attribute is a direction. Of the answering way the plan has no fields.
            None if a.get(k::NFTA_CT_DIRECTION)?.value == [k::IP_CT_DIR_ORIGINAL] => {
                load(Source::CtOriginal(number(k::NFTA_CT_KEY)?), k::NFTA_CT_DREG)
            }
            None => None,
        },
        "payload" => load(
            Source::Payload(
                number(k::NFTA_PAYLOAD_BASE)?,
                number(k::NFTA_PAYLOAD_OFFSET)?,
                number(k::NFTA_PAYLOAD_LEN)?,
            ),
            k::NFTA_PAYLOAD_DREG,
        ),
        "fib" if number(k::NFTA_FIB_RESULT)? == k::NFT_FIB_RESULT_ADDRTYPE => {
            let source = match number(k::NFTA_FIB_FLAGS)? {
                k::NFTA_FIB_F_DADDR => Source::FibDaddrType,
                k::NFTA_FIB_F_SADDR => Source::FibSaddrType,
                _ => return None,
            };
            load(source, k::NFTA_FIB_DREG)
        }
        "hash" => read_hash(a),
        "numgen" if number(k::NFTA_NG_TYPE)? == k::NFT_NG_RANDOM && number(k::NFTA_NG_OFFSET)? == 0 => {
            load(Source::Random(number(k::NFTA_NG_MODULUS)?), k::NFTA_NG_DREG)
        }
        "cmp" => Some(Expression::Compare {
            register: register(k::NFTA_CMP_SREG)?,
            operation: number(k::NFTA_CMP_OP)?,
            data: value(k::NFTA_CMP_DATA)?,
        }),
        "bitwise" => read_bitwise(a),
        "lookup" => {
            let set = read_ident(a.get(k::NFTA_LOOKUP_SET)?)?;
            let found = match number(k::NFTA_LOOKUP_DREG) {
                None => Found::Match {
                    inverted: number(k::NFTA_LOOKUP_FLAGS).unwrap_or_default() & k::NFT_LOOKUP_F_INV != 0,
                },
                Some(0) => Found::Verdict,
                Some(other) => Found::In(Register::from_number(other)?),
            };
            Some(Expression::Lookup(set, register(k::NFTA_LOOKUP_SREG)?, found))
        }
        "immediate" if number(k::NFTA_IMMEDIATE_DREG)? == 0 => {
            read_verdict(a.get(k::NFTA_IMMEDIATE_DATA)?).map(Expression::Verdict)
        }
        "immediate" => {
            Some(Expression::Immediate(register(k::NFTA_IMMEDIATE_DREG)?, value(k::NFTA_IMMEDIATE_DATA)?))
        }
        _ => read_act(name, a),
    }
}

/// Expressions that do something to the packet, and load no register.
fn read_act(name: &str, a: Attributes<'_>) -> Option<Expression> {
    let number = |kind: u16| a.get(kind)?.u32();
    match name {
        "counter" => Some(Expression::Counter {
            packets: a.get(k::NFTA_COUNTER_PACKETS)?.u64()?,
            bytes: a.get(k::NFTA_COUNTER_BYTES)?.u64()?,
        }),
        "notrack" => Some(Expression::Notrack),
        "dynset" => read_dynset(a),
        "nat" => read_nat(a),
        "masq" if a.get(k::NFTA_MASQ_FLAGS + 1).is_none() => {
            Some(Expression::Masquerade(number(k::NFTA_MASQ_FLAGS).unwrap_or_default()))
        }
        "reject" => Some(Expression::Reject(
            number(k::NFTA_REJECT_TYPE)?,
            a.get(k::NFTA_REJECT_ICMP_CODE).and_then(|c| c.value.first().copied()).unwrap_or_default(),
        )),
        _ => None,
    }
}

fn read_bitwise(a: Attributes<'_>) -> Option<Expression> {
    let number = |kind: u16| a.get(kind)?.u32();
    let value = |kind: u16| Some(a.get(kind)?.nested().get(k::NFTA_DATA_VALUE)?.value);
    let register = Register::from_number(number(k::NFTA_BITWISE_SREG)?)?;
    let in_place = number(k::NFTA_BITWISE_DREG)? == number(k::NFTA_BITWISE_SREG)?;
    let masks = number(k::NFTA_BITWISE_OP).unwrap_or_default() == 0;
    (in_place && masks).then_some(())?;
    let (mask, xor) = (value(k::NFTA_BITWISE_MASK)?, value(k::NFTA_BITWISE_XOR)?);
    if xor.iter().all(|byte| *byte == 0) {
        return Some(Expression::Mask(register, mask.to_vec()));
    }
    let word = |bytes: &[u8]| bytes.try_into().ok().map(u32::from_ne_bytes);
    let bits = word(xor)?;
    (word(mask)? == !bits).then_some(Expression::Or(register, bits))
}

fn read_hash(a: Attributes<'_>) -> Option<Expression> {
    let number = |kind: u16| a.get(kind)?.u32();
    let ours = number(k::NFTA_HASH_TYPE)? == k::NFT_HASH_JENKINS
        && number(k::NFTA_HASH_MODULUS)? == HASH_MODULUS
        && number(k::NFTA_HASH_SEED)? == HASH_SEED
        && number(k::NFTA_HASH_OFFSET).unwrap_or_default() == 0;
    ours.then_some(())?;
    Some(Expression::Hash {
        from: Register::from_number(number(k::NFTA_HASH_SREG)?)?,
        length: number(k::NFTA_HASH_LEN)?,
        to: Register::from_number(number(k::NFTA_HASH_DREG)?)?,
    })
}

fn read_dynset(a: Attributes<'_>) -> Option<Expression> {
    let number = |kind: u16| a.get(kind)?.u32();
    let plain = a.get(k::NFTA_DYNSET_EXPR).is_none() && number(k::NFTA_DYNSET_FLAGS).unwrap_or_default() == 0;
    plain.then_some(())?;
    Some(Expression::Dynset {
        operation: number(k::NFTA_DYNSET_OP)?,
        map: read_ident(a.get(k::NFTA_DYNSET_SET_NAME)?)?,
        key: Register::from_number(number(k::NFTA_DYNSET_SREG_KEY)?)?,
        data: Register::from_number(number(k::NFTA_DYNSET_SREG_DATA)?)?,
        timeout: a.get(k::NFTA_DYNSET_TIMEOUT).and_then(|time| time.u64()).filter(|time| *time > 0),
    })
}

fn read_nat(a: Attributes<'_>) -> Option<Expression> {
    /// "An address is given" and "a port is given": the kernel sets these itself.
    const IMPLIED: u32 = 3;
    let register = |kind: u16| Register::from_number(a.get(kind)?.u32()?);
    let flags = a.get(k::NFTA_NAT_FLAGS).and_then(|f| f.u32()).unwrap_or_default();
    let address = register(k::NFTA_NAT_REG_ADDR_MIN)?;
    let port = register(k::NFTA_NAT_REG_PROTO_MIN);
    let single = register(k::NFTA_NAT_REG_ADDR_MAX).is_none_or(|max| max == address)
        && register(k::NFTA_NAT_REG_PROTO_MAX).is_none_or(|max| Some(max) == port);
    let kind = a.get(k::NFTA_NAT_TYPE)?.u32()?;
    (single && flags & !IMPLIED == nat_flags(kind, port)).then_some(())?;
    let family = u8::try_from(a.get(k::NFTA_NAT_FAMILY)?.u32()?).ok()?;
    Some(Expression::Nat(kind, family, address, port))
}

/// A source's port is the kernel's to choose, at random: two clients of one server that share an address after translation
/// and have the same port would else be told apart only when both are on their way, at the cost of a packet.
fn nat_flags(kind: u32, port: Option<Register>) -> u32 {
    if kind == k::NFT_NAT_SNAT && port.is_none() { k::NF_NAT_RANGE_PROTO_RANDOM_FULLY } else { 0 }
}

struct Words<'a>(&'a [u8]);

impl fmt::Display for Words<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for chunk in self.0.chunks(4) {
            let mut word = [0; 4];
            word[..chunk.len()].copy_from_slice(chunk);
            write!(f, " {:#010x}", u32::from_ne_bytes(word))?;
        }
        Ok(())
    }
}

impl fmt::Display for Register {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "reg {}", self.number())
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let meta = |key: u32| match key {
            k::NFT_META_MARK => "mark",
            k::NFT_META_IIFNAME => "iifname",
            k::NFT_META_OIFNAME => "oifname",
            k::NFT_META_NFPROTO => "nfproto",
            k::NFT_META_L4PROTO => "l4proto",
            _ => "other",
        };
        let ct = |key: u32| match key {
            k::NFT_CT_STATE => "state",
            k::NFT_CT_STATUS => "status",
            k::NFT_CT_MARK => "mark",
            k::NFT_CT_PROTO_DST => "proto_dst",
            k::NFT_CT_DST_IP => "dst_ip",
            k::NFT_CT_DST_IP6 => "dst_ip6",
            _ => "other",
        };
        match self {
            Source::Meta(key) => write!(f, "meta load {}", meta(*key)),
            Source::Ct(key) => write!(f, "ct load {}", ct(*key)),
            Source::Payload(base, offset, length) => {
                let base = if *base == k::NFT_PAYLOAD_NETWORK_HEADER { "network" } else { "transport" };
                write!(f, "payload load {length}b @ {base} header + {offset}")
            }
            Source::CtOriginal(key) => write!(f, "ct load {} dir original", ct(*key)),
            Source::FibDaddrType => f.write_str("fib daddr type"),
            Source::FibSaddrType => f.write_str("fib saddr type"),
            Source::Random(modulus) => write!(f, "numgen random mod {modulus}"),
        }
    }
}

impl fmt::Display for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Expression::Load(source, register) => write!(f, "[ {source} => {register} ]"),
            Expression::Compare { register, operation, data } => {
                let operation = if *operation == k::NFT_CMP_EQ { "eq" } else { "neq" };
                write!(f, "[ cmp {operation} {register}{} ]", Words(data))
            }
            Expression::Mask(register, mask) => {
                write!(f, "[ bitwise {register} = ( {register} &{} ) ]", Words(mask))
            }
            Expression::Or(register, bits) => {
                write!(f, "[ bitwise {register} = ( {register} & {:#010x} ) ^ {bits:#010x} ]", !bits)
            }
            Expression::Hash { from, length, to } => {
                write!(f, "[ hash {to} = jhash({from}, {length}, {HASH_SEED:#x}) % mod {HASH_MODULUS} ]")
            }
            Expression::Dynset { operation, map, key, data, timeout } => {
                let operation = if *operation == k::NFT_DYNSET_OP_DELETE { "delete" } else { "update" };
                write!(f, "[ dynset {operation} key {key} set {map} data {data}")?;
                if let Some(milliseconds) = timeout {
                    write!(f, " timeout {milliseconds}ms")?;
                }
                f.write_str(" ]")
            }
            Expression::Lookup(set, register, found) => match found {
                Found::Match { inverted: false } => write!(f, "[ lookup {register} set {set} ]"),
                Found::Match { inverted: true } => write!(f, "[ lookup {register} set {set} 0x1 ]"),
                Found::In(to) => write!(f, "[ lookup {register} set {set} d{to} ]"),
                Found::Verdict => write!(f, "[ lookup {register} set {set} dreg 0 ]"),
            },
            Expression::Immediate(register, data) => write!(f, "[ immediate {register}{} ]", Words(data)),
            Expression::Verdict(verdict) => write!(f, "[ immediate reg 0 {verdict} ]"),
            Expression::SetMeta(_, register) => write!(f, "[ meta set mark with {register} ]"),
            Expression::SetCt(_, register) => write!(f, "[ ct set mark with {register} ]"),
            Expression::Counter { .. } => f.write_str("[ counter ]"),
            Expression::Notrack => f.write_str("[ notrack ]"),
            Expression::Nat(kind, family, address, port) => {
                let kind = if *kind == k::NFT_NAT_DNAT { "dnat" } else { "snat" };
                let family = if *family == k::NFPROTO_IPV4 { "ip" } else { "ip6" };
                write!(f, "[ nat {kind} {family} address {address}")?;
                if let Some(port) = port {
                    write!(f, " port {port}")?;
                }
                f.write_str(" ]")
            }
            Expression::Masquerade(flags) => write!(f, "[ masq flags {flags:#x} ]"),
            Expression::Reject(kind, code) => write!(f, "[ reject type {kind} code {code} ]"),
            Expression::Other(name) => write!(f, "[ {name} … ]"),
        }
    }
}
