//! What services have once: the maps, the chains that pick and translate, and what becomes of packets that no map knows.

use std::collections::BTreeSet;

use weft_model::{FactKey, Family, Protocol};
use weft_plan::filter::{
    Comparison, ConntrackState, ConntrackStatus, Flush, HookKind, NatTarget, Reject, Value,
};
use weft_plan::kernel::POD_LINK_PREFIX;
use weft_plan::marks::{CHOSEN, CLASS};
use weft_plan::{Atom, Field, Ident, Rule, SetSpec, Statement, Type, Verdict};

use super::blocks;
use super::sources::{self, let_in};
use crate::engine::{Context, Output};
use crate::rules::edge::CLUSTER;
use crate::rules::table::{Pair, address_type, filter, in_set, nat, not_in_set};
use crate::services::kept_seconds;
use crate::services::marks::{Class, SMALL};

/// (address . protocol . port . mark) → (endpoint's address . port), of all that serve: connections of theirs go on, whoever
/// gets new ones.
pub const ENDPOINTS: Pair = Pair { v4: "endpoint4", v6: "endpoint6" };
/// The same of those that are in a slice and don't serve: no packet asks, but what was established with them stays.
pub const LISTED: Pair = Pair { v4: "listed4", v6: "listed6" };
/// Mark of a group with many endpoints → the chain that picks one of its slots.
pub const LARGE: &str = "service_large";
/// Cluster addresses of services.
pub const LIVING: Pair = Pair { v4: "cluster_ip4", v6: "cluster_ip6" };
/// Blocks of virtual addresses.
const RANGES: Pair = Pair { v4: "service_range4", v6: "service_range6" };
/// (client . address . protocol . port) → number of the endpoint that the client keeps.
const CLIENTS: Pair = Pair { v4: "client4", v6: "client6" };
/// Class → the chain that picks one of its slots.
const CLASSES: &str = "service_class";

/// Base chain for packets from pods and from outside.
const SERVICES: &str = "services";
/// Base chain for packets of the node itself.
const SERVICES_OUT: &str = "services_out";
/// Base chain for packets to virtual addresses that got no translation, from pods and from outside.
const UNKNOWN: &str = "services_unknown";
/// Base chain for those of the node itself.
const UNKNOWN_OUT: &str = "services_unknown_out";
/// For what conntrack can't place.
const LOST: &str = "services_lost";
/// Base chain for packets that another node's endpoint must answer to this node.
const MASQUERADE: &str = "services_masquerade";
/// To the chosen endpoint.
const TRANSLATE: &str = "service_translate";
/// There is no endpoint.
const REFUSE: &str = "service_refuse";
/// The service has no such port.
const CLOSED: &str = "service_closed";

/// Before port mappings (−104) and the destination translation of others (−100).
const PRIORITY: i32 = -105;

/// The order in which elements come, and go the other way round (`SetSpec::rank`).
pub struct Rank;

impl Rank {
    /// Those who may use a service.
    pub const SOURCES: u8 = 1;
    const ENDPOINTS: u8 = 1;
    const SLOTS: u8 = 2;
    /// Services that only some sources may use, behind these.
    pub const RESTRICTED: u8 = 3;
    const SERVICES: u8 = 4;
    /// A service's other ports are closed when its own are open.
    const LIVING: u8 = 5;
}

/// Where packets come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Pods of the cluster, and this node.
    Inside,
    /// Everybody else, where a traffic policy makes a difference.
    Outside,
}

/// The map from (address . protocol . port) to the service's mark. Services whose clients keep their endpoint have maps of
/// their own, by time-out.
pub fn service_map(family: Family, side: Side, affinity_seconds: Option<u32>) -> Ident {
    let name = match side {
        Side::Inside => "service",
        Side::Outside => "outside",
    };
    let name = format!("{name}{}", digit(family));
    match affinity_seconds {
        None => Ident::new(&name),
        Some(seconds) => Ident::new(&format!("{name}_keep_{seconds}")),
    }
}

/// The map (mark . slot) → endpoint's number of groups of a class. With each element that comes or goes the kernel looks at all rules that ask its
/// map, and every number of slots has a rule of its own: so each class has a map, but for large groups, whose class is one.
pub fn slots_of(class: Class) -> Ident {
    match class {
        Class::Slots(slots) => Ident::new(&format!("slot_{slots}")),
        Class::Large(_) | Class::Refuse | Class::Absent => Ident::new("slot_large"),
    }
}

/// The set of (address . protocol . port . mark) of endpoints with which clients from a side may stay, of services whose clients
/// keep their endpoint.
pub fn usable(family: Family, side: Side) -> Ident {
    let name = match side {
        Side::Inside => "usable",
        Side::Outside => "outside_usable",
    };
    Ident::new(&format!("{name}{}", digit(family)))
}

/// The chain that remembers clients of such a map.
fn keep_chain(family: Family, side: Side, seconds: u32) -> Ident {
    Ident::new(&format!("{}_chain", service_map(family, side, Some(seconds))))
}

/// The chain that picks an endpoint for packets from a side.
fn lead_chain(side: Side) -> Ident {
    Ident::new(match side {
        Side::Inside => "service_lead",
        Side::Outside => "service_outside_lead",
    })
}

/// The end of a family's names.
pub fn digit(family: Family) -> char {
    match family {
        Family::V4 => '4',
        Family::V6 => '6',
    }
}

/// Services whose clients keep nothing, and then those of each time-out.
fn affinities(timeouts: &[u32]) -> impl Iterator<Item = Option<u32>> {
    std::iter::once(None).chain(timeouts.iter().copied().map(Some))
}

/// How a service is looked up.
pub fn frontend(family: Family) -> Vec<Field> {
    vec![Field::Daddr(family), Field::L4Proto, Field::Dport]
}

/// How its client is: for IPv6 by hashes of the addresses, because nft can't list longer keys that packets write. Two clients
/// that hash alike share an endpoint, which is one of their service's in any case.
fn client(family: Family) -> Vec<Field> {
    let [source, destination] = match family {
        Family::V4 => [Field::Saddr(family), Field::Daddr(family)],
        Family::V6 => [Field::SaddrHash(family), Field::DaddrHash(family)],
    };
    vec![source, destination, Field::L4Proto, Field::Dport]
}

/// Everything that doesn't belong to one service.
pub fn constant(context: &Context<'_>, out: &mut Output) {
    let origin = FactKey::Node(context.settings.node.clone());
    let timeouts: BTreeSet<u32> = context.facts.affinity_timeouts().map(kept_seconds).collect();
    let timeouts: Vec<u32> = timeouts.into_iter().collect();
    maps(&timeouts, &origin, out);
    classes(&origin, out);
    for family in Family::ALL {
        // Of no rank, so that it is there first: a connection that began untranslated would go on so.
        out.table_set(
            RANGES.of(family),
            SetSpec::intervals(address_type(family), "blocks of services' addresses"),
            &origin,
        );
    }
    blocks::warn(context, &origin, out);
    for block in blocks::closed(context) {
        out.block(RANGES.of(block.family()), block, &origin);
        blocks::give_source(block, context, &origin, out);
    }
    let sides = [Side::Inside, Side::Outside];
    for (family, side, seconds) in Family::ALL
        .into_iter()
        .flat_map(|family| sides.map(|side| (family, side)))
        .flat_map(|(family, side)| timeouts.iter().map(move |seconds| (family, side, *seconds)))
    {
        out.chain(keep_chain(family, side, seconds), keep(family, side, seconds), &origin);
    }
    sources::constant(context, &origin, out);
    sides.into_iter().for_each(|side| out.chain(lead_chain(side), lead(side), &origin));
    out.chain(Ident::new(TRANSLATE), translate(), &origin);
    out.chain(Ident::new(REFUSE), refuse("no endpoint"), &origin);
    out.chain(Ident::new(CLOSED), refuse("no such port"), &origin);
    out.chain(Ident::new(LOST), lost(), &origin);
    out.base_chain(SERVICES, nat(HookKind::Prerouting, PRIORITY), look_up(&sides, &timeouts), &origin);
    out.base_chain(
        SERVICES_OUT,
        nat(HookKind::Output, PRIORITY),
        look_up(&[Side::Inside], &timeouts),
        &origin,
    );
    out.base_chain(UNKNOWN, filter(HookKind::Forward, -4), unknown(None), &origin);
    // The cluster DNS address may be this machine's own.
    let elsewhere = Statement::Match(Field::FibDaddrType, Comparison::IsNot, Value::Local);
    out.base_chain(UNKNOWN_OUT, filter(HookKind::Output, -4), unknown(Some(&elsewhere)), &origin);
    out.base_chain(MASQUERADE, nat(HookKind::Postrouting, 93), masquerade(context), &origin);
}

fn maps(timeouts: &[u32], origin: &FactKey, out: &mut Output) {
    for class in (1..=SMALL).map(Class::Slots).chain([Class::Large(0)]) {
        let slots = SetSpec::map(&[Type::Mark, Type::Number], &[Type::Mark], "slots of services' endpoints");
        out.table_set(slots_of(class), slots.ranked(Rank::SLOTS), origin);
    }
    for family in Family::ALL {
        let address = address_type(family);
        let frontend = [address, Type::InetProto, Type::InetService];
        let numbered = [address, Type::InetProto, Type::InetService, Type::Mark];
        let place = [address, Type::InetService];
        let endpoints = SetSpec::map(&numbered, &place, "endpoints that serve");
        let flush = Flush::Served { mark: CHOSEN, listed: LISTED.of(family) };
        let endpoints = endpoints.ranked(Rank::ENDPOINTS).flushing(flush);
        out.table_set(ENDPOINTS.of(family), endpoints, origin);
        let listed = SetSpec::map(&numbered, &place, "endpoints that don't serve, whose connections stay");
        let listed = listed.flushing(Flush::Listed { of: ENDPOINTS.of(family) });
        out.table_set(LISTED.of(family), listed, origin);
        for (side, comment) in [
            (Side::Inside, "services"),
            (Side::Outside, "services that lead elsewhere for packets from outside"),
        ] {
            if !timeouts.is_empty() {
                let spec = SetSpec::set(&numbered, "endpoints with which their clients may stay");
                out.table_set(usable(family, side), spec.ranked(Rank::SLOTS), origin);
            }
            for seconds in affinities(timeouts) {
                let map = SetSpec::map(&frontend, &[Type::Mark], comment);
                out.table_set(service_map(family, side, seconds), map.ranked(Rank::SERVICES), origin);
            }
        }
        let living = SetSpec::set(&[address], "services' cluster addresses");
        out.table_set(LIVING.of(family), living.ranked(Rank::LIVING), origin);
        let address = match family {
            Family::V4 => Type::Ipv4Addr,
            Family::V6 => Type::Number,
        };
        let client = [address, address, Type::InetProto, Type::InetService];
        let clients = SetSpec::map(&client, &[Type::Mark], "clients that keep their endpoint");
        let dynamic_timeout = Some(kept_seconds(u32::MAX));
        out.table_set(CLIENTS.of(family), SetSpec { dynamic_timeout, ..clients }, origin);
    }
}

/// A chain for each number of slots, and a small map to them.
fn classes(origin: &FactKey, out: &mut Output) {
    let map = Ident::new(CLASSES);
    let spec = SetSpec::map(&[Type::Mark], &[Type::Verdict], "how a service's endpoint is picked");
    out.table_set(map.clone(), spec, origin);
    let mut verdicts = vec![
        (Class::Refuse, Verdict::Goto(Ident::new(REFUSE))),
        (Class::Absent, Verdict::Drop),
        (Class::Large(0), Verdict::Jump(Ident::new(LARGE))),
    ];
    verdicts.extend((1..=SMALL).map(|slots| (Class::Slots(slots), Verdict::Jump(pick(slots, origin, out)))));
    for (class, verdict) in verdicts {
        out.entry(map.clone(), [Atom::Mark(class.bits())], [Atom::Verdict(verdict)], origin);
    }
    let large = SetSpec::map(&[Type::Mark], &[Type::Verdict], "how one of many endpoints is picked");
    out.table_set(Ident::new(LARGE), large.ranked(Rank::SERVICES), origin);
    let by_group = Rule::new("", [Statement::VerdictFrom(vec![Field::CtMark], Ident::new(LARGE))]);
    out.chain(Ident::new(LARGE), vec![by_group], origin);
}

/// The chain that picks one of so many slots.
pub fn pick(slots: u32, origin: &FactKey, out: &mut Output) -> Ident {
    let name = Ident::new(&format!("service_pick_{slots}"));
    let slot = vec![Field::CtMark, Field::Random(slots)];
    let rule = Rule::new("", [Statement::SetCtMarkFrom(slot, slots_of(Class::of(slots as usize)))]);
    out.chain(name.clone(), vec![rule], origin);
    name
}

/// The rules of a base chain: what asks for a service's mark.
fn look_up(sides: &[Side], timeouts: &[u32]) -> Vec<Rule> {
    let mut rules = Vec::new();
    for family in Family::ALL {
        for side in [Side::Outside, Side::Inside].into_iter().filter(|side| sides.contains(side)) {
            for seconds in affinities(timeouts) {
                let map = service_map(family, side, seconds);
                let on = match seconds {
                    None => lead_chain(side),
                    Some(seconds) => keep_chain(family, side, seconds),
                };
                let found =
                    [Statement::SetCtMarkFrom(frontend(family), map), Statement::Verdict(Verdict::Goto(on))];
                let from = match side {
                    Side::Inside => Vec::new(),
                    Side::Outside => {
                        vec![
                            not_a_pods(Field::Iifname),
                            not_in_set([Field::Saddr(family)], CLUSTER.of(family)),
                        ]
                    }
                };
                rules.push(Rule::new("", from.into_iter().chain(found)));
            }
        }
    }
    rules
}

/// The link that a packet came in or leaves by is not a pod's.
fn not_a_pods(link: Field) -> Statement {
    Statement::Match(link, Comparison::IsNot, Value::LinkPrefix(POD_LINK_PREFIX.into()))
}

/// Picks a slot, then translates.
fn lead(side: Side) -> Vec<Rule> {
    vec![let_in(side), by_class(), Rule::new("", [Statement::Verdict(Verdict::Goto(Ident::new(TRANSLATE)))])]
}

/// An endpoint was chosen for the connection.
fn chosen() -> Statement {
    Statement::Match(Field::CtMarkMasked(CHOSEN), Comparison::Is, Value::Mark(CHOSEN))
}

/// By the class of the service's mark.
fn by_class() -> Rule {
    Rule::new("", [Statement::VerdictFrom(vec![Field::CtMarkMasked(CLASS)], Ident::new(CLASSES))])
}

/// How an endpoint is looked up.
fn numbered(family: Family) -> Vec<Field> {
    let mut key = frontend(family);
    key.push(Field::CtMark);
    key
}

fn to_endpoint(family: Family) -> Statement {
    let key = numbered(family);
    Statement::Dnat(NatTarget::AddressPortFrom { family, key, map: ENDPOINTS.of(family) })
}

fn translate() -> Vec<Rule> {
    let mut rules: Vec<Rule> = Family::ALL.map(|family| Rule::new("", [to_endpoint(family)])).into();
    rules.push(Rule::new(
        "the endpoint has just gone",
        [Statement::Counter, Statement::Verdict(Verdict::Drop)],
    ));
    rules
}

/// At once: a TCP client would take an ICMP error for a hint and try again.
fn refuse(why: &'static str) -> Vec<Rule> {
    let tcp = Statement::Match(Field::L4Proto, Comparison::Is, Value::Byte(Protocol::Tcp.number()));
    vec![
        Rule::new(why, [tcp, Statement::Counter, Statement::Reject(Reject::TcpReset)]),
        Rule::new(why, [Statement::Counter, Statement::Reject(Reject::PortUnreachable)]),
    ]
}

/// A client goes where it went before; else a slot is picked, and the client remembered.
fn keep(family: Family, side: Side, seconds: u32) -> Vec<Rule> {
    let remember = Statement::Update {
        map: CLIENTS.of(family),
        key: client(family),
        timeout_seconds: seconds,
        data: Field::CtMark,
    };
    let forget = Statement::Delete { map: CLIENTS.of(family), key: client(family), data: Field::CtMark };
    vec![
        let_in(side),
        Rule::new(
            "where this client went before",
            [
                Statement::SetCtMarkFrom(client(family), CLIENTS.of(family)),
                in_set(numbered(family), usable(family, side)),
                remember.clone(),
                to_endpoint(family),
            ],
        ),
        Rule::new("", [Statement::SetCtMarkFrom(frontend(family), service_map(family, side, Some(seconds)))]),
        let_in(side),
        by_class(),
        // Writing a key that is there would keep what it says.
        Rule::new("", [chosen(), forget]),
        Rule::new("", [chosen(), remember]),
        Rule::new("", [Statement::Verdict(Verdict::Goto(Ident::new(TRANSLATE)))]),
    ]
}

/// What is on its way to a virtual address was translated by nobody, neither here nor by another proxy, whose translations
/// all lie before. Where a service has the address, its sender learns that the port is closed; what conntrack can't place
/// is dropped, because a reset would end the connection that it belongs to. Who opens a connection to an address that nobody has
/// is not refused, since a service that is new is known here a moment later; whoever is in the midst of one had a service
/// there that was deleted, and learns that it is over: its entry in conntrack went with the service, so that it counts as new.
///
/// What conntrack has seen both ways of was translated, or let through before the address was a service's, and goes on: of a
/// connection only the first packets pay for the look-ups.
fn unknown(which: Option<&Statement>) -> Vec<Rule> {
    let of = |family: Family, set: Pair| {
        let to_it = in_set([Field::Daddr(family)], set.of(family));
        [to_it].into_iter().chain(which.cloned()).collect::<Vec<_>>()
    };
    let on = |chain: &str| [Statement::Verdict(Verdict::Goto(Ident::new(chain)))];
    let drop = [Statement::Counter, Statement::Verdict(Verdict::Drop)];
    let state = |state| Statement::Match(Field::CtState, Comparison::Is, Value::State(state));
    let known_already = [state(ConntrackState::EstablishedOrRelated), Statement::Verdict(Verdict::Accept)];
    let lost = [state(ConntrackState::Invalid)].into_iter().chain(which.cloned()).chain(on(LOST));
    let known = Family::ALL.into_iter().flat_map(|family| {
        let closed = of(family, LIVING).into_iter().chain(on(CLOSED));
        let ended = of(family, RANGES).into_iter().chain([
            Statement::Match(Field::TcpFlags, Comparison::IsNot, Value::Syn),
            Statement::Counter,
            Statement::Reject(Reject::TcpReset),
        ]);
        let nobody = of(family, RANGES).into_iter().chain(drop.clone());
        [
            Rule::new("no such port", closed),
            Rule::new("no service at this address any more", ended),
            Rule::new("no service at this address", nobody),
        ]
    });
    [Rule::new("what was let through goes on", known_already), Rule::new("", lost)]
        .into_iter()
        .chain(known)
        .collect()
}

/// What conntrack can't place is translated neither there nor back: an endpoint's answer that is out of its connection's window
/// would reach the client, a pod or through a pod's link, with the endpoint's own address, and the client reset a healthy
/// connection. Of a pod's packets both ways pass its own node, so that there it can place whatever is worth it. What the node
/// itself sends to pods is left alone: it may be the reset of a connection that only the pod remembers.
fn lost() -> Vec<Rule> {
    let drop = [Statement::Counter, Statement::Verdict(Verdict::Drop)];
    let tcp = Statement::Match(Field::L4Proto, Comparison::Is, Value::Byte(Protocol::Tcp.number()));
    let to_services = [RANGES, LIVING]
        .into_iter()
        .flat_map(|set| Family::ALL.map(|family| vec![in_set([Field::Daddr(family)], set.of(family))]));
    let link =
        |field, comparison| Statement::Match(field, comparison, Value::LinkPrefix(POD_LINK_PREFIX.into()));
    let from_pods = vec![tcp.clone(), link(Field::Iifname, Comparison::Is)];
    let not_our_own = Statement::Match(Field::FibSaddrType, Comparison::IsNot, Value::Local);
    let to_pods = vec![tcp, link(Field::Oifname, Comparison::Is), not_our_own];
    let dropped =
        |which: Vec<Statement>| Rule::new("of no connection", which.into_iter().chain(drop.clone()));
    to_services.chain([from_pods, to_pods]).map(dropped).collect()
}

/// What came in by one node and goes on to an endpoint of another must be answered through the first.
fn masquerade(context: &Context<'_>) -> Vec<Rule> {
    let own = Family::ALL.into_iter().filter_map(|family| context.own_address(family));
    own.map(|own| {
        Rule::new(
            "answered through this node",
            [
                // Another program's mark may have the bit, and lead nowhere else.
                Statement::Match(Field::CtStatus, Comparison::Is, Value::Status(ConntrackStatus::Dnat)),
                chosen(),
                Statement::Match(Field::Saddr(Family::of(own)), Comparison::IsNot, Value::Address(own)),
                not_a_pods(Field::Iifname),
                not_a_pods(Field::Oifname),
                Statement::Snat(NatTarget::Address(own)),
            ],
        )
    })
    .collect()
}
