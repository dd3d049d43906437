//! Several interfaces of one container, as meta-plugins ask for them.

use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};
use weft_cni::Verb;

use crate::node::{Interface, Node, sh};

const PATIENCE: Duration = Duration::from_secs(20);

fn output(line: &str) -> String {
    let out = Command::new("sh").args(["-c", line]).output().unwrap();
    String::from_utf8(out.stdout).unwrap()
}

fn call(node: &Node, verb: Verb, ifname: &str, more: &Value) -> Result<Value, String> {
    node.call_for(verb, Interface { container: "pod", ifname }, more, PATIENCE)
}

fn ipv4(result: &Value) -> String {
    result["ips"][0]["address"].as_str().unwrap().split('/').next().unwrap().to_owned()
}

/// The node reaches the address.
fn reached_alone(address: &str) {
    sh(&format!("ping -c1 -W2 {address} >/dev/null"));
}

/// The node and a pod behind it reach the address, whatever the pod's own reverse path check thinks.
fn reached(address: &str) {
    reached_alone(address);
    sh(&format!("ip netns exec other ping -c1 -W2 {address} >/dev/null"));
}

#[test]
fn two_interfaces_of_one_container_come_and_go_alone() {
    let Some(mut node) = Node::new() else { return };
    node.start(None);
    node.add("other").unwrap();
    let first = node.add("pod").unwrap();
    let defaults = || output("ip netns exec pod sh -c 'ip route; ip -6 route' | grep ^default");
    let alone = defaults();
    sh(
        "sysctl -qw net.ipv4.conf.all.rp_filter=1; ip netns exec pod sysctl -qw net.ipv4.conf.all.rp_filter=1",
    );
    let second = call(&node, Verb::Add, "eth1", &json!({})).unwrap();
    assert_eq!(second["interfaces"][1]["name"], "eth1");
    // The first still leads out; the second would, but with a higher metric.
    for line in alone.lines() {
        assert!(defaults().lines().any(|now| now.trim_end() == line.trim_end()), "{}", defaults());
    }
    assert_eq!(defaults().matches("dev eth1").count(), 2, "{}", defaults());
    assert!(output("ip netns exec pod ip route get 192.0.2.254").contains("dev eth0"));
    let from = format!("ip netns exec pod ip route get 192.0.2.254 from {}", ipv4(&second));
    assert!(output(&from).contains("dev eth1"));
    reached(&ipv4(&first));
    reached(&ipv4(&second));
    let published = output(&format!("cat {}/.weft/*/*/*", node.path("cluster").display()));
    assert!(published.contains(&ipv4(&first)) && !published.contains(&ipv4(&second)), "{published}");
    for (ifname, result) in [("eth0", &first), ("eth1", &second)] {
        call(&node, Verb::Check, ifname, &json!({"prevResult": result})).unwrap();
    }
    // An agent that starts again finds nothing to do.
    let before = output("ip netns exec pod ip route; nft -s list table inet weft");
    node.stop();
    node.start(None);
    assert_eq!(output("ip netns exec pod ip route; nft -s list table inet weft"), before);

    call(&node, Verb::Del, "eth0", &json!({})).unwrap();
    assert!(output("ip netns exec pod ip route get 192.0.2.254").contains("dev eth1"));
    reached(&ipv4(&second));
    call(&node, Verb::Check, "eth1", &json!({"prevResult": second})).unwrap();
    // The other way round.
    let first = node.add("pod").unwrap();
    call(&node, Verb::Del, "eth1", &json!({})).unwrap();
    reached(&ipv4(&first));
    call(&node, Verb::Check, "eth0", &json!({"prevResult": first})).unwrap();
    // And CHECK sees when one of two has lost its way out.
    let second = call(&node, Verb::Add, "eth1", &json!({})).unwrap();
    sh("ip netns exec pod ip route del default dev eth1");
    let said = call(&node, Verb::Check, "eth1", &json!({"prevResult": second})).unwrap_err();
    assert!(said.contains("eth1 has no IPv4 default route"), "{said}");
    call(&node, Verb::Check, "eth0", &json!({"prevResult": first})).unwrap();

    call(&node, Verb::Del, "eth1", &json!({})).unwrap();
    node.del("pod").unwrap();
    node.settles_with(1, "one pod left");
    node.del("other").unwrap();
    node.settles_with(0, "all gone");
    sh("ip netns del pod; ip netns del other");
}

#[test]
fn an_interface_has_the_addresses_and_the_mac_that_were_asked_for() {
    const MAC: &str = "06:00:5e:00:53:07";
    let Some(mut node) = Node::new() else { return };
    node.start(None);
    // In the blocks that this node has.
    let other = node.add("other").unwrap();
    let start = |at: usize, end: &str| {
        let address = other["ips"][at]["address"].as_str().unwrap();
        address.rsplit_once(end).unwrap().0.to_owned() + end
    };
    let wanted = [start(0, ".") + "77", start(1, "::") + "77"];
    let runtime = json!({"runtimeConfig": {"mac": MAC.to_uppercase(), "ips": wanted}});
    sh("ip netns add pod");
    let result = call(&node, Verb::Add, "eth0", &runtime).unwrap();
    assert_eq!(result["interfaces"][1]["mac"], MAC);
    let is_so = |when: &str| {
        let link = output("ip netns exec pod ip -o link show eth0");
        assert!(link.contains(&format!("link/ether {MAC} ")), "{when}: {link}");
        let addresses = output("ip netns exec pod ip -o address show eth0");
        for address in &wanted {
            assert!(addresses.contains(&format!(" {address}/")), "{when}: {addresses}");
            reached(address);
        }
        let mut check = runtime.clone();
        check["prevResult"] = result.clone();
        call(&node, Verb::Check, "eth0", &check).unwrap();
    };
    is_so("after ADD");
    sh("ip netns exec pod ip link set eth0 address 06:00:5e:00:53:08");
    let mut check = runtime.clone();
    check["prevResult"] = result.clone();
    let said = call(&node, Verb::Check, "eth0", &check).unwrap_err();
    assert!(said.contains(MAC), "{said}");
    node.del("pod").unwrap();
    // Without the wish it is another one.
    let result = node.add("pod").unwrap();
    assert_ne!(result["interfaces"][1]["mac"], MAC);
    let link = output("ip netns exec pod ip -o link show eth0");
    assert!(!link.contains(MAC), "{link}");
    node.del("pod").unwrap();
    node.del("other").unwrap();
    node.settles_with(0, "all gone");
    sh("ip netns del pod; ip netns del other");
}

#[test]
fn a_link_that_went_down_and_up_is_reported_by_check() {
    let Some(mut node) = Node::new() else { return };
    node.start(None);
    let result = node.add("pod").unwrap();
    let check = || call(&node, Verb::Check, "eth0", &json!({"prevResult": result}));
    check().unwrap();
    let inside = |line: &str| sh(&format!("ip netns exec pod sh -ec '{line}'"));
    inside("ip link set eth0 down; ip link set eth0 up");
    let said = check().unwrap_err();
    for fault in ["does not have the address fd00:244::", "no IPv4 default route", "no IPv6 default route"] {
        assert!(said.contains(fault), "{said}");
    }
    // What docs/interfaces/attachment.md says to type.
    let ipv6 = result["ips"][1]["address"].as_str().unwrap();
    inside(&format!(
        "ip address add {ipv6} dev eth0 nodad; \
         ip neighbour replace 169.254.1.1 lladdr 02:77:65:66:74:01 dev eth0 nud permanent; \
         ip route add 169.254.1.1 dev eth0 scope link; ip route add default via 169.254.1.1 dev eth0; \
         ip -6 route add default via fe80::1 dev eth0"
    ));
    check().unwrap();
    reached_alone(&ipv4(&result));
    reached_alone(ipv6.trim_end_matches("/128"));
    node.del("pod").unwrap();
    sh("ip netns del pod");
}
