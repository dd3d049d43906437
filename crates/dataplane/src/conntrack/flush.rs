//! The listing, confined by the kernel where it can, and the deletions.

use std::net::IpAddr;

use weft_model::Family;

use super::entry::{CTA_ID, CTA_MARK, CTA_TUPLE_ORIG, CTA_TUPLE_REPLY, CTA_ZONE, Entry, Side, write_tuple};
use super::suspects::Narrowing;
use crate::filter::FilterError;
use crate::filter::attribute::{Attributes, Messages, NESTED, Writer};
use crate::filter::socket::Nfnl;
use crate::filter::uapi as k;
use crate::netlink::Refusal;

const IPCTNL_MSG_CT_GET: u16 = 1;
const IPCTNL_MSG_CT_DELETE: u16 = 2;
const CTA_MARK_MASK: u16 = 21;
const CTA_FILTER: u16 = 25;
const CTA_FILTER_ORIG_FLAGS: u16 = 1;
const CTA_FILTER_REPLY_FLAGS: u16 = 2;
/// `CTA_FILTER_F_…` (`nf_internals.h`): what of a tuple counts.
const SOURCE_ADDRESS: u32 = 1;
const DESTINATION_ADDRESS: u32 = 1 << 1;
const PROTOCOL: u32 = 1 << 3;
const SOURCE_PORT: u32 = 1 << 4;
const DESTINATION_PORT: u32 = 1 << 5;
/// Deletions of one datagram: their refusals fit an unprivileged receive buffer.
const AT_ONCE: usize = 200;

/// Why entries could not be listed or removed.
#[derive(Debug, thiserror::Error)]
pub enum ConntrackError {
    /// The kernel can't be asked.
    #[error("can't look at tracked connections: {0}; the kernel needs CONFIG_NF_CT_NETLINK")]
    Netfilter(#[from] FilterError),
    /// An entry could not be removed.
    #[error("can't remove a tracked connection to {destination}: {refusal}; CAP_NET_ADMIN is needed")]
    Remove {
        /// Where it went before translation.
        destination: IpAddr,
        /// The kernel's answer.
        refusal: Refusal,
    },
}

/// The tracked connections of the network namespace that it was opened in.
#[derive(Debug)]
pub struct Conntrack {
    nfnl: Nfnl,
}

impl Conntrack {
    /// Opens a socket in the calling thread's network namespace.
    ///
    /// # Errors
    /// When there is no netfilter.
    pub fn open() -> Result<Self, ConntrackError> {
        Ok(Self { nfnl: Nfnl::open()? })
    }

    /// Netlink messages sent so far.
    pub fn messages(&self) -> u64 {
        self.nfnl.sent()
    }

    /// Removes the connections that `stale` names among those that the narrowing lists; says how many.
    ///
    /// # Errors
    /// When the kernel can't be asked, or refuses; what was removed by then stays removed.
    pub fn forget(
        &mut self,
        narrowing: &Narrowing,
        stale: &dyn Fn(&Entry) -> bool,
    ) -> Result<usize, ConntrackError> {
        let family = match narrowing {
            Narrowing::Protocol(family, _) => Some(*family),
            Narrowing::OpenedTo { address, .. } | Narrowing::AnsweredBy { address, .. } => {
                Some(Family::of(*address))
            }
            Narrowing::None | Narrowing::Marked(_) | Narrowing::Unmarked(_) => None,
        };
        let family = match family {
            Some(Family::V4) => k::NFPROTO_IPV4,
            Some(Family::V6) => k::NFPROTO_IPV6,
            None => k::NFPROTO_UNSPEC,
        };
        let request = (kind(IPCTNL_MSG_CT_GET), family);
        let list = self.nfnl.dump("tracked connections", request, |w| write_narrowing(w, narrowing))?;
        let found: Vec<(u8, Attributes<'_>, Entry)> = Messages(&list)
            .filter_map(|message| {
                let attributes = message.attributes();
                let entry = Entry::read(attributes).filter(stale)?;
                Some((message.family(), attributes, entry))
            })
            .collect();
        let mut removed = 0;
        for some in found.chunks(AT_ONCE) {
            removed += self.delete(some)?;
        }
        Ok(removed)
    }

    fn delete(&mut self, entries: &[(u8, Attributes<'_>, Entry)]) -> Result<usize, ConntrackError> {
        let count = entries.len() as u32;
        let first = self.nfnl.reserve(count);
        let mut w = Writer::new();
        for ((family, attributes, _), number) in entries.iter().zip(first..) {
            let acknowledged = if number == first + count - 1 { k::NLM_F_ACK } else { 0 };
            let header = (kind(IPCTNL_MSG_CT_DELETE), k::NLM_F_REQUEST | acknowledged, number);
            w.message(header, (*family, 0), |w| write_identity(w, *attributes));
        }
        let refused = self.nfnl.transact(&w.into_bytes(), (first, first + count - 1))?;
        let gone_by_themselves = refused.iter().filter(|(_, refusal)| refusal.errno == libc::ENOENT).count();
        match refused.into_iter().find(|(_, refusal)| refusal.errno != libc::ENOENT) {
            None => Ok(entries.len() - gone_by_themselves),
            Some((at, refusal)) => {
                let destination = entries[at as usize].2.original.destination;
                Err(ConntrackError::Remove { destination, refusal })
            }
        }
    }
}

fn kind(message: u16) -> u16 {
    message | k::NFNL_SUBSYS_CTNETLINK << 8
}

fn write_narrowing(w: &mut Writer, narrowing: &Narrowing) {
    match *narrowing {
        Narrowing::None => {}
        Narrowing::Marked(bits) => write_mark(w, bits, bits),
        Narrowing::Unmarked(bits) => write_mark(w, 0, bits),
        Narrowing::Protocol(_, protocol) => {
            w.nest(CTA_TUPLE_ORIG, |w| write_tuple(w, protocol, Side::Neither));
            write_filter(w, PROTOCOL, 0);
        }
        Narrowing::OpenedTo { address, protocol, port } => {
            w.nest(CTA_TUPLE_ORIG, |w| write_tuple(w, protocol, Side::Destination(address, port)));
            write_filter(w, PROTOCOL | DESTINATION_PORT | if_v4(address, DESTINATION_ADDRESS), 0);
        }
        Narrowing::AnsweredBy { address, protocol, port } => {
            w.nest(CTA_TUPLE_REPLY, |w| write_tuple(w, protocol, Side::Source(address, port)));
            write_filter(w, 0, PROTOCOL | SOURCE_PORT | if_v4(address, SOURCE_ADDRESS));
        }
    }
}

/// `ctnetlink_filter_match_tuple` takes an equal IPv6 address for another one, at least up to 6.18.
fn if_v4(address: IpAddr, flag: u32) -> u32 {
    if address.is_ipv4() { flag } else { 0 }
}

fn write_mark(w: &mut Writer, value: u32, mask: u32) {
    w.u32(CTA_MARK, value);
    w.u32(CTA_MARK_MASK, mask);
}

/// What counts of each direction's tuple. These numbers are in the machine's byte order.
fn write_filter(w: &mut Writer, original: u32, reply: u32) {
    w.nest(CTA_FILTER, |w| {
        w.bytes(CTA_FILTER_ORIG_FLAGS, &original.to_ne_bytes());
        w.bytes(CTA_FILTER_REPLY_FLAGS, &reply.to_ne_bytes());
    });
}

/// What says which entry: its first direction and its number, so that a newer one of the same direction stays.
fn write_identity(w: &mut Writer, attributes: Attributes<'_>) {
    for kind in [CTA_TUPLE_ORIG, CTA_ID, CTA_ZONE] {
        if let Some(found) = attributes.get(kind) {
            let nested = if kind == CTA_TUPLE_ORIG { NESTED } else { 0 };
            w.bytes(kind | nested, found.value);
        }
    }
}
