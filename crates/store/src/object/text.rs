//! From text to objects: YAML with several documents, or JSON.
//!
//! What always holds: one broken document, or one broken item of a list, does not touch the others. Aliases can't blow
//! a small text up: the values read are bounded by the text's own length.

use serde::de::DeserializeOwned;
use serde_json::Value;
use serde_saphyr::Options;

use super::Interner;
use super::decode::{ObjectId, Outcome, Reader, decode, decode_value};
use super::error::{ObjectError, path_of};
use super::locate::line_of;
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
    let located = |outcome: Result<Outcome, ObjectError>| {
        outcome.map_err(|mut error| {
            error.line = error.line.or_else(|| line_of(text, &error.field));
            error
        })
    };
    let id = match glimpse(text) {
        Some(id) => id,
        None => match Yaml(text).read::<Head>() {
            Ok(head) => ObjectId { api_version: head.api_version, kind: head.kind },
            Err(error) => return vec![Err(error)],
        },
    };
    if !id.is_list() {
        return vec![located(decode(&id, &Yaml(text), names))];
    }
    match serde_saphyr::from_str_with_options::<Value>(text, options(text)) {
        Ok(list) => decode_value(&list, &id, names).into_iter().map(located).collect(),
        Err(error) => vec![Err(syntax(&error, String::new()))],
    }
}

/// Decodes a JSON text: one object, a list, or several after each other.
pub fn decode_json(text: &str, names: &mut Interner) -> Vec<Result<Outcome, ObjectError>> {
    let mut outcomes = Vec::new();
    for value in serde_json::Deserializer::from_str(text).into_iter::<Value>() {
        match value {
            Ok(value) => outcomes.extend(decode_value(&value, &ObjectId::default(), names)),
            Err(error) => {
                let mut wrong = ObjectError::at("", format!("this is not JSON: {error}"));
                wrong.line = Some(error.line() as u64).filter(|line| *line > 0);
                outcomes.push(Err(wrong));
                break;
            }
        }
    }
    for error in outcomes.iter_mut().filter_map(|o| o.as_mut().err()) {
        error.line = error.line.or_else(|| line_of(text, &error.field));
    }
    outcomes
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

/// A YAML text whose fields are read straight into their types.
struct Yaml<'a>(&'a str);

impl Reader for Yaml<'_> {
    fn read<T: DeserializeOwned>(&self) -> Result<T, ObjectError> {
        let mut options = options(self.0);
        // As the API server has it: a label `1` or `no` is a number or a truth, and has to be quoted.
        options.no_schema = true;
        let mut field = String::new();
        serde_saphyr::with_deserializer_from_str_with_options(self.0, options, |from| {
            serde_path_to_error::deserialize(from).map_err(|error| {
                field = path_of(error.path());
                error.into_inner()
            })
        })
        .map_err(|error| syntax(&error, field))
    }
}

/// Our form of the parser's error: it repeats the place in its text, which we say ourselves.
fn syntax(error: &serde_saphyr::Error, field: String) -> ObjectError {
    let text = error.to_string();
    let reason = text.split(" at line ").next().unwrap_or(&text);
    let mut wrong = ObjectError::at(field, reason);
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
