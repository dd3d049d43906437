//! The seat of this machine's node ([`crate::seat`]) as an annotation of its Node object: `weft.dev/machine`.
//!
//! What always holds: it is read before anything is said or claimed for the node, and nothing is while it is another machine's. It is
//! written over the version that was read, or not at all. The watch of Nodes tells when it has changed: while nobody asks, nothing is asked of
//! the server.
//!
//! What is absent: Nodes that two kubelets register. Of what those write the cluster keeps the last.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hyper::StatusCode;
use tokio::sync::watch;
use weft_model::NodeName;

use super::client::{Client, Failure};
use super::publish::{self, MACHINE_ANNOTATION, NodeObject};
use crate::clock::BootTime;
use crate::seat::{ATTEMPTS, Dispute, Entry, Seat, speak_for};
use crate::store::{Notice, StoreError};

/// See the module.
#[derive(Debug)]
pub(super) struct Place {
    node: NodeName,
    seat: Mutex<Seat>,
    pause: Duration,
    /// Held while the annotation is looked at and written.
    turn: tokio::sync::Mutex<()>,
    found: watch::Sender<Dispute>,
    /// The annotation, as the watch of Nodes has told it.
    heard: watch::Sender<Option<String>>,
}

fn entry(object: &NodeObject) -> Entry {
    object.annotation(MACHINE_ANNOTATION).map(Entry::read).unwrap_or_default()
}

/// Who has a node's seat.
pub(super) async fn machine_of(client: &Client, node: &NodeName) -> Result<Option<String>, Failure> {
    Ok(publish::read(client, node).await?.as_ref().map(entry).and_then(Entry::machine))
}

impl Place {
    /// `pause` is the time between looks while somebody asks; `heard` what the watch of Nodes tells.
    pub fn of(node: &NodeName, machine: &str, pause: Duration, heard: watch::Sender<Option<String>>) -> Self {
        Self {
            node: node.clone(),
            seat: Mutex::new(Seat::of(node.clone(), machine.to_owned(), pause)),
            pause,
            turn: tokio::sync::Mutex::default(),
            found: watch::Sender::default(),
            heard,
        }
    }

    fn seat(&self) -> MutexGuard<'_, Seat> {
        self.seat.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a look has found, as it is and as it changes.
    pub fn subscribe(&self) -> watch::Receiver<Dispute> {
        self.found.subscribe()
    }

    /// What is to be told of it.
    pub fn notice(&self, found: &Dispute) -> Notice {
        found.notice(&self.node)
    }

    /// Looks, and writes where need be. A Node that isn't there has no place yet.
    pub async fn look(&self, client: &Client) -> Result<(), Failure> {
        let _turn = self.turn.lock().await;
        for _ in 0..ATTEMPTS {
            let Some(object) = publish::read(client, &self.node).await? else { return Ok(()) };
            let there = entry(&object);
            let (written, is_question) = {
                let mut seat = self.seat();
                let written = seat.look(&there, BootTime::now());
                let is_question = written.as_ref().is_some_and(|entry| seat.is_question(entry));
                (written, is_question)
            };
            self.tell();
            let Some(entry) = written else { return Ok(()) };
            match publish::write_machine(client, &self.node, &object, &entry.write()).await {
                Err(failure) if failure.is(StatusCode::CONFLICT) => {}
                done => done?,
            }
            if is_question {
                return Ok(());
            }
        }
        Ok(())
    }

    fn tell(&self) {
        let now = self.seat().dispute();
        self.found.send_if_modified(|found| {
            let differs = *found != now;
            *found = now;
            differs
        });
    }

    /// Looks for the first time, where nobody has.
    pub async fn look_first(&self, client: &Client) -> Result<(), Failure> {
        let is_unknown = self.seat().is_unknown();
        if is_unknown { self.look(client).await } else { Ok(()) }
    }

    /// Refuses what would be said or claimed for the node while another machine is it.
    pub async fn admit(&self, client: &Client, node: &NodeName) -> Result<(), StoreError> {
        if self.node != *node {
            return Ok(());
        }
        let failed =
            |failure: Failure| StoreError::Server { action: speak_for(node), reason: failure.to_string() };
        self.look_first(client).await.map_err(failed)?;
        self.found.borrow().admit(node)
    }

    /// The node is being forgotten: nothing is written while the guard lasts, nor afterwards until something is said for it.
    pub async fn forget(&self) -> tokio::sync::MutexGuard<'_, ()> {
        let turn = self.turn.lock().await;
        self.seat().forget();
        self.tell();
        turn
    }

    /// Looks again when the annotation changes, and by the clock while somebody asks; for as long as the runtime lasts.
    pub async fn keep(self: Arc<Self>, client: Arc<Client>) {
        let mut heard = self.heard.subscribe();
        loop {
            if self.seat().is_disputed() {
                // Each look counts: how often others write on the object must not.
                tokio::time::sleep(self.pause).await;
            } else if heard.changed().await.is_err() {
                return;
            }
            heard.mark_unchanged();
            if self.seat().is_unknown() {
                continue;
            }
            if let Err(failure) = self.look(&client).await {
                tracing::debug!("cannot look which machine is node {}: {failure}", self.node);
                tokio::time::sleep(self.pause).await;
                heard.mark_changed();
            }
        }
    }
}
