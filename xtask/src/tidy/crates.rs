//! Which crate may use which (from `cargo metadata`), and the licences of what we build (from `cargo tree`).

use anyhow::{Context, Result};
use serde::Deserialize;

use super::licence;
use crate::shell;

/// What each crate may use of the workspace. The walls that matter most: the dataplane and the DNS server see the
/// plan, never the facts it was made from (of the model, only its newtypes: `text::walls`); nothing but the agent, the binary and the lab sees everything.
const MAY_USE: [(&str, &[&str]); 11] = [
    ("weft-model", &[]),
    ("weft-plan", &["weft-model"]),
    ("weft-compile", &["weft-model", "weft-plan"]),
    ("weft-ipam", &["weft-model"]),
    ("weft-store", &["weft-model"]),
    ("weft-dataplane", &["weft-plan", "weft-model"]),
    ("weft-cni", &[]),
    ("weft-dns", &["weft-plan", "weft-model"]),
    ("weft-gateway", &["weft-plan"]),
    ("weft-agent", &ABOVE_AGENT),
    ("xtask", &[]),
];
const ABOVE_AGENT: [&str; 9] = [
    "weft-model",
    "weft-plan",
    "weft-compile",
    "weft-ipam",
    "weft-store",
    "weft-dataplane",
    "weft-cni",
    "weft-dns",
    "weft-gateway",
];
/// Those that may use any crate of the workspace.
const MAY_USE_ANY: [&str; 2] = ["weft", "weft-lab"];

/// What we read of `cargo metadata`.
#[derive(Debug, Deserialize)]
pub struct Metadata {
    packages: Vec<Package>,
}

#[derive(Debug, Deserialize)]
struct Package {
    name: String,
    dependencies: Vec<Dependency>,
}

#[derive(Debug, Deserialize)]
struct Dependency {
    name: String,
    /// `None`, `dev` or `build`.
    kind: Option<String>,
    /// Set for crates of this checkout.
    path: Option<String>,
}

impl Metadata {
    pub fn read() -> Result<Self> {
        let text = shell::output(shell::cargo().args([
            "metadata",
            "--format-version",
            "1",
            "--no-deps",
            "--locked",
        ]))?;
        serde_json::from_slice(&text).context("can't read what cargo metadata says")
    }
}

/// Uses that ARCHITECTURE.md's table of crates doesn't allow. What only tests use is free.
pub fn directions(metadata: &Metadata) -> Vec<String> {
    let mut problems = Vec::new();
    for package in &metadata.packages {
        if MAY_USE_ANY.contains(&package.name.as_str()) {
            continue;
        }
        let Some((_, allowed)) = MAY_USE.iter().find(|(name, _)| *name == package.name) else {
            problems.push(format!("{} is in no row of the table of crates", package.name));
            continue;
        };
        let ours =
            package.dependencies.iter().filter(|d| d.path.is_some() && d.kind.as_deref() != Some("dev"));
        problems.extend(
            ours.filter(|d| !allowed.contains(&d.name.as_str()))
                .map(|d| format!("{} may not use {}", package.name, d.name)),
        );
    }
    problems
}

/// Crates whose licence we can't take, of all that is built; the lock file also names what optional features would
/// bring.
pub fn licences() -> Result<Vec<String>> {
    let mut tree = shell::cargo();
    tree.args(["tree", "--workspace", "--edges", "all", "--target", "all", "--prefix", "none", "--locked"]);
    let listing = shell::output(tree.args(["--format", "{p}|{l}"]))?;
    let mut refused: Vec<String> = String::from_utf8_lossy(&listing)
        .lines()
        .filter_map(|line| line.trim_end_matches(" (*)").rsplit_once('|'))
        .filter(|(_, licence)| !licence::allowed(licence))
        .map(|(package, licence)| {
            let licence = if licence.is_empty() { "no licence" } else { licence };
            format!("{package} is under {licence}: use another crate")
        })
        .collect();
    refused.sort();
    refused.dedup();
    Ok(refused)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(name: &str, uses: &[(&str, Option<&str>)]) -> Package {
        let dependencies = uses.iter().map(|(name, kind)| Dependency {
            name: (*name).into(),
            kind: kind.map(Into::into),
            path: Some("here".into()),
        });
        Package { name: name.into(), dependencies: dependencies.collect() }
    }

    #[track_caller]
    fn check(name: &str, uses: &[(&str, Option<&str>)], expected: &[&str]) {
        assert_eq!(directions(&Metadata { packages: vec![package(name, uses)] }), expected);
    }

    #[test]
    fn walls() {
        check("weft-plan", &[("weft-model", None)], &[]);
        check("weft-dns", &[("weft-plan", None), ("weft-store", None)], &["weft-dns may not use weft-store"]);
        check("weft-dns", &[("weft-store", Some("dev"))], &[]);
        check("weft-lab", &[("weft-model", None)], &[]);
        check("weft-new", &[], &["weft-new is in no row of the table of crates"]);
    }
}
