//! Strings that many objects have in common, kept once.
//!
//! Labels, node names and namespaces repeat in a hundred thousand pods. Sharing is only a saving: an interner may be
//! dropped or emptied at any time.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use weft_model::{InvalidName, Labels, NamespaceName, NodeName};

/// Shares equal strings and names. One for each reader of objects.
#[derive(Debug, Default)]
pub struct Interner {
    strings: HashSet<Arc<str>>,
    labels: HashSet<Labels>,
    namespaces: HashMap<String, NamespaceName>,
    nodes: HashMap<String, NodeName>,
}

impl Interner {
    /// Where a table has grown beyond this, most of it is unique, and it starts anew.
    const LIMIT: usize = 65_536;

    /// The shared string equal to `text`.
    pub fn string(&mut self, text: &str) -> Arc<str> {
        if let Some(known) = self.strings.get(text) {
            return known.clone();
        }
        if self.strings.len() >= Self::LIMIT {
            self.strings.clear();
        }
        let new: Arc<str> = text.into();
        self.strings.insert(new.clone());
        new
    }

    /// Labels whose keys and values are shared, and all of which are where another object has the same.
    pub fn labels<'a>(&mut self, pairs: impl IntoIterator<Item = (&'a String, &'a String)>) -> Labels {
        let new: Labels = pairs.into_iter().map(|(k, v)| (self.string(k), self.string(v))).collect();
        if let Some(known) = self.labels.get(&new) {
            return known.clone();
        }
        if self.labels.len() >= Self::LIMIT {
            self.labels.clear();
        }
        self.labels.insert(new.clone());
        new
    }

    /// A shared namespace name.
    ///
    /// # Errors
    /// When `text` is none.
    pub fn namespace(&mut self, text: &str) -> Result<NamespaceName, InvalidName> {
        shared(&mut self.namespaces, text, NamespaceName::new)
    }

    /// A shared node name.
    ///
    /// # Errors
    /// When `text` is none.
    pub fn node(&mut self, text: &str) -> Result<NodeName, InvalidName> {
        shared(&mut self.nodes, text, NodeName::new)
    }
}

fn shared<T: Clone>(
    table: &mut HashMap<String, T>,
    text: &str,
    make: impl Fn(&str) -> Result<T, InvalidName>,
) -> Result<T, InvalidName> {
    if let Some(known) = table.get(text) {
        return Ok(known.clone());
    }
    let new = make(text)?;
    if table.len() >= Interner::LIMIT {
        table.clear();
    }
    table.insert(text.to_owned(), new.clone());
    Ok(new)
}
