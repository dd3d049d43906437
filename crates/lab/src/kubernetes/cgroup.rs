//! A node's control groups: one in each hierarchy, under a name that only this lab has.
//!
//! Version 1 has a folder for each controller below `/sys/fs/cgroup`, version 2 is that folder itself; a system may have both.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::LabError;

const ROOT: &str = "/sys/fs/cgroup";
/// How long the kernel may take to let go of groups whose processes are dead.
const PATIENCE: Duration = Duration::from_secs(10);

/// The groups of one node; removed by [`Groups::remove`].
#[derive(Debug)]
pub struct Groups {
    name: String,
}

impl Groups {
    /// Makes them.
    pub fn make(node: &str) -> Result<Self, LabError> {
        let groups = Self { name: format!("weft-lab-{}-{node}", std::process::id()) };
        for hierarchy in hierarchies() {
            let path = hierarchy.join(&groups.name);
            fs::create_dir_all(&path).map_err(LabError::file("make", &path))?;
            // A new group of version 1 has no processors until it is given some.
            for file in ["cpuset.cpus", "cpuset.mems"] {
                let parents = fs::read_to_string(hierarchy.join(file)).unwrap_or_default();
                if hierarchy.ends_with("cpuset") && !parents.trim().is_empty() {
                    let path = path.join(file);
                    fs::write(&path, parents).map_err(LabError::file("write", &path))?;
                }
            }
        }
        Ok(groups)
    }

    /// Their name, below each hierarchy's root.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Removes them with all below them. Their processes must be dead.
    pub fn remove(&self) -> Result<(), LabError> {
        for path in hierarchies().iter().map(|hierarchy| hierarchy.join(&self.name)) {
            let deadline = Instant::now() + PATIENCE;
            while let Err(error) = remove_tree(&path) {
                if Instant::now() > deadline {
                    return Err(LabError::file("remove", path)(error));
                }
                std::thread::sleep(Duration::from_millis(50));
            }
        }
        Ok(())
    }
}

/// Groups are folders that can't be emptied, only removed from below.
fn remove_tree(path: &Path) -> std::io::Result<()> {
    let Ok(entries) = fs::read_dir(path) else { return Ok(()) };
    for entry in entries.flatten().filter(|entry| entry.path().is_dir()) {
        remove_tree(&entry.path())?;
    }
    fs::remove_dir(path)
}

fn hierarchies() -> Vec<PathBuf> {
    let root = Path::new(ROOT);
    if root.join("cgroup.controllers").exists() {
        return vec![root.to_owned()];
    }
    let entries = fs::read_dir(root).into_iter().flatten().flatten();
    // Several controllers in one hierarchy are a folder, and a link for each name.
    entries.map(|entry| entry.path()).filter(|path| path.is_dir() && !path.is_symlink()).collect()
}
