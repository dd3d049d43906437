//! Configuration lists, and the request that a plugin is given (CNI specification 1.1.0, section 1 and
//! "Deriving request configuration from plugin configuration").

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::{RuntimeError, Sandbox};

/// A CNI verb.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// Connect a container.
    Add,
    /// Disconnect it.
    Del,
    /// Is it connected as it was?
    Check,
    /// Remove what no valid attachment owns.
    Gc,
    /// Can it take ADD?
    Status,
    /// Which versions does it speak?
    Version,
}

impl Verb {
    /// The value of CNI_COMMAND.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Add => "ADD",
            Self::Del => "DEL",
            Self::Check => "CHECK",
            Self::Gc => "GC",
            Self::Status => "STATUS",
            Self::Version => "VERSION",
        }
    }
}

impl std::fmt::Display for Verb {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A configuration list: a network's name, its version and its plugins.
#[derive(Debug, Clone, PartialEq)]
pub struct ConfList {
    name: String,
    version: String,
    plugins: Vec<Value>,
    valid_attachments: Option<Vec<Value>>,
}

/// The newest version that this runtime speaks.
const NEWEST: &str = "1.1.0";

impl ConfList {
    /// Reads a list; the version is the highest of `cniVersion` and `cniVersions` that this runtime speaks.
    pub fn parse(text: &str) -> Result<Self, String> {
        let list: Value = serde_json::from_str(text).map_err(|e| e.to_string())?;
        let text_of = |key: &str| list.get(key).and_then(Value::as_str).map(str::to_owned);
        let name = text_of("name").ok_or("`name` is missing")?;
        let more = list.get("cniVersions").and_then(Value::as_array).into_iter().flatten();
        let versions =
            text_of("cniVersion").into_iter().chain(more.filter_map(Value::as_str).map(str::to_owned));
        let version = versions
            .filter(|v| order(v) <= order(NEWEST))
            .max_by_key(|v| order(v))
            .ok_or("no version that this runtime speaks")?;
        let plugins = list.get("plugins").and_then(Value::as_array).cloned().ok_or("`plugins` is missing")?;
        if plugins.is_empty() {
            return Err("`plugins` is empty".into());
        }
        Ok(Self { name, version, plugins, valid_attachments: None })
    }

    /// The first `*.conflist` by name in `directory`, which the machine knows as `inside`.
    pub(super) fn first_in(directory: &Path, inside: &Path, machine: &str) -> Result<Self, RuntimeError> {
        let mut files: Vec<PathBuf> = std::fs::read_dir(directory)
            .into_iter()
            .flatten()
            .flatten()
            .map(|e| e.path())
            .filter(|p| p.extension().is_some_and(|e| e == "conflist"))
            .collect();
        files.sort();
        let Some(file) = files.first() else {
            return Err(RuntimeError::NoConfig(inside.into(), machine.into()));
        };
        let path = inside.join(file.file_name().unwrap_or_default());
        let bad = |why: String| RuntimeError::BadConfig { path: path.clone(), why };
        let text = std::fs::read_to_string(file).map_err(|e| bad(e.to_string()))?;
        Self::parse(&text).map_err(bad)
    }

    /// The network's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The plugins' configurations in order.
    pub fn plugins(&self) -> &[Value] {
        &self.plugins
    }

    /// Whether the list's version has GC and STATUS.
    pub fn speaks_1_1(&self) -> bool {
        order(&self.version) >= order("1.1.0")
    }

    /// The list with the attachments that GC must keep.
    pub(super) fn with_valid_attachments(mut self, valid: Vec<Value>) -> Self {
        self.valid_attachments = Some(valid);
        self
    }

    /// What a plugin reads on standard input.
    pub fn request(&self, plugin: &Value, sandbox: Option<&Sandbox>, previous: Option<&Value>) -> Value {
        let mut request = plugin.as_object().cloned().unwrap_or_default();
        let supported = request.remove("capabilities");
        request.insert("name".into(), self.name.clone().into());
        request.insert("cniVersion".into(), self.version.clone().into());
        let runtime_config: Map<String, Value> = sandbox
            .into_iter()
            .flat_map(|s| &s.capabilities)
            .filter(|(name, _)| supported.as_ref().and_then(|s| s.get(*name)) == Some(&Value::Bool(true)))
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect();
        if !runtime_config.is_empty() {
            request.insert("runtimeConfig".into(), runtime_config.into());
        }
        if let Some(previous) = previous {
            request.insert("prevResult".into(), previous.clone());
        }
        if let Some(valid) = &self.valid_attachments {
            request.insert("cni.dev/valid-attachments".into(), valid.clone().into());
        }
        request.into()
    }
}

/// A version's numbers, for comparison.
fn order(version: &str) -> Vec<u32> {
    version.split('.').map(|part| part.parse().unwrap_or(0)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[track_caller]
    fn check_version(list: Value, expected: Result<&str, &str>) {
        let mut list = list;
        list["name"] = "net".into();
        list["plugins"] = json!([{"type": "weft"}]);
        let parsed = ConfList::parse(&list.to_string()).map(|l| l.version);
        assert_eq!(parsed.as_deref().map_err(String::as_str), expected);
    }

    #[test]
    fn the_highest_version_that_is_spoken_wins() {
        check_version(json!({"cniVersion": "0.4.0"}), Ok("0.4.0"));
        check_version(
            json!({"cniVersion": "0.4.0", "cniVersions": ["1.0.0", "1.1.0", "2.0.0"]}),
            Ok("1.1.0"),
        );
        check_version(json!({"cniVersion": "2.0.0"}), Err("no version that this runtime speaks"));
    }

    #[test]
    fn a_request_has_only_the_capabilities_that_the_plugin_declares() {
        let list = ConfList::parse(
            r#"{"cniVersion": "1.0.0", "name": "net", "plugins":
                [{"type": "a", "mtu": 1400, "capabilities": {"portMappings": true, "mac": false}}, {"type": "b"}]}"#,
        )
        .expect("a valid list");
        let mut sandbox = Sandbox::new("c", "/run/netns/c");
        sandbox.capabilities.insert("portMappings".into(), json!([]));
        sandbox.capabilities.insert("mac".into(), json!("02:00:00:00:00:01"));
        let request = list.request(&list.plugins[0], Some(&sandbox), Some(&json!({"ips": []})));
        insta::assert_snapshot!(request, @r#"{"cniVersion":"1.0.0","mtu":1400,"name":"net","prevResult":{"ips":[]},"runtimeConfig":{"portMappings":[]},"type":"a"}"#);
        insta::assert_snapshot!(list.request(&list.plugins[1], Some(&sandbox), None), @r#"{"cniVersion":"1.0.0","name":"net","type":"b"}"#);
    }
}
