//! What the executor needs of a kernel: to see what is ours, and to change it.
//!
//! Two implementations: [`crate::LinuxKernel`] by netlink, [`crate::fake::FakeKernel`] in memory. Both touch only what is
//! *owned*: links of our group and name prefixes, routes and rules of our protocol, what hangs on our tunnels,
//! our packet filter table, and sysctls whose originals we keep.

use std::collections::BTreeMap;

use rustc_hash::FxHashMap;
use weft_model::IfName;
use weft_plan::kernel::{POD_LINK_PREFIX, TUNNEL_LINK_PREFIX};
use weft_plan::{KernelKey, KernelRow, Rows};

use crate::KernelError;
use crate::conntrack::{Entry, Narrowing};

/// One change of one object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op<'a> {
    /// Makes the object be as the row says, whatever it is now.
    Set {
        /// Which object.
        key: &'a KernelKey,
        /// What it should be.
        row: &'a KernelRow,
        /// What it was as far as known: decides in which order MTUs change, and whether an element is replaced.
        was: Option<&'a KernelRow>,
        /// See [`Op::turn`].
        turn: u8,
    },
    /// Makes the object be absent; for a sysctl: as we found it.
    Remove {
        /// Which object.
        key: &'a KernelKey,
        /// What it was as far as known.
        was: Option<&'a KernelRow>,
        /// See [`Op::turn`].
        turn: u8,
    },
}

impl<'a> Op<'a> {
    /// Makes a row be there.
    pub fn set(key: &'a KernelKey, row: &'a KernelRow, was: Option<&'a KernelRow>) -> Self {
        Op::Set { key, row, was, turn: 0 }
    }

    /// Makes a row be absent.
    pub fn remove(key: &'a KernelKey, was: Option<&'a KernelRow>) -> Self {
        Op::Remove { key, was, turn: 0 }
    }

    /// Which object it changes.
    pub fn key(&self) -> &'a KernelKey {
        match self {
            Op::Set { key, .. } | Op::Remove { key, .. } => key,
        }
    }

    /// What the object was, as far as known.
    pub fn was(&self) -> Option<&'a KernelRow> {
        match self {
            Op::Set { was, .. } | Op::Remove { was, .. } => *was,
        }
    }

    /// Which of the batch's transactions of the packet filter it belongs to, from 0, as [`crate::order::arrange`] says; 0
    /// for what is no part of the packet filter.
    pub fn turn(&self) -> u8 {
        match self {
            Op::Set { turn, .. } | Op::Remove { turn, .. } => *turn,
        }
    }

    pub(crate) fn take_turn(&mut self, number: u8) {
        match self {
            Op::Set { turn, .. } | Op::Remove { turn, .. } => *turn = number,
        }
    }
}

/// What a successful change did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// The object is as it should be.
    Done,
    /// The link had to be made anew, so that routes, neighbours and forwarding entries by it are gone.
    Recreated,
}

impl Effect {
    /// The effect of making a link: where one was known to stand before, it was lost, and all by it.
    pub(crate) fn of_creation(was: Option<&KernelRow>) -> Self {
        if was.is_some() { Effect::Recreated } else { Effect::Done }
    }
}

/// What is owned, as the kernel holds it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Observation {
    /// Every owned object that exists. What lies inside a pod's namespace is taken from the wanted row: a pod may
    /// rearrange its own end.
    pub rows: FxHashMap<KernelKey, KernelRow>,
    /// Objects among `rows` that are wrong in a way that a row can't say, and how: "proxy_arp is off".
    pub damaged: BTreeMap<KernelKey, String>,
}

/// A kernel.
pub trait Kernel {
    /// Lists what is owned. `wanted` says which sysctls to read, and whose pods' links are whose.
    ///
    /// # Errors
    /// When the kernel can't be asked.
    fn observe(&mut self, wanted: &Rows<KernelKey, KernelRow>) -> Result<Observation, KernelError>;

    /// Applies changes in this order, which [`crate::order::arrange`] made; one result each. A failure does not stop
    /// the rest, with one exception: all packet filter rows of one turn are one transaction, and where that is refused as
    /// a whole, later turns are not tried, because they may lead packets to what it should have brought.
    fn apply(&mut self, batch: &[Op<'_>]) -> Vec<Result<Effect, KernelError>>;

    /// Takes out the tracked connections that `stale` names among those that the narrowing is about; says how many.
    ///
    /// # Errors
    /// When the kernel can't be asked, or refuses.
    fn forget(&mut self, narrowing: &Narrowing, stale: &dyn Fn(&Entry) -> bool)
    -> Result<usize, KernelError>;

    /// Netlink messages sent so far.
    fn messages(&self) -> u64;
}

/// The link that a row goes by, so that it vanishes with it.
pub(crate) fn link_of(key: &KernelKey, row: &KernelRow) -> Option<IfName> {
    match (key, row) {
        (KernelKey::Neighbour(link, _) | KernelKey::Fdb(link, _), _) => Some(*link),
        (KernelKey::Route(_), KernelRow::Route(route)) => route.link,
        (KernelKey::Sysctl(path), _) => own_link_of(path),
        _ => None,
    }
}

/// The link of ours that a sysctl belongs to (`net/ipv4/conf/LINK/…`): it comes and goes with the link.
pub(crate) fn own_link_of(path: &str) -> Option<IfName> {
    let mut parts = path.split('/').skip_while(|part| *part != "conf");
    let name = parts.nth(1).filter(|_| parts.next().is_some())?;
    let ours = name.starts_with(TUNNEL_LINK_PREFIX) || name.starts_with(POD_LINK_PREFIX);
    IfName::new(name).ok().filter(|_| ours)
}

/// The MTU of a link row.
pub(crate) fn mtu_of(row: &KernelRow) -> Option<u32> {
    match row {
        KernelRow::Link(link) => Some(link.kind.mtu()),
        _ => None,
    }
}
