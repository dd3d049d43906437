//! A running watch of a store over the fake, and all that it has told.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use weft_model::{Change, Fact, FactKey, NamespaceName, Network, NodeName};
use weft_store::kubernetes::{AccessSource, BlockSource, DescribedNetwork, Patience, PodScope};
use weft_store::{Event, Hold, KubernetesOptions, KubernetesStore, Remark, Store};

use super::fake::Fake;
use super::listening::{Listening, learn};

pub const NODES: &str = "api/v1/nodes";

/// Times that a test can wait for.
pub fn impatient() -> Patience {
    Patience {
        first_pause: Duration::from_millis(10),
        longest_pause: Duration::from_millis(100),
        grace: Duration::from_millis(300),
        silence: Duration::from_millis(700),
        stalled_list: Duration::from_millis(300),
        paged: Duration::from_secs(600),
        catch_up: Duration::from_secs(2),
        watch: Duration::from_secs(300),
        look: Duration::from_millis(100),
        held: Duration::from_secs(1),
        spare: Duration::from_secs(2),
        ask: Duration::from_millis(100),
        request: Duration::from_secs(10),
    }
}

/// A store over the fake, of node `n1`.
pub fn store(fake: &Fake, token_file: Option<PathBuf>) -> Arc<KubernetesStore> {
    store_with(fake, token_file, impatient())
}

/// The same, with other times.
pub fn store_with(fake: &Fake, token_file: Option<PathBuf>, patience: Patience) -> Arc<KubernetesStore> {
    Arc::new(KubernetesStore::open(options(fake, token_file, patience)).unwrap())
}

/// A store of this node, where nodes claim their blocks.
pub fn claiming(fake: &Fake, node: &str) -> Arc<KubernetesStore> {
    let network = Network { pod_cidrs: vec!["10.244.0.0/16".parse().unwrap()], ..Network::ordinary() };
    let networks = vec![DescribedNetwork { network, blocks: BlockSource::Nodes }];
    let node = NodeName::new(node).unwrap();
    let options = KubernetesOptions { node, networks, ..options(fake, None, impatient()) };
    Arc::new(KubernetesStore::open(options).unwrap())
}

pub fn options(fake: &Fake, token_file: Option<PathBuf>, patience: Patience) -> KubernetesOptions {
    KubernetesOptions {
        node: NodeName::new("n1").unwrap(),
        access: AccessSource { server: Some(fake.address()), token_file, ..AccessSource::default() },
        networks: Vec::new(),
        pods: PodScope::Own,
        namespace: NamespaceName::new("kube-system").unwrap(),
        patience,
        machine: String::new(),
    }
}

/// A node of this name, whose label `v` tells its versions apart.
pub fn node(name: &str, v: u32) -> Value {
    json!({ "kind": "Node", "metadata": { "name": name, "labels": { "v": v.to_string() } } })
}

/// See the module.
pub struct Watching {
    listening: Listening,
    pub facts: BTreeMap<FactKey, Fact>,
    /// What the store said of itself: `synced`, or `stale: REASON`.
    pub said: Vec<String>,
    /// Notices that stand.
    pub notices: BTreeMap<String, String>,
    /// How often a fact was told.
    pub sets: usize,
    /// Facts that were told to be gone.
    pub removed: Vec<FactKey>,
    /// How far the node may rely on its claims.
    pub hold: Hold,
}

impl Watching {
    /// Begins a watch, without waiting for anything.
    pub fn begin(store: Arc<dyn Store>) -> Self {
        Self {
            listening: Listening::begin(store),
            facts: BTreeMap::new(),
            said: Vec::new(),
            notices: BTreeMap::new(),
            sets: 0,
            removed: Vec::new(),
            hold: Hold::default(),
        }
    }

    /// Begins a watch, and waits for the first snapshot.
    pub fn synced(store: Arc<dyn Store>) -> Self {
        let mut watching = Self::begin(store);
        watching.until("the first snapshot", |w| w.said.last().is_some_and(|s| s == "synced"));
        watching
    }

    fn take(&mut self, event: Event) {
        match event {
            Event::Changes(changes) => {
                for change in changes {
                    match &change {
                        Change::Set(_) => self.sets += 1,
                        Change::Remove(key) => self.removed.push(key.clone()),
                    }
                    learn(&mut self.facts, change);
                }
            }
            Event::Synced => self.said.push("synced".into()),
            Event::Stale { reason, .. } => self.said.push(format!("stale: {reason}")),
            Event::Notice(notice) => match notice.text {
                Some(Remark::Warning(text) | Remark::Info(text) | Remark::Unread { text, .. }) => {
                    self.notices.insert(notice.about, text);
                }
                None => drop(self.notices.remove(&notice.about)),
            },
            Event::Hold(hold) => self.hold = hold,
        }
    }

    /// Takes what comes next, if anything does soon.
    pub fn hear(&mut self, patience: Duration) {
        if let Ok(event) = self.listening.events.recv_timeout(patience) {
            self.take(event);
        }
    }

    /// Waits until `done` holds.
    #[track_caller]
    pub fn until(&mut self, what: &str, done: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !done(self) {
            let left = deadline.saturating_duration_since(Instant::now());
            let Ok(event) = self.listening.events.recv_timeout(left) else {
                let (said, notices) = (&self.said, &self.notices);
                let versions: String = self.versions().chars().take(200).collect();
                panic!("{what} did not come: {versions} {said:?} {notices:?}")
            };
            self.take(event);
        }
    }

    /// Names of nodes with their versions: `n1=1 n2=3`.
    pub fn versions(&self) -> String {
        let version = |fact: &Fact| match fact {
            Fact::Node(node) => Some(format!("{}={}", node.name, node.labels.get("v").unwrap_or("?"))),
            _ => None,
        };
        self.facts.values().filter_map(version).collect::<Vec<_>>().join(" ")
    }

    /// Waits until these are the nodes.
    #[track_caller]
    pub fn until_nodes(&mut self, expected: &str) {
        self.until(expected, |w| w.versions() == expected);
    }
}
