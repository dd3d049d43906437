//! What somebody outside sees of island pods: the node's address and a port that nobody can guess, or, where the network lists them
//! as `noMasquerade`, the pods themselves.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use nix::sched::{CloneFlags, setns};
use weft_lab::matrix::{Expected, Place, Standing, both};
use weft_lab::probe::Target;
use weft_lab::serve::{self, Greeting};
use weft_lab::topology::INTERNET;

use crate::rig::{Rig, Settings, is_in_force, wait};

/// The blocks of the host on the internet, and not the client's.
const LISTED: [&str; 2] = ["203.0.113.0/24", "2001:db8:ffff::/64"];
/// Connections of each kind to each address.
const CONNECTIONS: usize = 10;
const PATIENCE: Option<Duration> = Some(Duration::from_secs(5));

/// While no router outside knows the way to pods, nobody there reaches one; island pods reach everybody, and are seen
/// with their node's address.
pub fn an_island_that_nobody_outside_knows(rig: &Rig) {
    let places = rig.places();
    let pods: Vec<&Place> = places.iter().filter(|p| p.netns.is_some()).collect();
    let outside: Vec<&Place> = places.iter().filter(|p| p.standing == Standing::Outside).collect();
    let targets = |of: &[&Place], patience_ms| -> Vec<Target> {
        let addresses = of.iter().flat_map(|p| p.addresses.iter().copied());
        addresses.flat_map(both).map(|target| Target { patience_ms, ..target }).collect()
    };
    for stranger in &outside {
        let outcomes = stranger.probe(rig.lab.tool(), &targets(&pods, 500)).expect("the probe runs");
        assert!(outcomes.iter().all(|o| o.greeting().is_none()), "{} → pods: {outcomes:?}", stranger.name);
    }
    let targets = targets(&outside, 2000);
    for pod in pods {
        let node = rig.lab.topology().machine(pod.machine.name()).expect("it is in the topology");
        let outcomes = pod.probe(rig.lab.tool(), &targets).expect("the probe runs");
        for (target, outcome) in targets.iter().zip(outcomes) {
            let seen = outcome.greeting().map(|greeting| greeting.client.ip());
            assert_eq!(
                seen,
                node.address_like(target.address.ip()),
                "{} → {target:?}: {outcome:?}",
                pod.name
            );
        }
    }
}

/// The network lists a block outside, and then no more: who is in it sees pods' own addresses, who isn't sees the node's. The
/// router has to know the way to pods.
pub fn a_list_sees_pods_themselves(rig: &Rig, island: Settings) {
    for listed in [LISTED.as_slice(), &[]] {
        rig.write_file("00-cluster.yaml", &format!("{}  noMasquerade: {listed:?}\n", island.manifest()));
        wait(&format!("every node has noMasquerade {listed:?} in force"), || {
            rig.agents.values().all(|agent| {
                let plan = agent.plan().expect("the agent has a plan");
                let rows = plan.iter().filter(|row| row.starts_with("element no_masquerade"));
                rows.count() == listed.len() && is_in_force(agent)
            })
        });
        let places = rig.places();
        for pod in places.iter().filter(|place| place.netns.is_some()) {
            seen_by_all_outside(rig, pod, &places, if listed.is_empty() { None } else { Some(INTERNET) });
        }
        assert_eq!(rig.differences(), Vec::<String>::new(), "noMasquerade {listed:?}");
    }
}

/// A pod asks everybody outside: `direct` sees the pod's own address, everybody else its node's, and the oracle knows.
fn seen_by_all_outside(rig: &Rig, pod: &Place, places: &[Place], direct: Option<&str>) {
    let node = rig.lab.topology().machine(pod.machine.name()).expect("it is in the topology");
    for host in places.iter().filter(|place| place.standing == Standing::Outside) {
        let targets: Vec<Target> = host.addresses.iter().flat_map(|ip| both(*ip)).collect();
        let packets: Vec<_> = targets.iter().map(|target| pod.packet(target)).collect();
        let oracle = &rig.agents[pod.machine.name()];
        let predictions = oracle.predict(&packets).expect("the oracle answers");
        let outcomes = pod.probe(rig.lab.tool(), &targets).expect("the probe runs");
        for ((target, prediction), outcome) in targets.iter().zip(predictions).zip(outcomes) {
            let what = format!("{} → {} {}", pod.name, target.transport, target.address);
            let to = target.address.ip();
            let own = pod.addresses.iter().copied().find(|ip| ip.is_ipv4() == to.is_ipv4());
            let expected = if direct == Some(host.name.as_str()) { own } else { node.address_like(to) };
            let seen = outcome.greeting().map(|greeting| greeting.client.ip());
            assert_eq!(seen, expected, "{what}: {outcome:?}");
            let foreseen = Expected::of(&prediction, target.transport, |_| Some(host.name.clone()));
            assert_eq!(foreseen.objection(&outcome), None, "{what}:\n{}", prediction.text);
        }
    }
}

/// Masqueraded connections don't keep their source ports: who knows one can't guess the next, and two pods don't race for one.
pub fn source_ports_are_drawn(rig: &Rig) {
    let places = rig.places();
    let place = |name: &str| places.iter().find(|place| place.name == name).expect("it is a place");
    let pod = place("test/a1");
    let path = pod.netns.as_ref().expect("a pod has a network of its own");
    let netns = File::open(pod.machine.path(&path.to_string_lossy())).expect("it is there");
    let ports = std::thread::scope(|scope| {
        let connect = || -> Vec<[u16; 2]> {
            setns(netns, CloneFlags::CLONE_NEWNET).expect("it can be entered");
            let addresses = place(INTERNET).addresses.iter();
            let ways = addresses.flat_map(|ip| {
                [(serve::HTTP, tcp_ports as Ask), (serve::UDP, udp_ports as Ask)]
                    .map(|(port, ask)| (SocketAddr::new(*ip, port), ask))
            });
            ways.flat_map(|(to, ask)| std::iter::repeat_with(move || ask(to)).take(CONNECTIONS)).collect()
        };
        scope.spawn(connect).join().expect("it ends well")
    });
    assert_eq!(ports.len(), 4 * CONNECTIONS);
    // One in some 60,000 keeps its port by chance.
    let kept = ports.iter().filter(|[own, seen]| own == seen).count();
    assert!(kept <= 2, "{kept} keep their ports: {ports:?}");
}

/// Makes a connection; returns the client's port, and the one that the server sees.
type Ask = fn(SocketAddr) -> [u16; 2];

fn tcp_ports(to: SocketAddr) -> [u16; 2] {
    let mut stream = TcpStream::connect(to).expect("it is reached");
    stream.set_read_timeout(PATIENCE).expect("it can be set");
    let own = stream.local_addr().expect("it has one").port();
    stream.write_all(b"GET / HTTP/1.1\r\n\r\n").expect("it can be asked");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("it answers");
    let body = answer.split_once("\r\n\r\n").expect("an answer has a body").1;
    [own, greeting(body.as_bytes()).client.port()]
}

fn udp_ports(to: SocketAddr) -> [u16; 2] {
    let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(any).expect("there is a port");
    socket.set_read_timeout(PATIENCE).expect("it can be set");
    socket.send_to(b"who are you", to).expect("it can be asked");
    let mut buffer = [0; 2048];
    let (length, _) = socket.recv_from(&mut buffer).expect("it answers");
    [socket.local_addr().expect("it has one").port(), greeting(&buffer[..length]).client.port()]
}

fn greeting(text: &[u8]) -> Greeting {
    serde_json::from_slice(text).expect("a server says who it is")
}
