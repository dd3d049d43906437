//! One connection to one member: TCP or TLS, HTTP/1.1 with JSON both ways.
//!
//! What always holds: nothing is waited for without end, but the next piece of a watch; no answer is read beyond [`LARGEST`].
//! Certificates are read anew for each connection, so that replaced files count without a restart; where they can't be used at the moment,
//! what stood in them before does.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::net::{TcpStream, lookup_host};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsConnector;

use crate::http::{Kept, Refused, chain, client_config, probe};
use crate::store::Notice;

/// Bytes above which an answer, or one piece of a watch, is not read.
pub(super) const LARGEST: usize = 64 << 20;
/// How much longer a whole answer may take than its next piece.
const WHOLE: u32 = 12;
/// Between attempts to connect to a name's addresses.
const HEAD_START: Duration = Duration::from_millis(250);
/// Addresses of a name that are tried.
const MOST_ADDRESSES: usize = 8;

/// Files of a connection with TLS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EtcdTls {
    /// Certificates of those who vouch for the servers, PEM.
    pub ca_file: PathBuf,
    /// Our certificate and its key, PEM, where the servers want one.
    pub own: Option<(PathBuf, PathBuf)>,
}

/// A member's address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Endpoint {
    /// As it was configured.
    pub text: String,
    host: String,
    port: u16,
    pub is_tls: bool,
}

impl Endpoint {
    /// `https://etcd-1.example:2379`, `http://192.0.2.1:2379`, `https://[2001:db8::1]:2379`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let bad = || format!("{text:?} is no endpoint; write https://HOST:PORT, or http:// without TLS");
        let uri: hyper::Uri = text.parse().map_err(|_| bad())?;
        let is_tls = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(bad()),
        };
        if !matches!(uri.path(), "" | "/") || uri.query().is_some() {
            return Err(bad());
        }
        if uri.authority().is_some_and(|authority| authority.as_str().contains('@')) {
            return Err("an endpoint takes no user; write username and passwordFile".to_owned());
        }
        let host = uri.host().filter(|host| !host.is_empty()).ok_or_else(bad)?;
        Ok(Self {
            text: text.trim_end_matches('/').to_owned(),
            host: host.trim_start_matches('[').trim_end_matches(']').to_owned(),
            port: uri.port_u16().unwrap_or(2379),
            is_tls,
        })
    }

    /// True where nothing that is sent there leaves the machine.
    pub fn is_loopback(&self) -> bool {
        let is_named = self.host.eq_ignore_ascii_case("localhost");
        is_named || self.host.parse::<IpAddr>().is_ok_and(|address| address.to_canonical().is_loopback())
    }
}

/// Why a member gave no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Broken {
    /// It can't be reached, or the connection ended.
    Lost(String),
    /// The answer is larger than [`LARGEST`].
    TooLarge,
}

impl Broken {
    fn lost(error: impl std::fmt::Display) -> Self {
        Self::Lost(error.to_string())
    }
}

/// An open connection.
#[derive(Debug)]
pub(super) struct Connection {
    sender: SendRequest<Full<Bytes>>,
    host: String,
    patience: Duration,
}

impl Connection {
    /// Connects; `patience` is for this, and for each piece of an answer later.
    pub async fn open(endpoint: &Endpoint, tls: Option<&Trust>, patience: Duration) -> Result<Self, Broken> {
        let connecting = timeout(patience, Self::connect(endpoint, tls));
        let sender = connecting.await.map_err(|_| silent(patience))??;
        Ok(Self { sender, host: format!("{}:{}", endpoint.host, endpoint.port), patience })
    }

    async fn connect(endpoint: &Endpoint, tls: Option<&Trust>) -> Result<SendRequest<Full<Bytes>>, Broken> {
        let addresses = lookup_host((endpoint.host.as_str(), endpoint.port)).await.map_err(Broken::lost)?;
        let tcp = first_of(addresses).await?;
        tcp.set_nodelay(true).map_err(Broken::lost)?;
        probe(&tcp).map_err(Broken::lost)?;
        let failed = |error: hyper::Error| Broken::lost(chain(&error));
        if !endpoint.is_tls {
            let (sender, connection) = handshake(TokioIo::new(tcp)).await.map_err(failed)?;
            tokio::spawn(connection);
            return Ok(sender);
        }
        let tls = tls.ok_or_else(|| Broken::lost("caFile is needed for https"))?;
        let name = ServerName::try_from(endpoint.host.clone()).map_err(Broken::lost)?;
        let config = tls.config().map_err(Broken::Lost)?;
        let stream = TlsConnector::from(config).connect(name, tcp).await.map_err(Broken::lost)?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await.map_err(failed)?;
        tokio::spawn(connection);
        Ok(sender)
    }

    /// True where another request can be sent.
    pub fn is_open(&self) -> bool {
        !self.sender.is_closed()
    }

    /// Sends a request, and waits until its answer begins.
    pub async fn begin(
        &mut self,
        path: &str,
        token: Option<&str>,
        body: Bytes,
    ) -> Result<Response<Incoming>, Broken> {
        let mut request = Request::post(path)
            .header("host", &self.host)
            .header("content-type", "application/json")
            // Let a member that has lost its leader say so, instead of falling silent.
            .header("grpc-metadata-hasleader", "true");
        if let Some(token) = token {
            request = request.header("authorization", token);
        }
        let request = request.body(Full::new(body)).map_err(Broken::lost)?;
        let answer = timeout(self.patience, self.sender.send_request(request)).await;
        answer.map_err(|_| silent(self.patience))?.map_err(|error| Broken::lost(chain(&error)))
    }

    /// Sends a request and reads the whole answer: its status and body.
    pub async fn exchange(
        &mut self,
        path: &str,
        token: Option<&str>,
        body: Bytes,
    ) -> Result<(u16, Vec<u8>), Broken> {
        let whole = self.patience * WHOLE;
        timeout(whole, self.read(path, token, body)).await.map_err(|_| silent(whole))?
    }

    async fn read(&mut self, path: &str, token: Option<&str>, body: Bytes) -> Result<(u16, Vec<u8>), Broken> {
        let answer = self.begin(path, token, body).await?;
        let status = answer.status().as_u16();
        let mut pieces = answer.into_body();
        let mut whole = Vec::new();
        loop {
            let next = timeout(self.patience, pieces.frame()).await.map_err(|_| silent(self.patience))?;
            let Some(frame) = next else { return Ok((status, whole)) };
            let frame = frame.map_err(|error| Broken::lost(chain(&error)))?;
            if let Some(data) = frame.data_ref() {
                if whole.len() + data.len() > LARGEST {
                    return Err(Broken::TooLarge);
                }
                whole.extend_from_slice(data);
            }
        }
    }
}

/// The first of these that takes a connection. Each gets a head start before the next one is tried as well (RFC 8305), so that
/// one that is dead doesn't hide the others.
async fn first_of(addresses: impl Iterator<Item = SocketAddr>) -> Result<TcpStream, Broken> {
    let mut attempts = JoinSet::new();
    let mut wait = Duration::ZERO;
    for address in addresses.take(MOST_ADDRESSES) {
        attempts.spawn(async move {
            sleep(wait).await;
            TcpStream::connect(address).await.map_err(|error| format!("{address}: {error}"))
        });
        wait += HEAD_START;
    }
    let mut failures = Vec::new();
    while let Some(attempt) = attempts.join_next().await {
        match attempt {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(reason)) => failures.push(reason),
            Err(error) => failures.push(error.to_string()),
        }
    }
    Err(Broken::Lost(if failures.is_empty() { "it has no address".to_owned() } else { failures.join(", ") }))
}

fn silent(patience: Duration) -> Broken {
    Broken::Lost(format!("no answer for {} s", patience.as_secs_f32()))
}

/// Whom to believe and as whom, as the files say it.
#[derive(Debug)]
pub(super) struct Trust {
    files: EtcdTls,
    kept: Kept<ClientConfig>,
}

impl Trust {
    pub fn of(files: EtcdTls) -> Self {
        Self { files, kept: Kept::nothing("certificates for etcd") }
    }

    /// What the next connection is made with.
    fn config(&self) -> Result<Arc<ClientConfig>, String> {
        // Certificate and key are two files, which are replaced one after the other.
        self.kept.or_last(self.files.client_config().or_else(|_| self.files.client_config()))
    }

    /// Reads again what couldn't be read.
    pub fn read_again(&self) {
        if self.kept.is_outdated() {
            // Whether it can be read stands in the notice.
            let _ = self.config();
        }
    }

    /// What is wrong with the files, as it is and as it changes.
    pub fn subscribe(&self) -> watch::Receiver<Notice> {
        self.kept.subscribe()
    }
}

impl EtcdTls {
    /// Reads the files.
    ///
    /// # Errors
    /// Names the field, the file and the mend.
    fn client_config(&self) -> Result<ClientConfig, String> {
        let roots = certificates("caFile", &self.ca_file)?;
        let identity = match &self.own {
            Some((certificate, key)) => {
                let own = certificates("certFile", certificate)?;
                let secret = PrivateKeyDer::from_pem_file(key).map_err(|e| {
                    format!("keyFile {}: {e}; it must hold a private key as PEM", key.display())
                })?;
                Some((own, secret))
            }
            None => None,
        };
        client_config(roots, identity).map_err(|refused| match (refused, &self.own) {
            (Refused::Root(e), _) => format!("caFile {}: {e}", self.ca_file.display()),
            (Refused::Identity(e), Some((certificate, key))) => {
                format!("certFile {} and keyFile {} don't fit: {e}", certificate.display(), key.display())
            }
            (other, _) => other.to_string(),
        })
    }
}

fn certificates(field: &str, path: &PathBuf) -> Result<Vec<CertificateDer<'static>>, String> {
    let bad = |e: String| format!("{field} {}: {e}; it must hold certificates as PEM", path.display());
    let read: Result<Vec<_>, _> =
        CertificateDer::pem_file_iter(path).map_err(|e| bad(e.to_string()))?.collect();
    let read = read.map_err(|e| bad(e.to_string()))?;
    if read.is_empty() { Err(bad("it holds no certificate".into())) } else { Ok(read) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_checked() {
        let check = |text: &str, expected: Option<(&str, u16, bool)>| {
            let found = Endpoint::parse(text).ok();
            let found = found.as_ref().map(|e| (e.host.as_str(), e.port, e.is_tls));
            assert_eq!(found, expected, "{text}");
        };
        check("https://etcd-1.example:2379", Some(("etcd-1.example", 2379, true)));
        check("http://192.0.2.1:12379/", Some(("192.0.2.1", 12379, false)));
        check("https://[2001:db8::1]", Some(("2001:db8::1", 2379, true)));
        check("192.0.2.1:2379", None);
        check("ftp://x", None);
        check("https://x/v3", None);
        check("https://weft:secret@x", None);
        check("", None);
    }

    #[test]
    fn an_address_that_takes_nothing_hides_no_other() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let socket = tokio::net::TcpSocket::new_v4().unwrap();
            socket.bind(([127, 0, 0, 1], 0).into()).unwrap();
            let full = socket.listen(1).unwrap();
            let dead = full.local_addr().unwrap();
            // Nobody accepts them: when the queue is full, the kernel drops all further attempts.
            let mut queue = Vec::new();
            while let Ok(stream) = timeout(Duration::from_millis(300), TcpStream::connect(dead)).await {
                queue.push(stream.unwrap());
            }
            let other = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let live = other.local_addr().unwrap();
            let found = timeout(Duration::from_secs(10), first_of([dead, live].into_iter())).await;
            assert_eq!(found.unwrap().unwrap().peer_addr().unwrap(), live);
            assert_eq!(first_of(std::iter::empty()).await.err(), Some(Broken::lost("it has no address")));
        });
    }
}
