//! JSON texts: straight into an object's fields where all is as it should be, and into a tree where it isn't.
//!
//! What always holds: a text means the same either way. What a fast look finds is used only where it can't be wrong: the tree says what is, and
//! of what isn't read it says nothing either. (But a number beyond any float's, which JSON's reader can't put into a tree, is an error there.)

use std::cell::{Cell, OnceCell};
use std::fmt;
use std::ops::ControlFlow;

use serde::de::{DeserializeOwned, DeserializeSeed, IgnoredAny, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::decode::{LARGEST_OBJECT, ObjectId, Outcome, Reader, Sink, decode, decode_node};
use super::error::ObjectError;
use super::locate::line_of;
use super::tree::{Grow, MOST_VALUES, Node};
use super::{Interner, MOST_OBJECTS, yaml};

/// Reads a text that is one value.
///
/// # Errors
/// When it is no JSON, or has too many values: with the line.
pub fn tree(text: &str) -> Result<Node<'_>, ObjectError> {
    let left = Cell::new(MOST_VALUES);
    let mut from = serde_json::Deserializer::from_str(text);
    let found = Grow::root(&left).deserialize(&mut from).and_then(|root| from.end().map(|()| root));
    found.map_err(|error| not_json(&error))
}

fn not_json(error: &serde_json::Error) -> ObjectError {
    let text = error.to_string();
    let reason = text.split(" at line ").next().unwrap_or(&text);
    let reason = if error.is_data() { reason.to_owned() } else { format!("this is not JSON: {reason}") };
    let mut wrong = ObjectError::at("", reason);
    wrong.line = Some(error.line() as u64).filter(|line| *line > 0);
    wrong
}

/// The first value of a text, from the text's start on, and what tells what it is, unless that takes another look. One pass gives both.
fn next_value(text: &str) -> serde_json::Result<(&str, Option<Glimpse<'_>>)> {
    if text.trim_ascii_start().starts_with('{') {
        let mut glimpses = serde_json::Deserializer::from_str(text).into_iter();
        if let Some(Ok(glimpse)) = glimpses.next() {
            return Ok((&text[..glimpses.byte_offset()], Some(glimpse)));
        }
    }
    let mut values = serde_json::Deserializer::from_str(text).into_iter::<&RawValue>();
    values.next().transpose()?;
    Ok((&text[..values.byte_offset()], None))
}

/// The fields of a JSON object of which its other fields' meaning depends.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Glimpse<'a> {
    #[serde(borrow, default)]
    api_version: Option<&'a str>,
    #[serde(borrow, default)]
    kind: Option<&'a str>,
    #[serde(borrow, default)]
    items: Option<Items<'a>>,
}

impl<'a> Glimpse<'a> {
    /// Of a text that is an object; what else it is, a derived reader would take by position.
    fn of(text: &'a str) -> Option<Self> {
        if text.trim_ascii_start().starts_with('{') { serde_json::from_str(text).ok() } else { None }
    }

    fn id(&self, usual: &ObjectId) -> ObjectId {
        let or = |text: Option<&str>, usual: &str| {
            text.filter(|text| !text.is_empty()).unwrap_or(usual).to_owned()
        };
        ObjectId { api_version: or(self.api_version, &usual.api_version), kind: or(self.kind, &usual.kind) }
    }
}

/// A list's items, as many as are of use: more than [`MOST_OBJECTS`] are refused by whoever takes the outcomes.
struct Items<'a>(Vec<&'a RawValue>);

impl<'de: 'a, 'a> Deserialize<'de> for Items<'a> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Enough;
        impl<'de> Visitor<'de> for Enough {
            type Value = Vec<&'de RawValue>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of objects")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
                let mut items = Vec::new();
                while items.len() <= MOST_OBJECTS {
                    match seq.next_element()? {
                        Some(item) => items.push(item),
                        None => return Ok(items),
                    }
                }
                while seq.next_element::<IgnoredAny>()?.is_some() {}
                Ok(items)
            }
        }
        from.deserialize_seq(Enough).map(Items)
    }
}

/// A JSON text whose fields are read straight into their types: half of the time and of the memory of a tree.
struct Json<'a>(&'a str);

impl Reader for Json<'_> {
    fn read<T: DeserializeOwned>(&self) -> Result<T, ObjectError> {
        // Nobody reads this error: what can't be read so is read as a tree.
        serde_json::from_str(self.0).map_err(|error| not_json(&error))
    }
}

/// Decodes a JSON text: one object, a list, or several after each other. Lines in errors count from the text's first.
pub fn decode_json(text: &str, names: &mut Interner, take: Sink<'_>) -> ControlFlow<()> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut lines = Lines { text, at: 0, before: 0 };
    let mut rest = text;
    while !rest.trim_ascii_start().is_empty() {
        let before = lines.before(rest);
        let (value, glimpse) = match next_value(rest) {
            Ok(found) => found,
            Err(error) => return take(Err(not_json(&error).moved(before))),
        };
        rest = &rest[value.len()..];
        decode_glimpsed(value, glimpse, &mut lines, names, take)?;
    }
    ControlFlow::Continue(())
}

/// Counts the lines before parts of a text that come one after the other.
struct Lines<'a> {
    text: &'a str,
    at: usize,
    before: u64,
}

impl Lines<'_> {
    /// Lines before `part`, which is a part of the text and begins no earlier than the last one did.
    fn before(&mut self, part: &str) -> u64 {
        let at = (part.as_ptr() as usize).saturating_sub(self.text.as_ptr() as usize);
        let passed = self.text.as_bytes().get(self.at..at).unwrap_or_default();
        self.before += memchr::memchr_iter(b'\n', passed).count() as u64;
        self.at = self.at.max(at);
        self.before
    }
}

/// Decodes an object, or each of a list's. Whatever is not quite as expected is left to the tree, which says what is wrong.
fn decode_glimpsed(
    value: &str,
    glimpse: Option<Glimpse<'_>>,
    lines: &mut Lines<'_>,
    names: &mut Interner,
    take: Sink<'_>,
) -> ControlFlow<()> {
    let nobody = ObjectId::default();
    match glimpse.map(|glimpse| (glimpse.id(&nobody), glimpse.items)) {
        Some((id, Some(Items(items)))) if id.is_list() => {
            let usual = id.of_items();
            items.into_iter().map(RawValue::get).enumerate().try_for_each(|(at, item)| {
                let id = begin(item).or_else(|| Some(Glimpse::of(item)?.id(&usual)));
                if let Some(outcome) = id.and_then(|id| decode_one(&id, item, names)) {
                    return take(Ok(outcome));
                }
                let (prefix, before) = (format!("items[{at}]"), lines.before(item));
                decode_tree(item, &usual, before, names, &mut |outcome| {
                    take(outcome.map_err(|error| error.under(&prefix)))
                })
            })
        }
        other => match other.and_then(|(id, _)| decode_one(&id, value, names)) {
            Some(outcome) => take(Ok(outcome)),
            None => {
                let before = lines.before(value);
                decode_tree(value, &nobody, before, names, take)
            }
        },
    }
}

/// What an object is whose text begins with it, as nearly everybody writes it: saves reading to the end in search of more. Only of kinds
/// that are read then: they would notice if either stood there once more.
fn begin(text: &str) -> Option<ObjectId> {
    let (api_version, rest) = first_text(text.strip_prefix('{')?, "\"apiVersion\"")?;
    let (kind, _) = first_text(rest.strip_prefix(',')?, "\"kind\"")?;
    let id = ObjectId { api_version: api_version.to_owned(), kind: kind.to_owned() };
    id.is_known().then_some(id)
}

/// The plain text that `field` has, if the text begins with that, and what follows.
fn first_text<'a>(text: &'a str, field: &str) -> Option<(&'a str, &'a str)> {
    let value = text.trim_ascii_start().strip_prefix(field)?.trim_ascii_start().strip_prefix(':')?;
    let (value, rest) = value.trim_ascii_start().strip_prefix('"')?.split_once('"')?;
    let is_plain =
        !value.is_empty() && value.bytes().all(|b| b.is_ascii_alphanumeric() || b"./-".contains(&b));
    is_plain.then_some((value, rest.trim_ascii_start()))
}

/// One object that is no list and has nothing wrong.
fn decode_one(id: &ObjectId, value: &str, names: &mut Interner) -> Option<Outcome> {
    let is_in_order = !id.is_list() && value.len() <= LARGEST_OBJECT;
    if is_in_order { decode(id, &Json(value), names).ok() } else { None }
}

/// Decodes by way of the tree. `before` are the lines before the text in its file.
fn decode_tree(
    value: &str,
    usual: &ObjectId,
    before: u64,
    names: &mut Interner,
    take: Sink<'_>,
) -> ControlFlow<()> {
    let root = match tree(value) {
        Ok(root) => root,
        Err(error) => return take(Err(error.moved(before))),
    };
    // JSON is YAML, which knows its lines, as far as it goes.
    let places = OnceCell::new();
    decode_node(&root, usual, value.len(), names, &mut |outcome| {
        take(outcome.map_err(|mut error| {
            let places = places.get_or_init(|| yaml::places(value).ok());
            error.line = places.as_ref().and_then(|root| line_of(root, &error.field));
            error.moved(before)
        }))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode_all(text: &str) -> Vec<Result<Outcome, ObjectError>> {
        let mut outcomes = Vec::new();
        let _ = decode_json(text, &mut Interner::default(), &mut |outcome| {
            outcomes.push(outcome);
            ControlFlow::Continue(())
        });
        outcomes
    }

    /// Reads a JSON text as it is, and as a tree: both must say the same.
    fn check_json(text: &str) {
        let mut expected = Vec::new();
        let _ = decode_tree(text, &ObjectId::default(), 0, &mut Interner::default(), &mut |outcome| {
            expected.push(outcome);
            ControlFlow::Continue(())
        });
        assert_eq!(decode_all(text), expected, "{text}");
    }

    #[test]
    fn json_means_the_same_with_and_without_a_tree() {
        let namespace = r#"{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "a"}}"#;
        let list = |items: &str| format!(r#"{{"items": {items}, "kind": "List", "apiVersion": "v1"}}"#);
        check_json(namespace);
        check_json(&list(&format!("[{namespace}, {namespace}]")));
        check_json(&list("null"));
        check_json(&list("{}"));
        check_json(&list("[1, {}, []]"));
        check_json(r#"{"apiVersion": "v1", "kind": "List"}"#);
        check_json(
            r#"{"apiVersion": "v1", "kind": "NamespaceList", "items": [{"metadata": {"name": "a"}}]}"#,
        );
        check_json(&list(&format!("[{}, {namespace}]", list(&format!("[{namespace}]")))));
        // An escape, a field twice, one of another type, a name that is none, a kind that nobody knows.
        check_json(r#"{"apiVersion": "v\u0031", "kind": "Namespace", "metadata": {"name": "a"}}"#);
        check_json(r#"{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "a", "name": "b"}}"#);
        check_json(r#"{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": 1}}"#);
        check_json(r#"{"apiVersion": 1, "kind": "Namespace", "metadata": {"name": "a"}}"#);
        check_json(r#"{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "A"}}"#);
        check_json(r#"{"apiVersion": "v1", "kind": "Other"}"#);
        check_json(&list(r#"[{ "apiVersion" : "v1" , "kind":"Other" }, {"apiVersion": "v1", "kind": ""}]"#));
        check_json(&list(r#"[{"kind": "Namespace", "apiVersion": "v1", "metadata": {"name": "a"}}]"#));
        check_json("{}");
        check_json("null");
        check_json("[]");
    }

    /// However its kind is written.
    #[test]
    fn what_is_not_read_is_not_looked_at() {
        let check = |rest: &str| {
            for kind in ["Namespace", "Name\\u0073pace"] {
                let text = format!(
                    r#"{{"apiVersion": "v1", "kind": "{kind}", "metadata": {{"name": "a", {rest}}}, {rest}}}"#
                );
                check_json(&text);
                assert!(matches!(decode_all(&text)[..], [Ok(Outcome::Facts(_))]), "{:?}", decode_all(&text));
            }
        };
        let deep = |levels: usize| format!(r#""more": {}{}"#, "[".repeat(levels), "]".repeat(levels));
        check(r#""more": 1, "more": 2"#);
        check(r#""more": {"a": {"b": 1, "b": 2}}"#);
        check(&deep(100));
        check(&deep(1000));
    }

    #[test]
    fn a_line_that_is_not_known_is_not_told() {
        let line = |levels: usize| {
            let more = format!("{}{}", "[".repeat(levels), "]".repeat(levels));
            let text = format!(
                "{{\"apiVersion\": \"v1\",\n\"kind\": \"Namespace\",\n\"metadata\": {{\"name\": 1}}, \"more\": {more}}}"
            );
            decode_all(&text)[0].as_ref().unwrap_err().line
        };
        assert_eq!(line(1), Some(3));
        assert_eq!(line(100), Some(3));
        assert_eq!(line(10_000), None);
    }

    #[test]
    fn several_texts_follow_each_other_until_one_breaks() {
        let text = "{\"apiVersion\": \"v1\", \"kind\": \"Namespace\", \"metadata\": {\"name\": \"a\"}}\n{\"x\": }\n{}";
        let outcomes = decode_all(text);
        assert!(matches!(outcomes[..], [Ok(_), Err(_)]), "{outcomes:?}");
        assert_eq!(outcomes[1].as_ref().unwrap_err().line, Some(2));
    }
}
