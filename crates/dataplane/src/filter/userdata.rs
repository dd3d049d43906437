//! The user data of tables, rules and sets, in the form of libnftnl's and nft 1.0.6's: the kernel keeps it unread, nft
//! prints from it.
//!
//! A list of entries: type (1 byte), length (1 byte), value. Numbers in it are in the machine's byte order.

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
