//! Event order never changes the plan, and the incremental path equals the from-scratch path: generated histories of
//! changes, applied in pieces, in any order of objects, twice, with flushes anywhere.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use proptest::prelude::*;
use weft_compile::{Compiler, Part, Settings};
use weft_model::{
    Attachment, AttachmentId, Change, Endpoint, EndpointPort, EndpointSlice, Fact, FactKey, Family, Host,
    HostLink, HostPort, IfName, IngressMode, Labels, LoadBalancerAddress, Mac, Namespace, NamespaceName,
    Network, NetworkName, Node, NodeAddress, NodeCidr, NodeName, ObjectKey, ObjectName, Overlay, Pod, Port,
    Protocol, Service, ServiceCidr, ServiceKind, ServicePort, Shape, SliceSource, TargetPort,
    TrafficDistribution, TrafficPolicy, Vni,
};
use weft_plan::Plan;

/// A small world: few names, so that changes meet.
fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        3 => (0u8..4, any::<u8>()).prop_map(|(n, variant)| node(n, variant)),
        1 => any::<u8>().prop_map(host),
        2 => (0u8..2, any::<u8>()).prop_map(|(n, variant)| network(n, variant)),
        3 => (0u8..4, any::<u8>()).prop_map(|(n, variant)| attachment(n, variant)),
        2 => (0u8..2, any::<bool>()).prop_map(|(n, there)| namespace(n, there)),
        1 => (0u8..2, any::<u8>()).prop_map(|(n, variant)| service_cidr(n, variant)),
        3 => (0u8..4, any::<u8>()).prop_map(|(n, variant)| pod(n, variant)),
        4 => (0u8..3, any::<u8>(), any::<u16>()).prop_map(|(n, variant, more)| service(n, variant, more)),
        3 => (0u8..3, any::<u8>(), any::<u8>()).prop_map(|(n, variant, more)| slice(n, variant, more)),
    ]
}

fn bit(variant: u8, n: u8) -> bool {
    variant >> n & 1 == 1
}

fn ordinary() -> NetworkName {
    NetworkName::ordinary()
}

fn key(namespace: u8, name: &str) -> ObjectKey {
    ObjectKey { namespace: namespace_name(namespace), name: ObjectName::new(name).unwrap() }
}

fn namespace_name(n: u8) -> NamespaceName {
    NamespaceName::new(["default", "shop"][usize::from(n % 2)]).unwrap()
}

fn node(n: u8, variant: u8) -> Change {
    let name = NodeName::new(&format!("n{n}")).unwrap();
    if variant == 0 {
        return Change::Remove(FactKey::Node(name));
    }
    let mut node = Node::named(name);
    let subnet = if bit(variant, 1) { 2 } else { 9 };
    let ip = |last: u8| IpAddr::from([192, 0, subnet, last]);
    node.addresses.push(NodeAddress { ip: ip(n + 1), prefix: bit(variant, 2).then_some(24) });
    if bit(variant, 0) {
        node.registered.push(ip(n + 1));
    }
    if bit(variant, 3) {
        let ip = format!("2001:db8::{}", n + 1).parse().unwrap();
        node.addresses.push(NodeAddress { ip, prefix: Some(64) });
    }
    // Now and then two nodes claim one block: somebody must lose, and always the same one.
    let block = if bit(variant, 4) { n } else { n / 2 };
    let mut cidr = |text: String| {
        node.pod_cidrs.push(NodeCidr { network: ordinary(), cidr: text.parse().unwrap() });
    };
    cidr(format!("10.244.{block}.0/24"));
    if bit(variant, 5) {
        cidr(format!("fd00:244:0:{block}::/64"));
    }
    if bit(variant, 6) {
        let cidr = format!("10.245.{n}.0/24").parse().unwrap();
        node.pod_cidrs.push(NodeCidr { network: blue(), cidr });
    }
    if bit(variant, 7) {
        let zone = if bit(variant, 0) { "a" } else { "b" };
        node.labels = [("topology.kubernetes.io/zone", zone)].into_iter().collect();
    }
    Change::set(Fact::Node(node))
}

fn host(variant: u8) -> Change {
    if variant < 16 {
        return Change::Remove(FactKey::Host);
    }
    let addresses = vec!["192.0.2.1/24".parse().unwrap(), "2001:db8::1/64".parse().unwrap()];
    let mtu = if bit(variant, 0) { 1500 } else { 9000 };
    let link = HostLink {
        name: IfName::new("eth0").unwrap(),
        mtu,
        router_advertisements: bit(variant, 1),
        addresses,
    };
    Change::set(Fact::Host(Host { links: vec![link], ..Host::default() }))
}

/// A second network: whatever there is one of in a node's kernel must not be one for each network.
fn blue() -> NetworkName {
    NetworkName::new("blue").unwrap()
}

fn network(n: u8, variant: u8) -> Change {
    let name = if n.is_multiple_of(2) { ordinary() } else { blue() };
    if variant < 32 {
        return Change::Remove(FactKey::Network(name));
    }
    let mut network = Network::named(name);
    if network.name == blue() {
        match variant % 8 {
            0 => network.vni = Vni::new(77).unwrap(),
            // The other one's: by mistake.
            1 => network.vni = Vni::new(Network::DEFAULT_VNI).unwrap(),
            _ => {}
        }
        // A service's node port, now and then.
        network.vxlan_port = Port::new(if bit(variant, 6) { 30081 } else { Network::VXLAN_PORT }).unwrap();
    }
    network.overlay = [Overlay::Auto, Overlay::Vxlan, Overlay::HostGw][usize::from(variant % 3)];
    network.shape = [Shape::Island, Shape::Flat, Shape::Isolated][usize::from(variant / 3 % 3)];
    if bit(variant, 7) {
        network.pod_cidrs = vec!["10.244.0.0/16".parse().unwrap(), "fd00:244::/48".parse().unwrap()];
        network.service_cidrs = vec!["10.96.0.0/16".parse().unwrap(), "fd00:96::/112".parse().unwrap()];
    }
    if bit(variant, 5) {
        network.no_masquerade =
            vec!["203.0.113.0/24".parse().unwrap(), "2001:db8:ffff::/48".parse().unwrap()];
    }
    Change::set(Fact::Network(network))
}

fn service_cidr(n: u8, variant: u8) -> Change {
    let name = ObjectName::new(&format!("blocks-{n}")).unwrap();
    if variant < 64 {
        return Change::Remove(FactKey::ServiceCidr(name));
    }
    // One of them is what a network may say too; others hold nodes, and nodes' pods.
    let all = ["10.96.0.0/16", "10.98.0.0/16", "fd00:98::/112", "192.0.9.0/24", "10.244.0.0/22"];
    let cidrs = all.iter().enumerate().filter(|(at, _)| bit(variant, *at as u8));
    let cidrs = cidrs.map(|(_, text)| text.parse().unwrap()).collect();
    Change::set(Fact::ServiceCidr(ServiceCidr { name, cidrs }))
}

fn attachment(n: u8, variant: u8) -> Change {
    let id = AttachmentId { container: format!("c{n}").into(), ifname: IfName::new("eth0").unwrap() };
    if variant < 64 {
        return Change::Remove(FactKey::Attachment(id));
    }
    let host_port = |port: u32| HostPort {
        host_ip: bit(variant, 1).then(|| IpAddr::from([192, 0, 2, 1])),
        host_port: Port::new(port).unwrap(),
        container_port: Port::new(80).unwrap(),
        protocol: Protocol::Tcp,
    };
    Change::set(Fact::Attachment(Attachment {
        network: if bit(variant, 3) { blue() } else { ordinary() },
        pod: None,
        addresses: vec![IpAddr::from([10, 244, 0, 10 + n]), ipv6_of_pod(10 + n)],
        mac: Mac::derived(&id.container),
        mtu: None,
        // Several attachments may ask for one port: the agent refuses it, and the plan must still be a function.
        host_ports: if bit(variant, 0) { vec![host_port(8080 + u32::from(variant % 2))] } else { Vec::new() },
        netns: String::new(),
        id,
    }))
}

fn namespace(n: u8, there: bool) -> Change {
    let name = namespace_name(n);
    if there {
        Change::set(Fact::Namespace(Namespace::named(name)))
    } else {
        Change::Remove(FactKey::Namespace(name))
    }
}

fn ipv6_of_pod(last: u8) -> IpAddr {
    format!("fd00:244::{last}").parse().unwrap()
}

fn pod(n: u8, variant: u8) -> Change {
    let key = key(n, &format!("pod-{n}"));
    if variant < 48 {
        return Change::Remove(FactKey::Pod(key));
    }
    let mut pod = Pod::named(key);
    pod.labels = [("app", if bit(variant, 0) { "web" } else { "db" })].into_iter().collect();
    pod.host_network = bit(variant, 4);
    if !pod.host_network {
        pod.ips = [IpAddr::from([10, 244, 0, 10 + n])].into_iter().collect();
        if bit(variant, 5) {
            pod.ips.push(ipv6_of_pod(10 + n));
        }
    }
    pod.node = NodeName::new(&format!("n{n}")).ok();
    pod.ready = bit(variant, 1);
    pod.terminating = bit(variant, 2);
    if bit(variant, 3) {
        pod.hostname = Some(format!("host-{}", n % 2).into());
        pod.subdomain = Some("svc-0".into());
    }
    Change::set(Fact::Pod(pod))
}

fn service(n: u8, variant: u8, more: u16) -> Change {
    let key = key(n, &format!("svc-{n}"));
    if variant < 32 {
        return Change::Remove(FactKey::Service(key));
    }
    let mut service = Service::named(key);
    service.headless = bit(variant, 0);
    if !service.headless {
        service.cluster_ips = vec![IpAddr::from([10, 96, 0, 10 + n])];
    }
    service.publish_not_ready = bit(variant, 1);
    let labels: Labels = [("app", if bit(variant, 2) { "web" } else { "db" })].into_iter().collect();
    service.selector = bit(variant, 3).then_some(labels);
    service.ports = vec![ServicePort {
        name: "http".into(),
        protocol: if more & 0x8006 == 0x8002 { Protocol::Udp } else { Protocol::Tcp },
        port: Port::new(80).unwrap(),
        target: TargetPort::Number(Port::new(8080).unwrap()),
        node_port: Port::new(30080 + u32::from(more % 2)).ok().filter(|_| more & 2 != 0),
    }];
    let has = |at: u16| more >> at & 1 == 1;
    // Another's node port, now and then.
    if has(1) && has(4) {
        service.kind = ServiceKind::LoadBalancer;
        service.health_check_node_port = Port::new(30080 + u32::from(n % 2)).ok();
    }
    let policy = |local| if local { TrafficPolicy::Local } else { TrafficPolicy::Cluster };
    service.internal_policy = policy(has(2));
    service.external_policy = policy(has(3));
    service.affinity_seconds = [None, None, Some(60), Some(10_800)][usize::from(more >> 4 & 3)];
    // Services may ask for one address and port.
    if has(6) {
        service.external_ips = vec![IpAddr::from([198, 51, 100, 7])];
    }
    if has(7) {
        let ip = IpAddr::from([198, 51, 100, 10 + n]);
        let mode = if has(8) { IngressMode::Proxy } else { IngressMode::Vip };
        service.load_balancer = vec![LoadBalancerAddress { ip, mode }];
        if has(9) {
            let ranges: [&[&str]; 4] = [
                &["203.0.113.0/24"],
                &["203.0.113.0/24", "fd00:c::/48"],
                &["203.0.112.0/22", "192.0.2.7/32"],
                &["0.0.0.0/0"],
            ];
            let ranges = ranges[usize::from(more >> 12 & 3)];
            service.source_ranges = ranges.iter().map(|block| block.parse().unwrap()).collect();
        }
    }
    if has(10) {
        service.families = Family::ALL.to_vec();
        service.cluster_ips.push(format!("fd00:96::{}", 10 + n).parse().unwrap());
    }
    // Addresses that only a folder of manifests gives: nodes' own, which another service may have as external ones; pods', and stray ones.
    if has(12) && has(5) && !service.headless {
        let last = (more >> 13) as u8;
        let ip = match more >> 8 & 3 {
            0 => [192, 0, if has(2) { 2 } else { 9 }, 1 + last % 4],
            1 => [10, 244, last % 4, 10],
            2 => [10, 245, last % 4, 7],
            _ => [10, 98, 0, 10],
        };
        service.cluster_ips.insert(0, ip.into());
        if has(4) {
            service.external_ips.push(ip.into());
        }
    }
    service.distribution = [None, Some(TrafficDistribution::SameZone), Some(TrafficDistribution::SameNode)]
        [usize::from(more >> 11) % 3];
    if has(15) && has(14) && has(13) {
        service.labels = [("service.kubernetes.io/service-proxy-name", "other")].into_iter().collect();
    }
    Change::set(Fact::Service(service))
}

fn slice(n: u8, variant: u8, more: u8) -> Change {
    let key = key(n, &format!("slice-{n}"));
    if variant < 64 {
        return Change::Remove(FactKey::EndpointSlice(key));
    }
    let family = if bit(more, 5) { Family::V6 } else { Family::V4 };
    let endpoint = |last: u8| Endpoint {
        addresses: vec![match family {
            Family::V4 => IpAddr::from([10, 244, 0, last]),
            Family::V6 => ipv6_of_pod(last),
        }],
        ready: bit(variant, 0),
        serving: bit(more, 0),
        terminating: bit(more, 1),
        hostname: None,
        node: NodeName::new(&format!("n{}", last % 2)).ok().filter(|_| bit(more, 2)),
        zone: None,
        hint_zones: if bit(more, 3) { vec![["a", "b"][usize::from(last % 2)].into()] } else { Vec::new() },
        hint_nodes: if bit(more, 4) {
            NodeName::new(&format!("n{}", last % 2)).into_iter().collect()
        } else {
            Vec::new()
        },
        pod: None,
    };
    Change::set(Fact::EndpointSlice(EndpointSlice {
        key,
        service: ObjectName::new(&format!("svc-{}", if bit(variant, 1) { n } else { 0 })).ok(),
        source: if bit(variant, 2) { SliceSource::EndpointSlice } else { SliceSource::Endpoints },
        family,
        ports: [EndpointPort { name: "http".into(), protocol: Protocol::Tcp, port: Port::new(8080).ok() }]
            .into(),
        endpoints: [endpoint(10), endpoint(11 + variant % 3)].into(),
    }))
}

fn settings() -> Settings {
    let mut settings = Settings::new(NodeName::new("n0").unwrap());
    settings.dns.addresses = vec!["169.254.53.53".parse().unwrap()];
    settings
}

/// The plan of facts that arrive in this order, in one piece.
fn from_scratch(facts: impl IntoIterator<Item = Fact>) -> Plan {
    weft_compile::compile(settings(), facts)
}

fn same(a: &Plan, b: &Plan) -> Result<(), TestCaseError> {
    prop_assert_eq!(a.to_string(), b.to_string());
    let origins = |plan: &Plan| -> Vec<String> {
        plan.kernel.sorted().iter().map(|(key, entry)| format!("{key:?} {}", entry.origin)).collect()
    };
    prop_assert_eq!(origins(a), origins(b));
    Ok(())
}

/// A history is shorter than this, and so leaves fewer facts.
const LONGEST: usize = 60;

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn incremental_equals_from_scratch(
        history in prop::collection::vec((change(), any::<bool>(), any::<bool>()), 1..LONGEST),
        order in Just((0..LONGEST).collect::<Vec<_>>()).prop_shuffle(),
    ) {
        let mut compiler = Compiler::new(settings());
        let mut plan = Plan::default();
        let mut left: BTreeMap<FactKey, Fact> = BTreeMap::new();
        let mut named = BTreeSet::new();
        for (change, twice, flush) in history {
            named.insert(change.key());
            match &change {
                Change::Set(fact) => drop(left.insert(fact.key(), fact.as_ref().clone())),
                Change::Remove(key) => drop(left.remove(key)),
            }
            if twice {
                compiler.apply(change.clone());
            }
            compiler.apply(change);
            if flush {
                compiler.flush(&mut plan);
            }
        }
        compiler.flush(&mut plan);
        prop_assert_eq!(plan.check(), Vec::<String>::new());
        let of_stores = |key: &&FactKey| !matches!(key, FactKey::Host | FactKey::Attachment(_));
        let told: BTreeSet<FactKey> = compiler.facts().told().map(|fact| fact.key()).collect();
        prop_assert!(told.iter().eq(left.keys().filter(of_stores)));
        for key in named.iter().filter(of_stores) {
            prop_assert_eq!(compiler.facts().has(key), told.contains(key));
        }
        let expected = from_scratch(left.values().cloned());
        same(&plan, &expected)?;
        let facts: Vec<Fact> = left.into_values().collect();
        same(&from_scratch(facts.iter().rev().cloned()), &expected)?;
        let shuffled = order.into_iter().filter_map(|at| facts.get(at).cloned());
        same(&from_scratch(shuffled), &expected)?;
        prop_assert!(!compiler.flush(&mut plan), "nothing is left to do");
    }

    #[test]
    fn a_plan_in_two_parts_is_the_whole(
        history in prop::collection::vec((change(), any::<bool>(), any::<bool>()), 1..60),
    ) {
        let mut compiler = Compiler::new(settings());
        let (mut kernel, mut names) = (Plan::default(), Plan::default());
        let mut left: BTreeMap<FactKey, Fact> = BTreeMap::new();
        for (change, for_kernel, for_names) in history {
            match &change {
                Change::Set(fact) => drop(left.insert(fact.key(), fact.as_ref().clone())),
                Change::Remove(key) => drop(left.remove(key)),
            }
            compiler.apply(change);
            if for_names {
                compiler.flush_part(Part::Names, &mut names);
            }
            if for_kernel {
                compiler.flush_part(Part::Kernel, &mut kernel);
            }
        }
        compiler.flush_part(Part::Names, &mut names);
        compiler.flush_part(Part::Kernel, &mut kernel);
        prop_assert!(kernel.names.is_empty() && names.kernel.is_empty() && names.health.is_empty());
        std::mem::swap(&mut kernel.names, &mut names.names);
        same(&kernel, &from_scratch(left.into_values()))?;
        prop_assert!(!compiler.flush(&mut kernel), "nothing is left to do");
    }
}
