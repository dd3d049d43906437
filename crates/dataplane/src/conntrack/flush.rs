//! Selectors, the listing, and the deletions.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::entry::{CTA_ID, CTA_TUPLE_ORIG, CTA_ZONE, Entry};
use crate::filter::FilterError;
use crate::filter::attribute::{Attributes, Messages, NESTED, Writer};
use crate::filter::socket::Nfnl;
use crate::filter::uapi as k;
use crate::netlink::Refusal;

const IPCTNL_MSG_CT_GET: u16 = 1;
const IPCTNL_MSG_CT_DELETE: u16 = 2;

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

/// Which entries should go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Flow {
    /// Those that were opened to this destination, before translation: a port mapping or service that is gone.
    To {
        /// The address that was asked for; `None` for any (a mapping of all of a node's addresses).
        address: Option<IpAddr>,
        /// IP protocol number.
        protocol: u8,
        /// The port that was asked for.
        port: u16,
    },
    /// Those that were translated so that this answers them: one end point of a mapping or service.
    AnsweredBy {
        /// Where they really lead.
        address: IpAddr,
        /// IP protocol number.
        protocol: u8,
        /// The port there.
        port: u16,
    },
    /// Those whose mark is this in the bits of the mask.
    Mark {
        /// The bits' value.
        mark: u32,
        /// The bits that count.
        mask: u32,
    },
    /// Those from or to this address, before or after translation: a pod that is gone.
    Address(IpAddr),
}

/// The selectors, arranged so that an entry is asked a few questions however many there are.
#[derive(Debug, Default)]
pub(super) struct Selection {
    to: BTreeSet<(Option<IpAddr>, u8, u16)>,
    answered_by: BTreeSet<(IpAddr, u8, u16)>,
    marks: BTreeMap<u32, BTreeSet<u32>>,
    addresses: BTreeSet<IpAddr>,
}

impl Selection {
    pub(super) fn new(flows: &[Flow]) -> Self {
        let mut selection = Self::default();
        for flow in flows {
            match *flow {
                Flow::To { address, protocol, port } => {
                    selection.to.insert((address, protocol, port));
                }
                Flow::AnsweredBy { address, protocol, port } => {
                    selection.answered_by.insert((address, protocol, port));
                }
                Flow::Mark { mark, mask } => {
                    selection.marks.entry(mask).or_default().insert(mark & mask);
                }
                Flow::Address(address) => {
                    selection.addresses.insert(address);
                }
            }
        }
        selection
    }

    pub(super) fn names(&self, entry: &Entry) -> bool {
        let (original, reply) = (&entry.original, &entry.reply);
        let asked = (original.protocol, original.destination_port);
        let translated =
            reply.source != original.destination || reply.source_port != original.destination_port;
        self.to.contains(&(Some(original.destination), asked.0, asked.1))
            // Any address: only what was translated; a connection that the host itself answers has that port too.
            || (translated && self.to.contains(&(None, asked.0, asked.1)))
            || (translated && self.answered_by.contains(&(reply.source, reply.protocol, reply.source_port)))
            || self.marks.iter().any(|(mask, marks)| marks.contains(&(entry.mark & mask)))
            || [original.source, original.destination, reply.source, reply.destination]
                .iter()
                .any(|address| self.addresses.contains(address))
    }
}

/// Removes the tracked connections that a selector names, in this thread's network namespace; says how many.
///
/// One listing of all connections, whatever the number of selectors; without selectors none.
///
/// # Errors
/// When the kernel can't be asked, or refuses; what was removed by then stays removed.
pub fn flush(flows: &[Flow]) -> Result<usize, ConntrackError> {
    if flows.is_empty() {
        return Ok(0);
    }
    let selection = Selection::new(flows);
    let mut nfnl = Nfnl::open()?;
    let kind = |message: u16| message | k::NFNL_SUBSYS_CTNETLINK << 8;
    let list = nfnl.dump("tracked connections", (kind(IPCTNL_MSG_CT_GET), k::NFPROTO_UNSPEC), |_| {})?;
    let mut removed = 0;
    for message in Messages(&list) {
        let attributes = message.attributes();
        let Some(entry) = Entry::read(attributes).filter(|entry| selection.names(entry)) else {
            continue;
        };
        let header = (kind(IPCTNL_MSG_CT_DELETE), 0, message.family());
        match nfnl.ask(header, |w| write_identity(w, attributes))? {
            Ok(_) => removed += 1,
            // It has ended by itself.
            Err(refusal) if refusal.errno == libc::ENOENT => {}
            Err(refusal) => {
                let destination = entry.original.destination;
                return Err(ConntrackError::Remove { destination, refusal });
            }
        }
    }
    Ok(removed)
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
