//! The programs of a cluster.

use std::path::Path;

use anyhow::Result;

use super::KUBERNETES;
use super::source::{self, C};

/// Kubernetes' own, each with its package.
const OWN: [(&str, &str); 6] = [
    ("kube-apiserver", "cmd/kube-apiserver"),
    ("kube-controller-manager", "cmd/kube-controller-manager"),
    ("kube-scheduler", "cmd/kube-scheduler"),
    ("kubelet", "cmd/kubelet"),
    ("kubectl", "cmd/kubectl"),
    ("agnhost", "test/images/agnhost"),
];
/// The conformance specs, a package of tests.
const SPECS: (&str, &str) = ("e2e.test", "test/e2e");

/// Somebody else's program.
struct Other {
    program: &'static str,
    package: &'static str,
    version: &'static str,
    tags: &'static [&'static str],
    c: C,
}

const fn other(program: &'static str, package: &'static str, version: &'static str) -> Other {
    Other { program, package, version, tags: &[], c: C::Absent }
}

/// Ways to store layers that a lab has no use for.
const NO_DRIVERS: &[&str] = &["no_btrfs", "no_devmapper", "no_zfs"];
const CONTAINERD: &str = "v2.4.2";

const OTHERS: [Other; 5] = [
    other("etcd", "go.etcd.io/etcd/server/v3", "v3.6.8"),
    Other {
        tags: NO_DRIVERS,
        ..other("containerd", "github.com/containerd/containerd/v2/cmd/containerd", CONTAINERD)
    },
    Other {
        tags: NO_DRIVERS,
        ..other(
            "containerd-shim-runc-v2",
            "github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2",
            CONTAINERD,
        )
    },
    Other { tags: NO_DRIVERS, ..other("ctr", "github.com/containerd/containerd/v2/cmd/ctr", CONTAINERD) },
    // Without this tag every pod fails: the kubelet asks for a seccomp profile.
    Other { tags: &["seccomp"], c: C::Used, ..other("runc", "github.com/opencontainers/runc", "v1.5.2") },
];

/// True where nothing is missing in a folder.
pub fn are_whole(folder: &Path) -> bool {
    let own = OWN.iter().chain([&SPECS]).map(|(name, _)| *name);
    own.chain(OTHERS.iter().map(|other| other.program)).all(|name| folder.join(name).exists())
}

/// Builds what is missing in a folder.
pub fn provide(folder: &Path) -> Result<()> {
    let missing = |name: &str| !folder.join(name).exists();
    if OWN.iter().chain([&SPECS]).any(|(name, _)| missing(name)) {
        eprintln!("building Kubernetes {KUBERNETES} (once; some ten minutes)…");
        let packages: Vec<&str> = OWN.iter().chain([&SPECS]).map(|(_, package)| *package).collect();
        let source = source::kubernetes(&packages)?;
        for (name, package) in OWN.iter().filter(|(name, _)| missing(name)) {
            eprintln!("  {name}");
            source.build(&format!("k8s.io/kubernetes/{package}"), &folder.join(name))?;
        }
        eprintln!("  {}", SPECS.0);
        source.build_tests(&format!("k8s.io/kubernetes/{}", SPECS.1), &folder.join(SPECS.0))?;
    }
    for other in OTHERS.iter().filter(|other| missing(other.program)) {
        eprintln!("building {} {} (once)…", other.program, other.version);
        let source = source::module(other.program, &[&format!("{}@{}", other.package, other.version)])?;
        source.build_with(other.package, &folder.join(other.program), other.tags, other.c)?;
    }
    Ok(())
}
