//! One call of a runtime: environment and standard input, checked.
//!
//! What always holds: a [`Request`] is fit to be served. Its version has the verb, its container id and interface
//! name follow the specification, and its fields are of the right shape. A DEL is read with indulgence: what is only
//! a wish may be broken, because a container that can't be deleted is worse.
//!
//! What is absent: what one plugin makes of its fields and of wishes.
//!
//! Source: CNI specification 1.1.0, §2 and §4.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::Version;
use crate::args::CniArgs;
use crate::config::{NetConf, is_identifier};
use crate::error::{CniError, Code};
use crate::field::Object;
use crate::result::AddResult;

/// A verb that concerns a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verb {
    /// Give a container an interface.
    Add,
    /// Take it away.
    Del,
    /// Look whether it is as ADD left it.
    Check,
    /// Take away everything that the runtime does not name.
    Gc,
    /// Say whether an ADD would be served.
    Status,
}

impl Verb {
    /// All of them.
    pub const ALL: [Verb; 5] = [Verb::Add, Verb::Del, Verb::Check, Verb::Gc, Verb::Status];

    /// As `CNI_COMMAND` has it.
    pub fn as_str(self) -> &'static str {
        match self {
            Verb::Add => "ADD",
            Verb::Del => "DEL",
            Verb::Check => "CHECK",
            Verb::Gc => "GC",
            Verb::Status => "STATUS",
        }
    }

    /// The first version of the specification that has this verb.
    fn since(self) -> Version {
        match self {
            Verb::Add | Verb::Del => Version::V0_3_1,
            Verb::Check => Version::V0_4_0,
            Verb::Gc | Verb::Status => Version::V1_1_0,
        }
    }
}

/// What the runtime wants (`CNI_COMMAND`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Command {
    /// Something of one network.
    Of(Verb),
    /// List the versions that we speak; needs no configuration.
    Version,
}

impl Command {
    /// Reads `CNI_COMMAND`.
    ///
    /// # Errors
    /// [`Code::INVALID_ENVIRONMENT`] where it is missing or unknown.
    pub fn from_env(env: impl Fn(&str) -> Option<String>) -> Result<Self, CniError> {
        let Some(text) = env("CNI_COMMAND").filter(|text| !text.is_empty()) else {
            return Err(invalid_env(
                "CNI_COMMAND is missing".into(),
                "this is a CNI plugin, to be called by a container runtime; for people there is the weft command",
            ));
        };
        if text == "VERSION" {
            return Ok(Command::Version);
        }
        let verb = Verb::ALL.into_iter().find(|verb| verb.as_str() == text);
        verb.map(Command::Of).ok_or_else(|| {
            invalid_env(
                format!("CNI_COMMAND is {text:?}"),
                "it must be ADD, DEL, CHECK, GC, STATUS or VERSION",
            )
        })
    }
}

fn invalid_env(msg: String, details: &str) -> CniError {
    CniError::new(Code::INVALID_ENVIRONMENT, msg, details)
}

/// What identifies an attachment for the runtime.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct AttachmentRef {
    /// `CNI_CONTAINERID`: a letter or digit, then letters, digits, `_.-`.
    pub container: String,
    /// `CNI_IFNAME`: 1 to 15 bytes, no slash, colon or white space, not `.` or `..`.
    pub ifname: String,
}

impl AttachmentRef {
    /// Checks both names.
    ///
    /// # Errors
    /// What is wrong, naming the part as the environment does.
    pub fn new(container: &str, ifname: &str) -> Result<Self, String> {
        if container.is_empty() {
            return Err("CNI_CONTAINERID is missing".into());
        }
        if !is_identifier(container) {
            return Err(format!("CNI_CONTAINERID is {container:?}"));
        }
        if ifname.is_empty() {
            return Err("CNI_IFNAME is missing".into());
        }
        let bad_char = |c: char| c == '/' || c == ':' || c.is_whitespace() || c.is_control();
        if ifname.len() > 15 || ifname == "." || ifname == ".." || ifname.contains(bad_char) {
            return Err(format!("CNI_IFNAME is {ifname:?}"));
        }
        Ok(Self { container: container.to_owned(), ifname: ifname.to_owned() })
    }
}

/// ADD, DEL or CHECK of one attachment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attach {
    /// Which one.
    pub id: AttachmentRef,
    /// `CNI_NETNS`: path of the network namespace in the runtime's view; empty only for DEL.
    pub netns: String,
    /// `CNI_ARGS`.
    pub args: CniArgs,
    /// The network's configuration.
    pub conf: NetConf,
    /// The result of the plugins before this one (ADD), or of the whole chain (CHECK, DEL).
    pub prev_result: Option<AddResult>,
}

/// GC of one network, whose configuration may be one plugin's view of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gc<C = NetConf> {
    /// The network's configuration.
    pub conf: C,
    /// The attachments that live; all others may go. Nothing means that the runtime did not say: do nothing.
    pub valid: Option<Vec<AttachmentRef>>,
}

/// One call, checked: as any plugin gets it, or with one plugin's view of attachments and configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request<A = Attach, C = NetConf> {
    /// Give a container an interface.
    Add(Box<A>),
    /// Take it away.
    Del(Box<A>),
    /// Look whether it is as ADD left it.
    Check(Box<A>),
    /// Take away what is not named.
    Gc(Gc<C>),
    /// Would an ADD be served?
    Status(C),
}

impl Request {
    /// Reads a call as the runtime makes it.
    ///
    /// # Errors
    /// A [`CniError`] to print: code 4 for the environment, 6 for what is not JSON, 1 and 7 for the rest.
    pub fn parse(verb: Verb, env: impl Fn(&str) -> Option<String>, stdin: &[u8]) -> Result<Self, CniError> {
        let input: Value = serde_json::from_slice(stdin).map_err(|error| {
            let msg = "the network configuration on standard input is not JSON";
            CniError::new(Code::DECODING_FAILURE, msg, error.to_string())
        })?;
        Self::read(verb, env, input)
    }

    /// The same from a configuration that is JSON already.
    ///
    /// # Errors
    /// As [`Request::parse`].
    pub fn read(verb: Verb, env: impl Fn(&str) -> Option<String>, input: Value) -> Result<Self, CniError> {
        let conf = NetConf::parse(input)?;
        if conf.version < verb.since() {
            let msg = format!("cniVersion {} has no {}", conf.version, verb.as_str());
            let mend = format!("use {} or newer", verb.since());
            return Err(CniError::new(Code::INCOMPATIBLE_VERSION, msg, mend));
        }
        match verb {
            Verb::Add => Ok(Request::Add(Attach::read(verb, env, conf)?)),
            Verb::Check => Ok(Request::Check(Attach::read(verb, env, conf)?)),
            Verb::Del => Ok(Request::Del(Attach::read(verb, env, conf)?)),
            Verb::Gc => Ok(Request::Gc(Gc { valid: valid_attachments(&conf.root())?, conf })),
            Verb::Status => Ok(Request::Status(conf)),
        }
    }

    /// The network's configuration.
    pub fn conf(&self) -> &NetConf {
        match self {
            Request::Add(attach) | Request::Del(attach) | Request::Check(attach) => &attach.conf,
            Request::Gc(gc) => &gc.conf,
            Request::Status(conf) => conf,
        }
    }
}

impl Attach {
    fn read(verb: Verb, env: impl Fn(&str) -> Option<String>, conf: NetConf) -> Result<Box<Self>, CniError> {
        let variable = |key: &str| env(key).unwrap_or_default();
        let id =
            AttachmentRef::new(&variable("CNI_CONTAINERID"), &variable("CNI_IFNAME")).map_err(|msg| {
                invalid_env(
                    msg,
                    "container ids have letters, digits and _.-; interface names at most 15 bytes, no / or :",
                )
            })?;
        let netns = variable("CNI_NETNS");
        let args = CniArgs::parse(&variable("CNI_ARGS"));
        let prev_result = conf.root().get("prevResult").map(AddResult::parse).transpose();
        if verb == Verb::Del {
            let (args, prev_result) = (args.unwrap_or_default(), prev_result.unwrap_or_default());
            return Ok(Box::new(Self { id, netns, args, conf, prev_result }));
        }
        if netns.is_empty() {
            return Err(invalid_env("CNI_NETNS is missing".into(), "pass the path of the network namespace"));
        }
        let (args, prev_result) = (args?, prev_result?);
        if verb == Verb::Check && prev_result.is_none() {
            let mend = "the runtime must pass the result of ADD";
            return Err(CniError::new(Code::INVALID_CONFIG, "prevResult is missing", mend));
        }
        Ok(Box::new(Self { id, netns, args, conf, prev_result }))
    }
}

/// The attachments of either key. Both count where both are there: the longer list deletes less.
fn valid_attachments(root: &Object<'_>) -> Result<Option<Vec<AttachmentRef>>, CniError> {
    let mut valid = None;
    for key in ["cni.dev/valid-attachments", "cni.dev/attachments"] {
        if !root.has(key) {
            continue;
        }
        let found: &mut Vec<AttachmentRef> = valid.get_or_insert_default();
        for (path, value) in root.list(key)? {
            let entry = Object::element(value, path)?;
            let container = entry.string("containerID")?.unwrap_or_default();
            let id = AttachmentRef::new(container, entry.string("ifname")?.unwrap_or_default());
            // An entry that can't be read may be somebody who lives: deleting on a guess is out of the question.
            let id = id.map_err(|msg| CniError::new(Code::INVALID_CONFIG, format!("{key}: {msg}"), ""))?;
            if !found.contains(&id) {
                found.push(id);
            }
        }
    }
    Ok(valid)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const ENV: [(&str, &str); 4] = [
        ("CNI_CONTAINERID", "abc-1"),
        ("CNI_IFNAME", "eth0"),
        ("CNI_NETNS", "/run/netns/a"),
        ("CNI_PATH", "/opt"),
    ];

    /// Parses a call in the usual environment, changed by `changes` (an empty value unsets).
    fn call(command: &str, changes: &[(&str, &str)], config: &Value) -> Result<Request, CniError> {
        let env = |key: &str| {
            let changed = changes.iter().find(|(name, _)| *name == key).map(|(_, value)| *value);
            let usual = ENV.iter().find(|(name, _)| *name == key).map(|(_, value)| *value);
            if key == "CNI_COMMAND" { Some(command.to_owned()) } else { changed.or(usual).map(str::to_owned) }
        };
        match Command::from_env(env)? {
            Command::Of(verb) => Request::parse(verb, env, config.to_string().as_bytes()),
            Command::Version => panic!("VERSION has no configuration"),
        }
    }

    fn conf(version: &str) -> Value {
        json!({"cniVersion": version, "name": "weft", "type": "weft"})
    }

    fn with(version: &str, key: &str, value: Value) -> Value {
        let mut conf = conf(version);
        conf[key] = value;
        conf
    }

    #[test]
    fn the_verb_must_be_in_the_version() {
        let check = |command: &str, version: &str, expected: Option<u32>| {
            let conf = with(version, "prevResult", json!({"cniVersion": version}));
            let got = call(command, &[], &conf).err().map(|error| error.code.0);
            assert_eq!(got, expected, "{command} in {version}");
        };
        for version in ["0.3.1", "0.4.0", "1.0.0", "1.1.0"] {
            check("ADD", version, None);
            check("DEL", version, None);
            check("CHECK", version, (version == "0.3.1").then_some(1));
            check("GC", version, (version != "1.1.0").then_some(1));
            check("STATUS", version, (version != "1.1.0").then_some(1));
        }
        check("ADD", "0.2.0", Some(1));
        check("add", "1.1.0", Some(4));
    }

    #[test]
    fn the_environment_is_checked() {
        let check = |command: &str, changes: &[(&str, &str)], expected: Option<&str>| {
            let conf = with("1.1.0", "prevResult", json!({}));
            let error = call(command, changes, &conf).err();
            assert_eq!(error.as_ref().map(|e| e.msg.as_str()), expected, "{command} {changes:?}");
            assert!(error.is_none_or(|e| e.code == Code::INVALID_ENVIRONMENT));
        };
        check("ADD", &[], None);
        check("ADD", &[("CNI_CONTAINERID", "")], Some("CNI_CONTAINERID is missing"));
        check("DEL", &[("CNI_CONTAINERID", "-a")], Some("CNI_CONTAINERID is \"-a\""));
        check("ADD", &[("CNI_CONTAINERID", "a/../b")], Some("CNI_CONTAINERID is \"a/../b\""));
        check("DEL", &[("CNI_IFNAME", "")], Some("CNI_IFNAME is missing"));
        check("ADD", &[("CNI_IFNAME", "sixteen-letters-")], Some("CNI_IFNAME is \"sixteen-letters-\""));
        for name in [".", "..", "a/b", "a:b", "a b", "a\tb"] {
            check("ADD", &[("CNI_IFNAME", name)], Some(&format!("CNI_IFNAME is {name:?}")));
        }
        check("ADD", &[("CNI_NETNS", "")], Some("CNI_NETNS is missing"));
        check("CHECK", &[("CNI_NETNS", "")], Some("CNI_NETNS is missing"));
        check("DEL", &[("CNI_NETNS", "")], None);
        check("ADD", &[("CNI_PATH", "")], None);
        check("ADD", &[("CNI_ARGS", "nonsense")], Some("CNI_ARGS holds \"nonsense\""));
        check("STATUS", &[("CNI_CONTAINERID", ""), ("CNI_IFNAME", ""), ("CNI_NETNS", "")], None);
        check("", &[], Some("CNI_COMMAND is missing"));
    }

    #[test]
    fn a_del_overlooks_what_an_add_refuses() {
        let broken = with("1.1.0", "prevResult", json!(7));
        assert!(call("ADD", &[], &broken).is_err());
        assert!(call("DEL", &[("CNI_ARGS", "nonsense")], &broken).is_ok());
    }

    #[test]
    fn a_check_needs_the_result_of_the_add() {
        let error = call("CHECK", &[], &conf("1.0.0")).unwrap_err();
        assert_eq!((error.code, error.msg.as_str()), (Code(7), "prevResult is missing"));
        let prev = json!({"cniVersion": "1.0.0", "ips": [{"address": "10.0.0.2/24"}]});
        let Ok(Request::Check(check)) = call("CHECK", &[], &with("1.0.0", "prevResult", prev)) else {
            panic!()
        };
        assert_eq!(check.prev_result.unwrap().ips.len(), 1);
    }

    #[test]
    fn gc_takes_both_keys_and_tells_absent_from_empty() {
        let check = |fields: Value, expected: Result<Option<Vec<&str>>, u32>| {
            let mut conf = conf("1.1.0");
            for (key, value) in fields.as_object().unwrap() {
                conf[key] = value.clone();
            }
            let got = match call("GC", &[], &conf) {
                Ok(Request::Gc(gc)) => Ok(gc.valid),
                Ok(other) => panic!("{other:?}"),
                Err(error) => Err(error.code.0),
            };
            let got =
                got.map(|valid| valid.map(|ids| ids.into_iter().map(|id| id.container).collect::<Vec<_>>()));
            assert_eq!(
                got,
                expected.map(|ids| ids.map(|ids| ids.into_iter().map(str::to_owned).collect())),
                "{fields}"
            );
        };
        let id = |name: &str| json!({"containerID": name, "ifname": "eth0"});
        check(json!({}), Ok(None));
        check(json!({"cni.dev/valid-attachments": []}), Ok(Some(vec![])));
        check(json!({"cni.dev/valid-attachments": null}), Ok(None));
        check(json!({"cni.dev/valid-attachments": [id("a")]}), Ok(Some(vec!["a"])));
        check(json!({"cni.dev/attachments": [id("a")]}), Ok(Some(vec!["a"])));
        check(
            json!({"cni.dev/valid-attachments": [id("a")], "cni.dev/attachments": [id("b"), id("a")]}),
            Ok(Some(vec!["a", "b"])),
        );
        check(json!({"cni.dev/valid-attachments": [{"containerID": "a"}]}), Err(7));
        check(json!({"cni.dev/valid-attachments": [1]}), Err(7));
        check(json!({"cni.dev/valid-attachments": {}}), Err(7));
    }

    #[test]
    fn input_that_is_no_json_is_code_6() {
        for stdin in [&b""[..], b"{", b"[]", b"\xff\xfe", b"null"] {
            let error = Request::parse(Verb::Status, |_| None, stdin).unwrap_err();
            assert_eq!(error.code, Code::DECODING_FAILURE, "{stdin:?}");
        }
    }

    mod any_input {
        use super::*;
        use proptest::prelude::*;

        /// JSON values with our own keys among the others, so that parsing goes deep.
        fn json() -> impl Strategy<Value = Value> {
            let leaf = prop_oneof![
                Just(Value::Null),
                any::<bool>().prop_map(Value::from),
                any::<i64>().prop_map(Value::from),
                "[ -~]{0,12}".prop_map(Value::from),
                Just(json!("10.0.0.1/24")),
                Just(json!("1.1.0")),
            ];
            let key = prop_oneof![
                Just("cniVersion"),
                Just("name"),
                Just("type"),
                Just("args"),
                Just("cni"),
                Just("ips"),
                Just("mac"),
                Just("runtimeConfig"),
                Just("portMappings"),
                Just("hostPort"),
                Just("containerPort"),
                Just("prevResult"),
                Just("interfaces"),
                Just("routes"),
                Just("dst"),
                Just("dns"),
                Just("cni.dev/valid-attachments"),
                Just("containerID"),
                Just("ifname"),
                Just("mtu"),
                Just("ipam"),
            ];
            leaf.prop_recursive(4, 32, 6, move |inner| {
                prop_oneof![
                    prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                    prop::collection::vec((key.clone(), inner), 0..6).prop_map(|fields| {
                        Value::Object(fields.into_iter().map(|(k, v)| (k.to_owned(), v)).collect())
                    }),
                ]
            })
        }

        proptest! {
            #[test]
            fn any_bytes_give_a_request_or_an_error_that_renders(
                verb in prop::sample::select(Verb::ALL.to_vec()),
                variable in "\\PC{0,20}",
                stdin in prop::collection::vec(any::<u8>(), 0..200),
            ) {
                if let Err(error) = Request::parse(verb, |_| Some(variable.clone()), &stdin) {
                    let shown: Value = serde_json::from_str(&error.render(Version::of_input(&stdin))).unwrap();
                    prop_assert!(shown["code"].as_u64().unwrap() > 0 && !shown["msg"].as_str().unwrap().is_empty());
                }
            }

            #[test]
            fn any_json_gives_a_request_or_an_error(
                verb in prop::sample::select(Verb::ALL.to_vec()),
                extra in json(),
            ) {
                let mut config = conf("1.1.0");
                if let Value::Object(fields) = extra {
                    config.as_object_mut().unwrap().extend(fields);
                }
                match call(verb.as_str(), &[], &config) {
                    Err(error) => prop_assert!(matches!(error.code.0, 1 | 6 | 7), "{}", error),
                    // What one plugin makes of it is as total.
                    Ok(request) => {
                        if let Err(error) = crate::weft::Request::of(request) {
                            prop_assert!(matches!(error.code.0, 2 | 7), "{}", error);
                        }
                    }
                }
            }
        }
    }
}
