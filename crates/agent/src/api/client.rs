//! A synchronous client of a running agent, for the command line.

use std::path::Path;
use std::time::Duration;

use weft_cni::client::{ClientError, Exchange};
use weft_cni::wire::Response;

/// How long the command line waits for an agent to begin listening.
const CONNECT_WITHIN: Duration = Duration::from_millis(200);
/// How long it waits for an answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);

/// Gets `path` (with its query) from the agent that listens on `socket`.
///
/// # Errors
/// [`ClientError`] where there is no answer; an answer with an error status is in the [`Response`].
pub fn get(socket: &Path, path: &str) -> Result<Response, ClientError> {
    exchange(socket, "GET", path, &[])
}

/// Posts `body` to `path`.
///
/// # Errors
/// As [`get`].
pub fn post(socket: &Path, path: &str, body: &[u8]) -> Result<Response, ClientError> {
    exchange(socket, "POST", path, body)
}

fn exchange(socket: &Path, method: &str, path: &str, body: &[u8]) -> Result<Response, ClientError> {
    let exchange = Exchange {
        socket,
        method,
        path,
        body,
        descriptor: None,
        connect_within: CONNECT_WITHIN,
        answer_within: ANSWER_WITHIN,
    };
    exchange.run()
}
