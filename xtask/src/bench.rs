//! `cargo xtask bench NAME`: builds Weft, then hands over to the lab's program, which measures and prints a table.

use std::process::Command;

use anyhow::Result;

use crate::{demo, kubernetes, packages, shell};

pub fn run(options: &[&str]) -> Result<()> {
    packages::provide();
    demo::build_release()?;
    let programs = shell::target().join("release");
    let mut bench = Command::new(programs.join("weft-lab"));
    bench.arg("bench").args(options).current_dir(shell::root());
    if wants_kube_proxy(options) {
        match kubernetes::kube_proxy() {
            Ok(program) => {
                bench.arg("--kube-proxy").arg(program);
            }
            Err(error) => eprintln!("NO PEER: kube-proxy can't be had, its columns stay empty: {error:#}"),
        }
    }
    if options.first() == Some(&"kubernetes") && !options.iter().any(|o| matches!(*o, "--help" | "-h")) {
        bench.env(kubernetes::PROGRAMS, kubernetes::parts()?.programs);
    }
    shell::must(&mut bench)
}

fn wants_kube_proxy(options: &[&str]) -> bool {
    options.first() == Some(&"services")
        && !options.iter().any(|o| matches!(*o, "--no-peer" | "--kube-proxy" | "--help" | "-h"))
}
