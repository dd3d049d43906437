//! What services promise beyond "it answers", with real packets: clients that keep their endpoint, load balancers' addresses and
//! health, a node without a default route, a pod that reaches itself, and flows that begin before there is anybody.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use serde_json::json;
use weft_lab::Topology;
use weft_lab::matrix::Place;
use weft_lab::probe::{Outcome, Target, Transport};
use weft_lab::sandbox::in_sandbox;
use weft_lab::serve::Greeting;
use weft_lab::topology::CLIENT;

use super::objects::{Endpoint, TCP, UDP, cluster_ips, put, service, slices};
use super::rig::{Rig, Settings, wait};
use super::switched::{Services, left, listening, turn};

const FILE: &str = "60-packets.yaml";
const BOTH: [(Transport, u16); 2] = [(Transport::Http, TCP), (Transport::Udp, UDP)];
/// Outside addresses of services; the router has the way there.
const BALANCER: [&str; 2] = ["100.64.0.50", "2001:db8:e::50"];

#[test]
fn what_services_promise() {
    let _alone = super::alone();
    in_sandbox("packets::what_services_promise", || {
        let mut rig =
            Rig::start("packets", Topology::one_link(3), Settings { overlay: "auto", shape: "island" });
        super::generated::to_services_by(&rig, "n1");
        clients_keep_their_endpoint(&rig);
        agents_come_and_go_and_clients_stay(&mut rig);
        a_client_forgets_in_time(&rig);
        a_load_balancers_address(&rig);
        turned_off_and_on(&mut rig);
        a_pod_reaches_itself(&rig);
        nobody_and_then_somebody(&rig);
        a_flow_from_before(&rig);
        a_node_without_a_default_route(&rig);
        rig.stop();
    });
}

fn place(rig: &Rig, name: &str) -> Place {
    rig.places().into_iter().find(|place| place.name == name).expect("it is a place")
}

/// Who answers at each address, asked one after the other.
fn ask(rig: &Rig, from: &str, to: &[(Transport, SocketAddr)]) -> Vec<Outcome> {
    let from = place(rig, from);
    let one = |(transport, address): &(Transport, SocketAddr)| {
        let target = Target::new(*transport, *address);
        from.probe(rig.lab.tool(), &[target]).expect("the client can ask").remove(0)
    };
    to.iter().map(one).collect()
}

fn greeting(outcome: &Outcome) -> &Greeting {
    outcome.greeting().unwrap_or_else(|| panic!("no answer: {outcome:?}"))
}

/// Both families and both protocols of service `number`.
fn ways(number: u16) -> Vec<(Transport, SocketAddr)> {
    let at = |ip: IpAddr| BOTH.map(|(transport, port)| (transport, SocketAddr::new(ip, port)));
    cluster_ips(number).into_iter().flat_map(at).collect()
}

/// Puts a service with these endpoints in place of the last one, and waits until all ways to it answer.
fn settle(rig: &Rig, number: u16, places: &[&str], spec: &serde_json::Value) {
    let mut object = service("packets", number);
    for (key, value) in spec.as_object().into_iter().flatten() {
        object["spec"][key] = value.clone();
    }
    if spec.get("type").is_some() {
        object["status"]["loadBalancer"]["ingress"] = json!(BALANCER.map(|ip| json!({"ip": ip})));
    }
    let endpoints: Vec<Endpoint> = places.iter().map(|place| Endpoint::ready(rig, place)).collect();
    let slices = slices("packets", &endpoints);
    put(rig, FILE, &[vec![object], slices.to_vec()].concat());
    let names: BTreeSet<String> = places.iter().map(ToString::to_string).collect();
    wait(&format!("{places:?} answer, and nobody else"), || {
        let outcomes = ask(rig, "test/a2", &ways(number));
        outcomes.iter().all(|outcome| outcome.greeting().is_some_and(|g| names.contains(&g.name)))
    });
    wait("it is in force everywhere", || rig.agents.values().all(super::rig::is_in_force));
}

const ALL: [&str; 4] = ["test/a2", "test/b1", "test/c1", "test/c2"];

/// By each way a client goes where it went first; where that is gone it goes elsewhere, and stays there.
fn clients_keep_their_endpoint(rig: &Rig) {
    let spec = json!({"sessionAffinity": "ClientIP"});
    settle(rig, 1, &ALL, &spec);
    for way in ways(1) {
        let stays = |at: &mut Vec<&str>| {
            let outcomes = ask(rig, "test/a1", &[way; 8]);
            let names: BTreeSet<&str> = outcomes.iter().map(|o| greeting(o).name.as_str()).collect();
            assert_eq!(names.len(), 1, "{way:?}: one client went to {names:?}");
            at.retain(|place| !names.contains(place));
            assert_eq!(at.len(), ALL.len() - 1);
        };
        let mut others = ALL.to_vec();
        stays(&mut others);
        settle(rig, 1, &others, &spec);
        let outcomes = ask(rig, "test/a1", &[way; 8]);
        let names: BTreeSet<&str> = outcomes.iter().map(|o| greeting(o).name.as_str()).collect();
        assert!(
            names.len() == 1 && names.iter().all(|n| others.contains(n)),
            "{way:?}: {names:?} of {others:?}"
        );
        settle(rig, 1, &ALL, &spec);
    }
}

/// Who remembers clients is the kernel: a killed agent, one that ends, and the one that follows change nothing.
fn agents_come_and_go_and_clients_stay(rig: &mut Rig) {
    settle(rig, 1, &ALL, &json!({"sessionAffinity": "ClientIP"}));
    // Eight memories: that all of them were drawn anew and none is different happens once in 65,536 times.
    let who = |rig: &Rig| -> Vec<String> {
        let asked = ["test/a1", "test/a2"].into_iter().flat_map(|from| ask(rig, from, &ways(1)));
        asked.map(|outcome| greeting(&outcome).name.clone()).collect()
    };
    let first = who(rig);
    assert_eq!(who(rig), first);
    let node = rig.lab.machine("n1").expect("it runs");
    for end in ["killed", "ended"] {
        match end {
            "killed" => rig.agents["n1"].kill(),
            _ => assert!(rig.agents["n1"].stop()),
        }
        assert_eq!(who(rig), first, "the agent has {end}");
        rig.start_agent(&node);
        rig.wait_ready("n1");
        assert_eq!(who(rig), first, "an agent follows the one that was {end}");
    }
}

/// After its time-out a client is led like a new one: in the end elsewhere.
fn a_client_forgets_in_time(rig: &Rig) {
    let config = json!({"clientIP": {"timeoutSeconds": 1}});
    settle(rig, 2, &ALL, &json!({"sessionAffinity": "ClientIP", "sessionAffinityConfig": config}));
    for way in [ways(2)[0], ways(2)[2]] {
        let first = greeting(&ask(rig, "test/a1", &[way])[0]).name.clone();
        // Three times in four it is another one.
        wait(&format!("{way:?}: another than {first}"), || {
            std::thread::sleep(Duration::from_millis(1200));
            greeting(&ask(rig, "test/a1", &[way])[0]).name != first
        });
    }
}

/// A load balancer's address with `externalTrafficPolicy: Local`: the client's own address is seen, and the node says whether it
/// has an endpoint.
fn a_load_balancers_address(rig: &Rig) {
    let spec = json!({
        "type": "LoadBalancer",
        "externalTrafficPolicy": "Local",
        "healthCheckNodePort": 32_000,
    });
    settle(rig, 3, &["test/a1", "test/b1"], &spec);
    let client = place(rig, CLIENT);
    let balancer = BALANCER.map(|ip| ip.parse::<IpAddr>().expect("an address"));
    for (ip, (transport, port)) in balancer.iter().flat_map(|ip| BOTH.map(|both| (*ip, both))) {
        let outcome = &ask(rig, CLIENT, &[(transport, SocketAddr::new(ip, port)); 1])[0];
        let Greeting { name, client: seen, .. } = greeting(outcome);
        assert_eq!(name, "test/a1", "{ip}: the packet came to n1");
        assert!(client.addresses.contains(&seen.ip()), "{ip}: {name} saw {seen}");
    }
    for (node, code) in [("n1", "200"), ("n2", "200"), ("n3", "503")] {
        let spec = rig.lab.topology().machine(node).expect("it is in the topology");
        for ip in spec.addresses() {
            let url = format!("http://{}/", SocketAddr::new(ip, 32_000));
            let arguments = ["-g", "-s", "-m", "5", "-o", "/dev/null", "-w", "%{http_code}", &url];
            let said = client.machine.run("curl", &arguments).expect("curl runs");
            assert_eq!(said, code, "{url} of {node}");
        }
    }
}

/// A node whose services are turned off keeps nothing of them, and serves nobody; its peers do. Turned on again all is as before.
/// The service is that of [`a_load_balancers_address`].
fn turned_off_and_on(rig: &mut Rig) {
    let node = rig.lab.machine("n1").expect("it runs");
    let rows = |rig: &Rig| rig.agents["n1"].plan().expect("there is a plan");
    let answers = |rig: &Rig, from: &str| -> Vec<bool> {
        ask(rig, from, &ways(3)).iter().map(|outcome| outcome.greeting().is_some()).collect()
    };
    let health = ["10256", "32000"];
    let (mut then, made) = (rows(rig), left(&node).len());
    // Two routes, and many sets.
    assert!(made > 10, "{:?}", left(&node));
    assert_eq!(listening(&node, &health), health);
    turn(rig, "n1", Services::Off);
    assert_eq!(left(&node), Vec::<String>::new(), "it is off");
    wait("nobody says how it does", || listening(&node, &health).is_empty());
    assert_eq!(rig.differences(), Vec::<String>::new(), "it is off");
    assert_eq!(answers(rig, "test/a1"), [false; 4], "n1 serves nobody");
    assert_eq!(answers(rig, "test/b1"), [true; 4], "n2 does");
    turn(rig, "n1", Services::On);
    wait("n1 serves again", || answers(rig, "test/a1") == [true; 4]);
    wait("n1 says how it does", || listening(&node, &health) == health);
    assert_eq!(left(&node).len(), made, "{:?}", left(&node));
    let mut now = rows(rig);
    now.sort();
    then.sort();
    assert_eq!(now, then, "it is on again");
    assert_eq!(rig.differences(), Vec::<String>::new(), "it is on again");
    a_load_balancers_address(rig);
}

/// A pod that is its service's only endpoint is answered by itself, and sees its node's address.
fn a_pod_reaches_itself(rig: &Rig) {
    settle(rig, 4, &["test/a1"], &json!({}));
    let node = place(rig, "n1");
    for (way, outcome) in ways(4).iter().zip(ask(rig, "test/a1", &ways(4))) {
        let Greeting { name, client, .. } = greeting(&outcome);
        assert!(name == "test/a1" && node.addresses.contains(&client.ip()), "{way:?}: {name} saw {client}");
    }
}

/// Long-lived UDP sockets in a pod: each sends when it is told to, and says whether an answer has come.
fn flows<T>(rig: &Rig, targets: &[SocketAddr], body: impl FnOnce(&dyn Fn() -> Vec<bool>) -> T) -> T {
    use std::net::UdpSocket;
    let pod = &rig.pods["test/a1"];
    let netns = match pod.net() {
        weft_lab::Net::At(path) => pod.machine().path(&path.to_string_lossy()),
        weft_lab::Net::Machine => unreachable!("a pod has a network of its own"),
    };
    let open = || -> Vec<UdpSocket> {
        let netns = std::fs::File::open(&netns).expect("it is there");
        nix::sched::setns(netns, nix::sched::CloneFlags::CLONE_NEWNET).expect("it can be entered");
        let one = |target: &SocketAddr| {
            let any = if target.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
            let socket = UdpSocket::bind(any).expect("there is a port");
            socket.set_read_timeout(Some(Duration::from_millis(200))).expect("it can be set");
            socket
        };
        targets.iter().map(one).collect()
    };
    // A socket stays in the network where it was made.
    let sockets = std::thread::scope(|scope| scope.spawn(open).join().expect("sockets can be made"));
    let send = || {
        let answered = |(socket, target): (&UdpSocket, &SocketAddr)| {
            // Refusals are no answers.
            socket.send_to(b"who are you", target).is_ok() && socket.recv(&mut [0; 512]).is_ok()
        };
        sockets.iter().zip(targets).map(answered).collect()
    };
    body(&send)
}

/// A flow to a service without endpoints is answered as soon as there is one, and not a moment longer than that.
fn nobody_and_then_somebody(rig: &Rig) {
    settle(rig, 5, &["test/b1"], &json!({}));
    let targets = cluster_ips(5).map(|ip| SocketAddr::new(ip, UDP));
    let leave = |places: &[&str]| {
        let endpoints: Vec<Endpoint> = places.iter().map(|place| Endpoint::ready(rig, place)).collect();
        let slices = slices("packets", &endpoints);
        put(rig, FILE, &[vec![service("packets", 5)], slices.to_vec()].concat());
    };
    flows(rig, &targets, |send| {
        assert_eq!(send(), [true, true]);
        leave(&[]);
        // The old endpoint lives, and isn't asked any more.
        wait("nobody answers", || send() == [false, false]);
        assert_eq!(send(), [false, false]);
        leave(&["test/c1"]);
        wait("somebody answers the same flow", || send() == [true, true]);
    });
}

/// A flow to an address that is nobody's was tracked as it was; when the address becomes a service's, the flow is led there.
fn a_flow_from_before(rig: &Rig) {
    let targets = BALANCER.map(|ip| SocketAddr::new(ip.parse().expect("an address"), UDP));
    settle(rig, 6, &["test/b1"], &json!({}));
    flows(rig, &targets, |send| {
        assert_eq!(send(), [false, false], "nobody has these addresses yet");
        settle(rig, 6, &["test/b1"], &json!({"externalIPs": BALANCER}));
        wait("the flow is led to the service", || send() == [true, true]);
    });
}

/// The node itself reaches pods on other nodes through a service, though it has no default route and checks return paths.
fn a_node_without_a_default_route(rig: &Rig) {
    settle(rig, 7, &["test/b1", "test/c1"], &json!({}));
    let node = rig.lab.machine("n1").expect("it runs");
    for family in ["-4", "-6"] {
        node.run("ip", &[family, "route", "delete", "default"]).expect("it had one");
    }
    node.sysctl(&[("net/ipv4/conf/all/rp_filter", "1"), ("net/ipv4/conf/eth0/rp_filter", "1")])
        .expect("it can be set");
    let own = place(rig, "n1").addresses;
    let many: Vec<_> = ways(7).into_iter().cycle().take(24).collect();
    for (way, outcome) in many.iter().zip(ask(rig, "n1", &many)) {
        let Greeting { name, client, .. } = greeting(&outcome);
        assert!(own.contains(&client.ip()), "{way:?}: {name} saw {client}");
    }
    let outcomes = ask(rig, "test/a1", &ways(7));
    outcomes.iter().for_each(|outcome| assert!(outcome.greeting().is_some(), "{outcome:?}"));
}
