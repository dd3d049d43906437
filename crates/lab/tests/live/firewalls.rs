//! Nodes whose own firewalls drop what comes in and what is forwarded, each node another kind: iptables over nftables, legacy
//! iptables, and plain nftables. They let in what an administrator would for the node's own servers, and not a word of pods: what
//! pods and node services need, the agents open.

use std::net::SocketAddr;

use serde_json::json;
use weft_lab::matrix::Place;
use weft_lab::probe::{Outcome, Target, Transport};
use weft_lab::resolve::{Kind, Question, Reply};
use weft_lab::sandbox::in_sandbox;
use weft_lab::topology::CLIENT;
use weft_lab::weft::DNS;
use weft_lab::{Machine, Topology};

use super::cells;
use super::objects::{Endpoint, TCP, UDP, cluster_ips, put, service, slices};
use super::rig::{Rig, Settings, wait};

/// What an administrator lets in, in iptables' words: the node's own servers, and ports at which somebody may be told that nobody
/// listens.
const ADMITTED: [&str; 4] = [
    "-i lo",
    "-m conntrack --ctstate ESTABLISHED,RELATED",
    "-p tcp -m multiport --dports 8080,30000:31999",
    "-p udp -m multiport --dports 8081,30000:31999",
];
/// The same for nft.
const NATIVE: &str = "table inet filter {
  chain input {
    type filter hook input priority filter; policy drop;
    iif lo accept
    ct state established,related accept
    meta l4proto ipv6-icmp accept
    tcp dport { 8080, 30000-31999 } accept
    udp dport { 8081, 30000-31999 } accept
  }
  chain forward {
    type filter hook forward priority filter; policy drop;
  }
}
";
/// A port of nodes that nobody admits and nobody listens at.
const SHUT: u16 = 9;
const NODE_PORTS: [(Transport, u16); 2] = [(Transport::Http, 31_080), (Transport::Udp, 31_081)];
/// Where load balancers ask whether a node has endpoints of the service, and how the node itself does; nobody admits these two either.
const HEALTH: [(u16, &str); 2] = [(32_000, "/"), (10_256, "/healthz")];
const NAME: &str = "walled";
const LOCAL: &str = "walled-local";
const NUMBER: u16 = 90;
const PODS: [&str; 3] = ["test/a1", "test/b1", "test/c1"];

/// A firewall of one kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Firewall {
    Iptables { v4: &'static str, v6: &'static str },
    Native,
}

const IPTABLES_NFT: Firewall = Firewall::Iptables { v4: "iptables-nft", v6: "ip6tables-nft" };
const IPTABLES_LEGACY: Firewall = Firewall::Iptables { v4: "iptables-legacy", v6: "ip6tables-legacy" };

impl Firewall {
    /// Puts it up on a node; false where the node can't have it.
    fn put_up(self, node: &Machine) -> bool {
        let Firewall::Iptables { v4, v6 } = self else {
            node.run_with_input("nft", &["-f", "-"], NATIVE).expect("nft takes it");
            return true;
        };
        for binary in [v4, v6] {
            if let Err(why) = node.run(binary, &["-S", "FORWARD"]) {
                println!("SKIPPED: {} without a firewall: {binary} doesn't work here: {why}", node.name());
                return false;
            }
        }
        let run = |binary: &str, rule: &str| {
            let words: Vec<&str> = rule.split_whitespace().collect();
            node.run(binary, &words).unwrap_or_else(|e| panic!("{binary} {rule}: {e}"));
        };
        for binary in [v4, v6] {
            ADMITTED.iter().for_each(|rule| run(binary, &format!("-A INPUT {rule} -j ACCEPT")));
            if binary == v6 {
                run(binary, "-A INPUT -p ipv6-icmp -j ACCEPT");
            }
            ["INPUT", "FORWARD"].iter().for_each(|chain| run(binary, &format!("-P {chain} DROP")));
        }
        true
    }

    /// What it says of itself.
    fn listing(self, node: &Machine) -> String {
        match self {
            Firewall::Iptables { v4, v6 } => {
                [v4, v6].map(|binary| node.run(binary, &["-S"]).expect("it lists")).concat()
            }
            Firewall::Native => node.run("nft", &["list", "table", "inet", "filter"]).expect("it lists"),
        }
    }

    /// Whether it drops, and openings of ours stand in both of its chains.
    fn drops_and_is_opened(self, node: &Machine) -> bool {
        let listing = self.listing(node);
        let rules = listing.lines().filter(|line| line.contains("weft"));
        match self {
            Firewall::Iptables { .. } => {
                let of =
                    |chain: &str| rules.clone().filter(|l| l.starts_with(&format!("-A {chain} "))).count();
                let policies =
                    listing.lines().filter(|line| line.starts_with("-P ") && line.ends_with(" DROP"));
                policies.count() == 4 && of("FORWARD") >= 4 && of("INPUT") >= 4
            }
            Firewall::Native => listing.matches("policy drop").count() == 2 && rules.count() >= 7,
        }
    }
}

#[test]
fn pods_and_node_services_are_reached_behind_firewalls_that_drop() {
    let _alone = super::alone();
    in_sandbox("firewalls::pods_and_node_services_are_reached_behind_firewalls_that_drop", || {
        let settings = |overlay| Settings { overlay, shape: "island" };
        let rig = Rig::start("walls", Topology::one_link(3), settings("host-gw"));
        rig.router("replace");
        offer(&rig);
        let walls = [("n1", IPTABLES_NFT), ("n2", IPTABLES_LEGACY), ("n3", Firewall::Native)];
        let up: Vec<(&str, Firewall)> = walls
            .into_iter()
            .filter(|(node, wall)| wall.put_up(&rig.lab.machine(node).expect("it runs")))
            .collect();
        for (node, wall) in &up {
            let machine = rig.lab.machine(node).expect("it runs");
            // Of legacy tables and policies the kernel tells nothing; they are looked at by the clock.
            let took = wait(&format!("{wall:?} of {node} is open"), || wall.drops_and_is_opened(&machine));
            println!("    {node}: {wall:?} is open after {:.0} ms", took.as_secs_f64() * 1000.0);
        }
        for overlay in ["host-gw", "vxlan", "auto"] {
            rig.switch(settings(overlay));
            all_is_right(&rig, settings(overlay), &up);
        }
        rig.stop();
    });
}

/// A service with node ports, and an endpoint on each node.
fn offer(rig: &Rig) {
    let mut object = service(NAME, NUMBER);
    object["spec"]["type"] = json!("NodePort");
    for (index, (_, port)) in NODE_PORTS.iter().enumerate() {
        object["spec"]["ports"][index]["nodePort"] = json!(port);
    }
    let endpoints = PODS.map(|pod| Endpoint::ready(rig, pod));
    let served = [vec![object], slices(NAME, &endpoints).to_vec()].concat();
    // Another, of which load balancers ask where its endpoints are.
    let mut object = service(LOCAL, NUMBER + 1);
    object["spec"]["type"] = json!("LoadBalancer");
    object["spec"]["externalTrafficPolicy"] = json!("Local");
    object["spec"]["healthCheckNodePort"] = json!(HEALTH[0].0);
    let local = [vec![object], slices(LOCAL, &endpoints).to_vec()].concat();
    put(rig, "60-walled.yaml", &[served, local].concat());
}

fn all_is_right(rig: &Rig, settings: Settings, walls: &[(&str, Firewall)]) {
    let mut wrong = cells::compare(rig, settings);
    let places = rig.places();
    let place = |name: &str| places.iter().find(|p| p.name == name).expect("it is a place");
    wait("everybody has the service", || served(rig, place("n3"), &places).is_empty());
    wait("every node says how it does", || {
        ["n1", "n2", "n3"].iter().all(|node| unhealthy(place(CLIENT), place(node)).is_empty())
    });
    for name in ["test/a1", "test/b1", "test/c2", "n1", "n2", "n3", CLIENT] {
        wrong.extend(served(rig, place(name), &places));
    }
    for name in PODS {
        wrong.extend(named(rig, name));
    }
    for (node, wall) in walls {
        wrong.extend(shut(rig, place(CLIENT), place(node)));
        for asker in [CLIENT, "n1", "n2", "n3"] {
            wrong.extend(unhealthy(place(asker), place(node)));
        }
        let machine = rig.lab.machine(node).expect("it runs");
        if !wall.drops_and_is_opened(&machine) {
            wrong.push(format!("{node}: {}", wall.listing(&machine)));
        }
    }
    assert!(wrong.is_empty(), "{settings:?}: {} are wrong:\n{}", wrong.len(), wrong.join("\n"));
    assert_eq!(rig.differences(), Vec::<String>::new(), "{settings:?}");
}

/// What is wrong where somebody asks the service, at its addresses and at every node's ports.
fn served(rig: &Rig, from: &Place, places: &[Place]) -> Vec<String> {
    let ports = [(Transport::Http, TCP), (Transport::Udp, UDP)];
    // Outside nobody knows the way to services' own addresses.
    let own = cluster_ips(NUMBER).into_iter().filter(|_| from.name != CLIENT);
    let own = own.flat_map(|ip| ports.map(|(kind, port)| Target::new(kind, SocketAddr::new(ip, port))));
    let nodes = places.iter().filter(|p| ["n1", "n2", "n3"].contains(&p.name.as_str()));
    let nodes = nodes
        .flat_map(|node| &node.addresses)
        .flat_map(|ip| NODE_PORTS.map(|(kind, port)| Target::new(kind, SocketAddr::new(*ip, port))));
    let targets: Vec<Target> = own.chain(nodes).collect();
    let outcomes = from.probe(rig.lab.tool(), &targets).expect("it can ask");
    let is_right = |outcome: &Outcome| outcome.greeting().is_some_and(|g| PODS.contains(&g.name.as_str()));
    let wrong = targets.iter().zip(&outcomes).filter(|(_, outcome)| !is_right(outcome));
    wrong
        .map(|(to, outcome)| format!("{} → {} {}: {outcome:?}", from.name, to.transport, to.address))
        .collect()
}

/// What is wrong with the service's name, asked from a pod at the cluster's DNS addresses.
fn named(rig: &Rig, pod: &str) -> Vec<String> {
    let questions: Vec<Question> = DNS
        .iter()
        .flat_map(|server| [Kind::A, Kind::Aaaa].map(|kind| (*server, kind)))
        .map(|(server, kind)| Question {
            server: SocketAddr::new(server, 53),
            name: format!("{NAME}.test.svc.cluster.local"),
            kind,
        })
        .collect();
    let from = &rig.pods[pod];
    let asked = rig.lab.tool().ask(from.machine(), from.net(), "resolve", &questions);
    let replies: Vec<Reply> = asked.expect("it can ask");
    let [v4, v6] = cluster_ips(NUMBER).map(|ip| ip.to_string());
    let right = |question: &Question| if question.kind == Kind::A { &v4 } else { &v6 };
    let wrong = questions
        .iter()
        .zip(replies)
        .filter(|(question, reply)| reply.records() != [right(question).clone()]);
    wrong.map(|(question, reply)| format!("{pod} asks {question:?}: {reply:?}")).collect()
}

/// What is wrong with what a node says of its health.
fn unhealthy(from: &Place, node: &Place) -> Vec<String> {
    let mut wrong = Vec::new();
    for (ip, (port, path)) in node.addresses.iter().flat_map(|ip| HEALTH.map(|port| (ip, port))) {
        let url = format!("http://{}{path}", SocketAddr::new(*ip, port));
        let arguments = ["-g", "-s", "-m", "5", "-o", "/dev/null", "-w", "%{http_code}", &url];
        let said = from.machine.run("curl", &arguments).unwrap_or_else(|error| error.to_string());
        if said != "200" {
            wrong.push(format!("{} asks {url}: {said}", from.name));
        }
    }
    wrong
}

/// What nobody opened stays shut: a firewall that drops says nothing.
fn shut(rig: &Rig, from: &Place, node: &Place) -> Vec<String> {
    let targets: Vec<Target> = node
        .addresses
        .iter()
        .map(|ip| Target { patience_ms: 300, ..Target::new(Transport::Http, SocketAddr::new(*ip, SHUT)) })
        .collect();
    let outcomes = from.probe(rig.lab.tool(), &targets).expect("it can ask");
    let wrong = targets.iter().zip(outcomes).filter(|(_, outcome)| !matches!(outcome, Outcome::Silent));
    wrong.map(|(to, outcome)| format!("{} is not shut: {outcome:?}", to.address)).collect()
}
