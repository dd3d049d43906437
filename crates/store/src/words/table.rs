//! Who says what of which object, and what holds: pure.
//!
//! What always holds: the outcome depends on what the files say now, never on the order in which they came. Of two
//! files of people that hold one object, the first by path wins. Of what a node has published, the node has the last
//! word: a node's addresses, tunnel MAC and claimed blocks; a pod's addresses, mapped ports, node and uid. All else is the people's.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use rustc_hash::FxHashSet;
use weft_model::{Change, Fact, FactKey, Keyed, Node, Pod, Slot};

use super::Writer;
use super::packed::Packed;
use crate::object::{Decoded, Interner};

/// Whose word it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum By {
    People,
    Node,
}

impl By {
    fn of(writer: &Writer) -> Self {
        match writer {
            Writer::User => By::People,
            Writer::Node(_) => By::Node,
        }
    }
}

/// One file's word on an object.
#[derive(Debug)]
struct Word {
    path: Arc<str>,
    by: By,
    /// The file is gone, and its word stands only until that is sure.
    is_leaving: bool,
    published_at: u64,
    packed: Packed,
}

/// All files' words on one object.
#[derive(Debug)]
struct Entry {
    key: FactKey,
    words: Vec<Word>,
}

impl Keyed for Entry {
    type Key = FactKey;
    fn key(&self) -> &FactKey {
        &self.key
    }
}

impl Entry {
    /// The words of people, the one that holds first.
    fn ranked(&self) -> Vec<&Word> {
        let mut words: Vec<&Word> = self.words.iter().filter(|word| word.by == By::People).collect();
        words.sort_by(|a, b| (a.is_leaving, &a.path).cmp(&(b.is_leaving, &b.path)));
        words
    }

    /// What holds of it, where the word of one file alone decides.
    fn decisive(&self) -> Option<&Packed> {
        Some(&self.ranked().first()?.packed)
    }

    /// What holds of it. `fresh` is what its only word says, where that is still at hand.
    fn effective(&self, fresh: Option<Decoded>, names: &mut Interner) -> Option<Fact> {
        if let (Some(decoded), [word]) = (fresh, &self.words[..]) {
            return match (word.by, decoded.fact) {
                (By::People, fact @ Fact::Pod(_)) => {
                    let decoded = Decoded { fact, ready: decoded.ready };
                    merged_pod(Some(&decoded), &[]).map(Fact::Pod)
                }
                (By::Node, fact @ Fact::Pod(_)) => {
                    let decoded = Decoded { fact, ready: decoded.ready };
                    merged_pod(None, &[(word.published_at, decoded)]).map(Fact::Pod)
                }
                (_, fact) => Some(fact),
            };
        }
        let people = self.ranked().first().and_then(|word| word.packed.unpack(names));
        if !is_merged(&self.key) {
            return people.map(|decoded| decoded.fact);
        }
        let nodes = self.words.iter().filter(|word| word.by == By::Node);
        let nodes: Vec<(u64, Decoded)> =
            nodes.filter_map(|word| Some((word.published_at, word.packed.unpack(names)?))).collect();
        match &self.key {
            FactKey::Pod(_) => merged_pod(people.as_ref(), &nodes).map(Fact::Pod),
            _ => merged_node(people.as_ref(), &nodes).map(Fact::Node),
        }
    }

    /// [`Entry::effective`], to be compared.
    fn standing(&self, names: &mut Interner) -> Option<Packed> {
        if is_merged(&self.key) {
            self.effective(None, names).map(|fact| Packed::of(&Decoded { fact, ready: None }))
        } else {
            self.decisive().cloned()
        }
    }
}

/// True for objects of which people and nodes each have a part.
fn is_merged(key: &FactKey) -> bool {
    matches!(key, FactKey::Pod(_) | FactKey::Node(_))
}

/// What becomes of objects that a file held before and doesn't hold now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Missing {
    /// They are gone.
    Remove,
    /// They stay as they were: what is broken in the file may be them.
    Keep,
}

/// Which of the objects that were touched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Which {
    /// All.
    All,
    /// Those of which one file's word decides, so that hardly any file to come changes them.
    Decided,
}

/// An object, and the files of people that hold it, the one in force first.
pub(crate) type Holders = (FactKey, Vec<Arc<str>>);

/// An object that was touched since the last drain.
#[derive(Debug)]
struct Touched {
    /// What held before.
    before: Option<Packed>,
    /// What its latest word says, and in which file.
    fresh: Option<(Arc<str>, Box<Decoded>)>,
}

/// All words on all objects.
#[derive(Debug, Default)]
pub(crate) struct Table {
    entries: weft_model::Table<Entry>,
    files: BTreeMap<Arc<str>, Vec<Slot>>,
    touched: BTreeMap<FactKey, Touched>,
    /// Objects that several files of people held at the last drain.
    shared: BTreeSet<FactKey>,
    names: Interner,
}

impl Table {
    /// The objects that a file holds.
    pub fn keys_of(&self, path: &str) -> impl Iterator<Item = &FactKey> {
        let slots = self.files.get(path).into_iter().flatten();
        slots.filter_map(|slot| Some(&self.entries.at(*slot)?.key))
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
        let before = self.files.remove(&path).unwrap_or_default();
        let mut slots = Vec::with_capacity(facts.len());
        let mut seen = FxHashSet::default();
        let mut twice = Vec::new();
        for decoded in facts {
            let key = decoded.fact.key();
            let slot = match self.entries.slot(&key) {
                Some(slot) => slot,
                None => self.entries.insert(Entry { key: key.clone(), words: Vec::new() }).0,
            };
            if !seen.insert(slot) {
                twice.push(key);
                continue;
            }
            slots.push(slot);
            let packed = Packed::of(&decoded);
            let word =
                Word { path: path.clone(), by: By::of(writer), is_leaving: false, published_at, packed };
            self.say(slot, word, decoded);
        }
        for slot in before.into_iter().filter(|slot| !seen.contains(slot)) {
            match missing {
                Missing::Keep => slots.push(slot),
                Missing::Remove => self.silence(slot, &path),
            }
        }
        if !slots.is_empty() {
            slots.shrink_to_fit();
            self.files.insert(path, slots);
        }
        twice
    }

    /// Says that a file is going, or is back.
    pub fn set_leaving(&mut self, path: &str, is_leaving: bool) {
        for slot in self.files.get(path).cloned().unwrap_or_default() {
            let differs = |word: &Word| *word.path == *path && word.is_leaving != is_leaving;
            if self.entries.at(slot).is_some_and(|entry| entry.words.iter().any(differs)) {
                self.touch(slot);
                let words = self.entries.at_mut(slot).map(|entry| entry.words.iter_mut());
                words
                    .into_iter()
                    .flatten()
                    .filter(|word| differs(word))
                    .for_each(|w| w.is_leaving = is_leaving);
            }
        }
    }

    /// What changed since the last call, in an order that makes nodes known before pods; and who holds the
    /// objects that several files hold, or held.
    pub fn drain(&mut self, which: Which) -> (Vec<Change>, Vec<Holders>) {
        let mut changes = Vec::new();
        let mut holders = Vec::new();
        let mut touched = std::mem::take(&mut self.touched);
        if which == Which::Decided {
            (self.touched, touched) = touched.into_iter().partition(|(key, _)| is_merged(key));
        }
        for (key, Touched { before, fresh }) in touched {
            let entry = self.entries.get(&key);
            let ranked = entry.map(Entry::ranked).unwrap_or_default();
            let present = ranked.iter().filter(|w| !w.is_leaving);
            if present.clone().count() > 1 {
                self.shared.insert(key.clone());
                holders.push((key.clone(), present.map(|w| w.path.clone()).collect()));
            } else if self.shared.remove(&key) {
                holders.push((key.clone(), present.map(|w| w.path.clone()).collect()));
            }
            let names = &mut self.names;
            if entry.and_then(|entry| entry.standing(names)) == before {
                continue;
            }
            let fresh =
                fresh.filter(|(path, _)| entry.is_some_and(|e| e.words.iter().any(|w| w.path == *path)));
            match entry.and_then(|entry| entry.effective(fresh.map(|(_, decoded)| *decoded), names)) {
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

    /// Takes a file's word on an object in place of its last one.
    fn say(&mut self, slot: Slot, word: Word, decoded: Decoded) {
        let Some(entry) = self.entries.at_mut(slot) else { return };
        if let Some(old) = entry.words.iter_mut().find(|old| old.path == word.path)
            && (old.is_leaving, old.published_at, &old.packed)
                == (word.is_leaving, word.published_at, &word.packed)
        {
            return;
        }
        let fresh = (word.path.clone(), Box::new(decoded));
        if let Some(touched) = self.touch(slot) {
            touched.fresh = Some(fresh);
        }
        let Some(entry) = self.entries.at_mut(slot) else { return };
        match entry.words.iter_mut().find(|old| old.path == word.path) {
            Some(old) => *old = word,
            None => {
                // Nearly all objects stand in one file, and a vector's first growth would make room for four words.
                entry.words.reserve_exact(1);
                entry.words.push(word);
            }
        }
    }

    /// Remembers what holds of an object that is about to change.
    fn touch(&mut self, slot: Slot) -> Option<&mut Touched> {
        let entry = self.entries.at(slot)?;
        let names = &mut self.names;
        let touched = self.touched.entry(entry.key.clone());
        Some(touched.or_insert_with(|| Touched { before: entry.standing(names), fresh: None }))
    }

    fn silence(&mut self, slot: Slot, path: &str) {
        self.touch(slot);
        if let Some(entry) = self.entries.at_mut(slot) {
            entry.words.retain(|word| *word.path != *path);
            if entry.words.is_empty() {
                self.entries.remove_at(slot);
            }
        }
    }
}

/// People own a node's labels, and blocks where they give any; the node owns the rest, as soon as it has said it.
fn merged_node(people: Option<&Decoded>, nodes: &[(u64, Decoded)]) -> Option<Node> {
    let as_node = |d: &Decoded| match &d.fact {
        Fact::Node(node) => Some(node.clone()),
        _ => None,
    };
    let said = nodes.iter().find_map(|(_, decoded)| as_node(decoded));
    let Some(mut node) = people.and_then(as_node) else { return said };
    let Some(said) = said else { return Some(node) };
    if !said.addresses.is_empty() {
        node.addresses = said.addresses;
        node.flannel = None;
    }
    node.published_vtep_mac = said.published_vtep_mac.or(node.published_vtep_mac);
    let given: Vec<_> = node.pod_cidrs.iter().map(|c| c.network.clone()).collect();
    node.pod_cidrs.extend(said.pod_cidrs.into_iter().filter(|c| !given.contains(&c.network)));
    Some(node)
}

/// People own a pod's labels and ports, and its node where they name one; the node where it runs owns its addresses and its network.
fn merged_pod(people: Option<&Decoded>, nodes: &[(u64, Decoded)]) -> Option<Pod> {
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
    let said = nodes.iter().filter_map(|(at, decoded)| Some((at, as_pod(decoded)?))).filter(|(_, p)| fits(p));
    // A pod that moved may be published by two nodes: the later word holds.
    let said = said.max_by(|(a, p), (b, q)| (a, &p.node).cmp(&(b, &q.node))).map(|(_, pod)| pod);
    let mut pod = match (wanted, said) {
        (Some(mut pod), Some(said)) => {
            pod.ips = said.ips;
            pod.network = said.network;
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

    use super::{Missing, Table, Which, Writer};
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
                pod.ips.push([10, file as u8, i, version].into());
            }
            Decoded { fact: Fact::Pod(pod), ready: None }
        };
        held.map(pod).collect()
    }

    fn apply(told: &mut BTreeMap<FactKey, Fact>, table: &mut Table) {
        for change in table.drain(Which::All).0 {
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
