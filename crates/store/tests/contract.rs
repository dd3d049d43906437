//! What every store keeps to. A store joins by implementing [`Bench`] and calling [`contract`].

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use weft_model::{
    Change, Cidr, Fact, FactKey, Family, HostPort, NamespaceName, Network, NetworkName, Node, NodeAddress,
    NodeCidr, NodeName, ObjectKey, ObjectName, Pod, Port, Protocol,
};
use weft_store::kubernetes::{AccessSource, BlockSource, DescribedNetwork, Patience, PodScope};
use weft_store::{
    DirectoryOptions, DirectoryStore, EtcdOptions, EtcdStore, Event, KubernetesOptions, KubernetesStore,
    Published, PublishedNode, PublishedPod, Store, StoreError,
};

use self::apiserver::ApiServer;
use self::listening::Listening;

mod apiserver;
mod listening;
#[path = "etcd/members.rs"]
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
            match change {
                Change::Set(fact) => self.facts.insert(fact.key(), (**fact).clone()),
                Change::Remove(key) => self.facts.remove(key),
            };
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
    gives_every_node_blocks_of_its_own(&make());
    gives_a_full_node_another_block(&make());
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
    watching.until_facts("the pod's addresses", |f| pod(f, &web).is_some_and(|p| p.ips == fact.ips));
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

fn gives_every_node_blocks_of_its_own(bench: &(impl Bench + ?Sized)) {
    let network = network();
    let given: Mutex<Vec<(String, Vec<Cidr>)>> = Mutex::default();
    for i in 0..16 {
        bench.join(&node_name(&format!("node-{i}")));
    }
    bench.join(&node_name("late"));
    std::thread::scope(|scope| {
        for i in 0..12 {
            let (store, network, given) = (bench.store(), &network, &given);
            scope.spawn(move || {
                let name = format!("node-{i}");
                let in_use = [cidr("10.244.0.0/24")];
                let claim = store.claim_pod_cidrs(network, &node_name(&name), &in_use).unwrap();
                assert_eq!(claim.unfit, []);
                given.lock().unwrap().push((name, claim.cidrs));
            });
        }
    });
    let given = given.into_inner().unwrap();
    let all: Vec<Cidr> = given.iter().flat_map(|(_, c)| c.clone()).collect();
    for (i, a) in all.iter().enumerate() {
        assert!(all[i + 1..].iter().all(|b| !a.overlaps(b)), "{a} given twice: {given:?}");
        assert!(network.pod_cidrs.iter().any(|block| block.net().contains(&a.net())));
        assert_ne!(a.to_string(), "10.244.0.0/24");
    }
    let again = bench.store();
    for (name, cidrs) in &given {
        assert_eq!(again.claim_pod_cidrs(&network, &node_name(name), &[]).unwrap().cidrs, *cidrs);
        assert_eq!(cidrs.iter().map(Cidr::family).collect::<Vec<_>>(), Family::ALL);
    }
    // 16 shares of IPv4, 12 taken: four more nodes, and then an error that says so.
    for i in 12..16 {
        again.claim_pod_cidrs(&network, &node_name(&format!("node-{i}")), &[]).unwrap();
    }
    let error = again.claim_pod_cidrs(&network, &node_name("late"), &[]).unwrap_err().to_string();
    assert!(error.contains("10.244.0.0/20") && error.contains("late") && error.contains("16"), "{error}");
    // A network that has changed: the old share stays the node's, and a fitting one is added.
    let other = Network { pod_cidrs: vec![cidr("10.9.0.0/16")], node_prefix_v4: 26, ..network.clone() };
    let claim = again.claim_pod_cidrs(&other, &node_name("node-3"), &[]).unwrap();
    assert_eq!(claim.cidrs, [cidr("10.9.0.0/26")]);
    assert_eq!(claim.unfit.len(), 2);
    let nothing = Network::ordinary();
    assert_eq!(again.claim_pod_cidrs(&nothing, &node_name("node-3"), &[]).unwrap().cidrs, []);
}

fn gives_a_full_node_another_block(bench: &(impl Bench + ?Sized)) {
    let network = Network { pod_cidrs: vec![cidr("10.244.0.0/22"), cidr("fd00:244::/48")], ..network() };
    for name in ["full-1", "full-2"] {
        bench.join(&node_name(name));
    }
    let (store, n1, n2) = (bench.store(), node_name("full-1"), node_name("full-2"));
    let first = store.claim_pod_cidrs(&network, &n1, &[]).unwrap().cidrs;
    // Nothing of its own is full: whoever gave it that gives more.
    let foreign = store.claim_another(&network, &n2, &[cidr("10.244.9.0/24")], &[]).unwrap_err();
    assert!(matches!(foreign, StoreError::BlocksGiven { .. }), "{foreign}");
    let mut full = vec![first[0]];
    let busy = [cidr("10.244.1.0/24")];
    let more = store.claim_another(&network, &n1, &full, &busy).unwrap();
    assert!(!full.contains(&more) && more.prefix() == 24 && more != busy[0], "{more}");
    // The answer was lost, and the agent was started again: nothing is taken twice, and all of it is known.
    assert_eq!(store.claim_another(&network, &n1, &full, &busy).unwrap(), more);
    let again = bench.store();
    assert_eq!(again.claim_another(&network, &n1, &full, &busy).unwrap(), more);
    let claim = again.claim_pod_cidrs(&network, &n1, &[]).unwrap();
    let mut known = claim.cidrs.clone();
    known.sort_unstable();
    let mut expected = vec![first[0], first[1], more];
    expected.sort_unstable();
    assert_eq!((known, claim.unfit), (expected, vec![]));
    full.push(more);
    // Many at once, of two nodes: each gets its own, until nothing is left.
    let second = again.claim_pod_cidrs(&network, &n2, &[]).unwrap().cidrs[0];
    let last = std::thread::scope(|scope| {
        let ask = |node: NodeName, full: Vec<Cidr>| {
            let (store, network) = (bench.store(), &network);
            scope.spawn(move || store.claim_another(network, &node, &full, &[]))
        };
        let asked = [ask(n1.clone(), full.clone()), ask(n2.clone(), vec![second])];
        asked.map(|asked| asked.join().unwrap())
    });
    let (given, refused): (Vec<_>, Vec<_>) = last.into_iter().partition(Result::is_ok);
    let (given, refused) = (given[0].as_ref().unwrap(), refused[0].as_ref().unwrap_err());
    assert!(!full.contains(given) && *given != second, "{given} given twice");
    assert!(matches!(refused, StoreError::BlocksExhausted { .. }), "{refused}");
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
    store.forget_node(&n1).unwrap();
    store.forget_node(&n1).unwrap();
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
