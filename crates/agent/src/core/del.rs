//! DEL: mark, take the fact away, wait until the kernel has let go, give the addresses back, answer.
//!
//! The order matters: an address that is given back while a link or rule still has it would be double.

use std::time::Instant;

use serde_json::Value;
use weft_cni::{AttachmentRef, CniError, Code, tombstone};
use weft_model::{AttachmentId, Change, FactKey, IfName};
use weft_plan::KernelKey;
use weft_store::Published;

use super::{Core, PublishWork, Removing, Work};
use crate::crash;
use crate::message::CniReply;
use crate::records::Stage;

impl Core {
    pub(super) fn del(&mut self, id: &AttachmentId, deadline: Instant, reply: CniReply) {
        if let Some(adding) = self.adding.remove(id) {
            let error = CniError::new(Code::TRY_AGAIN_LATER, "a DEL came while the ADD was under way", "");
            self.send(Work::NoNetns(id.clone()));
            adding.reply.send(Err(error));
        }
        crash::point("del:asked");
        self.forget_tombstone(id);
        self.remove(id, Some((reply, deadline, Ok(Value::Null))));
    }

    /// A tombstone for an attachment that is being dealt with has done its duty; kept, it would take down a later one.
    pub(super) fn forget_tombstone(&self, id: &AttachmentId) {
        let Ok(reference) = AttachmentRef::new(&id.container, id.ifname.as_str()) else { return };
        if let Err(error) = tombstone::remove(&self.config.state_dir, &reference) {
            tracing::warn!("cannot remove the tombstone of {id}: {error}");
        }
    }

    /// Takes an attachment down; whoever waits is told when nothing is left of it.
    pub(super) fn remove(
        &mut self,
        id: &AttachmentId,
        waiting: Option<(CniReply, Instant, Result<Value, CniError>)>,
    ) {
        if let Some(removing) = self.removing.get_mut(id) {
            removing.waiting.extend(waiting);
            return;
        }
        let record = self.attached.remove(id);
        if let Some(record) = &record {
            let advanced = [Stage::Adding, Stage::Attached]
                .into_iter()
                .try_for_each(|stage| self.records.advance(id, stage, Stage::Deleting));
            if let Err(error) = advanced {
                // Without the mark a crash now would bring the pod back to life; GC or the next DEL ends it.
                tracing::warn!("{error}");
            }
            if let Some(pod) = self.published(&record.attachment) {
                // A pod's new sandbox may be here before its old one has gone.
                let successor = self.attached.values().find_map(|record| {
                    let other = self.published(&record.attachment).filter(|other| other.key == pod.key)?;
                    (!self.adding.contains_key(&record.attachment.id)).then_some(other)
                });
                self.publish(PublishWork::Publish(match successor {
                    Some(other) => Published::Pod(other),
                    None => Published::PodGone { node: pod.node, key: pod.key },
                }));
            }
        }
        crash::point("del:marked");
        self.compiler.apply(Change::Remove(FactKey::Attachment(id.clone())));
        // Nothing in the kernel is of somebody who was never attached.
        let generation = if record.is_some() { None } else { Some(self.generation_in_force) };
        let waiting = waiting.into_iter().collect();
        self.removing.insert(id.clone(), Removing { generation, record, waiting, unfinished: None });
        self.settle_removing();
    }

    /// Finishes the removals that the kernel is done with.
    pub(super) fn settle_removing(&mut self) {
        let in_force = self.generation_in_force;
        let due: Vec<AttachmentId> = self
            .removing
            .iter()
            .filter(|(id, removing)| {
                removing.generation.is_some_and(|awaited| awaited <= in_force)
                    && !self.failed.contains_key(&KernelKey::Link(id.host_link()))
            })
            .map(|(id, _)| id.clone())
            .collect();
        for id in due {
            if let Some(removing) = self.removing.remove(&id) {
                self.finish_removal(&id, removing);
            }
        }
    }

    /// What can't be finished now is tried again with each tick; whoever waits is told at once, and may ask again.
    fn finish_removal(&mut self, id: &AttachmentId, mut removing: Removing) {
        crash::point("del:gone");
        let outcome = self.release(id).and_then(|()| {
            crash::point("del:released");
            self.records.remove(id).map_err(|e| e.to_string())
        });
        for (reply, _, answer) in removing.waiting.drain(..) {
            let answer = match &outcome {
                Ok(()) => answer,
                Err(reason) => {
                    Err(CniError::new(Code::IO_FAILURE, "the address can't be given back", reason.clone()))
                }
            };
            reply.send(answer);
        }
        if let Err(reason) = outcome {
            if removing.unfinished.as_ref() != Some(&reason) {
                tracing::warn!("{id} can't be removed yet, so its addresses stay taken: {reason}");
            }
            removing.unfinished = Some(reason);
            self.removing.insert(id.clone(), removing);
        }
    }

    /// Gives back all addresses of an attachment, in whatever network they are.
    pub(super) fn release(&mut self, id: &AttachmentId) -> Result<(), String> {
        for leases in self.leases.values_mut() {
            leases.release(id).map_err(|error| error.to_string())?;
        }
        Ok(())
    }

    /// Tells those who have waited too long that it goes on without them.
    pub(super) fn expire_removing(&mut self, now: Instant) {
        for (id, removing) in &mut self.removing {
            let late = removing.waiting.extract_if(.., |(_, deadline, _)| *deadline <= now);
            for (reply, _, _) in late {
                let reason = self
                    .failed
                    .get(&KernelKey::Link(id.host_link()))
                    .cloned()
                    .unwrap_or_else(|| "the kernel has not answered yet".into());
                reply.send(Err(CniError::new(
                    Code::TRY_AGAIN_LATER,
                    "the pod's network is still there",
                    reason,
                )));
            }
        }
    }

    /// Finishes what the plugin was asked while the agent was away.
    pub(super) fn take_tombstones(&mut self) {
        let state_dir = self.config.state_dir.clone();
        let found = match tombstone::list(&state_dir) {
            Ok(found) => found,
            Err(error) => {
                return self.trouble("tombstones", Some(format!("cannot read tombstones: {error}")));
            }
        };
        let mut unreadable = Vec::new();
        for (path, read) in found {
            let id = read.ok().and_then(|tombstone| tombstone.id());
            let Some((container, ifname)) =
                id.and_then(|id| Some((id.container, IfName::new(&id.ifname).ok()?)))
            else {
                unreadable.push(path.display().to_string());
                continue;
            };
            let id = AttachmentId { container: container.as_str().into(), ifname };
            self.remove(&id, None);
            if let Err(error) = std::fs::remove_file(&path) {
                tracing::warn!("cannot remove {}: {error}", path.display());
            }
        }
        let files = unreadable.join(", ");
        let text = format!("tombstones that can't be read, and are left alone: {files}; remove them");
        self.trouble("tombstones", (!files.is_empty()).then_some(text));
    }
}
