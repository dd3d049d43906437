//! Who has a row when several pieces of work ask for it.
//!
//! What always holds: the winner depends on who asks, never on who asked first. Equal rows may be shared; of different
//! ones the claim of the smallest piece wins, and the others are warned of.

use std::collections::BTreeMap;
use std::hash::Hash;
use std::sync::Arc;

use rustc_hash::{FxHashMap, FxHashSet};
use weft_model::{FactKey, Hashed, Slot, Warning};
use weft_plan::Rows;

use crate::engine::Piece;

#[derive(Debug)]
struct Claim<V> {
    number: Slot,
    value: V,
    origin: Arc<FactKey>,
}

/// Rows that more than one piece asks for. The ordinary row has one claim, which the plan itself remembers.
#[derive(Debug)]
pub(crate) struct Claims<K, V> {
    contested: FxHashMap<K, BTreeMap<Piece, Claim<V>>>,
}

impl<K, V> Default for Claims<K, V> {
    fn default() -> Self {
        Self { contested: FxHashMap::default() }
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
                    object: (*loser.origin).clone(),
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
            let own = claims.values().find(|claim| *claim.origin == *origin)?;
            claims.values().find(|claim| claim.value != own.value).map(|rival| &*rival.origin)
        })
    }

    /// Puts the new rows of the piece with this number in place of its old ones, and returns where they are. `piece_of`
    /// knows every piece with rows by its number.
    pub fn replace<'a>(
        &mut self,
        rows: &mut Rows<K, V>,
        number: Slot,
        old: &[Slot],
        new: Vec<(Hashed<K>, V, Arc<FactKey>)>,
        piece_of: impl Fn(Slot) -> Option<&'a Piece>,
    ) -> Box<[Slot]> {
        let Some(piece) = piece_of(number) else { return Box::default() };
        if !old.is_empty() {
            let kept: FxHashSet<Slot> = new.iter().filter_map(|(key, ..)| rows.slot_of(key)).collect();
            for slot in old.iter().filter(|slot| !kept.contains(slot)) {
                self.release(rows, number, piece, *slot);
            }
        }
        // Not collected in place: slots would be held in the memory that the rows came in, twenty times as much.
        let mut slots = Vec::with_capacity(new.len());
        for (key, value, origin) in new {
            slots.push(self.put(rows, key, piece, Claim { number, value, origin }, &piece_of));
        }
        slots.into()
    }

    fn put<'a>(
        &mut self,
        rows: &mut Rows<K, V>,
        key: Hashed<K>,
        piece: &Piece,
        claim: Claim<V>,
        piece_of: &impl Fn(Slot) -> Option<&'a Piece>,
    ) -> Slot {
        let Some(slot) = rows.slot_of(&key) else {
            return rows.add(key, claim.value, claim.origin, Some(claim.number));
        };
        if let Some(claims) = self.contested.get_mut(key.key()) {
            claims.insert(piece.clone(), claim);
            Self::install_winner(rows, slot, claims);
        } else if let Some((_, held)) = rows.at(slot)
            && let Some(other) = held.claim.filter(|other| *other != claim.number)
            && let Some(holder) = piece_of(other)
        {
            let held = Claim { number: other, value: held.value.clone(), origin: held.origin.clone() };
            let claims = self.contested.entry(key.into_key()).or_default();
            claims.insert(holder.clone(), held);
            claims.insert(piece.clone(), claim);
            Self::install_winner(rows, slot, claims);
        } else {
            rows.claim_at(slot, claim.value, claim.origin, Some(claim.number));
        }
        slot
    }

    fn release(&mut self, rows: &mut Rows<K, V>, number: Slot, piece: &Piece, slot: Slot) {
        let Some((key, entry)) = rows.at(slot) else { return };
        let (mine, key) = (entry.claim == Some(number), key.clone());
        match self.contested.get_mut(&key) {
            Some(claims) => {
                claims.remove(piece);
                let alone = claims.len() < 2;
                Self::install_winner(rows, slot, claims);
                if alone {
                    self.contested.remove(&key);
                }
            }
            None if mine => drop(rows.remove_at(slot)),
            None => {}
        }
    }

    fn install_winner(rows: &mut Rows<K, V>, slot: Slot, claims: &BTreeMap<Piece, Claim<V>>) {
        if let Some(Claim { number, value, origin }) = claims.values().next() {
            rows.claim_at(slot, value.clone(), origin.clone(), Some(*number));
        }
    }
}
