//! Sets, maps and their elements, as netlink's bytes and back.
//!
//! What always holds: a set carries nft's type numbers and byte orders in its user data, so that nft prints the elements
//! as what they are; a set or element that the plan's language can't say reads as `None`.
//!
//! Blocks: a set of blocks alone (a red-black tree in the kernel) holds each as its first address and the one behind its
//! last, the latter flagged as an end; a block that reaches the last address has no end. A set of concatenations with
//! blocks holds each as its first and last key.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use weft_model::IfName;
use weft_plan::filter::{Element, SetKind};
use weft_plan::{Atom, Atoms, SetSpec, Type};

use super::attribute::{Attribute, Attributes, Writer};
use super::expression::{read_verdict, write_data, write_verdict};
use super::uapi as k;
use super::userdata;

/// nft's number of a type (`enum datatypes` in nftables), 6 bits.
fn type_number(kind: Type) -> u32 {
    match kind {
        Type::Ipv4Addr => 7,
        Type::Ipv6Addr => 8,
        Type::IfName => 41,
        Type::InetProto => 12,
        Type::InetService => 13,
        Type::Mark => 19,
        Type::Number => 4,
        Type::Verdict => k::NFT_DATA_VERDICT,
    }
}

fn type_of(number: u32) -> Option<Type> {
    [
        Type::Ipv4Addr,
        Type::Ipv6Addr,
        Type::IfName,
        Type::InetProto,
        Type::InetService,
        Type::Mark,
        Type::Number,
        Type::Verdict,
    ]
    .into_iter()
    .find(|kind| type_number(*kind) == number)
}

/// A concatenation's number: those of its parts, six bits each.
fn concatenation(types: &[Type]) -> u32 {
    types.iter().fold(0, |number, kind| (number << 6) | type_number(*kind))
}

fn parts(mut number: u32) -> Option<Vec<Type>> {
    if number == k::NFT_DATA_VERDICT {
        return Some(vec![Type::Verdict]);
    }
    let mut types = Vec::new();
    while number != 0 {
        types.insert(0, type_of(number & 0x3f)?);
        number >>= 6;
    }
    Some(types)
}

/// Bytes of a key or of data: in a concatenation each part takes whole words.
fn length(types: &[Type]) -> usize {
    match types {
        [one] => one.size(),
        many => many.iter().map(|kind| kind.size().next_multiple_of(4)).sum(),
    }
}

/// libnftables' `enum byteorder`: 0 where it means nothing, 1 the machine's, 2 big-endian.
fn byte_order(types: &[Type]) -> u32 {
    match types {
        [Type::Ipv4Addr | Type::Ipv6Addr | Type::InetService] => 2,
        [Type::Mark | Type::Number | Type::IfName] => 1,
        _ => 0,
    }
}

/// How many elements packets may add to a set or map. Unasked the kernel takes 65,535 (`nft_dynset_init`): too few clients
/// for a large cluster. An element takes memory only once it is there, and the table of buckets grows with them: the kernel would make it as large
/// as this at once, but keeps sixteen bits of it for that (`nelem_hint` of `struct rhashtable_params`), and those are zero. Of 65,535 they are not:
/// each such map takes 2 MB when it is made (measured on Linux 6.18, a hundred maps of either size).
const DYNAMIC_SIZE: u32 = 1 << 20;

fn data_types(spec: &SetSpec) -> Option<&[Type]> {
    match &spec.kind {
        SetKind::Set => None,
        SetKind::Map(types) => Some(types),
    }
}

/// Writes the attributes of `NFT_MSG_NEWSET` behind the table's; `id` is the set's number in its transaction.
pub fn write(w: &mut Writer, name: &str, spec: &SetSpec, id: u32) {
    let many = spec.key.len() > 1;
    let mut flags = 0;
    for (wanted, bits) in [
        (spec.interval, k::NFT_SET_INTERVAL),
        (spec.interval && many, k::NFT_SET_CONCAT),
        (spec.is_map(), k::NFT_SET_MAP),
        (spec.dynamic_timeout.is_some(), k::NFT_SET_TIMEOUT | k::NFT_SET_EVAL),
    ] {
        if wanted {
            flags |= bits;
        }
    }
    w.text(k::NFTA_SET_NAME, name);
    w.u32(k::NFTA_SET_FLAGS, flags);
    w.u32(k::NFTA_SET_KEY_TYPE, concatenation(&spec.key));
    w.u32(k::NFTA_SET_KEY_LEN, length(&spec.key) as u32);
    let mut user = Vec::new();
    userdata::push(&mut user, k::NFTNL_UDATA_SET_KEYBYTEORDER, &byte_order(&spec.key).to_ne_bytes());
    if let Some(data) = data_types(spec) {
        w.u32(k::NFTA_SET_DATA_TYPE, concatenation(data));
        w.u32(k::NFTA_SET_DATA_LEN, length(data) as u32);
        let order = byte_order(data).to_ne_bytes();
        userdata::push(&mut user, k::NFTNL_UDATA_SET_DATABYTEORDER, &order);
    }
    if spec.key.contains(&Type::Number) {
        userdata::push_typeof(&mut user, k::NFTNL_UDATA_SET_KEY_TYPEOF, &spec.key);
        if let Some([Type::Mark]) = data_types(spec) {
            userdata::push_typeof(&mut user, k::NFTNL_UDATA_SET_DATA_TYPEOF, &[Type::Mark]);
        }
    }
    if spec.is_map() {
        userdata::push(&mut user, k::NFTNL_UDATA_SET_DATA_INTERVAL, &0_u32.to_ne_bytes());
    }
    w.u32(k::NFTA_SET_ID, id);
    if let Some(seconds) = spec.dynamic_timeout {
        w.u64(k::NFTA_SET_TIMEOUT, u64::from(seconds) * 1000);
    }
    if spec.dynamic_timeout.is_some() {
        w.nest(k::NFTA_SET_DESC, |w| w.u32(k::NFTA_SET_DESC_SIZE, DYNAMIC_SIZE));
    }
    if spec.interval && many {
        w.nest(k::NFTA_SET_DESC, |w| {
            w.nest(k::NFTA_SET_DESC_CONCAT, |w| {
                for part in &spec.key {
                    w.nest(k::NFTA_LIST_ELEM, |w| w.u32(k::NFTA_SET_FIELD_LEN, part.size() as u32));
                }
            });
        });
    }
    if !spec.comment.is_empty() {
        userdata::push_text(&mut user, k::NFTNL_UDATA_SET_COMMENT, &spec.comment);
    }
    w.bytes(k::NFTA_SET_USERDATA, &user);
}

/// Reads a set's declaration; `None` for one that the plan can't say, such as of another type.
pub fn read(a: Attributes<'_>) -> Option<SetSpec> {
    const KNOWN: u32 =
        k::NFT_SET_INTERVAL | k::NFT_SET_MAP | k::NFT_SET_TIMEOUT | k::NFT_SET_EVAL | k::NFT_SET_CONCAT;
    let number = |kind: u16| a.get(kind).and_then(|value| value.u32());
    let flags = number(k::NFTA_SET_FLAGS).unwrap_or_default();
    let key = parts(number(k::NFTA_SET_KEY_TYPE)?)?;
    let kind = if flags & k::NFT_SET_MAP == 0 {
        SetKind::Set
    } else {
        SetKind::Map(parts(number(k::NFTA_SET_DATA_TYPE)?)?)
    };
    let timeout = a.get(k::NFTA_SET_TIMEOUT).and_then(|value| value.u64());
    let size = a.get(k::NFTA_SET_DESC).and_then(|desc| desc.nested().get(k::NFTA_SET_DESC_SIZE)?.u32());
    let dynamic = flags & (k::NFT_SET_TIMEOUT | k::NFT_SET_EVAL);
    let consistent = flags & !KNOWN == 0
        && (dynamic == 0) == timeout.is_none()
        && (dynamic == 0 || (dynamic == k::NFT_SET_TIMEOUT | k::NFT_SET_EVAL && size == Some(DYNAMIC_SIZE)));
    let user = a.get(k::NFTA_SET_USERDATA).map(|u| u.value).unwrap_or_default();
    consistent.then_some(())?;
    Some(SetSpec {
        key,
        kind,
        interval: flags & k::NFT_SET_INTERVAL != 0,
        dynamic_timeout: match timeout {
            Some(milliseconds) => Some(u32::try_from(milliseconds / 1000).ok()?),
            None => None,
        },
        comment: userdata::text(user, k::NFTNL_UDATA_SET_COMMENT).unwrap_or_default().to_owned().into(),
        rank: 0,
        flush: None,
    })
}

/// What an element's row has to be for its set, as a sentence, where it is not.
pub fn misfit(spec: &SetSpec, key: &Atoms, element: &Element) -> Option<String> {
    let kinds = |atoms: &Atoms| atoms.iter().map(|atom| atom.kind()).collect::<Vec<_>>();
    let names = |types: &[Type]| types.iter().map(|t| t.name()).collect::<Vec<_>>().join(" . ");
    let data = data_types(spec).unwrap_or_default();
    let fits = |atoms: &Atoms, types: &[Type]| atoms.iter().map(|atom| atom.kind()).eq(types.iter().copied());
    if !fits(key, &spec.key) || !fits(&element.data, data) {
        return Some(format!(
            "it is of type {} : {}, the set's is {} : {}",
            names(&kinds(key)),
            names(&kinds(&element.data)),
            names(&spec.key),
            names(data)
        ));
    }
    let address = |atom: Atom| matches!(atom, Atom::V4(_) | Atom::V6(_));
    let block = |atom: Atom| matches!(atom, Atom::Net(_));
    if spec.interval && key.iter().any(address) {
        return Some("the set holds blocks: write a single address as a block of one".into());
    }
    if !spec.interval && key.iter().any(block) {
        return Some("the set holds single addresses, not blocks".into());
    }
    spec.dynamic_timeout.map(|_| "the set's elements are the kernel's own".to_owned())
}

fn net_bounds(net: &IpNet) -> (IpAddr, IpAddr) {
    (net.network(), net.broadcast())
}

fn push_address(bytes: &mut Vec<u8>, address: IpAddr) {
    match address {
        IpAddr::V4(a) => bytes.extend_from_slice(&a.octets()),
        IpAddr::V6(a) => bytes.extend_from_slice(&a.octets()),
    }
}

/// Bytes of values; of a block its first address, or its last where `last` says so.
fn value_bytes(atoms: &Atoms, bound: Bound) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(32);
    let many = atoms.iter().nth(1).is_some();
    for atom in atoms {
        match atom {
            Atom::V4(a) => bytes.extend_from_slice(&a.octets()),
            Atom::V6(a) => bytes.extend_from_slice(&a.octets()),
            Atom::Net(net) => {
                let (first, last) = net_bounds(&net);
                push_address(&mut bytes, if bound == Bound::First { first } else { last });
            }
            Atom::Link(name) => {
                let start = bytes.len();
                bytes.extend_from_slice(name.as_str().as_bytes());
                bytes.resize(start + 16, 0);
            }
            Atom::Proto(number) => bytes.push(number),
            Atom::Port(port) => bytes.extend_from_slice(&port.to_be_bytes()),
            Atom::Mark(number) | Atom::Number(number) => bytes.extend_from_slice(&number.to_ne_bytes()),
            Atom::Verdict(_) => {}
        }
        if many {
            bytes.resize(bytes.len().next_multiple_of(4), 0);
        }
    }
    bytes
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Bound {
    First,
    Last,
}

/// The bytes of the address behind a block; `None` for a block that reaches the end.
fn behind(net: &IpNet) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    match net.broadcast() {
        IpAddr::V4(last) => bytes.extend_from_slice(&u32::from(last).checked_add(1)?.to_be_bytes()),
        IpAddr::V6(last) => bytes.extend_from_slice(&u128::from(last).checked_add(1)?.to_be_bytes()),
    }
    Some(bytes)
}

/// Writes one element into a message's list (for a block alone: two). A deletion has no data.
pub fn write_element(w: &mut Writer, key: &Atoms, element: Option<&Element>) {
    let blocks = key.iter().any(|atom| matches!(atom, Atom::Net(_)));
    let mut parts = key.iter();
    let alone = match (parts.next(), parts.next()) {
        (Some(Atom::Net(net)), None) => Some(net),
        _ => None,
    };
    w.nest(k::NFTA_LIST_ELEM, |w| {
        write_data(w, k::NFTA_SET_ELEM_KEY, &value_bytes(key, Bound::First));
        if blocks && alone.is_none() {
            write_data(w, k::NFTA_SET_ELEM_KEY_END, &value_bytes(key, Bound::Last));
        }
        if let Some(Element { data }) = element {
            match data.iter().next() {
                None => {}
                Some(Atom::Verdict(verdict)) => write_verdict(w, k::NFTA_SET_ELEM_DATA, &verdict),
                Some(_) => write_data(w, k::NFTA_SET_ELEM_DATA, &value_bytes(data, Bound::First)),
            }
        }
        // nft marks the block without an end, so that it prints as a block and not as a range.
        if alone.is_some_and(|net| behind(&net).is_none()) {
            w.bytes(k::NFTA_SET_ELEM_USERDATA, &[1, 4, 1, 0, 0, 0]);
        }
    });
    if let Some(end) = alone.and_then(|net| behind(&net)) {
        w.nest(k::NFTA_LIST_ELEM, |w| {
            write_data(w, k::NFTA_SET_ELEM_KEY, &end);
            w.u32(k::NFTA_SET_ELEM_FLAGS, k::NFT_SET_ELEM_INTERVAL_END);
        });
    }
}

fn read_value(kind: Type, bytes: &[u8]) -> Option<Atom> {
    Some(match kind {
        Type::Ipv4Addr => Atom::V4(Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?)),
        Type::Ipv6Addr => Atom::V6(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?)),
        Type::IfName => {
            let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
            Atom::Link(IfName::new(std::str::from_utf8(&bytes[..end]).ok()?).ok()?)
        }
        Type::InetProto => Atom::Proto(*bytes.first()?),
        Type::InetService => Atom::Port(u16::from_be_bytes(bytes.try_into().ok()?)),
        Type::Mark => Atom::Mark(u32::from_ne_bytes(bytes.try_into().ok()?)),
        Type::Number => Atom::Number(u32::from_ne_bytes(bytes.try_into().ok()?)),
        Type::Verdict => return None,
    })
}

fn read_values(types: &[Type], mut bytes: &[u8]) -> Option<Atoms> {
    if let [one] = types {
        return Some([read_value(*one, bytes.get(..one.size())?)?].into());
    }
    let read = types.iter().map(|kind| {
        let atom = read_value(*kind, bytes.get(..kind.size())?)?;
        bytes = bytes.get(kind.size().next_multiple_of(4)..)?;
        Some(atom)
    });
    read.collect()
}

/// The block from `first` to `last`; `None` where they are the ends of none.
fn block(first: IpAddr, last: IpAddr) -> Option<IpNet> {
    let width = if first.is_ipv4() { 32 } else { 128 };
    (0..=width)
        .filter_map(|prefix| IpNet::new(first, prefix).ok())
        .find(|net| net_bounds(net) == (first, last))
}

/// Elements with their keys.
pub type Elements = Vec<(Atoms, Element)>;

fn bytes_of(data: Option<Attribute<'_>>) -> Option<&[u8]> {
    Some(data?.nested().get(k::NFTA_DATA_VALUE)?.value)
}

/// Reads the elements of a set from their attributes.
///
/// `None` where one is something that the plan can't say: a range that is no block, a catch-all.
pub fn read_elements(spec: &SetSpec, list: &[Attributes<'_>]) -> Option<Elements> {
    let alone = spec.interval && spec.key.len() == 1;
    if alone {
        return read_blocks(spec, list);
    }
    list.iter()
        .map(|element| {
            let mut key = read_values(&spec.key, bytes_of(element.get(k::NFTA_SET_ELEM_KEY))?)?;
            if spec.interval {
                let end = bytes_of(element.get(k::NFTA_SET_ELEM_KEY_END))?;
                let last = read_values(&spec.key, end)?;
                key = key
                    .iter()
                    .zip(&last)
                    .map(|(first, last)| between(&first, &last))
                    .collect::<Option<_>>()?;
            }
            Some((key, read_element_data(spec, *element)?))
        })
        .collect()
}

fn between(first: &Atom, last: &Atom) -> Option<Atom> {
    match (first, last) {
        (Atom::V4(a), Atom::V4(b)) => Some(Atom::Net(block((*a).into(), (*b).into())?)),
        (Atom::V6(a), Atom::V6(b)) => Some(Atom::Net(block((*a).into(), (*b).into())?)),
        (a, b) if a == b => Some(a.clone()),
        _ => None,
    }
}

fn read_element_data(spec: &SetSpec, element: Attributes<'_>) -> Option<Element> {
    let data = element.get(k::NFTA_SET_ELEM_DATA);
    match data_types(spec) {
        None => Some(Element::member()),
        Some([Type::Verdict]) => Some(Element::maps_to([Atom::Verdict(read_verdict(data?)?)])),
        Some(types) => Some(Element { data: read_values(types, bytes_of(data)?)? }),
    }
}

fn read_blocks(spec: &SetSpec, list: &[Attributes<'_>]) -> Option<Elements> {
    let mut bounds = Vec::with_capacity(list.len());
    for element in list {
        let flags = element.get(k::NFTA_SET_ELEM_FLAGS).and_then(|f| f.u32()).unwrap_or_default();
        if flags & k::NFT_SET_ELEM_CATCHALL != 0 {
            return None;
        }
        let start = flags & k::NFT_SET_ELEM_INTERVAL_END == 0;
        bounds.push((bytes_of(element.get(k::NFTA_SET_ELEM_KEY))?, start, element));
    }
    // An end stands before the start of the block that follows it at once.
    bounds.sort_by_key(|(key, start, _)| (*key, *start));
    let mut blocks = Vec::with_capacity(bounds.len() / 2 + 1);
    let mut rest = &bounds[..];
    while let [(key, start, element), after @ ..] = rest {
        rest = after;
        if !*start {
            // nft writes an end at the very first address; it ends nothing.
            if key.iter().any(|byte| *byte != 0) {
                return None;
            }
            continue;
        }
        let (first, last) = match after {
            [(end, false, _), later @ ..] => {
                rest = later;
                (address(key)?, before(address(end)?)?)
            }
            [] => (address(key)?, highest(address(key)?)),
            _ => return None,
        };
        let atom = Atom::Net(block(first, last)?);
        blocks.push((Atoms::from([atom]), read_element_data(spec, **element)?));
    }
    Some(blocks)
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    match <[u8; 4]>::try_from(bytes) {
        Ok(v4) => Some(Ipv4Addr::from(v4).into()),
        Err(_) => Some(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?).into()),
    }
}

fn before(address: IpAddr) -> Option<IpAddr> {
    match address {
        IpAddr::V4(a) => Some(Ipv4Addr::from(u32::from(a).checked_sub(1)?).into()),
        IpAddr::V6(a) => Some(Ipv6Addr::from(u128::from(a).checked_sub(1)?).into()),
    }
}

fn highest(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => Ipv4Addr::BROADCAST.into(),
        IpAddr::V6(_) => Ipv6Addr::from(u128::MAX).into(),
    }
}
