//! `cargo xtask test`: the static checks, every test, and one line with the numbers.

use std::io::{BufRead, BufReader, Write};
use std::process::Stdio;

use anyhow::{Context, Result, bail};

use crate::plugin::{self, Libc};
use crate::{demo, docker, kubernetes, packages, shell, tidy};

/// Numbers of tests.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Tally {
    pub passed: usize,
    pub failed: usize,
    pub skipped: usize,
}

impl Tally {
    pub fn add(&mut self, more: Self) {
        self.passed += more.passed;
        self.failed += more.failed;
        self.skipped += more.skipped;
    }
}

impl std::fmt::Display for Tally {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} passed, {} failed, {} skipped", self.passed, self.failed, self.skipped)
    }
}

/// How many endpoints change in the test of churn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Churn {
    /// As many as the test has by itself.
    Short,
    /// As many as a busy cluster has in a week.
    Week,
}

/// What the test of churn (`weft-lab`, `tests/live/churn.rs`) reads its number from.
const CHANGES: (&str, &str) = ("WEFT_CHURN", "100000");

pub fn run(churn: Churn) -> Result<()> {
    packages::provide();
    docker::provide();
    kubernetes::flannel::provide();
    let mut tally = Tally::default();
    for check in tidy::static_checks()? {
        match check.problems.as_slice() {
            [] => tally.passed += 1,
            problems => {
                tally.failed += 1;
                problems.iter().for_each(|p| eprintln!("{}: {p}", check.name));
            }
        }
    }
    // The programs first: tests in namespaces start them.
    shell::must(shell::cargo().args(["build", "--quiet", "-p", "weft", "-p", "weft-cni", "-p", "weft-lab"]))?;
    let plugin = plugin::build(None, Libc::MuslIfPossible)
        .inspect_err(|error| {
            eprintln!("WARNING: tests start the plugin that was built with the agent: {error:#}");
        })
        .ok();
    let mut command = shell::cargo();
    command.args(["test", "--workspace", "--no-fail-fast", "--", "--show-output"]).stdout(Stdio::piped());
    command.envs(plugin.as_ref().map(|path| (plugin::IN_TESTS, path)));
    // What was built for a real cluster serves the tests that have a use for it.
    if std::env::var_os(kubernetes::PROGRAMS).is_none()
        && let Some(programs) = kubernetes::built_programs()
    {
        command.env(kubernetes::PROGRAMS, programs);
    }
    if churn == Churn::Week {
        command.env(CHANGES.0, CHANGES.1);
    }
    let mut cargo = command.spawn().context("can't run cargo test")?;
    let mut counter = Counter::default();
    if let Some(stdout) = cargo.stdout.take() {
        for line in BufReader::new(stdout).lines() {
            let line = line.context("can't read what cargo test says")?;
            let text = match counter.read(&line) {
                Shown::Yes => line,
                Shown::As(text) => text,
                Shown::No => continue,
            };
            writeln!(std::io::stdout().lock(), "{text}").context("can't write")?;
        }
    }
    let status = cargo.wait().context("can't wait for cargo test")?;
    let tests = counter.finish();
    tally.add(tests);
    if !status.success() && tests.failed == 0 {
        // Something didn't compile, or a test program died before it could say how its tests went.
        tally.failed += 1;
    }
    match demo::run_short(plugin.as_deref())? {
        demo::Outcome::Passed => tally.passed += 1,
        demo::Outcome::Failed => tally.failed += 1,
        demo::Outcome::Skipped => tally.skipped += 1,
    }
    println!("{tally}");
    if tally.failed > 0 {
        bail!("there are failures");
    }
    Ok(())
}

/// Whether a line is for the user's eyes.
#[derive(Debug, PartialEq, Eq)]
pub enum Shown {
    Yes,
    /// In other words.
    As(String),
    No,
}

/// The part of a test program's output that is being read.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Part {
    /// `test NAME ... ok`.
    #[default]
    Verdicts,
    /// What passed tests have printed.
    Successes,
    /// What failed tests have printed.
    Failures,
}

/// Reads what test programs say. A test that couldn't run here prints `SKIPPED: reason`; the harness counts it as
/// passed, we don't.
#[derive(Debug, Default)]
pub struct Counter {
    tally: Tally,
    /// The test whose output is being read.
    section: Option<String>,
    part: Part,
    /// Tests of this program that have said that they skip.
    skipping: std::collections::BTreeSet<String>,
}

impl Counter {
    pub fn read(&mut self, line: &str) -> Shown {
        if let Some(name) = line.strip_prefix("---- ").and_then(|l| l.strip_suffix(" stdout ----")) {
            self.section = Some(name.to_owned());
            return if self.part == Part::Failures { Shown::Yes } else { Shown::No };
        }
        if let Some(summary) = line.strip_prefix("test result: ") {
            self.summary(summary);
            return Shown::Yes;
        }
        if let (Some(name), Some(at)) = (&self.section, line.find("SKIPPED: ")) {
            self.skipping.insert(name.clone());
            return Shown::As(format!("{name}: {}", &line[at..]));
        }
        match line {
            "successes:" => self.part = Part::Successes,
            "failures:" => self.part = Part::Failures,
            _ => {}
        }
        let chatter = line.is_empty() || line.starts_with("running ") || line.starts_with("test ");
        match self.part {
            // What tests say that went well is for nobody's eyes.
            Part::Successes => Shown::No,
            Part::Failures if !line.is_empty() => Shown::Yes,
            Part::Failures | Part::Verdicts if chatter && !line.ends_with("FAILED") => Shown::No,
            Part::Failures | Part::Verdicts => Shown::Yes,
        }
    }

    /// `ok. 3 passed; 0 failed; 0 ignored; …`: the end of one test program.
    fn summary(&mut self, summary: &str) {
        let number = |what: &str| {
            let before = summary.split(&format!(" {what}")).next().unwrap_or_default();
            before.rsplit(' ').next().and_then(|n| n.parse::<usize>().ok()).unwrap_or(0)
        };
        let skipped = self.skipping.len();
        self.tally.passed += number("passed").saturating_sub(skipped);
        self.tally.failed += number("failed");
        self.tally.skipped += skipped + number("ignored");
        self.skipping.clear();
        self.section = None;
        self.part = Part::Verdicts;
    }

    pub fn finish(self) -> Tally {
        self.tally
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(lines: &str, passed: usize, failed: usize, skipped: usize) {
        let mut counter = Counter::default();
        for line in lines.lines() {
            counter.read(line);
        }
        assert_eq!(counter.finish(), Tally { passed, failed, skipped });
    }

    #[test]
    fn counts() {
        check("test result: ok. 3 passed; 0 failed; 0 ignored; 0 measured", 3, 0, 0);
        check("test result: FAILED. 3 passed; 2 failed; 1 ignored; 0 measured", 3, 2, 1);
        check(
            "test a ... ok\ntest result: ok. 1 passed; 0 failed; 0 ignored\ntest result: ok. 2 passed; 0 failed;",
            3,
            0,
            0,
        );
    }

    #[test]
    fn only_what_failed_is_shown() {
        let check = |lines: &str, expected: &[&str]| {
            let mut counter = Counter::default();
            let shown: Vec<&str> = lines.lines().filter(|l| counter.read(l) == Shown::Yes).collect();
            assert_eq!(shown, expected);
        };
        check("running 2 tests\ntest a ... ok\ntest b ... FAILED\n", &["test b ... FAILED"]);
        check("successes:\n---- a stdout ----\nhello\n\n    a\nfailures:\nwhy\n", &["failures:", "why"]);
    }

    #[test]
    fn a_test_that_skips_has_not_passed() {
        let lines = "---- a stdout ----\nSKIPPED: no root\n  | SKIPPED: again\n---- b stdout ----\nhello\n\
                     test result: ok. 5 passed; 0 failed; 0 ignored";
        check(lines, 4, 0, 1);
    }
}
