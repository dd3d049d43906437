//! The init process of a machine.
//!
//! Two processes: the outer one makes the namespaces and stays as their parent, because a process can't move
//! itself into a process namespace; the inner one is process 1 there, builds the machine's file system, and waits
//! until the lab closes its end of standard input.

use std::io::Read;
use std::path::Path;
use std::process::{Command, ExitCode};

use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl;
use nix::sys::signal::{SigHandler, Signal, signal};
use nix::unistd::sethostname;

use super::{process, rootfs};

/// `machine NAME DIRECTORY`: makes the namespaces and starts the inner process.
pub(crate) fn outer_main(name: &str, directory: &Path) -> ExitCode {
    match outer(name, directory) {
        Ok(code) => code,
        Err(why) => say_error(&why),
    }
}

fn outer(name: &str, directory: &Path) -> Result<ExitCode, String> {
    let flags = CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWNET
        | CloneFlags::CLONE_NEWUTS
        | CloneFlags::CLONE_NEWIPC
        | CloneFlags::CLONE_NEWPID;
    unshare(flags)
        .map_err(|e| format!("can't make namespaces: {e}; run as root or through `sandbox::enter`"))?;
    let program = std::env::current_exe().map_err(|e| format!("can't find this program: {e}"))?;
    let mut inner = Command::new(program)
        .args([crate::tool::SUBCOMMAND, "machine-init", name])
        .arg(directory)
        .spawn()
        .map_err(|e| format!("can't start process 1: {e}"))?;
    println!("pid {}", inner.id());
    let status = inner.wait().map_err(|e| format!("can't wait for process 1: {e}"))?;
    Ok(ExitCode::from(process::exit_code(status)))
}

/// `machine-init NAME DIRECTORY`: process 1 of the machine.
pub(crate) fn inner_main(name: &str, directory: &Path) -> ExitCode {
    match prepare(name, directory) {
        Ok(()) => println!("ready"),
        Err(why) => return say_error(&why),
    }
    // The end of standard input is the end of the machine. An error means the same: nobody is there any more.
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
    ExitCode::SUCCESS
}

fn prepare(name: &str, directory: &Path) -> Result<(), String> {
    prctl::set_pdeathsig(Signal::SIGKILL).map_err(|e| format!("can't tie process 1 to its parent: {e}"))?;
    ignore_ended_children()?;
    sethostname(name).map_err(|e| format!("can't set the host name: {e}"))?;
    rootfs::build(name, directory)
}

/// Orphans of the machine end up as children of process 1; the kernel clears them away unasked.
#[allow(unsafe_code)]
fn ignore_ended_children() -> Result<(), String> {
    // SAFETY: SIG_IGN installs no handler function.
    unsafe { signal(Signal::SIGCHLD, SigHandler::SigIgn) }
        .map_err(|e| format!("can't ignore SIGCHLD: {e}"))?;
    Ok(())
}

fn say_error(why: &str) -> ExitCode {
    println!("error {why}");
    ExitCode::FAILURE
}
