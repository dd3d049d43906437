//! Who gets which address, and what is computed again when something changes.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use ipnet::IpNet;
use weft_model::net::fnv1a;
use weft_model::{
    Change, Cidr, Fact, FactKey, Family, Host, HostLink, IfName, IngressMode, Labels, LoadBalancerAddress,
    Network, NetworkName, Node, NodeAddress, NodeCidr, NodeName, ObjectKey, Port, Protocol, Service,
    ServiceKind, ServicePort, TargetPort, TrafficDistribution, TrafficPolicy,
};
use weft_plan::{Atom, KernelKey, Plan};

use super::ServicesRule;
use crate::engine::{Compiler, Context, Output, Rule, RuleKey};
use crate::facts::Transition;
use crate::settings::Settings;

fn service(name: &str, change: impl FnOnce(&mut Service)) -> Fact {
    let (namespace, name) = name.split_once('/').unwrap();
    let mut service = Service::named(ObjectKey::new(namespace, name).unwrap());
    service.ports = vec![ServicePort {
        name: "http".into(),
        protocol: Protocol::Tcp,
        port: Port::new(80).unwrap(),
        target: TargetPort::Number(Port::new(8080).unwrap()),
        node_port: None,
    }];
    change(&mut service);
    Fact::Service(service)
}

fn node(name: &str, zone: &str) -> Fact {
    let mut node = Node::named(NodeName::new(name).unwrap());
    node.labels = [("topology.kubernetes.io/zone", zone)].into_iter().collect::<Labels>();
    Fact::Node(node)
}

fn host(addresses: &[&str], mtu: u32) -> Fact {
    let addresses = addresses.iter().map(|text| text.parse::<IpNet>().unwrap()).collect();
    let link = HostLink { name: IfName::new("eth0").unwrap(), router_advertisements: false, mtu, addresses };
    Fact::Host(Host { links: vec![link], ..Host::default() })
}

fn settings() -> Settings {
    Settings::new(NodeName::new("n1").unwrap())
}

/// A compiler with a block of services, and its plan.
pub(super) struct Bench(Compiler, pub(super) Plan);

impl Bench {
    pub(super) fn new() -> Self {
        let mut bench = Self(Compiler::new(settings()), Plan::default());
        let block: Cidr = "10.96.0.0/16".parse().unwrap();
        bench.set(Fact::Network(Network { service_cidrs: vec![block], ..Network::ordinary() }));
        bench.set(host(&["192.0.2.1/24", "2001:db8::1/64"], 1500));
        bench
    }

    /// Takes a fact; a service without a cluster address gets one, as an API server would give it.
    pub(super) fn set(&mut self, mut fact: Fact) {
        if let Fact::Service(service) = &mut fact
            && service.cluster_ips.is_empty()
        {
            let [.., third, fourth] = fnv1a(service.key.to_string().as_bytes()).to_be_bytes();
            service.cluster_ips.push([10, 96, third, fourth].into());
        }
        self.0.apply(Change::set(fact));
        self.0.flush(&mut self.1);
    }

    fn remove(&mut self, key: FactKey) {
        self.0.apply(Change::Remove(key));
        self.0.flush(&mut self.1);
    }

    /// Elements with this address, up to the data: set and key.
    fn at(&self, address: &str) -> Vec<String> {
        let text = self.1.to_string();
        let lines = text.lines().filter_map(|line| line.strip_prefix("element "));
        let with = lines.filter(|line| line.contains(&format!("{{ {address} . ")));
        with.map(|line| line.split(" :").next().unwrap().replace(" {", "").to_owned()).collect()
    }

    pub(super) fn warnings(&self) -> String {
        let warnings = self.1.warnings.iter().map(|warning| format!("{}: {}", warning.object, warning.text));
        warnings.collect::<Vec<_>>().join("\n")
    }
}

#[test]
fn an_external_address_is_one_services_with_all_that_it_says() {
    let mut bench = Bench::new();
    let outside = |service: &mut Service| service.external_ips = vec!["198.51.100.7".parse().unwrap()];
    let second = service("shop/b", |service| {
        outside(service);
        service.external_policy = TrafficPolicy::Local;
        service.affinity_seconds = Some(60);
    });
    bench.set(second.clone());
    let seconds = ["service4_keep_60 198.51.100.7 . tcp . 80"];
    assert_eq!(bench.at("198.51.100.7"), seconds);
    assert_eq!(bench.warnings(), "");
    // By name, whoever came first; not a row of the other's in maps that only it uses.
    bench.set(service("shop/a", outside));
    assert_eq!(bench.at("198.51.100.7"), ["service4 198.51.100.7 . tcp . 80"]);
    insta::assert_snapshot!(bench.warnings(), @"service shop/b: 198.51.100.7 port 80/tcp is given to service shop/a already; it is left out until that goes");
    bench.remove(FactKey::Service(ObjectKey::new("shop", "a").unwrap()));
    assert_eq!(bench.at("198.51.100.7"), seconds);
    // Somebody else's proxy serves it: that is no claim.
    bench.set(service("shop/a", |service| {
        outside(service);
        service.labels = [("service.kubernetes.io/service-proxy-name", "other")].into_iter().collect();
    }));
    assert_eq!(bench.at("198.51.100.7"), seconds);
}

#[test]
fn nobody_takes_an_address_of_the_services_block() {
    let mut bench = Bench::new();
    bench.set(service("default/kubernetes", |service| {
        service.cluster_ips = vec!["10.96.0.1".parse().unwrap()];
        service.affinity_seconds = Some(60);
    }));
    bench.set(service("aaa/thief", |service| {
        service.external_ips = vec!["10.96.0.1".parse().unwrap(), "10.96.0.2".parse().unwrap()];
    }));
    assert_eq!(bench.at("10.96.0.1"), ["service4_keep_60 10.96.0.1 . tcp . 80"]);
    assert_eq!(bench.at("10.96.0.2"), [""; 0]);
    insta::assert_snapshot!(bench.warnings(), @r"
    service aaa/thief: its address 10.96.0.1 is in 10.96.0.0/16, a block of services' own addresses: nobody is led there
    service aaa/thief: its address 10.96.0.2 is in 10.96.0.0/16, a block of services' own addresses: nobody is led there
    ");
    // A block that comes later counts as well, and one that goes.
    bench.set(service("aaa/early", |service| {
        service.external_ips = vec!["198.51.100.7".parse().unwrap()];
    }));
    assert_eq!(bench.at("198.51.100.7").len(), 1);
    let blocks = vec!["10.96.0.0/16".parse().unwrap(), "198.51.100.0/24".parse().unwrap()];
    bench.set(Fact::Network(Network { service_cidrs: blocks, ..Network::ordinary() }));
    assert_eq!(bench.at("198.51.100.7").len(), 0);
    bench.remove(Fact::Network(Network::ordinary()).key());
    assert_eq!(bench.at("198.51.100.7").len(), 1);
}

/// A slip of the pen must not cut a node off from whoever could tell it better.
#[test]
fn a_block_of_services_that_holds_the_nodes_own_address_is_not_closed() {
    let check = |block: &str, is_closed: bool| {
        let mut bench = Bench::new();
        let blocks = vec![block.parse().unwrap()];
        bench.set(Fact::Network(Network { service_cidrs: blocks, ..Network::ordinary() }));
        let plan = bench.1.to_string();
        assert_eq!(plan.contains("element service_range4 {"), is_closed, "{block}: {plan}");
        assert_eq!(plan.contains(&format!("{block} dev lo")), is_closed, "{block}: {plan}");
        let expected = if is_closed {
            String::new()
        } else {
            format!(
                "node n1: its own address 192.0.2.1 lies in {block}, a block of services: here it is treated as none, and packets to \
                 addresses that no service has leave this node untranslated; give services another block"
            )
        };
        assert_eq!(bench.warnings(), expected);
    };
    check("10.96.0.0/16", true);
    check("192.0.2.0/24", false);
    check("0.0.0.0/0", false);
}

/// What peers send into the tunnel, and what load balancers ask of the node itself, is no service's.
#[test]
fn the_nodes_own_ports_are_no_services() {
    let port = |number| Port::new(number).unwrap();
    let own = Settings { open_ports: vec![(Protocol::Tcp, port(10_256))], ..settings() };
    let mut bench = Bench(Compiler::new(own), Plan::default());
    bench.set(host(&["192.0.2.1/24"], 1500));
    let asking = |name: &str, protocol, number| {
        service(name, |service| {
            service.external_ips = vec!["192.0.2.1".parse().unwrap(), "198.51.100.7".parse().unwrap()];
            service.ports[0].protocol = protocol;
            service.ports[0].port = port(number);
            service.ports[0].node_port = Some(port(number));
        })
    };
    bench.set(asking("aaa/health", Protocol::Tcp, 10_256));
    bench.set(asking("aaa/tunnel", Protocol::Udp, 4789));
    assert_eq!(bench.at("192.0.2.1"), [""; 0]);
    assert_eq!(bench.at("198.51.100.7").len(), 2);
    insta::assert_snapshot!(bench.warnings(), @r"
    service aaa/health: its address 192.0.2.1 is this node's own, where the node's own agent is asked at port 10256/tcp: it is left out there
    service aaa/health: its node port 10256/tcp is where the node's own agent is asked: it is left out; give the service another
    service aaa/tunnel: its address 192.0.2.1 is this node's own, where the tunnel of network default is asked at port 4789/udp: it is left out there
    service aaa/tunnel: its node port 4789/udp is where the tunnel of network default is asked: it is left out; give the service another
    ");
    // The tunnel moves.
    bench.set(Fact::Network(Network { vxlan_port: port(8472), ..Network::ordinary() }));
    assert_eq!(bench.at("192.0.2.1"), ["service4 192.0.2.1 . udp . 4789"]);
    bench.remove(asking("aaa/tunnel", Protocol::Udp, 4789).key());
    bench.set(asking("aaa/late", Protocol::Udp, 8472));
    assert_eq!(bench.at("192.0.2.1"), [""; 0]);
}

/// A node port is given by the API server; an external address is what somebody wrote.
#[test]
fn a_node_port_comes_before_an_external_address_of_the_nodes_own() {
    let mut bench = Bench::new();
    let thief = |affinity: Option<u32>| {
        service("aaa/thief", move |service| {
            service.external_ips = vec!["192.0.2.1".parse().unwrap()];
            service.ports[0].port = Port::new(30_080).unwrap();
            service.affinity_seconds = affinity;
        })
    };
    let web = service("shop/web", |service| {
        service.ports[0].node_port = Port::new(30_080).ok();
        service.affinity_seconds = Some(60);
    });
    bench.set(thief(None));
    assert_eq!(bench.at("192.0.2.1"), ["service4 192.0.2.1 . tcp . 30080"]);
    for affinity in [None, Some(60), Some(10)] {
        bench.set(thief(affinity));
        bench.set(web.clone());
        assert_eq!(bench.at("192.0.2.1"), ["service4_keep_60 192.0.2.1 . tcp . 30080"]);
        insta::allow_duplicates! {
            insta::assert_snapshot!(bench.warnings(), @"service aaa/thief: its address 192.0.2.1 is this node's own, where port 30080/tcp is the node port of service shop/web: it is left out there");
        }
        bench.remove(web.key());
        assert_eq!(bench.at("192.0.2.1").len(), 1, "it is free again");
    }
    // The address goes to another machine, and comes back.
    bench.set(web.clone());
    bench.set(host(&["2001:db8::1/64"], 1500));
    assert_eq!(bench.at("192.0.2.1"), ["service4_keep_10 192.0.2.1 . tcp . 30080"]);
    bench.set(host(&["192.0.2.1/24"], 1500));
    assert_eq!(bench.at("192.0.2.1"), ["service4_keep_60 192.0.2.1 . tcp . 30080"]);
}

/// A manifest takes nobody's way to the machine, sshd's above all.
#[test]
fn node_ports_lie_in_their_range() {
    let mut settings = settings();
    settings.services.as_mut().unwrap().node_ports = "30000-32767".parse().ok();
    let mut bench = Bench::new();
    bench.0 = Compiler::new(settings);
    bench.set(host(&["192.0.2.1/24"], 1500));
    let mut check = |number: u32, expected: &str| {
        bench.set(service("shop/web", |service| service.ports[0].node_port = Port::new(number).ok()));
        bench.set(service("shop/second", |service| {
            service.kind = ServiceKind::LoadBalancer;
            service.external_policy = TrafficPolicy::Local;
            service.health_check_node_port = Port::new(number + 1).ok();
        }));
        let answers = bench.1.to_string().contains(&format!("health {} of", number + 1));
        assert_eq!(answers, expected.is_empty());
        assert_eq!(bench.at("192.0.2.1").len(), usize::from(expected.is_empty()));
        assert_eq!(bench.warnings(), expected);
    };
    check(30_000, "");
    check(32_766, "");
    let why = "lies outside of 30000-32767, the ports of the node that services may have: it is left out; write one of these, or \
               widen services.nodePortRange in the agents' configuration";
    check(
        22,
        &format!(
            "service shop/second: spec.healthCheckNodePort: 23 {why}\nservice shop/web: spec.ports[0].nodePort: 22 {why}"
        ),
    );
    // What nobody has as a node port is anybody's as an external one; kube-proxy leads it too.
    let outside = |number| {
        service("shop/ssh", |service| {
            service.external_ips = vec!["192.0.2.1".parse().unwrap()];
            service.ports[0].port = Port::new(number).unwrap();
        })
    };
    bench.set(outside(22));
    assert_eq!(bench.at("192.0.2.1"), ["service4 192.0.2.1 . tcp . 22"]);
    let told = bench.warnings();
    insta::assert_snapshot!(told.lines().find(|line| line.contains("shop/ssh")).unwrap(), @"service shop/ssh: its address 192.0.2.1 is this node's own: a server of the node's at port 22/tcp there is reached by nobody now, the service is; give the service another address or port if that is not meant");
    for usual in [443, 8080] {
        bench.set(outside(usual));
        assert!(!bench.warnings().contains("shop/ssh"));
    }
}

/// A folder of manifests gives one address to two, and none of their rows stays for the other's packets.
#[test]
fn a_cluster_address_is_one_services() {
    let mut bench = Bench::new();
    let at = |name: &str, affinity: Option<u32>| {
        service(name, move |service| {
            service.cluster_ips = vec!["10.96.0.7".parse().unwrap()];
            service.affinity_seconds = affinity;
        })
    };
    bench.set(at("shop/b", None));
    bench.set(at("shop/a", Some(60)));
    assert_eq!(bench.at("10.96.0.7"), ["service4_keep_60 10.96.0.7 . tcp . 80"]);
    insta::assert_snapshot!(bench.warnings(), @"service shop/b: 10.96.0.7 port 80/tcp is given to service shop/a already; it is left out until that goes");
    bench.remove(at("shop/a", None).key());
    assert_eq!(bench.at("10.96.0.7"), ["service4 10.96.0.7 . tcp . 80"]);
    // Also where no block says that it is a cluster address.
    bench.remove(Fact::Network(Network::ordinary()).key());
    bench.set(service("aaa/thief", |service| service.external_ips = vec!["10.96.0.7".parse().unwrap()]));
    assert_eq!(bench.at("10.96.0.7"), ["service4 10.96.0.7 . tcp . 80"]);
    assert!(bench.warnings().contains("service aaa/thief: 10.96.0.7 port 80/tcp is given to service shop/b"));
}

/// A balancer's service with source ranges.
fn restricted(name: &str, last: u8, ranges: &[&str]) -> Fact {
    service(name, |service| {
        let ip = [198, 51, 100, last].into();
        service.load_balancer = vec![LoadBalancerAddress { ip, mode: IngressMode::Vip }];
        service.source_ranges = ranges.iter().map(|block| block.parse().unwrap()).collect();
    })
}

#[test]
fn services_with_the_same_ranges_share_a_list() {
    let mut bench = Bench::new();
    let rows = |bench: &Bench, start: &str| -> Vec<String> {
        let text = bench.1.to_string();
        text.lines().filter(|line| line.starts_with(start)).map(str::to_owned).collect()
    };
    let few = ["203.0.113.0/24", "192.0.2.7/32"];
    bench.set(restricted("shop/b", 7, &few));
    bench.set(restricted("shop/a", 8, &["192.0.2.7/32", "203.0.113.0/24", "192.0.2.7/32"]));
    insta::assert_snapshot!(rows(&bench, "element source").join("\n"), @r"
    element source4_24 { 0x7e853423 . 203.0.113.0 }
    element source4_32 { 0x7e853423 . 192.0.2.7 }
    ");
    let lists = |bench: &Bench| -> BTreeSet<String> {
        let data = |row: &String| row.rsplit_once(" : ").map(|(_, data)| data.to_owned());
        rows(bench, "element service4 { 198").iter().filter_map(data).collect()
    };
    assert_eq!(lists(&bench).len(), 1);
    assert_eq!(rows(&bench, "element restricted4").len(), 2);
    // Other ranges, other length: a list of its own.
    bench.set(restricted("shop/c", 9, &["203.0.112.0/22"]));
    assert_eq!((lists(&bench).len(), rows(&bench, "element source4_22").len()), (2, 1));
    // The list stays for as long as one has it.
    bench.remove(restricted("shop/a", 8, &[]).key());
    assert_eq!(rows(&bench, "element source4_24").len(), 1);
    bench.set(restricted("shop/b", 7, &[]));
    assert_eq!((rows(&bench, "element source4_24").len(), rows(&bench, "set source4_24").len()), (0, 0));
    assert_eq!(rows(&bench, "element restricted4").len(), 1);
    // Everybody may.
    bench.set(restricted("shop/c", 9, &["203.0.112.0/22", "0.0.0.0/0"]));
    assert_eq!(rows(&bench, "element restricted4").len(), 0);
    assert_eq!(bench.1.check(), Vec::<String>::new());
}

#[test]
fn node_ports_are_at_the_addresses_that_are_configured() {
    let check = |blocks: &[&str], expected: &[&str]| {
        let mut settings = settings();
        settings.services.as_mut().unwrap().node_port_addresses =
            blocks.iter().map(|block| block.parse().unwrap()).collect();
        let web = service("shop/web", |service| {
            service.families = Family::ALL.to_vec();
            service.ports[0].node_port = Port::new(30_080).ok();
        });
        let host = host(&["192.0.2.1/24", "198.51.100.1/24", "2001:db8::1/64"], 1500);
        let plan = crate::compile(settings, [web, host]).to_string();
        assert_eq!(plan.matches(". tcp . 30080 : ").count(), expected.len(), "{plan}");
        let at = |address: &&str| plan.contains(&format!("{{ {address} . tcp . 30080 : "));
        assert!(expected.iter().all(at), "{plan}");
    };
    check(&[], &["192.0.2.1", "198.51.100.1", "2001:db8::1"]);
    check(&["192.0.2.0/24"], &["192.0.2.1"]);
    check(&["192.0.2.1/32", "2001:db8::/32"], &["192.0.2.1", "2001:db8::1"]);
    check(&["203.0.113.0/24"], &[]);
}

/// Labels and our own name say who serves a service.
#[test]
fn every_proxy_has_its_own_services() {
    let label = "service.kubernetes.io/service-proxy-name";
    let check = |own: Option<&str>, labels: &[(&str, &str)], is_served: bool| {
        let mut settings = settings();
        settings.services.as_mut().unwrap().proxy_name = own.map(Into::into);
        let web = service("shop/web", |service| {
            service.external_ips = vec!["198.51.100.7".parse().unwrap()];
            service.labels = labels.iter().copied().collect();
        });
        let plan = crate::compile(settings, [web]).to_string();
        assert_eq!(plan.contains("element service4 { 198.51.100.7"), is_served, "{own:?} {labels:?}");
    };
    check(None, &[], true);
    check(None, &[(label, "other")], false);
    check(None, &[(label, "")], false);
    check(Some("weft"), &[], false);
    check(Some("weft"), &[(label, "weft")], true);
    check(Some("weft"), &[(label, "other")], false);
    check(None, &[("service.kubernetes.io/headless", "")], false);
    check(Some("weft"), &[(label, "weft"), ("service.kubernetes.io/headless", "")], false);
}

#[test]
fn whoever_lies_in_a_block_of_services_is_named() {
    let mut bench = Bench::new();
    assert_eq!(bench.warnings(), "");
    // An address of its own is no network: other proxies keep services' there.
    bench.set(host(&["10.0.0.1/8", "10.96.7.1/24", "10.96.0.1/32"], 1500));
    insta::assert_snapshot!(bench.warnings(), @"node n1: the network 10.96.7.0/24 of its link eth0 lies in 10.96.0.0/16, a block of services: new connections of pods and others to machines there through this node are dropped; give services another block");
    bench.set(host(&["192.0.2.1/24"], 1500));
    assert_eq!(bench.warnings(), "");
}

/// Neither this node nor a peer is cut off by what somebody wrote of services.
#[test]
fn nodes_and_their_pods_are_reached_in_a_block_of_services() {
    let mut bench = Bench::new();
    let mut lives = |name: &str, address: Option<&str>, block: Option<&str>| {
        let mut node = Node::named(NodeName::new(name).unwrap());
        node.addresses.extend(address.map(|ip| NodeAddress { ip: ip.parse().unwrap(), prefix: Some(24) }));
        let network = NetworkName::ordinary();
        node.pod_cidrs.extend(block.map(|cidr| NodeCidr { network, cidr: cidr.parse().unwrap() }));
        bench.set(Fact::Node(node));
        let text = bench.1.to_string();
        let block = |word: &str| word.parse().or_else(|_| word.parse().map(Cidr::host)).ok();
        let holds = |lines: &str, address: &str| {
            let lines = text.lines().filter(|line| line.contains(lines));
            let mut blocks = lines.filter_map(|line| line.split(' ').find_map(block));
            blocks.any(|block: Cidr| block.contains(address.parse().unwrap()))
        };
        let closed = |address: &str| {
            let is_closed = holds("element service_range4 {", address);
            assert_eq!(holds(" dev lo ", address), is_closed, "{text}");
            is_closed
        };
        let all = ["10.96.0.1", "10.96.7.1", "10.96.7.2", "10.96.7.3", "10.96.8.9", "10.96.9.1"];
        let open: Vec<&str> = all.into_iter().filter(|address| !closed(address)).collect();
        format!("{}\n{}", open.join(" "), bench.warnings()).trim().to_owned()
    };
    assert_eq!(lives("n1", Some("192.0.2.1"), Some("10.244.1.0/24")), "");
    assert_eq!(lives("n2", Some("192.0.2.2"), Some("10.244.2.0/24")), "");
    insta::assert_snapshot!(lives("n2", Some("10.96.7.2"), Some("10.244.2.0/24")), @r"
    10.96.7.2
    node n2: its address 10.96.7.2 lies in 10.96.0.0/16, a block of services: it stays reached, and packets there to addresses that no service has are not dropped; give one of them another block
    ");
    insta::assert_snapshot!(lives("n1", Some("192.0.2.1"), Some("10.96.8.0/24")), @r"
    10.96.7.2 10.96.8.9
    node n1: its block 10.96.8.0/24 lies in 10.96.0.0/16, a block of services: it stays reached, and packets there to addresses that no service has are not dropped; give one of them another block
    node n2: its address 10.96.7.2 lies in 10.96.0.0/16, a block of services: it stays reached, and packets there to addresses that no service has are not dropped; give one of them another block
    ");
    assert_eq!(lives("n2", None, None).lines().count(), 2);
    assert_eq!(lives("n1", Some("192.0.2.1"), Some("10.244.1.0/24")), "");
}

#[test]
fn an_address_that_is_a_balancers_too_is_for_its_sources_only() {
    let mut bench = Bench::new();
    bench.set(service("shop/web", |service| {
        let ip = "198.51.100.7".parse().unwrap();
        service.external_ips = vec![ip];
        service.load_balancer = vec![LoadBalancerAddress { ip, mode: IngressMode::Vip }];
        service.source_ranges = vec!["203.0.113.0/24".parse().unwrap()];
    }));
    assert_eq!(
        bench.at("198.51.100.7"),
        ["restricted4 198.51.100.7 . tcp . 80", "service4 198.51.100.7 . tcp . 80"]
    );
}

#[test]
fn a_service_is_not_at_addresses_of_another_family() {
    let mut bench = Bench::new();
    let web = |families: &[Family]| {
        service("shop/web", |service| {
            service.families = families.to_vec();
            service.external_ips = vec!["2001:db8:7::7".parse().unwrap()];
            service.ports[0].node_port = Port::new(30_080).ok();
        })
    };
    bench.set(web(&[Family::V4]));
    assert_eq!(bench.at("192.0.2.1"), ["service4 192.0.2.1 . tcp . 30080"]);
    assert_eq!([bench.at("2001:db8::1"), bench.at("2001:db8:7::7")].concat(), [""; 0]);
    bench.set(web(&Family::ALL));
    assert_eq!(bench.at("2001:db8::1"), ["service6 2001:db8::1 . tcp . 30080"]);
    assert_eq!(bench.at("2001:db8:7::7").len(), 1);
}

/// Counts the pieces that are computed.
struct Counted(Arc<AtomicUsize>);

impl Rule for Counted {
    fn affected(&mut self, transition: &Transition, context: &Context<'_>, dirty: &mut dyn FnMut(RuleKey)) {
        ServicesRule.affected(transition, context, dirty);
    }

    fn rows(&self, key: &RuleKey, context: &Context<'_>, out: &mut Output) {
        self.0.fetch_add(1, Ordering::Relaxed);
        ServicesRule.rows(key, context, out);
    }
}

#[test]
fn what_is_computed_again_follows_the_change() {
    const SERVICES: usize = 50;
    let count = Arc::new(AtomicUsize::new(0));
    let mut compiler = Compiler::with_rules(settings(), vec![Box::new(Counted(Arc::clone(&count)))]);
    let mut plan = Plan::default();
    let mut cost = |fact: Fact| {
        compiler.apply(Change::set(fact));
        count.store(0, Ordering::Relaxed);
        compiler.flush(&mut plan);
        count.load(Ordering::Relaxed)
    };
    cost(host(&["192.0.2.1/24"], 1500));
    cost(node("n1", "a"));
    for number in 0..SERVICES {
        cost(service(&format!("shop/s{number}"), |service| {
            service.distribution = (number == 7).then_some(TrafficDistribution::SameZone);
            service.ports[0].node_port = (number < 3).then(|| Port::new(30_000 + number as u32).unwrap());
        }));
    }
    // A node that comes, or moves, is one service's matter: the one whose endpoints have their zone from it.
    assert_eq!(cost(node("n2", "a")), 1);
    assert_eq!(cost(node("n2", "b")), 1);
    assert_eq!(cost(service("shop/s1", |service| service.external_policy = TrafficPolicy::Local)), 1);
    // The node's own addresses are those of node ports; its MTU is nobody's.
    assert!(cost(host(&["192.0.2.1/24"], 1400)) <= 1);
    assert!(cost(host(&["192.0.2.1/24", "192.0.2.2/24"], 1400)) <= 3);
    // None of them is of IPv6: what there is once asks whether the node is.
    assert!(cost(host(&["192.0.2.1/24", "192.0.2.2/24", "2001:db8::1/64"], 1400)) <= 1);
    // A network is its tunnel's port and its blocks of services, to those who want a place there.
    let network = |change: &dyn Fn(&mut Network)| {
        let mut network = Network::ordinary();
        change(&mut network);
        Fact::Network(network)
    };
    assert_eq!(cost(network(&|_| {})), 1);
    assert_eq!(cost(network(&|network| network.mtu = Some(1400))), 1);
    let udp = |service: &mut Service| {
        service.ports[0].protocol = Protocol::Udp;
        service.ports[0].node_port = Port::new(30_100).ok();
        service.external_ips = vec!["198.51.100.7".parse().unwrap()];
    };
    cost(service("shop/udp", udp));
    assert_eq!(cost(network(&|network| network.vxlan_port = Port::new(30_100).unwrap())), 2);
    assert_eq!(cost(network(&|_| {})), 2);
    let blocks = |block: &str| vec![block.parse().unwrap()];
    assert_eq!(cost(network(&|network| network.service_cidrs = blocks("10.96.0.0/16"))), 1);
    assert_eq!(cost(network(&|network| network.service_cidrs = blocks("198.51.100.0/24"))), 2);
    // Who has ranges, and the list of these, which others share; a length of blocks that is new is everybody's chain.
    let ranged = |number: u8, ranges: &[&str]| restricted(&format!("shop/r{number}"), number, ranges);
    assert_eq!(cost(ranged(1, &["203.0.113.0/24"])), 3);
    (2..20).for_each(|number| assert_eq!(cost(ranged(number, &["203.0.113.0/24"])), 2));
    assert_eq!(cost(ranged(2, &["203.0.112.0/24"])), 3);
    assert_eq!(cost(ranged(3, &["203.0.0.0/16"])), 4);
    assert_eq!(cost(ranged(3, &[])), 3);
    // Its own zone is compared with everybody's hints.
    assert!(cost(node("n1", "b")) >= SERVICES);
}

/// As many node ports as an API server gives out by itself: an address more or less is their rows there, and no others.
#[test]
fn an_address_of_the_node_is_the_rows_at_it() {
    const PORTS: u32 = 2768;
    let mut compiler = Compiler::with_rules(settings(), vec![Box::new(ServicesRule)]);
    let mut plan = Plan::default();
    compiler.apply(Change::set(host(&["192.0.2.1/24"], 1500)));
    compiler.apply(Change::set(node("n1", "a")));
    for number in 0..PORTS {
        compiler.apply(Change::set(service(&format!("shop/s{number}"), |service| {
            service.ports[0].node_port = Some(Port::new(30_000 + number).unwrap());
        })));
    }
    compiler.flush(&mut plan);
    plan.kernel.take_changed();
    for addresses in [&["192.0.2.1/24", "192.0.2.2/24"][..], &["192.0.2.1/24"]] {
        compiler.apply(Change::set(host(addresses, 1500)));
        compiler.flush(&mut plan);
        let changed = plan.kernel.take_changed();
        let second = Atom::V4([192, 0, 2, 2].into());
        let at_it = |key: &KernelKey| match key {
            KernelKey::Element(_, key) => key.iter().next() == Some(second.clone()),
            _ => false,
        };
        assert_eq!(changed.iter().filter(|row| at_it(&row.key)).count(), PORTS as usize);
        assert_eq!(changed.len(), PORTS as usize);
    }
}
