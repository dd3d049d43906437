//! Links: what the kernel says of them, pods' veth pairs, and removal.

pub(crate) mod announce;
pub(crate) mod check;
mod former;
pub(crate) mod host_end;
pub(crate) mod netns;
pub(crate) mod pod;
pub(crate) mod pod_end;
mod pod_routes;
pub(crate) mod remove;
pub(crate) mod request;
pub(crate) mod state;
