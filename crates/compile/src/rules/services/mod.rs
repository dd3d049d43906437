//! Services: virtual addresses that lead to endpoints, by data maps alone.
//!
//! A packet that opens a connection finds its service's mark by (address . protocol . port); the mark's class says how many
//! slots there are, a random one gives the endpoint's number, and that its address and port. So a service is elements and
//! never a chain, and a change costs what it changes. Nothing is kept in the packet's own mark; the connection's is the
//! scratch register, and in the end names the endpoint ([`weft_plan::marks`]).
//!
//! Make before break: endpoints come first, then slots, then what leads to them, and they go the other way round
//! (`SetSpec::rank`). A group's slots carry its size in their key, so that a group which grows gets slots of its own first.

mod addresses;
mod asked;
mod blocks;
mod rows;
mod sources;
mod table;
#[cfg(test)]
mod tests;

pub use asked::{Asked, asked};

use std::collections::BTreeSet;
use std::net::IpAddr;

use weft_model::{Fact, FactKey, Family, ObjectKey, Service};

use crate::endpoints::affected_services;
use crate::engine::{Context, Output, Rule, RuleKey};
use crate::facts::Transition;
use crate::services::cluster_addresses;
use crate::services::groups::GroupKey;
use crate::services::published::{Place, outside_addresses};
use crate::services::{has_node_ports, is_ours, kept_seconds, node_port_addresses};

/// See the module.
pub struct ServicesRule;

impl Rule for ServicesRule {
    fn affected(&mut self, transition: &Transition, context: &Context<'_>, dirty: &mut dyn FnMut(RuleKey)) {
        let Some(settings) = &context.settings.services else {
            return;
        };
        let service = |key: &ObjectKey| RuleKey::Fact(FactKey::Service(key.clone()));
        for key in affected_services(transition, context.facts) {
            dirty(service(&key));
        }
        beside(transition, context, &mut |key| dirty(service(key)));
        at_moved_places(transition, context, &mut |key| dirty(service(key)));
        sources::affected(transition, context, dirty);
        if transition.concerns_this_node(context)
            || changes_timeouts(transition)
            || blocks::moves_a_lodger(transition, context)
        {
            dirty(RuleKey::Constant);
        }
        let all_that = |concerned: &dyn Fn(&Service) -> bool, dirty: &mut dyn FnMut(RuleKey)| {
            let services = context.facts.services().filter(|found| concerned(found));
            services.for_each(|found| dirty(service(&found.key)));
        };
        match &transition.key {
            // Node ports are elements at this machine's own addresses.
            FactKey::Host => {
                let changed = changed_addresses(transition);
                let with_ports = changed.iter().filter(|ip| has_node_ports(**ip, settings));
                let families: BTreeSet<Family> = with_ports.map(|ip| Family::of(*ip)).collect();
                let published = |found: &Service| {
                    (found.families.iter().any(|family| families.contains(family))
                        && found.ports.iter().any(|port| port.node_port.is_some()))
                        || outside_addresses(found).any(|ip| changed.contains(&ip))
                };
                if !changed.is_empty() {
                    all_that(&published, dirty);
                }
            }
            // A tunnel may have come to a node port, and an external address to lie in a block of services.
            FactKey::Network(_) | FactKey::ServiceCidr(_) => {
                for (protocol, port) in transition.tunnel_ports(context) {
                    let own = context.facts.host().addresses().map(Some);
                    for address in own.chain([None]) {
                        let place = Place { address, protocol, port };
                        context.facts.published().wanting(place).for_each(|key| dirty(service(key)));
                    }
                }
                let blocks = transition.changed_service_cidrs();
                let moved = |ip: IpAddr| blocks.iter().any(|block| block.contains(ip));
                if !blocks.is_empty() {
                    all_that(&|found| outside_addresses(found).any(moved), dirty);
                }
            }
            // Hints are compared with this node's own zone, which hardly ever changes.
            FactKey::Node(name) if changes_zone(transition) && *name == context.settings.node => {
                all_that(&|_| true, dirty);
            }
            // Another's zone is that of endpoints there, where nobody has written hints.
            FactKey::Node(_) if changes_zone(transition) => {
                let derived = context.facts.choosy_services().filter(|key| !context.facts.has_slices(key));
                derived.for_each(|key| dirty(service(key)));
            }
            _ => {}
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
            RuleKey::Sources(list) => sources::rows(list, context, out),
            _ => {}
        }
    }
}

/// A chain a time-out: it can be a new one, or the last of its kind.
fn changes_timeouts(transition: &Transition) -> bool {
    let timeout = |fact: &Option<Fact>| match fact {
        Some(Fact::Service(service)) => service.affinity_seconds.map(kept_seconds),
        _ => None,
    };
    timeout(&transition.before) != timeout(&transition.after)
}

/// Addresses that came to this machine or left it.
fn changed_addresses(transition: &Transition) -> BTreeSet<IpAddr> {
    let addresses = |fact: &Option<Fact>| match fact {
        Some(Fact::Host(host)) => host.addresses().collect::<BTreeSet<IpAddr>>(),
        _ => BTreeSet::new(),
    };
    addresses(&transition.before).symmetric_difference(&addresses(&transition.after)).copied().collect()
}

/// Services that stand beside one that changed: their groups' numbers, or the places that they want, can be others now.
fn beside(transition: &Transition, context: &Context<'_>, dirty: &mut dyn FnMut(&ObjectKey)) {
    let services = || {
        transition.states().filter_map(|state| match state {
            Fact::Service(found) => Some(found),
            _ => None,
        })
    };
    let groups: Vec<GroupKey> = services().flat_map(GroupKey::all_of).collect();
    if groups.is_empty() {
        return;
    }
    context.facts.groups().neighbours(groups).iter().for_each(|group| dirty(&group.service));
    for place in services().flat_map(Place::all_of) {
        context.facts.published().wanting(place).for_each(&mut *dirty);
        // Whoever has one of the node's addresses as its own gives way to a node port there.
        if let (None, Some(settings)) = (place.address, &context.settings.services) {
            for own in node_port_addresses(settings, context) {
                let there = Place { address: Some(own), ..place };
                context.facts.published().wanting(there).for_each(&mut *dirty);
            }
        }
    }
}

/// Services whose cluster addresses may lead to them now, or no longer, and those that want the same places.
fn at_moved_places(transition: &Transition, context: &Context<'_>, dirty: &mut dyn FnMut(&ObjectKey)) {
    for block in cluster_addresses::moved(transition, context) {
        for found in context.facts.services_within(block) {
            dirty(&found.key);
            let is_there = |place: &Place| place.address.is_some_and(|ip| block.contains(ip));
            for place in Place::all_of(found).filter(is_there) {
                context.facts.published().wanting(place).for_each(&mut *dirty);
            }
        }
    }
}

fn changes_zone(transition: &Transition) -> bool {
    let zone = |fact: &Option<Fact>| match fact {
        Some(Fact::Node(node)) => node.zone().map(str::to_owned),
        _ => None,
    };
    zone(&transition.before) != zone(&transition.after)
}
