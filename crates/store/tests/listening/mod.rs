//! A running watch of a store: its events come by a channel. It ends with the listener, and an error of it fails the test.
//!
//! What is absent: what the events mean. Each test keeps of them what it is about.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::thread::JoinHandle;

use weft_model::{Change, Fact, FactKey};
use weft_store::{Event, Store, StoreError};

/// What is known after a change.
pub fn learn(facts: &mut BTreeMap<FactKey, Fact>, change: Change) {
    match change {
        Change::Set(fact) => facts.insert(fact.key(), *fact),
        Change::Remove(key) => facts.remove(&key),
    };
}

/// See the module.
pub struct Listening {
    store: Arc<dyn Store>,
    pub events: Receiver<Event>,
    thread: Option<JoinHandle<Result<(), StoreError>>>,
}

impl Listening {
    /// Begins a watch, without waiting for anything.
    pub fn begin(store: Arc<dyn Store>) -> Self {
        let (sender, events) = channel();
        let watched = store.clone();
        let thread = std::thread::spawn(move || {
            watched.watch(&mut |event| match sender.send(event) {
                Ok(()) => ControlFlow::Continue(()),
                Err(_) => ControlFlow::Break(()),
            })
        });
        Self { store, events, thread: Some(thread) }
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.store.stop();
        let ended = self.thread.take().map(JoinHandle::join);
        if !std::thread::panicking() {
            ended.unwrap().unwrap().unwrap();
        }
    }
}
