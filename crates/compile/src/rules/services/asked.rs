//! Which endpoints a packet could have been led to, and why not to others: for people who ask.

use weft_model::{FactKey, Family, NodeName, ObjectKey};

use super::addresses::frontends;
use super::table::{Side, service_map};
use crate::engine::Context;
use crate::oracle::{Trace, Transport};
use crate::services::eligible::{Candidate, Standing, candidates, standings};

/// A service's port, as the node sees it that chose an endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// The service.
    pub service: ObjectKey,
    /// The node that chose.
    pub node: NodeName,
    /// All endpoints of the port in the packet's family, and what becomes of each.
    pub endpoints: Vec<(Candidate, Standing)>,
}

/// The first service that a packet met, with what its node knows; nothing where it met none.
pub fn asked<'a>(context: impl Fn(&NodeName) -> Context<'a>, trace: &Trace) -> Option<Asked> {
    let sent = trace.sent?;
    let Transport::Ports(protocol) = sent.transport else { return None };
    let family = Family::of(sent.destination);
    let in_map = |text: &str, side| text.contains(&format!("map @{}", service_map(family, side, None)));
    let (key, node, side) = trace.hops.iter().find_map(|hop| {
        let FactKey::Service(key) = &hop.origin else { return None };
        let side = [Side::Inside, Side::Outside].into_iter().find(|side| in_map(&hop.text, *side))?;
        Some((key, &hop.node, side))
    })?;
    let context = context(node);
    let (service, settings) = (context.facts.service(key)?, context.settings.services.as_ref()?);
    let (port, frontend) =
        service.ports.iter().filter(|port| port.protocol == protocol).find_map(|port| {
            let mut all = frontends(service, port, family, settings, &context).into_iter();
            let found = all.find(|f| (f.address, f.port.get()) == (sent.destination, sent.dport))?;
            Some((port, found))
        })?;
    let scope = match side {
        Side::Inside => frontend.inside,
        Side::Outside => frontend.outside,
    };
    let candidates = candidates(&context, service, port, family);
    let standings = standings(&candidates, scope);
    Some(Asked {
        service: key.clone(),
        node: node.clone(),
        endpoints: candidates.into_iter().zip(standings).collect(),
    })
}
