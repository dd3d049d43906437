//! The file system of a machine: the programs of the real one, and /etc, /run, /var and /opt of its own.
//!
//! /etc/cni and /var/lib lie in the lab's directory (`machines/NAME/disk`) and so survive the machine's death, as a
//! disk does; everything else is memory. The lab's directory is at /lab on every machine.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::unistd::{chdir, pivot_root};

/// Where machines see the lab's directory.
pub(crate) const LAB: &str = "/lab";

/// Top-level directories that a machine has for itself.
const OWN: [&str; 7] = ["proc", "sys", "etc", "var", "run", "opt", "lost+found"];
/// Files of /etc that programs need to run as usual.
const ETC_FILES: [&str; 7] =
    ["passwd", "group", "nsswitch.conf", "protocols", "services", "ld.so.cache", "localtime"];
/// Directories of /etc that programs need to run as usual.
const ETC_DIRECTORIES: [&str; 4] = ["alternatives", "iproute2", "ssl", "ld.so.conf.d"];

/// Builds the machine's file system and makes it this process's root.
pub(super) fn build(name: &str, directory: &Path) -> Result<(), String> {
    let root = directory.join("machines").join(name).join("root");
    let disk = directory.join("machines").join(name).join("disk");
    make(&root)?;
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)
        .map_err(|e| format!("can't make mounts private: {e}"))?;
    mount_new("tmpfs", &root, "mode=755")?;
    share_top_level(&root, directory)?;
    etc(name, &root, &disk)?;
    var_and_run(&root, &disk)?;
    opt(&root)?;
    kernel_views(&root)?;
    let lab = root.join(LAB.trim_start_matches('/'));
    make(&lab)?;
    bind(directory, &lab, MsFlags::empty())?;
    enter(&root)
}

/// Makes what is left of the real machine's top level visible. The directory that holds the lab comes first: bound
/// later, it would contain a copy of everything that was bound before.
fn share_top_level(root: &Path, directory: &Path) -> Result<(), String> {
    let listing = fs::read_dir("/").map_err(|e| format!("can't list /: {e}"))?;
    let mut entries: Vec<PathBuf> = listing.flatten().map(|e| e.path()).collect();
    entries.sort_by_key(|e| !directory.starts_with(e));
    for entry in entries {
        let Some(name) = entry.file_name() else { continue };
        if OWN.iter().any(|own| name == *own) || Path::new(LAB).ends_with(name) {
            continue;
        }
        let target = root.join(name);
        if let Ok(destination) = fs::read_link(&entry) {
            symlink(&destination, &target).map_err(|e| format!("can't link {}: {e}", target.display()))?;
        } else if entry.is_dir() {
            make(&target)?;
            bind(&entry, &target, MsFlags::MS_REC)?;
        }
    }
    // The lab's directory has just come along with a mount of this very root in it.
    let nested = root.join(root.strip_prefix("/").unwrap_or(root));
    if nested.is_dir() {
        umount2(&nested, MntFlags::MNT_DETACH)
            .map_err(|e| format!("can't unmount {}: {e}", nested.display()))?;
    }
    Ok(())
}

fn etc(name: &str, root: &Path, disk: &Path) -> Result<(), String> {
    let etc = root.join("etc");
    make(&etc)?;
    for file in ETC_FILES {
        // What the real machine lacks, ours lacks as well.
        let _ = fs::copy(Path::new("/etc").join(file), etc.join(file));
    }
    for directory in ETC_DIRECTORIES {
        let from = Path::new("/etc").join(directory);
        if from.is_dir() {
            make(&etc.join(directory))?;
            bind(&from, &etc.join(directory), MsFlags::MS_REC)?;
        }
    }
    write(&etc.join("hostname"), &format!("{name}\n"))?;
    write(&etc.join("hosts"), &format!("127.0.0.1 localhost\n::1 localhost\n127.0.1.1 {name}\n"))?;
    write(&etc.join("resolv.conf"), "")?;
    make(&etc.join("cni"))?;
    make(&disk.join("etc-cni/net.d"))?;
    bind(&disk.join("etc-cni"), &etc.join("cni"), MsFlags::empty())
}

fn var_and_run(root: &Path, disk: &Path) -> Result<(), String> {
    for directory in ["var/log", "var/cache", "var/tmp", "var/lib", "run"] {
        make(&root.join(directory))?;
    }
    make(&disk.join("var-lib"))?;
    bind(&disk.join("var-lib"), &root.join("var/lib"), MsFlags::empty())?;
    symlink("/run", root.join("var/run")).map_err(|e| format!("can't link /var/run: {e}"))?;
    mount_new("tmpfs", &root.join("run"), "mode=755")?;
    make(&root.join("run/netns"))?;
    make(&root.join("run/lock"))
}

/// /opt with a `cni/bin` of its own beside what the real machine has there.
fn opt(root: &Path) -> Result<(), String> {
    make(&root.join("opt/cni/bin"))?;
    for entry in fs::read_dir("/opt").into_iter().flatten().flatten() {
        let target = root.join("opt").join(entry.file_name());
        if entry.path().is_dir() && entry.file_name() != "cni" {
            make(&target)?;
            bind(&entry.path(), &target, MsFlags::MS_REC)?;
        }
    }
    Ok(())
}

/// /proc and /sys as they look from inside, and a boot id of this boot.
fn kernel_views(root: &Path) -> Result<(), String> {
    for (kind, directory) in [("proc", "proc"), ("sysfs", "sys")] {
        make(&root.join(directory))?;
        mount_new(kind, &root.join(directory), "")?;
    }
    // Absent where the system mounts cgroups elsewhere; then the machine does without, as the system does.
    let _ = bind(Path::new("/sys/fs/cgroup"), &root.join("sys/fs/cgroup"), MsFlags::MS_REC);
    let id = root.join("run/boot_id");
    let fresh = fs::read_to_string("/proc/sys/kernel/random/uuid")
        .map_err(|e| format!("can't make a boot id: {e}"))?;
    write(&id, &fresh)?;
    bind(&id, &root.join("proc/sys/kernel/random/boot_id"), MsFlags::empty())
}

fn enter(root: &Path) -> Result<(), String> {
    let old = root.join("run/old-root");
    make(&old)?;
    pivot_root(root, &old).map_err(|e| format!("can't change the root: {e}"))?;
    chdir("/").map_err(|e| format!("can't enter the new root: {e}"))?;
    umount2("/run/old-root", MntFlags::MNT_DETACH).map_err(|e| format!("can't leave the old root: {e}"))?;
    fs::remove_dir("/run/old-root").map_err(|e| format!("can't remove the old root's place: {e}"))
}

fn make(directory: &Path) -> Result<(), String> {
    fs::create_dir_all(directory).map_err(|e| format!("can't make {}: {e}", directory.display()))
}

fn write(file: &Path, text: &str) -> Result<(), String> {
    fs::write(file, text).map_err(|e| format!("can't write {}: {e}", file.display()))
}

fn bind(from: &Path, to: &Path, extra: MsFlags) -> Result<(), String> {
    mount(Some(from), to, None::<&str>, MsFlags::MS_BIND | extra, None::<&str>)
        .map_err(|e| format!("can't bind {} at {}: {e}", from.display(), to.display()))
}

fn mount_new(kind: &str, at: &Path, options: &str) -> Result<(), String> {
    mount(Some(kind), at, Some(kind), MsFlags::empty(), Some(options))
        .map_err(|e| format!("can't mount {kind} at {}: {e}", at.display()))
}
