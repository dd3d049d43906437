//! Endpoints of a service come and go under a client that asks all the time: each answer comes from an endpoint, none is
//! missing, and what was taken out isn't asked again.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use weft_lab::matrix::Place;
use weft_lab::probe::{Outcome, Target, Transport};
use weft_lab::serve;

use super::rig::{Rig, wait};

const ADDRESS: &str = "10.43.0.50";
/// Port at the service, and the servers' own.
const PORTS: [(Transport, u16, u16); 2] =
    [(Transport::Http, 80, serve::HTTP), (Transport::Udp, 81, serve::UDP)];
/// The client, and the pods that are endpoints.
const CLIENT: &str = "test/a1";
const PODS: [&str; 3] = ["test/a2", "test/b1", "test/c1"];
/// Changes while the client asks, and the time between them.
const CHANGES: u32 = 500;
const PAUSE: Duration = Duration::from_millis(4);
/// Agents look for connections to what has left ten times a second at most. Until then a datagram from a port that was used before
/// goes where the earlier ones went.
const LOOKED: Duration = Duration::from_millis(500);

/// See the module.
pub fn endpoints_change(rig: &Rig) {
    let ports = PORTS
        .map(|(kind, port, target)| port_line(kind, port, &format!("port: {port}, targetPort: {target}")));
    rig.write_file(
        "60-service.yaml",
        &format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{namespace: test, name: moving}}\nspec:\n  clusterIP: {ADDRESS}\n  \
             ports: [{}]\n",
            ports.join(", ")
        ),
    );
    let places = rig.places();
    let client = places.iter().find(|place| place.name == CLIENT).expect("the client runs");
    settle(rig, client, &PODS);
    let done = AtomicBool::new(false);
    let (answers, wrong) = std::thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..CHANGES {
                let kept: Vec<&str> = PODS.into_iter().filter(|_| fastrand::bool()).collect();
                write_slice(rig, if kept.is_empty() { &PODS } else { &kept });
                std::thread::sleep(PAUSE);
            }
            done.store(true, Ordering::Release);
        });
        let (mut answers, mut wrong) = (0, Vec::new());
        while !done.load(Ordering::Acquire) {
            for (target, outcome) in ask(rig, client, 24) {
                match outcome.greeting() {
                    Some(greeting) if PODS.contains(&greeting.name.as_str()) => answers += 1,
                    _ => wrong.push(format!("{} {}: {outcome:?}", target.transport, target.address)),
                }
            }
        }
        (answers, wrong)
    });
    println!("services: {answers} answers in {CHANGES} changes, {} wrong", wrong.len());
    assert!(wrong.is_empty(), "{} of {} went wrong: {wrong:#?}", wrong.len(), wrong.len() + answers);
    for left in [&PODS[1..2], &PODS[..2]] {
        settle(rig, client, left);
    }
    // Nobody: told at once.
    write_slice(rig, &[]);
    let refused = |(_, outcome): &(Target, Outcome)| matches!(outcome, Outcome::Refused(_));
    wait("the empty service refuses", || ask(rig, client, 1).iter().all(refused));
    settle(rig, client, &PODS[2..]);
    assert_eq!(rig.differences(), Vec::<String>::new(), "after {CHANGES} changes");
    for file in ["60-service.yaml", "61-slice.yaml"] {
        std::fs::remove_file(rig.folder().join(file)).expect("the file can be removed");
    }
}

/// Makes these the endpoints, waits until all of them and no others answer, and looks closely.
fn settle(rig: &Rig, client: &Place, pods: &[&str]) {
    write_slice(rig, pods);
    let heard = || -> BTreeSet<String> {
        let name = |outcome: &Outcome| outcome.greeting().map_or("nobody".into(), |g| g.name.clone());
        ask(rig, client, 64).iter().map(|(_, outcome)| name(outcome)).collect()
    };
    let expected: BTreeSet<String> = pods.iter().map(ToString::to_string).collect();
    wait(&format!("{pods:?} answer, and nobody else"), || heard() == expected);
    std::thread::sleep(LOOKED);
    assert_eq!(heard(), expected, "what was taken out is asked again, or what is in isn't");
}

fn ask(rig: &Rig, client: &Place, times: usize) -> Vec<(Target, Outcome)> {
    let ip: IpAddr = ADDRESS.parse().expect("it is an address");
    let both = PORTS.map(|(kind, port, _)| Target::new(kind, SocketAddr::new(ip, port)));
    let targets: Vec<Target> = both.iter().cycle().take(2 * times).cloned().collect();
    let outcomes = client.probe(rig.lab.tool(), &targets).expect("the client can ask");
    targets.into_iter().zip(outcomes).collect()
}

/// A port in YAML: its name and protocol, then what the kind of object has besides.
fn port_line(kind: Transport, name: u16, rest: &str) -> String {
    let protocol = if kind == Transport::Http { "TCP" } else { "UDP" };
    format!("{{name: p{name}, protocol: {protocol}, {rest}}}")
}

/// Puts a new slice in place of the old one at once: an editor's half-written file is not what this is about.
fn write_slice(rig: &Rig, pods: &[&str]) {
    let address = |pod: &&str| {
        let found = rig.pods[*pod].addresses().iter().find(|ip| ip.is_ipv4());
        found.expect("pods have both families").to_string()
    };
    let endpoints: Vec<String> =
        pods.iter().map(|pod| format!("{{addresses: [{}]}}", address(pod))).collect();
    let ports = PORTS.map(|(kind, port, target)| port_line(kind, port, &format!("port: {target}")));
    let text = format!(
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  namespace: test\n  name: moving-1\n  \
         labels: {{kubernetes.io/service-name: moving}}\naddressType: IPv4\nendpoints: [{}]\nports: [{}]\n",
        endpoints.join(", "),
        ports.join(", ")
    );
    rig.write_file(".61-slice.new", &text);
    let (from, to) = (rig.folder().join(".61-slice.new"), rig.folder().join("61-slice.yaml"));
    std::fs::rename(from, to).expect("the file can be put in place");
}
