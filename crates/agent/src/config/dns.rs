//! `dns`: the node's DNS server.

use std::net::IpAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use weft_model::ObjectName;

use super::Resolver;

/// The node's DNS server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct DnsConfig {
    /// Whether there is one.
    pub enabled: bool,
    /// The zone of the cluster's names.
    pub cluster_domain: String,
    /// The cluster's DNS address, answered on every node.
    pub cluster_addresses: Vec<IpAddr>,
    /// Further addresses of the server, the same on every node.
    pub link_local: Vec<IpAddr>,
    /// Resolvers for everything else, `ADDRESS` or `ADDRESS:PORT`, with `%LINK` after a link-local address; empty means those of `resolvConf`.
    pub upstreams: Vec<Resolver>,
    /// Where the node's own resolvers stand.
    pub resolv_conf: PathBuf,
    /// How `10-1-2-3.NAMESPACE.pod.ZONE` is answered: `disabled`, `insecure` or `verified`.
    pub pod_names: PodNamesConfig,
}

/// See [`PodNames`](weft_compile::PodNames).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PodNamesConfig {
    /// They don't exist.
    Disabled,
    /// Echoed unchecked.
    #[default]
    Insecure,
    /// Checked.
    Verified,
}

impl Default for DnsConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            cluster_domain: "cluster.local".into(),
            cluster_addresses: Vec::new(),
            link_local: vec![
                IpAddr::from([169, 254, 53, 53]),
                IpAddr::from([0xfd77, 0x6566, 0x7453, 0, 0, 0, 0, 0x53]),
            ],
            upstreams: Vec::new(),
            resolv_conf: "/etc/resolv.conf".into(),
            pod_names: PodNamesConfig::default(),
        }
    }
}

impl DnsConfig {
    /// What the types let pass: the field, and what is wrong with its value.
    pub(super) fn check(&self) -> Result<(), (&'static str, String)> {
        if !self.enabled {
            return Ok(());
        }
        let zone = self.cluster_domain.strip_suffix('.').unwrap_or(&self.cluster_domain).to_ascii_lowercase();
        if let Err(error) = ObjectName::new(&zone) {
            let reason = format!("{:?} is no zone's name: {}", self.cluster_domain, error.reason);
            return Err(("dns.clusterDomain", reason));
        }
        if self.cluster_addresses.is_empty() && self.link_local.is_empty() {
            let reason = "without it and without dns.clusterAddresses the server has no address; name one, or write dns: {enabled: false}";
            return Err(("dns.linkLocal", reason.to_owned()));
        }
        Ok(())
    }
}
