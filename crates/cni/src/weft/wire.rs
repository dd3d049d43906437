//! What plugin and agent say to each other: HTTP/1.1 with JSON bodies over a unix stream socket.
//!
//! One request a connection. The container's network namespace travels as a file descriptor beside the request's
//! first byte (SCM_RIGHTS), because an agent in a container can't follow the runtime's paths. Success is a status
//! below 300; the body of an ADD's is the CNI result in the version of the configuration, others have `{}`. Failure
//! is a status of 400 or more with `{code, msg, details}`.
//!
//! This module is pure: bytes in, bytes out. `docs/interfaces/attachment.md` is the same for people.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::{CniError, Code};
use crate::request;
pub use crate::request::Verb;
use crate::weft::Request;

/// Milliseconds that the client will wait for the answer, counted from when it sent the request.
pub const DEADLINE_HEADER: &str = "weft-deadline-ms";
/// The longest response body that a client reads, in bytes.
pub const MAX_BODY: usize = 64 << 20;
/// The longest version that is shown, in bytes.
const MAX_VERSION: usize = 64;
/// The longest response head, in bytes.
pub const MAX_HEAD: usize = 16 << 10;

impl Verb {
    /// The path to POST a [`Call`] to.
    pub fn path(self) -> &'static str {
        match self {
            Verb::Add => "/v1/attachments/add",
            Verb::Del => "/v1/attachments/del",
            Verb::Check => "/v1/attachments/check",
            Verb::Gc => "/v1/attachments/gc",
            Verb::Status => "/v1/attachments/status",
        }
    }

    /// The verb of a path.
    pub fn of_path(path: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|verb| verb.path() == path)
    }
}

/// The body of a request: the runtime's call, unchanged.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Call {
    /// `CNI_CONTAINERID`.
    pub container: String,
    /// `CNI_IFNAME`.
    pub ifname: String,
    /// `CNI_NETNS`, for people and for the result; the agent uses the descriptor.
    pub netns: String,
    /// `CNI_ARGS`.
    pub args: String,
    /// The network configuration from standard input.
    pub config: Value,
    /// The plugin's version, for people; empty where it doesn't say.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub plugin_version: String,
}

impl Call {
    /// The call that the environment and standard input make.
    pub fn new(env: impl Fn(&str) -> Option<String>, config: Value) -> Self {
        let variable = |key: &str| env(key).unwrap_or_default();
        Self {
            container: variable("CNI_CONTAINERID"),
            ifname: variable("CNI_IFNAME"),
            netns: variable("CNI_NETNS"),
            args: variable("CNI_ARGS"),
            config,
            plugin_version: crate::VERSION.to_owned(),
        }
    }

    /// Reads a request's body.
    ///
    /// # Errors
    /// [`Code::DECODING_FAILURE`] where it is no call.
    pub fn decode(body: &[u8]) -> Result<Self, CniError> {
        serde_json::from_slice(body).map_err(|error| {
            CniError::new(Code::DECODING_FAILURE, "the request's body is no call", error.to_string())
        })
    }

    /// The plugin's version, where it says one that can be shown.
    pub fn plugin_version(&self) -> Option<&str> {
        let shown = |text: &&str| {
            (1..=MAX_VERSION).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic())
        };
        Some(self.plugin_version.as_str()).filter(shown)
    }

    /// The call as bytes for a request's body.
    pub fn encode(&self) -> Vec<u8> {
        // Strings and JSON values always serialise.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Checks the call, exactly as the plugin did.
    ///
    /// # Errors
    /// As [`request::Request::parse`] and [`Request::of`].
    pub fn request(&self, verb: Verb) -> Result<Request, CniError> {
        let env = |key: &str| match key {
            "CNI_CONTAINERID" => Some(self.container.clone()),
            "CNI_IFNAME" => Some(self.ifname.clone()),
            "CNI_NETNS" => Some(self.netns.clone()),
            "CNI_ARGS" => Some(self.args.clone()),
            _ => None,
        };
        Request::of(request::Request::read(verb, env, self.config.clone())?)
    }
}

/// The HTTP status that an error of this code travels with.
pub fn http_status(code: Code) -> u16 {
    match code {
        Code::UNKNOWN_CONTAINER => 404,
        Code::CONFLICT => 409,
        Code::TRY_AGAIN_LATER | Code::NOT_AVAILABLE | Code::NOT_AVAILABLE_LIMITED => 503,
        Code(1 | 2 | 4 | 6 | 7) => 400,
        _ => 500,
    }
}

/// A request as bytes, head and body.
pub fn encode_request(method: &str, path: &str, deadline: Duration, body: &[u8]) -> Vec<u8> {
    let mut bytes = format!(
        "{method} {path} HTTP/1.1\r\nhost: weft\r\nconnection: close\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n{DEADLINE_HEADER}: {}\r\n\r\n",
        body.len(),
        deadline.as_millis(),
    )
    .into_bytes();
    bytes.extend_from_slice(body);
    bytes
}

/// A response, whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// HTTP status.
    pub status: u16,
    /// The body.
    pub body: Vec<u8>,
}

impl Response {
    /// The body of a success, or the error that the agent answered; nothing where the answer is neither.
    pub fn outcome(&self) -> Option<Result<&[u8], CniError>> {
        match self.status {
            200..=299 => Some(Ok(&self.body)),
            400..=599 => serde_json::from_slice(&self.body).ok().map(Err),
            _ => None,
        }
    }
}

/// What the head of a response says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// HTTP status.
    pub status: u16,
    /// Where the body begins, in bytes from the start.
    pub body_at: usize,
    /// Length of the body in bytes; nothing means until the connection ends.
    pub length: Option<usize>,
}

/// Reads the head at the start of `bytes`; `Ok(None)` where it is not there whole yet.
///
/// # Errors
/// What is not HTTP/1, is too long, or is in a form that the agent never sends.
pub fn response_head(bytes: &[u8]) -> Result<Option<Head>, &'static str> {
    let Some(end) = bytes.windows(4).take(MAX_HEAD).position(|window| window == b"\r\n\r\n") else {
        let start = &bytes[..bytes.len().min(7)];
        if !b"HTTP/1.".starts_with(start) {
            return Err("it is not HTTP");
        }
        return if bytes.len() > MAX_HEAD { Err("its head is too long") } else { Ok(None) };
    };
    let head = std::str::from_utf8(&bytes[..end]).map_err(|_| "its head is not text")?;
    let mut lines = head.split("\r\n");
    let mut status_line = lines.next().unwrap_or_default().split(' ');
    if !matches!(status_line.next(), Some("HTTP/1.1" | "HTTP/1.0")) {
        return Err("it is not HTTP");
    }
    let status =
        status_line.next().and_then(|text| text.parse().ok()).filter(|status| (100..=599).contains(status));
    let mut length = None;
    for (name, value) in lines.filter_map(|line| line.split_once(':')) {
        if name.eq_ignore_ascii_case("content-length") {
            let parsed = value.trim().parse().ok().filter(|length| *length <= MAX_BODY);
            length = Some(parsed.ok_or("its content-length is no number, or too large")?);
        } else if name.eq_ignore_ascii_case("transfer-encoding") {
            return Err("it has a transfer-encoding");
        }
    }
    Ok(Some(Head { status: status.ok_or("its status is no number")?, body_at: end + 4, length }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_request_is_plain_http() {
        let bytes = encode_request("POST", Verb::Del.path(), Duration::from_millis(1500), b"{}");
        insta::assert_snapshot!(String::from_utf8(bytes).unwrap().replace("\r\n", "\n"), @r"
        POST /v1/attachments/del HTTP/1.1
        host: weft
        connection: close
        content-type: application/json
        content-length: 2
        weft-deadline-ms: 1500

        {}
        ");
    }

    #[test]
    fn a_call_survives_the_way_and_is_checked_again() {
        let env = |key: &str| Some(format!("x{}", key.len()));
        let config = json!({"cniVersion": "1.0.0", "name": "weft", "type": "weft"});
        let call = Call { args: "K8S_POD_NAMESPACE=a;K8S_POD_NAME=b".into(), ..Call::new(env, config) };
        let got = Call::decode(&call.encode()).unwrap();
        assert_eq!(got, call);
        let Ok(Request::Add(add)) = got.request(Verb::Add) else { panic!() };
        assert_eq!(
            (add.id.container.as_str(), add.id.ifname.as_str(), add.netns.as_str()),
            ("x15", "x10", "x9")
        );
        assert_eq!(add.pod.unwrap().name, "b");
        assert_eq!(got.request(Verb::Status).unwrap_err().code, Code::INCOMPATIBLE_VERSION);
        assert_eq!(Call::decode(b"[1").unwrap_err().code, Code::DECODING_FAILURE);
    }

    /// Whatever calls may say anything, or nothing: it goes into what people see.
    #[test]
    fn a_version_is_shown_where_it_is_one() {
        let said = |body: &str| Call::decode(body.as_bytes()).unwrap().plugin_version().map(str::to_owned);
        assert_eq!(said(r#"{"pluginVersion":"0.1.0-next"}"#).as_deref(), Some("0.1.0-next"));
        assert_eq!(said("{}"), None);
        assert_eq!(said(r#"{"pluginVersion":"0.1.0\n"}"#), None);
        assert_eq!(said(&format!(r#"{{"pluginVersion":"{}"}}"#, "1".repeat(65))), None);
        assert_eq!(Call::new(|_| None, Value::Null).plugin_version(), Some(crate::VERSION));
        assert!(!String::from_utf8(Call::default().encode()).unwrap().contains("pluginVersion"));
    }

    #[test]
    fn paths_and_verbs_match() {
        for verb in Verb::ALL {
            assert_eq!(Verb::of_path(verb.path()), Some(verb));
        }
        assert_eq!(Verb::of_path("/v1/status"), None);
    }

    #[test]
    fn heads_are_read_or_refused() {
        let check = |text: &str, expected: Result<Option<(u16, Option<usize>)>, &str>| {
            let head = response_head(text.as_bytes());
            assert_eq!(head.map(|head| head.map(|head| (head.status, head.length))), expected, "{text:?}");
        };
        check("HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\nxx", Ok(Some((200, Some(12)))));
        check("HTTP/1.0 503 Service Unavailable\r\n\r\n", Ok(Some((503, None))));
        check("HTTP/1.1 204\r\n\r\n", Ok(Some((204, None))));
        check("", Ok(None));
        check("HTT", Ok(None));
        check("HTTP/1.1 200 OK\r\ncontent-len", Ok(None));
        check("SSH-2.0-x", Err("it is not HTTP"));
        check("HTTP/2.0 200\r\n\r\n", Err("it is not HTTP"));
        check("HTTP/1.1 abc\r\n\r\n", Err("its status is no number"));
        check(
            "HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n",
            Err("its content-length is no number, or too large"),
        );
        check("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", Err("it has a transfer-encoding"));
        check(&format!("HTTP/1.1 200 OK\r\nx: {}", "y".repeat(MAX_HEAD)), Err("its head is too long"));
    }

    #[test]
    fn outcomes_are_success_error_or_neither() {
        let check = |status: u16, body: &str, expected: Option<Result<&str, u32>>| {
            let response = Response { status, body: body.into() };
            let got = response.outcome().map(|outcome| outcome.map_err(|error| error.code.0));
            assert_eq!(got, expected.map(|outcome| outcome.map(str::as_bytes)), "{status} {body}");
        };
        check(200, "{}", Some(Ok("{}")));
        check(503, r#"{"code":11,"msg":"later"}"#, Some(Err(11)));
        check(500, "oops", None);
        check(404, "{}", None);
        check(302, "{}", None);
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_a_head_or_not(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..100), cut in 0usize..60) {
            let _ = response_head(&bytes);
            let whole = b"HTTP/1.1 200 OK\r\ncontent-length: 12\r\n\r\n";
            let mut mixed = whole[..cut.min(whole.len())].to_vec();
            mixed.extend_from_slice(&bytes);
            if let Ok(Some(head)) = response_head(&mixed) {
                proptest::prop_assert!(head.body_at <= mixed.len());
            }
        }
    }
}
