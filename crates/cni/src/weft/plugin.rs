//! Serves a call: forwards it to the agent and reads the answer.
//!
//! What always holds: a DEL that the agent could not do leaves a tombstone and succeeds; an ADD that may have been done unseen
//! leaves one and fails.
//!
//! What is absent: everything else. All decisions about the network are the agent's.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use serde_json::Value;

use crate::error::{CniError, Code};
use crate::netns;
use crate::plugin::Env;
use crate::request::{self, Verb};
use crate::weft::client::{ClientError, Exchange};
use crate::weft::tombstone::Tombstone;
use crate::weft::wire::{Call, Response};
use crate::weft::{Attach, Request, WeftConf};

/// Serves one call of type `weft`.
pub(crate) fn serve(request: request::Request, env: Env<'_>) -> Result<String, CniError> {
    // The agent gets the configuration as it came, and reads it by the same code.
    let call = Call::new(env, Value::Object(request.conf().raw.clone()));
    match Request::of(request)? {
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
    let look = "look at the agent: systemctl status weft, or the weft pod's log on this node";
    let (code, mend) = match error {
        ClientError::Garbage(_) => (Code::DECODING_FAILURE, look),
        // Another try of the same user ends the same.
        ClientError::Unreachable { cause, .. } if cause.kind() == io::ErrorKind::PermissionDenied => {
            let code = if away == Code::TRY_AGAIN_LATER { Code::IO_FAILURE } else { away };
            (code, "only root and the agent's own user may ask it: run the container runtime as root")
        }
        _ => (away, look),
    };
    CniError::new(code, error.to_string(), mend)
}

/// How long to try to connect, and how long all of a call may take. Only an ADD is worth a long wait: for the others
/// the runtime has another way, or asks again.
fn patience(verb: Verb, conf: &WeftConf) -> (Duration, Duration) {
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
    conf: &WeftConf,
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
                result.get("cniVersion").and_then(Value::as_str) == Some(conf.net.version.as_str())
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
    use crate::config::NetConf;
    use serde_json::json;

    #[test]
    fn only_an_add_waits_long_and_all_keep_the_configured_deadline() {
        let conf = |ms: u64| {
            let config = json!({"cniVersion": "1.1.0", "name": "weft", "type": "weft", "deadlineMs": ms});
            WeftConf::of(NetConf::parse(config).unwrap()).unwrap()
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

    #[test]
    fn who_may_not_ask_is_not_told_to_try_again() {
        let check = |kind: io::ErrorKind, away: Code, expected: Code| {
            let error = ClientError::Unreachable { socket: "/run/weft.sock".into(), cause: kind.into() };
            assert_eq!(unavailable(&error, away).code, expected, "{kind:?}");
        };
        check(io::ErrorKind::PermissionDenied, Code::TRY_AGAIN_LATER, Code::IO_FAILURE);
        check(io::ErrorKind::PermissionDenied, Code::NOT_AVAILABLE, Code::NOT_AVAILABLE);
        check(io::ErrorKind::NotFound, Code::TRY_AGAIN_LATER, Code::TRY_AGAIN_LATER);
    }
}
