//! The private namespaces that a lab lives in.
//!
//! As root a lab gets a mount and a network namespace of its own; as an ordinary user, a user namespace first, in
//! which it is root. What always holds: the machine's own network and mounts are never touched, and what a lab
//! makes vanishes with its last process.
//!
//! Tests enter through [`in_sandbox`], which runs the calling test again in a child process; programs with one
//! thread call [`enter`].

use std::ffi::CString;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::fcntl::{OFlag, open};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::Mode;
use nix::unistd::{getegid, geteuid, write};

use crate::LabError;

/// Set in the environment of processes that are inside a sandbox already.
const INSIDE: &str = "WEFT_LAB_SANDBOX";

/// What [`enter`] writes to become root in a user namespace; made before the namespace exists, because only the
/// outer identity is worth mapping.
struct Identity {
    user: CString,
    group: CString,
    ordinary: OrdinaryUser,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum OrdinaryUser {
    Yes,
    No,
}

impl Identity {
    fn current() -> Self {
        let map = |id: u32| CString::new(format!("0 {id} 1\n")).unwrap_or_default();
        let ordinary = if geteuid().is_root() { OrdinaryUser::No } else { OrdinaryUser::Yes };
        Self { user: map(geteuid().as_raw()), group: map(getegid().as_raw()), ordinary }
    }

    /// Makes the namespaces. Allocates nothing, so that it may run between fork and exec.
    fn unshare(&self) -> io::Result<()> {
        let mut flags = CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET;
        if self.ordinary == OrdinaryUser::Yes {
            flags |= CloneFlags::CLONE_NEWUSER;
        }
        unshare(flags)?;
        if self.ordinary == OrdinaryUser::Yes {
            write_once(c"/proc/self/setgroups", c"deny")?;
            write_once(c"/proc/self/uid_map", &self.user)?;
            write_once(c"/proc/self/gid_map", &self.group)?;
        }
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)?;
        Ok(())
    }
}

fn write_once(path: &std::ffi::CStr, text: &std::ffi::CStr) -> io::Result<()> {
    let file = open(path, OFlag::O_WRONLY | OFlag::O_CLOEXEC, Mode::empty())?;
    write(&file, text.to_bytes())?;
    Ok(())
}

/// Moves this process, which must have one thread only, into fresh namespaces. Does nothing where it is in a
/// sandbox already.
pub fn enter() -> Result<(), LabError> {
    if std::env::var_os(INSIDE).is_some() {
        return Ok(());
    }
    Identity::current().unshare().map_err(LabError::Namespaces)?;
    mark_inside();
    Ok(())
}

#[allow(unsafe_code)]
fn mark_inside() {
    // SAFETY: `enter` is for processes with one thread (the kernel refuses a user namespace to any other), so
    // nobody reads the environment meanwhile.
    unsafe { std::env::set_var(INSIDE, "1") };
}

/// Runs `body` inside a sandbox: starts the current test program again for the test called `test` (its full path,
/// as the harness prints it) in fresh namespaces. Where namespaces aren't allowed it prints a `SKIPPED:` line.
///
/// Panics where the test fails, or where no test has that name.
pub fn in_sandbox(test: &str, body: impl FnOnce()) {
    if std::env::var_os(INSIDE).is_some() {
        return body();
    }
    match rerun(test) {
        Ok((text, success)) => {
            // Set in, so that nobody takes the inner harness's lines for the outer one's.
            text.lines().for_each(|line| println!("  | {line}"));
            assert!(success && text.contains("1 passed"), "{test} failed in its sandbox");
        }
        Err(error) => println!("SKIPPED: {test}: {}", LabError::Namespaces(error)),
    }
}

#[allow(unsafe_code)]
fn rerun(test: &str) -> io::Result<(String, bool)> {
    let identity = Identity::current();
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["--exact", test, "--nocapture", "--test-threads=1"]).env(INSIDE, "1");
    // SAFETY: the closure only makes system calls, with memory that was allocated before the fork.
    unsafe { command.pre_exec(move || identity.unshare()) };
    let output = command.output()?;
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    Ok((text, output.status.success()))
}

/// The user that owns the lab as the machine outside sees it.
pub(crate) fn outer_uid() -> u32 {
    // "0 1000 1": inside 0 is outside 1000. In the machine's own user namespace the map is the identity.
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    let mut fields = map.split_whitespace().map(|f| f.parse::<u32>().unwrap_or(0));
    let (inside, outside) = (fields.next().unwrap_or(0), fields.next().unwrap_or(0));
    geteuid().as_raw() - inside + outside
}
