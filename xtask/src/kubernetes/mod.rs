//! Kubernetes and what it runs on, built once from source into `target/peers`: for benchmarks beside kube-proxy, for
//! a real cluster (`cargo xtask e2e`), for tests with its API server, and flannel's daemon for tests beside it.
//!
//! What always holds: what is there is whole, as everything is built beside its place and renamed.

pub mod flannel;
mod images;
mod programs;
mod source;

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};

use crate::{packages, shell};

/// Kubernetes' version, and that of the modules which it keeps in its own tree and publishes apart.
const KUBERNETES: &str = "v1.36.1";
const STAGED: &str = "v0.36.1";

/// Environment variable: a folder with programs that are used instead of building any; its sibling `img` has the images.
pub const PROGRAMS: &str = "WEFT_KUBERNETES_BIN";

/// What a cluster is made of.
#[derive(Debug)]
pub struct Parts {
    /// Folder of programs.
    pub programs: PathBuf,
    /// Folder of image archives.
    pub images: PathBuf,
}

/// Programs and images of a cluster: those that the environment names, or built where they are not there yet.
///
/// # Errors
/// Where Go or a Debian package is missing, or something can't be fetched or built.
pub fn parts() -> Result<Parts> {
    if let Some(programs) = std::env::var_os(PROGRAMS).map(PathBuf::from) {
        let images = programs.with_file_name("img");
        ensure!(programs.is_dir(), "{PROGRAMS}: {} is no folder", programs.display());
        ensure!(images.is_dir(), "{PROGRAMS}: {} is no folder; it should have the images", images.display());
        return Ok(Parts { programs, images });
    }
    let parts = places();
    for folder in [&parts.programs, &parts.images] {
        std::fs::create_dir_all(folder).with_context(|| format!("can't make {}", folder.display()))?;
    }
    programs::provide(&parts.programs)?;
    images::provide(&parts)?;
    Ok(parts)
}

fn places() -> Parts {
    let top = shell::target().join("peers").join(format!("cluster-{KUBERNETES}"));
    Parts { programs: top.join("bin"), images: top.join("img") }
}

/// `cargo xtask kubernetes`: what a cluster and the tests beside Kubernetes need, built where it isn't there yet.
///
/// # Errors
/// As [`parts`], and where this is not run as root.
pub fn provide() -> Result<()> {
    ensure!(packages::is_root(), "images are made of Debian packages, as root");
    packages::provide_for_cluster();
    parts()?;
    if std::env::var_os(PROGRAMS).is_none() {
        kube_proxy()?;
    }
    Ok(())
}

/// The folder of programs, where all were built before.
pub fn built_programs() -> Option<PathBuf> {
    Some(places().programs).filter(|folder| programs::are_whole(folder))
}

/// kube-proxy, built if it isn't there.
///
/// # Errors
/// Where Go is missing, its modules can't be fetched, or they can't be built.
pub fn kube_proxy() -> Result<PathBuf> {
    let peers = shell::target().join("peers");
    let program = peers.join(format!("kube-proxy-{KUBERNETES}"));
    if !program.exists() {
        eprintln!("building kube-proxy {KUBERNETES} (once; several minutes)…");
        let source = source::kubernetes(&["cmd/kube-proxy"])?;
        source.build("k8s.io/kubernetes/cmd/kube-proxy", &program)?;
    }
    Ok(program)
}
