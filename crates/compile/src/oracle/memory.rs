//! What a node remembers from one packet to the next: its connections, and the elements that packets put into maps.
//!
//! What is absent: time. An element that a packet put in stays until a packet takes it out.

use rustc_hash::FxHashMap;
use weft_plan::{Atom, Ident};

use super::conntrack::Connections;

/// One node's memory.
#[derive(Debug, Clone, Default)]
pub(super) struct Memory {
    pub connections: Connections,
    written: FxHashMap<(Ident, Vec<Atom>), Atom>,
}

impl Memory {
    /// What a packet put into a map at this key.
    pub fn written(&self, map: &Ident, key: &[Atom]) -> Option<&Atom> {
        self.written.get(&(map.clone(), key.to_vec()))
    }

    /// Puts an element into a map. One that is there keeps its data (`nft_dynset_eval`).
    pub fn update(&mut self, map: &Ident, key: Vec<Atom>, data: Atom) {
        self.written.entry((map.clone(), key)).or_insert(data);
    }

    /// Takes an element out of a map.
    pub fn delete(&mut self, map: &Ident, key: Vec<Atom>) {
        self.written.remove(&(map.clone(), key));
    }
}
