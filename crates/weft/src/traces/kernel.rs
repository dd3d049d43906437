//! Weft's objects in the kernel: which are there, and their removal.

use std::path::Path;

use anyhow::{Result, anyhow};
use weft_dataplane::{KernelError, LinuxKernel};

/// What an uninstall did to the kernel: lines for people.
#[derive(Debug, Default)]
pub struct Outcome {
    /// What is gone.
    pub removed: Vec<String>,
    /// What is still there, and why.
    pub left: Vec<String>,
}

/// Removes every object of ours, openings in other firewalls among them, and puts sysctls back.
pub fn uninstall(state_dir: &Path) -> Result<Outcome> {
    let before = leftovers(state_dir)?;
    let failed = open(state_dir)?.uninstall().map_err(|error| unasked(&error))?.failed;
    let mut left = leftovers(state_dir)?;
    let removed = before.into_iter().filter(|line| !left.contains(line)).collect();
    // What failed and is gone all the same (a sysctl of a link that went) needs no mending.
    if !left.is_empty() {
        left.extend(failed.iter().map(|(_, error)| format!("because: {error}")));
    }
    Ok(Outcome { removed, left })
}

/// What is there of ours.
pub fn leftovers(state_dir: &Path) -> Result<Vec<String>> {
    open(state_dir)?.leftovers().map_err(|error| unasked(&error))
}

fn open(state_dir: &Path) -> Result<LinuxKernel> {
    LinuxKernel::open(state_dir).map_err(|error| unasked(&error))
}

fn unasked(error: &KernelError) -> anyhow::Error {
    match nix::unistd::geteuid().is_root() {
        true => anyhow!("can't see what of Weft is in the kernel: {error}"),
        false => {
            anyhow!("can't see what of Weft is in the kernel: {error}; run as root: sudo weft uninstall")
        }
    }
}
