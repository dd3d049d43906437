//! From text to objects: YAML with several documents, or JSON.
//!
//! What always holds: one broken document, or one broken item of a list, does not touch the others. Aliases can't blow
//! a small text up: the values read are bounded by the text's own length.

use std::cell::OnceCell;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use serde_json::value::RawValue;
use serde_saphyr::Options;

use super::Interner;
use super::decode::{ObjectId, Outcome, Reader, decode, decode_value};
use super::error::ObjectError;
use super::locate::Places;
use super::raw::Head;

/// One document of a YAML stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Document<'a> {
    /// Its text, with the `---` line that opens it.
    pub text: &'a str,
    /// Lines before it in the stream.
    pub lines_before: u64,
}

/// Cuts a stream at its `---` lines. A line that begins with `---` ends a document wherever it stands, also inside a
/// quoted or block scalar (YAML 1.2.2 §9.1.2), so no parser is needed for it. Documents without contents are left out.
pub fn documents(text: &str) -> Vec<Document<'_>> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut documents = Vec::new();
    let (mut start, mut start_line, mut offset) = (0, 0, 0);
    let mut push = |from: usize, to: usize, lines_before| {
        let part = &text[from..to];
        if part.lines().any(has_content) {
            documents.push(Document { text: part, lines_before });
        }
    };
    for (number, line) in text.split_inclusive('\n').enumerate() {
        let is_marker =
            line.strip_prefix("---").is_some_and(|r| r.is_empty() || r.starts_with([' ', '\t', '\r', '\n']));
        if is_marker && offset > start {
            push(start, offset, start_line);
            (start, start_line) = (offset, number as u64);
        }
        offset += line.len();
    }
    push(start, text.len(), start_line);
    documents
}

/// False for blank lines, comments, markers and directives.
fn has_content(line: &str) -> bool {
    let line = line.strip_prefix("---").unwrap_or(line).trim();
    !(line.is_empty() || line.starts_with('#') || line.starts_with('%') || line == "...")
}

/// Decodes one YAML document. Lines in errors count from the document's first.
pub fn decode_yaml(text: &str, names: &mut Interner) -> Vec<Result<Outcome, ObjectError>> {
    let places = Places::of(text);
    let located = |outcome: Result<Outcome, ObjectError>| {
        outcome.map_err(|mut error| {
            error.line = error.line.or_else(|| places.line_of(&error.field));
            error
        })
    };
    let yaml = Yaml::of(text);
    let id = match glimpse(text) {
        Some(id) => id,
        None => match yaml.read::<Head>() {
            Ok(head) => ObjectId { api_version: head.api_version, kind: head.kind },
            Err(error) => return vec![Err(error)],
        },
    };
    if !id.is_list() {
        return vec![located(decode(&id, &yaml, names))];
    }
    match yaml.tree() {
        Ok(list) => decode_value(list, &id, names).into_iter().map(located).collect(),
        Err(error) => vec![Err(error)],
    }
}

/// Decodes a JSON text: one object, a list, or several after each other.
pub fn decode_json(text: &str, names: &mut Interner) -> Vec<Result<Outcome, ObjectError>> {
    let mut outcomes = Vec::new();
    let mut rest = text;
    while !rest.trim_ascii_start().is_empty() {
        let (value, glimpse) = match next_value(rest) {
            Ok(found) => found,
            Err(error) => {
                let mut error = not_json(&error);
                let before = &text[..text.len() - rest.len()];
                error.line = error.line.map(|line| line + before.matches('\n').count() as u64);
                outcomes.push(Err(error));
                break;
            }
        };
        rest = &rest[value.len()..];
        decode_glimpsed(value, glimpse, names, &mut outcomes);
    }
    let places = Places::of(text);
    for error in outcomes.iter_mut().filter_map(|o| o.as_mut().err()) {
        error.line = error.line.or_else(|| places.line_of(&error.field));
    }
    outcomes
}

/// The first value of a text, from the text's start on, and what tells what it is, unless that takes another look. One pass gives both.
fn next_value(text: &str) -> serde_json::Result<(&str, Option<Glimpse<'_>>)> {
    let mut glimpses = serde_json::Deserializer::from_str(text).into_iter();
    if let Some(Ok(glimpse)) = glimpses.next() {
        return Ok((&text[..glimpses.byte_offset()], Some(glimpse)));
    }
    let mut values = serde_json::Deserializer::from_str(text).into_iter::<&RawValue>();
    values.next().transpose()?;
    Ok((&text[..values.byte_offset()], None))
}

/// The fields of a JSON text of which its other fields' meaning depends.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Glimpse<'a> {
    #[serde(borrow, default)]
    api_version: Option<&'a str>,
    #[serde(borrow, default)]
    kind: Option<&'a str>,
    #[serde(borrow, default)]
    items: Option<Vec<&'a RawValue>>,
}

impl Glimpse<'_> {
    fn id(&self, usual: &ObjectId) -> ObjectId {
        let or = |text: Option<&str>, usual: &str| {
            text.filter(|text| !text.is_empty()).unwrap_or(usual).to_owned()
        };
        ObjectId { api_version: or(self.api_version, &usual.api_version), kind: or(self.kind, &usual.kind) }
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

/// Decodes an object, or each of a list's. Whatever is not quite as expected, down to a field that is given twice, is left to
/// the tree, which says what is wrong or takes it as it always did.
fn decode_glimpsed(
    value: &str,
    glimpse: Option<Glimpse<'_>>,
    names: &mut Interner,
    outcomes: &mut Vec<Result<Outcome, ObjectError>>,
) {
    let nobody = ObjectId::default();
    match glimpse.map(|glimpse| (glimpse.id(&nobody), glimpse.items)) {
        Some((id, Some(items))) if id.is_list() => {
            let usual = id.of_items();
            for (at, item) in items.into_iter().map(RawValue::get).enumerate() {
                let id =
                    begin(item).or_else(|| Some(serde_json::from_str::<Glimpse<'_>>(item).ok()?.id(&usual)));
                match id.and_then(|id| decode_one(&id, item, names)) {
                    Some(outcome) => outcomes.push(Ok(outcome)),
                    None => {
                        let decoded = decode_tree(item, &usual, names).into_iter();
                        outcomes.extend(decoded.map(|o| o.map_err(|e| e.under(&format!("items[{at}]")))));
                    }
                }
            }
        }
        other => match other.and_then(|(id, _)| decode_one(&id, value, names)) {
            Some(outcome) => outcomes.push(Ok(outcome)),
            None => outcomes.extend(decode_tree(value, &nobody, names)),
        },
    }
}

/// What an object is whose text begins with it, as nearly everybody writes it: saves reading to the end in search of more.
fn begin(text: &str) -> Option<ObjectId> {
    let (api_version, rest) = first_text(text.strip_prefix('{')?, "\"apiVersion\"")?;
    let (kind, _) = first_text(rest.strip_prefix(',')?, "\"kind\"")?;
    Some(ObjectId { api_version: api_version.to_owned(), kind: kind.to_owned() })
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
    if id.is_list() { None } else { decode(id, &Json(value), names).ok() }
}

fn decode_tree(value: &str, usual: &ObjectId, names: &mut Interner) -> Vec<Result<Outcome, ObjectError>> {
    match serde_json::from_str::<Value>(value) {
        Ok(value) => decode_value(&value, usual, names),
        Err(error) => vec![Err(ObjectError { line: None, ..not_json(&error) })],
    }
}

fn not_json(error: &serde_json::Error) -> ObjectError {
    let mut wrong = ObjectError::at("", format!("this is not JSON: {error}"));
    wrong.line = Some(error.line() as u64).filter(|line| *line > 0);
    wrong
}

/// `apiVersion` and `kind` by a look at the lines, which saves reading most documents twice. A line that begins with
/// one of the two in its first column is the document's own field, if its text is a block mapping; whatever looks
/// otherwise gives `None` and is read properly.
fn glimpse(text: &str) -> Option<ObjectId> {
    let mut id = ObjectId::default();
    for line in text.lines() {
        let (field, value) = match (line.strip_prefix("apiVersion:"), line.strip_prefix("kind:")) {
            (Some(value), _) => (&mut id.api_version, value),
            (_, Some(value)) => (&mut id.kind, value),
            _ => {
                // A flow mapping, a quoted key or a tag at the top: not for a mere look.
                if line.starts_with(['{', '[', '"', '\'', '?', '!', '&']) || line.starts_with("--- ") {
                    return None;
                }
                continue;
            }
        };
        let value = value.split_once(" #").map_or(value, |(value, _)| value).trim();
        let value = value.strip_prefix('"').and_then(|v| v.strip_suffix('"')).unwrap_or(value);
        let plain = |c: char| c.is_ascii_alphanumeric() || "./-".contains(c);
        if !field.is_empty() || value.is_empty() || !value.chars().all(plain) {
            return None;
        }
        value.clone_into(field);
    }
    (!id.kind.is_empty() && !id.api_version.is_empty()).then_some(id)
}

/// A YAML text. It is read into a tree first: reading each type straight from it is a little faster, and two megabytes of program.
///
/// The tree is made when somebody asks for a field: of a kind that nobody knows, nothing is read.
struct Yaml<'a> {
    text: &'a str,
    tree: OnceCell<Result<Value, ObjectError>>,
}

impl<'a> Yaml<'a> {
    fn of(text: &'a str) -> Self {
        Self { text, tree: OnceCell::new() }
    }

    fn tree(&self) -> Result<&Value, ObjectError> {
        let read = || {
            serde_saphyr::from_str_with_options(self.text, options(self.text)).map_err(|error| syntax(&error))
        };
        self.tree.get_or_init(read).as_ref().map_err(Clone::clone)
    }
}

impl Reader for Yaml<'_> {
    fn read<T: DeserializeOwned>(&self) -> Result<T, ObjectError> {
        self.tree()?.read()
    }
}

/// Our form of the parser's error: it repeats the place in its text, which we say ourselves.
fn syntax(error: &serde_saphyr::Error) -> ObjectError {
    let text = error.to_string();
    let reason = text.split(" at line ").next().unwrap_or(&text);
    let mut wrong = ObjectError::at("", reason);
    wrong.line = error.location().map(|l| l.line()).filter(|line| *line > 0);
    wrong
}

/// The parser's limits: at most one node for each byte, aliases included, so that nothing grows in reading.
pub(super) fn options(text: &str) -> Options {
    let mut options = Options::default();
    options.with_snippet = false;
    if let Some(budget) = &mut options.budget {
        budget.max_nodes = text.len() + 64;
        budget.max_events = 2 * text.len() + 64;
        budget.max_total_scalar_bytes = 4 * text.len() + 64;
    }
    options
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_cut_at_its_markers() {
        let text =
            "# head\n---\na: 1\n---\n\n# only a comment\n---   # note\nb: |\n  ---\n  x\n--- {c: 2}\n...\n";
        let parts: Vec<_> = documents(text).iter().map(|d| (d.lines_before, d.text)).collect();
        assert_eq!(
            parts,
            [(1, "---\na: 1\n"), (6, "---   # note\nb: |\n  ---\n  x\n"), (10, "--- {c: 2}\n...\n")]
        );
        assert_eq!(documents("").len(), 0);
        assert_eq!(documents("---\n").len(), 0);
        assert_eq!(documents("a: 1").len(), 1);
    }

    /// Reads a JSON text as it is, and as a tree: both must say the same.
    fn check_json(text: &str) {
        let tree = |text: &str, names: &mut Interner| {
            let value: Value = serde_json::from_str(text).unwrap();
            decode_value(&value, &ObjectId::default(), names)
        };
        let mut expected = tree(text, &mut Interner::default());
        for error in expected.iter_mut().filter_map(|o| o.as_mut().err()) {
            error.line = error.line.or_else(|| Places::of(text).line_of(&error.field));
        }
        assert_eq!(decode_json(text, &mut Interner::default()), expected, "{text}");
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

    #[test]
    fn several_texts_follow_each_other_until_one_breaks() {
        let text = "{\"apiVersion\": \"v1\", \"kind\": \"Namespace\", \"metadata\": {\"name\": \"a\"}}\n{\"x\": }\n{}";
        let outcomes = decode_json(text, &mut Interner::default());
        assert!(matches!(outcomes[..], [Ok(_), Err(_)]), "{outcomes:?}");
        assert_eq!(outcomes[1].as_ref().unwrap_err().line, Some(2));
    }

    #[test]
    fn a_look_gives_kind_and_version_or_nothing() {
        let check = |text: &str, expected: Option<(&str, &str)>| {
            let id = glimpse(text);
            assert_eq!(id.as_ref().map(|i| (i.api_version.as_str(), i.kind.as_str())), expected, "{text}");
        };
        check("apiVersion: v1\nkind: Pod # x\nspec:\n  kind: Y\n", Some(("v1", "Pod")));
        check("---\nkind: \"Pod\"\napiVersion: apps/v1\n", Some(("apps/v1", "Pod")));
        check("apiVersion: v1\nkind: *alias\n", None);
        check("kind: Pod\n", None);
        check("kind: Pod\nkind: Node\napiVersion: v1\n", None);
        check("{apiVersion: v1, kind: Pod}\n", None);
        check("--- {apiVersion: v1, kind: Pod}\n", None);
    }
}
