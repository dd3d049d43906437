//! Which tests run in the guest: those that ask a kernel something. Pure ones would only be slower there.

use std::collections::BTreeSet;
use std::io::BufRead;
use std::path::PathBuf;
use std::process::Stdio;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::shell;

/// One test program, and what of it runs.
#[derive(Debug, Clone, Copy)]
pub struct Suite {
    package: &'static str,
    /// `lib`, or the name of a file or folder in `tests`.
    target: &'static str,
    /// Words for the test program: parts of names, or `--skip` and one.
    pub words: &'static str,
    /// How many cases generated tests try.
    pub cases: u32,
}

const fn suite(package: &'static str, target: &'static str, words: &'static str, cases: u32) -> Suite {
    Suite { package, target, words, cases }
}

/// The dataplane's modules with tests in namespaces, without those that measure thousands of rows.
const KERNEL_SIDE: &str =
    "filter:: firewall:: conntrack:: link:: linux:: monitor --skip scale --skip thousands";

/// In the order in which they run.
pub const SUITES: [Suite; 11] = [
    suite("weft-agent", "lib", "trial", 1),
    suite("weft-dataplane", "pod_links", "", 1),
    suite("weft-dataplane", "tables", "", 1),
    suite("weft-dataplane", "flush", "", 1),
    suite("weft-dataplane", "lib", KERNEL_SIDE, 4),
    suite("weft-cni", "plugin", "", 1),
    suite("weft-compile", "lib", "oracle::tests::kernel", 2),
    suite("weft", "command_line", "whole_life", 1),
    suite("weft", "node_life", "", 1),
    suite("weft-lab", "namespaces", "", 1),
    suite("weft-lab", "matrix", "", 1),
];

impl Suite {
    /// What people call it.
    pub fn name(&self) -> String {
        format!("{}/{}", self.package.trim_start_matches("weft-"), self.target)
    }

    /// By which words cargo builds its target, of each package that has one of the name.
    fn selection(&self) -> String {
        match self.target {
            "lib" => "--lib".to_owned(),
            file => format!("--test={file}"),
        }
    }

    fn is(&self, test: &Executable) -> bool {
        let target = if test.kind == "lib" { "lib" } else { &test.target };
        test.package == self.package && target == self.target
    }
}

/// What cargo has built: a program for each suite in their order, and the programs that tests start.
#[derive(Debug)]
pub struct Built {
    pub suites: Vec<(Suite, PathBuf)>,
    pub programs: Vec<PathBuf>,
}

/// Builds these suites.
///
/// # Errors
/// Where something doesn't compile, or a suite is no target of its package.
pub fn build(suites: &[Suite]) -> Result<Built> {
    // Of programs, the tests' alone come with their packages: some start those of others.
    let programs = cargo(["build", "--bins"], BTreeSet::new())?;
    let tests = cargo(["test", "--no-run"], selection(suites))?;
    Built::among(suites, &[programs, tests].concat())
}

/// What cargo says that it builds.
fn cargo(command: [&str; 2], selection: BTreeSet<String>) -> Result<Vec<String>> {
    let packages: BTreeSet<&str> = SUITES.iter().map(|suite| suite.package).collect();
    let mut cargo = shell::cargo();
    cargo.args(command).arg("--message-format=json-render-diagnostics");
    // Always the same packages: with others, those that they share would have other features, and be built again.
    for package in packages {
        cargo.args(["-p", package]);
    }
    let mut child = cargo.args(selection).stdout(Stdio::piped()).spawn().context("can't run cargo")?;
    let stdout = child.stdout.take().context("cargo has no output")?;
    let lines = std::io::BufReader::new(stdout).lines().collect::<Result<Vec<_>, _>>()?;
    if !child.wait()?.success() {
        bail!("the tests don't build");
    }
    Ok(lines)
}

/// The targets of all, each named once: cargo refuses a flag that it has had.
fn selection(suites: &[Suite]) -> BTreeSet<String> {
    suites.iter().map(Suite::selection).collect()
}

/// A program in what cargo says that it has built.
struct Executable {
    package: String,
    target: String,
    kind: String,
    is_test: bool,
    path: PathBuf,
}

impl Executable {
    fn read(line: &str) -> Option<Self> {
        let message: Value = serde_json::from_str(line).ok()?;
        let text = |pointer: &str| message.pointer(pointer)?.as_str().map(str::to_owned);
        let manifest = PathBuf::from(text("/manifest_path")?);
        let folder = manifest.parent()?.file_name()?.to_str()?;
        Some(Self {
            package: if folder == "weft" { folder.to_owned() } else { format!("weft-{folder}") },
            target: text("/target/name")?,
            kind: text("/target/kind/0")?,
            is_test: message.pointer("/profile/test")?.as_bool()?,
            path: text("/executable")?.into(),
        })
    }
}

impl Built {
    /// The suites' programs among what cargo says that it has built, and those which tests start.
    fn among(suites: &[Suite], lines: &[String]) -> Result<Self> {
        let (tests, others): (Vec<_>, Vec<_>) =
            lines.iter().filter_map(|line| Executable::read(line)).partition(|executable| executable.is_test);
        let found = |suite: &Suite| {
            let test = tests.iter().find(|test| suite.is(test));
            let test = test.with_context(|| format!("cargo has built no {}", suite.name()))?;
            Ok((*suite, test.path.clone()))
        };
        // A program that is built twice over is the same one.
        let programs: BTreeSet<PathBuf> =
            others.into_iter().filter(|other| other.kind == "bin").map(|other| other.path).collect();
        let programs = programs.into_iter().collect();
        Ok(Self { suites: suites.iter().map(found).collect::<Result<_>>()?, programs })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(package: &str, kind: &str, target: &str, test: bool) -> String {
        let folder = package.strip_prefix("weft-").unwrap_or(package);
        serde_json::json!({
            "manifest_path": format!("/x/crates/{folder}/Cargo.toml"),
            "target": {"kind": [kind], "name": target},
            "profile": {"test": test},
            "executable": format!("/t/{package}-{kind}-{target}-{test}"),
        })
        .to_string()
    }

    #[test]
    fn each_target_is_named_once() {
        let named: Vec<String> = selection(&SUITES).into_iter().collect();
        assert_eq!(named[..3], ["--lib", "--test=command_line", "--test=flush"]);
        assert_eq!(named.iter().filter(|name| *name == "--lib").count(), 1);
    }

    #[test]
    fn a_suite_is_the_test_program_and_not_the_program() {
        let mut lines = vec!["no JSON".to_owned()];
        for suite in SUITES {
            let (kind, target) = match (suite.package, suite.target) {
                (package, "lib") => ("lib", package.replace('-', "_")),
                (_, target) => ("test", target.to_owned()),
            };
            lines.push(message(suite.package, kind, &target, false));
            lines.push(message(suite.package, kind, &target, true));
        }
        let built = Built::among(&SUITES, &lines).unwrap();
        let paths: Vec<_> = built.suites.iter().map(|(_, path)| path.display().to_string()).collect();
        assert_eq!(paths.len(), SUITES.len());
        assert_eq!(paths[0], "/t/weft-agent-lib-weft_agent-true");
        assert_eq!(paths[4], "/t/weft-dataplane-lib-weft_dataplane-true");
        assert!(built.programs.is_empty());
        let twice = vec![message("weft", "bin", "weft", false); 2];
        let program = Built::among(&SUITES, &[lines.clone(), twice].concat());
        assert_eq!(program.unwrap().programs, [PathBuf::from("/t/weft-bin-weft-false")]);
        let refused = Built::among(&SUITES, &lines[..lines.len() - 1]).unwrap_err().to_string();
        assert_eq!(refused, "cargo has built no lab/matrix");
    }
}
