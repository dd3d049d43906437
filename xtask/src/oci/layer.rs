//! An image's files as a layer: a tar archive, compressed or not, with the digests of both forms.
//!
//! What always holds: entries have the order in which they were given, trees are walked by name; times are zero and owners
//! root. What is left out of a tree: devices, sockets and pipes.

use std::fs::{self, File};
use std::io::{BufWriter, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use flate2::write::GzEncoder;
use sha2::{Digest, Sha256};

use super::{Blob, hex};

/// How a layer is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// As it is: quick to make and to import, for images that stay on one machine.
    None,
    /// By gzip, which every runtime reads.
    Gzip,
}

/// Something in a layer.
#[derive(Debug, Clone)]
pub enum Entry {
    /// A file that anyone may read.
    File(Vec<u8>),
    /// A file that anyone may run.
    Program(Vec<u8>),
    /// A folder.
    Folder,
    /// A symbolic link to this path.
    Link(String),
    /// All of a folder of this machine, modes and links included.
    Tree(PathBuf),
}

impl Entry {
    /// [`Entry::File`].
    pub fn file(content: Vec<u8>) -> Self {
        Self::File(content)
    }
}

/// A layer in a file of its own, which goes with the value.
#[derive(Debug)]
pub struct Layer {
    path: PathBuf,
    compression: Compression,
    content: String,
    packed: Blob,
}

impl Layer {
    /// Packs entries, each with its path in the image, into a file in `folder`.
    pub fn of(folder: &Path, compression: Compression, entries: &[(&str, Entry)]) -> Result<Self> {
        let path = folder.join(format!("layer-{}.new", std::process::id()));
        let file = File::create(&path).with_context(|| format!("can't make {}", path.display()))?;
        let packed = Hashing::new(BufWriter::new(file));
        let (content, packed) = match compression {
            Compression::None => {
                let content = fill(packed, entries)?;
                let blob = content.blob();
                (blob.clone(), blob)
            }
            Compression::Gzip => {
                // The level and the absent name and time make the same bytes of the same content.
                let content = fill(GzEncoder::new(packed, flate2::Compression::new(6)), entries)?;
                let blob = content.blob();
                let mut packed = content.inner.finish().context("can't end the layer")?;
                packed.flush().context("can't end the layer")?;
                (blob, packed.blob())
            }
        };
        Ok(Self { path, compression, content: content.sha256, packed })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Digest of the tar archive before it was packed.
    pub fn content_sha256(&self) -> &str {
        &self.content
    }

    /// The file's digest and size.
    pub fn blob(&self) -> &Blob {
        &self.packed
    }

    /// What the file is.
    pub fn media_type(&self) -> &'static str {
        match self.compression {
            Compression::None => "application/vnd.oci.image.layer.v1.tar",
            Compression::Gzip => "application/vnd.oci.image.layer.v1.tar+gzip",
        }
    }
}

impl Drop for Layer {
    fn drop(&mut self) {
        // What stays is in nobody's way, and overwritten the next time.
        let _ = fs::remove_file(&self.path);
    }
}

fn fill<W: Write>(to: W, entries: &[(&str, Entry)]) -> Result<Hashing<W>> {
    let mut archive = tar::Builder::new(Hashing::new(to));
    for (path, entry) in entries {
        add(&mut archive, path, entry)?;
    }
    let mut written = archive.into_inner().context("can't end the layer")?;
    written.flush().context("can't end the layer")?;
    Ok(written)
}

/// Adds one entry, or all of a tree.
pub fn add(archive: &mut tar::Builder<impl Write>, path: &str, entry: &Entry) -> Result<()> {
    match entry {
        Entry::File(content) => regular(archive, path, 0o644, content.len() as u64, content.as_slice()),
        Entry::Program(content) => regular(archive, path, 0o755, content.len() as u64, content.as_slice()),
        Entry::Folder => folder(archive, path, 0o755),
        Entry::Link(target) => link(archive, path, Path::new(target)),
        Entry::Tree(root) => tree(archive, path, root),
    }
}

/// Adds a file from a reader that gives `size` bytes.
pub fn add_from(
    archive: &mut tar::Builder<impl Write>,
    path: &str,
    size: u64,
    content: impl Read,
) -> Result<()> {
    regular(archive, path, 0o644, size, content)
}

fn regular(
    archive: &mut tar::Builder<impl Write>,
    path: &str,
    mode: u32,
    size: u64,
    content: impl Read,
) -> Result<()> {
    let mut header = header(tar::EntryType::Regular, mode);
    header.set_size(size);
    archive.append_data(&mut header, path, content).with_context(|| format!("can't pack {path}"))
}

fn folder(archive: &mut tar::Builder<impl Write>, path: &str, mode: u32) -> Result<()> {
    let mut header = header(tar::EntryType::Directory, mode);
    let path = format!("{}/", path.trim_end_matches('/'));
    archive.append_data(&mut header, &path, std::io::empty()).with_context(|| format!("can't pack {path}"))
}

fn link(archive: &mut tar::Builder<impl Write>, path: &str, target: &Path) -> Result<()> {
    let mut header = header(tar::EntryType::Symlink, 0o777);
    archive.append_link(&mut header, path, target).with_context(|| format!("can't pack {path}"))
}

/// A folder's content by name, at `path` (empty for the image's root).
fn tree(archive: &mut tar::Builder<impl Write>, path: &str, root: &Path) -> Result<()> {
    let failed = || format!("can't pack {}", root.display());
    let mut entries: Vec<_> =
        fs::read_dir(root).with_context(failed)?.collect::<std::io::Result<_>>().with_context(failed)?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let from = entry.path();
        let data = entry.metadata().with_context(failed)?;
        let name = entry.file_name();
        let to = if path.is_empty() { name.into() } else { Path::new(path).join(name) };
        let to = to.to_str().with_context(|| format!("{}: its name is not UTF-8", from.display()))?;
        let mode = data.permissions().mode() & 0o7777;
        if data.is_dir() {
            folder(archive, to, mode)?;
            tree(archive, to, &from)?;
        } else if data.is_symlink() {
            link(archive, to, &fs::read_link(&from).with_context(failed)?)?;
        } else if data.is_file() {
            let content = File::open(&from).with_context(|| format!("can't open {}", from.display()))?;
            regular(archive, to, mode, data.len(), content.take(data.len()))?;
        }
    }
    Ok(())
}

fn header(kind: tar::EntryType, mode: u32) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    header.set_size(0);
    header
}

/// Passes bytes on, and knows their digest and number.
struct Hashing<W> {
    inner: W,
    hash: Sha256,
    size: u64,
}

impl<W> Hashing<W> {
    fn new(inner: W) -> Self {
        Self { inner, hash: Sha256::new(), size: 0 }
    }

    /// What has gone through until now.
    fn blob(&self) -> Blob {
        Blob { sha256: hex(&self.hash.clone().finalize()), size: self.size }
    }
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.hash.update(&bytes[..written]);
        self.size += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.inner.flush()
    }
}
