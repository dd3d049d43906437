//! Nodes with two links: which address is a node's, whose MTU counts, and a peer that is behind the link with the default route.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use serde_json::json;
use weft_lab::sandbox::in_sandbox;
use weft_lab::topology::{Lan, Port, ROUTER};
use weft_lab::weft::{Agent, shared_folder};
use weft_lab::{Lab, Pod, PodSpec, Tool, Topology};

use super::alone;
use super::nodes::{begin, unreached};
use super::rig::{build, wait};

const SECOND: &str = "second";
const NETWORK: &str = "apiVersion: weft.dev/v1\nkind: Network\nmetadata: {name: default}\nspec: {podCIDRs: [10.42.0.0/16, \"fd42::/48\"]}\n";

/// `n1` and `n2` have a second link of their own with a smaller MTU, on which the router is, too; `n3` is behind the router.
fn topology() -> Topology {
    let mut topology = Topology::routed();
    topology.lans.push(Lan { name: SECOND.into(), mtu: 1400 });
    for machine in &mut topology.machines {
        let last = match machine.name.as_str() {
            ROUTER => 1,
            "n1" => 11,
            "n2" => 12,
            _ => continue,
        };
        let interface = format!("eth{}", machine.ports.len());
        let addresses = vec![format!("10.99.0.{last}/24").parse().expect("it is a block")];
        machine.ports.push(Port { interface, lan: SECOND.into(), addresses });
    }
    topology
}

/// A node as its kubelet would register it.
fn node(name: &str, address: Option<&str>) -> String {
    let addresses: Vec<_> =
        address.iter().map(|address| json!({"type": "InternalIP", "address": address})).collect();
    json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}, "status": {"addresses": addresses}})
        .to_string()
}

#[test]
fn nodes_with_two_links_go_by_the_one_that_the_cluster_knows() {
    let _alone = alone();
    in_sandbox("uplinks::nodes_with_two_links_go_by_the_one_that_the_cluster_knows", || {
        let tool = Path::new(env!("CARGO_BIN_EXE_weft-lab"));
        let programs = build(tool.parent().expect("it lies in a folder"));
        let lab = Lab::new("live-uplinks", topology(), Tool::new(tool)).expect("the lab starts");
        let (folder, inside) = shared_folder(&lab);
        std::fs::create_dir(&folder).expect("the shared folder can be made");
        let fact = |name: &str, text: &str| {
            std::fs::write(folder.join(name), text).expect("the file can be written");
        };
        fact("00-network.yaml", NETWORK);
        fact("10-n1.yaml", &node("n1", Some("10.99.0.11")));
        fact("10-n2.yaml", &node("n2", Some("10.99.0.12")));
        let (mut agents, mut pods) = (BTreeMap::new(), Vec::new());
        for machine in lab.nodes() {
            programs.install(&machine, inside).expect("Weft can be installed");
            let (agent, runtime) = begin(&lab, &programs, &machine);
            let spec = PodSpec::new("test", &format!("on-{}", machine.name()));
            pods.push(Pod::start(&runtime, lab.tool(), spec).expect("the pod starts"));
            agents.insert(machine.name().to_owned(), agent);
        }
        let says = |name: &str, address: &str| {
            let text = std::fs::read_to_string(folder.join(format!(".weft/nodes/{name}.json")));
            text.is_ok_and(|text| text.contains(address))
        };
        wait("nodes say the address that the cluster knows", || {
            says("n1", "10.99.0.11/24") && says("n2", "10.99.0.12/24") && says("n3", "198.18.0.13/24")
        });
        let goes_to = |agent: &Agent, address: &str| {
            agent.plan().expect("there is a plan").iter().any(|row| row.contains(address))
        };
        wait("peers go by it", || {
            goes_to(&agents["n1"], "10.99.0.12")
                && goes_to(&agents["n3"], "10.99.0.11")
                && goes_to(&agents["n3"], "10.99.0.12")
        });
        wait("every pod reaches every other", || unreached(&lab, &pods).is_empty());
        // Less the tunnel, and on n3 by its only link.
        for (pod, mtu) in pods.iter().zip([1350, 1350, 1450]) {
            let mut command = Command::new("ip");
            command.args(["-o", "link", "show", "eth0"]);
            let shown = pod.machine().output(command, pod.net(), b"").expect("it runs");
            let shown = shown.success_or(|output| output).expect("it is shown");
            assert!(shown.contains(&format!(" mtu {mtu} ")), "{}: {shown}", pod.key());
        }
        // It registers with its other address, and all follow.
        fact("10-n2.yaml", &node("n2", Some("192.0.2.12")));
        wait("n2 says its other address", || says("n2", "192.0.2.12/24"));
        wait("peers go by that", || ["n1", "n3"].iter().all(|name| !goes_to(&agents[*name], "10.99.0.12")));
        wait("every pod still reaches every other", || unreached(&lab, &pods).is_empty());
        for pod in pods {
            pod.stop().expect("DEL works");
        }
        drop(agents);
        println!("{}", lab.close().expect("nothing is left"));
    });
}
