//! Namespaces: what groups a cluster's objects, and what policies select by labels.

use serde::{Deserialize, Serialize};

use crate::{Labels, NamespaceName};

/// A namespace.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Namespace {
    /// Its name.
    pub name: NamespaceName,
    /// Its labels; `kubernetes.io/metadata.name` among them, where an API server keeps it.
    #[serde(default)]
    pub labels: Labels,
}

impl Namespace {
    /// One without labels.
    pub fn named(name: NamespaceName) -> Self {
        Self { name, labels: Labels::default() }
    }
}
