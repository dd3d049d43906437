//! Notices that stand, and which of them the other side doesn't know yet: pure.

use std::collections::{BTreeMap, BTreeSet};

use super::gathered::Gathered;
use crate::object::UnknownKind;
use crate::store::{Event, Notice, Remark};

/// All notices that stand.
#[derive(Debug, Default)]
pub(crate) struct Board {
    standing: BTreeMap<String, Remark>,
    told: BTreeMap<String, Remark>,
    changed: BTreeSet<String>,
    /// What each file has put up.
    by_file: BTreeMap<String, Vec<String>>,
    /// Files that hold a kind that is passed over.
    unknown: BTreeMap<UnknownKind, BTreeSet<String>>,
    /// And such kinds that a file holds.
    unknown_of: BTreeMap<String, BTreeSet<UnknownKind>>,
    kinds: Gathered,
}

impl Board {
    /// Puts up a notice, or takes it down.
    pub fn set(&mut self, about: &str, remark: Option<Remark>) {
        let changed = match remark {
            Some(remark) => self.standing.insert(about.to_owned(), remark.clone()) != Some(remark),
            None => self.standing.remove(about).is_some(),
        };
        if changed {
            self.changed.insert(about.to_owned());
        }
    }

    /// Replaces all that is noted of a file.
    pub fn set_file(&mut self, path: &str, notices: Vec<(String, Remark)>, unknown: &BTreeSet<UnknownKind>) {
        for about in self.by_file.remove(path).unwrap_or_default() {
            self.set(&about, None);
        }
        let abouts: Vec<String> = notices.iter().map(|(about, _)| about.clone()).collect();
        for (about, remark) in notices {
            self.set(&about, Some(remark));
        }
        if !abouts.is_empty() {
            self.by_file.insert(path.to_owned(), abouts);
        }
        self.set_unknown(path, unknown);
    }

    /// One notice for each unknown kind, whatever the number of objects.
    fn set_unknown(&mut self, path: &str, unknown: &BTreeSet<UnknownKind>) {
        let mut touched = self.unknown_of.remove(path).unwrap_or_default();
        for kind in &touched {
            if let Some(files) = self.unknown.get_mut(kind) {
                files.remove(path);
            }
        }
        for kind in unknown {
            self.unknown.entry(kind.clone()).or_default().insert(path.to_owned());
        }
        if !unknown.is_empty() {
            self.unknown_of.insert(path.to_owned(), unknown.clone());
            touched.extend(unknown.iter().cloned());
        }
        for kind in touched {
            let files = self.unknown.get(&kind);
            let remark = files.and_then(|f| Some((f.first()?, f.len()))).map(|(first, count)| {
                let more = if count > 1 { format!(" and {} more files", count - 1) } else { String::new() };
                Remark::Info(format!("Weft has no use for this kind and passes it over (in {first}{more})"))
            });
            if remark.is_none() {
                self.unknown.remove(&kind);
            }
            self.kinds.set(format!("kind {} ({})", kind.kind, kind.api_version), remark);
        }
    }

    /// What has changed since the last call.
    pub fn drain(&mut self) -> Vec<Event> {
        let more = |more: String| {
            Remark::Info(format!("Weft has no use for {more} more kinds and passes them over"))
        };
        for (about, remark) in self.kinds.told("kinds", more) {
            self.set(&about, remark);
        }
        let mut events = Vec::new();
        for about in std::mem::take(&mut self.changed) {
            let text = self.standing.get(&about).cloned();
            if self.told.get(&about) == text.as_ref() {
                continue;
            }
            match text.clone() {
                Some(text) => self.told.insert(about.clone(), text),
                None => self.told.remove(&about),
            };
            events.push(Event::Notice(Notice { about, text }));
        }
        events
    }
}
