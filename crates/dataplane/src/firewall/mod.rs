//! Openings in other programs' firewalls, where they would drop what pods need.
//!
//! A drop in any base chain is final, so an accept rule in our own table helps nothing. Where a base chain at the
//! forward or input hook has the policy `drop`, rules that accept are put at its head: for the pods' blocks as source and as
//! destination where packets are forwarded, for single ports where they come in.
//!
//! What always holds: nothing is opened where no drop policy is found, and an opening goes when the policy does; only
//! expressions are used that iptables itself prints, saves and restores, each with the comment [`MARK`]; only
//! rules with that comment *and* of exactly that form are ever removed; running it twice changes nothing.
//!
//! What is absent: drop *rules* of other programs. An accept before them could undo what somebody means; they are named
//! in the report, with what to type.

mod accept;
mod legacy;
mod native;
mod reconcile;
#[cfg(test)]
mod tests;

pub use accept::{Accept, MARK, Path};
pub use reconcile::{
    BackEnd, Finding, FirewallError, ForeignFirewall, Report, observe, reconcile, remove_all,
};
