//! Who has a row when several pieces of work ask for it.
//!
//! What always holds: the winner depends on who asks, never on who asked first. Equal rows may be shared; of different
//! ones the claim of the smallest piece wins, and the others are warned of.

use std::collections::BTreeMap;
use std::hash::Hash;

use rustc_hash::{FxHashMap, FxHashSet};
use weft_model::{FactKey, Warning};
use weft_plan::Rows;

use crate::engine::Piece;

#[derive(Debug)]
struct Claim<V> {
    number: u32,
    value: V,
    origin: FactKey,
}

/// Rows that more than one piece asks for. The ordinary row has one claim, which the plan itself remembers.
#[derive(Debug)]
pub(crate) struct Claims<K, V> {
    contested: FxHashMap<K, BTreeMap<Piece, Claim<V>>>,
    pieces: FxHashMap<u32, Piece>,
}

impl<K, V> Default for Claims<K, V> {
    fn default() -> Self {
        Self { contested: FxHashMap::default(), pieces: FxHashMap::default() }
    }
}

impl<K: Eq + Hash + Clone + Ord, V: PartialEq + Clone> Claims<K, V> {
    /// Number of rows with several claims.
    pub fn contested(&self) -> usize {
        self.contested.len()
    }

    /// A warning for each claim that lost against a different row.
    pub fn warnings(&self) -> impl Iterator<Item = Warning> + '_ {
        self.contested.values().flat_map(|claims| {
            let winner = claims.values().next();
            claims.values().skip(1).filter(move |c| winner.is_some_and(|w| w.value != c.value)).map(
                move |loser| Warning {
                    object: loser.origin.clone(),
                    text: format!(
                        "what it asks for is already given to {}; it is left out until that goes",
                        winner.map_or(String::new(), |w| w.origin.to_string())
                    ),
                },
            )
        })
    }

    /// Somebody who wants a row of `origin` to be different, whoever of the two has it now.
    pub fn rival_of(&self, origin: &FactKey) -> Option<&FactKey> {
        self.contested.values().find_map(|claims| {
            let own = claims.values().find(|claim| claim.origin == *origin)?;
            claims.values().find(|claim| claim.value != own.value).map(|rival| &rival.origin)
        })
    }

    /// Puts a piece's new rows in place of its old ones and returns their keys.
    pub fn replace(
        &mut self,
        rows: &mut Rows<K, V>,
        claim: u32,
        piece: &Piece,
        old: &[K],
        new: Vec<(K, V, FactKey)>,
    ) -> Box<[K]> {
        let keys: Box<[K]> = new.iter().map(|(key, ..)| key.clone()).collect();
        if old.iter().ne(keys.iter()) {
            let kept: FxHashSet<&K> = keys.iter().collect();
            for key in old.iter().filter(|key| !kept.contains(key)) {
                self.release(rows, claim, piece, key);
            }
        }
        if keys.is_empty() {
            self.pieces.remove(&claim);
        } else if old.is_empty() {
            self.pieces.insert(claim, piece.clone());
        }
        for (key, value, origin) in new {
            self.put(rows, claim, piece, key, value, origin);
        }
        keys
    }

    fn put(&mut self, rows: &mut Rows<K, V>, number: u32, piece: &Piece, key: K, value: V, origin: FactKey) {
        if let Some(claims) = self.contested.get_mut(&key) {
            claims.insert(piece.clone(), Claim { number, value, origin });
            Self::install_winner(rows, key, claims);
            return;
        }
        match rows.entry(&key) {
            Some(other) if other.claim != number => {
                // The piece behind a claim is known for as long as it has rows.
                let Some(holder) = self.pieces.get(&other.claim).cloned() else {
                    rows.claim(key, value, origin, number);
                    return;
                };
                let held =
                    Claim { number: other.claim, value: other.value.clone(), origin: other.origin.clone() };
                let claims = self.contested.entry(key.clone()).or_default();
                claims.insert(holder, held);
                claims.insert(piece.clone(), Claim { number, value, origin });
                Self::install_winner(rows, key, claims);
            }
            _ => {
                rows.claim(key, value, origin, number);
            }
        }
    }

    fn release(&mut self, rows: &mut Rows<K, V>, number: u32, piece: &Piece, key: &K) {
        if let Some(claims) = self.contested.get_mut(key) {
            if claims.get(piece).is_some_and(|c| c.number == number) {
                claims.remove(piece);
            }
            Self::install_winner(rows, key.clone(), claims);
            if claims.len() < 2 {
                self.contested.remove(key);
            }
        } else if rows.entry(key).is_some_and(|entry| entry.claim == number) {
            rows.remove(key);
        }
    }

    fn install_winner(rows: &mut Rows<K, V>, key: K, claims: &BTreeMap<Piece, Claim<V>>) {
        match claims.values().next() {
            Some(winner) => {
                rows.claim(key, winner.value.clone(), winner.origin.clone(), winner.number);
            }
            None => {
                rows.remove(&key);
            }
        }
    }
}
