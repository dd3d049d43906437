//! The thread that tells the store about this node, again and again until it succeeds.
//!
//! What always holds: work is done in turns, so that none waits for one that can't be done. Where the store seems to be away, a
//! round ends early, and new work waits for the next one: every attempt would take as long as the store's patience. At the end, all that was
//! to be published is tried once more: nobody will say it again while the agent is down. A store that is stopped meanwhile ends that, by refusing.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use weft_model::{NetworkName, NodeName, ObjectKey};
use weft_store::{Published, Store};

use crate::core::{PublishWork, Question};
use crate::message::Message;

const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// How long new work waits for more. A pod is made known while the answer to its ADD is still under way: whoever takes that to the
/// runtime needs a processor more.
const BREATH: Duration = Duration::from_millis(2);

/// Failures one after the other by which a store is taken to be away.
const AWAY: usize = 3;

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
        PublishWork::Claim(question) => About::Claim(question.network.name.clone()),
        PublishWork::Ready => About::Ready,
    }
}

/// Works until nobody can give it work any more.
pub fn run(store: &Arc<dyn Store>, node: &NodeName, inbox: &Receiver<PublishWork>, core: &Sender<Message>) {
    let mut queue = Queue::default();
    let mut troubled = false;
    loop {
        let patience = queue.due().map_or(Duration::MAX, |due| due.saturating_duration_since(Instant::now()));
        match inbox.recv_timeout(patience) {
            Ok(work) => {
                queue.add(about(&work), work);
                thread::sleep(BREATH);
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => {
                let is_word = |work: &PublishWork| matches!(work, PublishWork::Publish(_));
                return queue.last_round(is_word, |work| attempt(store.as_ref(), node, work, core));
            }
        }
        while let Ok(work) = inbox.try_recv() {
            queue.add(about(&work), work);
        }
        let attempt = |work: &PublishWork| attempt(store.as_ref(), node, work, core);
        let Some(problem) = queue.round(Instant::now(), attempt) else { continue };
        if problem.is_some() || troubled {
            troubled = problem.is_some();
            let _ = core.send(Message::Trouble("publishing", problem));
        }
    }
}

/// Work that waits, and when to do it. `W` is the work.
#[derive(Debug)]
struct Queue<W> {
    fresh: BTreeMap<About, W>,
    /// What was not done, and why.
    failed: BTreeMap<About, (W, String)>,
    /// What was tried last of that: the next round begins after it.
    last: Option<About>,
    /// When the next round is due, where something was in vain.
    retry: Option<Instant>,
    pause: Duration,
    is_away: bool,
}

impl<W> Default for Queue<W> {
    fn default() -> Self {
        let (fresh, failed) = (BTreeMap::new(), BTreeMap::new());
        Self { fresh, failed, last: None, retry: None, pause: FIRST_PAUSE, is_away: false }
    }
}

impl<W> Queue<W> {
    fn add(&mut self, about: About, work: W) {
        if let (About::Claim(_), Some((waiting, _))) = (&about, self.failed.get_mut(&about)) {
            // It comes again with what is known now, and has its turn when it would have had it.
            *waiting = work;
            return;
        }
        self.failed.remove(&about);
        self.fresh.insert(about, work);
    }

    /// When there is something to do.
    fn due(&self) -> Option<Instant> {
        match self.fresh.is_empty() || self.is_away {
            true => self.retry,
            false => Some(Instant::now()),
        }
    }

    /// Does all that was not done and that `matters`, due or not, until the store seems to be away.
    fn last_round(mut self, matters: impl Fn(&W) -> bool, attempt: impl Fn(&W) -> Result<(), String>) {
        self.fresh.extend(self.failed.into_iter().map(|(about, (work, _))| (about, work)));
        let mut in_vain = 0;
        for work in self.fresh.values().filter(|work| matters(work)) {
            in_vain = if attempt(work).is_ok() { 0 } else { in_vain + 1 };
            if in_vain >= AWAY {
                return;
            }
        }
    }

    /// Does what is due. If there was anything: why something still isn't done.
    fn round(&mut self, now: Instant, attempt: impl Fn(&W) -> Result<(), String>) -> Option<Option<String>> {
        let is_retry = self.retry.is_some_and(|retry| retry <= now);
        if !is_retry && (self.is_away || self.fresh.is_empty()) {
            return None;
        }
        let mut turn: Vec<(About, W)> = Vec::new();
        if is_retry {
            let mut failed = std::mem::take(&mut self.failed);
            let after = self.last.as_ref().map_or_else(BTreeMap::new, |last| failed.split_off(last));
            turn.extend(after.into_iter().chain(failed).map(|(about, (work, _))| (about, work)));
            // The one that was tried last has its turn at the end.
            if self.last.is_some() && self.last.as_ref() == turn.first().map(|(about, _)| about) {
                turn.rotate_left(1);
            }
        }
        let fresh = std::mem::take(&mut self.fresh);
        let mut turn = fresh.into_iter().chain(turn);
        let mut in_vain = 0;
        for (about, work) in turn.by_ref() {
            match attempt(&work) {
                Ok(()) => in_vain = 0,
                Err(error) => {
                    self.last = Some(about.clone());
                    self.failed.insert(about, (work, error));
                    in_vain += 1;
                }
            }
            if in_vain >= AWAY {
                break;
            }
        }
        let waits = "the store doesn't answer".to_owned();
        self.failed.extend(turn.map(|(about, work)| (about, (work, waits.clone()))));
        self.is_away = in_vain >= AWAY;
        if self.failed.is_empty() {
            (self.retry, self.pause) = (None, FIRST_PAUSE);
        } else if is_retry || self.retry.is_none() {
            self.retry = Some(Instant::now() + self.pause);
            self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        }
        let problem = self.last.as_ref().and_then(|last| self.failed.get(last));
        let problem = problem.or_else(|| self.failed.values().next());
        Some(problem.map(|(_, error)| error.clone()))
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
        PublishWork::Claim(question) => {
            let Question { network, in_use, full } = question.as_ref();
            let name = network.name.clone();
            if full.is_empty() {
                let claim =
                    store.claim_pod_cidrs(network, node, in_use).map_err(|error| error.to_string())?;
                let _ = core.send(Message::Claimed(name, claim));
                return Ok(());
            }
            // Not again by itself: pods may have gone meanwhile, and then nobody needs it. The core asks while they haven't.
            let answer = store.claim_another(network, node, full, in_use).map_err(|error| error.to_string());
            let _ = core.send(Message::ClaimedAnother(name, answer));
            Ok(())
        }
        PublishWork::Ready => store.announce_ready(node).map_err(|error| error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    fn pod(name: &str) -> About {
        About::Pod(ObjectKey::new("default", name).unwrap())
    }

    /// A round at a time after `start`: what was tried, and what is told.
    fn round(
        queue: &mut Queue<&'static str>,
        at: Instant,
        fails: &[&str],
    ) -> (Vec<&'static str>, Option<Option<String>>) {
        let tried = RefCell::new(Vec::new());
        let told = queue.round(at, |work| {
            tried.borrow_mut().push(*work);
            if fails.contains(work) { Err(format!("not {work}")) } else { Ok(()) }
        });
        (tried.into_inner(), told)
    }

    #[test]
    fn a_store_that_is_away_is_asked_a_little_and_in_turns() {
        let mut queue = Queue::default();
        let all = ["a", "b", "c", "d", "e"];
        for name in all {
            queue.add(pod(name), name);
        }
        let mut now = Instant::now();
        let (tried, told) = round(&mut queue, now, &all);
        assert_eq!((tried, told), (vec!["a", "b", "c"], Some(Some("not c".into()))));
        // New work waits for its time, like all other.
        queue.add(pod("new"), "new");
        assert_eq!(round(&mut queue, now, &all), (vec![], None));
        let due = queue.due().unwrap();
        assert!(due > now);
        now = due;
        assert_eq!(round(&mut queue, now, &["new", "d", "e", "a", "b", "c"]).0, ["new", "d", "e"]);
        now = queue.due().unwrap();
        assert_eq!(round(&mut queue, now, &[]), (vec!["new", "a", "b", "c", "d", "e"], Some(None)));
        assert_eq!(queue.due(), None);
    }

    #[test]
    fn at_the_end_all_is_tried_once_more_but_for_what_does_not_matter() {
        let check = |fails: &[&str], expected: &[&str]| {
            let mut queue = Queue::default();
            let now = Instant::now();
            queue.add(pod("a"), "a");
            queue.add(pod("claim"), "claim");
            round(&mut queue, now, &["a", "claim"]);
            ["b", "c", "d"].into_iter().for_each(|name| queue.add(pod(name), name));
            let tried = RefCell::new(Vec::new());
            queue.last_round(
                |work| *work != "claim",
                |work| {
                    tried.borrow_mut().push(*work);
                    if fails.contains(work) { Err("no".into()) } else { Ok(()) }
                },
            );
            assert_eq!(tried.into_inner(), expected);
        };
        check(&[], &["a", "b", "c", "d"]);
        check(&["a"], &["a", "b", "c", "d"]);
        check(&["a", "b", "c"], &["a", "b", "c"]);
    }

    #[test]
    fn a_claim_that_waits_is_brought_up_to_date_and_not_hurried() {
        let claim = || About::Claim(NetworkName::ordinary());
        let mut queue = Queue::default();
        queue.add(claim(), "claim");
        let now = Instant::now();
        assert_eq!(round(&mut queue, now, &["claim"]).0, ["claim"]);
        let due = queue.due().unwrap();
        queue.add(claim(), "later claim");
        assert_eq!((queue.due(), round(&mut queue, now, &[])), (Some(due), (vec![], None)));
        assert_eq!(round(&mut queue, due, &[]), (vec!["later claim"], Some(None)));
    }

    #[test]
    fn what_cannot_be_done_keeps_nothing_else_waiting_and_stays_told() {
        let mut queue = Queue::default();
        queue.add(About::Node, "node");
        let now = Instant::now();
        assert_eq!(round(&mut queue, now, &["node"]), (vec!["node"], Some(Some("not node".into()))));
        let due = queue.due().unwrap();
        queue.add(pod("a"), "a");
        assert!(queue.due().unwrap() < due || queue.due().unwrap() <= Instant::now());
        // Done at once; the other isn't tried for that, and its pause doesn't grow.
        assert_eq!(round(&mut queue, now, &["node"]), (vec!["a"], Some(Some("not node".into()))));
        assert_eq!(queue.due(), Some(due));
        // What replaces it is tried at once.
        queue.add(About::Node, "node 2");
        assert_eq!(round(&mut queue, now, &[]), (vec!["node 2"], Some(None)));
        assert_eq!(queue.due(), None);
    }
}
