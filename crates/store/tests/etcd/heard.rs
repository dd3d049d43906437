//! A running watch, and what it has told.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use weft_model::{Change, Fact, FactKey};
use weft_store::{Event, Hold, Notice, Store};

use crate::listening::{Listening, learn};

/// How long anything may take: members start, elect and time out meanwhile.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// See the module.
pub struct Heard {
    listening: Listening,
    pub facts: BTreeMap<FactKey, Fact>,
    pub notices: BTreeMap<String, String>,
    pub hold: Option<Hold>,
    /// Whether the store is stale now.
    pub is_stale: bool,
    /// How often it said that it is.
    pub outages: usize,
    pub synced: usize,
    /// How many facts were ever told to be gone.
    pub removed: usize,
}

impl Heard {
    pub fn begin(store: Arc<dyn Store>) -> Self {
        Self {
            listening: Listening::begin(store),
            facts: BTreeMap::new(),
            notices: BTreeMap::new(),
            hold: None,
            is_stale: false,
            outages: 0,
            synced: 0,
            removed: 0,
        }
    }

    fn take(&mut self, event: Event) {
        match event {
            Event::Changes(changes) => {
                for change in changes {
                    self.removed += usize::from(matches!(change, Change::Remove(_)));
                    learn(&mut self.facts, change);
                }
            }
            Event::Synced => {
                self.synced += 1;
                self.is_stale = false;
            }
            Event::Stale { .. } => {
                self.outages += 1;
                self.is_stale = true;
            }
            Event::Notice(Notice { about, text: Some(text) }) => {
                self.notices.insert(about, text.text().to_owned());
            }
            Event::Notice(Notice { about, text: None }) => {
                self.notices.remove(&about);
            }
            Event::Hold(hold) => self.hold = Some(hold),
        }
    }

    /// Waits until `done` holds.
    #[track_caller]
    pub fn until(&mut self, what: &str, done: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !done(self) {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.listening.events.recv_timeout(left) {
                Ok(event) => self.take(event),
                Err(_) => {
                    panic!("{what} did not come; told were {:#?}, {:?}", self.facts.keys(), self.notices)
                }
            }
        }
    }

    /// The names of all namespaces.
    pub fn namespaces(&self) -> BTreeSet<String> {
        let name = |key: &FactKey| match key {
            FactKey::Namespace(name) => Some(name.to_string()),
            _ => None,
        };
        self.facts.keys().filter_map(name).collect()
    }
}
