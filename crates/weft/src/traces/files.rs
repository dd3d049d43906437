//! Files of Weft's on this machine: which they are, and their removal.
//!
//! What always holds: only files that are ours by name or by content are named or removed; a folder goes only when that
//! leaves it empty.

use std::fs;
use std::io::{self, ErrorKind};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use weft_agent::AgentConfig;
use weft_agent::config::CniConfig;
use weft_agent::conflist;
use weft_agent::machine;
use weft_agent::records::RECORDS;
use weft_agent::trial;
use weft_cni::weft::config::DEFAULT_STATE_DIR;

use crate::cli::DEFAULT_RUN_DIR;

/// What the agent keeps in its state folder.
const STATE: [&str; 5] = [RECORDS, "tombstones", "facts.log", "sysctl-originals", machine::FILE];
/// What it keeps in its run folder.
const RUN: [&str; 5] = ["weft.sock", "weft.new", "agent.pid", "next.pid", trial::FOLDER];
/// The file that tells our lease folders from host-local's.
const LEASE_MARK: &str = "boot_id";

/// Where an agent with this configuration leaves files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Places {
    /// State that outlives the agent.
    pub state_dir: PathBuf,
    /// Socket and lock.
    pub run_dir: PathBuf,
    /// The runtimes' configuration.
    pub conflist: PathBuf,
    /// Leases, a folder for each network.
    pub lease_dir: PathBuf,
}

impl Places {
    /// By configuration, or the customary ones; a run folder that was named counts more.
    pub fn new(config: Option<&AgentConfig>, run_dir: Option<PathBuf>) -> Self {
        let usual = CniConfig::default();
        let cni = config.map_or(&usual, |config| &config.cni);
        Self {
            state_dir: config.map_or_else(|| DEFAULT_STATE_DIR.into(), |config| config.state_dir.clone()),
            run_dir: run_dir
                .or_else(|| Some(config?.run_dir.clone()))
                .unwrap_or_else(|| DEFAULT_RUN_DIR.into()),
            conflist: cni.conf_dir.join(&cni.conf_name),
            lease_dir: cni.lease_dir.clone(),
        }
    }

    /// Files and folders of ours that are there, in the order in which they should go: the runtimes' configuration
    /// first, so that no more pods come.
    pub fn present(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        found.extend(conflist::is_ours(&self.conflist).then(|| self.conflist.clone()));
        // By its name alone: a writer that was killed may have left any part of it.
        let unfinished = conflist::unfinished(&self.conflist);
        found.extend(unfinished.is_file().then_some(unfinished));
        found.extend(lease_folders(&self.lease_dir));
        found.extend(named(&self.state_dir, &STATE));
        found.extend(named(&self.run_dir, &RUN));
        found
    }

    /// Removes them, but for one that is to stay. Returns what was removed, and what could not be, with the reason.
    pub fn remove_but(&self, stays: Option<&Path>) -> (Vec<PathBuf>, Vec<(PathBuf, io::Error)>) {
        let (mut removed, mut failed) = (Vec::new(), Vec::new());
        for path in self.present().into_iter().filter(|path| Some(path.as_path()) != stays) {
            let is_lease_folder = path.parent() == Some(&self.lease_dir);
            let done = match path.symlink_metadata() {
                Ok(data) if data.is_dir() && is_lease_folder => remove_leases(&path),
                Ok(data) if data.is_dir() => fs::remove_dir_all(&path),
                _ => fs::remove_file(&path),
            };
            match done {
                Err(error) if error.kind() != ErrorKind::NotFound => failed.push((path, error)),
                _ => removed.push(path),
            }
        }
        for folder in [&self.lease_dir, &self.state_dir, &self.run_dir] {
            // What is not empty holds something of somebody else's.
            let _ = fs::remove_dir(folder);
        }
        (removed, failed)
    }
}

/// Files in a folder that begin with one of these names: some have a second one beside them while they are replaced.
fn named(folder: &Path, names: &[&str]) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let ours = entries.filter(|entry| {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        names
            .iter()
            .any(|ours| name.strip_prefix(ours).is_some_and(|rest| rest.is_empty() || rest.starts_with('.')))
    });
    let mut paths: Vec<PathBuf> = ours.map(|entry| entry.path()).collect();
    paths.sort();
    paths
}

fn lease_folders(lease_dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(lease_dir).into_iter().flatten().flatten();
    let mut folders: Vec<PathBuf> =
        entries.map(|entry| entry.path()).filter(|path| path.join(LEASE_MARK).is_file()).collect();
    folders.sort();
    folders
}

/// Removes what the lease layout has in a network's folder; the mark goes last, so that a second try finds the rest.
fn remove_leases(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let ours = name == "lock"
            || name == ".boot_id"
            || name == ".spare"
            || name.starts_with("last_reserved_ip.")
            || name.parse::<IpAddr>().is_ok();
        if ours {
            fs::remove_file(entry.path())?;
        }
    }
    fs::remove_file(folder.join(LEASE_MARK))?;
    match fs::remove_dir(folder) {
        // Something of somebody else's is in it.
        Err(error) if error.kind() == ErrorKind::DirectoryNotEmpty => Ok(()),
        done => done,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: &str = r#"{"name": "weft", "plugins": [{"type": "weft"}]}"#;

    fn files_of(files: &[(&str, &str)]) -> (tempfile::TempDir, Places) {
        let folder = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = folder.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let at = |path: &str| folder.path().join(path);
        let places = Places {
            state_dir: at("state"),
            run_dir: at("run"),
            conflist: at("cni/10-weft.conflist"),
            lease_dir: at("leases"),
        };
        (folder, places)
    }

    fn files(folder: &Path) -> Vec<String> {
        let mut all = Vec::new();
        let mut open = vec![folder.to_owned()];
        while let Some(next) = open.pop() {
            for entry in fs::read_dir(next).unwrap().flatten() {
                match entry.path().is_dir() {
                    true => open.push(entry.path()),
                    false => all.push(entry.path().strip_prefix(folder).unwrap().display().to_string()),
                }
            }
        }
        all.sort();
        all
    }

    #[test]
    fn all_of_ours_goes_and_nothing_else_and_twice_is_fine() {
        let (folder, places) = files_of(&[
            ("cni/10-weft.conflist", OURS),
            ("cni/10-weft.weft-new", "{"),
            ("cni/20-other.conflist", OURS),
            ("leases/default/10.244.1.2", "c1\r\neth0"),
            ("leases/default/boot_id", "x"),
            ("leases/default/.spare", "c3"),
            ("leases/default/lock", ""),
            ("leases/default/last_reserved_ip.0", "10.244.1.2"),
            ("leases/default/notes", "mine"),
            ("leases/podman/10.88.0.2", "c9"),
            ("state/attachments/c1:eth0.json", "{}"),
            ("state/tombstones/c2:eth0", "{}"),
            ("state/facts.log", ""),
            ("state/facts.log.new", ""),
            ("state/facts.log.incomplete", ""),
            ("state/facts.logbook", "not ours"),
            ("state/machine", "x"),
            ("run/agent.pid", "1"),
        ]);
        let word = places.state_dir.join("machine");
        let (removed, failed) = places.remove_but(Some(&word));
        assert!(failed.is_empty(), "{failed:?}");
        assert_eq!(removed.len(), 9, "{removed:?}");
        assert_eq!(places.present(), [word]);
        let (removed, failed) = places.remove_but(None);
        assert_eq!((removed.len(), failed.len()), (1, 0));
        let left = [
            "cni/20-other.conflist",
            "leases/default/notes",
            "leases/podman/10.88.0.2",
            "state/facts.logbook",
        ];
        assert_eq!(files(folder.path()), left);
        assert!(!places.run_dir.exists());
        let (removed, failed) = places.remove_but(None);
        assert_eq!((removed.len(), failed.len()), (0, 0));
        assert_eq!(places.present(), Vec::<PathBuf>::new());
    }

    #[test]
    fn somebody_elses_conflist_of_our_name_stays() {
        let check = |text: &str, ours: bool| {
            let (_folder, places) = files_of(&[("cni/10-weft.conflist", text)]);
            assert_eq!(places.present().len(), usize::from(ours), "{text}");
        };
        check(OURS, true);
        check(r#"{"plugins": [{"type": "bridge"}]}"#, false);
        check("{", false);
    }
}
