//! Health ports over real sockets, asked by the real `curl`, in a network namespace of their own.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant, SystemTime};

use nix::sched::{CloneFlags, unshare};
use weft_agent::health::{HealthNews, HealthServer, NodeHealth, Order, news};
use weft_model::{NodeName, ObjectKey, Port, Warning};
use weft_plan::{HealthKey, HealthRow, Listen};

/// How long anything may take to come about.
const PATIENCE: Duration = Duration::from_secs(20);

/// A namespace with a loopback for the calling thread and what it starts; false, and said so, where there can be none.
fn in_a_namespace() -> bool {
    if let Err(error) = unshare(CloneFlags::CLONE_NEWNET) {
        println!("SKIPPED: no network namespace can be made here ({error}); run as root");
        return false;
    }
    let up = Command::new("ip").args(["link", "set", "lo", "up"]).status();
    assert!(up.is_ok_and(|status| status.success()), "the loopback link can't be set up");
    true
}

/// A server, what tells it, and what it complains of.
struct Rig {
    server: HealthServer,
    news: HealthNews,
    complaints: Receiver<Vec<Warning>>,
}

fn port(number: u32) -> Port {
    Port::new(number).unwrap()
}

fn well() -> NodeHealth {
    NodeHealth { updated: Some((Instant::now(), SystemTime::now())), ..NodeHealth::default() }
}

impl Rig {
    fn start(own: Option<u32>) -> Self {
        let (news, ears) = news();
        news.node.send_replace(well());
        let (complain, complaints) = channel();
        let complain = Box::new(move |warnings| drop(complain.send(warnings)));
        let node = NodeName::new("n1").unwrap();
        let server = HealthServer::start(node, own.map(port), ears, complain).unwrap();
        Self { server, news, complaints }
    }

    fn serve(&self, number: u32, local_endpoints: u32, listen: Listen) {
        let service = ObjectKey::new("shop", "web").unwrap();
        let row = HealthRow { service, local_endpoints, listen };
        self.news.orders.send(Order::Serve(HealthKey { port: port(number) }, row)).unwrap();
    }

    fn close(&self, number: u32) {
        self.news.orders.send(Order::Close(HealthKey { port: port(number) })).unwrap();
    }
}

/// All that curl prints, head and body; empty where nobody answers.
fn curl(arguments: &[&str]) -> String {
    let output = Command::new("curl")
        .args(["--silent", "--include", "--noproxy", "*", "--max-time", "5"])
        .args(arguments)
        .output()
        .expect("curl can be run");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The status code of an answer; nothing where nobody answered.
fn status(answer: &str) -> Option<u16> {
    answer.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok()
}

/// Asks until the status is this one; `None` means that nobody answers any more.
#[track_caller]
fn until(url: &str, wanted: Option<u16>) -> String {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let answer = curl(&[url]);
        if status(&answer) == wanted {
            return answer;
        }
        assert!(Instant::now() < deadline, "{url} never said {wanted:?}: {answer}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_services_port_follows_the_plan() {
    if !in_a_namespace() {
        return;
    }
    let rig = Rig::start(None);
    rig.serve(31_000, 2, Listen::Everywhere);
    let answer = until("http://127.0.0.1:31000/any/path?at=all", Some(200)).to_lowercase();
    let lines = [
        "content-type: application/json",
        "x-content-type-options: nosniff",
        "x-load-balancing-endpoint-weight: 2",
    ];
    assert!(lines.iter().all(|line| answer.contains(line)), "{answer}");
    let body =
        r#"{"localendpoints":2,"service":{"name":"web","namespace":"shop"},"serviceproxyhealthy":true}"#;
    assert!(answer.ends_with(body), "{answer}");
    until("http://[::1]:31000/", Some(200));
    rig.serve(31_000, 0, Listen::Everywhere);
    let answer = until("http://127.0.0.1:31000/", Some(503)).to_lowercase();
    assert!(answer.contains("x-load-balancing-endpoint-weight: 0"), "{answer}");
    // A node that isn't well says so for all its services.
    rig.serve(31_000, 1, Listen::Everywhere);
    until("http://127.0.0.1:31000/", Some(200));
    rig.news.node.send_replace(NodeHealth { refused: true, ..well() });
    assert!(until("http://127.0.0.1:31000/", Some(503)).ends_with("\"serviceProxyHealthy\":false}"));
    rig.close(31_000);
    until("http://127.0.0.1:31000/", None);
}

#[test]
fn a_port_is_answered_at_its_addresses_only() {
    if !in_a_namespace() {
        return;
    }
    let rig = Rig::start(None);
    let at = |text: &str| Listen::At([text.parse().unwrap()].into());
    rig.serve(31_000, 1, at("127.0.0.2"));
    until("http://127.0.0.2:31000/", Some(200));
    assert_eq!(curl(&["http://127.0.0.1:31000/"]), "");
    rig.serve(31_000, 1, at("127.0.0.1"));
    until("http://127.0.0.1:31000/", Some(200));
    until("http://127.0.0.2:31000/", None);
}

#[test]
fn the_node_says_how_it_does() {
    if !in_a_namespace() {
        return;
    }
    let rig = Rig::start(Some(10_256));
    assert!(until("http://127.0.0.1:10256/healthz", Some(200)).contains("\"nodeEligible\":true"));
    until("http://[::1]:10256/livez", Some(200));
    until("http://127.0.0.1:10256/", Some(404));
    rig.news.node.send_replace(NodeHealth { leaving: true, ..well() });
    assert!(until("http://127.0.0.1:10256/healthz", Some(503)).contains("\"nodeEligible\":false"));
    until("http://127.0.0.1:10256/livez", Some(200));
    rig.news.node.send_replace(NodeHealth { refused: true, ..well() });
    assert!(until("http://127.0.0.1:10256/healthz", Some(503)).contains("\"nodeEligible\":true"));
    // Another agent would meet the same refusal.
    until("http://127.0.0.1:10256/livez", Some(200));
    let long_ago = Instant::now().checked_sub(Duration::from_secs(61));
    rig.news.node.send_replace(NodeHealth { heard: long_ago, ..well() });
    until("http://127.0.0.1:10256/livez", Some(503));
}

#[test]
fn a_port_that_is_taken_is_named_and_tried_again() {
    if !in_a_namespace() {
        return;
    }
    let rig = Rig::start(None);
    let taken = TcpListener::bind("127.0.0.1:31000").unwrap();
    rig.serve(31_000, 1, Listen::At(["127.0.0.1".parse().unwrap()].into()));
    let complaints = rig.complaints.recv_timeout(PATIENCE).unwrap();
    let texts: Vec<String> = complaints.iter().map(ToString::to_string).collect();
    let wanted = "service shop/web: its health is not answered at 127.0.0.1:31000: Address already in use";
    assert!(texts.len() == 1 && texts[0].starts_with(wanted), "{texts:?}");
    drop(taken);
    until("http://127.0.0.1:31000/", Some(200));
    assert_eq!(rig.complaints.recv_timeout(PATIENCE).unwrap(), []);
}

#[test]
fn another_agent_takes_over() {
    if !in_a_namespace() {
        return;
    }
    let old = Rig::start(Some(10_256));
    old.serve(31_000, 1, Listen::Everywhere);
    until("http://127.0.0.1:31000/", Some(200));
    let new = Rig::start(Some(10_256));
    new.serve(31_000, 0, Listen::Everywhere);
    // Either of them may have the next connection.
    until("http://127.0.0.1:31000/", Some(503));
    drop(old.server);
    for _ in 0..20 {
        assert_eq!(status(&curl(&["http://127.0.0.1:31000/"])), Some(503));
    }
    until("http://127.0.0.1:10256/healthz", Some(200));
    drop(new.server);
    assert_eq!(curl(&["http://127.0.0.1:31000/"]), "");
}

#[test]
fn clients_that_misbehave_keep_nobody_else_out() {
    if !in_a_namespace() {
        return;
    }
    let rig = Rig::start(None);
    rig.serve(31_000, 1, Listen::Everywhere);
    rig.serve(31_001, 1, Listen::Everywhere);
    until("http://127.0.0.1:31000/", Some(200));
    let connect = || {
        let stream = TcpStream::connect("127.0.0.1:31000").unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    };
    // What isn't HTTP, and a head without an end, are answered with an error or not at all, and the connection ends.
    let endless = [b"GET /".as_slice(), &[b'a'; 1 << 16]].concat();
    for nonsense in [b"\0\xff\x16\x03\x01\r\n\r\n".to_vec(), endless] {
        let mut stream = connect();
        let _ = stream.write_all(&nonsense);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        assert!(!answer.starts_with(b"HTTP/1.1 200"));
    }
    // Another method is answered alike.
    assert_eq!(status(&curl(&["--data", "x=y", "http://127.0.0.1:31000/"])), Some(200));
    // Those who say nothing take the room of their port, and of no other; and not for long.
    let began = Instant::now();
    let silent: Vec<TcpStream> = (0..80).map(|_| connect()).collect();
    until("http://127.0.0.1:31001/", Some(200));
    let turned_away = curl(&["http://127.0.0.1:31000/"]);
    // Unless this machine was so slow that the first of them have been cut off already.
    assert!(began.elapsed() > Duration::from_secs(4) || turned_away.is_empty(), "{turned_away}");
    until("http://127.0.0.1:31000/", Some(200));
    drop(silent);
}
