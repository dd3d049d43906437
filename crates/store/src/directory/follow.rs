//! Follows files: when to read one, what to believe, what to say.
//!
//! What always holds: a version of a file counts at once where it parses, ends as a text ends, and takes no object
//! away. Any other one has to stay unchanged for the settle time first; and where a part of it is broken, what the file
//! held before stays in force for everything that is missing now.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use weft_model::FactKey;

use super::DirectoryOptions;
use super::layout;
use super::notify::Hint;
use super::scan::{self, Fingerprint, Found};
use super::version::{self, Text};
use crate::object::Interner;
use crate::store::{Event, Remark};
use crate::words::{Manifest, Words, Writer};

/// What was read of a file.
#[derive(Debug, Clone, Copy)]
struct Known {
    /// How it looked; `None` where it has to be read again at the next look.
    seen: Option<Fingerprint>,
    /// Hash of its contents.
    contents: u64,
}

/// A file that may have changed.
#[derive(Debug, Clone, Copy)]
struct Pending {
    /// How it looked, or that it was gone; `None` before the first look.
    seen: Option<Option<Fingerprint>>,
    /// Since when it looks like that.
    since: Instant,
    /// How long it has to look like that before it is read.
    patience: Duration,
    due: Instant,
}

/// Why a file was not taken in.
enum Refusal {
    /// It has to stay as it is for longer.
    Wait(Duration),
    /// It can't be read at all; what it held stays.
    Unreadable(String),
}

/// The fingerprint, if it is old enough to tell every later version from this one.
fn settled(fingerprint: Fingerprint) -> Option<Fingerprint> {
    Some(fingerprint).filter(|f| !f.is_young(SystemTime::now()))
}

/// The state of one watch.
#[derive(Debug)]
pub(super) struct Follower {
    root: PathBuf,
    options: DirectoryOptions,
    names: Interner,
    words: Words,
    known: HashMap<String, Known>,
    pending: BTreeMap<String, Pending>,
    /// When something was noted last.
    last_noted: Option<Instant>,
    /// Notices of whole folders.
    unreadable: BTreeSet<String>,
}

impl Follower {
    pub fn new(root: &Path, options: &DirectoryOptions) -> Self {
        Self {
            root: root.to_owned(),
            options: options.clone(),
            names: Interner::default(),
            words: Words::of("file"),
            known: HashMap::new(),
            pending: BTreeMap::new(),
            last_noted: None,
            unreadable: BTreeSet::new(),
        }
    }

    /// Reads everything at once: the first snapshot, where nothing is known that could get lost. What a file says of services
    /// is told before the next one is taken, so that little is held at a time; what is left is for [`Follower::drain`].
    pub fn load(&mut self, tell: &mut dyn FnMut(Event)) -> std::io::Result<Found> {
        let found = scan::scan(&self.root)?;
        self.note_unreadable(&found);
        let (root, limit) = (self.root.clone(), self.options.max_file);
        version::read_all(&root, &found, limit, &mut |version| {
            match version.outcome {
                Ok((contents, manifest)) => {
                    let seen = settled(version.fingerprint);
                    self.known.insert(version.path.clone(), Known { seen, contents });
                    self.words.accept(&version.path, &version.writer, manifest);
                }
                Err(text) => self.set_unreadable_file(&version.path, &text),
            }
            self.words.drain_decided().into_iter().for_each(&mut *tell);
        });
        Ok(found)
    }

    /// True where a look at the folder shows nothing, though files were known: perhaps it isn't mounted.
    pub fn is_suddenly_empty(&self, found: &Found) -> bool {
        found.files.is_empty() && found.unreadable.is_empty() && !self.words.table.is_empty()
    }

    /// Compares a look at the folder with what is known, and notes what differs.
    pub fn compare(&mut self, found: &Found, now: Instant) {
        self.note_unreadable(found);
        for (path, fingerprint) in &found.files {
            if self.known.get(path).and_then(|k| k.seen) != Some(*fingerprint) {
                self.note(path, self.options.settle, now);
            }
        }
        let hidden = |path: &str| {
            found
                .unreadable
                .keys()
                .any(|u| path.strip_prefix(u.as_str()).is_some_and(|r| r.is_empty() || r.starts_with('/')))
        };
        let gone: Vec<String> =
            self.known.keys().filter(|p| !found.files.contains_key(*p) && !hidden(p)).cloned().collect();
        for path in gone {
            self.note(&path, Duration::ZERO, now);
        }
    }

    /// Notes what the kernel says of a file.
    pub fn hint(&mut self, hint: &Hint, now: Instant) {
        match hint {
            Hint::Whole(path) => {
                if let Some(known) = self.known.get_mut(path) {
                    known.seen = None;
                }
                self.note(path, Duration::ZERO, now);
            }
            Hint::Open(path) => {
                if let Some(known) = self.known.get_mut(path) {
                    known.seen = None;
                }
                self.note(path, self.options.open, now);
            }
            Hint::Rescan => {}
        }
    }

    /// A file that is whole and comes after a silence is looked at at once; those that follow closely are gathered.
    fn note(&mut self, path: &str, patience: Duration, now: Instant) {
        let gather = self.options.debounce;
        let is_alone = self.last_noted.replace(now).is_none_or(|last| now.duration_since(last) >= gather);
        let due = if is_alone && patience.is_zero() { now } else { now + gather };
        let pending = Pending { seen: None, since: now, patience, due };
        let entry = self.pending.entry(path.to_owned()).or_insert(pending);
        entry.patience = patience;
        entry.due = entry.due.min(due);
    }

    /// Looks at the files that are due. Returns when to come again. `is_there` says whether the folder itself still is,
    /// and is asked before a file is believed gone.
    ///
    /// All are looked at before one is taken in, and what is gone goes last: an object whose file was renamed passes from
    /// one path to the other, and is away at no time.
    pub fn settle(&mut self, now: Instant, is_there: impl Fn() -> bool) -> Option<Instant> {
        let due: Vec<String> =
            self.pending.iter().filter(|(_, p)| p.due <= now).map(|(path, _)| path.clone()).collect();
        let looks = due.into_iter().filter_map(|path| {
            let pending = self.look(&path, now)?;
            Some((path, pending))
        });
        let (there, gone): (Vec<_>, Vec<_>) = looks.partition(|(_, pending)| pending.seen != Some(None));
        for (path, pending) in there {
            let next = self.examine(&path, &pending, now);
            self.put_off(path, pending, next);
        }
        for (path, pending) in gone {
            let next = self.let_go(&path, &pending, now, &is_there);
            self.put_off(path, pending, next);
        }
        self.pending.values().map(|p| p.due).min()
    }

    fn put_off(&mut self, path: String, pending: Pending, next: Option<Instant>) {
        match next {
            Some(due) => self.pending.insert(path, Pending { due, ..pending }),
            None => self.pending.remove(&path),
        };
    }

    /// How a file looks now, and since when; `None`, and no longer waited for, where that can't be told.
    fn look(&mut self, path: &str, now: Instant) -> Option<Pending> {
        let seen = match Fingerprint::of(&self.root.join(path)) {
            Ok(seen) => seen,
            Err(error) => {
                self.pending.remove(path);
                self.set_unreadable_file(path, &format!("it can't be looked at: {error}"));
                return None;
            }
        };
        self.words.table.set_leaving(path, seen.is_none());
        let pending = self.pending.get_mut(path)?;
        if pending.seen != Some(seen) {
            (pending.seen, pending.since) = (Some(seen), now);
        }
        Some(*pending)
    }

    /// Takes in a file that is there; returns when to look again, if it isn't done with.
    fn examine(&mut self, path: &str, pending: &Pending, now: Instant) -> Option<Instant> {
        let fingerprint = pending.seen.flatten()?;
        if self.known.get(path).and_then(|k| k.seen) == Some(fingerprint) {
            return None;
        }
        let readable = pending.since + pending.patience;
        if readable > now {
            return Some(readable);
        }
        match self.take(path, fingerprint, now.duration_since(pending.since)) {
            Ok(()) => None,
            Err(Refusal::Wait(time)) => Some(now + time),
            Err(Refusal::Unreadable(text)) => {
                self.set_unreadable_file(path, &text);
                None
            }
        }
    }

    /// Drops a file that is gone; returns when to look again, if it may come back, or what it held be in a file that waits.
    fn let_go(
        &mut self,
        path: &str,
        pending: &Pending,
        now: Instant,
        is_there: &impl Fn() -> bool,
    ) -> Option<Instant> {
        // A node takes its files away in one step; people's editors take a file away and put another in place.
        if !is_nodes(path) {
            let gone = pending.since + self.options.settle;
            if gone > now {
                return Some(gone);
            }
            // Not for one that is still being written, and not for ever.
            let last = gone + self.options.open;
            let is_awaited = |(path, other): (&String, &Pending)| {
                !is_nodes(path) && other.seen != Some(None) && other.patience <= self.options.settle
            };
            if last > now && self.pending.iter().any(is_awaited) {
                return Some(last.min(now + self.options.debounce));
            }
        }
        if is_there() {
            self.drop_file(path);
        }
        None
    }

    /// Reads a file that has been as it is for `age`, and takes it in.
    fn take(&mut self, path: &str, fingerprint: Fingerprint, age: Duration) -> Result<(), Refusal> {
        let Some(writer) = layout::writer_of(path) else { return Ok(()) };
        let text =
            Text::read(&self.root, path, fingerprint, self.options.max_file).map_err(Refusal::Unreadable)?;
        if Fingerprint::of(&self.root.join(path)).ok().flatten() != Some(fingerprint) {
            return Err(Refusal::Wait(self.options.debounce));
        }
        let (seen, contents) = (settled(fingerprint), text.contents);
        if let Some(known) = self.known.get_mut(path).filter(|k| k.contents == contents) {
            known.seen = seen;
            return Ok(());
        }
        let manifest = text.parse(path, &writer, &mut self.names).map_err(Refusal::Unreadable)?;
        let rest = self.options.settle.saturating_sub(age);
        let is_doubtful =
            || manifest.is_cut_off || !manifest.errors.is_empty() || self.takes_away(path, &manifest);
        if !rest.is_zero() && is_doubtful() {
            return Err(Refusal::Wait(rest));
        }
        self.known.insert(path.to_owned(), Known { seen, contents });
        self.words.accept(path, &writer, manifest);
        Ok(())
    }

    fn takes_away(&self, path: &str, manifest: &Manifest) -> bool {
        let now: BTreeSet<FactKey> = manifest.facts.iter().map(|d| d.fact.key()).collect();
        self.words.table.keys_of(path).any(|key| !now.contains(key))
    }

    fn drop_file(&mut self, path: &str) {
        self.known.remove(path);
        if let Some(writer) = layout::writer_of(path) {
            self.words.withdraw(path, &writer);
        }
    }

    fn set_unreadable_file(&mut self, path: &str, text: &str) {
        // It is read again at every look, and then taken in anew, whatever it holds.
        self.known.insert(path.to_owned(), Known { seen: None, contents: 0 });
        self.words.pass_over(path, text);
    }

    fn note_unreadable(&mut self, found: &Found) {
        for path in std::mem::take(&mut self.unreadable) {
            if !found.unreadable.contains_key(&path) {
                self.words.board.set(&path, None);
            }
        }
        for (path, text) in &found.unreadable {
            self.words.board.set(path, Some(Remark::Unread { text: text.clone(), only: None }));
            self.unreadable.insert(path.clone());
        }
    }

    /// True where no file is being waited for.
    pub fn is_settled(&self) -> bool {
        self.pending.is_empty()
    }

    /// Puts up or takes down a notice on the folder as a whole.
    pub fn set_notice(&mut self, about: &str, remark: Option<Remark>) {
        self.words.board.set(about, remark);
    }

    /// What there is to tell since the last call.
    pub fn drain(&mut self) -> Vec<Event> {
        self.words.drain()
    }
}

/// True of files that nodes write.
fn is_nodes(path: &str) -> bool {
    matches!(layout::writer_of(path), Some(Writer::Node(_)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use weft_model::Change;

    fn namespace(name: &str) -> String {
        format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: {name}}}\n")
    }

    fn keys(events: Vec<Event>) -> Vec<(String, bool)> {
        let changes = events.into_iter().filter_map(|event| match event {
            Event::Changes(changes) => Some(changes),
            _ => None,
        });
        changes
            .flatten()
            .map(|change| (change.key().to_string(), matches!(change, Change::Remove(_))))
            .collect()
    }

    /// Whatever the names, and however long the thread stands still between two turns.
    #[test]
    fn an_object_whose_file_is_renamed_is_away_at_no_time() {
        for (before, after) in [("a.yaml", "b.yaml"), ("b.yaml", "a.yaml")] {
            for pauses in [[10, 10, 10], [10, 300, 10], [10, 1000, 10], [400, 10, 300], [400, 400, 400]] {
                let folder = tempfile::tempdir().unwrap();
                let path = |name: &str| folder.path().join(name);
                std::fs::write(path(before), namespace("web")).unwrap();
                let mut follower = Follower::new(folder.path(), &DirectoryOptions::default());
                let mut loaded = Vec::new();
                follower.load(&mut |event| loaded.push(event)).unwrap();
                loaded.extend(follower.drain());
                assert_eq!(keys(loaded), [("namespace web".to_owned(), false)]);
                std::fs::rename(path(before), path(after)).unwrap();
                let mut now = Instant::now();
                follower.compare(&scan::scan(folder.path()).unwrap(), now);
                let mut told = Vec::new();
                for pause in pauses.into_iter().chain([10; 200]) {
                    now += Duration::from_millis(pause);
                    follower.settle(now, || true);
                    told.extend(keys(follower.drain()));
                }
                assert!(
                    told.iter().all(|(_, is_gone)| !is_gone),
                    "{before} to {after}, {pauses:?}: {told:?}"
                );
                std::fs::remove_file(path(after)).unwrap();
                follower.compare(&scan::scan(folder.path()).unwrap(), now);
                for turn in 1..=2 {
                    follower.settle(now + turn * Duration::from_secs(1), || true);
                }
                assert_eq!(keys(follower.drain()), [("namespace web".to_owned(), true)], "what is gone goes");
            }
        }
    }

    #[test]
    fn a_file_that_changes_for_ever_keeps_nothing_in_force_for_ever() {
        let folder = tempfile::tempdir().unwrap();
        let write = |file: &str, text: &str| std::fs::write(folder.path().join(file), text).unwrap();
        write("gone.yaml", &namespace("gone"));
        write("log.yaml", &namespace("a"));
        let options = DirectoryOptions { open: Duration::from_secs(1), ..DirectoryOptions::default() };
        let mut follower = Follower::new(folder.path(), &options);
        follower.load(&mut |_| {}).unwrap();
        follower.drain();
        std::fs::remove_file(folder.path().join("gone.yaml")).unwrap();
        let start = Instant::now();
        let went = (1..40u32).find(|turn| {
            let now = start + *turn * Duration::from_millis(50);
            write("log.yaml", &"#".repeat(*turn as usize));
            follower.compare(&scan::scan(folder.path()).unwrap(), now);
            follower.settle(now, || true);
            keys(follower.drain()).contains(&("namespace gone".to_owned(), true))
        });
        let after = went.unwrap() * 50;
        assert!((1300..1500).contains(&after), "{after} ms");
    }

    #[test]
    fn the_first_change_after_a_silence_is_not_waited_for_and_others_are_gathered() {
        let folder = tempfile::tempdir().unwrap();
        let options = DirectoryOptions { debounce: Duration::from_secs(10), ..DirectoryOptions::default() };
        let mut follower = Follower::new(folder.path(), &options);
        follower.load(&mut |_| {}).unwrap();
        let start = Instant::now();
        let mut changes = |file: &str, after: Duration| {
            std::fs::write(folder.path().join(file), namespace(file.trim_end_matches(".yaml"))).unwrap();
            follower.hint(&Hint::Whole(file.into()), start + after);
            let due = follower.settle(start + after, || true);
            let events = follower.drain();
            let facts: usize = events
                .iter()
                .map(|event| if let Event::Changes(changes) = event { changes.len() } else { 0 })
                .sum();
            (facts, due.map(|due| due - start))
        };
        let seconds = Duration::from_secs;
        assert_eq!(changes("a.yaml", seconds(0)), (1, None));
        assert_eq!(changes("b.yaml", seconds(1)), (0, Some(seconds(11))));
        assert_eq!(changes("c.yaml", seconds(2)), (0, Some(seconds(11))));
        assert_eq!(changes("d.yaml", seconds(13)), (3, None));
    }
}
