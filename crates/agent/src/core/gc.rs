//! GC: everything that the runtime doesn't name goes.

use std::time::Instant;

use serde_json::Value;
use weft_cni::weft::Gc;
use weft_model::AttachmentId;

use super::Core;
use crate::message::CniReply;
use crate::migrate::leases::is_formers;

impl Core {
    /// Removes the attachments of this network configuration that are not among the valid ones, those on their way out included.
    /// Goes on after errors, and answers with the first: what can't be removed now is tried again with each tick.
    pub(super) fn gc(&mut self, request: &Gc, deadline: Instant, reply: CniReply) {
        let Some(valid) = &request.valid else {
            // The runtime did not say who lives.
            reply.send(Ok(Value::Null));
            return;
        };
        let leaving = self.removing.values().filter_map(|removing| removing.record.as_ref());
        let dead: Vec<AttachmentId> = self
            .attached
            .values()
            .chain(leaving)
            .filter(|record| record.conf_name == request.conf.net.name)
            .map(|record| record.attachment.id.clone())
            .filter(|id| {
                !valid.iter().any(|v| v.container == *id.container && v.ifname == id.ifname.as_str())
            })
            // An ADD under way is younger than the runtime's list.
            .filter(|id| !self.adding.contains_key(id))
            .collect();
        self.free_ownerless();
        for (id, reply) in dead.iter().zip(reply.shared_by(dead.len())) {
            self.remove(id, Some((reply, deadline, Ok(Value::Null))));
        }
    }

    /// Frees leases whose attachment nobody knows: an ADD died between the lease and the record.
    pub(super) fn free_ownerless(&mut self) {
        for leases in self.leases.values_mut() {
            let known = |owner: &weft_ipam::LeaseOwner| {
                let mut ids = self.attached.keys().chain(self.removing.keys());
                // A pod of the former network's that didn't move in has it.
                is_formers(owner) || ids.any(|id| owner.is(id))
            };
            match leases.reconcile(known) {
                Ok(freed) => {
                    for lease in freed {
                        tracing::info!(
                            "{} was held by {}, which is not attached: freed",
                            lease.address,
                            lease.owner
                        );
                    }
                }
                Err(error) => tracing::warn!("leases can't be reconciled: {error}"),
            }
        }
        self.hold_addresses();
    }
}
