//! The proof that a lab has left nothing: what it made is noted, and looked for when it has ended.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::LabError;
use crate::machine::Machine;

/// What was looked for after a lab, all of it gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Leftovers {
    /// Processes of machines and pods.
    pub processes: usize,
    /// Namespaces of machines and pods.
    pub namespaces: usize,
    /// Links of the lab's own network, unchanged.
    pub links: usize,
    /// Mounts of the lab's own process before it, none added.
    pub mounts: usize,
}

impl std::fmt::Display for Leftovers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} processes and {} namespaces are gone, links ({}) are as before, no mount is new ({}), no file is left",
            self.processes, self.namespaces, self.links, self.mounts
        )
    }
}

/// How the system looked before, and what the lab has made since.
#[derive(Debug)]
pub(crate) struct Traces {
    directory: PathBuf,
    links: BTreeSet<String>,
    mounts: BTreeSet<String>,
    made: Mutex<Made>,
}

#[derive(Debug, Default)]
struct Made {
    processes: BTreeSet<i32>,
    namespaces: BTreeSet<u64>,
}

/// The kernel takes network namespaces apart in the background.
const PATIENCE: Duration = Duration::from_secs(10);

impl Traces {
    pub fn before(directory: &Path) -> Result<Self, LabError> {
        Ok(Self { directory: directory.into(), links: links()?, mounts: mounts()?, made: Mutex::default() })
    }

    pub fn note_machine(&self, machine: &Machine) {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        made.processes.insert(machine.pid());
        made.namespaces.extend(machine.namespaces());
    }

    pub fn note_process(&self, pid: i32) {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        made.processes.insert(pid);
        made.namespaces.extend(namespaces_of(Path::new(&format!("/proc/{pid}/ns"))));
        // What the lab's own process lives in stays.
        for own in namespaces_of(Path::new("/proc/self/ns")) {
            made.namespaces.remove(&own);
        }
    }

    /// A machine has ended before the lab: from now on its namespaces' numbers may be given to others'.
    pub fn forget_machine(&self, machine: &Machine) {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        for namespace in machine.namespaces() {
            made.namespaces.remove(&namespace);
        }
    }

    /// Looks for everything; waits a little for what the kernel does in the background. Taking down began at `begun`.
    pub fn after(self, begun: Ticks) -> Result<Leftovers, LabError> {
        let made = self.made.into_inner().unwrap_or_else(PoisonError::into_inner);
        let deadline = Instant::now() + PATIENCE;
        loop {
            let mut found = Vec::new();
            found.extend(alive(&made.processes).map(|p| format!("process {p}")));
            found.extend(in_use(begun).intersection(&made.namespaces).map(|n| format!("namespace {n}")));
            found.extend(links()?.symmetric_difference(&self.links).map(|l| format!("link {l}")));
            // A mount that is no longer there is no rest: the kernel takes one away everywhere when its mount point is removed anywhere,
            // as another program does with a namespace of its own in /run/netns.
            found.extend(mounts()?.difference(&self.mounts).map(|m| format!("mount {m}")));
            found.extend(self.directory.exists().then(|| format!("directory {}", self.directory.display())));
            if found.is_empty() {
                return Ok(Leftovers {
                    processes: made.processes.len(),
                    namespaces: made.namespaces.len(),
                    links: self.links.len(),
                    mounts: self.mounts.len(),
                });
            }
            if Instant::now() > deadline {
                return Err(LabError::Leftovers(found.join(", ")));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

fn alive(processes: &BTreeSet<i32>) -> impl Iterator<Item = i32> {
    processes.iter().copied().filter(|p| Path::new(&format!("/proc/{p}")).exists())
}

/// Hundredths of a second since the machine's start (`USER_HZ`), by which the kernel says when a process began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Ticks(u64);

impl Ticks {
    pub fn now() -> Result<Self, LabError> {
        let path = "/proc/uptime";
        let text = fs::read_to_string(path).map_err(LabError::file("read", path))?;
        let seconds =
            text.split(' ').next().and_then(|number| number.parse::<f64>().ok()).unwrap_or(f64::MAX);
        Ok(Self((seconds * 100.0) as u64))
    }

    /// When a process began, by its `/proc/PID/stat` (proc_pid_stat(5), field 22; the second is a name that may hold anything).
    fn of(stat: &str) -> Option<Self> {
        let (_, rest) = stat.rsplit_once(") ")?;
        rest.split(' ').nth(19)?.parse().ok().map(Self)
    }
}

/// The namespaces that any process is in, but for processes that began later: the kernel gives numbers of namespaces anew, and
/// nothing of a lab begins while it is taken down.
fn in_use(begun: Ticks) -> BTreeSet<u64> {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let ours = processes.filter(|process| {
        let stat = fs::read_to_string(process.path().join("stat")).unwrap_or_default();
        Ticks::of(&stat).is_some_and(|since| since <= begun)
    });
    ours.flat_map(|p| namespaces_of(&p.path().join("ns"))).collect()
}

fn namespaces_of(directory: &Path) -> Vec<u64> {
    let kinds = ["net", "mnt", "uts", "ipc", "pid"];
    kinds.iter().filter_map(|k| fs::metadata(directory.join(k)).ok()).map(|m| m.ino()).collect()
}

/// Names of the links of this thread's network.
fn links() -> Result<BTreeSet<String>, LabError> {
    let path = "/proc/thread-self/net/dev";
    let text = fs::read_to_string(path).map_err(LabError::file("read", path))?;
    Ok(text.lines().filter_map(|l| l.split_once(':')).map(|(name, _)| name.trim().to_owned()).collect())
}

/// Mount points of this process.
fn mounts() -> Result<BTreeSet<String>, LabError> {
    let path = "/proc/thread-self/mountinfo";
    let text = fs::read_to_string(path).map_err(LabError::file("read", path))?;
    Ok(text.lines().filter_map(|l| l.split(' ').nth(4)).map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::Ticks;

    #[test]
    fn a_process_that_runs_began_before_now() {
        let own = Ticks::of(&std::fs::read_to_string("/proc/self/stat").unwrap()).unwrap();
        assert!(own <= Ticks::now().unwrap() && own > Ticks(0));
        assert_eq!(Ticks::of("7 (a) b) S 1 1 1 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 4711 0 0"), Some(Ticks(4711)));
        assert_eq!(Ticks::of(""), None);
    }
}
