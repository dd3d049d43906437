//! A look at the whole folder: which files there are, and how to tell that one has changed.
//!
//! What always holds: links are followed, and no folder is entered twice, so that a loop ends. What can't be listed is
//! named as such, so that nobody takes it for empty.

use std::collections::{BTreeMap, HashSet};
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use super::layout;

/// Folders nested deeper than this are not entered.
const MAX_DEPTH: usize = 32;

/// What a file looks like from outside. Equal ones mean, in all likelihood, equal contents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Fingerprint {
    device: u64,
    inode: u64,
    /// Bytes.
    pub size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Fingerprint {
    /// A regular file's, links followed. `None` where there is no file.
    pub fn of(path: &Path) -> std::io::Result<Option<Self>> {
        match std::fs::metadata(path) {
            Ok(m) if m.is_file() => Ok(Some(Self::from(&m))),
            Ok(_) => Ok(None),
            Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// True where a further change could still leave the fingerprint as it is, because clocks of file systems tick
    /// slowly: two seconds at worst.
    pub fn is_young(&self, now: SystemTime) -> bool {
        let changed =
            SystemTime::UNIX_EPOCH + Duration::from_secs(self.changed.0.max(self.modified.0).max(0) as u64);
        now.duration_since(changed).is_ok_and(|age| age < Duration::from_secs(3))
    }
}

impl From<&std::fs::Metadata> for Fingerprint {
    fn from(m: &std::fs::Metadata) -> Self {
        Self {
            device: m.dev(),
            inode: m.ino(),
            size: m.size(),
            modified: (m.mtime(), m.mtime_nsec()),
            changed: (m.ctime(), m.ctime_nsec()),
        }
    }
}

/// What identifies the folder itself, so that another one in its place is noticed.
pub(super) fn identity(root: &Path) -> std::io::Result<(u64, u64)> {
    let m = std::fs::metadata(root)?;
    if m.is_dir() { Ok((m.dev(), m.ino())) } else { Err(ErrorKind::NotADirectory.into()) }
}

/// What a look has found. Paths are relative to the folder.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// Files that may hold manifests.
    pub files: BTreeMap<String, Fingerprint>,
    /// Folders, the root as the empty string.
    pub dirs: Vec<String>,
    /// Folders and files that can't be looked at, and why.
    pub unreadable: BTreeMap<String, String>,
}

/// Looks at the folder.
///
/// # Errors
/// When the folder itself can't be listed.
pub(super) fn scan(root: &Path) -> std::io::Result<Found> {
    let mut found = Found::default();
    let mut entered = HashSet::from([identity(root)?]);
    list(root, "", &mut found, &mut entered, 0)?;
    Ok(found)
}

fn list(
    root: &Path,
    dir: &str,
    found: &mut Found,
    entered: &mut HashSet<(u64, u64)>,
    depth: usize,
) -> std::io::Result<()> {
    let entries = std::fs::read_dir(root.join(dir))?;
    found.dirs.push(dir.to_owned());
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        let Some(name) = name.to_str() else {
            let shown = join(dir, &name.to_string_lossy());
            found
                .unreadable
                .insert(shown, "its name is not UTF-8, so it is passed over; rename it".to_owned());
            continue;
        };
        let path = join(dir, name);
        let full = entry.path();
        let is_manifest = layout::writer_of(&path).is_some();
        if !is_manifest && !layout::is_entered(dir, name) {
            continue;
        }
        let metadata = match std::fs::metadata(&full) {
            Ok(metadata) => metadata,
            // It went away meanwhile, or is a link to nothing.
            Err(e) if e.kind() == ErrorKind::NotFound => continue,
            Err(e) => {
                found.unreadable.insert(path, format!("it can't be looked at: {e}"));
                continue;
            }
        };
        if metadata.is_file() && is_manifest {
            found.files.insert(path, Fingerprint::from(&metadata));
        } else if metadata.is_dir() && layout::is_entered(dir, name) {
            if depth >= MAX_DEPTH {
                found.unreadable.insert(path, format!("it lies more than {MAX_DEPTH} folders deep"));
            } else if entered.insert((metadata.dev(), metadata.ino()))
                && let Err(e) = list(root, &path, found, entered, depth + 1)
            {
                found.unreadable.insert(path, format!("it can't be listed: {e}"));
            }
        }
    }
    Ok(())
}

fn join(dir: &str, name: &str) -> String {
    if dir.is_empty() { name.to_owned() } else { format!("{dir}/{name}") }
}
