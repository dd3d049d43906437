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

/// How many of a packet's ways work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Luck {
    /// Ways that were looked at.
    ways: usize,
    /// Of them, those that work.
    work: usize,
    /// The place of the first that doesn't.
    pub first_failing: Option<usize>,
}

impl Luck {
    /// Of these ways.
    pub fn of(ways: &[Conversation]) -> Self {
        let work = ways.iter().filter(|way| way.works()).count();
        Self { ways: ways.len(), work, first_failing: ways.iter().position(|way| !way.works()) }
    }
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

/// All of it in words, to stand below the way that is shown.
pub fn text(ends: &[End], shown: &End, luck: &Luck, endpoints: Option<&Endpoints>) -> String {
    let mut text = String::new();
    if ends.len() > 1 {
        let _ = write!(text, "\nchosen at random; the way above is one of {}, the others:", ends.len());
        let others = || ends.iter().filter(|end| *end != shown);
        for end in others().take(MOST_PRINTED) {
            let back = match (end.works, &end.outcome) {
                (false, Outcome::Delivered { .. }) => ", and no answer comes back",
                _ => "",
            };
            let _ = write!(text, "\n  {}{back}", end.outcome);
        }
        if let Some(more @ 1..) = others().count().checked_sub(MOST_PRINTED) {
            let _ = write!(text, "\n  and {more} more");
        }
    }
    let Luck { ways, work, .. } = luck;
    if *work < *ways && *work > 0 {
        let _ = write!(text, "\n{work} of {ways} ways that it can take work");
    }
    if *ways == super::MOST_WAYS {
        let _ = write!(text, "\nonly the first {ways} ways were looked at");
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
