//! Who says what of which object, where people and nodes write into one place: for the stores that have no server to
//! merge it for them.
//!
//! What always holds: a *text* (a file, a key's value) has one writer and a path; what holds of an object depends on what the texts
//! say now. What is broken in a text takes nothing away.
//!
//! What is absent: where texts come from, and when one is believed.

mod board;
mod gathered;
mod heard;
mod manifest;
mod packed;
mod render;
mod table;

use weft_model::NodeName;

pub(crate) use gathered::counted;
pub(crate) use heard::Words;
pub(crate) use manifest::{Manifest, take_apart};
pub(crate) use render::{is_same, render_node, render_pod, stamp};

/// Who writes a text.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Writer {
    /// People and their tools.
    User,
    /// This node.
    Node(NodeName),
}

/// How a text is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// JSON.
    Json,
    /// YAML, with any number of documents.
    Yaml,
}
