//! What a node publishes, as Kubernetes-shaped objects: pure, but for the time of writing.

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value, json};
use weft_model::{HostPort, NetworkName};

use crate::object::{ADDRESSES_ANNOTATION, NETWORK_ANNOTATION, POD_CIDRS_ANNOTATION, VTEP_MAC_ANNOTATION};
use crate::store::{PublishedNode, PublishedPod};

/// Annotation: when the object was written, in milliseconds since 1970. Of two nodes that publish one pod, the later
/// word holds.
pub(super) const PUBLISHED_AT: &str = "weft.dev/published-at";

/// A node, as it publishes itself.
pub(crate) fn render_node(node: &PublishedNode) -> Value {
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

/// A pod, as its node publishes it.
pub(crate) fn render_pod(pod: &PublishedPod) -> Value {
    let mut metadata = json!({ "name": pod.key.name, "namespace": pod.key.namespace, "annotations": {} });
    if let Some(uid) = &pod.uid {
        metadata["uid"] = uid.as_ref().into();
    }
    if pod.network != NetworkName::ordinary() {
        metadata["annotations"][NETWORK_ANNOTATION] = pod.network.as_str().into();
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

/// Notes the time of writing in an object.
pub(crate) fn stamp(object: &mut Value) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis());
    object["metadata"]["annotations"][PUBLISHED_AT] = now.to_string().into();
}

/// True where `there` is `object`, whenever it was written.
pub(crate) fn is_same(there: &[u8], object: &Value) -> bool {
    let Ok(mut there) = serde_json::from_slice::<Value>(there) else { return false };
    if let Some(annotations) = there.pointer_mut("/metadata/annotations").and_then(Value::as_object_mut) {
        annotations.remove(PUBLISHED_AT);
    }
    there == *object
}
