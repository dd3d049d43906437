//! A network namespace of its own for one test: the test's thread moves into it, and what it starts is in it too.

use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;

use nix::sched::{CloneFlags, unshare};

/// Runs a test's body on a thread in a fresh network namespace; without the right to make one, says so and returns.
pub fn inside(name: &str, body: impl FnOnce() + Send) {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| match unshare(CloneFlags::CLONE_NEWNET) {
            Ok(()) => {
                run("ip", &["link", "set", "lo", "up"]);
                body();
            }
            Err(error) => {
                // Written past the harness's capture, so that it is seen.
                let _ = writeln!(
                    std::io::stderr(),
                    "SKIPPED: {name}: no network namespace can be made: {error}; run as root"
                );
            }
        });
        if let Err(panic) = thread.join() {
            std::panic::resume_unwind(panic);
        }
    });
}

type Job = Box<dyn FnOnce() + Send>;

/// A thread in a network namespace of its own, beside the test's: a pod, or a host outside.
pub struct Peer {
    jobs: Option<Sender<Job>>,
    thread: Option<JoinHandle<()>>,
    /// The thread's number: `ip link set … netns NUMBER` moves a link to it.
    pub id: i32,
}

impl Peer {
    /// Starts one.
    pub fn start() -> Self {
        let (jobs, work) = channel::<Job>();
        let (tell, told) = channel();
        let thread = std::thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            tell.send(nix::unistd::gettid().as_raw()).unwrap();
            for job in work {
                job();
            }
        });
        Self { jobs: Some(jobs), thread: Some(thread), id: told.recv().unwrap() }
    }

    /// Runs a piece of work there, and waits for its result.
    pub fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let (tell, told) = channel();
        let job: Job = Box::new(move || drop(tell.send(work())));
        self.jobs.as_ref().unwrap().send(job).unwrap();
        told.recv().expect("the work panicked: see above")
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Runs a command and returns what it printed; a failure of it fails the test.
pub fn run(program: &str, arguments: &[&str]) -> String {
    pipe(program, arguments, "")
}

/// The same, with this text as its input.
pub fn pipe(program: &str, arguments: &[&str], input: &str) -> String {
    let (success, out, error) = attempt(program, arguments, input);
    assert!(success, "{program} {arguments:?}: {error}\ninput:\n{input}");
    out
}

/// The same, and whether it succeeded, and what it complained of.
pub fn attempt(program: &str, arguments: &[&str], input: &str) -> (bool, String, String) {
    let mut child = Command::new(program)
        .args(arguments)
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("can't start {program}: {error}; is its package installed?"));
    let mut pipe = child.stdin.take().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(move || pipe.write_all(input.as_bytes()));
        let output = child.wait_with_output().unwrap();
        (
            output.status.success(),
            String::from_utf8_lossy(&output.stdout).into_owned(),
            String::from_utf8_lossy(&output.stderr).into_owned(),
        )
    })
}

/// What nft lists.
pub fn listing() -> String {
    run("nft", &["list", "ruleset"])
}
