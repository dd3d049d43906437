//! Compiled clusters: every cell of every matrix is what the design promises.

use std::net::IpAddr;

use proptest::prelude::{Just, any, prop_oneof, proptest};
use weft_model::{
    Attachment, AttachmentId, Cidr, Fact, Family, Host, HostLink, HostPort, Mac, Network, NetworkName, Node,
    NodeAddress, NodeCidr, NodeName, Overlay, Port, Protocol, Shape,
};
use weft_plan::Plan;

use super::rows::{end_of, from_node, from_outside, from_pod, ip, link, tcp};
use crate::oracle::{Conversation, NodeView, Outcome, Packet, Receiver, World, converse, trace};
use crate::{Settings, compile};

/// A cluster to be made: for each node the segment that it is on, and how many pods it has.
#[derive(Debug, Clone)]
struct Cluster {
    overlay: Overlay,
    shape: Shape,
    dual_stack: bool,
    nodes: Vec<(u8, u8)>,
}

struct Compiled {
    name: String,
    segment: u8,
    addresses: Vec<IpAddr>,
    pods: Vec<(String, Vec<IpAddr>)>,
    plan: Plan,
    host: Host,
}

impl Cluster {
    fn family_count(&self) -> usize {
        if self.dual_stack { 2 } else { 1 }
    }

    fn network(&self) -> Network {
        let blocks: [Cidr; 2] = ["10.244.0.0/16".parse().unwrap(), "fd00:244::/48".parse().unwrap()];
        Network {
            overlay: self.overlay,
            shape: self.shape,
            pod_cidrs: blocks[..self.family_count()].to_vec(),
            ..Network::ordinary()
        }
    }

    fn compiled(&self) -> Vec<Compiled> {
        self.compiled_in(&self.network())
    }

    /// Its nodes and pods in another network than its own.
    fn compiled_in(&self, network: &Network) -> Vec<Compiled> {
        let numbered = || self.nodes.iter().enumerate();
        let facts: Vec<Fact> = numbered().map(|(at, (segment, _))| self.node(at, *segment)).collect();
        numbered()
            .map(|(at, (segment, pods))| {
                let host = Host {
                    links: vec![HostLink {
                        name: link("eth0"),
                        router_advertisements: false,
                        mtu: 1500,
                        addresses: self
                            .addresses(at, *segment)
                            .into_iter()
                            .map(|a| ipnet::IpNet::new_assert(a.ip, a.prefix.unwrap()))
                            .collect(),
                    }],
                    ..Host::default()
                };
                let pods: Vec<_> = (0..*pods).map(|pod| self.pod(at, pod)).collect();
                let own = [Fact::Network(network.clone()), Fact::Host(host.clone())];
                let attachments = pods.iter().map(|(name, addresses)| attachment(name, addresses));
                let settings = Settings::new(NodeName::new(&node_name(at)).unwrap());
                let plan = compile(settings, own.into_iter().chain(facts.clone()).chain(attachments));
                let addresses = self.addresses(at, *segment).into_iter().map(|a| a.ip).collect();
                Compiled { name: node_name(at), segment: *segment, addresses, pods, plan, host }
            })
            .collect()
    }

    fn addresses(&self, at: usize, segment: u8) -> Vec<NodeAddress> {
        let all = [
            NodeAddress { ip: ip(&format!("192.168.{segment}.{}", at + 1)), prefix: Some(24) },
            NodeAddress { ip: ip(&format!("2001:db8:{segment}::{}", at + 1)), prefix: Some(64) },
        ];
        all[..self.family_count()].to_vec()
    }

    fn node(&self, at: usize, segment: u8) -> Fact {
        let mut node = Node::named(NodeName::new(&node_name(at)).unwrap());
        node.addresses = self.addresses(at, segment);
        let blocks = [format!("10.244.{at}.0/24"), format!("fd00:244:0:{at}::/64")];
        node.pod_cidrs = blocks[..self.family_count()]
            .iter()
            .map(|block| NodeCidr { network: NetworkName::ordinary(), cidr: block.parse().unwrap() })
            .collect();
        Fact::Node(node)
    }

    fn pod(&self, at: usize, pod: u8) -> (String, Vec<IpAddr>) {
        let all = [ip(&format!("10.244.{at}.{}", pod + 2)), ip(&format!("fd00:244:0:{at}::{}", pod + 2))];
        (format!("pod-{at}-{pod}"), all[..self.family_count()].to_vec())
    }

    /// Whether pods of two nodes are promised a way.
    fn joins(&self, a: &Compiled, b: &Compiled) -> bool {
        self.overlay != Overlay::HostGw || a.segment == b.segment
    }
}

fn node_name(at: usize) -> String {
    format!("n{at}")
}

/// The first pod of each node has TCP port 8080 of the node.
fn attachment(name: &str, addresses: &[IpAddr]) -> Fact {
    let mapped = name.ends_with("-0").then(|| HostPort {
        host_ip: None,
        host_port: Port::new(8080).unwrap(),
        container_port: Port::new(80).unwrap(),
        protocol: Protocol::Tcp,
    });
    Fact::Attachment(Attachment {
        id: AttachmentId { container: name.into(), ifname: link("eth0") },
        network: NetworkName::ordinary(),
        pod: None,
        addresses: addresses.to_vec(),
        mac: Mac::derived(name),
        mtu: None,
        host_ports: mapped.into_iter().collect(),
        netns: String::new(),
    })
}

fn view(nodes: &[Compiled]) -> World<'_> {
    World::new(nodes.iter().map(|node| NodeView {
        name: NodeName::new(&node.name).unwrap(),
        plan: &node.plan,
        host: &node.host,
    }))
}

fn seen_source(conversation: &Conversation) -> Option<IpAddr> {
    match &conversation.forward.outcome {
        Outcome::Delivered { seen, .. } => Some(seen.source),
        _ => None,
    }
}

fn check_pods(cluster: &Cluster, world: &World<'_>, nodes: &[Compiled]) {
    for (a, b) in nodes.iter().flat_map(|a| nodes.iter().map(move |b| (a, b))) {
        for ((from, sources), (to, destinations)) in
            a.pods.iter().flat_map(|from| b.pods.iter().map(move |to| (from, to)))
        {
            for (source, destination) in sources.iter().zip(destinations) {
                let packets = [
                    Packet::to(Protocol::Tcp, *destination, 80),
                    Packet::to(Protocol::Udp, *destination, 53),
                    Packet::ping(*destination),
                ];
                for packet in packets {
                    let conversation = converse(world, &from_pod(&a.name, from), packet);
                    let promised = a.name == b.name || cluster.joins(a, b);
                    assert_eq!(conversation.works(), promised, "{from} to {to}:\n{conversation}");
                    if promised {
                        assert_eq!(seen_source(&conversation), Some(*source), "{conversation}");
                        let got = conversation.forward.outcome.pod().map(|(_, link)| link);
                        assert_eq!(got, Some(end_of(to)), "{conversation}");
                    }
                }
            }
        }
    }
}

fn check_nodes(cluster: &Cluster, world: &World<'_>, nodes: &[Compiled]) {
    for (a, b) in nodes.iter().flat_map(|a| nodes.iter().map(move |b| (a, b))) {
        for (pod, addresses) in &b.pods {
            for (at, (pod_address, node_address)) in addresses.iter().zip(&a.addresses).enumerate() {
                let down = converse(world, &from_node(&a.name), Packet::to(Protocol::Tcp, *pod_address, 80));
                let up =
                    converse(world, &from_pod(&b.name, pod), Packet::to(Protocol::Tcp, *node_address, 10250));
                // Without a tunnel between segments no way is promised.
                if a.name != b.name && !cluster.joins(a, b) {
                    continue;
                }
                assert!(down.works(), "{} to {pod}:\n{down}", a.name);
                assert_eq!(seen_source(&down), Some(a.addresses[at]), "{down}");
                assert!(up.works(), "{pod} to {}:\n{up}", a.name);
                assert_eq!(seen_source(&up), Some(*pod_address), "{up}");
            }
        }
    }
}

fn check_edge(cluster: &Cluster, world: &World<'_>, nodes: &[Compiled]) {
    for node in nodes {
        for (pod, addresses) in &node.pods {
            for (at, address) in addresses.iter().enumerate() {
                let far = ip(["203.0.113.10", "2001:db8:ffff::10"][at]);
                let out = converse(world, &from_pod(&node.name, pod), Packet::to(Protocol::Tcp, far, 443));
                let into = Packet::to(Protocol::Tcp, *address, 80).from(far);
                let into = converse(world, &from_outside(&node.name), into);
                match cluster.shape {
                    Shape::Flat => {
                        assert!(out.works() && into.works(), "{out}\n{into}");
                        assert_eq!(seen_source(&out), Some(*address), "{out}");
                    }
                    Shape::Island => {
                        assert!(out.works(), "{out}");
                        assert_eq!(seen_source(&out), Some(node.addresses[at]), "{out}");
                    }
                    Shape::Isolated => {
                        assert!(matches!(out.forward.outcome, Outcome::Rejected { .. }), "{out}");
                        assert!(matches!(into.forward.outcome, Outcome::Dropped { .. }), "{into}");
                    }
                }
            }
        }
    }
}

fn check_host_ports(cluster: &Cluster, world: &World<'_>, nodes: &[Compiled]) {
    for node in nodes.iter().filter(|node| !node.pods.is_empty()) {
        for (at, address) in node.addresses.iter().enumerate() {
            let far = ip(["203.0.113.10", "2001:db8:ffff::10"][at]);
            let packet = Packet::to(Protocol::Tcp, *address, 8080);
            let mut ways = vec![converse(world, &from_outside(&node.name), packet.from(far))];
            ways.push(converse(world, &from_node(&node.name), packet));
            for (pod, _) in &node.pods {
                ways.push(converse(world, &from_pod(&node.name, pod), packet));
            }
            for peer in nodes.iter().filter(|peer| peer.name != node.name && cluster.joins(peer, node)) {
                ways.push(converse(world, &from_node(&peer.name), packet));
                for (pod, _) in &peer.pods {
                    ways.push(converse(world, &from_pod(&peer.name, pod), packet));
                }
            }
            for way in ways {
                assert!(way.works(), "{way}");
                let got = way.forward.outcome.pod().map(|(_, link)| link);
                assert_eq!(got, Some(end_of(&node.pods[0].0)), "{way}");
            }
        }
        let loopback = converse(world, &from_node(&node.name), tcp("127.0.0.1", 8080));
        assert!(loopback.works() && loopback.forward.outcome.pod().is_some(), "{loopback}");
    }
}

fn check_lies(world: &World<'_>, nodes: &[Compiled]) {
    for (node, (pod, addresses)) in nodes.iter().flat_map(|n| n.pods.iter().map(move |pod| (n, pod))) {
        for lie in ["10.244.0.200", "192.168.1.1", "203.0.113.1", "127.0.0.1", "10.244.0.1"] {
            let packet = tcp("203.0.113.10", 80).from(ip(lie));
            let trace = trace(world, &from_pod(&node.name, pod), packet);
            let Outcome::Dropped { why, .. } = &trace.outcome else {
                panic!("{trace}");
            };
            assert!(why.contains("not the pod's own source address"), "{trace}");
        }
        // The node's loopback is not for pods, even with a true source.
        let packet = tcp("127.0.0.2", 22).from(addresses[0]);
        let outside = trace(world, &from_outside(&node.name), packet);
        assert!(!outside.outcome.is_delivered(), "{outside}");
    }
}

fn check(cluster: &Cluster) {
    let nodes = cluster.compiled();
    for node in &nodes {
        assert_eq!(node.plan.check(), Vec::<String>::new());
    }
    let world = view(&nodes);
    check_pods(cluster, &world, &nodes);
    check_nodes(cluster, &world, &nodes);
    check_edge(cluster, &world, &nodes);
    check_host_ports(cluster, &world, &nodes);
    check_lies(&world, &nodes);
}

#[test]
fn every_overlay_and_shape_keeps_its_promises() {
    for overlay in [Overlay::Auto, Overlay::Vxlan, Overlay::HostGw] {
        for shape in [Shape::Flat, Shape::Island, Shape::Isolated] {
            for dual_stack in [false, true] {
                check(&Cluster { overlay, shape, dual_stack, nodes: vec![(1, 2), (1, 1), (2, 2), (2, 0)] });
            }
        }
    }
}

proptest! {
    #![proptest_config(proptest::test_runner::Config { cases: 48, ..Default::default() })]
    #[test]
    fn generated_clusters_keep_their_promises(
        overlay in prop_oneof![Just(Overlay::Auto), Just(Overlay::Vxlan), Just(Overlay::HostGw)],
        shape in prop_oneof![Just(Shape::Flat), Just(Shape::Island), Just(Shape::Isolated)],
        dual_stack in any::<bool>(),
        nodes in proptest::collection::vec((1u8..4, 0u8..4), 1..6),
    ) {
        check(&Cluster { overlay, shape, dual_stack, nodes });
    }
}

#[test]
fn auto_uses_both_ways_at_once() {
    let nodes = Cluster {
        overlay: Overlay::Auto,
        shape: Shape::Island,
        dual_stack: false,
        nodes: vec![(1, 1), (1, 1), (2, 1)],
    }
    .compiled();
    let world = view(&nodes);
    let way = |to: &str| trace(&world, &from_pod("n0", "pod-0-0"), tcp(to, 80)).to_string();
    assert!(!way("10.244.1.2").contains("encap"));
    insta::assert_snapshot!(way("10.244.2.2"), @r#"
    tcp 10.244.0.2:40000 → 10.244.2.2:80
      n0 send from pod pod-0-0 by weftptvvbjbbgsn [attachment pod-0-0:eth0]
      n0 prerouting pod_sources: iifname . ip saddr @pod_source4 accept; found "weftptvvbjbbgsn" . 10.244.0.2 [attachment pod-0-0:eth0]
      n0 route 10.244.2.0/24 via 192.168.2.3 dev weftx9338 src 192.168.1.1 onlink [node n2]
      n0 encap neighbour 192.168.2.3 lladdr ba:90:f8:37:7c:88, fdb dst 192.168.2.3, vni 9338 [node n2]
      n0 route default dev eth0 (the host's own) [host]
      n0 output tunnel_peers_out: meta l4proto udp ip saddr 192.168.1.1 meta l4proto . th dport @tunnel_ports notrack comment "tunnels without connection tracking"; found udp . 4789 [network default]
      n0 wire eth0 by routers outside to n2 eth0 [node n2]
      n2 prerouting pod_sources: iifname != "weftp*" accept comment "not from a pod" [node n2]
      n2 prerouting tunnel_peers: ip daddr 192.168.2.3 ip saddr @tunnel_peer4 meta l4proto . th dport @tunnel_ports notrack accept comment "tunnels without connection tracking"; found udp . 4789 [network default]
      n2 route local 192.168.2.3/32 dev eth0 table local [host]
      n2 decap by weftx9338, from 192.168.1.1 [network default]
      n2 prerouting pod_sources: iifname != "weftp*" accept comment "not from a pod" [node n2]
      n2 route 10.244.2.2/32 dev weftpd74dhp304m src 192.168.2.3 [attachment pod-2-0:eth0]
      n2 link to pod pod-2-0 by weftpd74dhp304m [attachment pod-2-0:eth0]
    delivered to pod pod-2-0 on n2 (weftpd74dhp304m) as tcp 10.244.0.2:40000 → 10.244.2.2:80
    "#);
}

#[test]
fn tunnel_packets_from_strangers_are_dropped() {
    let nodes = Cluster {
        overlay: Overlay::Vxlan,
        shape: Shape::Island,
        dual_stack: false,
        nodes: vec![(1, 1), (2, 1)],
    }
    .compiled();
    let world = view(&nodes);
    let forged = Packet::to(Protocol::Udp, nodes[0].addresses[0], 4789).from(ip("203.0.113.66"));
    insta::assert_snapshot!(trace(&world, &from_outside("n0"), forged), @r#"
    udp 203.0.113.66:40000 → 192.168.1.1:4789
      n0 send from outside by eth0 [host]
      n0 prerouting pod_sources: iifname != "weftp*" accept comment "not from a pod" [node n0]
      n0 prerouting tunnel_peers: ip saddr != @tunnel_peer4 meta l4proto . th dport @tunnel_ports fib daddr type local counter drop comment "tunnel packets from nodes only"; found udp . 4789 [network default]
    dropped on n0: chain tunnel_peers: ip saddr != @tunnel_peer4 meta l4proto . th dport @tunnel_ports fib daddr type local counter drop comment "tunnel packets from nodes only"; found udp . 4789 [network default]
    "#);
    let known = forged.from(nodes[1].addresses[0]);
    let outcome = trace(&world, &from_outside("n0"), known).outcome;
    let to_node = |outcome: &Outcome| matches!(outcome, Outcome::Delivered { to: Receiver::Node { .. }, .. });
    assert!(to_node(&outcome), "{outcome}");
    // A pod's would be masqueraded on the way to an address that no node publishes, and so pass for its node's own.
    for target in [nodes[1].addresses[0], ip("203.0.113.66")] {
        let packet = Packet::to(Protocol::Udp, target, 4789);
        let outcome = trace(&world, &from_pod("n0", "pod-0-0"), packet).outcome;
        assert!(outcome.to_string().contains("\"pods send no tunnel packets\""), "{outcome}");
    }
}

#[test]
fn nobody_leaves_with_the_tunnels_port() {
    let nodes = Cluster {
        overlay: Overlay::Vxlan,
        shape: Shape::Island,
        dual_stack: true,
        nodes: vec![(1, 1), (2, 1)],
    }
    .compiled();
    let world = view(&nodes);
    // The oracle's masquerade keeps the port that the kernel's may choose.
    for far in ["203.0.113.10", "2001:db8:ffff::10"] {
        let left = |protocol, sport| {
            let packet = Packet { sport, ..Packet::to(protocol, ip(far), 53) };
            trace(&world, &from_pod("n0", "pod-0-0"), packet).outcome
        };
        let outcome = left(Protocol::Udp, 4789);
        assert!(outcome.to_string().contains("answers would be taken for tunnel packets"), "{outcome}");
        assert!(left(Protocol::Udp, 4790).is_delivered() && left(Protocol::Tcp, 4789).is_delivered());
    }
    // A pod's own port is its own business where nothing is translated.
    let packet = Packet { sport: 4789, ..Packet::to(Protocol::Udp, ip("10.244.1.2"), 53) };
    assert!(trace(&world, &from_pod("n0", "pod-0-0"), packet).outcome.is_delivered());
}

#[test]
fn what_no_masquerade_lists_sees_pods_themselves() {
    let cluster =
        Cluster { overlay: Overlay::Auto, shape: Shape::Island, dual_stack: true, nodes: vec![(1, 1)] };
    let listed = ["203.0.113.0/24", "2001:db8:ffff::/48"].map(|block| block.parse::<Cidr>().unwrap());
    let check = |no_masquerade: &[Cidr], to: &str, is_itself: bool| {
        let network = Network { no_masquerade: no_masquerade.to_vec(), ..cluster.network() };
        let nodes = cluster.compiled_in(&network);
        let to = ip(to);
        let at = usize::from(to.is_ipv6());
        let way = converse(&view(&nodes), &from_pod("n0", "pod-0-0"), Packet::to(Protocol::Tcp, to, 443));
        assert!(way.works(), "{way}");
        let expected = if is_itself { nodes[0].pods[0].1[at] } else { nodes[0].addresses[at] };
        assert_eq!(seen_source(&way), Some(expected), "{way}");
    };
    for (inside, beside) in [("203.0.113.10", "203.0.114.10"), ("2001:db8:ffff::10", "2001:db8:fffe::10")] {
        check(&listed, inside, true);
        check(&listed, beside, false);
        check(&[], inside, false);
    }
}

#[test]
fn families_do_not_mix() {
    let nodes =
        Cluster { overlay: Overlay::Auto, shape: Shape::Flat, dual_stack: false, nodes: vec![(1, 1)] }
            .compiled();
    let world = view(&nodes);
    let trace = trace(&world, &from_pod("n0", "pod-0-0"), tcp("2001:db8::1", 80));
    assert!(matches!(trace.outcome, Outcome::Unreachable { .. }), "{trace}");
    assert_eq!(Family::of(nodes[0].addresses[0]), Family::V4);
}
