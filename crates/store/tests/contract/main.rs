//! What every store keeps to. A store joins by implementing [`Bench`] and calling [`contract`].

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use weft_model::{
    Cidr, Fact, FactKey, HostPort, NamespaceName, Network, NetworkName, Node, NodeAddress, NodeCidr,
    NodeName, ObjectKey, ObjectName, Pod, Port, Protocol,
};
use weft_store::kubernetes::{AccessSource, BlockSource, DescribedNetwork, Patience, PodScope};
use weft_store::{
    DirectoryOptions, DirectoryStore, EtcdOptions, EtcdStore, Event, Forgotten, KubernetesOptions,
    KubernetesStore, Published, PublishedNode, PublishedPod, Store,
};

use self::apiserver::ApiServer;
use self::listening::{Listening, learn};

#[path = "../apiserver/mod.rs"]
mod apiserver;
mod claims;
#[path = "../listening/mod.rs"]
mod listening;
#[path = "../etcd/members.rs"]
mod members;

/// A cluster's worth of facts somewhere, empty at first.
trait Bench {
    /// A store over it, as one process has it; each call is another process.
    fn store(&self) -> Arc<dyn Store>;
    /// A person adds or replaces an object, given as YAML.
    fn write(&self, name: &str, yaml: &str);
    /// A person removes it.
    fn remove(&self, name: &str);
    /// Facts that are there without anybody's doing; watches pass over them.
    fn is_background(&self, _: &FactKey) -> bool {
        false
    }
    /// A machine joins the cluster, where that is not the store's own business.
    fn join(&self, _: &NodeName) {}
    /// It leaves, with its pods.
    fn leave(&self, _: &NodeName) {}
    /// A pod runs on a node: its addresses are published by whoever does that.
    fn run(&self, store: &dyn Store, pod: &PublishedPod) {
        store.publish(&Published::Pod(pod.clone())).unwrap();
    }
    /// It doesn't any more.
    fn end(&self, store: &dyn Store, pod: &PublishedPod) {
        store.publish(&Published::PodGone { node: pod.node.clone(), key: pod.key.clone() }).unwrap();
    }
}

/// A running watch, and the facts that it has told.
struct Watching<'a> {
    bench: &'a dyn Bench,
    listening: Listening,
    facts: BTreeMap<FactKey, Fact>,
}

impl<'a> Watching<'a> {
    fn begin(bench: &'a dyn Bench) -> Self {
        let listening = Listening::begin(bench.store());
        let mut watching = Self { bench, listening, facts: BTreeMap::new() };
        watching.until("the first snapshot", |_, event| *event == Event::Synced);
        watching
    }

    fn take(&mut self, event: &Event) {
        let Event::Changes(changes) = event else { return };
        for change in changes.iter().filter(|change| !self.bench.is_background(&change.key())) {
            learn(&mut self.facts, change.clone());
        }
    }

    /// Waits until `done` holds after an event.
    #[track_caller]
    fn until(&mut self, what: &str, done: impl Fn(&Self, &Event) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let Ok(event) = self.listening.events.recv_timeout(left) else {
                panic!("{what} did not come; the facts are {:#?}", self.facts)
            };
            self.take(&event);
            if done(self, &event) {
                return;
            }
        }
    }

    #[track_caller]
    fn until_facts(&mut self, what: &str, done: impl Fn(&BTreeMap<FactKey, Fact>) -> bool) {
        if !done(&self.facts) {
            self.until(what, |w, _| done(&w.facts));
        }
    }

    fn pod(&self, key: &ObjectKey) -> Option<&Pod> {
        pod(&self.facts, key)
    }
}

fn pod<'a>(facts: &'a BTreeMap<FactKey, Fact>, key: &ObjectKey) -> Option<&'a Pod> {
    match facts.get(&FactKey::Pod(key.clone())) {
        Some(Fact::Pod(pod)) => Some(pod),
        _ => None,
    }
}

fn node<'a>(facts: &'a BTreeMap<FactKey, Fact>, name: &NodeName) -> Option<&'a Node> {
    match facts.get(&FactKey::Node(name.clone())) {
        Some(Fact::Node(node)) => Some(node),
        _ => None,
    }
}

fn node_name(name: &str) -> NodeName {
    NodeName::new(name).unwrap()
}

fn cidr(text: &str) -> Cidr {
    text.parse().unwrap()
}

fn network() -> Network {
    Network { pod_cidrs: vec![cidr("10.244.0.0/20"), cidr("fd00:244::/60")], ..Network::ordinary() }
}

/// All that every store keeps to.
fn contract<B: Bench>(make: impl Fn() -> B) {
    tells_what_is_and_what_changes(&make());
    tells_everybody_what_a_node_publishes(&make());
    claims::gives_every_node_blocks_of_its_own(&make());
    claims::gives_a_full_node_another_block(&make());
    claims::gives_no_address_in_two_networks(&make());
    forgets_a_node_on_demand(&make());
}

const WEB: &str = "apiVersion: v1\nkind: Pod\nmetadata: {name: web, namespace: shop, labels: {app: web}}\nspec: {nodeName: n1}\n";

fn tells_what_is_and_what_changes(bench: &dyn Bench) {
    let web = ObjectKey::new("shop", "web").unwrap();
    bench.write("web", WEB);
    let mut watching = Watching::begin(bench);
    assert_eq!(watching.pod(&web).unwrap().labels.get("app"), Some("web"));
    bench.write("web", &WEB.replace("app: web", "app: api"));
    watching
        .until_facts("the new label", |f| pod(f, &web).is_some_and(|p| p.labels.get("app") == Some("api")));
    bench.write("ns", "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop}\n");
    watching.until_facts("the namespace", |f| f.len() == 2);
    bench.remove("web");
    watching.until_facts("the removal", |f| pod(f, &web).is_none());
    let blocks = "apiVersion: networking.k8s.io/v1\nkind: ServiceCIDR\nmetadata: {name: more}\nspec: {cidrs: [10.97.0.0/16]}\n";
    bench.write("blocks", blocks);
    let key = FactKey::ServiceCidr(ObjectName::new("more").unwrap());
    watching.until_facts("the block", |f| match f.get(&key) {
        Some(Fact::ServiceCidr(found)) => found.cidrs == [cidr("10.97.0.0/16")],
        _ => false,
    });
    bench.remove("blocks");
    watching.until_facts("the block's removal", |f| !f.contains_key(&key));
    // A watch that begins now has the same view.
    let fresh = Watching::begin(bench);
    assert_eq!(fresh.facts, watching.facts);
}

fn tells_everybody_what_a_node_publishes(bench: &dyn Bench) {
    let (n1, web) = (node_name("n1"), ObjectKey::new("shop", "web").unwrap());
    bench.write("web", WEB);
    bench.write("n1", "apiVersion: v1\nkind: Node\nmetadata: {name: n1, labels: {zone: a}}\n");
    let mut watching = Watching::begin(bench);
    let store = bench.store();
    let said = PublishedNode {
        name: n1.clone(),
        addresses: vec![NodeAddress { ip: "192.0.2.1".parse().unwrap(), prefix: Some(24) }],
        pod_cidrs: vec![NodeCidr { network: Network::ordinary().name, cidr: cidr("10.244.0.0/24") }],
        vtep_mac: Some("02:00:00:00:00:01".parse().unwrap()),
        flannel: None,
    };
    store.publish(&Published::Node(said.clone())).unwrap();
    store.announce_ready(&n1).unwrap();
    watching.until_facts("the node", |f| node(f, &n1).is_some_and(|n| n.addresses == said.addresses));
    let told = node(&watching.facts, &n1).unwrap();
    assert_eq!(
        (told.labels.get("zone"), &told.pod_cidrs, told.published_vtep_mac),
        (Some("a"), &said.pod_cidrs, said.vtep_mac)
    );

    let ips = vec!["10.244.0.7".parse().unwrap(), "fd00:244::7".parse().unwrap()];
    let host_ports = vec![HostPort {
        host_ip: Some("192.0.2.1".parse().unwrap()),
        host_port: Port::new(8080).unwrap(),
        container_port: Port::new(80).unwrap(),
        protocol: Protocol::Udp,
    }];
    let blue = NetworkName::new("blue").unwrap();
    let fact = PublishedPod { key: web.clone(), uid: None, network: blue, node: n1.clone(), ips, host_ports };
    bench.run(store.as_ref(), &fact);
    bench.run(store.as_ref(), &fact);
    watching.until_facts("the pod's addresses", |f| pod(f, &web).is_some_and(|p| *p.ips == *fact.ips));
    let told = watching.pod(&web).unwrap();
    assert_eq!((told.labels.get("app"), told.host_ports.to_vec()), (Some("web"), fact.host_ports.clone()));
    assert_eq!(told.network, fact.network);
    // A pod that nobody has described is known all the same.
    let bare = ObjectKey::new("default", "bare").unwrap();
    let bare_pod = PublishedPod { key: bare.clone(), ..fact.clone() };
    bench.run(store.as_ref(), &bare_pod);
    watching.until_facts("the bare pod", |f| pod(f, &bare).is_some_and(|p| p.node == Some(n1.clone())));

    bench.end(store.as_ref(), &bare_pod);
    bench.end(store.as_ref(), &bare_pod);
    watching.until_facts("the bare pod's end", |f| pod(f, &bare).is_none());
    bench.end(store.as_ref(), &fact);
    watching.until_facts("the pod without address", |f| pod(f, &web).is_some_and(|p| p.ips.is_empty()));
}

fn forgets_a_node_on_demand(bench: &dyn Bench) {
    let (store, n1, n2) = (bench.store(), node_name("n1"), node_name("n2"));
    for name in [&n1, &n2] {
        bench.join(name);
        let said = PublishedNode {
            name: name.clone(),
            addresses: vec![],
            pod_cidrs: vec![],
            vtep_mac: None,
            flannel: None,
        };
        store.publish(&Published::Node(said)).unwrap();
        let key = ObjectKey::new("default", name.as_str()).unwrap();
        let ips = vec!["10.0.0.1".parse().unwrap()];
        let (host_ports, network) = (Vec::new(), NetworkName::ordinary());
        bench.run(
            store.as_ref(),
            &PublishedPod { key, uid: None, network, node: name.clone(), ips, host_ports },
        );
    }
    let first = store.claim_pod_cidrs(&network(), &n1, &[]).unwrap();
    let mut watching = Watching::begin(bench);
    assert_eq!(watching.facts.len(), 4);
    bench.leave(&n1);
    assert_eq!(store.forget_node(&n1).unwrap(), Forgotten::Something);
    assert_eq!(store.forget_node(&n1).unwrap(), Forgotten::Nothing);
    assert_eq!(store.forget_node(&node_name("typo")).unwrap(), Forgotten::Nothing);
    watching.until_facts("n1 forgotten", |f| f.len() == 2 && node(f, &n2).is_some());
    assert_eq!(store.claim_pod_cidrs(&network(), &n2, &[]).unwrap(), first);
}

struct Folder(tempfile::TempDir);

impl Folder {
    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(format!("{name}.yaml"))
    }
}

impl Bench for Folder {
    fn store(&self) -> Arc<dyn Store> {
        Arc::new(DirectoryStore::open(Path::new(self.0.path()), DirectoryOptions::default()).unwrap())
    }
    fn write(&self, name: &str, yaml: &str) {
        std::fs::write(self.path(name), yaml).unwrap();
    }
    fn remove(&self, name: &str) {
        std::fs::remove_file(self.path(name)).unwrap();
    }
}

#[test]
fn the_directory_store_keeps_the_contract() {
    contract(|| Folder(tempfile::tempdir().unwrap()));
}

/// A cluster's API server, and what kubelets and people do with it.
struct Cluster {
    server: ApiServer,
    token: PathBuf,
    /// Where the objects are that people wrote.
    written: Mutex<BTreeMap<String, String>>,
}

impl Cluster {
    fn start(programs: &Path) -> Self {
        let server = ApiServer::start(programs);
        let token = server.token_file(apiserver::ADMIN);
        Self { server, token, written: Mutex::default() }
    }

    fn pod_path(key: &ObjectKey) -> String {
        format!("/api/v1/namespaces/{}/pods/{}", key.namespace, key.name)
    }

    fn exists(&self, path: &str) -> bool {
        matches!(self.server.try_ask("GET", path, "", None), Some((200, _)))
    }

    /// The path of all objects of this one's kind, and its own.
    fn paths(object: &Value) -> (String, String) {
        let name = object["metadata"]["name"].as_str().unwrap();
        let namespace = object["metadata"]["namespace"].as_str().unwrap_or("default");
        let all = match object["kind"].as_str().unwrap() {
            "Pod" => format!("/api/v1/namespaces/{namespace}/pods"),
            "Node" => "/api/v1/nodes".into(),
            "Namespace" => "/api/v1/namespaces".into(),
            "ServiceCIDR" => "/apis/networking.k8s.io/v1/servicecidrs".into(),
            other => panic!("no path of {other}"),
        };
        let own = format!("{all}/{name}");
        (all, own)
    }

    fn put(&self, mut object: Value) -> String {
        let (all, own) = Self::paths(&object);
        if object["kind"] == "Pod" {
            let namespace = object["metadata"]["namespace"].as_str().unwrap_or("default").to_owned();
            self.put_namespace(&namespace);
            if object["spec"]["containers"].is_null() {
                object["spec"]["containers"] = json!([{ "name": "main", "image": "none" }]);
            }
        }
        if self.exists(&own) {
            self.server.ask_as("PATCH", &own, "application/merge-patch+json", Some(&object));
        } else {
            self.server.ask("POST", &all, Some(&object));
        }
        own
    }

    fn put_namespace(&self, name: &str) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !self.exists(&format!("/api/v1/namespaces/{name}")) {
            let object = json!({ "metadata": { "name": name } });
            self.server.try_ask("POST", "/api/v1/namespaces", "application/json", Some(&object));
            assert!(Instant::now() < deadline, "the namespace {name} can't be made");
        }
    }

    fn delete(&self, path: &str) {
        let now = json!({ "gracePeriodSeconds": 0 });
        self.server.try_ask("DELETE", path, "application/json", Some(&now));
    }

    fn set_addresses(&self, key: &ObjectKey, ips: &[std::net::IpAddr]) {
        let listed: Vec<Value> = ips.iter().map(|ip| json!({ "ip": ip })).collect();
        let status = match ips.first() {
            Some(first) => json!({ "phase": "Running", "podIP": first, "podIPs": listed }),
            None => json!({ "podIP": null, "podIPs": null }),
        };
        let path = format!("{}/status", Self::pod_path(key));
        self.server.ask_as(
            "PATCH",
            &path,
            "application/merge-patch+json",
            Some(&json!({ "status": status })),
        );
    }
}

impl Bench for Cluster {
    fn store(&self) -> Arc<dyn Store> {
        let network = DescribedNetwork { network: network(), blocks: BlockSource::Nodes };
        let options = KubernetesOptions {
            node: node_name("n1"),
            access: AccessSource {
                server: Some(self.server.address()),
                token_file: Some(self.token.clone()),
                ca_file: Some(self.server.ca()),
                kubeconfig: None,
            },
            networks: vec![network],
            pods: PodScope::All,
            namespace: NamespaceName::new("kube-system").unwrap(),
            patience: Patience::default(),
            machine: String::new(),
        };
        Arc::new(KubernetesStore::open(options).unwrap())
    }

    fn write(&self, name: &str, yaml: &str) {
        let path = self.put(serde_saphyr::from_str(yaml).unwrap());
        self.written.lock().unwrap().insert(name.to_owned(), path);
    }

    fn remove(&self, name: &str) {
        let path = self.written.lock().unwrap().remove(name).unwrap();
        self.delete(&path);
    }

    /// The configuration describes networks, and the server makes a few objects by itself.
    fn is_background(&self, key: &FactKey) -> bool {
        match key {
            FactKey::Network(_) => true,
            FactKey::Namespace(name) => name.as_str() == "default" || name.as_str().starts_with("kube-"),
            FactKey::Service(key) | FactKey::EndpointSlice(key) => key.to_string() == "default/kubernetes",
            FactKey::ServiceCidr(name) => name.as_str() == "kubernetes",
            _ => false,
        }
    }

    fn join(&self, node: &NodeName) {
        self.put(json!({ "kind": "Node", "metadata": { "name": node } }));
    }

    fn leave(&self, node: &NodeName) {
        self.delete(&format!("/api/v1/nodes/{node}"));
        let of_node = format!("/api/v1/pods?fieldSelector=spec.nodeName%3D{node}");
        for pod in self.server.ask("GET", &of_node, None)["items"].as_array().unwrap() {
            let text = |field: &str| pod["metadata"][field].as_str().unwrap();
            self.delete(&Self::pod_path(&ObjectKey::new(text("namespace"), text("name")).unwrap()));
        }
    }

    fn run(&self, store: &dyn Store, pod: &PublishedPod) {
        store.publish(&Published::Pod(pod.clone())).unwrap();
        let path = Self::pod_path(&pod.key);
        let there = self.server.try_ask("GET", &path, "", None).filter(|(status, _)| *status == 200);
        let there = there.map_or(Value::Null, |(_, there)| there);
        if there["status"]["podIPs"].is_array() {
            return;
        }
        // A pod's containers can't be changed, so it is made anew, with its ports.
        self.delete(&path);
        let ports = pod.host_ports.iter().map(|port| {
            json!({
                "hostIP": port.host_ip,
                "hostPort": port.host_port.get(),
                "containerPort": port.container_port.get(),
                "protocol": port.protocol.to_string().to_uppercase(),
            })
        });
        self.put(json!({
            "kind": "Pod",
            "metadata": {
                "name": pod.key.name,
                "namespace": pod.key.namespace,
                "labels": there["metadata"]["labels"],
                "annotations": { "weft.dev/network": pod.network },
            },
            "spec": {
                "nodeName": pod.node,
                "containers": [{ "name": "main", "image": "none", "ports": ports.collect::<Vec<_>>() }],
            },
        }));
        self.set_addresses(&pod.key, &pod.ips);
    }

    fn end(&self, store: &dyn Store, pod: &PublishedPod) {
        let gone = Published::PodGone { node: pod.node.clone(), key: pod.key.clone() };
        store.publish(&gone).unwrap();
        let path = Self::pod_path(&pod.key);
        // What people have described stays; what nobody has is gone with its addresses.
        match self.written.lock().unwrap().values().any(|written| *written == path) {
            true => self.set_addresses(&pod.key, &[]),
            false => self.delete(&path),
        }
    }
}

#[test]
fn the_kubernetes_store_keeps_the_contract() {
    let Some(programs) = apiserver::programs("the_kubernetes_store_keeps_the_contract") else { return };
    contract(|| Cluster::start(&programs));
}

/// A prefix of a real etcd's keys.
struct Keys<'a> {
    members: &'a members::Members,
    prefix: String,
}

impl Bench for Keys<'_> {
    fn store(&self) -> Arc<dyn Store> {
        let options = EtcdOptions {
            endpoints: self.members.endpoints(),
            prefix: self.prefix.clone(),
            ..EtcdOptions::default()
        };
        Arc::new(EtcdStore::open(options).unwrap())
    }
    fn write(&self, name: &str, yaml: &str) {
        self.members.put(&format!("{}/objects/{name}", self.prefix), yaml);
    }
    fn remove(&self, name: &str) {
        self.members.delete(&format!("{}/objects/{name}", self.prefix));
    }
}

#[test]
fn the_etcd_store_keeps_the_contract() {
    let Some(members) = members::Members::start(1, &members::Terms::default()) else { return };
    let count = std::cell::Cell::new(0);
    contract(|| {
        count.set(count.get() + 1);
        Keys { members: &members, prefix: format!("/clusters/{}", count.get()) }
    });
}
