//! The word by which this machine is told from another one whose node has the same name by mistake.
//!
//! It is made up once and lies in the state folder. `/etc/machine-id` is neither: copies of one image have the same, a root file system in
//! memory gets a new one at each boot, and its manual asks that it be shown to nobody.

use std::fs;
use std::io;
use std::path::Path;

/// Its file in the state folder.
pub const FILE: &str = "machine";
/// A new one at each look: a random UUID.
const SOURCE: &str = "/proc/sys/kernel/random/uuid";
/// Letters of a UUID.
const LENGTH: usize = 36;

/// This machine's word, where it has made one up.
///
/// # Errors
/// The system's, where it can't be read.
pub fn known(state_dir: &Path) -> io::Result<Option<String>> {
    match fs::read_to_string(state_dir.join(FILE)) {
        Ok(text) => Ok(Some(text.trim().to_owned()).filter(|text| is_word(text))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// This machine's word; made where there is none.
///
/// # Errors
/// The system's, where it can be neither read nor written.
pub fn word(state_dir: &Path) -> io::Result<String> {
    if let Some(word) = known(state_dir)? {
        return Ok(word);
    }
    let path = state_dir.join(FILE);
    let made = fs::read_to_string(SOURCE)?.trim().to_owned();
    let unfinished = path.with_extension("new");
    let written = fs::write(&unfinished, format!("{made}\n")).and_then(|()| fs::rename(&unfinished, &path));
    written.inspect_err(|_| drop(fs::remove_file(&unfinished)))?;
    Ok(made)
}

fn is_word(text: &str) -> bool {
    text.len() == LENGTH && text.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_stays_the_same_and_is_nobody_elses() {
        let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        assert_eq!(known(here.path()).unwrap(), None);
        let first = word(here.path()).unwrap();
        assert_eq!(known(here.path()).unwrap().as_ref(), Some(&first));
        assert!(is_word(&first), "{first}");
        assert_eq!(word(here.path()).unwrap(), first);
        assert_ne!(word(there.path()).unwrap(), first);
        // What a machine that lost power has left of it is none.
        fs::write(here.path().join(FILE), "").unwrap();
        let next = word(here.path()).unwrap();
        assert!(is_word(&next) && next != first);
        assert_eq!(fs::read_dir(here.path()).unwrap().count(), 1);
        assert!(word(&here.path().join("nowhere")).is_err());
    }
}
