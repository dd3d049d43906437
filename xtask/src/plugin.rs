//! The plugin as people get it: one file that wants nothing of its host, linked with musl.
//!
//! A runtime waits for it at each call, and most of what it takes is its start. glibc's asks the processor dozens of things about
//! itself, which a virtual machine answers slowly; musl's asks nothing.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

use crate::shell;

/// The package, and its program.
pub const NAME: &str = "weft-cni";

/// Builds it to where a release has its programs; `version` is what it calls itself, `None` for the package's.
///
/// # Errors
/// Where it doesn't compile, or can't be put there.
pub fn build(version: Option<&str>) -> Result<PathBuf> {
    let target = format!("{}-unknown-linux-musl", std::env::consts::ARCH);
    if !can_build_for(&target) {
        eprintln!(
            "Rust can't build for {target} here (`rustup target add {target}`): the plugin is linked with glibc, and starts later"
        );
        shell::must(of_version(&mut static_build(NAME), version))?;
        return Ok(shell::target().join("release").join(NAME));
    }
    let mut cargo = shell::cargo();
    cargo.args(["build", "--release", "--quiet", "-p", NAME, "--bin", NAME, "--target", &target]);
    shell::must(of_version(&mut cargo, version))?;
    let built = shell::target().join(target).join("release").join(NAME);
    let folder = shell::target().join("release");
    let place = folder.join(NAME);
    let beside = place.with_extension("new");
    let put = std::fs::create_dir_all(folder)
        .and_then(|()| std::fs::copy(&built, &beside))
        .and_then(|_| std::fs::rename(&beside, &place));
    put.with_context(|| format!("can't put {} to {}", built.display(), place.display()))?;
    Ok(place)
}

/// Has the toolchain take the target in, where it isn't there yet; not for long, where it can't be fetched.
fn can_build_for(target: &str) -> bool {
    let mut rustup = Command::new("timeout");
    rustup.args(["120", "rustup", "target", "add", target]).current_dir(shell::root());
    rustup.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
}

/// The command that builds one program without shared libraries, with glibc. The flag is this program's alone, so that everything
/// else is shared with other builds.
pub fn static_build(name: &str) -> Command {
    let mut cargo = shell::cargo();
    cargo.args(["rustc", "--release", "--quiet", "-p", name, "--bin", name]);
    cargo.args(["--", "-C", "target-feature=+crt-static"]);
    cargo
}

/// The same command for a program that calls itself so.
pub fn of_version<'a>(cargo: &'a mut Command, version: Option<&str>) -> &'a mut Command {
    if let Some(version) = version {
        cargo.env("WEFT_VERSION", version);
    }
    cargo
}
