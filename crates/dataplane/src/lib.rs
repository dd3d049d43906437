//! Makes the kernel equal the plan: observe, diff, apply.
//!
//! The [`executor::Executor`] is the only way in: it takes a [`weft_plan::Plan`] and changes a [`kernel::Kernel`] until it
//! is equal. [`LinuxKernel`] is the real one, spoken to by netlink alone; no `ip`, `nft` or `bridge` process is started.
//!
//! What always holds: only what is *owned* is changed or removed (our link group and name prefixes, our route protocol,
//! our packet filter table); everything created carries the owner's mark from the moment it exists; applying twice
//! changes nothing.
//!
//! What is absent: pods, services, stores, policy. A reader of rows knows links, routes and sets only.

pub mod conntrack;
pub mod error;
pub mod executor;
pub mod fake;
pub mod filter;
pub mod firewall;
mod host;
pub mod kernel;
mod ledger;
mod link;
mod linux;
pub mod monitor;
pub mod netlink;
pub mod order;
mod overlay;
mod route;
pub mod sysctl;

pub use error::KernelError;
pub use executor::{Executor, ExecutorError, Outcome};
pub use host::observe_host;
pub use kernel::{Effect, Kernel, Observation, Op};
pub use ledger::Ledger;
pub use linux::{FormerPod, FormerTunnel, LinuxKernel, Removed};
pub use monitor::{Monitor, Notification};
