//! `cargo xtask image`: Weft as a container image from scratch, with nothing in it but two static programs.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

use crate::oci::{Compression, Entry, Image, Layer};
use crate::plugin::{self, Libc};
use crate::shell;

const USAGE: &str = "\
Usage: cargo xtask image [--name NAME]... [--out FILE] [--allow-glibc]

  --name NAME    what the image is called; may be repeated (weft.dev/weft:VERSION, as deploy/kubernetes.yaml has it)
  --out FILE     where the archive goes (target/image/weft.tar)
  --allow-glibc  where this toolchain can't link the plugin with musl, link it with glibc: it works the same, and
                 each of a runtime's calls waits longer for its start. Without this word it is an error.

Bring it onto a node with `ctr -n k8s.io images import FILE` (containerd), or `podman load -i FILE`.
";

/// The image's name without its tag, as `deploy/kubernetes.yaml` has it.
const NAME: &str = "weft.dev/weft";

pub fn run(arguments: &[&str]) -> Result<()> {
    let (mut names, mut out, mut libc) = (Vec::new(), None, Libc::Musl);
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        match *argument {
            "--help" | "-h" => {
                print!("{USAGE}");
                return Ok(());
            }
            "--name" => names.push((*rest.next().context("--name needs a name")?).to_owned()),
            "--out" => out = Some(PathBuf::from(rest.next().context("--out needs a file")?)),
            "--allow-glibc" => libc = Libc::MuslIfPossible,
            other => bail!("I don't know the option {other}.\n\n{USAGE}"),
        }
    }
    if names.is_empty() {
        names.push(format!("{NAME}:{}", env!("CARGO_PKG_VERSION")));
    }
    if let Some(name) = names.iter().find(|name| !name.rsplit('/').next().is_some_and(|n| n.contains(':'))) {
        bail!("{name} has no tag: write {name}:TAG");
    }
    let out = out.unwrap_or_else(|| folder().join("weft.tar"));
    build(&names, None, libc, &out)?;
    println!("{}: {}", out.display(), names.join(", "));
    Ok(())
}

fn folder() -> PathBuf {
    shell::target().join("image")
}

/// Builds the programs and writes the image under the name that the manifests use, for a cluster on this machine. Returns the archive.
pub fn provide() -> Result<PathBuf> {
    let out = folder().join("weft.tar");
    build(&[format!("{NAME}:{}", env!("CARGO_PKG_VERSION"))], None, Libc::MuslIfPossible, &out)?;
    Ok(out)
}

/// Builds the same source as another version, for whoever wants to see one replaced by the other: other programs, another image.
pub fn provide_next() -> Result<PathBuf> {
    let out = folder().join("next.tar");
    let version = concat!(env!("CARGO_PKG_VERSION"), "-next");
    build(&[format!("{NAME}:next")], Some(version), Libc::MuslIfPossible, &out)?;
    Ok(out)
}

/// `version` is what the programs call themselves; `None` for the package's.
fn build(names: &[String], version: Option<&str>, libc: Libc, out: &Path) -> Result<()> {
    eprintln!("building the image's programs (release, static)…");
    std::fs::create_dir_all(folder()).with_context(|| format!("can't make {}", folder().display()))?;
    // The plugin first: what it lacks is known before the long build.
    let plugin = read(&plugin::build(version, libc)?)?;
    let weft = read(&agent(version)?)?;
    let entries = [
        ("weft", Entry::Program(weft)),
        ("weft-cni", Entry::Program(plugin)),
        ("run", Entry::Folder),
        ("var", Entry::Folder),
        // Runtimes name namespaces by /var/run/netns, hosts have them in /run/netns.
        ("var/run", Entry::Link("/run".into())),
    ];
    let layer = Layer::of(&folder(), Compression::Gzip, &entries)?;
    let image = Image {
        names,
        entrypoint: &["/weft"],
        arguments: &["agent"],
        environment: &["PATH=/"],
        labels: &[
            ("org.opencontainers.image.title", "weft"),
            ("org.opencontainers.image.description", "The whole network of a Kubernetes cluster"),
            ("org.opencontainers.image.version", version.unwrap_or(env!("CARGO_PKG_VERSION"))),
            ("org.opencontainers.image.licenses", env!("CARGO_PKG_LICENSE")),
        ],
    };
    image.write(&layer, out)
}

/// Builds the agent's program without shared libraries; returns where it is.
fn agent(version: Option<&str>) -> Result<PathBuf> {
    shell::must(plugin::of_version(&mut plugin::static_build("weft"), version))?;
    Ok(shell::target().join("release/weft"))
}

/// Reads a program that an image from scratch can run.
fn read(program: &Path) -> Result<Vec<u8>> {
    let content = std::fs::read(program).with_context(|| format!("can't read {}", program.display()))?;
    ensure!(
        !needs_a_loader(&content),
        "{} wants shared libraries, and an image from scratch has none",
        program.display()
    );
    Ok(content)
}

/// Whether an ELF program names an interpreter (program header `PT_INTERP`): the dynamic loader.
pub fn needs_a_loader(elf: &[u8]) -> bool {
    const PT_INTERP: u32 = 3;
    let number = |at: usize, size: usize| {
        let bytes = elf.get(at..at + size)?;
        Some(bytes.iter().rev().fold(0_usize, |sum, byte| (sum << 8) | usize::from(*byte)))
    };
    // Offsets of ELF64, little endian (elf(5)): e_phoff, e_phentsize, e_phnum.
    let (Some(table), Some(size), Some(count)) = (number(32, 8), number(54, 2), number(56, 2)) else {
        return false;
    };
    (0..count).any(|index| number(table + index * size, 4) == Some(PT_INTERP as usize))
}

#[cfg(test)]
mod tests {
    use super::needs_a_loader;

    /// This test program is linked as the host's are; a header without entries is what a static one may look like.
    #[test]
    fn programs_with_a_loader_are_told_apart() {
        let own = std::fs::read("/proc/self/exe").unwrap();
        assert!(needs_a_loader(&own));
        let mut none = own[..64].to_vec();
        none[56..58].copy_from_slice(&[0, 0]);
        assert!(!needs_a_loader(&none));
        assert!(!needs_a_loader(b"#!/bin/sh"));
    }
}
