//! What the keys say, and what there is to tell of them: pure.
//!
//! What always holds: a key's value counts as soon as it is written; where it is broken, or in part, what it said before stays for all
//! that is missing. A key that isn't listed is gone. Of keys that nobody reads only their number is known.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::doubt::Owed;
use super::keys::{Keys, Place};
use super::strays::Strays;
use super::wire::{Happened, KeyValue, What};
use crate::object::{Interner, ObjectError, ObjectId, Outcome, decode_value, json_tree, path_of};
use crate::store::Event;
use crate::words::{Form, Manifest, Words, Writer, take_apart};

/// The state of one watch.
#[derive(Debug)]
pub(super) struct Follower {
    keys: Keys,
    names: Interner,
    words: Words,
    /// Keys with facts, and the revision at which each was last written.
    known: BTreeMap<String, i64>,
    strays: Strays,
}

/// What a list has brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Compared {
    /// Of the keys that are listed with another version than the one that was taken in: the least revision. It can be one that is long past,
    /// where etcd was restored.
    pub unread: Option<i64>,
    has_removed: bool,
}

impl Compared {
    /// Whether what was known was behind.
    pub fn owed(self) -> Owed {
        if self.has_removed || self.unread.is_some() { Owed::Something } else { Owed::Nothing }
    }
}

impl Follower {
    pub fn new(keys: Keys) -> Self {
        let words = Words::of("key's value");
        Self { keys, names: Interner::default(), words, known: BTreeMap::new(), strays: Strays::default() }
    }

    /// True where people's keys are known, and none of the listed ones is theirs. What nodes write says nothing: each writes it again at
    /// once, also into an etcd that has lost all else.
    pub fn would_lose_all(&self, listed: &BTreeMap<String, i64>) -> bool {
        let is_of_people = |key: &String| self.keys.is_of_people(key);
        self.known.keys().any(is_of_people) && !listed.keys().any(is_of_people)
    }

    /// Takes in what the watch tells, each thing once.
    pub fn happened(&mut self, happened: &Happened) {
        let kv = &happened.kv;
        let Some(key) = kv.key() else { return };
        match (self.keys.place(key), happened.what) {
            (Some((path, Place::Nowhere)), what) => {
                self.strays.happened(path, what, kv.create_revision == kv.mod_revision);
            }
            (_, What::Put) => self.put(kv),
            (_, What::Delete) => self.delete(key),
        }
    }

    /// Takes in a key's value, unless that version was taken in already.
    pub fn put(&mut self, kv: &KeyValue) {
        let Some(key) = kv.key() else { return };
        let place = match self.keys.place(key) {
            // Whatever stands there, and in whatever form: no fact can be missing for it.
            None | Some((_, Place::Nowhere)) => return,
            Some((_, place)) => place,
        };
        if self.known.insert(key.to_owned(), kv.mod_revision) == Some(kv.mod_revision) {
            return;
        }
        let Ok(text) = str::from_utf8(&kv.value) else {
            return self.words.pass_over(key, "it is not UTF-8");
        };
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let (writer, manifest) = match place {
            Place::Network(name) => (Writer::User, network(&name, text, &mut self.names)),
            Place::Objects(writer) => {
                let manifest = take_apart(form(text), &writer, text, &mut self.names);
                (writer, manifest)
            }
            Place::Nowhere => return,
        };
        self.words.accept(key, &writer, manifest);
    }

    /// A key is gone.
    pub fn delete(&mut self, key: &str) {
        if self.known.remove(key).is_none() {
            return;
        }
        let writer = match self.keys.place(key) {
            Some((_, Place::Objects(writer))) => writer,
            _ => Writer::User,
        };
        self.words.withdraw(key, &writer);
    }

    /// All keys that aren't listed are gone.
    pub fn compare(&mut self, listed: &BTreeMap<String, i64>) -> Compared {
        let gone: Vec<String> = self.known.keys().filter(|key| !listed.contains_key(*key)).cloned().collect();
        for key in &gone {
            self.delete(key);
        }
        let is_unread = |(key, revision): &(&String, &i64)| {
            !matches!(self.keys.place(key), None | Some((_, Place::Nowhere)))
                && self.known.get(*key) != Some(*revision)
        };
        let unread = listed.iter().filter(is_unread).map(|(_, revision)| *revision).min();
        let strays = listed.keys().filter_map(|key| match self.keys.place(key) {
            Some((path, Place::Nowhere)) => Some(path),
            _ => None,
        });
        self.strays.list(strays);
        Compared { has_removed: !gone.is_empty(), unread }
    }

    /// Nothing that was taken in counts as the version that is there.
    pub fn doubt(&mut self) {
        self.known.values_mut().for_each(|revision| *revision = 0);
    }

    /// What there is to tell since the last call.
    pub fn drain(&mut self) -> Vec<Event> {
        for (about, remark) in self.strays.drain(&self.keys) {
            self.words.board.set(&about, remark);
        }
        self.words.drain()
    }
}

/// JSON begins with a bracket; all else is YAML.
fn form(text: &str) -> Form {
    if text.trim_start().starts_with(['{', '[']) { Form::Json } else { Form::Yaml }
}

/// A network's description: a whole object, or what would be its `spec`.
fn network(name: &str, text: &str, names: &mut Interner) -> Manifest {
    let mut manifest = Manifest::default();
    let value: Result<Value, _> = json_tree(text).and_then(|root| {
        // Of a network all is read: what the tree says of a key that stands twice is an error wherever it is.
        serde_path_to_error::deserialize(&root)
            .map_err(|error| ObjectError::at(path_of(error.path()), error.inner()))
    });
    let mut value = match value {
        Ok(value) => value,
        Err(error) => {
            manifest.errors.push((error.line, error.to_string()));
            return manifest;
        }
    };
    if !value.is_object() {
        manifest.errors.push((None, "it is no object; write {\"podCIDRs\": [\"10.244.0.0/16\"]}".to_owned()));
        return manifest;
    }
    if value.get("kind").is_none() {
        value = json!({ "spec": value });
    }
    let said = value.pointer("/metadata/name").and_then(Value::as_str);
    if said.is_some_and(|said| said != name) {
        let text = format!("metadata.name: it must be {name:?}, as in the key, or be left out");
        manifest.errors.push((None, text));
        return manifest;
    }
    value["metadata"]["name"] = name.into();
    let usual = ObjectId { api_version: "weft.dev/v1".to_owned(), kind: "Network".to_owned() };
    for outcome in decode_value(&value, &usual, names) {
        match outcome {
            Ok(Outcome::Facts(facts)) => manifest.facts.extend(facts),
            Ok(Outcome::Unknown(kind)) => {
                manifest.errors.push((None, format!("kind: {:?} is no Network", kind.kind)));
            }
            Err(error) => manifest.errors.push((error.line, error.to_string())),
        }
    }
    manifest
}

#[cfg(test)]
mod tests {
    use weft_model::{Change, Fact};

    use super::*;
    use crate::store::{Notice, Remark};

    fn kv(key: &str, value: &str, mod_revision: i64) -> KeyValue {
        KeyValue { key: key.into(), value: value.into(), mod_revision, ..KeyValue::default() }
    }

    /// The keys of facts set and removed, and the notices, in words.
    fn told(follower: &mut Follower) -> Vec<String> {
        let words = |event: Event| match event {
            Event::Changes(changes) => changes
                .into_iter()
                .map(|change| match change {
                    Change::Set(fact) => format!("set {}", fact.key()),
                    Change::Remove(key) => format!("remove {key}"),
                })
                .collect(),
            Event::Notice(Notice { about, text: Some(text) }) => vec![format!("{about}: {}", text.text())],
            Event::Notice(Notice { about, text: None }) => vec![format!("{about} is mended")],
            other => vec![format!("{other:?}")],
        };
        follower.drain().into_iter().flat_map(words).collect()
    }

    const NS: &str = r#"{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"shop"}}"#;

    #[test]
    fn a_broken_value_is_named_and_takes_nothing_away() {
        let mut follower = Follower::new(Keys::under("/weft"));
        follower.put(&kv("/weft/objects/shop", NS, 3));
        assert_eq!(told(&mut follower), ["set namespace shop"]);
        follower.put(&kv("/weft/objects/shop", NS, 3));
        follower.put(&kv("/weft/blocks/default/10.0.0.0_24", "n1", 4));
        assert_eq!(told(&mut follower), [""; 0]);
        follower.put(&kv("/weft/objects/shop", &NS[..30], 5));
        let said = told(&mut follower);
        assert!(said.len() == 1 && said[0].starts_with("/weft/objects/shop"), "{said:?}");
        assert!(said[0].ends_with("What was in force of it stays; mend the key's value"), "{said:?}");
        follower.put(&kv("/weft/objects/shop", NS, 6));
        assert_eq!(told(&mut follower).len(), 1);
        follower.delete("/weft/objects/shop");
        assert_eq!(told(&mut follower), ["remove namespace shop"]);
    }

    #[test]
    fn keys_that_nobody_reads_are_counted_and_can_hold_no_fact() {
        let mut follower = Follower::new(Keys::under("/weft"));
        // No text, as a backup or a message of Protocol Buffers isn't.
        let binary = KeyValue { value: vec![0x1f, 0x8b, 0xff], ..kv("/weft/backup", "", 3) };
        follower.put(&binary);
        follower.put(&kv("/weft/services/web", NS, 4));
        assert_eq!(told(&mut follower), [""; 0]);
        let listed = ["backup", "services/web"].map(|key| (format!("/weft/{key}"), 4));
        let compared = follower.compare(&BTreeMap::from(listed));
        assert_eq!((compared.unread, compared.owed()), (None, Owed::Nothing));
        let is_unread =
            |event: &Event| matches!(event, Event::Notice(Notice { text: Some(Remark::Unread { .. }), .. }));
        let said = follower.drain();
        assert!(said.len() == 2 && !said.iter().any(is_unread), "{said:?}");
        let happened = |what, kv: KeyValue| Happened { what, kv };
        let anew = KeyValue { create_revision: 3, mod_revision: 5, ..binary.clone() };
        follower.happened(&happened(What::Put, anew));
        assert_eq!(told(&mut follower), [""; 0]);
        let another = KeyValue { create_revision: 6, mod_revision: 6, ..kv("/weft/services/db", NS, 6) };
        follower.happened(&happened(What::Put, another));
        assert_eq!(
            told(&mut follower),
            [
                "/weft/services: nobody reads 2 keys here (/weft/services/db, /weft/services/web); objects stand below \
              /weft/objects/, under any name"
            ]
        );
        assert!(follower.known.is_empty() && !follower.would_lose_all(&BTreeMap::new()));
        follower.happened(&happened(What::Delete, binary));
        assert_eq!(told(&mut follower), [""; 0]);
        follower.compare(&BTreeMap::new());
        assert_eq!(told(&mut follower), ["/weft/ is mended", "/weft/services is mended"]);
    }

    #[test]
    fn a_byte_order_mark_is_no_part_of_a_value() {
        let mut follower = Follower::new(Keys::under("/weft"));
        follower.put(&kv("/weft/network/default", "\u{feff}{\"podCIDRs\": [\"10.1.0.0/16\"]}", 3));
        assert_eq!(told(&mut follower), ["set network default"]);
        follower.put(&kv("/weft/objects/shop", &format!("\u{feff}{NS}"), 4));
        assert_eq!(told(&mut follower), ["set namespace shop"]);
    }

    #[test]
    fn what_is_not_listed_is_gone_and_what_was_written_since_is_known() {
        let mut follower = Follower::new(Keys::under("/weft"));
        follower.put(&kv("/weft/objects/shop", NS, 3));
        follower.put(&kv("/weft/objects/depot", &NS.replace("shop", "depot"), 4));
        told(&mut follower);
        let listed = |key: &str, revision| BTreeMap::from([(format!("/weft/{key}"), revision)]);
        let check = |follower: &mut Follower, listed: &BTreeMap<String, i64>, unread, owed| {
            let compared = follower.compare(listed);
            assert_eq!((compared.unread, compared.owed()), (unread, owed), "{listed:?}");
        };
        check(&mut follower, &listed("objects/shop", 3), None, Owed::Something);
        assert_eq!(told(&mut follower), ["remove namespace depot"]);
        check(&mut follower, &listed("objects/shop", 3), None, Owed::Nothing);
        check(&mut follower, &listed("objects/shop", 9), Some(9), Owed::Something);
        // An earlier one, which came back.
        check(&mut follower, &listed("objects/shop", 2), Some(2), Owed::Something);
        check(&mut follower, &listed("blocks/default/10.0.0.0_24", 9), None, Owed::Something);
        assert_eq!(told(&mut follower), ["remove namespace shop"]);
    }

    #[test]
    fn an_etcd_without_anything_of_peoples_is_not_the_cluster() {
        let check = |known: &[&str], listed: &[&str], expected: bool| {
            let mut follower = Follower::new(Keys::under("/weft"));
            known.iter().for_each(|key| follower.put(&kv(&format!("/weft/{key}"), NS, 3)));
            let listed = listed.iter().map(|key| (format!("/weft/{key}"), 3)).collect();
            assert_eq!(follower.would_lose_all(&listed), expected, "{known:?} {listed:?}");
        };
        check(&[], &[], false);
        check(&["nodes/n1"], &[], false);
        check(&["network/default", "nodes/n1"], &[], true);
        check(
            &["objects/shop", "nodes/n1"],
            &["nodes/n1", "sessions/n1", "blocks/default/10.0.0.0_24"],
            true,
        );
        check(&["network/default", "objects/shop"], &["objects/depot"], false);
    }

    #[test]
    fn a_network_is_an_object_or_its_spec() {
        let check = |text: &str, expected: Result<&str, &str>| {
            let mut manifest = network("default", text, &mut Interner::default());
            match (manifest.facts.pop().map(|decoded| decoded.fact), expected) {
                (Some(Fact::Network(network)), Ok(cidr)) => {
                    assert_eq!(network.pod_cidrs[0].to_string(), cidr, "{text}");
                }
                (None, Err(part)) => assert!(manifest.errors[0].1.contains(part), "{:?}", manifest.errors),
                (found, _) => panic!("{text}: {found:?}"),
            }
        };
        check(r#"{"podCIDRs": ["10.1.0.0/16"]}"#, Ok("10.1.0.0/16"));
        check(
            r#"{"apiVersion":"weft.dev/v1","kind":"Network","metadata":{"name":"default"},"spec":{"podCIDRs":["10.1.0.0/16"]}}"#,
            Ok("10.1.0.0/16"),
        );
        check(r#"{"kind":"Network","metadata":{"name":"blue"},"spec":{}}"#, Err("as in the key"));
        check(r#"{"podCIDRs": ["10.1.0.0/16"], "wni": 3}"#, Err("wni"));
        check(r#"{"podCIDRs": "#, Err("not JSON"));
        check(
            r#"{"mtu": 1400, "podCIDRs": ["10.1.0.0/16"], "mtu": 1500}"#,
            Err("mtu: \"mtu\" is given twice"),
        );
        check("[]", Err("no object"));
    }
}
