//! One version of a file, read from disk: many at once where a whole folder is read.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::num::NonZero;
use std::path::Path;

use super::layout;
use super::scan::{Fingerprint, Found};
use crate::object::Interner;
use crate::words::{Form, Manifest, Writer, take_apart};

/// Files below which a further thread isn't worth its start.
const FILES_A_THREAD: usize = 256;

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

/// Reads all files of a folder, on as many threads as it is worth, in the order of their paths.
pub(super) fn read_all(root: &Path, found: &Found, limit: u64) -> Vec<Version> {
    let files: Vec<(&String, &Fingerprint)> = found.files.iter().collect();
    let most = std::thread::available_parallelism().map_or(1, NonZero::get).min(8);
    let threads = (files.len() / FILES_A_THREAD + 1).min(most);
    let read = |files: &[(&String, &Fingerprint)]| {
        let mut names = Interner::default();
        let one = |(path, fingerprint): &(&String, &Fingerprint)| {
            let writer = layout::writer_of(path)?;
            let outcome = Text::read(root, path, **fingerprint, limit)
                .and_then(|text| Ok((text.contents, text.parse(path, &writer, &mut names)?)));
            Some(Version { path: (*path).clone(), fingerprint: **fingerprint, writer, outcome })
        };
        files.iter().filter_map(one).collect::<Vec<_>>()
    };
    std::thread::scope(|scope| {
        let chunks = files.chunks(files.len().div_ceil(threads).max(1));
        let running: Vec<_> = chunks.map(|chunk| (chunk, scope.spawn(|| read(chunk)))).collect();
        // A thread that panicked has met a bug: this one meets it again, and says so.
        running
            .into_iter()
            .flat_map(|(chunk, thread)| thread.join().unwrap_or_else(|_| read(chunk)))
            .collect()
    })
}
