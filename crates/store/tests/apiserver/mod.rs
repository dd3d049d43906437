//! A real kube-apiserver on a real etcd, for tests: both on this machine, in a temporary folder, ended with the test.
//!
//! The programs are those in the folder that `WEFT_KUBERNETES_BIN` names.

#![allow(dead_code, reason = "each test program uses its part")]

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use serde_json::{Value, json};

/// The variable that names the folder with `etcd` and `kube-apiserver`.
pub const PROGRAMS: &str = "WEFT_KUBERNETES_BIN";

/// A token that may do everything.
pub const ADMIN: &str = "admin-of-the-test";
/// A token of somebody who may do nothing, unless a test gives rights to `weft-test`.
pub const NOBODY: &str = "nobody-of-the-test";

/// The folder with the programs, or a loud line that says that `test` is skipped.
pub fn programs(test: &str) -> Option<PathBuf> {
    let folder = std::env::var_os(PROGRAMS).map(PathBuf::from);
    let folder = folder.filter(|f| f.join("etcd").exists() && f.join("kube-apiserver").exists());
    if folder.is_none() {
        println!(
            "SKIPPED: {test}: no kube-apiserver: `cargo xtask kubernetes` builds one for `cargo xtask test`, or name a folder in {PROGRAMS}"
        );
    }
    folder
}

/// A program that ends with its owner.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// See the module.
pub struct ApiServer {
    programs: PathBuf,
    folder: tempfile::TempDir,
    port: u16,
    etcd_ports: [u16; 2],
    etcd: Option<Running>,
    server: Option<Running>,
    /// Arguments of the server's, and who vouches for its certificate.
    terms: (Vec<String>, Option<PathBuf>),
}

impl ApiServer {
    /// Starts both, and waits until they serve.
    pub fn start(programs: &Path) -> Self {
        Self::start_with(programs, Vec::new(), None)
    }

    /// The same with more arguments for the server and, where it makes no certificate of its own, with the CA that vouches for it, beside
    /// which lie its `server.crt` and `server.key`.
    pub fn start_with(programs: &Path, arguments: Vec<String>, ca: Option<PathBuf>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut server = Self {
            programs: programs.to_owned(),
            folder,
            port: free_port(),
            etcd_ports: [free_port(), free_port()],
            etcd: None,
            server: None,
            terms: (arguments, ca),
        };
        server.write_tokens();
        server.start_etcd();
        server.start_server();
        server
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn spawn(&self, program: &str, args: &[String]) -> Running {
        let log = std::fs::File::create(self.path(&format!("{program}.log"))).unwrap();
        let mut command = Command::new(self.programs.join(program));
        command.args(args).stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        Running(command.spawn().unwrap())
    }

    fn write_tokens(&self) {
        let tokens = format!("{ADMIN},admin,1,system:masters\n{NOBODY},weft-test,2\n");
        std::fs::write(self.path("tokens.csv"), tokens).unwrap();
    }

    /// Starts etcd, with what it holds.
    pub fn start_etcd(&mut self) {
        let [client, peer] = self.etcd_ports.map(|port| format!("http://127.0.0.1:{port}"));
        let data = self.path("etcd").display().to_string();
        let args = [
            format!("--data-dir={data}"),
            format!("--listen-client-urls={client}"),
            format!("--advertise-client-urls={client}"),
            format!("--listen-peer-urls={peer}"),
            format!("--initial-advertise-peer-urls={peer}"),
            format!("--initial-cluster=default={peer}"),
            "--unsafe-no-fsync".into(),
        ];
        self.etcd = Some(self.spawn("etcd", &args));
    }

    /// Starts the API server, and waits until it serves.
    pub fn start_server(&mut self) {
        let file = |name: &str| self.path(name).display().to_string();
        let (public, key) = match &self.terms.1 {
            Some(ca) => (ca.with_file_name("server.crt"), ca.with_file_name("server.key")),
            None => {
                let key = self.path("certificates/apiserver.key");
                (key.clone(), key)
            }
        };
        let mut args = vec![
            format!("--etcd-servers=http://127.0.0.1:{}", self.etcd_ports[0]),
            "--service-cluster-ip-range=10.96.0.0/16".into(),
            format!("--cert-dir={}", file("certificates")),
            "--service-account-issuer=https://kubernetes.default.svc".into(),
            // The server makes itself a certificate, where it has none, before it looks for these.
            format!("--service-account-key-file={}", public.display()),
            format!("--service-account-signing-key-file={}", key.display()),
            format!("--token-auth-file={}", file("tokens.csv")),
            "--authorization-mode=RBAC".into(),
            "--bind-address=127.0.0.1".into(),
            "--advertise-address=127.0.0.1".into(),
            format!("--secure-port={}", self.port),
            "--disable-admission-plugins=ServiceAccount".into(),
        ];
        args.extend(self.terms.0.iter().cloned());
        self.server = Some(self.spawn("kube-apiserver", &args));
        let deadline = Instant::now() + Duration::from_secs(120);
        while !self.is_ready() {
            let state = self.server.as_mut().map(|server| server.0.try_wait());
            let runs = matches!(state, Some(Ok(None)));
            let log = std::fs::read_to_string(self.path("kube-apiserver.log")).unwrap_or_default();
            assert!(runs && Instant::now() < deadline, "the API server is not ready: {}", tail(&log));
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// Kills the API server.
    pub fn stop_server(&mut self) {
        self.server = None;
    }

    fn is_ready(&self) -> bool {
        matches!(self.try_ask("GET", "/readyz", "", None), Some((200, _)))
    }

    /// `https://127.0.0.1:PORT`.
    pub fn address(&self) -> String {
        format!("https://127.0.0.1:{}", self.port)
    }

    /// The file of the CA that signs its certificate.
    pub fn ca(&self) -> PathBuf {
        self.terms.1.clone().unwrap_or_else(|| self.path("certificates/apiserver.crt"))
    }

    /// A file with a token.
    pub fn token_file(&self, token: &str) -> PathBuf {
        let path = self.path(token);
        std::fs::write(&path, token).unwrap();
        path
    }

    /// Sends a request as somebody who may do everything.
    #[track_caller]
    pub fn ask(&self, method: &str, path: &str, body: Option<&Value>) -> Value {
        self.ask_as(method, path, "application/json", body)
    }

    /// The same with a form of the body.
    #[track_caller]
    pub fn ask_as(&self, method: &str, path: &str, content_type: &str, body: Option<&Value>) -> Value {
        match self.try_ask(method, path, content_type, body) {
            Some((200..300, answer)) => answer,
            other => panic!("{method} {path}: {other:?}"),
        }
    }

    /// The status and the answer; nothing where there is no connection. HTTP/1.0, so that the end is the connection's.
    pub fn try_ask(
        &self,
        method: &str,
        path: &str,
        content_type: &str,
        body: Option<&Value>,
    ) -> Option<(u16, Value)> {
        let mut stream = self.connect()?;
        let body = body.map(Value::to_string).unwrap_or_default();
        let head = format!(
            "{method} {path} HTTP/1.0\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {ADMIN}\r\n\
             Content-Type: {content_type}\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(head.as_bytes()).ok()?;
        let mut answer = Vec::new();
        // A server that closes without saying so in TLS's words has said all the same.
        let _ = stream.read_to_end(&mut answer);
        let text = String::from_utf8_lossy(&answer);
        let (head, body) = text.split_once("\r\n\r\n")?;
        let status = head.split(' ').nth(1)?.parse().ok()?;
        Some((status, serde_json::from_str(body).unwrap_or_else(|_| json!(body))))
    }

    fn connect(&self) -> Option<StreamOwned<ClientConnection, TcpStream>> {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_file_iter(self.ca()).ok()? {
            roots.add(certificate.ok()?).ok()?;
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let config = config.ok()?.with_root_certificates(roots).with_no_client_auth();
        let name = ServerName::try_from("127.0.0.1").ok()?;
        let connection = ClientConnection::new(Arc::new(config), name).ok()?;
        let socket = TcpStream::connect(("127.0.0.1", self.port)).ok()?;
        socket.set_read_timeout(Some(Duration::from_secs(20))).ok()?;
        Some(StreamOwned::new(connection, socket))
    }
}

/// A port that nobody has at the moment.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(15)..].join("\n")
}
