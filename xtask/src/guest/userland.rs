//! The guest's programs: this machine's own, at the paths that they have here, with the libraries that they load.
//!
//! What it does not do: users, services, a package manager. What isn't copied is BusyBox's.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::archive::Archive;
use crate::shell;

/// Programs that tests call, and what their answers depend on. One that isn't here makes its tests skip, or say what they miss.
const PROGRAMS: [&str; 18] = [
    "sh",
    "ip",
    "tc",
    "ss",
    "bridge",
    "nft",
    "conntrack",
    "sysctl",
    "ping",
    "curl",
    "dig",
    "unshare",
    "nsenter",
    "mount",
    "umount",
    "hostname",
    "modprobe",
    "setpriv",
];
/// iptables is many: its families, kinds and verbs.
const IPTABLES: ([&str; 2], [&str; 3], [&str; 3]) =
    (["iptables", "ip6tables"], ["", "-nft", "-legacy"], ["", "-save", "-restore"]);
const FOLDERS: [&str; 4] = ["/usr/sbin", "/usr/bin", "/sbin", "/bin"];
/// What programs open by name: iptables' matches, the names of protocols, and the plugins to compare with.
const TREES: [&str; 5] =
    ["/usr/lib/x86_64-linux-gnu/xtables", "/etc/iproute2", "/etc/protocols", "/etc/services", "/usr/lib/cni"];
/// Links or folders, as this machine has them.
const TOP: [&str; 4] = ["/bin", "/sbin", "/lib", "/lib64"];
/// Folders that programs expect.
const EMPTY: [&str; 10] =
    ["/proc", "/sys", "/dev", "/run", "/root", "/tmp", "/var/tmp", "/var/lib", "/mnt", "/etc"];
/// What of the kernel's modules tests can need.
const MODULES: [&str; 7] =
    ["net", "drivers/net", "lib", "crypto", "arch/x86/crypto", "fs/overlayfs", "fs/fuse"];
/// Drivers of hardware, which the guest has none of.
const HARDWARE: [&str; 5] = ["ethernet", "wireless", "usb", "phy", "can"];

/// Where the guest finds BusyBox.
pub const BUSYBOX: &str = "/usr/lib/busybox/busybox";

/// Puts everything but the tests into an archive.
pub fn pack<W: Write>(archive: &mut Archive<W>) -> Result<()> {
    for top in TOP.map(Path::new) {
        match std::fs::read_link(top) {
            Ok(target) => archive.link(top, &target)?,
            Err(_) => archive.folder(top)?,
        }
    }
    for folder in EMPTY {
        archive.folder(Path::new(folder))?;
    }
    archive.link(Path::new("/var/run"), Path::new("/run"))?;
    archive.file(
        Path::new("/etc/passwd"),
        0o644,
        b"root:x:0:0::/root:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n",
    )?;
    archive.file(Path::new("/etc/group"), 0o644, b"root:x:0:\nnogroup:x:65534:\n")?;
    archive.file(Path::new("/etc/hosts"), 0o644, b"127.0.0.1 localhost\n::1 localhost\n")?;
    let busybox = find("busybox").context("there is no busybox; install busybox-static")?;
    archive.file(Path::new(BUSYBOX), 0o755, &std::fs::read(&busybox)?)?;
    let (families, kinds, verbs) = IPTABLES;
    let many =
        families.iter().flat_map(|family| kinds.map(|kind| verbs.map(|verb| [*family, kind, verb].concat())));
    let names = PROGRAMS.map(str::to_owned).into_iter().chain(many.flatten());
    for program in names.filter_map(|name| find(&name)) {
        program_at(archive, &program)?;
    }
    for tree in TREES.map(Path::new).iter().filter(|tree| tree.exists()) {
        tree_at(archive, tree, tree, &|_| true)?;
    }
    Ok(())
}

/// Puts a kernel's modules where the guest looks for them.
pub fn pack_modules<W: Write>(archive: &mut Archive<W>, modules: &Path, version: &str) -> Result<()> {
    let place = real(Path::new("/lib")).join("modules").join(version);
    for part in MODULES {
        let from = modules.join("kernel").join(part);
        let wanted = |path: &Path| !HARDWARE.iter().any(|hardware| path.ends_with(hardware));
        tree_at(archive, &from, &place.join("kernel").join(part), &wanted)?;
    }
    for entry in std::fs::read_dir(modules)?.flatten().filter(|entry| entry.path().is_file()) {
        archive.file(&place.join(entry.file_name()), 0o644, &std::fs::read(entry.path())?)?;
    }
    Ok(())
}

/// Puts a program of ours where it is here, without what only a debugger reads.
pub fn pack_stripped<W: Write>(archive: &mut Archive<W>, program: &Path, scratch: &Path) -> Result<()> {
    shell::must(Command::new("strip").args(["--strip-debug", "-o"]).arg(scratch).arg(program))?;
    libraries(archive, program)?;
    let content = std::fs::read(scratch)?;
    std::fs::remove_file(scratch)?;
    Ok(archive.file(program, 0o755, &content)?)
}

fn find(name: &str) -> Option<PathBuf> {
    FOLDERS.iter().map(|folder| Path::new(folder).join(name)).find(|path| path.exists())
}

fn program_at<W: Write>(archive: &mut Archive<W>, path: &Path) -> Result<()> {
    copy(archive, path)?;
    libraries(archive, path)
}

/// What a program is linked with. One that is linked with nothing makes `ldd` fail.
fn libraries<W: Write>(archive: &mut Archive<W>, program: &Path) -> Result<()> {
    let answer = Command::new("ldd").arg(program).output().context("can't run ldd")?;
    for library in linked(&String::from_utf8_lossy(&answer.stdout)) {
        copy(archive, Path::new(library))?;
    }
    Ok(())
}

/// The paths in what `ldd` says.
fn linked(answer: &str) -> Vec<&str> {
    answer.lines().filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/'))).collect()
}

/// Copies one file, and the links that lead to it.
fn copy<W: Write>(archive: &mut Archive<W>, path: &Path) -> Result<()> {
    let folder = real(path.parent().unwrap_or(Path::new("/")));
    let place = folder.join(path.file_name().unwrap_or_default());
    if archive.has(&place) {
        return Ok(());
    }
    if let Ok(target) = std::fs::read_link(&place) {
        archive.link(&place, &target)?;
        return copy(archive, &folder.join(target));
    }
    let read =
        || -> std::io::Result<_> { Ok((place.metadata()?.permissions().mode(), std::fs::read(&place)?)) };
    let (mode, content) = read().with_context(|| format!("can't read {}", place.display()))?;
    Ok(archive.file(&place, mode, &content)?)
}

/// A folder's own path, without links.
fn real(folder: &Path) -> PathBuf {
    folder.canonicalize().unwrap_or_else(|_| folder.to_owned())
}

/// Copies a file or a whole folder to another place, links as links.
fn tree_at<W: Write>(
    archive: &mut Archive<W>,
    from: &Path,
    to: &Path,
    wanted: &dyn Fn(&Path) -> bool,
) -> Result<()> {
    if from.is_symlink() {
        return Ok(archive.link(to, &std::fs::read_link(from)?)?);
    }
    if from.is_dir() {
        let mut names: Vec<_> = std::fs::read_dir(from)?.flatten().map(|entry| entry.file_name()).collect();
        names.sort();
        for name in names.iter().filter(|name| wanted(&from.join(name))) {
            tree_at(archive, &from.join(name), &to.join(name), wanted)?;
        }
        return Ok(());
    }
    let mode = from.metadata()?.permissions().mode();
    Ok(archive.file(to, mode, &std::fs::read(from)?)?)
}

#[cfg(test)]
mod tests {
    #[test]
    fn libraries_are_the_paths_that_ldd_names() {
        let answer = "\tlinux-vdso.so.1 (0x00007ffd)\n\tlibnftables.so.1 => /lib/x86_64-linux-gnu/libnftables.so.1 (0x0)\n\
                      \t/lib64/ld-linux-x86-64.so.2 (0x0)\n\tlibgone.so => not found\n";
        let expected = ["/lib/x86_64-linux-gnu/libnftables.so.1", "/lib64/ld-linux-x86-64.so.2"];
        assert_eq!(super::linked(answer), expected);
    }
}
