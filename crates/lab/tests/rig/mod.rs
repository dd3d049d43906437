//! A cluster for tests: three nodes with agents on a shared folder, five pods, two of them with mapped ports, a client and a
//! host on the internet, and a router that knows the way to the nodes' pods.

#[path = "programs.rs"]
mod programs;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

pub use programs::build;
use weft_lab::manifest::pods_of;
use weft_lab::matrix::{Place, Standing};
use weft_lab::pod::spawn_server;
use weft_lab::runtime::Runtime;
use weft_lab::topology::{CLIENT, INTERNET, ROUTER, Role};
use weft_lab::weft::{Agent, Packet, Programs, shared_folder};
use weft_lab::{Lab, Machine, Net, Pod, Process, Tool, Topology};

/// How long the cluster may take to be as it was told to be.
const PATIENCE: Duration = Duration::from_secs(20);

/// The network object, as it is written into the shared folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    pub overlay: &'static str,
    pub shape: &'static str,
}

impl Settings {
    /// Its YAML, to which more of the `spec` can be added.
    pub fn manifest(self) -> String {
        let Self { overlay, shape } = self;
        format!(
            "apiVersion: weft.dev/v1\nkind: Network\nmetadata: {{name: default}}\nspec:\n  \
             podCIDRs: [10.42.0.0/16, \"fd42::/48\"]\n  serviceCIDRs: [10.43.0.0/16, \"fd43::/112\"]\n  \
             shape: {shape}\n  overlay: {overlay}\n"
        )
    }

    /// True where a node's plan is this network's.
    fn is_in(self, plan: &[String]) -> bool {
        let holds = |start: &str| plan.iter().any(|row| row.starts_with(start));
        holds("element island4 ") == (self.shape == "island")
            && holds("element isolated4 ") == (self.shape == "isolated")
            && holds("link weftx") == (self.overlay != "host-gw")
    }
}

/// Ports of a node that lead to a pod.
#[derive(Debug, Clone)]
pub struct Mapping {
    pub node: String,
    pub http: u16,
    pub udp: u16,
}

/// All that runs.
pub struct Rig {
    pub agents: BTreeMap<String, Agent>,
    pub runtimes: BTreeMap<String, Arc<Runtime>>,
    pub pods: BTreeMap<String, Pod>,
    pub programs: Programs,
    pub servers: BTreeMap<String, Process>,
    pub lab: Lab,
}

impl Rig {
    /// Starts everything, and waits until every agent knows every pod.
    pub fn start(name: &str, topology: Topology, settings: Settings) -> Self {
        let tool = Path::new(env!("CARGO_BIN_EXE_weft-lab"));
        let programs = build(tool.parent().expect("it lies in a folder"));
        let lab = Lab::new(name, topology, Tool::new(tool)).expect("the lab starts");
        let mut rig = Self {
            agents: BTreeMap::new(),
            runtimes: BTreeMap::new(),
            pods: BTreeMap::new(),
            programs,
            servers: BTreeMap::new(),
            lab,
        };
        std::fs::create_dir(rig.folder()).expect("the shared folder can be made");
        rig.write(settings);
        rig.write_file("10-pods.yaml", &pods(&rig));
        for name in [INTERNET, CLIENT, "n1", "n2", "n3"] {
            rig.serve(name);
        }
        for node in rig.lab.nodes() {
            rig.install(&node);
        }
        for node in ["n1", "n2", "n3"] {
            rig.wait_ready(node);
        }
        for pod in pods_of(&rig.folder()).expect("the pods can be read") {
            let runtime = &rig.runtimes[&pod.node];
            let pod = Pod::start(runtime, rig.lab.tool(), pod.spec).expect("the pod starts");
            rig.pods.insert(pod.key(), pod);
        }
        rig.wait_known();
        rig
    }

    /// The folder of facts.
    pub fn folder(&self) -> PathBuf {
        shared_folder(&self.lab).0
    }

    /// Writes a file of facts.
    pub fn write_file(&self, name: &str, text: &str) {
        std::fs::write(self.folder().join(name), text).expect("the file can be written");
    }

    fn write(&self, settings: Settings) {
        std::fs::write(self.folder().join("00-cluster.yaml"), settings.manifest())
            .expect("it can be written");
    }

    /// Starts the test server in a machine's own network.
    pub fn serve(&mut self, name: &str) {
        let command = self.lab.tool().command(&["serve", name]);
        let machine = self.lab.machine(name).expect("the machine runs");
        let process = spawn_server(&machine, command, Net::Machine).expect("the server starts");
        self.servers.insert(name.into(), process);
    }

    /// Puts Weft on a node and starts its agent.
    pub fn install(&mut self, node: &Arc<Machine>) {
        self.programs.install(node, shared_folder(&self.lab).1).expect("Weft can be installed");
        self.start_agent(node);
        self.runtimes.insert(node.name().into(), Arc::new(Runtime::new(Arc::clone(node))));
    }

    /// Starts the agent of a node on which Weft is installed.
    pub fn start_agent(&mut self, node: &Arc<Machine>) {
        let log = self.lab.directory().join(format!("{}.log", node.name()));
        let agent = self.programs.start_agent(node, &log).expect("the agent starts");
        self.agents.insert(node.name().into(), agent);
    }

    /// Waits until a node takes pods.
    pub fn wait_ready(&self, node: &str) {
        let ready = self.runtimes[node].wait_ready(PATIENCE);
        ready.unwrap_or_else(|e| panic!("{node} is not ready: {e}\n{}", self.agents[node].last_words()));
    }

    /// Waits until every agent knows every pod.
    pub fn wait_known(&self) {
        wait("every agent knows every pod", || {
            self.agents.iter().all(|(node, agent)| {
                let (names, packets): (Vec<_>, Vec<_>) = self
                    .pods
                    .values()
                    .flat_map(|pod| pod.addresses().iter().map(|ip| (pod.key(), greeting_of(node, *ip))))
                    .unzip();
                let predictions = agent.predict(&packets).expect("the oracle answers");
                predictions.iter().zip(names).all(|(prediction, name)| {
                    let receiver = prediction.seen.as_ref().and_then(|seen| seen.receiver.as_deref());
                    prediction.works && receiver == Some(name.as_str())
                })
            })
        });
    }

    /// Changes the network, and waits until every node has it in force.
    pub fn switch(&self, settings: Settings) {
        self.write(settings);
        wait(&format!("every node has {settings:?} in force"), || {
            self.agents.values().all(|agent| {
                settings.is_in(&agent.plan().expect("the agent has a plan")) && is_in_force(agent)
            })
        });
    }

    /// Where the kernels differ from their plans.
    pub fn differences(&self) -> Vec<String> {
        let of = |(node, agent): (&String, &Agent)| {
            let lines = agent.differences().expect("the agent compares");
            lines.into_iter().map(|line| format!("{node} {line}")).collect::<Vec<_>>()
        };
        self.agents.iter().flat_map(of).collect()
    }

    /// Every pod, every node, the client and the host on the internet.
    pub fn places(&self) -> Vec<Place> {
        let machines = self.lab.topology().machines.iter().filter(|m| m.role != Role::Router);
        let machines = machines.map(|spec| {
            let standing = if spec.role == Role::Node { Standing::InCluster } else { Standing::Outside };
            let machine = self.lab.machine(&spec.name).expect("the machine runs");
            Place::machine(machine, spec.addresses().collect(), standing)
        });
        self.pods.values().map(Place::pod).chain(machines).collect()
    }

    /// The ports of nodes that lead to pods.
    pub fn mappings(&self) -> Vec<Mapping> {
        let mapped = self.pods.values().filter(|pod| !pod.spec().ports.is_empty());
        mapped
            .map(|pod| {
                let port = |protocol: &str| {
                    let found = pod.spec().ports.iter().find(|p| p.protocol == protocol);
                    found.expect("each mapped pod has one of each protocol").host_port
                };
                Mapping { node: pod.machine().name().into(), http: port("tcp"), udp: port("udp") }
            })
            .collect()
    }

    /// The network outside learns, or forgets, where the nodes' pods are.
    pub fn router(&self, verb: &str) {
        let router = self.lab.machine(ROUTER).expect("it runs");
        for (node, agent) in &self.agents {
            let status = agent.status().expect("the agent answers");
            let spec = self.lab.topology().machine(node).expect("it is in the topology");
            for cidr in status["podCidrs"].as_array().into_iter().flatten() {
                let cidr = cidr.as_str().and_then(|text| text.split(' ').nth(1)).expect("NETWORK CIDR");
                let like: IpAddr = cidr.split('/').next().and_then(|ip| ip.parse().ok()).expect("an address");
                let via = spec.address_like(like).expect("nodes have both families").to_string();
                router.run("ip", &["route", verb, cidr, "via", &via]).expect("the router takes it");
            }
        }
    }

    /// Runs a command in a pod's network.
    pub fn in_pod(&self, pod: &str, program: &str, arguments: &[&str]) -> String {
        let pod = &self.pods[pod];
        let mut command = Command::new(program);
        command.args(arguments);
        let finished = pod.machine().output(command, pod.net(), b"").expect("it runs");
        finished.success_or(|output| output).unwrap_or_else(|e| panic!("{program} {arguments:?}: {e}"))
    }

    /// Takes all of it down, and looks that nothing is left.
    pub fn stop(self) {
        let Self { agents, runtimes, pods, servers, lab, .. } = self;
        for pod in pods.into_values() {
            pod.stop().expect("DEL works");
        }
        drop((agents, runtimes, servers));
        println!("{}", lab.close().expect("nothing is left"));
    }
}

/// Whether all of its plan is in the kernel.
pub fn is_in_force(agent: &Agent) -> bool {
    let status = agent.status().expect("the agent answers");
    let plan = &status["plan"];
    plan["generation"] == plan["inForce"] && plan["failed"] == 0
}

fn greeting_of(node: &str, ip: IpAddr) -> Packet {
    let target = &weft_lab::matrix::both(ip)[0];
    Packet { from: node.into(), source: None, to: target.address, transport: target.transport }
}

/// Waits until something is so.
#[track_caller]
pub fn wait(what: &str, mut so: impl FnMut() -> bool) -> Duration {
    let begun = Instant::now();
    while !so() {
        assert!(begun.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
    begun.elapsed()
}

/// One pod with ports at every address of n1, one with ports at one address of n2, one at one of n3. Labels say which node is
/// theirs, and which of two groups.
fn pods(rig: &Rig) -> String {
    let address = |node: &str, v4: bool| {
        let spec = rig.lab.topology().machine(node).expect("it is in the topology");
        spec.addresses().find(|a| a.is_ipv4() == v4).expect("nodes have both families")
    };
    let ports = |first: u16, host_ip: Option<IpAddr>| {
        let at = host_ip.map_or(String::new(), |ip| format!(", hostIP: \"{ip}\""));
        format!(
            "[{{containerPort: 8080, hostPort: {first}{at}}}, {{containerPort: 8081, hostPort: {}, protocol: UDP{at}}}]",
            first + 1
        )
    };
    let pod = |name: &str, node: &str, group: &str, ports: String| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{namespace: test, name: {name}, uid: uid-{name}, \
             labels: {{app: rig, node: {node}, group: {group}}}}}\n\
             spec:\n  nodeName: {node}\n  containers: [{{name: c, image: example.org/c, ports: {ports}}}]\n"
        )
    };
    [
        pod("a1", "n1", "first", ports(30080, None)),
        pod("a2", "n1", "second", "[]".into()),
        pod("b1", "n2", "first", ports(30090, Some(address("n2", true)))),
        pod("c1", "n3", "first", "[]".into()),
        pod("c2", "n3", "second", ports(30100, Some(address("n3", false)))),
    ]
    .join("---\n")
}
