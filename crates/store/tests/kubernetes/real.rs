//! The same store over a real API server: with exactly the rights that are documented, and through its restart.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use weft_model::{FactKey, Family, Network, NodeAddress, NodeName};
use weft_store::kubernetes::{AccessSource, BlockSource, DescribedNetwork, Patience, PodScope};
use weft_store::{FlannelWords, KubernetesOptions, KubernetesStore, Published, PublishedNode, Store};

use super::apiserver::{self, ApiServer};
use super::watching::{Watching, impatient};

const ROLES: &str = "/apis/rbac.authorization.k8s.io/v1";

/// The rights that docs/interfaces/cluster-state.md lists: API group, resource, verbs.
const RIGHTS: [(&str, &str, &[&str]); 7] = [
    ("", "nodes", &["get", "list", "watch"]),
    ("", "nodes/status", &["patch"]),
    ("", "pods", &["list", "watch"]),
    ("", "namespaces", &["list", "watch"]),
    ("", "services", &["list", "watch"]),
    ("discovery.k8s.io", "endpointslices", &["list", "watch"]),
    ("networking.k8s.io", "servicecidrs", &["list", "watch"]),
];

fn rule((group, resource, verbs): (&str, &str, &[&str])) -> Value {
    json!({ "apiGroups": [group], "resources": [resource], "verbs": verbs })
}

fn binding(role: &str) -> Value {
    json!({
        "metadata": { "name": "weft" },
        "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": role, "name": "weft" },
        "subjects": [{ "apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "weft-test" }],
    })
}

pub fn give_rights(server: &ApiServer) {
    let rules: Vec<Value> = RIGHTS.map(rule).into();
    let role = json!({ "metadata": { "name": "weft" }, "rules": rules });
    server.ask("POST", &format!("{ROLES}/clusterroles"), Some(&role));
    server.ask("POST", &format!("{ROLES}/clusterrolebindings"), Some(&binding("ClusterRole")));
    let leases: (_, _, &[&str]) =
        ("coordination.k8s.io", "leases", &["get", "list", "create", "patch", "delete"]);
    let role = json!({ "metadata": { "name": "weft" }, "rules": [rule(leases)] });
    let namespaced = format!("{ROLES}/namespaces/kube-system");
    server.ask("POST", &format!("{namespaced}/roles"), Some(&role));
    server.ask("POST", &format!("{namespaced}/rolebindings"), Some(&binding("Role")));
}

pub fn wait_for(server: &ApiServer, path: &str) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !matches!(server.try_ask("GET", path, "", None), Some((200, _))) {
        assert!(Instant::now() < deadline, "{path} doesn't come");
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn store(server: &ApiServer) -> Arc<KubernetesStore> {
    let pod_cidrs = vec!["10.244.0.0/16".parse().unwrap()];
    let network = Network { pod_cidrs, ..Network::ordinary() };
    let options = KubernetesOptions {
        node: NodeName::new("n1").unwrap(),
        access: AccessSource {
            server: Some(server.address()),
            token_file: Some(server.token_file(apiserver::NOBODY)),
            ca_file: Some(server.ca()),
            kubeconfig: None,
        },
        networks: vec![DescribedNetwork { network, blocks: BlockSource::Nodes }],
        pods: PodScope::Own,
        namespace: weft_model::NamespaceName::new("kube-system").unwrap(),
        // A real server's bookmarks are a minute apart.
        patience: Patience { silence: Duration::from_secs(180), ..impatient() },
        machine: String::new(),
    };
    Arc::new(KubernetesStore::open(options).unwrap())
}

fn says(server: &ApiServer, pointer: &str) -> Value {
    server.ask("GET", "/api/v1/nodes/n1", None).pointer(pointer).cloned().unwrap_or(Value::Null)
}

#[test]
fn the_documented_rights_are_enough_and_a_restart_is_survived() {
    let test = "the_documented_rights_are_enough_and_a_restart_is_survived";
    let Some(programs) = apiserver::programs(test) else { return };
    let mut server = ApiServer::start(&programs);
    wait_for(&server, "/api/v1/namespaces/kube-system");
    let store = store(&server);
    let mut watching = Watching::begin(store.clone());
    watching
        .until("the refusal", |w| w.said.last().is_some_and(|s| s.contains("403") && s.contains("rights")));
    give_rights(&server);
    watching.until("the snapshot", |w| w.said.last().is_some_and(|s| s == "synced"));

    let node = NodeName::new("n1").unwrap();
    server.ask("POST", "/api/v1/nodes", Some(&json!({ "metadata": { "name": "n1" } })));
    let claim = store.claim_pod_cidrs(&watching_network(&watching), &node, &[]).unwrap();
    let said = PublishedNode {
        name: node.clone(),
        addresses: vec![NodeAddress { ip: "192.0.2.1".parse().unwrap(), prefix: Some(24) }],
        pod_cidrs: claim
            .cidrs
            .iter()
            .map(|cidr| weft_model::NodeCidr { network: Network::ordinary().name, cidr: *cidr })
            .collect(),
        vtep_mac: None,
        flannel: Some(FlannelWords { tunnel: None, families: vec![Family::V4] }),
    };
    for _ in 0..2 {
        store.publish(&Published::Node(said.clone())).unwrap();
    }
    let flannels = "/metadata/annotations/flannel.alpha.coreos.com~1public-ip";
    assert_eq!(says(&server, flannels), "192.0.2.1");
    store.publish(&Published::Node(PublishedNode { flannel: None, ..said.clone() })).unwrap();
    assert_eq!(says(&server, flannels), Value::Null);
    store.publish(&Published::Node(said)).unwrap();
    store.announce_ready(&node).unwrap();
    assert_eq!(says(&server, "/metadata/annotations/weft.dev~1pod-cidrs"), "default=10.244.0.0/24");
    assert_eq!(says(&server, "/status/conditions/0/reason"), "WeftIsUp");
    let key = FactKey::Node(node.clone());
    watching.until("the node", |w| w.facts.contains_key(&key));

    server.stop_server();
    watching.until("stale", |w| w.said.last().is_some_and(|s| s.starts_with("stale: ")));
    assert!(watching.facts.contains_key(&key));
    server.start_server();
    watching.until("synced", |w| w.said.last().is_some_and(|s| s == "synced"));
    assert!(watching.removed.is_empty());

    store.forget_node(&node).unwrap();
    assert_eq!(says(&server, "/metadata/annotations"), Value::Null);
    assert_eq!(says(&server, "/status/conditions"), Value::Null);
    let leases =
        "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases?labelSelector=weft.dev%2Fnetwork";
    assert_eq!(server.ask("GET", leases, None)["items"], json!([]));
}

fn watching_network(watching: &Watching) -> Network {
    let networks = watching.facts.values().find_map(|fact| match fact {
        weft_model::Fact::Network(network) => Some(network.clone()),
        _ => None,
    });
    networks.unwrap()
}
