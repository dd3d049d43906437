//! Who says what of which object, and what holds: pure.
//!
//! What always holds: the outcome depends on what the files say now, never on the order in which they came. Of two
//! files of people that hold one object, the first by path wins. Of what a node has published, the node has the last
//! word: a node's addresses, tunnel MAC and claimed blocks; a pod's addresses, mapped ports, node and uid. All else is the people's.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use weft_model::{Change, Fact, FactKey, Node, Pod};

use super::Writer;
use crate::object::Decoded;

/// One file's word on an object.
#[derive(Debug, Clone)]
struct Word {
    path: Arc<str>,
    /// The file is gone, and its word stands only until that is sure.
    is_leaving: bool,
    published_at: u64,
    decoded: Decoded,
}

/// All files' words on one object.
#[derive(Debug, Clone, Default)]
struct Entry {
    people: Vec<Word>,
    nodes: Vec<Word>,
}

impl Entry {
    fn words(&mut self, writer: &Writer) -> &mut Vec<Word> {
        match writer {
            Writer::User => &mut self.people,
            Writer::Node(_) => &mut self.nodes,
        }
    }

    /// The word of people that holds, and the files that say the same object and are passed over.
    fn ranked(&self) -> Vec<&Word> {
        let mut words: Vec<&Word> = self.people.iter().collect();
        words.sort_by(|a, b| (a.is_leaving, &a.path).cmp(&(b.is_leaving, &b.path)));
        words
    }
}

/// What becomes of objects that a file held before and doesn't hold now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Missing {
    /// They are gone.
    Remove,
    /// They stay as they were: what is broken in the file may be them.
    Keep,
}

/// An object, and the files of people that hold it, the one in force first.
pub(crate) type Holders = (FactKey, Vec<Arc<str>>);

/// All words on all objects.
#[derive(Debug, Default)]
pub(crate) struct Table {
    entries: HashMap<FactKey, Entry>,
    files: BTreeMap<Arc<str>, (Writer, Vec<FactKey>)>,
    /// Objects touched since the last drain, with what held before.
    touched: BTreeMap<FactKey, Option<Fact>>,
}

impl Table {
    /// The objects that a file holds.
    pub fn keys_of(&self, path: &str) -> &[FactKey] {
        self.files.get(path).map_or(&[], |(_, keys)| keys)
    }

    /// Says what a file holds now. Returns the keys that it holds twice: the first one counts.
    pub fn set_file(
        &mut self,
        path: &str,
        writer: &Writer,
        facts: Vec<Decoded>,
        published_at: u64,
        missing: Missing,
    ) -> Vec<FactKey> {
        let path: Arc<str> = path.into();
        let before = self.files.remove(&path).map(|(_, keys)| keys).unwrap_or_default();
        let mut keys: Vec<FactKey> = Vec::with_capacity(facts.len());
        let mut seen = std::collections::HashSet::new();
        let mut twice = Vec::new();
        for decoded in facts {
            let key = decoded.fact.key();
            if !seen.insert(key.clone()) {
                twice.push(key);
                continue;
            }
            let word = Word { path: path.clone(), is_leaving: false, published_at, decoded };
            self.touch(&key);
            let words = self.entries.entry(key.clone()).or_default().words(writer);
            match words.iter_mut().find(|w| w.path == path) {
                Some(old) => *old = word,
                None => words.push(word),
            }
            keys.push(key);
        }
        for key in before.into_iter().filter(|key| !seen.contains(key)) {
            match missing {
                Missing::Keep => keys.push(key),
                Missing::Remove => self.silence(&key, writer, &path),
            }
        }
        if !keys.is_empty() {
            self.files.insert(path, (writer.clone(), keys));
        }
        twice
    }

    /// Says that a file is going, or is back.
    pub fn set_leaving(&mut self, path: &str, is_leaving: bool) {
        let Some((writer, keys)) = self.files.get(path).cloned() else { return };
        for key in &keys {
            let words = self.entries.get_mut(key).map(|e| e.words(&writer));
            let word = words.and_then(|words| words.iter_mut().find(|w| *w.path == *path));
            if word.is_some_and(|w| w.is_leaving != is_leaving) {
                self.touch(key);
                let entry = self.entries.get_mut(key).map(|e| e.words(&writer));
                for word in entry.into_iter().flatten().filter(|w| *w.path == *path) {
                    word.is_leaving = is_leaving;
                }
            }
        }
    }

    /// What changed since the last call, in an order that makes nodes known before pods; and who holds the
    /// objects that were touched.
    pub fn drain(&mut self) -> (Vec<Change>, Vec<Holders>) {
        let mut changes = Vec::new();
        let mut holders = Vec::new();
        for (key, before) in std::mem::take(&mut self.touched) {
            let after = self.effective(&key);
            let ranked = self.entries.get(&key).map(Entry::ranked).unwrap_or_default();
            let present = ranked.iter().filter(|w| !w.is_leaving).map(|w| w.path.clone());
            holders.push((key.clone(), present.collect()));
            match after {
                after if after == before => {}
                Some(fact) => changes.push(Change::set(fact)),
                None => changes.push(Change::Remove(key)),
            }
        }
        (changes, holders)
    }

    /// True where nothing is known at all.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    fn touch(&mut self, key: &FactKey) {
        if !self.touched.contains_key(key) {
            let before = self.effective(key);
            self.touched.insert(key.clone(), before);
        }
    }

    fn silence(&mut self, key: &FactKey, writer: &Writer, path: &str) {
        self.touch(key);
        if let Some(entry) = self.entries.get_mut(key) {
            entry.words(writer).retain(|w| *w.path != *path);
            if entry.people.is_empty() && entry.nodes.is_empty() {
                self.entries.remove(key);
            }
        }
    }

    fn effective(&self, key: &FactKey) -> Option<Fact> {
        let entry = self.entries.get(key)?;
        let people = entry.ranked().first().map(|w| &w.decoded);
        match key {
            FactKey::Pod(_) => merged_pod(people, &entry.nodes).map(Fact::Pod),
            FactKey::Node(_) => merged_node(people, &entry.nodes).map(Fact::Node),
            _ => people.map(|d| d.fact.clone()),
        }
    }
}

/// People own a node's labels, and blocks where they give any; the node owns the rest, as soon as it has said it.
fn merged_node(people: Option<&Decoded>, nodes: &[Word]) -> Option<Node> {
    let as_node = |d: &Decoded| match &d.fact {
        Fact::Node(node) => Some(node.clone()),
        _ => None,
    };
    let said = nodes.iter().find_map(|w| as_node(&w.decoded));
    let Some(mut node) = people.and_then(as_node) else { return said };
    let Some(said) = said else { return Some(node) };
    if !said.addresses.is_empty() {
        node.addresses = said.addresses;
    }
    node.published_vtep_mac = said.published_vtep_mac.or(node.published_vtep_mac);
    let given: Vec<_> = node.pod_cidrs.iter().map(|c| c.network.clone()).collect();
    node.pod_cidrs.extend(said.pod_cidrs.into_iter().filter(|c| !given.contains(&c.network)));
    Some(node)
}

/// People own a pod's labels and ports, and its node where they name one; the node where it runs owns its addresses.
fn merged_pod(people: Option<&Decoded>, nodes: &[Word]) -> Option<Pod> {
    let as_pod = |d: &Decoded| match &d.fact {
        Fact::Pod(pod) => Some(pod.clone()),
        _ => None,
    };
    let wanted = people.and_then(as_pod);
    // Another uid is another pod that had the name before; another node is where people no longer want it.
    let fits = |said: &Pod| {
        wanted.as_ref().is_none_or(|w| {
            (w.uid.is_none() || said.uid.is_none() || w.uid == said.uid)
                && (w.node.is_none() || w.node == said.node)
        })
    };
    let said =
        nodes.iter().filter_map(|w| Some((w.published_at, as_pod(&w.decoded)?))).filter(|(_, p)| fits(p));
    // A pod that moved may be published by two nodes: the later word holds.
    let said = said.max_by(|(a, p), (b, q)| (a, &p.node).cmp(&(b, &q.node))).map(|(_, pod)| pod);
    let mut pod = match (wanted, said) {
        (Some(mut pod), Some(said)) => {
            pod.ips = said.ips;
            pod.host_ports = said.host_ports;
            pod.node = said.node;
            pod.uid = pod.uid.or(said.uid);
            pod
        }
        (wanted, said) => wanted.or(said)?,
    };
    // Nobody writes conditions into a folder: a pod that has its addresses is as ready as one can tell.
    pod.ready = match people.and_then(|d| d.ready) {
        Some(ready) => ready,
        None => !pod.ips.is_empty() || (pod.host_network && pod.node.is_some()),
    };
    Some(pod)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::{Strategy, any, prop_assert_eq, proptest};
    use weft_model::{Change, Fact, FactKey, NodeName, ObjectKey, Pod};

    use super::{Missing, Table, Writer};
    use crate::object::Decoded;

    const FILES: [&str; 4] = ["a.yaml", "b.yaml", ".weft/pods/n1/x.json", ".weft/pods/n2/x.json"];

    fn writer(file: usize) -> Writer {
        match file {
            2 => Writer::Node(NodeName::new("n1").unwrap()),
            3 => Writer::Node(NodeName::new("n2").unwrap()),
            _ => Writer::User,
        }
    }

    /// A file that holds the pods of `mask`, in a version of its own.
    fn pods(file: usize, mask: u8, version: u8) -> Vec<Decoded> {
        let held = (0..3).filter(|i| mask & (1 << i) != 0);
        let pod = |i: u8| {
            let mut pod = Pod::named(ObjectKey::new("default", &format!("p{i}")).unwrap());
            pod.labels = [("version", version.to_string())].into_iter().collect();
            if let Writer::Node(node) = writer(file) {
                pod.node = Some(node);
                pod.ips = vec![[10, file as u8, i, version].into()];
            }
            Decoded { fact: Fact::Pod(pod), ready: None }
        };
        held.map(pod).collect()
    }

    fn apply(told: &mut BTreeMap<FactKey, Fact>, table: &mut Table) {
        for change in table.drain().0 {
            match change {
                Change::Set(fact) => told.insert(fact.key(), *fact),
                Change::Remove(key) => told.remove(&key),
            };
        }
    }

    fn step() -> impl Strategy<Value = (usize, u8, u8, bool)> {
        (0..FILES.len(), 0..8_u8, 0..3_u8, any::<bool>())
    }

    proptest! {
        /// Whatever came before, in whatever order and pieces: what was told is what the files say now.
        #[test]
        fn only_what_the_files_say_now_counts(steps in proptest::collection::vec(step(), 0..40)) {
            let (mut table, mut told) = (Table::default(), BTreeMap::new());
            let mut now = BTreeMap::new();
            for (file, mask, version, tell) in steps {
                table.set_leaving(FILES[file], true);
                if tell {
                    apply(&mut told, &mut table);
                }
                table.set_leaving(FILES[file], false);
                let published_at = u64::from(version);
                table.set_file(FILES[file], &writer(file), pods(file, mask, version), published_at, Missing::Remove);
                now.insert(file, (mask, version));
                if tell {
                    apply(&mut told, &mut table);
                }
            }
            apply(&mut told, &mut table);
            let (mut fresh, mut expected) = (Table::default(), BTreeMap::new());
            for (file, (mask, version)) in now.into_iter().rev() {
                let published_at = u64::from(version);
                fresh.set_file(FILES[file], &writer(file), pods(file, mask, version), published_at, Missing::Remove);
            }
            apply(&mut expected, &mut fresh);
            prop_assert_eq!(told, expected);
        }
    }
}
