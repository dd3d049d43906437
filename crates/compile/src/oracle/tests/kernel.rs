//! The oracle beside the kernel: random tables of chains, sets and maps, loaded by `nft` into a namespace of their own, and real
//! datagrams from outside, from a pod and from the node through them. Who got which datagram, and with which addresses, must be
//! what the oracle said.
//!
//! Each namespace is one thread's; all of them vanish with the test.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::io::Write;
use std::net::{IpAddr, UdpSocket};
use std::process::{Command, Stdio};
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

use nix::sched::{CloneFlags, unshare};
use nix::sys::socket::{setsockopt, sockopt};
use nix::unistd::{geteuid, gettid};
use proptest::test_runner::{Config, TestCaseError, TestError, TestRunner};
use weft_model::Protocol;
use weft_plan::kernel::KernelKey;
use weft_plan::{KernelRow, text};

use super::rows::{Made, end_of, from_node, from_outside, from_pod, ip, node};
use super::tables::{Table, memories, table};
use crate::oracle::{Fixed, Headers, Outcome, Packet, Receiver, Session, Start, Transport, World};

type Job = Box<dyn FnOnce() + Send>;

/// A network namespace, by the thread that lives in it.
struct Namespace {
    jobs: Sender<Job>,
    thread: i32,
}

impl Namespace {
    /// `None` where this process may not make one.
    fn new() -> Option<Self> {
        let (jobs, queue) = channel::<Job>();
        let (ready, made) = channel();
        std::thread::spawn(move || {
            let thread = unshare(CloneFlags::CLONE_NEWNET).ok().map(|()| gettid().as_raw());
            if ready.send(thread).is_ok() && thread.is_some() {
                queue.into_iter().for_each(|job| job());
            }
        });
        Some(Self { jobs, thread: made.recv().ok()?? })
    }

    fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> T {
        let (done, result) = channel();
        self.jobs.send(Box::new(move || done.send(job()).unwrap())).unwrap();
        result.recv().unwrap()
    }

    /// Runs a program inside with this standard input; its output, or what went wrong.
    fn command(&self, program: &'static str, arguments: &str, input: String) -> Result<String, String> {
        let arguments: Vec<String> = arguments.split_whitespace().map(str::to_owned).collect();
        self.run(move || {
            let mut child = Command::new(program)
                .args(&arguments)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .map_err(|error| format!("{program}: {error}"))?;
            child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
            let output = child.wait_with_output().unwrap();
            let errors = String::from_utf8_lossy(&output.stderr).into_owned();
            if output.status.success() {
                Ok(String::from_utf8_lossy(&output.stdout).into_owned())
            } else {
                Err(format!("{program} {}: {errors}\n{input}", arguments.join(" ")))
            }
        })
    }

    fn must(&self, program: &'static str, arguments: &str, input: &str) -> String {
        self.command(program, arguments, input.to_owned()).unwrap()
    }
}

/// MAC of both ends of the wire to the outside and to the pod, on the node's side and on the other.
const NEAR: &str = "02:00:00:00:00:01";
const FAR: &str = "02:00:00:00:00:02";

/// A node with one pod and one neighbour outside.
struct Lab {
    node: Namespace,
    pod: Namespace,
    outside: Namespace,
}

impl Lab {
    fn new() -> Option<Self> {
        let lab = Self { node: Namespace::new()?, pod: Namespace::new()?, outside: Namespace::new()? };
        let (pod, outside, end) = (lab.pod.thread, lab.outside.thread, end_of("a"));
        let batch = format!(
            "link set lo up
            link add eth0 address {NEAR} type veth peer name eth0 address {FAR} netns {outside}
            link add {end} address {NEAR} type veth peer name eth0 address {FAR} netns {pod}
            addr add 192.0.2.1/24 dev eth0
            link set eth0 up
            link set {end} up
            neigh add 192.0.2.9 lladdr {FAR} dev eth0 nud permanent
            neigh add 10.0.0.2 lladdr {FAR} dev {end} nud permanent
            route add 10.0.0.2 dev {end} src 192.0.2.1
            route add default via 192.0.2.9"
        );
        lab.node.must("ip", "-batch -", &batch);
        // Connections are forgotten at once: a port that a masquerade has chosen must not be in somebody's way.
        let settings = format!(
            "net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.eth0.rp_filter=0 net.ipv4.conf.{end}.rp_filter=0 \
             net.ipv4.conf.{end}.accept_local=1 net.ipv4.conf.{end}.route_localnet=1 net.ipv4.ip_forward=1 net.netfilter.nf_conntrack_udp_timeout=0"
        );
        lab.node.must("sysctl", &format!("-qw {settings}"), "");
        let far = |address: &str, gateway: &str| {
            format!(
                "link set lo up
                addr add {address} dev eth0
                link set eth0 up
                route replace {gateway} dev eth0
                neigh add {gateway} lladdr {NEAR} dev eth0 nud permanent
                route add default via {gateway}"
            )
        };
        lab.pod.must("ip", "-batch -", &far("10.0.0.2/32", "169.254.1.1"));
        lab.outside.must("ip", "-batch -", &far("192.0.2.9/24", "192.0.2.1"));
        let watch = |hook: &str| {
            format!(
                "table inet watch {{
                    set seen {{ type dscp . ipv4_addr . ipv4_addr . inet_service . inet_service; flags dynamic; size 65535; }}
                    chain watch {{
                        type filter hook {hook} priority 500; policy accept;
                        meta l4proto udp add @seen {{ ip dscp . ip saddr . ip daddr . udp sport . udp dport }}
                    }}
                }}"
            )
        };
        lab.node.must("nft", "-f -", &watch("input"));
        lab.pod.must("nft", "-f -", &watch("input"));
        lab.outside.must("nft", "-f -", &watch("prerouting"));
        Some(lab)
    }

    /// Datagrams seen since the last call, by the number that they carry as DSCP.
    fn seen(&self, namespace: &Namespace) -> Vec<(u8, Headers)> {
        let listing = namespace.must("nft", "-n list set inet watch seen", "");
        let elements = listing.split_once("elements = {").map_or("", |(_, rest)| rest);
        elements
            .split([',', '}'])
            .filter(|element| element.contains(" . "))
            .map(|element| {
                let parts: Vec<&str> = element.trim().split(" . ").collect();
                let number = |at: usize| parts[at].split(' ').next().unwrap().parse::<u16>().unwrap();
                let headers = Headers {
                    source: ip(parts[1]),
                    destination: ip(parts[2]),
                    transport: Transport::Ports(Protocol::Udp),
                    sport: number(3),
                    dport: number(4),
                };
                let label = parts[0].trim_start_matches("0x");
                (u8::from_str_radix(label, 16).unwrap(), headers)
            })
            .collect()
    }

    /// Forgets what was seen so far.
    fn forget(&self) {
        for namespace in [&self.node, &self.pod, &self.outside] {
            namespace.must("nft", "flush set inet watch seen", "");
        }
    }

    /// Loads the table in place of the last one.
    fn load(&self, made: &Made) -> Result<(), String> {
        let mut script = String::from("table inet weft\ndelete table inet weft\ntable inet weft {\n");
        let mut elements = String::new();
        for (key, entry) in made.plan.kernel.sorted() {
            let line = text::kernel_row(key, &entry.value);
            match (key, &entry.value) {
                (KernelKey::Set(_) | KernelKey::Chain(_), KernelRow::Set(_) | KernelRow::Chain(_)) => {
                    // A set on one line wants a semicolon before its brace; "none of these bits" is `!`, and `!=`
                    // would compare the whole field.
                    let line = line.replace("\" }", "\"; }").replace("ct state !=", "ct state !");
                    script.push_str(&line.replace("ct status !=", "ct status !"));
                    script.push('\n');
                }
                (KernelKey::Element(..), _) => {
                    let line = line.strip_prefix("element ").unwrap();
                    elements.push_str(&format!("add element inet weft {line}\n"));
                }
                _ => {}
            }
        }
        script.push_str("}\n");
        script.push_str(&elements);
        self.node.command("nft", "-f -", script).map(|_| ())
    }

    /// Sends a datagram with this number as DSCP. An error is a verdict of the output hook.
    fn send(&self, start: &Start, headers: Headers, number: u8) {
        let namespace = match start {
            Start::Pod { .. } => &self.pod,
            Start::Node { .. } => &self.node,
            Start::Outside { .. } => &self.outside,
        };
        namespace.run(move || {
            let socket = UdpSocket::bind((headers.source, headers.sport)).unwrap();
            setsockopt(&socket, sockopt::Ipv4Tos, &(i32::from(number) << 2)).unwrap();
            let _refused = socket.send_to(b"datagram", (headers.destination, headers.dport));
        });
    }
}

/// Who is asked to say what they saw.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    Node,
    Pod,
    Outside,
}

fn predicted(outcome: &Outcome) -> Option<(Place, Headers)> {
    match outcome {
        Outcome::Delivered { to, seen } => Some((
            match to {
                Receiver::Node { .. } => Place::Node,
                Receiver::Pod { .. } => Place::Pod,
                Receiver::Outside { .. } => Place::Outside,
            },
            *seen,
        )),
        _ => None,
    }
}

/// Where datagrams are sent from, and to where.
fn ways() -> Vec<(Start, IpAddr, &'static str)> {
    let (outside, pod, node) = (from_outside("n1"), from_pod("n1", "a"), from_node("n1"));
    [
        (&outside, "192.0.2.9", "192.0.2.1"),
        (&outside, "192.0.2.9", "10.0.0.2"),
        (&pod, "10.0.0.2", "192.0.2.1"),
        (&pod, "10.0.0.2", "192.0.2.9"),
        (&pod, "10.0.0.2", "203.0.113.5"),
        (&node, "192.0.2.1", "10.0.0.2"),
        (&node, "192.0.2.1", "192.0.2.9"),
        (&node, "192.0.2.1", "192.0.2.1"),
        (&node, "127.0.0.1", "127.0.0.1"),
    ]
    .map(|(start, from, to)| (start.clone(), ip(from), to))
    .to_vec()
}

fn made(table: &Table) -> Made {
    let made = node("n1").own("eth0", "192.0.2.1/24").pod("a", "10.0.0.2");
    table.clone().into_iter().fold(made, |made, (key, row)| made.with(key, row))
}

/// One table: loads it, sends every datagram, and compares.
fn check(lab: &Lab, table: &Table, next_port: &Cell<u16>) -> Result<(), String> {
    let made = made(table);
    assert_eq!(made.plan.check(), Vec::<String>::new());
    lab.load(&made)?;
    lab.forget();
    let world = World::new([made.view()]);
    let mut session = Session::new(&world);
    let mut sent = BTreeMap::new();
    for (start, source, destination) in ways() {
        for dport in [53, 80] {
            let number = sent.len() as u8 + 1;
            next_port.set(next_port.get() + 1);
            let packet =
                Packet { sport: next_port.get(), ..Packet::to(Protocol::Udp, ip(destination), dport) };
            let trace = session.trace(&start, packet.from(source), &mut Fixed(0));
            lab.send(&start, trace.sent.unwrap(), number);
            sent.insert(number, trace);
        }
    }
    let expected: BTreeMap<_, _> =
        sent.iter().filter_map(|(number, trace)| Some((*number, predicted(&trace.outcome)?))).collect();
    let mut seen = BTreeMap::new();
    // A datagram that is on its way gets the time it needs; one that must not come gets no more than a little.
    for wait in [3, 20, 200].map(Duration::from_millis) {
        std::thread::sleep(wait);
        seen.clear();
        for (place, namespace) in
            [(Place::Node, &lab.node), (Place::Pod, &lab.pod), (Place::Outside, &lab.outside)]
        {
            for (number, headers) in lab.seen(namespace) {
                if let Some(first) = seen.insert(number, (place, headers)) {
                    return Err(format!(
                        "datagram {number} arrived twice: {first:?} and {place:?} {headers}"
                    ));
                }
            }
        }
        if expected.keys().all(|number| seen.contains_key(number)) {
            break;
        }
    }
    for (number, trace) in sent {
        // The kernel chooses a translated source's port at random; the oracle keeps the old one.
        let masqueraded = trace.hops.iter().any(|hop| hop.text.contains("fully-random"));
        let blur = |(place, headers): (Place, Headers)| {
            (place, Headers { sport: if masqueraded { 0 } else { headers.sport }, ..headers })
        };
        let (oracle, kernel) = (predicted(&trace.outcome).map(blur), seen.get(&number).copied().map(blur));
        if oracle != kernel {
            return Err(format!("the oracle says:\n{trace}\nthe kernel: {kernel:?}\nwith\n{}", made.plan));
        }
    }
    Ok(())
}

/// Says so past the harness, which would swallow a passing test's output.
fn skipped(why: &str) {
    writeln!(std::io::stderr(), "SKIPPED: the kernel beside the oracle: {why}").unwrap();
}

#[test]
fn the_kernel_agrees_with_random_tables() {
    let tool = |name: &str| Command::new(name).arg("-V").output().is_ok();
    if !geteuid().is_root() || !["nft", "ip", "sysctl"].into_iter().all(tool) {
        return skipped("it takes root and nft, ip, sysctl: apt-get install nftables iproute2 procps");
    }
    let Some(lab) = Lab::new() else {
        return skipped("this process may not make network namespaces");
    };
    let next_port = Cell::new(20_000);
    check(&lab, &memories(), &next_port).unwrap();
    let mut runner = TestRunner::new(Config {
        cases: 60,
        max_shrink_iters: 300,
        failure_persistence: None,
        ..Config::default()
    });
    let result = runner.run(&table(), |table| check(&lab, &table, &next_port).map_err(TestCaseError::fail));
    if let Err(TestError::Fail(why, _)) = result {
        panic!("{why}");
    }
}
