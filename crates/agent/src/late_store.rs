//! A store that may not be there yet: a folder that is mounted late, a server that is down at boot.
//!
//! What can be opened only later must not keep a node from working with the facts that it had. A watch that ends by an error
//! before it has told anything is begun anew. A store that was stopped takes no more words and claims nothing, whether it was open by then or not:
//! the node's next agent speaks by now, and what this one still had to say is older.

use std::ops::ControlFlow;
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError};
use std::time::{Duration, SystemTime};

use weft_model::{Cidr, Network, NodeName};
use weft_store::{Claim, Event, Forgotten, Published, Store, StoreError};

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

    /// The store, for what makes something of this node known.
    fn to_speak(&self) -> Result<&Arc<dyn Store>, StoreError> {
        self.may_speak()?;
        let store = self.get()?;
        // Opening one may take long, and one that is opened after the stop was never told of it.
        self.may_speak()?;
        Ok(store)
    }

    fn may_speak(&self) -> Result<(), StoreError> {
        match self.is_stopped() {
            false => Ok(()),
            true => Err(StoreError::Server {
                action: "cannot speak for this node".to_owned(),
                reason: "this store was stopped".to_owned(),
            }),
        }
    }

    fn is_stopped(&self) -> bool {
        *self.stopped.lock().unwrap_or_else(PoisonError::into_inner)
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
        let mut said = String::new();
        loop {
            let reason = match self.get() {
                Ok(store) => {
                    if self.is_stopped() {
                        return Ok(());
                    }
                    let mut has_told = false;
                    let ended = store.watch(&mut |event| {
                        has_told |= matches!(event, Event::Changes(_));
                        sink(event)
                    });
                    match ended {
                        Err(error) if !has_told => error.to_string(),
                        // Another watch wouldn't know what has gone since.
                        ended => return ended,
                    }
                }
                Err(error) => error.to_string(),
            };
            if reason != said {
                said.clone_from(&reason);
                if sink(Event::Stale { since: SystemTime::now(), reason }).is_break() {
                    return Ok(());
                }
            }
            if self.pause() {
                return Ok(());
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
        self.to_speak()?.publish(fact)
    }

    fn announce_ready(&self, node: &NodeName) -> Result<(), StoreError> {
        self.to_speak()?.announce_ready(node)
    }

    fn claim_pod_cidrs(
        &self,
        network: &Network,
        node: &NodeName,
        in_use: &[Cidr],
    ) -> Result<Claim, StoreError> {
        self.to_speak()?.claim_pod_cidrs(network, node, in_use)
    }

    fn claim_another(
        &self,
        network: &Network,
        node: &NodeName,
        full: &[Cidr],
        in_use: &[Cidr],
    ) -> Result<Cidr, StoreError> {
        self.to_speak()?.claim_another(network, node, full, in_use)
    }

    fn relied_on_for(&self, node: &NodeName) -> Result<Option<Duration>, StoreError> {
        self.get()?.relied_on_for(node)
    }

    fn machine_of(&self, node: &NodeName) -> Result<Option<String>, StoreError> {
        self.get()?.machine_of(node)
    }

    fn forget_node(&self, node: &NodeName) -> Result<Forgotten, StoreError> {
        self.get()?.forget_node(node)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc::channel;

    /// A store whose first watches fail.
    #[derive(Default)]
    struct Flaky(AtomicUsize);

    impl Store for Flaky {
        fn watch(&self, sink: &mut dyn FnMut(Event) -> ControlFlow<()>) -> Result<(), StoreError> {
            match self.0.fetch_add(1, Ordering::Relaxed) {
                0 | 1 => Err(StoreError::Server { action: "watching".into(), reason: "it flaps".into() }),
                _ => {
                    let _ = sink(Event::Synced);
                    Ok(())
                }
            }
        }

        fn stop(&self) {}

        fn publish(&self, _: &Published) -> Result<(), StoreError> {
            Ok(())
        }

        fn claim_pod_cidrs(&self, _: &Network, _: &NodeName, _: &[Cidr]) -> Result<Claim, StoreError> {
            Ok(Claim::default())
        }

        fn claim_another(
            &self,
            _: &Network,
            _: &NodeName,
            _: &[Cidr],
            _: &[Cidr],
        ) -> Result<Cidr, StoreError> {
            unreachable!("nobody claims here")
        }

        fn machine_of(&self, _: &NodeName) -> Result<Option<String>, StoreError> {
            Ok(None)
        }

        fn forget_node(&self, _: &NodeName) -> Result<Forgotten, StoreError> {
            Ok(Forgotten::Nothing)
        }
    }

    #[test]
    fn a_watch_that_cannot_begin_is_begun_anew() {
        let store = LateStore::new(Box::new(|| Ok(Arc::new(Flaky::default()))));
        let mut heard = Vec::new();
        let ended = store.watch(&mut |event| {
            heard.push(event);
            ControlFlow::Continue(())
        });
        assert!(ended.is_ok());
        assert!(
            matches!(&heard[..], [Event::Stale { reason, .. }, Event::Synced] if reason.contains("it flaps")),
            "{heard:?}"
        );
    }

    /// What can be said, each by its error.
    fn say_all(store: &LateStore) -> [Option<String>; 3] {
        let node = NodeName::new("n1").unwrap();
        let key = weft_model::ObjectKey::new("shop", "web").unwrap();
        let gone = Published::PodGone { node: node.clone(), key };
        let claimed = store.claim_pod_cidrs(&Network::ordinary(), &node, &[]).map(drop);
        [store.publish(&gone), store.announce_ready(&node), claimed]
            .map(|said| said.err().map(|error| error.to_string()))
    }

    fn stopped() -> Option<String> {
        Some("cannot speak for this node: this store was stopped".to_owned())
    }

    #[test]
    fn a_store_that_is_stopped_takes_no_more_words() {
        let opened = Arc::new(AtomicUsize::new(0));
        let counter = opened.clone();
        let new = || {
            let counter = counter.clone();
            LateStore::new(Box::new(move || {
                counter.fetch_add(1, Ordering::Relaxed);
                Ok(Arc::new(Flaky::default()))
            }))
        };
        let store = new();
        assert_eq!(say_all(&store), [None, None, None]);
        store.stop();
        assert_eq!(say_all(&store), [stopped(), stopped(), stopped()]);
        // One that was never needed is not opened for it.
        let store = new();
        store.stop();
        assert_eq!(say_all(&store), [stopped(), stopped(), stopped()]);
        assert_eq!(opened.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn a_store_that_is_stopped_while_it_is_opened_takes_no_words() {
        let (began, begun) = channel();
        let (let_on, may_go_on) = channel::<()>();
        let may_go_on = Mutex::new(may_go_on);
        let store = LateStore::new(Box::new(move || {
            let _ = began.send(());
            let _ = may_go_on.lock().unwrap().recv();
            Ok(Arc::new(Flaky::default()))
        }));
        std::thread::scope(|scope| {
            let said = scope.spawn(|| store.announce_ready(&NodeName::new("n1").unwrap()));
            begun.recv().unwrap();
            store.stop();
            drop(let_on);
            assert_eq!(said.join().unwrap().err().map(|error| error.to_string()), stopped());
        });
    }
}
