//! The guest's kernel: the one that Debian makes for machines in clouds, unpacked beside what we build and never installed.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::shell;

/// The package that names the newest kernel of this Debian.
const PACKAGE: &str = "linux-image-cloud-amd64";

/// A kernel on disk.
#[derive(Debug)]
pub struct Kernel {
    /// As `uname -r` says it.
    pub version: String,
    /// What the emulator loads.
    pub image: PathBuf,
    /// Folder of its modules, with their index.
    pub modules: PathBuf,
}

/// The kernel, fetched and unpacked where it isn't there yet.
///
/// # Errors
/// Where the package can't be had.
pub fn provide() -> Result<Kernel> {
    let answer = shell::output(Command::new("apt-cache").args(["depends", "--important", PACKAGE]))
        .context("which kernel Debian has can't be asked; try `apt-get update`")?;
    let answer = String::from_utf8_lossy(&answer);
    let package =
        depends(&answer).with_context(|| format!("{PACKAGE} names no kernel; try `apt-get update`"))?;
    let version = package.trim_start_matches("linux-image-").to_owned();
    let top = shell::target().join("peers").join(package);
    if !top.exists() {
        eprintln!("fetching {package}…");
        unpack(package, &version, &top)?;
    }
    let image = top.join("boot").join(format!("vmlinuz-{version}"));
    ensure!(image.exists(), "{package} has no {}", image.display());
    Ok(Kernel { modules: top.join("lib/modules").join(&version), image, version })
}

/// The first package in what `apt-cache depends` says.
fn depends(answer: &str) -> Option<&str> {
    answer.lines().find_map(|line| line.trim().strip_prefix("Depends: ")).map(str::trim)
}

/// Fetches a package, and unpacks it beside its place before it is put there.
fn unpack(package: &str, version: &str, top: &Path) -> Result<()> {
    let new = top.with_extension(format!("new{}", std::process::id()));
    std::fs::create_dir_all(&new).with_context(|| format!("can't make {}", new.display()))?;
    shell::must(Command::new("apt-get").args(["download", "--quiet", package]).current_dir(&new))?;
    let mut fetched = std::fs::read_dir(&new)?.flatten().map(|entry| entry.path());
    let archive = fetched.find(|path| path.extension().is_some_and(|extension| extension == "deb"));
    let archive = archive.with_context(|| format!("apt-get has fetched no {package}"))?;
    shell::must(Command::new("dpkg-deb").arg("--extract").arg(&archive).arg(&new))?;
    shell::must(Command::new("depmod").arg("--basedir").arg(&new).arg(version))?;
    std::fs::remove_file(&archive)?;
    std::fs::rename(&new, top).with_context(|| format!("can't make {}", top.display()))
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_kernel_is_what_the_package_depends_on() {
        let answer = "linux-image-cloud-amd64\n  Depends: linux-image-6.1.0-56-cloud-amd64\n";
        assert_eq!(super::depends(answer), Some("linux-image-6.1.0-56-cloud-amd64"));
        assert_eq!(super::depends("linux-image-cloud-amd64\n"), None);
    }
}
