//! Where resolvers are listed: in the configuration, or in a resolv.conf file that may change at any time.

use std::io::{self, Read};
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::ResolverAddress;

/// Largest file, in bytes.
const LIMIT: u64 = 64 * 1024;

/// Where the list of resolvers comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UpstreamSource {
    /// These, in order of preference.
    Fixed(Vec<ResolverAddress>),
    /// The `nameserver` lines of this file, which is read again when it changes.
    ResolvConf(PathBuf),
}

/// What changes when the list may have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SourceState {
    /// Of a file: device, inode, size, and time of change in seconds and nanoseconds.
    File(u64, u64, u64, i64, i64),
    /// Of addresses on links, where they are.
    Links(Vec<Option<SocketAddr>>),
}

impl UpstreamSource {
    /// The resolvers as listed now.
    ///
    /// # Errors
    /// The file can't be read.
    pub fn read(&self) -> io::Result<Vec<SocketAddr>> {
        match self {
            UpstreamSource::Fixed(list) => Ok(list.iter().filter_map(ResolverAddress::socket).collect()),
            UpstreamSource::ResolvConf(path) => Ok(parse(&read_small(path)?)),
        }
    }

    /// Those of the configuration whose link isn't there now.
    pub fn cut_off(&self) -> Vec<&ResolverAddress> {
        match self {
            UpstreamSource::Fixed(list) => list.iter().filter(|address| address.socket().is_none()).collect(),
            UpstreamSource::ResolvConf(_) => Vec::new(),
        }
    }

    /// By which a change is noticed: of the file, through symbolic links, or of the links that addresses are on. `None` where nothing can
    /// change, and without a file.
    pub fn state(&self) -> Option<SourceState> {
        match self {
            UpstreamSource::Fixed(list) => {
                let on_links = list.iter().filter(|address| address.has_link());
                let found: Vec<_> = on_links.map(ResolverAddress::socket).collect();
                (!found.is_empty()).then_some(SourceState::Links(found))
            }
            UpstreamSource::ResolvConf(path) => {
                let meta = std::fs::metadata(path).ok()?;
                let (seconds, nanoseconds) = (meta.mtime(), meta.mtime_nsec());
                Some(SourceState::File(meta.dev(), meta.ino(), meta.size(), seconds, nanoseconds))
            }
        }
    }
}

/// The text of a regular file of at most 64 KiB: a device or pipe may never end.
fn read_small(path: &Path) -> io::Result<String> {
    if !std::fs::metadata(path)?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no regular file"));
    }
    let mut text = String::new();
    std::fs::File::open(path)?.take(LIMIT + 1).read_to_string(&mut text)?;
    if text.len() as u64 > LIMIT {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it is longer than 64 KiB"));
    }
    Ok(text)
}

/// The resolvers of a resolv.conf(5) text. What isn't understood is passed over, as the C library does.
fn parse(text: &str) -> Vec<SocketAddr> {
    text.lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            let address = (words.next()? == "nameserver").then(|| words.next()).flatten()?;
            ResolverAddress::without_port(address)?.socket()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolv_conf_is_read_as_the_c_library_reads_it() {
        let text = "# nameserver 1.1.1.1\n; nameserver 2.2.2.2\nsearch example.com\nnameserver 10.0.0.1 # first\n\
                    \tnameserver\tfd00::1\nnameserver fe80::1%lo\nnameserver fe80::1%no-such-link\nnameserver x\nnameserver\n\
                    nameserver127.0.0.1\noptions ndots:5\n";
        let found: Vec<String> = parse(text).iter().map(ToString::to_string).collect();
        assert_eq!(found, ["10.0.0.1:53", "[fd00::1]:53", "[fe80::1%1]:53"]);
        assert!(parse("").is_empty());
    }

    #[test]
    fn what_never_ends_is_not_read() {
        let read = |path: &str| UpstreamSource::ResolvConf(path.into()).read();
        assert_eq!(read("/dev/zero").unwrap_err().to_string(), "it is no regular file");
        let long = std::env::temp_dir().join(format!("weft-resolv-{}", std::process::id()));
        std::fs::write(&long, "# a comment\n".repeat(10_000)).unwrap();
        assert_eq!(read(long.to_str().unwrap()).unwrap_err().to_string(), "it is longer than 64 KiB");
        std::fs::write(&long, "nameserver 10.0.0.1\n").unwrap();
        assert_eq!(read(long.to_str().unwrap()).unwrap().len(), 1);
        std::fs::remove_file(&long).unwrap();
    }
}
