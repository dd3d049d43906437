//! A pod that sends under an address that isn't its own: the oracle says that the packet is dropped, nobody gets it, and the node
//! counts it.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use weft_lab::matrix::Place;
use weft_lab::probe::{Target, Transport};
use weft_lab::topology::INTERNET;
use weft_lab::weft::Packet;
use weft_lab::witness::{Testimony, Watch};

use crate::rig::Rig;

/// Who pretends.
const PRETENDER: &str = "test/a2";
/// Where the witnesses listen.
const PORT: u16 = 8083;
/// How long they do.
const WATCH_MS: u64 = 700;
/// How long the pretender waits for answers.
const PATIENCE_MS: u64 = 150;

/// Sends to a pod of another node, to the node itself and to the internet under each kind of address; returns what is
/// wrong. The pretender's own address must be seen, or the witnesses would prove nothing.
pub fn nobody_is_taken_for_another(rig: &Rig) -> Vec<String> {
    let places = rig.places();
    let place = |name: &str| places.iter().find(|p| p.name == name).expect("it is a place");
    let pretender = place(PRETENDER);
    // No witness among them: what has an address itself keeps packets to it to itself.
    let others = ["test/a1", "test/b1", "n2", INTERNET].map(place);
    let witnesses = ["test/c1", "n1", "n3"].map(place);
    let forged: Vec<IpAddr> = others.iter().flat_map(|p| p.addresses.clone()).collect();
    set_addresses(rig, "add", &forged);
    let before = dropped(pretender);
    let (testimonies, mut wrong) = std::thread::scope(|scope| {
        let watch = Watch { port: PORT, duration_ms: WATCH_MS };
        let threads = witnesses.map(|w| {
            scope.spawn(move || -> Testimony {
                rig.lab.tool().ask(&w.machine, w.net(), "witness", &watch).expect("the witness runs")
            })
        });
        // Until they listen.
        std::thread::sleep(Duration::from_millis(100));
        let wrong = send(rig, pretender, &witnesses, &forged);
        (threads.map(|t| t.join().expect("the witness speaks")), wrong)
    });
    let after = dropped(pretender);
    set_addresses(rig, "del", &forged);
    // One for each forged address and each of its family's ways, at the least: clients ask again.
    let tried = forged.iter().map(|from| {
        let to = witnesses.iter().flat_map(|w| &w.addresses);
        2 * to.filter(|to| to.is_ipv4() == from.is_ipv4()).count() as u64
    });
    let tried: u64 = tried.sum();
    if after < before + tried {
        wrong.push(format!(
            "{tried} forged packets and more, and the node has counted {}",
            after.saturating_sub(before)
        ));
    }
    for (witness, testimony) in witnesses.iter().zip(testimonies) {
        let seen = testimony.unwrap_or_else(|why| panic!("{}: {why}", witness.name));
        let own = &pretender.addresses;
        if !own.iter().all(|a| seen.contains(a)) {
            wrong.push(format!("{} has not seen {PRETENDER} itself: {seen:?}", witness.name));
        }
        let strangers: Vec<_> = seen.iter().filter(|a| !own.contains(a)).collect();
        if !strangers.is_empty() {
            wrong.push(format!("{} has seen {PRETENDER} as {strangers:?}", witness.name));
        }
    }
    wrong
}

/// Sends under each address; returns what the oracle doesn't say of it.
fn send(rig: &Rig, pretender: &Place, witnesses: &[&Place], forged: &[IpAddr]) -> Vec<String> {
    let (mut targets, mut packets) = (Vec::new(), Vec::new());
    for to in witnesses.iter().flat_map(|w| &w.addresses) {
        let own = pretender.addresses.iter().chain(forged);
        for from in own.filter(|a| a.is_ipv4() == to.is_ipv4()) {
            for (transport, port) in [(Transport::Udp, PORT), (Transport::Http, weft_lab::serve::HTTP)] {
                let address = SocketAddr::new(*to, port);
                let target =
                    Target { patience_ms: PATIENCE_MS, from: Some(*from), ..Target::new(transport, address) };
                packets.push(pretender.packet(&target));
                targets.push(target);
            }
        }
    }
    let oracle = &rig.agents[pretender.machine.name()];
    let predictions = oracle.predict(&packets).expect("the oracle answers");
    let outcomes = pretender.probe(rig.lab.tool(), &targets).expect("the probe runs");
    let mut wrong = Vec::new();
    for ((Packet { source, to, .. }, prediction), outcome) in packets.iter().zip(predictions).zip(outcomes) {
        let honest = source.is_some_and(|s| pretender.addresses.contains(&s));
        let expected = if honest { "delivered" } else { "dropped" };
        if prediction.verdict != expected {
            wrong.push(format!("{PRETENDER} as {source:?} → {to}: the oracle says {}", prediction.text));
        }
        if !honest && outcome.greeting().is_some() {
            wrong.push(format!("{PRETENDER} as {source:?} → {to}: {outcome:?}"));
        }
    }
    wrong
}

/// Packets that the pretender's node has dropped for their source, as the kernel counts them.
fn dropped(pretender: &Place) -> u64 {
    let chain = ["list", "chain", "inet", "weft", "pod_sources"];
    let listing = pretender.machine.run("nft", &chain).expect("it is there");
    let rule = listing.lines().find(|line| line.contains("not the pod's own source address"));
    let mut words =
        rule.expect("there is such a rule").split_whitespace().skip_while(|word| *word != "packets");
    words.nth(1).and_then(|number| number.parse().ok()).expect("it counts")
}

fn set_addresses(rig: &Rig, verb: &str, addresses: &[IpAddr]) {
    for address in addresses {
        let text = format!("{address}/{}", if address.is_ipv4() { 32 } else { 128 });
        let mut arguments = vec!["address", verb, text.as_str(), "dev", "eth0"];
        if address.is_ipv6() && verb == "add" {
            arguments.push("nodad");
        }
        rig.in_pod(PRETENDER, "ip", &arguments);
    }
}
