//! One version of a file, read from disk: many at once where a whole folder is read.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::num::NonZero;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::sync_channel;

use super::layout;
use super::scan::{Fingerprint, Found};
use crate::object::Interner;
use crate::words::{Form, Manifest, Writer, take_apart};

/// Files below which a further thread isn't worth its start, and bytes of files.
const FILES_A_THREAD: usize = 256;
const BYTES_A_THREAD: u64 = 1 << 20;
/// Files that are read ahead of whoever takes them: few, because each may hold thousands of objects.
const AHEAD: usize = 2;

/// A file's text.
#[derive(Debug)]
pub(super) struct Text {
    /// Hash of its contents: equal ones are not parsed again.
    pub contents: u64,
    bytes: Vec<u8>,
}

impl Text {
    /// Reads a file of at most `limit` bytes.
    ///
    /// # Errors
    /// In words that follow the file's name.
    pub fn read(root: &Path, path: &str, fingerprint: Fingerprint, limit: u64) -> Result<Self, String> {
        if fingerprint.size > limit {
            return Err(format!(
                "it has {} bytes, and no more than {limit} are read; split it",
                fingerprint.size
            ));
        }
        let bytes = std::fs::read(root.join(path)).map_err(|e| format!("it can't be read: {e}"))?;
        let mut hasher = DefaultHasher::new();
        bytes.hash(&mut hasher);
        Ok(Self { contents: hasher.finish(), bytes })
    }

    /// Takes the text apart.
    ///
    /// # Errors
    /// When it is no text.
    pub fn parse(&self, path: &str, writer: &Writer, names: &mut Interner) -> Result<Manifest, String> {
        let text =
            str::from_utf8(&self.bytes).map_err(|e| format!("it is not UTF-8 (byte {})", e.valid_up_to()))?;
        let form = if path.ends_with(".json") { Form::Json } else { Form::Yaml };
        Ok(take_apart(form, writer, text, names))
    }
}

/// A file as it was read.
pub(super) struct Version {
    pub path: String,
    pub fingerprint: Fingerprint,
    pub writer: Writer,
    /// Hash of the contents and what they are, or why there are none.
    pub outcome: Result<(u64, Manifest), String>,
}

/// How many threads are worth it for so many files of so many bytes.
fn threads(files: usize, bytes: u64) -> usize {
    let most = std::thread::available_parallelism().map_or(1, NonZero::get).min(8);
    let worth = (files / FILES_A_THREAD).max(usize::try_from(bytes / BYTES_A_THREAD).unwrap_or(most)) + 1;
    worth.min(files.max(1)).min(most)
}

/// Reads all files of a folder, on as many threads as it is worth, and gives them away one by one, in no order.
pub(super) fn read_all(root: &Path, found: &Found, limit: u64, take: &mut dyn FnMut(Version)) {
    let files: Vec<(&String, &Fingerprint)> = found.files.iter().collect();
    let next = AtomicUsize::new(0);
    let bytes = files.iter().map(|(_, fingerprint)| fingerprint.size).sum();
    let (sender, versions) = sync_channel(AHEAD);
    std::thread::scope(|scope| {
        for _ in 0..threads(files.len(), bytes) {
            let (sender, files, next) = (sender.clone(), &files, &next);
            scope.spawn(move || {
                let mut names = Interner::default();
                while let Some((path, fingerprint)) = files.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let Some(writer) = layout::writer_of(path) else { continue };
                    let outcome = Text::read(root, path, **fingerprint, limit)
                        .and_then(|text| Ok((text.contents, text.parse(path, &writer, &mut names)?)));
                    let version =
                        Version { path: (*path).clone(), fingerprint: **fingerprint, writer, outcome };
                    if sender.send(version).is_err() {
                        return;
                    }
                }
            });
        }
        drop(sender);
        versions.into_iter().for_each(take);
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_files_are_read_on_several_threads_as_many_are() {
        let most = threads(usize::MAX, 0);
        assert_eq!(threads(0, 0), 1);
        assert_eq!(threads(60, 1000), 1);
        assert_eq!(threads(1, 1 << 30), 1);
        assert_eq!(threads(60, 1 << 30), most);
        assert_eq!(threads(10_000, 1000), most);
    }
}
