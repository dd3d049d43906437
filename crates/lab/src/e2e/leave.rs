//! Weft leaves the cluster as its users take it away, and nothing of it stays on a node.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use weft_lab::kubernetes::Kubectl;

use super::rig::Rig;

/// The manifest that does it; it lies beside the one that installs.
const REMOVAL: &str = "uninstall.yaml";
const PATIENCE: Duration = Duration::from_secs(120);

/// What somebody would look at who wants to know whether a machine is as it was, in words of its own tools.
const LOOK: &str = "ip rule; ip -6 rule; ip route show table all; ip -o link | sed 's/^[0-9]*: //; s/[:@ ].*//'; nft list ruleset; \
    cat /proc/sys/net/ipv4/ip_forward /proc/sys/net/ipv6/conf/all/forwarding /proc/sys/net/ipv4/conf/all/rp_filter; \
    find /run/weft /var/lib/weft /var/lib/cni /etc/cni/net.d /opt/cni/bin ! -type d 2>/dev/null; true";

/// What every node looks like, line by line.
pub fn look(rig: &Rig) -> Result<BTreeMap<String, Vec<String>>> {
    let nodes = rig.lab().nodes().into_iter();
    let seen = nodes.map(|machine| {
        let text = machine.run("sh", &["-c", LOOK])?;
        Ok((machine.name().to_owned(), text.lines().map(str::to_owned).collect()))
    });
    seen.collect()
}

/// Step: the four commands of the manifest's head; then every node is as it was before Weft came.
pub fn run(rig: &mut Rig) -> Result<String> {
    let kubectl = rig.kubectl();
    let manifest = rig.options().manifest.clone();
    let removal = std::fs::read_to_string(manifest.with_file_name(REMOVAL))
        .with_context(|| format!("can't read {}", manifest.with_file_name(REMOVAL).display()))?;
    empty(&kubectl)?;
    kubectl.run(&["delete", "daemonset", "weft", "-n", "kube-system", "--wait=false"])?;
    kubectl.apply(&removal)?;
    let count = rig.cluster().node_names().len();
    kubectl.wait("nodes without Weft", PATIENCE, || {
        let set = kubectl.get(&["daemonset", "weft-uninstall", "-n", "kube-system"]);
        let ready = set.map_err(|e| e.to_string())?["status"]["numberReady"].as_u64().unwrap_or(0);
        if ready == count as u64 { Ok(()) } else { Err(format!("{ready} of {count}")) }
    })?;
    let wrong = [strange(rig)?, said(&kubectl)?].concat();
    wrong.iter().for_each(|line| rig.show(line.clone()));
    ensure!(wrong.is_empty(), "{} traces are left", wrong.len());
    for text in [removal, read(&manifest)?] {
        kubectl.run_with_input(&["delete", "--ignore-not-found", "--wait=false", "-f", "-"], &text)?;
    }
    kubectl.wait("the end of the last pod", PATIENCE, || {
        let pods = kubectl.get(&["pods", "-A"]).map_err(|e| e.to_string())?;
        match pods["items"].as_array().map_or(0, Vec::len) {
            0 => Ok(()),
            left => Err(format!("{left} are left")),
        }
    })?;
    // A namespace goes after what is in it.
    kubectl.wait("an API server that is as it was", PATIENCE, || {
        let left = left(&kubectl).map_err(|e| format!("{e:#}"))?;
        if left.is_empty() { Ok(()) } else { Err(left.join("; ")) }
    })?;
    Ok("nodes are as they were before, and so is the API server".into())
}

fn read(manifest: &Path) -> Result<String> {
    std::fs::read_to_string(manifest).with_context(|| format!("can't read {}", manifest.display()))
}

/// Takes away all pods on the cluster's network, as a drain does.
fn empty(kubectl: &Kubectl) -> Result<()> {
    kubectl.run(&["delete", "namespace", "shop", "storm", "--ignore-not-found", "--wait=false"])?;
    kubectl.wait("the end of the shop", PATIENCE, || {
        let left = kubectl.get(&["pods", "-A"]).map_err(|e| e.to_string())?;
        let left = left["items"].as_array().into_iter().flatten();
        match left.filter(|pod| pod["spec"]["hostNetwork"] != true).count() {
            0 => Ok(()),
            left => Err(format!("{left} pods are left")),
        }
    })?;
    Ok(())
}

/// Where nodes differ from what they were.
fn strange(rig: &Rig) -> Result<Vec<String>> {
    let now = look(rig)?;
    let mut lines = Vec::new();
    for (node, before) in rig.before() {
        let now = now.get(node).map(Vec::as_slice).unwrap_or_default();
        lines.extend(now.iter().filter(|l| !before.contains(l)).map(|l| format!("{node}: + {l}")));
        lines.extend(before.iter().filter(|l| !now.contains(l)).map(|l| format!("{node}: - {l}")));
    }
    Ok(lines)
}

/// Objects of Weft's that are still there, and those of others that aren't.
fn left(kubectl: &Kubectl) -> Result<Vec<String>> {
    let kinds = "namespaces,clusterroles,clusterrolebindings,roles,rolebindings,configmaps,serviceaccounts,daemonsets,leases";
    let found = kubectl.get(&[kinds, "-A"])?;
    let found = found["items"].as_array().into_iter().flatten();
    let ours =
        found.filter(|object| object["metadata"]["name"].as_str().is_some_and(|n| n.starts_with("weft")));
    let mut lines: Vec<String> =
        ours.map(|object| format!("{} {} is left", object["kind"], object["metadata"]["name"])).collect();
    // It was there before Weft came.
    if let Err(error) = kubectl.get(&["service", "kube-dns", "-n", "kube-system"]) {
        lines.push(format!("the cluster's own Service kube-dns is gone: {error}"));
    }
    Ok(lines)
}

/// What Nodes still say of Weft.
fn said(kubectl: &Kubectl) -> Result<Vec<String>> {
    let nodes = kubectl.get(&["nodes"])?;
    let mut lines = Vec::new();
    for node in nodes["items"].as_array().into_iter().flatten() {
        let name = node["metadata"]["name"].as_str().unwrap_or_default();
        let annotations = node["metadata"]["annotations"].as_object().into_iter().flatten();
        let ours = annotations.filter(|(key, _)| key.starts_with("weft.dev/"));
        lines.extend(ours.map(|(key, _)| format!("node {name} has the annotation {key}")));
        let conditions = node["status"]["conditions"].as_array().into_iter().flatten();
        let ours = conditions.filter(|c| c["type"] == "NetworkUnavailable");
        lines.extend(ours.map(|condition| format!("node {name} has the condition {condition}")));
    }
    Ok(lines)
}
