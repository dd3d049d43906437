//! What one text holds: pure.
//!
//! What always holds: whatever the text, what is kept of it is bounded: the facts by [`MOST_OBJECTS`], and of what is wrong or of no use the
//! first few, with the number of the others.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use weft_model::{Fact, NodeName};

use super::render::PUBLISHED_AT;
use super::{Form, Writer};
use crate::object::{
    Decoded, Interner, MOST_OBJECTS, ObjectError, ObjectId, Outcome, UnknownKind, decode_json, decode_node,
    decode_yaml, documents, json_tree,
};

/// Errors of one text that are told one by one.
const MOST_ERRORS: usize = 20;
/// Kinds in one text that are told one by one.
const MOST_KINDS: usize = 20;

/// A text's contents, taken apart.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Manifest {
    /// The facts, in the text's order.
    pub facts: Vec<Decoded>,
    /// What is no fact and should be: line and error.
    pub errors: Vec<(Option<u64>, String)>,
    /// How many more there are.
    pub more_errors: usize,
    /// Kinds that Weft has no use for.
    pub unknown: BTreeSet<UnknownKind>,
    /// How many objects there are of further such kinds.
    pub more_unknown: usize,
    /// When a node wrote it, in milliseconds since 1970 by its clock; 0 for people's texts.
    pub published_at: u64,
    /// The text breaks off without a line end, as the text of a copy in progress may.
    pub is_cut_off: bool,
    /// Objects that came of it, of whatever kind.
    objects: usize,
}

/// Takes a text apart. `writer` decides what it may say.
pub(crate) fn take_apart(form: Form, writer: &Writer, text: &str, names: &mut Interner) -> Manifest {
    match writer {
        Writer::User => people(form, text, names, MOST_OBJECTS),
        Writer::Node(node) => published(node, text, names),
    }
}

/// What people have written, with `most` objects at most.
fn people(form: Form, text: &str, names: &mut Interner, most: usize) -> Manifest {
    let mut manifest = Manifest::default();
    let _ = match form {
        Form::Json => decode_json(text, names, &mut |outcome| manifest.take(outcome, 0, most)),
        Form::Yaml => {
            // JSON closes its brackets: a text that is cut off doesn't parse.
            manifest.is_cut_off = !text.is_empty() && !text.ends_with('\n');
            documents(text).try_for_each(|document| {
                let take = &mut |outcome| manifest.take(outcome, document.lines_before, most);
                decode_yaml(document.text, names, take)
            })
        }
    };
    manifest
}

fn published(node: &NodeName, text: &str, names: &mut Interner) -> Manifest {
    let mut manifest = Manifest::default();
    let root = match json_tree(text) {
        Ok(root) => root,
        Err(error) => {
            manifest
                .errors
                .push((error.line, format!("node {node} has written what can't be read: {error}")));
            return manifest;
        }
    };
    let at = ["metadata", "annotations", PUBLISHED_AT].iter().try_fold(&root, |node, key| node.get(key));
    manifest.published_at = at.and_then(|node| node.text()?.parse().ok()).unwrap_or(0);
    let _ = decode_node(&root, &ObjectId::default(), text.len(), names, &mut |outcome| {
        manifest.take(outcome, 0, MOST_OBJECTS)
    });
    let is_own = |decoded: &Decoded| match &decoded.fact {
        Fact::Node(n) => n.name == *node,
        Fact::Pod(pod) => pod.node.as_ref() == Some(node),
        _ => false,
    };
    if manifest.facts.iter().any(|decoded| !is_own(decoded)) {
        manifest.facts.retain(is_own);
        let text = format!(
            "it holds what is not node {node}'s own, which is passed over; only that node may write here"
        );
        manifest.errors.push((None, text));
    }
    manifest
}

impl Manifest {
    fn take(
        &mut self,
        outcome: Result<Outcome, ObjectError>,
        lines_before: u64,
        most: usize,
    ) -> ControlFlow<()> {
        self.objects += 1;
        if self.objects > most {
            // Nothing of it counts: which part would be chance.
            let text = format!("it holds more than {most} objects, and no more are read; split it");
            *self = Self { errors: vec![(None, text)], ..Self::default() };
            return ControlFlow::Break(());
        }
        match outcome {
            Ok(Outcome::Facts(facts)) => self.facts.extend(facts),
            Ok(Outcome::Unknown(kind)) => {
                if self.unknown.len() < MOST_KINDS || self.unknown.contains(&kind) {
                    self.unknown.insert(kind);
                } else {
                    self.more_unknown += 1;
                }
            }
            Err(_) if self.errors.len() >= MOST_ERRORS => self.more_errors += 1,
            Err(error) => self.errors.push((error.line.map(|line| line + lines_before), error.to_string())),
        }
        ControlFlow::Continue(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_with_too_many_objects_is_left_out_as_a_whole() {
        let check = |form: Form, text: &str, is_left_out: bool| {
            let manifest = people(form, text, &mut Interner::default(), 100);
            let shown = &text[..60];
            if is_left_out {
                let expected =
                    (None, "it holds more than 100 objects, and no more are read; split it".to_owned());
                assert_eq!(manifest, Manifest { errors: vec![expected], ..Manifest::default() }, "{shown}");
            } else {
                assert_eq!((manifest.objects, manifest.errors.len()), (100, 0), "{shown}");
            }
        };
        let namespace = r#"{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"a"}}"#;
        let other = r#"{"apiVersion":"v1","kind":"Other"}"#;
        let list = |item: &str, count: usize| {
            format!(r#"{{"apiVersion":"v1","kind":"List","items":[{}]}}"#, vec![item; count].join(","))
        };
        for form in [Form::Json, Form::Yaml] {
            check(form, &list(namespace, 100), false);
            check(form, &list(namespace, 101), true);
            check(form, &list(other, 101), true);
            check(form, &list("0", 101), true);
        }
        check(Form::Json, &"{}".repeat(101), true);
        check(Form::Yaml, &"---\napiVersion: v1\nkind: Other\n".repeat(100), false);
        check(Form::Yaml, &"---\napiVersion: v1\nkind: Other\n".repeat(101), true);
    }
}
