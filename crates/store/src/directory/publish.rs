//! What a node writes into the folder: Kubernetes-shaped objects, one a file, each replaced in one step.

use std::fs::File;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value, json};
use weft_model::{HostPort, NetworkName, NodeName};

use super::layout;
use crate::object::{ADDRESSES_ANNOTATION, POD_CIDRS_ANNOTATION, VTEP_MAC_ANNOTATION};
use crate::store::{Published, PublishedNode, PublishedPod, StoreError};

/// Annotation: when the file was written, in milliseconds since 1970. Of two nodes that publish one pod, the later
/// word holds.
pub(super) const PUBLISHED_AT: &str = "weft.dev/published-at";

/// Names of files that are being written end so.
const STAGED: &str = ".tmp";

pub(super) fn publish(root: &Path, fact: &Published) -> Result<(), StoreError> {
    match fact {
        Published::Node(node) => {
            sweep(&layout::pods_dir(root, &node.name));
            write(layout::node_file(root, &node.name), render_node(node), &format!("node {}", node.name))
        }
        Published::Pod(pod) => {
            write(layout::pod_file(root, &pod.node, &pod.key), render_pod(pod), &format!("pod {}", pod.key))
        }
        Published::PodGone { node, key } => {
            let path = layout::pod_file(root, node, key);
            match std::fs::remove_file(&path) {
                Err(source) if source.kind() != ErrorKind::NotFound => {
                    Err(StoreError::Publish { what: format!("pod {key}"), path, source })
                }
                _ => Ok(()),
            }
        }
    }
}

fn render_node(node: &PublishedNode) -> Value {
    let mut annotations = Map::new();
    let addresses = node.addresses.iter().map(|a| match a.prefix {
        Some(prefix) => format!("{}/{prefix}", a.ip),
        None => a.ip.to_string(),
    });
    annotations.insert(ADDRESSES_ANNOTATION.into(), addresses.collect::<Vec<_>>().join(",").into());
    if let Some(mac) = node.vtep_mac {
        annotations.insert(VTEP_MAC_ANNOTATION.into(), mac.to_string().into());
    }
    let (ordinary, named): (Vec<_>, Vec<_>) =
        node.pod_cidrs.iter().partition(|c| c.network == NetworkName::ordinary());
    if !named.is_empty() {
        let named: Vec<String> = named.iter().map(|c| format!("{}={}", c.network, c.cidr)).collect();
        annotations.insert(POD_CIDRS_ANNOTATION.into(), named.join(",").into());
    }
    json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": { "name": node.name, "annotations": annotations },
        "spec": { "podCIDRs": ordinary.iter().map(|c| c.cidr).collect::<Vec<_>>() },
    })
}

fn render_pod(pod: &PublishedPod) -> Value {
    let mut metadata = json!({ "name": pod.key.name, "namespace": pod.key.namespace, "annotations": {} });
    if let Some(uid) = &pod.uid {
        metadata["uid"] = uid.as_ref().into();
    }
    let ips: Vec<Value> = pod.ips.iter().map(|ip| json!({ "ip": ip })).collect();
    let mut spec = json!({ "nodeName": pod.node });
    if !pod.host_ports.is_empty() {
        let ports: Vec<Value> = pod.host_ports.iter().map(render_host_port).collect();
        spec["containers"] = json!([{ "name": "mapped", "ports": ports }]);
    }
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": metadata,
        "spec": spec,
        "status": { "podIPs": ips },
    })
}

fn render_host_port(port: &HostPort) -> Value {
    let mut value = json!({
        "hostPort": port.host_port,
        "containerPort": port.container_port,
        "protocol": port.protocol.to_string().to_uppercase(),
    });
    if let Some(ip) = port.host_ip {
        value["hostIP"] = json!(ip);
    }
    value
}

/// Writes an object, unless the file says the same already.
fn write(path: PathBuf, mut object: Value, what: &str) -> Result<(), StoreError> {
    if is_same(&path, &object) {
        return Ok(());
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis());
    object["metadata"]["annotations"][PUBLISHED_AT] = now.to_string().into();
    let text = format!("{object:#}\n");
    replace(&path, text.as_bytes()).map_err(|source| StoreError::Publish {
        what: what.to_owned(),
        path,
        source,
    })
}

/// True where the file holds `object`, whenever it was written.
fn is_same(path: &Path, object: &Value) -> bool {
    let Ok(bytes) = std::fs::read(path) else { return false };
    let Ok(mut there) = serde_json::from_slice::<Value>(&bytes) else { return false };
    if let Some(annotations) = there.pointer_mut("/metadata/annotations").and_then(Value::as_object_mut) {
        annotations.remove(PUBLISHED_AT);
    }
    there == *object
}

/// Removes what a kill in the middle of publishing has left of a node's pods. An agent publishes its node first.
fn sweep(pods: &Path) {
    for entry in std::fs::read_dir(pods).into_iter().flatten().flatten() {
        let name = entry.file_name();
        if name.to_str().is_some_and(|name| name.starts_with('.') && name.ends_with(STAGED)) {
            // What can't be removed is hidden, and does no harm.
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

/// Puts `bytes` in place of a file in one step. The temporary file is hidden, and its name is always the same: only
/// one node writes it, and what a kill leaves is overwritten next time, or swept.
fn replace(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let (Some(dir), Some(name)) = (path.parent(), path.file_name().and_then(|n| n.to_str())) else {
        return Err(ErrorKind::InvalidInput.into());
    };
    std::fs::create_dir_all(dir)?;
    let staged = dir.join(format!(".{name}{STAGED}"));
    let written = File::create(&staged).and_then(|mut file| {
        file.write_all(bytes)?;
        file.sync_all()
    });
    written.and_then(|()| std::fs::rename(&staged, path)).inspect_err(|_| {
        // A full disk must not keep the half of it.
        let _ = std::fs::remove_file(&staged);
    })
}

/// Removes all that a node has published.
pub(super) fn forget(root: &Path, node: &NodeName) -> Result<(), StoreError> {
    let file = layout::node_file(root, node);
    let pods = layout::pods_dir(root, node);
    let failed = |path: PathBuf| |source| StoreError::Forget { node: node.clone(), path, source };
    let absent = |result: std::io::Result<()>| match result {
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
        other => other,
    };
    absent(std::fs::remove_dir_all(&pods)).map_err(failed(pods))?;
    absent(std::fs::remove_file(&file)).map_err(failed(file))
}
