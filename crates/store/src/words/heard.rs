//! Everybody's words together, and what there is to tell of them: pure.

use std::collections::BTreeMap;

use super::board::Board;
use super::table::{Missing, Table, Which};
use super::{Manifest, Writer};
use crate::store::{Event, Remark};

/// Changes delivered together at most.
const CHUNK: usize = 1024;

/// What all texts say, and the notices about them.
#[derive(Debug)]
pub(crate) struct Words {
    pub table: Table,
    pub board: Board,
    /// What people call one of the texts: `file`, `key`.
    text: &'static str,
}

impl Words {
    /// Nothing said yet, in texts that people call `text`.
    pub fn of(text: &'static str) -> Self {
        Self { table: Table::default(), board: Board::default(), text }
    }

    /// Takes in what a text says now.
    pub fn accept(&mut self, path: &str, writer: &Writer, manifest: Manifest) {
        let missing = if manifest.errors.is_empty() { Missing::Remove } else { Missing::Keep };
        let twice = self.table.set_file(path, writer, manifest.facts, manifest.published_at, missing);
        let mut notices: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (line, text) in manifest.errors {
            let about = line.map_or(path.to_owned(), |line| format!("{path}:{line}"));
            let text = format!("{text}. What was in force of it stays; mend the {}", self.text);
            notices.entry(about).or_default().push(text);
        }
        for key in twice {
            notices
                .entry(path.to_owned())
                .or_default()
                .push(format!("{key} stands in it twice; the first one counts"));
        }
        let remark = |text| match missing {
            Missing::Keep => Remark::Unread { text, only: None },
            Missing::Remove => Remark::Warning(text),
        };
        let notices = notices.into_iter().map(|(about, texts)| (about, remark(texts.join("; "))));
        self.board.set_file(path, notices.collect(), &manifest.unknown);
    }

    /// A text is gone.
    pub fn withdraw(&mut self, path: &str, writer: &Writer) {
        self.board.set_file(path, Vec::new(), &[]);
        self.table.set_file(path, writer, Vec::new(), 0, Missing::Remove);
    }

    /// A text can't be read at all; what it said stays.
    pub fn pass_over(&mut self, path: &str, reason: &str) {
        let text = format!("{reason}. What was in force of it stays");
        self.board.set_file(path, vec![(path.to_owned(), Remark::Unread { text, only: None })], &[]);
    }

    /// What there is to tell since the last call.
    pub fn drain(&mut self) -> Vec<Event> {
        let mut events = self.tell(Which::All);
        events.extend(self.board.drain());
        events
    }

    /// The same, without notices and without objects that other texts have a part of: for telling while texts are still read.
    pub fn drain_decided(&mut self) -> Vec<Event> {
        self.tell(Which::Decided)
    }

    fn tell(&mut self, which: Which) -> Vec<Event> {
        let (changes, holders) = self.table.drain(which);
        for (key, paths) in holders {
            let remark = match &paths[..] {
                [first, others @ ..] if !others.is_empty() => Some(Remark::Warning(format!(
                    "{} and {first} both hold it; {first} counts, since its path comes first. Remove one",
                    others.join(", ")
                ))),
                _ => None,
            };
            self.board.set(&key.to_string(), remark);
        }
        let mut events = Vec::new();
        let mut changes = changes.into_iter().peekable();
        while changes.peek().is_some() {
            events.push(Event::Changes(changes.by_ref().take(CHUNK).collect()));
        }
        events
    }
}
