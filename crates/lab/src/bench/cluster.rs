//! Nodes that run Weft, for benchmarks: a network of the wanted overlay, an agent each, and a runtime.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use weft_lab::Lab;
use weft_lab::runtime::Runtime;
use weft_lab::weft::{Agent, Programs};

/// How long an agent may take until its node can attach pods.
const READY: Duration = Duration::from_secs(20);

/// A node with Weft on it.
pub struct Node {
    pub agent: Agent,
    pub runtime: Arc<Runtime>,
}

/// Starts agents on these machines, as one dual-stack cluster. Returns when all are ready.
pub fn start(
    lab: &Lab,
    programs: &Programs,
    cluster: &str,
    machines: &[&str],
    overlay: &str,
) -> Result<Vec<Node>> {
    let network = format!(
        "podCIDRs: [10.42.0.0/16, \"fd42::/48\"]\n  nodePrefixV4: 22\n  \
         serviceCIDRs: [10.43.0.0/16, \"fd43::/112\"]\n  overlay: {overlay}"
    );
    start_with(lab, programs, cluster, machines, &network)
}

/// Starts agents on these machines, as one cluster with a folder of facts of its own, called `cluster`, in the lab's;
/// `network` are the lines of the network's `spec`, set in by two. Returns when all are ready.
pub fn start_with(
    lab: &Lab,
    programs: &Programs,
    cluster: &str,
    machines: &[&str],
    network: &str,
) -> Result<Vec<Node>> {
    let folder = lab.directory().join(cluster);
    std::fs::create_dir(&folder).with_context(|| format!("can't make {}", folder.display()))?;
    let network =
        format!("apiVersion: weft.dev/v1\nkind: Network\nmetadata: {{name: default}}\nspec:\n  {network}\n");
    std::fs::write(folder.join("network.yaml"), network).context("can't write the network")?;
    let mut nodes = Vec::new();
    for name in machines {
        let machine = lab.machine(name)?;
        programs.install(&machine, &format!("/lab/{cluster}"))?;
        let agent = programs.start_agent(&machine, &lab.directory().join(format!("{name}.log")))?;
        nodes.push(Node { agent, runtime: Arc::new(Runtime::new(machine)) });
    }
    for node in &nodes {
        wait_ready(node)?;
    }
    Ok(nodes)
}

/// Ends the agents; the kernel's part goes with the lab.
pub fn stop(nodes: Vec<Node>) -> Result<()> {
    for node in nodes {
        ensure!(node.agent.stop(), "the agent on {} had to be killed", node.agent.node().name());
    }
    Ok(())
}

fn wait_ready(node: &Node) -> Result<()> {
    let deadline = Instant::now() + READY;
    while let Err(error) = node.runtime.wait_ready(Duration::from_millis(100)) {
        if !node.agent.is_running() || Instant::now() > deadline {
            bail!(
                "the agent on {} is not ready: {error}\n{}",
                node.agent.node().name(),
                node.agent.last_words()
            );
        }
    }
    Ok(())
}
