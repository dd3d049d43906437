//! The rules: one folder a feature, one line a rule below.
//!
//! A rule brings everything its feature needs: sets, base chains at priorities of their own, routes, names. Two rules' sets are
//! looked into by others, by name: [`peers::NODES`] (nodes' addresses) by [`edge`], and [`edge::CLUSTER`] (the cluster's blocks)
//! by [`host_ports`] and [`services`]. And [`peers`] has a network's [`overlay::Tunnel`] write the rows of a peer behind it.
//! Otherwise no rule knows another.
//!
//! Base chains by hook, in the order in which packets meet them:
//!
//! | hook | priority | chain | rule |
//! |---|---|---|---|
//! | prerouting | −310 | `pod_sources` | [`pods`] |
//! | prerouting | −305 | `tunnel_peers` | [`overlay`] |
//! | prerouting | −303 | `dns_notrack` | [`dns_path`] |
//! | output | −305 | `tunnel_peers_out` | [`overlay`] |
//! | output | −303 | `dns_notrack_out` | [`dns_path`] |
//! | prerouting | −150 | `answers` | [`overlay`] |
//! | prerouting | −105 | `services` | [`services`] |
//! | output | −105 | `services_out` | [`services`] |
//! | prerouting | −104 | `host_ports` | [`host_ports`] |
//! | output | −104 | `host_ports_out` | [`host_ports`] |
//! | forward | −5 | `isolated` | [`edge`] |
//! | forward | −4 | `services_unknown` | [`services`] |
//! | output | −4 | `services_unknown_out` | [`services`] |
//! | postrouting | 90 | `hairpin` | [`pods`] |
//! | postrouting | 93 | `services_masquerade` | [`services`] |
//! | postrouting | 95 | `edge` | [`edge`] |
//! | postrouting | 110 | `tunnel_port_kept` | [`overlay`] |

pub mod dns_path;
pub mod edge;
pub mod health;
pub mod host_ports;
pub mod networks;
pub mod node;
pub mod overlay;
pub mod peers;
pub mod pods;
pub mod services;
pub mod table;

use crate::engine::Rule;

/// Every rule of the program. The order decides who wins a contested row, and nothing else.
pub fn all() -> Vec<Box<dyn Rule>> {
    let mut rules: Vec<Box<dyn Rule>> = vec![
        Box::new(node::NodeRule),
        Box::new(overlay::OverlayRule),
        Box::new(peers::PeersRule),
        Box::new(edge::EdgeRule),
        Box::new(pods::PodsRule),
        Box::new(host_ports::HostPortsRule),
        Box::new(services::ServicesRule),
        Box::new(dns_path::DnsPathRule),
        Box::new(health::HealthRule),
        Box::new(networks::NetworksRule),
    ];
    rules.extend(crate::names::all());
    rules
}
