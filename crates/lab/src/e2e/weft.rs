//! Weft comes into the cluster as its users bring it.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use weft_lab::kubernetes::Kubectl;

use super::rig::Rig;

/// How long nodes may take to become ready, images unpacked and all.
const READY: Duration = Duration::from_secs(120);

/// The Service with the cluster's DNS address, as CoreDNS would have left it; beside the manifest that installs.
const NAMES: &str = "kube-dns.yaml";

/// Step: brings the image onto the nodes, applies the manifest to a cluster that has a Service `kube-dns` already, and waits until
/// every node is ready.
pub fn install(rig: &mut Rig) -> Result<String> {
    let options = rig.options().clone();
    rig.cluster().import(&options.image)?;
    let manifest = std::fs::read_to_string(&options.manifest)
        .with_context(|| format!("can't read {}", options.manifest.display()))?;
    let names = options.manifest.with_file_name(NAMES);
    let names = std::fs::read_to_string(&names).with_context(|| format!("can't read {}", names.display()))?;
    rig.kubectl().run_with_input(&["create", "-f", "-"], &names)?;
    let begun = std::time::Instant::now();
    rig.kubectl().apply(&manifest)?;
    ready(rig)?;
    Ok(format!("all nodes ready {:.1} s after kubectl apply", begun.elapsed().as_secs_f64()))
}

/// Waits until every node is ready and every agent says so.
pub fn ready(rig: &mut Rig) -> Result<()> {
    let (kubectl, count) = (rig.kubectl(), rig.cluster().node_names().len());
    kubectl.wait("ready nodes and agents", READY, || {
        let nodes = ready_nodes(&kubectl)?;
        let agents = ready_agents(&kubectl)?;
        if nodes == count && agents == count {
            return Ok(());
        }
        Err(format!("{nodes} nodes and {agents} agents of {count} are ready"))
    })?;
    Ok(())
}

fn ready_nodes(kubectl: &Kubectl) -> Result<usize, String> {
    let nodes = kubectl.get(&["nodes"]).map_err(|e| e.to_string())?;
    Ok(nodes["items"].as_array().into_iter().flatten().filter(|node| is_ready(node)).count())
}

/// Agents of the DaemonSet's present form that are ready, once those of an earlier form are gone.
fn ready_agents(kubectl: &Kubectl) -> Result<usize, String> {
    let set = kubectl.get(&["daemonset", "weft", "-n", "kube-system"]).map_err(|e| e.to_string())?;
    let status = &set["status"];
    if status["observedGeneration"] != set["metadata"]["generation"] {
        return Ok(0);
    }
    let number = |field: &str| usize::try_from(status[field].as_u64().unwrap_or(0)).unwrap_or(0);
    // Two of one node count once there: the one that leaves is seen only among the pods.
    let pods = kubectl.get(&["pods", "-n", "kube-system", "-l", "app.kubernetes.io/name=weft"]);
    let pods = pods.map_err(|e| e.to_string())?["items"].as_array().map_or(0, Vec::len);
    let ready = number("numberReady").min(number("updatedNumberScheduled"));
    Ok(if pods > ready { 0 } else { ready })
}

/// Whether a node's or a pod's condition `Ready` is true.
pub fn is_ready(object: &Value) -> bool {
    let conditions = object["status"]["conditions"].as_array().into_iter().flatten();
    conditions.filter(|c| c["type"] == "Ready").any(|c| c["status"] == "True")
}

/// The versions that agents say they are of.
pub fn versions(rig: &mut Rig) -> Result<BTreeSet<String>> {
    let kubectl = rig.kubectl();
    let mut versions = BTreeSet::new();
    for name in agents(&kubectl)? {
        let text = ask(&kubectl, &name, &["status", "--output", "json"])?;
        let status: Value = serde_json::from_str(&text).with_context(|| format!("{name} says {text:?}"))?;
        versions.insert(status["version"].as_str().unwrap_or("none").to_owned());
    }
    ensure!(!versions.is_empty(), "there is no agent");
    Ok(versions)
}

/// The agents' pods.
fn agents(kubectl: &Kubectl) -> Result<Vec<String>> {
    let pods = kubectl.get(&["pods", "-n", "kube-system", "-l", "app.kubernetes.io/name=weft"])?;
    let pods = pods["items"].as_array().into_iter().flatten();
    Ok(pods.filter_map(|pod| Some(pod["metadata"]["name"].as_str()?.to_owned())).collect())
}

/// Runs `weft` in an agent's pod.
fn ask(kubectl: &Kubectl, pod: &str, words: &[&str]) -> Result<String> {
    Ok(kubectl.run(&[&["exec", "-n", "kube-system", pod, "--", "/weft"], words].concat())?)
}

/// Step: the agents' own view: ready, no warnings, the kernel as planned.
pub fn status(rig: &mut Rig) -> Result<String> {
    let kubectl = rig.kubectl();
    let mut wrong = Vec::new();
    let (names, nodes) = (agents(&kubectl)?, rig.cluster().node_names().len());
    ensure!(names.len() == nodes, "{} agents on {nodes} nodes", names.len());
    for name in names {
        let ask = |words: &[&str]| ask(&kubectl, &name, words);
        let text = ask(&["status", "--output", "json"])?;
        let status: Value = serde_json::from_str(&text).with_context(|| format!("{name} says {text:?}"))?;
        let warnings = status["warnings"].as_array().into_iter().flatten();
        wrong.extend(warnings.map(|warning| format!("{name}: {warning}")));
        if let Err(error) = ask(&["plan", "--diff"]) {
            wrong.push(error.to_string());
        }
    }
    wrong.iter().for_each(|line| rig.show(line.clone()));
    ensure!(wrong.is_empty(), "{} warnings or differences", wrong.len());
    Ok("no warnings, and the kernel is as planned".into())
}
