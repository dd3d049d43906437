//! What the two stores that speak HTTP have in common: lines of a body, the words of an error, who is believed to be the server, and what
//! files of certificates held last, and whether the other end of a connection is there.
//!
//! What is absent: connections and requests. etcd is asked over HTTP/1.1 by many members' names, an API server over one shared HTTP/2
//! connection where it can, but for long lists; what they have in common of that is hyper's.

mod cause;
mod kept;
mod lines;
mod probe;
mod tls;

pub(crate) use self::cause::chain;
pub(crate) use self::kept::Kept;
pub(crate) use self::lines::{Line, Splitter};
pub(crate) use self::probe::probe;
pub(crate) use self::tls::{Refused, client_config};
