//! This node's pods: a link and a route each, no address but their own as source, and a way back to themselves.

use std::net::{IpAddr, Ipv6Addr};

use weft_model::{Attachment, Cidr, FactKey, Family, NetworkName};
use weft_plan::filter::{Comparison, ConntrackStatus, HookKind, NatTarget, Value};
use weft_plan::kernel::{GATEWAY_V4, LinkKind, MAIN_TABLE, POD_LINK_PREFIX};
use weft_plan::{
    Atom, Field, KernelKey, KernelRow, Link, PodLink, Route, RouteKey, RouteKind, SetSpec, Statement, Type,
    Verdict,
};

use super::table::{Pair, address_type, filter, in_set, link_local_v6, loopback_v4, nat};
use crate::engine::{Context, Output, Rule, RuleKey};
use crate::facts::Transition;

/// (link . source address) of this node's pods. A pod's link without an entry here passes nothing.
pub const SOURCES: Pair = Pair { v4: "pod_source4", v6: "pod_source6" };
/// (address . address) of each pod with itself: connections that a translation has led back to their sender.
pub const HAIRPIN: Pair = Pair { v4: "hairpin4", v6: "hairpin6" };

const ICMPV6_NEIGHBOUR_SOLICIT: u8 = 135;
const ICMPV6_NEIGHBOUR_ADVERT: u8 = 136;
const ICMPV6_MLD2_REPORT: u8 = 143;
const ICMPV6_ROUTER_SOLICIT: u8 = 133;

/// See the module.
pub struct PodsRule;

impl Rule for PodsRule {
    fn affected(&mut self, transition: &Transition, context: &Context<'_>, dirty: &mut dyn FnMut(RuleKey)) {
        if let FactKey::Attachment(_) = &transition.key {
            dirty(RuleKey::Fact(transition.key.clone()));
        }
        let here = transition.is_of_this_node(context);
        if here {
            dirty(RuleKey::Constant);
        }
        let concerned = |network: &NetworkName| match &transition.key {
            FactKey::Network(changed) => changed == network,
            _ => here,
        };
        for attachment in context.facts.attachments().filter(|found| concerned(&found.network)) {
            dirty(RuleKey::Fact(FactKey::Attachment(attachment.id.clone())));
        }
    }

    fn rows(&self, key: &RuleKey, context: &Context<'_>, out: &mut Output) {
        match key {
            RuleKey::Constant => constant(context, out),
            RuleKey::Fact(origin @ FactKey::Attachment(id)) => {
                if let Some(attachment) = context.facts.attachment(id) {
                    pod(attachment, origin, context, out);
                }
            }
            _ => {}
        }
    }
}

fn constant(context: &Context<'_>, out: &mut Output) {
    let origin = FactKey::Node(context.settings.node.clone());
    for family in Family::ALL {
        let address = address_type(family);
        out.table_set(
            SOURCES.of(family),
            SetSpec::set(&[Type::IfName, address], "source addresses that each pod may use"),
            &origin,
        );
        out.table_set(
            HAIRPIN.of(family),
            SetSpec::set(&[address, address], "pods that reach themselves through a translation"),
            &origin,
        );
    }
    // Proxy ARP answers only for what the node has a route to: without a default route, this one keeps pods' gateway there.
    out.local_address(GATEWAY_V4.into(), &origin);
    out.base_chain("pod_sources", filter(HookKind::Prerouting, -310), source_rules(), &origin);
    out.base_chain("hairpin", nat(HookKind::Postrouting, 90), hairpin_rules(context), &origin);
}

/// A pod's link passes what has the pod's own source address, and what finds neighbours.
fn source_rules() -> Vec<weft_plan::Rule> {
    let icmpv6 = |kind| Statement::Match(Field::Icmpv6Type, Comparison::Is, Value::Byte(kind));
    let own_source = |family| in_set([Field::Iifname, Field::Saddr(family)], SOURCES.of(family));
    let from = |source| Statement::Match(Field::Saddr(Family::V6), Comparison::Is, source);
    let link_local = Value::Net(link_local_v6());
    let verdict = Statement::Verdict;
    vec![
        weft_plan::Rule::new(
            "not from a pod",
            [
                Statement::Match(
                    Field::Iifname,
                    Comparison::IsNot,
                    Value::LinkPrefix(POD_LINK_PREFIX.into()),
                ),
                verdict(Verdict::Accept),
            ],
        ),
        weft_plan::Rule::new(
            "the host's loopback is not for pods",
            [
                Statement::Match(Field::Daddr(Family::V4), Comparison::Is, Value::Net(loopback_v4())),
                Statement::Counter,
                verdict(Verdict::Drop),
            ],
        ),
        weft_plan::Rule::new("", [own_source(Family::V4), verdict(Verdict::Accept)]),
        weft_plan::Rule::new("", [own_source(Family::V6), verdict(Verdict::Accept)]),
        // Nobody forwards these two sources, so what passes stays on the link.
        weft_plan::Rule::new(
            "neighbour discovery",
            [icmpv6(ICMPV6_NEIGHBOUR_SOLICIT), from(link_local.clone()), verdict(Verdict::Accept)],
        ),
        weft_plan::Rule::new(
            "a new address, looked for in case another has it",
            [
                icmpv6(ICMPV6_NEIGHBOUR_SOLICIT),
                from(Value::Address(Ipv6Addr::UNSPECIFIED.into())),
                verdict(Verdict::Accept),
            ],
        ),
        weft_plan::Rule::new(
            "neighbour discovery",
            [icmpv6(ICMPV6_NEIGHBOUR_ADVERT), from(link_local), verdict(Verdict::Accept)],
        ),
        weft_plan::Rule::new(
            "every new link sends these",
            [icmpv6(ICMPV6_MLD2_REPORT), verdict(Verdict::Drop)],
        ),
        weft_plan::Rule::new(
            "every new link sends these",
            [icmpv6(ICMPV6_ROUTER_SOLICIT), verdict(Verdict::Drop)],
        ),
        weft_plan::Rule::new(
            "not the pod's own source address",
            [Statement::Counter, verdict(Verdict::Drop)],
        ),
    ]
}

/// What a translation sent back to its sender, or to a pod from the node's loopback, gets the node's address: the answer
/// must come through here again.
fn hairpin_rules(context: &Context<'_>) -> Vec<weft_plan::Rule> {
    let mut rules = Vec::new();
    for family in Family::ALL {
        let Some(own) = context.own_address(family) else {
            continue;
        };
        let snat = Statement::Snat(NatTarget::Address(own));
        rules.push(weft_plan::Rule::new(
            "a pod to itself",
            [
                Statement::Match(Field::CtStatus, Comparison::Is, Value::Status(ConntrackStatus::Dnat)),
                in_set([Field::Saddr(family), Field::Daddr(family)], HAIRPIN.of(family)),
                snat.clone(),
            ],
        ));
        if family == Family::V4 {
            rules.push(weft_plan::Rule::new(
                "the node's loopback to a pod",
                [
                    Statement::Match(
                        Field::Oifname,
                        Comparison::Is,
                        Value::LinkPrefix(POD_LINK_PREFIX.into()),
                    ),
                    Statement::Match(Field::Saddr(family), Comparison::Is, Value::Net(loopback_v4())),
                    snat,
                ],
            ));
        }
    }
    rules
}

fn pod(attachment: &Attachment, origin: &FactKey, context: &Context<'_>, out: &mut Output) {
    let network = context.facts.network_or_default(&attachment.network);
    let name = attachment.id.host_link();
    let kind = LinkKind::Pod(PodLink {
        attachment: attachment.id.clone(),
        netns: attachment.netns.as_str().into(),
        pod_mac: attachment.mac,
        addresses: attachment.addresses.clone(),
        mtu: attachment.mtu.unwrap_or_else(|| context.pod_mtu(&network)),
    });
    let alias: String = format!("weft:{}", attachment.owner()).chars().take(255).collect();
    out.kernel(KernelKey::Link(name), KernelRow::Link(Box::new(Link { kind, alias: alias.into() })), origin);
    for address in &attachment.addresses {
        let family = Family::of(*address);
        out.kernel(
            KernelKey::Route(RouteKey { table: MAIN_TABLE, destination: Cidr::host(*address), metric: 0 }),
            KernelRow::Route(Route {
                kind: RouteKind::Unicast,
                link: Some(name),
                via: None,
                onlink: false,
                source: context.route_source(family),
            }),
            origin,
        );
        out.member(SOURCES.of(family), [Atom::Link(name), Atom::from(*address)], origin);
        out.member(HAIRPIN.of(family), [Atom::from(*address), Atom::from(*address)], origin);
    }
    unroutable(attachment, context, origin, out);
}

/// Warns of addresses that peers don't send here.
fn unroutable(attachment: &Attachment, context: &Context<'_>, origin: &FactKey, out: &mut Output) {
    let Some(node) = context.own_node() else { return };
    let ours = |address: &IpAddr| node.cidrs(&attachment.network).any(|cidr| cidr.contains(*address));
    for address in attachment.addresses.iter().filter(|a| !ours(a)) {
        out.warn(
            origin,
            format!(
                "its address {address} lies outside this node's pod CIDRs of network {}: other nodes don't find it; restart the pod",
                attachment.network
            ),
        );
    }
}
