//! The last known facts on disk, for a start without the store.
//!
//! A log of changes, a line of JSON each, written by a thread of its own; it is rewritten with the last change of each fact
//! when it has grown to several times that. So its cost follows the changes, not the cluster. A last line that was cut off
//! by a crash is passed over. Nothing is forced to the platter: an older log is still a log.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::SystemTime;

use weft_model::{Change, FactKey};

const NAME: &str = "facts.log";
/// The log is rewritten when it has this many lines more than twice the facts it held after the last time.
const SLACK: usize = 1000;

/// Writes the log.
pub struct FactLog {
    changes: Option<Sender<Vec<Change>>>,
    thread: Option<JoinHandle<()>>,
}

impl FactLog {
    /// Begins a new log in the state folder; the old one stays until the new one holds a full snapshot, which
    /// [`FactLog::complete`] says.
    ///
    /// # Errors
    /// When the thread can't be started.
    pub fn begin(state_dir: &Path) -> io::Result<Self> {
        let (changes, inbox) = channel();
        let writer = Writer { path: state_dir.join(NAME), file: None, lines: 0, limit: SLACK };
        let thread =
            std::thread::Builder::new().name("weft-facts".into()).spawn(move || writer.run(&inbox))?;
        Ok(Self { changes: Some(changes), thread: Some(thread) })
    }

    /// Appends changes.
    pub fn append(&self, changes: Vec<Change>) {
        if let Some(sender) = &self.changes {
            // Without its thread there is no log, which the thread has said.
            let _ = sender.send(changes);
        }
    }

    /// Says that what was appended so far is a full snapshot: from now on this log counts.
    pub fn complete(&self) {
        self.append(Vec::new());
    }
}

impl Drop for FactLog {
    fn drop(&mut self) {
        self.changes = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Reads the log of an earlier agent: its changes, and when it was last written. `None` where there is none.
pub fn read(state_dir: &Path) -> Option<(Vec<Change>, SystemTime)> {
    let path = state_dir.join(NAME);
    let file = File::open(&path).ok()?;
    let written = file.metadata().and_then(|m| m.modified()).unwrap_or(SystemTime::UNIX_EPOCH);
    let lines = BufReader::new(file).lines().map_while(Result::ok);
    let (changes, strange): (Vec<_>, Vec<_>) =
        lines.map(|line| serde_json::from_str(&line)).partition(Result::is_ok);
    // The last one may have been cut off by a crash; more are another version's.
    if strange.len() > 1 {
        let (path, count) = (path.display(), strange.len());
        tracing::warn!(
            "{path}: {count} lines are not understood and passed over; another version wrote them"
        );
    }
    Some((changes.into_iter().flatten().collect(), written))
}

struct Writer {
    path: PathBuf,
    file: Option<BufWriter<File>>,
    lines: usize,
    limit: usize,
}

impl Writer {
    fn run(mut self, inbox: &Receiver<Vec<Change>>) {
        crate::background::step_back();
        let mut complete = false;
        while let Ok(changes) = inbox.recv() {
            let done = if changes.is_empty() && !complete {
                complete = true;
                self.adopt()
            } else {
                self.write(&changes).and_then(|()| self.compact(complete))
            };
            if let Err(error) = done {
                tracing::warn!(
                    "{}: {error}; a start without the store will know older facts",
                    self.path.display()
                );
                return;
            }
        }
    }

    fn temporary(&self) -> PathBuf {
        self.path.with_extension("log.new")
    }

    fn write(&mut self, changes: &[Change]) -> io::Result<()> {
        if self.file.is_none() {
            self.file = Some(BufWriter::new(File::create(self.temporary())?));
        }
        let Some(file) = &mut self.file else { return Ok(()) };
        for change in changes {
            serde_json::to_writer(&mut *file, change)?;
            file.write_all(b"\n")?;
        }
        self.lines += changes.len();
        file.flush()
    }

    /// Puts the new log in the old one's place.
    fn adopt(&mut self) -> io::Result<()> {
        self.write(&[])?;
        self.limit = 2 * self.lines + SLACK;
        std::fs::rename(self.temporary(), &self.path)
    }

    /// Rewrites the log once it has grown too long.
    fn compact(&mut self, complete: bool) -> io::Result<()> {
        if self.lines < self.limit || !complete {
            return Ok(());
        }
        let mut last: HashMap<FactKey, usize> = HashMap::new();
        let lines: Vec<String> = BufReader::new(File::open(&self.path)?).lines().collect::<Result<_, _>>()?;
        for (at, line) in lines.iter().enumerate() {
            if let Ok(change) = serde_json::from_str::<Change>(line) {
                match change {
                    Change::Set(fact) => drop(last.insert(fact.key(), at)),
                    Change::Remove(key) => drop(last.remove(&key)),
                }
            }
        }
        let mut keep: Vec<usize> = last.into_values().collect();
        keep.sort_unstable();
        let mut file = BufWriter::new(File::create(self.temporary())?);
        for at in &keep {
            writeln!(file, "{}", lines[*at])?;
        }
        file.flush()?;
        std::fs::rename(self.temporary(), &self.path)?;
        self.file = Some(file);
        self.lines = keep.len();
        self.limit = 2 * self.lines + SLACK;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use weft_model::{Fact, NamespaceName};

    fn set(name: &str) -> Change {
        Change::set(Fact::Namespace(NamespaceName::new(name).unwrap()))
    }

    fn replay(folder: &Path) -> Vec<String> {
        let mut names = std::collections::BTreeSet::new();
        for change in read(folder).map(|(changes, _)| changes).unwrap_or_default() {
            match change {
                Change::Set(fact) => drop(names.insert(fact.key().to_string())),
                Change::Remove(key) => drop(names.remove(&key.to_string())),
            }
        }
        names.into_iter().collect()
    }

    #[test]
    fn the_old_log_counts_until_the_new_one_is_complete() {
        let folder = tempfile::tempdir().unwrap();
        assert!(read(folder.path()).is_none());
        let log = FactLog::begin(folder.path()).unwrap();
        log.append(vec![set("a"), set("b")]);
        log.complete();
        log.append(vec![Change::Remove(FactKey::Namespace(NamespaceName::new("a").unwrap()))]);
        drop(log);
        assert_eq!(replay(folder.path()), ["namespace b"]);
        let log = FactLog::begin(folder.path()).unwrap();
        log.append(vec![set("c")]);
        drop(log);
        assert_eq!(replay(folder.path()), ["namespace b"]);
    }

    #[test]
    fn what_a_newer_version_wrote_is_read_as_far_as_it_is_known() {
        let folder = tempfile::tempdir().unwrap();
        let known = serde_json::to_string(&set("a")).unwrap();
        let strange = ["{\"Set\":{\"Policy\":{\"x\":1}}}", "{\"Rename\":[\"a\",\"b\"]}"].join("\n");
        std::fs::write(folder.path().join(NAME), format!("{strange}\n{known}\n")).unwrap();
        assert_eq!(replay(folder.path()), ["namespace a"]);
    }

    #[test]
    fn the_log_stays_in_proportion_and_survives_a_cut_line() {
        let folder = tempfile::tempdir().unwrap();
        let log = FactLog::begin(folder.path()).unwrap();
        log.complete();
        for _ in 0..50 {
            log.append((0..100).map(|n| set(&format!("n{}", n % 7))).collect());
        }
        drop(log);
        let text = std::fs::read_to_string(folder.path().join(NAME)).unwrap();
        assert!(text.lines().count() < 1500, "{}", text.lines().count());
        std::fs::write(folder.path().join(NAME), format!("{text}{{\"Set\":{{\"Na")).unwrap();
        assert_eq!(replay(folder.path()).len(), 7);
    }
}
