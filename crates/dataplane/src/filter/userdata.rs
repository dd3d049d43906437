//! The user data of tables, rules and sets, in the form of libnftnl's and nft 1.0.6's: the kernel keeps it unread, nft
//! prints from it.
//!
//! A list of entries: type (1 byte), length (1 byte), value. Numbers in it are in the machine's byte order.

use weft_plan::Type;

use super::uapi as k;

/// A rule's user data with this comment.
pub fn rule_userdata(comment: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    push_text(&mut bytes, k::NFTNL_UDATA_RULE_COMMENT, comment);
    bytes
}

/// The comment in a rule's user data.
pub fn rule_comment(bytes: &[u8]) -> Option<&str> {
    text(bytes, k::NFTNL_UDATA_RULE_COMMENT)
}

/// One more entry.
pub fn push(bytes: &mut Vec<u8>, kind: u8, value: &[u8]) {
    let length = value.len().min(255);
    bytes.extend_from_slice(&[kind, length as u8]);
    bytes.extend_from_slice(&value[..length]);
}

/// One more entry of text, with the final zero.
pub fn push_text(bytes: &mut Vec<u8>, kind: u8, text: &str) {
    let mut value = text.as_bytes()[..text.len().min(127)].to_vec();
    value.push(0);
    push(bytes, kind, &value);
}

/// One more entry: the expressions whose types a set's key or data has (`typeof`), for types that have no declaration of
/// their own. Types of which none is known are left out: [`weft_plan::Plan::check`] names sets that have them.
///
/// An expression is its number (`enum expr_types` in nftables) and a list of its own; a concatenation's holds one such
/// pair for each part.
pub fn push_typeof(bytes: &mut Vec<u8>, kind: u8, types: &[Type]) {
    const PAYLOAD: u32 = 7;
    const META: u32 = 9;
    const CONCATENATION: u32 = 13;
    const NUMGEN: u32 = 23;
    let list = |numbers: &[u32]| {
        let mut list = Vec::new();
        for (at, number) in (0..).zip(numbers) {
            push(&mut list, at, &number.to_ne_bytes());
        }
        list
    };
    let pair = |expression: u32, body: &[u8]| {
        let mut pair = list(&[expression]);
        push(&mut pair, 1, body);
        pair
    };
    let parts: Vec<Vec<u8>> = types
        .iter()
        .filter_map(|of| match of {
            Type::Mark => Some(pair(META, &list(&[k::NFT_META_MARK]))),
            Type::InetProto => Some(pair(META, &list(&[k::NFT_META_L4PROTO]))),
            Type::IfName => Some(pair(META, &list(&[k::NFT_META_IIFNAME]))),
            // The type, the modulus, the offset: any modulus stands for all.
            Type::Number => Some(pair(NUMGEN, &list(&[k::NFT_NG_RANDOM, 1, 0]))),
            // nft's numbers of the header `th` and of its `dport`.
            Type::InetService => Some(pair(PAYLOAD, &list(&[11, 2]))),
            Type::Ipv4Addr | Type::Ipv6Addr | Type::Verdict => None,
        })
        .collect();
    let whole = match &parts[..] {
        [one] => one.clone(),
        many => {
            let mut body = Vec::new();
            for (at, part) in (0..).zip(many) {
                push(&mut body, at, part);
            }
            pair(CONCATENATION, &body)
        }
    };
    push(bytes, kind, &whole);
}

/// The first text of this type.
pub fn text(mut bytes: &[u8], wanted: u8) -> Option<&str> {
    while let [kind, length, rest @ ..] = bytes {
        let value = rest.get(..usize::from(*length))?;
        if *kind == wanted {
            return std::str::from_utf8(value.strip_suffix(&[0]).unwrap_or(value)).ok();
        }
        bytes = &rest[value.len()..];
    }
    None
}
