//! Names of addresses: a virtual address has its service's name, an endpoint of headless services a name in each.
//!
//! Several services may hold one address, so its row is a piece of work of its own. The rule keeps an index from addresses
//! to services; it is a function of the facts, brought up to date with each transition.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustc_hash::FxHashMap;
use weft_model::{Cidr, FactKey, ObjectKey, Service, ServiceKind};
use weft_plan::names::Below;
use weft_plan::{DnsName, NameRow, Record};

use super::address::{reverse_name, reverse_zones};
use super::service::{label, name, named_endpoints};
use super::zone::{is_served, zone};
use crate::endpoints;
use crate::engine::{Context, Output, Rule, RuleKey};
use crate::facts::Transition;
use crate::settings::DnsSettings;

/// See the module.
#[derive(Debug, Default)]
pub struct ReverseRule(Mutex<Index>);

/// Names of addresses by service, and services by address.
#[derive(Debug, Default)]
struct Index {
    names: FxHashMap<ObjectKey, Names>,
    services: FxHashMap<IpAddr, BTreeSet<ObjectKey>>,
}

type Names = BTreeMap<IpAddr, BTreeSet<DnsName>>;

impl Rule for ReverseRule {
    fn affected(&self, transition: &Transition, context: &Context<'_>, dirty: &mut dyn FnMut(RuleKey)) {
        if !is_served(&context.settings.dns) {
            return;
        }
        match &transition.key {
            FactKey::Network(_) => {
                dirty(RuleKey::Constant);
                for node in context.facts.nodes() {
                    dirty(RuleKey::Fact(FactKey::Node(node.name.clone())));
                }
            }
            FactKey::Node(_) => dirty(RuleKey::Fact(transition.key.clone())),
            _ => {}
        }
        for key in endpoints::affected_services(transition, context.facts) {
            let service = context.facts.service(&key);
            let headless = service.is_some_and(|service| service.headless);
            if headless || transition.key == FactKey::Service(key.clone()) {
                let new = service.map_or(Names::new(), |service| names_of(service, context));
                self.index().replace(key, new, &mut |ip| dirty(RuleKey::Address(ip)));
            }
        }
    }

    fn rows(&self, key: &RuleKey, context: &Context<'_>, out: &mut Output) {
        let dns = &context.settings.dns;
        if !is_served(dns) {
            return;
        }
        match key {
            RuleKey::Constant => {
                let origin = FactKey::Node(context.settings.node.clone());
                let networks = context.networks();
                let blocks = networks.iter().flat_map(|n| n.pod_cidrs.iter().chain(&n.service_cidrs));
                add_zones(blocks.copied(), dns, &origin, out);
            }
            RuleKey::Fact(origin @ FactKey::Node(name)) => {
                let Some(node) = context.facts.node(name) else { return };
                // A block of the network holds its nodes' blocks, where it is known.
                let networks = context.networks();
                let blocks = node.pod_cidrs.iter().map(|owned| owned.cidr);
                let alone = blocks.filter(|block| {
                    !networks.iter().flat_map(|n| &n.pod_cidrs).any(|whole| whole.contains(block.first()))
                });
                add_zones(alone, dns, origin, out);
            }
            RuleKey::Address(ip) => self.index().add_name(*ip, context, out),
            RuleKey::Fact(_) => {}
        }
    }
}

impl ReverseRule {
    fn index(&self) -> MutexGuard<'_, Index> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Index {
    /// Puts a service's names in place of its old ones, and tells of each address whose names differ.
    fn replace(&mut self, key: ObjectKey, new: Names, changed: &mut dyn FnMut(IpAddr)) {
        let old = self.names.remove(&key).unwrap_or_default();
        for ip in old.keys().filter(|ip| !new.contains_key(ip)) {
            changed(*ip);
            if let Some(services) = self.services.get_mut(ip) {
                services.remove(&key);
                if services.is_empty() {
                    self.services.remove(ip);
                }
            }
        }
        for (ip, names) in &new {
            if old.get(ip) != Some(names) {
                changed(*ip);
                self.services.entry(*ip).or_default().insert(key.clone());
            }
        }
        if !new.is_empty() {
            self.names.insert(key, new);
        }
    }

    fn add_name(&self, ip: IpAddr, context: &Context<'_>, out: &mut Output) {
        let Some(holders) = self.services.get(&ip) else { return };
        let is_virtual = |key: &&ObjectKey| {
            let service = context.facts.service(key);
            service.is_some_and(|service| !service.headless && service.cluster_ips.contains(&ip))
        };
        // A virtual address has one name, whoever else claims to end there.
        let chosen: Vec<&ObjectKey> = match holders.iter().find(is_virtual) {
            Some(owner) => vec![owner],
            None => holders.iter().collect(),
        };
        let names = chosen.iter().filter_map(|key| self.names.get(*key)?.get(&ip)).flatten();
        let records: Vec<Record> = names.filter(|n| n.is_encodable()).cloned().map(Record::Ptr).collect();
        if let (Some(first), false) = (chosen.first(), records.is_empty()) {
            out.name(reverse_name(ip), NameRow::new(records), &FactKey::Service((*first).clone()));
        }
    }
}

/// The names that a service gives to addresses.
fn names_of(service: &Service, context: &Context<'_>) -> Names {
    let own = name(service, &context.settings.dns.zone);
    let mut names = Names::new();
    if matches!(service.kind, ServiceKind::ExternalName(_)) {
        return names;
    }
    if !service.headless {
        return service.cluster_ips.iter().map(|ip| (*ip, BTreeSet::from([own.clone()]))).collect();
    }
    for (_, endpoints) in named_endpoints(context.facts, service) {
        for endpoint in &endpoints {
            for ip in &endpoint.addresses {
                names.entry(*ip).or_default().insert(own.child(label(endpoint, *ip)));
            }
        }
    }
    names
}

fn add_zones(blocks: impl Iterator<Item = Cidr>, dns: &DnsSettings, origin: &FactKey, out: &mut Output) {
    let zones: BTreeMap<DnsName, u8> = blocks.flat_map(reverse_zones).map(|z| (z.name, z.labels)).collect();
    for (name, labels) in zones {
        let row = NameRow::default().with_zone(zone(dns)).with_below(Below::InnerNames(labels));
        out.name(name, row, origin);
    }
}
