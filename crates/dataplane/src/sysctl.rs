//! Sysctls: read, written, and put back as they were found.
//!
//! Before the first write of a sysctl its value goes into a file, one `path = value` a line as in `sysctl.d(5)`; removal
//! writes it back. A value that can't be remembered is not changed.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use weft_model::IfName;

use crate::KernelError;
use crate::kernel::own_link_of;

/// Name of the file in the state directory.
const FILE: &str = "sysctl-originals";
/// Largest such file, in bytes: some ten thousand sysctls.
const LIMIT: u64 = 1024 * 1024;

/// The values that sysctls had before Weft came.
#[derive(Debug)]
pub struct SysctlOriginals {
    file: PathBuf,
    values: BTreeMap<String, String>,
}

impl SysctlOriginals {
    /// Reads the file in the state directory; its absence means that nothing was changed yet.
    ///
    /// # Errors
    /// [`KernelError::Originals`].
    pub fn open(state_dir: &Path) -> Result<Self, KernelError> {
        let file = state_dir.join(FILE);
        let values = match read_file(&file) {
            Ok(text) => parse(&text),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(BTreeMap::new()),
            Err(e) => Err(e),
        };
        match values {
            Ok(values) => Ok(Self { file, values }),
            Err(e) => Err(originals_error("read", &file, &e)),
        }
    }

    /// Sysctls that were changed.
    pub fn paths(&self) -> impl Iterator<Item = &str> {
        self.values.keys().map(String::as_str)
    }

    /// Sets a sysctl, after its value was kept.
    ///
    /// # Errors
    /// [`KernelError::Originals`] or [`KernelError::Sysctl`].
    pub fn set(&mut self, path: &str, value: &str) -> Result<(), KernelError> {
        // A link of our own takes its settings with it when it goes.
        if own_link_of(path).is_none() && !self.values.contains_key(path) {
            let original = read(path)?;
            self.values.insert(path.to_owned(), original);
            if let Err(error) = self.save() {
                self.values.remove(path);
                return Err(error);
            }
        }
        write("write", path, value)
    }

    /// Puts a sysctl back; one that was never changed stays, and one that went with its link is forgotten.
    ///
    /// # Errors
    /// [`KernelError::Originals`] or [`KernelError::Sysctl`].
    pub fn restore(&mut self, path: &str) -> Result<(), KernelError> {
        let Some(original) = self.values.get(path) else {
            return Ok(());
        };
        match fs::write(file_of(path), original) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(sysctl_error("restore", path, &error));
            }
            _ => self.values.remove(path),
        };
        self.save()
    }

    /// Writes the file anew and renames it into place; without values it is removed.
    fn save(&self) -> Result<(), KernelError> {
        let fail = |e: &io::Error| originals_error("write", &self.file, e);
        if self.values.is_empty() {
            return match fs::remove_file(&self.file) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => Err(fail(&e)),
                _ => Ok(()),
            };
        }
        let mut text = String::from(
            "# Values of sysctls from before Weft changed them; `weft uninstall` puts them back.\n",
        );
        for (path, value) in &self.values {
            text.push_str(&format!("{path} = {value}\n"));
        }
        let new = self.file.with_extension("new");
        let replace = || -> io::Result<()> {
            if let Some(directory) = self.file.parent() {
                fs::create_dir_all(directory)?;
            }
            fs::write(&new, &text)?;
            fs::File::open(&new)?.sync_all()?;
            fs::rename(&new, &self.file)
        };
        replace().map_err(|e| fail(&e))
    }
}

/// The text of a regular file within the limit.
fn read_file(file: &Path) -> io::Result<String> {
    let invalid = |text: &str| io::Error::new(io::ErrorKind::InvalidData, text);
    if !fs::metadata(file)?.is_file() {
        return Err(invalid("it is no regular file"));
    }
    let mut text = String::new();
    fs::File::open(file)?.take(LIMIT + 1).read_to_string(&mut text)?;
    if text.len() as u64 > LIMIT {
        return Err(invalid("it is longer than 1 MiB"));
    }
    Ok(text)
}

/// The values by path. A line that is none of ours is an error: passed over, it would be lost at the next change.
fn parse(text: &str) -> io::Result<BTreeMap<String, String>> {
    let mut values = BTreeMap::new();
    for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.starts_with('#')) {
        let pair = line.split_once(" = ").filter(|(path, _)| {
            path.starts_with("net/") && path.split('/').all(|part| !matches!(part, "" | "." | ".."))
        });
        let Some((path, value)) = pair else {
            let text = format!("line {} is no `net/… = value`", number + 1);
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        };
        values.insert(path.to_owned(), value.to_owned());
    }
    Ok(values)
}

fn originals_error(action: &'static str, file: &Path, error: &io::Error) -> KernelError {
    KernelError::Originals { action, path: file.display().to_string(), reason: error.to_string() }
}

/// Environment variable: where sysctls are, instead of `/proc/sys`. In a container that may not be written to; the host's, seen
/// by another path, may.
const PROC_SYS: &str = "WEFT_PROC_SYS";

fn file_of(path: &str) -> PathBuf {
    static ROOT: OnceLock<PathBuf> = OnceLock::new();
    ROOT.get_or_init(|| std::env::var_os(PROC_SYS).map_or_else(|| "/proc/sys".into(), PathBuf::from))
        .join(path)
}

/// A sysctl's value; runs of white space become one blank, as lists print with tabs.
///
/// # Errors
/// [`KernelError::Sysctl`].
pub fn read(path: &str) -> Result<String, KernelError> {
    let text = fs::read_to_string(file_of(path)).map_err(|e| sysctl_error("read", path, &e))?;
    Ok(text.split_whitespace().collect::<Vec<_>>().join(" "))
}

fn write(action: &'static str, path: &str, value: &str) -> Result<(), KernelError> {
    // Nothing is made or emptied here: the kernel would look for the file once more.
    let write = || fs::OpenOptions::new().write(true).open(file_of(path))?.write_all(value.as_bytes());
    write().map_err(|e| sysctl_error(action, path, &e))
}

fn sysctl_error(action: &'static str, path: &str, error: &io::Error) -> KernelError {
    KernelError::Sysctl { action, path: path.to_owned(), reason: error.to_string() }
}

/// Switches IPv6 on for a link of the calling thread's namespace: some systems start links without. The link is ours, so no
/// original is kept.
pub(crate) fn enable_ipv6(link: IfName) -> Result<(), KernelError> {
    write("write", &format!("net/ipv6/conf/{link}/disable_ipv6"), "0")
}

/// Has a pod's link announce a changed MAC over IPv6, in the calling thread's namespace. Netlink has no request for it. Where
/// `/proc/sys` is read-only, the node finds out by itself after some ten seconds.
pub(crate) fn announce_neighbour(link: IfName) {
    if let Err(error) = write("write", &format!("net/ipv6/conf/{link}/ndisc_notify"), "1") {
        tracing::debug!(%error, "a changed MAC will not be announced");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn originals_survive_a_restart_and_go_when_all_is_back() {
        let directory = std::env::temp_dir().join(format!("weft-sysctl-{}", std::process::id()));
        let mut originals = SysctlOriginals::open(&directory).unwrap();
        originals.values.insert("net/a".into(), "1 2".into());
        originals.save().unwrap();
        let mut again = SysctlOriginals::open(&directory).unwrap();
        assert_eq!(again.values, originals.values);
        again.values.clear();
        again.save().unwrap();
        assert!(!directory.join(FILE).exists());
        fs::remove_dir(&directory).unwrap();
    }

    #[test]
    fn a_broken_file_is_named_with_its_line_and_never_written_over() {
        let directory = std::env::temp_dir().join(format!("weft-sysctl-broken-{}", std::process::id()));
        fs::create_dir(&directory).unwrap();
        let check = |text: &[u8], expected: &str| {
            fs::write(directory.join(FILE), text).unwrap();
            let error = SysctlOriginals::open(&directory).unwrap_err();
            assert!(matches!(error, KernelError::Originals { .. }));
            let said = error.to_string();
            assert!(said.contains(expected) && said.contains(FILE), "{said}");
            assert_eq!(fs::read(directory.join(FILE)).unwrap(), text);
        };
        check(b"# ours\nnet/ipv4/ip_forward = 0\nnet/ipv4/ip_for", "line 3");
        check(b"net/../kernel/panic = 1\n", "line 1");
        check(b"\xff\xfe", "UTF-8");
        fs::remove_file(directory.join(FILE)).unwrap();
        std::os::unix::fs::symlink("/dev/zero", directory.join(FILE)).unwrap();
        let said = SysctlOriginals::open(&directory).unwrap_err().to_string();
        assert!(said.contains("no regular file"), "{said}");
        fs::remove_dir_all(&directory).unwrap();
    }

    #[test]
    fn a_sysctl_that_went_with_its_link_is_forgotten() {
        let directory = std::env::temp_dir().join(format!("weft-sysctl-gone-{}", std::process::id()));
        let path = "net/ipv6/conf/no-such-link/accept_ra";
        let mut originals = SysctlOriginals::open(&directory).unwrap();
        originals.values.insert(path.into(), "1".into());
        originals.save().unwrap();
        originals.restore(path).unwrap();
        assert!(!directory.join(FILE).exists());
        fs::remove_dir(&directory).unwrap();
    }

    #[test]
    fn an_unknown_sysctl_says_which() {
        let error = read("net/ipv4/no_such_thing").unwrap_err();
        assert!(error.to_string().contains("/proc/sys/net/ipv4/no_such_thing"), "{error}");
    }
}
