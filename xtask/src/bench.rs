//! `cargo xtask bench NAME`: builds Weft, then hands over to the lab's program, which measures and prints a table.

use std::process::Command;

use anyhow::Result;

use crate::{demo, packages, shell};

pub fn run(options: &[&str]) -> Result<()> {
    packages::provide();
    demo::build_release()?;
    let programs = shell::target().join("release");
    shell::must(Command::new(programs.join("weft-lab")).arg("bench").args(options).current_dir(shell::root()))
}
