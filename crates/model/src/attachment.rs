//! Attachments: the interfaces that this node gave to its pods.
//!
//! An attachment becomes a fact when a CNI ADD has its addresses, and stops being one at DEL. It is known to its
//! own node only; what other nodes see is the pod's addresses.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::net::fnv1a;
use crate::{IfName, Mac, NetworkName, ObjectKey, Port, Protocol};

/// What identifies an attachment: the runtime's container id and the interface's name in the container
/// (CNI specification §2, "Attachment").
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct AttachmentId {
    /// The runtime's id of the sandbox. Starts with a letter or digit, then letters, digits, `_`, `.`, `-`.
    pub container: Arc<str>,
    /// The interface's name inside.
    pub ifname: IfName,
}

impl AttachmentId {
    /// The host end's name: `weftp` and 50 bits of a hash in base 32, so that it is found again after a crash.
    pub fn host_link(&self) -> IfName {
        const DIGITS: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
        let hash = fnv1a(format!("{}\n{}", self.container, self.ifname).as_bytes());
        let mut name = String::from("weftp");
        for at in 0..10 {
            name.push(char::from(DIGITS[((hash >> (5 * at)) & 31) as usize]));
        }
        // Fifteen ASCII characters are always a valid interface name.
        IfName::new(&name).unwrap_or_else(|_| IfName::loopback())
    }
}

impl fmt::Display for AttachmentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{}:{}", self.container, self.ifname))
    }
}

impl fmt::Debug for AttachmentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A port of the node that leads to a pod (`portMappings`).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct HostPort {
    /// The node's address that it is on; `None` means all.
    pub host_ip: Option<IpAddr>,
    /// The node's port.
    pub host_port: Port,
    /// The pod's port.
    pub container_port: Port,
    /// The protocol.
    pub protocol: Protocol,
}

/// The pod that an attachment belongs to, by `CNI_ARGS`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PodIdentity {
    /// Namespace and name.
    pub key: ObjectKey,
    /// Its uid, where the runtime gave it.
    pub uid: Option<Arc<str>>,
}

/// One interface of one pod on this node.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Attachment {
    /// What identifies it.
    pub id: AttachmentId,
    /// The network that it is on.
    pub network: NetworkName,
    /// The pod, or nothing for a container without Kubernetes.
    pub pod: Option<PodIdentity>,
    /// Its addresses, at most one a family.
    pub addresses: Vec<IpAddr>,
    /// MAC of the pod's end.
    pub mac: Mac,
    /// MTU of its link in bytes, where the runtime's configuration sets one; otherwise the network's.
    pub mtu: Option<u32>,
    /// Ports of the node that lead to it.
    pub host_ports: Vec<HostPort>,
    /// Path of the network namespace, as the runtime named it; empty where there is none any more.
    pub netns: String,
}

impl Attachment {
    /// What a person calls it: `namespace/pod`, or the container's id without Kubernetes.
    pub fn owner(&self) -> String {
        match &self.pod {
            Some(pod) => pod.key.to_string(),
            None => self.id.container.chars().take(13).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_links_are_stable_valid_and_distinct() {
        let id = |c: &str, i: &str| AttachmentId { container: c.into(), ifname: IfName::new(i).unwrap() };
        let name = id("abc", "eth0").host_link();
        assert_eq!(name, id("abc", "eth0").host_link());
        assert_eq!(name.as_str().len(), 15);
        assert!(name.as_str().starts_with("weftp"));
        assert_ne!(name, id("abc", "eth1").host_link());
        assert_ne!(name, id("abd", "eth0").host_link());
    }
}
