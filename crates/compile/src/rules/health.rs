//! Health ports: where a load balancer outside asks whether this node has endpoints of a service.
//!
//! Only services of type LoadBalancer whose policy for traffic from outside is Local have one (`healthCheckNodePort`): for
//! others every node is as good. Endpoints on their way out don't count, so that the load balancer turns away while they
//! still serve. A port that another service has, as its own health port or as a node port, is that one's alone.

use std::collections::BTreeSet;
use std::net::IpAddr;

use weft_model::{Fact, FactKey, Family, ObjectKey, Port, Protocol, Service, ServicePort, TrafficPolicy};
use weft_plan::kernel::Opening;
use weft_plan::{HealthKey, HealthRow, KernelKey, KernelRow, Listen};

use crate::endpoints::affected_services;
use crate::engine::{Context, Output, Rule, RuleKey};
use crate::facts::Transition;
use crate::services::eligible::{Standing, candidates, standings};
use crate::services::published::{Place, health_port};
use crate::services::{holder, is_ours, node_port_addresses, out_of_range};
use crate::settings::ServiceSettings;

/// See the module.
pub struct HealthRule;

impl Rule for HealthRule {
    fn affected(&mut self, transition: &Transition, context: &Context<'_>, dirty: &mut dyn FnMut(RuleKey)) {
        let Some(settings) = &context.settings.services else { return };
        let mut of = |key| dirty(RuleKey::Fact(FactKey::Service(key)));
        let is_asked = |key: &ObjectKey| context.facts.service(key).is_some_and(|s| health_port(s).is_some());
        for key in affected_services(transition, context.facts) {
            // One that is gone has rows to take away; of others few have a port.
            let was_asked =
                |fact: &Fact| matches!(fact, Fact::Service(service) if health_port(service).is_some());
            if is_asked(&key) || transition.before.as_ref().is_some_and(was_asked) {
                of(key);
            }
        }
        // Others that want a port which it had, or has now.
        for place in transition.states().filter_map(service_of).flat_map(Place::all_of) {
            if place.address.is_none() && place.protocol == Protocol::Tcp {
                let wanting = context.facts.published().wanting(place);
                wanting.filter(|key| is_asked(key)).for_each(|key| of(key.clone()));
            }
        }
        if matches!(transition.key, FactKey::Host) && !settings.node_port_addresses.is_empty() {
            let asked = context.facts.services().filter(|service| health_port(service).is_some());
            asked.for_each(|service| of(service.key.clone()));
        }
    }

    fn rows(&self, key: &RuleKey, context: &Context<'_>, out: &mut Output) {
        let RuleKey::Fact(origin @ FactKey::Service(key)) = key else { return };
        let Some(settings) = &context.settings.services else { return };
        let Some(service) = context.facts.service(key).filter(|service| is_ours(service, settings)) else {
            return;
        };
        let Some(port) = health_port(service) else { return };
        if let Some(text) = refused(service, port, settings, context) {
            out.warn(origin, text);
            return;
        }
        let opening = KernelKey::Opening(Opening::Input(Protocol::Tcp, port));
        out.kernel(opening, KernelRow::Opening, origin);
        let row = HealthRow {
            service: key.clone(),
            local_endpoints: local_endpoints(service, context),
            listen: listen(settings, context),
        };
        out.health(HealthKey { port }, row, origin);
    }
}

/// Why a service doesn't get its health port.
fn refused(
    service: &Service,
    port: Port,
    settings: &ServiceSettings,
    context: &Context<'_>,
) -> Option<String> {
    if context.settings.open_ports.contains(&(Protocol::Tcp, port)) {
        return Some(format!(
            "healthCheckNodePort {port} is a port of the node's own agent; give the service another one"
        ));
    }
    if let Some(why) = out_of_range(port, settings) {
        return Some(format!("spec.healthCheckNodePort: {port} {why}"));
    }
    let is_node_port = |own: &ServicePort| own.protocol == Protocol::Tcp && own.node_port == Some(port);
    if service.ports.iter().any(is_node_port) {
        return Some(format!("healthCheckNodePort {port} is its own node port too; give it another one"));
    }
    let holder = holder(Place::of_node(Protocol::Tcp, port), settings, context)?;
    (*holder != service.key).then(|| {
        format!(
            "healthCheckNodePort {port} is given to service {holder} already; it is left out until that goes"
        )
    })
}

fn service_of(fact: &Fact) -> Option<&Service> {
    match fact {
        Fact::Service(service) => Some(service),
        _ => None,
    }
}

/// Ready endpoints on this node, each counted once whatever its ports. Of two families that which has more counts: an
/// endpoint with an address of each is one.
fn local_endpoints(service: &Service, context: &Context<'_>) -> u32 {
    let of_family = |family: &Family| {
        let mut found: BTreeSet<IpAddr> = BTreeSet::new();
        for port in &service.ports {
            let candidates = candidates(context, service, port, *family);
            let standings = standings(&candidates, TrafficPolicy::Local);
            let ready = candidates.iter().zip(standings).filter(|(_, standing)| *standing == Standing::Used);
            found.extend(ready.map(|(candidate, _)| candidate.address));
        }
        found.len()
    };
    u32::try_from(service.families.iter().map(of_family).max().unwrap_or(0)).unwrap_or(u32::MAX)
}

/// Load balancers ask where they send: at the addresses of node ports.
fn listen(settings: &ServiceSettings, context: &Context<'_>) -> Listen {
    if settings.node_port_addresses.is_empty() {
        return Listen::Everywhere;
    }
    let addresses: BTreeSet<IpAddr> = node_port_addresses(settings, context).collect();
    Listen::At(addresses.into_iter().collect())
}
