//! Services in compiled clusters: who is reached from where, and with which source.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use weft_model::{
    Attachment, AttachmentId, Endpoint, EndpointPort, EndpointSlice, Fact, FactKey, Family, Host, HostLink,
    IngressMode, LoadBalancerAddress, Mac, Network, NetworkName, Node, NodeAddress, NodeCidr, NodeName,
    ObjectKey, Port, Protocol, Service, ServiceKind, ServicePort, SliceSource, TargetPort,
    TrafficDistribution, TrafficPolicy,
};
use weft_plan::filter::{Comparison, Element, HookKind, NatTarget, Value};
use weft_plan::marks::CHOSEN;
use weft_plan::{
    Atom, Chain, Field, Hook, Ident, KernelKey, KernelRow, Plan, Rule, SetSpec, Statement, Type,
};

use super::rows::{from_node, from_outside, from_pod, ip, link, tcp};
use crate::oracle::{
    Conversation, Fixed, NodeView, Outcome, Packet, Receiver, Session, Start, World, converse_with, explore,
};
use crate::services::affinity::STEPS;
use crate::{Settings, compile};

/// Three nodes, `n0` and `n1` on one link, `n2` behind a router, in zones `a`, `a` and `b`; pods `p0`, `p1`, `p2`, one a node.
pub struct Cluster {
    facts: Vec<Fact>,
}

pub fn name(node: usize) -> NodeName {
    NodeName::new(&format!("n{node}")).unwrap()
}

pub fn address(node: usize, family: Family) -> IpAddr {
    let segment = usize::from(node == 2);
    ip(&match family {
        Family::V4 => format!("192.168.{segment}.{}", node + 1),
        Family::V6 => format!("2001:db8:{segment}::{}", node + 1),
    })
}

fn pod_address(node: usize, family: Family) -> IpAddr {
    ip(&match family {
        Family::V4 => format!("10.244.{node}.2"),
        Family::V6 => format!("fd00:244:0:{node}::2"),
    })
}

pub fn node(at: usize) -> Node {
    let mut node = Node::named(name(at));
    let prefix = |family| if family == Family::V4 { 24 } else { 64 };
    node.addresses = Family::ALL
        .map(|family| NodeAddress { ip: address(at, family), prefix: Some(prefix(family)) })
        .to_vec();
    node.pod_cidrs = [format!("10.244.{at}.0/24"), format!("fd00:244:0:{at}::/64")]
        .map(|block| NodeCidr { network: NetworkName::ordinary(), cidr: block.parse().unwrap() })
        .to_vec();
    node.labels = [("topology.kubernetes.io/zone", ["a", "a", "b"][at])].into_iter().collect();
    node
}

pub fn host(at: usize) -> Host {
    let nets = node(at).addresses.iter().map(|a| ipnet::IpNet::new_assert(a.ip, a.prefix.unwrap())).collect();
    let link = HostLink { name: link("eth0"), router_advertisements: false, mtu: 1500, addresses: nets };
    Host { links: vec![link], ..Host::default() }
}

fn attachment(at: usize) -> Fact {
    let name = format!("p{at}");
    Fact::Attachment(Attachment {
        id: AttachmentId { container: name.as_str().into(), ifname: link("eth0") },
        network: NetworkName::ordinary(),
        pod: None,
        addresses: Family::ALL.map(|family| pod_address(at, family)).to_vec(),
        mac: Mac::derived(&name),
        mtu: None,
        host_ports: Vec::new(),
        netns: String::new(),
    })
}

pub fn web() -> Service {
    let mut service = Service::named(ObjectKey::new("default", "web").unwrap());
    service.cluster_ips = vec![ip("10.96.0.10"), ip("fd00:96::10")];
    service.families = Family::ALL.to_vec();
    service.ports = vec![ServicePort {
        name: "http".into(),
        protocol: Protocol::Tcp,
        port: Port::new(80).unwrap(),
        target: TargetPort::Number(Port::new(8080).unwrap()),
        node_port: Port::new(30080).ok(),
    }];
    service.kind = ServiceKind::LoadBalancer;
    service.external_ips = vec![ip("198.51.100.7")];
    service.load_balancer = vec![
        LoadBalancerAddress { ip: ip("198.51.100.8"), mode: IngressMode::Vip },
        LoadBalancerAddress { ip: ip("198.51.100.9"), mode: IngressMode::Proxy },
    ];
    service
}

fn endpoint(node: usize, address: IpAddr) -> Endpoint {
    Endpoint {
        addresses: vec![address],
        ready: true,
        serving: true,
        terminating: false,
        hostname: None,
        node: Some(name(node)),
        zone: None,
        hint_zones: Vec::new(),
        hint_nodes: Vec::new(),
        pod: None,
    }
}

/// A slice of `web` for each family, with the pods of these nodes.
pub fn slices(nodes: &[usize]) -> Vec<EndpointSlice> {
    let slice = |family: Family| EndpointSlice {
        key: ObjectKey::new("default", if family == Family::V4 { "web-4" } else { "web-6" }).unwrap(),
        service: Some(web().key.name),
        source: SliceSource::EndpointSlice,
        family,
        ports: [EndpointPort { name: "http".into(), protocol: Protocol::Tcp, port: Port::new(8080).ok() }]
            .into(),
        endpoints: nodes.iter().map(|node| endpoint(*node, pod_address(*node, family))).collect(),
    };
    Family::ALL.map(slice).to_vec()
}

impl Cluster {
    pub fn new(service: Service, slices: Vec<EndpointSlice>) -> Self {
        let network = Network {
            pod_cidrs: vec!["10.244.0.0/16".parse().unwrap(), "fd00:244::/48".parse().unwrap()],
            service_cidrs: vec!["10.96.0.0/16".parse().unwrap(), "fd00:96::/112".parse().unwrap()],
            ..Network::ordinary()
        };
        let mut facts = vec![Fact::Network(network), Fact::Service(service)];
        facts.extend((0..3).map(|at| Fact::Node(node(at))));
        facts.extend(slices.into_iter().map(Fact::EndpointSlice));
        Self { facts }
    }

    pub fn plans(&self) -> Vec<Plan> {
        let plan = |at: usize| {
            let own = [Fact::Host(host(at)), attachment(at)];
            let plan = compile(Settings::new(name(at)), own.into_iter().chain(self.facts.clone()));
            assert_eq!(plan.check(), Vec::<String>::new());
            plan
        };
        (0..3).map(plan).collect()
    }

    /// Every way that the dice can lead a packet, and its answer: where it ended, as `p1` or `refused`, and the source seen there.
    fn ends(&self, start: &Start, packet: Packet) -> BTreeMap<String, usize> {
        ends_of(&self.plans(), start, packet)
    }
}

pub fn ends_of(plans: &[Plan], start: &Start, packet: Packet) -> BTreeMap<String, usize> {
    let hosts: Vec<Host> = (0..3).map(host).collect();
    let world = world_of(plans, &hosts);
    let mut ends = BTreeMap::new();
    for conversation in explore(100, |dice| converse_with(&world, start, packet, dice)) {
        *ends.entry(end(&conversation)).or_default() += 1;
    }
    ends
}

fn world_of<'a>(plans: &'a [Plan], hosts: &'a [Host]) -> World<'a> {
    let nodes = plans.iter().zip(hosts).enumerate();
    World::new(nodes.map(|(at, (plan, host))| NodeView { name: name(at), plan, host }))
}

fn end(conversation: &Conversation) -> String {
    match &conversation.forward.outcome {
        Outcome::Delivered { to, seen } => {
            assert!(conversation.works(), "{conversation}");
            let at = |address: IpAddr| {
                let own =
                    |node: usize| Family::ALL.iter().any(|family| pod_address(node, *family) == address);
                let hers = |node: usize| Family::ALL.iter().any(|f| self::address(node, *f) == address);
                let pod = (0..3).find(|node| own(*node)).map(|node| format!("p{node}"));
                pod.or_else(|| (0..3).find(|node| hers(*node)).map(|node| format!("n{node}")))
                    .unwrap_or_else(|| "outside".into())
            };
            let receiver = match to {
                Receiver::Outside { .. } => "outside!".to_owned(),
                _ => format!("{}:{}", at(seen.destination), seen.dport),
            };
            format!("{receiver} from {}", at(seen.source))
        }
        Outcome::Rejected { .. } => "refused".into(),
        Outcome::Dropped { .. } => "dropped".into(),
        other => other.to_string(),
    }
}

pub fn check(cluster: &Cluster, start: &Start, packet: Packet, expected: &[&str]) {
    let ends = cluster.ends(start, packet);
    let keys: Vec<&str> = ends.keys().map(String::as_str).collect();
    assert_eq!(keys, expected, "{start:?} {packet:?}");
    let shares: Vec<usize> = ends.values().copied().collect();
    assert!(shares.windows(2).all(|pair| pair[0] == pair[1]), "uneven: {ends:?}");
}

fn all() -> Cluster {
    Cluster::new(web(), slices(&[0, 1, 2]))
}

fn client() -> IpAddr {
    ip("203.0.113.9")
}

#[test]
fn a_cluster_address_from_everywhere() {
    let cluster = all();
    for vip in ["10.96.0.10", "fd00:96::10"] {
        // Back to itself with the node's address, to others with its own.
        let from_p0 = ["p0:8080 from n0", "p1:8080 from p0", "p2:8080 from p0"];
        check(&cluster, &from_pod("n0", "p0"), tcp(vip, 80), &from_p0);
        let from_n1 = ["p0:8080 from n1", "p1:8080 from n1", "p2:8080 from n1"];
        check(&cluster, &from_node("n1"), tcp(vip, 80), &from_n1);
    }
}

#[test]
fn what_is_no_service_is_never_passed_on() {
    let check_all = |cluster: &Cluster| {
        for (vip, port, expected) in [
            ("10.96.0.11", 80, "dropped"),
            ("10.96.0.10", 81, "refused"),
            ("fd00:96::11", 80, "dropped"),
            ("fd00:96::10", 81, "refused"),
        ] {
            check(cluster, &from_pod("n0", "p0"), tcp(vip, port), &[expected]);
            check(cluster, &from_node("n0"), tcp(vip, port), &[expected]);
            check(cluster, &from_outside("n0"), tcp(vip, port).from(client_like(vip)), &[expected]);
        }
        check(cluster, &from_pod("n0", "p0"), Packet::ping(ip("10.96.0.10")), &["refused"]);
    };
    check_all(&all());
    // A node without addresses has no route that ends such packets at the loopback link: they are on their way out.
    let mut cluster = all();
    for fact in &mut cluster.facts {
        if let Fact::Node(node) = fact {
            node.addresses.clear();
        }
    }
    check(&cluster, &from_outside("n0"), tcp("10.96.0.11", 80).from(client()), &["dropped"]);
    check(&cluster, &from_outside("n0"), tcp("10.96.0.10", 81).from(client()), &["refused"]);
}

/// Which addresses services have inside is the cluster's business: who isn't in it, or a node, is let in by what is published.
#[test]
fn isolated_pods_are_reached_from_outside_only_where_a_service_is_published() {
    let mut cluster = all();
    for fact in &mut cluster.facts {
        if let Fact::Network(network) = fact {
            network.shape = weft_model::Shape::Isolated;
        }
    }
    for (vip, node_port, external) in
        [("10.96.0.10", "192.168.0.1", Some("198.51.100.7")), ("fd00:96::10", "2001:db8:0::1", None)]
    {
        // The node that is asked speaks for itself to other nodes' pods: none of the three is led there.
        check(&cluster, &from_outside("n0"), tcp(vip, 80).from(client_like(vip)), &["dropped"]);
        check(
            &cluster,
            &from_pod("n1", "p1"),
            tcp(vip, 80),
            &["p0:8080 from p1", "p1:8080 from n1", "p2:8080 from p1"],
        );
        check(
            &cluster,
            &from_node("n1"),
            tcp(vip, 80),
            &["p0:8080 from n1", "p1:8080 from n1", "p2:8080 from n1"],
        );
        let published = ["p0:8080 from outside", "p1:8080 from n0", "p2:8080 from n0"];
        let outside = |to: &str, port| tcp(to, port).from(client_like(to));
        check(&cluster, &from_outside("n0"), outside(node_port, 30080), &published);
        if let Some(external) = external {
            check(&cluster, &from_outside("n0"), outside(external, 80), &published);
        }
    }
}

/// A base chain that another program has.
fn others(plan: &mut Plan, name: &str, hook: Hook, rules: Vec<Rule>) {
    let key = KernelKey::Chain(Ident::new(name));
    let chain = Chain { hook: Some(hook), rules };
    plan.kernel.set(key, KernelRow::Chain(Box::new(chain)), FactKey::Host);
}

#[test]
fn another_proxys_service_is_left_to_it() {
    let mut service = web();
    service.labels = [("service.kubernetes.io/service-proxy-name", "other")].into_iter().collect();
    let mut plans = Cluster::new(service, slices(&[0])).plans();
    for plan in &mut plans {
        let rule = || {
            let to_it =
                Statement::Match(Field::Daddr(Family::V4), Comparison::Is, Value::Address(ip("10.96.0.10")));
            Rule::new("", [to_it, Statement::Dnat(NatTarget::Address(pod_address(0, Family::V4)))])
        };
        for (name, at) in [("other", HookKind::Prerouting), ("other_out", HookKind::Output)] {
            others(plan, name, Hook { at, nat: true, priority: -100 }, vec![rule()]);
        }
    }
    let hosts: Vec<Host> = (0..3).map(host).collect();
    let world = world_of(&plans, &hosts);
    let led = |start: &Start, vip| end(&converse_with(&world, start, tcp(vip, 80), &mut Fixed(0)));
    assert_eq!(led(&from_pod("n1", "p1"), "10.96.0.10"), "p0:80 from p1");
    assert_eq!(led(&from_node("n1"), "10.96.0.10"), "p0:80 from n1");
    // What it doesn't serve goes nowhere either.
    assert_eq!(led(&from_pod("n1", "p1"), "10.96.0.11"), "dropped");
    assert_eq!(led(&from_node("n1"), "10.96.0.11"), "dropped");
}

#[test]
fn anothers_mark_makes_no_service_of_a_connection() {
    let mut plans = all().plans();
    let marks = Ident::new("marks");
    let spec = SetSpec::map(&[Type::InetProto], &[Type::Mark], "");
    let element = KernelRow::Element(Element::maps_to([Atom::Mark(CHOSEN | 1)]));
    let plan = &mut plans[0];
    plan.kernel.set(KernelKey::Set(marks.clone()), KernelRow::Set(Box::new(spec)), FactKey::Host);
    let key = KernelKey::Element(marks.clone(), [Atom::Proto(6)].into());
    plan.kernel.set(key, element, FactKey::Host);
    let rule = Rule::new("", [Statement::SetCtMarkFrom(vec![Field::L4Proto], marks)]);
    let hook = Hook { at: HookKind::Prerouting, nat: false, priority: -150 };
    others(plan, "other", hook, vec![rule]);
    let hosts: Vec<Host> = (0..3).map(host).collect();
    let world = world_of(&plans, &hosts);
    let packet = tcp("10.244.1.2", 80).from(client());
    let transit = converse_with(&world, &from_outside("n0"), packet, &mut Fixed(0));
    assert_eq!(end(&transit), "p1:80 from outside", "{transit}");
}

#[test]
fn however_many_times_clients_are_kept_for_a_packet_asks_few_maps() {
    let mut cluster = all();
    for number in 0..100_u32 {
        let mut service = web();
        service.key = ObjectKey::new("default", &format!("s{number}")).unwrap();
        service.cluster_ips = vec![ip(&format!("10.96.1.{number}"))];
        service.affinity_seconds = Some(1 + number * 800);
        cluster.facts.push(Fact::Service(service));
    }
    let plan = &cluster.plans()[0];
    let Some(KernelRow::Chain(chain)) = plan.kernel.get(&KernelKey::Chain(Ident::new("services"))) else {
        panic!("no chain for services");
    };
    assert!(chain.rules.len() <= 2 * (1 + 2 * (1 + STEPS.len())), "{}", chain.rules.len());
}

fn client_like(vip: &str) -> IpAddr {
    if vip.contains(':') { ip("2001:db8:ffff::9") } else { client() }
}

#[test]
fn node_ports_and_outside_addresses() {
    let cluster = all();
    for (vip, port) in [("192.168.0.1", 30080), ("198.51.100.7", 80), ("198.51.100.8", 80)] {
        let packet = tcp(vip, port).from(client());
        // The node's own pod sees the client; others must answer through the node.
        let ends = ["p0:8080 from outside", "p1:8080 from n0", "p2:8080 from n0"];
        check(&cluster, &from_outside("n0"), packet, &ends);
    }
    // A load balancer that is a proxy hands packets on with other addresses: its own is nobody's here.
    check(&cluster, &from_outside("n0"), tcp("198.51.100.9", 80).from(client()), &["outside! from outside"]);
    // A pod reaches another node's port: that node is in between, and stays there.
    let there = ["p0:8080 from n1", "p1:8080 from p0", "p2:8080 from n1"];
    check(&cluster, &from_pod("n0", "p0"), tcp("192.168.0.2", 30080), &there);
    // Its own node's port is looked up at once.
    let own = ["p0:8080 from n0", "p1:8080 from p0", "p2:8080 from p0"];
    check(&cluster, &from_pod("n0", "p0"), tcp("192.168.0.1", 30080), &own);
    check(&cluster, &from_pod("n0", "p0"), tcp("198.51.100.8", 80), &own);
}

#[test]
fn local_traffic_policies() {
    let mut service = web();
    service.external_policy = TrafficPolicy::Local;
    let cluster = Cluster::new(service.clone(), slices(&[0, 1]));
    let outside = |node: &str, address: &str| (from_outside(node), tcp(address, 30080).from(client()));
    let (start, packet) = outside("n0", "192.168.0.1");
    check(&cluster, &start, packet, &["p0:8080 from outside"]);
    // No endpoint here: another node is to be asked, so nobody is told that there is none.
    let (start, packet) = outside("n2", "192.168.1.3");
    check(&cluster, &start, packet, &["dropped"]);
    // What is inside may use all, at any address.
    let all = ["p0:8080 from p2", "p1:8080 from p2"];
    check(&cluster, &from_pod("n2", "p2"), tcp("198.51.100.7", 80), &all);
    check(&cluster, &from_pod("n2", "p2"), tcp("10.96.0.10", 80), &all);
    service.internal_policy = TrafficPolicy::Local;
    let cluster = Cluster::new(service, slices(&[0, 1]));
    check(&cluster, &from_pod("n0", "p0"), tcp("10.96.0.10", 80), &["p0:8080 from n0"]);
    check(&cluster, &from_pod("n2", "p2"), tcp("10.96.0.10", 80), &["dropped"]);
}

#[test]
fn without_endpoints_senders_are_told() {
    let cluster = Cluster::new(web(), Vec::new());
    check(&cluster, &from_pod("n0", "p0"), tcp("10.96.0.10", 80), &["refused"]);
    check(&cluster, &from_node("n0"), tcp("fd00:96::10", 80), &["refused"]);
    check(&cluster, &from_outside("n0"), tcp("192.168.0.1", 30080).from(client()), &["refused"]);
}

#[test]
fn endpoints_nearby() {
    let hinted = |nodes: &[(usize, &str)]| {
        let mut slices = slices(&nodes.iter().map(|(node, _)| *node).collect::<Vec<_>>());
        for slice in &mut slices {
            for (endpoint, (_, zone)) in Arc::make_mut(&mut slice.endpoints).iter_mut().zip(nodes) {
                endpoint.hint_zones = vec![(*zone).into()];
            }
        }
        slices
    };
    let cluster = Cluster::new(web(), hinted(&[(0, "a"), (1, "a"), (2, "b")]));
    check(&cluster, &from_pod("n2", "p2"), tcp("10.96.0.10", 80), &["p2:8080 from n2"]);
    check(&cluster, &from_node("n0"), tcp("10.96.0.10", 80), &["p0:8080 from n0", "p1:8080 from n0"]);
    // A service's own wish counts where nobody has written slices.
    let mut service = web();
    service.distribution = Some(TrafficDistribution::SameNode);
    let mut derived = slices(&[0, 1, 2]);
    for slice in &mut derived {
        slice.source = SliceSource::Endpoints;
    }
    let cluster = Cluster::new(service, derived);
    check(
        &cluster,
        &from_node("n0"),
        tcp("10.96.0.10", 80),
        &["p0:8080 from n0", "p1:8080 from n0", "p2:8080 from n0"],
    );
}

#[test]
fn endpoints_in_the_nodes_network() {
    let mut slices = slices(&[]);
    slices[0].endpoints = [endpoint(0, address(0, Family::V4)), endpoint(1, address(1, Family::V4))].into();
    let cluster = Cluster::new(web(), slices);
    check(&cluster, &from_pod("n0", "p0"), tcp("10.96.0.10", 80), &["n0:8080 from p0", "n1:8080 from p0"]);
    check(&cluster, &from_node("n0"), tcp("10.96.0.10", 80), &["n0:8080 from n0", "n1:8080 from n0"]);
    let packet = tcp("192.168.0.1", 30080).from(client());
    check(&cluster, &from_outside("n0"), packet, &["n0:8080 from outside", "n1:8080 from n0"]);
}

#[test]
fn clients_keep_their_endpoint() {
    let mut service = web();
    service.affinity_seconds = Some(10_800);
    let cluster = Cluster::new(service, slices(&[0, 1, 2]));
    for vip in ["10.96.0.10", "fd00:96::10"] {
        let ends = ["p0:8080 from n1", "p1:8080 from n1", "p2:8080 from n1"];
        check(&cluster, &from_node("n1"), tcp(vip, 80), &ends);
    }
}

#[test]
fn clients_stay_only_where_a_policy_lets_them() {
    let mut service = web();
    service.affinity_seconds = Some(10_800);
    let cluster = Cluster::new(service.clone(), slices(&[0, 1]));
    service.external_policy = TrafficPolicy::Local;
    let local = Cluster::new(service.clone(), slices(&[0, 1]));
    service.external_policy = TrafficPolicy::Cluster;
    let mut draining = slices(&[0, 1]);
    for slice in &mut draining {
        let second = &mut Arc::make_mut(&mut slice.endpoints)[1];
        (second.ready, second.terminating) = (false, true);
    }
    let draining = Cluster::new(service, draining);
    let hosts: Vec<Host> = (0..3).map(host).collect();
    let outside = from_outside("n0");
    let packet = |sport| Packet { sport, ..tcp("198.51.100.7", 80).from(client()) };
    for after in [local, draining] {
        let (before, after) = (cluster.plans(), after.plans());
        let (before, after) = (world_of(&before, &hosts), world_of(&after, &hosts));
        let mut session = Session::new(&before);
        let asks = |session: &mut Session<'_, '_>, sport, side| {
            end(&session.converse(&outside, packet(sport), &mut Fixed(side)))
        };
        assert_eq!(asks(&mut session, 1001, 1), "p1:8080 from n0");
        assert_eq!(asks(&mut session, 1002, 0), "p1:8080 from n0", "whatever the dice say now");
        let mut session = session.go_on(&after);
        assert_eq!(asks(&mut session, 1003, 1), "p0:8080 from outside");
        // What it has goes on.
        assert_eq!(asks(&mut session, 1002, 1), "p1:8080 from n0");
        // Where it could go back to, it stays with its second one.
        let mut session = session.go_on(&before);
        assert_eq!(asks(&mut session, 1004, 1), "p0:8080 from outside");
    }
}

#[test]
fn connections_go_on_to_all_that_serve() {
    let ends = |service: Service, change: fn(&mut Endpoint)| -> Vec<String> {
        let mut slices = slices(&[0, 1, 2]);
        for slice in &mut slices {
            change(&mut Arc::make_mut(&mut slice.endpoints)[1]);
        }
        let plans = Cluster::new(service, slices).plans();
        let vip = Atom::from(ip("10.96.0.10"));
        let lead = |(key, entry): (&KernelKey, &weft_plan::Entry<KernelRow>)| match (key, &entry.value) {
            (KernelKey::Element(map, key), KernelRow::Element(element))
                if map.as_str() == "endpoint4" && key.iter().next() == Some(vip.clone()) =>
            {
                Some(element.data.iter().next()?.to_string())
            }
            _ => None,
        };
        let mut ends: Vec<String> = plans[0].kernel.iter().filter_map(lead).collect();
        ends.sort();
        ends
    };
    let all = ["10.244.0.2", "10.244.1.2", "10.244.2.2"];
    let mut local = web();
    local.internal_policy = TrafficPolicy::Local;
    assert_eq!(ends(local, |_| {}), all);
    assert_eq!(ends(web(), |end| (end.ready, end.terminating) = (false, true)), all);
    let near = |end: &mut Endpoint| end.hint_zones = vec!["b".into()];
    assert_eq!(ends(web(), near), all);
    let gone = [all[0], all[2]];
    assert_eq!(ends(web(), |end| (end.ready, end.serving) = (false, false)), gone);
    assert_eq!(ends(web(), |end| end.addresses = vec![ip("127.0.0.1")]), gone);
}
