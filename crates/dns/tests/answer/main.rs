//! What `answer` says to whom: the corner cases of Kubernetes' DNS, of the RFCs, and any bytes at all.

mod fixture;
mod kubernetes;
mod limits;
mod properties;
mod protocol;
mod relay;
