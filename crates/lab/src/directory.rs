//! The lab's directory: the machines' disks, shared files, and the state by which other programs find the lab.
//!
//! It lies in the temporary directory under a folder that only its user may enter.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::unistd::geteuid;
use serde::{Deserialize, Serialize};

use crate::{LabError, sandbox};

/// What `weft lab exec` needs to know of a lab.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct State {
    /// The lab's own process.
    pub pid: i32,
    /// A process of each machine and pod, by name.
    pub places: BTreeMap<String, i32>,
}

/// The folder of all labs of this user.
pub(crate) fn base() -> PathBuf {
    std::env::temp_dir().join(format!("weft-lab-{}", sandbox::outer_uid()))
}

/// A lab's directory; removed when dropped.
#[derive(Debug)]
pub(crate) struct Directory(PathBuf);

impl Directory {
    pub fn create(name: &str) -> Result<Self, LabError> {
        let base = base();
        make_private(&base)?;
        let path = base.join(name);
        if let Some(state) = read_state(&path).filter(|s| Path::new(&format!("/proc/{}", s.pid)).exists()) {
            return Err(LabError::Busy { name: name.into(), pid: state.pid });
        }
        if path.exists() {
            // Left by a lab that was killed; its namespaces went with it.
            fs::remove_dir_all(&path).map_err(LabError::file("remove", &path))?;
        }
        make_private(&path)?;
        Ok(Self(path))
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Replaces the state atomically.
    pub fn write_state(&self, state: &State) -> Result<(), LabError> {
        let (file, fresh) = (self.0.join("state.json"), self.0.join("state.json.new"));
        let text = serde_json::to_string_pretty(state).unwrap_or_default();
        fs::write(&fresh, text).map_err(LabError::file("write", &fresh))?;
        fs::rename(&fresh, &file).map_err(LabError::file("replace", &file))
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        // What can't be removed is found by `leftovers`, or by the next lab of this name.
        let _ = fs::remove_dir_all(&self.0);
        // Fails while there are other labs.
        let _ = fs::remove_dir(base());
    }
}

pub(crate) fn read_state(directory: &Path) -> Option<State> {
    serde_json::from_slice(&fs::read(directory.join("state.json")).ok()?).ok()
}

/// Makes a directory that only we may enter, or checks that it is one: others may write in the temporary directory.
fn make_private(path: &Path) -> Result<(), LabError> {
    match fs::DirBuilder::new().mode(0o700).create(path) {
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {
            let found = fs::symlink_metadata(path).map_err(LabError::file("look at", path))?;
            if found.is_dir() && found.uid() == geteuid().as_raw() && found.mode() & 0o077 == 0 {
                return Ok(());
            }
            let why = std::io::Error::other("it belongs to somebody else, or others may enter it; remove it");
            Err(LabError::file("use", path)(why))
        }
        result => result.map_err(LabError::file("make", path)),
    }
}
