//! `cargo xtask e2e`: provides a Kubernetes and Weft's image, then hands over to the lab's program, which runs the cluster.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Result, ensure};

use crate::{image, kubernetes, packages, shell};

pub fn run(options: &[&str]) -> Result<()> {
    let mut e2e = Command::new(shell::target().join("debug/weft-lab"));
    e2e.arg("e2e").args(options).current_dir(shell::root());
    let help = options.iter().any(|o| matches!(*o, "--help" | "-h"));
    shell::must(shell::cargo().args(["build", "--quiet", "-p", "weft-lab"]))?;
    if help {
        return shell::must(&mut e2e);
    }
    ensure!(packages::is_root(), "a Kubernetes needs control groups: run this as root");
    packages::provide_for_cluster();
    let parts = kubernetes::parts()?;
    e2e.arg("--programs").arg(&parts.programs).arg("--images").arg(&parts.images);
    // Two images take twice the time to build: the quick form replaces one by itself.
    if !options.contains(&"--quick") {
        e2e.arg("--next").arg(image::provide_next()?);
    }
    e2e.arg("--image").arg(image::provide()?);
    e2e.arg("--logs").arg(logs());
    shell::must(&mut e2e)
}

fn logs() -> PathBuf {
    shell::target().join("e2e")
}
