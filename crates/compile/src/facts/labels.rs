//! Indices by label: which pods a selector finds, and which services find a pod.
//!
//! What always holds: memory follows the number of *different* label sets, because most pods have theirs in common with
//! the rest of their template. A service is found by one pair of its selector, whatever the number of the others.

use std::sync::Arc;

use rustc_hash::{FxHashMap, FxHashSet};
use weft_model::{Keyed, Labels, NamespaceName, Selector, Slot, Table};

/// A pair of a key and a value, in a namespace.
type Label = (NamespaceName, Arc<str>, Arc<str>);

/// Slots of a table; where there is only one, it needs no memory of its own.
#[derive(Debug, Clone)]
pub(super) enum Slots {
    One(Slot),
    Many(Box<FxHashSet<Slot>>),
}

impl Slots {
    pub(super) fn insert(&mut self, slot: Slot) {
        match self {
            Slots::One(held) if *held == slot => {}
            Slots::One(held) => *self = Slots::Many(Box::new([*held, slot].into_iter().collect())),
            Slots::Many(held) => {
                held.insert(slot);
            }
        }
    }

    /// Takes one out; says whether it was the last.
    #[must_use]
    pub(super) fn remove(&mut self, slot: Slot) -> bool {
        match self {
            Slots::One(held) => *held == slot,
            Slots::Many(held) => {
                held.remove(&slot);
                if held.len() == 1
                    && let Some(last) = held.iter().next().copied()
                {
                    *self = Slots::One(last);
                }
                false
            }
        }
    }

    pub(super) fn len(&self) -> usize {
        match self {
            Slots::One(_) => 1,
            Slots::Many(held) => held.len(),
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = Slot> + '_ {
        let (one, many) = match self {
            Slots::One(slot) => (Some(*slot), None),
            Slots::Many(held) => (None, Some(held.iter().copied())),
        };
        one.into_iter().chain(many.into_iter().flatten())
    }
}

/// Adds a slot to those of `key`.
pub(super) fn link<K: Eq + std::hash::Hash>(index: &mut FxHashMap<K, Slots>, key: K, slot: Slot) {
    index.entry(key).and_modify(|slots| slots.insert(slot)).or_insert(Slots::One(slot));
}

/// Takes a slot from those of `key`.
pub(super) fn unlink<K: Eq + std::hash::Hash>(index: &mut FxHashMap<K, Slots>, key: &K, slot: Slot) {
    if index.get_mut(key).is_some_and(|slots| slots.remove(slot)) {
        index.remove(key);
    }
}

/// Pods of one namespace whose labels are the same.
#[derive(Debug, Clone)]
struct Alike {
    key: (NamespaceName, Labels),
    pods: Slots,
}

impl Keyed for Alike {
    type Key = (NamespaceName, Labels);
    fn key(&self) -> &Self::Key {
        &self.key
    }
}

/// Pods by their labels. One without any is selected by nothing that is looked up here.
#[derive(Debug, Clone, Default)]
pub(super) struct PodLabels {
    alike: Table<Alike>,
    /// Slots in `alike`.
    by_label: FxHashMap<Label, Slots>,
}

impl PodLabels {
    pub(super) fn insert(&mut self, namespace: &NamespaceName, labels: &Labels, pod: Slot) {
        if labels.is_empty() {
            return;
        }
        let key = (namespace.clone(), labels.clone());
        if let Some(alike) = self.alike.slot(&key).and_then(|slot| self.alike.at_mut(slot)) {
            alike.pods.insert(pod);
            return;
        }
        let (slot, _) = self.alike.insert(Alike { key, pods: Slots::One(pod) });
        for (name, value) in labels.pairs() {
            link(&mut self.by_label, (namespace.clone(), name.clone(), value.clone()), slot);
        }
    }

    pub(super) fn remove(&mut self, namespace: &NamespaceName, labels: &Labels, pod: Slot) {
        let Some(slot) = self.alike.slot(&(namespace.clone(), labels.clone())) else { return };
        if self.alike.at_mut(slot).is_some_and(|alike| alike.pods.remove(pod)) {
            self.alike.remove_at(slot);
            for (name, value) in labels.pairs() {
                unlink(&mut self.by_label, &(namespace.clone(), name.clone(), value.clone()), slot);
            }
        }
    }

    /// Pods that have all these labels, in no order; none for no labels.
    pub(super) fn having(
        &self,
        namespace: &NamespaceName,
        labels: &Labels,
    ) -> impl Iterator<Item = Slot> + '_ {
        let holders = |(name, value): &(Arc<str>, Arc<str>)| {
            self.by_label.get(&(namespace.clone(), name.clone(), value.clone()))
        };
        let rarest = labels.pairs().map(holders).min_by_key(|slots| slots.map_or(0, Slots::len)).flatten();
        let selector = Selector::equalities(labels);
        let alike = rarest.into_iter().flat_map(Slots::iter).filter_map(|slot| self.alike.at(slot));
        alike.filter(move |alike| selector.matches(&alike.key.1)).flat_map(|alike| alike.pods.iter())
    }
}

/// Services by the first pair of their selector.
#[derive(Debug, Clone, Default)]
pub(super) struct ServiceSelectors(FxHashMap<Label, Slots>);

impl ServiceSelectors {
    pub(super) fn insert(&mut self, namespace: &NamespaceName, selector: &Labels, service: Slot) {
        if let Some((name, value)) = selector.pairs().next() {
            link(&mut self.0, (namespace.clone(), name.clone(), value.clone()), service);
        }
    }

    pub(super) fn remove(&mut self, namespace: &NamespaceName, selector: &Labels, service: Slot) {
        if let Some((name, value)) = selector.pairs().next() {
            unlink(&mut self.0, &(namespace.clone(), name.clone(), value.clone()), service);
        }
    }

    /// Services that may select a pod with these labels, each once, in no order: the whole selector is still to be asked.
    pub(super) fn candidates<'a>(
        &'a self,
        namespace: &'a NamespaceName,
        labels: &'a Labels,
    ) -> impl Iterator<Item = Slot> + 'a {
        let holders = |(name, value): &(Arc<str>, Arc<str>)| {
            self.0.get(&(namespace.clone(), name.clone(), value.clone()))
        };
        labels.pairs().filter_map(holders).flat_map(Slots::iter)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Clone)]
    struct Cell {
        key: usize,
    }

    impl Keyed for Cell {
        type Key = usize;
        fn key(&self) -> &usize {
            &self.key
        }
    }

    fn labels() -> impl Strategy<Value = Labels> {
        prop::collection::btree_map("[ab]", "[xy]", 0..3).prop_map(Labels::from_iter)
    }

    proptest! {
        #[test]
        fn an_index_finds_what_a_look_at_all_finds(
            steps in prop::collection::vec((0..6_usize, prop::option::of(labels())), 0..40),
            asked in labels(),
        ) {
            let namespace = NamespaceName::new("shop").unwrap();
            let mut slots = Table::default();
            let slots: Vec<Slot> = (0..6).map(|key| slots.insert(Cell { key }).0).collect();
            let mut held: Vec<Option<Labels>> = vec![None; 6];
            let (mut pods, mut services) = (PodLabels::default(), ServiceSelectors::default());
            for (at, new) in steps {
                if let Some(old) = &held[at] {
                    pods.remove(&namespace, old, slots[at]);
                    services.remove(&namespace, old, slots[at]);
                }
                if let Some(new) = &new {
                    pods.insert(&namespace, new, slots[at]);
                    services.insert(&namespace, new, slots[at]);
                }
                held[at] = new;
            }
            let has_all = |has: &Labels, wanted: &Labels| wanted.iter().all(|(k, v)| has.get(k) == Some(v));
            let of = |matches: &dyn Fn(&Labels) -> bool| -> BTreeSet<Slot> {
                (0..6).filter(|at| held[*at].as_ref().is_some_and(matches)).map(|at| slots[at]).collect()
            };
            let found: Vec<Slot> = pods.having(&namespace, &asked).collect();
            let expected = of(&|has| !asked.is_empty() && has_all(has, &asked));
            prop_assert_eq!(found.len(), expected.len());
            prop_assert_eq!(found.into_iter().collect::<BTreeSet<_>>(), expected);
            let found: Vec<Slot> = services.candidates(&namespace, &asked).collect();
            let selecting = of(&|selector| !selector.is_empty() && has_all(&asked, selector));
            prop_assert_eq!(found.len(), found.iter().collect::<BTreeSet<_>>().len());
            prop_assert!(selecting.is_subset(&found.into_iter().collect()));
            if held.iter().all(Option::is_none) {
                prop_assert!(pods.alike.is_empty() && pods.by_label.is_empty() && services.0.is_empty());
            }
        }
    }
}
