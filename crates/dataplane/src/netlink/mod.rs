//! Netlink as the rest of the crate uses it: messages as bytes, and a synchronous socket that sends them in batches.
//!
//! What is absent: writing nfnetlink, whose numbers are big-endian; `filter::attribute` has a writer and a reader for that.
//! The framing is the same (`linux/netlink.h`), so that notifications of both are read here.

mod message;
mod removals;
mod socket;

pub use message::{Attributes, Message, Received};
pub use removals::Removals;
pub use socket::{Refusal, Reply, Rtnl, SocketError};

pub(crate) use message::{headers, number};
pub(crate) use socket::raise_buffers;
