//! Processes that the lab has started on a machine, and their end.

use std::io::{self, Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus};
use std::sync::{Arc, Mutex, PoisonError, Weak, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// How long a program that is waited for may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// A process on a machine; killed when dropped.
#[derive(Debug)]
pub struct Process {
    /// `None` once its end has been taken note of.
    child: Arc<Mutex<Option<Child>>>,
    pid: i32,
    /// Its standard input, where that was piped.
    pub stdin: Option<ChildStdin>,
    /// Its standard output, where that was piped.
    pub stdout: Option<ChildStdout>,
    stderr: Option<std::process::ChildStderr>,
}

/// What a finished program has left.
#[derive(Debug)]
pub struct Finished {
    /// How it ended.
    pub status: ExitStatus,
    /// What it wrote to standard output.
    pub stdout: Vec<u8>,
    /// What it wrote to standard error.
    pub stderr: Vec<u8>,
}

impl Finished {
    /// Its standard output, or an error made from the exit status and all that it wrote.
    pub fn success_or<E>(self, error: impl FnOnce(String) -> E) -> Result<String, E> {
        let stdout = String::from_utf8_lossy(&self.stdout);
        if self.status.success() {
            return Ok(stdout.into_owned());
        }
        let stderr = String::from_utf8_lossy(&self.stderr);
        Err(error(format!("{}; {} {}", self.status, stderr.trim(), stdout.trim())))
    }
}

impl Process {
    /// Its process id, as seen from outside the machine.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Whether it is still running.
    pub fn is_running(&self) -> bool {
        let mut child = self.child.lock().unwrap_or_else(PoisonError::into_inner);
        child.as_mut().is_some_and(|c| matches!(c.try_wait(), Ok(None)))
    }

    /// How it ended, if it has, and hasn't been killed from here.
    pub fn ended(&self) -> Option<ExitStatus> {
        let mut child = self.child.lock().unwrap_or_else(PoisonError::into_inner);
        child.as_mut().and_then(|c| c.try_wait().ok().flatten())
    }

    /// Sends it a signal; nothing happens where it has ended.
    pub fn signal(&self, signal: Signal) {
        // While the child is unreaped its number can't belong to anybody else.
        if self.is_running() {
            let _ = kill(Pid::from_raw(self.pid), signal);
        }
    }

    /// Kills it, as kill -9 does, and waits for its end.
    pub fn kill(&self) {
        end(&self.child);
    }

    /// Asks it to end (SIGTERM), and waits for it up to `patience`; then kills it. Returns whether it ended by
    /// itself.
    pub fn terminate(&self, patience: Duration) -> bool {
        self.signal(Signal::SIGTERM);
        let deadline = Instant::now() + patience;
        while self.is_running() && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(10));
        }
        let ended = !self.is_running();
        self.kill();
        ended
    }

    /// Feeds it `input`, reads what it writes, and waits for its end; kills it after [`PATIENCE`].
    pub fn finish(mut self, input: &[u8]) -> io::Result<Finished> {
        let (stdin, stdout, stderr) = (self.stdin.take(), self.stdout.take(), self.stderr.take());
        let (over, wait_over) = mpsc::channel::<()>();
        let child = &self.child;
        thread::scope(|scope| {
            scope.spawn(move || {
                if let Some(mut stdin) = stdin {
                    // A program may end without reading all of its input; its exit status says how it went.
                    let _ = stdin.write_all(input);
                }
            });
            scope.spawn(move || {
                if wait_over.recv_timeout(PATIENCE) == Err(mpsc::RecvTimeoutError::Timeout)
                    && let Some(child) = child.lock().unwrap_or_else(PoisonError::into_inner).as_mut()
                {
                    // Fails only where it has just ended.
                    let _ = child.kill();
                }
            });
            let errors = scope.spawn(move || read_all(stderr));
            let stdout = read_all(stdout);
            let stderr = errors.join().unwrap_or_else(|_| Err(io::Error::other("the reader failed")));
            let ended = child.lock().unwrap_or_else(PoisonError::into_inner).take();
            let status = ended.ok_or_else(|| io::Error::other("it was killed"))?.wait()?;
            drop(over);
            Ok(Finished { status, stdout: stdout?, stderr: stderr? })
        })
    }
}

fn read_all(stream: Option<impl Read>) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    if let Some(mut stream) = stream {
        stream.read_to_end(&mut bytes)?;
    }
    Ok(bytes)
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

fn end(child: &Mutex<Option<Child>>) {
    if let Some(mut child) = child.lock().unwrap_or_else(PoisonError::into_inner).take() {
        // Both fail only where it has ended already.
        let _ = child.kill();
        let _ = child.wait();
    }
}

/// The processes of a machine, so that all of them can be waited for.
#[derive(Debug, Default)]
pub(super) struct Registry(Mutex<Vec<Weak<Mutex<Option<Child>>>>>);

impl Registry {
    pub(super) fn adopt(&self, mut child: Child) -> Process {
        let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let pid = child.id().cast_signed();
        let child = Arc::new(Mutex::new(Some(child)));
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|c| c.strong_count() > 0);
        all.push(Arc::downgrade(&child));
        Process { child, pid, stdin, stdout, stderr }
    }

    /// Takes note of the end of every process, killing those that still run.
    pub(super) fn reap_all(&self) {
        let all = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        all.iter().filter_map(Weak::upgrade).for_each(|c| end(&c));
    }
}

/// A command as a person would type it.
pub(super) fn text_of(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|w| w.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

/// Exit code of a program, with 128 + signal where a signal ended it, as shells say it.
pub(crate) fn exit_code(status: ExitStatus) -> u8 {
    let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
    u8::try_from(code).unwrap_or(1)
}
