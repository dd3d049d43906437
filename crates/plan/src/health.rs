//! Rows of health: ports on which this node says how a service does here, for load balancers outside.
//!
//! A load balancer that keeps clients' addresses sends only to nodes with an endpoint of their own, and asks each node for
//! that (`spec.healthCheckNodePort` of a Kubernetes service).
//!
//! What is absent: how the question is put and answered; that is the server's.

use std::fmt::{self, Write};
use std::net::IpAddr;

use weft_model::{ObjectKey, Port};

/// The TCP port that is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HealthKey {
    /// Its number.
    pub port: Port,
}

/// What is answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthRow {
    /// Whose port it is.
    pub service: ObjectKey,
    /// Endpoints on this node that are ready, each counted once.
    pub local_endpoints: u32,
    /// Where it is answered.
    pub listen: Listen,
}

/// Addresses at which a port is served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listen {
    /// All that the node has, now and later.
    Everywhere,
    /// These, in order; none where the node has none of the kind that it was told to use.
    At(Box<[IpAddr]>),
}

impl fmt::Display for HealthKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.port)
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Listen::Everywhere => Ok(()),
            Listen::At(addresses) if addresses.is_empty() => f.write_str(" at no address"),
            Listen::At(addresses) => addresses.iter().enumerate().try_for_each(|(at, address)| {
                f.write_str(if at == 0 { " at " } else { ", " })?;
                write!(f, "{address}")
            }),
        }
    }
}

/// One port as text: `health 31000 at 192.0.2.1 of shop/web local endpoints 2`.
pub fn line(key: &HealthKey, row: &HealthRow) -> String {
    let mut line = format!("health {key}{}", row.listen);
    let _ = write!(line, " of {} local endpoints {}", row.service, row.local_endpoints);
    line
}
