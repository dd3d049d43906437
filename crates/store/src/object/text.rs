//! From YAML text to objects: a stream of documents.
//!
//! What always holds: one broken document, or one broken item of a list, does not touch the others.

use std::ops::ControlFlow;

use serde::de::DeserializeOwned;

use super::decode::{ObjectId, Reader, Sink, decode, decode_node, is_kind, is_version};
use super::error::ObjectError;
use super::{Interner, yaml};

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
pub fn documents(text: &str) -> impl Iterator<Item = Document<'_>> {
    let mut rest = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut lines_before = 0;
    let mut next = move || {
        if rest.is_empty() {
            return None;
        }
        let (mut end, mut lines) = (0, 0);
        for line in rest.split_inclusive('\n') {
            let is_marker = line
                .strip_prefix("---")
                .is_some_and(|r| r.is_empty() || r.starts_with([' ', '\t', '\r', '\n']));
            if is_marker && end > 0 {
                break;
            }
            end += line.len();
            lines += 1;
        }
        let document = Document { text: &rest[..end], lines_before };
        rest = &rest[end..];
        lines_before += lines;
        Some(document)
    };
    std::iter::from_fn(move || {
        loop {
            let document = next()?;
            if document.text.lines().any(has_content) {
                return Some(document);
            }
        }
    })
}

/// False for blank lines, comments, markers and directives.
fn has_content(line: &str) -> bool {
    let line = line.strip_prefix("---").unwrap_or(line).trim();
    !(line.is_empty() || line.starts_with('#') || line.starts_with('%') || line == "...")
}

/// Decodes one YAML document. Lines in errors count from the document's first.
pub fn decode_yaml(text: &str, names: &mut Interner, take: Sink<'_>) -> ControlFlow<()> {
    // Of a kind that nobody knows, nothing is read.
    if let Some(id) = glimpse(text)
        && !id.is_list()
        && !id.is_known()
    {
        return take(decode(&id, &Unread, names));
    }
    match yaml::tree(text) {
        Ok(root) => decode_node(&root, &ObjectId::default(), text.len(), names, take),
        Err(error) => take(Err(error)),
    }
}

/// An object of a kind that isn't read.
struct Unread;

impl Reader for Unread {
    fn read<T: DeserializeOwned>(&self) -> Result<T, ObjectError> {
        Err(ObjectError::at("", "it is not read"))
    }
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
                if line.starts_with(['{', '[', '"', '\'', '?', '!', '&', '*', '|', '>', '%'])
                    || line.starts_with("--- ")
                {
                    return None;
                }
                continue;
            }
        };
        let value = value.split_once(" #").map_or(value, |(value, _)| value).trim();
        let value = value.strip_prefix('"').and_then(|v| v.strip_suffix('"')).unwrap_or(value);
        if !field.is_empty() || !yaml::is_text(value) {
            return None;
        }
        value.clone_into(field);
    }
    (is_kind(&id.kind) && is_version(&id.api_version)).then_some(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_cut_at_its_markers() {
        let text =
            "# head\n---\na: 1\n---\n\n# only a comment\n---   # note\nb: |\n  ---\n  x\n--- {c: 2}\n...\n";
        let parts: Vec<_> = documents(text).map(|d| (d.lines_before, d.text)).collect();
        assert_eq!(
            parts,
            [(1, "---\na: 1\n"), (6, "---   # note\nb: |\n  ---\n  x\n"), (10, "--- {c: 2}\n...\n")]
        );
        assert_eq!(documents("").count(), 0);
        assert_eq!(documents("---\n").count(), 0);
        assert_eq!(documents("a: 1").count(), 1);
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
        // Neither is a text: who wrote it meant something else.
        check("apiVersion: v1\nkind: 7\n", None);
        check("apiVersion: v1\nkind: No\n", None);
        check("apiVersion: 1.5\nkind: Pod\n", None);
        check("|\napiVersion: v1\nkind: Pod\n", None);
        check("kind: Pod\nkind: Node\napiVersion: v1\n", None);
        check("{apiVersion: v1, kind: Pod}\n", None);
        check("--- {apiVersion: v1, kind: Pod}\n", None);
    }
}
