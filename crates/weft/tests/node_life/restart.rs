//! An agent that starts again finds the network as it was, with the store or without it.

use std::process::Command;
use std::time::{Duration, Instant};

use crate::node::{Node, sh};

pub const PEER: &str = "apiVersion: v1\nkind: Node\nmetadata: {name: n2, annotations: {weft.dev/addresses: 192.0.2.2/24}}\n\
                    spec: {podCIDRs: [10.99.2.0/24]}\n";

pub fn output(line: &str) -> String {
    let out = Command::new("sh").args(["-c", line]).output().unwrap();
    String::from_utf8(out.stdout).unwrap()
}

/// Everything of ours that the kernel holds, sorted, without counters and link numbers.
pub fn kernel() -> Vec<String> {
    let listing = output(
        "ip -o link | grep weft | sed 's/^[0-9]*: //; s/@[^:]*//'; ip route show table all; ip -6 route show table all; \
         ip rule; ip -6 rule; nft -s list table inet weft",
    );
    let mut lines: Vec<String> =
        listing.lines().filter(|line| !line.contains("fe80::")).map(str::to_owned).collect();
    lines.sort();
    lines
}

/// What one has and the other hasn't.
pub fn difference(a: &[String], b: &[String]) -> Vec<String> {
    let lost = a.iter().filter(|line| !b.contains(line)).map(|line| format!("- {line}"));
    let new = b.iter().filter(|line| !a.contains(line)).map(|line| format!("+ {line}"));
    lost.chain(new).collect()
}

pub fn eventually(what: &str, holds: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(15);
    while !holds() {
        assert!(Instant::now() < end, "{what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// A node that had a pod and a peer, and what the kernel held before its agent was stopped.
fn stopped_beside_a_peer() -> Option<(Node, Vec<String>)> {
    let mut node = Node::new()?;
    std::fs::write(node.path("cluster/n2.yaml"), PEER).unwrap();
    node.start(None);
    node.add("pod").unwrap();
    eventually("the peer's route", || output("ip route").contains("10.99.2.0/24 via 192.0.2.2"));
    let before = kernel();
    node.stop();
    Some((node, before))
}

/// The folder that was away has no peer any more, which the agent must hear; then both pods' namespaces go.
fn the_store_comes_back_without_the_peer(node: &Node) {
    let (cluster, away) = (node.path("cluster"), node.path("away"));
    std::fs::remove_file(away.join("n2.yaml")).unwrap();
    std::fs::rename(&away, &cluster).unwrap();
    eventually("the store is back", || node.status().is_some_and(|status| status["stale"].is_null()));
    eventually("the peer is gone", || !output("ip route").contains("10.99.2.0/24"));
    node.del("pod").unwrap();
    sh("ip netns del pod; ip netns del another");
}

#[test]
fn without_the_store_the_last_facts_hold() {
    let Some((mut node, before)) = stopped_beside_a_peer() else { return };
    let (cluster, away) = (node.path("cluster"), node.path("away"));
    std::fs::rename(&cluster, &away).unwrap();
    node.start(None);
    let status = node.status().unwrap();
    assert!(status["stale"]["reason"].is_string(), "{status}");
    assert_eq!(difference(&before, &kernel()), [""; 0], "a start without the store changes nothing");
    node.add("another").unwrap();
    node.del("another").unwrap();
    // What went while the store was away goes when it is back, and not before.
    the_store_comes_back_without_the_peer(&node);
}

#[test]
fn a_damaged_log_of_the_last_facts_takes_nothing_away() {
    let Some((mut node, before)) = stopped_beside_a_peer() else { return };
    let (cluster, away) = (node.path("cluster"), node.path("away"));
    // Of the peer nothing can be read any more.
    let log = node.path("state/facts.log");
    let text = std::fs::read_to_string(&log).unwrap();
    let lines: Vec<&str> = text.lines().map(|l| if l.contains("\"n2\"") { "\0\0\0" } else { l }).collect();
    assert!(lines.contains(&"\0\0\0"), "{text}");
    std::fs::write(&log, lines.join("\n") + "\n").unwrap();
    std::fs::rename(&cluster, &away).unwrap();
    node.start(None);
    let status = node.status().unwrap();
    assert!(status["stale"]["reason"].is_string(), "{status}");
    assert!(status["warnings"].to_string().contains("some of the last facts are lost"), "{status}");
    assert_eq!(difference(&before, &kernel()), [""; 0], "what nobody can explain stays");
    // A full comparison, as after anybody's edit, is no other.
    sh("nft flush ruleset");
    eventually("the table is back", || output("nft list table inet weft").contains("hairpin4"));
    node.add("another").unwrap();
    node.del("another").unwrap();
    assert!(output("ip route").contains("10.99.2.0/24 via 192.0.2.2"));
    the_store_comes_back_without_the_peer(&node);
}

const DESCRIBED: &str = "apiVersion: weft.dev/v1
kind: Network
metadata: {name: default}
spec: {podCIDRs: [10.244.0.0/16], serviceCIDRs: [10.96.0.0/16], overlay: vxlan, vni: 1, vxlanPort: 8472, mtu: 1400}
---
apiVersion: v1
kind: Service
metadata: {name: app, namespace: shop}
spec: {clusterIP: 10.96.0.10, ports: [{port: 80, targetPort: 8080}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: app-1, namespace: shop, labels: {kubernetes.io/service-name: app}}
addressType: IPv4
ports: [{port: 8080, protocol: TCP}]
endpoints: [{addresses: [10.99.2.5], conditions: {ready: true}}]
";

/// The same, each element of a set by itself.
fn pieces() -> Vec<String> {
    let lines = kernel();
    let pieces = lines.iter().flat_map(|line| line.trim().trim_start_matches("elements = {").split(','));
    pieces
        .map(|piece| piece.trim_matches([' ', '}', '\t']).to_owned())
        .filter(|piece| !piece.is_empty())
        .collect()
}

#[test]
fn whichever_line_of_the_last_facts_is_lost_nothing_goes_or_changes() {
    let Some(mut node) = Node::new() else { return };
    let (cluster, away) = (node.path("cluster"), node.path("away"));
    std::fs::write(cluster.join("network.yaml"), DESCRIBED).unwrap();
    std::fs::write(cluster.join("n2.yaml"), PEER).unwrap();
    node.start(None);
    node.add("pod").unwrap();
    eventually("the peer's route and the service", || {
        let there = pieces();
        let has = |start: &str| there.iter().any(|piece| piece.starts_with(start));
        has("10.99.2.0/24 via 192.0.2.2 dev weftx1") && has("10.96.0.10 . tcp . 80 : ")
    });
    let before = pieces();
    node.stop();
    let log = node.path("state/facts.log");
    let text = std::fs::read_to_string(&log).unwrap();
    std::fs::rename(&cluster, &away).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines.len() >= 5, "{text}");
    for lost in &lines {
        let left: Vec<&str> = lines.iter().map(|line| if line == lost { "\0" } else { line }).collect();
        std::fs::write(&log, left.join("\n") + "\n").unwrap();
        node.begin(None);
        eventually("a plan is in force", || {
            let status = node.status().unwrap_or_default();
            status["warnings"].to_string().contains("some of the last facts are lost")
                && status["plan"]["inForce"].as_u64() > Some(0)
        });
        let after = pieces();
        let gone: Vec<&String> = before.iter().filter(|piece| !after.contains(piece)).collect();
        assert!(gone.is_empty(), "without {lost}: {gone:#?}");
        node.stop();
        std::fs::remove_file(node.path("state/facts.log.incomplete")).unwrap();
    }
    std::fs::rename(&away, &cluster).unwrap();
    std::fs::write(&log, &text).unwrap();
    node.start(None);
    node.del("pod").unwrap();
    sh("ip netns del pod");
}

#[test]
fn a_restart_changes_nothing_and_a_flush_is_mended() {
    let Some(mut node) = Node::new() else { return };
    node.start(None);
    node.add("pod").unwrap();
    let before = kernel();
    // What we put into nftables loads elsewhere and lists there as here.
    sh(
        "nft -s list ruleset >/run/here; unshare -n sh -ec 'nft -f /run/here; nft -s list ruleset >/run/there'; cmp /run/here /run/there",
    );
    node.stop();
    node.start(None);
    assert_eq!(difference(&before, &kernel()), [""; 0], "a restart changes nothing");
    for harm in [
        "nft flush ruleset",
        "ip route flush proto 93",
        "ip link del weftx9338",
        "sysctl -qw net.ipv4.ip_forward=0",
    ] {
        sh(harm);
        let end = Instant::now() + Duration::from_secs(15);
        let forwards = || output("sysctl -n net.ipv4.ip_forward").trim() == "1";
        while !(difference(&before, &kernel()).is_empty() && forwards()) {
            assert!(Instant::now() < end, "{harm} is not mended: {:#?}", difference(&before, &kernel()));
            std::thread::sleep(Duration::from_millis(50));
        }
    }
    node.del("pod").unwrap();
    sh("ip netns del pod");
}

/// A row whose table went in that moment is mended, and the pod comes a little later.
#[test]
fn pods_come_while_somebody_flushes_the_packet_filter() {
    let Some(mut node) = Node::new() else { return };
    node.start(None);
    let pods: Vec<String> = (1..=12).map(|number| format!("flushed{number}")).collect();
    // As many flushes as pods, each somewhere in an ADD.
    let (begin, began) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        // Its network namespace is this thread's.
        scope.spawn(move || {
            for pause in began {
                std::thread::sleep(pause);
                sh("nft flush ruleset");
            }
        });
        for (number, pod) in (0..).zip(&pods) {
            begin.send(Duration::from_millis(number)).unwrap();
            node.add(pod).unwrap();
        }
        drop(begin);
    });
    node.settles_with(pods.len(), "after the last flush");
    for pod in &pods {
        node.del(pod).unwrap();
        sh(&format!("ip netns del {pod}"));
    }
}

#[test]
fn a_node_that_is_gone_can_be_forgotten() {
    let Some(mut node) = Node::new() else { return };
    node.start(None);
    node.add("pod").unwrap();
    node.settles_with(1, "one pod");
    let config = node.path("agent.yaml");
    let ask = || {
        Command::new(env!("CARGO_BIN_EXE_weft"))
            .args(["forget", "n1", "-o", "json", "--config"])
            .arg(&config)
            .output()
            .unwrap()
    };
    let refused = ask();
    let why = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && why.contains("stop it first"), "{refused:?}");
    let claims = format!("cat {}/claims/*/*", node.path("cluster/.weft").display());
    assert!(output(&claims).contains("n1"), "its claims are gone");
    node.stop();
    let forget = |had_something: bool| {
        let weft = ask();
        assert!(weft.status.success(), "{weft:?}");
        let answer: serde_json::Value = serde_json::from_slice(&weft.stdout).unwrap();
        assert_eq!(answer, serde_json::json!({"forgotten": "n1", "hadSomething": had_something}));
        let left = output(&format!(
            "find {} -type f | grep n1; cat {0}/claims/*/* 2>/dev/null",
            node.path("cluster/.weft").display()
        ));
        assert_eq!(left, "");
    };
    forget(true);
    forget(false);
    // It runs on, so it comes back with the addresses that its pod has.
    node.start(None);
    node.del("pod").unwrap();
    node.settles_with(0, "after the return");
    sh("ip netns del pod");
}

#[test]
fn a_pod_that_went_without_a_del_gives_its_address_back() {
    let Some(mut node) = Node::new() else { return };
    node.start(None);
    node.add("pod").unwrap();
    node.add("other").unwrap();
    // The runtime takes the namespace away and says nothing; the link goes with it.
    sh("ip netns del pod");
    let end = Instant::now() + Duration::from_secs(40);
    let pods = || node.status().map_or(0, |status| status["pods"].as_array().map_or(0, Vec::len));
    while pods() > 1 {
        assert!(Instant::now() < end, "the dead pod keeps its address");
        std::thread::sleep(Duration::from_millis(100));
    }
    node.settles_with(1, "the other stays");
    node.del("pod").unwrap();
    node.del("other").unwrap();
    sh("ip netns del other");
}
