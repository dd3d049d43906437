//! Reading fields of the configuration's JSON, with errors that name the field by its path.
//!
//! What always holds: `null` reads as absent, as Go writes it for empty lists and maps; case doesn't matter in a field's name.

use serde_json::{Map, Value};

use crate::error::{CniError, Code};

/// A JSON object and where it stands in the input.
#[derive(Clone)]
pub(crate) struct Object<'a> {
    fields: Option<&'a Map<String, Value>>,
    path: String,
}

/// An error for the field at `path`, which should have been `expected`.
pub(crate) fn wrong(path: &str, found: &Value, expected: &str) -> CniError {
    let mut shown: String = found.to_string().chars().take(80).collect();
    if shown.len() < found.to_string().len() {
        shown.push('…');
    }
    CniError::new(Code::INVALID_CONFIG, format!("{path} is {shown}"), format!("it must be {expected}"))
}

impl<'a> Object<'a> {
    /// The input as a whole.
    pub(crate) fn root(fields: &'a Map<String, Value>) -> Self {
        Self { fields: Some(fields), path: String::new() }
    }

    /// One element of a list.
    pub(crate) fn element(value: &'a Value, path: String) -> Result<Self, CniError> {
        match value {
            Value::Object(fields) => Ok(Self { fields: Some(fields), path }),
            other => Err(wrong(&path, other, "an object")),
        }
    }

    /// The path of field `key` from the input's root.
    pub(crate) fn path(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    /// The field, where it is present and not null. One that differs in case alone counts where the right one isn't there, as it
    /// does for Go's programs: containerd writes `HostPort` where the convention says `hostPort`.
    pub(crate) fn get(&self, key: &str) -> Option<&'a Value> {
        let fields = self.fields?;
        let alike = || fields.iter().find(|(name, _)| name.eq_ignore_ascii_case(key)).map(|(_, value)| value);
        fields.get(key).or_else(alike).filter(|value| !value.is_null())
    }

    /// True where the field is present and not null.
    pub(crate) fn has(&self, key: &str) -> bool {
        self.get(key).is_some()
    }

    /// The object in field `key`; an absent one reads as empty.
    pub(crate) fn object(&self, key: &str) -> Result<Object<'a>, CniError> {
        let path = self.path(key);
        match self.get(key) {
            None => Ok(Object { fields: None, path }),
            Some(value) => Self::element(value, path),
        }
    }

    pub(crate) fn string(&self, key: &str) -> Result<Option<&'a str>, CniError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        value.as_str().map(Some).ok_or_else(|| wrong(&self.path(key), value, "a string"))
    }

    /// A whole number of at most `max`.
    pub(crate) fn number(&self, key: &str, max: u64) -> Result<Option<u64>, CniError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        match value.as_u64().filter(|number| *number <= max) {
            Some(number) => Ok(Some(number)),
            None => Err(wrong(&self.path(key), value, &format!("a whole number from 0 to {max}"))),
        }
    }

    /// The elements of a list, each with its path; an absent list reads as empty.
    pub(crate) fn list(&self, key: &str) -> Result<Vec<(String, &'a Value)>, CniError> {
        let path = self.path(key);
        match self.get(key) {
            None => Ok(Vec::new()),
            Some(Value::Array(items)) => {
                Ok(items.iter().enumerate().map(|(at, item)| (format!("{path}[{at}]"), item)).collect())
            }
            Some(other) => Err(wrong(&path, other, "a list")),
        }
    }

    /// The elements of a list of strings, each with its path.
    pub(crate) fn strings(&self, key: &str) -> Result<Vec<(String, &'a str)>, CniError> {
        let text = |(path, value): (String, &'a Value)| match value.as_str() {
            Some(text) => Ok((path, text)),
            None => Err(wrong(&path, value, "a string")),
        };
        self.list(key)?.into_iter().map(text).collect()
    }
}
