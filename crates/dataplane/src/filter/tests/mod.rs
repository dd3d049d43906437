//! The kernel and Debian's nft as judges: each test has a network namespace of its own.

mod faults;
mod listing;
pub(crate) mod namespace;
mod order;
mod rules;
mod samples;
mod scale;

use weft_plan::filter::{Element, HookKind};
use weft_plan::{Atoms, Chain, Hook, Ident, KernelKey, KernelRow, Rule, SetSpec};

use super::{Change, FilterOutcome, Nft};

/// A row and its key.
pub(crate) type Row = (KernelKey, KernelRow);

pub(crate) fn set(name: &str, spec: SetSpec) -> Row {
    (KernelKey::Set(Ident::new(name)), KernelRow::Set(Box::new(spec)))
}

pub(crate) fn chain(name: &str, rules: Vec<Rule>) -> Row {
    (KernelKey::Chain(Ident::new(name)), KernelRow::Chain(Box::new(Chain { hook: None, rules })))
}

pub(crate) fn base(name: &str, hook: (HookKind, bool, i32), rules: Vec<Rule>) -> Row {
    let (at, nat, priority) = hook;
    let chain = Chain { hook: Some(Hook { at, nat, priority }), rules };
    (KernelKey::Chain(Ident::new(name)), KernelRow::Chain(Box::new(chain)))
}

pub(crate) fn member(set: &str, key: impl Into<Atoms>) -> Row {
    (KernelKey::Element(Ident::new(set), key.into()), KernelRow::Element(Element::member()))
}

pub(crate) fn entry(map: &str, key: impl Into<Atoms>, data: impl Into<Atoms>) -> Row {
    (KernelKey::Element(Ident::new(map), key.into()), KernelRow::Element(Element::maps_to(data)))
}

/// Applies rows, all of which must go in.
pub(crate) fn apply(nft: &mut Nft, rows: &[Row]) {
    let changes: Vec<Change<'_>> = rows.iter().map(|(key, row)| Change::Set(key, row)).collect();
    let outcome = nft.apply(&changes).unwrap();
    assert_eq!(outcome, FilterOutcome { applied: rows.len(), quarantined: vec![] });
}

/// What the table holds, sorted by key.
pub(crate) fn observed(nft: &mut Nft) -> Vec<Row> {
    let mut rows = nft.observe().unwrap();
    rows.sort_by(|a, b| a.0.cmp(&b.0));
    rows
}

/// Rows as observation should give them, sorted by key.
pub(crate) fn expected(rows: &[Row]) -> Vec<Row> {
    let mut rows: Vec<Row> = rows.iter().map(|(key, row)| (key.clone(), super::canonical(row))).collect();
    rows.sort_by(|a, b| a.0.cmp(&b.0));
    rows
}
