//! Go modules as sources of programs.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use serde::Deserialize;

use super::{KUBERNETES, PROGRAMS, STAGED};
use crate::shell;

/// What `go mod download -json` says.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Downloaded {
    go_mod: PathBuf,
    dir: PathBuf,
}

/// A module of ours that requires what is to be built.
pub struct Source {
    folder: PathBuf,
    /// What the linker is told, beside leaving out symbols.
    link: String,
}

/// Kubernetes' own packages, by their folders.
pub fn kubernetes(packages: &[&str]) -> Result<Source> {
    let folder = folder("kubernetes")?;
    let downloaded = download(&folder, &format!("k8s.io/kubernetes@{KUBERNETES}"))?;
    let theirs = std::fs::read_to_string(&downloaded.go_mod)
        .with_context(|| format!("can't read {}", downloaded.go_mod.display()))?;
    std::fs::write(folder.join("go.mod"), go_mod(&theirs)).context("can't write go.mod")?;
    let wanted = packages.iter().map(|package| format!("k8s.io/kubernetes/{package}@{KUBERNETES}"));
    shell::must(go(&folder).args(["get", "-t"]).args(wanted))?;
    let version = "k8s.io/component-base/version";
    let (major, minor) = numbers(KUBERNETES);
    let link = format!(
        "-X {version}.gitVersion={KUBERNETES} -X {version}.gitMajor={major} -X {version}.gitMinor={minor}"
    );
    Ok(Source { folder, link })
}

/// Somebody else's packages in one module, each `PACKAGE@VERSION`.
pub fn module(name: &str, packages: &[&str]) -> Result<Source> {
    let folder = folder(name)?;
    std::fs::write(folder.join("go.mod"), format!("module peers\n\n{GO}\n")).context("can't write go.mod")?;
    shell::must(go(&folder).arg("get").args(packages))?;
    Ok(Source { folder, link: String::new() })
}

/// The program at the top of somebody else's module, from its `main.go` as `edit` leaves it; its package is `.`.
pub fn top(name: &str, module: &str, version: &str, edit: fn(&str) -> String) -> Result<Source> {
    let folder = folder(name)?;
    let theirs = download(&folder, &format!("{module}@{version}"))?.dir.join("main.go");
    let text =
        std::fs::read_to_string(&theirs).with_context(|| format!("can't read {}", theirs.display()))?;
    let required = format!("module peers\n\n{GO}\n\nrequire {module} {version}\n");
    for (name, text) in [("go.mod", required), ("main.go", edit(&text))] {
        std::fs::write(folder.join(name), text).with_context(|| format!("can't write {name}"))?;
    }
    shell::must(go(&folder).args(["get", "."]))?;
    Ok(Source { folder, link: String::new() })
}

fn download(folder: &Path, module: &str) -> Result<Downloaded> {
    let answer = shell::output(go(folder).args(["mod", "download", "-json", module]))?;
    serde_json::from_slice(&answer).context("can't read Go's answer")
}

impl Source {
    /// Builds a package to a program. It gets its name when it is whole: a build that was broken off leaves no program.
    pub fn build(&self, package: &str, program: &Path) -> Result<()> {
        self.build_with(package, program, &[], C::Absent)
    }

    /// [`Source::build`] with build tags, and with or without a C compiler.
    pub fn build_with(&self, package: &str, program: &Path, tags: &[&str], c: C) -> Result<()> {
        self.produce(go(&self.folder).arg("build"), package, program, tags, c)
    }

    /// Builds a package's tests to a program.
    pub fn build_tests(&self, package: &str, program: &Path) -> Result<()> {
        // Their code is vetted where it is written, which takes as long as compiling it.
        self.produce(go(&self.folder).args(["test", "-c", "-vet=off"]), package, program, &[], C::Absent)
    }

    fn produce(
        &self,
        command: &mut Command,
        package: &str,
        program: &Path,
        tags: &[&str],
        c: C,
    ) -> Result<()> {
        let unfinished = self.folder.join("unfinished");
        if c == C::Used {
            command.env("CGO_ENABLED", "1");
        }
        command.args(["-tags", &tags.join(","), "-ldflags", &format!("-s -w {}", self.link), "-o"]);
        shell::must(command.arg(&unfinished).arg(package))?;
        std::fs::rename(&unfinished, program).with_context(|| format!("can't make {}", program.display()))
    }
}

/// Whether a program has parts in C.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum C {
    Absent,
    Used,
}

/// The folder of a module of ours.
fn folder(name: &str) -> Result<PathBuf> {
    shell::output(Command::new("go").arg("version")).with_context(|| {
        format!("install Go 1.26 or later, or name a folder with built programs in {PROGRAMS}")
    })?;
    let folder = shell::target().join("peers").join(name);
    let scratch = folder.join(SCRATCH);
    std::fs::create_dir_all(&scratch).with_context(|| format!("can't make {}", scratch.display()))?;
    Ok(folder)
}

fn go(folder: &Path) -> Command {
    let mut command = Command::new("go");
    // What the user wants of every build, such as `-p=1`, holds for these too.
    let flags = std::env::var("GOFLAGS").unwrap_or_default();
    command.current_dir(folder).env("CGO_ENABLED", "0").env("GOFLAGS", format!("{flags} -buildvcs=false"));
    // Gigabytes while Kubernetes is linked; /tmp often is memory, and is swept.
    command.env("GOTMPDIR", folder.join(SCRATCH));
    command
}

/// Go's own folder for what it needs while it builds, beside the module: a name with a point is no package to it.
const SCRATCH: &str = ".scratch";

const GO: &str = "go 1.26.0";

/// A module that uses Kubernetes': what theirs replaces by folders of its own tree, ours replaces by published modules.
fn go_mod(theirs: &str) -> String {
    let version = theirs.lines().find(|line| line.starts_with("go ")).unwrap_or(GO);
    // Programs behave by this line of their module; without it, as by the oldest Go that can build them.
    let behaviour = theirs.lines().find(|line| line.starts_with("godebug default=")).unwrap_or_default();
    let staged = theirs.lines().filter_map(|line| line.trim().split_once(" => ./staging/"));
    let replaced = staged.map(|(name, _)| {
        let name = name.trim_start_matches("replace ");
        format!("replace {name} => {name} {STAGED}\n")
    });
    format!("module peers\n\n{version}\n{behaviour}\n{}", replaced.collect::<String>())
}

/// `v1.36.1` → `1`, `36`.
fn numbers(version: &str) -> (&str, &str) {
    let mut parts = version.trim_start_matches('v').split('.');
    (parts.next().unwrap_or("0"), parts.next().unwrap_or("0"))
}

#[cfg(test)]
mod tests {
    #[test]
    fn staged_modules_are_replaced_by_published_ones() {
        let theirs = "module k8s.io/kubernetes\n\ngo 1.26.0\n\ngodebug default=go1.26\n\nrequire (\n\tk8s.io/api v0.0.0\n)\n\n\
                      replace (\n\tk8s.io/api => ./staging/src/k8s.io/api\n)\n";
        assert_eq!(
            super::go_mod(theirs),
            "module peers\n\ngo 1.26.0\ngodebug default=go1.26\nreplace k8s.io/api => k8s.io/api v0.36.1\n"
        );
        assert_eq!(super::numbers("v1.36.1"), ("1", "36"));
    }
}
