//! What dice and services add to an explanation: every end that a packet can have, and the standing of each endpoint.

use std::fmt::Write as _;
use std::net::SocketAddr;

use serde::Serialize;
use weft_compile::oracle::{Conversation, Outcome};
use weft_compile::rules::services::Asked;
use weft_model::NodeName;

/// Endpoints that are listed; a service can have 65,535.
const MOST_LISTED: usize = 100;
/// Of them in text for people.
const MOST_PRINTED: usize = 20;

/// One of a packet's ends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct End {
    /// What became of it.
    #[serde(flatten)]
    pub outcome: Outcome,
    /// True where its answer comes back.
    pub works: bool,
}

/// The endpoints of a service's port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Endpoints {
    /// The service, `namespace/name`.
    pub service: String,
    /// The node that chooses.
    pub node: NodeName,
    /// How many there are.
    pub count: usize,
    /// The first of them.
    pub endpoints: Vec<Endpoint>,
}

/// One endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Endpoint {
    /// Where it is.
    pub address: SocketAddr,
    /// The slice or pod that says so.
    pub origin: String,
    /// True where packets are led to it.
    pub used: bool,
    /// Why it is used, or isn't.
    pub standing: String,
}

/// The different ends of a packet's ways; nothing where there is only one way.
pub fn ends(ways: &[Conversation]) -> Vec<End> {
    if ways.len() < 2 {
        return Vec::new();
    }
    let mut ends: Vec<End> = Vec::new();
    for way in ways {
        let end = End { outcome: way.forward.outcome.clone(), works: way.works() };
        if !ends.contains(&end) {
            ends.push(end);
        }
    }
    ends
}

impl From<Asked> for Endpoints {
    fn from(asked: Asked) -> Self {
        let Asked { service, node, endpoints } = asked;
        let count = endpoints.len();
        let endpoints = endpoints.into_iter().take(MOST_LISTED).map(|(candidate, standing)| Endpoint {
            address: SocketAddr::new(candidate.address, candidate.port.get()),
            origin: candidate.origin.to_string(),
            used: standing.is_used(),
            standing: standing.to_string(),
        });
        Self { service: service.to_string(), node, count, endpoints: endpoints.collect() }
    }
}

/// Both in words, to stand below the way.
pub fn text(ends: &[End], endpoints: Option<&Endpoints>) -> String {
    let mut text = String::new();
    if let Some((first, others)) = ends.split_first() {
        let _ = write!(text, "\nchosen at random; the way above is one of {}, the others:", others.len() + 1);
        for end in others.iter().take(MOST_PRINTED) {
            let back = if end.works == first.works { "" } else { ", and no answer comes back" };
            let _ = write!(text, "\n  {}{back}", end.outcome);
        }
        if let Some(more @ 1..) = others.len().checked_sub(MOST_PRINTED) {
            let _ = write!(text, "\n  and {more} more");
        }
    }
    if let Some(Endpoints { service, node, count, endpoints }) = endpoints {
        let _ = write!(text, "\nendpoints of service {service} as {node} sees them:");
        if *count == 0 {
            text.push_str(" none");
        }
        for Endpoint { address, origin, standing, .. } in endpoints.iter().take(MOST_PRINTED) {
            let _ = write!(text, "\n  {address} [{origin}] {standing}");
        }
        if let Some(more @ 1..) = count.checked_sub(MOST_PRINTED) {
            let _ = write!(text, "\n  and {more} more");
        }
    }
    text
}
