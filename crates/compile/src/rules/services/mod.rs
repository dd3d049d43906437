//! Services: virtual addresses that lead to endpoints, by data maps alone.
//!
//! A packet that opens a connection finds its service's mark by (address . protocol . port); the mark's class says how many
//! slots there are, a random one gives the endpoint's number, and that its address and port. So a service is elements and
//! never a chain, and a change costs what it changes. Nothing is kept in the packet's own mark; the connection's is the
//! scratch register, and in the end names the endpoint ([`crate::services::marks`]).
//!
//! Make before break: endpoints come first, then slots, then what leads to them, and they go the other way round
//! (`SetSpec::rank`). A group's slots carry its size in their key, so that a group which grows gets slots of its own first.

mod addresses;
mod asked;
mod rows;
mod table;

pub use asked::{Asked, asked};

use weft_model::{Fact, FactKey, Service};

use crate::endpoints::affected_services;
use crate::engine::{Context, Output, Rule, RuleKey};
use crate::facts::Transition;
use crate::services::groups::GroupKey;
use crate::services::is_ours;

/// See the module.
pub struct ServicesRule;

impl Rule for ServicesRule {
    fn affected(&self, transition: &Transition, context: &Context<'_>, dirty: &mut dyn FnMut(RuleKey)) {
        if context.settings.services.is_none() {
            return;
        }
        let service = |key: &weft_model::ObjectKey| RuleKey::Fact(FactKey::Service(key.clone()));
        for key in affected_services(transition, context.facts) {
            dirty(service(&key));
        }
        for state in transition.states() {
            if let Fact::Service(found) = state {
                for group in GroupKey::all_of(found) {
                    context.facts.groups().neighbours(&group).for_each(|key| dirty(service(key)));
                }
            }
        }
        if transition.concerns_this_node(context) || changes_timeouts(transition) {
            dirty(RuleKey::Constant);
        }
        // Node ports are elements at this machine's own addresses.
        let addresses = matches!(transition.key, FactKey::Host);
        let zone = changes_zone(transition);
        if addresses || zone {
            let at_nodes = |found: &Service| found.ports.iter().any(|port| port.node_port.is_some());
            for found in context.facts.services().filter(|found| zone || at_nodes(found)) {
                dirty(service(&found.key));
            }
        }
    }

    fn rows(&self, key: &RuleKey, context: &Context<'_>, out: &mut Output) {
        let Some(settings) = &context.settings.services else {
            return;
        };
        match key {
            RuleKey::Constant => table::constant(context, out),
            RuleKey::Fact(origin @ FactKey::Service(key)) => {
                if let Some(found) = context.facts.service(key)
                    && is_ours(found, settings)
                {
                    rows::service(found, origin, settings, context, out);
                }
            }
            _ => {}
        }
    }
}

/// A chain a time-out: it can be a new one, or the last of its kind.
fn changes_timeouts(transition: &Transition) -> bool {
    let timeout = |fact: &Option<Fact>| match fact {
        Some(Fact::Service(service)) => service.affinity_seconds,
        _ => None,
    };
    timeout(&transition.before) != timeout(&transition.after)
}

/// A node's zone decides for all its endpoints.
fn changes_zone(transition: &Transition) -> bool {
    let zone = |fact: &Option<Fact>| match fact {
        Some(Fact::Node(node)) => node.zone().map(str::to_owned),
        _ => None,
    };
    zone(&transition.before) != zone(&transition.after)
}
