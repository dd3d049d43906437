//! Leases in memory, for tests and for what lives no longer than its process.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use weft_model::AttachmentId;

use crate::{Lease, LeaseError, LeaseOwner, LeaseStore, Reservation};

#[derive(Debug, Default)]
struct Contents {
    leases: BTreeMap<IpAddr, LeaseOwner>,
    last: HashMap<usize, IpAddr>,
}

/// A [`LeaseStore`] in memory. Clones share their contents, as two processes share a directory.
#[derive(Debug, Clone, Default)]
pub struct MemoryLeases(Arc<Mutex<Contents>>);

impl MemoryLeases {
    fn with<T>(&self, action: impl FnOnce(&mut Contents) -> T) -> T {
        // No action leaves the contents half changed, so they are good even after a panic elsewhere.
        action(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl LeaseStore for MemoryLeases {
    fn reserve(&mut self, address: IpAddr, owner: &AttachmentId) -> Result<Reservation, LeaseError> {
        Ok(self.with(|contents| match contents.leases.get(&address) {
            Some(holder) => Reservation::Taken(holder.clone()),
            None => {
                contents.leases.insert(address, owner.into());
                Reservation::Done
            }
        }))
    }

    fn release(&mut self, lease: &Lease) -> Result<(), LeaseError> {
        self.with(|contents| {
            if contents.leases.get(&lease.address) == Some(&lease.owner) {
                contents.leases.remove(&lease.address);
            }
        });
        Ok(())
    }

    fn list(&self) -> Result<Vec<Lease>, LeaseError> {
        Ok(self.with(|contents| {
            contents
                .leases
                .iter()
                .map(|(address, owner)| Lease { address: *address, owner: owner.clone() })
                .collect()
        }))
    }

    fn confirm(&mut self) -> Result<(), LeaseError> {
        Ok(())
    }

    fn last_reserved(&self, range: usize) -> Option<IpAddr> {
        self.with(|contents| contents.last.get(&range).copied())
    }

    fn set_last_reserved(&mut self, range: usize, address: IpAddr) {
        self.with(|contents| contents.last.insert(range, address));
    }
}
