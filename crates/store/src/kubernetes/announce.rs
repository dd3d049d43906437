//! That this node's network is there, said for as long as the store lasts.
//!
//! What always holds: once it was announced, it is looked again and again whether others say the contrary: a network that was here before, as it
//! stops, or a cloud. Whose word is turned over, and how often, says [`super::publish`]; who insists keeps it, and is named in a notice.
//!
//! What is absent: when a network is there (the agent).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use tokio::sync::{Mutex, MutexGuard, watch};
use weft_model::NodeName;

use super::client::{Client, Failure};
use super::publish::{self, Announced};
use crate::store::{Notice, Remark};

/// See the module.
#[derive(Debug)]
pub(super) struct Announcing {
    node: NodeName,
    is_on: AtomicBool,
    /// Held by whoever writes.
    turn: Mutex<()>,
    /// How often somebody else's word may yet be turned over.
    turns: AtomicU32,
    objection: watch::Sender<Notice>,
}

impl Announcing {
    pub fn of(node: &NodeName) -> Self {
        let about = format!("condition NetworkUnavailable of node {node}");
        Self {
            node: node.clone(),
            is_on: AtomicBool::new(false),
            turn: Mutex::default(),
            turns: AtomicU32::new(publish::TURNS),
            objection: watch::Sender::new(Notice { about, text: None }),
        }
    }

    /// Who insists on the contrary, as it is and as it changes.
    pub fn subscribe(&self) -> watch::Receiver<Notice> {
        let mut objections = self.objection.subscribe();
        if objections.borrow().text.is_some() {
            objections.mark_changed();
        }
        objections
    }

    /// Begins; false where it has begun before.
    pub fn begin(&self) -> bool {
        !self.is_on.swap(true, Ordering::SeqCst)
    }

    /// Ends it: nothing is said while the guard lasts, nor afterwards.
    pub async fn end(&self) -> MutexGuard<'_, ()> {
        self.is_on.store(false, Ordering::SeqCst);
        self.turn.lock().await
    }

    /// Looks once, and says it where need be.
    pub async fn say(&self, client: &Client) -> Result<(), Failure> {
        let _turn = self.turn.lock().await;
        self.look(client).await
    }

    async fn look(&self, client: &Client) -> Result<(), Failure> {
        let announced = publish::announce(client, &self.node, self.turns.load(Ordering::SeqCst)).await?;
        let text = match announced {
            Announced::Said => None,
            Announced::TurnedOver => {
                self.turns.fetch_sub(1, Ordering::SeqCst);
                None
            }
            Announced::Left(reason) => Some(Remark::Warning(format!(
                "somebody goes on saying that this node's network is not there (reason {reason}), which keeps pods off it; Weft has taken it \
                 back {} times and leaves it now. A cloud's route controller does so where it can make no route: where Weft's overlay \
                 carries the pods, turn it off (--configure-cloud-routes=false)",
                publish::TURNS
            ))),
        };
        self.objection.send_if_modified(|notice| {
            let differs = notice.text != text;
            notice.text = text;
            differs
        });
        Ok(())
    }

    /// Looks again and again, until it ends.
    pub async fn go_on(self: Arc<Self>, client: Arc<Client>, look: Duration) {
        loop {
            tokio::time::sleep(look.mul_f64(0.75 + 0.5 * fastrand::f64())).await;
            let _turn = self.turn.lock().await;
            if !self.is_on.load(Ordering::SeqCst) {
                return;
            }
            if let Err(failure) = self.look(&client).await {
                tracing::debug!(
                    "cannot look whether node {} says that its network is there: {failure}",
                    self.node
                );
            }
        }
    }
}
