//! A node's control groups: one in each hierarchy, under a name that only this lab has.
//!
//! Version 1 has a folder for each controller below `/sys/fs/cgroup`, version 2 is that folder itself; a system may have both.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::LabError;

const ROOT: &str = "/sys/fs/cgroup";
/// What names of groups begin with; the lab's process and the node follow.
const PREFIX: &str = "weft-lab-";
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
        let groups = Self { name: format!("{PREFIX}{}-{node}", std::process::id()) };
        for hierarchy in hierarchies() {
            remove_orphans(&hierarchy);
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

/// Removes groups of labs that were killed before they could.
fn remove_orphans(hierarchy: &Path) {
    for entry in fs::read_dir(hierarchy).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if maker(&name).is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            // What still has processes stays: it is in nobody's way.
            let _ = remove_tree(&entry.path());
        }
    }
}

/// The process that has made a group of this name.
fn maker(name: &str) -> Option<&str> {
    let (pid, _) = name.strip_prefix(PREFIX)?.split_once('-')?;
    pid.bytes().all(|byte| byte.is_ascii_digit()).then_some(pid)
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

#[cfg(test)]
mod tests {
    #[test]
    fn a_group_names_who_made_it() {
        let check = |name: &str, pid: Option<&str>| assert_eq!(super::maker(name), pid, "{name}");
        check("weft-lab-27-n1", Some("27"));
        check("weft-lab-27", None);
        check("weft-lab-x-n1", None);
        check("system.slice", None);
    }
}
