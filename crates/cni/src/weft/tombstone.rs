//! Tombstones: deletions that the plugin promised while the agent was away.
//!
//! A DEL must succeed even with no agent to serve it. The plugin then leaves the call in a small file,
//! `<stateDir>/tombstones/<container>:<ifname>`, and the agent carries it out when it returns. Until then addresses
//! stay leased, so nobody else gets them. An ADD whose answer was lost leaves one too, because the runtime takes it
//! for failed.
//!
//! What always holds: a tombstone appears whole or not at all, and there is at most one for an attachment. What the
//! agent owes: it looks at start, now and then after that, and before it serves an ADD of the same attachment; it
//! removes the file when the attachment is gone.
//!
//! Files are not synced to disk: after a reboot there is nothing left to delete.

use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::{fs, process};

use serde::{Deserialize, Serialize};

use crate::request::AttachmentRef;
use crate::weft::wire::Call;

/// A deletion that is owed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Tombstone {
    /// The call as the runtime made it, to be served as a DEL.
    pub call: Call,
    /// Why the agent did not do it at once, for people.
    pub reason: String,
}

impl Tombstone {
    /// The attachment, where the call names a valid one.
    pub fn id(&self) -> Option<AttachmentRef> {
        AttachmentRef::new(&self.call.container, &self.call.ifname).ok()
    }

    /// Writes the file, making its folder where it is missing.
    ///
    /// # Errors
    /// What the file system says; then nothing is left behind.
    pub fn write(&self, state_dir: &Path) -> io::Result<()> {
        let id = self.id().ok_or_else(|| io::Error::other("the call names no attachment"))?;
        let folder = folder(state_dir);
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder)?;
        let name = file_name(&id);
        let unfinished = folder.join(format!(".new-{}", process::id()));
        let written = fs::File::options()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&unfinished)
            .and_then(|mut file| file.write_all(&serde_json::to_vec(self).map_err(invalid)?))
            .and_then(|()| fs::rename(&unfinished, folder.join(name)));
        if written.is_err() {
            // The first error is the one to tell; this one would only repeat it.
            let _ = fs::remove_file(&unfinished);
        }
        written
    }
}

fn invalid(error: serde_json::Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

fn folder(state_dir: &Path) -> PathBuf {
    state_dir.join("tombstones")
}

/// No container id has a colon, so names are distinct. One that is too long for the file system is cut, and the whole
/// is told apart by a hash.
fn file_name(id: &AttachmentRef) -> String {
    let name = format!("{}:{}", id.container, id.ifname);
    if name.len() <= 200 {
        return name;
    }
    let hash =
        name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3));
    let start: String = id.container.chars().take(160).collect();
    format!("{start}~{hash:016x}")
}

/// Where the tombstone of `id` stands, if there is one.
pub fn path(state_dir: &Path, id: &AttachmentRef) -> PathBuf {
    folder(state_dir).join(file_name(id))
}

/// Reads the tombstone of one attachment; nothing where there is none.
///
/// # Errors
/// What the file system says, or `InvalidData` for a file that is no tombstone.
pub fn read(state_dir: &Path, id: &AttachmentRef) -> io::Result<Option<Tombstone>> {
    match fs::read(path(state_dir, id)) {
        Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(invalid),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// All tombstones in the order of their names, each with its file. One that can't be read is an error in its place.
///
/// # Errors
/// What the file system says about the folder; a missing folder has none.
pub fn list(state_dir: &Path) -> io::Result<Vec<(PathBuf, io::Result<Tombstone>)>> {
    let entries = match fs::read_dir(folder(state_dir)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut files = entries.map(|entry| entry.map(|entry| entry.path())).collect::<io::Result<Vec<_>>>()?;
    files.retain(|file| file.file_name().is_some_and(|name| !name.to_string_lossy().starts_with('.')));
    files.sort();
    let load = |file: PathBuf| {
        let stone = fs::read(&file).and_then(|bytes| serde_json::from_slice(&bytes).map_err(invalid));
        (file, stone)
    };
    Ok(files.into_iter().map(load).collect())
}

/// Removes the tombstone of `id`, if there is one.
///
/// # Errors
/// What the file system says.
pub fn remove(state_dir: &Path, id: &AttachmentRef) -> io::Result<()> {
    match fs::remove_file(path(state_dir, id)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stone(container: &str, ifname: &str) -> Tombstone {
        let call = Call { container: container.into(), ifname: ifname.into(), ..Call::default() };
        Tombstone { call, reason: "no agent".into() }
    }

    #[test]
    fn tombstones_are_written_listed_and_removed() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("not/yet/there");
        assert!(list(&state).unwrap().is_empty());
        // Joined by a dash, these two would share a file.
        for (container, ifname) in [("a-b", "c"), ("a", "b-c")] {
            stone(container, ifname).write(&state).unwrap();
            stone(container, ifname).write(&state).unwrap();
        }
        let found: Vec<_> = list(&state).unwrap().into_iter().map(|(_, stone)| stone.unwrap()).collect();
        assert_eq!(found, [stone("a-b", "c"), stone("a", "b-c")]);
        let id = found[0].id().unwrap();
        assert_eq!(read(&state, &id).unwrap().as_ref(), Some(&found[0]));
        remove(&state, &id).unwrap();
        remove(&state, &id).unwrap();
        assert_eq!(read(&state, &id).unwrap(), None);
        assert_eq!(list(&state).unwrap().len(), 1);
    }

    #[test]
    fn ids_too_long_for_a_file_name_stay_distinct() {
        let dir = tempfile::tempdir().unwrap();
        let long = "x".repeat(300);
        for container in [format!("{long}1"), format!("{long}2")] {
            stone(&container, "eth0").write(dir.path()).unwrap();
        }
        assert_eq!(list(dir.path()).unwrap().len(), 2);
    }

    #[test]
    fn a_broken_file_is_an_error_in_its_place() {
        let dir = tempfile::tempdir().unwrap();
        stone("a", "eth0").write(dir.path()).unwrap();
        fs::write(folder(dir.path()).join("b:eth0"), "{").unwrap();
        fs::write(folder(dir.path()).join(".new-1"), "{").unwrap();
        let all = list(dir.path()).unwrap();
        assert_eq!(all.iter().map(|(_, stone)| stone.is_ok()).collect::<Vec<_>>(), [true, false]);
    }

    #[test]
    fn a_file_where_the_folder_should_be_is_an_error_and_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("tombstones"), "").unwrap();
        assert!(stone("a", "eth0").write(dir.path()).is_err());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
