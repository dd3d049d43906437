//! A node whose block is full gets another, and peers find the pods in it.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use weft_lab::runtime::Runtime;
use weft_lab::sandbox::in_sandbox;
use weft_lab::weft::shared_folder;
use weft_lab::{Lab, Pod, PodSpec, Tool, Topology};

use super::alone;
use super::nodes::{begin, unreached};
use super::rig::{build, wait};

/// Shares of four addresses.
const NETWORK: &str = "apiVersion: weft.dev/v1\nkind: Network\nmetadata: {name: default}\nspec: {podCIDRs: [10.42.0.0/24], nodePrefixV4: 30}\n";
/// More than a share holds.
const PODS: usize = 6;
/// For a pod that found the node full, as a runtime comes again.
const PATIENCE: Duration = Duration::from_secs(30);

/// Starts a pod as a kubelet does: again, until it has its network.
fn start(runtime: &Arc<Runtime>, tool: &Tool, name: &str) -> Pod {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match Pod::start(runtime, tool, PodSpec::new("test", name)) {
            Ok(pod) => return pod,
            Err(error) => assert!(Instant::now() < deadline, "{name} has no network: {error}"),
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}

#[test]
fn a_full_node_gets_another_block_and_peers_find_its_pods() {
    let _alone = alone();
    in_sandbox("full::a_full_node_gets_another_block_and_peers_find_its_pods", || {
        let tool = Path::new(env!("CARGO_BIN_EXE_weft-lab"));
        let programs = build(tool.parent().expect("it lies in a folder"));
        let lab = Lab::new("live-full", Topology::routed(), Tool::new(tool)).expect("the lab starts");
        let (folder, inside) = shared_folder(&lab);
        std::fs::create_dir(&folder).expect("the shared folder can be made");
        std::fs::write(folder.join("network.yaml"), NETWORK).expect("the file can be written");
        let (mut agents, mut pods) = (Vec::new(), Vec::new());
        let mut first = None;
        for machine in lab.nodes() {
            programs.install(&machine, inside).expect("Weft can be installed");
            let (agent, runtime) = begin(&lab, &programs, &machine);
            pods.push(start(&runtime, lab.tool(), &format!("on-{}", machine.name())));
            first.get_or_insert(runtime);
            agents.push(agent);
        }
        let crowded = first.expect("there are nodes");
        for number in 1..PODS {
            pods.push(start(&crowded, lab.tool(), &format!("more-{number}")));
        }
        let blocks = || {
            let text = std::fs::read_to_string(folder.join(".weft/nodes/n1.json")).unwrap_or_default();
            text.matches("/30\"").count()
        };
        wait("n1 says that it has two blocks", || blocks() >= 2);
        wait("every pod reaches every other", || unreached(&lab, &pods).is_empty());
        for pod in pods {
            pod.stop().expect("DEL works");
        }
        drop((agents, crowded));
        println!("{}", lab.close().expect("nothing is left"));
    });
}
