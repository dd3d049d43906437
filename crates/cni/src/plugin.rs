//! The plugin: reads a call, forwards it to the agent, prints the answer.
//!
//! What always holds: the output is nothing or one line of JSON, and there is one for any input. A DEL that the
//! agent could not do leaves a tombstone and succeeds; an ADD that may have been done unseen leaves one and fails.
//!
//! What is absent: everything else. All decisions about the network are the agent's.

use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use serde_json::{Value, json};

use crate::client::{ClientError, Exchange};
use crate::config::NetConf;
use crate::error::{CniError, Code};
use crate::netns;
use crate::request::{Attach, Command, Request};
use crate::tombstone::Tombstone;
use crate::version::Version;
use crate::wire::{Call, Response, Verb};

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
    let outcome = Command::from_env(&env).and_then(|_| {
        input = read_input(stdin)?;
        serve(&env, &input)
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

fn serve(env: &impl Fn(&str) -> Option<String>, input: &[u8]) -> Result<String, CniError> {
    let request = Request::parse(env, input)?;
    if let Request::Version(echo) = &request {
        let supported = Version::ALL.map(Version::as_str);
        return Ok(json!({"cniVersion": echo, "supportedVersions": supported}).to_string());
    }
    // It parsed a moment ago.
    let call = Call::new(env, serde_json::from_slice(input).unwrap_or_default());
    match request {
        Request::Add(add) => serve_add(&add, &call),
        Request::Del(del) => serve_del(&del, &call),
        Request::Check(check) => {
            let netns = container_netns(&check.netns)?;
            forward(Verb::Check, &check.conf, &call, Some(netns.as_fd()))
                .map_err(|e| unavailable(&e, Code::TRY_AGAIN_LATER))?
        }
        // Without a list nothing may be taken away (CNI specification §4 "GC").
        Request::Gc(gc) if gc.valid.is_none() => Ok(String::new()),
        Request::Gc(gc) => {
            forward(Verb::Gc, &gc.conf, &call, None).map_err(|e| unavailable(&e, Code::TRY_AGAIN_LATER))?
        }
        Request::Status(conf) => {
            forward(Verb::Status, &conf, &call, None).map_err(|e| unavailable(&e, Code::NOT_AVAILABLE))?
        }
        Request::Version(_) => Ok(String::new()),
    }
}

fn serve_add(add: &Attach, call: &Call) -> Result<String, CniError> {
    let netns = container_netns(&add.netns)?;
    let error = match forward(Verb::Add, &add.conf, call, Some(netns.as_fd())) {
        Ok(outcome) => return outcome,
        Err(error) => error,
    };
    let mut told = unavailable(&error, Code::TRY_AGAIN_LATER);
    // The runtime takes this for a failed ADD. What the agent may have made meanwhile must not stay.
    if error.may_have_acted()
        && let Err(cause) =
            (Tombstone { call: call.clone(), reason: error.to_string() }).write(&add.conf.state_dir)
    {
        let folder = add.conf.state_dir.display();
        told.details.push_str(&format!(
            "; what it may have made is left to GC, since {folder} can't be written: {cause}"
        ));
    }
    Err(told)
}

fn serve_del(del: &Attach, call: &Call) -> Result<String, CniError> {
    // A namespace that is gone, or was never one, is the usual case and no reason to fail.
    let netns = netns::open(&del.netns).ok();
    let reason = match forward(Verb::Del, &del.conf, call, netns.as_ref().map(AsFd::as_fd)) {
        Ok(Err(error)) if error.code == Code::TRY_AGAIN_LATER => error.to_string(),
        Ok(outcome) => return outcome,
        Err(error) => error.to_string(),
    };
    let written = Tombstone { call: call.clone(), reason: reason.clone() }.write(&del.conf.state_dir);
    written.map(|()| String::new()).map_err(|cause| {
        let msg = format!(
            "{reason}, and no tombstone can be written below {}: {cause}",
            del.conf.state_dir.display()
        );
        CniError::new(
            Code::IO_FAILURE,
            msg,
            "start the agent, or mend the folder, and delete the container again",
        )
    })
}

fn container_netns(path: &str) -> Result<OwnedFd, CniError> {
    netns::open(path).map_err(|error| {
        let msg = format!("CNI_NETNS is {path:?}, which {}", error.reason());
        CniError::new(Code::INVALID_ENVIRONMENT, msg, "pass the path of the container's network namespace")
    })
}

/// The CNI error for an agent that gave no answer.
fn unavailable(error: &ClientError, away: Code) -> CniError {
    let code = if matches!(error, ClientError::Garbage(_)) { Code::DECODING_FAILURE } else { away };
    CniError::new(
        code,
        error.to_string(),
        "look at the agent: systemctl status weft, or the weft pod's log on this node",
    )
}

/// How long to try to connect, and how long all of a call may take. Only an ADD is worth a long wait: for the others
/// the runtime has another way, or asks again.
fn patience(verb: Verb, conf: &NetConf) -> (Duration, Duration) {
    let (connect, all) = match verb {
        Verb::Add => (Duration::from_secs(5), conf.deadline),
        Verb::Del => (Duration::from_millis(500), Duration::from_secs(10)),
        Verb::Check => (Duration::from_secs(2), Duration::from_secs(10)),
        Verb::Gc => (Duration::from_secs(2), Duration::from_secs(30)),
        Verb::Status => (Duration::from_secs(1), Duration::from_secs(5)),
    };
    let all = all.min(conf.deadline);
    (connect.min(all / 2), all)
}

/// Sends the call. The outer error: no answer that makes sense. The inner: the agent's own.
fn forward(
    verb: Verb,
    conf: &NetConf,
    call: &Call,
    netns: Option<BorrowedFd<'_>>,
) -> Result<Result<String, CniError>, ClientError> {
    let (connect_within, answer_within) = patience(verb, conf);
    let exchange = Exchange {
        socket: &conf.socket,
        method: "POST",
        path: verb.path(),
        body: &call.encode(),
        descriptor: netns,
        connect_within,
        answer_within,
    };
    let response = exchange.run()?;
    let Some(outcome) = response.outcome() else {
        return Err(ClientError::Garbage(describe(&response)));
    };
    match outcome {
        Err(error) => Ok(Err(error)),
        Ok(_) if verb != Verb::Add => Ok(Ok(String::new())),
        Ok(body) => {
            let result: Option<Value> = serde_json::from_slice(body).ok();
            match result.filter(|result| {
                result.get("cniVersion").and_then(Value::as_str) == Some(conf.version.as_str())
            }) {
                Some(result) => Ok(Ok(result.to_string())),
                None => Err(ClientError::Garbage(describe(&response))),
            }
        }
    }
}

fn describe(response: &Response) -> String {
    let start = String::from_utf8_lossy(&response.body[..response.body.len().min(200)]).into_owned();
    format!("status {}, {} bytes: {start:?}", response.status, response.body.len())
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
    fn only_an_add_waits_long_and_all_keep_the_configured_deadline() {
        let conf = |ms: u64| {
            let config = json!({"cniVersion": "1.1.0", "name": "weft", "type": "weft", "deadlineMs": ms});
            NetConf::parse(&config).unwrap()
        };
        for verb in Verb::ALL {
            for ms in [100, 30_000, 600_000] {
                let (connect, all) = patience(verb, &conf(ms));
                assert!(connect < all && all <= Duration::from_millis(ms), "{verb:?} {ms}");
                assert!(verb == Verb::Add || all <= Duration::from_secs(30));
            }
        }
        assert_eq!(patience(Verb::Add, &conf(600_000)).1, Duration::from_secs(600));
    }
}
