//! The oracle predicts every cell of the reachability matrix, and the kernel agrees: for every overlay and shape, while
//! the network is switched from one to the next under running agents.

#[path = "../rig/mod.rs"]
mod rig;

mod cells;
mod outside;
mod spoof;

use rig::{Rig, Settings};
use weft_lab::Topology;
use weft_lab::sandbox::in_sandbox;

const SHAPES: [&str; 3] = ["island", "flat", "isolated"];

fn every_cell(name: &str, topology: Topology, overlays: &[&'static str]) {
    let all = || overlays.iter().flat_map(|overlay| SHAPES.map(|shape| Settings { overlay, shape }));
    let first = all().next().expect("there is one");
    let rig = Rig::start(name, topology, first);
    outside::an_island_that_nobody_outside_knows(&rig);
    outside::source_ports_are_drawn(&rig);
    rig.router("replace");
    outside::a_list_sees_pods_themselves(&rig, first);
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
