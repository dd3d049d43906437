//! A file system as the kernel unpacks it at boot: an uncompressed cpio archive of the form `newc`
//! (Documentation/driver-api/early-userspace/buffer-format.rst).
//!
//! What always holds: a path is written once, after its folders; owners are root and times zero.
//! What it does not do: devices and hard links, and compressing, which an emulated processor would be long in undoing.

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Mode bits of the kinds, as stat(2) has them.
const FOLDER: u32 = 0o040_000;
const FILE: u32 = 0o100_000;
const LINK: u32 = 0o120_000;

/// The archive's last entry has this name.
const END: &str = "TRAILER!!!";

/// An archive that is being written. Paths are absolute.
#[derive(Debug)]
pub struct Archive<W: Write> {
    out: W,
    entries: u32,
    paths: BTreeSet<PathBuf>,
}

impl<W: Write> Archive<W> {
    pub fn new(out: W) -> Self {
        Self { out, entries: 0, paths: BTreeSet::new() }
    }

    /// Whether a path is in it already.
    pub fn has(&self, path: &Path) -> bool {
        self.paths.contains(path)
    }

    /// A folder, and those above it.
    pub fn folder(&mut self, path: &Path) -> io::Result<()> {
        self.add(path, FOLDER | 0o755, &[])
    }

    /// A file that only root can change, or a program where `mode` says so.
    pub fn file(&mut self, path: &Path, mode: u32, content: &[u8]) -> io::Result<()> {
        self.add(path, FILE | (mode & 0o7777), content)
    }

    pub fn link(&mut self, path: &Path, target: &Path) -> io::Result<()> {
        self.add(path, LINK | 0o777, target.as_os_str().as_encoded_bytes())
    }

    /// Ends the archive.
    pub fn finish(mut self) -> io::Result<W> {
        self.entry(END, 0, &[])?;
        self.out.flush()?;
        Ok(self.out)
    }

    fn add(&mut self, path: &Path, mode: u32, content: &[u8]) -> io::Result<()> {
        if path == Path::new("/") || self.paths.contains(path) {
            return Ok(());
        }
        if let Some(above) = path.parent() {
            self.folder(above)?;
        }
        let name = path.to_str().ok_or_else(|| io::Error::other(format!("{}: not UTF-8", path.display())))?;
        self.entry(name.trim_start_matches('/'), mode, content)?;
        self.paths.insert(path.to_owned());
        Ok(())
    }

    fn entry(&mut self, name: &str, mode: u32, content: &[u8]) -> io::Result<()> {
        self.entries += 1;
        let links = 1 + u32::from(mode & FOLDER != 0 && mode & FILE == 0);
        let size = u32::try_from(content.len()).map_err(io::Error::other)?;
        let named = u32::try_from(name.len() + 1).map_err(io::Error::other)?;
        // Inode, mode, user, group, links, time, size, four device numbers, the name's length with its zero, no sum.
        let fields = [self.entries, mode, 0, 0, links, 0, size, 0, 0, 0, 0, named, 0];
        let mut head = b"070701".to_vec();
        for field in fields {
            head.extend(format!("{field:08x}").bytes());
        }
        head.extend(name.bytes());
        head.push(0);
        self.padded(&head)?;
        self.padded(content)
    }

    fn padded(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.out.write_all(bytes)?;
        self.out.write_all(&[0; 3][..bytes.len().wrapping_neg() % 4])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn archive() -> Vec<u8> {
        let mut archive = Archive::new(Vec::new());
        archive.file(Path::new("/usr/bin/x"), 0o755, b"hello").unwrap();
        archive.file(Path::new("/usr/bin/x"), 0o755, b"again").unwrap();
        archive.link(Path::new("/bin"), Path::new("usr/bin")).unwrap();
        archive.finish().unwrap()
    }

    /// Kind, permissions, name and content of each entry.
    fn read(mut bytes: &[u8]) -> Vec<String> {
        let mut entries = Vec::new();
        let padded = |length: usize| length.div_ceil(4) * 4;
        while !bytes.is_empty() {
            let field = |n: usize| {
                let text = std::str::from_utf8(&bytes[6 + 8 * n..14 + 8 * n]).unwrap();
                usize::from_str_radix(text, 16).unwrap()
            };
            let (mode, size, named) = (field(1), field(6), field(11));
            let name = std::str::from_utf8(&bytes[110..110 + named - 1]).unwrap();
            let content = &bytes[padded(110 + named)..][..size];
            entries.push(format!("{mode:o} {name} {}", String::from_utf8_lossy(content)));
            bytes = &bytes[padded(110 + named) + padded(size)..];
        }
        entries
    }

    #[test]
    fn folders_come_first_and_a_path_comes_once() {
        insta::assert_snapshot!(read(&archive()).join("\n"), @r"
        40755 usr 
        40755 usr/bin 
        100755 usr/bin/x hello
        120777 bin usr/bin
        0 TRAILER!!! 
        ");
    }
}
