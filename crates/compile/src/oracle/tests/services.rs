//! Services as they are compiled, look-up by look-up: a virtual address that leads to endpoints by way of the connection's mark,
//! clients that stay with their endpoint, refusals, and the way back.

use std::net::IpAddr;

use weft_model::{
    Attachment, AttachmentId, Endpoint, EndpointPort, EndpointSlice, Fact, Family, Host, HostLink, Mac,
    Network, NetworkName, Node, NodeAddress, NodeCidr, NodeName, ObjectKey, Port, Protocol, Service,
    ServicePort, SliceSource, TargetPort,
};
use weft_plan::filter::{Comparison, HookKind, Value};
use weft_plan::marks::CHOSEN;
use weft_plan::{Atom, Field, KernelKey, KernelRow, Rule, Statement};

use super::rows::{Made, drop, from_node, from_outside, from_pod, ip, link, tcp, udp, world};
use crate::oracle::{Conversation, Fixed, Outcome, Random, Session, converse, explore, trace};
use crate::{Settings, compile};

const V4: Family = Family::V4;
const PODS: [(&str, &str); 2] = [("a", "10.0.0.2"), ("b", "10.0.0.3")];
const PROTOCOLS: [Protocol; 2] = [Protocol::Tcp, Protocol::Udp];

fn rule(statements: impl IntoIterator<Item = Statement>) -> Rule {
    Rule::new("", statements)
}

const CLIENT: [Field; 4] = [Field::Saddr(V4), Field::Daddr(V4), Field::L4Proto, Field::Dport];

fn attachment((name, address): (&str, &str)) -> Fact {
    Fact::Attachment(Attachment {
        id: AttachmentId { container: name.into(), ifname: link("eth0") },
        network: NetworkName::ordinary(),
        pod: None,
        addresses: vec![ip(address)],
        mac: Mac::derived(name),
        mtu: None,
        host_ports: Vec::new(),
        netns: String::new(),
    })
}

/// A service at 10.96.0.`number`, port 80, of TCP and UDP, that leads to port 8080 of these pods.
fn service(number: u8, affinity_seconds: Option<u32>, pods: &[(&str, &str)]) -> [Fact; 2] {
    let mut service = Service::named(ObjectKey::new("default", &format!("s{number}")).unwrap());
    service.cluster_ips = vec![[10, 96, 0, number].into()];
    service.families = vec![V4];
    service.affinity_seconds = affinity_seconds;
    service.ports = PROTOCOLS
        .map(|protocol| ServicePort {
            name: protocol.to_string().into(),
            protocol,
            port: Port::new(80).unwrap(),
            target: TargetPort::Number(Port::new(8080).unwrap()),
            node_port: None,
        })
        .to_vec();
    let endpoint = |address: IpAddr| Endpoint {
        addresses: vec![address],
        ready: true,
        serving: true,
        terminating: false,
        hostname: None,
        node: NodeName::new("n1").ok(),
        zone: None,
        hint_zones: Vec::new(),
        hint_nodes: Vec::new(),
        pod: None,
    };
    let port = |protocol: Protocol| EndpointPort {
        name: protocol.to_string().into(),
        protocol,
        port: Port::new(8080).ok(),
    };
    let slice = EndpointSlice {
        key: service.key.clone(),
        service: Some(service.key.name.clone()),
        source: SliceSource::EndpointSlice,
        family: V4,
        ports: PROTOCOLS.map(port).into(),
        endpoints: pods.iter().map(|(_, address)| endpoint(ip(address))).collect(),
    };
    [Fact::Service(service), Fact::EndpointSlice(slice)]
}

/// A node with two pods, and three services: `10.96.0.1` chooses anew for every connection, `10.96.0.2` once for each
/// client, `10.96.0.3` has nobody.
fn standard() -> Made {
    let name = NodeName::new("n1").unwrap();
    let net: ipnet::IpNet = "192.0.2.1/24".parse().unwrap();
    let mut node = Node::named(name.clone());
    node.addresses = vec![NodeAddress { ip: net.addr(), prefix: Some(net.prefix_len()) }];
    node.pod_cidrs =
        vec![NodeCidr { network: NetworkName::ordinary(), cidr: "10.0.0.0/24".parse().unwrap() }];
    let network = Network {
        pod_cidrs: vec!["10.0.0.0/16".parse().unwrap()],
        service_cidrs: vec!["10.96.0.0/16".parse().unwrap()],
        ..Network::ordinary()
    };
    let eth0 = HostLink { name: link("eth0"), router_advertisements: false, mtu: 1500, addresses: vec![net] };
    let host = Host { links: vec![eth0], ..Host::default() };
    let mut facts = vec![Fact::Host(host.clone()), Fact::Network(network), Fact::Node(node)];
    facts.extend(PODS.map(attachment));
    facts.extend(service(1, None, &PODS));
    facts.extend(service(2, Some(60), &PODS));
    facts.extend(service(3, None, &[]));
    Made { plan: compile(Settings::new(name.clone()), facts), name, host }
}

/// The same in the moment in which an endpoint has gone, and slots haven't yet.
fn without(mut made: Made, pod: &str) -> Made {
    let leads_there = |(key, entry): (&KernelKey, &weft_plan::Entry<KernelRow>)| match (key, &entry.value) {
        (KernelKey::Element(map, _), KernelRow::Element(element)) => {
            map.as_str() == "endpoint4" && element.data.iter().next() == Some(Atom::from(ip(pod)))
        }
        _ => false,
    };
    let gone: Vec<KernelKey> =
        made.plan.kernel.iter().filter(|row| leads_there(*row)).map(|(key, _)| key.clone()).collect();
    assert_eq!(gone.len(), 4);
    for key in gone {
        made.plan.kernel.remove(&key);
    }
    made
}

/// Dice that show these sides, one after the other.
struct Sides(Vec<u32>);

impl Random for Sides {
    fn pick(&mut self, modulus: u32) -> u32 {
        self.0.remove(0) % modulus
    }
}

/// Who answered.
fn pod(conversation: &Conversation) -> String {
    match &conversation.forward.outcome {
        Outcome::Delivered { seen, .. } if conversation.works() => seen.destination.to_string(),
        other => other.to_string(),
    }
}

#[test]
fn such_rules_are_sound() {
    assert_eq!(standard().plan.check(), Vec::<String>::new());
}

#[test]
fn a_service_leads_to_each_of_its_endpoints_and_back() {
    let nodes = [standard()];
    let world = world(&nodes);
    for start in [from_outside("n1"), from_node("n1")] {
        let source =
            if matches!(start, crate::oracle::Start::Node { .. }) { "192.0.2.1" } else { "192.0.2.9" };
        for packet in [tcp("10.96.0.1", 80), udp("10.96.0.1", 80)] {
            let pods =
                explore(9, |dice| pod(&Session::new(&world).converse(&start, packet.from(ip(source)), dice)));
            assert_eq!(pods, ["10.0.0.2", "10.0.0.3"], "{start:?}");
        }
    }
    // Another port is no service's.
    let other = trace(&world, &from_pod("n1", "a"), tcp("10.96.0.1", 81)).outcome;
    assert!(matches!(other, Outcome::Rejected { .. }), "{other}");
}

#[test]
fn a_client_stays_with_its_endpoint() {
    let nodes = [standard()];
    let world = world(&nodes);
    let mut session = Session::new(&world);
    let mut dice = Sides(vec![1, 0]);
    let mut connect = |client: &str, sport: u16| {
        let packet = crate::oracle::Packet { sport, ..tcp("10.96.0.2", 80) }.from(ip(client));
        pod(&session.converse(&from_outside("n1"), packet, &mut dice))
    };
    assert_eq!(connect("192.0.2.8", 1001), "10.0.0.3");
    // No dice are left but for one more client: the first one's choice is remembered.
    assert_eq!(connect("192.0.2.8", 1002), "10.0.0.3");
    assert_eq!(connect("192.0.2.9", 1001), "10.0.0.2");
    assert_eq!(connect("192.0.2.8", 1003), "10.0.0.3");
    assert_eq!(connect("192.0.2.9", 1002), "10.0.0.2");
}

#[test]
fn a_client_of_a_dead_endpoint_gets_another_and_stays_there() {
    let nodes = [without(standard(), "10.0.0.2")];
    let world = world(&nodes);
    let mut session = Session::new(&world);
    let mut dice = Sides(vec![0, 1]);
    let mut connect = |sport: u16| {
        let packet = crate::oracle::Packet { sport, ..tcp("10.96.0.2", 80) }.from(ip("192.0.2.8"));
        pod(&session.converse(&from_outside("n1"), packet, &mut dice))
    };
    assert!(connect(1001).starts_with("dropped on n1: chain services: counter drop"));
    assert_eq!(connect(1002), "10.0.0.3");
    assert_eq!(connect(1003), "10.0.0.3");
}

#[test]
fn what_is_deleted_has_data_to_be_read() {
    let delete = Statement::Delete { map: "client4".into(), key: CLIENT.to_vec(), data: Field::CtMark };
    let dropped = |priority| {
        let chain = vec![rule([delete.clone(), drop()])];
        let nodes = [standard().chain("early", HookKind::Prerouting, priority, chain)];
        let packet = tcp("192.0.2.1", 80).from(ip("192.0.2.9"));
        !trace(&world(&nodes), &from_outside("n1"), packet).outcome.is_delivered()
    };
    // Before connection tracking there is no mark.
    assert!(!dropped(-300));
    assert!(dropped(-150));
}

#[test]
fn a_connection_keeps_its_endpoint() {
    let nodes = [standard()];
    let world = world(&nodes);
    let mut session = Session::new(&world);
    let packet = tcp("10.96.0.1", 80).from(ip("192.0.2.9"));
    let mut sent = |side| pod(&session.converse(&from_outside("n1"), packet, &mut Fixed(side)));
    assert_eq!(sent(1), "10.0.0.3");
    assert_eq!(sent(0), "10.0.0.3", "the same connection, whatever the dice say now");
}

#[test]
fn a_service_without_endpoints_refuses() {
    let nodes = [standard()];
    let world = world(&nodes);
    for start in [from_pod("n1", "a"), from_node("n1")] {
        for packet in [tcp("10.96.0.3", 80), udp("10.96.0.3", 80)] {
            let outcome = trace(&world, &start, packet).outcome;
            assert!(matches!(outcome, Outcome::Rejected { .. }), "{outcome}");
        }
    }
}

#[test]
fn a_slot_without_its_endpoint_lets_nothing_pass() {
    let nodes = [without(standard(), "10.0.0.2")];
    let outcome = trace(&world(&nodes), &from_pod("n1", "b"), tcp("10.96.0.1", 80)).outcome;
    assert!(matches!(outcome, Outcome::Dropped { .. }), "{outcome}");
}

#[test]
fn the_first_destination_is_known_after_translation() {
    let is = |field, value| Statement::Match(field, Comparison::Is, value);
    let after = |statements: Vec<Statement>| {
        let nodes = [standard().chain("look", HookKind::Postrouting, 0, vec![rule(statements)])];
        converse(&world(&nodes), &from_outside("n1"), tcp("10.96.0.1", 80).from(ip("192.0.2.9")))
            .forward
            .outcome
    };
    let dropped = |statement: Statement| {
        let tcp_only = is(Field::L4Proto, Value::Byte(6));
        !after(vec![tcp_only, statement, drop()]).is_delivered()
    };
    assert!(dropped(is(Field::CtOriginalDaddr(V4), Value::Address(ip("10.96.0.1")))));
    assert!(dropped(is(Field::CtOriginalDaddr(V4), Value::Net("10.96.0.0/16".parse().unwrap()))));
    assert!(!dropped(is(Field::CtOriginalDaddr(V4), Value::Address(ip("10.0.0.2")))));
    assert!(!dropped(is(Field::CtOriginalDaddr(Family::V6), Value::Address(ip("fd00::1")))));
    assert!(dropped(is(Field::CtOriginalDport, Value::Port(80))));
    assert!(dropped(is(Field::Dport, Value::Port(8080))));
    assert!(dropped(is(Field::CtMarkMasked(CHOSEN), Value::Mark(CHOSEN))));
    assert!(!dropped(is(Field::CtMarkMasked(CHOSEN), Value::Mark(0))));
    assert!(!dropped(is(Field::FibSaddrType, Value::Local)));
}
