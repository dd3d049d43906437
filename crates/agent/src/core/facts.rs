//! What the store says, and what the last agent knew before the store spoke.
//!
//! What always holds: a fact that was known is let go of when the store has said that it is gone, or has told everything
//! else and there is nothing that it couldn't read. So neither a restart beside a broken manifest nor one before the
//! store's file system is mounted takes anything out of the kernel; nor one beside a server that has lost what it knew, or that is another
//! cluster's: it no longer knows this node. Where some of what was known can't be read again, what in the kernel nothing explains stays for as long
//! ([`Plan::is_partial`](weft_plan::Plan::is_partial)).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use rustc_hash::FxHashSet;
use weft_model::{Change, Fact, FactKey};
use weft_store::{Event, Hold, Notice, Remark};

use super::{Core, LOOK_EVERY, Phase};
use crate::fact_log;

/// The part that [`BARE`] and [`UNKNOWN`] are about.
const CONTENTS: &str = "store's contents";
/// What is put up while a store holds nothing but what this node wrote itself.
const BARE: &str = "the store holds nothing but what this node itself wrote; is its file system mounted? What was in force \
                    stays. If nothing is meant to be there, put any object into it, a Namespace for example";
/// What is put up while a store doesn't hold this node, though it did. An API server that begins anew has namespaces and a service of its own at
/// once: by what others wrote it can't be told from the cluster's.
const UNKNOWN: &str = "the store no longer holds this node; is it the cluster's still, with all that it knew? What was in force stays until this \
                       node is in it again; under Kubernetes its kubelet registers it";

/// Facts that the log is told together.
const TOLD_TOGETHER: usize = 1024;

/// The part that is about [`Earlier::lost`].
const LOST: &str = "last facts";

/// The facts of the last agent's log, as far as they still matter.
#[derive(Debug, Default)]
pub(super) struct Earlier {
    /// Whether the store's first snapshot has come, in this agent's life.
    snapshot: bool,
    /// Facts of the log that are in force, and that the store has not confirmed.
    unconfirmed: BTreeSet<FactKey>,
    /// Facts that the store has taken back before its first snapshot was complete.
    taken_back: FxHashSet<FactKey>,
    /// Whether the store has ever told a fact that this node didn't write itself.
    has_others: bool,
    /// Whether the store holds this node.
    has_itself: bool,
    /// The first snapshot didn't hold this node, though the last agent knew it by the store, and nothing has told it since.
    is_unknown: bool,
    /// When to let go of what is unconfirmed, now that everything can be read.
    due: Option<Instant>,
    /// Why some of what the last agent knew is lost, until the store has told everything: facts that nobody knows may be in force.
    lost: Option<String>,
}

impl Earlier {
    /// Whether facts are missing that may be in force.
    pub(super) fn is_partial(&self) -> bool {
        self.lost.is_some()
    }
}

/// Which facts may be in what the store can't read.
enum Unread {
    Anything,
    Only(BTreeSet<FactKey>),
}

impl Core {
    pub(super) fn store_says(&mut self, event: Event) {
        match event {
            Event::Changes(changes) => self.changes(changes),
            Event::Synced => {
                self.stale = None;
                if !self.earlier.snapshot {
                    self.recall_unread();
                }
                let is_first = !std::mem::replace(&mut self.earlier.snapshot, true);
                self.facts_are_complete();
                self.complete_log(is_first);
            }
            Event::Stale { since, reason } => {
                tracing::warn!("the store can't be reached: {reason}");
                self.stale = Some((since, reason));
            }
            Event::Hold(hold) => {
                if matches!(hold, Hold::Lapsed(_)) {
                    self.blocks.lapsed();
                }
                self.hold = hold;
            }
            Event::Notice(Notice { about, text: Some(remark) }) => {
                match &remark {
                    Remark::Info(text) => tracing::info!("{about}: {text}"),
                    Remark::Warning(text) | Remark::Unread { text, .. } => tracing::warn!("{about}: {text}"),
                }
                self.notices.insert(about, remark);
            }
            Event::Notice(Notice { about, text: None }) => {
                self.notices.remove(&about);
            }
        }
    }

    fn changes(&mut self, changes: Vec<Change>) {
        let mut nodes = false;
        let mut news = Vec::new();
        for change in changes {
            let key = change.key();
            if self.phase == Phase::Waiting && matches!(change, Change::Remove(_)) {
                self.earlier.taken_back.insert(key.clone());
            }
            self.earlier.unconfirmed.remove(&key);
            self.earlier.has_others = self.earlier.has_others || self.is_of_others(&change);
            if matches!(&key, FactKey::Node(name) if *name == self.node) {
                self.earlier.has_itself = matches!(change, Change::Set(_));
                self.earlier.is_unknown &= !self.earlier.has_itself;
            }
            // Until the first snapshot is whole, the log is told nothing: then it is told all.
            let noted = (self.log.is_some() && self.earlier.snapshot).then(|| change.clone());
            let differs = self.learn(change);
            news.extend(noted.filter(|_| differs));
            if !differs {
                continue;
            }
            match &key {
                FactKey::Node(name) if *name == self.node => self.own_node_changed(),
                FactKey::Network(_) => self.blocks.facts_changed(),
                _ => {}
            }
            nodes |= matches!(key, FactKey::Node(_) | FactKey::Network(_));
        }
        if let (Some(log), false) = (&self.log, news.is_empty()) {
            log.append(news);
        }
        if nodes && self.phase != Phase::Waiting {
            self.refresh_node();
        }
    }

    /// Says that the log holds a full snapshot, which after the first one it is told here: whoever brings the network up has begun by now, and
    /// what nobody waits for is copied and written beside that.
    fn complete_log(&self, is_first: bool) {
        let Some(log) = &self.log else { return };
        if is_first {
            let mut told = self.facts().told().map(Change::set).peekable();
            while told.peek().is_some() {
                log.append(told.by_ref().take(TOLD_TOGETHER).collect());
            }
        }
        log.complete();
    }

    /// Takes a fact of the store's; says whether it is news.
    fn learn(&mut self, change: Change) -> bool {
        self.unmoved.hear(&change, &self.node);
        self.compiler.apply(change)
    }

    /// True for a fact of which the store has spoken, as long as nothing else has been learnt.
    fn has_heard_of(&self, key: &FactKey) -> bool {
        self.facts().has(key) || self.earlier.taken_back.contains(key)
    }

    /// True for what this node doesn't write itself.
    fn is_of_others(&self, change: &Change) -> bool {
        match change {
            Change::Set(fact) => match &**fact {
                Fact::Node(node) => node.name != self.node,
                Fact::Pod(pod) => pod.node.as_ref() != Some(&self.node),
                _ => true,
            },
            Change::Remove(_) => false,
        }
    }

    /// From here on the plan may be applied.
    fn facts_are_complete(&mut self) {
        if self.phase == Phase::Waiting {
            self.phase = Phase::Applying;
            self.earlier.taken_back = FxHashSet::default();
            self.refresh_node();
            self.flush_first();
        }
    }

    /// Goes by the facts that the last agent knew, marked as stale, until the store speaks.
    pub(super) fn use_last_facts(&mut self) {
        let Some(fact_log::LastFacts { changes, written, lost }) = fact_log::read(&self.config.state_dir)
        else {
            return;
        };
        self.mind_lost(lost);
        if changes.is_empty() {
            return;
        }
        let why =
            self.stale.take().map_or_else(|| "it has not answered yet".to_owned(), |(_, reason)| reason);
        tracing::warn!("going by the last known facts, since the store can't be reached: {why}");
        self.stale = Some((written, why));
        // What the store has said by now is newer.
        let untold: Vec<Change> =
            changes.into_iter().filter(|change| !self.has_heard_of(&change.key())).collect();
        for change in untold {
            match &change {
                Change::Set(fact) => self.earlier.unconfirmed.insert(fact.key()),
                Change::Remove(key) => self.earlier.unconfirmed.remove(key),
            };
            self.learn(change);
        }
        self.facts_are_complete();
    }

    /// The first snapshot is complete: what the last agent knew and the store hasn't told is gone, but for what may be in
    /// something that it can't read.
    fn recall_unread(&mut self) {
        let mut unread = self.unread();
        if !unread.is_nothing() || !self.earlier.has_itself {
            let mut last = BTreeMap::new();
            if let Some(fact_log::LastFacts { changes, lost, .. }) = fact_log::read(&self.config.state_dir) {
                self.mind_lost(lost);
                last.extend(changes.into_iter().map(|change| (change.key(), change)));
            }
            let own = last.get(&FactKey::Node(self.node.clone()));
            let was_known = matches!(own, Some(Change::Set(_))) || self.earlier.is_partial();
            self.earlier.is_unknown = !self.earlier.has_itself && was_known;
            unread = self.unread();
            // Otherwise they are known already, for want of the store.
            if self.phase == Phase::Waiting {
                last.retain(|key, change| {
                    matches!(change, Change::Set(_)) && unread.may_hold(key) && !self.has_heard_of(key)
                });
                for (key, change) in last {
                    self.learn(change);
                    self.earlier.unconfirmed.insert(key);
                }
            }
        }
        self.remove_unconfirmed(&unread);
    }

    /// Keeps in mind, over restarts as well, that facts are missing.
    fn mind_lost(&mut self, lost: Option<String>) {
        let Some(reason) = lost else { return };
        if let Err(error) = fact_log::mark_incomplete(&self.config.state_dir) {
            tracing::warn!("after another restart this may not be known: {reason}: {error}");
        }
        let text = format!(
            "{reason}; some of the last facts are lost, so what nothing explains stays in force until the store has told everything"
        );
        self.trouble(LOST, Some(text.clone()));
        self.earlier.lost = Some(text);
    }

    /// The store has told everything: nothing is missing any more, whatever was lost.
    fn find_nothing_lost(&mut self) {
        self.earlier.lost = None;
        self.trouble(LOST, None);
        if let Some(log) = &self.log {
            log.lacks_nothing();
        }
    }

    /// What the store couldn't read at the first snapshot may have been mended meanwhile. Not at once: a folder that can
    /// be read again is yet to be read.
    pub(super) fn let_go_of_earlier(&mut self, now: Instant) {
        if !self.earlier.snapshot || (self.earlier.unconfirmed.is_empty() && !self.earlier.is_partial()) {
            self.trouble(CONTENTS, None);
            return;
        }
        let unread = self.unread();
        if !self.earlier.has_others {
            self.trouble(CONTENTS, Some(BARE.to_owned()));
        } else if self.earlier.is_unknown {
            self.trouble(CONTENTS, Some(UNKNOWN.to_owned()));
        }
        if matches!(unread, Unread::Anything) {
            self.earlier.due = None;
        } else if *self.earlier.due.get_or_insert(now + LOOK_EVERY) <= now {
            self.remove_unconfirmed(&unread);
        }
    }

    fn unread(&self) -> Unread {
        let mut only = BTreeSet::new();
        if !self.earlier.has_others || self.earlier.is_unknown {
            return Unread::Anything;
        }
        for remark in self.notices.values() {
            match remark {
                Remark::Unread { only: Some(key), .. } => drop(only.insert(key.clone())),
                Remark::Unread { only: None, .. } => return Unread::Anything,
                Remark::Info(_) | Remark::Warning(_) => {}
            }
        }
        Unread::Only(only)
    }

    /// Lets go of what the store would have told by now, were it still so.
    fn remove_unconfirmed(&mut self, unread: &Unread) {
        if unread.is_nothing() {
            self.find_nothing_lost();
        }
        let gone: Vec<FactKey> =
            self.earlier.unconfirmed.extract_if(.., |key| !unread.may_hold(key)).collect();
        if self.earlier.snapshot
            && let Some(log) = &self.log
            && !gone.is_empty()
        {
            log.append(gone.iter().cloned().map(Change::Remove).collect());
        }
        for key in gone {
            self.learn(Change::Remove(key));
        }
    }
}

impl Unread {
    fn is_nothing(&self) -> bool {
        matches!(self, Self::Only(keys) if keys.is_empty())
    }

    fn may_hold(&self, key: &FactKey) -> bool {
        match self {
            Self::Anything => true,
            Self::Only(keys) => keys.contains(key),
        }
    }
}

#[cfg(test)]
mod tests;
