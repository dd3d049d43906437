//! Programs that tests and demo call, and the Debian packages that have them.

use std::path::Path;
use std::process::Command;

/// A file that must exist in one of the folders, and its package.
const NEEDED: [(&str, &str); 8] = [
    ("ip", "iproute2"),
    ("nft", "nftables"),
    ("iptables", "iptables"),
    ("ping", "iputils-ping"),
    ("iperf3", "iperf3"),
    ("dig", "dnsutils"),
    ("ptp", "containernetworking-plugins"),
    ("etcd", "etcd-server"),
];
const FOLDERS: [&str; 8] = [
    "/usr/sbin",
    "/usr/bin",
    "/sbin",
    "/bin",
    "/usr/local/sbin",
    "/usr/local/bin",
    "/usr/lib/cni",
    "/usr/include",
];

/// What a real Kubernetes needs besides, most of it to be built.
const NEEDED_BY_CLUSTER: [(&str, &str); 7] = [
    ("openssl", "openssl"),
    ("debootstrap", "debootstrap"),
    ("busybox", "busybox-static"),
    ("gcc", "gcc"),
    ("pkg-config", "pkg-config"),
    ("seccomp.h", "libseccomp-dev"),
    ("mount", "mount"),
];

/// What an emulated machine needs besides.
const NEEDED_BY_GUEST: [(&str, &str); 5] = [
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("busybox", "busybox-static"),
    ("depmod", "kmod"),
    ("strip", "binutils"),
    ("curl", "curl"),
];

/// Installs what is missing where we may; otherwise says what to type. Tests that lack a program skip, and say so.
pub fn provide() {
    install(&missing(&NEEDED));
}

/// [`provide`], and what a real Kubernetes needs.
pub fn provide_for_cluster() {
    install(&[missing(&NEEDED), missing(&NEEDED_BY_CLUSTER)].concat());
}

/// [`provide`], and what an emulated machine needs.
pub fn provide_for_guest() {
    install(&[missing(&NEEDED), missing(&NEEDED_BY_GUEST)].concat());
}

fn install(missing: &[&str]) {
    if missing.is_empty() {
        return;
    }
    let line = format!("apt-get install -y --no-install-recommends {}", missing.join(" "));
    let arguments: Vec<&str> = line.split(' ').skip(1).collect();
    let install =
        || Command::new("apt-get").args(&arguments).env("DEBIAN_FRONTEND", "noninteractive").status();
    eprintln!("installing: {line}");
    let done = |status: std::io::Result<std::process::ExitStatus>| status.is_ok_and(|s| s.success());
    if is_root()
        && (done(install()) || (done(Command::new("apt-get").arg("update").status()) && done(install())))
    {
        return;
    }
    eprintln!("missing: {}. As root, type:\n  {line}\nWhat needs them is skipped.", missing.join(", "));
}

fn missing(needed: &[(&str, &'static str)]) -> Vec<&'static str> {
    let here = |file: &str| FOLDERS.iter().any(|folder| Path::new(folder).join(file).exists());
    needed.iter().filter(|(file, _)| !here(file)).map(|(_, package)| *package).collect()
}

/// Whether we are root.
pub fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    // The owner of our own /proc entry is our effective user.
    std::fs::metadata("/proc/self").is_ok_and(|m| m.uid() == 0)
}
