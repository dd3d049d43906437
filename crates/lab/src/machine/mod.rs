//! A machine of the lab: network, mount, host-name, IPC and process namespaces of its own, kept by an init process.
//!
//! What always holds: every process on a machine is in its process namespace, so killing init kills them all, as a
//! power cut would; init ends when the lab's process does, however that ends.

mod init;
mod lend;
mod process;
mod rootfs;

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Mutex, PoisonError};

use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::LabError;
pub(crate) use init::{inner_main, outer_main};
pub(crate) use process::exit_code;
pub use process::{Finished, Process};

/// Where a process on a machine gets its network from.
#[derive(Debug, Clone, Copy)]
pub enum Net<'a> {
    /// The machine's own network.
    Machine,
    /// A network namespace by its path inside the machine.
    At(&'a Path),
}

/// A running machine.
#[derive(Debug)]
pub struct Machine {
    name: String,
    /// Init's process id outside the machine.
    pid: Pid,
    net: File,
    mnt: File,
    uts: File,
    ipc: File,
    pid_ns: File,
    init: Mutex<Option<Child>>,
    /// Init reads this until its end; closing it takes the machine down.
    _lifeline: ChildStdin,
    processes: process::Registry,
}

impl Machine {
    /// Starts a machine: `tool` is a program that calls [`crate::tool::main`]; `directory` is the lab's own.
    pub fn start(name: &str, tool: &Path, directory: &Path) -> Result<Self, LabError> {
        let start = |why: String| LabError::Start { machine: name.into(), why };
        let mut child = Command::new(tool)
            .args([crate::tool::SUBCOMMAND, "machine", name])
            .arg(directory)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|e| start(format!("can't run {}: {e}", tool.display())))?;
        let (Some(lifeline), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
            unreachable!("both were asked to be piped")
        };
        let pid = match read_greeting(stdout) {
            Ok(pid) => pid,
            Err(why) => {
                drop(lifeline);
                // What it died of is in `why`.
                let _ = child.wait();
                return Err(start(why));
            }
        };
        let open = |kind: &str| {
            let path = PathBuf::from(format!("/proc/{pid}/ns/{kind}"));
            File::open(&path).map_err(LabError::file("open", path))
        };
        Ok(Self {
            name: name.into(),
            pid: Pid::from_raw(pid),
            net: open("net")?,
            mnt: open("mnt")?,
            uts: open("uts")?,
            ipc: open("ipc")?,
            pid_ns: open("pid")?,
            init: Mutex::new(Some(child)),
            _lifeline: lifeline,
            processes: process::Registry::default(),
        })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Init's process id, as seen from outside the machine.
    pub fn pid(&self) -> i32 {
        self.pid.as_raw()
    }

    /// Runs `body` in a thread that is on the machine: its network, files and host name.
    pub fn enter<T: Send>(&self, body: impl FnOnce() -> T + Send) -> Result<T, LabError> {
        self.in_thread(|| {
            self.join_all()?;
            Ok(body())
        })
    }

    /// Runs `body` in a thread that sees the machine's network and everything else of the lab's own process.
    pub fn enter_net<T: Send>(&self, body: impl FnOnce() -> T + Send) -> Result<T, LabError> {
        self.in_thread(|| {
            setns(&self.net, CloneFlags::CLONE_NEWNET)?;
            Ok(body())
        })
    }

    fn in_thread<T: Send>(&self, body: impl FnOnce() -> std::io::Result<T> + Send) -> Result<T, LabError> {
        let joined = std::thread::scope(|scope| scope.spawn(body).join());
        match joined {
            Ok(result) => result.map_err(|source| LabError::Enter { machine: self.name.clone(), source }),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }

    /// Joins this thread to the machine for good.
    fn join_all(&self) -> std::io::Result<()> {
        // A thread may change its mount namespace only when it shares root and working directory with nobody.
        unshare(CloneFlags::CLONE_FS)?;
        setns(&self.pid_ns, CloneFlags::CLONE_NEWPID)?;
        setns(&self.net, CloneFlags::CLONE_NEWNET)?;
        setns(&self.uts, CloneFlags::CLONE_NEWUTS)?;
        setns(&self.ipc, CloneFlags::CLONE_NEWIPC)?;
        setns(&self.mnt, CloneFlags::CLONE_NEWNS)?;
        Ok(())
    }

    /// Starts a process on the machine. It ends with the machine, or when the returned value is dropped.
    pub fn spawn(&self, mut command: Command, net: Net<'_>) -> Result<Process, LabError> {
        let child = self.in_thread(|| {
            self.join_all()?;
            if let Net::At(path) = net {
                setns(File::open(path)?, CloneFlags::CLONE_NEWNET)?;
            }
            command.spawn()
        });
        let child = child.map_err(|error| self.failed_to_run(&command, &error))?;
        Ok(self.processes.adopt(child))
    }

    fn failed_to_run(&self, command: &Command, error: &LabError) -> LabError {
        let program = command.get_program().to_string_lossy();
        let not_found = |source: &std::io::Error| source.kind() == std::io::ErrorKind::NotFound;
        match (error, package_of(&program)) {
            (LabError::Enter { source, .. }, Some((program, package))) if not_found(source) => {
                LabError::Missing { program, package }
            }
            _ => LabError::Command {
                machine: self.name.clone(),
                command: program.into_owned(),
                output: error.to_string(),
            },
        }
    }

    /// Runs a program to its end with `input` as its standard input.
    pub fn output(&self, mut command: Command, net: Net<'_>, input: &[u8]) -> Result<Finished, LabError> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let text = process::text_of(&command);
        let process = self.spawn(command, net)?;
        process.finish(input).map_err(|e| LabError::Command {
            machine: self.name.clone(),
            command: text,
            output: e.to_string(),
        })
    }

    /// Runs a program that must succeed, and returns what it wrote.
    pub fn run(&self, program: &str, arguments: &[&str]) -> Result<String, LabError> {
        self.run_with_input(program, arguments, "")
    }

    /// [`Machine::run`] with text as standard input.
    pub fn run_with_input(&self, program: &str, arguments: &[&str], input: &str) -> Result<String, LabError> {
        let mut command = Command::new(program);
        command.args(arguments);
        let text = process::text_of(&command);
        let finished = self.output(command, Net::Machine, input.as_bytes())?;
        finished.success_or(|output| LabError::Command { machine: self.name.clone(), command: text, output })
    }

    /// Writes kernel settings, each `net/ipv4/ip_forward` with its value.
    pub fn sysctl(&self, settings: &[(&str, &str)]) -> Result<(), LabError> {
        self.enter(|| {
            for (key, value) in settings {
                let path = Path::new("/proc/sys").join(key);
                std::fs::write(&path, value).map_err(LabError::file("write", path))?;
            }
            Ok(())
        })?
    }

    /// A file or directory of the machine as the lab's process sees it.
    pub fn path(&self, inside: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root/{}", self.pid, inside.trim_start_matches('/')))
    }

    /// Cuts the power: every process on the machine dies at once, nothing is cleaned up.
    pub fn kill(&self) {
        let Some(mut init) = self.init.lock().unwrap_or_else(PoisonError::into_inner).take() else { return };
        // It may have died by itself; then there is nobody to kill.
        let _ = kill(self.pid, Signal::SIGKILL);
        // The process namespace ends only when the parents of all its processes have taken note; for what we
        // started here, that is us.
        self.processes.reap_all();
        let _ = init.wait();
    }

    /// The numbers of its namespaces, by which [`crate::leftovers`] looks for them later.
    pub(crate) fn namespaces(&self) -> Vec<u64> {
        use std::os::unix::fs::MetadataExt;
        [&self.net, &self.mnt, &self.uts, &self.ipc, &self.pid_ns]
            .into_iter()
            .filter_map(|f| f.metadata().ok())
            .map(|m| m.ino())
            .collect()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Waits until init has said its process id and that it is ready, or what went wrong.
fn read_greeting(stdout: std::process::ChildStdout) -> Result<i32, String> {
    let (mut pid, mut ready) = (None, false);
    for line in BufReader::new(stdout).lines() {
        let line = line.map_err(|e| e.to_string())?;
        match line.split_once(' ').unwrap_or((&line, "")) {
            ("pid", number) => pid = number.parse().ok(),
            ("ready", _) => ready = true,
            ("error", why) => return Err(why.into()),
            _ => return Err(format!("init said {line:?}")),
        }
        if let (Some(pid), true) = (pid, ready) {
            return Ok(pid);
        }
    }
    Err("init ended before it was ready".into())
}

/// Debian's package for a program that the lab calls.
fn package_of(program: &str) -> Option<(&'static str, &'static str)> {
    let known = [("ip", "iproute2"), ("nft", "nftables"), ("iptables", "iptables"), ("iperf3", "iperf3")];
    known.into_iter().find(|(name, _)| *name == program)
}
