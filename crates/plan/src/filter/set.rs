//! Sets and maps, and what an element of one holds.

use super::{Atoms, Comment, Ident, Type};

/// What a set gives for a key.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SetKind {
    /// Whether the key is in it.
    Set,
    /// These values (a concatenation where more than one), or [`Type::Verdict`] alone for a verdict map.
    Map(Vec<Type>),
}

/// Which tracked connections end with a map's elements: an entry outlives the rule that made it.
///
/// The key's parts say where connections were opened to: an address (without one: any), a protocol and a port. The data,
/// an address and a port, says where they lead.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Flush {
    /// Of every protocol: those that an element led, when it goes or leads elsewhere.
    Led,
    /// Of UDP, at once, which doesn't notice that nobody is there: those that were opened to an (address . protocol . port) of
    /// which the map has elements, and lead to none of their ends, whoever translated them or nobody. The key's fourth part
    /// is the mark of the end ([`crate::marks::of_endpoints`]).
    ///
    /// Where the map has no such element any more, those that bear this bit: it led them, and nobody else's are touched.
    ///
    /// Of other protocols, after a while, those that it led to what neither this map nor the other has any more. With the map
    /// itself none of them ends.
    Served {
        /// The bit, set in the marks of all connections that the map led and of no others.
        mark: u32,
        /// A map of this one's form, with [`Flush::Listed`].
        listed: Ident,
    },
    /// None: it has ends that the other map doesn't serve, and whose connections are to stay. An element that goes can be the
    /// last word of an end, so that those are looked at which the other map led there.
    Listed {
        /// The map with [`Flush::Served`].
        of: Ident,
    },
}

/// A set's or map's declaration, and how its elements are to be written.
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
    /// Elements of a lower rank are there before those of a higher one that lead packets to them, and go after them: each
    /// rank of a batch is committed on its own. Two look-ups of one packet may see two generations of the table, so
    /// that the same commit won't do. No part of what the kernel holds.
    pub rank: u8,
    /// Which connections end with an element. No part of what the kernel holds.
    pub flush: Option<Flush>,
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
            rank: 0,
            flush: None,
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

    /// The same with this rank.
    pub fn ranked(self, rank: u8) -> Self {
        Self { rank, ..self }
    }

    /// The same with connections that end with its elements.
    pub fn flushing(self, flush: Flush) -> Self {
        Self { flush: Some(flush), ..self }
    }

    /// What of it the kernel holds.
    pub fn declaration(&self) -> Self {
        Self { rank: 0, flush: None, ..self.clone() }
    }

    /// True where the kernel holds the same for both.
    pub fn declares_like(&self, other: &Self) -> bool {
        let Self { key, kind, interval, dynamic_timeout, comment, rank: _, flush: _ } = self;
        (key, kind, interval, dynamic_timeout, comment)
            == (&other.key, &other.kind, &other.interval, &other.dynamic_timeout, &other.comment)
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
    pub data: Atoms,
}

impl Element {
    /// An element of a set.
    pub fn member() -> Self {
        Self::default()
    }

    /// An element of a map.
    pub fn maps_to(data: impl Into<Atoms>) -> Self {
        Self { data: data.into() }
    }
}
