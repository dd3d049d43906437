//! `cargo xtask e2e`: a real Kubernetes with Weft as its network, names and services, and what its users do with it.
//!
//! A list of named steps, as the demo has it. What always holds: Weft comes into the cluster as a user brings it, by
//! `deploy/kubernetes.yaml` and its image.

mod clients;
mod conformance;
mod leave;
mod options;
mod rig;
mod storm;
mod trouble;
mod weft;

use std::time::Instant;

use anyhow::Result;
use weft_lab::sandbox;

use crate::progress::Progress;
use options::{Ending, Options, USAGE};
use rig::Rig;

/// A step: what it shows, and the work. The text that it returns is its summary.
struct Step {
    name: &'static str,
    need: Need,
    run: fn(&mut Rig) -> Result<String>,
}

/// What a failed step means for those after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Need {
    /// Nothing makes sense without it.
    Vital,
    /// The others can go on.
    Single,
}

const fn step(name: &'static str, need: Need, run: fn(&mut Rig) -> Result<String>) -> Step {
    Step { name, need, run }
}

const STEPS: [Step; 13] = [
    step("start nodes", Need::Vital, Rig::start_nodes),
    step("install weft", Need::Vital, weft::install),
    step("probes", Need::Single, clients::probes),
    step("names and services", Need::Single, clients::names_and_services),
    step("port-forward", Need::Single, clients::port_forward),
    step("ports of nodes", Need::Single, clients::ports_of_nodes),
    step("conformance", Need::Single, conformance::run),
    step("upgrade", Need::Single, trouble::upgrade),
    step("storm", Need::Single, storm::run),
    step("outage", Need::Single, trouble::outage),
    step("reboot", Need::Single, trouble::reboot),
    step("status", Need::Single, weft::status),
    step("uninstall", Need::Single, leave::run),
];

/// Runs the steps. An error where anything wasn't as it must be.
pub fn run(arguments: &[&str]) -> Result<()> {
    if let ["--help" | "-h"] = arguments {
        print!("{USAGE}");
        return Ok(());
    }
    let options = Options::parse(arguments)?;
    sandbox::enter()?;
    let mut progress = Progress::new(Instant::now());
    let mut rig = None;
    let started = progress.step("start the control plane", || {
        let started = Rig::start(&options)?;
        let text = started.describe();
        rig = Some(started);
        Ok(text)
    });
    if let Some(mut rig) = rig.filter(|_| started) {
        walk(&options, &mut rig, &mut progress);
        if options.ending == Ending::Keep {
            rig.invite()?;
        }
        progress.step("take down", || rig.close());
    }
    progress.summary()
}

fn walk(options: &Options, rig: &mut Rig, progress: &mut Progress) {
    // The shop that `probes` opens is what most steps work with.
    let wanted = |s: &&Step| {
        options.only.is_empty()
            || s.need == Need::Vital
            || s.name == "probes"
            || options.only.iter().any(|name| name == s.name)
    };
    for step in STEPS.iter().filter(wanted) {
        let good = progress.step(step.name, || (step.run)(rig));
        rig.take_tables().iter().for_each(|table| progress.table(table));
        if !good && step.need == Need::Vital {
            progress.table(&rig.last_words());
            return;
        }
    }
}
