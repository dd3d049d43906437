//! A store that may not be there yet: a folder that is mounted late, a server that is down at boot.
//!
//! What can be opened only later must not keep a node from working with the facts that it had.

use std::ops::ControlFlow;
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError};
use std::time::{Duration, SystemTime};

use weft_model::{Cidr, Network, NodeName};
use weft_store::{Claim, Event, Published, Store, StoreError};

const PAUSE: Duration = Duration::from_secs(1);

/// Opens a store.
pub type Open = Box<dyn Fn() -> Result<Arc<dyn Store>, StoreError> + Send + Sync>;

/// Opens a store when it can be opened.
pub struct LateStore {
    open: Open,
    inner: OnceLock<Arc<dyn Store>>,
    stopped: Mutex<bool>,
    changed: Condvar,
}

impl LateStore {
    /// A store that `open` opens; tried for the first time by whoever needs it first.
    pub fn new(open: Open) -> Self {
        Self { open, inner: OnceLock::new(), stopped: Mutex::new(false), changed: Condvar::new() }
    }

    fn get(&self) -> Result<&Arc<dyn Store>, StoreError> {
        if let Some(store) = self.inner.get() {
            return Ok(store);
        }
        let store = (self.open)()?;
        Ok(self.inner.get_or_init(|| store))
    }

    /// Waits a little; says whether to stop.
    fn pause(&self) -> bool {
        let stopped = self.stopped.lock().unwrap_or_else(PoisonError::into_inner);
        let (stopped, _) = self
            .changed
            .wait_timeout_while(stopped, PAUSE, |stopped| !*stopped)
            .unwrap_or_else(PoisonError::into_inner);
        *stopped
    }
}

impl Store for LateStore {
    fn watch(&self, sink: &mut dyn FnMut(Event) -> ControlFlow<()>) -> Result<(), StoreError> {
        let since = SystemTime::now();
        let mut said = String::new();
        loop {
            match self.get() {
                Ok(store) => {
                    if *self.stopped.lock().unwrap_or_else(PoisonError::into_inner) {
                        return Ok(());
                    }
                    return store.watch(sink);
                }
                Err(error) => {
                    let reason = error.to_string();
                    if reason != said {
                        said.clone_from(&reason);
                        if sink(Event::Stale { since, reason }).is_break() {
                            return Ok(());
                        }
                    }
                    if self.pause() {
                        return Ok(());
                    }
                }
            }
        }
    }

    fn stop(&self) {
        *self.stopped.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.changed.notify_all();
        if let Some(store) = self.inner.get() {
            store.stop();
        }
    }

    fn publish(&self, fact: &Published) -> Result<(), StoreError> {
        self.get()?.publish(fact)
    }

    fn announce_ready(&self, node: &NodeName) -> Result<(), StoreError> {
        self.get()?.announce_ready(node)
    }

    fn claim_pod_cidrs(
        &self,
        network: &Network,
        node: &NodeName,
        in_use: &[Cidr],
    ) -> Result<Claim, StoreError> {
        self.get()?.claim_pod_cidrs(network, node, in_use)
    }

    fn forget_node(&self, node: &NodeName) -> Result<(), StoreError> {
        self.get()?.forget_node(node)
    }
}
