//! Keyed rows with the fact behind each, and a memory of which keys changed, and from what.
//!
//! A key is held once, and a row stays in its slot for as long as it is there, so that a writer remembers rows by slots.

use std::borrow::Borrow;
use std::hash::Hash;
use std::sync::Arc;

use rustc_hash::FxHashMap;
use weft_model::{FactKey, Hashed, Keyed, Slot, Table};

/// A row's value and the fact that asked for it.
#[derive(Debug, Clone)]
pub struct Entry<V> {
    /// What should be.
    pub value: V,
    /// Because of what.
    pub origin: Arc<FactKey>,
    /// Which piece of the writer's work this is; means nothing to readers.
    pub claim: Option<Slot>,
    /// It came since changes were taken last, and nothing was there then.
    fresh: bool,
}

/// Who wrote a row is no part of what it says.
impl<V: PartialEq> PartialEq for Entry<V> {
    fn eq(&self, other: &Self) -> bool {
        self.value == other.value && self.origin == other.origin
    }
}

/// A key whose row was set or removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changed<K, V> {
    /// Which row.
    pub key: K,
    /// What stood there when changes were taken last; `None` for nothing, or where nobody knows.
    pub before: Option<Box<V>>,
}

impl<K, V> From<K> for Changed<K, V> {
    fn from(key: K) -> Self {
        Self { key, before: None }
    }
}

#[derive(Debug, Clone)]
struct Row<K, V> {
    key: K,
    entry: Entry<V>,
}

impl<K: Eq + Hash, V> Keyed for Row<K, V> {
    type Key = K;
    fn key(&self) -> &K {
        &self.key
    }
}

/// Rows by key. Writing an equal value is no change, so "set everything again" costs its executors nothing.
#[derive(Debug, Clone)]
pub struct Rows<K, V> {
    table: Table<Row<K, V>>,
    /// Where fresh rows are; one that has gone again may be among them.
    fresh: Vec<Slot>,
    /// Other changed keys, with what stood there when changes were taken last.
    changed: FxHashMap<K, Option<Box<V>>>,
    revision: u64,
}

impl<K, V> Default for Rows<K, V> {
    fn default() -> Self {
        Self { table: Table::default(), fresh: Vec::new(), changed: FxHashMap::default(), revision: 0 }
    }
}

impl<K: Eq + Hash + Clone + Ord, V: PartialEq> Rows<K, V> {
    /// The row at `key`, which may be a borrowed form of the key's type.
    pub fn get<Q: Eq + Hash + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        self.table.get(key).map(|row| &row.entry.value)
    }

    /// The row at `key` with its origin.
    pub fn entry(&self, key: &K) -> Option<&Entry<V>> {
        self.table.get(key).map(|row| &row.entry)
    }

    /// The slot of the row at `key`.
    pub fn slot_of(&self, key: &Hashed<K>) -> Option<Slot> {
        self.table.slot_of(key)
    }

    /// The row in a slot.
    pub fn at(&self, slot: Slot) -> Option<(&K, &Entry<V>)> {
        self.table.at(slot).map(|row| (&row.key, &row.entry))
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.table.len()
    }

    /// True without rows.
    pub fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    /// Makes room for so many rows more.
    pub fn reserve(&mut self, more: usize) {
        self.table.reserve(more);
    }

    /// Makes `key` hold `value`; says whether that was a change. A new origin alone is none.
    pub fn set(&mut self, key: K, value: V, origin: impl Into<Arc<FactKey>>) -> bool {
        let before = self.revision;
        let key = Hashed::new(key);
        match self.slot_of(&key) {
            Some(slot) => self.claim_at(slot, value, origin.into(), None),
            None => drop(self.add(key, value, origin.into(), None)),
        }
        self.revision != before
    }

    /// Makes a row where none is, as [`Rows::slot_of`] has said, with the writer's own mark; returns where it is.
    pub fn add(&mut self, key: Hashed<K>, value: V, origin: Arc<FactKey>, claim: Option<Slot>) -> Slot {
        let fresh = !self.changed.contains_key(key.key());
        let slot = self.table.add(key, |key| Row { key, entry: Entry { value, origin, claim, fresh } });
        if fresh {
            self.fresh.push(slot);
        }
        self.revision += 1;
        slot
    }

    /// [`Rows::set`] for the row in a slot, with the writer's own mark.
    pub fn claim_at(&mut self, slot: Slot, value: V, origin: Arc<FactKey>, claim: Option<Slot>) {
        let Some(Row { key, entry }) = self.table.at_mut(slot) else { return };
        let fresh = entry.fresh;
        let before = std::mem::replace(entry, Entry { value, origin, claim, fresh });
        if entry.value != before.value {
            if !fresh {
                self.changed.entry(key.clone()).or_insert_with(|| Some(Box::new(before.value)));
            }
            self.revision += 1;
        }
    }

    /// Removes the row at `key`; says whether there was one.
    pub fn remove(&mut self, key: &K) -> bool {
        self.table.slot(key).is_some_and(|slot| self.remove_at(slot))
    }

    /// Removes the row in a slot; says whether there was one.
    pub fn remove_at(&mut self, slot: Slot) -> bool {
        let Some(Row { key, entry: Entry { value, fresh, .. } }) = self.table.remove_at(slot) else {
            return false;
        };
        let before = (!fresh).then(|| Box::new(value));
        self.changed.entry(key).or_insert(before);
        self.revision += 1;
        true
    }

    /// Keys set or removed since the last call, in no order; a key that came and went in between is among them.
    pub fn take_changed(&mut self) -> Vec<Changed<K, V>> {
        let changed = std::mem::take(&mut self.changed);
        let mut taken: Vec<_> = changed.into_iter().map(|(key, before)| Changed { key, before }).collect();
        for slot in std::mem::take(&mut self.fresh) {
            // The row may have gone; another one in its slot is fresh itself, and taken once.
            if let Some(row) = self.table.at_mut(slot)
                && std::mem::take(&mut row.entry.fresh)
            {
                taken.push(row.key.clone().into());
            }
        }
        taken
    }

    /// Forgets what changed, for whoever looks at all rows anyway.
    pub fn forget_changed(&mut self) {
        self.changed = FxHashMap::default();
        for slot in std::mem::take(&mut self.fresh) {
            if let Some(row) = self.table.at_mut(slot) {
                row.entry.fresh = false;
            }
        }
    }

    /// Counts up with every change.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// All rows, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (&K, &Entry<V>)> {
        self.table.iter().map(|row| (&row.key, &row.entry))
    }

    /// All rows by key: for people and comparisons, not for hot paths.
    pub fn sorted(&self) -> Vec<(&K, &Entry<V>)> {
        let mut rows: Vec<_> = self.iter().collect();
        rows.sort_by(|a, b| a.0.cmp(b.0));
        rows
    }
}

/// Two tables are equal when their rows are; what changed on the way doesn't matter.
impl<K: Eq + Hash + Clone + Ord, V: PartialEq> PartialEq for Rows<K, V> {
    fn eq(&self, other: &Self) -> bool {
        self.len() == other.len() && self.iter().all(|(key, entry)| other.entry(key) == Some(entry))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_real_changes_are_remembered() {
        let mut rows: Rows<u8, &str> = Rows::default();
        let changed = |before: Option<&'static str>| vec![Changed { key: 1, before: before.map(Box::new) }];
        assert!(rows.set(1, "a", FactKey::Host));
        assert_eq!(rows.take_changed(), changed(None));
        assert!(!rows.set(1, "a", FactKey::Host));
        assert!(rows.take_changed().is_empty());
        assert!(rows.set(1, "b", FactKey::Host) && rows.remove(&1) && !rows.remove(&1));
        assert_eq!(rows.take_changed(), changed(Some("a")));
        assert!(rows.set(1, "c", FactKey::Host) && rows.remove(&1));
        assert_eq!(rows.take_changed(), changed(None));
        assert!(rows.is_empty());
    }

    proptest! {
        #[test]
        fn the_log_tells_every_touched_key_once_with_what_was_there(
            steps in prop::collection::vec((0..5_u8, prop::option::weighted(0.7, 0..3_u8)), 0..40),
            taken_after in 0..40_usize,
        ) {
            let mut rows: Rows<u8, u8> = Rows::default();
            let (mut now, mut then) = (BTreeMap::new(), BTreeMap::new());
            let mut touched = BTreeMap::new();
            for (at, (key, value)) in steps.into_iter().enumerate() {
                let differs = now.get(&key).copied() != value;
                let revision = rows.revision();
                match value {
                    Some(value) => {
                        prop_assert_eq!(rows.set(key, value, FactKey::Host), differs);
                        now.insert(key, value);
                    }
                    None => {
                        prop_assert_eq!(rows.remove(&key), differs);
                        now.remove(&key);
                    }
                }
                prop_assert_eq!(rows.revision() != revision, differs);
                if differs {
                    touched.insert(key, then.get(&key).copied());
                }
                if at == taken_after {
                    rows.take_changed();
                    touched.clear();
                    then = now.clone();
                }
            }
            let taken = rows.take_changed();
            prop_assert_eq!(taken.len(), touched.len());
            let taken: BTreeMap<_, _> = taken.into_iter().map(|row| (row.key, row.before.map(|b| *b))).collect();
            prop_assert_eq!(taken, touched);
            let held: BTreeMap<_, _> = rows.iter().map(|(key, entry)| (*key, entry.value)).collect();
            prop_assert_eq!(held, now);
            prop_assert!(rows.take_changed().is_empty());
        }
    }
}
