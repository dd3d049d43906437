//! One service's elements.
//!
//! What always holds: they follow from the service, its slices, this node and the settings. No row is of a family that the service
//! isn't of. Every endpoint that serves has an element, so that what it has goes on; slots, which give new connections, only those
//! that are chosen here. An address or endpoint to which nobody may be led is left out, with a warning.
//!
//! What is absent: which addresses and ports there are (`addresses`), who is chosen (`services::eligible`), numbers
//! (`services::groups`), sources (`sources`), and sets and chains (`table`), but for the chain that a large group is the first to need.

use std::net::IpAddr;

use weft_model::net::is_special;
use weft_model::{FactKey, Family, Protocol, Service, ServicePort, TrafficPolicy};
use weft_plan::{Atom, Ident, Verdict, marks};

use super::addresses::{Frontend, cluster_addresses, frontends, refused};
use super::sources::restricted;
use super::table::{ENDPOINTS, LARGE, LISTED, LIVING, Side, pick, service_map, slots_of, usable};
use crate::engine::{Context, Output};
use crate::services::eligible::{Candidate, Standing, candidates, standings};
use crate::services::groups::GroupKey;
use crate::services::kept_seconds;
use crate::services::marks::Class;
use crate::settings::ServiceSettings;

/// All rows of one service.
pub fn service(
    service: &Service,
    origin: &FactKey,
    settings: &ServiceSettings,
    context: &Context<'_>,
    out: &mut Output,
) {
    let balancer = service.load_balancer.iter().map(|address| &address.ip);
    for address in service.cluster_ips.iter().chain(&service.external_ips).chain(balancer) {
        if is_special(*address) {
            out.warn(origin, format!("its address {address} is loopback, link-local or no single machine's: nobody is led there"));
        }
    }
    for text in refused(service, settings, context) {
        out.warn(origin, text);
    }
    // A service has no rows in a family that it isn't of, whatever addresses and slices say.
    let families = Family::ALL.into_iter().filter(|family| service.families.contains(family));
    for family in families {
        for address in cluster_addresses(service, family, context).filter(|ip| !is_special(*ip)) {
            out.member(LIVING.of(family), [Atom::from(address)], origin);
        }
        for port in &service.ports {
            let frontends = frontends(service, port, family, settings, context);
            if frontends.is_empty() {
                continue;
            }
            let backends = Backends::of(service, port, family, origin, context, out);
            for scope in [TrafficPolicy::Cluster, TrafficPolicy::Local] {
                if frontends.iter().any(|f| f.inside == scope || f.outside == scope) {
                    backends.give_slots(scope, origin, out);
                }
            }
            for frontend in &frontends {
                backends.lead_there(service, frontend, origin, out);
            }
        }
    }
}

/// The endpoints of one port in one family.
struct Backends {
    family: Family,
    /// Those that serve.
    candidates: Vec<Candidate>,
    /// Their marks.
    marks: Vec<u32>,
    /// Those that are listed and don't serve.
    unready: Vec<Candidate>,
    cluster: Group,
    local: Group,
}

/// Those of one scope that are used.
struct Group {
    number: u32,
    class: Class,
    /// Places in the list of candidates.
    members: Vec<usize>,
}

impl Group {
    fn mark(&self) -> u32 {
        match self.class {
            Class::Slots(_) | Class::Large(_) => self.class.bits() | self.number,
            Class::Refuse | Class::Absent => self.class.bits(),
        }
    }
}

impl Backends {
    fn of(
        service: &Service,
        port: &ServicePort,
        family: Family,
        origin: &FactKey,
        context: &Context<'_>,
        out: &mut Output,
    ) -> Self {
        let mut candidates = candidates(context, service, port, family);
        for candidate in candidates.iter().filter(|candidate| is_special(candidate.address)) {
            let text = format!("its endpoint {} is left out: it is {}", candidate.address, Standing::Special);
            out.warn(origin, text);
        }
        candidates.truncate(marks::NUMBER as usize);
        let (candidates, mut unready): (Vec<_>, Vec<_>) = candidates.into_iter().partition(Candidate::serves);
        unready.retain(|candidate| !is_special(candidate.address) && port.protocol != Protocol::Udp);
        let mut group = |scope| {
            let standings = standings(&candidates, scope);
            if standings.contains(&Standing::TooMany) {
                out.warn(
                    origin,
                    format!("port {} has more endpoints than fit: {}", port.port, Standing::TooMany),
                );
            }
            let members: Vec<usize> = (0..candidates.len()).filter(|at| standings[*at].is_used()).collect();
            let key = GroupKey {
                service: service.key.clone(),
                protocol: port.protocol,
                port: port.port,
                family,
                scope,
            };
            Group { number: context.facts.groups().number(&key), class: Class::of(members.len()), members }
        };
        let cluster = group(TrafficPolicy::Cluster);
        let mut local = Group { number: 0, class: Class::Absent, members: Vec::new() };
        if [service.internal_policy, service.external_policy].contains(&TrafficPolicy::Local) {
            local = group(TrafficPolicy::Local);
            if local.members.is_empty() && !cluster.members.is_empty() {
                local.class = Class::Absent;
            }
        }
        Self { family, marks: marks_of(&candidates), candidates, unready, cluster, local }
    }

    fn group(&self, scope: TrafficPolicy) -> &Group {
        match scope {
            TrafficPolicy::Cluster => &self.cluster,
            TrafficPolicy::Local => &self.local,
        }
    }

    fn give_slots(&self, scope: TrafficPolicy, origin: &FactKey, out: &mut Output) {
        let group = self.group(scope);
        let mark = Atom::Mark(group.mark());
        if let Class::Large(slots) = group.class {
            // Its mark doesn't change with its size, so what picks does.
            let chain = pick(slots, origin, out);
            out.entry(Ident::new(LARGE), [mark.clone()], [Atom::Verdict(Verdict::Jump(chain))], origin);
        }
        let map = slots_of(group.class);
        for (slot, at) in (0..).zip(&group.members) {
            let key = [mark.clone(), Atom::Number(slot)];
            out.entry(map.clone(), key, [Atom::Mark(self.marks[*at])], &self.candidates[*at].origin);
        }
    }

    /// The elements by which one address and port leads to its endpoints.
    fn lead_there(&self, service: &Service, frontend: &Frontend, origin: &FactKey, out: &mut Output) {
        let key = frontend.key();
        let (inside, outside) = (self.group(frontend.inside), self.group(frontend.outside));
        let places = [(Side::Inside, inside), (Side::Outside, outside)];
        let differ = inside.mark() != outside.mark();
        for (side, group) in places.into_iter().take(if differ { 2 } else { 1 }) {
            let map = service_map(self.family, side, service.affinity_seconds.map(kept_seconds));
            let mut mark = group.mark();
            if let Some(sources) = frontend.sources {
                // Without this element nobody is let in: what leads to endpoints stands behind the sources.
                out.entry(restricted(self.family, side), key.clone(), [Atom::Mark(mark)], origin);
                mark = sources;
            }
            out.entry(map, key.clone(), [Atom::Mark(mark)], origin);
            if service.affinity_seconds.is_some() {
                let usable = usable(self.family, side);
                for at in &group.members {
                    let key = self.numbered(&key, *at);
                    out.member(usable.clone(), key, &self.candidates[*at].origin);
                }
            }
        }
        // Also for those that get no new connections: what they have goes on.
        let endpoints = ENDPOINTS.of(self.family);
        for (at, candidate) in self.candidates.iter().enumerate() {
            let place = [Atom::from(candidate.address), Atom::Port(candidate.port.get())];
            out.entry(endpoints.clone(), self.numbered(&key, at), place, &candidate.origin);
        }
        for (candidate, mark) in self.unready.iter().zip(marks_of(&self.unready)) {
            let place = [Atom::from(candidate.address), Atom::Port(candidate.port.get())];
            out.entry(LISTED.of(self.family), numbered(&key, mark), place, &candidate.origin);
        }
    }

    fn numbered(&self, key: &[Atom; 3], at: usize) -> [Atom; 4] {
        numbered(key, self.marks[at])
    }
}

fn numbered([address, protocol, port]: &[Atom; 3], mark: u32) -> [Atom; 4] {
    [address.clone(), protocol.clone(), port.clone(), Atom::Mark(mark)]
}

fn marks_of(candidates: &[Candidate]) -> Vec<u32> {
    let places: Vec<(IpAddr, u16)> = candidates.iter().map(|c| (c.address, c.port.get())).collect();
    marks::of_endpoints(&places)
}
