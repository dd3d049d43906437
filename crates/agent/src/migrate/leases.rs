//! Addresses of pods that are not ours yet: held in our leases too, so that no new pod gets one while the former network's pod has it.
//!
//! What always holds: they are held before a pod is touched, and let go when it is ours, which the agent then holds by its record; or
//! when nobody has them, at the next migration. Until then the agent leaves them alone, by their holder's name.

use std::collections::BTreeSet;
use std::net::IpAddr;

use weft_ipam::{Boot, DirectoryLeases, Lease, LeaseError, LeaseOwner, LeaseStore};
use weft_model::{AttachmentId, NetworkName};

use super::pods::Found;
use crate::config::AgentConfig;

/// How the holder of such an address is called: this, and the container's id.
const PREFIX: &str = "former-network.";

/// True for the holder of an address that a pod of the former network may have.
pub fn is_formers(owner: &LeaseOwner) -> bool {
    owner.container.starts_with(PREFIX)
}

fn holder(id: &AttachmentId) -> AttachmentId {
    AttachmentId { container: format!("{PREFIX}{}", id.container).into(), ifname: id.ifname }
}

/// Our leases of the network that pods move into.
pub(super) struct Held(DirectoryLeases);

impl Held {
    pub(super) fn open(config: &AgentConfig, boot: &Boot) -> Result<Self, LeaseError> {
        let (leases, _) = DirectoryLeases::open(&config.cni.lease_dir, &NetworkName::ordinary(), boot)?;
        Ok(Self(leases))
    }

    /// Holds the addresses of these pods, and no others' of the former network.
    pub(super) fn hold(&mut self, pods: &[&Found]) -> Result<(), LeaseError> {
        let held: BTreeSet<IpAddr> = pods.iter().flat_map(|pod| pod.attachment.addresses.clone()).collect();
        for lease in self.formers()? {
            if !held.contains(&lease.address) {
                self.0.release(&lease)?;
            }
        }
        for pod in pods {
            for address in &pod.attachment.addresses {
                // Who has it already keeps it: by an earlier attempt, or as one of our own pods.
                self.0.reserve(*address, &holder(&pod.attachment.id))?;
            }
        }
        Ok(())
    }

    /// Lets a pod's go: it is ours now.
    pub(super) fn let_go(&mut self, id: &AttachmentId) -> Result<(), LeaseError> {
        let holder = holder(id);
        for lease in self.formers()?.into_iter().filter(|lease| lease.owner.is(&holder)) {
            self.0.release(&lease)?;
        }
        Ok(())
    }

    fn formers(&self) -> Result<Vec<Lease>, LeaseError> {
        Ok(self.0.list()?.into_iter().filter(|lease| is_formers(&lease.owner)).collect())
    }
}

#[cfg(test)]
mod tests {
    use weft_model::{Attachment, IfName};

    use super::*;

    fn pod(container: &str, address: &str) -> Found {
        let id = AttachmentId { container: container.into(), ifname: IfName::new("eth0").unwrap() };
        let attachment = Attachment {
            id,
            network: NetworkName::ordinary(),
            pod: None,
            addresses: vec![address.parse().unwrap()],
            mac: "02:00:00:00:00:01".parse().unwrap(),
            mtu: None,
            host_ports: vec![],
            netns: String::new(),
        };
        Found { attachment, host: IfName::new("veth1").unwrap(), mtu: 1500, refused: None }
    }

    #[test]
    fn addresses_are_held_until_their_pod_is_ours_or_gone() {
        let folder = tempfile::tempdir().unwrap();
        let boot = Boot { id: "b".into(), began: std::time::SystemTime::UNIX_EPOCH };
        let (leases, _) = DirectoryLeases::open(folder.path(), &NetworkName::ordinary(), &boot).unwrap();
        let mut held = Held(leases);
        let said = |held: &Held| {
            let mut said: Vec<String> = held
                .0
                .list()
                .unwrap()
                .iter()
                .map(|lease| format!("{} {}", lease.address, lease.owner))
                .collect();
            said.sort();
            said
        };
        let (a, b) = (pod("a", "10.22.0.2"), pod("b", "10.22.0.3"));
        let own = pod("own", "10.22.0.9").attachment;
        held.0.reserve(own.addresses[0], &own.id).unwrap();
        for _ in 0..2 {
            held.hold(&[&a, &b]).unwrap();
            let all =
                ["10.22.0.2 former-network.a:eth0", "10.22.0.3 former-network.b:eth0", "10.22.0.9 own:eth0"];
            assert_eq!(said(&held), all);
        }
        held.let_go(&a.attachment.id).unwrap();
        assert_eq!(said(&held), ["10.22.0.3 former-network.b:eth0", "10.22.0.9 own:eth0"]);
        // The other pod ended.
        held.hold(&[]).unwrap();
        assert_eq!(said(&held), ["10.22.0.9 own:eth0"]);
    }
}
