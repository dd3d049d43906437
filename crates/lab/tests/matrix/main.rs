//! The oracle predicts every cell of the reachability matrix, and the kernel agrees: for every overlay and shape, while
//! the network is switched from one to the next under running agents.

#[path = "../rig/mod.rs"]
mod rig;

mod cells;
mod spoof;

use rig::{Rig, Settings};
use weft_lab::Topology;
use weft_lab::matrix::{Place, Standing, both};
use weft_lab::probe::Target;
use weft_lab::sandbox::in_sandbox;

const SHAPES: [&str; 3] = ["island", "flat", "isolated"];

fn every_cell(name: &str, topology: Topology, overlays: &[&'static str]) {
    let all = || overlays.iter().flat_map(|overlay| SHAPES.map(|shape| Settings { overlay, shape }));
    let first = all().next().expect("there is one");
    let rig = Rig::start(name, topology, first);
    an_island_that_nobody_outside_knows(&rig);
    rig.router("replace");
    let mut wrong = Vec::new();
    for settings in all() {
        rig.switch(settings);
        wrong.extend(cells::compare(&rig, settings));
        wrong.extend(
            spoof::nobody_is_taken_for_another(&rig).into_iter().map(|w| format!("{settings:?}: {w}")),
        );
        let differences = rig.differences();
        assert!(differences.is_empty(), "{settings:?}: kernels differ from their plans: {differences:#?}");
    }
    assert!(wrong.is_empty(), "{} cells are wrong:\n{}", wrong.len(), wrong.join("\n"));
    rig.stop();
}

/// While no router outside knows the way to pods, nobody there reaches one; island pods reach everybody, and are seen
/// with their node's address.
fn an_island_that_nobody_outside_knows(rig: &Rig) {
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

#[test]
fn nodes_behind_a_router() {
    in_sandbox("nodes_behind_a_router", || {
        every_cell("matrix-routed", Topology::routed(), &["auto", "vxlan"]);
    });
}

#[test]
fn nodes_on_one_link() {
    in_sandbox("nodes_on_one_link", || {
        every_cell("matrix-one-link", Topology::one_link(3), &["host-gw", "auto", "vxlan"]);
    });
}
