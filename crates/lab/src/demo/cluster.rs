//! The demo's cluster: machines, agents, runtimes and pods, from their start to their end.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use weft_lab::load::percentile;
use weft_lab::manifest::{BoundPod, pods_of};
use weft_lab::runtime::Runtime;
use weft_lab::topology::{CLIENT, INTERNET, Role};
use weft_lab::weft::{Agent, DNS, Programs, shared_folder};
use weft_lab::{Lab, Machine, Net, Pod, Process, Tool, Topology};

/// How long an agent may take until its node can attach pods.
const READY: Duration = Duration::from_secs(15);

/// All that runs.
pub struct Cluster {
    programs: Programs,
    lab: Option<Lab>,
    pub agents: BTreeMap<String, Agent>,
    pub runtimes: BTreeMap<String, Arc<Runtime>>,
    pub pods: BTreeMap<String, Pod>,
    /// Servers in the machines' own networks, by machine.
    servers: BTreeMap<String, Process>,
    tables: Vec<String>,
}

impl Cluster {
    pub fn new(programs: &Path) -> Result<Self> {
        let programs = Programs::in_folder(programs).context("build them with `cargo xtask demo`")?;
        Ok(Self {
            programs,
            lab: None,
            agents: BTreeMap::new(),
            runtimes: BTreeMap::new(),
            pods: BTreeMap::new(),
            servers: BTreeMap::new(),
            tables: Vec::new(),
        })
    }

    pub fn lab(&self) -> Result<&Lab> {
        self.lab.as_ref().context("the lab isn't running")
    }

    /// Leaves a block of text to be shown under the step.
    pub fn show(&mut self, table: String) {
        self.tables.push(table);
    }

    pub fn take_tables(&mut self) -> Vec<String> {
        std::mem::take(&mut self.tables)
    }

    /// The pod of this name.
    pub fn pod(&self, key: &str) -> Result<&Pod> {
        self.pods.get(key).with_context(|| format!("there is no pod {key}"))
    }

    /// Step: machines, cables, and the servers on them.
    pub fn start_machines(&mut self) -> Result<String> {
        let lab = Lab::new("demo", Topology::routed(), Tool::current()?)?;
        let (shared, _) = shared_folder(&lab);
        std::fs::create_dir(&shared).with_context(|| format!("can't make {}", shared.display()))?;
        std::fs::create_dir(lab.directory().join("logs")).context("can't make the folder of logs")?;
        let manifests = Path::new(env!("CARGO_MANIFEST_DIR")).join("manifests");
        for file in std::fs::read_dir(&manifests).context("can't list the manifests")?.flatten() {
            std::fs::copy(file.path(), shared.join(file.file_name())).context("can't copy a manifest")?;
        }
        let names: Vec<String> = lab.topology().machines.iter().map(|m| m.name.clone()).collect();
        self.lab = Some(lab);
        for name in [INTERNET, CLIENT, "n1", "n2", "n3"] {
            self.serve(name)?;
        }
        Ok(format!("{}; n1 and n2 share a link, n3 is behind the router", names.join(", ")))
    }

    /// Starts the test server in a machine's own network.
    fn serve(&mut self, name: &str) -> Result<()> {
        let lab = self.lab()?;
        let what = if name == INTERNET { "internet" } else { "serve" };
        let command = lab.tool().command(&[what, name]);
        let process = weft_lab::pod::spawn_server(&*lab.machine(name)?, command, Net::Machine)?;
        self.servers.insert(name.into(), process);
        Ok(())
    }

    /// Step: Weft on each node.
    pub fn start_agents(&mut self) -> Result<String> {
        let begun = Instant::now();
        for node in self.lab()?.nodes() {
            self.install(&node)?;
        }
        for node in self.lab()?.nodes() {
            self.wait_ready(node.name())?;
        }
        Ok(format!(
            "{} nodes ready after {:.0} ms",
            self.agents.len(),
            begun.elapsed().as_secs_f64() * 1000.0
        ))
    }

    /// Puts Weft on a node and starts its agent.
    fn install(&mut self, node: &Arc<Machine>) -> Result<()> {
        let (_, shared) = shared_folder(self.lab()?);
        self.programs.install(node, shared)?;
        self.start_agent(node)?;
        self.runtimes.insert(node.name().into(), Arc::new(Runtime::new(Arc::clone(node))));
        Ok(())
    }

    /// Starts the agent of a node on which Weft is installed.
    pub fn start_agent(&mut self, node: &Arc<Machine>) -> Result<()> {
        let log = self.lab()?.directory().join("logs").join(format!("{}.log", node.name()));
        let agent = self.programs.start_agent(node, &log)?;
        self.agents.insert(node.name().into(), agent);
        Ok(())
    }

    /// Waits until a node's runtime finds a configuration whose plugins are ready.
    pub fn wait_ready(&self, node: &str) -> Result<()> {
        let runtime = self.runtimes.get(node).with_context(|| format!("{node} has no runtime"))?;
        let deadline = Instant::now() + READY;
        loop {
            let agent = self.agents.get(node).with_context(|| format!("{node} has no agent"))?;
            ensure!(agent.is_running(), "the agent on {node} has ended");
            match runtime.wait_ready(Duration::from_millis(100)) {
                Err(error) if Instant::now() > deadline => {
                    return Err(error).with_context(|| format!("{node} is not ready after {READY:?}"));
                }
                Err(_) => {}
                Ok(()) => return Ok(()),
            }
        }
    }

    /// Step: the application's pods, each on the node that its manifest names.
    pub fn attach_pods(&mut self) -> Result<String> {
        let (shared, _) = shared_folder(self.lab()?);
        let bound = pods_of(&shared)?;
        let mut times = Vec::new();
        for pod in bound {
            times.push(self.attach(pod)?.as_secs_f64() * 1000.0);
        }
        let mut table = format!("{:<15} {:<4} addresses\n", "pod", "node");
        for pod in self.pods.values() {
            let addresses: Vec<String> = pod.addresses().iter().map(ToString::to_string).collect();
            let _ = writeln!(table, "{:<15} {:<4} {}", pod.key(), pod.machine().name(), addresses.join(", "));
        }
        self.show(table);
        Ok(format!("{} pods, ADD took {:.1} ms (median)", times.len(), percentile(&mut times, 50)))
    }

    /// Starts one pod; returns how long ADD took.
    fn attach(&mut self, pod: BoundPod) -> Result<Duration> {
        let BoundPod { node, mut spec } = pod;
        spec.name_servers = DNS.to_vec();
        let runtime = self.runtimes.get(&node).with_context(|| format!("there is no node {node}"))?;
        let key = spec.key();
        let lab = self.lab()?;
        let pod =
            Pod::start(runtime, lab.tool(), spec).with_context(|| format!("can't attach {key} on {node}"))?;
        lab.announce(&pod)?;
        let took = pod.add_took();
        self.pods.insert(key, pod);
        Ok(took)
    }

    /// Cuts a node's power. Its pods and its agent die with it.
    pub fn kill_node(&mut self, node: &str) -> Result<usize> {
        self.lab()?.kill_machine(node)?;
        self.agents.remove(node);
        self.runtimes.remove(node);
        self.servers.remove(node);
        let (gone, left): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.pods).into_iter().partition(|(_, pod)| pod.machine().name() == node);
        self.pods = left.into_iter().collect();
        for (key, _) in &gone {
            self.lab()?.withdraw(key)?;
        }
        Ok(gone.len())
    }

    /// Starts a node that was killed, with its agent and its pods.
    pub fn return_node(&mut self, name: &str) -> Result<usize> {
        let node = self.lab()?.start_machine(name)?;
        self.serve(name)?;
        self.install(&node)?;
        self.wait_ready(name)?;
        let (shared, _) = shared_folder(self.lab()?);
        let own: Vec<BoundPod> = pods_of(&shared)?.into_iter().filter(|p| p.node == name).collect();
        let count = own.len();
        own.into_iter().try_for_each(|pod| self.attach(pod).map(drop))?;
        Ok(count)
    }

    /// The ends of the agents' logs.
    pub fn last_words(&self) -> String {
        let mut text = String::new();
        for (node, agent) in &self.agents {
            let state = if agent.is_running() { "running" } else { "ended" };
            let _ = writeln!(text, "— agent on {node} ({state}) —\n{}", agent.last_words());
        }
        text
    }

    /// Says how to look around, and waits for Enter.
    pub fn invite(&self) -> Result<()> {
        let weft = self.programs.weft().display();
        println!(
            "\nThe cluster is up. From another terminal:\n\n  \
             {weft} lab list                                  what there is\n  \
             {weft} lab exec n1 -- /opt/weft status           a node\n  \
             {weft} lab exec n1 -- /opt/weft plan             what it should be\n  \
             {weft} lab exec n1 -- /opt/weft explain shop/web-1 shop/db-1:8080\n  \
             {weft} lab exec n1 -- nft list ruleset           what the kernel has\n  \
             {weft} lab exec shop/web-1 -- dig web.shop.svc.cluster.local\n\n\
             The facts: {}\nThe logs:  {}\n\nEnter takes it down.",
            shared_folder(self.lab()?).0.display(),
            self.lab()?.directory().join("logs").display(),
        );
        std::io::stdin().read_line(&mut String::new()).context("can't wait for Enter")?;
        Ok(())
    }

    /// Step: DEL for each pod, end of the agents, uninstall, and a look at what each node still has.
    pub fn take_down(&mut self) -> Result<String> {
        let mut problems = Vec::new();
        let mut times = Vec::new();
        for (key, pod) in std::mem::take(&mut self.pods) {
            match pod.stop() {
                Ok(took) => times.push(took.as_secs_f64() * 1000.0),
                Err(error) => problems.push(format!("DEL of {key}: {error}")),
            }
        }
        for (node, agent) in std::mem::take(&mut self.agents) {
            if !agent.stop() {
                problems.push(format!("the agent on {node} had to be killed"));
            }
            if let Err(error) = self.programs.uninstall(agent.node()) {
                problems.push(error.to_string().replace('\n', ", "));
            }
            problems
                .extend(foreign_to_a_fresh_node(agent.node())?.into_iter().map(|p| format!("{node}: {p}")));
        }
        if !problems.is_empty() {
            bail!("{}", problems.join("; "));
        }
        let median = percentile(&mut times, 50);
        Ok(format!("{} pods, DEL took {median:.1} ms (median); nodes are as they were", times.len()))
    }

    /// Step: the end of all machines, and the proof that nothing is left.
    pub fn close(&mut self) -> Result<String> {
        self.pods.clear();
        self.agents.clear();
        self.runtimes.clear();
        self.servers.clear();
        let lab = self.lab.take().context("the lab isn't running")?;
        Ok(lab.close()?.to_string())
    }

    /// The machines that are nodes, by name, with their addresses.
    pub fn nodes(&self) -> Result<Vec<(Arc<Machine>, Vec<std::net::IpAddr>)>> {
        let lab = self.lab()?;
        let specs: Vec<_> = lab.topology().with_role(Role::Node).collect();
        Ok(specs
            .into_iter()
            .filter_map(|spec| Some((lab.machine(&spec.name).ok()?, spec.addresses().collect())))
            .collect())
    }
}

/// Links, packet filter tables, rules and leases that a node without Weft doesn't have.
fn foreign_to_a_fresh_node(node: &Machine) -> Result<Vec<String>> {
    let mut found = Vec::new();
    let links = node.run("ip", &["-br", "link"])?;
    for line in links.lines() {
        let name = line.split([' ', '@']).next().unwrap_or_default();
        if !["lo", "eth0"].contains(&name) {
            found.push(format!("link {name}"));
        }
    }
    if let Ok(tables) = node.run("nft", &["list", "tables"]) {
        found.extend(tables.lines().map(|l| format!("nftables {l}")));
    }
    for family in ["-4", "-6"] {
        let routes = node.run("ip", &[family, "route", "show", "table", "all"])?;
        let foreign = |l: &&str| l.contains("proto weft") || l.contains("vxlan") || l.contains("10.42.");
        found.extend(routes.lines().filter(foreign).map(|l| format!("route {l}")));
    }
    let leases = node.run("find", &["/var/lib/cni", "-name", "10.42.*", "-o", "-name", "fd42*"]);
    found.extend(leases.unwrap_or_default().lines().map(|l| format!("lease {l}")));
    Ok(found)
}
