//! Files that are used again: to make one and remove it costs more than all that is written, on ext4 above all.

use std::fs::{OpenOptions, symlink_metadata};
use std::io::{Result, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// True for a file that may be written over: what has another name, or leads to another file, is somebody else's, and who opens a pipe
/// waits.
pub fn is_its_only_name(path: &Path) -> bool {
    symlink_metadata(path).is_ok_and(|found| found.is_file() && found.nlink() == 1)
}

/// Writes a file, which is made where it is missing, and cuts it to length last: ext4 takes one that was emptied first for a
/// replacement, and flushes it to disk when it is closed.
///
/// # Errors
/// What the file system says.
pub fn overwrite(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(false).open(path)?;
    file.write_all(bytes)?;
    file.set_len(bytes.len() as u64)
}
