//! Requests that wait for resolvers, by question.
//!
//! It serves to notice loops: a resolver that asks us what we have just asked it. Such a request comes with the case that
//! we drew, which no client guesses.

use std::sync::{Mutex, MutexGuard, PoisonError};

use rustc_hash::FxHashMap;

use crate::wire::WireName;

/// Letters that a name must have for its case to tell a loop from chance.
const MIN_LETTERS: usize = 8;

/// Equal questions that may wait at once. It bounds loops through resolvers that fold case.
const MAX_EQUAL: usize = 256;

type Key = (Vec<u8>, u16);

/// The requests that wait.
#[derive(Debug, Default)]
pub struct Pending(Mutex<FxHashMap<Key, Waiting>>);

/// Those with one question.
#[derive(Debug, Default)]
struct Waiting {
    count: usize,
    /// Names as they were sent, where their case was drawn.
    drawn: Vec<WireName>,
}

/// A place among the requests that wait; it is given back when dropped.
#[derive(Debug)]
pub struct Place<'a> {
    pending: &'a Pending,
    key: Key,
    drawn: Vec<WireName>,
}

impl Pending {
    /// True where `name` is, letter by letter, what a waiting request was sent with.
    pub fn is_ours(&self, name: &WireName, rtype: u16) -> bool {
        let letters = name.as_bytes().iter().filter(|b| b.is_ascii_alphabetic()).count();
        letters >= MIN_LETTERS && self.lock().get(&key(name, rtype)).is_some_and(|w| w.drawn.contains(name))
    }

    /// Enters a request; `None` where too many equal ones wait.
    pub fn enter(&self, name: &WireName, rtype: u16) -> Option<Place<'_>> {
        let key = key(name, rtype);
        let mut map = self.lock();
        let waiting = map.entry(key.clone()).or_default();
        if waiting.count >= MAX_EQUAL {
            return None;
        }
        waiting.count += 1;
        Some(Place { pending: self, key, drawn: Vec::new() })
    }

    fn lock(&self) -> MutexGuard<'_, FxHashMap<Key, Waiting>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place<'_> {
    /// Notes that the request is sent with its name in this case, drawn by chance.
    pub fn sends(&mut self, drawn: &WireName) {
        if let Some(waiting) = self.pending.lock().get_mut(&self.key) {
            waiting.drawn.push(drawn.clone());
            self.drawn.push(drawn.clone());
        }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut map = self.pending.lock();
        if let Some(waiting) = map.get_mut(&self.key) {
            for name in &self.drawn {
                if let Some(at) = waiting.drawn.iter().position(|other| other == name) {
                    waiting.drawn.swap_remove(at);
                }
            }
            waiting.count -= 1;
            if waiting.count == 0 {
                map.remove(&self.key);
            }
        }
    }
}

fn key(name: &WireName, rtype: u16) -> Key {
    (name.as_bytes().to_ascii_lowercase(), rtype)
}

#[cfg(test)]
mod tests {
    use super::*;
    use weft_plan::DnsName;

    #[test]
    fn a_request_that_comes_back_is_known() {
        let pending = Pending::default();
        let plain = WireName::of(&DnsName::new("www.example.com")).unwrap();
        let mut sent = plain.clone();
        sent.randomize_case(0x5a5a);
        let mut place = pending.enter(&plain, 1).unwrap();
        assert!(!pending.is_ours(&sent, 1));
        place.sends(&sent);
        assert!(pending.is_ours(&sent, 1));
        assert!(!pending.is_ours(&plain, 1) && !pending.is_ours(&sent, 28));
        drop(place);
        assert!(!pending.is_ours(&sent, 1));
        assert!(pending.0.lock().unwrap().is_empty());
    }

    #[test]
    fn equal_requests_are_limited() {
        let pending = Pending::default();
        let name = WireName::of(&DnsName::new("www.example.com")).unwrap();
        let places: Vec<_> = (0..MAX_EQUAL).map(|_| pending.enter(&name, 1).unwrap()).collect();
        assert!(pending.enter(&name, 1).is_none());
        drop(places);
        assert!(pending.enter(&name, 1).is_some());
    }
}
