//! Requests to the API server: one connection for all where it speaks HTTP/2, else one for each; and one of its own, for as long as it
//! takes, for a request whose answer is long.
//!
//! What always holds: every wait has an end. A connection that is silent is asked whether it lives, by HTTP/2 or by the kernel, and given up
//! when it doesn't answer. Who is no longer known to the server (401) over a connection from before is asked for again over a new one, with what his
//! files say now. What the server says against a request arrives as [`Failure`], with its reason.
//!
//! What is absent: what a request means, and when to try again.

use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http_body_util::{BodyExt, Collected, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::{http1, http2};
use hyper::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, DATE, HOST, HeaderValue, RETRY_AFTER, USER_AGENT};
use hyper::{Method, Request, Response, StatusCode, Uri};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::pki_types::ServerName;
use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, lookup_host};
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsConnector;
use tracing::info;

use super::access::AccessSource;
use super::credentials::{Credentials, Ready};
use super::time::parse_http_date;
use crate::http::{chain, probe};

/// How long a connection may take to come about.
const CONNECT: Duration = Duration::from_secs(10);

/// How long a connection beside the shared one may take.
const BESIDE: Duration = Duration::from_secs(5);

/// How long the head of an answer may take. A server ends a request after a minute, however busy it is.
const HEAD: Duration = Duration::from_secs(65);

/// The same over a connection of its own, beside which there is another way.
const OWN_HEAD: Duration = Duration::from_secs(15);

/// Silence after which a connection is asked whether it lives, and how long it has to answer.
const PING: (Duration, Duration) = (Duration::from_secs(20), Duration::from_secs(15));

/// Bytes of an answer that is read as a whole: a page of a list is the largest.
const WHOLE: usize = 64 << 20;

/// Characters of what the server says that are repeated.
const SAID: usize = 300;

/// Bytes that a stream, and all together, may have sent before they are read.
const WINDOWS: (u32, u32) = (1 << 20, 4 << 20);

/// What a connection may speak that requests share, most wanted first.
const SHARED: &[&[u8]] = &[b"h2", b"http/1.1"];
/// What one speaks that a long answer has for itself: by HTTP/2 all answers pass through one loop of the server's, object by object.
const OWN: &[&[u8]] = &[b"http/1.1"];

const JSON: &str = "application/json";

/// Why a request has come to nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Failure {
    /// It could not be sent, or the answer broke off.
    #[error("{0}")]
    Lost(String),
    /// The server said no.
    #[error("{}", refusal(*.status, .message))]
    Refused {
        /// The HTTP status.
        status: u16,
        /// The server's own words.
        message: String,
        /// When it wants to be asked again.
        retry_after: Option<Duration>,
    },
    /// What came is not what was asked for.
    #[error("the server's answer makes no sense: {0}; is this a Kubernetes API server?")]
    Garbled(String),
}

impl Failure {
    /// True where the server gave this status.
    pub fn is(&self, wanted: StatusCode) -> bool {
        matches!(self, Failure::Refused { status, .. } if *status == wanted.as_u16())
    }

    /// True where the server has too much to do, or says when to come again.
    fn is_busy(&self) -> bool {
        self.is(StatusCode::TOO_MANY_REQUESTS)
            || matches!(self, Failure::Refused { retry_after: Some(_), .. })
    }
}

fn refusal(status: u16, message: &str) -> String {
    let mend = match status {
        401 => "; the credentials are not, or no longer, valid: renew them",
        403 => "; give Weft's account the rights that docs/interfaces/cluster-state.md lists",
        429 => "; it is busy, and will be asked again",
        _ => "",
    };
    format!("the server refuses ({status}): {message}{mend}")
}

/// A request.
#[derive(Debug, Clone)]
pub(super) struct Ask {
    pub method: Method,
    /// Path and query.
    pub path: String,
    /// What form the answer shall have.
    pub accept: &'static str,
    /// What form the body has.
    pub content_type: &'static str,
    pub body: Bytes,
    /// The answer is long, and asking twice does no harm: it gets a connection of its own, where one is to be had.
    pub is_apart: bool,
}

impl Ask {
    pub fn get(path: impl Into<String>) -> Self {
        Self::with(Method::GET, path, "", String::new())
    }

    pub fn with(
        method: Method,
        path: impl Into<String>,
        content_type: &'static str,
        body: impl Into<Bytes>,
    ) -> Self {
        Self { method, path: path.into(), accept: JSON, content_type, body: body.into(), is_apart: false }
    }
}

type Sender2 = http2::SendRequest<Full<Bytes>>;

/// A connection that can take a request, and as whom.
enum Line {
    Shared(Sender2),
    Single(http1::SendRequest<Full<Bytes>>),
}

/// An answer that came over a connection of its own, and the number of the shared one beside it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Beside(u64);

/// The connection that requests share.
struct Shared {
    sender: Sender2,
    ready: Arc<Ready>,
    /// Tells it from those before.
    number: u64,
    /// Lists go over it as well.
    has_lists: bool,
}

/// A connection for one request.
struct Chosen {
    line: Line,
    ready: Arc<Ready>,
    /// 0 for one that isn't shared.
    number: u64,
    /// It was there before this request.
    is_from_before: bool,
}

/// How it stands with the connection that requests share.
#[derive(Default)]
struct Standing {
    shared: Option<Shared>,
    /// Connections that were shared.
    made: u64,
    /// The last attempt to connect that failed, and why.
    failed: Option<(Instant, Failure)>,
}

/// See the module.
pub(super) struct Client {
    pub credentials: Credentials,
    standing: Mutex<Standing>,
}

impl Client {
    pub fn new(source: AccessSource) -> Self {
        Self { credentials: Credentials::of(source), standing: Mutex::default() }
    }

    /// Sends a request, and returns the answer as soon as its head is there.
    pub async fn send(&self, ask: &Ask) -> Result<Response<Incoming>, Failure> {
        let chosen = self.line().await?;
        if ask.is_apart
            && let Some(own) = self.beside(&chosen).await
        {
            let (began, beside) = (Instant::now(), Beside(chosen.number));
            let failure = match self.send_over(ask, own, OWN_HEAD).await {
                Ok(mut response) => {
                    response.extensions_mut().insert(beside);
                    return Ok(response);
                }
                Err(failure) => failure,
            };
            // It need not be the server that says so: somebody in between may have no use for such a connection.
            self.share_lists(beside, &failure).await;
            // Who is busy, or has let us wait, isn't asked the same again at once.
            if began.elapsed() >= OWN_HEAD || failure.is_busy() {
                return Err(failure);
            }
        }
        let is_from_before = chosen.is_from_before;
        match self.send_over(ask, chosen, HEAD).await {
            // Nothing was done. A certificate belongs to its connection, and may have run out, or have lost who vouches for it, since.
            Err(failure) if is_from_before && failure.is(StatusCode::UNAUTHORIZED) => {
                let chosen = self.line().await?;
                self.send_over(ask, chosen, HEAD).await
            }
            sent => sent,
        }
    }

    async fn send_over(
        &self,
        ask: &Ask,
        chosen: Chosen,
        limit: Duration,
    ) -> Result<Response<Incoming>, Failure> {
        let Chosen { line, ready, number, .. } = chosen;
        let server = &ready.server;
        let token = self.credentials.token(&ready.token).map_err(Failure::Lost)?;
        let request = request(ask, server, (*token).as_deref(), &line)?;
        let sent = async {
            match line {
                Line::Shared(mut sender) => sender.send_request(request).await,
                Line::Single(mut sender) => sender.send_request(request).await,
            }
        };
        let response = match timeout(limit, sent).await {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => {
                self.hang_up(number).await;
                return Err(Failure::Lost(format!("{server}: {}", chain(&error))));
            }
            Err(_) => return Err(Failure::Lost(format!("{server}: no answer in {} s", limit.as_secs()))),
        };
        if response.status().is_success() {
            return Ok(response);
        }
        if response.status() == StatusCode::UNAUTHORIZED {
            self.hang_up(number).await;
        }
        Err(refused(response).await)
    }

    /// Sends a request and reads the whole answer.
    pub async fn whole(&self, ask: &Ask) -> Result<Bytes, Failure> {
        Ok(self.dated(ask).await?.0)
    }

    /// The same, with the server's time, where it says it.
    pub async fn dated(&self, ask: &Ask) -> Result<(Bytes, Option<SystemTime>), Failure> {
        let response = self.send(ask).await?;
        let date = response.headers().get(DATE).and_then(|value| value.to_str().ok());
        let date = date.and_then(parse_http_date);
        let body = Limited::new(response.into_body(), WHOLE).collect();
        match timeout(HEAD, body).await {
            Ok(Ok(body)) => Ok((body.to_bytes(), date)),
            Ok(Err(error)) => Err(Failure::Lost(format!("the answer broke off: {error}"))),
            Err(_) => Err(Failure::Lost("the answer broke off: it takes too long".into())),
        }
    }

    /// Gives a shared connection up: the next request makes a new one, if nobody has meanwhile.
    async fn hang_up(&self, number: u64) {
        self.standing.lock().await.shared.take_if(|shared| shared.number == number);
    }

    /// A connection: the shared one, where it stands.
    async fn line(&self) -> Result<Chosen, Failure> {
        let began = Instant::now();
        let mut standing = self.standing.lock().await;
        if let Some(shared) = standing.shared.as_ref().filter(|shared| !shared.sender.is_closed()) {
            let line = Line::Shared(shared.sender.clone());
            let (ready, number) = (shared.ready.clone(), shared.number);
            return Ok(Chosen { line, ready, number, is_from_before: true });
        }
        // Who waited for somebody else's attempt has seen it fail: to try again in turns would take as long for each.
        if let Some((_, failure)) = standing.failed.as_ref().filter(|(at, _)| *at >= began) {
            return Err(failure.clone());
        }
        standing.shared = None;
        let (line, ready) = self
            .open(SHARED, CONNECT * 2)
            .await
            .inspect_err(|failure| standing.failed = Some((Instant::now(), failure.clone())))?;
        let mut number = 0;
        if let Line::Shared(sender) = &line {
            standing.made += 1;
            number = standing.made;
            standing.shared =
                Some(Shared { sender: sender.clone(), ready: ready.clone(), number, has_lists: false });
        }
        Ok(Chosen { line, ready, number, is_from_before: false })
    }

    /// A connection of its own beside the one that requests share; nothing where there is none to be had, or they share none.
    async fn beside(&self, shared: &Chosen) -> Option<Chosen> {
        let Line::Shared(_) = shared.line else { return None };
        if self.standing.lock().await.shared.as_ref().is_some_and(|shared| shared.has_lists) {
            return None;
        }
        match self.open(OWN, BESIDE).await {
            Ok((line, ready)) => Some(Chosen { line, ready, number: 0, is_from_before: false }),
            Err(failure) => {
                self.share_lists(Beside(shared.number), &failure).await;
                None
            }
        }
    }

    /// From now on lists go over the shared connection as well, for as long as that one stands: one had no luck with its own.
    pub async fn share_lists(&self, Beside(number): Beside, why: &Failure) {
        let mut standing = self.standing.lock().await;
        let shared = standing.shared.as_mut().filter(|shared| shared.number == number);
        if let Some(shared) = shared.filter(|shared| !shared.has_lists) {
            shared.has_lists = true;
            info!(
                "lists go over the connection to {} that all requests share, and not over HTTP/1.1: {why}",
                shared.ready.server
            );
        }
    }

    async fn open(&self, versions: &[&[u8]], limit: Duration) -> Result<(Line, Arc<Ready>), Failure> {
        let ready = self.credentials.ready().map_err(Failure::Lost)?;
        let failed = |reason: String| Failure::Lost(format!("cannot reach {}: {reason}", ready.server));
        match timeout(limit, connect(&ready, versions)).await {
            Ok(line) => Ok((line.map_err(failed)?, ready)),
            Err(_) => Err(failed(format!("no connection in {} s", limit.as_secs()))),
        }
    }
}

async fn connect(ready: &Ready, versions: &[&[u8]]) -> Result<Line, String> {
    let host = ready.server.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
    let port = ready.server.port_u16().unwrap_or(if ready.tls.is_some() { 443 } else { 80 });
    let addresses: Vec<_> = lookup_host((host.as_str(), port)).await.map_err(|e| e.to_string())?.collect();
    let stream = first_of(&addresses, CONNECT, TcpStream::connect).await?;
    let _ = stream.set_nodelay(true);
    let _ = probe(&stream);
    let Some(tls) = &ready.tls else { return single(stream).await };
    let name = ready.tls_name.clone().unwrap_or(host);
    let name = ServerName::try_from(name).map_err(|e| e.to_string())?;
    let mut tls = tls.clone();
    Arc::make_mut(&mut tls).alpn_protocols = versions.iter().map(|version| version.to_vec()).collect();
    let stream = TlsConnector::from(tls).connect(name, stream).await.map_err(|e| e.to_string())?;
    match stream.get_ref().1.alpn_protocol() {
        Some(b"h2") => {
            let mut builder = http2::Builder::new(TokioExecutor::new());
            builder
                .timer(TokioTimer::new())
                .initial_stream_window_size(WINDOWS.0)
                .initial_connection_window_size(WINDOWS.1)
                .keep_alive_interval(PING.0)
                .keep_alive_timeout(PING.1)
                .keep_alive_while_idle(true);
            let (sender, connection) =
                builder.handshake(TokioIo::new(stream)).await.map_err(|e| chain(&e))?;
            // Its end is seen by whoever uses it.
            tokio::spawn(async move { drop(connection.await) });
            Ok(Line::Shared(sender))
        }
        _ => single(stream).await,
    }
}

/// Connects to the first of a name's addresses that answers: each has its share of the time that is left.
async fn first_of<T, A: Copy, F: Future<Output = io::Result<T>>>(
    addresses: &[A],
    limit: Duration,
    connect: impl Fn(A) -> F,
) -> Result<T, String> {
    let deadline = Instant::now() + limit;
    let mut problem = "its name has no address".to_owned();
    for (i, address) in addresses.iter().enumerate() {
        let left = deadline.saturating_duration_since(Instant::now());
        let share = left / u32::try_from(addresses.len() - i).unwrap_or(u32::MAX);
        match timeout(share, connect(*address)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => problem = error.to_string(),
            Err(_) => problem = format!("no connection in {:.1} s", share.as_secs_f32()),
        }
    }
    Err(problem)
}

async fn single(stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) -> Result<Line, String> {
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|e| chain(&e))?;
    tokio::spawn(async move { drop(connection.await) });
    Ok(Line::Single(sender))
}

fn request(
    ask: &Ask,
    server: &Uri,
    token: Option<&str>,
    line: &Line,
) -> Result<Request<Full<Bytes>>, Failure> {
    let base = server.path().trim_end_matches('/');
    let authority = server.authority().map_or("", |a| a.as_str());
    let scheme = server.scheme_str().unwrap_or("https");
    let uri = match line {
        Line::Shared(_) => format!("{scheme}://{authority}{base}{}", ask.path),
        Line::Single(_) => format!("{base}{}", ask.path),
    };
    let mut request = Request::builder().method(&ask.method).uri(uri).header(ACCEPT, ask.accept);
    request = request.header(USER_AGENT, concat!("weft/", env!("CARGO_PKG_VERSION")));
    if matches!(line, Line::Single(_)) {
        request = request.header(HOST, authority);
    }
    if !ask.content_type.is_empty() {
        request = request.header(CONTENT_TYPE, ask.content_type);
    }
    if let Some(token) = token {
        let mut value = HeaderValue::from_str(&format!("Bearer {token}"))
            .map_err(|_| Failure::Lost("the token holds what no header may hold".into()))?;
        value.set_sensitive(true);
        request = request.header(AUTHORIZATION, value);
    }
    request.body(Full::new(ask.body.clone())).map_err(|error| Failure::Garbled(error.to_string()))
}

/// An answer that is a `Status`, as the API server says no with (`k8s.io/apimachinery`, `metav1.Status`).
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Status {
    message: String,
    reason: String,
    code: u16,
    details: Option<Details>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Details {
    retry_after_seconds: u64,
}

impl Status {
    /// What it says, as if it had come instead of the answer.
    pub fn failure(self) -> Failure {
        let seconds = self.details.unwrap_or_default().retry_after_seconds;
        let retry_after = (seconds > 0).then(|| Duration::from_secs(seconds));
        let message = if self.message.is_empty() { self.reason } else { self.message };
        Failure::Refused { status: self.code, message: brief(&message), retry_after }
    }
}

/// The beginning of what a server says, as one line.
fn brief(text: &str) -> String {
    let words = text.trim().chars().map(|c| if c.is_control() { ' ' } else { c });
    let mut brief: String = words.take(SAID).collect();
    if text.trim().chars().nth(SAID).is_some() {
        brief.push('…');
    }
    brief
}

async fn refused(response: Response<Incoming>) -> Failure {
    const LIMIT: usize = 64 << 10;
    let status = response.status().as_u16();
    let header = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok());
    let retry_after = header.and_then(|text| text.trim().parse().ok()).map(Duration::from_secs);
    let body = timeout(CONNECT, Limited::new(response.into_body(), LIMIT).collect()).await;
    let bytes = body.ok().and_then(Result::ok).map(Collected::to_bytes).unwrap_or_default();
    let said = serde_json::from_slice::<Status>(&bytes).ok().map(|status| status.message);
    let message = match said.filter(|message| !message.is_empty()) {
        Some(message) => brief(&message),
        None => brief(&String::from_utf8_lossy(&bytes)),
    };
    Failure::Refused { status, message, retry_after }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_is_dead_does_not_keep_from_the_next() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let check = |addresses: &[&'static str], expected: Result<&str, &str>| {
            let connect = |address: &'static str| async move {
                match address {
                    "dead" => std::future::pending().await,
                    "closed" => Err(io::Error::from(io::ErrorKind::ConnectionRefused)),
                    live => Ok(live),
                }
            };
            let limit = Duration::from_millis(200);
            let found = runtime.block_on(async {
                timeout(Duration::from_secs(20), first_of(addresses, limit, connect)).await.unwrap()
            });
            assert_eq!(found, expected.map_err(str::to_owned), "{addresses:?}");
        };
        check(&["dead", "live"], Ok("live"));
        check(&["closed", "dead", "live", "other"], Ok("live"));
        check(&["dead", "closed"], Err("connection refused"));
        check(&[], Err("its name has no address"));
    }

    #[test]
    fn what_a_server_says_is_repeated_in_brief() {
        let status = Status { message: format!("no\u{1b}[2J\n{}", "x".repeat(9000)), ..Status::default() };
        let Failure::Refused { message, .. } = status.failure() else { panic!("no refusal") };
        assert!(message.starts_with("no [2J xxx") && message.chars().count() == SAID + 1, "{message}");
        assert_eq!(brief(" short\n"), "short");
    }
}
