//! The page of packet paths (`docs/packet-paths.md`) shows what the oracle says of a small compiled cluster, word for word.

use std::collections::BTreeMap;

use weft_model::{
    Attachment, AttachmentId, Endpoint, EndpointPort, EndpointSlice, Fact, Family, Host, HostLink, HostPort,
    IngressMode, LoadBalancerAddress, Mac, Network, NetworkName, Node, NodeAddress, NodeCidr, NodeName,
    ObjectKey, PodIdentity, Port, Protocol, Service, ServicePort, Shape, SliceSource, TargetPort,
};
use weft_plan::Plan;

use super::rows::{from_node, from_outside, from_pod, ip, link, tcp, udp};
use crate::oracle::{NodeView, World, converse, trace};
use crate::{DnsSettings, Settings, compile};

const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/packet-paths.md");
/// Set, the test writes the page's blocks anew instead of complaining.
const UPDATE: &str = "WEFT_UPDATE_PAGES";

/// Name, address with prefix, number of its pods' block; `n1` and `n2` share a link, `n3` is behind a router.
const NODES: [(&str, &str, &str, u8); 3] = [
    ("n1", "192.0.2.1/24", "2001:db8:1::1/64", 1),
    ("n2", "192.0.2.2/24", "2001:db8:1::2/64", 2),
    ("n3", "198.51.100.3/24", "2001:db8:2::3/64", 3),
];

/// Pod, node, last part of its addresses.
const PODS: [(&str, &str, u8); 4] =
    [("web-0", "n1", 2), ("db-0", "n1", 3), ("app-0", "n2", 2), ("api-0", "n3", 2)];

fn node(name: &str, v4: &str, v6: &str, number: u8) -> Fact {
    let mut node = Node::named(NodeName::new(name).unwrap());
    let nets = [v4, v6].map(|text| text.parse::<ipnet::IpNet>().unwrap());
    node.addresses =
        nets.iter().map(|net| NodeAddress { ip: net.addr(), prefix: Some(net.prefix_len()) }).collect();
    let blocks = [format!("10.244.{number}.0/24"), format!("fd00:244:0:{number}::/64")];
    node.pod_cidrs = blocks
        .iter()
        .map(|block| NodeCidr { network: NetworkName::ordinary(), cidr: block.parse().unwrap() })
        .collect();
    Fact::Node(node)
}

fn attachment(pod: &str, number: u8, last: u8) -> Fact {
    let mapped = HostPort {
        host_ip: None,
        host_port: Port::new(8080).unwrap(),
        container_port: Port::new(80).unwrap(),
        protocol: Protocol::Tcp,
    };
    Fact::Attachment(Attachment {
        id: AttachmentId { container: pod.into(), ifname: link("eth0") },
        network: NetworkName::ordinary(),
        pod: Some(PodIdentity { key: ObjectKey::new("default", pod).unwrap(), uid: None }),
        addresses: vec![ip(&format!("10.244.{number}.{last}")), ip(&format!("fd00:244:0:{number}::{last}"))],
        mac: Mac::derived(pod),
        mtu: None,
        host_ports: if pod == "web-0" { vec![mapped] } else { Vec::new() },
        netns: String::new(),
    })
}

/// `app` at 10.96.0.10, port 80, at port 30080 of every node, and at a balancer's 100.64.0.80 for some: led to `app-0` on `n2`.
fn app() -> [Fact; 2] {
    let mut service = Service::named(ObjectKey::new("default", "app").unwrap());
    service.cluster_ips = vec![ip("10.96.0.10")];
    service.families = vec![Family::V4];
    service.load_balancer = vec![LoadBalancerAddress { ip: ip("100.64.0.80"), mode: IngressMode::Vip }];
    service.source_ranges =
        ["203.0.113.0/24", "198.51.100.128/25"].map(|block| block.parse().unwrap()).to_vec();
    service.ports = vec![ServicePort {
        name: "http".into(),
        protocol: Protocol::Tcp,
        port: Port::new(80).unwrap(),
        target: TargetPort::Number(Port::new(8080).unwrap()),
        node_port: Port::new(30_080).ok(),
    }];
    let slice = EndpointSlice {
        key: ObjectKey::new("default", "app-x7k2p").unwrap(),
        service: Some(service.key.name.clone()),
        source: SliceSource::EndpointSlice,
        family: Family::V4,
        ports: [EndpointPort { name: "http".into(), protocol: Protocol::Tcp, port: Port::new(8080).ok() }]
            .into(),
        endpoints: [Endpoint {
            addresses: vec![ip("10.244.2.2")],
            ready: true,
            serving: true,
            terminating: false,
            hostname: None,
            node: NodeName::new("n2").ok(),
            zone: None,
            hint_zones: Vec::new(),
            hint_nodes: Vec::new(),
            pod: None,
        }]
        .into(),
    };
    [Fact::Service(service), Fact::EndpointSlice(slice)]
}

fn cluster(shape: Shape) -> Vec<(NodeName, Plan, Host)> {
    let network = Network {
        shape,
        pod_cidrs: ["10.244.0.0/16", "fd00:244::/48"].map(|block| block.parse().unwrap()).to_vec(),
        service_cidrs: vec!["10.96.0.0/16".parse().unwrap()],
        ..Network::ordinary()
    };
    NODES
        .iter()
        .map(|(name, v4, v6, number)| {
            let addresses = vec![v4.parse().unwrap(), v6.parse().unwrap()];
            let host = Host {
                links: vec![HostLink {
                    name: link("eth0"),
                    mtu: 1500,
                    router_advertisements: false,
                    addresses,
                }],
                ..Host::default()
            };
            let mut facts = vec![Fact::Host(host.clone()), Fact::Network(network.clone())];
            facts.extend(app());
            facts.extend(NODES.iter().map(|(name, v4, v6, number)| node(name, v4, v6, *number)));
            facts.extend(
                PODS.iter()
                    .filter(|(_, on, _)| on == name)
                    .map(|(pod, _, last)| attachment(pod, *number, *last)),
            );
            let mut settings = Settings::new(NodeName::new(name).unwrap());
            settings.dns = DnsSettings { addresses: vec![ip("169.254.53.53")], ..DnsSettings::default() };
            (settings.node.clone(), compile(settings, facts), host)
        })
        .collect()
}

fn view(nodes: &[(NodeName, Plan, Host)]) -> World<'_> {
    World::new(nodes.iter().map(|(name, plan, host)| NodeView { name: name.clone(), plan, host }))
}

/// Every block of the page by its name.
fn said() -> BTreeMap<&'static str, String> {
    let (island, isolated) = (cluster(Shape::Island), cluster(Shape::Isolated));
    let (world, closed) = (view(&island), view(&isolated));
    let web = from_pod("n1", "web-0");
    let far = ip("203.0.113.10");
    let there = |start, packet| trace(&world, start, packet).to_string();
    let and_back = |start, packet| {
        let conversation = converse(&world, start, packet);
        assert!(conversation.works(), "{conversation}");
        conversation.to_string()
    };
    BTreeMap::from([
        ("one-node", and_back(&web, tcp("10.244.1.3", 5432))),
        ("direct", there(&web, tcp("10.244.2.2", 80))),
        ("tunnel", there(&web, tcp("10.244.3.2", 80))),
        ("tunnel-v6", there(&web, tcp("fd00:244:0:3::2", 80))),
        ("node-to-pod", and_back(&from_node("n3"), tcp("10.244.1.2", 80))),
        ("out", and_back(&web, tcp("203.0.113.10", 443))),
        ("mapped", and_back(&from_outside("n1"), tcp("192.0.2.1", 8080).from(far))),
        ("hairpin", and_back(&web, tcp("192.0.2.1", 8080))),
        ("loopback", and_back(&from_node("n1"), tcp("127.0.0.1", 8080))),
        ("service", and_back(&web, tcp("10.96.0.10", 80))),
        ("node-port", and_back(&from_outside("n1"), tcp("192.0.2.1", 30_080).from(far))),
        ("restricted", there(&from_outside("n1"), tcp("100.64.0.80", 80).from(far))),
        ("restricted-stranger", there(&from_outside("n1"), tcp("100.64.0.80", 80).from(ip("203.0.112.10")))),
        ("service-closed", there(&web, tcp("10.96.0.10", 81))),
        ("service-unknown", there(&web, tcp("10.96.0.99", 80))),
        ("names", and_back(&web, udp("169.254.53.53", 53))),
        ("spoofed", there(&web, tcp("10.244.2.2", 80).from(ip("10.244.1.3")))),
        ("unused", there(&web, tcp("10.244.1.99", 80))),
        ("stranger", there(&from_outside("n1"), udp("192.0.2.1", 4789).from(far))),
        ("isolated-out", trace(&closed, &web, tcp("203.0.113.10", 443)).to_string()),
        ("isolated-in", trace(&closed, &from_outside("n1"), tcp("10.244.1.2", 80).from(far)).to_string()),
    ])
}

/// The page with one block written anew; a block that isn't there goes to the end.
fn with_block(page: &str, name: &str, text: &str) -> String {
    let head = format!("<!-- oracle: {name} -->\n```text\n");
    let foot = "\n```\n";
    let parts = page.split_once(&head).and_then(|(before, rest)| {
        // An empty block has its foot right below its head.
        let rest = rest.strip_prefix("```\n").or_else(|| Some(rest.split_once(foot)?.1))?;
        Some((before, rest))
    });
    let (before, after) = parts.unwrap_or((page, ""));
    format!("{before}{head}{text}{foot}{after}")
}

#[test]
fn the_page_says_what_the_oracle_says() {
    let page = std::fs::read_to_string(PAGE).unwrap();
    let fresh = said().iter().fold(page.clone(), |page, (name, text)| with_block(&page, name, text));
    if std::env::var_os(UPDATE).is_some() {
        std::fs::write(PAGE, &fresh).unwrap();
    } else {
        let place = page.lines().zip(fresh.lines()).find(|(old, new)| old != new);
        assert!(
            page == fresh,
            "docs/packet-paths.md is old: run again with {UPDATE}=1; first change: {place:#?}"
        );
    }
}
