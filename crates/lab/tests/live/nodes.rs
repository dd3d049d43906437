//! Nodes of labs that are no [`Rig`](super::rig::Rig): how their agents begin, and whether their pods reach each other.

use std::sync::Arc;
use std::time::Duration;

use weft_lab::matrix::both;
use weft_lab::probe::{Outcome, Target};
use weft_lab::runtime::Runtime;
use weft_lab::weft::{Agent, Programs};
use weft_lab::{Lab, Machine, Pod};

/// How long a node may take until it takes pods.
const PATIENCE: Duration = Duration::from_secs(60);

/// Starts the agent of a node on which Weft is installed; the node takes pods when this returns.
pub fn begin(lab: &Lab, programs: &Programs, node: &Arc<Machine>) -> (Agent, Arc<Runtime>) {
    let log = lab.directory().join(format!("{}.log", node.name()));
    let agent = programs.start_agent(node, &log).expect("the agent starts");
    let runtime = Arc::new(Runtime::new(Arc::clone(node)));
    let ready = runtime.wait_ready(PATIENCE);
    ready.unwrap_or_else(|e| panic!("{} is not ready: {e}\n{}", node.name(), agent.last_words()));
    (agent, runtime)
}

/// Pods and addresses of others that they don't reach.
pub fn unreached(lab: &Lab, pods: &[Pod]) -> Vec<(String, Target)> {
    let targets: Vec<Target> =
        pods.iter().flat_map(Pod::addresses).flat_map(|address| both(*address)).collect();
    let mut unreached = Vec::new();
    for pod in pods {
        let asked = lab.tool().ask(pod.machine(), pod.net(), "probe", &targets);
        let outcomes: Vec<Outcome> = asked.expect("the probe runs");
        let silent = targets.iter().zip(outcomes).filter(|(_, outcome)| outcome.greeting().is_none());
        unreached.extend(silent.map(|(target, _)| (pod.key(), target.clone())));
    }
    unreached
}
