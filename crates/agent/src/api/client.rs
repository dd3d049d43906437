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
    get_within(socket, path, ANSWER_WITHIN)
}

/// [`get`], with an answer in this time or none.
///
/// # Errors
/// As [`get`].
pub fn get_within(socket: &Path, path: &str, within: Duration) -> Result<Response, ClientError> {
    exchange(socket, "GET", path, &[], within)
}

/// Posts `body` to `path`.
///
/// # Errors
/// As [`get`].
pub fn post(socket: &Path, path: &str, body: &[u8]) -> Result<Response, ClientError> {
    exchange(socket, "POST", path, body, ANSWER_WITHIN)
}

fn exchange(
    socket: &Path,
    method: &str,
    path: &str,
    body: &[u8],
    answer_within: Duration,
) -> Result<Response, ClientError> {
    let exchange = Exchange {
        socket,
        method,
        path,
        body,
        descriptor: None,
        connect_within: CONNECT_WITHIN,
        answer_within,
    };
    exchange.run()
}
