//! The machine's files, below a root that tests choose.

use std::fs;
use std::path::{Path, PathBuf};

/// A machine as its file system shows it.
#[derive(Debug, Clone)]
pub struct Machine {
    root: PathBuf,
}

/// A process, as far as a check needs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// Its id.
    pub pid: u32,
    /// Its name (`/proc/PID/comm`, at most 15 characters).
    pub name: String,
}

impl Machine {
    /// The machine that this process runs on.
    pub fn this() -> Self {
        Self { root: "/".into() }
    }

    /// A machine whose files lie below `root`.
    #[cfg(test)]
    pub fn below(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    /// Where an absolute path lies.
    pub fn path(&self, path: impl AsRef<Path>) -> PathBuf {
        let path = path.as_ref();
        self.root.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// A file's text; nothing where it can't be read.
    pub fn text(&self, path: impl AsRef<Path>) -> Option<String> {
        fs::read_to_string(self.path(path)).ok()
    }

    /// Whether there is such a file or folder.
    pub fn has(&self, path: impl AsRef<Path>) -> bool {
        self.path(path).exists()
    }

    /// Names in a folder, sorted; none where it can't be read.
    pub fn names(&self, folder: impl AsRef<Path>) -> Vec<String> {
        let entries = fs::read_dir(self.path(folder)).into_iter().flatten().flatten();
        let mut names: Vec<String> =
            entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    /// A sysctl by its path below `/proc/sys`.
    pub fn sysctl(&self, path: &str) -> Option<String> {
        Some(self.text(Path::new("/proc/sys").join(path))?.trim().to_owned())
    }

    /// A sysctl that is a number.
    pub fn sysctl_number(&self, path: &str) -> Option<u64> {
        self.sysctl(path)?.parse().ok()
    }

    /// Names of the links of this process's network namespace. (`/sys/class/net` may show another's.)
    pub fn links(&self) -> Vec<String> {
        let text = self.text("/proc/self/net/dev").unwrap_or_default();
        text.lines().filter_map(|line| line.split_once(':')).map(|(name, _)| name.trim().to_owned()).collect()
    }

    /// All processes.
    pub fn processes(&self) -> impl Iterator<Item = Process> + '_ {
        let pids = self.names("/proc").into_iter().filter_map(|name| name.parse::<u32>().ok());
        pids.filter_map(|pid| {
            let name = self.text(format!("/proc/{pid}/comm"))?.trim().to_owned();
            Some(Process { pid, name })
        })
    }

    /// The process that has a socket open, by the socket's inode.
    pub fn owner_of_socket(&self, inode: u64) -> Option<Process> {
        let wanted = PathBuf::from(format!("socket:[{inode}]"));
        self.processes().find(|process| {
            let folder = self.path(format!("/proc/{}/fd", process.pid));
            let entries = fs::read_dir(folder).into_iter().flatten().flatten();
            entries.into_iter().any(|entry| fs::read_link(entry.path()).is_ok_and(|target| target == wanted))
        })
    }
}

#[cfg(test)]
pub mod testing {
    //! A machine made of files for one test.

    use super::{Machine, Path, fs};
    use tempfile::TempDir;

    /// Files in a folder that is gone with the test.
    pub struct FakeMachine {
        folder: TempDir,
    }

    impl FakeMachine {
        /// A machine with these files: path and text.
        pub fn new(files: &[(&str, &str)]) -> Self {
            let folder = tempfile::tempdir().unwrap();
            for (path, text) in files {
                let path = folder.path().join(Path::new(path).strip_prefix("/").unwrap());
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, text).unwrap();
            }
            Self { folder }
        }

        /// Adds a process that has a file open.
        pub fn process(&self, pid: u32, name: &str, open: &str) {
            let folder = self.folder.path().join(format!("proc/{pid}"));
            fs::create_dir_all(folder.join("fd")).unwrap();
            fs::write(folder.join("comm"), name).unwrap();
            std::os::unix::fs::symlink(open, folder.join("fd/3")).unwrap();
        }

        /// It as checks see it.
        pub fn machine(&self) -> Machine {
            Machine::below(self.folder.path())
        }
    }
}
