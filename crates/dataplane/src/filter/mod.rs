//! The packet filter: the plan's sets, chains and elements ⇄ one nftables table, by raw netlink.
//!
//! [`Nft`] is the way in. The rest is pure: [`lower`] and [`raise`] translate rules to the kernel's expressions and back,
//! [`set`] sets and elements, [`transaction`] puts changes in order and into bytes.
//!
//! What always holds: a call of [`Nft::apply`] is one transaction, so that a packet sees all of it or nothing; what it
//! leaves behind is listed by nft in the words that a person would type, and that listing loads and lists alike in
//! an empty namespace; what nothing in the plan's language can say is seen as different from every plan.
//!
//! What is absent: other programs' tables. [`crate::firewall`] looks at these.

pub mod attribute;
pub mod error;
pub mod expression;
mod fault;
pub mod lower;
mod nft;
mod observe;
mod prepare;
pub mod raise;
pub mod set;
pub mod socket;
pub mod transaction;
pub mod uapi;
mod userdata;

pub use error::{ElementFault, FilterError, Quarantined};
pub use nft::{Change, FilterOutcome, Nft, after};
pub use observe::{Counter, canonical};
pub use userdata::{rule_comment, rule_userdata};

#[cfg(test)]
pub(crate) mod tests;
