//! Changes of a living cluster, each under traffic whose packets are counted: what must cost none costs none, what others
//! do to a node is mended, and what changed is what everybody goes by.

#[path = "../matrix/cells.rs"]
mod cells;
#[path = "../rig/mod.rs"]
mod rig;

mod beside;
mod churn;
mod disturbed;
mod etcd;
mod even;
mod explained;
mod firewalls;
mod full;
mod generated;
mod nodes;
mod objects;
mod packets;
mod services;
mod switched;
mod traffic;
mod uplinks;

use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rig::{Rig, Settings, wait};
use traffic::{Tolerance, under_traffic};
use weft_lab::manifest::pods_of;
use weft_lab::sandbox::in_sandbox;
use weft_lab::topology::INTERNET;
use weft_lab::{Pod, Topology};

/// Each test has clusters of its own, and the machine to itself: packets are counted, and time is short.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

#[test]
fn a_living_cluster() {
    let _alone = alone();
    in_sandbox("a_living_cluster", || {
        let settings = Settings { overlay: "auto", shape: "island" };
        let mut rig = Rig::start("live", Topology::routed(), settings);
        switched_shapes(&rig);
        services::endpoints_change(&rig);
        agent_restarted(&mut rig);
        explained::hops_are_marked(&rig);
        uplink_mtu_changed(&rig);
        disturbed::everything(&rig);
        returned_with_another_cidr(&mut rig);
        rig.router("replace");
        let wrong = cells::compare(&rig, settings);
        assert!(wrong.is_empty(), "{} cells are wrong after all this:\n{}", wrong.len(), wrong.join("\n"));
        address_changed(&rig);
        rig.stop();
    });
}

/// Between pods nothing depends on how the network meets the outside.
fn switched_shapes(rig: &Rig) {
    under_traffic(rig, "shapes switched", &["test/a2", "test/b1", "test/c1"], Tolerance::None, || {
        for shape in ["flat", "isolated", "island"] {
            rig.switch(Settings { overlay: "auto", shape });
        }
    });
}

fn agent_restarted(rig: &mut Rig) {
    let others = ["test/a2", "test/b1", "test/c1", INTERNET];
    let node = rig.lab.machine("n1").expect("it runs");
    under_traffic(rig, "agent killed", &others, Tolerance::None, || rig.agents["n1"].kill());
    rig.start_agent(&node);
    rig.wait_ready("n1");
    under_traffic(rig, "agent ended", &others, Tolerance::None, || assert!(rig.agents["n1"].stop()));
    let restarted = || {
        let log = rig.lab.directory().join("n1.log");
        rig.programs.start_agent(&node, &log).expect("the agent starts")
    };
    let agent = under_traffic(rig, "agent started", &others, Tolerance::None, restarted);
    rig.agents.insert("n1".into(), agent);
    rig.wait_ready("n1");
    rig.wait_known();
    unchanged(rig);
}

/// Pods follow the uplink less the tunnel's 50 bytes, those that live included.
fn uplink_mtu_changed(rig: &Rig) {
    for (mtu, pods) in [("1400", "1350"), ("1500", "1450")] {
        let what = format!("uplink MTU {mtu}");
        under_traffic(rig, &what, &["test/a2", "test/b1", "test/c1"], Tolerance::None, || {
            let node = rig.lab.machine("n1").expect("it runs");
            node.run("ip", &["link", "set", "eth0", "mtu", mtu]).expect("it can be set");
            for pod in ["test/a1", "test/a2"] {
                wait(&format!("MTU {pods} inside {pod}"), || link_mtu(rig, pod) == pods);
            }
        });
        unchanged(rig);
    }
}

/// What the pod's own kernel says: its machine's /sys shows another namespace's links.
fn link_mtu(rig: &Rig, pod: &str) -> String {
    let line = rig.in_pod(pod, "ip", &["-o", "link", "show", "eth0"]);
    let mut words = line.split_whitespace().skip_while(|word| *word != "mtu");
    words.nth(1).unwrap_or_default().to_owned()
}

/// A node gets another address: it says so, and its peers send there.
fn address_changed(rig: &Rig) {
    let node = rig.lab.machine("n2").expect("it runs");
    let (old, new) = ("192.0.2.12", "192.0.2.22");
    let change = || {
        let batch = format!(
            "address del {old}/24 dev eth0\naddress add {new}/24 dev eth0\nroute replace default via 192.0.2.1\n"
        );
        node.run_with_input("ip", &["-batch", "-"], &batch).expect("it can be changed");
        wait("peers go by the new address", || {
            ["n1", "n3"].iter().all(|peer| {
                let plan = rig.agents[*peer].plan().expect("there is a plan");
                plan.iter().any(|row| row.contains(new)) && !plan.iter().any(|row| row.contains(old))
            })
        });
    };
    under_traffic(rig, "address of n2 changed", &["test/b1"], Tolerance::GapMs(3000.0), change);
    rig.wait_known();
    unchanged(rig);
    under_traffic(rig, "afterwards", &["test/b1", "test/c1"], Tolerance::None, || {});
}

/// A node loses its power, and comes back with other pod CIDRs: its peers forget the old ones.
fn returned_with_another_cidr(rig: &mut Rig) {
    let (name, old) = ("n3", "10.42.2.0/24");
    assert!(rig.agents["n1"].plan().expect("a plan").iter().any(|row| row.contains(old)), "n3 had {old}");
    rig.lab.kill_machine(name).expect("it dies");
    rig.agents.remove(name);
    rig.runtimes.remove(name);
    rig.servers.remove(name);
    rig.pods.retain(|_, pod| pod.machine().name() != name);
    rig.write_file(
        "05-n3.yaml",
        "apiVersion: v1\nkind: Node\nmetadata: {name: n3}\nspec: {podCIDRs: [10.42.77.0/24, \"fd42:0:0:77::/64\"]}\n",
    );
    let machine = rig.lab.start_machine(name).expect("it returns");
    rig.serve(name);
    rig.install(&machine);
    rig.wait_ready(name);
    for pod in pods_of(&rig.folder()).expect("they can be read").into_iter().filter(|p| p.node == name) {
        let pod = Pod::start(&rig.runtimes[name], rig.lab.tool(), pod.spec).expect("the pod starts");
        let expected: [IpAddr; 2] = [[10, 42, 77, 0].into(), [0xfd42, 0, 0, 0x77, 0, 0, 0, 0].into()];
        let near = |a: &IpAddr| expected.iter().any(|e| share_64_or_24_bits(*a, *e));
        assert!(pod.addresses().iter().all(near), "{:?}", pod.addresses());
        rig.pods.insert(pod.key(), pod);
    }
    rig.wait_known();
    wait("peers have forgotten the old block", || {
        ["n1", "n2"].iter().all(|node| {
            !rig.agents[*node].plan().expect("there is a plan").iter().any(|row| row.contains(old))
        })
    });
    unchanged(rig);
    under_traffic(rig, "n3 is back elsewhere", &["test/b1", "test/c1"], Tolerance::None, || {});
}

fn share_64_or_24_bits(a: IpAddr, b: IpAddr) -> bool {
    match (a, b) {
        (IpAddr::V4(a), IpAddr::V4(b)) => a.octets()[..3] == b.octets()[..3],
        (IpAddr::V6(a), IpAddr::V6(b)) => a.segments()[..4] == b.segments()[..4],
        _ => false,
    }
}

/// Waits until every kernel is as its plan has it.
fn unchanged(rig: &Rig) {
    let took = wait("kernels are as their plans have them", || rig.differences().is_empty());
    println!("    kernels as planned after {:.0} ms", took.as_secs_f64() * 1000.0);
}
