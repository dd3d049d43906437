//! A real lab: machines reach each other as the topology says, pods of the reference plugins answer, and nothing is
//! left afterwards.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use weft_lab::probe::{Outcome, Target, Transport};
use weft_lab::runtime::Runtime;
use weft_lab::sandbox::in_sandbox;
use weft_lab::topology::{CLIENT, INTERNET};
use weft_lab::{Lab, Net, Pod, PodSpec, Tool, Topology};

fn lab(name: &str, topology: Topology) -> Lab {
    Lab::new(name, topology, Tool::new(env!("CARGO_BIN_EXE_weft-lab"))).expect("the lab starts")
}

fn targets(addresses: impl IntoIterator<Item = IpAddr>) -> Vec<Target> {
    let ports = [(Transport::Http, 8080), (Transport::Udp, 8081)];
    addresses
        .into_iter()
        .flat_map(|ip| ports.map(|(transport, port)| Target::new(transport, SocketAddr::new(ip, port))))
        .collect()
}

#[test]
fn machines_reach_each_other_and_leave_nothing() {
    in_sandbox("machines_reach_each_other_and_leave_nothing", || {
        let lab = lab("test-machines", Topology::routed());
        let names = ["n1", "n2", "n3", INTERNET, CLIENT];
        let servers: Vec<_> = names
            .iter()
            .map(|name| {
                let mut command = lab.tool().command(&["serve", name]);
                command.stdin(std::process::Stdio::null());
                lab.machine(name).expect("it runs").spawn(command, Net::Machine).expect("the server starts")
            })
            .collect();
        let all: Vec<(String, IpAddr)> = names
            .iter()
            .filter_map(|name| lab.topology().machine(name))
            .flat_map(|m| m.addresses().map(|a| (m.name.clone(), a)).collect::<Vec<_>>())
            .collect();
        let targets = targets(all.iter().map(|(_, ip)| *ip));
        std::thread::sleep(Duration::from_millis(200));
        for name in names {
            let machine = lab.machine(name).expect("it runs");
            let outcomes: Vec<Outcome> =
                lab.tool().ask(&machine, Net::Machine, "probe", &targets).expect("the probe runs");
            for (target, outcome) in targets.iter().zip(outcomes) {
                let expected =
                    all.iter().find(|(_, ip)| *ip == target.address.ip()).map(|(name, _)| name.as_str());
                assert_eq!(
                    outcome.greeting().map(|g| g.name.as_str()),
                    expected,
                    "{name} → {target:?}: {outcome:?}"
                );
            }
        }
        assert_eq!(lab.machine("n1").expect("it runs").run("hostname", &[]).expect("it runs").trim(), "n1");
        strangers_enter("test-machines");
        drop(servers);
        println!("{}", lab.close().expect("nothing is left"));
    });
}

/// What `weft lab` prints, and its exit status.
fn program(arguments: &[&str]) -> (String, Option<i32>) {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_weft-lab"));
    let out = command.args(arguments).stdin(std::process::Stdio::null()).output().expect("it runs");
    let text = [out.stdout, out.stderr].concat();
    (String::from_utf8_lossy(&text).into_owned(), out.status.code())
}

/// Somebody else's process finds the lab by its files, and runs commands on its machines.
fn strangers_enter(lab: &str) {
    let exec = |words: &[&str]| program(&[&["exec", "--lab", lab][..], words].concat());
    let (text, code) = program(&["list", "--lab", lab]);
    assert!(code == Some(0) && ["n1", "router", CLIENT].iter().all(|n| text.contains(n)), "{text}");
    assert_eq!(exec(&["n2", "--", "hostname"]), ("n2\n".into(), Some(0)));
    let (addresses, code) = exec(&["n3", "--", "ip", "-o", "-4", "address", "show", "dev", "eth0"]);
    assert!(code == Some(0) && addresses.contains(" 198.18.0.13/24 "), "{addresses}");
    assert_eq!(exec(&["n1", "--", "sh", "-c", "exit 7"]).1, Some(7));
    let (text, code) = exec(&["n9", "--", "true"]);
    assert!(code == Some(2) && text.contains("nothing is called n9; there are: "), "{text}");
    let (text, code) = program(&["exec", "--lab", "nobodys", "n1", "--", "true"]);
    assert!(code == Some(2) && text.contains("no lab nobodys is running"), "{text}");
}

#[test]
fn a_killed_machine_takes_its_processes_along_and_returns_with_its_disk() {
    in_sandbox("a_killed_machine_takes_its_processes_along_and_returns_with_its_disk", || {
        let lab = lab("test-kill", Topology::one_link(2));
        let machine = lab.machine("n1").expect("it runs");
        let boot_id = || std::fs::read_to_string("/proc/sys/kernel/random/boot_id").expect("there is one");
        let first_boot = machine.enter(boot_id).expect("it can be entered");
        machine.run("touch", &["/var/lib/kept", "/run/lost"]).expect("files can be made");
        let mut command = std::process::Command::new("sleep");
        command.arg("1000");
        let sleeper = machine.spawn(command, Net::Machine).expect("it starts");
        assert!(sleeper.is_running());
        drop(machine);
        lab.kill_machine("n1").expect("it dies");
        assert!(!sleeper.is_running());
        assert!(lab.machine("n1").is_err());

        let machine = lab.start_machine("n1").expect("it returns");
        machine.run("test", &["-e", "/var/lib/kept"]).expect("the disk is as it was");
        machine.run("test", &["!", "-e", "/run/lost"]).expect("memory is fresh");
        assert_ne!(machine.enter(boot_id).expect("it can be entered"), first_boot);
        let mut command = lab.tool().command(&["serve", "n2"]);
        command.stdin(std::process::Stdio::null());
        let server = lab.machine("n2").expect("it runs").spawn(command, Net::Machine).expect("it starts");
        std::thread::sleep(Duration::from_millis(200));
        let address = "192.0.2.12".parse().expect("an address");
        let outcomes: Vec<Outcome> =
            lab.tool().ask(&machine, Net::Machine, "probe", &targets([address])).expect("the probe runs");
        assert!(outcomes.iter().all(|o| o.greeting().is_some()), "it is cabled again: {outcomes:?}");
        drop(server);
        drop(machine);
        lab.close().expect("nothing is left");
    });
}

/// ptp and host-local of the reference plugins, with the node's own forwarding.
const PTP: &str = r#"{"cniVersion": "1.0.0", "name": "lab", "plugins": [
    {"type": "ptp", "ipMasq": false, "ipam": {"type": "host-local", "dataDir": "/var/lib/cni/networks",
     "ranges": [[{"subnet": "10.42.1.0/24"}], [{"subnet": "fd42:0:0:1::/64"}]],
     "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]}},
    {"type": "portmap", "capabilities": {"portMappings": true}}]}"#;

#[test]
fn the_runtime_connects_pods_through_the_reference_plugins() {
    if !std::path::Path::new("/usr/lib/cni/ptp").exists() {
        println!("SKIPPED: the reference plugins are missing: apt-get install containernetworking-plugins");
        return;
    }
    in_sandbox("the_runtime_connects_pods_through_the_reference_plugins", || {
        let lab = lab("test-ptp", Topology::one_link(1));
        let node = lab.machine("n1").expect("it runs");
        std::fs::write(node.path("/etc/cni/net.d/10-lab.conflist"), PTP).expect("the list can be written");
        let runtime = Arc::new(Runtime::new(Arc::clone(&node)));
        let versions = runtime.versions().expect("VERSION works");
        assert!(
            versions.len() == 2 && versions.iter().all(|v| v.iter().any(|v| v == "1.0.0")),
            "{versions:?}"
        );
        let pods: Vec<Pod> = ["a", "b"]
            .into_iter()
            .map(|name| Pod::start(&runtime, lab.tool(), PodSpec::new("test", name)).expect("the pod starts"))
            .collect();
        let targets = targets(pods.iter().flat_map(|p| p.addresses().to_vec()));
        for pod in &pods {
            lab.announce(pod).expect("the state is written");
            assert_eq!(pod.addresses().len(), 2, "{:?}", pod.addresses());
            let outcomes: Vec<Outcome> =
                lab.tool().ask(pod.machine(), pod.net(), "probe", &targets).expect("the probe runs");
            for (target, outcome) in targets.iter().zip(outcomes) {
                let greeting =
                    outcome.greeting().unwrap_or_else(|| panic!("{} → {target:?}: {outcome:?}", pod.key()));
                assert_eq!(greeting.server, target.address);
                assert!(pod.addresses().contains(&greeting.client.ip()), "{greeting:?}");
            }
            pod.check().expect("CHECK is content");
            let (text, code) =
                program(&["exec", "--lab", "test-ptp", &pod.key(), "--", "ip", "-o", "address"]);
            let own = |ip: &IpAddr| text.contains(&format!(" {ip}/"));
            assert!(code == Some(0) && pod.addresses().iter().all(own), "{text}");
        }
        for pod in pods {
            pod.stop().expect("DEL works");
        }
        let leases =
            node.run("find", &["/var/lib/cni/networks/lab", "-name", "*.42.*"]).expect("it can be listed");
        assert_eq!(leases, "");
        drop((node, runtime));
        println!("{}", lab.close().expect("nothing is left"));
    });
}
