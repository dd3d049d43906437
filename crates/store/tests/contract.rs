//! What every store keeps to. A store joins by implementing [`Bench`] and calling [`contract`].

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use weft_model::{
    Change, Cidr, Fact, FactKey, Family, HostPort, Network, Node, NodeAddress, NodeCidr, NodeName, ObjectKey,
    ObjectName, Pod, Port, Protocol,
};
use weft_store::{
    DirectoryOptions, DirectoryStore, Event, Published, PublishedNode, PublishedPod, Store, StoreError,
};

/// A cluster's worth of facts somewhere, empty at first.
trait Bench {
    /// A store over it, as one process has it; each call is another process.
    fn store(&self) -> Arc<dyn Store>;
    /// A person adds or replaces an object, given as YAML.
    fn write(&self, name: &str, yaml: &str);
    /// A person removes it.
    fn remove(&self, name: &str);
}

/// A running watch, and the facts that it has told.
struct Watching {
    store: Arc<dyn Store>,
    events: Receiver<Event>,
    facts: BTreeMap<FactKey, Fact>,
    thread: Option<std::thread::JoinHandle<Result<(), StoreError>>>,
}

impl Watching {
    fn begin(store: Arc<dyn Store>) -> Self {
        let (sender, events) = channel();
        let watched = store.clone();
        let thread = std::thread::spawn(move || {
            watched.watch(&mut |event| match sender.send(event) {
                Ok(()) => ControlFlow::Continue(()),
                Err(_) => ControlFlow::Break(()),
            })
        });
        let mut watching = Self { store, events, facts: BTreeMap::new(), thread: Some(thread) };
        watching.until("the first snapshot", |_, event| *event == Event::Synced);
        watching
    }

    fn take(&mut self, event: &Event) {
        let Event::Changes(changes) = event else { return };
        for change in changes {
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
            let Ok(event) = self.events.recv_timeout(left) else {
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

impl Drop for Watching {
    fn drop(&mut self) {
        self.store.stop();
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            if !std::thread::panicking() {
                ended.unwrap().unwrap();
            }
        }
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
    forgets_a_node_on_demand(&make());
}

const WEB: &str = "apiVersion: v1\nkind: Pod\nmetadata: {name: web, namespace: shop, labels: {app: web}}\nspec: {nodeName: n1}\n";

fn tells_what_is_and_what_changes(bench: &dyn Bench) {
    let web = ObjectKey::new("shop", "web").unwrap();
    bench.write("web", WEB);
    let mut watching = Watching::begin(bench.store());
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
    let fresh = Watching::begin(bench.store());
    assert_eq!(fresh.facts, watching.facts);
}

fn tells_everybody_what_a_node_publishes(bench: &dyn Bench) {
    let (n1, web) = (node_name("n1"), ObjectKey::new("shop", "web").unwrap());
    bench.write("web", WEB);
    bench.write("n1", "apiVersion: v1\nkind: Node\nmetadata: {name: n1, labels: {zone: a}}\n");
    let mut watching = Watching::begin(bench.store());
    let store = bench.store();
    let said = PublishedNode {
        name: n1.clone(),
        addresses: vec![NodeAddress { ip: "192.0.2.1".parse().unwrap(), prefix: Some(24) }],
        pod_cidrs: vec![NodeCidr { network: Network::ordinary().name, cidr: cidr("10.244.0.0/24") }],
        vtep_mac: Some("02:00:00:00:00:01".parse().unwrap()),
    };
    store.publish(&Published::Node(said.clone())).unwrap();
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
    let fact = PublishedPod { key: web.clone(), uid: None, node: n1.clone(), ips, host_ports };
    store.publish(&Published::Pod(fact.clone())).unwrap();
    store.publish(&Published::Pod(fact.clone())).unwrap();
    watching.until_facts("the pod's addresses", |f| pod(f, &web).is_some_and(|p| p.ips == fact.ips));
    let told = watching.pod(&web).unwrap();
    assert_eq!((told.labels.get("app"), told.host_ports.to_vec()), (Some("web"), fact.host_ports.clone()));
    // A pod that nobody has described is known all the same.
    let bare = ObjectKey::new("default", "bare").unwrap();
    store.publish(&Published::Pod(PublishedPod { key: bare.clone(), ..fact })).unwrap();
    watching.until_facts("the bare pod", |f| pod(f, &bare).is_some_and(|p| p.node == Some(n1.clone())));

    store.publish(&Published::PodGone { node: n1.clone(), key: bare.clone() }).unwrap();
    store.publish(&Published::PodGone { node: n1.clone(), key: bare.clone() }).unwrap();
    watching.until_facts("the bare pod's end", |f| pod(f, &bare).is_none());
    store.publish(&Published::PodGone { node: n1, key: web.clone() }).unwrap();
    watching.until_facts("the pod without address", |f| pod(f, &web).is_some_and(|p| p.ips.is_empty()));
}

fn gives_every_node_blocks_of_its_own(bench: &(impl Bench + ?Sized)) {
    let network = network();
    let given: Mutex<Vec<(String, Vec<Cidr>)>> = Mutex::default();
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

fn forgets_a_node_on_demand(bench: &dyn Bench) {
    let (store, n1, n2) = (bench.store(), node_name("n1"), node_name("n2"));
    for name in [&n1, &n2] {
        let said = PublishedNode { name: name.clone(), addresses: vec![], pod_cidrs: vec![], vtep_mac: None };
        store.publish(&Published::Node(said)).unwrap();
        let key = ObjectKey::new("default", name.as_str()).unwrap();
        let ips = vec!["10.0.0.1".parse().unwrap()];
        store
            .publish(&Published::Pod(PublishedPod {
                key,
                uid: None,
                node: name.clone(),
                ips,
                host_ports: Vec::new(),
            }))
            .unwrap();
    }
    let first = store.claim_pod_cidrs(&network(), &n1, &[]).unwrap();
    let mut watching = Watching::begin(bench.store());
    assert_eq!(watching.facts.len(), 4);
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
