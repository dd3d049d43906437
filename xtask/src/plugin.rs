//! The plugin as people get it: one file that wants nothing of its host, linked with musl.
//!
//! A runtime waits for it at each call, and most of what it takes is its start. glibc's asks the processor dozens of things about
//! itself, which a virtual machine answers slowly; musl's asks nothing.
//!
//! What always holds: what is given to people is linked with musl, or there is an error that says what to type. Only what stays on
//! this machine may be linked with glibc, with a warning.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use anyhow::{Context, Result, bail};

use crate::shell;

/// The package, and its program.
pub const NAME: &str = "weft-cni";

/// By which tests and the lab find the plugin that they start; without it, the one beside the other programs. That one is built in
/// one go with the agent, and has parts of libraries that only the agent asks for.
pub const IN_TESTS: &str = "WEFT_PLUGIN";

/// How long rustup may fetch, in seconds: where packets vanish it would wait for minutes.
const FETCH_SECONDS: &str = "120";

/// What the plugin may be linked with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Libc {
    /// musl, as in everything that leaves this machine.
    Musl,
    /// glibc where musl can't be had here: it works the same, and starts later.
    MuslIfPossible,
}

/// What it will be linked with.
#[derive(Debug, PartialEq, Eq)]
enum Choice {
    Musl,
    /// With what the user is told.
    Glibc(String),
}

/// Builds it to where a release has its programs; `version` is what it calls itself, `None` for the package's.
///
/// # Errors
/// Where it doesn't compile, can't be put there, or can't be linked with what it must be.
pub fn build(version: Option<&str>, libc: Libc) -> Result<PathBuf> {
    let target = format!("{}-unknown-linux-musl", std::env::consts::ARCH);
    let folder = shell::target().join("release");
    let place = folder.join(NAME);
    if let Choice::Glibc(warning) = choice(&target, provided(&target), libc)? {
        eprintln!("{warning}");
        shell::must(of_version(&mut static_build(NAME), version))?;
        return Ok(place);
    }
    let mut cargo = shell::cargo();
    cargo.args(["build", "--release", "--quiet", "-p", NAME, "--bin", NAME, "--target", &target]);
    shell::must(of_version(&mut cargo, version))?;
    let built = shell::target().join(target).join("release").join(NAME);
    let beside = place.with_extension("new");
    let put = std::fs::create_dir_all(folder)
        .and_then(|()| std::fs::copy(&built, &beside))
        .and_then(|_| std::fs::rename(&beside, &place));
    put.with_context(|| format!("can't put {} to {}", built.display(), place.display()))?;
    Ok(place)
}

/// `provided` is `Ok` where the toolchain can build for the target, or why it can't.
fn choice(target: &str, provided: Result<(), &str>, libc: Libc) -> Result<Choice> {
    let Err(reason) = provided else { return Ok(Choice::Musl) };
    match libc {
        Libc::Musl => bail!(
            "the plugin is linked with musl, and this toolchain has no library for {target}: {reason}\n\
             Type `rustup target add {target}` where there is a network, or install your distribution's package of it. \
             With --allow-glibc the plugin is linked with glibc, and starts later."
        ),
        Libc::MuslIfPossible => Ok(Choice::Glibc(format!(
            "WARNING: the plugin is linked with glibc, and starts later than the one that people get: this toolchain has no \
             library for {target}: {reason}"
        ))),
    }
}

/// Has the toolchain take the target in, where it isn't there yet. What this came to holds until the command ends: a network that
/// is away is not waited for twice.
fn provided(target: &str) -> Result<(), &'static str> {
    static PROVIDED: OnceLock<Result<(), String>> = OnceLock::new();
    let provide = || if has_library(target) { Ok(()) } else { fetch(target) };
    PROVIDED.get_or_init(provide).as_ref().copied().map_err(String::as_str)
}

/// The compiler that builds use: the one beside the cargo that runs this, where there is one.
fn rustc() -> Command {
    let beside = std::env::var_os("CARGO").map(|cargo| Path::new(&cargo).with_file_name("rustc"));
    let named = std::env::var_os("RUSTC").map(PathBuf::from);
    Command::new(named.or(beside.filter(|path| path.is_file())).unwrap_or_else(|| "rustc".into()))
}

/// Whether Rust's library for the target is there, wherever it came from: not every toolchain is rustup's.
fn has_library(target: &str) -> bool {
    let mut rustc = rustc();
    rustc.args(["--print", "target-libdir", "--target", target]).current_dir(shell::root());
    let said = rustc.stderr(Stdio::null()).output();
    said.is_ok_and(|said| holds_std(Path::new(String::from_utf8_lossy(&said.stdout).trim())))
}

/// The folder's name is told for every target that the compiler knows, also where there is no such folder.
fn holds_std(folder: &Path) -> bool {
    let Ok(files) = std::fs::read_dir(folder) else { return false };
    files.flatten().any(|file| {
        let name = file.file_name();
        let name = name.to_string_lossy();
        name.starts_with("libstd-") && name.ends_with(".rlib")
    })
}

fn fetch(target: &str) -> Result<(), String> {
    eprintln!("fetching Rust's library for {target}…");
    let mut rustup = Command::new("timeout");
    rustup.args([FETCH_SECONDS, "rustup", "target", "add", target]).current_dir(shell::root());
    let said =
        rustup.stdout(Stdio::null()).output().map_err(|error| format!("can't run `timeout`: {error}"))?;
    match said.status.code() {
        Some(0) => Ok(()),
        Some(124) => Err(format!("`rustup target add` took more than {FETCH_SECONDS} s")),
        _ => Err(format!("`rustup target add` failed: {}", String::from_utf8_lossy(&said.stderr).trim())),
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_allows_it_gets_glibc() {
        let lack = Err("no network");
        for libc in [Libc::Musl, Libc::MuslIfPossible] {
            assert_eq!(choice("t-musl", Ok(()), libc).unwrap(), Choice::Musl);
        }
        let Choice::Glibc(warning) = choice("t-musl", lack, Libc::MuslIfPossible).unwrap() else { panic!() };
        assert!(warning.contains("glibc") && warning.ends_with("t-musl: no network"), "{warning}");
        let refused = choice("t-musl", lack, Libc::Musl).unwrap_err().to_string();
        for part in ["no network", "rustup target add t-musl", "--allow-glibc"] {
            assert!(refused.contains(part), "{part}: {refused}");
        }
    }

    #[test]
    fn a_target_is_there_where_its_library_is() {
        let folder = std::env::temp_dir().join(format!("weft-xtask-libdir-{}", std::process::id()));
        assert!(!holds_std(&folder));
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("libcore-0.rlib"), "").unwrap();
        assert!(!holds_std(&folder));
        std::fs::write(folder.join("libstd-0.rlib"), "").unwrap();
        assert!(holds_std(&folder));
        std::fs::remove_dir_all(&folder).unwrap();
        // Whoever builds this has the library for what he builds on.
        assert!(has_library(&host()));
        assert!(!has_library("no-such-target"));
    }

    fn host() -> String {
        let said = rustc().arg("-vV").current_dir(shell::root()).output().unwrap();
        let said = String::from_utf8(said.stdout).unwrap();
        said.lines().find_map(|line| line.strip_prefix("host: ")).unwrap().to_owned()
    }
}
