//! A real etcd and kube-apiserver in the benchmark's own network namespace, filled with a made-up cluster.
//!
//! Objects are written straight into etcd, as JSON, before the API server starts: it reads them as what it has written
//! itself. What it serves of them is what it would serve of a cluster that has grown.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};

use super::api::{Api, TOKEN};
use super::objects::Cluster;

const ETCD: u16 = 2379;
const SERVER: u16 = 6443;

/// How long the server may take to read all that there is.
const PATIENCE: Duration = Duration::from_secs(300);

/// etcd's own limits of a transaction: operations, and bytes with room for base64.
const OPERATIONS: usize = 120;
const BYTES: usize = 700 << 10;

/// A program that ends with its owner.
pub struct Running(pub Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The end of a program's log.
pub fn last_words(log: &Path) -> String {
    let log = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(10)..].join("\n")
}

/// See the module.
pub struct Server {
    folder: PathBuf,
    /// In the order in which they end.
    running: Vec<Running>,
}

impl Server {
    /// Starts both, with the cluster in them.
    pub fn start(programs: &Path, cluster: Cluster) -> Result<Self> {
        let folder = std::env::temp_dir().join(format!("weft-bench-kubernetes-{}", std::process::id()));
        std::fs::create_dir(&folder).with_context(|| format!("can't make {}", folder.display()))?;
        let mut server = Self { folder, running: Vec::new() };
        let data = server.path("etcd").display().to_string();
        let url = format!("http://127.0.0.1:{ETCD}");
        server.spawn(
            programs,
            "etcd",
            &[
                format!("--data-dir={data}"),
                format!("--listen-client-urls={url}"),
                format!("--advertise-client-urls={url}"),
                "--quota-backend-bytes=8589934592".into(),
                "--unsafe-no-fsync".into(),
            ],
        )?;
        until("etcd", || TcpStream::connect(("127.0.0.1", ETCD)).map(drop).context("no etcd yet"))?;
        fill(cluster)?;
        server.start_api_server(programs)?;
        Ok(server)
    }

    fn start_api_server(&mut self, programs: &Path) -> Result<()> {
        let file = |name: &str| self.path(name).display().to_string();
        std::fs::write(self.path("tokens.csv"), format!("{TOKEN},admin,1,system:masters\n"))?;
        std::fs::write(self.path("token"), TOKEN)?;
        // The server makes itself a certificate before it looks for the keys.
        let key = file("certificates/apiserver.key");
        let arguments = [
            format!("--etcd-servers=http://127.0.0.1:{ETCD}"),
            "--service-cluster-ip-range=10.96.0.0/12".into(),
            format!("--cert-dir={}", file("certificates")),
            "--service-account-issuer=https://kubernetes.default.svc".into(),
            format!("--service-account-key-file={key}"),
            format!("--service-account-signing-key-file={key}"),
            format!("--token-auth-file={}", file("tokens.csv")),
            "--authorization-mode=RBAC".into(),
            "--bind-address=127.0.0.1".into(),
            "--advertise-address=127.0.0.1".into(),
            format!("--secure-port={SERVER}"),
        ];
        self.spawn(programs, "kube-apiserver", &arguments)?;
        let api = self.api();
        until("the API server", || api.ask("GET", "/readyz", "", &Value::Null))
            .with_context(|| format!("its last words: {}", last_words(&self.path("kube-apiserver.log"))))
    }

    fn spawn(&mut self, programs: &Path, program: &str, arguments: &[String]) -> Result<()> {
        let log = File::create(self.path(&format!("{program}.log"))).context("can't make a log")?;
        let mut command = Command::new(programs.join(program));
        command.args(arguments).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let child = command.spawn().with_context(|| format!("can't start {program}"))?;
        self.running.insert(0, Running(child));
        Ok(())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    pub fn api(&self) -> Api {
        Api { port: SERVER, ca: self.path("certificates/apiserver.crt") }
    }

    /// Where the benchmark keeps its files; gone with it.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    pub fn token_file(&self) -> PathBuf {
        self.path("token")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.running.clear();
        // What can't be removed lies in the folder for temporary files.
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn until(what: &str, attempt: impl Fn() -> Result<()>) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match attempt() {
            Ok(()) => return Ok(()),
            Err(error) if Instant::now() > deadline => {
                return Err(error.context(format!("{what} is not ready after {} s", PATIENCE.as_secs())));
            }
            Err(_) => std::thread::sleep(Duration::from_millis(200)),
        }
    }
}

/// Writes all objects into etcd, a transaction for as many as it takes.
fn fill(cluster: Cluster) -> Result<()> {
    let mut etcd = Etcd::connect()?;
    let (mut puts, mut bytes) = (Vec::new(), 0);
    for (key, object) in cluster.objects() {
        let text = object.to_string();
        bytes += text.len();
        let put = json!({ "key": BASE64_STANDARD.encode(key), "value": BASE64_STANDARD.encode(text) });
        puts.push(json!({ "requestPut": put }));
        if puts.len() == OPERATIONS || bytes > BYTES {
            etcd.commit(&std::mem::take(&mut puts))?;
            bytes = 0;
        }
    }
    etcd.commit(&puts)
}

/// A connection to etcd's own HTTP interface.
struct Etcd(BufReader<TcpStream>);

impl Etcd {
    fn connect() -> Result<Self> {
        let stream = TcpStream::connect(("127.0.0.1", ETCD)).context("can't reach etcd")?;
        stream.set_nodelay(true)?;
        Ok(Self(BufReader::new(stream)))
    }

    fn commit(&mut self, puts: &[Value]) -> Result<()> {
        if puts.is_empty() {
            return Ok(());
        }
        let body = json!({ "success": puts }).to_string();
        let head =
            format!("POST /v3/kv/txn HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {}\r\n\r\n", body.len());
        let stream = self.0.get_mut();
        stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body.as_bytes()))?;
        let (mut status, mut line, mut length) = (String::new(), String::new(), None);
        self.0.read_line(&mut status)?;
        loop {
            line.clear();
            self.0.read_line(&mut line)?;
            let Some((name, value)) = line.trim().split_once(": ") else { break };
            if name.eq_ignore_ascii_case("content-length") {
                length = value.parse::<usize>().ok();
            }
        }
        let answer = match length {
            Some(length) => {
                let mut answer = vec![0; length];
                self.0.read_exact(&mut answer)?;
                answer
            }
            None => self.read_chunks()?,
        };
        if !status.contains(" 200 ") {
            bail!("etcd refuses: {} {}", status.trim(), String::from_utf8_lossy(&answer));
        }
        Ok(())
    }

    fn read_chunks(&mut self) -> Result<Vec<u8>> {
        let mut answer = Vec::new();
        loop {
            let mut line = String::new();
            self.0.read_line(&mut line)?;
            let length = usize::from_str_radix(line.trim(), 16).context("etcd's answer has no length")?;
            let start = answer.len();
            answer.resize(start + length, 0);
            self.0.read_exact(&mut answer[start..])?;
            self.0.read_line(&mut String::new())?;
            if length == 0 {
                return Ok(answer);
            }
        }
    }
}
