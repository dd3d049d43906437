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
use crate::steps::{Need, Stage, Step, step, walk};
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

/// The steps, and whether the short form has them.
const STEPS: [(Length, Step<Cluster>); 14] = [
    (Length::Short, step("start machines", Need::Vital, Cluster::start_machines)),
    (Length::Short, step("start agents", Need::Vital, Cluster::start_agents)),
    (Length::Short, step("attach pods", Need::Vital, Cluster::attach_pods)),
    (Length::Short, step("status of nodes", Need::Single, checks::status)),
    (Length::Short, step("reachability matrix", Need::Single, matrix::compare)),
    (Length::Short, step("names", Need::Single, checks::names)),
    (Length::Short, step("mapped ports", Need::Single, checks::mapped_ports)),
    (Length::Short, step("services", Need::Single, services::services)),
    (Length::Short, step("the internet", Need::Single, checks::internet)),
    (Length::Short, step("agent killed", Need::Single, trouble::agent_killed)),
    (Length::Full, step("node dies", Need::Vital, trouble::node_dies)),
    (Length::Full, step("node returns", Need::Single, trouble::node_returns)),
    (Length::Full, step("speed of ADD", Need::Single, checks::speed_of_add)),
    (Length::Full, step("speed of packets", Need::Single, checks::speed_of_packets)),
];

impl Stage for Cluster {
    fn take_tables(&mut self) -> Vec<String> {
        self.take_tables()
    }

    fn last_words(&self) -> String {
        self.last_words()
    }
}

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
    let wanted = |(length, _): &&(Length, _)| options.length == Length::Full || *length == Length::Short;
    walk(STEPS.iter().filter(wanted).map(|(_, step)| step), &mut cluster, &mut progress);
    if options.ending == Ending::Keep {
        cluster.invite()?;
    }
    progress.step("take down", || cluster.take_down());
    progress.step("nothing is left", || cluster.close());
    progress.summary()
}
