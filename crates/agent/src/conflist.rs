//! The network configuration for runtimes, as a file: written whole, looked at, and known again.
//!
//! What always holds: a runtime sees all of it or nothing, since it is written under a name that none reads. What it doesn't do: say
//! what is in it (`weft_cni::conflist`), or when the node is ready.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::config::read_small;

/// Type of our plugin in a runtime's configuration, which is its file name in the runtime's folder of plugins.
pub const PLUGIN: &str = "weft";

/// What writing came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Written {
    /// The file was missing, or another.
    Anew,
    /// It was there as it should be.
    Already,
}

/// Where the text stands until it is whole. A writer that is killed leaves it behind.
pub fn unfinished(path: &Path) -> PathBuf {
    path.with_extension("weft-new")
}

/// Writes the file, and the folders above it.
///
/// # Errors
/// What the file system says; then the file is as it was.
pub fn write(path: &Path, text: &str) -> io::Result<Written> {
    if fs::read_to_string(path).is_ok_and(|old| old == text) {
        return Ok(Written::Already);
    }
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let temporary = unfinished(path);
    let done = fs::write(&temporary, text).and_then(|()| fs::rename(&temporary, path));
    if done.is_err() {
        // The first error is the one to tell.
        let _ = fs::remove_file(&temporary);
    }
    done.map(|()| Written::Anew)
}

/// Whether a file is a network configuration that calls our plugin.
pub fn is_ours(path: &Path) -> bool {
    let Ok(text) = read_small(path) else { return false };
    let Ok(value) = serde_json::from_str::<Value>(&text) else { return false };
    value["plugins"].as_array().is_some_and(|plugins| plugins.iter().any(|plugin| plugin["type"] == PLUGIN))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_written_whole_and_only_where_it_differs() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("net.d/10-weft.conflist");
        let ours = r#"{"plugins": [{"type": "weft"}]}"#;
        assert_eq!(write(&path, ours).unwrap(), Written::Anew);
        assert_eq!(write(&path, ours).unwrap(), Written::Already);
        assert!(is_ours(&path));
        fs::write(&path, r#"{"plugins": [{"type": "bridge"}]}"#).unwrap();
        assert!(!is_ours(&path));
        assert_eq!(write(&path, ours).unwrap(), Written::Anew);
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "nothing is left beside it");
    }
}
