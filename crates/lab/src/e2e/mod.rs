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
use crate::steps::{Need, Stage, Step, step, walk};
use options::{Ending, Options, USAGE};
use rig::Rig;

const STEPS: [Step<Rig>; 13] = [
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

impl Stage for Rig {
    fn take_tables(&mut self) -> Vec<String> {
        self.take_tables()
    }

    fn last_words(&self) -> String {
        self.last_words()
    }
}

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
        // The shop that `probes` opens is what most steps work with.
        let wanted = |s: &&Step<Rig>| {
            options.only.is_empty()
                || s.need == Need::Vital
                || s.name == "probes"
                || options.only.iter().any(|name| name == s.name)
        };
        walk(STEPS.iter().filter(wanted), &mut rig, &mut progress);
        if options.ending == Ending::Keep {
            rig.invite()?;
        }
        progress.step("take down", || rig.close());
    }
    progress.summary()
}
