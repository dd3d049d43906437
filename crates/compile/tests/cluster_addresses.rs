//! Cluster addresses that people wrote: none takes a node's own servers, or pods, from those who ask for them.

use weft_compile::{Compiler, Settings};
use weft_model::{
    Change, Cidr, Fact, FactKey, Host, HostLink, IfName, Network, NetworkName, Node, NodeAddress, NodeCidr,
    NodeName, ObjectKey, ObjectName, Port, Protocol, Service, ServiceCidr, ServicePort, TargetPort,
};
use weft_plan::Plan;

/// The compiler of node n1, which has 192.0.2.1, in a cluster with two nodes; and its plan.
struct Bench(Compiler, Plan);

impl Bench {
    /// With these blocks of services.
    fn new(service_cidrs: &[&str]) -> Self {
        let mut bench = Self(Compiler::new(Settings::new(NodeName::new("n1").unwrap())), Plan::default());
        bench.set(network(service_cidrs));
        bench.set(host(&[("eth0", &["192.0.2.1/24", "198.51.100.7/32"])]));
        bench.set(node("n1", "192.0.2.1", "10.244.1.0/24"));
        bench.set(node("n2", "192.0.2.2", "10.244.2.0/24"));
        bench
    }

    fn set(&mut self, fact: Fact) {
        self.0.apply(Change::set(fact));
        self.0.flush(&mut self.1);
    }

    fn remove(&mut self, key: FactKey) {
        self.0.apply(Change::Remove(key));
        self.0.flush(&mut self.1);
    }

    /// By which elements services have this address, without the data.
    fn at(&self, address: &str) -> String {
        let text = self.1.to_string();
        let lines = text.lines().filter_map(|line| line.strip_prefix("element "));
        let of_services = |line: &&str| line.starts_with("service4 ") || line.starts_with("cluster_ip4 ");
        let with = lines.filter(of_services).filter(|line| line.contains(&format!("{{ {address} ")));
        let keys = with.map(|line| line.split(" :").next().unwrap().replace(" {", "").replace(" }", ""));
        keys.collect::<Vec<_>>().join("; ")
    }

    fn warnings(&self) -> String {
        let warnings = self.1.warnings.iter().map(|warning| format!("{}: {}", warning.object, warning.text));
        warnings.collect::<Vec<_>>().join("\n")
    }
}

fn network(service_cidrs: &[&str]) -> Fact {
    let blocks = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<Cidr>>();
    let (pod_cidrs, service_cidrs) = (blocks(&["10.244.0.0/16"]), blocks(service_cidrs));
    Fact::Network(Network { pod_cidrs, service_cidrs, ..Network::ordinary() })
}

fn host(links: &[(&str, &[&str])]) -> Fact {
    let link = |(name, addresses): &(&str, &[&str])| HostLink {
        name: IfName::new(name).unwrap(),
        router_advertisements: false,
        mtu: 1500,
        addresses: addresses.iter().map(|text| text.parse().unwrap()).collect(),
    };
    Fact::Host(Host { links: links.iter().map(link).collect(), ..Host::default() })
}

fn node(name: &str, address: &str, block: &str) -> Fact {
    node_with(name, address, Some(24), block)
}

fn node_with(name: &str, address: &str, prefix: Option<u8>, block: &str) -> Fact {
    let mut node = Node::named(NodeName::new(name).unwrap());
    node.addresses.push(NodeAddress { ip: address.parse().unwrap(), prefix });
    node.pod_cidrs.push(NodeCidr { network: NetworkName::ordinary(), cidr: block.parse().unwrap() });
    Fact::Node(node)
}

fn service(name: &str, cluster: &[&str], external: &[&str]) -> Fact {
    let mut service = Service::named(ObjectKey::new("shop", name).unwrap());
    service.cluster_ips = cluster.iter().map(|text| text.parse().unwrap()).collect();
    service.external_ips = external.iter().map(|text| text.parse().unwrap()).collect();
    service.ports = vec![ServicePort {
        name: "ssh".into(),
        protocol: Protocol::Tcp,
        port: Port::new(22).unwrap(),
        target: TargetPort::Number(Port::new(22).unwrap()),
        node_port: None,
    }];
    Fact::Service(service)
}

const SERVED: &str = "cluster_ip4 ADDRESS; service4 ADDRESS . tcp . 22";

fn served(address: &str) -> String {
    SERVED.replace("ADDRESS", address)
}

/// Nobody is locked out of a machine by a slip in a manifest.
#[test]
fn a_cluster_address_is_no_nodes_and_no_pods() {
    let check = |address: &str, why: &str| {
        let mut bench = Bench::new(&["10.96.0.0/16"]);
        bench.set(service("web", &[address], &[]));
        assert_eq!(
            bench.at(address),
            if why.is_empty() { served(address) } else { String::new() },
            "{address}"
        );
        let mend = "it doesn't lead to the service; give the service an address of services' blocks (serviceCIDRs of a Network)";
        let text = format!("service shop/web: spec.clusterIP: {address} {why}: {mend}");
        assert_eq!(bench.warnings(), if why.is_empty() { String::new() } else { text });
    };
    check("10.96.0.7", "");
    // Its own, one that it doesn't publish, and a peer's.
    check("192.0.2.1", "is an address of node n1, whose own servers are asked there");
    check("198.51.100.7", "is an address of node n1, whose own servers are asked there");
    check("192.0.2.2", "is an address of node n2, whose own servers are asked there");
    check("10.244.1.5", "lies in 10.244.1.0/24, node n1's block of pods");
    check("10.244.2.5", "lies in 10.244.2.0/24, node n2's block of pods");
    check("10.244.9.5", "lies in 10.244.0.0/16, pods' block of network default");
}

#[test]
fn an_address_beside_all_blocks_is_served_and_named() {
    let mut bench = Bench::new(&[]);
    bench.set(service("web", &["10.96.0.7", "203.0.113.9"], &[]));
    assert_eq!(bench.at("203.0.113.9"), served("203.0.113.9"));
    assert_eq!(bench.warnings(), "", "nobody has said which blocks are services'");
    bench.set(network(&["10.96.0.0/16"]));
    assert_eq!(bench.at("203.0.113.9"), served("203.0.113.9"));
    insta::assert_snapshot!(bench.warnings(), @"service shop/web: spec.clusterIPs[1]: 203.0.113.9 lies in no block of services: it leads to the service, and counts as an address outside the cluster; give the service an address of services' blocks (serviceCIDRs of a Network), or add a block to these");
    let name = ObjectName::new("more").unwrap();
    let more = Fact::ServiceCidr(ServiceCidr { name, cidrs: vec!["203.0.113.0/24".parse().unwrap()] });
    bench.set(more.clone());
    assert_eq!(bench.warnings(), "");
    bench.set(network(&[]));
    assert!(bench.warnings().contains("spec.clusterIP: 10.96.0.7 lies in no block"), "{}", bench.warnings());
    bench.remove(more.key());
    assert_eq!(bench.warnings(), "");
}

/// Nobody fills one in, as an API server does for what people give to kubectl.
#[test]
fn a_service_without_a_cluster_address_is_named() {
    let mut bench = Bench::new(&["10.96.0.0/16"]);
    bench.set(service("web", &[], &["203.0.113.9"]));
    insta::assert_snapshot!(bench.warnings(), @"service shop/web: spec.clusterIP: there is none, and nobody here gives one out: the service's name has no address; write an address of services' blocks (serviceCIDRs of a Network), or None for a service that leads to its endpoints by name");
    let Fact::Service(mut headless) = service("web", &[], &[]) else { unreachable!() };
    headless.headless = true;
    bench.set(Fact::Service(headless));
    assert_eq!(bench.warnings(), "");
    bench.set(service("web", &["10.96.0.7"], &["203.0.113.9"]));
    assert_eq!(bench.warnings(), "");
}

/// Whoever comes later, service or node.
#[test]
fn what_a_node_gets_is_taken_from_the_service_and_comes_back() {
    let mut bench = Bench::new(&[]);
    bench.set(service("web", &["203.0.113.9"], &[]));
    bench.set(service("outside", &[], &["203.0.113.9"]));
    assert_eq!(bench.at("203.0.113.9"), served("203.0.113.9"));
    assert!(
        bench
            .warnings()
            .contains("service shop/outside: 203.0.113.9 port 22/tcp is given to service shop/web")
    );
    let gives: [fn(&str) -> Fact; 3] = [
        |address| node("n2", address, "10.244.2.0/24"),
        |address| node("n2", "192.0.2.2", &format!("{address}/32")),
        |address| host(&[("eth0", &["192.0.2.1/24", &format!("{address}/28")])]),
    ];
    for give in gives {
        bench.set(give("203.0.113.9"));
        // External addresses are anybody's.
        assert_eq!(bench.at("203.0.113.9"), "service4 203.0.113.9 . tcp . 22");
        let warnings = bench.warnings();
        assert!(warnings.contains("service shop/web: spec.clusterIP: 203.0.113.9 "), "{warnings}");
        assert!(!warnings.contains("is given to service"), "{warnings}");
        bench.set(give("192.0.2.9"));
        assert_eq!(bench.at("203.0.113.9"), served("203.0.113.9"));
    }
}

/// A slip in one node's configuration takes no service from the cluster.
#[test]
fn a_node_that_names_an_address_of_services_by_itself_takes_it_from_nobody() {
    let mut bench = Bench::new(&["10.96.0.0/16"]);
    bench.set(service("dns", &["10.96.0.10"], &[]));
    for (name, block) in [("n1", "10.244.1.0/24"), ("n2", "10.244.2.0/24")] {
        let mut check = |prefix: Option<u8>, is_served: bool| {
            bench.set(node_with(name, "10.96.0.10", prefix, block));
            let expected = if is_served { served("10.96.0.10") } else { String::new() };
            assert_eq!(bench.at("10.96.0.10"), expected, "{name} {prefix:?}");
            let why = match is_served {
                true => format!(
                    "is given as an address of node {name}, too: in a block of services it counts as the service's, and the node isn't \
                     reached there; correct the node's addresses"
                ),
                false => {
                    format!("is an address of node {name}, whose own servers are asked there: it doesn't")
                }
            };
            let warnings = bench.warnings();
            let text = format!("service shop/dns: spec.clusterIP: 10.96.0.10 {why}");
            assert!(warnings.contains(&text), "{warnings}");
        };
        // It is on no link, on one by itself, and on one with its network.
        check(None, true);
        check(Some(32), true);
        check(Some(24), false);
        check(None, true);
        bench.set(node(name, if name == "n1" { "192.0.2.1" } else { "192.0.2.2" }, block));
        assert_eq!(bench.warnings(), "");
    }
    bench.set(node_with("n2", "10.96.0.10", None, "10.244.2.0/24"));
    for (blocks, is_served) in [(&[][..], false), (&["10.96.0.0/16"], true), (&["10.97.0.0/16"], false)] {
        bench.set(network(blocks));
        assert_eq!(bench.at("10.96.0.10") == served("10.96.0.10"), is_served, "{blocks:?}");
    }
}

/// By a kubelet or a cloud, who know the machine: it may have no agent, or a link without a network.
#[test]
fn an_address_that_a_node_is_registered_with_is_the_nodes() {
    let mut bench = Bench::new(&["10.96.0.0/12"]);
    bench.set(service("web", &["10.100.0.21"], &[]));
    let nodes = [("n1", "192.0.2.1", "10.244.1.0/24"), ("n2", "192.0.2.2", "10.244.2.0/24")];
    for (name, usual, block) in nodes {
        for prefix in [None, Some(32)] {
            let Fact::Node(slip) = node_with(name, "10.100.0.21", prefix, block) else { unreachable!() };
            let registered =
                |text: &str| Fact::Node(Node { registered: vec![text.parse().unwrap()], ..slip.clone() });
            bench.set(registered("10.100.0.21"));
            assert_eq!(bench.at("10.100.0.21"), "", "{name} {prefix:?}");
            let text = format!("is an address of node {name}, whose own servers are asked there");
            assert!(bench.warnings().contains(&text), "{}", bench.warnings());
            // That it is registered at all says nothing of another address.
            bench.set(registered(usual));
            assert_eq!(bench.at("10.100.0.21"), served("10.100.0.21"), "{name} {prefix:?}");
        }
        bench.set(node(name, usual, block));
    }
}

/// Other proxies keep services' addresses on links of this machine.
#[test]
fn an_address_that_a_proxy_keeps_on_a_link_is_the_services() {
    let check = |blocks: &[&str], link: &str, net: &str, is_served: bool| {
        let mut bench = Bench::new(blocks);
        bench.set(service("web", &["10.96.0.7"], &[]));
        bench.set(host(&[("eth0", &["192.0.2.1/24"]), (link, &[net])]));
        assert_eq!(bench.at("10.96.0.7") == served("10.96.0.7"), is_served, "{blocks:?} {link} {net}");
    };
    check(&["10.96.0.0/16"], "kube-ipvs0", "10.96.0.7/32", true);
    check(&["10.96.0.0/16"], "vips", "10.96.0.7/32", true);
    check(&[], "kube-ipvs0", "10.96.0.7/32", true);
    check(&[], "nodelocaldns", "10.96.0.7/32", true);
    check(&[], "wg0", "10.96.0.7/32", false);
    check(&["10.96.0.0/16"], "eth1", "10.96.0.7/24", false);
}

/// A block of services inside one of pods is services', and the other way round.
#[test]
fn the_smaller_block_says_whose_an_address_is() {
    let check = |service_cidrs: &[&str], address: &str, is_served: bool| {
        let mut bench = Bench::new(service_cidrs);
        bench.set(service("web", &[address], &[]));
        assert_eq!(bench.at(address) == served(address), is_served, "{service_cidrs:?} {address}");
    };
    check(&["10.244.96.0/20"], "10.244.96.7", true);
    check(&["10.244.1.128/25"], "10.244.1.200", true);
    check(&["10.244.1.128/25"], "10.244.1.7", false);
    check(&["10.244.0.0/15"], "10.244.1.7", false);
    check(&["10.244.0.0/15"], "10.244.9.7", true);
    // Where nobody says which blocks are services', pods' are those that nodes have.
    check(&[], "10.244.9.7", true);
    check(&[], "10.244.1.7", false);
}
