//! Which notifications matter: pure but for the ledger that it reads.
//!
//! What always holds: what we did ourselves is no reason, which is known by the sender's port, by the ledger, or because a link is
//! as it should be. Lost notifications count as everything changed. Each verdict begins anew.
//!
//! What is absent: mending. A verdict says that the host is to be looked at again, or that ours was disturbed and by what, for
//! people; a full comparison finds out the rest.

use std::collections::{BTreeMap, BTreeSet};

use weft_model::IfName;
use weft_plan::filter::TABLE;
use weft_plan::kernel::{GATEWAY_V6, POD_LINK_PREFIX, ROUTE_PROTOCOL, TUNNEL_LINK_PREFIX};

use super::Notification;
use crate::ledger::Ledger;
use crate::link::state::LinkState;
use crate::netlink::{Received, number};

/// `FRA_PROTOCOL`.
const FRA_PROTOCOL: u16 = 21;
/// Length of `struct ifaddrmsg`, of `struct rtmsg` and `struct ndmsg`, and of `struct nfgenmsg`.
const ADDRESS_FIXED: usize = 8;
const ROUTE_FIXED: usize = 12;
const NFGEN_FIXED: usize = 4;
/// `NFNL_SUBSYS_NFTABLES` in a message's type.
const NFTABLES: u16 = 10 << 8;
/// `NFPROTO_INET`.
const INET: u8 = 1;

/// `NFT_MSG_*` and attributes of `linux/netfilter/nf_tables.h`; the table's name has number 1 in all of them.
mod nft {
    pub(super) const DELTABLE: u16 = 2;
    pub(super) const NEWCHAIN: u16 = 3;
    pub(super) const DELCHAIN: u16 = 5;
    pub(super) const DELRULE: u16 = 8;
    pub(super) const NEWGEN: u16 = 15;
    pub(super) const TABLE: u16 = 1;
    pub(super) const RULE_CHAIN: u16 = 2;
    pub(super) const CHAIN_HOOK: u16 = 4;
}

/// Gathers notifications and judges them.
#[derive(Debug)]
pub(super) struct Judge {
    own: Ledger,
    /// Links that are not ours, as last seen: most notifications of them change nothing that matters.
    foreign: BTreeMap<u32, Foreign>,
    /// Our links by index, for notifications that name no link.
    names: BTreeMap<u32, IfName>,
    host: Certainty,
    /// Our links that changed, and how they look now; `None` for gone.
    links: BTreeMap<IfName, Option<LinkState>>,
    /// Our links, by index, that lost the gateway's address: a link loses it with its end, too.
    bare: BTreeSet<u32>,
    /// Our links, by index, that lost a neighbour or forwarding entry which we did not remove.
    unpeered: BTreeSet<u32>,
    reasons: BTreeSet<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Certainty {
    Same,
    Changed,
}

/// What matters of a link that is not ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Foreign {
    name: IfName,
    mtu: u32,
    flags: u32,
}

impl Foreign {
    fn of(state: &LinkState) -> Self {
        Self {
            name: state.name,
            mtu: state.mtu,
            flags: state.flags & (libc::IFF_UP | libc::IFF_RUNNING) as u32,
        }
    }
}

fn is_own_name(name: IfName) -> bool {
    name.as_str().starts_with(POD_LINK_PREFIX) || name.as_str().starts_with(TUNNEL_LINK_PREFIX)
}

impl Judge {
    /// Begins with the links that are there.
    pub(super) fn new(own: Ledger, links: Vec<LinkState>) -> Self {
        let mut judge = Self {
            own,
            foreign: BTreeMap::new(),
            names: BTreeMap::new(),
            host: Certainty::Same,
            links: BTreeMap::new(),
            bare: BTreeSet::new(),
            unpeered: BTreeSet::new(),
            reasons: BTreeSet::new(),
        };
        for state in links {
            if is_own_name(state.name) {
                judge.names.insert(state.index, state.name);
            } else {
                judge.foreign.insert(state.index, Foreign::of(&state));
            }
        }
        judge
    }

    /// Notifications were lost.
    pub(super) fn lost(&mut self) {
        self.host = Certainty::Changed;
        self.reasons.insert("too much happened at once: anything may have changed".into());
    }

    /// Takes one notification.
    pub(super) fn take(&mut self, message: &Received<'_>) {
        match message.kind {
            libc::RTM_NEWLINK | libc::RTM_DELLINK => self.link(message),
            libc::RTM_NEWADDR | libc::RTM_DELADDR => self.address(message),
            libc::RTM_NEWROUTE | libc::RTM_DELROUTE => self.route(message),
            libc::RTM_NEWRULE | libc::RTM_DELRULE => {
                let protocol = message.attributes(ROUTE_FIXED).u8(FRA_PROTOCOL);
                if protocol == Some(ROUTE_PROTOCOL) && !self.own.is_ours(message.port) {
                    self.reasons.insert("a policy rule".into());
                }
            }
            libc::RTM_DELNEIGH => self.forwarding_entry(message),
            kind if kind & 0xff00 == NFTABLES => self.nftables(message, kind & 0xff),
            _ => {}
        }
    }

    fn link(&mut self, message: &Received<'_>) {
        let Some(state) = LinkState::read(message.body) else {
            return;
        };
        // The bridge layer speaks of links too, of their ports.
        if message.body.first() == Some(&(libc::AF_BRIDGE as u8))
            || state.flags & libc::IFF_LOOPBACK as u32 != 0
        {
            return;
        }
        let gone = message.kind == libc::RTM_DELLINK;
        if is_own_name(state.name) {
            if gone {
                self.names.remove(&state.index);
            } else {
                self.names.insert(state.index, state.name);
            }
            self.links.insert(state.name, (!gone).then_some(state));
            return;
        }
        let now = Foreign::of(&state);
        let before =
            if gone { self.foreign.remove(&state.index) } else { self.foreign.insert(state.index, now) };
        if !gone && before == Some(now) {
            return;
        }
        self.host = Certainty::Changed;
        // With a link that goes down or away the kernel forgets routes by it, without a word.
        if !self.own.uses_link(state.name) {
            return;
        }
        let was_up = before.is_some_and(|before| before.flags & libc::IFF_UP as u32 != 0);
        if was_up && (gone || !state.is_up()) {
            self.reasons.insert(format!("routes by {}, which went down", state.name));
        } else if !was_up && state.is_up() {
            self.reasons.insert(format!("routes by {}, which came up", state.name));
        }
    }

    fn address(&mut self, message: &Received<'_>) {
        let Some(index) = number(message.body, 4) else {
            return;
        };
        match self.names.get(&index) {
            None => {
                self.host = Certainty::Changed;
                let attributes = message.attributes(ADDRESS_FIXED);
                let address =
                    attributes.address(libc::IFA_LOCAL).or_else(|| attributes.address(libc::IFA_ADDRESS));
                let used = address.is_some_and(|address| self.own.uses_source(address));
                // Routes that used it as source are gone with it.
                if message.kind == libc::RTM_DELADDR && used {
                    self.reasons.insert("routes with an address that was removed".into());
                }
            }
            Some(_) => {
                let gateway = message.attributes(ADDRESS_FIXED).address(libc::IFA_ADDRESS);
                if message.kind == libc::RTM_DELADDR && gateway == Some(GATEWAY_V6.into()) {
                    self.bare.insert(index);
                }
            }
        }
    }

    fn route(&mut self, message: &Received<'_>) {
        let Some(header) = message.body.get(..ROUTE_FIXED) else {
            return;
        };
        let (prefix, protocol) = (header[1], header[5]);
        if protocol != ROUTE_PROTOCOL && prefix == 0 {
            self.host = Certainty::Changed;
        }
        if self.own.is_ours(message.port) {
            return;
        }
        let replaced = i32::from(message.flags) & libc::NLM_F_REPLACE != 0;
        if protocol == ROUTE_PROTOCOL || replaced {
            self.reasons.insert("a route".into());
        }
    }

    /// A forwarding entry went.
    fn forwarding_entry(&mut self, message: &Received<'_>) {
        let index = number(message.body, 4).unwrap_or(0);
        let Some(name) = self.names.get(&index).filter(|n| n.as_str().starts_with(TUNNEL_LINK_PREFIX)) else {
            return;
        };
        let mac = message.attributes(ROUTE_FIXED).mac(libc::NDA_LLADDR);
        let own = match (message.body.first(), mac) {
            (Some(family), Some(mac)) if i32::from(*family) == libc::AF_BRIDGE => self.own.left(*name, mac),
            // Neighbours carry the port of who removed them.
            _ => self.own.is_ours(message.port),
        };
        if !own {
            self.unpeered.insert(index);
        }
    }

    /// Our table; and base chains of others, where our openings are.
    fn nftables(&mut self, message: &Received<'_>, kind: u16) {
        if kind == nft::NEWGEN || self.own.is_ours(message.port) {
            return;
        }
        let attributes = message.attributes(NFGEN_FIXED);
        let inet = message.body.first() == Some(&INET);
        if inet && attributes.text(nft::TABLE) == Some(TABLE) {
            self.reasons.insert(format!("table inet {TABLE}"));
            return;
        }
        let chain = attributes.text(nft::RULE_CHAIN).unwrap_or_default();
        let firewall = match kind {
            nft::DELTABLE => true,
            nft::NEWCHAIN | nft::DELCHAIN => attributes.get(nft::CHAIN_HOOK).is_some(),
            nft::DELRULE => chain.eq_ignore_ascii_case("forward") || chain.eq_ignore_ascii_case("input"),
            _ => false,
        };
        if firewall {
            self.reasons.insert("another program's firewall".into());
        }
    }

    /// What all that was gathered means; begins anew.
    pub(super) fn verdict(&mut self) -> Vec<Notification> {
        for (name, now) in std::mem::take(&mut self.links) {
            let Some(expected) = self.own.expected(name) else {
                continue;
            };
            if !now.is_some_and(|state| expected.fits(&state)) {
                self.reasons.insert(format!("link {name}"));
            }
        }
        let bare = std::mem::take(&mut self.bare).into_iter().map(|index| (index, "addresses"));
        let unpeered = std::mem::take(&mut self.unpeered).into_iter().map(|index| (index, "peers"));
        for (index, what) in bare.chain(unpeered) {
            // What a link lost in going is no news of its own.
            let name = self.names.get(&index).filter(|name| self.own.expected(**name).is_some());
            self.reasons.extend(name.map(|name| format!("the {what} of {name}")));
        }
        let mut notifications = Vec::new();
        if std::mem::replace(&mut self.host, Certainty::Same) == Certainty::Changed {
            notifications.push(Notification::HostChanged);
        }
        let reasons = std::mem::take(&mut self.reasons);
        if !reasons.is_empty() {
            let what = reasons.into_iter().collect::<Vec<_>>().join(", ");
            notifications.push(Notification::Disturbed { what });
        }
        notifications
    }
}
