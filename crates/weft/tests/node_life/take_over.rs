//! One agent takes over from another: nothing goes unanswered, and the kernel has one writer at a time.

use std::net::UdpSocket;
use std::process::{Child, Command};
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::node::{Node, sh};
use crate::restart::{difference, eventually, kernel};

const SERVER: &str = "169.254.53.53:53";
/// How long an answer may take: far longer than any, and far shorter than a gap between two agents.
const PATIENCE: Duration = Duration::from_millis(500);

/// A question for `dns-version.cluster.local TXT`, as in RFC 1035, 4.1.
fn question(id: u16) -> Vec<u8> {
    let mut bytes = id.to_be_bytes().to_vec();
    bytes.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in ["dns-version", "cluster", "local"] {
        bytes.push(label.len() as u8);
        bytes.extend(label.as_bytes());
    }
    bytes.extend([0, 0, 16, 0, 1]);
    bytes
}

/// Asks once, from a port of its own. `Err` says what was wrong.
fn ask(id: u16) -> Result<(), String> {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.connect(SERVER).unwrap();
    let mut answer = [0; 512];
    let length = socket
        .send(&question(id))
        .and_then(|_| socket.recv(&mut answer))
        .map_err(|e| format!("question {id}: {e}"))?;
    match (answer[3] & 0xf, u16::from_be_bytes([answer[6], answer[7]])) {
        (0, 1) if length > 12 => Ok(()),
        (code, records) => Err(format!("question {id}: response code {code}, {records} records")),
    }
}

fn next_agent(node: &Node) -> Child {
    let program = env!("CARGO_BIN_EXE_weft");
    let config = node.path("agent.yaml");
    let child = Command::new(program)
        .args(["agent", "--take-over", "--config"])
        .arg(&config)
        .env("WEFT_LOG", std::env::var("WEFT_LOG").unwrap_or_else(|_| "warn".into()))
        .spawn();
    let waits = || {
        let words = ["status", "--or-waiting", "--run-dir", "/run/weft"];
        let out = Command::new(program).args(words).output().unwrap();
        out.status.success() && String::from_utf8_lossy(&out.stdout).contains("waits to take over")
    };
    eventually("the next agent waits", waits);
    child.unwrap()
}

/// The process in a process namespace of its own that `unshare` has started.
fn first_child(of: &Child) -> Option<Pid> {
    let children = format!("/proc/{0}/task/{0}/children", of.id());
    Some(Pid::from_raw(std::fs::read_to_string(children).ok()?.trim().parse().ok()?))
}

/// In a container an agent is process 1, to which the kernel delivers no signal that it hasn't asked for.
#[test]
fn an_agent_that_waits_as_process_1_ends_when_it_is_told() {
    let Some(mut node) = Node::new() else { return };
    node.start(None);
    let program = env!("CARGO_BIN_EXE_weft");
    let mut outer = Command::new("unshare")
        .args(["--pid", "--fork", program, "agent", "--take-over", "--config"])
        .arg(node.path("agent.yaml"))
        .spawn()
        .unwrap();
    let probe = |word: &str| {
        let words = ["status", word, "--run-dir", "/run/weft"];
        let out = Command::new(program).args(words).output().unwrap();
        (out.status.code(), String::from_utf8_lossy(&out.stdout).trim().to_owned())
    };
    eventually("the next agent waits", || probe("--alive").1 == "an agent waits to take over");
    let waiting = first_child(&outer).expect("unshare has a child");
    kill(waiting, Signal::SIGTERM).unwrap();
    eventually("nobody waits any more", || probe("--or-waiting").1 != "an agent waits to take over");
    assert!(outer.wait().unwrap().success());
    // The one that was there has noticed nothing.
    assert_eq!(probe("--alive"), (Some(0), "the agent works".into()));
    assert_eq!(probe("--or-waiting").0, Some(0));
}

#[test]
fn another_agent_takes_over_and_every_question_is_answered() {
    let Some(mut node) = Node::new() else { return };
    let text = std::fs::read_to_string(node.path("agent.yaml")).unwrap();
    let mut config: serde_json::Value = serde_json::from_str(&text).unwrap();
    config["dns"] = serde_json::json!({"linkLocal": ["169.254.53.53"]});
    std::fs::write(node.path("agent.yaml"), config.to_string()).unwrap();
    node.start(None);
    node.add("pod").unwrap();
    eventually("the first answer", || ask(0).is_ok());
    let before = kernel();
    let (over, asked) = (AtomicBool::new(false), AtomicU16::new(0));
    let wrong = std::thread::scope(|scope| {
        let asking = scope.spawn(|| {
            let mut wrong = Vec::new();
            while !over.load(Ordering::SeqCst) {
                wrong.extend(ask(asked.fetch_add(1, Ordering::SeqCst)).err());
                std::thread::sleep(Duration::from_millis(2));
            }
            wrong
        });
        for _ in 0..3 {
            let next = next_agent(&node);
            let mut old = node.replace_agent(next).unwrap();
            kill(Pid::from_raw(old.id().cast_signed()), Signal::SIGTERM).unwrap();
            assert!(old.wait().unwrap().success());
            eventually("the next agent is ready", || {
                node.status().is_some_and(|status| status["ready"] == true)
            });
            let before = asked.load(Ordering::SeqCst);
            eventually("some questions to it alone", || asked.load(Ordering::SeqCst) > before + 20);
        }
        over.store(true, Ordering::SeqCst);
        asking.join().unwrap()
    });
    assert_eq!(wrong, [""; 0], "of {asked:?} questions");
    assert_eq!(difference(&before, &kernel()), [""; 0], "taking over changes nothing");
    // One that dies is followed as well.
    let next = next_agent(&node);
    let mut dead = node.replace_agent(next).unwrap();
    dead.kill().unwrap();
    dead.wait().unwrap();
    eventually("the next agent is ready", || node.status().is_some_and(|status| status["ready"] == true));
    node.del("pod").unwrap();
    node.settles_with(0, "after four agents");
    sh("ip netns del pod");
}
