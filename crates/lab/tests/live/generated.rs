//! Generated services on three nodes in generated zones, with slices or selectors: real connections and datagrams from pods, nodes and outside to every way in. Where one
//! arrives, and whom the server sees, must be an end that the oracle allows. The oracle itself is held to what Kubernetes
//! promises in `weft-compile`.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use fastrand::Rng;
use serde_json::{Value, json};
use weft_lab::Topology;
use weft_lab::matrix::{Expected, Place, Standing};
use weft_lab::probe::{Outcome, Target, Transport};
use weft_lab::sandbox::in_sandbox;
use weft_lab::topology::{CLIENT, INTERNET, ROUTER};
use weft_lab::weft::Prediction;

use super::objects::{Endpoint, TCP, UDP, cluster_ips, node, put, service, slices};
use super::rig::{Rig, Settings, wait};

/// Clusters, services of each, clients that ask each of a service's ways, and times that each asks.
const ROUNDS: u16 = 6;
const SERVICES: u16 = 6;
const CLIENTS: usize = 3;
const TIMES: usize = 3;
/// How long an answer is waited for that isn't to come.
const BLOCKED_MS: u64 = 300;
/// Zones in which nodes may be.
const ZONES: [&str; 2] = ["a", "b"];
/// Where services are found outside; the router knows the way there by n1.
const OUTSIDE: [&str; 2] = ["100.64.0.0/24", "2001:db8:e::/64"];
/// Set to a number to see the same clusters again.
const SEED: &str = "WEFT_SEED";

#[test]
fn the_kernel_leads_where_the_oracle_says() {
    let _alone = super::alone();
    in_sandbox("generated::the_kernel_leads_where_the_oracle_says", || {
        let seed = std::env::var(SEED).ok().and_then(|s| s.parse().ok()).unwrap_or_else(|| fastrand::u64(..));
        println!("{SEED}={seed}");
        let mut random = Rng::with_seed(seed);
        let shape = *random.choice(["island", "flat", "isolated"].iter()).expect("there are some");
        println!("the network is {shape}");
        let rig = Rig::start("generated", Topology::routed(), Settings { overlay: "auto", shape });
        to_services_by(&rig, "n1");
        let (mut asked, mut wrong) = (0, Vec::new());
        for round in 0..ROUNDS {
            let offers = settle(&rig, round, &mut random);
            let places = rig.places();
            let asking = places.iter().filter(|place| place.name != INTERNET);
            let asking: Vec<(&Place, Rng)> = asking.map(|place| (place, random.fork())).collect();
            let results: Vec<_> = std::thread::scope(|scope| {
                let (rig, places, offers) = (&rig, &places, &offers);
                let row = |(place, mut random): (_, Rng)| {
                    scope.spawn(move || ask(rig, place, places, offers, &mut random))
                };
                let threads: Vec<_> = asking.into_iter().map(row).collect();
                threads.into_iter().map(|t| t.join().expect("the row is asked")).collect()
            });
            for (times, objections) in results {
                asked += times;
                wrong.extend(objections);
            }
            assert_eq!(rig.differences(), Vec::<String>::new(), "{SEED}={seed}");
        }
        println!("generated services: {asked} asked, {} wrong", wrong.len());
        assert!(
            wrong.is_empty(),
            "{SEED}={seed}: {} of {asked} are wrong:\n{}",
            wrong.len(),
            wrong.join("\n")
        );
        rig.stop();
    });
}

/// The router sends what is for services to this node.
pub fn to_services_by(rig: &Rig, node: &str) {
    let router = rig.lab.machine(ROUTER).expect("it runs");
    let node = rig.lab.topology().machine(node).expect("it is in the topology");
    for block in ["10.43.0.0/16", "fd43::/112"].iter().chain(&OUTSIDE) {
        let like = block.split('/').next().and_then(|ip| ip.parse().ok()).expect("an address");
        let via = node.address_like(like).expect("nodes have both families").to_string();
        router.run("ip", &["route", "replace", block, "via", &via]).expect("the router takes it");
    }
}

/// A service as it was generated.
struct Offer {
    /// Addresses, with the first port there.
    ways: Vec<(IpAddr, u16)>,
    object: Value,
}

fn outside_address(number: u16, is_v4: bool) -> IpAddr {
    let low = u8::try_from(number).expect("there are few");
    if is_v4 { [100, 64, 0, low].into() } else { [0x2001, 0xdb8, 0xe, 0, 0, 0, 0, number].into() }
}

fn offer(rig: &Rig, number: u16, random: &mut Rng) -> (Offer, Vec<Value>) {
    let name = format!("s{number}");
    let mut object = service(&name, number);
    let mut ways: Vec<(IpAddr, u16)> = cluster_ips(number).map(|ip| (ip, TCP)).to_vec();
    // A port that it doesn't offer.
    ways.push((cluster_ips(number)[0], TCP + 100));
    let spec = &mut object["spec"];
    let policy =
        |random: &mut Rng| *random.choice(["Cluster", "Cluster", "Local"].iter()).expect("there are some");
    spec["internalTrafficPolicy"] = json!(policy(random));
    if random.bool() {
        spec["type"] = json!("LoadBalancer");
        spec["externalTrafficPolicy"] = json!(policy(random));
        for (index, port) in (0..).zip([TCP, UDP]) {
            spec["ports"][index]["nodePort"] = json!(31_000 + 2 * number + port - TCP);
        }
        for node in ["n1", "n2", "n3"] {
            let machine = rig.lab.topology().machine(node).expect("it is in the topology");
            ways.extend(machine.addresses().map(|ip| (ip, 31_000 + 2 * number)));
        }
        let balancer = [true, false].map(|is_v4| outside_address(100 + number, is_v4));
        ways.extend(balancer.map(|ip| (ip, TCP)));
        if random.bool() {
            let ranges = [
                ["198.51.100.10/32", "2001:db8:c::/64"],
                ["198.51.100.8/29", "2001:db8:c::/61"],
                ["10.42.0.0/16", "fd42::/48"],
                ["10.42.0.0/15", "fd42::1/128"],
            ];
            spec["loadBalancerSourceRanges"] = json!(random.choice(ranges.iter()));
        }
        object["status"]["loadBalancer"]["ingress"] = balancer
            .map(|ip| match random.u8(..4) {
                0 => json!({"ip": ip, "ipMode": "Proxy"}),
                _ => json!({"ip": ip}),
            })
            .into();
    }
    if random.bool() {
        let external = [true, false].map(|is_v4| outside_address(number, is_v4));
        object["spec"]["externalIPs"] = json!(external);
        ways.extend(external.map(|ip| (ip, TCP)));
    }
    if random.u8(..8) == 0 {
        let label = *random.choice(["service-proxy-name", "headless"].iter()).expect("there are some");
        object["metadata"]["labels"] = json!({format!("service.kubernetes.io/{label}"): "other"});
    }
    if random.u8(..4) == 0 {
        object["spec"]["sessionAffinity"] = json!("ClientIP");
    }
    if random.u8(..3) == 0 {
        object["spec"]["selector"] = selector(random);
        let wishes = [None, Some("PreferClose"), Some("PreferSameZone"), Some("PreferSameNode")];
        object["spec"]["trafficDistribution"] = json!(random.choice(wishes).expect("there are some"));
        return (Offer { ways, object }, Vec::new());
    }
    let objects = slices(&name, &endpoints(rig, random)).to_vec();
    (Offer { ways, object }, objects)
}

/// What selects some of the rig's pods, all of them, or nobody.
fn selector(random: &mut Rng) -> Value {
    let (node, group) = (["n1", "n2", "n3"], ["first", "second"]);
    match random.u8(..6) {
        0 => json!({"app": "rig"}),
        1 => json!({"app": "rig", "node": random.choice(node)}),
        2 | 3 => json!({"group": random.choice(group)}),
        4 => json!({"node": random.choice(node), "group": random.choice(group)}),
        _ => json!({"app": "nobody"}),
    }
}

fn endpoints(rig: &Rig, random: &mut Rng) -> Vec<Endpoint> {
    let places = rig.pods.keys().map(String::as_str).chain(["n1", "n2", "n3"]);
    let count = random.usize(0..5);
    let hints = random.u8(..4);
    let mut endpoints: Vec<Endpoint> =
        random.choose_multiple(places, count).into_iter().map(|place| Endpoint::ready(rig, place)).collect();
    for endpoint in &mut endpoints {
        let states = [(true, true, false), (true, true, false), (false, true, true), (false, false, false)];
        (endpoint.ready, endpoint.serving, endpoint.terminating) =
            *random.choice(states.iter()).expect("there are some");
        if hints & 1 != 0 {
            endpoint.for_nodes = random.choose_multiple(["n1", "n2", "n3"].map(str::to_owned), 2);
        }
        if hints & 2 != 0 {
            endpoint.for_zones = random.choose_multiple(ZONES.map(str::to_owned), 1);
        }
    }
    endpoints
}

/// Writes a cluster's services, and waits until every node has them in force.
fn settle(rig: &Rig, round: u16, random: &mut Rng) -> Vec<Offer> {
    let zone =
        |random: &mut Rng| random.choice([Some(ZONES[0]), Some(ZONES[0]), Some(ZONES[1]), None]).flatten();
    let mut objects: Vec<Value> = ["n1", "n2", "n3"].map(|name| node(name, zone(random))).to_vec();
    let mut offers = Vec::new();
    for number in 0..SERVICES {
        let (offer, slices) = offer(rig, round * SERVICES + number, random);
        objects.push(offer.object.clone());
        objects.extend(slices);
        offers.push(offer);
    }
    let mark = service("mark", 1000 + round);
    objects.push(mark);
    put(rig, "60-services.yaml", &objects);
    let [sign, _] = cluster_ips(1000 + round).map(|ip| format!("{{ {ip} . tcp"));
    wait("the services are in force", || {
        rig.agents.values().all(|agent| {
            agent.plan().expect("there is a plan").iter().any(|row| row.contains(&sign))
                && super::rig::is_in_force(agent)
        })
    });
    offers
}

/// One place asks some of all ways. How often it did, and what came out otherwise than foreseen.
fn ask(
    rig: &Rig,
    place: &Place,
    places: &[Place],
    offers: &[Offer],
    random: &mut Rng,
) -> (usize, Vec<String>) {
    let mut targets = Vec::new();
    for (address, first) in offers.iter().flat_map(|offer| &offer.ways) {
        for (transport, more) in [(Transport::Http, 0), (Transport::Udp, UDP - TCP)] {
            if random.usize(..places.len()) < CLIENTS {
                targets.push(Target::new(transport, SocketAddr::new(*address, first + more)));
            }
        }
    }
    let oracle = rig.agents.get(place.machine.name()).unwrap_or(&rig.agents["n1"]);
    let packets: Vec<_> = targets.iter().map(|target| place.packet(target)).collect();
    let predictions = oracle.predict(&packets).expect("the oracle answers");
    let expected: Vec<Vec<Expected>> =
        predictions.iter().zip(&targets).map(|(p, target)| ends(places, p, target.transport)).collect();
    let mut repeated = Vec::new();
    for (target, expected) in targets.iter().zip(&expected) {
        let answers = expected.iter().any(|end| matches!(end, Expected::Answer(..) | Expected::Refusal));
        let patience_ms = if answers { target.patience_ms } else { BLOCKED_MS };
        let times = if expected.len() > 1 { TIMES } else { 1 };
        repeated.extend(vec![Target { patience_ms, ..target.clone() }; times]);
    }
    let outcomes = place.probe(rig.lab.tool(), &repeated).expect("the probe runs");
    let mut wrong = Vec::new();
    for (target, outcome) in repeated.iter().zip(&outcomes) {
        let at = targets.iter().position(|t| (t.address, t.transport) == (target.address, target.transport));
        let at = at.expect("it was asked for");
        if let Some(objection) = objection(&expected[at], outcome) {
            let Target { transport, address, .. } = target;
            let service = offers.iter().find(|o| o.ways.iter().any(|(ip, _)| *ip == address.ip()));
            let service = service.map(|o| o.object.to_string()).unwrap_or_default();
            let text = &predictions[at].text;
            wrong.push(format!(
                "{} → {transport} {address}: {objection}\n{service}\noracle:\n{text}",
                place.name
            ));
        }
    }
    (outcomes.len(), wrong)
}

/// What may come of a probe.
fn ends(places: &[Place], prediction: &Prediction, transport: Transport) -> Vec<Expected> {
    let outside = |ip: IpAddr| {
        let found = places.iter().find(|p| p.standing == Standing::Outside && p.addresses.contains(&ip));
        found.map(|p| p.name.clone())
    };
    let end = |end: &Prediction| match (end.verdict.as_str(), transport) {
        // By a reset, or by ICMP errors, which the lab's machines don't hold back.
        ("rejected", Transport::Http) => Expected::Refusal,
        _ => Expected::of(end, transport, outside),
    };
    prediction.all_ends().iter().map(end).collect()
}

fn objection(allowed: &[Expected], outcome: &Outcome) -> Option<String> {
    // What is dropped before it leaves its own machine is told to the sender at once (EPERM).
    let outcome = match outcome {
        Outcome::Refused(why) if why.contains("Operation not permitted") => &Outcome::Silent,
        other => other,
    };
    let objections: BTreeSet<Option<String>> = allowed.iter().map(|end| end.objection(outcome)).collect();
    if objections.contains(&None) {
        return None;
    }
    Some(objections.into_iter().flatten().collect::<Vec<_>>().join("; or "))
}

/// Names what the rest of this file takes for granted.
#[test]
fn the_client_is_in_the_first_ranges() {
    let topology = Topology::routed();
    let client = topology.machine(CLIENT).expect("there is one");
    let addresses: Vec<String> = client.addresses().map(|ip| ip.to_string()).collect();
    assert_eq!(addresses, ["198.51.100.10", "2001:db8:c::a"]);
}
