//! Connections are spread evenly: many real ones from a pod, counted by endpoint, with a chi-squared test; and the same test on
//! a kernel whose table is not even.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use fastrand::Rng;
use serde_json::{Value, json};
use weft_lab::Topology;
use weft_lab::matrix::Place;
use weft_lab::probe::{Target, Transport};
use weft_lab::sandbox::in_sandbox;
use weft_lab::serve;
use weft_lab::topology::INTERNET;

use super::objects::{TCP, cluster_ips, put, service, slice};
use super::rig::{Rig, Settings, wait};

/// Endpoints of each service, and connections to it.
const SIZES: [(u8, usize); 3] = [(3, 2000), (7, 2000), (50, 3000)];
const CLIENT: &str = "test/a1";

#[test]
fn every_endpoint_gets_its_share() {
    let _alone = super::alone();
    in_sandbox("even::every_endpoint_gets_its_share", || {
        let mut rig =
            Rig::start("even", Topology::one_link(3), Settings { overlay: "auto", shape: "island" });
        shares(&mut rig);
        rig.stop();
    });
}

fn shares(rig: &mut Rig) {
    let host = rig.lab.machine(INTERNET).expect("it runs");
    let most = SIZES.iter().map(|(endpoints, _)| *endpoints).max().expect("there are some");
    let lines: String = (0..most).map(|n| format!("address add {}/24 dev eth0\n", endpoint(n))).collect();
    host.run_with_input("ip", &["-batch", "-"], &lines).expect("it takes addresses");
    let services = (0..).zip(SIZES).flat_map(|(number, (endpoints, _))| objects(number, endpoints));
    put(rig, "60-even.yaml", &services.collect::<Vec<_>>());
    let client = rig.places().into_iter().find(|place| place.name == CLIENT).expect("the client runs");
    for (number, (endpoints, connections)) in (0..).zip(SIZES) {
        wait("the service answers", || count(rig, &client, number, 1).is_some());
        let counts = count(rig, &client, number, connections).expect("each connection is answered");
        let (found, most) = (chi_squared(&counts, endpoints), most_of(endpoints));
        println!(
            "{connections} connections to {endpoints} endpoints: chi-squared {found:.1}, at most {most:.1}"
        );
        assert!(found < most, "{counts:?}");
    }
    an_uneven_table_is_found(rig, &client);
}

/// Slot 2 leads to the endpoint of slot 0, so that this one gets twice its share and another none.
fn an_uneven_table_is_found(rig: &mut Rig, client: &Place) {
    let plan = rig.agents["n1"].plan().expect("there is a plan");
    let data = |start: &str| {
        let row = plan.iter().find(|row| row.starts_with(start)).unwrap_or_else(|| panic!("no row {start}"));
        let data = row.rsplit_once(" : ").expect("it maps").1;
        data.split_whitespace().next().expect("it has data").to_owned()
    };
    let [address, _] = cluster_ips(0);
    let group = data(&format!("element service4 {{ {address} . tcp . {TCP} : "));
    let (endpoints, connections) = SIZES[0];
    let slots = format!("slot_{endpoints}");
    let first = data(&format!("element {slots} {{ {group} . 0 : "));
    // Its agent would mend it.
    rig.agents["n1"].kill();
    let node = rig.lab.machine("n1").expect("it runs");
    let script = format!(
        "delete element inet weft {slots} {{ {group} . 2 }}\nadd element inet weft {slots} {{ {group} . 2 : {first} }}\n"
    );
    node.run_with_input("nft", &["-f", "-"], &script).expect("nft changes the slot");
    let counts = count(rig, client, 0, connections).expect("each connection is answered");
    assert!(chi_squared(&counts, endpoints) > most_of(endpoints), "this is even: {counts:?}");
    rig.start_agent(&node);
    rig.wait_ready("n1");
    wait("the slot is mended", || rig.differences().is_empty());
}

/// An address of the host on the internet; any address may be an endpoint.
fn endpoint(number: u8) -> IpAddr {
    Ipv4Addr::new(203, 0, 113, 100 + number).into()
}

fn objects(number: u16, endpoints: u8) -> [Value; 2] {
    let name = format!("even-{number}");
    let addresses = (0..endpoints).map(|n| json!({"addresses": [endpoint(n)]})).collect::<Vec<_>>();
    let ports = json!([{"name": "http", "protocol": "TCP", "port": serve::HTTP}]);
    let slice = slice(&name, "IPv4", &addresses, &ports);
    [service(&name, number), slice]
}

/// Connections by endpoint; nothing where one had no answer.
fn count(rig: &Rig, client: &Place, service: u16, connections: usize) -> Option<BTreeMap<IpAddr, usize>> {
    let target = Target::new(Transport::Http, SocketAddr::new(cluster_ips(service)[0], TCP));
    let outcomes = client.probe(rig.lab.tool(), &vec![target; connections]).expect("the client can ask");
    let mut counts = BTreeMap::new();
    for outcome in &outcomes {
        *counts.entry(outcome.greeting()?.server.ip()).or_default() += 1;
    }
    Some(counts)
}

/// How far counts are from equal shares of `endpoints`.
#[allow(clippy::cast_precision_loss)]
fn chi_squared(counts: &BTreeMap<IpAddr, usize>, endpoints: u8) -> f64 {
    let all: usize = counts.values().sum();
    let share = all as f64 / f64::from(endpoints);
    let missing = f64::from(endpoints) - counts.len() as f64;
    counts.values().map(|n| (*n as f64 - share).powi(2) / share).sum::<f64>() + missing * share
}

/// What fair dice exceed less than once in ten million times (Wilson and Hilferty 1931; for few endpoints it is higher than
/// the exact value).
fn most_of(endpoints: u8) -> f64 {
    const DEVIATIONS: f64 = 5.2;
    let freedom = f64::from(endpoints) - 1.0;
    let spread = 2.0 / (9.0 * freedom);
    freedom * (1.0 - spread + DEVIATIONS * spread.sqrt()).powi(3)
}

#[test]
fn fair_dice_pass_and_others_do_not() {
    let throw = |random: &mut Rng, endpoints: u8, sides: u8, times: usize| {
        let mut counts = BTreeMap::new();
        for _ in 0..times {
            // More sides than endpoints: the first endpoints have two.
            *counts.entry(endpoint(random.u8(..sides) % endpoints)).or_default() += 1;
        }
        chi_squared(&counts, endpoints)
    };
    let mut random = Rng::with_seed(4);
    for (endpoints, connections) in SIZES {
        for _ in 0..200 {
            assert!(throw(&mut random, endpoints, endpoints, connections) < most_of(endpoints));
        }
        assert!(throw(&mut random, endpoints, endpoints + endpoints / 3, connections) > most_of(endpoints));
    }
    // An endpoint that nobody reaches counts.
    let one: BTreeMap<_, _> = [(endpoint(0), 50), (endpoint(1), 50)].into();
    assert!(chi_squared(&one, 3) > most_of(3));
}
