//! One plan made ready for questions: routes by longest prefix, base chains by hook, interval sets, tunnels.
//!
//! Built in two passes over the rows; what the plan's own table answers at once (set elements, chains, neighbours) is asked there.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use rustc_hash::FxHashMap;
use weft_model::{Cidr, FactKey, Family, Host, HostLink, IfName};
use weft_plan::filter::{HookKind, Statement};
use weft_plan::kernel::{GATEWAY_V6, LOCAL_TABLE, LinkKind, MAIN_TABLE};
use weft_plan::{
    Atom, Atoms, Chain, Ident, KernelKey, KernelRow, Link, Plan, PodLink, Route, RouteKey, RouteKind,
    VxlanLink,
};

use super::conntrack::Manip;

/// What the machine's own rows go back to.
pub(super) static HOST: FactKey = FactKey::Host;

/// The main table's place among the policy rules (`ip rule`).
const MAIN_PRIORITY: u32 = 32_766;
/// Metric of a default route that the host has, which is not known: behind every row of the plan.
const HOST_METRIC: u32 = u32::MAX;
/// Priority of `nf_conntrack_in`.
const CONNTRACK_PRIORITY: i32 = -200;
/// Priority of destination translation, whatever the nat chains' own (`NF_IP_PRI_NAT_DST`).
const DNAT_PRIORITY: i32 = -100;
/// Priority of source translation (`NF_IP_PRI_NAT_SRC`).
const SNAT_PRIORITY: i32 = 100;

/// Values by block of addresses, asked by longest prefix.
#[derive(Debug)]
pub(super) struct Prefixes<T> {
    /// Lengths in use, longest first.
    lengths: Vec<u8>,
    blocks: FxHashMap<IpNet, T>,
}

impl<T> Default for Prefixes<T> {
    fn default() -> Self {
        Self { lengths: Vec::new(), blocks: FxHashMap::default() }
    }
}

impl<T: Default> Prefixes<T> {
    fn at(&mut self, block: IpNet) -> &mut T {
        let length = block.prefix_len();
        if let Err(place) = self.lengths.binary_search_by(|l| length.cmp(l)) {
            self.lengths.insert(place, length);
        }
        self.blocks.entry(block.trunc()).or_default()
    }

    /// The value of the longest block around `address`.
    pub fn longest(&self, address: IpAddr) -> Option<&T> {
        let bits = Family::of(address).bits();
        self.lengths
            .iter()
            .filter(|length| **length <= bits)
            .find_map(|length| self.blocks.get(&IpNet::new(address, *length).ok()?.trunc()))
    }
}

/// A route and where it comes from.
#[derive(Debug, Clone, Copy)]
pub(super) struct Candidate<'a> {
    pub key: RouteKey,
    pub route: Route,
    pub origin: &'a FactKey,
}

/// A policy rule, the two that every kernel has included.
#[derive(Debug, Clone, Copy)]
pub(super) struct TableChoice {
    pub priority: u32,
    pub from: Option<Cidr>,
    pub table: u32,
    /// Packets with any of these bits in their mark pass it by.
    pub unless_mark: u32,
}

/// A base chain.
#[derive(Debug, Clone, Copy)]
pub(super) struct BaseChain<'a> {
    pub name: &'a Ident,
    pub chain: &'a Chain,
    pub origin: &'a FactKey,
}

/// What happens at a hook, in order.
#[derive(Debug, Clone, Copy)]
pub(super) enum Event<'a> {
    /// Connection tracking places the packet.
    Track,
    /// Address translation, with the nat chains for first packets.
    Translate(Manip),
    /// A filter chain.
    Filter(BaseChain<'a>),
}

/// An element of an interval set.
#[derive(Debug, Clone, Copy)]
struct Interval<'a> {
    key: &'a Atoms,
    data: &'a Atoms,
    origin: &'a FactKey,
}

/// An element that a look-up found.
#[derive(Debug)]
pub(super) struct Found<'a> {
    /// Its own key: a block where the set holds blocks.
    pub key: Atoms,
    pub data: Vec<Atom>,
    pub origin: &'a FactKey,
}

#[derive(Debug, Default)]
struct Intervals<'a> {
    single: Prefixes<Option<Interval<'a>>>,
    concatenated: Vec<Interval<'a>>,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Index<'a> {
    pub plan: &'a Plan,
    pub host: &'a Host,
    tables: FxHashMap<(u32, Family), Prefixes<Vec<Candidate<'a>>>>,
    choices: Vec<TableChoice>,
    events: FxHashMap<HookKind, Vec<Event<'a>>>,
    nat: FxHashMap<HookKind, Vec<BaseChain<'a>>>,
    /// Some rule makes the kernel track connections.
    tracks: bool,
    intervals: FxHashMap<&'a Ident, Intervals<'a>>,
    sysctls: FxHashMap<&'a str, &'a str>,
    pub pods: Vec<(IfName, &'a Link, &'a PodLink, &'a FactKey)>,
    pub tunnels: Vec<(IfName, &'a VxlanLink, &'a FactKey)>,
}

impl<'a> Index<'a> {
    pub fn new(plan: &'a Plan, host: &'a Host) -> Self {
        let mut index = Self {
            plan,
            host,
            tables: FxHashMap::default(),
            choices: vec![
                TableChoice { priority: 0, from: None, table: LOCAL_TABLE, unless_mark: 0 },
                TableChoice { priority: MAIN_PRIORITY, from: None, table: MAIN_TABLE, unless_mark: 0 },
            ],
            events: FxHashMap::default(),
            nat: FxHashMap::default(),
            tracks: false,
            intervals: FxHashMap::default(),
            sysctls: FxHashMap::default(),
            pods: Vec::new(),
            tunnels: Vec::new(),
        };
        let chains = index.read_rows();
        index.read_intervals();
        index.add_host_routes();
        index.order_routes();
        index.pods.sort_by_key(|(name, ..)| *name);
        index.tunnels.sort_by_key(|(name, ..)| *name);
        index.order_chains(chains);
        index
    }

    /// Takes what needs an index of its own; returns the base chains.
    fn read_rows(&mut self) -> Vec<BaseChain<'a>> {
        let mut chains = Vec::new();
        for (key, entry) in self.plan.kernel.iter() {
            let origin = &entry.origin;
            match (key, &entry.value) {
                (KernelKey::Route(key), KernelRow::Route(route)) => {
                    self.add_route(Candidate { key: *key, route: *route, origin });
                }
                (KernelKey::Rule(rule), _) => {
                    let choice = TableChoice {
                        priority: rule.priority,
                        from: Some(rule.from),
                        table: rule.table,
                        unless_mark: rule.unless_mark,
                    };
                    self.choices.push(choice);
                }
                (KernelKey::Chain(name), KernelRow::Chain(chain)) => {
                    let mut statements = chain.rules.iter().flat_map(|rule| &rule.statements);
                    self.tracks |= statements.any(Statement::asks_for_tracking);
                    if chain.hook.is_some() {
                        chains.push(BaseChain { name, chain, origin });
                    }
                }
                (KernelKey::Set(name), KernelRow::Set(spec)) if spec.interval => {
                    self.intervals.entry(name).or_default();
                }
                (KernelKey::Sysctl(path), KernelRow::Sysctl(value)) => {
                    self.sysctls.insert(path, value);
                }
                (KernelKey::Link(name), KernelRow::Link(link)) => match &link.kind {
                    LinkKind::Pod(pod) => self.pods.push((*name, link, pod, origin)),
                    LinkKind::Vxlan(vxlan) => self.tunnels.push((*name, vxlan, origin)),
                },
                _ => {}
            }
        }
        self.choices.sort_by_key(|choice| (choice.priority, choice.from, choice.table));
        chains
    }

    fn read_intervals(&mut self) {
        if self.intervals.is_empty() {
            return;
        }
        for (key, entry) in self.plan.kernel.iter() {
            let (KernelKey::Element(set, key), KernelRow::Element(element)) = (key, &entry.value) else {
                continue;
            };
            let Some(intervals) = self.intervals.get_mut(set) else {
                continue;
            };
            let interval = Interval { key, data: &element.data, origin: &entry.origin };
            match &key.to_vec()[..] {
                [Atom::Net(net)] => *intervals.single.at(*net) = Some(interval),
                [Atom::V4(address)] => *intervals.single.at(IpAddr::V4(*address).into()) = Some(interval),
                [Atom::V6(address)] => *intervals.single.at(IpAddr::V6(*address).into()) = Some(interval),
                _ => intervals.concatenated.push(interval),
            }
        }
        for intervals in self.intervals.values_mut() {
            intervals.concatenated.sort_by(|a, b| a.key.cmp(b.key));
        }
    }

    fn add_route(&mut self, candidate: Candidate<'a>) {
        let destination = candidate.key.destination;
        let table = self.tables.entry((candidate.key.table, destination.family())).or_default();
        table.at(destination.net()).push(candidate);
    }

    /// Routes that the kernel makes for the machine's own addresses, and the default routes that it is taken to have.
    fn add_host_routes(&mut self) {
        let host = self.host;
        let loopbacks =
            [Cidr::around(IpAddr::V4(Ipv4Addr::LOCALHOST), 8), Cidr::host(IpAddr::V6(Ipv6Addr::LOCALHOST))];
        for block in loopbacks {
            self.add_host_route(LOCAL_TABLE, block, RouteKind::Local, IfName::loopback(), 0);
        }
        if !self.pods.is_empty() {
            // Every host end has it.
            let gateway = Cidr::host(IpAddr::V6(GATEWAY_V6));
            self.add_host_route(LOCAL_TABLE, gateway, RouteKind::Local, IfName::loopback(), 0);
        }
        for link in &host.links {
            for net in &link.addresses {
                let own = Cidr::host(net.addr());
                self.add_host_route(LOCAL_TABLE, own, RouteKind::Local, link.name, 0);
                let subnet = Cidr::around(net.addr(), net.prefix_len());
                self.add_host_route(MAIN_TABLE, subnet, RouteKind::Unicast, link.name, 0);
            }
        }
        for family in Family::ALL {
            let everything = match family {
                Family::V4 => Cidr::around(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0),
                Family::V6 => Cidr::around(IpAddr::V6(Ipv6Addr::UNSPECIFIED), 0),
            };
            let has_family =
                |link: &&HostLink| link.addresses.iter().any(|net| Family::of(net.addr()) == family);
            if let Some(link) = host.links.iter().find(has_family) {
                self.add_host_route(MAIN_TABLE, everything, RouteKind::Unicast, link.name, HOST_METRIC);
            }
        }
    }

    fn add_host_route(&mut self, table: u32, destination: Cidr, kind: RouteKind, link: IfName, metric: u32) {
        let key = RouteKey { table, destination, metric };
        let route = Route { kind, link: Some(link), via: None, onlink: false, source: None };
        self.add_route(Candidate { key, route, origin: &HOST });
    }

    /// The lowest metric first; the plan's own before the host's.
    fn order_routes(&mut self) {
        for candidates in self.tables.values_mut().flat_map(|table| table.blocks.values_mut()) {
            candidates.sort_by_key(|c| (c.key.metric, *c.origin == HOST));
        }
    }

    /// By priority. Among equals the kernel asks the chain first that was registered last; a plan that leaves this open is read
    /// by name.
    fn order_chains(&mut self, mut chains: Vec<BaseChain<'a>>) {
        chains.sort_by_key(|base| base.name);
        let mut events: FxHashMap<HookKind, Vec<(i32, u8, Event<'a>)>> = FxHashMap::default();
        for hook in [HookKind::Prerouting, HookKind::Output] {
            let list = events.entry(hook).or_default();
            if self.tracks {
                list.push((CONNTRACK_PRIORITY, 0, Event::Track));
            }
            list.push((DNAT_PRIORITY, 0, Event::Translate(Manip::Destination)));
        }
        for hook in [HookKind::Input, HookKind::Postrouting] {
            events.entry(hook).or_default().push((SNAT_PRIORITY, 0, Event::Translate(Manip::Source)));
        }
        let mut nat: FxHashMap<HookKind, Vec<(i32, BaseChain<'a>)>> = FxHashMap::default();
        for base in chains {
            let Some(hook) = base.chain.hook else { continue };
            if hook.nat {
                nat.entry(hook.at).or_default().push((hook.priority, base));
            } else {
                events.entry(hook.at).or_default().push((hook.priority, 1, Event::Filter(base)));
            }
        }
        for (hook, mut list) in events {
            list.sort_by_key(|(priority, tie, _)| (*priority, *tie));
            self.events.insert(hook, list.into_iter().map(|(.., event)| event).collect());
        }
        for (hook, mut list) in nat {
            list.sort_by_key(|(priority, _)| *priority);
            self.nat.insert(hook, list.into_iter().map(|(_, base)| base).collect());
        }
    }

    /// What happens at a hook.
    pub fn events(&self, hook: HookKind) -> &[Event<'a>] {
        self.events.get(&hook).map_or(&[], Vec::as_slice)
    }

    /// The nat chains of a hook.
    pub fn nat_chains(&self, hook: HookKind) -> &[BaseChain<'a>] {
        self.nat.get(&hook).map_or(&[], Vec::as_slice)
    }

    /// Tables to ask, in order.
    pub fn choices(&self) -> &[TableChoice] {
        &self.choices
    }

    /// The best route of one table.
    pub fn in_table(&self, table: u32, destination: IpAddr) -> Option<&Candidate<'a>> {
        self.tables.get(&(table, Family::of(destination)))?.longest(destination)?.first()
    }

    /// What the plan sets a sysctl to.
    pub fn sysctl(&self, path: &str) -> Option<&'a str> {
        self.sysctls.get(path).copied()
    }

    /// The fact behind a map that packets write into; `None` for other sets.
    pub fn written_by_packets(&self, map: &Ident) -> Option<&'a FactKey> {
        let entry = self.plan.kernel.entry(&KernelKey::Set(map.clone()))?;
        match &entry.value {
            KernelRow::Set(spec) if spec.dynamic_timeout.is_some() => Some(&entry.origin),
            _ => None,
        }
    }

    /// The element of a set or map at a key.
    pub fn element(&self, set: &Ident, key: Vec<Atom>) -> Option<Found<'a>> {
        if let Some(intervals) = self.intervals.get(set) {
            let single = match key.as_slice() {
                [Atom::V4(address)] => intervals.single.longest(IpAddr::V4(*address)),
                [Atom::V6(address)] => intervals.single.longest(IpAddr::V6(*address)),
                _ => None,
            };
            let holds = |interval: &&Interval<'_>| {
                interval.key.len() == key.len() && interval.key.iter().zip(&key).all(|(a, b)| holds(&a, b))
            };
            let found =
                single.copied().flatten().or_else(|| intervals.concatenated.iter().find(holds).copied())?;
            let (key, data) = (found.key.clone(), found.data.to_vec());
            return Some(Found { key, data, origin: found.origin });
        }
        let key = KernelKey::Element(set.clone(), key.into());
        let entry = self.plan.kernel.entry(&key)?;
        match (key, &entry.value) {
            (KernelKey::Element(_, key), KernelRow::Element(element)) => {
                Some(Found { key, data: element.data.to_vec(), origin: &entry.origin })
            }
            _ => None,
        }
    }
}

/// Whether a part of an element's key holds a part of a packet's.
pub(super) fn holds(part: &Atom, value: &Atom) -> bool {
    match (part, value) {
        (Atom::Net(net), Atom::V4(address)) => net.contains(&IpAddr::V4(*address)),
        (Atom::Net(net), Atom::V6(address)) => net.contains(&IpAddr::V6(*address)),
        _ => part == value,
    }
}
