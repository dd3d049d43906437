//! Keyed rows with the fact behind each, and a memory of which keys changed, and from what.

use std::borrow::Borrow;
use std::hash::Hash;

use rustc_hash::FxHashMap;
use weft_model::FactKey;

/// A row's value and the fact that asked for it.
#[derive(Debug, Clone)]
pub struct Entry<V> {
    /// What should be.
    pub value: V,
    /// Because of what.
    pub origin: FactKey,
    /// Which piece of the writer's work this is; means nothing to readers.
    pub claim: u32,
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

/// Rows by key. Writing an equal value is no change, so "set everything again" costs its executors nothing.
#[derive(Debug, Clone)]
pub struct Rows<K, V> {
    map: FxHashMap<K, Entry<V>>,
    /// With what stood there when changes were taken last.
    changed: FxHashMap<K, Option<Box<V>>>,
}

impl<K, V> Default for Rows<K, V> {
    fn default() -> Self {
        Self { map: FxHashMap::default(), changed: FxHashMap::default() }
    }
}

impl<K: Eq + Hash + Clone + Ord, V: PartialEq> Rows<K, V> {
    /// The row at `key`, which may be a borrowed form of the key's type.
    pub fn get<Q: Eq + Hash + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        self.map.get(key).map(|e| &e.value)
    }

    /// The row at `key` with its origin.
    pub fn entry(&self, key: &K) -> Option<&Entry<V>> {
        self.map.get(key)
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.map.len()
    }

    /// True without rows.
    pub fn is_empty(&self) -> bool {
        self.map.is_empty()
    }

    /// Makes `key` hold `value`; says whether that was a change. A new origin alone is none.
    pub fn set(&mut self, key: K, value: V, origin: FactKey) -> bool {
        self.claim(key, value, origin, 0)
    }

    /// [`Rows::set`] with the writer's own mark.
    pub fn claim(&mut self, key: K, value: V, origin: FactKey, claim: u32) -> bool {
        match self.map.get_mut(&key) {
            Some(entry) if entry.value == value => {
                entry.origin = origin;
                entry.claim = claim;
                false
            }
            Some(entry) => {
                let before = std::mem::replace(entry, Entry { value, origin, claim }).value;
                self.changed.entry(key).or_insert_with(|| Some(Box::new(before)));
                true
            }
            None => {
                self.map.insert(key.clone(), Entry { value, origin, claim });
                self.changed.entry(key).or_insert(None);
                true
            }
        }
    }

    /// Removes the row at `key`; says whether there was one.
    pub fn remove(&mut self, key: &K) -> bool {
        let Some(Entry { value, .. }) = self.map.remove(key) else { return false };
        self.changed.entry(key.clone()).or_insert_with(|| Some(Box::new(value)));
        true
    }

    /// Keys set or removed since the last call, in no order; a key that came and went in between is among them.
    pub fn take_changed(&mut self) -> Vec<Changed<K, V>> {
        self.changed.drain().map(|(key, before)| Changed { key, before }).collect()
    }

    /// Number of keys that [`Rows::take_changed`] would return.
    pub fn changed_len(&self) -> usize {
        self.changed.len()
    }

    /// All rows, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (&K, &Entry<V>)> {
        self.map.iter()
    }

    /// All rows by key: for people and comparisons, not for hot paths.
    pub fn sorted(&self) -> Vec<(&K, &Entry<V>)> {
        let mut rows: Vec<_> = self.map.iter().collect();
        rows.sort_by(|a, b| a.0.cmp(b.0));
        rows
    }
}

/// Two tables are equal when their rows are; what changed on the way doesn't matter.
impl<K: Eq + Hash, V: PartialEq> PartialEq for Rows<K, V> {
    fn eq(&self, other: &Self) -> bool {
        self.map == other.map
    }
}

#[cfg(test)]
mod tests {
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
}
