//! The body of an answer as lines.
//!
//! What is absent: how lines are told apart ([`crate::http::Splitter`]).

use http_body_util::BodyExt;
use hyper::body::Incoming;

use super::client::Failure;
use crate::http::{Line, Splitter, chain};

/// The lines of an answer.
#[derive(Debug)]
pub(super) struct Lines {
    body: Incoming,
    splitter: Splitter,
}

impl Lines {
    pub fn new(body: Incoming, limit: usize) -> Self {
        Self { body, splitter: Splitter::new(limit) }
    }

    /// Waits for more bytes and gives out the lines that end in them; false at the end. May be dropped while it waits.
    pub async fn more(&mut self, each: impl FnMut(Line<'_>)) -> Result<bool, Failure> {
        match self.body.frame().await {
            None => Ok(false),
            Some(Ok(frame)) => {
                if let Some(bytes) = frame.data_ref() {
                    self.splitter.push(bytes, each);
                }
                Ok(true)
            }
            Some(Err(error)) => Err(Failure::Lost(format!("the answer broke off: {}", chain(&error)))),
        }
    }
}
