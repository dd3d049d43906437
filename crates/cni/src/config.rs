//! A plugin's network configuration: what each has, whatever its type.
//!
//! What always holds: the rest of it is kept as it came, so that a plugin can read its own fields and pass all of it on.
//!
//! What is absent: fields of one plugin; they are read in its folder. What the runtime adds for one call is read with the
//! call ([`crate::request`]), since a DEL overlooks mistakes there.
//!
//! Source: CNI specification 1.1.0, section 1.

use serde_json::{Map, Value};

use crate::Version;
use crate::error::{CniError, Code};
use crate::field::{Object, wrong};

/// The configuration of one network, checked as far as it is the same for all plugins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetConf {
    /// The version to answer in.
    pub version: Version,
    /// `name`: the network's name for the runtime. Starts with a letter or digit, then letters, digits, `_.-`.
    pub name: String,
    /// `type`: the plugin's file name.
    pub kind: String,
    /// All of it, these fields too.
    pub raw: Map<String, Value>,
}

/// True for a letter or digit followed by letters, digits, `_`, `.`, `-`: the rule of the specification for network
/// names and container ids.
pub(crate) fn is_identifier(text: &str) -> bool {
    let mut bytes = text.bytes();
    bytes.next().is_some_and(|first| first.is_ascii_alphanumeric())
        && bytes.all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
}

impl NetConf {
    /// Reads the configuration. Keys that it doesn't know are kept, for the plugin and for those who add their own.
    ///
    /// # Errors
    /// Codes 1, 6 and 7, with the field's path in the message.
    pub fn parse(input: Value) -> Result<Self, CniError> {
        let Value::Object(raw) = input else {
            return Err(CniError::new(
                Code::DECODING_FAILURE,
                "the network configuration is not a JSON object",
                "pass the plugin's configuration on standard input",
            ));
        };
        let root = Object::root(&raw);
        let versions = root.strings("cniVersions")?;
        let versions: Vec<&str> = versions.into_iter().map(|(_, text)| text).collect();
        let version = Version::negotiate(root.string("cniVersion")?, &versions)?;
        let name = required(&root, "name")?;
        if !is_identifier(&name) {
            let rule = "a letter or digit, then letters, digits, underscores, dots and dashes";
            return Err(wrong("name", &Value::String(name), rule));
        }
        Ok(Self { version, name, kind: required(&root, "type")?, raw })
    }

    /// All of it, to read further fields from.
    pub(crate) fn root(&self) -> Object<'_> {
        Object::root(&self.raw)
    }
}

fn required(root: &Object<'_>, key: &str) -> Result<String, CniError> {
    match root.string(key)? {
        Some(text) if !text.is_empty() => Ok(text.to_owned()),
        _ => Err(CniError::new(
            Code::INVALID_CONFIG,
            format!("{key} is missing"),
            "add it to the configuration",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn any_plugins_configuration_is_read_and_kept_whole() {
        let check = |input: Value, kind: &str, version: Version| {
            let conf = NetConf::parse(input.clone()).unwrap();
            assert_eq!((conf.kind.as_str(), conf.version), (kind, version), "{input}");
            assert_eq!(Value::Object(conf.raw), input);
        };
        check(
            json!({"cniVersion": "9.0.0", "cniVersions": ["0.4.0", "1.0.0"], "name": "a.b_c-1", "type": "weft"}),
            "weft",
            Version::V1_0_0,
        );
        check(
            json!({"cniVersion": "1.1.0", "name": "lan", "type": "bridge", "bridge": "cni0", "isGateway": true,
                   "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.1.2.0/24"}]]},
                   "runtimeConfig": {"bandwidth": {"ingressRate": 1000}}, "prevResult": {"ips": []}}),
            "bridge",
            Version::V1_1_0,
        );
    }

    #[test]
    fn mistakes_name_the_field() {
        let check = |change: Value, code: u32, msg: &str| {
            let mut conf = json!({"cniVersion": "1.1.0", "name": "lan", "type": "bridge"});
            for (key, value) in change.as_object().unwrap() {
                conf[key] = value.clone();
            }
            let error = NetConf::parse(conf).unwrap_err();
            assert_eq!((error.code.0, error.msg.as_str()), (code, msg), "{change}");
        };
        check(json!({"cniVersion": "0.2.0"}), 1, "cniVersion \"0.2.0\" is not supported");
        check(json!({"cniVersion": 1}), 7, "cniVersion is 1");
        check(json!({"name": ""}), 7, "name is missing");
        check(json!({"name": "-a"}), 7, "name is \"-a\"");
        check(json!({"type": null}), 7, "type is missing");
        check(json!({"cniVersions": [1]}), 7, "cniVersions[0] is 1");
        assert_eq!(NetConf::parse(json!([])).unwrap_err().code, Code(6));
    }
}
