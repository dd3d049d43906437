//! Names of Kubernetes objects and of Weft's own, checked against the rules that the API server enforces.
//!
//! All are cheap to clone (one shared allocation): a fact's name appears in indices, plan rows and messages.

use std::borrow::Cow;
use std::fmt;
use std::sync::{Arc, LazyLock};

use serde::{Deserialize, Serialize};

use crate::net::fnv1a;

/// Why a string is not a name of the kind asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{value:?} is no valid {what}: {reason}")]
pub struct InvalidName {
    /// The kind of name, as a user would call it.
    pub what: &'static str,
    /// The string that was given.
    pub value: String,
    /// The rule that it breaks.
    pub reason: &'static str,
}

/// RFC 1123 label: 1–63 of `a-z0-9-`, no dash at either end.
fn label(value: &str) -> Result<(), &'static str> {
    if value.is_empty() || value.len() > 63 {
        return Err("it must have 1 to 63 characters");
    }
    if value.starts_with('-') || value.ends_with('-') {
        return Err("it must not begin or end with a dash");
    }
    if !value.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-') {
        return Err("only a-z, 0-9 and dashes are allowed");
    }
    Ok(())
}

/// RFC 1123 subdomain: labels joined by dots, at most 253 characters.
fn subdomain(value: &str) -> Result<(), &'static str> {
    if value.is_empty() || value.len() > 253 {
        return Err("it must have 1 to 253 characters");
    }
    if value.split('.').any(str::is_empty) {
        return Err("each dot must stand between two other characters");
    }
    value.split('.').try_for_each(label)
}

macro_rules! names {
    ($($(#[$doc:meta])* $name:ident, $what:literal, $check:ident;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Arc<str>);

        impl $name {
            /// Checks `value` and takes it.
            ///
            /// # Errors
            /// [`InvalidName`] with the rule that is broken.
            pub fn new(value: &str) -> Result<Self, InvalidName> {
                match $check(value) {
                    Ok(()) => Ok(Self(value.into())),
                    Err(reason) => Err(InvalidName { what: $what, value: value.to_owned(), reason }),
                }
            }

            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&*self.0, f)
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidName;
            fn try_from(value: String) -> Result<Self, InvalidName> {
                Self::new(&value)
            }
        }

        impl std::str::FromStr for $name {
            type Err = InvalidName;
            fn from_str(value: &str) -> Result<Self, InvalidName> {
                Self::new(value)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0.as_ref().to_owned()
            }
        }
    )*};
}

names! {
    /// A node's name (RFC 1123 subdomain).
    NodeName, "node name", subdomain;
    /// A namespace's name (RFC 1123 label).
    NamespaceName, "namespace name", label;
    /// The name of an object within a namespace (RFC 1123 subdomain).
    ObjectName, "object name", subdomain;
    /// The name of a Weft network; the ordinary one is `default` (RFC 1123 label).
    NetworkName, "network name", label;
}

impl NetworkName {
    /// The network that pods belong to unless something says otherwise.
    pub fn ordinary() -> Self {
        // Every pod has it: once in memory.
        static ORDINARY: LazyLock<Arc<str>> = LazyLock::new(|| "default".into());
        Self(ORDINARY.clone())
    }
}

/// Namespace and name: what identifies a namespaced object of a given kind.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ObjectKey {
    /// The namespace that holds the object.
    pub namespace: NamespaceName,
    /// The object's name in it.
    pub name: ObjectName,
}

impl ObjectKey {
    /// Checks both parts.
    ///
    /// # Errors
    /// [`InvalidName`] for the first part that breaks a rule.
    pub fn new(namespace: &str, name: &str) -> Result<Self, InvalidName> {
        Ok(Self { namespace: NamespaceName::new(namespace)?, name: ObjectName::new(name)? })
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (f.width(), f.precision()) {
            (None, None) => write!(f, "{}/{}", self.namespace, self.name),
            _ => f.pad(&format!("{}/{}", self.namespace, self.name)),
        }
    }
}

impl fmt::Debug for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// A name as the stem of a file's: itself, or where that is too long for a file system (255 bytes with an ending), its beginning and a
/// hash of the whole.
///
/// For names of ASCII characters without `/` and `~`.
pub fn file_stem(name: &str) -> Cow<'_, str> {
    if name.len() <= 200 {
        return Cow::Borrowed(name);
    }
    let start: String = name.chars().take(160).collect();
    Cow::Owned(format!("{start}~{:016x}", fnv1a(name.as_bytes())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_api_servers_rules() {
        assert!(NodeName::new("node-1.example.com").is_ok());
        assert!(NamespaceName::new("kube-system").is_ok());
        for bad in ["", "-a", "a-", "A", "a_b", "a..b", &"x".repeat(64)] {
            assert!(NamespaceName::new(bad).is_err(), "{bad:?}");
            assert!(NodeName::new(bad).is_err(), "{bad:?}");
        }
        assert!(NamespaceName::new("a.b").is_err());
    }

    #[test]
    fn an_error_names_the_value_and_the_rule() {
        let error = ObjectName::new("Web").unwrap_err().to_string();
        assert_eq!(error, "\"Web\" is no valid object name: only a-z, 0-9 and dashes are allowed");
        for dots in ["../../etc", "a..b", ".a", "a."] {
            let error = NodeName::new(dots).unwrap_err();
            assert_eq!(error.reason, "each dot must stand between two other characters", "{dots}");
        }
    }

    #[test]
    fn long_names_are_cut_and_stay_distinct() {
        assert_eq!(file_stem("shop_web"), "shop_web");
        let stem = |last: &str| file_stem(&format!("{}{last}", "x".repeat(250))).into_owned();
        assert_ne!(stem("1"), stem("2"));
        assert_eq!(stem("1").len(), 160 + 1 + 16);
    }
}
