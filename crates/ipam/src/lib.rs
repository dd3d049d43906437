//! Addresses for pods: which one is next, and who holds which.
//!
//! [`Pool`] decides, without I/O, which address comes next. A [`LeaseStore`] remembers who holds what, on disk
//! ([`DirectoryLeases`], in host-local's layout) or in memory ([`MemoryLeases`]). [`Leases`] ties the two.
//!
//! What always holds: an address has at most one holder, also after a crash at any point, and also when the
//! host-local plugin works on the same directory. A failed call leaves nothing behind.
//!
//! What is absent: who is alive (the caller says so at [`Leases::reconcile`]), which blocks a node owns
//! (`weft-store`), and the kernel.

pub mod boot;
pub mod directory;
pub mod lease;
pub mod leases;
pub mod memory;
pub mod pool;
pub mod reuse;

pub use boot::Boot;
pub use directory::DirectoryLeases;
pub use lease::{Lease, LeaseError, LeaseOwner, LeaseStore, Reservation};
pub use leases::{IpamError, Leases};
pub use memory::MemoryLeases;
pub use pool::Pool;
