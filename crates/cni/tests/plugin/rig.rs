//! What the tests stand on: a place for files, a fake agent, and a container's namespace.

use std::io::{IoSliceMut, Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use serde_json::{Value, json};
use weft_cni::Call;

/// The program: the one that `cargo xtask test` names, linked as people get it, or this package's own.
pub fn program() -> PathBuf {
    std::env::var_os("WEFT_PLUGIN").map_or_else(|| env!("CARGO_BIN_EXE_weft-cni").into(), PathBuf::from)
}

/// A folder with the socket and the state of one test.
pub struct Bench {
    dir: tempfile::TempDir,
}

/// How the plugin ended.
pub struct Run {
    pub exit: i32,
    pub stdout: String,
}

impl Run {
    pub fn error_code(&self) -> u64 {
        let shown: Value =
            serde_json::from_str(&self.stdout).unwrap_or_else(|e| panic!("{e} in {:?}", self.stdout));
        shown["code"].as_u64().unwrap()
    }
}

impl Bench {
    pub fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("weft.sock")
    }

    pub fn state_dir(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    /// A configuration for this bench with `extra` fields.
    pub fn config(&self, version: &str, extra: Value) -> Value {
        let mut config = json!({
            "cniVersion": version, "name": "weft", "type": "weft",
            "socket": self.socket(), "stateDir": self.state_dir(),
        });
        let Value::Object(extra) = extra else { panic!("an object of fields") };
        config.as_object_mut().unwrap().extend(extra);
        config
    }

    pub fn run(&self, command: &str, netns: &str, config: &Value) -> Run {
        self.run_raw(command, netns, config.to_string().as_bytes())
    }

    pub fn run_raw(&self, command: &str, netns: &str, stdin: &[u8]) -> Run {
        let mut child = Command::new(program())
            .env_clear()
            .envs([
                ("CNI_COMMAND", command),
                ("CNI_CONTAINERID", "abc-1"),
                ("CNI_IFNAME", "eth0"),
                ("CNI_NETNS", netns),
            ])
            .env("CNI_ARGS", "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-0")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        // The plugin may end before it has read everything.
        let _ = child.stdin.take().unwrap().write_all(stdin);
        let output = child.wait_with_output().unwrap();
        let stdout = String::from_utf8(output.stdout).unwrap();
        assert!(stdout.lines().count() <= 1, "one line of JSON or nothing: {stdout:?}");
        Run { exit: output.status.code().unwrap(), stdout }
    }
}

/// What the agent does once it has read a request.
#[derive(Clone)]
pub enum Act {
    /// Write these bytes and close.
    Bytes(Vec<u8>),
    /// Never answer.
    Silent,
}

impl Act {
    pub fn answer(status: u16, body: &[u8]) -> Self {
        let mut bytes = format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\n\r\n", body.len()).into_bytes();
        bytes.extend_from_slice(body);
        Act::Bytes(bytes)
    }
}

/// What the agent got.
pub struct Seen {
    pub head: String,
    pub call: Call,
    /// Inode numbers of the descriptors that came with it.
    pub descriptors: Vec<u64>,
}

impl Seen {
    pub fn deadline_ms(&self) -> u64 {
        let line = self.head.lines().find_map(|line| line.strip_prefix("weft-deadline-ms: "));
        line.unwrap().parse().unwrap()
    }
}

/// An agent that serves one request.
pub struct Agent {
    seen: mpsc::Receiver<Seen>,
    /// Dropped with the agent, which ends a silent one.
    _end: mpsc::Sender<()>,
}

impl Agent {
    pub fn start(bench: &Bench, act: Act) -> Self {
        let listener = UnixListener::bind(bench.socket()).unwrap();
        Self::serve(move || listener, act)
    }

    /// An agent that comes up only after a while.
    pub fn start_after(bench: &Bench, pause: Duration, act: Act) -> Self {
        let socket = bench.socket();
        let late = move || {
            thread::sleep(pause);
            UnixListener::bind(socket).unwrap()
        };
        Self::serve(late, act)
    }

    fn serve(listener: impl FnOnce() -> UnixListener + Send + 'static, act: Act) -> Self {
        let (tell, seen) = mpsc::channel();
        let (_end, ended) = mpsc::channel::<()>();
        thread::spawn(move || {
            let (mut stream, _) = listener().accept().unwrap();
            let seen = receive(&mut stream);
            match act {
                Act::Bytes(bytes) => stream.write_all(&bytes).unwrap(),
                // Until the test lets go of its agent.
                Act::Silent => drop(ended.recv()),
            }
            let _ = tell.send(seen);
        });
        Self { seen, _end }
    }

    pub fn seen(&self) -> Seen {
        self.seen.recv_timeout(Duration::from_secs(10)).expect("the agent was called")
    }
}

fn receive(stream: &mut UnixStream) -> Seen {
    let mut first = [0];
    let mut space = nix::cmsg_space!([RawFd; 8]);
    let mut part = [IoSliceMut::new(&mut first)];
    let message =
        recvmsg::<()>(stream.as_raw_fd(), &mut part, Some(&mut space), MsgFlags::MSG_CMSG_CLOEXEC).unwrap();
    let mut descriptors = Vec::new();
    for control in message.cmsgs().unwrap() {
        let ControlMessageOwned::ScmRights(fds) = control else { continue };
        descriptors
            .extend(fds.iter().map(|fd| std::fs::metadata(format!("/proc/self/fd/{fd}")).unwrap().ino()));
    }
    let mut bytes = first.to_vec();
    let mut chunk = [0; 4096];
    let head_end = loop {
        if let Some(at) = bytes.windows(4).position(|w| w == b"\r\n\r\n") {
            break at + 4;
        }
        let count = stream.read(&mut chunk).unwrap();
        bytes.extend_from_slice(&chunk[..count]);
    };
    let head = String::from_utf8(bytes[..head_end].to_vec()).unwrap();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
    let end = head_end + length.parse::<usize>().unwrap();
    while bytes.len() < end {
        let count = stream.read(&mut chunk).unwrap();
        bytes.extend_from_slice(&chunk[..count]);
    }
    Seen { call: Call::decode(&bytes[head_end..]).unwrap(), head, descriptors }
}

/// A process in a network namespace of its own.
pub struct Container {
    process: Child,
    netns: String,
}

impl Container {
    /// Starts one, as root or in a user namespace; says so loudly where neither is allowed.
    pub fn start() -> Option<Self> {
        for options in ["-n", "-Urn"] {
            let process =
                Command::new("unshare").args([options, "sleep", "600"]).stderr(Stdio::null()).spawn();
            let Ok(mut process) = process else { continue };
            let netns = format!("/proc/{}/ns/net", process.id());
            for _ in 0..200 {
                let (theirs, ours) = (inode(&netns), inode("/proc/self/ns/net"));
                if theirs.is_some() && theirs != ours {
                    return Some(Self { process, netns });
                }
                if process.try_wait().unwrap().is_some() {
                    break;
                }
                thread::sleep(Duration::from_millis(10));
            }
            let _ = process.kill();
            let _ = process.wait();
        }
        eprintln!("SKIPPED: network namespaces can't be made here (unshare -n and unshare -Urn both fail)");
        None
    }

    pub fn netns(&self) -> &str {
        &self.netns
    }

    pub fn inode(&self) -> u64 {
        inode(&self.netns).unwrap()
    }
}

fn inode(path: &str) -> Option<u64> {
    std::fs::metadata(path).ok().map(|metadata| metadata.ino())
}

impl Drop for Container {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
