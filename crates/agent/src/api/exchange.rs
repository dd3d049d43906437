//! What goes in and out of the handler: plain data, no HTTP library's types.

use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::time::Instant;

use serde::Serialize;
use weft_cni::{CniError, Code, wire};

/// One request.
#[derive(Debug)]
pub struct ApiRequest {
    /// `GET`, `POST`, …
    pub method: String,
    /// The path, without the query.
    pub path: String,
    /// What stands after the question mark; empty where there is none.
    pub query: String,
    /// The body, at most [`Limits::body`](super::Limits::body) bytes.
    pub body: Vec<u8>,
    /// Descriptors that came with it; they close on exec, and when dropped.
    pub fds: Vec<OwnedFd>,
    /// When the client stops waiting.
    pub deadline: Instant,
}

/// One answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiResponse {
    /// HTTP status.
    pub status: u16,
    /// The body.
    pub body: Vec<u8>,
    /// The body's media type.
    pub content_type: &'static str,
}

impl ApiResponse {
    /// `value` as JSON, with status 200.
    pub fn json(value: &impl Serialize) -> Self {
        match serde_json::to_vec(value) {
            Ok(body) => Self { status: 200, body, content_type: "application/json" },
            Err(error) => {
                Self::error(&CniError::new(Code::DEFECT, "the answer can't be written", error.to_string()))
            }
        }
    }

    /// Plain text, with status 200.
    pub fn text(text: impl Into<String>) -> Self {
        Self { status: 200, body: text.into().into_bytes(), content_type: "text/plain; charset=utf-8" }
    }

    /// Success with nothing to say: `{}`.
    pub fn done() -> Self {
        Self { status: 200, body: b"{}".to_vec(), content_type: "application/json" }
    }

    /// An error as `{code, msg, details}`, with the status that fits its code.
    pub fn error(error: &CniError) -> Self {
        Self::error_with(wire::http_status(error.code), error)
    }

    /// An error with a status of its own.
    pub fn error_with(status: u16, error: &CniError) -> Self {
        let body = serde_json::to_vec(error).unwrap_or_default();
        Self { status, body, content_type: "application/json" }
    }

    /// No such path.
    pub fn not_found(path: &str) -> Self {
        let mend = "the client may be newer than this agent: compare weft --version with the agent's";
        let error = CniError::new(Code::INVALID_CONFIG, format!("the agent has no {path:?}"), mend);
        Self::error_with(404, &error)
    }
}

impl From<Result<ApiResponse, CniError>> for ApiResponse {
    fn from(outcome: Result<ApiResponse, CniError>) -> Self {
        outcome.unwrap_or_else(|error| ApiResponse::error(&error))
    }
}

/// What became of a request that was to be handed on.
pub enum HandedOn {
    /// The answer will come by this.
    Answer(Pin<Box<dyn Future<Output = ApiResponse> + Send>>),
    /// Nobody else answers it: it is for [`Handler::call`].
    Not(ApiRequest),
}

/// Who answers.
pub trait Handler: Send + Sync + 'static {
    /// Takes a request whose answer somebody else has to give, and hands it on; any other request is given back. Runs on the
    /// API's own thread, and must not wait. The answer should be there by the deadline.
    fn hand_on(&self, request: ApiRequest) -> HandedOn {
        HandedOn::Not(request)
    }

    /// Answers one request. Runs on a thread where blocking is allowed, up to
    /// [`Limits::threads`](super::Limits::threads) at once; should return before the request's deadline.
    fn call(&self, request: ApiRequest) -> ApiResponse;
}

impl<F: Fn(ApiRequest) -> ApiResponse + Send + Sync + 'static> Handler for F {
    fn call(&self, request: ApiRequest) -> ApiResponse {
        self(request)
    }
}
