//! Machines of a cluster that moves: Weft's programs, the shared folder, and pods by whichever network is configured.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use weft_lab::load::{Job, Report};
use weft_lab::probe::{Outcome, Target, Transport};
use weft_lab::runtime::Runtime;
use weft_lab::weft::{Agent, Programs, shared_folder};
use weft_lab::{Lab, Machine, Net, Pod, PodSpec, Tool, Topology, serve};

use crate::programs::build;

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long traffic goes on while a node moves, in milliseconds.
const TRAFFIC_MS: u64 = 6000;

/// How many packets of a stream, one each 4 ms, may be lost while a node moves: up to nine have been seen, on a busy machine.
pub const ORDERLY: u64 = 25;
/// The same where the migration is killed in the middle, and nothing goes on until another begins: up to twenty have been seen.
pub const KILLED: u64 = 50;

/// The shared folder as nodes see it.
const FOLDER: &str = "/lab/cluster";

/// All that stands.
pub struct Site {
    pub lab: Lab,
    programs: Programs,
}

impl Site {
    /// Machines with Weft installed and not started.
    pub fn start(name: &str, nodes: u8) -> Self {
        let site = Self::start_with(name, nodes, &json!({"directory": FOLDER}));
        let (folder, inside) = shared_folder(&site.lab);
        assert_eq!(inside, FOLDER);
        std::fs::create_dir(folder).expect("the shared folder can be made");
        site
    }

    /// The same, with the store that agents' configuration names.
    pub fn start_with(name: &str, nodes: u8, store: &Value) -> Self {
        let tool = Path::new(env!("CARGO_BIN_EXE_weft-lab"));
        let programs = build(tool.parent().expect("it lies in a folder"));
        let lab = Lab::new(name, Topology::one_link(nodes), Tool::new(tool)).expect("the lab starts");
        for node in lab.nodes() {
            programs.install_with(&node, store).expect("Weft can be installed");
        }
        Self { lab, programs }
    }

    pub fn node(&self, name: &str) -> Arc<Machine> {
        self.lab.machine(name).expect("the machine runs")
    }

    /// Writes a file of facts.
    pub fn fact(&self, name: &str, text: &str) {
        std::fs::write(shared_folder(&self.lab).0.join(name), text).expect("the file can be written");
    }

    /// Starts a node's agent, and waits until it takes pods.
    pub fn start_agent(&self, node: &str, runtime: &Runtime) -> Agent {
        let log = self.lab.directory().join(format!("{node}.log"));
        let agent = self.programs.start_agent(&self.node(node), &log).expect("the agent starts");
        let ready = runtime.wait_ready(PATIENCE);
        ready.unwrap_or_else(|e| panic!("{node} is not ready: {e}\n{}", agent.last_words()));
        agent
    }

    /// Starts a pod by whatever network the node's runtime finds.
    pub fn pod(&self, runtime: &Arc<Runtime>, name: &str) -> Pod {
        Pod::start(runtime, self.lab.tool(), PodSpec::new("test", name)).expect("the pod starts")
    }

    /// `weft migrate` on a node: what it said, and whether it succeeded.
    pub fn migrate(&self, node: &str, crash_at: &str) -> Result<String, String> {
        let mut command = Command::new("/opt/weft");
        command.args(["migrate", "--config", "/etc/weft/agent.yaml"]).env("WEFT_CRASH_AT", crash_at);
        let finished = self.node(node).output(command, Net::Machine, b"").expect("it runs");
        finished.success_or(|output| output)
    }

    /// Traffic from one pod to others while something happens: a UDP packet each 4 ms, and one TCP connection that never
    /// rests. Panics where a connection broke, or more than `most_lost` packets of one pair got no answer.
    pub fn under_traffic<T>(&self, from: &Pod, to: &[&Pod], most_lost: u64, work: impl FnOnce() -> T) -> T {
        let addresses: Vec<_> =
            to.iter().flat_map(|pod| pod.addresses().iter().map(|ip| (pod.key(), *ip))).collect();
        std::thread::scope(|scope| {
            let mut threads = Vec::new();
            for (name, ip) in addresses {
                let udp = SocketAddr::new(ip, serve::UDP);
                let tcp = SocketAddr::new(ip, serve::SINK);
                let jobs = [
                    Job::Echo { server: udp, interval_us: 4000, duration_ms: TRAFFIC_MS },
                    Job::Pump { server: tcp, duration_ms: TRAFFIC_MS },
                ];
                for job in jobs {
                    let name = name.clone();
                    let ask = move || -> Report {
                        self.lab.tool().ask(from.machine(), from.net(), "load", &job).expect("traffic runs")
                    };
                    threads.push((name, ip, scope.spawn(ask)));
                }
            }
            std::thread::sleep(Duration::from_millis(TRAFFIC_MS / 6));
            let begun = Instant::now();
            let done = work();
            println!("it took {} ms, traffic went on for {TRAFFIC_MS} ms", begun.elapsed().as_millis());
            for (name, ip, thread) in threads {
                match thread.join().expect("it counts") {
                    Report::Echo { sent, received, longest_gap_ms } => {
                        println!(
                            "{name} {ip}: {received} of {sent} packets, longest gap {longest_gap_ms:.0} ms"
                        );
                        let lost = sent.saturating_sub(received);
                        assert!(lost <= most_lost, "{name} {ip}: {lost} of {sent} packets were lost");
                    }
                    Report::Pump { bytes, seconds } => {
                        println!("{name} {ip}: one connection, {} MB in {seconds:.1} s", bytes >> 20);
                    }
                    other => panic!("{name} {ip}: the connection broke: {other:?}"),
                }
            }
            done
        })
    }

    /// Every pod reaches every pod, itself left out: at once, or as soon as nodes have heard of each other.
    #[track_caller]
    pub fn all_reach_all(&self, what: &str, pods: &[&Pod]) {
        let begun = Instant::now();
        loop {
            let wrong = self.unreached(pods);
            if wrong.is_empty() {
                return;
            }
            assert!(begun.elapsed() < PATIENCE, "{what}, after {PATIENCE:?}:\n{}", wrong.join("\n"));
        }
    }

    fn unreached(&self, pods: &[&Pod]) -> Vec<String> {
        let mut wrong = Vec::new();
        for from in pods {
            let others = || pods.iter().filter(|pod| pod.key() != from.key());
            let targets: Vec<(String, Target)> = others()
                .flat_map(|pod| pod.addresses().iter().map(|ip| (pod.key(), *ip)))
                .map(|(name, ip)| (name, Target::new(Transport::Http, SocketAddr::new(ip, serve::HTTP))))
                .collect();
            let asked: Vec<Target> = targets.iter().map(|(_, target)| target.clone()).collect();
            let outcomes: Vec<Outcome> =
                self.lab.tool().ask(from.machine(), from.net(), "probe", &asked).expect("the probe runs");
            for ((name, target), outcome) in targets.iter().zip(outcomes) {
                if outcome.greeting().map(|greeting| greeting.name.as_str()) != Some(name.as_str()) {
                    wrong.push(format!("{} → {name} {}: {outcome:?}", from.key(), target.address));
                }
            }
        }
        wrong
    }
}

/// Writes what libcni, the library of runtimes, keeps of an ADD.
pub fn cache(machine: &Machine, network: &str, pod: &Pod) {
    let spec = pod.spec();
    let id = format!("cni-{}-{}", spec.namespace, spec.name);
    let folder = machine.path("/var/lib/cni/results");
    std::fs::create_dir_all(&folder).expect("it can be made");
    let cached = json!({
        "kind": "cniCacheV1", "containerId": id, "ifName": "eth0", "networkName": network, "config": "",
        "netns": format!("/run/netns/{id}"),
        "cniArgs": [["K8S_POD_NAMESPACE", spec.namespace], ["K8S_POD_NAME", spec.name], ["K8S_POD_UID", spec.uid]],
    });
    std::fs::write(folder.join(format!("{network}-{id}-eth0")), cached.to_string())
        .expect("it can be written");
}

/// Waits until something is so.
#[track_caller]
pub fn wait(what: &str, mut so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !so() {
        assert!(begun.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
