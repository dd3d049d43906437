//! The real systemd-networkd beside the agent: each of its starts removes routes and rules that it doesn't know.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::node::{Node, sh};
use crate::restart::{PEER, difference, eventually, kernel, output};

const NETWORKD: &str = "/lib/systemd/systemd-networkd";

/// It manages eth0, with the address that the node has.
const UNIT: &str = "[Match]\nName=eth0\n[Network]\nAddress=192.0.2.1/24\nGateway=192.0.2.254\nIPv6AcceptRA=no\n\
                    ConfigureWithoutCarrier=yes\n";

/// A process that ends with the test.
struct Running(Child);

impl Running {
    fn start(program: &str, arguments: &[&str], log: &str) -> Self {
        let log = std::fs::File::create(log).unwrap();
        let child = Command::new(program)
            .args(arguments)
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .stdin(Stdio::null())
            .spawn();
        Self(child.unwrap())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What networkd finds of systemd: its folders, and udev's word that every link is ready. Without the latter it would take
/// itself to be in a container, configure links before it has seen their routes, and remove nothing.
fn prepare() {
    std::fs::create_dir_all("/run/systemd/network").unwrap();
    std::fs::write("/run/systemd/network/00-eth0.network", UNIT).unwrap();
    sh(
        "mkdir -p /run/systemd/netif/links /run/systemd/netif/leases /run/systemd/netif/lldp /run/udev/data; \
        chown -R systemd-network:systemd-network /run/systemd/netif; touch /run/udev/control; \
        for link in /sys/class/net/*; do printf 'I:1\\nV:1\\n' >/run/udev/data/n$(cat $link/ifindex); done",
    );
}

fn ours(lines: Vec<String>) -> Vec<String> {
    lines.into_iter().filter(|line| line.contains("proto 93") || line.contains("weft")).collect()
}

#[test]
fn what_networkd_removes_when_it_starts_is_mended() {
    if !Path::new(NETWORKD).exists() {
        println!("SKIPPED: there is no {NETWORKD}: install systemd");
        return;
    }
    let Some(mut node) = Node::new() else { return };
    std::fs::write(node.path("cluster").join("n2.yaml"), PEER).unwrap();
    node.start(None);
    node.add("pod").unwrap();
    eventually("the peer's route", || output("ip route").contains("10.99.2.0/24 via 192.0.2.2"));
    let before = ours(kernel());
    prepare();
    // The second start is what a restart is.
    for start in ["first", "second"] {
        let monitor = format!("/run/monitor-{start}");
        let _monitor = Running::start("ip", &["monitor", "route", "rule"], &monitor);
        let _networkd = Running::start(NETWORKD, &[], &format!("/run/networkd-{start}"));
        let removed = || std::fs::read_to_string(&monitor).unwrap_or_default();
        eventually(&format!("{start}: it removes the peer's route"), || {
            removed().contains("Deleted 10.99.2.0/24")
        });
        eventually(&format!("{start}: it removes the block's route"), || {
            removed().contains("Deleted unreachable 10.244.")
        });
        eventually(&format!("{start}: all is back"), || difference(&before, &ours(kernel())).is_empty());
        assert!(
            output("ip route").contains("default via 192.0.2.254 dev eth0 proto static"),
            "it is at work"
        );
        let address = output("ip netns exec pod ip -4 -o address show eth0 | sed 's/.*inet //; s/\\/.*//'");
        sh(&format!("ping -c1 -W2 {} >/dev/null", address.trim()));
    }
    node.del("pod").unwrap();
    sh("ip netns del pod");
}
