//! The line of a field in YAML text.
//!
//! Only errors ask for it, so the text is read once more, with positions, instead of keeping them for every field.

use std::cell::OnceCell;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::Spanned;

/// The places of a text's fields, found when the first error asks: many may be wrong in one text.
pub struct Places<'a> {
    text: &'a str,
    root: OnceCell<Option<Spanned<Tree>>>,
}

impl<'a> Places<'a> {
    /// Those of one document, or of a JSON text.
    pub fn of(text: &'a str) -> Self {
        Self { text, root: OnceCell::new() }
    }

    /// The line, counted from 1, of the field at `path` or of its nearest ancestor that exists.
    pub fn line_of(&self, path: &str) -> Option<u64> {
        let read = || serde_saphyr::from_str_with_options(self.text, super::text::options(self.text)).ok();
        let mut at = self.root.get_or_init(read).as_ref()?;
        for step in steps(path) {
            let next = match (&at.value, step) {
                (Tree::Map(entries), Step::Key(key)) => {
                    entries.iter().find(|(k, _)| *k == key).map(|(_, v)| v)
                }
                (Tree::Seq(items), Step::Index(index)) => items.get(index),
                _ => None,
            };
            match next {
                Some(next) => at = next,
                None => break,
            }
        }
        Some(at.referenced.line()).filter(|line| *line > 0)
    }
}

enum Step {
    Key(String),
    Index(usize),
}

/// Takes `spec.ports[1].port` and `metadata.annotations["weft.dev/x"]` apart.
fn steps(path: &str) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut rest = path;
    while !rest.is_empty() {
        if let Some((key, tail)) = rest.strip_prefix("[\"").and_then(|r| r.split_once("\"]")) {
            steps.push(Step::Key(key.to_owned()));
            rest = tail;
        } else if let Some((index, tail)) = rest.strip_prefix('[').and_then(|r| r.split_once(']')) {
            steps.extend(index.parse().ok().map(Step::Index));
            rest = tail;
        } else {
            rest = rest.strip_prefix('.').unwrap_or(rest);
            let end = rest.find(['.', '[']).unwrap_or(rest.len());
            if end == 0 {
                break;
            }
            steps.push(Step::Key(rest[..end].to_owned()));
            rest = &rest[end..];
        }
    }
    steps
}

/// A document's shape, with positions and without values.
enum Tree {
    Map(Vec<(String, Spanned<Tree>)>),
    Seq(Vec<Spanned<Tree>>),
    Leaf,
}

impl<'de> Deserialize<'de> for Tree {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Shape;
        impl<'de> Visitor<'de> for Shape {
            type Value = Tree;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("anything")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Tree, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(Tree::Map(entries))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Tree, A::Error> {
                let mut items = Vec::new();
                while let Some(item) = seq.next_element()? {
                    items.push(item);
                }
                Ok(Tree::Seq(items))
            }
            fn visit_str<E>(self, _: &str) -> Result<Tree, E> {
                Ok(Tree::Leaf)
            }
            fn visit_u64<E>(self, _: u64) -> Result<Tree, E> {
                Ok(Tree::Leaf)
            }
            fn visit_i64<E>(self, _: i64) -> Result<Tree, E> {
                Ok(Tree::Leaf)
            }
            fn visit_f64<E>(self, _: f64) -> Result<Tree, E> {
                Ok(Tree::Leaf)
            }
            fn visit_bool<E>(self, _: bool) -> Result<Tree, E> {
                Ok(Tree::Leaf)
            }
            fn visit_unit<E>(self) -> Result<Tree, E> {
                Ok(Tree::Leaf)
            }
        }
        from.deserialize_any(Shape)
    }
}

#[cfg(test)]
mod tests {
    use super::Places;

    #[test]
    fn fields_have_lines() {
        let text = "kind: X\nspec:\n  ports:\n  - port: 1\n  - port: 2\n    name: a\nmeta:\n  notes:\n    a.b/c: x\n";
        let check =
            |path: &str, expected: u64| assert_eq!(Places::of(text).line_of(path), Some(expected), "{path}");
        check("", 1);
        check("kind", 1);
        check("spec.ports[1].port", 5);
        check("spec.ports[1].name", 6);
        // What isn't there has the line of what it would be in.
        check("spec.ports[1].protocol", 5);
        check("meta.notes[\"a.b/c\"]", 9);
    }
}
