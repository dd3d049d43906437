//! What the agent decides for the server.

use std::net::SocketAddr;
use std::time::Duration;

use weft_plan::DnsName;

use crate::forward::UpstreamSource;

/// A server's configuration.
#[derive(Debug, Clone)]
pub struct Config {
    /// Addresses to listen at, by UDP and TCP; they need not exist yet. Port 0 lets the kernel choose, alike for both.
    pub listen: Vec<SocketAddr>,
    /// Zones that are never forwarded, even before the plan has their names.
    pub zones: Vec<DnsName>,
    /// Where everything else is asked.
    pub upstreams: UpstreamSource,
    /// Largest UDP reply, in bytes.
    pub udp_payload: u16,
    /// Requests that may wait for resolvers at once.
    pub max_forwards: u32,
    /// The same of one client: less, so that one can't take the places of all.
    pub max_forwards_per_client: u32,
    /// How long a resolver may take before the next one is asked.
    pub per_try: Duration,
    /// TCP connections at once.
    pub max_connections: usize,
    /// The same of one client.
    pub max_connections_per_client: u32,
}

impl Config {
    /// A server at `listen` for `zones`, with everything else at its default: resolvers from `/etc/resolv.conf`, UDP
    /// replies of 1,232 bytes (which pass any path unfragmented), one second for a resolver.
    pub fn new(listen: Vec<SocketAddr>, zones: Vec<DnsName>) -> Self {
        Self {
            listen,
            zones,
            upstreams: UpstreamSource::ResolvConf("/etc/resolv.conf".into()),
            udp_payload: 1232,
            max_forwards: 1000,
            max_forwards_per_client: 200,
            per_try: Duration::from_secs(1),
            max_connections: 256,
            max_connections_per_client: 32,
        }
    }
}
