//! The packet filter of a plan: an nftables table as typed data.
//!
//! This is a small subset of nftables' language (`nft(8)`), chosen so that each statement can be rendered to netlink,
//! printed in nft's own syntax, and *evaluated* by the packet oracle with the kernel's meaning. A feature is a
//! few constant chains plus rows (elements) in sets and maps; in the steady state only elements change.
//!
//! All of it lives in one table, `inet weft`.

mod atom;
mod atoms;
mod chain;
mod comment;
mod field;
mod hash;
mod set;
mod words;

pub use atom::{Atom, Ident, Type};
pub use atoms::Atoms;
pub use chain::{Chain, Hook, HookKind, NatTarget, Reject, Rule, Statement, Verdict};
pub use comment::Comment;
pub use field::{Comparison, ConntrackState, ConntrackStatus, Field, Value, block_mask};
pub use hash::{HASH_MODULUS, HASH_SEED, address_hash};
pub use set::{Element, Flush, SetKind, SetSpec};

/// The name of the one table (family `inet`).
pub const TABLE: &str = "weft";
