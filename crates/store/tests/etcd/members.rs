//! A real etcd: members as processes on this machine's loopback, and a person's tools for its keys.

#![allow(dead_code)] // Each test program uses its part.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

/// How long etcd may take for anything.
const PATIENCE: Duration = Duration::from_secs(60);

/// How members are started.
#[derive(Debug, Clone, Default)]
pub struct Terms {
    /// Further arguments of every member.
    pub arguments: Vec<String>,
    /// Clients need TLS; then nothing here can talk to the members.
    pub is_tls: bool,
}

struct Member {
    client: u16,
    peer: u16,
    process: Option<Child>,
}

/// Members of one cluster.
pub struct Members {
    program: PathBuf,
    folder: tempfile::TempDir,
    terms: Terms,
    members: Vec<Member>,
}

/// The program, where there is one: in the folder that `WEFT_KUBERNETES_BIN` names, or where Debian puts it.
pub fn program() -> Option<PathBuf> {
    let named = std::env::var_os("WEFT_KUBERNETES_BIN").map(|folder| PathBuf::from(folder).join("etcd"));
    let usual = ["/usr/bin/etcd", "/usr/local/bin/etcd"].map(PathBuf::from);
    named.into_iter().chain(usual).find(|path| path.is_file())
}

fn free_port() -> u16 {
    TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port()
}

impl Members {
    /// Starts `count` members; without the program, it says so and returns nothing.
    pub fn start(count: usize, terms: &Terms) -> Option<Self> {
        let Some(program) = program() else {
            println!(
                "SKIPPED: no etcd: apt-get install etcd-server, or name a folder in WEFT_KUBERNETES_BIN"
            );
            return None;
        };
        // Another program may take a port that was free: then all begins anew.
        for _ in 0..5 {
            let member = |_| Member { client: free_port(), peer: free_port(), process: None };
            let mut members = Self {
                program: program.clone(),
                folder: tempfile::tempdir().unwrap(),
                terms: terms.clone(),
                members: (0..count).map(member).collect(),
            };
            (0..count).for_each(|i| members.begin(i));
            if members.wait_ready() {
                return Some(members);
            }
        }
        panic!("etcd doesn't start");
    }

    fn scheme(&self) -> &'static str {
        if self.terms.is_tls { "https" } else { "http" }
    }

    /// Starts a member; where it ran before, with the data that it had.
    pub fn begin(&mut self, i: usize) {
        let peers: Vec<String> = self
            .members
            .iter()
            .enumerate()
            .map(|(i, m)| format!("m{i}=http://127.0.0.1:{}", m.peer))
            .collect();
        let (client, peer) = (self.members[i].client, self.members[i].peer);
        let client = format!("{}://127.0.0.1:{client}", self.scheme());
        let peer = format!("http://127.0.0.1:{peer}");
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.folder.path().join(format!("m{i}.log")))
            .unwrap();
        let process = Command::new(&self.program)
            .args(["--name", &format!("m{i}"), "--initial-cluster", &peers.join(",")])
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .arg("--data-dir")
            .arg(self.folder.path().join(format!("m{i}")))
            .args(&self.terms.arguments)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.members[i].process = Some(process);
    }

    /// True when every member has a leader; false where one has ended.
    pub fn wait_ready(&mut self) -> bool {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            let has_ended = |m: &mut Member| {
                m.process.as_mut().is_none_or(|process| process.try_wait().unwrap().is_some())
            };
            if self.members.iter_mut().any(has_ended) {
                return false;
            }
            let is_ready = |i: usize| match self.terms.is_tls {
                true => TcpStream::connect(("127.0.0.1", self.members[i].client)).is_ok(),
                false => self.leader_as_seen_by(i).is_some(),
            };
            if (0..self.members.len()).all(is_ready) {
                return true;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        false
    }

    /// Addresses of all members.
    pub fn endpoints(&self) -> Vec<String> {
        self.members.iter().map(|m| format!("{}://127.0.0.1:{}", self.scheme(), m.client)).collect()
    }

    /// A member's port for clients.
    pub fn port(&self, i: usize) -> u16 {
        self.members[i].client
    }

    /// What members say in their logs.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    fn leader_as_seen_by(&self, i: usize) -> Option<String> {
        let status = ask(self.members[i].client, "/v3/maintenance/status", &json!({}), None)?;
        status.get("leader")?.as_str().map(str::to_owned)
    }

    /// The member that leads.
    pub fn leader(&self) -> usize {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            for (i, member) in self.members.iter().enumerate().filter(|(_, m)| m.process.is_some()) {
                let status =
                    ask(member.client, "/v3/maintenance/status", &json!({}), None).unwrap_or_default();
                let leader = status.get("leader");
                if leader.is_some() && leader == status.pointer("/header/member_id") {
                    return i;
                }
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!("no member leads");
    }

    fn signal(&self, i: usize, signal: Signal) {
        let process = self.members[i].process.as_ref().expect("the member runs");
        kill(Pid::from_raw(process.id().cast_signed()), signal).unwrap();
    }

    /// A member does nothing until it may go on; its connections stay.
    pub fn freeze(&self, i: usize) {
        self.signal(i, Signal::SIGSTOP);
    }

    /// It goes on.
    pub fn thaw(&self, i: usize) {
        self.signal(i, Signal::SIGCONT);
    }

    /// A member dies at once.
    pub fn kill(&mut self, i: usize) {
        if let Some(mut process) = self.members[i].process.take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }

    /// All that a member had is lost.
    pub fn wipe(&self, i: usize) {
        assert!(self.members[i].process.is_none(), "the member runs");
        std::fs::remove_dir_all(self.folder.path().join(format!("m{i}"))).unwrap();
    }

    /// A question to the first member that answers it.
    #[track_caller]
    pub fn ask(&self, path: &str, question: &Value) -> Value {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            for member in self.members.iter().filter(|m| m.process.is_some()) {
                if let Some(answer) = ask(member.client, path, question, None) {
                    return answer;
                }
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!("nobody answers {path} {question}");
    }

    /// A person writes a key.
    pub fn put(&self, key: &str, value: &str) {
        self.ask("/v3/kv/put", &json!({ "key": encode(key), "value": encode(value) }));
    }

    /// A person removes a key.
    pub fn delete(&self, key: &str) {
        self.ask("/v3/kv/deleterange", &json!({ "key": encode(key) }));
    }

    /// The lease that a key goes with, "0" for none; nothing where there is no such key.
    pub fn lease_of(&self, key: &str) -> Option<String> {
        let answer = self.ask("/v3/kv/range", &json!({ "key": encode(key) }));
        let found = answer.pointer("/kvs/0")?;
        Some(found.get("lease").and_then(Value::as_str).unwrap_or("0").to_owned())
    }

    /// How far one member has come; empty where it doesn't say.
    pub fn revision(&self, i: usize) -> String {
        let question = json!({ "key": encode("x"), "serializable": true });
        let answer = ask(self.port(i), "/v3/kv/range", &question, None).unwrap_or_default();
        answer.pointer("/header/revision").and_then(Value::as_str).unwrap_or_default().to_owned()
    }

    /// Forgets what was before the present revision.
    pub fn compact(&self) {
        let answer = self.ask("/v3/kv/range", &json!({ "key": encode("x") }));
        let revision = answer.pointer("/header/revision").expect("answers have a revision");
        self.ask("/v3/kv/compaction", &json!({ "revision": revision, "physical": true }));
    }
}

impl Drop for Members {
    fn drop(&mut self) {
        (0..self.members.len()).for_each(|i| self.kill(i));
    }
}

/// Base64, as JSON has bytes.
pub fn encode(text: &str) -> String {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.encode(text)
}

/// One question to one member; nothing where it doesn't answer with success.
pub fn ask(port: u16, path: &str, question: &Value, token: Option<&str>) -> Option<Value> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(3))).ok()?;
    let body = question.to_string();
    let token = token.map(|token| format!("Authorization: {token}\r\n")).unwrap_or_default();
    let length = body.len();
    write!(stream, "POST {path} HTTP/1.0\r\nHost: etcd\r\n{token}Content-Length: {length}\r\n\r\n{body}")
        .ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    head.split(' ').nth(1).filter(|status| *status == "200")?;
    serde_json::from_str(body.trim()).ok()
}
