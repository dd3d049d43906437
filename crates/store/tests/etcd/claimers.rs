//! Nodes as processes of their own, which a test stops and lets go on; and what they believed.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// A node relied on a block.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Belief {
    /// When, in nanoseconds since the machine's start.
    pub at: u128,
    /// Until when it would.
    pub until: u128,
    pub node: usize,
    pub block: String,
}

struct Claimer {
    process: Child,
    said: PathBuf,
    /// By how much its clock is ahead of this machine's.
    ahead: Duration,
}

/// See the module.
pub struct Claimers(Vec<Claimer>);

impl Claimers {
    /// Starts them, each with a clock of its own where the kernel has time namespaces.
    pub fn start(count: usize, folder: &Path, endpoints: &[String], lease_seconds: u64) -> Self {
        let program = build();
        let has_clocks = has_clocks();
        if !has_clocks {
            println!(
                "SKIPPED: nodes with clocks of their own: `unshare --time` needs root and a newer kernel"
            );
        }
        let start = |i| {
            let said = folder.join(format!("claimer-{i}"));
            // Machines were started at different times: hours and days before this one.
            let ahead = Duration::from_secs(if has_clocks { 40_009 * i as u64 } else { 0 });
            let seconds = ahead.as_secs().to_string();
            let mut command = match has_clocks {
                true => {
                    let mut command = Command::new("unshare");
                    command.args(["--time", "--boottime", &seconds, "--monotonic", &seconds, "--"]);
                    command.arg(&program);
                    command
                }
                false => Command::new(&program),
            };
            let process = command
                .args([&endpoints.join(","), "/claims", &format!("n{i}"), &lease_seconds.to_string()])
                .stdin(Stdio::null())
                .stdout(File::create(&said).unwrap())
                .spawn()
                .unwrap_or_else(|error| panic!("{}: {error}", program.display()));
            Claimer { process, said, ahead }
        };
        Self((0..count).map(start).collect())
    }

    fn signal(&self, i: usize, signal: Signal) {
        kill(Pid::from_raw(self.0[i].process.id().cast_signed()), signal).unwrap();
    }

    pub fn freeze(&self, i: usize) {
        self.signal(i, Signal::SIGSTOP);
    }

    pub fn thaw(&self, i: usize) {
        self.signal(i, Signal::SIGCONT);
    }

    /// All that was believed until now.
    pub fn beliefs(&self) -> Vec<Belief> {
        let mut beliefs = Vec::new();
        for (node, claimer) in self.0.iter().enumerate() {
            let said = std::fs::read_to_string(&claimer.said).unwrap();
            // The last line may be half written.
            let whole = said.rsplit_once('\n').map_or("", |(whole, _)| whole);
            for line in whole.lines() {
                let mut words = line.split(' ');
                let mut word = || words.next().unwrap();
                let block = word().to_owned();
                let by_ours = |number: &str| number.parse::<u128>().unwrap() - claimer.ahead.as_nanos();
                let [at, until] = [word(), word()].map(by_ours);
                beliefs.push(Belief { at, until, node, block });
            }
        }
        beliefs.sort();
        beliefs
    }
}

impl Drop for Claimers {
    fn drop(&mut self) {
        for claimer in &mut self.0 {
            let _ = claimer.process.kill();
            let _ = claimer.process.wait();
        }
    }
}

/// Whether a program can be started with a clock of its own, as the same process: it is stopped by its number.
fn has_clocks() -> bool {
    let uptime = |command: &mut Command| {
        let output = command.args(["cat", "/proc/uptime"]).stderr(Stdio::null()).output().ok()?;
        String::from_utf8(output.stdout).ok()?.split('.').next()?.parse::<u64>().ok()
    };
    let ours = uptime(&mut Command::new("env"));
    let theirs = uptime(Command::new("unshare").args(["--time", "--boottime", "40009", "--"]));
    ours.zip(theirs).is_some_and(|(ours, theirs)| theirs >= ours + 40_000)
}

/// Builds the program as `cargo test` does, because a run of this test alone does not.
fn build() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let folder = test.parent().and_then(Path::parent).unwrap();
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["build", "--quiet", "--offline", "-p", "weft-store", "--example", "claimer"]);
    if folder.ends_with("release") {
        cargo.arg("--release");
    }
    let status = cargo.current_dir(env!("CARGO_MANIFEST_DIR")).status().unwrap();
    assert!(status.success(), "the claimer can't be built");
    folder.join("examples/claimer")
}

/// A belief in a block on which another node relied at that moment; there must be none.
pub fn first_clash(beliefs: &[Belief]) -> Option<(Belief, Belief)> {
    // The last belief of each node in each block.
    let mut last: BTreeMap<&str, BTreeMap<usize, &Belief>> = BTreeMap::new();
    for belief in beliefs {
        let of_block = last.entry(&belief.block).or_default();
        let clash = of_block.values().find(|other| other.node != belief.node && other.until > belief.at);
        if let Some(other) = clash {
            return Some(((*other).clone(), belief.clone()));
        }
        of_block.insert(belief.node, belief);
    }
    None
}

/// Blocks on which more than one node has relied.
pub fn changed_hands(beliefs: &[Belief]) -> usize {
    let mut nodes: BTreeMap<&str, BTreeSet<usize>> = BTreeMap::new();
    for belief in beliefs {
        nodes.entry(&belief.block).or_default().insert(belief.node);
    }
    nodes.values().filter(|nodes| nodes.len() > 1).count()
}

#[test]
fn clashes_are_found() {
    let belief = |at, until, node, block: &str| Belief { at, until, node, block: block.into() };
    let check = |beliefs: &[Belief], clash: bool, hands: usize| {
        assert_eq!((first_clash(beliefs).is_some(), changed_hands(beliefs)), (clash, hands), "{beliefs:?}");
    };
    check(&[belief(1, 5, 0, "a"), belief(2, 6, 0, "a"), belief(3, 7, 1, "b")], false, 0);
    check(&[belief(1, 5, 0, "a"), belief(6, 9, 1, "a")], false, 1);
    check(&[belief(1, 5, 0, "a"), belief(4, 9, 1, "a")], true, 1);
    check(&[belief(1, 8, 0, "a"), belief(3, 4, 2, "b"), belief(6, 9, 1, "a")], true, 1);
}
