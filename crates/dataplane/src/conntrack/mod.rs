//! Connection tracking: entries that would send packets where nothing is any more are taken out.
//!
//! An entry outlives the rule that made it: a UDP flow of a port mapping that is gone goes on to the old pod as long as its
//! sender does not pause. [`ended`] says whom a batch of changes brings under suspicion, [`suspects`] which of them end and how
//! to find them with few questions, [`lasting`] the same for what isn't UDP, [`Conntrack`] asks the kernel.
//!
//! What always holds: an entry goes only when it is named; an entry that ends meanwhile is no fault; only what is tracked in
//! the network namespace that the socket was opened in is seen.
//!
//! What is absent: making or changing entries.

pub(crate) mod ended;
mod entry;
mod flush;
mod lasting;
mod suspects;
#[cfg(test)]
mod tests;

pub use entry::{Entry, Tuple};
pub use flush::{Conntrack, ConntrackError};
pub(crate) use lasting::{Held, Lasting};
pub use suspects::Narrowing;
pub(crate) use suspects::Suspects;
use suspects::{End, Flow, UDP};
