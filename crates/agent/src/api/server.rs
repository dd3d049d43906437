//! The server: accepts, reads one request a connection, hands it to the handler, writes the answer.
//!
//! It has a thread of its own with a single-threaded runtime. What the handler can hand on is waited for there; all else runs on
//! a bounded pool beside it.

use std::convert::Infallible;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioTimer;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, oneshot};
use tokio::time::timeout;
use tracing::{debug, warn};
use weft_cni::{CniError, Code, wire};

use super::descriptors::{Arrived, DescriptorStream};
use super::exchange::{ApiRequest, ApiResponse, HandedOn, Handler};
use super::run_dir::RunDir;

/// What one client, and all together, may use.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Handlers at once.
    pub threads: usize,
    /// Connections at once; more wait to be accepted.
    pub connections: usize,
    /// Longest request body, in bytes.
    pub body: usize,
    /// How long a client may take to send the head, and then the body.
    pub sending: Duration,
    /// The deadline of a request that names none.
    pub deadline: Duration,
    /// The longest deadline that a client may ask for.
    pub longest_deadline: Duration,
    /// How long requests in work may go on when the server stops.
    pub farewell: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            threads: 64,
            connections: 256,
            body: 8 << 20,
            sending: Duration::from_secs(10),
            deadline: Duration::from_secs(30),
            longest_deadline: Duration::from_secs(600),
            farewell: Duration::from_secs(5),
        }
    }
}

/// Why the server can't start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The socket can't be made.
    #[error(
        "can't listen on {path}: {cause}; the run folder must be writable and its path short (100 bytes)"
    )]
    Listen {
        /// The socket's path.
        path: PathBuf,
        /// What the kernel says.
        cause: io::Error,
    },
    /// The thread or its runtime can't be made.
    #[error("can't start the API's thread: {0}; the machine may be out of threads or descriptors")]
    Thread(io::Error),
}

/// A running server; dropping it stops it.
#[derive(Debug)]
pub struct ApiServer {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
    socket: PathBuf,
}

impl ApiServer {
    /// Listens in the run folder. A socket that an earlier agent left is replaced in one step, so a client never
    /// finds none.
    ///
    /// # Errors
    /// [`StartError`]; then nothing runs.
    pub fn start(run_dir: &RunDir, limits: Limits, handler: Arc<dyn Handler>) -> Result<Self, StartError> {
        let socket = run_dir.socket();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(limits.threads)
            .thread_name("weft-api-call")
            .build()
            .map_err(StartError::Thread)?;
        let listener = {
            let _inside = runtime.enter();
            listen(&socket).map_err(|cause| StartError::Listen { path: socket.clone(), cause })?
        };
        let (stop, stopped) = oneshot::channel();
        let serve = move || {
            runtime.block_on(accept(listener, limits, handler, stopped));
            // What still runs is waited for no longer.
            runtime.shutdown_background();
        };
        let thread =
            thread::Builder::new().name("weft-api".into()).spawn(serve).map_err(StartError::Thread)?;
        Ok(Self { stop: Some(stop), thread: Some(thread), socket })
    }

    /// Where it listens.
    pub fn socket(&self) -> &std::path::Path {
        &self.socket
    }

    /// Takes no more requests, lets those in work finish within [`Limits::farewell`], and removes the socket.
    pub fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        let Some(stop) = self.stop.take() else { return };
        if let Err(error) = fs::remove_file(&self.socket) {
            warn!(path = %self.socket.display(), %error, "the API's socket can't be removed");
        }
        // A receiver that is gone has stopped already.
        let _ = stop.send(());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            warn!("the API's thread had panicked");
        }
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        self.end();
    }
}

/// Binds under another name, closes it to others, and only then puts it in place.
fn listen(socket: &std::path::Path) -> io::Result<UnixListener> {
    let unfinished = socket.with_extension("new");
    match fs::remove_file(&unfinished) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(&unfinished)?;
    fs::set_permissions(&unfinished, fs::Permissions::from_mode(0o600))?;
    fs::rename(&unfinished, socket)?;
    Ok(listener)
}

async fn accept(
    listener: UnixListener,
    limits: Limits,
    handler: Arc<dyn Handler>,
    mut stopped: oneshot::Receiver<()>,
) {
    let room = Arc::new(Semaphore::new(limits.connections));
    let all = u32::try_from(limits.connections).unwrap_or(u32::MAX);
    loop {
        let next = async {
            let permit = Arc::clone(&room).acquire_owned().await;
            (permit, listener.accept().await)
        };
        let (permit, accepted) = tokio::select! {
            next = next => next,
            _ = &mut stopped => break,
        };
        match accepted {
            Ok((stream, _)) if is_trusted(&stream) => {
                let handler = Arc::clone(&handler);
                tokio::spawn(async move {
                    converse(stream, limits, handler).await;
                    drop(permit);
                });
            }
            Ok((stream, _)) => {
                warn!(peer = ?stream.peer_cred().ok(), "a connection from another user was refused");
            }
            Err(error) => {
                // Out of descriptors, most likely: some will be free in a moment.
                warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
    drop(listener);
    if timeout(limits.farewell, room.acquire_many(all)).await.is_err() {
        warn!("requests were still in work when the API stopped");
    }
}

/// Root and our own user, by the kernel's word (SO_PEERCRED).
fn is_trusted(stream: &UnixStream) -> bool {
    let own = nix::unistd::geteuid().as_raw();
    stream.peer_cred().is_ok_and(|peer| peer.uid() == 0 || peer.uid() == own)
}

async fn converse(stream: UnixStream, limits: Limits, handler: Arc<dyn Handler>) {
    let arrived = Arrived::default();
    let io = DescriptorStream::new(stream, arrived.clone());
    let service = service_fn(move |request| {
        let (handler, fds) = (Arc::clone(&handler), arrived.take());
        async move {
            let response = match read_request(request, fds, limits).await {
                Ok(request) => dispatch(request, handler).await,
                Err(refusal) => refusal,
            };
            Ok::<_, Infallible>(to_http(response))
        }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.sending)
        // One request a connection: descriptors then have only one request to belong to.
        .keep_alive(false)
        .max_buf_size(64 << 10)
        .serve_connection(io, service);
    // Longer than any request may take; what is left then is a client that does not read its answer.
    let longest = limits.longest_deadline + 3 * limits.sending;
    match timeout(longest, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => debug!(%error, "a connection ended early"),
        Err(_) => warn!("a connection was cut: its client did not take the answer"),
    }
}

async fn read_request(
    request: hyper::Request<Incoming>,
    fds: Vec<std::os::fd::OwnedFd>,
    limits: Limits,
) -> Result<ApiRequest, ApiResponse> {
    let received = Instant::now();
    let (head, body) = request.into_parts();
    let refuse = |status, msg: String, mend: &str| {
        Err(ApiResponse::error_with(status, &CniError::new(Code::DECODING_FAILURE, msg, mend)))
    };
    let body = match timeout(limits.sending, Limited::new(body, limits.body).collect()).await {
        Ok(Ok(body)) => body.to_bytes().to_vec(),
        Ok(Err(error)) if error.is::<LengthLimitError>() => {
            return refuse(413, format!("the body is longer than {} bytes", limits.body), "send less");
        }
        Ok(Err(error)) => return refuse(400, format!("the body can't be read: {error}"), "send it again"),
        Err(_) => return refuse(408, "the body did not come in time".into(), "send it faster"),
    };
    let wanted = match head.headers.get(wire::DEADLINE_HEADER) {
        None => limits.deadline,
        Some(value) => match value.to_str().ok().and_then(|text| text.parse().ok()) {
            Some(ms) => Duration::from_millis(ms).min(limits.longest_deadline),
            None => {
                return refuse(400, format!("{} is {value:?}", wire::DEADLINE_HEADER), "send milliseconds");
            }
        },
    };
    Ok(ApiRequest {
        method: head.method.as_str().to_owned(),
        path: head.uri.path().to_owned(),
        query: head.uri.query().unwrap_or_default().to_owned(),
        body,
        fds,
        deadline: received + wanted,
    })
}

async fn dispatch(request: ApiRequest, handler: Arc<dyn Handler>) -> ApiResponse {
    // Each thread between the plugin and the core costs a wake-up, some 100 µs of a pod's start.
    let request = match handler.hand_on(request) {
        HandedOn::Answer(answer) => return answer.await,
        HandedOn::Not(request) => request,
    };
    let call = move || {
        // It may have waited for a thread until nobody listens any more: doing it now would surprise the client.
        if Instant::now() >= request.deadline {
            let msg = "the agent was too busy to begin in time";
            return ApiResponse::error(&CniError::new(Code::TRY_AGAIN_LATER, msg, "try again"));
        }
        handler.call(request)
    };
    tokio::task::spawn_blocking(call).await.unwrap_or_else(|error| {
        let mend = "this is a defect in the agent; its log has more";
        ApiResponse::error(&CniError::new(
            Code::DEFECT,
            format!("the agent broke on this request: {error}"),
            mend,
        ))
    })
}

fn to_http(response: ApiResponse) -> hyper::Response<Full<Bytes>> {
    let mut http = hyper::Response::new(Full::new(Bytes::from(response.body)));
    *http.status_mut() =
        hyper::StatusCode::from_u16(response.status).unwrap_or(hyper::StatusCode::INTERNAL_SERVER_ERROR);
    let content_type = hyper::header::HeaderValue::from_static(response.content_type);
    http.headers_mut().insert(hyper::header::CONTENT_TYPE, content_type);
    http
}
