//! `cargo xtask demo`: builds Weft, then hands over to the lab's program, which runs and shows the demo.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use crate::plugin::{self, Libc};
use crate::{packages, shell};

pub fn run(options: &[&str]) -> Result<()> {
    packages::provide();
    build_release()?;
    shell::must(command(&shell::target().join("release")).args(options))
}

/// Builds the programs that demo and benchmarks run, as a package would have them.
pub fn build_release() -> Result<()> {
    eprintln!("building (release)…");
    shell::must(shell::cargo().args(["build", "--release", "--quiet", "-p", "weft", "-p", "weft-lab"]))?;
    plugin::build(None, Libc::MuslIfPossible)?;
    Ok(())
}

/// How a demo went.
pub enum Outcome {
    Passed,
    Failed,
    /// The system allows no namespaces.
    Skipped,
}

/// Exit status by which the lab's program says that it can't run here.
const CANNOT_RUN_HERE: i32 = 77;

/// Runs the short demo with the programs that `cargo build` has made, and this plugin.
pub fn run_short(plugin: Option<&Path>) -> Result<Outcome> {
    let mut demo = command(&shell::target().join("debug"));
    demo.arg("--short").envs(plugin.map(|path| (plugin::IN_TESTS, path)));
    let status = demo.status().context("can't run the demo")?;
    Ok(match status.code() {
        Some(0) => Outcome::Passed,
        Some(CANNOT_RUN_HERE) => {
            println!("SKIPPED: the short demo: no namespaces");
            Outcome::Skipped
        }
        _ => Outcome::Failed,
    })
}

fn command(programs: &Path) -> Command {
    let mut demo = Command::new(programs.join("weft-lab"));
    demo.arg("demo").arg("--programs").arg(programs).current_dir(shell::root());
    demo
}
