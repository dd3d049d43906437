//! The shape of a lab: machines, the links between them, and their addresses, as plain data.
//!
//! What is absent: the kernel. [`crate::Lab`] makes it real.

use std::net::IpAddr;

use ipnet::IpNet;

/// What a machine is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Runs an agent and pods.
    Node,
    /// Forwards between links; knows nothing of pods.
    Router,
    /// Anything else: a server on the internet, a client.
    Host,
}

/// One end of a cable: a machine's interface on a LAN.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Port {
    /// Interface name in the machine.
    pub interface: String,
    /// Name of the LAN.
    pub lan: String,
    /// Addresses with the LAN's prefix length.
    pub addresses: Vec<IpNet>,
}

/// A machine: a set of namespaces with interfaces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MachineSpec {
    /// Its name, which is also its host name.
    pub name: String,
    /// What it is for.
    pub role: Role,
    /// Its interfaces.
    pub ports: Vec<Port>,
    /// Default gateways, at most one a family.
    pub gateways: Vec<IpAddr>,
}

impl MachineSpec {
    /// The first address of the family of `like`.
    pub fn address_like(&self, like: IpAddr) -> Option<IpAddr> {
        self.addresses().find(|a| a.is_ipv4() == like.is_ipv4())
    }

    /// Every address.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.ports.iter().flat_map(|p| p.addresses.iter().map(IpNet::addr))
    }
}

/// A LAN: one broadcast domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lan {
    /// Its name.
    pub name: String,
    /// Largest packet, in bytes.
    pub mtu: u32,
}

/// Machines and the LANs that join them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topology {
    /// The LANs.
    pub lans: Vec<Lan>,
    /// The machines, in the order in which they start.
    pub machines: Vec<MachineSpec>,
}

/// The router's name in the ready-made topologies.
pub const ROUTER: &str = "router";
/// Name of the host that stands for the internet.
pub const INTERNET: &str = "internet";
/// Name of the client outside the cluster.
pub const CLIENT: &str = "client";

/// A network of the ready-made topologies. Host number 1 is the router.
struct Subnet {
    lan: &'static str,
    v4: [u8; 3],
    v6: u16,
}

const RACK_A: Subnet = Subnet { lan: "rack-a", v4: [192, 0, 2], v6: 0xa };
const RACK_B: Subnet = Subnet { lan: "rack-b", v4: [198, 18, 0], v6: 0xb };
const OFFICE: Subnet = Subnet { lan: "office", v4: [198, 51, 100], v6: 0xc };
const WORLD: Subnet = Subnet { lan: "world", v4: [203, 0, 113], v6: 0xffff };

impl Subnet {
    fn host(&self, number: u8) -> Vec<IpNet> {
        let [a, b, c] = self.v4;
        let v4 = IpAddr::from([a, b, c, number]);
        let v6 = IpAddr::from([0x2001, 0xdb8, self.v6, 0, 0, 0, 0, u16::from(number)]);
        // 24 and 64 are valid lengths of their families.
        [IpNet::new(v4, 24), IpNet::new(v6, 64)].into_iter().flatten().collect()
    }

    fn machine(&self, name: &str, role: Role, number: u8) -> MachineSpec {
        let port = Port { interface: "eth0".into(), lan: self.lan.into(), addresses: self.host(number) };
        let gateways = self.host(1).iter().map(IpNet::addr).collect();
        MachineSpec { name: name.into(), role, ports: vec![port], gateways }
    }
}

impl Topology {
    /// `n1` and `n2` share a link, `n3` is behind a router; a host on the "internet" (203.0.113.10,
    /// 2001:db8:ffff::a) and a client (198.51.100.10, 2001:db8:c::a) beyond the same router.
    pub fn routed() -> Self {
        Self::around_router(vec![
            RACK_A.machine("n1", Role::Node, 11),
            RACK_A.machine("n2", Role::Node, 12),
            RACK_B.machine("n3", Role::Node, 13),
        ])
    }

    /// `count` nodes `n1`… on one link, with the same outside world.
    pub fn one_link(count: u8) -> Self {
        Self::around_router(
            (1..=count).map(|n| RACK_A.machine(&format!("n{n}"), Role::Node, 10 + n)).collect(),
        )
    }

    /// [`Topology::one_link`], and a machine `control` beside the nodes.
    pub fn with_control_plane(count: u8) -> Self {
        let mut topology = Self::one_link(count);
        topology.machines.push(RACK_A.machine("control", Role::Host, 10));
        topology
    }

    fn around_router(nodes: Vec<MachineSpec>) -> Self {
        let subnets = [RACK_A, RACK_B, OFFICE, WORLD];
        let ports = subnets.iter().enumerate().map(|(i, subnet)| Port {
            interface: format!("eth{i}"),
            lan: subnet.lan.into(),
            addresses: subnet.host(1),
        });
        let router = MachineSpec {
            name: ROUTER.into(),
            role: Role::Router,
            ports: ports.collect(),
            gateways: Vec::new(),
        };
        let mut machines =
            vec![router, WORLD.machine(INTERNET, Role::Host, 10), OFFICE.machine(CLIENT, Role::Host, 10)];
        machines.extend(nodes);
        let lans = subnets.iter().map(|s| Lan { name: s.lan.into(), mtu: 1500 }).collect();
        Self { lans, machines }
    }

    /// The machines with this role.
    pub fn with_role(&self, role: Role) -> impl Iterator<Item = &MachineSpec> {
        self.machines.iter().filter(move |m| m.role == role)
    }

    /// The machine of this name.
    pub fn machine(&self, name: &str) -> Option<&MachineSpec> {
        self.machines.iter().find(|m| m.name == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(topology: &Topology, name: &str, expected: &str) {
        let machine = topology.machine(name).expect("the machine exists");
        let addresses: Vec<String> =
            machine.ports.iter().flat_map(|p| p.addresses.iter().map(|a| format!("{} {a}", p.lan))).collect();
        assert_eq!(addresses.join(", "), expected);
    }

    #[test]
    fn routed_puts_the_third_node_elsewhere() {
        let topology = Topology::routed();
        check(&topology, "n1", "rack-a 192.0.2.11/24, rack-a 2001:db8:a::b/64");
        check(&topology, "n3", "rack-b 198.18.0.13/24, rack-b 2001:db8:b::d/64");
        check(&topology, INTERNET, "world 203.0.113.10/24, world 2001:db8:ffff::a/64");
        assert_eq!(topology.with_role(Role::Node).count(), 3);
    }

    #[test]
    fn every_port_is_on_a_lan_that_exists_and_addresses_are_unique() {
        for topology in [Topology::routed(), Topology::one_link(9), Topology::with_control_plane(3)] {
            let mut seen = std::collections::BTreeSet::new();
            for port in topology.machines.iter().flat_map(|m| &m.ports) {
                assert!(topology.lans.iter().any(|l| l.name == port.lan), "{port:?}");
                assert!(port.addresses.iter().all(|a| seen.insert(a.addr())), "{port:?}");
            }
        }
    }
}
