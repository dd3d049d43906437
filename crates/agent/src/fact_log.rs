//! The last known facts on disk, for a start without the store.
//!
//! A log of changes, a line of JSON each, written by a thread of its own; it is rewritten with the last change of each fact
//! when it has grown to several times that. So its cost follows the changes, not the cluster. A last line that was cut off
//! by a crash is passed over. What can't be written, for want of room on the disk, waits, the last change of each fact, and is tried again until it
//! can; meanwhile [`FactLog::trouble`] says so, and a mark beside the log tells the next agent. Nothing is forced to the platter: an older log is
//! still a log.
//!
//! What was known and can't be read again is not merely gone: [`LastFacts::lost`] says that something is missing, and so does a mark beside the
//! log ([`mark_incomplete`]) until the store has told everything, however often the log is rewritten meanwhile.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use weft_model::{Change, FactKey};

const NAME: &str = "facts.log";
/// Beside the log while it is known to lack facts.
const MARK: &str = "facts.log.incomplete";
/// Beside the log while more is known than it holds: from the first snapshot on until that is in its place, and while what is known can't be
/// written. It takes no room, and mostly can be had on a full disk.
const BEHIND: &str = "facts.log.behind";
/// The log is rewritten when it has this many lines more than twice the facts it held after the last time.
const SLACK: usize = 1000;
/// How long to wait before what couldn't be written is tried again.
const PAUSE: Duration = Duration::from_secs(10);
/// How long the end of an agent waits for its first log. Where that isn't in its place by then, the one before counts on, as one that lacks facts.
const GRACE: Duration = Duration::from_secs(1);

/// Why the log is behind; nothing where it isn't.
type Trouble = Mutex<Option<String>>;

/// What both sides know at once, whatever is queued.
#[derive(Default)]
struct Shared {
    trouble: Trouble,
    /// When the writer of a log that isn't in its place gives up.
    end: OnceLock<Instant>,
    /// The first snapshot is in its place, and nobody has asked since.
    has_settled: AtomicBool,
}

/// What the writer is told.
enum Entry {
    Changes(Vec<Change>),
    /// With what was said before, the log is a full snapshot of what is known.
    Full,
    /// And nothing is missing in what is known.
    Whole,
}

/// Writes the log.
pub struct FactLog {
    entries: Option<Sender<Entry>>,
    thread: Option<JoinHandle<()>>,
    shared: Arc<Shared>,
    grace: Duration,
    behind: PathBuf,
    /// A full snapshot was appended.
    is_full: AtomicBool,
}

impl FactLog {
    /// Begins a new log in the state folder; the old one stays until the new one holds a full snapshot, which
    /// [`FactLog::complete`] says.
    ///
    /// # Errors
    /// When the thread can't be started.
    pub fn begin(state_dir: &Path) -> io::Result<Self> {
        Self::begin_with(state_dir, PAUSE, GRACE)
    }

    fn begin_with(state_dir: &Path, pause: Duration, grace: Duration) -> io::Result<Self> {
        let (entries, inbox) = channel();
        let shared = Arc::new(Shared::default());
        let writer = Writer::of(state_dir.join(NAME), pause, shared.clone());
        // An agent that has ended may have left a part of one, and this one may have nothing to write for long.
        let _ = std::fs::remove_file(writer.temporary());
        let thread =
            std::thread::Builder::new().name("weft-facts".into()).spawn(move || writer.run(&inbox))?;
        let (behind, is_full) = (state_dir.join(BEHIND), AtomicBool::new(false));
        Ok(Self { entries: Some(entries), thread: Some(thread), shared, grace, behind, is_full })
    }

    /// Why what was appended is not on the disk yet, where it is not.
    pub fn trouble(&self) -> Option<String> {
        self.shared.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// True once, after the first snapshot is written: what that took is free.
    pub fn has_settled(&self) -> bool {
        self.shared.has_settled.swap(false, Ordering::Relaxed)
    }

    /// Appends changes.
    pub fn append(&self, changes: Vec<Change>) {
        self.tell(Entry::Changes(changes));
    }

    /// Says that what was appended so far is a full snapshot: from now on this log counts.
    pub fn complete(&self) {
        if !self.is_full.swap(true, Ordering::Relaxed) {
            // What is in force is newer than the log in its place from here on. Whoever is ended or killed before the writer has come to it,
            // which stands back behind all others, leaves word of that; whether the next agent hears of it is luck, on a full disk.
            let _ = File::create(&self.behind);
        }
        self.tell(Entry::Full);
    }

    /// Says that no fact is missing among those that are known: the mark of [`mark_incomplete`] goes, once this log is in its place.
    pub fn lacks_nothing(&self) {
        self.tell(Entry::Whole);
    }

    fn tell(&self, entry: Entry) {
        if let Some(sender) = &self.entries {
            // The thread ends after this alone.
            let _ = sender.send(entry);
        }
    }
}

impl Drop for FactLog {
    fn drop(&mut self) {
        // A first snapshot is queued as a whole, and its writer stands back behind all others: nobody waits for that.
        let _ = self.shared.end.set(Instant::now() + self.grace);
        self.entries = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// What a log holds.
#[derive(Debug)]
pub struct LastFacts {
    /// Every change that can be read, in order.
    pub changes: Vec<Change>,
    /// When the log was last written.
    pub written: SystemTime,
    /// Why facts are missing among these, where some are known to be.
    pub lost: Option<String>,
}

/// Reads the log of an earlier agent. `None` where there is none, and nothing says that there should be one.
pub fn read(state_dir: &Path) -> Option<LastFacts> {
    let path = state_dir.join(NAME);
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(error) => {
            let is_marked = [MARK, BEHIND].iter().any(|mark| state_dir.join(mark).exists());
            let is_missed = error.kind() != io::ErrorKind::NotFound || is_marked;
            return is_missed.then(|| LastFacts {
                changes: Vec::new(),
                written: SystemTime::UNIX_EPOCH,
                lost: Some(format!("{} can't be read: {error}", path.display())),
            });
        }
    };
    let written = file.metadata().and_then(|m| m.modified()).unwrap_or(SystemTime::UNIX_EPOCH);
    let (mut changes, mut strange, mut broken) = (Vec::new(), 0, None);
    for line in BufReader::new(file).split(b'\n') {
        match line {
            Ok(line) => match serde_json::from_slice::<Change>(&line) {
                Ok(change) => changes.push(change),
                Err(_) => strange += 1,
            },
            Err(error) => {
                broken = Some(error);
                break;
            }
        }
    }
    let path = path.display();
    let lost = match broken {
        Some(error) => Some(format!("{path} can't be read to its end: {error}")),
        None if strange > 0 => Some(format!(
            "{path}: {strange} lines are not understood: they are damaged, cut off, or another version wrote them"
        )),
        None if state_dir.join(MARK).exists() => {
            Some(format!("{path} was damaged, and the store has not told everything since"))
        }
        None if state_dir.join(BEHIND).exists() => {
            Some(format!("{path} lacks what the last agent knew, which it could not write before it ended"))
        }
        None => None,
    };
    Some(LastFacts { changes, written, lost })
}

/// Marks the log as one that lacks facts, whatever is written to it from now on, until [`FactLog::lacks_nothing`].
///
/// # Errors
/// The system's.
pub fn mark_incomplete(state_dir: &Path) -> io::Result<()> {
    File::create(state_dir.join(MARK)).map(|_| ())
}

fn remove_if_any(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// The file of a log.
struct Lines {
    file: File,
    /// Bytes of it that are whole lines.
    whole: u64,
}

impl Lines {
    fn create(path: &Path) -> io::Result<Self> {
        Ok(Self { file: File::create(path)?, whole: 0 })
    }

    /// Writes all of them, or counts as if there were none and takes up no room for them.
    fn append<T>(
        &mut self,
        lines: &[T],
        write: impl Fn(&mut dyn Write, &T) -> io::Result<()>,
    ) -> io::Result<()> {
        let done = self.try_append(lines, write);
        if done.is_err() {
            // Where that fails as well, the next attempt begins with it.
            let _ = self.file.set_len(self.whole);
        }
        done
    }

    fn try_append<T>(
        &mut self,
        lines: &[T],
        write: impl Fn(&mut dyn Write, &T) -> io::Result<()>,
    ) -> io::Result<()> {
        if self.file.stream_position()? != self.whole {
            // The last attempt ended in the middle of a line.
            self.file.set_len(self.whole)?;
            self.file.seek(SeekFrom::Start(self.whole))?;
        }
        let mut out = BufWriter::new(&self.file);
        for line in lines {
            write(&mut out, line)?;
            out.write_all(b"\n")?;
        }
        out.flush()?;
        drop(out);
        self.whole = self.file.stream_position()?;
        Ok(())
    }
}

struct Writer {
    path: PathBuf,
    file: Option<Lines>,
    lines: usize,
    limit: usize,
    /// What is yet to be written, and how much of that was left after the last look for what is outdated.
    waiting: Vec<Change>,
    needed: usize,
    /// With what is waiting, it is a full snapshot.
    is_full: bool,
    /// The log is in its place.
    is_adopted: bool,
    /// Nothing is missing in what is known.
    is_whole: bool,
    /// Nothing beside it says otherwise than that it holds what is known, and than [`Writer::is_whole`].
    has_no_mark: bool,
    pause: Duration,
    /// When to try again, after a failure.
    due: Option<Instant>,
    shared: Arc<Shared>,
}

impl Writer {
    fn of(path: PathBuf, pause: Duration, shared: Arc<Shared>) -> Self {
        Self {
            path,
            file: None,
            lines: 0,
            limit: SLACK,
            waiting: Vec::new(),
            needed: 0,
            is_full: false,
            is_adopted: false,
            is_whole: false,
            has_no_mark: false,
            pause,
            due: None,
            shared,
        }
    }

    fn run(mut self, inbox: &Receiver<Entry>) {
        crate::background::step_back();
        loop {
            let heard = match self.due {
                Some(due) => inbox.recv_timeout(due.saturating_duration_since(Instant::now())),
                None => inbox.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            if !self.is_adopted && self.shared.end.get().is_some_and(|end| *end <= Instant::now()) {
                let _ = std::fs::remove_file(self.temporary());
                return;
            }
            match heard {
                Ok(Entry::Changes(changes)) => self.waiting.extend(changes),
                Ok(Entry::Full) => self.is_full = true,
                Ok(Entry::Whole) => {
                    self.is_whole = true;
                    self.has_no_mark = false;
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    if self.due.is_some() {
                        self.catch_up();
                    }
                    return;
                }
            }
            match self.due {
                Some(due) if due > Instant::now() => self.forget_outdated(),
                _ => self.catch_up(),
            }
        }
    }

    /// Brings the disk up to what is known, or says why that can't be.
    fn catch_up(&mut self) {
        let written = self.write().and_then(|()| self.adopt());
        match &written {
            Err(_) => self.mark_behind(),
            Ok(()) => self.unmark(),
        }
        let done = written.and_then(|()| self.compact());
        self.due = done.is_err().then(|| Instant::now() + self.pause);
        let trouble = done.err().map(|error| {
            let path = self.path.display();
            format!(
                "{path}: {error}; until it can be written, which is tried again and again, a start without the store will know older facts"
            )
        });
        *self.shared.trouble.lock().unwrap_or_else(PoisonError::into_inner) = trouble;
    }

    /// Of all that waits, only the last change of each fact will matter.
    fn forget_outdated(&mut self) {
        if self.waiting.len() < 2 * self.needed + SLACK {
            return;
        }
        let last: HashMap<FactKey, usize> =
            self.waiting.iter().enumerate().map(|(at, change)| (change.key(), at)).collect();
        let mut at = 0;
        self.waiting.retain(|change| {
            at += 1;
            last.get(&change.key()) == Some(&(at - 1))
        });
        self.needed = self.waiting.len();
    }

    /// Whether the next agent hears of it is luck, on a full disk.
    fn mark_behind(&mut self) {
        self.has_no_mark = false;
        let _ = File::create(self.path.with_file_name(BEHIND));
    }

    /// Once the log in its place holds all that is known.
    fn unmark(&mut self) {
        if self.is_adopted && !self.has_no_mark {
            let outdated = if self.is_whole { &[BEHIND, MARK][..] } else { &[BEHIND] };
            self.has_no_mark =
                outdated.iter().all(|mark| remove_if_any(&self.path.with_file_name(mark)).is_ok());
        }
    }

    fn temporary(&self) -> PathBuf {
        self.path.with_extension("log.new")
    }

    fn write(&mut self) -> io::Result<()> {
        let file = match &mut self.file {
            Some(file) => file,
            None => {
                let created = Lines::create(&self.temporary())?;
                self.file.insert(created)
            }
        };
        file.append(&self.waiting, |out, change| Ok(serde_json::to_writer(out, change)?))?;
        self.lines += self.waiting.len();
        self.waiting = Vec::new();
        self.needed = 0;
        Ok(())
    }

    /// Puts the new log in the old one's place, once it holds a full snapshot.
    fn adopt(&mut self) -> io::Result<()> {
        if !self.is_full || self.is_adopted {
            return Ok(());
        }
        std::fs::rename(self.temporary(), &self.path)?;
        self.limit = 2 * self.lines + SLACK;
        self.is_adopted = true;
        self.shared.has_settled.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Rewrites the log once it has grown too long.
    fn compact(&mut self) -> io::Result<()> {
        if self.lines < self.limit || !self.is_adopted {
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
        let rewrite = || -> io::Result<Lines> {
            let mut file = Lines::create(&self.temporary())?;
            file.append(&keep, |out, at| out.write_all(lines[*at].as_bytes()))?;
            std::fs::rename(self.temporary(), &self.path)?;
            Ok(file)
        };
        self.file = Some(rewrite().inspect_err(|_| drop(std::fs::remove_file(self.temporary())))?);
        self.lines = keep.len();
        self.limit = 2 * self.lines + SLACK;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
