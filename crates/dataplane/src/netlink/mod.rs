//! Netlink as the rest of the crate uses it: messages as bytes, and a synchronous socket that sends them in batches.
//!
//! rtnetlink and nfnetlink share the framing (`linux/netlink.h`), so one builder and one reader serve both.

mod message;
mod removals;
mod socket;

pub use message::{Attributes, Message, Received};
pub use removals::Removals;
pub use socket::{Refusal, Reply, Rtnl, SocketError};

pub(crate) use message::{headers, number};
pub(crate) use socket::raise_buffers;
