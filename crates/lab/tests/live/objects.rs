//! Services and slices as Kubernetes writes them, for tests that make many.

use std::net::IpAddr;

use serde_json::{Value, json};
use weft_lab::serve;

use super::rig::Rig;

/// The service's ports: TCP to the servers' HTTP, UDP to their UDP.
pub const TCP: u16 = 80;
/// See [`TCP`].
pub const UDP: u16 = 81;

/// A dual-stack service `test/NAME` without a selector; `number` gives its addresses. More can be set in its `spec`.
pub fn service(name: &str, number: u16) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"namespace": "test", "name": name},
        "spec": {
            "clusterIPs": cluster_ips(number),
            "ipFamilies": ["IPv4", "IPv6"],
            "ports": [
                {"name": "http", "protocol": "TCP", "port": TCP, "targetPort": serve::HTTP},
                {"name": "udp", "protocol": "UDP", "port": UDP, "targetPort": serve::UDP},
            ],
        },
    })
}

/// The addresses of service `number`.
pub fn cluster_ips(number: u16) -> [IpAddr; 2] {
    let [high, low] = (number + 256).to_be_bytes();
    [IpAddr::from([10, 43, high, low]), IpAddr::from([0xfd43, 0, 0, 0, 0, 0, 0, number + 256])]
}

/// An endpoint of a slice.
#[derive(Debug, Clone)]
pub struct Endpoint {
    pub node: String,
    /// Both families.
    pub addresses: Vec<IpAddr>,
    pub ready: bool,
    pub serving: bool,
    pub terminating: bool,
    /// Nodes that should use it.
    pub for_nodes: Vec<String>,
    /// Zones whose nodes should.
    pub for_zones: Vec<String>,
}

impl Endpoint {
    /// A ready one in a pod, or in a node's own network.
    pub fn ready(rig: &Rig, place: &str) -> Self {
        let (node, addresses) = match rig.pods.get(place) {
            Some(pod) => (pod.machine().name().to_owned(), pod.addresses().to_vec()),
            None => {
                let machine = rig.lab.topology().machine(place).expect("it is a pod or a machine");
                (place.to_owned(), machine.addresses().collect())
            }
        };
        Self {
            node,
            addresses,
            ready: true,
            serving: true,
            terminating: false,
            for_nodes: Vec::new(),
            for_zones: Vec::new(),
        }
    }
}

/// A node as an administrator describes it: in a zone, or in none.
pub fn node(name: &str, zone: Option<&str>) -> Value {
    let labels = zone.map_or_else(|| json!({}), |zone| json!({"topology.kubernetes.io/zone": zone}));
    json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels}})
}

/// A slice of `test/NAME` for each family.
pub fn slices(name: &str, endpoints: &[Endpoint]) -> [Value; 2] {
    [("IPv4", true), ("IPv6", false)].map(|(family, is_v4)| {
        let of_family = |endpoint: &Endpoint| {
            let address = endpoint.addresses.iter().find(|ip| ip.is_ipv4() == is_v4);
            let named = |names: &[String]| names.iter().map(|name| json!({"name": name})).collect::<Vec<_>>();
            json!({
                "addresses": [address.expect("pods and nodes have both families")],
                "nodeName": endpoint.node,
                "conditions": {
                    "ready": endpoint.ready,
                    "serving": endpoint.serving,
                    "terminating": endpoint.terminating,
                },
                "hints": {
                    "forNodes": named(&endpoint.for_nodes),
                    "forZones": named(&endpoint.for_zones),
                },
            })
        };
        let endpoints: Vec<Value> = endpoints.iter().map(of_family).collect();
        let ports = json!([
            {"name": "http", "protocol": "TCP", "port": serve::HTTP},
            {"name": "udp", "protocol": "UDP", "port": serve::UDP},
        ]);
        slice(name, family, &endpoints, &ports)
    })
}

/// A slice of `test/NAME` for one family, `IPv4` or `IPv6`.
pub fn slice(name: &str, family: &str, endpoints: &[Value], ports: &Value) -> Value {
    json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "namespace": "test",
            "name": format!("{name}-{}", family.to_lowercase()),
            "labels": {"kubernetes.io/service-name": name},
        },
        "addressType": family,
        "endpoints": endpoints,
        "ports": ports,
    })
}

/// Puts these objects in the place of what the file had, at once.
pub fn put(rig: &Rig, file: &str, objects: &[Value]) {
    let documents: Vec<String> = objects.iter().map(|object| format!("{object:#}\n")).collect();
    let hidden = format!(".{file}.new");
    rig.write_file(&hidden, &documents.join("---\n"));
    std::fs::rename(rig.folder().join(hidden), rig.folder().join(file)).expect("it can be put in place");
}
