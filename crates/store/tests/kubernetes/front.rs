//! TLS and HTTP/2 before the fake, as a real server has them: it shows a certificate, wants to see the client's, and renews whom it trusts.
//! Where it is told to, it speaks HTTP/1.1 besides, as a kube-apiserver does, with those who ask for nothing else.
//!
//! As a kube-apiserver does, it looks at a request's certificate again however old the connection is: one of before a renewal is refused
//! with 401.

use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Bytes, Frame, Incoming};
use hyper::client::conn::http1::handshake;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper::{Request, Response, Version};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio_rustls::TlsAcceptor;

type Answer = Result<Response<BoxBody<Bytes, hyper::Error>>, hyper::Error>;

/// Which versions of HTTP a front speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Speaks {
    Http2,
    /// HTTP/1.1 as well, with those who ask for nothing else.
    Either,
    /// It says so, and hangs up at once.
    EitherBadly,
    /// Over HTTP/1.1 it has this to say, whatever is asked.
    Saying(u16, &'static str),
    /// Over HTTP/1.1 it begins to answer, and says nothing.
    Halting,
}

impl Speaks {
    fn versions(self) -> Vec<Vec<u8>> {
        match self {
            Speaks::Http2 => vec![b"h2".to_vec()],
            _ => vec![b"h2".to_vec(), b"http/1.1".to_vec()],
        }
    }
}

/// What is shown to whom, how often that was renewed, and what was asked over which version.
struct Terms {
    config: Arc<ServerConfig>,
    renewals: u32,
    speaks: Speaks,
    asked: Vec<(Version, String)>,
    /// Connections by HTTP/1.1 that are open.
    singles: usize,
}

/// See the module. It ends when it is dropped.
pub struct Front {
    address: SocketAddr,
    terms: Arc<Mutex<Terms>>,
    _runtime: Runtime,
}

impl Front {
    /// Begins before the server at `behind`, with `server.crt`, `server.key` and `ca.crt` of the folder.
    pub fn before(behind: SocketAddr, folder: &Path, speaks: Speaks) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let config = config(folder, speaks);
        let terms = Terms { config, renewals: 0, speaks, asked: Vec::new(), singles: 0 };
        let terms = Arc::new(Mutex::new(terms));
        let shared = terms.clone();
        runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, shared.clone(), behind));
            }
        });
        Self { address, terms, _runtime: runtime }
    }

    /// `https://127.0.0.1:PORT`.
    pub fn address(&self) -> String {
        format!("https://{}", self.address)
    }

    /// From now on it is as this folder says, and nobody's connection of before counts.
    pub fn renew(&self, folder: &Path) {
        let mut terms = self.terms.lock().unwrap();
        terms.config = config(folder, terms.speaks);
        terms.renewals += 1;
    }

    /// What was asked, and over which version of HTTP.
    pub fn asked(&self) -> Vec<(Version, String)> {
        self.terms.lock().unwrap().asked.clone()
    }

    /// Connections by HTTP/1.1 that are open.
    pub fn singles(&self) -> usize {
        self.terms.lock().unwrap().singles
    }
}

fn config(folder: &Path, speaks: Speaks) -> Arc<ServerConfig> {
    let certificates = |name: &str| -> Vec<CertificateDer<'static>> {
        let read = CertificateDer::pem_file_iter(folder.join(name)).unwrap();
        read.collect::<Result<_, _>>().unwrap()
    };
    let mut roots = RootCertStore::empty();
    certificates("ca.crt").into_iter().for_each(|root| roots.add(root).unwrap());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let clients =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build().unwrap();
    let key = PrivateKeyDer::from_pem_file(folder.join("server.key")).unwrap();
    let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder = builder.unwrap().with_client_cert_verifier(clients);
    let mut config = builder.with_single_cert(certificates("server.crt"), key).unwrap();
    config.alpn_protocols = speaks.versions();
    Arc::new(config)
}

async fn serve(stream: TcpStream, terms: Arc<Mutex<Terms>>, behind: SocketAddr) {
    let (config, made, speaks) = {
        let terms = terms.lock().unwrap();
        (terms.config.clone(), terms.renewals, terms.speaks)
    };
    // Whom it doesn't trust gets no further.
    let Ok(stream) = TlsAcceptor::from(config).accept(stream).await else { return };
    let is_shared = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    let known = terms.clone();
    let answer = service_fn(move |request: Request<Incoming>| {
        let is_known = {
            let mut terms = known.lock().unwrap();
            terms.asked.push((request.version(), request.uri().to_string()));
            terms.renewals == made
        };
        async move {
            match speaks {
                Speaks::Saying(status, text) if !is_shared => Ok(answer_with(status, text)),
                Speaks::Halting if !is_shared => Ok(Response::new(Silence.boxed())),
                _ if is_known => forward(request, behind).await,
                _ => Ok(answer_with(401, "{\"kind\":\"Status\",\"code\":401,\"message\":\"Unauthorized\"}")),
            }
        }
    });
    let stream = TokioIo::new(stream);
    // A client that has gone away is no failure.
    if is_shared {
        drop(http2::Builder::new(TokioExecutor::new()).serve_connection(stream, answer).await);
    } else if speaks != Speaks::EitherBadly {
        terms.lock().unwrap().singles += 1;
        drop(http1::Builder::new().serve_connection(stream, answer).await);
        terms.lock().unwrap().singles -= 1;
    }
}

/// A body that never comes.
struct Silence;

impl Body for Silence {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        Poll::Pending
    }
}

fn answer_with(status: u16, text: &'static str) -> Response<BoxBody<Bytes, hyper::Error>> {
    let body = Full::new(Bytes::from_static(text.as_bytes()));
    let mut response = Response::new(body.map_err(|never| match never {}).boxed());
    *response.status_mut() = hyper::StatusCode::from_u16(status).unwrap();
    response
}

async fn forward(request: Request<Incoming>, behind: SocketAddr) -> Answer {
    let (head, body) = request.into_parts();
    let body = body.collect().await?.to_bytes();
    let target = head.uri.path_and_query().map_or("/", |target| target.as_str());
    let asked = Request::builder().method(head.method).uri(target).header("content-length", body.len());
    let stream = TcpStream::connect(behind).await.unwrap();
    let (mut sender, connection) = handshake(TokioIo::new(stream)).await?;
    tokio::spawn(async move { drop(connection.await) });
    let answer = sender.send_request(asked.body(Full::new(body)).unwrap()).await?;
    let (head, body) = answer.into_parts();
    let mut response = Response::new(body.boxed());
    *response.status_mut() = head.status;
    Ok(response)
}
