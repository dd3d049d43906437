//! A small cluster's facts in, the whole plan of one node out as text; and the order of facts never matters.

use weft_compile::{Compiler, DnsSettings, Settings, compile};
use weft_model::{
    Attachment, AttachmentId, Change, Endpoint, EndpointPort, EndpointSlice, Fact, Family, Host, HostLink,
    HostPort, IfName, Mac, Network, NetworkName, Node, NodeAddress, NodeCidr, NodeName, ObjectKey, Overlay,
    Port, Protocol, Service, ServicePort, SliceSource, TargetPort, TrafficPolicy, Vni,
};
use weft_plan::Plan;

fn node(name: &str, address: &str, cidrs: &[&str]) -> Fact {
    let (ip, prefix) = address.split_once('/').unwrap();
    let mut node = Node::named(NodeName::new(name).unwrap());
    node.addresses = vec![NodeAddress { ip: ip.parse().unwrap(), prefix: prefix.parse().ok() }];
    node.pod_cidrs = cidrs
        .iter()
        .map(|cidr| NodeCidr { network: NetworkName::ordinary(), cidr: cidr.parse().unwrap() })
        .collect();
    Fact::Node(node)
}

fn host(address: &str) -> Fact {
    let link = HostLink {
        name: IfName::new("eth0").unwrap(),
        mtu: 1500,
        router_advertisements: false,
        addresses: vec![address.parse().unwrap()],
    };
    Fact::Host(Host { links: vec![link], ..Host::default() })
}

fn attachment(container: &str, address: &str, host_port: Option<u32>) -> Fact {
    Fact::Attachment(Attachment {
        id: AttachmentId { container: container.into(), ifname: IfName::new("eth0").unwrap() },
        network: NetworkName::ordinary(),
        pod: None,
        addresses: vec![address.parse().unwrap()],
        mac: Mac::derived(container),
        mtu: None,
        host_ports: host_port
            .map(|port| HostPort {
                host_ip: None,
                host_port: Port::new(port).unwrap(),
                container_port: Port::new(80).unwrap(),
                protocol: Protocol::Tcp,
            })
            .into_iter()
            .collect(),
        netns: format!("/run/netns/{container}"),
    })
}

fn settings() -> Settings {
    let mut settings = Settings::new(NodeName::new("n1").unwrap());
    settings.dns =
        DnsSettings { addresses: vec!["169.254.53.53".parse().unwrap()], ..DnsSettings::default() };
    settings
}

fn cluster() -> Vec<Fact> {
    vec![
        host("192.0.2.1/24"),
        node("n1", "192.0.2.1/24", &["10.244.1.0/24"]),
        node("n2", "192.0.2.2/24", &["10.244.2.0/24"]),
        node("n3", "198.51.100.3/24", &["10.244.3.0/24"]),
        attachment("web", "10.244.1.2", Some(8080)),
        attachment("db", "10.244.1.3", None),
    ]
}

#[test]
fn a_plan_reads_as_a_careful_person_would_have_typed_it() {
    let plan = compile(Settings { services: None, ..settings() }, cluster());
    assert_eq!(plan.check(), Vec::<String>::new());
    insta::assert_snapshot!(plan);
}

/// A service with every kind of address, one endpoint here and one elsewhere.
fn service() -> Vec<Fact> {
    let mut service = Service::named(ObjectKey::new("default", "web").unwrap());
    let number = |port| Port::new(port).unwrap();
    service.cluster_ips = vec!["10.96.0.10".parse().unwrap()];
    service.external_ips = vec!["198.51.100.7".parse().unwrap()];
    service.external_policy = TrafficPolicy::Local;
    service.affinity_seconds = Some(600);
    service.ports = vec![ServicePort {
        name: "http".into(),
        protocol: Protocol::Tcp,
        port: number(80),
        target: TargetPort::Number(number(8080)),
        node_port: Some(number(30080)),
    }];
    let endpoint = |node: &str, address: &str| Endpoint {
        addresses: vec![address.parse().unwrap()],
        ready: true,
        serving: true,
        terminating: false,
        hostname: None,
        node: NodeName::new(node).ok(),
        zone: None,
        hint_zones: Vec::new(),
        hint_nodes: Vec::new(),
        pod: None,
    };
    let slice = EndpointSlice {
        key: ObjectKey::new("default", "web-1").unwrap(),
        service: Some(service.key.name.clone()),
        source: SliceSource::EndpointSlice,
        family: Family::V4,
        ports: [EndpointPort { name: "http".into(), protocol: Protocol::Tcp, port: Some(number(8080)) }]
            .into(),
        endpoints: [endpoint("n1", "10.244.1.2"), endpoint("n2", "10.244.2.2")].into(),
    };
    vec![Fact::Service(service), Fact::EndpointSlice(slice)]
}

/// What a service adds: the difference that it makes.
#[test]
fn a_service_is_elements() {
    let before = compile(settings(), cluster());
    let after = compile(settings(), cluster().into_iter().chain(service()));
    assert_eq!(after.check(), Vec::<String>::new());
    let (before, after) = (before.to_string(), after.to_string());
    let old: std::collections::BTreeSet<&str> = before.lines().collect();
    let new: Vec<&str> = after.lines().filter(|line| !old.contains(line)).collect();
    insta::assert_snapshot!(new.join("\n"));
}

#[test]
fn the_order_of_facts_never_matters() {
    let facts = cluster();
    let expected = compile(settings(), facts.clone());
    for rotation in 0..facts.len() {
        let mut rotated = facts.clone();
        rotated.rotate_left(rotation);
        rotated.reverse();
        assert_eq!(compile(settings(), rotated).to_string(), expected.to_string());
    }
}

#[test]
fn what_is_taken_back_leaves_nothing() {
    let mut compiler = Compiler::new(settings());
    let mut plan = Plan::default();
    compiler.flush(&mut plan);
    let empty = plan.to_string();
    let facts = cluster();
    for fact in &facts {
        assert!(compiler.apply(Change::set(fact.clone())));
        assert!(!compiler.apply(Change::set(fact.clone())), "the same again is no news");
        compiler.flush(&mut plan);
    }
    assert_eq!(plan.to_string(), compile(settings(), facts.clone()).to_string());
    for fact in &facts {
        compiler.apply(Change::Remove(fact.key()));
        compiler.flush(&mut plan);
    }
    assert_eq!(plan.to_string(), empty);
}

#[test]
fn the_overlay_is_chosen_alike_by_both_ends() {
    let facts = [
        host("192.0.2.1/24"),
        node("n1", "192.0.2.1/24", &["10.244.1.0/24"]),
        node("n2", "192.0.2.2/25", &["10.244.2.0/24"]),
    ];
    let plan = compile(settings(), facts).to_string();
    assert!(plan.contains("route 10.244.2.0/24 via 192.0.2.2 dev weftx9338"), "subnets differ: {plan}");
}

#[test]
fn a_block_that_holds_a_nodes_own_address_is_left_out_and_named() {
    // This node's link is 192.0.2.0/24: such a route would be more specific, and cut it off.
    for (block, whose) in
        [("192.0.2.0/25", "192.0.2.1 of node n1"), ("198.51.100.0/24", "198.51.100.9 of node x")]
    {
        let mut facts = cluster();
        facts.push(node("x", "198.51.100.9/24", &[block]));
        let plan = compile(settings(), facts);
        let text = plan.to_string();
        assert!(!text.contains(&format!("route {block}")), "{text}");
        let expected = format!("node x: its block {block} holds the address {whose} itself: give x another");
        assert!(plan.warnings.iter().any(|w| w.to_string() == expected), "{:?}", plan.warnings);
    }
}

#[test]
fn routes_survive_the_loss_of_the_nodes_address() {
    let source_of = |host_facts: Host| {
        let mut facts = cluster();
        facts[0] = Fact::Host(host_facts);
        let text = compile(settings(), facts).to_string();
        let line = text.lines().find(|line| line.starts_with("route 10.244.1.2/32")).unwrap().to_owned();
        line.split_once(" src ").map_or(String::new(), |(_, source)| source.to_owned())
    };
    let Fact::Host(usual) = host("192.0.2.1/24") else { panic!("no host") };
    let Fact::Host(another) = host("203.0.113.7/24") else { panic!("no host") };
    assert_eq!(source_of(usual), "192.0.2.1");
    // The kernel refuses routes by a source that it doesn't have.
    assert_eq!(source_of(another.clone()), "203.0.113.7");
    assert_eq!(source_of(Host::default()), "");
    assert_eq!(source_of(Host { loopback: vec!["192.0.2.1".parse().unwrap()], ..another }), "192.0.2.1");
}

#[test]
fn a_node_with_a_second_tunnel_end_takes_packets_by_it_from_its_peers() {
    let check = |mac: Option<Mac>, expected: bool| {
        let both = |fact: Fact, address: &str, mac: Option<Mac>| {
            let Fact::Node(mut node) = fact else { panic!("no node") };
            node.addresses.push(NodeAddress { ip: address.parse().unwrap(), prefix: Some(64) });
            Fact::Node(Node { vtep6_mac: mac, ..node })
        };
        let facts = vec![
            host("192.0.2.1/24"),
            both(node("n1", "192.0.2.1/24", &["10.244.1.0/24"]), "2001:db8::1", mac),
            both(node("n3", "198.51.100.3/24", &["10.244.3.0/24"]), "2001:db8:3::3", None),
        ];
        let plan = compile(settings(), facts);
        assert_eq!(plan.check(), Vec::<String>::new());
        let text = plan.to_string();
        let has = |words: &[&str]| text.lines().any(|line| words.iter().all(|word| line.contains(word)));
        assert_eq!(has(&["weftx9338v6", "local 2001:db8::1"]), expected, "{text}");
        assert_eq!(has(&["tunnel_peer6", "2001:db8:3::3"]), expected, "{text}");
        assert!(!has(&["fdb", "weftx9338v6"]), "nothing is sent by it: {text}");
    };
    check(None, false);
    check(Some(Mac::derived("second")), true);
}

#[test]
fn a_nodes_own_block_that_holds_its_own_address_is_named() {
    let facts = vec![host("192.0.2.1/24"), node("n1", "192.0.2.1/24", &["192.0.2.0/24"])];
    let warnings = compile(settings(), facts).warnings;
    let named = |w: &weft_model::Warning| {
        w.to_string().starts_with("node n1: its block 192.0.2.0/24 holds its own address 192.0.2.1:")
    };
    assert!(warnings.iter().any(named), "{warnings:?}");
}

#[test]
fn a_peer_that_host_gw_cannot_reach_is_closed_and_named() {
    let mut network = Network::ordinary();
    network.overlay = Overlay::HostGw;
    let mut facts = cluster();
    facts.push(Fact::Network(network));
    let plan = compile(settings(), facts);
    let text = plan.to_string();
    assert!(text.contains("route unreachable 10.244.3.0/24"), "{text}");
    assert!(
        plan.warnings.iter().any(|w| w.to_string().contains("node n3: no way to its pods' block")),
        "{text}"
    );
}

#[test]
fn a_block_outside_its_changed_network_stays_and_is_named() {
    let warned = |podcidrs: &[&str]| {
        let mut network = Network::ordinary();
        network.pod_cidrs = podcidrs.iter().map(|cidr| cidr.parse().unwrap()).collect();
        let mut facts = cluster();
        facts.push(Fact::Network(network));
        let plan = compile(settings(), facts);
        assert!(plan.to_string().contains("route 10.244.1.2/32"));
        let text = "node n1: its block 10.244.1.0/24 lies outside the podCIDRs of network default.";
        plan.warnings.iter().any(|w| w.to_string().starts_with(text))
    };
    assert!(warned(&["10.250.0.0/16"]));
    assert!(warned(&["10.244.1.0/25"]));
    for fine in [&["10.244.0.0/16"][..], &["10.250.0.0/16", "10.244.0.0/16"], &["fd00::/48"], &[]] {
        assert!(!warned(fine), "{fine:?}");
    }
}

#[test]
fn a_peer_with_this_nodes_address_is_closed_and_named() {
    for overlay in [Overlay::Auto, Overlay::Vxlan, Overlay::HostGw] {
        let mut network = Network::ordinary();
        network.overlay = overlay;
        let mut facts = cluster();
        facts.extend([Fact::Network(network), node("twin", "192.0.2.1/24", &["10.244.9.0/24"])]);
        let plan = compile(settings(), facts);
        let text = plan.to_string();
        assert!(text.contains("route unreachable 10.244.9.0/24"), "{text}");
        let said = "node twin: no way to its pods' block 10.244.9.0/24: the address by which peers";
        assert!(plan.warnings.iter().any(|w| w.to_string().starts_with(said)), "{:?}", plan.warnings);
    }
}

#[test]
fn who_wants_the_same_row_can_be_asked() {
    let mut compiler = Compiler::new(settings());
    let mut plan = Plan::default();
    let rivals = [attachment("a", "10.244.1.2", Some(80)), attachment("b", "10.244.1.3", Some(80))];
    let quiet = attachment("c", "10.244.1.4", None);
    for fact in cluster().into_iter().take(4).chain(rivals.clone()).chain([quiet.clone()]) {
        compiler.apply(Change::set(fact));
    }
    compiler.flush(&mut plan);
    let [a, b] = rivals.map(|fact| fact.key());
    let told = |compiler: &Compiler| [&a, &b, &quiet.key()].map(|key| compiler.rival_of(key).cloned());
    assert_eq!(told(&compiler), [Some(b.clone()), Some(a.clone()), None]);
    compiler.apply(Change::Remove(a.clone()));
    compiler.flush(&mut plan);
    assert_eq!(told(&compiler), [None, None, None]);
}

#[test]
fn a_tunnel_that_comes_to_a_mapped_port_has_it() {
    let Fact::Attachment(mut mapped) = attachment("dns", "10.244.1.9", Some(8472)) else { panic!("no pod") };
    mapped.host_ports[0].protocol = Protocol::Udp;
    let mut network = Network::ordinary();
    let mut compiler = Compiler::new(settings());
    let mut plan = Plan::default();
    for fact in cluster().into_iter().chain([Fact::Attachment(mapped)]) {
        compiler.apply(Change::set(fact));
    }
    let mapping = "10.244.1.9 . 80";
    let mut check = |port: u32, overlay: Overlay, expected: usize| {
        (network.vxlan_port, network.overlay) = (Port::new(port).unwrap(), overlay);
        compiler.apply(Change::set(Fact::Network(network.clone())));
        compiler.flush(&mut plan);
        let text = plan.to_string();
        assert_eq!(text.matches(mapping).count(), expected, "{port}: {text}");
        let warned = plan.warnings.iter().any(|w| w.to_string().contains("host port 8472/udp is left out"));
        assert_eq!(warned, expected == 0, "{:?}", plan.warnings);
    };
    check(4789, Overlay::Vxlan, 1);
    check(8472, Overlay::Vxlan, 0);
    check(8472, Overlay::HostGw, 1);
    check(8472, Overlay::Auto, 0);
    check(4789, Overlay::Auto, 1);
}

#[test]
fn a_mapping_of_an_address_that_the_node_has_not_is_told_until_it_has_it() {
    let mut compiler = Compiler::new(settings());
    let mut plan = Plan::default();
    for fact in cluster() {
        compiler.apply(Change::set(fact));
    }
    let mut check = |host_ip: &str, own: &str, expected: Option<&str>| {
        let Fact::Attachment(mut mapped) = attachment("api", "10.244.1.9", Some(443)) else {
            panic!("no pod")
        };
        mapped.host_ports[0].host_ip = Some(host_ip.parse().unwrap());
        compiler.apply(Change::set(Fact::Attachment(mapped)));
        // The host may change alone.
        compiler.flush(&mut plan);
        compiler.apply(Change::set(host(own)));
        compiler.flush(&mut plan);
        let warnings: Vec<String> = plan.warnings.iter().map(ToString::to_string).collect();
        let told = warnings.iter().find(|text| text.contains("host port 443/tcp leads nowhere"));
        assert_eq!(told.is_some(), expected.is_some(), "{host_ip}: {warnings:?}");
        assert!(expected.is_none_or(|part| told.is_some_and(|text| text.contains(part))), "{told:?}");
    };
    check("192.0.2.1", "192.0.2.1/24", None);
    check("192.0.2.9", "192.0.2.1/24", Some("192.0.2.9"));
    check("192.0.2.9", "192.0.2.9/24", None);
    check("127.0.0.1", "192.0.2.1/24", None);
    check("::1", "192.0.2.1/24", Some("127.0.0.1"));
    check("0.0.0.0", "192.0.2.1/24", None);
}

fn network(name: &str, change: impl FnOnce(&mut Network)) -> Fact {
    let mut network = Network::named(NetworkName::new(name).unwrap());
    change(&mut network);
    Fact::Network(network)
}

#[test]
fn a_newcomer_does_not_take_the_ordinary_networks_tunnel() {
    let blue = || {
        network("blue", |blue| {
            blue.vni = Network::ordinary().vni;
            blue.vxlan_port = Port::new(8472).unwrap();
        })
    };
    for ordinary in [None, Some(network("default", |_| {}))] {
        let plan = compile(settings(), cluster().into_iter().chain([blue()]).chain(ordinary));
        let text = plan.to_string();
        assert!(text.contains("dstport 4789") && !text.contains("8472"), "{text}");
        let warned: Vec<String> = plan.warnings.iter().map(ToString::to_string).collect();
        let expected = "network blue: its VNI 9338 is that of network default, which has the tunnel";
        assert!(warned.iter().any(|warning| warning.contains(expected)), "{warned:?}");
    }
}

/// Through the other one's, its packets would be taken for the other network's.
#[test]
fn a_network_without_a_tunnel_of_its_own_has_no_way_through_anothers_and_keeps_no_port() {
    let peer = || {
        let Fact::Node(mut peer) = node("n2", "198.51.100.2/24", &["10.244.2.0/24"]) else { unreachable!() };
        let network = NetworkName::new("blue").unwrap();
        peer.pod_cidrs.push(NodeCidr { network, cidr: "10.9.2.0/24".parse().unwrap() });
        Fact::Node(peer)
    };
    let mapped = || {
        let Fact::Attachment(mut pod) = attachment("game", "10.244.1.7", None) else { unreachable!() };
        pod.host_ports = vec![HostPort {
            host_port: Port::new(8472).unwrap(),
            container_port: Port::new(80).unwrap(),
            protocol: Protocol::Udp,
            host_ip: None,
        }];
        Fact::Attachment(pod)
    };
    let check = |vni: u32, way: &str, is_port_free: bool| {
        let blue = network("blue", |blue| {
            (blue.vni, blue.vxlan_port) = (Vni::new(vni).unwrap(), Port::new(8472).unwrap());
        });
        let facts = cluster().into_iter().chain([peer(), mapped()]);
        let mut compiler = Compiler::new(settings());
        let mut plan = Plan::default();
        for fact in facts.chain([network("blue", |_| {}), blue]) {
            compiler.apply(Change::set(fact));
            compiler.flush(&mut plan);
        }
        let text = plan.to_string();
        assert!(text.contains(way), "{vni}: {text}");
        assert_eq!(text.contains("udp . 8472 : "), is_port_free, "{vni}: {text}");
        // Whose tunnel is there changes with a network that it isn't.
        let moved = network("default", |ordinary| ordinary.vni = Vni::new(7).unwrap());
        compiler.apply(Change::set(moved));
        compiler.flush(&mut plan);
        let text = plan.to_string();
        let through = format!("route 10.9.2.0/24 via 198.51.100.2 dev weftx{vni}");
        assert!(text.contains(&through) && !text.contains("udp . 8472 : "), "{vni}: {text}");
    };
    check(77, "route 10.9.2.0/24 via 198.51.100.2 dev weftx77", false);
    check(Network::DEFAULT_VNI, "route unreachable 10.9.2.0/24", true);
}

#[test]
fn a_peers_block_of_an_unknown_network_is_left_out_and_named() {
    let stray = |of: &str| {
        let Fact::Node(mut peer) = node("n2", "192.0.2.2/24", &["10.244.2.0/24"]) else { unreachable!() };
        let network = NetworkName::new(of).unwrap();
        peer.pod_cidrs.push(NodeCidr { network, cidr: "10.9.0.0/24".parse().unwrap() });
        Fact::Node(peer)
    };
    let said = |plan: &Plan| -> Vec<String> {
        let warnings = plan.warnings.iter().map(ToString::to_string);
        warnings.filter(|warning| warning.contains("nobody has described")).collect()
    };
    let plan = compile(settings(), cluster().into_iter().chain([stray("nosuch")]));
    let rows = |plan: &Plan| {
        let text = plan.to_string();
        text.lines().filter(|line| !line.starts_with("warning")).map(str::to_owned).collect::<String>()
    };
    assert!(!rows(&plan).contains("10.9.0."), "{plan}");
    let expected = "node n2: its block 10.9.0.0/24 is left out, as nobody has described the network nosuch";
    assert!(said(&plan)[..].iter().any(|warning| warning.contains(expected)), "{:?}", plan.warnings);
    // It is in force as soon as somebody has, and in whichever order that is said.
    let known = [stray("nosuch"), network("nosuch", |_| {})];
    let plan = compile(settings(), cluster().into_iter().chain(known));
    assert!(rows(&plan).contains("route 10.9.0.0/24 via 192.0.2.2") && said(&plan).is_empty(), "{plan}");
}

#[test]
fn an_mtu_that_does_not_reach_other_nodes_is_named() {
    let warned = |overlay, mtu| {
        let given = network("default", |network| (network.overlay, network.mtu) = (overlay, mtu));
        let plan = compile(settings(), [cluster(), vec![given]].concat());
        plan.warnings.iter().map(ToString::to_string).find(|text| text.contains("MTU"))
    };
    let check = |overlay, fits: u32| {
        assert_eq!(warned(overlay, None), None);
        assert_eq!(warned(overlay, Some(fits)), None, "{overlay:?}");
        let expected = format!(
            "network default: its MTU {} is more than the {fits} bytes that reach other nodes by this node's link eth0: larger \
             packets are refused on the way; leave spec.mtu out, and it follows the link",
            fits + 1
        );
        assert_eq!(warned(overlay, Some(fits + 1)), Some(expected));
    };
    check(Overlay::Vxlan, 1450);
    check(Overlay::Auto, 1500);
    check(Overlay::HostGw, 1500);
}
