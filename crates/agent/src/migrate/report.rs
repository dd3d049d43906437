//! What was found, and what came of it.

use std::net::IpAddr;
use std::path::PathBuf;

use serde::Serialize;

/// How a pod of the other network stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase", tag = "standing", content = "reason")]
pub enum Standing {
    /// It will be taken over.
    Waits,
    /// It is ours.
    Moved,
    /// It could not be, and why; it goes on as it was.
    Left(String),
}

/// A pod of the other network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct MovedPod {
    /// `namespace/pod`, or the container's id without Kubernetes.
    pub pod: String,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// Its host end's former name.
    pub former_link: String,
    /// Its host end's name with us.
    pub link: String,
    /// How it stands.
    #[serde(flatten)]
    pub standing: Standing,
}

/// A tunnel that was, or will be, taken over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Tunnel {
    /// Its former name.
    pub former_link: String,
    /// Its name with us.
    pub link: String,
    /// Network identifier.
    pub vni: u32,
    /// UDP port.
    pub port: u16,
}

/// See the module.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// `flannel` or `bridge`.
    pub from: String,
    /// The runtime's network configuration, under its former name.
    pub conflist: PathBuf,
    /// The bridge.
    pub bridge: String,
    /// This node's blocks of pods' addresses there.
    pub blocks: Vec<String>,
    /// Its pods.
    pub pods: Vec<MovedPod>,
    /// Leases of pods that are gone: not taken over.
    pub stale_leases: Vec<IpAddr>,
    /// Its tunnels, one a family; none where it has none.
    pub tunnels: Vec<Tunnel>,
    /// Destinations whose routes were taken over.
    pub routes: Vec<String>,
    /// The former network's files and folders that were renamed, under their new names.
    pub set_aside: Vec<PathBuf>,
    /// What is still to be done, a sentence each; empty where this node has moved.
    pub left: Vec<String>,
    /// Why the work ended before its end, where it did: what stands above is done and holds, pods that wait are as they were.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stopped: Option<String>,
}

impl Report {
    /// True where nothing of this node's is left with the other network.
    pub fn is_complete(&self) -> bool {
        self.stopped.is_none()
            && self.left.is_empty()
            && self.pods.iter().all(|pod| pod.standing == Standing::Moved)
    }
}
