//! CHECK: is the pod's network as ADD left it?

use std::os::fd::OwnedFd;
use std::sync::mpsc::channel;

use serde_json::Value;
use weft_cni::weft::Attach;
use weft_cni::{CniError, Code};
use weft_model::IfName;
use weft_plan::{KernelKey, KernelRow, Link};

use super::add::{Refusal, attachment_id};
use super::{Core, Work};
use crate::message::CniReply;

impl Core {
    pub(super) fn check(&self, attach: &Attach, netns: OwnedFd, reply: CniReply) {
        match self.check_facts(attach) {
            Ok(pod) => {
                let (answer, faults) = channel();
                let (name, link) = pod;
                self.send(Work::Check(name, Box::new(link), netns, answer));
                // The kernel thread looks into the pod's namespace; the core doesn't wait for it.
                std::thread::spawn(move || {
                    let faults = faults.recv().unwrap_or_else(|_| vec!["the agent is stopping".into()]);
                    reply.send(verdict(&faults));
                });
            }
            Err(error) => {
                reply.send(Err(error));
            }
        }
    }

    /// Compares with what is known; what is left is the look into the kernel.
    fn check_facts(&self, attach: &Attach) -> Result<(IfName, Link), CniError> {
        let id = attachment_id(attach)?;
        let Some(record) = self.attached.get(&id) else {
            return Err(CniError::new(
                Code::UNKNOWN_CONTAINER,
                format!("container {} has no interface {} here", id.container, id.ifname),
                "",
            ));
        };
        let mut faults: Vec<String> = self.refusal_of(&id).map(Refusal::into_reason).into_iter().collect();
        let leased = self.leases.get(&record.attachment.network).map(|leases| leases.by_owner(&id));
        for address in &record.attachment.addresses {
            if !leased.as_ref().is_some_and(|addresses| addresses.contains(address)) {
                faults.push(format!("its address {address} has no lease"));
            }
        }
        let own = self.add_result(&record.attachment);
        if let Some(previous) = &attach.prev_result {
            for ip in &own.ips {
                if !previous.ips.iter().any(|other| other.address.address == ip.address.address) {
                    faults.push(format!("prevResult lacks its address {}", ip.address.address));
                }
            }
        }
        let plan = self.plans.kernel.read().unwrap_or_else(std::sync::PoisonError::into_inner);
        match plan.kernel.get(&KernelKey::Link(id.host_link())) {
            Some(KernelRow::Link(link)) if faults.is_empty() => Ok((id.host_link(), link.as_ref().clone())),
            Some(_) => Err(failure(&faults.join("; "))),
            None => Err(failure("the plan has no link for it")),
        }
    }
}

fn verdict(faults: &[String]) -> Result<Value, CniError> {
    if faults.is_empty() { Ok(Value::Null) } else { Err(failure(&faults.join("; "))) }
}

fn failure(details: &str) -> CniError {
    CniError::new(Code::CHECK_FAILED, "the pod's network is not as ADD left it", details)
}
