//! Pods' links on the real kernel: what is made, what carries packets, what is mended, what is left alone.

mod support;
#[path = "support/traffic.rs"]
mod traffic;

use std::net::IpAddr;
use std::time::{Duration, Instant};

use support::{attempt, inside, run};
use traffic::{At, echo};
use weft_dataplane::{Executor, LinuxKernel};
use weft_model::{AttachmentId, Cidr, FactKey, IfName, Mac};
use weft_plan::kernel::{GATEWAY_V4, LOCAL_TABLE, LinkKind, MAIN_TABLE};
use weft_plan::{KernelKey, KernelRow, Link, Plan, PodLink, Route, RouteKey, RouteKind};

/// A node with pods in namespaces of their own.
struct Node {
    executor: Executor<LinuxKernel>,
    plan: Plan,
    _state: tempfile::TempDir,
}

impl Node {
    fn new() -> Self {
        // `ip netns` needs a place that outlives no test: the mount namespace is ours.
        run("mount -t tmpfs none /run");
        run("ip link add uplink type veth peer name outside");
        run("ip addr add 192.0.2.1/24 dev uplink");
        run("ip addr add 2001:db8::1/64 dev uplink nodad");
        run("ip link set uplink up");
        run("ip link set outside up");
        // Proxy ARP answers for what the node has a route to.
        run("ip route add default via 192.0.2.254");
        let state = tempfile::tempdir().unwrap();
        let mut node = Node {
            executor: Executor::new(LinuxKernel::open(state.path()).unwrap()),
            plan: Plan::default(),
            _state: state,
        };
        for path in ["net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"] {
            node.set(KernelKey::Sysctl(path.into()), KernelRow::Sysctl("1".into()));
        }
        node
    }

    fn set(&mut self, key: KernelKey, row: KernelRow) {
        self.plan.kernel.set(key, row, FactKey::Host);
    }

    /// Adds pod `n` with the namespace `pod<n>`, which must be there, and its routes.
    fn add(&mut self, n: u8, mtu: u32) -> Link {
        let link = link(n, mtu);
        let name = name(n);
        self.set(KernelKey::Link(name), KernelRow::Link(Box::new(link.clone())));
        for address in addresses(n) {
            let source = match address {
                IpAddr::V4(_) => "192.0.2.1",
                IpAddr::V6(_) => "2001:db8::1",
            };
            let key = RouteKey { table: MAIN_TABLE, destination: Cidr::host(address), metric: 0 };
            let route = Route {
                kind: RouteKind::Unicast,
                link: Some(name),
                via: None,
                onlink: false,
                source: Some(source.parse().unwrap()),
            };
            self.set(KernelKey::Route(key), KernelRow::Route(route));
        }
        link
    }

    fn remove(&mut self, n: u8) {
        self.plan.kernel.remove(&KernelKey::Link(name(n)));
        for address in addresses(n) {
            self.plan.kernel.remove(&KernelKey::Route(RouteKey {
                table: MAIN_TABLE,
                destination: Cidr::host(address),
                metric: 0,
            }));
        }
    }

    /// Applies what changed, and asserts that all of it worked.
    fn step(&mut self) {
        let changed = self.plan.kernel.take_changed();
        let outcome = self.executor.step(&self.plan, changed).unwrap();
        assert!(outcome.failed.is_empty(), "{:?}", outcome.failed);
    }

    /// Syncs; returns how many rows that touched.
    fn sync(&mut self) -> usize {
        let outcome = self.executor.sync(&self.plan).unwrap();
        assert!(outcome.failed.is_empty(), "{:?}", outcome.failed);
        outcome.applied
    }
}

fn id(n: u8) -> AttachmentId {
    AttachmentId { container: format!("container{n}").into(), ifname: IfName::new("eth0").unwrap() }
}

fn name(n: u8) -> IfName {
    id(n).host_link()
}

fn addresses(n: u8) -> Vec<IpAddr> {
    vec![IpAddr::from([10, 244, 0, n]), format!("fd00:244::{n:x}").parse().unwrap()]
}

fn link(n: u8, mtu: u32) -> Link {
    Link {
        kind: LinkKind::Pod(PodLink {
            attachment: id(n),
            netns: format!("/run/netns/pod{n}").into(),
            pod_mac: Mac([2, 0, 0, 0, 1, n]),
            addresses: addresses(n),
            mtu,
        }),
        alias: format!("weft:default/pod-{n}").into(),
    }
}

/// Pod `from` talks to an address of the node.
fn ping(from: u8, to: &str) -> bool {
    echo(At::Pod(from), At::Node, to, Duration::from_secs(1))
}

/// How long it takes until a packet of the node's gets to the pod and back.
fn until_reachable(pod: u8, target: &str, limit: Duration) -> Option<Duration> {
    let start = Instant::now();
    while start.elapsed() < limit {
        if echo(At::Node, At::Pod(pod), target, Duration::from_millis(100)) {
            return Some(start.elapsed());
        }
    }
    None
}

#[test]
fn pods_reach_each_other_their_node_and_back() {
    if !inside("pods_reach_each_other_their_node_and_back") {
        return;
    }
    let mut node = Node::new();
    for n in [1, 2] {
        run(&format!("ip netns add pod{n}"));
        node.add(n, 1450);
    }
    node.step();
    // At once, with no time to settle.
    for n in [1, 2] {
        let announces = run(&format!("ip netns exec pod{n} cat /proc/sys/net/ipv6/conf/eth0/ndisc_notify"));
        assert_eq!(announces.trim(), "1", "a changed MAC of pod {n} is announced over IPv6");
    }
    let patience = Duration::from_secs(1);
    for target in ["10.244.0.2", "fd00:244::2"] {
        assert!(echo(At::Pod(1), At::Pod(2), target, patience), "{target}");
    }
    for target in ["192.0.2.1", "2001:db8::1"] {
        assert!(ping(1, target), "{target}");
    }
    for target in ["10.244.0.1", "fd00:244::1"] {
        assert!(echo(At::Node, At::Pod(1), target, patience), "{target}");
    }
    assert_eq!(node.sync(), 0, "a second sync has nothing to do");
    let shown = run(&format!("ip -d link show {}", name(1)));
    for text in ["alias weft:default/pod-1", "group 9338", "addrgenmode none", "02:77:65:66:74:01"] {
        assert!(shown.contains(text), "{text}: {shown}");
    }
    let inner = run("ip -n pod1 route");
    assert_eq!(
        inner.lines().map(str::trim).collect::<Vec<_>>(),
        ["default via 169.254.1.1 dev eth0", "169.254.1.1 dev eth0 scope link"]
    );
    let link = link(1, 1450);
    let faults = node.executor.kernel_mut().check_pod(name(1), &link, None).unwrap();
    assert_eq!(faults, Vec::<String>::new());
}

#[test]
fn a_pod_may_cycle_its_link_and_change_its_mac() {
    if !inside("a_pod_may_cycle_its_link_and_change_its_mac") {
        return;
    }
    let mut node = Node::new();
    run("ip netns add pod1");
    node.add(1, 1450);
    node.step();
    assert!(ping(1, "192.0.2.1") && ping(1, "2001:db8::1"));
    let routes = || {
        // What a pod that cycles its link must restore itself: the kernel forgets routes, and IPv6 addresses.
        attempt("ip -n pod1 addr add fd00:244::1/128 dev eth0 nodad");
        attempt("ip -n pod1 route add 169.254.1.1 dev eth0 scope link");
        attempt("ip -n pod1 route add default via 169.254.1.1");
        attempt("ip -n pod1 route add default via fe80::1 dev eth0");
    };
    run("ip -n pod1 link set eth0 down");
    run("ip -n pod1 link set eth0 up");
    routes();
    for target in ["10.244.0.1", "fd00:244::1"] {
        let pause = until_reachable(1, target, Duration::from_secs(10));
        println!("after down and up: {target} {pause:?}");
        assert!(pause.is_some_and(|p| p < Duration::from_secs(2)), "{target} {pause:?}");
    }
    run("ip -n pod1 link set eth0 address 02:00:00:00:99:99");
    for target in ["10.244.0.1", "fd00:244::1"] {
        let pause = until_reachable(1, target, Duration::from_secs(20));
        println!("after a new MAC: {target} {pause:?}");
        assert!(pause.is_some_and(|p| p < Duration::from_secs(2)), "{target} {pause:?}");
    }
    assert!(ping(1, "192.0.2.1") && ping(1, "2001:db8::1"));
    assert_eq!(node.sync(), 0, "what the pod does with its own end is its own affair");
    let faults = node.executor.kernel_mut().check_pod(name(1), &link(1, 1450), None).unwrap();
    assert_eq!(faults, ["the MAC of eth0 is 02:00:00:00:99:99, not 02:00:00:00:01:01"]);
}

#[test]
fn a_node_without_default_route_answers_for_the_gateway_where_it_is_local() {
    if !inside("a_node_without_default_route_answers_for_the_gateway_where_it_is_local") {
        return;
    }
    let mut node = Node::new();
    run("ip route del default");
    run("ip netns add pod1");
    node.add(1, 1450);
    let gateway = RouteKey { table: LOCAL_TABLE, destination: Cidr::host(GATEWAY_V4.into()), metric: 0 };
    let local = Route {
        kind: RouteKind::Local,
        link: Some(IfName::loopback()),
        via: None,
        onlink: false,
        source: None,
    };
    node.set(KernelKey::Route(gateway), KernelRow::Route(local));
    node.step();
    // What a pod that cycles its link is left with.
    run("ip -n pod1 neigh del 169.254.1.1 dev eth0");
    assert!(ping(1, "192.0.2.1"));
    // Without that route proxy ARP has nothing to answer for.
    node.plan.kernel.remove(&KernelKey::Route(gateway));
    node.step();
    run("ip -n pod1 neigh del 169.254.1.1 dev eth0");
    assert!(!ping(1, "192.0.2.1"));
}

#[test]
fn an_mtu_reaches_live_pods_at_both_ends() {
    if !inside("an_mtu_reaches_live_pods_at_both_ends") {
        return;
    }
    let mut node = Node::new();
    run("ip netns add pod1");
    node.add(1, 1450);
    node.step();
    for mtu in [1400, 1480] {
        node.add(1, mtu);
        node.step();
        for shown in [run(&format!("ip link show {}", name(1))), run("ip -n pod1 link show eth0")] {
            assert!(shown.contains(&format!("mtu {mtu} ")), "{shown}");
        }
    }
    assert!(ping(1, "192.0.2.1") && ping(1, "2001:db8::1"));
}

#[test]
fn damage_is_found_and_mended() {
    if !inside("damage_is_found_and_mended") {
        return;
    }
    let mut node = Node::new();
    run("ip netns add pod1");
    node.add(1, 1450);
    node.step();
    let host = name(1);
    for damage in [
        format!("ip link set {host} down"),
        format!("ip link set {host} address 02:00:00:00:00:01"),
        format!("ip link set {host} mtu 1300"),
        format!("ip addr del fe80::1/64 dev {host}"),
        format!("ip link set {host} alias nobody"),
        format!("sysctl -w net.ipv4.conf.{host}.proxy_arp=0"),
        format!("ip link del {host}"),
        "ip route del 10.244.0.1".into(),
        "sysctl -w net.ipv4.ip_forward=0".into(),
    ] {
        run(&damage);
        assert!(node.sync() > 0, "{damage}");
        assert_eq!(node.sync(), 0, "{damage}");
        for target in ["10.244.0.1", "fd00:244::1"] {
            let pause = until_reachable(1, target, Duration::from_secs(2));
            assert!(pause.is_some(), "{damage}: {target}");
        }
    }
}

#[test]
fn a_creation_that_was_broken_off_is_finished() {
    if !inside("a_creation_that_was_broken_off_is_finished") {
        return;
    }
    let mut node = Node::new();
    run("ip netns add pod1");
    // What a crash right after the first request leaves.
    run(&format!("ip link add {} group 9338 type veth peer name eth0 netns pod1", name(1)));
    node.add(1, 1450);
    assert!(node.sync() > 0);
    assert!(ping(1, "192.0.2.1") && ping(1, "2001:db8::1"));
    assert_eq!(node.sync(), 0);
    let faults = node.executor.kernel_mut().check_pod(name(1), &link(1, 1450), None).unwrap();
    assert_eq!(faults, Vec::<String>::new());
}

#[test]
fn a_pair_is_made_without_queues_that_nobody_uses() {
    if !inside("a_pair_is_made_without_queues_that_nobody_uses") {
        return;
    }
    let mut node = Node::new();
    run("ip netns add pod1");
    node.add(1, 1450);
    node.step();
    let host = format!("ip -d link show {}", name(1));
    for line in [host.as_str(), "ip netns exec pod1 ip -d link show eth0"] {
        let text = run(line);
        // Where there is one processor the kernel makes no more by itself.
        assert!(text.contains("numtxqueues 1 ") && text.contains("numrxqueues 1 "), "{text}");
    }
}

#[test]
fn ipv6_is_switched_on_where_the_runtime_switched_it_off() {
    if !inside("ipv6_is_switched_on_where_the_runtime_switched_it_off") {
        return;
    }
    let mut node = Node::new();
    run("ip netns add pod1");
    for conf in ["default", "all"] {
        run(&format!("ip netns exec pod1 sysctl -w net.ipv6.conf.{conf}.disable_ipv6=1"));
    }
    run("sysctl -w net.ipv6.conf.default.disable_ipv6=1");
    node.add(1, 1450);
    node.step();
    assert!(ping(1, "2001:db8::1"));
}

#[test]
fn a_descriptor_is_enough_and_is_closed() {
    if !inside("a_descriptor_is_enough_and_is_closed") {
        return;
    }
    let mut node = Node::new();
    run("ip netns add pod1");
    let mut row = node.add(1, 1450);
    if let LinkKind::Pod(pod) = &mut row.kind {
        pod.netns = "/where/only/the/runtime/sees".into();
    }
    node.set(KernelKey::Link(name(1)), KernelRow::Link(Box::new(row)));
    let open = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    let before = open();
    let file = std::fs::File::open("/run/netns/pod1").unwrap();
    node.executor.kernel_mut().register_netns(id(1), file.into());
    node.step();
    assert_eq!(open(), before);
    assert!(ping(1, "192.0.2.1"));
}

#[test]
fn what_is_not_ours_is_named_and_left_alone() {
    if !inside("what_is_not_ours_is_named_and_left_alone") {
        return;
    }
    let mut node = Node::new();
    run("ip netns add pod1");
    run("ip netns add pod2");
    run(&format!("ip link add {} type veth peer name other", name(1)));
    run("ip -n pod2 link add eth0 type veth peer name other");
    run("ip route add 10.244.0.9 dev uplink");
    run("ip route add 10.244.0.2 dev uplink");
    for n in [1, 2, 3] {
        node.add(n, 1450);
    }
    let before = run("ip link") + &run("ip route");
    let outcome = node.executor.sync(&node.plan).unwrap();
    let errors: Vec<String> = outcome.failed.iter().map(|(_, e)| e.to_string()).collect();
    let all = errors.join("\n");
    assert!(all.contains(&format!("link {} exists and is not ours: its group is 0", name(1))), "{all}");
    assert!(all.contains("has an interface eth0 already"), "{all}");
    assert!(all.contains("can't open the network namespace \"/run/netns/pod3\""), "{all}");
    node.plan.kernel.take_changed();
    for n in [1, 2, 3] {
        node.remove(n);
    }
    node.step();
    assert_eq!(run("ip link") + &run("ip route"), before);
}

#[test]
fn many_links_go_together_and_the_rest_stays() {
    if !inside("many_links_go_together_and_the_rest_stays") {
        return;
    }
    let mut node = Node::new();
    for n in 1..=12 {
        run(&format!("ip netns add pod{n}"));
        node.add(n, 1450);
    }
    node.step();
    (1..=10).for_each(|n| node.remove(n));
    node.remove(12);
    node.step();
    let left = run("ip -br link");
    assert_eq!(left.lines().filter(|l| l.starts_with("weftp")).count(), 1, "{left}");
    assert!(ping(11, "192.0.2.1"));
    assert_eq!(node.sync(), 0);
}

#[test]
fn a_removed_link_is_gone_at_once_and_may_come_again_at_once() {
    if !inside("a_removed_link_is_gone_at_once_and_may_come_again_at_once") {
        return;
    }
    let mut node = Node::new();
    for n in 1..=2 {
        run(&format!("ip netns add pod{n}"));
        node.add(n, 1450);
    }
    node.step();
    // More often than the kernel can have freed the memory of those before: it takes some 15 ms for each.
    for _ in 0..30 {
        node.remove(1);
        node.step();
        assert!(!run("ip -br link").contains(name(1).as_str()));
        assert_eq!(run("ip -n pod1 -br link show type veth"), "");
        assert!(!run("ip route").contains("10.244.0.1 "));
        node.add(1, 1450);
        node.step();
        assert!(ping(1, "192.0.2.1"));
    }
    node.remove(1);
    node.step();
    // Whoever takes the namespace away next finds nothing in the way.
    run("ip netns del pod1");
    assert_eq!(node.sync(), 0);
}
