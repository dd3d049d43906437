//! Docker for the tests beside it: Debian's packages, unpacked into `target/peers/docker` and never installed, because an
//! installed daemon starts at once, and turns the firewall of whoever tests.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use crate::{packages, shell};

/// The daemon, what it calls, and a program for its containers that needs nothing else.
const PACKAGES: [&str; 5] = ["docker.io", "containerd", "runc", "libdevmapper1.02.1", "busybox-static"];

/// Fetches and unpacks it where it isn't there yet; says so where that can't be done. The tests then skip.
pub fn provide() {
    // Without root there is no Docker, and nothing to be fetched for.
    let top = shell::target().join("peers").join("docker");
    if top.exists() || !packages::is_root() {
        return;
    }
    eprintln!("fetching {} (once)…", PACKAGES.join(", "));
    if let Err(error) = unpack(&top) {
        eprintln!("Docker can't be had, and what needs it is skipped: {error:#}; try `apt-get update`");
    }
}

/// All of it beside its place, before it is put there.
fn unpack(top: &Path) -> Result<()> {
    let new = top.with_extension(format!("new{}", std::process::id()));
    std::fs::create_dir_all(&new).with_context(|| format!("can't make {}", new.display()))?;
    let whole = fetch(&new)
        .and_then(|()| std::fs::rename(&new, top).with_context(|| format!("can't make {}", top.display())));
    if whole.is_err() {
        // Whatever came of it is of no use; the error says what was wrong.
        let _ = std::fs::remove_dir_all(&new);
    }
    whole
}

fn fetch(folder: &Path) -> Result<()> {
    let mut download = Command::new("apt-get");
    shell::must(download.args(["download", "--quiet"]).args(PACKAGES).current_dir(folder))?;
    let fetched = std::fs::read_dir(folder)?.flatten().map(|entry| entry.path());
    for archive in fetched.filter(|path| path.extension().is_some_and(|end| end == "deb")) {
        shell::must(Command::new("dpkg-deb").arg("--extract").arg(&archive).arg(folder))?;
        std::fs::remove_file(&archive)?;
    }
    Ok(())
}
