//! The thread that tells the store about this node, again and again until it succeeds.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::time::Duration;

use weft_model::{NetworkName, NodeName, ObjectKey};
use weft_store::{Published, Store};

use crate::core::PublishWork;
use crate::message::Message;

const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// What a piece of work is about: a later one of the same key replaces it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum About {
    Node,
    Claim(NetworkName),
    Pod(ObjectKey),
    Ready,
}

fn about(work: &PublishWork) -> About {
    match work {
        PublishWork::Publish(Published::Node(_)) => About::Node,
        PublishWork::Publish(Published::Pod(pod)) => About::Pod(pod.key.clone()),
        PublishWork::Publish(Published::PodGone { key, .. }) => About::Pod(key.clone()),
        PublishWork::Claim(network, _) => About::Claim(network.name.clone()),
        PublishWork::Ready => About::Ready,
    }
}

/// Works until nobody can give it work any more.
pub fn run(store: &Arc<dyn Store>, node: &NodeName, inbox: &Receiver<PublishWork>, core: &Sender<Message>) {
    let mut waiting: BTreeMap<About, PublishWork> = BTreeMap::new();
    let mut pause = FIRST_PAUSE;
    let mut troubled = false;
    loop {
        let patience = if waiting.is_empty() { Duration::MAX } else { pause };
        match inbox.recv_timeout(patience) {
            Ok(work) => drop(waiting.insert(about(&work), work)),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        while let Ok(work) = inbox.try_recv() {
            waiting.insert(about(&work), work);
        }
        let mut problem = None;
        waiting.retain(|_, work| match attempt(store.as_ref(), node, work, core) {
            Ok(()) => false,
            Err(error) => {
                problem = Some(error);
                true
            }
        });
        pause = if problem.is_some() { (pause * 2).min(LONGEST_PAUSE) } else { FIRST_PAUSE };
        if problem.is_some() || troubled {
            troubled = problem.is_some();
            let _ = core.send(Message::Trouble("publishing", problem));
        }
    }
}

fn attempt(
    store: &dyn Store,
    node: &NodeName,
    work: &PublishWork,
    core: &Sender<Message>,
) -> Result<(), String> {
    match work {
        PublishWork::Publish(fact) => store.publish(fact).map_err(|error| error.to_string()),
        PublishWork::Claim(network, in_use) => {
            let claim = store.claim_pod_cidrs(network, node, in_use).map_err(|error| error.to_string())?;
            for block in &claim.unfit {
                tracing::warn!("claimed block {block} no longer fits network {}", network.name);
            }
            let _ = core.send(Message::Claimed(network.name.clone(), claim.cidrs));
            Ok(())
        }
        PublishWork::Ready => store.announce_ready(node).map_err(|error| error.to_string()),
    }
}
