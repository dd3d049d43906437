//! Every cell of the reachability matrix: who asks whom, what the oracle says, and what comes of it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Instant;

use weft_lab::matrix::{Expected, Place, Standing, both};
use weft_lab::probe::{Outcome, Target, Transport};
use weft_lab::serve;
use weft_lab::weft::Packet;

use crate::rig::{Mapping, Rig, Settings};

/// How long an answer is waited for that isn't to come.
const BLOCKED_MS: u64 = 500;

/// One question.
struct Question {
    target: Target,
    /// The node whose agent knows, where others don't: of a peer's mapped ports an agent knows nothing.
    oracle: Option<String>,
}

/// Asks everybody everything; returns what is wrong.
pub fn compare(rig: &Rig, settings: Settings) -> Vec<String> {
    let begun = Instant::now();
    let places = rig.places();
    let mappings = rig.mappings();
    let (mut cells, mut answered, mut wrong) = (0, 0, Vec::new());
    let results: Vec<_> = std::thread::scope(|scope| {
        let (places, mappings) = (&places, &mappings);
        let row = |place| scope.spawn(move || ask(rig, place, places, mappings));
        let threads: Vec<_> = places.iter().map(row).collect();
        threads.into_iter().map(|t| t.join().expect("the row is asked")).collect()
    });
    for (place, row) in places.iter().zip(results) {
        for (packet, expected, outcome, text) in row {
            cells += 1;
            answered += usize::from(matches!(expected, Expected::Answer(..)));
            let broken = (!is_as_promised(rig, settings.shape, place, &places, &packet, &expected))
                .then(|| format!("{} promises otherwise than {expected:?}", settings.shape));
            if let Some(objection) = expected.objection(&outcome).or(broken) {
                let Packet { to, transport, .. } = packet;
                wrong.push(format!(
                    "{settings:?}: {} → {transport} {to}: {objection}\n    oracle:\n{text}",
                    place.name
                ));
            }
        }
    }
    println!(
        "{:<8} {:<8} {cells} cells, {answered} answered, {} wrong, {:.1} s",
        settings.overlay,
        settings.shape,
        wrong.len(),
        begun.elapsed().as_secs_f64()
    );
    wrong
}

/// Oracle and kernel go by one plan; this is what the plan must be like. In the cluster everybody reaches everybody's own
/// addresses and is seen with their own; between pods and the outside it is as the shape says.
fn is_as_promised(
    rig: &Rig,
    shape: &str,
    place: &Place,
    places: &[Place],
    packet: &Packet,
    expected: &Expected,
) -> bool {
    let to = packet.to;
    let owner = places.iter().find(|p| p.addresses.contains(&to.ip()));
    let Some(other) = owner.filter(|_| [serve::HTTP, serve::UDP].contains(&to.port())) else {
        return true;
    };
    let client = match expected {
        Expected::Answer(name, seen) if *name == other.name => Some(seen.client),
        _ => None,
    };
    let own = place.addresses.iter().copied().find(|a| a.is_ipv4() == to.is_ipv4());
    let node = rig.lab.topology().machine(place.machine.name());
    let leaves = place.netns.is_some() && other.standing == Standing::Outside;
    let enters = other.netns.is_some() && place.standing == Standing::Outside;
    match (shape, leaves, enters) {
        ("isolated", true, _) | ("isolated", _, true) => client.is_none(),
        ("island", true, _) => client == node.and_then(|node| node.address_like(to.ip())),
        _ => client.is_some() && client == own,
    }
}

fn ask(
    rig: &Rig,
    place: &Place,
    places: &[Place],
    mappings: &[Mapping],
) -> Vec<(Packet, Expected, Outcome, String)> {
    let questions = questions(place, places, mappings);
    let outside = |ip: IpAddr| {
        let found = places.iter().find(|p| p.standing == Standing::Outside && p.addresses.contains(&ip));
        found.map(|p| p.name.clone())
    };
    let mut asked: Vec<Option<(Packet, Expected, Target, String)>> = Vec::new();
    asked.resize_with(questions.len(), || None);
    for (node, agent) in &rig.agents {
        let (numbers, packets): (Vec<usize>, Vec<Packet>) = questions
            .iter()
            .enumerate()
            .filter(|(_, q)| q.oracle.as_ref().is_none_or(|oracle| oracle == node))
            .map(|(number, q)| (number, place.packet(&q.target)))
            .unzip();
        let predictions = agent.predict(&packets).expect("the oracle answers");
        for ((number, packet), prediction) in numbers.into_iter().zip(packets).zip(predictions) {
            let mut target = questions[number].target.clone();
            let expected = Expected::of(&prediction, target.transport, outside);
            if !matches!(expected, Expected::Answer(..)) {
                target.patience_ms = BLOCKED_MS;
            }
            if let Some((_, before, ..)) = &asked[number] {
                assert_eq!(*before, expected, "{node} sees {packet:?} otherwise: {}", prediction.text);
            }
            asked[number] = Some((packet, expected, target, prediction.text));
        }
    }
    let asked: Vec<_> = asked.into_iter().map(|a| a.expect("every question has an oracle")).collect();
    let targets: Vec<Target> = asked.iter().map(|(_, _, target, _)| target.clone()).collect();
    let outcomes = place.probe(rig.lab.tool(), &targets).expect("the probe runs");
    let rows = asked.into_iter().zip(outcomes);
    rows.map(|((packet, expected, _, text), outcome)| (packet, expected, outcome, text)).collect()
}

/// What a place asks: everybody, every mapped port, and on the node itself also by way of its loopback.
fn questions(place: &Place, places: &[Place], mappings: &[Mapping]) -> Vec<Question> {
    let is_outside = place.standing == Standing::Outside;
    let mut questions = Vec::new();
    for other in places.iter().filter(|other| !(is_outside && other.standing == Standing::Outside)) {
        let targets = other.addresses.iter().flat_map(|a| both(*a));
        questions.extend(targets.map(|target| Question { target, oracle: None }));
    }
    for Mapping { node, http, udp } in mappings {
        let own = places.iter().find(|p| p.name == *node).expect("it is a place");
        let mut addresses = own.addresses.clone();
        if place.name == *node {
            addresses.extend([IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)]);
        }
        for address in addresses {
            for (transport, port) in [(Transport::Http, *http), (Transport::Udp, *udp)] {
                let target = Target::new(transport, SocketAddr::new(address, port));
                questions.push(Question { target, oracle: Some(node.clone()) });
            }
        }
    }
    questions
}
