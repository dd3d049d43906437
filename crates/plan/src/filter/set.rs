//! Sets and maps, and what an element of one holds.

use super::{Atom, Comment, Type};

/// What a set gives for a key.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SetKind {
    /// Whether the key is in it.
    Set,
    /// These values (a concatenation where more than one), or [`Type::Verdict`] alone for a verdict map.
    Map(Vec<Type>),
}

/// A set's or map's declaration.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SetSpec {
    /// Types of the key's parts, in order.
    pub key: Vec<Type>,
    /// Set or map.
    pub kind: SetKind,
    /// Keys are blocks of addresses (`flags interval`): kept for sets with few elements, see FIELD-NOTES on cost.
    pub interval: bool,
    /// Seconds after which an element that packets added goes (`flags dynamic,timeout`); `None` for sets that only
    /// Weft writes. Elements of such a set are the kernel's own, and no rows.
    pub dynamic_timeout: Option<u32>,
    /// What it is for, for whoever lists the table.
    pub comment: Comment,
}

impl SetSpec {
    /// A plain set with these key parts.
    pub fn set(key: &[Type], comment: impl Into<Comment>) -> Self {
        Self {
            key: key.to_vec(),
            kind: SetKind::Set,
            interval: false,
            dynamic_timeout: None,
            comment: comment.into(),
        }
    }

    /// A set of address blocks.
    pub fn intervals(key: Type, comment: impl Into<Comment>) -> Self {
        Self { interval: true, ..Self::set(&[key], comment) }
    }

    /// A map from these key parts to these values.
    pub fn map(key: &[Type], data: &[Type], comment: impl Into<Comment>) -> Self {
        Self { kind: SetKind::Map(data.to_vec()), ..Self::set(key, comment) }
    }

    /// True for a map.
    pub fn is_map(&self) -> bool {
        matches!(self.kind, SetKind::Map(_))
    }
}

/// What an element holds beside its key: nothing in a set, the mapped values in a map.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Element {
    /// Values, one for each of the map's data types; empty in a set.
    pub data: Box<[Atom]>,
}

impl Element {
    /// An element of a set.
    pub fn member() -> Self {
        Self::default()
    }

    /// An element of a map.
    pub fn maps_to(data: impl Into<Box<[Atom]>>) -> Self {
        Self { data: data.into() }
    }
}
