//! The demo: a cluster of three nodes with a small application, what works in it, what it survives, and its end.
//!
//! A list of named steps, each with an outcome; `cargo xtask test` runs the short form of the same list.

mod checks;
mod cluster;
mod matrix;
mod services;
mod trouble;

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use weft_lab::sandbox;

use crate::progress::Progress;
use cluster::Cluster;

/// Help text of the subcommand.
pub const USAGE: &str = "\
Usage: cargo xtask demo [--short] [--keep]

  --short   leave out the node that dies and the measurements
  --keep    leave the cluster up until Enter is pressed, and print the commands to look around
";

/// How much is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Length {
    Short,
    Full,
}

/// What happens after the last check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    TakeDown,
    Keep,
}

struct Options {
    programs: PathBuf,
    length: Length,
    ending: Ending,
}

impl Options {
    fn parse(arguments: &[&str]) -> Result<Self> {
        let here = std::env::current_exe().context("can't find this program")?;
        let folder = here.parent().map(PathBuf::from).unwrap_or_default();
        let mut options = Self { programs: folder, length: Length::Full, ending: Ending::TakeDown };
        let mut rest = arguments.iter();
        while let Some(argument) = rest.next() {
            match *argument {
                "--short" => options.length = Length::Short,
                "--keep" => options.ending = Ending::Keep,
                "--programs" => options.programs = rest.next().context("--programs needs a folder")?.into(),
                other => bail!("I don't know the option {other}.\n\n{USAGE}"),
            }
        }
        Ok(options)
    }
}

/// A step: what it shows, and the work. The text that it returns is its summary.
struct Step {
    name: &'static str,
    run: fn(&mut Cluster) -> Result<String>,
    need: Need,
    length: Length,
}

/// What a failed step means for those after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Need {
    /// Nothing makes sense without it.
    Vital,
    /// The others can go on.
    Single,
}

const fn step(
    name: &'static str,
    need: Need,
    length: Length,
    run: fn(&mut Cluster) -> Result<String>,
) -> Step {
    Step { name, run, need, length }
}

const STEPS: [Step; 14] = [
    step("start machines", Need::Vital, Length::Short, Cluster::start_machines),
    step("start agents", Need::Vital, Length::Short, Cluster::start_agents),
    step("attach pods", Need::Vital, Length::Short, Cluster::attach_pods),
    step("status of nodes", Need::Single, Length::Short, checks::status),
    step("reachability matrix", Need::Single, Length::Short, matrix::compare),
    step("names", Need::Single, Length::Short, checks::names),
    step("mapped ports", Need::Single, Length::Short, checks::mapped_ports),
    step("services", Need::Single, Length::Short, services::services),
    step("the internet", Need::Single, Length::Short, checks::internet),
    step("agent killed", Need::Single, Length::Short, trouble::agent_killed),
    step("node dies", Need::Vital, Length::Full, trouble::node_dies),
    step("node returns", Need::Single, Length::Full, trouble::node_returns),
    step("speed of ADD", Need::Single, Length::Full, checks::speed_of_add),
    step("speed of packets", Need::Single, Length::Full, checks::speed_of_packets),
];

/// Runs the demo. An error where anything wasn't as it must be.
pub fn run(arguments: &[&str]) -> Result<()> {
    if let ["--help" | "-h"] = arguments {
        print!("{USAGE}");
        return Ok(());
    }
    let options = Options::parse(arguments)?;
    sandbox::enter()?;
    let start = Instant::now();
    let mut progress = Progress::new(start);
    let mut cluster = Cluster::new(&options.programs)?;
    for step in STEPS.iter().filter(|s| options.length == Length::Full || s.length == Length::Short) {
        let good = progress.step(step.name, || (step.run)(&mut cluster));
        cluster.take_tables().iter().for_each(|table| progress.table(table));
        if !good && step.need == Need::Vital {
            progress.table(&cluster.last_words());
            break;
        }
    }
    if options.ending == Ending::Keep {
        cluster.invite()?;
    }
    progress.step("take down", || cluster.take_down());
    progress.step("nothing is left", || cluster.close());
    progress.summary()
}
