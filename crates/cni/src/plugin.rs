//! The program: reads a call, has the plugin of its type serve it, prints the answer.
//!
//! What always holds: the output is nothing or one line of JSON, and there is one for any input.
//!
//! What is absent: what a plugin does; each has a folder of its own.

use std::io::Read;

use serde_json::{Value, json};

use crate::config::is_identifier;
use crate::error::{CniError, Code};
use crate::request::{Command, Request};
use crate::version::Version;
use crate::weft;

/// Serves one call: what goes to standard output, or an error to print there. The environment is as the runtime gave it.
type Serve = fn(Request, Env<'_>) -> Result<String, CniError>;

/// A variable of the environment by its name.
pub(crate) type Env<'a> = &'a dyn Fn(&str) -> Option<String>;

/// The plugins by their types, which are their names in `/opt/cni/bin`. Another plugin is a folder beside `weft` and a line here.
const PLUGINS: &[(&str, Serve)] = &[("weft", weft::serve)];

/// The plugin of a type. One that is nobody's is Weft's under the name that it was installed by.
fn plugin(kind: &str) -> Serve {
    PLUGINS.iter().find(|(name, _)| *name == kind).map_or(weft::serve, |(_, serve)| *serve)
}

/// The longest configuration that is read, in bytes.
pub const MAX_STDIN: u64 = 4 << 20;

/// What the process prints and how it ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// For standard output: one line of JSON, or nothing.
    pub stdout: String,
    /// Exit status: 0 or 1.
    pub exit: u8,
}

impl Output {
    fn of(outcome: Result<String, CniError>, version: Version) -> Self {
        match outcome {
            Ok(stdout) => Self { stdout, exit: 0 },
            Err(error) => Self { stdout: error.render(version), exit: 1 },
        }
    }

    /// What a defect prints: the runtime wants JSON even then.
    pub fn defect(what: &str) -> Self {
        let mend = "this is a defect in the plugin; please report it with this text";
        Self::of(Err(CniError::new(Code::DEFECT, format!("the plugin broke: {what}"), mend)), Version::LATEST)
    }
}

/// Serves one call, from the environment and standard input to the output.
pub fn run(env: impl Fn(&str) -> Option<String>, stdin: impl Read) -> Output {
    let mut input = Vec::new();
    // With no command there is nothing to read for, and a person at a terminal would wait.
    let outcome = Command::from_env(&env).and_then(|command| {
        input = read_input(stdin)?;
        serve(command, &env, &input)
    });
    Output::of(outcome, Version::of_input(&input))
}

fn read_input(stdin: impl Read) -> Result<Vec<u8>, CniError> {
    let mut input = Vec::new();
    let read = stdin.take(MAX_STDIN + 1).read_to_end(&mut input);
    let failed = |error: std::io::Error| {
        CniError::new(Code::IO_FAILURE, "standard input can't be read", error.to_string())
    };
    if read.map_err(failed)? as u64 > MAX_STDIN {
        let msg = format!("the network configuration is longer than {} MiB", MAX_STDIN >> 20);
        return Err(CniError::new(Code::DECODING_FAILURE, msg, "remove what is not needed"));
    }
    Ok(input)
}

fn serve(command: Command, env: Env<'_>, input: &[u8]) -> Result<String, CniError> {
    match command {
        Command::Version => Ok(version(input)),
        Command::Of(verb) => {
            let request = Request::parse(verb, env, input)?;
            plugin(&request.conf().kind)(request, env)
        }
    }
}

/// VERSION echoes what it was given (CNI specification §4 "VERSION"); empty or broken input counts as the latest.
fn version(input: &[u8]) -> String {
    let value: Option<Value> = serde_json::from_slice(input).ok();
    let asked = value.as_ref().and_then(|value| value.get("cniVersion")).and_then(Value::as_str);
    let echo = asked.filter(|text| is_identifier(text)).unwrap_or(Version::LATEST.as_str());
    json!({"cniVersion": echo, "supportedVersions": Version::ALL.map(Version::as_str)}).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_defect_is_told_as_json() {
        let output = Output::defect("index \"7\"\nout of bounds");
        assert_eq!((output.exit, output.stdout.lines().count()), (1, 1));
        let shown: Value = serde_json::from_str(&output.stdout).unwrap();
        assert_eq!((shown["code"].as_u64(), shown["cniVersion"].as_str()), (Some(999), Some("1.1.0")));
    }

    #[test]
    fn input_is_read_up_to_the_limit() {
        let env = |key: &str| (key == "CNI_COMMAND").then(|| "VERSION".to_owned());
        let blanks = |count| std::io::repeat(b' ').take(count);
        assert_eq!(run(env, blanks(MAX_STDIN)).exit, 0);
        let refused = run(env, blanks(MAX_STDIN + 1));
        assert_eq!(refused.exit, 1);
        assert!(refused.stdout.contains("longer than 4 MiB"), "{}", refused.stdout);
        // Without a command nothing is read, so that an endless input is no trap.
        assert!(run(|_| None, std::io::repeat(b' ')).stdout.contains("CNI_COMMAND is missing"));
    }

    #[test]
    fn version_echoes_and_never_fails() {
        let check = |stdin: &[u8], expected: &str| {
            let shown: Value = serde_json::from_str(&version(stdin)).unwrap();
            assert_eq!(shown["cniVersion"], expected);
            assert_eq!(shown["supportedVersions"].as_array().map(Vec::len), Some(4));
        };
        check(b"", "1.1.0");
        check(b"{", "1.1.0");
        check(b"{\"cniVersion\":\"0.4.0\"}", "0.4.0");
        check(b"{\"cniVersion\":\"7.0.0\"}", "7.0.0");
        check(b"{\"cniVersion\":\"<x>\"}", "1.1.0");
    }

    #[test]
    fn a_type_that_no_other_plugin_has_is_wefts() {
        let check = |kind: &str, msg: &str| {
            let config =
                json!({"cniVersion": "1.1.0", "name": "a", "type": kind, "socket": "relative"}).to_string();
            let output = run(|key| (key == "CNI_COMMAND").then(|| "STATUS".to_owned()), config.as_bytes());
            let shown: Value = serde_json::from_str(&output.stdout).unwrap();
            assert_eq!((output.exit, shown["msg"].as_str()), (1, Some(msg)), "{kind}");
        };
        check("weft", "socket is \"relative\"");
        check("weft-next", "socket is \"relative\"");
    }
}
