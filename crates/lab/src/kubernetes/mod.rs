//! A real Kubernetes in a lab: etcd, API server, controllers and scheduler on one machine, kubelet and containerd on each node.
//!
//! [`Parts`] are the programs and images; `cargo xtask e2e` builds or finds them. [`Cluster`] is the running whole. What always
//! holds: everything runs on the lab's machines, so that it ends with them, and with it what it made in the kernel; control
//! groups, which outlive processes, are taken away by [`Cluster::close`].
//!
//! What is absent: a network for pods. Nodes are not ready until somebody installs one.

mod cgroup;
mod cluster;
mod config;
mod control_plane;
mod kubectl;
mod node;
mod parts;

pub use cgroup::Groups;
pub use cluster::{Cluster, Shape};
pub use kubectl::Kubectl;
pub use parts::Parts;

/// The machine of the control plane.
pub const CONTROL: &str = "control";
/// Where machines see [`Parts`].
const PARTS: &str = "/opt/kubernetes";
/// Addresses of pods, services, and the cluster's DNS.
pub const POD_CIDR: &str = "10.244.0.0/16";
/// See [`POD_CIDR`].
pub const SERVICE_CIDR: &str = "10.96.0.0/16";
/// See [`POD_CIDR`].
pub const DNS_ADDRESS: &str = "10.96.0.10";
