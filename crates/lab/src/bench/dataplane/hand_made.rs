//! What Weft is compared with: pods connected by hand, with the fewest commands that a careful person would type.
//!
//! A routed veth pair a pod, a route a peer, a vxlan device with its permanent entries, and connection tracking: one
//! nftables chain that lets established connections through first. Once more with translation, of which no cluster can do without:
//! pods leave with their node's address, and a map leads services' addresses to pods.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use weft_lab::{Lab, Machine, Net};

use super::Place;

/// Clients and servers, in pairs.
pub struct HandMade {
    pub same_node: (Place, Place),
    pub direct: (Place, Place),
    pub tunnel: (Place, Place),
}

/// What the packet filter is told.
const TRACKING: &str = "table inet hand {
  chain forward {
    type filter hook forward priority filter; policy accept;
    ct state established,related accept
    ct state invalid drop
  }
}
";

/// What it is told beside that by whoever translates.
const TRANSLATION: &str = "table inet hand_nat {
  map services { type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service; }
  chain services {
    type nat hook prerouting priority dstnat; policy accept;
    dnat ip to ip daddr . meta l4proto . th dport map @services
  }
  chain edge {
    type nat hook postrouting priority srcnat; policy accept;
    ip saddr 10.60.0.0/15 ip daddr != 10.60.0.0/15 masquerade fully-random
  }
}
";

/// Whether connections are translated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Connections {
    /// Tracked only.
    Tracked,
    /// Tracked, and asked for a translation.
    Translated,
}

/// MTU of a pod whose packets go through vxlan: 50 bytes are the tunnel's (RFC 7348, section 5).
const TUNNEL_MTU: u32 = 1450;
const LINK_MTU: u32 = 1500;

/// Connects the pods of two machines.
pub fn lay(lab: &Lab, machines: [&str; 2], connections: Connections) -> Result<HandMade> {
    let [near, far] = [lab.machine(machines[0])?, lab.machine(machines[1])?];
    let underlay = [address_of(lab, machines[0])?, address_of(lab, machines[1])?];
    for (here, machine) in [&near, &far].into_iter().enumerate() {
        prepare(machine, connections)?;
        join(machine, here, underlay)?;
    }
    let pod = |machine: &Arc<Machine>, name: &str, address: [u8; 4], mtu: u32| {
        connect(machine, name, address.into(), mtu)
    };
    Ok(HandMade {
        same_node: (pod(&near, "s1", [10, 60, 0, 1], LINK_MTU)?, pod(&near, "s2", [10, 60, 0, 2], LINK_MTU)?),
        direct: (pod(&near, "d1", [10, 60, 0, 3], LINK_MTU)?, pod(&far, "d2", [10, 60, 1, 3], LINK_MTU)?),
        tunnel: (pod(&near, "t1", [10, 61, 0, 1], TUNNEL_MTU)?, pod(&far, "t2", [10, 61, 1, 1], TUNNEL_MTU)?),
    })
}

fn address_of(lab: &Lab, machine: &str) -> Result<IpAddr> {
    let spec = lab.topology().machine(machine);
    spec.and_then(|s| s.addresses().find(IpAddr::is_ipv4)).context("a node has no IPv4 address")
}

/// Forwarding, connection tracking and what goes with it.
fn prepare(machine: &Machine, connections: Connections) -> Result<()> {
    machine.sysctl(&[("net/ipv4/ip_forward", "1")])?;
    machine.run_with_input("nft", &["-f", "-"], TRACKING)?;
    if connections == Connections::Translated {
        machine.run_with_input("nft", &["-f", "-"], TRANSLATION)?;
    }
    Ok(())
}

/// The ways to the other node's pods: direct for 10.60, by vxlan for 10.61.
fn join(machine: &Machine, here: usize, underlay: [IpAddr; 2]) -> Result<()> {
    let there = 1 - here;
    let (own, peer) = (underlay[here], underlay[there]);
    let mac = |node: usize| format!("02:00:00:00:00:0{node}");
    let batch = format!(
        "link add name hand0 address {} mtu {TUNNEL_MTU} type vxlan id 77 dstport 4790 local {own} nolearning\n\
         link set hand0 up\n\
         route add 10.60.{there}.0/24 via {peer} dev eth0\n\
         route add 10.61.{there}.0/24 via {peer} dev hand0 onlink\n\
         neighbour add {peer} dev hand0 lladdr {} nud permanent\n",
        mac(here),
        mac(there),
    );
    machine.run_with_input("ip", &["-batch", "-"], &batch)?;
    let fdb = ["fdb", "add", &mac(there), "dev", "hand0", "dst", &peer.to_string()];
    machine.run("bridge", &fdb)?;
    Ok(())
}

/// A routed veth pair.
fn connect(machine: &Arc<Machine>, name: &str, address: Ipv4Addr, mtu: u32) -> Result<Place> {
    let netns = add_namespace(machine, name)?;
    let host = format!(
        "link add name h-{name} mtu {mtu} type veth peer name eth0 mtu {mtu} netns {name}\n\
         link set h-{name} up\n\
         address add 169.254.1.1/32 dev h-{name}\n\
         route add {address}/32 dev h-{name}\n"
    );
    machine.run_with_input("ip", &["-batch", "-"], &host)?;
    let inside = format!(
        "link set lo up\naddress add {address}/32 dev eth0\nlink set eth0 up\n\
         route add 169.254.1.1/32 dev eth0\nroute add default via 169.254.1.1 dev eth0\n"
    );
    inside_of(machine, &netns, &inside)?;
    Ok(Place { machine: Arc::clone(machine), netns, address: address.into() })
}

/// Two namespaces and a cable.
pub fn bare(machine: &Arc<Machine>) -> Result<(Place, Place)> {
    let ends = [("b1", Ipv4Addr::new(10, 70, 0, 1)), ("b2", Ipv4Addr::new(10, 70, 0, 2))];
    let mut places = Vec::new();
    for (name, _) in ends {
        add_namespace(machine, name)?;
    }
    let mut batch = String::new();
    writeln!(
        batch,
        "link add name eth0 mtu {LINK_MTU} netns b1 type veth peer name eth0 mtu {LINK_MTU} netns b2"
    )?;
    machine.run_with_input("ip", &["-batch", "-"], &batch)?;
    for (name, address) in ends {
        let netns = Path::new("/run/netns").join(name);
        inside_of(
            machine,
            &netns,
            &format!("link set lo up\naddress add {address}/24 dev eth0\nlink set eth0 up\n"),
        )?;
        places.push(Place { machine: Arc::clone(machine), netns, address: address.into() });
    }
    let (server, client) = (places.pop(), places.pop());
    client.zip(server).context("two ends were made")
}

fn add_namespace(machine: &Machine, name: &str) -> Result<PathBuf> {
    machine.run("ip", &["netns", "add", name])?;
    Ok(Path::new("/run/netns").join(name))
}

fn inside_of(machine: &Machine, netns: &Path, batch: &str) -> Result<()> {
    let mut command = std::process::Command::new("ip");
    command.args(["-batch", "-"]);
    let finished = machine.output(command, Net::At(netns), batch.as_bytes())?;
    finished.success_or(|output| anyhow::anyhow!("ip -batch in {}: {output}", netns.display()))?;
    Ok(())
}
