//! Which endpoints of a service's port may be used from this node, and why the others may not.
//!
//! The rules are Kubernetes' own: ready endpoints; where there is none, those that still serve on their way out; hints for
//! this node or zone where every ready endpoint has them. Endpoints that were derived from a selector have no hints, so the
//! service's own preference takes their place, which is what the EndpointSlice controller would have written.

use std::fmt;
use std::net::IpAddr;

use weft_model::net::is_special;
use weft_model::{
    Endpoint, EndpointSlice, FactKey, Family, NodeName, Port, Service, ServicePort, SliceSource,
    TrafficDistribution, TrafficPolicy,
};

use crate::endpoints::slices;
use crate::engine::Context;

/// An endpoint of one port of one service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Where packets go.
    pub address: IpAddr,
    /// To which port there.
    pub port: Port,
    /// It takes new connections.
    pub ready: bool,
    /// It answers on its way out.
    pub draining: bool,
    /// It is on this node.
    pub local: bool,
    /// What is known of who should use it.
    preference: Preference,
    /// The slice, or the pod where nobody wrote one.
    pub origin: FactKey,
}

impl Candidate {
    /// True where connections that it has go on: whatever a policy, a hint or its way out says of new ones.
    pub fn serves(&self) -> bool {
        (self.ready || self.draining) && !is_special(self.address)
    }
}

/// Whether an endpoint is meant for this node, or its zone. `None` where nothing is said.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Preference {
    node: Option<bool>,
    zone: Option<bool>,
}

/// Why an endpoint is used, or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Standing {
    /// It is ready, and among those that are meant for this node.
    Used,
    /// It is on its way out, and there is no ready one.
    UsedWhileDraining,
    /// It isn't ready.
    NotReady,
    /// It is on its way out, and there are ready ones.
    Draining,
    /// A traffic policy wants this node's endpoints, and it is on another.
    Elsewhere,
    /// There are endpoints that are meant for this node, and it isn't one.
    ForOthers,
    /// Its address is loopback, link-local or no single machine's: a translation would lead past every check of such.
    Special,
    /// There are more endpoints than fit.
    TooMany,
}

impl Standing {
    /// True where packets are led to it.
    pub fn is_used(self) -> bool {
        matches!(self, Standing::Used | Standing::UsedWhileDraining)
    }
}

impl fmt::Display for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Standing::Used => "used",
            Standing::UsedWhileDraining => "used: terminating but serving, and none is ready",
            Standing::NotReady => "not ready",
            Standing::Draining => "terminating, and others are ready",
            Standing::Elsewhere => "on another node, and the traffic policy is Local",
            Standing::ForOthers => "meant for other nodes or zones",
            Standing::Special => "at an address that is loopback, link-local or no single machine's",
            Standing::TooMany => "beyond the number of endpoints that a service can have",
        })
    }
}

/// All endpoints of one port in one family, by address and port; of doubles the one that is best off.
pub fn candidates(
    context: &Context<'_>,
    service: &Service,
    port: &ServicePort,
    family: Family,
) -> Vec<Candidate> {
    let own_zone = context.own_node().and_then(|node| node.zone());
    let mut found = Vec::new();
    for slice in slices(context.facts, service).iter().filter(|slice| slice.family == family) {
        let ports = slice.ports.iter().filter(|p| p.name == port.name && p.protocol == port.protocol);
        for number in ports.filter_map(|p| p.port) {
            for endpoint in slice.endpoints.iter() {
                let preference = preference(context, service, slice, endpoint, own_zone);
                for address in &endpoint.addresses {
                    found.push(Candidate {
                        address: *address,
                        port: number,
                        ready: endpoint.ready,
                        draining: endpoint.serving && endpoint.terminating,
                        local: endpoint.node.as_ref() == Some(&context.settings.node),
                        preference,
                        origin: origin(slice, endpoint),
                    });
                }
            }
        }
    }
    let rank = |c: &Candidate| (c.address, c.port, !c.ready, !c.draining);
    found.sort_by(|a, b| rank(a).cmp(&rank(b)).then_with(|| a.origin.cmp(&b.origin)));
    found.dedup_by_key(|c| (c.address, c.port));
    found
}

fn origin(slice: &EndpointSlice, endpoint: &Endpoint) -> FactKey {
    match (&endpoint.pod, slice.source) {
        (Some(pod), SliceSource::Selector) => FactKey::Pod(pod.clone()),
        _ => FactKey::EndpointSlice(slice.key.clone()),
    }
}

fn preference(
    context: &Context<'_>,
    service: &Service,
    slice: &EndpointSlice,
    endpoint: &Endpoint,
    own_zone: Option<&str>,
) -> Preference {
    if slice.source != SliceSource::Selector {
        let node =
            (!endpoint.hint_nodes.is_empty()).then(|| endpoint.hint_nodes.contains(&context.settings.node));
        let zone = own_zone
            .filter(|_| !endpoint.hint_zones.is_empty())
            .map(|own| endpoint.hint_zones.iter().any(|zone| **zone == *own));
        return Preference { node, zone };
    }
    let Some(distribution) = service.distribution else { return Preference::default() };
    let zone_of = |name: &NodeName| context.facts.node(name).and_then(|node| node.zone());
    let at = endpoint.node.as_ref();
    let zone = own_zone.and_then(|own| Some(at.and_then(zone_of)? == own));
    let node = at.map(|node| *node == context.settings.node);
    Preference { node: node.filter(|_| distribution == TrafficDistribution::SameNode), zone }
}

/// What becomes of each candidate, in their order, for packets that may use all endpoints or this node's only.
pub fn standings(candidates: &[Candidate], scope: TrafficPolicy) -> Vec<Standing> {
    let meant = meant_for_us(candidates);
    let in_scope = |c: &Candidate| match scope {
        TrafficPolicy::Local => c.local,
        TrafficPolicy::Cluster => true,
    };
    let preferred = |c: &Candidate| scope == TrafficPolicy::Local || meant(c);
    let usable = |c: &Candidate| !is_special(c.address) && in_scope(c) && preferred(c);
    let any_ready = candidates.iter().any(|c| c.ready && usable(c));
    let mut used = 0;
    let stand = |candidate: &Candidate| match candidate {
        c if is_special(c.address) => Standing::Special,
        c if !in_scope(c) => Standing::Elsewhere,
        c if c.ready && !preferred(c) => Standing::ForOthers,
        c if c.ready => Standing::Used,
        c if c.draining && any_ready => Standing::Draining,
        c if c.draining => Standing::UsedWhileDraining,
        _ => Standing::NotReady,
    };
    candidates
        .iter()
        .map(|candidate| {
            let standing = stand(candidate);
            used += usize::from(standing.is_used());
            if standing.is_used() && used > super::marks::MOST_ENDPOINTS {
                return Standing::TooMany;
            }
            standing
        })
        .collect()
}

/// Hints count where every ready endpoint has one and some are for us: first those by node, then those by zone.
fn meant_for_us(candidates: &[Candidate]) -> impl Fn(&Candidate) -> bool {
    let counts = |hint: fn(&Candidate) -> Option<bool>| {
        let mut ready = candidates.iter().filter(|c| c.ready && !is_special(c.address)).peekable();
        let any = ready.peek().is_some();
        any && ready.clone().all(|c| hint(c).is_some()) && ready.any(|c| hint(c) == Some(true))
    };
    let by_node: fn(&Candidate) -> Option<bool> = |c| c.preference.node;
    let by_zone: fn(&Candidate) -> Option<bool> = |c| c.preference.zone;
    let hint = [by_node, by_zone].into_iter().find(|hint| counts(*hint));
    move |candidate| hint.is_none_or(|hint| hint(candidate) == Some(true))
}

#[cfg(test)]
mod tests {
    use super::*;
    use Standing::{Draining, Elsewhere, ForOthers, NotReady, Used, UsedWhileDraining};

    /// `r` ready, `d` draining, anything else neither; `l` on this node; `n` and `N` a node hint for others and for us,
    /// `z` and `Z` the same for zones.
    fn candidate(text: &str) -> Candidate {
        let hint = |ours, others| match () {
            () if text.contains(ours) => Some(true),
            () if text.contains(others) => Some(false),
            () => None,
        };
        Candidate {
            address: IpAddr::from([10, 0, 0, 1]),
            port: Port::new(80).unwrap(),
            ready: text.contains('r'),
            draining: text.contains('d'),
            local: text.contains('l'),
            preference: Preference { node: hint('N', 'n'), zone: hint('Z', 'z') },
            origin: FactKey::Host,
        }
    }

    fn check(scope: TrafficPolicy, endpoints: &str, expected: &[Standing]) {
        let candidates: Vec<Candidate> = endpoints.split(' ').map(candidate).collect();
        assert_eq!(standings(&candidates, scope), expected, "{endpoints}");
    }

    #[test]
    fn who_may_be_used() {
        let all = TrafficPolicy::Cluster;
        check(all, "r r", &[Used, Used]);
        check(all, "r d x", &[Used, Draining, NotReady]);
        check(all, "d x", &[UsedWhileDraining, NotReady]);
        // Hints count where every ready endpoint has them, and one is for us.
        check(all, "rZ rz", &[Used, ForOthers]);
        check(all, "rZ r", &[Used, Used]);
        check(all, "rz rz", &[Used, Used]);
        check(all, "rZ rz xz d", &[Used, ForOthers, NotReady, Draining]);
        check(all, "xZ rz", &[NotReady, Used]);
        // The node before the zone.
        check(all, "rNZ rnZ rnz", &[Used, ForOthers, ForOthers]);
        check(all, "rnZ rnz", &[Used, ForOthers]);
    }

    #[test]
    fn nobody_is_led_to_the_nodes_own_loopback() {
        let at = |address: IpAddr| Candidate { address, ..candidate("rl") };
        for address in ["127.0.0.1", "::1", "169.254.169.254", "fe80::1", "0.0.0.0", "224.0.0.1"] {
            let candidates = [at(address.parse().unwrap()), Candidate { local: true, ..candidate("d") }];
            for scope in [TrafficPolicy::Cluster, TrafficPolicy::Local] {
                assert_eq!(
                    standings(&candidates, scope),
                    [Standing::Special, UsedWhileDraining],
                    "{address}"
                );
            }
        }
    }

    #[test]
    fn this_nodes_own() {
        let own = TrafficPolicy::Local;
        check(own, "rl r", &[Used, Elsewhere]);
        check(own, "dl r", &[UsedWhileDraining, Elsewhere]);
        check(own, "xl r", &[NotReady, Elsewhere]);
        // Hints don't keep a node from its own.
        check(own, "rlz rZ", &[Used, Elsewhere]);
    }
}
