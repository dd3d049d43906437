//! Which health ports a node has, and what they say: facts in, lines of the plan out.

use weft_compile::{Compiler, ServiceSettings, Settings, compile};
use weft_model::{
    Change, Endpoint, EndpointPort, EndpointSlice, Fact, Family, Host, HostLink, IfName, NodeName, ObjectKey,
    Port, Protocol, Service, ServiceKind, ServicePort, SliceSource, TargetPort, TrafficPolicy,
};
use weft_plan::Plan;

fn port(number: u32) -> Port {
    Port::new(number).unwrap()
}

fn key(name: &str) -> ObjectKey {
    ObjectKey::new("shop", name).unwrap()
}

fn settings() -> Settings {
    Settings::new(NodeName::new("n1").unwrap())
}

/// A service of the one kind that has a health port, with two ports.
fn service(change: impl FnOnce(&mut Service)) -> Fact {
    let mut service = Service::named(key("web"));
    service.kind = ServiceKind::LoadBalancer;
    service.external_policy = TrafficPolicy::Local;
    service.health_check_node_port = Some(port(31_000));
    let of = |name: &str, number| ServicePort {
        name: name.into(),
        protocol: Protocol::Tcp,
        port: port(number),
        target: TargetPort::Number(port(number)),
        node_port: None,
    };
    service.ports = vec![of("http", 80), of("https", 443)];
    change(&mut service);
    Fact::Service(service)
}

/// A slice; its endpoints as `ADDRESS NODE`, with `not` behind one that isn't ready and `going` behind one on its way out.
fn slice(name: &str, family: Family, endpoints: &[&str]) -> Fact {
    let endpoint = |text: &&str| {
        let words: Vec<&str> = text.split(' ').collect();
        let going = words.contains(&"going");
        Endpoint {
            addresses: vec![words[0].parse().unwrap()],
            ready: !going && !words.contains(&"not"),
            serving: true,
            terminating: going,
            hostname: None,
            node: Some(NodeName::new(words[1]).unwrap()),
            zone: None,
            hint_zones: Vec::new(),
            hint_nodes: Vec::new(),
            pod: None,
        }
    };
    let of = |name: &str, number| EndpointPort {
        name: name.into(),
        protocol: Protocol::Tcp,
        port: Some(port(number)),
    };
    Fact::EndpointSlice(EndpointSlice {
        key: key(name),
        service: Some(key("web").name),
        source: SliceSource::EndpointSlice,
        family,
        ports: [of("http", 8080), of("https", 8443)].into(),
        endpoints: endpoints.iter().map(endpoint).collect(),
    })
}

/// Health ports, their openings, and what is said of services.
fn lines(plan: &Plan) -> Vec<String> {
    assert_eq!(plan.check(), Vec::<String>::new());
    let text = plan.to_string();
    let ours =
        |line: &&str| ["health ", "opening input tcp", "warning service"].iter().any(|w| line.starts_with(w));
    // That these services have no cluster address is warned of too, and another matter.
    text.lines().filter(ours).filter(|line| !line.contains("spec.clusterIP")).map(str::to_owned).collect()
}

#[track_caller]
fn check_with(settings: Settings, facts: Vec<Fact>, expected: &[&str]) {
    assert_eq!(lines(&compile(settings, facts)), expected);
}

#[track_caller]
fn check(facts: Vec<Fact>, expected: &[&str]) {
    check_with(settings(), facts, expected);
}

const OPENING: &str = "opening input tcp dport 31000";

#[test]
fn ready_endpoints_of_this_node_are_counted() {
    let count = |family, endpoints: &[&str], expected: u32| {
        let facts = vec![service(|s| s.families = Family::ALL.to_vec()), slice("web-1", family, endpoints)];
        check(facts, &[OPENING, &format!("health 31000 of shop/web local endpoints {expected}")]);
    };
    count(Family::V4, &[], 0);
    count(Family::V4, &["10.1.0.1 n1", "10.2.0.1 n2", "10.1.0.2 n1"], 2);
    count(Family::V6, &["fd00::1 n1"], 1);
    count(Family::V4, &["10.1.0.1 n1 not", "10.1.0.2 n1"], 1);
    // Those on their way out still serve who comes by, and ask for nobody more.
    count(Family::V4, &["10.1.0.1 n1 going"], 0);
    // An endpoint with an address of each family is one.
    let both = vec![
        service(|s| s.families = Family::ALL.to_vec()),
        slice("web-4", Family::V4, &["10.1.0.1 n1", "10.1.0.2 n1"]),
        slice("web-6", Family::V6, &["fd00::1 n1", "fd00::2 n1"]),
    ];
    check(both, &[OPENING, "health 31000 of shop/web local endpoints 2"]);
}

#[test]
fn only_services_that_keep_to_the_node_are_asked_for() {
    let none = |change: fn(&mut Service)| {
        check(vec![service(change), slice("web-1", Family::V4, &["10.1.0.1 n1"])], &[]);
    };
    none(|s| s.external_policy = TrafficPolicy::Cluster);
    none(|s| s.kind = ServiceKind::NodePort);
    none(|s| s.health_check_node_port = None);
    none(|s| s.headless = true);
    none(|s| s.labels = [("service.kubernetes.io/service-proxy-name", "other")].into_iter().collect());
    none(|s| s.labels = [("service.kubernetes.io/headless", "")].into_iter().collect());
    check_with(Settings { services: None, ..settings() }, vec![service(|_| {})], &[]);
}

#[test]
fn a_port_of_the_agents_own_stays_its_own() {
    let settings = Settings { open_ports: vec![(Protocol::Tcp, port(31_000))], ..settings() };
    let warning = "warning service shop/web: healthCheckNodePort 31000 is a port of the node's own agent; give the \
                   service another one";
    check_with(settings, vec![service(|_| {})], &[OPENING, warning]);
}

#[test]
fn one_port_is_one_services() {
    let other = service(|s| s.key = key("also"));
    let warning = "warning service shop/web: healthCheckNodePort 31000 is given to service shop/also already; it is left \
                   out until that goes";
    check(vec![service(|_| {}), other], &[OPENING, "health 31000 of shop/also local endpoints 0", warning]);
}

/// The first by name has the port, whatever it wants it for.
#[test]
fn a_node_port_and_a_health_port_are_one_place() {
    let node_port = |name: &str, protocol| {
        service(|s| {
            s.key = key(name);
            s.kind = ServiceKind::NodePort;
            s.cluster_ips = Vec::new();
            (s.ports[0].node_port, s.ports[0].protocol) = (Some(port(31_000)), protocol);
        })
    };
    let mut compiler = Compiler::new(settings());
    let mut plan = Plan::default();
    let mut lines_after = |changes: Vec<Change>| {
        for change in changes {
            compiler.apply(change);
        }
        compiler.flush(&mut plan);
        let node_port =
            plan.to_string().lines().filter(|line| line.contains("192.0.2.1 . tcp . 31000")).count();
        (node_port, lines(&plan).join("\n"))
    };
    let link = HostLink {
        name: IfName::new("eth0").unwrap(),
        mtu: 1500,
        router_advertisements: false,
        addresses: vec!["192.0.2.1/24".parse().unwrap()],
    };
    let host = Change::set(Fact::Host(Host { links: vec![link], ..Host::default() }));
    let asked = format!("{OPENING}\nhealth 31000 of shop/web local endpoints 0");
    assert_eq!(lines_after(vec![host, Change::set(service(|_| {}))]), (0, asked.clone()));
    let first = "warning service shop/web: healthCheckNodePort 31000 is given to service shop/also already; it is left out \
                 until that goes";
    assert_eq!(lines_after(vec![Change::set(node_port("also", Protocol::Tcp))]), (1, first.to_owned()));
    assert_eq!(lines_after(vec![Change::set(node_port("also", Protocol::Udp))]), (0, asked.clone()));
    let later = "warning service shop/zzz: node port 31000/tcp is given to service shop/web already; it is left out until \
                 that goes";
    let with_later = Change::set(node_port("zzz", Protocol::Tcp));
    assert_eq!(lines_after(vec![with_later]), (0, format!("{asked}\n{later}")));
    let gone = |name| Change::Remove(weft_model::FactKey::Service(key(name)));
    assert_eq!(lines_after(vec![gone("web")]), (1, String::new()));
    let twice = Change::set(service(|s| s.ports[0].node_port = Some(port(31_000))));
    let own =
        "warning service shop/web: healthCheckNodePort 31000 is its own node port too; give it another one";
    assert_eq!(lines_after(vec![gone("zzz"), twice]), (1, own.to_owned()));
}

#[test]
fn it_is_answered_where_node_ports_are() {
    let services = ServiceSettings {
        node_port_addresses: vec!["192.0.2.0/24".parse().unwrap(), "2001:db8::/32".parse().unwrap()],
        ..ServiceSettings::default()
    };
    let mut compiler = Compiler::new(Settings { services: Some(services), ..settings() });
    let mut plan = Plan::default();
    let mut check = |change: Change, expected: &str| {
        compiler.apply(change);
        compiler.flush(&mut plan);
        assert_eq!(lines(&plan), [OPENING, expected]);
    };
    check(Change::set(service(|_| {})), "health 31000 at no address of shop/web local endpoints 0");
    let host = |addresses: &[&str]| {
        let link = HostLink {
            name: IfName::new("eth0").unwrap(),
            mtu: 1500,
            router_advertisements: false,
            addresses: addresses.iter().map(|text| text.parse().unwrap()).collect(),
        };
        Change::set(Fact::Host(Host { links: vec![link], loopback: vec!["192.0.2.9".parse().unwrap()] }))
    };
    check(
        host(&["192.0.2.1/24", "198.51.100.1/24", "2001:db8::1/64"]),
        "health 31000 at 192.0.2.1, 192.0.2.9, 2001:db8::1 of shop/web local endpoints 0",
    );
    check(host(&[]), "health 31000 at 192.0.2.9 of shop/web local endpoints 0");
}

#[test]
fn one_changed_endpoint_is_one_changed_row() {
    let mut compiler = Compiler::new(settings());
    let mut plan = Plan::default();
    let mut step = |changes: Vec<Change>| {
        for change in changes {
            compiler.apply(change);
        }
        compiler.flush(&mut plan);
        let kernel = plan.kernel.take_changed().len();
        (lines(&plan), plan.health.take_changed().len(), kernel)
    };
    let other = service(|s| (s.key, s.health_check_node_port) = (key("also"), Some(port(31_001))));
    step(vec![Change::set(service(|_| {})), Change::set(other)]);
    let changed = |count: u32, rows| {
        let of = |port, name, count| format!("health {port} of shop/{name} local endpoints {count}");
        let openings = [OPENING.to_owned(), "opening input tcp dport 31001".to_owned()];
        let ports = [of(31_000, "web", count), of(31_001, "also", 0)];
        ([openings, ports].concat(), rows, 0)
    };
    let here = slice("web-1", Family::V4, &["10.1.0.1 n1"]);
    assert_eq!(step(vec![Change::set(here.clone())]), changed(1, 1));
    // One on another node is no news here.
    assert_eq!(step(vec![Change::set(slice("web-2", Family::V4, &["10.2.0.1 n2"]))]), changed(1, 0));
    assert_eq!(step(vec![Change::Remove(here.key())]), changed(0, 1));
    let (lines, ports, openings) = step(vec![Change::Remove(service(|_| {}).key())]);
    assert_eq!((lines.len(), ports, openings), (2, 1, 1));
}
