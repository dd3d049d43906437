//! Connection tracking: entries that would send packets where nothing is any more are taken out.
//!
//! An entry outlives the rule that made it: a UDP flow of a port mapping that is gone goes on to the old pod as long as its
//! sender does not pause. [`flush`] removes what selectors name, with one listing for any number of them.
//!
//! What always holds: an entry goes only when a selector names it; an entry that ends meanwhile is no fault; only what is
//! tracked in the calling thread's network namespace is seen.
//!
//! What is absent: making or changing entries.

mod entry;
mod flush;
#[cfg(test)]
mod tests;

pub use entry::{Entry, Tuple};
pub use flush::{ConntrackError, Flow, flush};
