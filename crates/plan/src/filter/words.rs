//! What of the filter's language nft 1.0.6 can list and read back, where a rule could say more (decision 0012).
//!
//! What is absent: whether sets exist and have the right types; [`crate::Plan::check`] asks that.

use weft_model::Family;

use super::{Comparison, Field, NatTarget, Rule, Statement, Value};

/// Bytes of a key in a map that packets write; nft puts the data behind these, however long the key is.
const WRITTEN_KEY: usize = 16;

impl Rule {
    /// What of it nft couldn't read back from its own listing, in words; none for a rule that is as it should be.
    pub fn unreadable(&self) -> Option<String> {
        let mut protocol = false;
        let mut families = self.statements.iter().flat_map(families);
        if let Some(first) = families.next()
            && families.any(|other| other != first)
        {
            return Some("nft reads no rule of both families".into());
        }
        for statement in &self.statements {
            if let Some(fault) = unreadable(statement, protocol) {
                return Some(fault.to_owned());
            }
            protocol |= matches!(statement, Statement::Match(Field::L4Proto, Comparison::Is, Value::Byte(_)));
        }
        None
    }
}

/// The families that a statement's packets must be of.
fn families(statement: &Statement) -> Vec<Family> {
    let (key, more) = match statement {
        Statement::Match(field, ..) => (std::slice::from_ref(field), None),
        Statement::Lookup(key, ..)
        | Statement::SetMarkFrom(key, _)
        | Statement::SetCtMarkFrom(key, _)
        | Statement::VerdictFrom(key, _)
        | Statement::Update { key, .. }
        | Statement::Delete { key, .. } => (&key[..], None),
        Statement::Dnat(target) | Statement::Snat(target) => match target {
            NatTarget::Address(address) => (&[][..], Some(Family::of(*address))),
            NatTarget::AddressPortFrom { family, key, .. } => (&key[..], Some(*family)),
        },
        _ => return Vec::new(),
    };
    key.iter().filter_map(|field| field.family()).chain(more).collect()
}

fn unreadable(statement: &Statement, protocol: bool) -> Option<&'static str> {
    match statement {
        Statement::Match(Field::CtOriginalDport, ..) if !protocol => {
            Some("nft reads the port of a connection only behind a match of the protocol")
        }
        Statement::Match(Field::CtMarkMasked(bits), _, Value::Mark(mark)) if mark & !bits != 0 => {
            Some("no mark has bits that the mask takes away")
        }
        Statement::Match(Field::SaddrHash(_) | Field::DaddrHash(_), ..) => {
            Some("addresses' hashes are for keys")
        }
        Statement::Match(Field::SaddrBlock(..), ..) => Some(BLOCKS),
        Statement::Match(field, ..) => mask(*field),
        Statement::Lookup(key, ..) | Statement::VerdictFrom(key, _) => {
            let block = if matches!(statement, Statement::Lookup(..)) { block } else { any_block };
            block(key).or_else(|| key.iter().find_map(|field| mask(*field))).or(match key[..] {
                [_] => hashes(key),
                _ => hashes(key).or_else(|| masked(key)),
            })
        }
        Statement::SetMarkFrom(key, _) | Statement::SetCtMarkFrom(key, _) => {
            let fault = any_block(key).or_else(|| key.iter().find_map(|field| mask(*field)));
            fault.or_else(|| masked(key.get(1..).unwrap_or_default()))
        }
        Statement::Dnat(NatTarget::AddressPortFrom { key, .. })
        | Statement::Snat(NatTarget::AddressPortFrom { key, .. }) => {
            let ports = protocol || key.contains(&Field::L4Proto);
            let without = "nft takes a port from a map only with the protocol in the key or matched before";
            any_block(key).or_else(|| hashes(key)).or_else(|| masked(key)).or((!ports).then_some(without))
        }
        Statement::SetMarkBits(0 | u32::MAX) => Some("no bits of a mark, or all"),
        Statement::Update { timeout_seconds: 0, .. } => Some("an element that stays for no time"),
        Statement::Update { key, data, .. } | Statement::Delete { key, data, .. } => {
            let bytes: usize =
                key.iter().filter_map(|f| f.kind()).map(|t| t.size().next_multiple_of(4)).sum();
            if bytes > WRITTEN_KEY {
                return Some("nft reads keys of at most 16 bytes in what packets write");
            }
            let plain = matches!(data, Field::Mark | Field::CtMark);
            any_block(key).or_else(|| masked(key)).or((!plain).then_some("packets write marks"))
        }
        _ => None,
    }
}

fn mask(field: Field) -> Option<&'static str> {
    matches!(field, Field::CtMarkMasked(0 | u32::MAX)).then_some("a mask of no bits, or of all")
}

const BLOCKS: &str = "the block around a source is for sets' keys, behind another part";

/// Of a key in which one may stand.
fn block(key: &[Field]) -> Option<&'static str> {
    let whole = |field: &Field| match field {
        Field::SaddrBlock(family, prefix) => *prefix == 0 || *prefix >= family.bits(),
        _ => false,
    };
    if key.iter().any(whole) {
        return Some("a block of all addresses, or of one");
    }
    any_block(&key[..key.len().min(1)])
}

fn any_block(key: &[Field]) -> Option<&'static str> {
    key.iter().any(|field| matches!(field, Field::SaddrBlock(..))).then_some(BLOCKS)
}

fn masked(key: &[Field]) -> Option<&'static str> {
    let masked = key.iter().any(|field| matches!(field, Field::CtMarkMasked(_)));
    masked.then_some("a masked mark stands alone in a key, or first where a mark is set")
}

fn hashes(key: &[Field]) -> Option<&'static str> {
    let hashed = key.iter().any(|field| matches!(field, Field::SaddrHash(_) | Field::DaddrHash(_)));
    hashed.then_some("addresses' hashes are for keys of marks")
}

#[cfg(test)]
mod tests {
    use Family::{V4, V6};

    use super::*;

    fn check(statements: &[Statement], expected: &str) {
        let fault = Rule::new("", statements.to_vec()).unreadable();
        assert_eq!(fault.as_deref().unwrap_or_default(), expected, "{statements:?}");
    }

    #[test]
    fn bits_of_a_packets_mark_are_some_of_it() {
        check(&[Statement::SetMarkBits(0x0080_0000)], "");
        check(&[Statement::SetMarkBits(0)], "no bits of a mark, or all");
        check(&[Statement::SetMarkBits(u32::MAX)], "no bits of a mark, or all");
    }

    #[test]
    fn ports_want_a_protocol() {
        let tcp = || Statement::Match(Field::L4Proto, Comparison::Is, Value::Byte(6));
        let port = || Statement::Match(Field::CtOriginalDport, Comparison::Is, Value::Port(80));
        check(&[tcp(), port()], "");
        check(&[port(), tcp()], "nft reads the port of a connection only behind a match of the protocol");
        let dnat = |key: &[Field]| {
            let (key, map) = (key.to_vec(), "m".into());
            Statement::Dnat(NatTarget::AddressPortFrom { family: V4, key, map })
        };
        check(&[dnat(&[Field::CtMark, Field::L4Proto])], "");
        check(&[tcp(), dnat(&[Field::CtMark])], "");
        check(
            &[dnat(&[Field::CtMark])],
            "nft takes a port from a map only with the protocol in the key or matched before",
        );
    }

    #[test]
    fn a_rule_is_of_one_family() {
        let is = |field| Statement::Lookup(vec![field], Comparison::Is, "s".into());
        let dnat = || Statement::Dnat(NatTarget::Address("fd00::1".parse().unwrap()));
        check(&[is(Field::Saddr(V6)), is(Field::Dport), dnat()], "");
        for field in [Field::Saddr(V4), Field::CtOriginalDaddr(V4), Field::DaddrHash(V4)] {
            check(&[is(field), dnat()], "nft reads no rule of both families");
        }
    }

    #[test]
    fn masks_stand_first() {
        let bits = Field::CtMarkMasked(0xff00);
        let found = |key: &[Field]| Statement::VerdictFrom(key.to_vec(), "m".into());
        let set = |key: &[Field]| Statement::SetCtMarkFrom(key.to_vec(), "m".into());
        let wrong = "a masked mark stands alone in a key, or first where a mark is set";
        check(&[found(&[bits]), set(&[bits, Field::L4Proto])], "");
        check(&[found(&[bits, Field::L4Proto])], wrong);
        check(&[set(&[Field::L4Proto, bits])], wrong);
        check(&[found(&[Field::CtMarkMasked(0)])], "a mask of no bits, or of all");
        let is = |mark| Statement::Match(bits, Comparison::Is, Value::Mark(mark));
        check(&[is(0x1200)], "");
        check(&[is(0x12)], "no mark has bits that the mask takes away");
    }

    #[test]
    fn blocks_around_sources_stand_behind_in_sets_keys() {
        let looked = |key: &[Field]| Statement::Lookup(key.to_vec(), Comparison::Is, "s".into());
        let block = |prefix| Field::SaddrBlock(V4, prefix);
        check(&[looked(&[Field::CtMark, block(1)]), looked(&[Field::Dport, block(31)])], "");
        check(&[looked(&[Field::CtMark, Field::SaddrBlock(V6, 32)])], "");
        check(&[looked(&[Field::CtMark, block(32)])], "a block of all addresses, or of one");
        check(&[looked(&[Field::CtMark, block(0)])], "a block of all addresses, or of one");
        check(&[looked(&[block(8)])], BLOCKS);
        check(&[looked(&[block(8), Field::CtMark])], BLOCKS);
        check(&[Statement::VerdictFrom(vec![Field::CtMark, block(8)], "m".into())], BLOCKS);
        check(&[Statement::SetCtMarkFrom(vec![Field::CtMark, block(8)], "m".into())], BLOCKS);
        let net = Value::Address("10.0.0.0".parse().unwrap());
        check(&[Statement::Match(block(8), Comparison::Is, net)], BLOCKS);
    }

    #[test]
    fn keys_that_packets_write_are_short() {
        let update = |key: &[Field], data| Statement::Update {
            map: "m".into(),
            key: key.to_vec(),
            timeout_seconds: 60,
            data,
        };
        let long = "nft reads keys of at most 16 bytes in what packets write";
        check(
            &[update(&[Field::Saddr(V4), Field::Daddr(V4), Field::L4Proto, Field::Dport], Field::CtMark)],
            "",
        );
        check(&[update(&[Field::Saddr(V6)], Field::CtMark)], "");
        check(&[update(&[Field::Saddr(V6), Field::Dport], Field::CtMark)], long);
        let hashes = [Field::SaddrHash(V6), Field::DaddrHash(V6), Field::L4Proto, Field::Dport];
        check(&[update(&hashes, Field::CtMark)], "");
        check(&[update(&hashes, Field::Dport)], "packets write marks");
        check(&[Statement::SetCtMarkFrom(hashes.to_vec(), "m".into())], "");
        check(
            &[Statement::VerdictFrom(hashes.to_vec(), "m".into())],
            "addresses' hashes are for keys of marks",
        );
    }
}
