//! Who holds which address: the pool's choice made durable by the store.
//!
//! What always holds: the index in memory is what the store said last plus what was done here since. host-local may
//! write behind its back; a collision in the store teaches the index, and it is read again before any verdict that
//! something can't be had.

use std::cell::Cell;
use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use weft_model::{AttachmentId, Cidr, Family};

use crate::{Lease, LeaseError, LeaseOwner, LeaseStore, Pool, Reservation};

/// Why an attachment gets no address.
#[derive(Debug, thiserror::Error)]
pub enum IpamError {
    /// The node has no block to take addresses from.
    #[error(
        "this node has no pod CIDR yet; give it one (spec.podCIDRs of its Node), or give the network podCIDRs"
    )]
    NoCidrs,
    /// Every address is taken.
    #[error(
        "no {family} address is free: all usable addresses of {} are taken ({taken} leases); \
         delete pods, or give the node another pod CIDR",
        list(cidrs)
    )]
    Exhausted {
        /// The family that ran out.
        family: Family,
        /// The blocks that were searched.
        cidrs: Vec<Cidr>,
        /// Leases in them.
        taken: usize,
    },
    /// An address was asked for that this node doesn't own.
    #[error(
        "requested address {address} is not in this node's pod CIDRs ({}); request one that is",
        list(cidrs)
    )]
    RequestOutside {
        /// The address.
        address: IpAddr,
        /// The node's blocks.
        cidrs: Vec<Cidr>,
    },
    /// An address was asked for that no pod may have.
    #[error(
        "requested address {address} is reserved (a network's, broadcast or gateway address, or services'); request another"
    )]
    RequestReserved {
        /// The address.
        address: IpAddr,
    },
    /// An address was asked for that somebody has.
    #[error(
        "requested address {address} is held by {owner}; request another, or delete that attachment first"
    )]
    RequestTaken {
        /// The address.
        address: IpAddr,
        /// Its holder.
        owner: LeaseOwner,
    },
    /// Two addresses of a family were asked for.
    #[error("requested addresses {first} and {second} are both {}; request one of each family", Family::of(*first))]
    RequestTwice {
        /// One.
        first: IpAddr,
        /// The other.
        second: IpAddr,
    },
    /// The leases can't be read or written.
    #[error(transparent)]
    Lease(#[from] LeaseError),
}

fn list(cidrs: &[Cidr]) -> String {
    cidrs.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// All leases of one network on this node.
#[derive(Debug)]
pub struct Leases<S> {
    store: S,
    taken: BTreeMap<IpAddr, LeaseOwner>,
    /// The same, by container.
    held: HashMap<Arc<str>, Vec<IpAddr>>,
    /// An address of each family that was free when somebody looked last. Often it still is, and nothing has to be searched.
    seen_free: [Cell<Option<IpAddr>>; 2],
}

impl<S: LeaseStore> Leases<S> {
    /// Reads what the store has.
    ///
    /// # Errors
    /// When it can't be read.
    pub fn open(store: S) -> Result<Self, IpamError> {
        let mut leases =
            Self { store, taken: BTreeMap::new(), held: HashMap::new(), seen_free: Default::default() };
        leases.refresh()?;
        Ok(leases)
    }

    /// Takes one address of each family that `pool` has, in the pool's order of families: the one in `requests`, or
    /// the next free one. All or none. It doesn't look whether `owner` has addresses already: see [`Self::by_owner`].
    ///
    /// # Errors
    /// When a request can't be met, a family is exhausted, or the lease can't be written.
    pub fn allocate(
        &mut self,
        owner: &AttachmentId,
        pool: &Pool,
        requests: &[IpAddr],
    ) -> Result<Vec<IpAddr>, IpamError> {
        let families = pool.families();
        if families.is_empty() {
            return Err(IpamError::NoCidrs);
        }
        check_requests(pool, requests)?;
        let mut given = Vec::with_capacity(families.len());
        for (range, family) in families.into_iter().enumerate() {
            let request = requests.iter().copied().find(|a| Family::of(*a) == family);
            let outcome = match request {
                Some(address) => self.take(address, owner),
                None => self.take_next(range, family, pool, owner),
            };
            match outcome {
                Ok(address) => given.push(address),
                Err(error) => {
                    for address in given {
                        self.give_back(&Lease { address, owner: owner.into() })?;
                    }
                    return Err(error);
                }
            }
        }
        Ok(given)
    }

    /// Takes these very addresses for `owner` where it doesn't hold them: what a pod uses stays its own, also where
    /// somebody has removed its lease. Returns those that were taken again.
    ///
    /// # Errors
    /// When another owner has one by now, or a lease can't be written; the others are taken all the same.
    pub fn restore(&mut self, owner: &AttachmentId, addresses: &[IpAddr]) -> Result<Vec<IpAddr>, IpamError> {
        let mut restored = Vec::new();
        let mut failed = None;
        for address in addresses.iter().copied() {
            if self.taken.get(&address).is_some_and(|holder| holder.is(owner)) {
                continue;
            }
            match self.take(address, owner) {
                Ok(address) => restored.push(address),
                Err(IpamError::RequestTaken { owner: holder, .. }) if holder.is(owner) => {}
                Err(error) => failed = Some(error),
            }
        }
        failed.map_or(Ok(restored), Err)
    }

    /// Says that every holder has been through [`Self::restore`], so that the store's list counts again.
    ///
    /// # Errors
    /// When that can't be written.
    pub fn confirm(&mut self) -> Result<(), IpamError> {
        Ok(self.store.confirm()?)
    }

    /// The addresses that `owner` holds, IPv4 first.
    pub fn by_owner(&self, owner: &AttachmentId) -> Vec<IpAddr> {
        let addresses = self.held.get(&owner.container).into_iter().flatten();
        let mut addresses: Vec<IpAddr> = addresses.copied().filter(|a| self.taken[a].is(owner)).collect();
        addresses.sort_unstable();
        addresses
    }

    /// Gives back all that `owner` holds, and returns it. Nothing held is no error: a DEL may come twice.
    ///
    /// # Errors
    /// When a lease can't be removed; those after it are kept.
    pub fn release(&mut self, owner: &AttachmentId) -> Result<Vec<IpAddr>, IpamError> {
        let addresses = self.by_owner(owner);
        for address in &addresses {
            let lease = Lease { address: *address, owner: self.taken[address].clone() };
            self.give_back(&lease)?;
        }
        Ok(addresses)
    }

    /// Frees every lease whose owner is not alive, and returns those. `is_alive` answers for all that share the
    /// store's directory, also for containers that another plugin gave addresses to.
    ///
    /// # Errors
    /// When leases can't be read or removed.
    pub fn reconcile(&mut self, is_alive: impl Fn(&LeaseOwner) -> bool) -> Result<Vec<Lease>, IpamError> {
        self.refresh()?;
        let dead: Vec<Lease> = self.iter().filter(|lease| !is_alive(&lease.owner)).collect();
        for lease in &dead {
            self.give_back(lease)?;
        }
        Ok(dead)
    }

    /// Every lease, by address.
    pub fn iter(&self) -> impl Iterator<Item = Lease> + '_ {
        self.taken.iter().map(|(address, owner)| Lease { address: *address, owner: owner.clone() })
    }

    /// True where an address of every family in `pool` could be had now: what CNI's STATUS asks.
    pub fn has_room(&self, pool: &Pool) -> bool {
        !pool.families().is_empty() && self.full_family(pool).is_none()
    }

    /// A family of which `pool` has blocks and no free address, the preferred first. It is asked far more often than addresses come and go:
    /// leases are searched only where the address that was free before no longer is.
    pub fn full_family(&self, pool: &Pool) -> Option<Family> {
        pool.families().into_iter().find(|family| {
            let [v4, v6] = &self.seen_free;
            let seen = match family {
                Family::V4 => v4,
                Family::V6 => v6,
            };
            let is_free = |address: &IpAddr| {
                pool.contains(*address) && !pool.is_reserved(*address) && !self.taken.contains_key(address)
            };
            let free = seen.get().filter(is_free).or_else(|| {
                // From where it was: what lies before is taken, or comes again at the end.
                pool.next(*family, seen.get(), &self.taken)
            });
            seen.set(free);
            free.is_none()
        })
    }

    /// Reads the store again.
    fn refresh(&mut self) -> Result<(), IpamError> {
        let leases = self.store.list();
        if let Ok(_) | Err(LeaseError::Vanished { .. }) = &leases {
            self.taken.clear();
            self.held.clear();
        }
        let leases = leases?;
        for lease in leases {
            self.learn(lease.address, lease.owner);
        }
        Ok(())
    }

    fn learn(&mut self, address: IpAddr, owner: LeaseOwner) {
        let container = owner.container.clone();
        self.forget(address);
        self.taken.insert(address, owner);
        self.held.entry(container).or_default().push(address);
    }

    fn forget(&mut self, address: IpAddr) {
        let Some(owner) = self.taken.remove(&address) else {
            return;
        };
        if let Some(addresses) = self.held.get_mut(&owner.container) {
            addresses.retain(|a| *a != address);
            if addresses.is_empty() {
                self.held.remove(&owner.container);
            }
        }
    }

    fn give_back(&mut self, lease: &Lease) -> Result<(), IpamError> {
        self.store.release(lease)?;
        self.forget(lease.address);
        Ok(())
    }

    /// Takes this very address. The store is asked even where the index says that it is taken.
    fn take(&mut self, address: IpAddr, owner: &AttachmentId) -> Result<IpAddr, IpamError> {
        match self.store.reserve(address, owner)? {
            Reservation::Done => {
                self.learn(address, owner.into());
                Ok(address)
            }
            Reservation::Taken(holder) => {
                self.learn(address, holder.clone());
                Err(IpamError::RequestTaken { address, owner: holder })
            }
        }
    }

    fn take_next(
        &mut self,
        range: usize,
        family: Family,
        pool: &Pool,
        owner: &AttachmentId,
    ) -> Result<IpAddr, IpamError> {
        let last = self.store.last_reserved(range);
        let mut is_fresh = false;
        loop {
            let Some(address) = pool.next(family, last, &self.taken) else {
                if is_fresh {
                    let cidrs: Vec<Cidr> = pool.of(family).collect();
                    let taken = self.taken.keys().filter(|a| cidrs.iter().any(|c| c.contains(**a))).count();
                    return Err(IpamError::Exhausted { family, cidrs, taken });
                }
                self.refresh()?;
                is_fresh = true;
                continue;
            };
            match self.take(address, owner) {
                // Another plugin was first; the index knows now, so the next turn looks further.
                Err(IpamError::RequestTaken { .. }) => {}
                Ok(address) => {
                    self.store.set_last_reserved(range, address);
                    return Ok(address);
                }
                error => return error,
            }
        }
    }
}

fn check_requests(pool: &Pool, requests: &[IpAddr]) -> Result<(), IpamError> {
    for (at, address) in requests.iter().copied().enumerate() {
        if !pool.contains(address) {
            return Err(IpamError::RequestOutside { address, cidrs: pool.cidrs.clone() });
        }
        if pool.is_reserved(address) {
            return Err(IpamError::RequestReserved { address });
        }
        if let Some(first) = requests[..at].iter().find(|a| Family::of(**a) == Family::of(address)) {
            return Err(IpamError::RequestTwice { first: *first, second: address });
        }
    }
    Ok(())
}
