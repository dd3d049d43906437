//! Names of services, of their ports and of their endpoints.
//!
//! A service with virtual addresses has those, and SRV records that lead to its own name. A headless one has its ready
//! endpoints' addresses, a name for each endpoint, and SRV records that lead there; without a ready endpoint it has no
//! name at all. An ExternalName is an alias.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use weft_model::{Endpoint, EndpointPort, EndpointSlice, FactKey, Port, Protocol, Service, ServiceKind};
use weft_plan::{DnsName, NameRow, Record};

use super::address::{dashed, record};
use super::zone::is_served;
use crate::endpoints;
use crate::engine::{Context, Output, Part, Rule, RuleKey};
use crate::facts::{Facts, Transition};

/// See the module.
pub struct ServiceRule;

impl Rule for ServiceRule {
    fn part(&self) -> Part {
        Part::Names
    }

    fn affected(&mut self, transition: &Transition, context: &Context<'_>, dirty: &mut dyn FnMut(RuleKey)) {
        for key in endpoints::affected_services(transition, context.facts) {
            // Only headless services have names that depend on endpoints.
            let headless = context.facts.service(&key).is_some_and(|service| service.headless);
            let key = FactKey::Service(key);
            if headless || transition.key == key {
                dirty(RuleKey::Fact(key));
            }
        }
    }

    fn rows(&self, key: &RuleKey, context: &Context<'_>, out: &mut Output) {
        let dns = &context.settings.dns;
        let RuleKey::Fact(origin @ FactKey::Service(key)) = key else { return };
        let Some(service) = context.facts.service(key).filter(|_| is_served(dns)) else { return };
        let mut names = Names { service: name(service, &dns.zone), rows: BTreeMap::new() };
        match &service.kind {
            ServiceKind::ExternalName(target) => match alias(target) {
                Ok(target) => names.add(names.service.clone(), [Record::Cname(target)]),
                Err(text) => out.warn(origin, text),
            },
            _ if service.headless => {
                names.add_endpoints(context.facts, service, &mut |text| out.warn(origin, text));
            }
            _ => names.add_virtual(service),
        }
        for (name, records) in names.rows {
            if name.is_encodable() {
                out.name(name, NameRow::new(records), origin);
            } else {
                out.warn(origin, format!("the name {name} is longer than DNS allows; it is not answered"));
            }
        }
    }
}

/// A service's name.
pub fn name(service: &Service, zone: &DnsName) -> DnsName {
    zone.child(format_args!("{}.{}.svc", service.key.name, service.key.namespace))
}

/// Endpoints of a headless service that have names, slice by slice, each with the slice's ports.
pub fn named_endpoints(facts: &Facts, service: &Service) -> Vec<(Arc<[EndpointPort]>, Vec<Endpoint>)> {
    let is_named = |endpoint: &&Endpoint| endpoint.ready || service.publish_not_ready;
    let named = |slice: &EndpointSlice| {
        (slice.ports.clone(), slice.endpoints.iter().filter(is_named).cloned().collect())
    };
    endpoints::slices(facts, service).iter().map(|slice| named(slice)).collect()
}

/// An endpoint's label below its service: its hostname, else its address. A hostname that is no label is passed over.
pub fn label(hostname: Option<&Arc<str>>, ip: IpAddr) -> String {
    match hostname {
        Some(hostname) if is_label(hostname) => hostname.to_ascii_lowercase(),
        _ => dashed(ip),
    }
}

/// True for what may be a single label.
pub fn is_label(text: &str) -> bool {
    !text.is_empty() && !text.contains('.') && DnsName::new(text).is_encodable()
}

/// The target of an ExternalName.
fn alias(target: &str) -> Result<DnsName, String> {
    if target.parse::<IpAddr>().is_ok() {
        return Err(format!(
            "externalName {target} is an address, and an alias leads to a name; use a headless service with endpoints instead"
        ));
    }
    let name = DnsName::new(target);
    if name.as_str().is_empty() || !name.is_encodable() {
        return Err(format!(
            "externalName {target:?} is no domain name; the service has no name until it is one"
        ));
    }
    Ok(name)
}

/// The rows of one service.
struct Names {
    service: DnsName,
    rows: BTreeMap<DnsName, Vec<Record>>,
}

impl Names {
    fn add(&mut self, name: DnsName, records: impl IntoIterator<Item = Record>) {
        self.rows.entry(name).or_default().extend(records);
    }

    /// SRV records of a port: below the service's name where the port has a name, and at the service's name.
    fn add_port(&mut self, name: &str, protocol: Protocol, port: Port, target: &DnsName) {
        // Equal weights: any order is as good as another.
        let srv = Record::Srv { priority: 0, weight: 100, port: port.get(), target: target.clone() };
        if is_label(name) {
            let protocol = self.service.child(format_args!("_{}", protocol.name()));
            self.add(protocol.child(format_args!("_{name}")), [srv.clone()]);
            self.add(protocol, []);
        }
        self.add(self.service.clone(), [srv]);
    }

    fn add_virtual(&mut self, service: &Service) {
        let own = self.service.clone();
        self.add(own.clone(), service.cluster_ips.iter().copied().map(record));
        for port in &service.ports {
            self.add_port(&port.name, port.protocol, port.port, &own);
        }
    }

    fn add_endpoints(&mut self, facts: &Facts, service: &Service, warn: &mut dyn FnMut(String)) {
        for (ports, endpoints) in named_endpoints(facts, service) {
            for endpoint in endpoints {
                if let Some(hostname) = endpoint.hostname.as_ref().filter(|hostname| !is_label(hostname)) {
                    warn(format!(
                        "hostname {hostname:?} of an endpoint is no label; its address is its name"
                    ));
                }
                for ip in &endpoint.addresses {
                    let host = self.service.child(label(endpoint.hostname.as_ref(), *ip));
                    self.add(self.service.clone(), [record(*ip)]);
                    self.add(host.clone(), [record(*ip)]);
                    for port in ports.iter() {
                        if let Some(number) = port.port {
                            self.add_port(&port.name, port.protocol, number, &host);
                        }
                    }
                }
            }
        }
    }
}
