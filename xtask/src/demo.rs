//! `cargo xtask demo`: builds Weft, then hands over to the lab's program, which runs and shows the demo.

use anyhow::Result;

use crate::{packages, shell};

pub fn run(options: &[&str]) -> Result<()> {
    packages::provide();
    eprintln!("building (release)…");
    shell::must(shell::cargo().args([
        "build",
        "--release",
        "--quiet",
        "-p",
        "weft",
        "-p",
        "weft-cni",
        "-p",
        "weft-lab",
    ]))?;
    let programs = shell::target().join("release");
    let mut demo = std::process::Command::new(programs.join("weft-lab"));
    demo.arg("demo").arg("--programs").arg(&programs).args(options).current_dir(shell::root());
    shell::must(&mut demo)
}
