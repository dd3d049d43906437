//! The ways that packets take, on plans made by hand.

use super::rows::{Made, end_of, from_node, from_outside, from_pod, ip, node, of_node, tcp, udp, world};
use crate::oracle::{Conversation, Outcome, Packet, Start, Trace, converse, trace};

/// Two nodes that share a link, with pods and direct routes.
fn direct() -> [Made; 2] {
    let n1 = node("n1")
        .own("eth0", "192.0.2.1/24")
        .pod("web", "10.244.1.2")
        .pod("db", "10.244.1.3")
        .route("10.244.2.0/24 via 192.0.2.2 dev eth0", "n2")
        .route("unreachable 10.244.1.0/24 metric 9338", "n1");
    let n2 = node("n2")
        .own("eth0", "192.0.2.2/24")
        .pod("app", "10.244.2.2")
        .route("10.244.1.0/24 via 192.0.2.1 dev eth0", "n1");
    [n1.guarded().island(), n2.guarded().island()]
}

/// Two nodes with a tunnel between them, in different subnets.
fn tunnelled() -> [Made; 2] {
    let n1 = node("n1")
        .own("eth0", "192.0.2.1/24")
        .pod("web", "10.244.1.2")
        .tunnel("192.0.2.1")
        .neighbour("10.244.2.0", "n2")
        .route("10.244.2.0/24 via 10.244.2.0 dev weftx7", "n2");
    let n2 = node("n2")
        .own("eth0", "198.51.100.2/24")
        .pod("app", "10.244.2.2")
        .tunnel("198.51.100.2")
        .neighbour("10.244.1.0", "n1")
        .fdb("n1", "192.0.2.1")
        .route("10.244.1.0/24 via 10.244.1.0 dev weftx7", "n1");
    [n1, n2]
}

fn go(nodes: &[Made], start: &Start, packet: Packet) -> Conversation {
    converse(&world(nodes), start, packet)
}

fn one(nodes: &[Made], start: &Start, packet: Packet) -> Trace {
    trace(&world(nodes), start, packet)
}

#[test]
fn pods_of_one_node() {
    let conversation = go(&direct(), &from_pod("n1", "web"), tcp("10.244.1.3", 80));
    assert!(conversation.works());
    insta::assert_snapshot!(conversation, @r"
    tcp 10.244.1.2:40000 → 10.244.1.3:80
      n1 send from pod default/web by weftp37n9hazzqj [attachment web:eth0]
      n1 route 10.244.1.3/32 dev weftp45wn5s4nrv src 192.0.2.1 [attachment db:eth0]
      n1 link to pod default/db by weftp45wn5s4nrv [attachment db:eth0]
    delivered to pod default/db on n1 (weftp45wn5s4nrv) as tcp 10.244.1.2:40000 → 10.244.1.3:80
    answer: tcp 10.244.1.3:80 → 10.244.1.2:40000
      n1 send from pod default/db by weftp45wn5s4nrv [attachment db:eth0]
      n1 route 10.244.1.2/32 dev weftp37n9hazzqj src 192.0.2.1 [attachment web:eth0]
      n1 link to pod default/web by weftp37n9hazzqj [attachment web:eth0]
    delivered to pod default/web on n1 (weftp37n9hazzqj) as tcp 10.244.1.3:80 → 10.244.1.2:40000
    ");
}

#[test]
fn pods_of_two_nodes_directly() {
    let conversation = go(&direct(), &from_pod("n1", "web"), udp("10.244.2.2", 53));
    assert!(conversation.works());
    insta::assert_snapshot!(conversation.forward, @r"
    udp 10.244.1.2:40000 → 10.244.2.2:53
      n1 send from pod default/web by weftp37n9hazzqj [attachment web:eth0]
      n1 route 10.244.2.0/24 via 192.0.2.2 dev eth0 [node n2]
      n1 wire eth0 to n2 eth0 [node n2]
      n2 route 10.244.2.2/32 dev weftpr5hsqetsj3 src 192.0.2.2 [attachment app:eth0]
      n2 link to pod default/app by weftpr5hsqetsj3 [attachment app:eth0]
    delivered to pod default/app on n2 (weftpr5hsqetsj3) as udp 10.244.1.2:40000 → 10.244.2.2:53
    ");
}

#[test]
fn pods_of_two_nodes_through_a_tunnel() {
    let [n1, n2] = tunnelled();
    let nodes = [n1.fdb("n2", "198.51.100.2"), n2];
    let conversation = go(&nodes, &from_pod("n1", "web"), tcp("10.244.2.2", 80));
    assert!(conversation.works());
    insta::assert_snapshot!(conversation.forward, @r"
    tcp 10.244.1.2:40000 → 10.244.2.2:80
      n1 send from pod default/web by weftp37n9hazzqj [attachment web:eth0]
      n1 route 10.244.2.0/24 via 10.244.2.0 dev weftx7 [node n2]
      n1 encap neighbour 10.244.2.0 lladdr de:83:93:7f:16:f9, fdb dst 198.51.100.2, vni 7 [node n2]
      n1 route default dev eth0 (the host's own) [host]
      n1 wire eth0 by routers outside to n2 eth0 [node n2]
      n2 route local 198.51.100.2/32 dev eth0 table local [host]
      n2 decap by weftx7, from 192.0.2.1 [node n2]
      n2 route 10.244.2.2/32 dev weftpr5hsqetsj3 src 198.51.100.2 [attachment app:eth0]
      n2 link to pod default/app by weftpr5hsqetsj3 [attachment app:eth0]
    delivered to pod default/app on n2 (weftpr5hsqetsj3) as tcp 10.244.1.2:40000 → 10.244.2.2:80
    ");
}

#[test]
fn a_tunnel_that_does_not_know_the_peer() {
    let nodes = tunnelled();
    insta::assert_snapshot!(one(&nodes, &from_pod("n1", "web"), tcp("10.244.2.2", 80)), @r"
    tcp 10.244.1.2:40000 → 10.244.2.2:80
      n1 send from pod default/web by weftp37n9hazzqj [attachment web:eth0]
      n1 route 10.244.2.0/24 via 10.244.2.0 dev weftx7 [node n2]
    dropped on n1: no fdb entry for de:83:93:7f:16:f9 on weftx7 [node n1]
    ");
    // And one that knows an address which nobody has.
    let [n1, n2] = tunnelled();
    let nodes = [n1.fdb("n2", "198.51.100.9"), n2];
    insta::assert_snapshot!(one(&nodes, &from_pod("n1", "web"), tcp("10.244.2.2", 80)).outcome, @"unreachable from n1: tunnel packets to 198.51.100.9: no node of this view has that address [host]");
    // And one whose peer made its tunnel end anew, with another MAC.
    let [n1, n2] = tunnelled();
    let nodes = [n1.fdb("n3", "198.51.100.2").neighbour("10.244.2.0", "n3"), n2];
    insta::assert_snapshot!(one(&nodes, &from_pod("n1", "web"), tcp("10.244.2.2", 80)).outcome, @"dropped on n2: the frame is for ca:93:04:e1:a4:60, and weftx7 has de:83:93:7f:16:f9 [node n2]");
}

#[test]
fn a_spoofed_source() {
    let spoofed = tcp("10.244.2.2", 80).from(ip("10.244.1.3"));
    insta::assert_snapshot!(one(&direct(), &from_pod("n1", "web"), spoofed), @r#"
    tcp 10.244.1.3:40000 → 10.244.2.2:80
      n1 send from pod default/web by weftp37n9hazzqj [attachment web:eth0]
      n1 prerouting guard: iifname "weftp*" iifname . ip saddr != @sources drop comment "spoofed" [node n1]
    dropped on n1: chain guard: iifname "weftp*" iifname . ip saddr != @sources drop comment "spoofed" [node n1]
    "#);
}

#[test]
fn out_of_the_cluster() {
    let conversation = go(&direct(), &from_pod("n1", "web"), tcp("203.0.113.10", 443));
    assert!(conversation.works());
    insta::assert_snapshot!(conversation, @r#"
    tcp 10.244.1.2:40000 → 203.0.113.10:443
      n1 send from pod default/web by weftp37n9hazzqj [attachment web:eth0]
      n1 route default dev eth0 (the host's own) [host]
      n1 postrouting edge: ip saddr 10.0.0.0/8 ip daddr != 10.0.0.0/8 masquerade fully-random comment "leaves the cluster" [node n1]
      n1 translate the source: tcp 192.0.2.1:40000 → 203.0.113.10:443 [node n1]
      n1 wire eth0 to the outside [host]
    delivered to outside, from n1 by eth0 as tcp 192.0.2.1:40000 → 203.0.113.10:443
    answer: tcp 203.0.113.10:443 → 192.0.2.1:40000
      n1 send from outside by eth0 [host]
      n1 translate the destination: tcp 203.0.113.10:443 → 10.244.1.2:40000 [node n1]
      n1 route 10.244.1.2/32 dev weftp37n9hazzqj src 192.0.2.1 [attachment web:eth0]
      n1 link to pod default/web by weftp37n9hazzqj [attachment web:eth0]
    delivered to pod default/web on n1 (weftp37n9hazzqj) as tcp 203.0.113.10:443 → 10.244.1.2:40000
    "#);
}

#[test]
fn an_address_of_the_own_block_that_no_pod_has() {
    insta::assert_snapshot!(one(&direct(), &from_node("n1"), tcp("10.244.1.99", 80)), @r"
    tcp 192.0.2.1:40000 → 10.244.1.99:80
      n1 send from the node itself [host]
      n1 route unreachable 10.244.1.0/24 metric 9338 [node n1]
    unreachable from n1: unreachable 10.244.1.0/24 metric 9338 [node n1]
    ");
}

#[test]
fn nodes_and_pods() {
    let nodes = direct();
    for (start, destination) in [
        (from_node("n1"), "10.244.1.2"),
        (from_node("n1"), "10.244.2.2"),
        (from_pod("n1", "web"), "192.0.2.1"),
        (from_pod("n1", "web"), "192.0.2.2"),
        (from_node("n1"), "192.0.2.2"),
        (from_node("n1"), "192.0.2.1"),
        (from_node("n1"), "127.0.0.1"),
    ] {
        let conversation = go(&nodes, &start, tcp(destination, 80));
        assert!(conversation.works(), "{start:?} to {destination}:\n{conversation}");
        let ping = go(&nodes, &start, Packet::ping(ip(destination)));
        assert!(ping.works(), "{start:?} to {destination}:\n{ping}");
    }
}

#[test]
fn a_mapped_port_from_everywhere() {
    let [n1, n2] = direct();
    let nodes = [n1.host_port("10.244.1.2", "192.0.2.1"), n2];
    let outside = tcp("192.0.2.1", 8080).from(ip("198.51.100.7"));
    for (start, packet) in [
        (from_outside("n1"), outside),
        (from_pod("n1", "db"), tcp("192.0.2.1", 8080)),
        (from_pod("n1", "web"), tcp("192.0.2.1", 8080)),
        (from_pod("n2", "app"), tcp("192.0.2.1", 8080)),
        (from_node("n1"), tcp("192.0.2.1", 8080)),
        (from_node("n1"), tcp("127.0.0.1", 8080)),
        (from_node("n2"), tcp("192.0.2.1", 8080)),
    ] {
        let conversation = go(&nodes, &start, packet);
        assert!(conversation.works(), "{start:?}:\n{conversation}");
        let pod = conversation.forward.outcome.pod().map(|(_, link)| link);
        assert_eq!(pod, Some(end_of("web")), "{conversation}");
    }
    // UDP has no mapping: it reaches the node itself.
    let datagram = udp("192.0.2.1", 8080).from(ip("198.51.100.7"));
    insta::assert_snapshot!(one(&nodes, &from_outside("n1"), datagram).outcome, @"delivered to node n1 as udp 198.51.100.7:40000 → 192.0.2.1:8080");
    insta::assert_snapshot!(go(&nodes, &from_pod("n1", "web"), tcp("192.0.2.1", 8080)), @r#"
    tcp 10.244.1.2:40000 → 192.0.2.1:8080
      n1 send from pod default/web by weftp37n9hazzqj [attachment web:eth0]
      n1 prerouting host_ports: fib daddr type local dnat ip to meta l4proto . th dport map @ports comment "port mappings"; found tcp . 8080 : 10.244.1.2 . 80 [attachment mapped:eth0]
      n1 translate the destination: tcp 10.244.1.2:40000 → 10.244.1.2:80 [attachment mapped:eth0]
      n1 route 10.244.1.2/32 dev weftp37n9hazzqj src 192.0.2.1 [attachment web:eth0]
      n1 postrouting hairpin: ip saddr 10.244.1.2 ip daddr 10.244.1.2 snat ip to 192.0.2.1 fully-random comment "hairpin" [node n1]
      n1 translate the source: tcp 192.0.2.1:40000 → 10.244.1.2:80 [node n1]
      n1 link to pod default/web by weftp37n9hazzqj [attachment web:eth0]
    delivered to pod default/web on n1 (weftp37n9hazzqj) as tcp 192.0.2.1:40000 → 10.244.1.2:80
    answer: tcp 10.244.1.2:80 → 192.0.2.1:40000
      n1 send from pod default/web by weftp37n9hazzqj [attachment web:eth0]
      n1 translate the destination: tcp 10.244.1.2:80 → 10.244.1.2:40000 [node n1]
      n1 route 10.244.1.2/32 dev weftp37n9hazzqj src 192.0.2.1 [attachment web:eth0]
      n1 translate the source: tcp 192.0.2.1:8080 → 10.244.1.2:40000 [attachment mapped:eth0]
      n1 link to pod default/web by weftp37n9hazzqj [attachment web:eth0]
    delivered to pod default/web on n1 (weftp37n9hazzqj) as tcp 192.0.2.1:8080 → 10.244.1.2:40000
    "#);
    insta::assert_snapshot!(go(&nodes, &from_node("n1"), tcp("127.0.0.1", 8080)), @r#"
    tcp 127.0.0.1:40000 → 127.0.0.1:8080
      n1 send from the node itself [host]
      n1 route local 127.0.0.0/8 dev lo table local [host]
      n1 output host_ports_out: fib daddr type local dnat ip to meta l4proto . th dport map @ports comment "port mappings"; found tcp . 8080 : 10.244.1.2 . 80 [attachment mapped:eth0]
      n1 translate the destination: tcp 127.0.0.1:40000 → 10.244.1.2:80 [attachment mapped:eth0]
      n1 route 10.244.1.2/32 dev weftp37n9hazzqj src 192.0.2.1 [attachment web:eth0]
      n1 postrouting hairpin: ip saddr 127.0.0.0/8 oifname "weftp*" snat ip to 192.0.2.1 fully-random comment "from loopback" [node n1]
      n1 translate the source: tcp 192.0.2.1:40000 → 10.244.1.2:80 [node n1]
      n1 link to pod default/web by weftp37n9hazzqj [attachment web:eth0]
    delivered to pod default/web on n1 (weftp37n9hazzqj) as tcp 192.0.2.1:40000 → 10.244.1.2:80
    answer: tcp 10.244.1.2:80 → 192.0.2.1:40000
      n1 send from pod default/web by weftp37n9hazzqj [attachment web:eth0]
      n1 translate the destination: tcp 10.244.1.2:80 → 127.0.0.1:40000 [node n1]
      n1 route local 127.0.0.0/8 dev lo table local [host]
      n1 translate the source: tcp 127.0.0.1:8080 → 127.0.0.1:40000 [attachment mapped:eth0]
    delivered to node n1 as tcp 127.0.0.1:8080 → 127.0.0.1:40000
    "#);
}

#[test]
fn ipv6_between_nodes() {
    let n1 = node("n1")
        .own("eth0", "2001:db8::1/64")
        .pod("web", "fd00:1::2")
        .route("fd00:2::/64 via 2001:db8::2 dev eth0", "n2");
    let n2 = node("n2")
        .own("eth0", "2001:db8::2/64")
        .pod("app", "fd00:2::2")
        .route("fd00:1::/64 via 2001:db8::1 dev eth0", "n1");
    let nodes = [n1, n2];
    let conversation = go(&nodes, &from_pod("n1", "web"), tcp("fd00:2::2", 80));
    assert!(conversation.works());
    insta::assert_snapshot!(conversation.forward, @r"
    tcp [fd00:1::2]:40000 → [fd00:2::2]:80
      n1 send from pod default/web by weftp37n9hazzqj [attachment web:eth0]
      n1 route fd00:2::/64 via 2001:db8::2 dev eth0 [node n2]
      n1 wire eth0 to n2 eth0 [node n2]
      n2 route fd00:2::2/128 dev weftpr5hsqetsj3 src 2001:db8::2 [attachment app:eth0]
      n2 link to pod default/app by weftpr5hsqetsj3 [attachment app:eth0]
    delivered to pod default/app on n2 (weftpr5hsqetsj3) as tcp [fd00:1::2]:40000 → [fd00:2::2]:80
    ");
    assert!(go(&nodes, &from_pod("n1", "web"), Packet::ping(ip("2001:db8::2"))).works());
    // A pod without an address of the family can't even begin.
    insta::assert_snapshot!(one(&nodes, &from_pod("n1", "web"), tcp("10.244.2.2", 80)), @"unreachable from n1: the sender has no IPv4 address for 10.244.2.2 [host]");
}

#[test]
fn what_is_not_there_is_said() {
    let nodes = direct();
    insta::assert_snapshot!(one(&nodes, &from_pod("n1", "ghost"), tcp("10.244.1.3", 80)), @"unreachable from n1: there is no pod link weftpa1t6px93n1 on n1 [node n1]");
    insta::assert_snapshot!(one(&nodes, &from_node("n9"), tcp("10.244.1.3", 80)), @"unreachable from n9: n9 is not in this view [node n9]");
    insta::assert_snapshot!(one(&nodes, &from_outside("n1"), tcp("10.244.1.3", 80)), @"unreachable from n1: say which source address a packet from outside has [host]");
}

#[test]
fn a_way_of_policy_rules() {
    // Packets from the pods' block to the other node take table 7, everybody else's the main table.
    let [n1, n2] = tunnelled();
    let n1 = n1
        .fdb("n2", "198.51.100.2")
        .rule("10.244.1.0/24", 7)
        .route("198.51.100.2/32 via 10.244.2.0 dev weftx7 table 7", "n2");
    let nodes = [n1, n2];
    let from_a_pod = go(&nodes, &from_pod("n1", "web"), tcp("198.51.100.2", 10250));
    assert!(from_a_pod.works());
    insta::assert_snapshot!(from_a_pod.forward, @r"
    tcp 10.244.1.2:40000 → 198.51.100.2:10250
      n1 send from pod default/web by weftp37n9hazzqj [attachment web:eth0]
      n1 route 198.51.100.2/32 via 10.244.2.0 dev weftx7 table 7 [node n2]
      n1 encap neighbour 10.244.2.0 lladdr de:83:93:7f:16:f9, fdb dst 198.51.100.2, vni 7 [node n2]
      n1 route default dev eth0 (the host's own) [host]
      n1 wire eth0 by routers outside to n2 eth0 [node n2]
      n2 route local 198.51.100.2/32 dev eth0 table local [host]
      n2 decap by weftx7, from 192.0.2.1 [node n2]
      n2 route local 198.51.100.2/32 dev eth0 table local [host]
    delivered to node n2 as tcp 10.244.1.2:40000 → 198.51.100.2:10250
    ");
    let from_the_node = go(&nodes, &from_node("n1"), tcp("198.51.100.2", 10250));
    assert!(from_the_node.works());
    assert!(!from_the_node.to_string().contains("weftx7"), "{from_the_node}");
}

#[test]
fn circles_end() {
    let n1 = node("n1").own("eth0", "192.0.2.1/24").route("203.0.113.0/24 via 192.0.2.2 dev eth0", "n2");
    let n2 = node("n2").own("eth0", "192.0.2.2/24").route("203.0.113.0/24 via 192.0.2.1 dev eth0", "n1");
    let packet = tcp("203.0.113.1", 80).from(ip("198.51.100.7"));
    assert_eq!(one(&[n1, n2], &from_outside("n1"), packet).outcome, Outcome::Looped);
}

#[test]
fn forwarding_and_martians() {
    let off =
        node("n1").own("eth0", "192.0.2.1/24").pod("web", "10.244.1.2").sysctl("net/ipv4/ip_forward", "0");
    let from = |source: &str| tcp("10.244.1.2", 80).from(ip(source));
    insta::assert_snapshot!(one(&[off], &from_outside("n1"), from("192.0.2.9")).outcome, @"dropped on n1: the plan doesn't turn IPv4 forwarding on [host]");
    let nodes = direct();
    insta::assert_snapshot!(one(&nodes, &from_outside("n1"), from("192.0.2.1")).outcome, @"dropped on n1: source 192.0.2.1 is this node's own address (martian source) [host]");
    insta::assert_snapshot!(one(&nodes, &from_outside("n1"), from("127.0.0.1")).outcome, @"dropped on n1: 127.0.0.0/8 doesn't come in by eth0 (route_localnet is off) [host]");
    let [n1, _] = direct();
    let strict = n1.sysctl("net/ipv4/conf/all/rp_filter", "1");
    insta::assert_snapshot!(one(&[strict], &from_outside("n1"), from("10.244.1.3")).outcome, @"dropped on n1: the route back to source 10.244.1.3 is not by eth0 (rp_filter) [host]");
}

#[test]
fn as_json() {
    let trace = one(&direct(), &from_pod("n1", "web"), tcp("10.244.1.3", 80));
    let json = serde_json::to_value(&trace).unwrap();
    assert_eq!(json["verdict"], "delivered");
    assert_eq!(json["seen"]["transport"], "tcp");
    assert_eq!(json["to"]["receiver"], "pod");
    assert_eq!(json["hops"].as_array().map(Vec::len), Some(trace.hops.len()));
    assert_eq!(trace.hops[0].origin.to_string(), "attachment web:eth0");
    assert_ne!(trace.hops[0].origin, of_node("n1"));
}
