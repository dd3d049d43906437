//! Facts in, names out.

use proptest::prelude::*;
use weft_model::{
    Change, Endpoint, EndpointPort, EndpointSlice, Fact, FactKey, Family, Namespace, NamespaceName, Network,
    Node, NodeCidr, NodeName, ObjectKey, ObjectName, Pod, Port, Protocol, Service, ServiceCidr, ServiceKind,
    ServicePort, SliceSource, TargetPort,
};
use weft_plan::{DnsName, NameRow, Plan};

use crate::Compiler;
use crate::settings::{PodNames, Settings};

fn key(name: &str) -> ObjectKey {
    ObjectKey::new("prod", name).unwrap()
}

fn settings(pod_names: PodNames) -> Settings {
    let mut settings = Settings::new(NodeName::new("n1").unwrap());
    settings.dns.zone = DnsName::new("k8s");
    settings.dns.addresses = vec!["10.96.0.10".parse().unwrap(), "169.254.20.10".parse().unwrap()];
    settings.dns.pod_names = pod_names;
    settings
}

fn service(name: &str, change: impl FnOnce(&mut Service)) -> Fact {
    let mut service = Service::named(key(name));
    change(&mut service);
    Fact::Service(service)
}

fn port(name: &str, protocol: Protocol, number: u32) -> ServicePort {
    let port = Port::new(number).unwrap();
    ServicePort { name: name.into(), protocol, port, target: TargetPort::Number(port), node_port: None }
}

fn headless(name: &str, change: impl FnOnce(&mut Service)) -> Fact {
    service(name, |service| {
        service.headless = true;
        change(service);
    })
}

/// An endpoint: `ADDRESS`, `ADDRESS=HOSTNAME`, and with a `!` before it one that isn't ready.
fn endpoint(text: &str) -> Endpoint {
    let ready = !text.starts_with('!');
    let (ip, hostname) = match text.trim_start_matches('!').split_once('=') {
        Some((ip, hostname)) => (ip, Some(hostname.into())),
        None => (text.trim_start_matches('!'), None),
    };
    Endpoint {
        addresses: vec![ip.parse().unwrap()],
        ready,
        serving: ready,
        terminating: false,
        hostname,
        node: None,
        zone: None,
        hint_zones: Vec::new(),
        hint_nodes: Vec::new(),
        pod: None,
    }
}

fn slice(name: &str, service: &str, ports: &[(&str, u32)], endpoints: &[&str]) -> Fact {
    let endpoints: Vec<Endpoint> = endpoints.iter().map(|text| endpoint(text)).collect();
    let family = endpoints.first().map_or(Family::V4, |e| Family::of(e.addresses[0]));
    let port = |(name, number): &(&str, u32)| EndpointPort {
        name: (*name).into(),
        protocol: Protocol::Tcp,
        port: Port::new(*number).ok(),
    };
    Fact::EndpointSlice(EndpointSlice {
        key: key(name),
        service: Some(ObjectName::new(service).unwrap()),
        source: SliceSource::EndpointSlice,
        family,
        ports: ports.iter().map(port).collect(),
        endpoints: endpoints.into(),
    })
}

fn pod(name: &str, ips: &[&str], change: impl FnOnce(&mut Pod)) -> Fact {
    let mut pod = Pod::named(key(name));
    pod.ips = ips.iter().map(|ip| ip.parse().unwrap()).collect();
    pod.ready = true;
    change(&mut pod);
    Fact::Pod(pod)
}

fn compile(settings: Settings, facts: Vec<Fact>) -> Plan {
    let mut compiler = Compiler::with_rules(settings, super::all());
    let mut plan = Plan::default();
    for fact in facts {
        compiler.apply(Change::set(fact));
    }
    compiler.flush(&mut plan);
    plan
}

/// The plan's names but those of the zone itself, and its warnings, a line each.
fn names(facts: Vec<Fact>) -> String {
    listing(&compile(settings(PodNames::Disabled), facts))
}

fn listing(plan: &Plan) -> String {
    let own = compile(settings(PodNames::Disabled), Vec::new());
    let all = plan.to_string();
    let own = own.to_string();
    let lines =
        all.lines().filter(|line| !own.lines().any(|o| o == *line) && *line != "name prod.svc.k8s. (exists)");
    lines.map(|line| line.strip_prefix("name ").unwrap_or(line)).collect::<Vec<_>>().join("\n")
}

#[test]
fn the_zone_exists_without_any_fact() {
    let plan = compile(settings(PodNames::Insecure), Vec::new());
    insta::assert_snapshot!(plan, @r#"
    name dns-version.k8s. TXT "1.1.0"
    name dns.k8s. (exists)
    name k8s. NS ns.dns.k8s. (zone of ns.dns.k8s., mailbox hostmaster.k8s., ttl 5)
    name ns.dns.k8s. A 10.96.0.10, A 169.254.20.10
    name pod.k8s. (exists)
    name svc.k8s. (exists)
    "#);
    let mut nameless = settings(PodNames::Insecure);
    nameless.dns.addresses.clear();
    let facts =
        vec![Fact::Namespace(Namespace::named(NamespaceName::new("prod").unwrap())), service("web", |_| {})];
    assert!(compile(nameless, facts.clone()).names.is_empty());
    for wrong in ["", "cluster..local"] {
        let mut settings = settings(PodNames::Insecure);
        settings.dns.zone = DnsName::new(wrong);
        let warning = format!("warning node n1: the cluster domain \"{wrong}\" is no domain name; ");
        let plan = compile(settings, facts.clone()).to_string();
        assert!(plan.starts_with(&warning) && plan.lines().count() == 1, "{plan}");
    }
}

#[test]
fn a_service_has_addresses_and_ports() {
    let web = service("web", |service| {
        service.cluster_ips = vec!["10.96.0.1".parse().unwrap(), "fd00::1".parse().unwrap()];
        service.ports = vec![port("http", Protocol::Tcp, 80), port("dns", Protocol::Udp, 53)];
    });
    // Endpoints of a service with virtual addresses have no names.
    let facts = vec![web, slice("web-1", "web", &[("http", 8080)], &["10.1.0.1=a"])];
    insta::assert_snapshot!(names(facts), @r"
    1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa. PTR web.prod.svc.k8s.
    1.0.96.10.in-addr.arpa. PTR web.prod.svc.k8s.
    _dns._udp.web.prod.svc.k8s. SRV 0 100 53 web.prod.svc.k8s.
    _http._tcp.web.prod.svc.k8s. SRV 0 100 80 web.prod.svc.k8s.
    _tcp.web.prod.svc.k8s. (exists)
    _udp.web.prod.svc.k8s. (exists)
    web.prod.svc.k8s. A 10.96.0.1, AAAA fd00::1, SRV 0 100 53 web.prod.svc.k8s., SRV 0 100 80 web.prod.svc.k8s.
    ");
}

#[test]
fn an_unnamed_port_is_found_at_the_service_only() {
    let web = service("web", |service| {
        service.cluster_ips = vec!["10.96.0.1".parse().unwrap()];
        service.ports = vec![port("", Protocol::Tcp, 80)];
    });
    insta::assert_snapshot!(names(vec![web]), @r"
    1.0.96.10.in-addr.arpa. PTR web.prod.svc.k8s.
    web.prod.svc.k8s. A 10.96.0.1, SRV 0 100 80 web.prod.svc.k8s.
    ");
}

#[test]
fn a_headless_service_has_its_endpoints() {
    let facts = vec![
        headless("db", |_| {}),
        slice("db-1", "db", &[("pg", 5432)], &["10.1.0.1=db-0", "10.1.0.2", "!10.1.0.3=db-2"]),
        slice("db-2", "db", &[("pg", 5433)], &["2001:db8::1"]),
    ];
    insta::assert_snapshot!(names(facts), @r"
    1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa. PTR 2001-db8--1.db.prod.svc.k8s.
    1.0.1.10.in-addr.arpa. PTR db-0.db.prod.svc.k8s.
    10-1-0-2.db.prod.svc.k8s. A 10.1.0.2
    2.0.1.10.in-addr.arpa. PTR 10-1-0-2.db.prod.svc.k8s.
    2001-db8--1.db.prod.svc.k8s. AAAA 2001:db8::1
    _pg._tcp.db.prod.svc.k8s. SRV 0 100 5432 10-1-0-2.db.prod.svc.k8s., SRV 0 100 5432 db-0.db.prod.svc.k8s., SRV 0 100 5433 2001-db8--1.db.prod.svc.k8s.
    _tcp.db.prod.svc.k8s. (exists)
    db-0.db.prod.svc.k8s. A 10.1.0.1
    db.prod.svc.k8s. A 10.1.0.1, A 10.1.0.2, AAAA 2001:db8::1, SRV 0 100 5432 10-1-0-2.db.prod.svc.k8s., SRV 0 100 5432 db-0.db.prod.svc.k8s., SRV 0 100 5433 2001-db8--1.db.prod.svc.k8s.
    ");
}

#[test]
fn a_headless_service_without_ready_endpoints_has_no_name() {
    let check = |facts: Vec<Fact>| assert_eq!(names(facts), "");
    check(vec![headless("db", |_| {})]);
    check(vec![headless("db", |_| {}), slice("db-1", "db", &[("pg", 5432)], &["!10.1.0.1"])]);
    check(vec![slice("db-1", "db", &[("pg", 5432)], &["10.1.0.1"])]);
    let early = headless("db", |service| service.publish_not_ready = true);
    let found = names(vec![early, slice("db-1", "db", &[], &["!10.1.0.1"])]);
    assert!(found.contains("db.prod.svc.k8s. A 10.1.0.1") && !found.contains("SRV"), "{found}");
}

#[test]
fn endpoints_of_one_hostname_share_it_and_an_address_has_a_name_in_each_service() {
    let facts = vec![
        headless("a", |_| {}),
        headless("b", |_| {}),
        slice("a-1", "a", &[], &["10.1.0.1=twin", "10.1.0.2=Twin"]),
        slice("b-1", "b", &[], &["10.1.0.1"]),
    ];
    insta::assert_snapshot!(names(facts), @r"
    1.0.1.10.in-addr.arpa. PTR 10-1-0-1.b.prod.svc.k8s., PTR twin.a.prod.svc.k8s.
    10-1-0-1.b.prod.svc.k8s. A 10.1.0.1
    2.0.1.10.in-addr.arpa. PTR twin.a.prod.svc.k8s.
    a.prod.svc.k8s. A 10.1.0.1, A 10.1.0.2
    b.prod.svc.k8s. A 10.1.0.1
    twin.a.prod.svc.k8s. A 10.1.0.1, A 10.1.0.2
    ");
}

#[test]
fn a_virtual_address_has_one_name() {
    let facts = vec![
        headless("a", |_| {}),
        slice("a-1", "a", &[], &["10.96.0.1"]),
        service("web", |service| service.cluster_ips = vec!["10.96.0.1".parse().unwrap()]),
    ];
    assert!(names(facts).contains("1.0.96.10.in-addr.arpa. PTR web.prod.svc.k8s.\n"));
}

#[test]
fn pods_with_hostname_and_subdomain_are_found_without_slices() {
    let labels = || [("app", "db")].into_iter().collect();
    let facts = vec![
        headless("db", |service| service.selector = Some(labels())),
        pod("db-0", &["10.1.0.1"], |pod| {
            pod.labels = labels();
            pod.hostname = Some("db-0".into());
            pod.subdomain = Some("db".into());
        }),
        pod("db-1", &["10.1.0.2"], |pod| {
            pod.labels = labels();
            pod.ready = false;
        }),
    ];
    insta::assert_snapshot!(names(facts), @r"
    1.0.1.10.in-addr.arpa. PTR db-0.db.prod.svc.k8s.
    db-0.db.prod.svc.k8s. A 10.1.0.1
    db.prod.svc.k8s. A 10.1.0.1
    ");
}

#[test]
fn an_external_name_is_an_alias_for_a_name() {
    let external = |target: &str| service("out", |s| s.kind = ServiceKind::ExternalName(target.into()));
    assert_eq!(names(vec![external("WWW.example.com.")]), "out.prod.svc.k8s. CNAME www.example.com.");
    insta::assert_snapshot!(names(vec![external("10.0.0.1")]), @"warning service prod/out: externalName 10.0.0.1 is an address, and an alias leads to a name; use a headless service with endpoints instead");
    insta::assert_snapshot!(names(vec![external("a..b")]), @r#"warning service prod/out: externalName "a..b" is no domain name; the service has no name until it is one"#);
}

#[test]
fn a_hostname_that_is_no_label_is_passed_over() {
    let facts = vec![headless("a", |_| {}), slice("a-1", "a", &[], &["10.1.0.1=x.y"])];
    insta::assert_snapshot!(names(facts), @r#"
    1.0.1.10.in-addr.arpa. PTR 10-1-0-1.a.prod.svc.k8s.
    10-1-0-1.a.prod.svc.k8s. A 10.1.0.1
    a.prod.svc.k8s. A 10.1.0.1
    warning service prod/a: hostname "x.y" of an endpoint is no label; its address is its name
    "#);
}

#[test]
fn pods_names_follow_the_setting() {
    let facts = || {
        vec![
            Fact::Namespace(Namespace::named(NamespaceName::new("empty").unwrap())),
            pod("a", &["10.1.0.1", "fd00::1"], |_| {}),
            pod("done", &["10.1.0.9"], |pod| pod.finished = true),
        ]
    };
    let check = |setting| listing(&compile(settings(setting), facts()));
    insta::assert_snapshot!(check(PodNames::Disabled), @"empty.svc.k8s. (exists)");
    insta::assert_snapshot!(check(PodNames::Insecure), @r"
    empty.pod.k8s. (exists) (dashed addresses below)
    empty.svc.k8s. (exists)
    prod.pod.k8s. (exists) (dashed addresses below)
    ");
    insta::assert_snapshot!(check(PodNames::Verified), @r"
    10-1-0-1.prod.pod.k8s. A 10.1.0.1
    empty.pod.k8s. (exists)
    empty.svc.k8s. (exists)
    fd00--1.prod.pod.k8s. AAAA fd00::1
    prod.pod.k8s. (exists)
    ");
}

#[test]
fn reverse_zones_follow_networks_and_nodes() {
    let mut network = Network::ordinary();
    network.pod_cidrs = vec!["10.244.0.0/16".parse().unwrap()];
    network.service_cidrs = vec!["10.96.0.0/15".parse().unwrap()];
    let mut node = Node::named(NodeName::new("n2").unwrap());
    node.pod_cidrs = ["10.244.7.0/24", "fd00:7::/64"]
        .map(|cidr| NodeCidr { network: network.name.clone(), cidr: cidr.parse().unwrap() })
        .to_vec();
    let node = Fact::Node(node);
    insta::assert_snapshot!(names(vec![Fact::Network(network), node.clone()]), @r"
    0.0.0.0.0.0.0.0.7.0.0.0.0.0.d.f.ip6.arpa. (exists) (zone of ns.dns.k8s., mailbox hostmaster.k8s., ttl 5) (names of fewer than 16 labels exist below)
    244.10.in-addr.arpa. (exists) (zone of ns.dns.k8s., mailbox hostmaster.k8s., ttl 5) (names of fewer than 2 labels exist below)
    96.10.in-addr.arpa. (exists) (zone of ns.dns.k8s., mailbox hostmaster.k8s., ttl 5) (names of fewer than 2 labels exist below)
    97.10.in-addr.arpa. (exists) (zone of ns.dns.k8s., mailbox hostmaster.k8s., ttl 5) (names of fewer than 2 labels exist below)
    ");
    let blocks = ServiceCidr {
        name: ObjectName::new("more").unwrap(),
        cidrs: ["10.97.0.0/16", "fd00:96::/112"].map(|cidr| cidr.parse().unwrap()).to_vec(),
    };
    insta::assert_snapshot!(names(vec![Fact::ServiceCidr(blocks)]), @r"
    0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.6.9.0.0.0.0.d.f.ip6.arpa. (exists) (zone of ns.dns.k8s., mailbox hostmaster.k8s., ttl 5) (names of fewer than 4 labels exist below)
    97.10.in-addr.arpa. (exists) (zone of ns.dns.k8s., mailbox hostmaster.k8s., ttl 5) (names of fewer than 2 labels exist below)
    ");
    insta::assert_snapshot!(names(vec![node]), @r"
    0.0.0.0.0.0.0.0.7.0.0.0.0.0.d.f.ip6.arpa. (exists) (zone of ns.dns.k8s., mailbox hostmaster.k8s., ttl 5) (names of fewer than 16 labels exist below)
    7.244.10.in-addr.arpa. (exists) (zone of ns.dns.k8s., mailbox hostmaster.k8s., ttl 5) (names of fewer than 1 labels exist below)
    ");
}

#[test]
fn one_changed_endpoint_touches_its_own_names_only() {
    let many: Vec<String> = (0..100).map(|i| format!("10.1.0.{i}")).collect();
    let texts: Vec<&str> = many.iter().map(String::as_str).collect();
    let mut compiler = Compiler::with_rules(settings(PodNames::Insecure), super::all());
    let mut plan = Plan::default();
    for fact in [
        headless("a", |_| {}),
        headless("b", |_| {}),
        slice("a-1", "a", &[("p", 1)], &texts),
        slice("b-1", "b", &[], &texts),
    ] {
        compiler.apply(Change::set(fact));
    }
    compiler.flush(&mut plan);
    plan.names.take_changed();
    compiler.apply(Change::set(slice("a-1", "a", &[("p", 1)], &texts[1..])));
    compiler.flush(&mut plan);
    let mut changed: Vec<String> = plan.names.take_changed().iter().map(|row| row.key.to_string()).collect();
    changed.sort();
    assert_eq!(
        changed,
        ["0.0.1.10.in-addr.arpa.", "10-1-0-0.a.prod.svc.k8s.", "_p._tcp.a.prod.svc.k8s.", "a.prod.svc.k8s."]
    );
}

/// Names with their rows and the facts behind them, in order.
fn rows(plan: &Plan) -> Vec<(&DnsName, &NameRow, &FactKey)> {
    plan.names.sorted().into_iter().map(|(name, entry)| (name, &entry.value, &*entry.origin)).collect()
}

/// Changes of a small world in which much collides.
fn changes() -> impl Strategy<Value = Change> {
    let name = || prop::sample::select(vec!["a", "b"]);
    let ip = || prop::sample::select(vec!["10.1.0.1", "!10.1.0.1", "10.1.0.2=h", "10.1.0.1=h", "fd00::1"]);
    let services = (name(), 0..4).prop_map(|(name, kind)| {
        service(name, |service| {
            service.headless = kind == 0 || kind == 1;
            service.publish_not_ready = kind == 1;
            match kind {
                2 => service.cluster_ips = vec!["10.1.0.1".parse().unwrap()],
                3 => service.kind = ServiceKind::ExternalName("x.example".into()),
                _ => service.selector = Some([("app", name)].into_iter().collect()),
            }
            service.ports = vec![port("p", Protocol::Tcp, 80)];
        })
    });
    let slices = (name(), name(), prop::collection::vec(ip(), 0..3))
        .prop_map(|(name, service, endpoints)| slice(name, service, &[("p", 80)], &endpoints));
    let pods = (name(), name(), any::<bool>()).prop_map(|(name, label, ready)| {
        pod(name, &["10.1.0.1"], |pod| {
            pod.labels = [("app", label)].into_iter().collect();
            pod.ready = ready;
        })
    });
    let nodes = prop::sample::select(vec!["10.1.0.0/24", "10.1.0.0/25", "10.1.0.128/25"]).prop_map(|cidr| {
        let mut node = Node::named(NodeName::new(&cidr.replace(['.', '/'], "-")).unwrap());
        let network = Network::ordinary().name;
        node.pod_cidrs = vec![NodeCidr { network, cidr: cidr.parse().unwrap() }];
        Fact::Node(node)
    });
    let networks = any::<bool>().prop_map(|has_block| {
        let mut network = Network::ordinary();
        network.pod_cidrs = has_block.then(|| "10.1.0.0/16".parse().unwrap()).into_iter().collect();
        Fact::Network(network)
    });
    let namespaces = Just(Fact::Namespace(Namespace::named(NamespaceName::new("prod").unwrap())));
    let fact = prop_oneof![3 => services, 3 => slices, 2 => pods, 1 => nodes, 1 => networks, 1 => namespaces];
    (fact, 0..4).prop_map(|(fact, remove)| match remove {
        0 => Change::Remove(fact.key()),
        _ => Change::set(fact),
    })
}

proptest! {
    /// However the facts came, with flushes in between: the names are those of the facts at the end.
    #[test]
    fn history_does_not_matter(history in prop::collection::vec((changes(), any::<bool>()), 0..30), setting in 0usize..3) {
        let setting = [PodNames::Disabled, PodNames::Insecure, PodNames::Verified][setting];
        let mut compiler = Compiler::with_rules(settings(setting), super::all());
        let mut plan = Plan::default();
        let mut facts = std::collections::BTreeMap::<FactKey, Fact>::new();
        for (change, flush) in history {
            match &change {
                Change::Set(fact) => drop(facts.insert(fact.key(), (**fact).clone())),
                Change::Remove(key) => drop(facts.remove(key)),
            }
            compiler.apply(change);
            if flush {
                compiler.flush(&mut plan);
            }
        }
        compiler.flush(&mut plan);
        let scratch = compile(settings(setting), facts.into_values().rev().collect());
        prop_assert_eq!(plan.to_string(), scratch.to_string());
        prop_assert_eq!(rows(&plan), rows(&scratch));
        // Nothing hangs in the air (RFC 8020): the name above a name that is no zone has a row.
        for (name, entry) in plan.names.iter() {
            let above = name.parent().and_then(|parent| plan.names.get(&parent));
            let computed = name.as_str().ends_with(".arpa");
            prop_assert!(entry.value.zone.is_some() || computed || above.is_some(), "{}", name);
        }
    }
}
