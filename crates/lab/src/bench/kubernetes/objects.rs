//! A made-up cluster as a real API server would hold it, as JSON: with the noise that objects of a real one carry. Pure.
//!
//! Nodes have some thirty pods each, and each service has one slice. The node that is looked at is number 0.

use serde_json::{Value, json};

/// Pods on each node.
const PODS_A_NODE: usize = 30;
/// Pods of each service.
const PODS_A_SERVICE: usize = 15;
const NAMESPACES: usize = 100;

/// How big the cluster is.
#[derive(Debug, Clone, Copy)]
pub struct Cluster {
    /// Number of nodes, at most 5,000.
    pub nodes: usize,
}

/// An object, and where etcd has it.
pub type Stored = (String, Value);

impl Cluster {
    pub fn pods(self) -> usize {
        self.nodes * PODS_A_NODE
    }

    pub fn services(self) -> usize {
        self.pods() / PODS_A_SERVICE
    }

    /// All objects, with their keys.
    pub fn objects(self) -> impl Iterator<Item = Stored> {
        (0..NAMESPACES)
            .map(namespace)
            .chain((0..self.nodes).map(node))
            .chain((0..self.services()).flat_map(move |n| [service(n), address(n), self.slice(n)]))
            .chain((0..self.pods()).map(move |n| self.pod(n)))
    }

    /// The service of a pod: each one's pods are all over the cluster.
    fn service_of(self, pod: usize) -> usize {
        pod % self.services()
    }

    fn slice(self, number: usize) -> Stored {
        let endpoints = (0..PODS_A_SERVICE).map(|at| {
            let pod = number + at * self.services();
            json!({
                "addresses": [pod_ip(pod)],
                "conditions": { "ready": true, "serving": true, "terminating": false },
                "nodeName": node_name(pod / PODS_A_NODE),
                "targetRef": {
                    "kind": "Pod",
                    "namespace": namespace_of(number),
                    "name": pod_name(self, pod),
                    "uid": uid(5, pod),
                },
                "zone": zone(pod / PODS_A_NODE),
            })
        });
        let name = slice_name(number);
        let mut metadata = metadata(4, number, &name, "kube-controller-manager");
        metadata["namespace"] = namespace_of(number).into();
        metadata["generateName"] = format!("svc-{number}-").into();
        metadata["labels"] = json!({
            "app": format!("app-{number}"),
            "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io",
            "kubernetes.io/service-name": format!("svc-{number}"),
        });
        let object = json!({
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": metadata,
            "addressType": "IPv4",
            "endpoints": endpoints.collect::<Vec<_>>(),
            "ports": [
                { "name": "http", "port": 8080, "protocol": "TCP" },
                { "name": "metrics", "port": 9090, "protocol": "TCP" },
            ],
        });
        (format!("/registry/endpointslices/{}/{name}", namespace_of(number)), object)
    }

    fn pod(self, number: usize) -> Stored {
        let service = self.service_of(number);
        let (name, namespace) = (pod_name(self, number), namespace_of(service));
        let mut metadata = metadata(5, number, &name, "kubelet");
        metadata["namespace"] = namespace.as_str().into();
        metadata["labels"] = json!({ "app": format!("app-{service}"), "pod-template-hash": format!("{:08x}", service * 7919) });
        let owner = json!({
            "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": format!("app-{service}-5d9f7"),
            "uid": uid(6, service), "controller": true, "blockOwnerDeletion": true,
        });
        metadata["ownerReferences"] = json!([owner]);
        let variables =
            (0..8).map(|n| json!({ "name": format!("SETTING_{n}"), "value": "some-value-of-it" }));
        let probe = json!({ "httpGet": { "path": "/healthz", "port": 8080, "scheme": "HTTP" },
            "timeoutSeconds": 1, "periodSeconds": 10, "successThreshold": 1, "failureThreshold": 3 });
        let ip = pod_ip(number);
        let spec = json!({
            "volumes": [{ "name": "kube-api-access", "projected": { "defaultMode": 420, "sources": [
                { "serviceAccountToken": { "expirationSeconds": 3607, "path": "token" } },
                { "configMap": { "name": "kube-root-ca.crt", "items": [{ "key": "ca.crt", "path": "ca.crt" }] } },
            ] } }],
            "containers": [{
                "name": "main",
                "image": "registry.example/team/application@sha256:6a1f0f3e6c0a55f8a5e7e6c5f0f2b4f1e3a1d2c3b4a5968778695a4b3c2d1e0f",
                "ports": [{ "name": "http", "containerPort": 8080, "protocol": "TCP" }],
                "env": variables.collect::<Vec<_>>(),
                "resources": { "limits": { "memory": "256Mi" }, "requests": { "cpu": "100m", "memory": "128Mi" } },
                "volumeMounts": [{ "name": "kube-api-access", "readOnly": true,
                    "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount" }],
                "livenessProbe": probe, "readinessProbe": probe,
                "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File",
                "imagePullPolicy": "IfNotPresent",
            }],
            "restartPolicy": "Always", "terminationGracePeriodSeconds": 30, "dnsPolicy": "ClusterFirst",
            "serviceAccountName": "default", "serviceAccount": "default",
            "nodeName": node_name(number / PODS_A_NODE), "securityContext": {},
            "schedulerName": "default-scheduler", "priority": 0, "enableServiceLinks": true,
            "tolerations": [
                { "key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300 },
                { "key": "node.kubernetes.io/unreachable", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300 },
            ],
        });
        let kinds = ["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled"];
        let status = json!({
            "phase": "Running", "qosClass": "Burstable", "startTime": SINCE,
            "conditions": kinds.map(|kind| json!({ "type": kind, "status": "True", "lastTransitionTime": SINCE })),
            "hostIP": node_ip(number / PODS_A_NODE), "podIP": ip, "podIPs": [{ "ip": ip }],
            "containerStatuses": [{ "name": "main", "ready": true, "started": true, "restartCount": 0,
                "image": "registry.example/team/application", "imageID": "sha256:6a1f0f3e6c0a55f8",
                "containerID": format!("containerd://{:064x}", number), "state": { "running": { "startedAt": SINCE } } }],
        });
        let object = json!({ "apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec, "status": status });
        (format!("/registry/pods/{namespace}/{name}"), object)
    }
}

const SINCE: &str = "2026-01-01T00:00:00Z";

/// What every object has, with the fields' managers as the server keeps them.
fn metadata(kind: usize, number: usize, name: &str, manager: &str) -> Value {
    let fields = |part: &str| {
        json!({ "manager": manager, "operation": "Update", "apiVersion": "v1", "time": SINCE,
            "fieldsType": "FieldsV1", "fieldsV1": { format!("f:{part}"): {
                "f:labels": { ".": {}, "f:app": {}, "f:pod-template-hash": {} },
                "f:conditions": { "k:{\"type\":\"Ready\"}": { ".": {}, "f:status": {}, "f:type": {}, "f:lastTransitionTime": {} },
                    "k:{\"type\":\"Initialized\"}": { ".": {}, "f:status": {}, "f:type": {}, "f:lastTransitionTime": {} } },
            } } })
    };
    json!({
        "name": name, "uid": uid(kind, number), "creationTimestamp": SINCE,
        "managedFields": [fields("metadata"), fields("status")],
    })
}

fn uid(kind: usize, number: usize) -> String {
    format!("{kind:08x}-0000-4000-8000-{number:012x}")
}

fn namespace_of(service: usize) -> String {
    format!("team-{}", service % NAMESPACES)
}

fn namespace(number: usize) -> Stored {
    let name = namespace_of(number);
    let object = json!({
        "apiVersion": "v1", "kind": "Namespace", "metadata": metadata(1, number, &name, "kubectl"),
        "spec": { "finalizers": ["kubernetes"] }, "status": { "phase": "Active" },
    });
    (format!("/registry/namespaces/{name}"), object)
}

/// The name of a node; number 0 is the one that is looked at.
pub fn node_name(number: usize) -> String {
    format!("node-{number:04}")
}

/// The cluster's network, as an agent's configuration says it.
pub fn network() -> Value {
    json!({ "name": "default", "podCIDRs": ["10.0.0.0/11"], "serviceCIDRs": ["10.96.0.0/12"] })
}

/// A node's address in the first state, `172.16.0.0/12` in subnets of 250.
pub fn node_ip(number: usize) -> String {
    format!("172.16.{}.{}", number / 250, number % 250 + 1)
}

fn zone(node: usize) -> String {
    format!("zone-{}", node % 3)
}

fn node(number: usize) -> Stored {
    let (name, ip) = (node_name(number), node_ip(number));
    let mut metadata = metadata(2, number, &name, "kubelet");
    metadata["labels"] = json!({
        "kubernetes.io/arch": "amd64", "kubernetes.io/os": "linux", "kubernetes.io/hostname": name,
        "topology.kubernetes.io/zone": zone(number), "node.kubernetes.io/instance-type": "large",
    });
    metadata["annotations"] = json!({
        "weft.dev/addresses": format!("{ip}/24"),
        "volumes.kubernetes.io/controller-managed-attach-detach": "true",
    });
    let block = format!("10.{}.{}.0/24", number >> 8, number & 255);
    let kinds = ["MemoryPressure", "DiskPressure", "PIDPressure", "Ready"];
    let conditions = kinds.map(|kind| {
        json!({ "type": kind, "status": "False", "lastHeartbeatTime": SINCE, "lastTransitionTime": SINCE,
            "reason": "KubeletHasSufficient", "message": "kubelet has sufficient of it available" })
    });
    // A kubelet lists up to fifty.
    let images = (0..40).map(|n| {
        let image = format!("registry.example/team-{n}/application");
        json!({ "names": [format!("{image}@sha256:{:064x}", n * 7919), format!("{image}:v1.{n}")], "sizeBytes": 1_000_000 + n })
    });
    let resources = json!({ "cpu": "32", "memory": "131072Mi", "pods": "110", "ephemeral-storage": "100Gi" });
    let object = json!({
        "apiVersion": "v1", "kind": "Node", "metadata": metadata,
        "spec": { "podCIDR": block, "podCIDRs": [block], "providerID": format!("cloud://{name}") },
        "status": {
            "addresses": [{ "type": "InternalIP", "address": ip }, { "type": "Hostname", "address": name }],
            "capacity": resources, "allocatable": resources, "conditions": conditions,
            "nodeInfo": { "kernelVersion": "6.1.0", "osImage": "Debian", "kubeletVersion": "v1.36.1",
                "containerRuntimeVersion": "containerd://2.4.0", "architecture": "amd64", "operatingSystem": "linux",
                "machineID": uid(7, number), "systemUUID": uid(8, number), "bootID": uid(9, number), "kubeProxyVersion": "" },
            "images": images.collect::<Vec<_>>(),
        },
    });
    (format!("/registry/minions/{name}"), object)
}

fn cluster_ip(service: usize) -> String {
    // Away from the addresses that the server gives to its own.
    let number = service + 256;
    format!("10.{}.{}.{}", 96 + (number >> 16), (number >> 8) & 255, number & 255)
}

fn service(number: usize) -> Stored {
    let (namespace, ip) = (namespace_of(number), cluster_ip(number));
    let mut metadata = metadata(3, number, &format!("svc-{number}"), "kubectl");
    metadata["namespace"] = namespace.as_str().into();
    metadata["labels"] = json!({ "app": format!("app-{number}") });
    let port = |name: &str, port: usize, target: usize| json!({ "name": name, "port": port, "targetPort": target, "protocol": "TCP" });
    let object = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": metadata,
        "spec": {
            "type": "ClusterIP", "clusterIP": ip, "clusterIPs": [ip], "ipFamilies": ["IPv4"],
            "ipFamilyPolicy": "SingleStack", "internalTrafficPolicy": "Cluster", "sessionAffinity": "None",
            "selector": { "app": format!("app-{number}") },
            "ports": [port("http", 80, 8080), port("metrics", 9090, 9090)],
        },
        "status": { "loadBalancer": {} },
    });
    (format!("/registry/services/specs/{namespace}/svc-{number}"), object)
}

/// The server's own note of a service's address; it would write what is missing.
fn address(service: usize) -> Stored {
    let ip = cluster_ip(service);
    let mut metadata = metadata(10, service, &ip, "kube-apiserver");
    metadata["labels"] = json!({
        "ipaddress.kubernetes.io/ip-family": "IPv4",
        "ipaddress.kubernetes.io/managed-by": "ipallocator.k8s.io",
    });
    let parent = json!({ "group": "", "resource": "services", "namespace": namespace_of(service), "name": format!("svc-{service}") });
    let object = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "IPAddress", "metadata": metadata, "spec": { "parentRef": parent },
    });
    (format!("/registry/ipaddresses/{ip}"), object)
}

fn pod_ip(number: usize) -> String {
    let node = number / PODS_A_NODE;
    format!("10.{}.{}.{}", node >> 8, node & 255, number % PODS_A_NODE + 1)
}

fn pod_name(cluster: Cluster, number: usize) -> String {
    format!("app-{}-5d9f7-{number:06}", cluster.service_of(number))
}

fn slice_name(service: usize) -> String {
    format!("svc-{service}-x7k2p")
}

/// A change that can be made and made back again, as its path, its form and its two bodies.
pub struct Change {
    pub kind: &'static str,
    pub path: String,
    pub content_type: &'static str,
    pub bodies: [Value; 2],
}

/// One change of each kind, of the object with this number.
pub fn changes(cluster: Cluster, turn: usize) -> [Change; 3] {
    let merge = "application/merge-patch+json";
    // Numbers that no population divides: neighbours in time aren't neighbours in the cluster.
    let (node, service) = (1 + turn * 7919 % (cluster.nodes - 1), turn * 7919 % cluster.services());
    let ready =
        |ready: bool| json!([{ "op": "replace", "path": "/endpoints/0/conditions/ready", "value": ready }]);
    let addresses = |text: String| json!({ "metadata": { "annotations": { "weft.dev/addresses": text } } });
    let labels = |text: &str| json!({ "metadata": { "labels": { "turn": text } } });
    let own = turn % PODS_A_NODE;
    let namespace = namespace_of(cluster.service_of(own));
    [
        Change {
            kind: "endpoint",
            path: format!(
                "/apis/discovery.k8s.io/v1/namespaces/{}/endpointslices/{}",
                namespace_of(service),
                slice_name(service)
            ),
            content_type: "application/json-patch+json",
            bodies: [ready(false), ready(true)],
        },
        Change {
            kind: "node-address",
            path: format!("/api/v1/nodes/{}", node_name(node)),
            content_type: merge,
            bodies: ["172.24", "172.16"]
                .map(|net| addresses(format!("{}/24", node_ip(node).replacen("172.16", net, 1)))),
        },
        Change {
            kind: "own-pod",
            path: format!("/api/v1/namespaces/{namespace}/pods/{}", pod_name(cluster, own)),
            content_type: merge,
            bodies: [labels("there"), labels("back")],
        },
    ]
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use weft_store::object::{Interner, ObjectId, Outcome, decode_value};

    use super::*;

    #[test]
    fn every_object_has_a_key_of_its_own_and_is_what_weft_reads() {
        let cluster = Cluster { nodes: 20 };
        let (mut keys, mut names, mut facts) = (HashSet::new(), Interner::default(), 0);
        for (key, object) in cluster.objects() {
            assert!(keys.insert(key.clone()), "{key}");
            for outcome in decode_value(&object, &ObjectId::default(), &mut names) {
                match outcome.unwrap_or_else(|error| panic!("{key}: {error}")) {
                    Outcome::Facts(found) => facts += found.len(),
                    Outcome::Unknown(unknown) => assert_eq!(unknown.kind, "IPAddress"),
                }
            }
        }
        assert_eq!(facts, NAMESPACES + 20 + 2 * cluster.services() + cluster.pods());
    }
}
