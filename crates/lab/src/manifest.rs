//! The pods of a folder of manifests: what a kubelet and a scheduler would make of them.

use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use crate::LabError;
use crate::pod::PodSpec;
use crate::runtime::PortMapping;

/// A pod and the node that it is bound to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BoundPod {
    /// The node.
    pub node: String,
    /// The pod.
    pub spec: PodSpec,
}

#[derive(Debug, Deserialize)]
struct Object {
    metadata: Metadata,
    spec: Spec,
}

#[derive(Debug, Deserialize)]
struct Metadata {
    namespace: String,
    name: String,
    uid: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Spec {
    node_name: String,
    containers: Vec<Container>,
}

#[derive(Debug, Deserialize)]
struct Container {
    #[serde(default)]
    ports: Vec<Port>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Port {
    container_port: u16,
    host_port: Option<u16>,
    protocol: Option<String>,
    #[serde(rename = "hostIP")]
    host_ip: Option<std::net::IpAddr>,
}

/// The pods of every `*.yaml` in a folder, in the files' order.
pub fn pods_of(folder: &Path) -> Result<Vec<BoundPod>, LabError> {
    let mut files: Vec<_> = std::fs::read_dir(folder)
        .map_err(LabError::file("list", folder))?
        .flatten()
        .map(|e| e.path())
        .filter(|p| p.extension().is_some_and(|e| e == "yaml"))
        .collect();
    files.sort();
    let mut pods = Vec::new();
    for file in files {
        let text = std::fs::read_to_string(&file).map_err(LabError::file("read", &file))?;
        let found =
            pods_in(&text).map_err(|why| LabError::file("understand", &file)(std::io::Error::other(why)))?;
        pods.extend(found);
    }
    Ok(pods)
}

fn pods_in(text: &str) -> Result<Vec<BoundPod>, String> {
    let mut pods = Vec::new();
    for document in text.split("\n---\n") {
        let value: Value = serde_saphyr::from_str(document).map_err(|e| e.to_string())?;
        if value.get("kind").and_then(Value::as_str) == Some("Pod") {
            pods.push(bound(serde_json::from_value(value).map_err(|e| e.to_string())?));
        }
    }
    Ok(pods)
}

fn bound(object: Object) -> BoundPod {
    let ports = object.spec.containers.into_iter().flat_map(|c| c.ports);
    let mut spec = PodSpec::new(&object.metadata.namespace, &object.metadata.name);
    spec.uid = object.metadata.uid;
    spec.ports = ports
        .filter_map(|port| {
            Some(PortMapping {
                host_port: port.host_port?,
                container_port: port.container_port,
                protocol: port.protocol.unwrap_or_else(|| "TCP".into()).to_lowercase(),
                host_ip: port.host_ip,
            })
        })
        .collect();
    BoundPod { node: object.spec.node_name, spec }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_demos_pods() {
        let pods =
            pods_of(&Path::new(env!("CARGO_MANIFEST_DIR")).join("manifests")).expect("they can be read");
        let list: Vec<String> = pods
            .iter()
            .map(|p| {
                let ports: Vec<_> = p
                    .spec
                    .ports
                    .iter()
                    .map(|m| format!(" {}:{}/{}", m.host_port, m.container_port, m.protocol))
                    .collect();
                format!("{} on {}{}", p.spec.key(), p.node, ports.concat())
            })
            .collect();
        insta::assert_snapshot!(list.join("\n"), @r"
        shop/web-1 on n1 30080:8080/tcp 30081:8081/udp
        shop/web-2 on n2
        shop/web-3 on n3
        shop/api-1 on n2
        shop/api-2 on n3
        shop/db-0 on n1
        shop/db-1 on n3
        tools/probe-1 on n1
        tools/probe-2 on n2
        ");
    }
}
