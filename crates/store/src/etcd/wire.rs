//! What is said to etcd and what it answers, as its JSON gateway has it (etcd's `api/etcdserverpb/rpc.proto`, in the JSON form
//! of Protocol Buffers 3: 64-bit numbers as text, bytes as base64, defaults left out): pure.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};

use super::keys::end_of;

/// What a request goes to.
pub(super) const RANGE: &str = "/v3/kv/range";
pub(super) const TXN: &str = "/v3/kv/txn";
pub(super) const WATCH: &str = "/v3/watch";
pub(super) const GRANT: &str = "/v3/lease/grant";
pub(super) const REVOKE: &str = "/v3/lease/revoke";
pub(super) const KEEP_ALIVE: &str = "/v3/lease/keepalive";
pub(super) const TIME_TO_LIVE: &str = "/v3/lease/timetolive";
pub(super) const AUTHENTICATE: &str = "/v3/auth/authenticate";

/// Codes of gRPC that a caller has to tell apart (`grpc/codes`).
pub(super) mod code {
    pub const DEADLINE_EXCEEDED: i64 = 4;
    pub const NOT_FOUND: i64 = 5;
    pub const PERMISSION_DENIED: i64 = 7;
    pub const UNAVAILABLE: i64 = 14;
    pub const UNAUTHENTICATED: i64 = 16;
}

/// Bytes as JSON has them.
pub(super) fn encode(bytes: impl AsRef<[u8]>) -> String {
    STANDARD.encode(bytes)
}

fn number<'de, D: Deserializer<'de>>(from: D) -> Result<i64, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Number {
        Number(i64),
        Text(String),
    }
    match Number::deserialize(from)? {
        Number::Number(number) => Ok(number),
        // Identifiers are unsigned; only whether two are the same matters.
        Number::Text(text) => text
            .parse::<i64>()
            .or_else(|_| text.parse::<u64>().map(u64::cast_signed))
            .map_err(serde::de::Error::custom),
    }
}

/// The longest text of a server's that is repeated, in characters.
const LONGEST_WORDS: usize = 300;

fn words<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    let text = std::borrow::Cow::<str>::deserialize(from)?;
    Ok(text.chars().take(LONGEST_WORDS).collect())
}

fn bytes<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u8>, D::Error> {
    let text = std::borrow::Cow::<str>::deserialize(from)?;
    STANDARD.decode(text.as_bytes()).map_err(serde::de::Error::custom)
}

/// What every answer has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(super) struct Header {
    /// Which cluster answers.
    #[serde(deserialize_with = "number")]
    pub cluster_id: i64,
    /// Its revision at that moment.
    #[serde(deserialize_with = "number")]
    pub revision: i64,
    /// Which member answers.
    #[serde(deserialize_with = "number")]
    pub member_id: i64,
    /// Its term: each leader has one of its own.
    #[serde(deserialize_with = "number")]
    pub raft_term: i64,
}

/// A key and its value.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(super) struct KeyValue {
    #[serde(deserialize_with = "bytes")]
    pub key: Vec<u8>,
    #[serde(deserialize_with = "bytes")]
    pub value: Vec<u8>,
    /// The revision at which it was made.
    #[serde(deserialize_with = "number")]
    pub create_revision: i64,
    /// The revision at which it was last written.
    #[serde(deserialize_with = "number")]
    pub mod_revision: i64,
    /// The lease that it goes with; 0 for none.
    #[serde(deserialize_with = "number")]
    pub lease: i64,
}

impl KeyValue {
    /// The key, where it is text.
    pub fn key(&self) -> Option<&str> {
        str::from_utf8(&self.key).ok()
    }

    /// The value as text, without the line end that people's tools leave.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.value).trim().to_owned()
    }
}

#[derive(Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(super) struct Ranged {
    pub header: Header,
    pub kvs: Vec<KeyValue>,
    /// There are more after these.
    pub more: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Transacted {
    pub header: Header,
    pub succeeded: bool,
    responses: Vec<Response>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Response {
    response_range: Option<Ranged>,
}

impl Transacted {
    /// What the ranges of the branch that was taken found.
    pub fn found(self) -> impl Iterator<Item = KeyValue> {
        self.responses.into_iter().filter_map(|response| response.response_range).flat_map(|range| range.kvs)
    }
}

/// An answer of which nothing matters but that it came.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Done {}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Granted {
    #[serde(rename = "ID", deserialize_with = "number")]
    pub id: i64,
    /// Seconds; for a lease that isn't there, none.
    #[serde(rename = "TTL", deserialize_with = "number")]
    pub ttl: i64,
}

/// How a lease stands.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct TimeToLive {
    /// Seconds that are left; negative where it isn't there.
    #[serde(rename = "TTL", deserialize_with = "number")]
    pub ttl: i64,
    /// Seconds that it was granted for.
    #[serde(rename = "grantedTTL", deserialize_with = "number")]
    pub granted: i64,
    /// Keys that hang on it, where they were asked for; base64.
    pub keys: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Authenticated {
    pub token: String,
}

/// One element of an answer that goes on.
#[derive(Debug, Deserialize)]
pub(super) struct Streamed<T> {
    #[serde(default = "Option::default")]
    pub result: Option<T>,
    #[serde(default = "Option::default")]
    pub error: Option<ServerError>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Watched {
    pub header: Header,
    pub created: bool,
    pub canceled: bool,
    #[serde(deserialize_with = "words")]
    pub cancel_reason: String,
    /// What is older than this revision is forgotten, and the watch asked for it.
    #[serde(deserialize_with = "number")]
    pub compact_revision: i64,
    pub events: Vec<Happened>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
pub(super) enum What {
    #[default]
    #[serde(rename = "PUT")]
    Put,
    #[serde(rename = "DELETE")]
    Delete,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Happened {
    #[serde(rename = "type")]
    pub what: What,
    pub kv: KeyValue,
}

/// An error, as servers from 3.4 to 3.6 write it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(super) struct ServerError {
    #[serde(alias = "grpc_code", deserialize_with = "number")]
    pub code: i64,
    /// Cut where it is long: whoever answers may be anybody, and it goes into logs.
    #[serde(deserialize_with = "words")]
    pub message: String,
}

pub(super) fn range(start: &str) -> Value {
    json!({ "key": encode(start), "range_end": encode(end_of(start)) })
}

pub(super) fn get(key: &str) -> Value {
    json!({ "key": encode(key) })
}

pub(super) fn put(key: &str, value: &[u8], lease: i64) -> Value {
    json!({ "key": encode(key), "value": encode(value), "lease": lease.to_string() })
}

/// If all of `compare` hold, `success` happens, otherwise `failure`.
pub(super) fn txn(compare: &[Value], success: &[Value], failure: &[Value]) -> Value {
    json!({ "compare": compare, "success": success, "failure": failure })
}

/// There is no such key.
pub(super) fn is_absent(key: &str) -> Value {
    json!({ "key": encode(key), "target": "CREATE", "result": "EQUAL", "create_revision": "0" })
}

/// The key is as it was at that revision.
pub(super) fn is_unchanged(key: &str, mod_revision: i64) -> Value {
    json!({ "key": encode(key), "target": "MOD", "result": "EQUAL", "mod_revision": mod_revision.to_string() })
}

/// The key holds this value.
pub(super) fn holds(key: &str, value: &str) -> Value {
    json!({ "key": encode(key), "target": "VALUE", "result": "EQUAL", "value": encode(value) })
}

/// The key goes with this lease.
pub(super) fn is_leased(key: &str, lease: i64) -> Value {
    json!({ "key": encode(key), "target": "LEASE", "result": "EQUAL", "lease": lease.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_of_old_and_new_servers_are_read() {
        let text = r#"{"header":{"cluster_id":"10144879847569953045","revision":"3"},"events":[
            {"type":"DELETE","kv":{"key":"L3cvYQ==","mod_revision":"3"}},{"kv":{"key":"YQ==","value":"aGk="}}]}"#;
        let watched: Watched = serde_json::from_str(text).unwrap();
        assert_eq!((watched.header.revision, watched.events[0].what), (3, What::Delete));
        assert_eq!((watched.events[0].kv.key(), watched.events[1].what), (Some("/w/a"), What::Put));
        assert_eq!(watched.events[1].kv.text(), "hi");
        let check = |text: &str, expected: (i64, &str)| {
            let error: ServerError = serde_json::from_str(text).unwrap();
            assert_eq!((error.code, error.message.as_str()), expected);
        };
        check(r#"{"error":"no lease","message":"no lease","code":5}"#, (5, "no lease"));
        check(r#"{"code":5, "message":"no lease"}"#, (5, "no lease"));
        check(
            r#"{"grpc_code":14,"http_code":503,"message":"no leader","http_status":"x"}"#,
            (14, "no leader"),
        );
    }

    #[test]
    fn long_words_of_a_server_are_cut() {
        let text = json!({ "code": 5, "message": "é".repeat(LONGEST_WORDS * 9) }).to_string();
        let error: ServerError = serde_json::from_str(&text).unwrap();
        assert_eq!(error.message, "é".repeat(LONGEST_WORDS));
        let text = json!({ "canceled": true, "cancel_reason": "x".repeat(LONGEST_WORDS + 1) }).to_string();
        let watched: Watched = serde_json::from_str(&text).unwrap();
        assert_eq!(watched.cancel_reason.len(), LONGEST_WORDS);
    }

    #[test]
    fn an_absent_number_is_none() {
        let granted: Granted = serde_json::from_str(r#"{"ID":"77"}"#).unwrap();
        assert_eq!((granted.id, granted.ttl), (77, 0));
    }
}
