//! The addresses by which a node makes itself known: the choice alone. The agent publishes them, and preflight shows them.

use std::net::IpAddr;

use ipnet::IpNet;
use weft_model::{Family, Host, HostLink, IfName, NodeAddress};

/// Those of the configuration (`addresses`), else those of its `uplink`, else those by which the cluster knows this node (`registered`) where
/// this machine has them, else those of the link with the default route; with their prefixes. A node with several links is known by what its
/// kubelet was told (`--node-ip`), and what the cluster's other programs send to it comes there.
pub fn own_addresses(
    configured: &[IpAddr],
    uplink: Option<IfName>,
    host: &Host,
    registered: &[IpAddr],
) -> Vec<NodeAddress> {
    let net = |ip: &IpAddr| host.nets().find(|net| net.addr() == *ip);
    if !configured.is_empty() {
        let address = |ip: &IpAddr| NodeAddress { ip: *ip, prefix: net(ip).map(|net| net.prefix_len()) };
        return configured.iter().map(address).collect();
    }
    let known: Vec<IpNet> = registered.iter().filter_map(net).collect();
    let nets = match uplink {
        Some(name) => addresses_of(host.links.iter().find(|link| link.name == name)),
        // In a family in which the cluster knows none, none of its nodes is counted on to have one.
        None if !known.is_empty() => known,
        None => addresses_of(host.links.first()),
    };
    // One of a family is enough for peers; the first is the kernel's own choice.
    Family::ALL
        .into_iter()
        .filter_map(|family| nets.iter().find(|net| Family::of(net.addr()) == family))
        .map(|net| NodeAddress { ip: net.addr(), prefix: Some(net.prefix_len()) })
        .collect()
}

fn addresses_of(link: Option<&HostLink>) -> Vec<IpNet> {
    link.map(|link| link.addresses.clone()).unwrap_or_default()
}
