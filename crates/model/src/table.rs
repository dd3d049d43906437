//! Keyed values, close together in memory.
//!
//! A value holds its own key, so that a key exists once; values lie in blocks without gaps, and the hash table beside
//! them holds four bytes a value. With 150,000 pods that is a third of what a `HashMap` takes, which doubles and stays
//! half empty, with a second copy of every key.
//!
//! What always holds: a value stays in its [`Slot`] for as long as it is there, and a slot is used again only after it.
//! What is absent: order. Memory is given back when the last value goes, not before.

use std::borrow::Borrow;
use std::hash::{BuildHasher, BuildHasherDefault, Hash};
use std::num::NonZeroU32;

use hashbrown::HashTable;
use rustc_hash::FxHasher;

/// A value that knows its key.
pub trait Keyed {
    /// What identifies it.
    type Key: Eq + Hash;

    /// Its key, the same for as long as it is in a table.
    fn key(&self) -> &Self::Key;
}

/// A key with its hash. Whoever makes the key has it at hand, and may be another thread than the one that looks it up.
#[derive(Debug, Clone, Copy)]
pub struct Hashed<K> {
    key: K,
    hash: u64,
}

impl<K: Hash> Hashed<K> {
    /// A key whose hash is worked out now.
    pub fn new(key: K) -> Self {
        Self { hash: hash(&key), key }
    }
}

impl<K> Hashed<K> {
    /// The key.
    pub fn key(&self) -> &K {
        &self.key
    }

    /// The key alone.
    pub fn into_key(self) -> K {
        self.key
    }
}

/// The place of a value in its table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot(NonZeroU32);

impl Slot {
    /// The slot of a block's place.
    fn of(block: usize, place: usize) -> Self {
        // Four thousand million values would fit no memory.
        Self(NonZeroU32::MIN.saturating_add((block * BLOCK + place) as u32))
    }

    fn block(self) -> usize {
        (self.0.get() - 1) as usize / BLOCK
    }

    fn place(self) -> usize {
        (self.0.get() - 1) as usize % BLOCK
    }
}

/// Values of a block; a power of two. The first block grows as it is filled, further ones are made at full size.
const BLOCK: usize = 256;

/// Values by key.
#[derive(Debug, Clone)]
pub struct Table<T> {
    blocks: Vec<Vec<Option<T>>>,
    free: Vec<Slot>,
    index: HashTable<Slot>,
}

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self { blocks: Vec::new(), free: Vec::new(), index: HashTable::new() }
    }
}

impl<T> Table<T> {
    /// Number of values.
    pub fn len(&self) -> usize {
        self.index.len()
    }

    /// True without values.
    pub fn is_empty(&self) -> bool {
        self.index.is_empty()
    }

    /// The value in a slot.
    pub fn at(&self, slot: Slot) -> Option<&T> {
        self.blocks.get(slot.block())?.get(slot.place())?.as_ref()
    }

    /// The value in a slot, to change anything of it but its key.
    pub fn at_mut(&mut self, slot: Slot) -> Option<&mut T> {
        self.blocks.get_mut(slot.block())?.get_mut(slot.place())?.as_mut()
    }

    /// All values, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.blocks.iter().flatten().flatten()
    }

    /// All values, in the order in which they came where none has gone.
    pub fn into_values(self) -> impl Iterator<Item = T> {
        self.blocks.into_iter().flatten().flatten()
    }

    /// Takes a slot that nothing is in.
    fn place(&mut self, value: T) -> Slot {
        if let Some(slot) = self.free.pop() {
            self.blocks[slot.block()][slot.place()] = Some(value);
            return slot;
        }
        match self.blocks.last_mut() {
            Some(block) if block.len() < BLOCK => block.push(Some(value)),
            Some(_) => {
                let mut block = Vec::with_capacity(BLOCK);
                block.push(Some(value));
                self.blocks.push(block);
            }
            None => self.blocks.push(vec![Some(value)]),
        }
        let last = self.blocks.len() - 1;
        Slot::of(last, self.blocks[last].len() - 1)
    }
}

impl<T: Keyed> Table<T> {
    /// The slot of the value with this key, which may be a borrowed form of the key's type.
    pub fn slot<Q: Eq + Hash + ?Sized>(&self, key: &Q) -> Option<Slot>
    where
        T::Key: Borrow<Q>,
    {
        self.find(hash(key), key)
    }

    /// [`Table::slot`] of a key whose hash is known.
    pub fn slot_of(&self, key: &Hashed<T::Key>) -> Option<Slot> {
        self.find(key.hash, &key.key)
    }

    fn find<Q: Eq + ?Sized>(&self, hash: u64, key: &Q) -> Option<Slot>
    where
        T::Key: Borrow<Q>,
    {
        self.index.find(hash, |slot| self.is_at(*slot, key)).copied()
    }

    /// The value with this key.
    pub fn get<Q: Eq + Hash + ?Sized>(&self, key: &Q) -> Option<&T>
    where
        T::Key: Borrow<Q>,
    {
        self.at(self.slot(key)?)
    }

    /// Makes room for so many values more, so that the index does not grow, and look at every key again, while they come.
    pub fn reserve(&mut self, more: usize) {
        let Self { blocks, index, .. } = self;
        index.reserve(more, |slot| hash_at(blocks, *slot));
    }

    /// Puts a value in place of the one with its key, which is returned with the slot that both have.
    pub fn insert(&mut self, value: T) -> (Slot, Option<T>) {
        let hash = hash(value.key());
        if let Some(slot) = self.find(hash, value.key()) {
            let before = self.at_mut(slot).map(|held| std::mem::replace(held, value));
            return (slot, before);
        }
        (self.put(hash, value), None)
    }

    /// Makes a value of a key that no value has, as [`Table::slot_of`] has said. The value keeps that key.
    pub fn add(&mut self, key: Hashed<T::Key>, value: impl FnOnce(T::Key) -> T) -> Slot {
        debug_assert!(self.slot_of(&key).is_none(), "the key has a value");
        self.put(key.hash, value(key.key))
    }

    fn put(&mut self, of_key: u64, value: T) -> Slot {
        debug_assert!(hash(value.key()) == of_key, "the value has another key");
        let slot = self.place(value);
        let Self { blocks, index, .. } = self;
        index.insert_unique(of_key, slot, |slot| hash_at(blocks, *slot));
        slot
    }

    /// Takes the value with this key out.
    pub fn remove<Q: Eq + Hash + ?Sized>(&mut self, key: &Q) -> Option<T>
    where
        T::Key: Borrow<Q>,
    {
        self.remove_at(self.slot(key)?)
    }

    /// Takes the value in a slot out.
    pub fn remove_at(&mut self, slot: Slot) -> Option<T> {
        let value = self.blocks.get_mut(slot.block())?.get_mut(slot.place())?.take()?;
        if let Ok(entry) = self.index.find_entry(hash(value.key()), |held| *held == slot) {
            entry.remove();
        }
        if self.index.is_empty() {
            *self = Self::default();
        } else {
            self.free.push(slot);
        }
        Some(value)
    }

    fn is_at<Q: Eq + ?Sized>(&self, slot: Slot, key: &Q) -> bool
    where
        T::Key: Borrow<Q>,
    {
        self.at(slot).is_some_and(|value| value.key().borrow() == key)
    }
}

fn hash<Q: Hash + ?Sized>(key: &Q) -> u64 {
    BuildHasherDefault::<FxHasher>::default().hash_one(key)
}

fn hash_at<T: Keyed>(blocks: &[Vec<Option<T>>], slot: Slot) -> u64 {
    let value = blocks.get(slot.block()).and_then(|block| block.get(slot.place()));
    value.and_then(Option::as_ref).map_or(0, |value| hash(value.key()))
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    #[derive(Debug, Clone, PartialEq)]
    struct Word(String, usize);

    impl Keyed for Word {
        type Key = String;
        fn key(&self) -> &String {
            &self.0
        }
    }

    #[test]
    fn a_table_is_a_map_and_slots_last() {
        let (mut table, mut map) = (Table::default(), HashMap::<String, (usize, Slot)>::new());
        // Three blocks' worth of keys, coming and going by a fixed but irregular rule.
        for turn in 0..20_000_usize {
            let key = (turn.wrapping_mul(7919) ^ (turn >> 3)) % (3 * BLOCK);
            let key = format!("key-{key}");
            if turn % 3 == 0 {
                let gone = table.remove(key.as_str());
                assert_eq!(gone.map(|word: Word| word.1), map.remove(&key).map(|(value, _)| value));
            } else {
                let known = Hashed::new(key.clone());
                let (slot, before) = match table.slot_of(&known) {
                    None if turn % 2 == 0 => (table.add(known, |key| Word(key, turn)), None),
                    _ => table.insert(Word(key.clone(), turn)),
                };
                let known = map.insert(key, (turn, slot));
                assert_eq!(before.map(|word| word.1), known.map(|(value, _)| value));
                assert!(known.is_none_or(|(_, held)| held == slot), "it stays where it is");
            }
            assert_eq!(table.len(), map.len());
        }
        for (key, (value, slot)) in &map {
            assert_eq!(table.get(key.as_str()), Some(&Word(key.clone(), *value)));
            assert_eq!(table.at(*slot).map(|word| word.1), Some(*value));
        }
        assert_eq!(table.iter().count(), map.len());
        for key in map.keys() {
            assert!(table.remove(key.as_str()).is_some());
        }
        assert!(table.is_empty() && table.blocks.is_empty(), "an empty table holds no memory");
    }

    #[test]
    fn a_value_in_a_slot_can_be_changed() {
        let mut table = Table::default();
        let (slot, _) = table.insert(Word("a".into(), 1));
        if let Some(word) = table.at_mut(slot) {
            word.1 = 2;
        }
        assert_eq!(table.get("a"), Some(&Word("a".into(), 2)));
        assert!(
            table.remove_at(slot).is_some() && table.at(slot).is_none() && table.remove_at(slot).is_none()
        );
    }
}
