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
    /// Mounts of the lab's own process, unchanged.
    pub mounts: usize,
}

impl std::fmt::Display for Leftovers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} processes and {} namespaces are gone, links ({}) and mounts ({}) are as before, no file is left",
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

    /// Looks for everything; waits a little for what the kernel does in the background.
    pub fn after(self) -> Result<Leftovers, LabError> {
        let made = self.made.into_inner().unwrap_or_else(PoisonError::into_inner);
        let deadline = Instant::now() + PATIENCE;
        loop {
            let mut found = Vec::new();
            found.extend(alive(&made.processes).map(|p| format!("process {p}")));
            found.extend(in_use().intersection(&made.namespaces).map(|n| format!("namespace {n}")));
            found.extend(links()?.symmetric_difference(&self.links).map(|l| format!("link {l}")));
            found.extend(mounts()?.symmetric_difference(&self.mounts).map(|m| format!("mount {m}")));
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

/// The namespaces that any process is in.
fn in_use() -> BTreeSet<u64> {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    processes.flat_map(|p| namespaces_of(&p.path().join("ns"))).collect()
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
