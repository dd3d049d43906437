//! Tunnels, routes, rules, neighbours and sysctls on the real kernel; the watch over them; and leaving no trace.

mod support;

use std::net::IpAddr;
use std::time::{Duration, Instant};

use support::{inside, run};
use weft_dataplane::fake::rows;
use weft_dataplane::{Executor, LinuxKernel, Monitor, Notification, observe_host};
use weft_model::{Cidr, FactKey, IfName, Mac, Port, Vni};
use weft_plan::filter::Element;
use weft_plan::kernel::{LOCAL_TABLE, LinkKind, MAIN_TABLE, POD_TABLE};
use weft_plan::{
    Atom, Fdb, Ident, KernelKey, KernelRow, Link, Neighbour, Opening, Plan, PolicyRule, Route, RouteKey,
    RouteKind, SetSpec, Type, VxlanLink,
};

struct Node {
    executor: Executor<LinuxKernel>,
    plan: Plan,
    _state: tempfile::TempDir,
}

impl Node {
    /// A node with an uplink; 192.0.2.1 and 2001:db8::1 are its addresses, 192.0.2.2 its second.
    fn new() -> Self {
        run("ip link add uplink type veth peer name outside");
        for address in ["192.0.2.1/24", "192.0.2.2/24"] {
            run(&format!("ip addr add {address} dev uplink"));
        }
        run("ip addr add 2001:db8::1/64 dev uplink nodad");
        run("ip link set uplink up");
        run("ip link set outside up");
        run("ip route add default via 192.0.2.254");
        let state = tempfile::tempdir().unwrap();
        Node {
            executor: Executor::new(LinuxKernel::open(state.path()).unwrap()),
            plan: Plan::default(),
            _state: state,
        }
    }

    fn set(&mut self, key: KernelKey, row: KernelRow) {
        self.plan.kernel.set(key, row, FactKey::Host);
    }

    fn tunnel(&mut self, port: u32, local: &str) {
        let link = Link {
            kind: LinkKind::Vxlan(VxlanLink {
                vni: Vni::new(9).unwrap(),
                port: Port::new(port).unwrap(),
                local: local.parse().unwrap(),
                mac: Mac::derived("node-1"),
                mtu: 1450,
            }),
            alias: "weft:default".into(),
        };
        self.set(KernelKey::Link(tunnel()), KernelRow::Link(Box::new(link)));
    }

    fn route(&mut self, table: u32, destination: &str, route: Route) {
        let key = RouteKey { table, destination: destination.parse().unwrap(), metric: 0 };
        self.set(KernelKey::Route(key), KernelRow::Route(route));
    }

    fn peer(&mut self, n: u16) {
        let [high, low] = n.to_be_bytes();
        let mac = Mac([2, 0, 0, 1, high, low]);
        let vtep = IpAddr::from([10, high + 64, low, 0]);
        let destination = IpAddr::from([198, 18, high, low]);
        self.set(KernelKey::Fdb(tunnel(), mac), KernelRow::Fdb(Fdb { destination }));
        self.set(KernelKey::Neighbour(tunnel(), vtep), KernelRow::Neighbour(Neighbour { mac }));
        let destination = Cidr::around(vtep, 24).to_string();
        self.route(MAIN_TABLE, &destination, via(vtep));
    }

    fn sync(&mut self) -> usize {
        let outcome = self.executor.sync(&self.plan).unwrap();
        assert!(outcome.failed.is_empty(), "{:?}", outcome.failed);
        outcome.applied
    }

    fn step(&mut self) -> u64 {
        let changed = self.plan.kernel.take_changed();
        let outcome = self.executor.step(&self.plan, changed).unwrap();
        assert!(outcome.failed.is_empty(), "{:?}", outcome.failed);
        outcome.messages
    }
}

fn tunnel() -> IfName {
    IfName::new("weftx9").unwrap()
}

fn via(address: IpAddr) -> Route {
    Route { kind: RouteKind::Unicast, link: Some(tunnel()), via: Some(address), onlink: true, source: None }
}

fn without_link(kind: RouteKind) -> Route {
    Route { kind, link: None, via: None, onlink: false, source: None }
}

/// A bit of everything.
fn furnish(node: &mut Node) {
    node.set(KernelKey::Sysctl("net/ipv4/ip_forward".into()), KernelRow::Sysctl("1".into()));
    node.tunnel(4789, "192.0.2.1");
    node.peer(1);
    node.peer(2);
    let local = Route { link: Some(IfName::loopback()), ..without_link(RouteKind::Local) };
    node.route(LOCAL_TABLE, "169.254.20.10/32", local);
    node.route(LOCAL_TABLE, "fd00:20::10/128", local);
    node.route(MAIN_TABLE, "10.244.0.0/24", without_link(RouteKind::Unreachable));
    node.route(MAIN_TABLE, "fd00:244::/64", without_link(RouteKind::Unreachable));
    let direct = |address: &str, link: &str, source: &str| Route {
        kind: RouteKind::Unicast,
        link: Some(IfName::new(link).unwrap()),
        via: Some(address.parse().unwrap()),
        onlink: false,
        source: Some(source.parse().unwrap()),
    };
    node.route(MAIN_TABLE, "10.244.7.0/24", direct("192.0.2.7", "uplink", "192.0.2.1"));
    node.route(MAIN_TABLE, "fd00:244:7::/64", direct("2001:db8::7", "uplink", "2001:db8::1"));
    node.route(POD_TABLE, "192.0.2.9/32", via(IpAddr::from([10, 64, 1, 0])));
    for from in ["10.244.0.0/24", "fd00:244::/64"] {
        let rule = PolicyRule {
            from: from.parse().unwrap(),
            table: POD_TABLE,
            priority: 1000,
            unless_mark: 0x80_0000,
        };
        node.set(KernelKey::Rule(rule), KernelRow::Rule);
    }
}

#[test]
fn every_kind_of_row_is_made_seen_and_made_once() {
    if !inside("every_kind_of_row_is_made_seen_and_made_once") {
        return;
    }
    let mut node = Node::new();
    furnish(&mut node);
    assert_eq!(node.sync(), node.plan.kernel.len());
    assert_eq!(node.sync(), 0, "a second sync has nothing to do");
    let shown = run("ip -4 route show table all proto 93") + &run("ip -6 route show table all proto 93");
    let mut lines: Vec<&str> = shown.lines().map(str::trim).collect();
    lines.sort_unstable();
    insta::assert_snapshot!(lines.join("\n"), @r"
    10.244.7.0/24 via 192.0.2.7 dev uplink src 192.0.2.1
    10.64.1.0/24 via 10.64.1.0 dev weftx9 onlink
    10.64.2.0/24 via 10.64.2.0 dev weftx9 onlink
    192.0.2.9 via 10.64.1.0 dev weftx9 table 9338 onlink
    fd00:244:7::/64 via 2001:db8::7 dev uplink src 2001:db8::1 metric 1024 pref medium
    local 169.254.20.10 dev lo table local scope host
    local fd00:20::10 dev lo table local metric 1024 pref medium
    unreachable 10.244.0.0/24
    unreachable fd00:244::/64 dev lo metric 1024 pref medium
    ");
    let rules = run("ip rule") + &run("ip -6 rule");
    assert!(rules.contains("1000:\tfrom 10.244.0.0/24 fwmark 0/0x800000 lookup 9338 proto 93"), "{rules}");
    assert!(rules.contains("1000:\tfrom fd00:244::/64 fwmark 0/0x800000 lookup 9338 proto 93"), "{rules}");
    let fdb = run("bridge fdb show dev weftx9");
    assert!(fdb.contains("02:00:00:01:00:01 dst 198.18.0.1 self permanent"), "{fdb}");
    let link = run("ip -d link show weftx9");
    for text in ["vxlan id 9 local 192.0.2.1", "dstport 4789 nolearning", "group 9338", "alias weft:default"]
    {
        assert!(link.contains(text), "{text}: {link}");
    }
}

#[test]
fn a_tunnel_changes_in_place_or_anew_with_all_its_peers() {
    if !inside("a_tunnel_changes_in_place_or_anew_with_all_its_peers") {
        return;
    }
    let mut node = Node::new();
    furnish(&mut node);
    node.sync();
    let index = || run("cat /sys/class/net/weftx9/ifindex");
    // The mount namespace shows the new network's links only after sysfs is mounted anew.
    run("mount -t sysfs none /sys");
    let before = index();
    node.tunnel(4789, "192.0.2.2");
    node.step();
    assert_eq!(index(), before, "another local address needs no other link");
    assert_eq!(node.sync(), 0);
    for (port, local) in [(8472, "192.0.2.2"), (8472, "2001:db8::1")] {
        if local.contains(':') {
            // Entries of the other family can't stay.
            let peers: Vec<KernelKey> = node.plan.kernel.iter().map(|(k, _)| k.clone()).collect();
            for key in peers.iter().filter(|key| matches!(key, KernelKey::Fdb(..))) {
                node.plan.kernel.remove(key);
            }
        }
        let before = index();
        node.tunnel(port, local);
        node.step();
        assert_ne!(index(), before);
        assert_eq!(node.sync(), 0, "the peers came back with the link");
    }
}

#[test]
fn foreign_rows_stay_and_ours_go_without_trace() {
    if !inside("foreign_rows_stay_and_ours_go_without_trace") {
        return;
    }
    let mut node = Node::new();
    run("ip route add 10.99.0.0/24 via 192.0.2.3");
    run("ip rule add from 10.99.0.0/24 lookup 77 priority 900");
    run("ip link add weftxforeign type veth peer name other");
    run("sysctl -w net.ipv4.ip_forward=0");
    let picture = || {
        let views = [
            "ip -4 route show table all",
            "ip -6 route show table all",
            "ip rule",
            "ip -6 rule",
            "ip -br link",
        ];
        let text: String = views.iter().map(|line| run(line)).collect();
        text + &run("sysctl net.ipv4.ip_forward")
    };
    let before = picture();
    furnish(&mut node);
    node.sync();
    assert_ne!(picture(), before);
    // As another process, after a restart.
    let state = node._state.path().to_owned();
    let mut kernel = LinuxKernel::open(&state).unwrap();
    assert!(!kernel.leftovers().unwrap().is_empty());
    let removed = kernel.uninstall().unwrap();
    assert!(removed.failed.is_empty(), "{:?}", removed.failed);
    assert!(removed.objects.contains(&"link weftx9".to_owned()), "{:?}", removed.objects);
    assert_eq!(kernel.leftovers().unwrap(), Vec::<String>::new());
    assert_eq!(picture(), before);
    assert_eq!(std::fs::read_dir(state).unwrap().count(), 0);
}

#[test]
fn the_host_is_seen_with_its_default_link_first() {
    if !inside("the_host_is_seen_with_its_default_link_first") {
        return;
    }
    run("ip link add another type veth peer name other");
    run("ip addr add 203.0.113.1/24 dev another");
    run("ip link set another up mtu 9000");
    let mut node = Node::new();
    furnish(&mut node);
    node.sync();
    let host = observe_host().unwrap();
    let seen: Vec<String> =
        host.links.iter().map(|l| format!("{} {} {:?}", l.name, l.mtu, l.addresses)).collect();
    assert_eq!(
        seen,
        ["uplink 1500 [192.0.2.1/24, 192.0.2.2/24, 2001:db8::1/64]", "another 9000 [203.0.113.1/24]"]
    );
}

#[test]
fn only_what_others_change_is_noticed() {
    if !inside("only_what_others_change_is_noticed") {
        return;
    }
    let mut node = Node::new();
    let mut monitor = Monitor::open(node.executor.kernel_mut().ledger()).unwrap();
    let pause = Duration::from_millis(700);
    let drain = |monitor: &mut Monitor| -> Vec<Notification> {
        std::iter::from_fn(|| monitor.next_within(pause).unwrap()).collect()
    };
    let ours = |events: &[Notification]| {
        let disturbed = |n: &&Notification| matches!(n, Notification::Disturbed { .. });
        events.iter().filter(disturbed).count()
    };
    furnish(&mut node);
    node.sync();
    node.tunnel(8472, "192.0.2.1");
    node.step();
    let events = drain(&mut monitor);
    assert_eq!(ours(&events), 0, "our own changes are not news: {events:?}");
    for (change, what) in [
        ("ip link set weftx9 down", "link weftx9"),
        ("ip link set weftx9 mtu 1300", "link weftx9"),
        ("ip link del weftx9", "link weftx9"),
        ("ip route del 10.244.7.0/24", "a route"),
        ("ip route replace 10.244.7.0/24 via 192.0.2.3", "a route"),
        ("ip rule del priority 1000", "a policy rule"),
        ("bridge fdb del 02:00:00:01:00:01 dev weftx9", "the peers of weftx9"),
        ("ip neigh del 10.64.1.0 dev weftx9", "the peers of weftx9"),
        ("ip link set uplink down", "routes by uplink, which went down"),
        ("ip addr del 2001:db8::1/64 dev uplink", "routes with an address that was removed"),
    ] {
        run(change);
        let events = drain(&mut monitor);
        let named =
            |n: &Notification| matches!(n, Notification::Disturbed { what: text } if text.contains(what));
        assert!(events.iter().any(named), "{change}: {events:?}");
        if change.contains("replace") {
            run("ip route del 10.244.7.0/24 via 192.0.2.3");
        }
        if change.contains("addr del") {
            run("ip addr add 2001:db8::1/64 dev uplink nodad");
            drain(&mut monitor);
        }
        if change.contains("uplink down") {
            run("ip link set uplink up");
            run("ip addr replace 2001:db8::1/64 dev uplink nodad");
            run("ip route add default via 192.0.2.254");
            drain(&mut monitor);
        }
        assert!(node.sync() > 0, "{change}");
        let events = drain(&mut monitor);
        assert_eq!(ours(&events), 0, "after mending {change}: {events:?}");
    }
    // What nothing of ours stands on is the host's affair alone.
    for change in ["ip addr add 192.0.2.33/24 dev uplink", "ip addr del 192.0.2.33/24 dev uplink"] {
        run(change);
        assert_eq!(drain(&mut monitor), [Notification::HostChanged], "{change}");
    }
}

#[test]
fn thousands_of_peers_go_in_at_once_and_one_more_costs_three_messages() {
    if !inside("thousands_of_peers_go_in_at_once_and_one_more_costs_three_messages") {
        return;
    }
    const PEERS: u16 = 5000;
    let mut node = Node::new();
    node.tunnel(4789, "192.0.2.1");
    (1..=PEERS).for_each(|n| node.peer(n));
    let start = Instant::now();
    node.sync();
    let first = start.elapsed();
    node.plan.kernel.take_changed();
    let start = Instant::now();
    assert_eq!(node.sync(), 0);
    println!("{PEERS} peers: first apply {first:?}, a full look that changes nothing {:?}", start.elapsed());
    node.peer(PEERS + 1);
    let start = Instant::now();
    let messages = node.step();
    println!("one more: {messages} messages, {:?}", start.elapsed());
    // Each of the three sorts looks its link up once, in one run.
    assert_eq!(messages, 4);
}

#[test]
fn the_packet_filter_and_foreign_firewalls_follow_the_plan() {
    if !inside("the_packet_filter_and_foreign_firewalls_follow_the_plan") {
        return;
    }
    if !std::path::Path::new("/usr/sbin/nft").exists() {
        println!(
            "SKIPPED: the_packet_filter_and_foreign_firewalls_follow_the_plan: /usr/sbin/nft is missing"
        );
        return;
    }
    let mut node = Node::new();
    run("nft add table inet other");
    run("nft add chain inet other forward { type filter hook forward priority 0 ; policy drop ; }");
    let before = run("nft list ruleset");
    let opening = KernelKey::Opening(Opening::Forward("10.244.0.0/16".parse().unwrap()));
    node.set(opening.clone(), KernelRow::Opening);
    let (set, spec) = rows::set("ports");
    node.set(set, spec);
    for port in [53, 80] {
        let (key, row) = rows::element("ports", port);
        node.set(key, row);
    }
    assert_eq!(node.sync(), 4);
    assert_eq!(node.sync(), 0);
    let listing = run("nft list ruleset");
    assert!(
        listing.contains("ip saddr 10.244.0.0/16") && listing.contains("elements = { 53, 80 }"),
        "{listing}"
    );
    node.plan.kernel.take_changed();
    node.plan.kernel.remove(&rows::element("ports", 53).0);
    assert_eq!(node.step(), 3, "one transaction: begin, one element, end");
    run("nft flush ruleset");
    run("nft add table inet other");
    run("nft add chain inet other forward { type filter hook forward priority 0 ; policy drop ; }");
    assert_eq!(node.sync(), 3, "the opening, the set, and its element");
    assert_eq!(node.sync(), 0);
    node.plan.kernel.remove(&opening);
    node.sync();
    let removed = node.executor.kernel_mut().uninstall().unwrap();
    assert!(removed.failed.is_empty(), "{:?}", removed.failed);
    assert_eq!(run("nft list ruleset"), before);
}

#[test]
fn elements_of_each_rank_are_a_transaction_of_their_own() {
    if !inside("elements_of_each_rank_are_a_transaction_of_their_own") {
        return;
    }
    let mut node = Node::new();
    for (rank, name) in ["endpoint", "slot", "service"].into_iter().enumerate() {
        let spec = SetSpec::map(&[Type::Mark], &[Type::Mark], "").ranked(rank as u8);
        node.set(KernelKey::Set(Ident::new(name)), KernelRow::Set(Box::new(spec)));
    }
    let key = |name: &str, mark| KernelKey::Element(Ident::new(name), [Atom::Mark(mark)].into());
    let to = |mark| KernelRow::Element(Element::maps_to([Atom::Mark(mark)]));
    node.set(key("endpoint", 1), to(80));
    assert_eq!(node.sync(), 4);
    assert_eq!(node.sync(), 0, "ranks are no difference between plan and kernel");
    node.plan.kernel.take_changed();
    for name in ["service", "slot", "endpoint"] {
        node.set(key(name, 2), to(2));
    }
    assert_eq!(node.step(), 9, "begin, element, end, three times");
    // Another endpoint for the one: it comes, the slot is changed, and the old one goes.
    node.plan.kernel.remove(&key("endpoint", 2));
    node.set(key("endpoint", 3), to(3));
    node.set(key("slot", 2), to(3));
    assert_eq!(node.step(), 10, "what changes goes and comes in one transaction");
    assert_eq!(node.sync(), 0);
}

#[test]
fn a_first_plan_of_any_size_is_no_news() {
    if !inside("a_first_plan_of_any_size_is_no_news") {
        return;
    }
    let mut node = Node::new();
    let mut monitor = Monitor::open(node.executor.kernel_mut().ledger()).unwrap();
    let numbers = Ident::new("numbers");
    let spec = SetSpec::set(&[Type::Mark], "");
    node.set(KernelKey::Set(numbers.clone()), KernelRow::Set(Box::new(spec)));
    // More notifications than any socket's buffer holds, with nobody reading them.
    for mark in 0..120_000 {
        let key = KernelKey::Element(numbers.clone(), [Atom::Mark(mark)].into());
        node.set(key, KernelRow::Element(Element::member()));
    }
    assert_eq!(node.sync(), 120_001);
    let pause = Duration::from_millis(700);
    let disturbed = |monitor: &mut Monitor| {
        let events: Vec<Notification> = std::iter::from_fn(|| monitor.next_within(pause).unwrap()).collect();
        events.into_iter().find(|event| matches!(event, Notification::Disturbed { .. }))
    };
    assert_eq!(disturbed(&mut monitor), None);
    run("nft delete element inet weft numbers { 0x00000007 }");
    let what = "table inet weft".into();
    assert_eq!(disturbed(&mut monitor), Some(Notification::Disturbed { what }));
}
