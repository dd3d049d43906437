//! Programs of others that benchmarks compare with, built once from their source into `target/peers`.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use serde::Deserialize;

use crate::shell;

/// Kubernetes' version, and that of the modules which it keeps in its own tree and publishes apart.
const KUBERNETES: &str = "v1.36.1";
const STAGED: &str = "v0.36.1";

/// What `go mod download -json` says.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Downloaded {
    go_mod: PathBuf,
}

/// kube-proxy, built if it isn't there.
///
/// # Errors
/// Where Go is missing, its modules can't be fetched, or they can't be built.
pub fn kube_proxy() -> Result<PathBuf> {
    let peers = shell::target().join("peers");
    let program = peers.join(format!("kube-proxy-{KUBERNETES}"));
    if program.exists() {
        return Ok(program);
    }
    eprintln!("building kube-proxy {KUBERNETES} (once; several minutes)…");
    let source = peers.join("kubernetes");
    std::fs::create_dir_all(&source).with_context(|| format!("can't make {}", source.display()))?;
    let module = format!("k8s.io/kubernetes@{KUBERNETES}");
    let answer = shell::output(go(&peers).args(["mod", "download", "-json", &module]))?;
    let downloaded: Downloaded = serde_json::from_slice(&answer).context("can't read Go's answer")?;
    let theirs = std::fs::read_to_string(&downloaded.go_mod)
        .with_context(|| format!("can't read {}", downloaded.go_mod.display()))?;
    std::fs::write(source.join("go.mod"), go_mod(&theirs)).context("can't write go.mod")?;
    shell::must(go(&source).args(["get", &format!("k8s.io/kubernetes/cmd/kube-proxy@{KUBERNETES}")]))?;
    let version = format!("-s -w -X k8s.io/component-base/version.gitVersion={KUBERNETES}");
    // Beside its place first: a build that was broken off leaves no program.
    let unfinished = source.join("kube-proxy");
    shell::must(
        go(&source)
            .args(["build", "-ldflags", &version, "-o"])
            .arg(&unfinished)
            .arg("k8s.io/kubernetes/cmd/kube-proxy"),
    )?;
    std::fs::rename(&unfinished, &program).with_context(|| format!("can't make {}", program.display()))?;
    Ok(program)
}

fn go(folder: &Path) -> Command {
    let mut command = Command::new("go");
    command.current_dir(folder).env("CGO_ENABLED", "0").env("GOFLAGS", "-buildvcs=false");
    command
}

/// A module that uses Kubernetes': what theirs replaces by folders of its own tree, ours replaces by published modules.
fn go_mod(theirs: &str) -> String {
    let version = theirs.lines().find(|line| line.starts_with("go ")).unwrap_or("go 1.26.0");
    let staged = theirs.lines().filter_map(|line| line.trim().split_once(" => ./staging/"));
    let replaced = staged.map(|(name, _)| {
        let name = name.trim_start_matches("replace ");
        format!("replace {name} => {name} {STAGED}\n")
    });
    format!("module peers\n\n{version}\n\n{}", replaced.collect::<String>())
}

#[cfg(test)]
mod tests {
    #[test]
    fn staged_modules_are_replaced_by_published_ones() {
        let theirs = "module k8s.io/kubernetes\n\ngo 1.26.0\n\nrequire (\n\tk8s.io/api v0.0.0\n)\n\nreplace (\n\
                      \tk8s.io/api => ./staging/src/k8s.io/api\n)\n";
        assert_eq!(
            super::go_mod(theirs),
            "module peers\n\ngo 1.26.0\n\nreplace k8s.io/api => k8s.io/api v0.36.1\n"
        );
    }
}
