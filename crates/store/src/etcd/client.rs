//! Requests to whichever member answers.
//!
//! What always holds: a request that a member doesn't answer, or can't for want of a leader, goes to the next one, each once; so every
//! request must be one that may happen twice. A token that has run out is asked for again, once.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http_body_util::BodyExt;
use hyper::body::{Bytes, Incoming};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::connection::{Broken, Connection, Endpoint, Trust};
use super::wire::{self, Authenticated, ServerError, code};

/// Connections that are kept open for the next request.
const KEPT: usize = 4;

/// A user of etcd's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EtcdUser {
    /// The name.
    pub name: String,
    /// A file that holds the password; read at each log-in.
    pub password_file: PathBuf,
}

/// How etcd is reached.
#[derive(Debug, Clone)]
pub(super) struct Access {
    pub endpoints: Vec<Endpoint>,
    pub tls: Option<Arc<Trust>>,
    pub user: Option<EtcdUser>,
    pub patience: Duration,
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Failure {
    /// No member answers, or none has a leader.
    Away(String),
    /// etcd's own answer is no.
    Refused(ServerError),
    /// The answer is larger than what is read.
    TooLarge,
    /// Another machine is this node as well: why that is believed, and the mend.
    Twin(String),
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Failure::Away(reason) | Failure::Twin(reason) => f.write_str(reason),
            Failure::Refused(error) if error.code == code::PERMISSION_DENIED => {
                write!(f, "{}; the user needs a role with readwrite on the prefix", error.message)
            }
            Failure::Refused(error) => f.write_str(&error.message),
            Failure::TooLarge => f.write_str("the answer is larger than 64 MiB; make values smaller"),
        }
    }
}

/// A connection's pool, the member that answered last, and the token. Belongs to one runtime.
#[derive(Debug)]
pub(super) struct Client {
    access: Access,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The member to ask first.
    at: usize,
    idle: Vec<(usize, Connection)>,
    token: Option<Token>,
}

/// What a user shows; kept out of logs.
#[derive(Clone)]
struct Token(String);

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token")
    }
}

impl Client {
    pub fn new(access: Access) -> Self {
        // Not all nodes begin with the same member.
        let at = fastrand::usize(..access.endpoints.len().max(1));
        Self { access, state: Mutex::new(State { at, ..State::default() }) }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whom it believes, where it speaks TLS.
    pub fn trust(&self) -> Option<&Arc<Trust>> {
        self.access.tls.as_ref()
    }

    /// The member that is asked first.
    pub fn at(&self) -> usize {
        self.state().at
    }

    /// How many members there are.
    pub fn count(&self) -> usize {
        self.access.endpoints.len()
    }

    /// A member's address.
    pub fn name(&self, at: usize) -> &str {
        &self.access.endpoints[at].text
    }

    /// Says that a member doesn't answer: the next one is asked first, unless another call has said so already.
    pub fn leave(&self, at: usize) {
        let mut state = self.state();
        state.idle.retain(|(of, _)| *of != at);
        if state.at == at {
            state.at = (at + 1) % self.access.endpoints.len();
        }
    }

    /// Asks, and reads the answer.
    pub async fn ask<A: DeserializeOwned>(&self, path: &str, question: &Value) -> Result<A, Failure> {
        let mut lost = Vec::new();
        for _ in 0..self.access.endpoints.len() {
            let at = self.at();
            match self.ask_at(at, path, question).await {
                Err(Failure::Away(reason)) => {
                    lost.push(format!("{}: {reason}", self.name(at)));
                    self.leave(at);
                }
                other => return other,
            }
        }
        Err(Failure::Away(lost.join("; ")))
    }

    /// Asks one member.
    pub async fn ask_at<A: DeserializeOwned>(
        &self,
        at: usize,
        path: &str,
        question: &Value,
    ) -> Result<A, Failure> {
        let body = Bytes::from(question.to_string());
        let mut has_new_token = false;
        loop {
            let token = self.token(at).await?;
            let shown = token.as_ref().map(|token| token.0.as_str());
            let (status, answer) = self.exchange(at, path, shown, body.clone()).await?;
            if status == 200 {
                return serde_json::from_slice(&answer).map_err(|error| {
                    Failure::Away(format!("it answers {path} with no answer of etcd's: {error}"))
                });
            }
            let error = refusal(status, &answer);
            let is_stale =
                token.is_some() && (error.code == code::UNAUTHENTICATED || error.message.contains("auth"));
            if is_stale && !has_new_token {
                self.state().token = None;
                has_new_token = true;
                continue;
            }
            return Err(judged(error));
        }
    }

    async fn exchange(
        &self,
        at: usize,
        path: &str,
        token: Option<&str>,
        body: Bytes,
    ) -> Result<(u16, Vec<u8>), Failure> {
        let failed = |broken| match broken {
            Broken::Lost(reason) => Failure::Away(reason),
            Broken::TooLarge => Failure::TooLarge,
        };
        if let Some(mut kept) = self.take_idle(at) {
            match kept.exchange(path, token, body.clone()).await {
                Ok(answer) => {
                    self.keep(at, kept);
                    return Ok(answer);
                }
                Err(broken) if kept.is_open() => return Err(failed(broken)),
                // That a kept connection has ended meanwhile says nothing about the member.
                Err(_) => {}
            }
        }
        let endpoint = &self.access.endpoints[at];
        let opened = Connection::open(endpoint, self.access.tls.as_deref(), self.access.patience).await;
        let mut connection = opened.map_err(failed)?;
        let answer = connection.exchange(path, token, body).await.map_err(failed)?;
        self.keep(at, connection);
        Ok(answer)
    }

    fn take_idle(&self, at: usize) -> Option<Connection> {
        let mut state = self.state();
        state.idle.retain(|(_, connection)| connection.is_open());
        let place = state.idle.iter().position(|(of, _)| *of == at)?;
        Some(state.idle.swap_remove(place).1)
    }

    fn keep(&self, at: usize, connection: Connection) {
        let mut state = self.state();
        if connection.is_open() && state.idle.len() < KEPT {
            state.idle.push((at, connection));
        }
    }

    /// The token to show, where there is a user.
    async fn token(&self, at: usize) -> Result<Option<Token>, Failure> {
        let Some(user) = &self.access.user else { return Ok(None) };
        if let Some(token) = self.state().token.clone() {
            return Ok(Some(token));
        }
        let file = user.password_file.display();
        let password = std::fs::read_to_string(&user.password_file)
            .map_err(|error| Failure::Away(format!("passwordFile {file}: {error}")))?;
        let question = json!({ "name": user.name, "password": password.trim_end_matches(['\r', '\n']) });
        let body = Bytes::from(question.to_string());
        let (status, answer) = self.exchange(at, wire::AUTHENTICATE, None, body).await?;
        if status != 200 {
            let mut error = refusal(status, &answer);
            error.message = format!("user {}: {} (passwordFile {file})", user.name, error.message);
            return Err(judged(error));
        }
        let answer: Authenticated =
            serde_json::from_slice(&answer).map_err(|error| Failure::Away(error.to_string()))?;
        let token = Token(answer.token);
        self.state().token = Some(token.clone());
        Ok(Some(token))
    }

    /// Begins an answer that goes on, at one member; on a connection of its own.
    pub async fn stream(&self, at: usize, path: &str, question: &Value) -> Result<Incoming, Failure> {
        let token = self.token(at).await?;
        let away = |broken| match broken {
            Broken::Lost(reason) => Failure::Away(reason),
            Broken::TooLarge => Failure::TooLarge,
        };
        let endpoint = &self.access.endpoints[at];
        let opened = Connection::open(endpoint, self.access.tls.as_deref(), self.access.patience).await;
        let mut connection = opened.map_err(away)?;
        let body = Bytes::from(question.to_string());
        let answer =
            connection.begin(path, token.as_ref().map(|token| token.0.as_str()), body).await.map_err(away)?;
        let status = answer.status().as_u16();
        if status == 200 {
            return Ok(answer.into_body());
        }
        let body = tokio::time::timeout(self.access.patience, answer.into_body().collect()).await;
        let text = body.ok().and_then(Result::ok).map(|body| body.to_bytes().to_vec()).unwrap_or_default();
        // The next attempt shows another token.
        self.state().token = None;
        Err(judged(refusal(status, &text)))
    }
}

fn refusal(status: u16, answer: &[u8]) -> ServerError {
    let read = serde_json::from_slice::<ServerError>(answer).ok().filter(|error| !error.message.is_empty());
    read.unwrap_or_else(|| {
        let text = String::from_utf8_lossy(answer);
        let text: String = text.trim().chars().take(200).collect();
        let message = format!("HTTP status {status} ({text}); is it etcd, with its gRPC gateway enabled?");
        ServerError { code: if status >= 500 { code::UNAVAILABLE } else { 0 }, message }
    })
}

/// What another member may answer better is no refusal.
fn judged(error: ServerError) -> Failure {
    match error.code {
        code::UNAVAILABLE | code::DEADLINE_EXCEEDED => Failure::Away(error.message),
        _ => Failure::Refused(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_stays_out_of_what_is_printed() {
        let state = State { token: Some(Token("secret.7".to_owned())), ..State::default() };
        let text = format!("{state:?}");
        assert!(text.contains("Token") && !text.contains("secret"), "{text}");
    }
}
