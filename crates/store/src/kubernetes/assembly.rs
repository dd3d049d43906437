//! From what the followers tell to the events of one watch: pure.
//!
//! What always holds: the first `Synced` comes when every kind is complete, and further ones when besides none is in trouble any more. Trouble
//! that passes soon is not told of a kind that has been complete.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use super::follow::{Told, Trouble};
use super::kind::Kind;
use crate::store::Event;

/// See the module.
#[derive(Debug)]
pub(super) struct Assembly {
    /// How long trouble may last before it is told.
    grace: Duration,
    complete: BTreeSet<Kind>,
    failing: BTreeMap<Kind, Trouble>,
    has_synced: bool,
    /// Since when, and why, as was told.
    stale: Option<(SystemTime, String)>,
}

impl Assembly {
    pub fn new(grace: Duration) -> Self {
        Self { grace, complete: BTreeSet::new(), failing: BTreeMap::new(), has_synced: false, stale: None }
    }

    /// Takes what a follower tells.
    pub fn take(&mut self, told: Told, now: Instant) -> Vec<Event> {
        let mut events = Vec::new();
        match told {
            Told::News(news) => {
                if !news.changes.is_empty() {
                    events.push(Event::Changes(news.changes));
                }
                events.extend(news.notices.into_iter().map(Event::Notice));
            }
            Told::Complete(kind) => {
                self.complete.insert(kind);
            }
            Told::Failing(kind, trouble) => {
                self.failing.insert(kind, trouble);
            }
            Told::Well(kind) => {
                self.failing.remove(&kind);
            }
        }
        events.extend(self.tick(now));
        events
    }

    /// What time alone has brought.
    pub fn tick(&mut self, now: Instant) -> Option<Event> {
        let is_complete = self.complete.len() == Kind::ALL.len();
        if self.failing.is_empty() || (is_complete && !self.has_synced) {
            let is_new = !self.has_synced || self.stale.is_some();
            return (is_new && is_complete).then(|| {
                self.has_synced = true;
                self.stale = None;
                Event::Synced
            });
        }
        let is_short = |(kind, trouble): (&Kind, &Trouble)| {
            self.complete.contains(kind) && now < trouble.began + self.grace
        };
        if self.failing.iter().all(is_short) && self.stale.is_none() {
            return None;
        }
        let first = self.failing.values().min_by_key(|trouble| trouble.began)?;
        let stale = (first.since, first.reason.clone());
        if self.stale.as_ref() == Some(&stale) {
            return None;
        }
        self.stale = Some(stale.clone());
        Some(Event::Stale { since: stale.0, reason: stale.1 })
    }

    /// When to look next, where nobody tells anything.
    pub fn due(&self) -> Option<Instant> {
        if self.stale.is_some() {
            return None;
        }
        self.failing.values().map(|trouble| trouble.began + self.grace).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trouble(began: Instant, reason: &str) -> Trouble {
        Trouble { since: SystemTime::UNIX_EPOCH, began, reason: reason.into() }
    }

    fn words(events: impl IntoIterator<Item = Event>) -> String {
        let word = |event| match event {
            Event::Synced => "synced".to_owned(),
            Event::Stale { reason, .. } => format!("stale: {reason}"),
            other => format!("{other:?}"),
        };
        events.into_iter().map(word).collect::<Vec<_>>().join(", ")
    }

    #[test]
    fn trouble_after_a_list_keeps_no_first_snapshot_back() {
        let start = Instant::now();
        let grace = Duration::from_secs(5);
        // Trouble with services begins at once; nodes' list is the last to end, as many seconds later.
        let check = |listed: bool, seconds: u64, expected: [&str; 2]| {
            let mut assembly = Assembly::new(grace);
            let kinds = Kind::ALL[1..].iter().filter(|kind| listed || **kind != Kind::Service);
            let events: Vec<_> = kinds.flat_map(|kind| assembly.take(Told::Complete(*kind), start)).collect();
            assert_eq!(words(events), "");
            let told = assembly.take(Told::Failing(Kind::Service, trouble(start, "busy")), start);
            let later = start + Duration::from_secs(seconds);
            let told = [words(told), words(assembly.take(Told::Complete(Kind::Node), later))];
            assert_eq!(told, expected, "{listed} {seconds}");
            words(assembly.tick(start + grace))
        };
        assert_eq!(check(true, 2, ["", "synced"]), "stale: busy");
        assert_eq!(check(true, 6, ["", "synced"]), "stale: busy");
        assert_eq!(check(false, 2, ["stale: busy", ""]), "");
    }

    #[test]
    fn short_trouble_is_not_told_and_long_trouble_ends_with_synced() {
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let mut assembly = Assembly::new(Duration::from_secs(5));
        // Before the first snapshot everybody wants to know at once.
        let told = assembly.take(Told::Failing(Kind::Node, trouble(start, "no route")), start);
        assert_eq!(words(told), "stale: no route");
        assert_eq!(words(assembly.take(Told::Well(Kind::Node), start)), "");
        for kind in &Kind::ALL[1..] {
            assert_eq!(words(assembly.take(Told::Complete(*kind), start)), "");
        }
        assert_eq!(words(assembly.take(Told::Complete(Kind::Node), start)), "synced");
        assert_eq!(words(assembly.take(Told::Complete(Kind::Node), start)), "");

        let failing = |kind, at: u64| Told::Failing(kind, trouble(after(at), "gone"));
        assert_eq!(words(assembly.take(failing(Kind::Pod, 10), after(10))), "");
        assert_eq!(assembly.due(), Some(after(15)));
        assert_eq!(words(assembly.take(Told::Well(Kind::Pod), after(11))), "");
        assert_eq!(assembly.due(), None);

        assert_eq!(words(assembly.take(failing(Kind::Pod, 20), after(20))), "");
        assert_eq!(words(assembly.take(failing(Kind::Node, 21), after(21))), "");
        assert_eq!(words(assembly.tick(after(25))), "stale: gone");
        assert_eq!(words(assembly.tick(after(26))), "");
        // Not before the last of them is well.
        assert_eq!(words(assembly.take(Told::Well(Kind::Pod), after(27))), "");
        assert_eq!(words(assembly.take(Told::Well(Kind::Node), after(28))), "synced");
    }
}
