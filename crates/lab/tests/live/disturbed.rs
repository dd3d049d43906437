//! What other tools do to a node: they take away what is ours, or close what was open. It is noticed and mended, and the packets
//! lost until then are counted.

use std::fs::File;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use weft_lab::topology::INTERNET;
use weft_lab::{Machine, Net, Process};

use super::rig::{Rig, wait};
use super::traffic::{Tolerance, under_traffic, under_traffic_for};
use super::unchanged;

const NODE: &str = "n1";
const PODS: [&str; 3] = ["test/a2", "test/b1", "test/c1"];
/// What may pass until everything is back.
const GAP: Tolerance = Tolerance::GapMs(1500.0);
const NETWORKD: &str = "/lib/systemd/systemd-networkd";
/// How long packets pass while networkd starts, in milliseconds.
const LONGER_MS: u64 = 6000;

/// See the module.
pub fn everything(rig: &Rig) {
    let node = rig.lab.machine(NODE).expect("it runs");
    rules_flushed(rig, &node);
    rules_reloaded(rig, &node);
    chains_restored(rig, &node);
    routes_flushed(rig, &node);
    networkd_started(rig, &node);
}

/// Another tool empties the packet filter. Masquerading is gone until it is mended, so what goes outside may suffer.
fn rules_flushed(rig: &Rig, node: &Machine) {
    let flush = || {
        node.run("nft", &["flush", "ruleset"]).expect("nft flushes");
        wait("the table is back", || node.run("nft", &["list", "table", "inet", "weft"]).is_ok());
    };
    under_traffic(rig, "nft flushed, pods", &PODS, Tolerance::None, flush);
    under_traffic(rig, "nft flushed, outside", &[INTERNET], GAP, flush);
    unchanged(rig);
}

/// nftables.service is loaded anew: its file empties everything, and has a table that drops what is forwarded. Nobody is reached
/// until it is opened.
fn rules_reloaded(rig: &Rig, node: &Machine) {
    let file = "flush ruleset\ntable inet filter {\n  chain forward {\n    type filter hook forward priority filter; \
                policy drop;\n  }\n}\n";
    under_traffic(rig, "nftables.service", &[&PODS[..], &[INTERNET]].concat(), GAP, || {
        node.run_with_input("nft", &["-f", "-"], file).expect("nft loads it");
    });
    unchanged(rig);
    let listing = node.run("nft", &["list", "table", "inet", "filter"]).expect("it is there");
    assert!(listing.contains("policy drop") && listing.contains("weft"), "{listing}");
    node.run("nft", &["delete", "table", "inet", "filter"]).expect("nft deletes it");
    unchanged(rig);
}

/// Another tool puts its iptables back as it has saved them, and our openings are not among them.
fn chains_restored(rig: &Rig, node: &Machine) {
    let saved = "*filter\n:INPUT ACCEPT\n:FORWARD DROP\n:OUTPUT ACCEPT\nCOMMIT\n";
    let restore = || {
        for binary in ["iptables-nft-restore", "ip6tables-nft-restore"] {
            node.run_with_input(binary, &[], saved).expect("it restores");
        }
    };
    under_traffic(rig, "iptables-restore", &[&PODS[..], &[INTERNET]].concat(), GAP, restore);
    unchanged(rig);
    under_traffic(rig, "the same once more", &[&PODS[..], &[INTERNET]].concat(), GAP, restore);
    unchanged(rig);
    for (family, binary) in [("ip", "iptables-nft"), ("ip6", "ip6tables-nft")] {
        let listing = node.run(binary, &["-S", "FORWARD"]).expect("it lists");
        assert!(listing.contains("-P FORWARD DROP") && listing.contains("weft"), "{listing}");
        node.run("nft", &["delete", "table", family, "filter"]).expect("nft deletes it");
    }
    unchanged(rig);
}

/// Another tool removes our routes, our rules, or the gateway's address of pods' links. Nobody is reached until they are back.
fn routes_flushed(rig: &Rig, node: &Machine) {
    under_traffic(rig, "routes flushed", &PODS, GAP, || {
        for family in ["-4", "-6"] {
            node.run("ip", &[family, "route", "flush", "proto", "93"]).expect("ip flushes");
        }
    });
    unchanged(rig);
    let links = node.run("ip", &["-o", "link", "show", "group", "9338"]).expect("ip lists");
    let links = links.lines().filter_map(|line| line.split(": ").nth(1)?.split('@').next());
    let pods: Vec<&str> = links.filter(|name| name.starts_with("weftp")).collect();
    assert_eq!(pods.len(), 2, "{pods:?}");
    under_traffic(rig, "addresses flushed", &PODS, GAP, || {
        for link in &pods {
            node.run("ip", &["-6", "address", "flush", "dev", link]).expect("ip flushes");
        }
    });
    unchanged(rig);
}

/// The real systemd-networkd starts, as it does when it is updated, and removes routes and rules that it doesn't know.
fn networkd_started(rig: &Rig, node: &Machine) {
    if !Path::new(NETWORKD).exists() {
        println!("SKIPPED: networkd_started: there is no {NETWORKD}: install systemd");
        return;
    }
    if only_one_user() {
        println!("SKIPPED: networkd_started: its own user is needed, and there is only root here");
        return;
    }
    prepare(rig, node);
    // The second start is what a restart is.
    for start in ["first", "second"] {
        let start_it = || {
            let begun = Instant::now();
            let (_monitor, said) = spawn(rig, node, "ip", &["monitor", "route"], "monitor");
            let (networkd, log) = spawn(rig, node, NETWORKD, &[], "networkd");
            let removed = || std::fs::read_to_string(&said).expect("it is there");
            let peers = |line: &str| {
                line.starts_with("Deleted") && line.contains(" via 192.0.2.12 dev eth0 proto 93")
            };
            wait("networkd removes the way to n2's pods", || removed().lines().any(peers));
            wait("all is back", || rig.differences().is_empty());
            let took = begun.elapsed();
            assert!(took < Duration::from_millis(LONGER_MS / 2), "{took:?}: {}", removed());
            assert!(networkd.is_running(), "{}", std::fs::read_to_string(&log).unwrap_or_default());
            networkd
        };
        let what = format!("networkd's {start} start");
        let networkd = under_traffic_for(LONGER_MS, rig, &what, &PODS, GAP, start_it);
        unchanged(rig);
        drop(networkd);
    }
}

/// True in a user namespace in which an ordinary user is root, and nobody else is anybody.
fn only_one_user() -> bool {
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    map.split_whitespace().nth(2) == Some("1")
}

/// What networkd finds of systemd: its folders, and udev's word that every link is ready. Without the latter it would take
/// itself to be in a container, configure links before it has seen their routes, and remove nothing.
fn prepare(rig: &Rig, node: &Machine) {
    let spec = rig.lab.topology().machine(NODE).expect("it is in the topology");
    let addresses = spec.ports[0].addresses.iter().map(|net| format!("Address={net}\n"));
    let gateways = spec.gateways.iter().map(|gateway| format!("Gateway={gateway}\n"));
    let unit: String = addresses.chain(gateways).collect();
    let unit = format!(
        "[Match]\nName=eth0\n[Network]\n{unit}IPv6AcceptRA=no\nIPv6DuplicateAddressDetection=0\n\
         ConfigureWithoutCarrier=yes\n"
    );
    let script = "mkdir -p /run/systemd/network /run/systemd/netif/links /run/systemd/netif/leases /run/systemd/netif/lldp \
                  /run/udev/data; cat >/run/systemd/network/00-eth0.network; \
                  chown -R systemd-network:systemd-network /run/systemd/netif; touch /run/udev/control; \
                  for link in /sys/class/net/*; do printf 'I:1\\nV:1\\n' >/run/udev/data/n$(cat $link/ifindex); done";
    node.run_with_input("sh", &["-ec", script], &unit).expect("it can be prepared");
}

/// Starts a program on the node; its words go into a file of the lab's.
fn spawn(
    rig: &Rig,
    node: &Machine,
    program: &str,
    arguments: &[&str],
    name: &str,
) -> (Process, std::path::PathBuf) {
    let path = rig.lab.directory().join(format!("{name}.log"));
    let log = File::create(&path).expect("the log can be made");
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null());
    command.stdout(log.try_clone().expect("it can be shared")).stderr(log);
    (node.spawn(command, Net::Machine).expect("it starts"), path)
}
