//! What has been told of one kind, and what a list or a change adds to it: pure.
//!
//! What always holds: only what differs from what was told is told. What a full list doesn't hold is told as removed, and nothing else is. An object that can't be read
//! keeps the fact that it was, and a list in which something could not even be named removes nothing.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};

use rustc_hash::FxHashMap;
use serde::Deserialize;
use serde_json::value::RawValue;
use weft_model::{Change, FactKey, NodeName};

use super::beginning::Named;
use super::client::{Failure, Status};
use super::kind::{Kind, pruned};
use crate::http::Line;
use crate::object::raw::from_mapping;
use crate::object::{Interner, Outcome, decode_text};
use crate::store::{Notice, Remark};

/// Bytes of one object. The server takes no more than 3 MiB for one.
pub(super) const LARGEST: usize = 16 << 20;

/// A line of a watch.
#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(borrow)]
    r#type: Cow<'a, str>,
    #[serde(borrow)]
    object: &'a RawValue,
}

/// What is read of every object before it is known to be of use: from mappings, as the object itself.
#[derive(Default, Deserialize)]
#[serde(default, remote = "Self")]
struct Head {
    metadata: HeadMeta,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase", remote = "Self")]
struct HeadMeta {
    name: String,
    namespace: String,
    resource_version: String,
    annotations: Option<Annotations>,
}

/// Of all annotations, the one of the bookmark that ends the first part of a streamed list, and the one of the own Node that is no fact.
#[derive(Default, Deserialize)]
#[serde(remote = "Self")]
struct Annotations {
    #[serde(default, rename = "k8s.io/initial-events-end")]
    list_ends: Option<String>,
    #[serde(default, rename = "weft.dev/machine")]
    machine: Option<String>,
}

from_mapping! { Head HeadMeta Annotations }

/// A page of a list.
#[derive(Deserialize)]
struct Page<'a> {
    #[serde(default)]
    metadata: PageMeta,
    #[serde(default, borrow)]
    items: Option<Vec<&'a RawValue>>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct PageMeta {
    resource_version: String,
    r#continue: String,
}

/// What a line of a watch was.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Heard {
    /// An object, with the version of the whole after it; empty while a list lasts.
    Object(String),
    /// Only a version.
    Bookmark(String),
    /// The list is complete, as of this version.
    ListEnds(String),
    /// Something that could not even be named.
    Unnamed,
}

/// What there is to tell.
#[derive(Debug, Default, PartialEq)]
pub(super) struct News {
    pub changes: Vec<Change>,
    pub notices: Vec<Notice>,
}

impl News {
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty() && self.notices.is_empty()
    }
}

/// What was told of an object.
#[derive(Debug, Clone, Copy)]
struct Told {
    /// The list that held it last.
    list: u32,
    /// The fact's hash by a secret of this process's own: nobody can make two facts of one object that are alike.
    print: u64,
}

/// See the module.
pub(super) struct Mirror {
    kind: Kind,
    node: NodeName,
    names: Interner,
    printer: RandomState,
    /// What was told and not taken back.
    known: FxHashMap<FactKey, Told>,
    list: u32,
    is_listing: bool,
    /// The list that is under way holds something that can't be named.
    is_doubtful: bool,
    /// A notice about the whole kind stands.
    is_warned: bool,
    /// Which machine is the own node, by its object.
    machine: Option<String>,
    /// Objects that can't be read: what the notice is about, and the list that held it last.
    broken: BTreeMap<FactKey, (String, u32)>,
}

impl Mirror {
    pub fn new(kind: Kind, node: NodeName) -> Self {
        Self {
            kind,
            node,
            names: Interner::default(),
            printer: RandomState::new(),
            known: FxHashMap::default(),
            list: 0,
            is_listing: false,
            is_doubtful: false,
            is_warned: false,
            machine: None,
            broken: BTreeMap::new(),
        }
    }

    /// True where the object was told.
    pub fn knows(&self, key: &FactKey) -> bool {
        self.known.contains_key(key)
    }

    /// Which machine is the own node, as its object says; nothing where this isn't the mirror of Nodes.
    pub fn machine(&self) -> Option<&str> {
        self.machine.as_deref()
    }

    /// A full list begins.
    pub fn begin_list(&mut self) {
        self.list += 1;
        self.is_listing = true;
        self.is_doubtful = false;
    }

    /// It ends: what it didn't hold is gone.
    pub fn end_list(&mut self, news: &mut News) {
        self.is_listing = false;
        let (list, is_doubtful) = (self.list, self.is_doubtful);
        let mut gone = Vec::new();
        if !is_doubtful {
            self.known.retain(|key, told| {
                let stays = told.list == list;
                if !stays {
                    gone.push(key.clone());
                }
                stays
            });
        }
        // The order of a hash table is nobody's business.
        gone.sort();
        news.changes.extend(gone.into_iter().map(Change::Remove));
        if !is_doubtful && std::mem::take(&mut self.is_warned) {
            news.notices.push(Notice { about: self.about_kind(), text: None });
        }
        let mended = self.broken.extract_if(.., |_, (_, seen)| *seen != list && !is_doubtful);
        news.notices.extend(mended.map(|(_, (about, _))| Notice { about, text: None }));
    }

    /// Takes one line: of several that come together the last place counts, and the first failure. What follows the end of a list that is
    /// left there is for the watch to tell, which begins there.
    pub fn hear(
        &mut self,
        line: Line<'_>,
        is_left: bool,
        news: &mut News,
        heard: &mut Result<Option<Heard>, Failure>,
    ) {
        let has_ended = matches!(heard, Ok(Some(Heard::ListEnds(_))));
        if heard.is_err() || (has_ended && is_left) {
            return;
        }
        let taken = match line {
            Line::Text(text) => self.take_line(text, news),
            Line::TooLong(beginning) => self.take_too_long(beginning, news),
        };
        match taken {
            // The place stays where it is.
            Ok(Heard::Unnamed) => {}
            // The end of a list must not be missed for what follows it at once.
            Ok(Heard::Object(_) | Heard::Bookmark(_)) if has_ended => {}
            Ok(said) => *heard = Ok(Some(said)),
            Err(failure) => *heard = Err(failure),
        }
    }

    /// Takes a line of a watch.
    fn take_line(&mut self, line: &[u8], news: &mut News) -> Result<Heard, Failure> {
        // What a list is made of is read once, where it is as a server writes it; all else is found first, and then read.
        if self.is_listing
            && let Some(object) = added(line)
            && let Ok(outcome) = decode_text(&self.kind.id(), object, &mut self.names)
        {
            self.take_outcome(outcome, news);
            return Ok(Heard::Object(String::new()));
        }
        let garbled = |error: serde_json::Error| Failure::Garbled(format!("a line of the watch: {error}"));
        let envelope: Envelope<'_> = serde_json::from_slice(line).map_err(garbled)?;
        let object = envelope.object.get();
        match &*envelope.r#type {
            "ADDED" | "MODIFIED" => {
                self.take_object(object, news);
                let version = if self.is_listing { String::new() } else { head(object).resource_version };
                Ok(Heard::Object(version))
            }
            "DELETED" => {
                let head = head(object);
                match self.kind.key(&head.namespace, &head.name) {
                    Some(key) => self.remove(&key, news),
                    None => return Err(Failure::Garbled("a deletion names no object".into())),
                }
                Ok(Heard::Object(head.resource_version))
            }
            "BOOKMARK" => {
                let head = head(object);
                let ends = head.annotations.and_then(|a| a.list_ends).is_some_and(|text| text == "true");
                match ends && self.is_listing {
                    true => Ok(Heard::ListEnds(head.resource_version)),
                    false => Ok(Heard::Bookmark(head.resource_version)),
                }
            }
            "ERROR" => Err(serde_json::from_str::<Status>(object).unwrap_or_default().failure()),
            other => Err(Failure::Garbled(format!("a line of the watch has the type {other:?}"))),
        }
    }

    /// Takes a page of a list; returns the list's version, and what the next page begins with, empty for none.
    pub fn take_page(&mut self, text: &[u8], news: &mut News) -> Result<(String, String), Failure> {
        let page: Page<'_> = serde_json::from_slice(text)
            .map_err(|error| Failure::Garbled(format!("a list of {}: {error}", self.kind.resource())))?;
        for item in page.items.into_iter().flatten() {
            self.take_object(item.get(), news);
        }
        Ok((page.metadata.resource_version, page.metadata.r#continue))
    }

    /// A line was too long to be read: by its beginning, what was in force of its object stays, or is gone where it says so.
    fn take_too_long(&mut self, line: &[u8], news: &mut News) -> Result<Heard, Failure> {
        let text = format!("it has more than {} MiB and is passed over", LARGEST >> 20);
        let Named { event, namespace, name, version } = Named::at_the_beginning_of(line);
        let Some(key) = self.kind.key(&namespace, &name) else {
            self.doubt(format!("of one of them nothing can be read: {text}"), news);
            return Ok(Heard::Unnamed);
        };
        match event.as_str() {
            "DELETED" => self.remove(&key, news),
            _ => self.break_off(key, &text, news),
        }
        // An empty version moves no place.
        Ok(Heard::Object(version))
    }

    fn about_kind(&self) -> String {
        format!("kind {}", self.kind.id().kind)
    }

    /// Something came that can't be named: until a list without such a thing, nothing is told as removed by a list.
    fn doubt(&mut self, text: String, news: &mut News) {
        (self.is_doubtful, self.is_warned) = (true, true);
        news.notices
            .push(Notice { about: self.about_kind(), text: Some(Remark::Unread { text, only: None }) });
    }

    fn take_object(&mut self, text: &str, news: &mut News) {
        match decode_text(&self.kind.id(), text, &mut self.names) {
            Ok(outcome) => {
                let own = FactKey::Node(self.node.clone());
                if matches!(&outcome, Outcome::Facts(facts) if facts.iter().any(|f| f.fact.key() == own)) {
                    self.machine = head(text).annotations.and_then(|annotations| annotations.machine);
                }
                self.take_outcome(outcome, news);
            }
            Err(error) => self.set_broken(text, error.to_string(), news),
        }
    }

    fn take_outcome(&mut self, outcome: Outcome, news: &mut News) {
        let Outcome::Facts(facts) = outcome else { return };
        for decoded in facts {
            let key = decoded.fact.key();
            self.mend(&key, news);
            let fact = pruned(decoded.fact, &self.node);
            let told = Told { list: self.list, print: self.printer.hash_one(&fact) };
            let before = self.known.insert(key, told);
            // Most changes are of what a plan doesn't read: heartbeats, other writers' annotations.
            if before.is_none_or(|before| before.print != told.print) {
                news.changes.push(Change::set(fact));
            }
        }
    }

    fn set_broken(&mut self, text: &str, reason: String, news: &mut News) {
        let head = head(text);
        match self.kind.key(&head.namespace, &head.name) {
            Some(key) => self.break_off(key, &reason, news),
            None => self.doubt(reason, news),
        }
    }

    /// An object is there and can't be read: it stays what it was.
    fn break_off(&mut self, key: FactKey, reason: &str, news: &mut News) {
        if let Some(told) = self.known.get_mut(&key) {
            told.list = self.list;
        }
        let about = key.to_string();
        let text = format!("{reason}. What was in force of it stays; mend the object");
        let remark = Remark::Unread { text, only: Some(key.clone()) };
        news.notices.push(Notice { about: about.clone(), text: Some(remark) });
        self.broken.insert(key, (about, self.list));
    }

    fn mend(&mut self, key: &FactKey, news: &mut News) {
        if let Some((about, _)) = self.broken.remove(key) {
            news.notices.push(Notice { about, text: None });
        }
    }

    fn remove(&mut self, key: &FactKey, news: &mut News) {
        self.mend(key, news);
        if self.known.remove(key).is_some() {
            news.changes.push(Change::Remove(key.clone()));
        }
    }
}

fn head(text: &str) -> HeadMeta {
    serde_json::from_str::<Head>(text).unwrap_or_default().metadata
}

/// The object of a line that adds one, as servers write it: `{"type":"ADDED","object":…}`.
fn added(line: &[u8]) -> Option<&str> {
    let object = line.strip_prefix(br#"{"type":"ADDED","object":"#)?.strip_suffix(b"}")?;
    str::from_utf8(object).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str) -> String {
        format!("{{\"metadata\":{{\"name\":\"{name}\"}}}}")
    }

    #[test]
    fn a_head_is_read_by_name_and_never_by_position() {
        let check = |text: &str, name: &str, machine: Option<&str>| {
            let head = head(text);
            assert_eq!(head.name, name, "{text}");
            assert_eq!(head.annotations.and_then(|a| a.machine).as_deref(), machine, "{text}");
        };
        check(r#"{"metadata": {"name": "a", "annotations": {"weft.dev/machine": "m"}}}"#, "a", Some("m"));
        check(r#"{"metadata": {"name": "a", "annotations": null}}"#, "a", None);
        check(r#"{"metadata": {"name": "a", "annotations": ["true", "m"]}}"#, "", None);
        check(r#"{"metadata": ["a", "shop", "7"]}"#, "", None);
        check(r#"[{"name": "a"}]"#, "", None);
    }

    fn told(news: &mut News) -> Vec<String> {
        let News { changes, notices } = std::mem::take(news);
        let change = |change| match change {
            Change::Set(fact) => format!("set {}", fact.key()),
            Change::Remove(key) => format!("remove {key}"),
        };
        let notice = |Notice { about, text }| match text {
            Some(text) => format!("{about}: {}", text.text()),
            None => format!("{about} is well"),
        };
        changes.into_iter().map(change).chain(notices.into_iter().map(notice)).collect()
    }

    fn mirror() -> Mirror {
        Mirror::new(Kind::Node, NodeName::new("n1").unwrap())
    }

    #[test]
    fn a_line_of_a_list_is_read_alike_in_any_form() {
        let check = |line: &str, expected: Result<&[&str], ()>| {
            let (mut mirror, mut news) = (mirror(), News::default());
            mirror.begin_list();
            let heard = mirror.take_line(line.as_bytes(), &mut news).map_err(drop);
            assert_eq!(heard.is_ok(), expected.is_ok(), "{line}");
            assert_eq!(told(&mut news), expected.unwrap_or_default(), "{line}");
        };
        let object = node("n2");
        check(&format!("{{\"type\":\"ADDED\",\"object\":{object}}}"), Ok(&["set node n2"]));
        check(&format!("{{\"object\": {object}, \"type\": \"ADDED\"}}"), Ok(&["set node n2"]));
        check(&format!("{{\"type\":\"ADDED\",\"object\":{object},\"more\":1}}"), Ok(&["set node n2"]));
        check(&format!("{{\"type\":\"ADDED\",\"object\":{object}}}}}"), Err(()));
        check("{\"type\":\"ADDED\",\"object\":{}", Err(()));
    }

    #[test]
    fn one_that_is_too_long_keeps_nobody_else() {
        let (mut mirror, mut news) = (mirror(), News::default());
        let mut list = |mirror: &mut Mirror, names: &[&str], long: Option<&str>| {
            mirror.begin_list();
            for name in names {
                let line = format!("{{\"type\":\"ADDED\",\"object\":{}}}", node(name));
                mirror.take_line(line.as_bytes(), &mut news).unwrap();
            }
            if let Some(long) = long {
                mirror.take_too_long(long.as_bytes(), &mut news).unwrap();
            }
            mirror.end_list(&mut news);
            told(&mut news)
        };
        assert_eq!(list(&mut mirror, &["n1", "n2", "n3"], None).len(), 3);
        let long = "{\"type\":\"ADDED\",\"object\":{\"kind\":\"Node\",\"metadata\":{\"name\":\"n2\",\"labels\":{\"a\":\"xx";
        let said = list(&mut mirror, &["n1"], Some(long));
        assert_eq!(said[0], "remove node n3");
        assert!(said.len() == 2 && said[1].starts_with("node n2: it has more than 16 MiB"), "{said:?}");
        assert_eq!(list(&mut mirror, &["n1", "n2"], None), ["node n2 is well"]);
        // Where not even its name can be read, everything could be it.
        assert_eq!(list(&mut mirror, &["n1"], Some("{\"type\":\"ADDED\",\"obj")).len(), 1);
        assert_eq!(list(&mut mirror, &["n1"], None), ["remove node n2", "kind Node is well"]);
        let gone =
            "{\"type\":\"DELETED\",\"object\":{\"metadata\":{\"name\":\"n1\",\"resourceVersion\":\"7\",\"x";
        let heard = mirror.take_too_long(gone.as_bytes(), &mut news);
        assert_eq!(heard, Ok(Heard::Object("7".to_owned())));
        assert_eq!(told(&mut news), ["remove node n1"]);
    }

    #[test]
    fn what_follows_a_list_that_is_left_is_not_read() {
        let lines = [
            r#"{"type":"ADDED","object":{"metadata":{"name":"n1","resourceVersion":"7"}}}"#,
            r#"{"type":"BOOKMARK","object":{"metadata":{"resourceVersion":"8","annotations":{"k8s.io/initial-events-end":"true"}}}}"#,
            r#"{"type":"DELETED","object":{"metadata":{"name":"n1","resourceVersion":"9"}}}"#,
            r#"{"type":"ERROR","object":{"code":410}}"#,
        ];
        let check = |is_left, count: usize, changes: usize, ends: bool| {
            let mut mirror = mirror();
            mirror.begin_list();
            let (mut news, mut heard) = (News::default(), Ok(None));
            for line in &lines[..count] {
                mirror.hear(Line::Text(line.as_bytes()), is_left, &mut news, &mut heard);
            }
            assert_eq!(news.changes.len(), changes, "{is_left} {count}");
            assert_eq!(heard == Ok(Some(Heard::ListEnds("8".into()))), ends, "{is_left} {count} {heard:?}");
        };
        check(true, 4, 1, true);
        check(false, 3, 2, true);
        check(false, 4, 2, false);
    }
}
