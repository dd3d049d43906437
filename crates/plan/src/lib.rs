//! The plan: the complete desired state of one node, as plain data.
//!
//! A plan is a set of keyed [`rows::Rows`]: one row a kernel object, DNS name or health port, each with the fact that asked for it.
//! It can be printed, compared and checked without a kernel. `weft-compile` writes it; `weft-dataplane` makes the
//! kernel equal to it; `weft-dns` answers from it, and so do the agent's health ports; the packet oracle says what it does to a packet.
//!
//! What always holds: a plan leaves its executors no choices. What it says in one place it says in no other.
//!
//! What is absent: pods, services and policies as facts. A reader of a plan knows links, routes, sets, names and ports. Who is
//! behind one stands there as a name alone: a pod's link bears its attachment's, a health port its service's with the number
//! of endpoints here, each row its origin's. [`marks`] says what connections bear; those who read it are the rules of the packet filter.

mod check;
pub mod diff;
pub mod filter;
pub mod health;
pub mod kernel;
pub mod marks;
pub mod names;
pub mod rows;
pub mod text;

pub use filter::{Atom, Atoms, Chain, Field, Hook, Ident, Rule, SetSpec, Statement, Type, Verdict};
pub use health::{HealthKey, HealthRow, Listen};
pub use kernel::{
    Fdb, KernelKey, KernelRow, Link, Neighbour, Opening, PodLink, PolicyRule, Route, RouteKey, RouteKind,
    VxlanLink,
};
pub use names::{DnsName, NameRow, Record};
pub use rows::{Changed, Entry, Rows};

use weft_model::Warning;

/// The desired state of one node.
#[derive(Debug, Clone, Default)]
pub struct Plan {
    /// Counts up with every change; executors refuse an older one than they have seen.
    pub generation: u64,
    /// What the kernel should hold.
    pub kernel: Rows<KernelKey, KernelRow>,
    /// What the DNS server should answer.
    pub names: Rows<DnsName, NameRow>,
    /// What load balancers outside should hear from this node.
    pub health: Rows<HealthKey, HealthRow>,
    /// What could not be expressed, or should be known: sorted, no duplicates.
    pub warnings: Vec<Warning>,
    /// Facts are known to be missing: what these rows lack may be wanted all the same, and what they say may be otherwise (a service
    /// without its slice refuses), so that a difference alone is no reason to take anything away or to change it. A row that is removed or changed
    /// while this holds goes, or is changed.
    pub is_partial: bool,
}
