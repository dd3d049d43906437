//! What is wrong with an object: which one, where in it, why.

use std::fmt;

/// Why an object, or a whole document, is no fact.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectError {
    /// The object as a person would name it (`service shop/web`); empty where the document doesn't get that far.
    pub object: String,
    /// Path of the field, such as `spec.ports[1].port`; empty for the document as a whole.
    pub field: String,
    /// Line in the document, counted from 1, where it is known.
    pub line: Option<u64>,
    /// What is wrong, with the value and the mend.
    pub reason: String,
}

impl ObjectError {
    pub(crate) fn at(field: impl Into<String>, reason: impl fmt::Display) -> Self {
        Self { object: String::new(), field: field.into(), line: None, reason: reason.to_string() }
    }

    /// Says of which object the error is, unless that is known.
    pub(crate) fn of(mut self, object: &str) -> Self {
        if self.object.is_empty() {
            self.object = object.to_owned();
        }
        self
    }

    /// Puts `prefix` before the field.
    pub(crate) fn under(mut self, prefix: &str) -> Self {
        self.field = match self.field.as_str() {
            "" => prefix.to_owned(),
            field => format!("{prefix}.{field}"),
        };
        self
    }
}

impl fmt::Display for ObjectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for part in [&self.object, &self.field] {
            if !part.is_empty() {
                write!(f, "{part}: ")?;
            }
        }
        f.write_str(&self.reason)
    }
}

impl std::error::Error for ObjectError {}

/// A field's path with an entry of a map added; keys with dots or slashes go into brackets.
pub(crate) fn keyed(path: &str, key: &str) -> String {
    if key.contains(['.', '/', '[', ']']) {
        format!("{path}[\"{key}\"]")
    } else if path.is_empty() {
        key.to_owned()
    } else {
        format!("{path}.{key}")
    }
}

/// The path where a deserializer stopped, in our form.
pub(crate) fn path_of(path: &serde_path_to_error::Path) -> String {
    use serde_path_to_error::Segment;
    path.iter().fold(String::new(), |text, segment| match segment {
        Segment::Seq { index } => format!("{text}[{index}]"),
        Segment::Map { key } => keyed(&text, key),
        Segment::Enum { variant } => keyed(&text, variant),
        Segment::Unknown => text,
    })
}
