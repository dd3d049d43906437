//! What we did ourselves, for the monitor: it must tell our changes from everybody else's.
//!
//! Where the kernel says whose request caused a notification, the netlink port is enough. Where it does not (links,
//! forwarding entries), the ledger says what is expected.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use weft_model::{IfName, Mac};
use weft_plan::kernel::{HOST_END_MAC, LINK_GROUP};
use weft_plan::{Link, Route};

use crate::link::state::LinkState;
use crate::monitor::Ears;
use crate::overlay;

/// A shared record of our own changes.
#[derive(Debug, Clone, Default)]
pub struct Ledger(Arc<Mutex<Record>>);

#[derive(Debug, Default)]
struct Record {
    ports: HashSet<u32>,
    links: HashMap<IfName, Expected>,
    leaving: HashSet<(IfName, Mac)>,
    /// Links and source addresses that routes of ours name, or named once: with them the kernel forgets routes.
    used_links: HashSet<IfName>,
    used_sources: HashSet<IpAddr>,
    /// What hears of the packet filter's changes, where something does.
    ears: Option<Ears>,
}

/// How a link of ours should look.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Expected {
    /// It is being made or changed.
    Busy,
    /// Like this, and up. Links of some kinds have no MAC.
    Like { mac: Option<Mac>, mtu: u32, alias: Box<str> },
}

impl Expected {
    /// What a row asks for.
    pub(crate) fn of(link: &Link) -> Self {
        let mac = match overlay::of(&link.kind) {
            Some(overlay) => overlay.mac(),
            None => Some(HOST_END_MAC),
        };
        Expected::Like { mac, mtu: link.kind.mtu(), alias: link.alias.clone() }
    }

    /// True where the link is so, or nobody can say yet.
    pub(crate) fn fits(&self, state: &LinkState) -> bool {
        match self {
            Expected::Busy => true,
            Expected::Like { mac, mtu, alias } => {
                state.group == LINK_GROUP
                    && state.is_up()
                    && mac.is_none_or(|mac| state.mac == Some(mac))
                    && state.mtu == *mtu
                    && *state.alias == **alias
            }
        }
    }
}

impl Ledger {
    fn lock(&self) -> MutexGuard<'_, Record> {
        // A panic elsewhere leaves the record whole: each change of it is one call.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes by this netlink port are ours.
    pub(crate) fn add_port(&self, port: u32) {
        self.lock().ports.insert(port);
    }

    /// True for a port of ours.
    pub(crate) fn is_ours(&self, port: u32) -> bool {
        self.lock().ports.contains(&port)
    }

    /// Our ports so far.
    pub(crate) fn ports(&self) -> Vec<u32> {
        self.lock().ports.iter().copied().collect()
    }

    /// The monitor hears of the packet filter with these.
    pub(crate) fn hears_with(&self, ears: Ears) {
        self.lock().ears = Some(ears);
    }

    /// True where a monitor hears of the packet filter, which it doesn't from now on.
    pub(crate) fn stops_its_ears(&self) -> bool {
        self.lock().ears.as_ref().is_some_and(|ears| ears.stop().is_ok())
    }

    /// The monitor hears again; an error means that it is deaf for good.
    pub(crate) fn opens_its_ears(&self) -> std::io::Result<()> {
        self.lock().ears.as_ref().map_or(Ok(()), Ears::open)
    }

    /// A link should look so from now on.
    pub(crate) fn expect(&self, name: IfName, expected: Expected) {
        self.lock().links.insert(name, expected);
    }

    /// Nothing is expected of a link any more: it goes, or could not be made.
    pub(crate) fn forget(&self, name: IfName) {
        self.lock().links.remove(&name);
    }

    /// What is expected of a link.
    pub(crate) fn expected(&self, name: IfName) -> Option<Expected> {
        self.lock().links.get(&name).cloned()
    }

    /// A route of ours stands.
    pub(crate) fn uses(&self, route: &Route) {
        let mut record = self.lock();
        record.used_links.extend(route.link);
        record.used_sources.extend(route.source);
    }

    /// True where routes of ours may go by the link.
    pub(crate) fn uses_link(&self, name: IfName) -> bool {
        self.lock().used_links.contains(&name)
    }

    /// True where routes of ours may have the address as source.
    pub(crate) fn uses_source(&self, address: IpAddr) -> bool {
        self.lock().used_sources.contains(&address)
    }

    /// A forwarding entry is about to be removed by us.
    pub(crate) fn leaves(&self, link: IfName, mac: Mac) {
        self.lock().leaving.insert((link, mac));
    }

    /// True, once, for a forwarding entry that we removed.
    pub(crate) fn left(&self, link: IfName, mac: Mac) -> bool {
        self.lock().leaving.remove(&(link, mac))
    }
}
