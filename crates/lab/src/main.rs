//! The lab's program: the demo, the lab's own processes, an empty lab, and commands inside one.

use std::io::Read;
use std::process::ExitCode;

use anyhow::Context;
use weft_lab::{Lab, LabError, Tool, Topology, sandbox, tool};

mod bench;
mod demo;
mod e2e;
mod progress;
mod steps;

const USAGE: &str = "\
Usage: weft-lab demo [--short] [--keep] a cluster of three nodes, shown and tested
       weft-lab bench cni|dataplane|scale|services  measurements beside peers
       weft-lab e2e                     a real Kubernetes with Weft (`cargo xtask e2e --help`)
       weft-lab up [routed|one-link]    start machines without agents, until standard input ends
       weft-lab list                    what runs in a lab
       weft-lab exec NAME -- COMMAND    run a command on a machine or in a pod
";

/// Exit status where this system allows no lab at all, as test harnesses have it for "skipped".
const CANNOT_RUN_HERE: u8 = 77;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = match words.as_slice() {
        [tool::SUBCOMMAND, ..] => return tool::main(&arguments[1..]),
        ["up"] | ["up", "routed"] => up(Topology::routed()),
        ["up", "one-link"] => up(Topology::one_link(3)),
        ["demo", options @ ..] => demo::run(options),
        ["e2e", options @ ..] => e2e::run(options),
        ["bench", options @ ..] => bench::run(options),
        ["exec" | "list", ..] => return weft_lab::exec_main(&arguments),
        _ => {
            eprint!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("weft-lab: {error:#}");
            match error.downcast_ref() {
                Some(LabError::Namespaces(_)) => ExitCode::from(CANNOT_RUN_HERE),
                _ => ExitCode::FAILURE,
            }
        }
    }
}

fn up(topology: Topology) -> anyhow::Result<()> {
    sandbox::enter()?;
    let names: Vec<_> = topology.machines.iter().map(|m| m.name.clone()).collect();
    let lab = Lab::new("up", topology, Tool::current()?)?;
    println!("running: {}; `weft lab exec --lab up NAME` enters one; end with Ctrl-D", names.join(", "));
    std::io::stdin().read_to_end(&mut Vec::new()).context("can't wait for the end of standard input")?;
    println!("{}", lab.close()?);
    Ok(())
}
