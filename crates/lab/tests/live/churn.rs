//! Churn: endpoints come and go by the thousand while clients in a pod connect all the time. Nobody reaches an endpoint whose
//! removal was in force before, nothing is refused or silent, what is established stays, and in the end the kernel is as the
//! plan has it.
//!
//! An ordinary run makes a few thousand changes; with `WEFT_CHURN=100000` in the environment (`cargo xtask test --churn`) it is
//! a busy cluster's week in a minute.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use fastrand::Rng;
use nix::sched::{CloneFlags, setns};
use serde_json::{Value, json};
use weft_lab::Topology;
use weft_lab::sandbox::in_sandbox;
use weft_lab::serve::{self, Greeting};
use weft_lab::topology::INTERNET;

use super::objects::{TCP, UDP, cluster_ips, put, service, slice};
use super::rig::{Rig, Settings, is_in_force, wait};

/// How many changes, where the environment says nothing else.
const CHANGES: usize = 5000;
const ASKED: &str = "WEFT_CHURN";
/// Services, and places that each may have as endpoints: addresses of the host on the internet.
const SERVICES: u16 = 60;
const PLACES: usize = 24;
/// Services that change at once.
const AT_ONCE: usize = 50;
/// A port that swallows, for connections that last.
const SINK: u16 = 82;
/// So long the sender to an endpoint that has left may go on, on a busy machine.
const LASTS: Duration = Duration::from_secs(20);
/// The service that always has the first place among its endpoints, and the one that loses it at the first change for good.
const STAYS: u16 = 0;
const LEAVES: u16 = 1;
/// A service that is deleted, and the file with its slice.
const DELETED: u16 = 900;
const DELETED_FILE: &str = "63-deleted.yaml";
/// How long an answer may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(5);
/// Between two questions of a client: the agent shares the machine with them.
const PAUSE: Duration = Duration::from_millis(1);
/// After this a datagram is sent again, so often in all. What was on its way to an endpoint that leaves may be lost with it,
/// as with any service; but no flow stays lost.
const AGAIN: Duration = Duration::from_secs(1);
const TRIES: usize = 4;

#[test]
fn a_week_in_a_minute() {
    let _alone = super::alone();
    in_sandbox("churn::a_week_in_a_minute", || {
        let changes = std::env::var(ASKED).ok().and_then(|n| n.parse().ok()).unwrap_or(CHANGES);
        let mut rig =
            Rig::start("churn", Topology::one_link(3), Settings { overlay: "auto", shape: "island" });
        // Only the clients' node matters here.
        for node in ["n2", "n3"] {
            assert!(rig.agents.remove(node).expect("it runs").stop(), "{node} doesn't end");
        }
        churn(&rig, changes);
        for node in rig.lab.nodes().into_iter().filter(|node| node.name() != "n1") {
            rig.start_agent(&node);
            rig.wait_ready(node.name());
        }
        wait("kernels are as their plans have them", || rig.differences().is_empty());
        rig.stop();
    });
}

fn place(number: usize) -> IpAddr {
    Ipv4Addr::new(203, 0, 113, 100 + u8::try_from(number).expect("there are few")).into()
}

/// What of each service is gone for certain: no packet that is sent from now on may get there.
struct Gone(Mutex<Vec<[Option<Instant>; PLACES]>>);

impl Gone {
    /// Takes out what comes back, before anybody is told of it.
    fn returns(&self, service: u16, endpoints: &BTreeSet<usize>) {
        let mut gone = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        endpoints.iter().for_each(|at| gone[usize::from(service)][*at] = None);
    }

    /// Notes what is in nobody's rules any more.
    fn has_left(&self, service: u16, endpoints: &BTreeSet<usize>) {
        let mut gone = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for at in (0..PLACES).filter(|at| !endpoints.contains(at)) {
            gone[usize::from(service)][at].get_or_insert_with(Instant::now);
        }
    }

    /// Whether a packet that was sent `then` has reached what had left by then, and hasn't returned since.
    fn is_reached(&self, service: u16, by: IpAddr, then: Instant) -> bool {
        let gone = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        (0..PLACES)
            .any(|at| place(at) == by && gone[usize::from(service)][at].is_some_and(|left| left < then))
    }
}

/// What the clients share.
struct Watch {
    gone: Gone,
    done: AtomicBool,
    answers: AtomicUsize,
    /// Datagrams that had to be sent again.
    lost: AtomicUsize,
    /// Connections that last and are established.
    established: AtomicUsize,
    wrong: Mutex<Vec<String>>,
    /// What the node tracks, where its kernel shows that.
    tracked: PathBuf,
}

impl Watch {
    fn goes_on(&self) -> bool {
        !self.done.load(Ordering::Acquire)
    }

    /// Judges one answer.
    fn note(&self, what: &str, service: u16, sent: Instant, answer: std::io::Result<IpAddr>) {
        std::thread::sleep(PAUSE);
        let problem = match answer {
            Ok(by) if self.gone.is_reached(service, by, sent) => format!("reached {by}, which had left"),
            Ok(_) => {
                self.answers.fetch_add(1, Ordering::Relaxed);
                return;
            }
            Err(error) => format!("failed after {:?}: {error}", sent.elapsed()),
        };
        let mut wrong = self.wrong.lock().unwrap_or_else(PoisonError::into_inner);
        wrong.push(format!("{what} to service {service} {problem}"));
    }
}

/// Lets the clients go home, also where the churn fails.
struct End<'a>(&'a Watch);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.done.store(true, Ordering::Release);
    }
}

fn churn(rig: &Rig, changes: usize) {
    let host = rig.lab.machine(INTERNET).expect("it runs");
    let lines: String = (0..PLACES).map(|n| format!("address add {}/24 dev eth0\n", place(n))).collect();
    host.run_with_input("ip", &["-batch", "-"], &lines).expect("it takes addresses");
    let services: Vec<Value> = (0..SERVICES).map(|n| with_sink(service(&format!("churn-{n}"), n))).collect();
    put(rig, "60-churn.yaml", &services);
    let deleted = with_sink(service("deleted", DELETED));
    put(
        rig,
        DELETED_FILE,
        &[deleted, slice("deleted", "IPv4", &[json!({"addresses": [place(0)]})], &ports())],
    );
    let watch = Watch {
        gone: Gone(Mutex::new(vec![[None; PLACES]; usize::from(SERVICES)])),
        done: AtomicBool::new(false),
        answers: AtomicUsize::new(0),
        lost: AtomicUsize::new(0),
        established: AtomicUsize::new(0),
        wrong: Mutex::default(),
        tracked: format!("/proc/{}/net/nf_conntrack", rig.lab.machine("n1").expect("it runs").pid()).into(),
    };
    let mut churner = Churner { rig, watch: &watch, endpoints: Vec::new(), epoch: 0, random: Rng::new() };
    churner.begin();
    let begun = Instant::now();
    let made = std::thread::scope(|scope| {
        let in_pod = |work: fn(&Watch)| {
            let (netns, watch) = (netns(rig), &watch);
            scope.spawn(move || {
                setns(std::fs::File::open(netns).expect("it is there"), CloneFlags::CLONE_NEWNET)
                    .expect("it can be entered");
                work(watch);
            });
        };
        let works: [fn(&Watch); 7] = [
            connections,
            connections,
            datagrams,
            one_flow_each,
            one_that_stays,
            whose_endpoint_leaves,
            whose_service_is_deleted,
        ];
        works.into_iter().for_each(in_pod);
        let _end = End(&watch);
        wait("connections last", || watch.established.load(Ordering::Acquire) == 3);
        std::fs::remove_file(rig.folder().join(DELETED_FILE)).expect("the file can be removed");
        churner.make(changes)
    });
    let (answers, lost) = (watch.answers.into_inner(), watch.lost.into_inner());
    let wrong = watch.wrong.into_inner().unwrap_or_else(PoisonError::into_inner);
    println!(
        "churn: {made} changes in {:.1} s, {answers} answers, {lost} datagrams sent again, {} wrong",
        begun.elapsed().as_secs_f64(),
        wrong.len()
    );
    assert!(
        wrong.is_empty(),
        "{} of {}: {:#?}",
        wrong.len(),
        wrong.len() + answers,
        &wrong[..wrong.len().min(20)]
    );
    assert!(answers > made / 100, "the clients hardly asked");
    assert!(lost < 10 + answers / 1000, "{lost} datagrams of {answers} had to be sent again");
    assert_eq!(rig.differences(), Vec::<String>::new(), "after {made} changes");
}

fn with_sink(mut service: Value) -> Value {
    let port = json!({"name": "sink", "protocol": "TCP", "port": SINK, "targetPort": serve::SINK});
    service["spec"]["ports"].as_array_mut().expect("it has ports").push(port);
    service
}

/// Of each endpoint.
fn ports() -> Value {
    json!([
        {"name": "http", "protocol": "TCP", "port": serve::HTTP},
        {"name": "udp", "protocol": "UDP", "port": serve::UDP},
        {"name": "sink", "protocol": "TCP", "port": serve::SINK},
    ])
}

fn netns(rig: &Rig) -> PathBuf {
    match rig.pods["test/a1"].net() {
        weft_lab::Net::At(path) => rig.pods["test/a1"].machine().path(&path.to_string_lossy()),
        weft_lab::Net::Machine => unreachable!("a pod has a network of its own"),
    }
}

/// Who makes the changes.
struct Churner<'a> {
    rig: &'a Rig,
    watch: &'a Watch,
    endpoints: Vec<BTreeSet<usize>>,
    epoch: u16,
    random: Rng,
}

impl Churner<'_> {
    /// Gives every service all places, but for the two to whom connections last: these have the first alone.
    fn begin(&mut self) {
        self.endpoints = vec![(0..PLACES).collect(); usize::from(SERVICES)];
        for service in [STAYS, LEAVES] {
            self.endpoints[usize::from(service)] = [0].into();
        }
        for service in 0..SERVICES {
            self.write(service);
        }
        self.settle();
    }

    /// Makes at least so many changes; says how many.
    fn make(&mut self, changes: usize) -> usize {
        let mut made = 0;
        while made < changes {
            let mut changing = self.random.choose_multiple(0..SERVICES, AT_ONCE);
            if made == 0 && !changing.contains(&LEAVES) {
                changing.push(LEAVES);
            }
            for service in &changing {
                let mut endpoints: BTreeSet<usize> = (0..PLACES).filter(|_| self.random.bool()).collect();
                match *service {
                    STAYS => _ = endpoints.insert(0),
                    LEAVES => _ = endpoints.remove(&0),
                    _ => {}
                }
                if endpoints.is_empty() {
                    endpoints.insert(self.random.usize(1..PLACES));
                }
                let before = &mut self.endpoints[usize::from(*service)];
                made += before.symmetric_difference(&endpoints).count();
                *before = endpoints;
                self.watch.gone.returns(*service, before);
                self.write(*service);
            }
            self.settle();
            // Flows of datagrams are looked at ten times a second, and then they end. Who looks also compares: once it has answered
            // after that time, it has looked, however busy the machine is.
            std::thread::sleep(Duration::from_millis(150));
            self.rig.agents["n1"].differences().expect("the agent compares");
            for service in &changing {
                self.watch.gone.has_left(*service, &self.endpoints[usize::from(*service)]);
            }
        }
        made
    }

    fn write(&self, number: u16) {
        let endpoints: Vec<Value> =
            self.endpoints[usize::from(number)].iter().map(|at| json!({"addresses": [place(*at)]})).collect();
        let name = format!("churn-{number}");
        let slice = slice(&name, "IPv4", &endpoints, &ports());
        put(self.rig, &format!("61-churn-{number}.yaml"), &[slice]);
    }

    /// Waits until what was written is in force. A service that is written last shows it: without endpoints it refuses, and
    /// before that nobody answers at its address.
    fn settle(&mut self) {
        self.epoch += 1;
        let number = 1000 + self.epoch;
        put(self.rig, "62-mark.yaml", &[service("mark", number)]);
        let (node, agent) = (self.rig.lab.machine("n1").expect("it runs"), &self.rig.agents["n1"]);
        let refuses = || {
            let tried = TcpStream::connect_timeout(&to(number, TCP), Duration::from_millis(5));
            tried.is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionRefused)
        };
        wait("a change is known", || node.enter_net(refuses).expect("the node can be entered"));
        wait("a change is in force", || is_in_force(agent));
    }
}

fn to(service: u16, port: u16) -> SocketAddr {
    SocketAddr::new(cluster_ips(service)[0], port)
}

fn by(answer: &[u8]) -> std::io::Result<IpAddr> {
    let body = answer.windows(4).position(|w| w == b"\r\n\r\n").map_or(answer, |at| &answer[at + 4..]);
    let greeting: Greeting = serde_json::from_slice(body)?;
    Ok(greeting.server.ip())
}

/// A new connection after the other.
fn connections(watch: &Watch) {
    let connect = |service| -> std::io::Result<IpAddr> {
        let mut stream = TcpStream::connect_timeout(&to(service, TCP), PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(b"GET / HTTP/1.1\r\n\r\n")?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        by(&answer)
    };
    while watch.goes_on() {
        let (service, sent) = (fastrand::u16(..SERVICES), Instant::now());
        watch.note("a connection", service, sent, connect(service));
    }
}

fn socket() -> UdpSocket {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).expect("there is a port");
    socket.set_read_timeout(Some(AGAIN)).expect("it can be set");
    socket
}

impl Watch {
    /// An error, and what the node tracks of the flow.
    fn with_flow(&self, error: &std::io::Error, socket: &UdpSocket) -> std::io::Error {
        let tracked = std::fs::read_to_string(&self.tracked).unwrap_or_default();
        let port = socket.local_addr().map(|address| address.port()).unwrap_or_default();
        let own = |line: &&str| line.contains("udp") && line.contains(&format!("port={port} "));
        std::io::Error::other(format!(
            "{error}; tracked: {:?}",
            tracked.lines().filter(own).collect::<Vec<_>>()
        ))
    }

    /// Asks by datagram until there is an answer; judges that one.
    fn ask(&self, what: &str, socket: &UdpSocket, service: u16) {
        let once = || {
            let mut answer = [0; 512];
            socket.send_to(b"who are you", to(service, UDP))?;
            let length = socket.recv(&mut answer)?;
            by(&answer[..length])
        };
        let sent = Instant::now();
        let mut answer = once();
        for _ in 1..TRIES {
            match &answer {
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                _ => break,
            }
            self.lost.fetch_add(1, Ordering::Relaxed);
            answer = once();
        }
        let answer = answer.map_err(|error| self.with_flow(&error, socket));
        self.note(what, service, sent, answer);
    }
}

/// A datagram from a new port each time.
fn datagrams(watch: &Watch) {
    while watch.goes_on() {
        watch.ask("a datagram", &socket(), fastrand::u16(..SERVICES));
    }
}

/// Datagrams from one port to each service in turn: a flow that never pauses for long, and leaves with its endpoint.
fn one_flow_each(watch: &Watch) {
    let sockets: Vec<UdpSocket> = (0..SERVICES).map(|_| socket()).collect();
    for service in (0..SERVICES).cycle().take_while(|_| watch.goes_on()) {
        watch.ask("a flow", &sockets[usize::from(service)], service);
    }
}

/// Writes as long as it goes on; says how much.
fn write_on(watch: &Watch, stream: &mut TcpStream, goes_on: impl Fn() -> bool) -> std::io::Result<u64> {
    watch.established.fetch_add(1, Ordering::AcqRel);
    let mut written = 0_u64;
    while goes_on() {
        stream.write_all(b"still here")?;
        written += 10;
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(written)
}

/// One connection that stays whatever happens around it: its endpoint never leaves.
fn one_that_stays(watch: &Watch) {
    let begun = Instant::now();
    let stays = || -> std::io::Result<IpAddr> {
        let mut stream = TcpStream::connect_timeout(&to(STAYS, SINK), PATIENCE)?;
        let written = write_on(watch, &mut stream, || watch.goes_on())?;
        stream.shutdown(std::net::Shutdown::Write)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut total = [0; 8];
        stream.read_exact(&mut total)?;
        if u64::from_be_bytes(total) == written {
            return Ok(place(0));
        }
        Err(std::io::Error::other(format!("{} of {written} bytes arrived", u64::from_be_bytes(total))))
    };
    watch.note("the connection that stays", STAYS, begun, stays());
}

/// One whose endpoint leaves with the first change, and lives on.
fn whose_endpoint_leaves(watch: &Watch) {
    ends(watch, LEAVES, "the connection whose endpoint left");
}

fn whose_service_is_deleted(watch: &Watch) {
    ends(watch, DELETED, "the connection whose service was deleted");
}

/// A connection whose sender is told that it is over.
fn ends(watch: &Watch, service: u16, what: &str) {
    let begun = Instant::now();
    let ends = || -> std::io::Result<IpAddr> {
        let mut stream = TcpStream::connect_timeout(&to(service, SINK), PATIENCE)?;
        match write_on(watch, &mut stream, || begun.elapsed() < LASTS) {
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => Ok(place(0)),
            Err(error) => Err(error),
            Ok(written) => Err(std::io::Error::other(format!("it lasts, with {written} bytes written"))),
        }
    };
    // It has reached nobody in particular.
    watch.note(what, STAYS, begun, ends());
}
