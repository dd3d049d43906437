//! Which connections should end, and how few of all connections the kernel need tell of to find them. Pure.

use std::collections::BTreeSet;
use std::net::IpAddr;

use rustc_hash::FxHashSet;

use super::Entry;

/// Up to so many lists are asked for, each of which the kernel confines to one end point's connections. It walks its whole
/// table each time (10 ms for 262,144 empty buckets, which all network namespaces share), so that more flows share one list.
const FEW: usize = 2;

/// Connections that were opened to one destination and led to another: by an element that is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Flow {
    /// The address that was asked for; `None` for any.
    pub to: Option<IpAddr>,
    /// IP protocol number.
    pub protocol: u8,
    /// The port that was asked for.
    pub port: u16,
    /// The address and port that answer.
    pub led_to: (IpAddr, u16),
    /// These bits are set in the connections' marks; 0 where the mark doesn't matter.
    pub mark: u32,
}

/// What a listing of connections can be confined to. A kernel that doesn't know a filter tells of more: who lists looks at each
/// connection all the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Narrowing {
    /// All connections.
    None,
    /// Those in whose mark all of these bits are set.
    Marked(u32),
    /// Those that are answered from here (kernels from 5.8 on).
    AnsweredBy {
        /// The address.
        address: IpAddr,
        /// IP protocol number.
        protocol: u8,
        /// The port.
        port: u16,
    },
}

/// The lists in which all of these flows' connections are.
pub fn narrow(flows: &[Flow]) -> Vec<Narrowing> {
    let lists: BTreeSet<Narrowing> = flows
        .iter()
        .map(|flow| {
            let ((address, port), protocol) = (flow.led_to, flow.protocol);
            Narrowing::AnsweredBy { address, protocol, port }
        })
        .collect();
    if lists.len() <= FEW {
        return lists.into_iter().collect();
    }
    match flows.iter().fold(u32::MAX, |bits, flow| bits & flow.mark) {
        0 => vec![Narrowing::None],
        bits => vec![Narrowing::Marked(bits)],
    }
}

/// Flows, arranged so that a connection is asked a few questions however many there are.
#[derive(Debug, Default)]
pub struct Selection {
    flows: FxHashSet<Flow>,
    marks: Vec<u32>,
}

impl Selection {
    /// Of these flows.
    pub fn new(flows: &[Flow]) -> Self {
        let mut marks: Vec<u32> = flows.iter().map(|flow| flow.mark).collect();
        marks.sort_unstable();
        marks.dedup();
        Self { flows: flows.iter().copied().collect(), marks }
    }

    /// True where one of the flows has this connection.
    pub fn names(&self, entry: &Entry) -> bool {
        let original = &entry.original;
        if !entry.is_translated() {
            return false;
        }
        let led_to = (entry.reply.source, entry.reply.source_port);
        let (protocol, port) = (original.protocol, original.destination_port);
        self.marks.iter().filter(|mark| entry.mark & **mark == **mark).any(|mark| {
            [Some(original.destination), None]
                .iter()
                .any(|to| self.flows.contains(&Flow { to: *to, protocol, port, led_to, mark: *mark }))
        })
    }
}
