//! What one file holds: pure.

use serde_json::Value;
use weft_model::{Fact, NodeName};

use super::render::PUBLISHED_AT;
use super::{Form, Writer};
use crate::object::{
    Decoded, Interner, ObjectError, Outcome, UnknownKind, decode_json, decode_value, decode_yaml, documents,
};

/// A file's contents, taken apart.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Manifest {
    /// The facts, in the file's order.
    pub facts: Vec<Decoded>,
    /// What is no fact and should be: line and error.
    pub errors: Vec<(Option<u64>, String)>,
    /// Kinds that Weft has no use for.
    pub unknown: Vec<UnknownKind>,
    /// When a node wrote it, in milliseconds since 1970 by its clock; 0 for people's files.
    pub published_at: u64,
    /// The text breaks off without a line end, as the text of a copy in progress may.
    pub is_cut_off: bool,
}

/// Takes a text apart. `writer` decides what it may say.
pub(crate) fn take_apart(form: Form, writer: &Writer, text: &str, names: &mut Interner) -> Manifest {
    match writer {
        Writer::User => people(form, text, names),
        Writer::Node(node) => published(node, text, names),
    }
}

fn people(form: Form, text: &str, names: &mut Interner) -> Manifest {
    let mut manifest =
        Manifest { is_cut_off: !text.is_empty() && !text.ends_with('\n'), ..Manifest::default() };
    if form == Form::Json {
        // JSON closes its brackets: a text that is cut off doesn't parse.
        manifest.is_cut_off = false;
        for outcome in decode_json(text, names) {
            manifest.take(outcome, 0);
        }
        return manifest;
    }
    for document in documents(text) {
        for outcome in decode_yaml(document.text, names) {
            manifest.take(outcome, document.lines_before);
        }
    }
    manifest
}

fn published(node: &NodeName, text: &str, names: &mut Interner) -> Manifest {
    let mut manifest = Manifest::default();
    let value: Value = match serde_json::from_str(text) {
        Ok(value) => value,
        Err(error) => {
            let line = Some(error.line() as u64);
            manifest.errors.push((line, format!("node {node} has written no JSON: {error}")));
            return manifest;
        }
    };
    let at = value.pointer("/metadata/annotations").and_then(|a| a.get(PUBLISHED_AT)).and_then(Value::as_str);
    manifest.published_at = at.and_then(|text| text.parse().ok()).unwrap_or(0);
    for outcome in decode_value(&value, &crate::object::ObjectId::default(), names) {
        manifest.take(outcome, 0);
    }
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
    fn take(&mut self, outcome: Result<Outcome, ObjectError>, lines_before: u64) {
        match outcome {
            Ok(Outcome::Facts(facts)) => self.facts.extend(facts),
            Ok(Outcome::Unknown(kind)) => self.unknown.push(kind),
            Err(error) => self.errors.push((error.line.map(|line| line + lines_before), error.to_string())),
        }
    }
}
