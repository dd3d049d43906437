//! Why a node can't move in.

use std::io;
use std::path::PathBuf;

use crate::api::RunDirError;
use crate::config::ConfigError;
use crate::records::RecordError;

/// See the module.
#[derive(Debug, thiserror::Error)]
pub enum MigrateError {
    /// An agent runs.
    #[error(transparent)]
    Held(#[from] RunDirError),
    /// The configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Records.
    #[error(transparent)]
    Records(#[from] RecordError),
    /// Leases, or the machine's boot can't be told.
    #[error(transparent)]
    Leases(#[from] weft_ipam::LeaseError),
    /// The kernel.
    #[error(transparent)]
    Kernel(#[from] weft_dataplane::KernelError),
    /// A file or folder can't be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// A file or folder can't be written.
    #[error("cannot write {}: {source}", path.display())]
    Write {
        /// Which.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// A runtime's network configuration that can't be used.
    #[error("{}: {field}: {reason}", path.display())]
    Network {
        /// The file.
        path: PathBuf,
        /// Where in it.
        field: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// The agent would make another tunnel, which flannel's nodes have no way to.
    #[error(
        "store.kubernetes.networks: network default has overlay {overlay}, VNI {vni} and port {port}, and flannel's tunnel {tunnel}: until \
         the last node has moved, give it `overlay: vxlan` and `vni`, `vxlanPort` as flannel's, on every node"
    )]
    OtherTunnel {
        /// The network's.
        overlay: &'static str,
        /// The network's.
        vni: u32,
        /// The network's.
        port: u16,
        /// Name, VNI and port of flannel's.
        tunnel: String,
    },
    /// flannel would undo what is done.
    #[error(
        "flanneld runs here (process {pid}): keep it off this node first (a label that its DaemonSet's nodeSelector excludes), \
         and try again; its network goes on working without it"
    )]
    DaemonRuns {
        /// Its process id.
        pid: u32,
    },
}
