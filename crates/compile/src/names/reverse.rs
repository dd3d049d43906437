//! Names of addresses: a virtual address has its service's name, an endpoint of headless services a name in each.
//!
//! Several services may hold one address, so its row is a piece of work of its own. The rule keeps an index from addresses
//! to services; it is a function of the facts, brought up to date with each transition.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use rustc_hash::FxHashMap;
use weft_model::{Cidr, Fact, FactKey, Keyed, Node, ObjectKey, Service, ServiceKind, Table};
use weft_plan::names::Below;
use weft_plan::{DnsName, NameRow, Record};

use super::address::{reverse_name, reverse_zones};
use super::service::{is_label, label, name, named_endpoints};
use super::zone::{is_served, zone};
use crate::endpoints;
use crate::engine::{Context, Output, Part, Rule, RuleKey};
use crate::facts::Transition;
use crate::settings::DnsSettings;

/// See the module.
#[derive(Debug, Default)]
pub struct ReverseRule(Index);

/// Names of addresses by service, and services by address. It says what a name follows from, not the name: there may be one
/// for every pod.
#[derive(Debug, Default)]
struct Index {
    names: FxHashMap<Arc<ObjectKey>, Box<[Named]>>,
    services: Table<Holders>,
}

/// A name that a service gives to an address.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Named {
    ip: IpAddr,
    given: Given,
}

/// Which name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Given {
    /// The service's own.
    Own,
    /// Below the service, the address itself.
    Address,
    /// Below the service, this label.
    Hostname(Arc<str>),
}

/// The services that give names to an address.
#[derive(Debug)]
struct Holders {
    ip: IpAddr,
    services: Givers,
}

impl Keyed for Holders {
    type Key = IpAddr;
    fn key(&self) -> &IpAddr {
        &self.ip
    }
}

/// Services, mostly one.
#[derive(Debug)]
enum Givers {
    One(Arc<ObjectKey>),
    Many(BTreeSet<Arc<ObjectKey>>),
}

impl Rule for ReverseRule {
    fn part(&self) -> Part {
        Part::Names
    }

    fn affected(&mut self, transition: &Transition, context: &Context<'_>, dirty: &mut dyn FnMut(RuleKey)) {
        if !is_served(&context.settings.dns) {
            return;
        }
        match &transition.key {
            FactKey::Network(_) => {
                dirty(RuleKey::Constant);
                // A zone of their own have the blocks of nodes that no network's block holds.
                let wholes = wholes(transition);
                let concerned = |node: &&Node| {
                    node.pod_cidrs
                        .iter()
                        .any(|own| wholes.iter().any(|whole| whole.contains(own.cidr.first())))
                };
                for node in context.facts.nodes().filter(concerned) {
                    dirty(RuleKey::Fact(FactKey::Node(node.name.clone())));
                }
            }
            FactKey::ServiceCidr(_) => dirty(RuleKey::Constant),
            FactKey::Node(_) => dirty(RuleKey::Fact(transition.key.clone())),
            _ => {}
        }
        for key in endpoints::affected_services(transition, context.facts) {
            let service = context.facts.service(&key);
            let headless = service.is_some_and(|service| service.headless);
            if headless || transition.key == FactKey::Service(key.clone()) {
                let new = service.map_or_else(Vec::new, |service| names_of(service, context));
                self.0.replace(key, new, &mut |ip| dirty(RuleKey::Address(ip)));
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
                let pods = networks.iter().flat_map(|n| n.pod_cidrs.iter().copied());
                add_zones(pods.chain(context.service_cidrs()), dns, &origin, out);
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
            RuleKey::Address(ip) => self.0.add_name(*ip, context, out),
            RuleKey::Fact(_) | RuleKey::NodeIn(..) | RuleKey::Sources(_) => {}
        }
    }
}

impl Index {
    /// Puts a service's names, which are sorted, in place of its old ones, and tells of each address whose names differ.
    fn replace(&mut self, key: ObjectKey, new: Vec<Named>, changed: &mut dyn FnMut(IpAddr)) {
        let (key, old) = self.names.remove_entry(&key).unwrap_or_else(|| (Arc::new(key), Box::default()));
        for (ip, names) in by_address(&old) {
            if of(&new, ip).is_empty() {
                changed(ip);
                self.release(ip, &key);
            } else if of(&new, ip) != names {
                changed(ip);
            }
        }
        for (ip, _) in by_address(&new).filter(|(ip, _)| of(&old, *ip).is_empty()) {
            changed(ip);
            self.hold(ip, &key);
        }
        if !new.is_empty() {
            self.names.insert(key, new.into());
        }
    }

    fn hold(&mut self, ip: IpAddr, key: &Arc<ObjectKey>) {
        match self.services.slot(&ip).and_then(|slot| self.services.at_mut(slot)) {
            Some(holders) => holders.services.insert(key.clone()),
            None => drop(self.services.insert(Holders { ip, services: Givers::One(key.clone()) })),
        }
    }

    fn release(&mut self, ip: IpAddr, key: &ObjectKey) {
        if let Some(slot) = self.services.slot(&ip)
            && self.services.at_mut(slot).is_some_and(|holders| holders.services.remove(key))
        {
            self.services.remove_at(slot);
        }
    }

    fn add_name(&self, ip: IpAddr, context: &Context<'_>, out: &mut Output) {
        let Some(holders) = self.services.get(&ip) else { return };
        let holders: Vec<&Service> =
            holders.services.iter().filter_map(|key| context.facts.service(key)).collect();
        let is_virtual = |service: &&&Service| !service.headless && service.cluster_ips.contains(&ip);
        // A virtual address has one name, whoever else claims to end there.
        let chosen: Vec<&Service> = match holders.iter().find(is_virtual) {
            Some(owner) => vec![*owner],
            None => holders,
        };
        let zone = &context.settings.dns.zone;
        let names = chosen.iter().flat_map(|service| {
            let own = name(service, zone);
            let names = self.names.get(&service.key).map_or(&[][..], |names| of(names, ip));
            names.iter().map(move |named| match &named.given {
                Given::Own => own.clone(),
                Given::Address => own.child(label(None, ip)),
                Given::Hostname(hostname) => own.child(label(Some(hostname), ip)),
            })
        });
        let records: Vec<Record> = names.filter(DnsName::is_encodable).map(Record::Ptr).collect();
        if let (Some(first), false) = (chosen.first(), records.is_empty()) {
            out.name(reverse_name(ip), NameRow::new(records), &FactKey::Service(first.key.clone()));
        }
    }
}

impl Givers {
    fn insert(&mut self, key: Arc<ObjectKey>) {
        match self {
            Givers::One(held) if *held == key => {}
            Givers::One(held) => *self = Givers::Many([held.clone(), key].into()),
            Givers::Many(held) => drop(held.insert(key)),
        }
    }

    /// Takes one out; says whether it was the last.
    fn remove(&mut self, key: &ObjectKey) -> bool {
        match self {
            Givers::One(held) => **held == *key,
            Givers::Many(held) => {
                held.remove(key);
                held.is_empty()
            }
        }
    }

    /// All, by name.
    fn iter(&self) -> impl Iterator<Item = &ObjectKey> {
        let (one, many) = match self {
            Givers::One(key) => (Some(key), None),
            Givers::Many(held) => (None, Some(held.iter())),
        };
        one.into_iter().chain(many.into_iter().flatten()).map(|key| &**key)
    }
}

/// The blocks that a network had and has, where these differ.
fn wholes(transition: &Transition) -> Vec<Cidr> {
    let blocks = |fact: &Option<Fact>| match fact {
        Some(Fact::Network(network)) => network.pod_cidrs.clone(),
        _ => Vec::new(),
    };
    let (before, after) = (blocks(&transition.before), blocks(&transition.after));
    if before == after { Vec::new() } else { [before, after].concat() }
}

/// The part of sorted names that is an address's.
fn of(names: &[Named], ip: IpAddr) -> &[Named] {
    let rest = &names[names.partition_point(|named| named.ip < ip)..];
    &rest[..rest.partition_point(|named| named.ip == ip)]
}

/// Sorted names by address.
fn by_address(names: &[Named]) -> impl Iterator<Item = (IpAddr, &[Named])> {
    names.chunk_by(|a, b| a.ip == b.ip).map(|names| (names[0].ip, names))
}

/// The names that a service gives to addresses, sorted, no duplicates.
fn names_of(service: &Service, context: &Context<'_>) -> Vec<Named> {
    if matches!(service.kind, ServiceKind::ExternalName(_)) {
        return Vec::new();
    }
    let mut names = Vec::new();
    if service.headless {
        for (_, endpoints) in named_endpoints(context.facts, service) {
            for endpoint in &endpoints {
                let hostname = endpoint.hostname.clone().filter(|hostname| is_label(hostname));
                let given = hostname.map_or(Given::Address, Given::Hostname);
                names.extend(endpoint.addresses.iter().map(|ip| Named { ip: *ip, given: given.clone() }));
            }
        }
    } else {
        names.extend(service.cluster_ips.iter().map(|ip| Named { ip: *ip, given: Given::Own }));
    }
    names.sort();
    names.dedup();
    names
}

fn add_zones(blocks: impl Iterator<Item = Cidr>, dns: &DnsSettings, origin: &FactKey, out: &mut Output) {
    let zones: BTreeMap<DnsName, u8> = blocks.flat_map(reverse_zones).map(|z| (z.name, z.labels)).collect();
    for (name, labels) in zones {
        let row = NameRow::default().with_zone(zone(dns)).with_below(Below::InnerNames(labels));
        out.name(name, row, origin);
    }
}
