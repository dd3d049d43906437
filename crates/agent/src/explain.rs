//! `weft explain`: what would happen to a packet, and who decided.
//!
//! The packet walks through the plans of the nodes that it meets. This node's plan is the one in force; a peer's is
//! compiled here from the same facts, with what only the peer knows (host ends' names, its other links) filled in from what
//! it publishes.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use weft_compile::oracle::{Conversation, NodeView, Packet, Start, World, converse};
use weft_compile::{Compiler, Facts, Settings};
use weft_model::{
    Attachment, AttachmentId, Change, Fact, Family, Host, HostLink, IfName, Mac, Node, NodeName, ObjectKey,
    PodIdentity, Port, Protocol,
};
use weft_plan::{DnsName, Plan, Record};

use crate::core::{Core, SharedPlans};

/// What is asked: from where, to where.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Query {
    /// A pod (`namespace/name` or `name`), a node's name, or an address.
    pub from: String,
    /// The same, or a DNS name; then `:PORT`, `:PORT/udp` or nothing (an echo request).
    pub to: String,
    /// The family to prefer where both ends have both.
    #[serde(default)]
    pub family: Option<Family>,
    /// The source address that the sender puts in, its own or not; otherwise the one that its kernel chooses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<IpAddr>,
}

/// What is answered.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Explanation {
    /// The question.
    pub query: Query,
    /// `delivered`, `dropped`, `rejected`, `unreachable`, `looped`, or `unanswerable`.
    pub verdict: String,
    /// True where the packet arrives and its answer comes back.
    pub works: bool,
    /// For people.
    pub text: String,
    /// Both directions, hop by hop; nothing where the question has no answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub conversation: Option<Conversation>,
}

/// What the core knows, at one moment: answers take long in a large cluster, and the core has others waiting.
pub struct Known {
    node: NodeName,
    settings: Settings,
    facts: Facts,
    plans: SharedPlans,
}

impl Known {
    /// A copy, the plans apart, which are shared.
    pub fn of(core: &Core) -> Self {
        Self {
            node: core.node().clone(),
            settings: core.compiler().settings().clone(),
            facts: core.facts().clone(),
            plans: core.plans().clone(),
        }
    }
}

/// Answers many questions over one view of the cluster.
pub fn explain(known: &Known, queries: &[Query]) -> Vec<Explanation> {
    let facts = &known.facts;
    let peers: Vec<(NodeName, Plan, Host)> = involved(known, queries)
        .into_iter()
        .map(|node| (node.name.clone(), peer_plan(&known.settings, facts, node), peer_host(node)))
        .collect();
    let own = known.plans.kernel.read().unwrap_or_else(std::sync::PoisonError::into_inner);
    let views = std::iter::once(NodeView { name: known.node.clone(), plan: &own, host: facts.host() })
        .chain(peers.iter().map(|(name, plan, host)| NodeView { name: name.clone(), plan, host }));
    let world = World::new(views);
    queries.iter().map(|query| answer(known, &world, query)).collect()
}

fn answer(known: &Known, world: &World<'_>, query: &Query) -> Explanation {
    match resolve(known, world, query) {
        Ok((start, packet)) => {
            let conversation = converse(world, &start, packet);
            let verdict = serde_json::to_value(&conversation.forward.outcome)
                .ok()
                .and_then(|outcome| Some(outcome.get("verdict")?.as_str()?.to_owned()))
                .unwrap_or_default();
            let mut text = conversation.forward.to_string();
            if let Some(reply) = &conversation.reply {
                text.push_str(&format!("\nand back:\n{reply}"));
            }
            let works = conversation.works();
            Explanation { query: query.clone(), verdict, works, text, conversation: Some(conversation) }
        }
        Err(reason) => Explanation {
            query: query.clone(),
            verdict: "unanswerable".into(),
            works: false,
            text: reason,
            conversation: None,
        },
    }
}

/// Nodes other than this one that a question names, its pods are on, or its addresses belong to. With few nodes, all.
fn involved<'a>(known: &'a Known, queries: &[Query]) -> Vec<&'a Node> {
    const ALL_UP_TO: usize = 16;
    let facts = &known.facts;
    let others = || facts.nodes().filter(|node| node.name != known.node);
    let mut found: BTreeMap<&NodeName, &Node> = BTreeMap::new();
    if others().count() <= ALL_UP_TO {
        found.extend(others().map(|node| (&node.name, node)));
    } else {
        let ends = queries.iter().flat_map(|query| {
            let target = Target::from_str(&query.to).map(|target| target.place).ok();
            [Some(query.from.clone()), target].into_iter().flatten()
        });
        for end in ends {
            let pod_node = pod_key(&end).and_then(|key| facts.pod(&key)?.node.clone());
            let addresses = addresses_of(known, &end);
            let owns = |node: &Node| {
                addresses.iter().any(|ip| {
                    node.addresses.iter().any(|a| a.ip == *ip)
                        || node.pod_cidrs.iter().any(|b| b.cidr.contains(*ip))
                })
            };
            found.extend(
                others()
                    .filter(|node| {
                        node.name.as_str() == end || pod_node.as_ref() == Some(&node.name) || owns(node)
                    })
                    .map(|node| (&node.name, node)),
            );
        }
    }
    found.into_values().collect()
}

/// A peer's plan from what this node knows.
fn peer_plan(own: &Settings, facts: &Facts, node: &Node) -> Plan {
    let settings = Settings { node: node.name.clone(), ..own.clone() };
    let mut compiler = Compiler::new(settings);
    let mut set = |fact: Fact| {
        compiler.apply(Change::set(fact));
    };
    facts.networks().cloned().map(Fact::Network).for_each(&mut set);
    facts.service_cidrs().cloned().map(Fact::ServiceCidr).for_each(&mut set);
    facts.nodes().cloned().map(Fact::Node).for_each(&mut set);
    set(Fact::Host(peer_host(node)));
    let its_pods = facts.pods().filter(|pod| pod.node.as_ref() == Some(&node.name) && !pod.host_network);
    for pod in its_pods.filter(|pod| !pod.ips.is_empty() && !pod.finished) {
        set(Fact::Attachment(guessed_attachment(pod)));
    }
    let mut plan = Plan::default();
    compiler.flush(&mut plan);
    plan
}

fn guessed_attachment(pod: &weft_model::Pod) -> Attachment {
    let container = format!("{}.{}", pod.key.namespace, pod.key.name);
    // `eth0` is a valid name, so the fallback is never taken.
    let ifname = IfName::new("eth0").unwrap_or_else(|_| IfName::loopback());
    Attachment {
        mac: Mac::derived(&container),
        id: AttachmentId { container: container.into(), ifname },
        network: pod.network.clone(),
        pod: Some(PodIdentity { key: pod.key.clone(), uid: pod.uid.clone() }),
        addresses: pod.ips.clone(),
        mtu: None,
        host_ports: pod.host_ports.to_vec(),
        netns: String::new(),
    }
}

/// A peer's links as far as its published addresses tell.
fn peer_host(node: &Node) -> Host {
    let full = |address: &weft_model::NodeAddress| {
        let bits = address.prefix.unwrap_or_else(|| Family::of(address.ip).bits());
        IpNet::new(address.ip, bits).unwrap_or_else(|_| IpNet::from(address.ip))
    };
    let addresses: Vec<IpNet> = node.addresses.iter().map(full).collect();
    let name = IfName::new("uplink").unwrap_or_else(|_| IfName::loopback());
    Host {
        links: vec![HostLink { name, mtu: 1500, router_advertisements: false, addresses }],
        ..Host::default()
    }
}

/// The far end of a question.
struct Target {
    place: String,
    port: Option<(Protocol, Port)>,
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (rest, protocol) = match text.rsplit_once('/') {
            Some((rest, name @ ("tcp" | "udp" | "sctp"))) => {
                (rest, name.parse().map_err(|e| format!("{e}"))?)
            }
            _ => (text, Protocol::Tcp),
        };
        // An IPv6 address holds colons itself: with a port it stands in brackets.
        if let Some(inner) = rest.strip_prefix('[') {
            let (address, after) =
                inner.split_once(']').ok_or_else(|| format!("{text:?} lacks a closing bracket"))?;
            let port = after.strip_prefix(':').map(parse_port).transpose()?;
            return Ok(Self { place: address.to_owned(), port: port.map(|port| (protocol, port)) });
        }
        match rest.rsplit_once(':') {
            Some((place, port)) if !place.contains(':') => {
                Ok(Self { place: place.to_owned(), port: Some((protocol, parse_port(port)?)) })
            }
            _ => Ok(Self { place: rest.to_owned(), port: None }),
        }
    }
}

fn parse_port(text: &str) -> Result<Port, String> {
    let number: u32 =
        text.parse().map_err(|_| format!("{text:?} is no port; write a number from 1 to 65535"))?;
    Port::new(number).map_err(|error| error.to_string())
}

fn pod_key(text: &str) -> Option<ObjectKey> {
    let (namespace, name) = text.split_once('/').unwrap_or(("default", text));
    ObjectKey::new(namespace, name).ok()
}

/// Addresses that a person may mean: an address itself, a pod's, a node's, or a DNS name's.
fn addresses_of(known: &Known, text: &str) -> Vec<IpAddr> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return vec![address];
    }
    if let Some(pod) = pod_key(text).and_then(|key| known.facts.pod(&key)) {
        return pod.ips.clone();
    }
    if let Some(attachment) =
        known.facts.attachments().find(|a| a.owner() == text || *a.id.container == *text)
    {
        return attachment.addresses.clone();
    }
    if let Some(node) = NodeName::new(text).ok().and_then(|name| known.facts.node(&name)) {
        return node.addresses.iter().map(|a| a.ip).collect();
    }
    let zone = &known.settings.dns.zone;
    let names = known.plans.names.read().unwrap_or_else(std::sync::PoisonError::into_inner);
    let candidates = ["", ".default.svc", ".svc", "."].map(|suffix| match suffix {
        "" => DnsName::new(text),
        "." => zone.child(text),
        suffix => zone.child(format!("{text}{suffix}")),
    });
    candidates
        .iter()
        .filter_map(|name| names.names.get(name))
        .flat_map(|row| row.records.iter())
        .filter_map(|record| match record {
            Record::A(a) => Some(IpAddr::V4(*a)),
            Record::Aaaa(a) => Some(IpAddr::V6(*a)),
            _ => None,
        })
        .collect()
}

fn resolve(known: &Known, world: &World<'_>, query: &Query) -> Result<(Start, Packet), String> {
    let target = Target::from_str(&query.to)?;
    let unknown = |text: &str| format!("{text:?} is no pod, node, address or name that this node knows");
    let (sources, destinations) = (addresses_of(known, &query.from), addresses_of(known, &target.place));
    if sources.is_empty() {
        return Err(unknown(&query.from));
    }
    if destinations.is_empty() {
        return Err(unknown(&target.place));
    }
    let families: Vec<Family> = query.family.map_or_else(|| Family::ALL.to_vec(), |family| vec![family]);
    let of = |list: &[IpAddr], family: Family| list.iter().copied().find(|ip| Family::of(*ip) == family);
    let (source, destination) = families
        .into_iter()
        .find_map(|family| Some((of(&sources, family)?, of(&destinations, family)?)))
        .ok_or_else(|| format!("{} and {} have no address of one family", query.from, target.place))?;
    let packet = match target.port {
        Some((protocol, port)) => Packet::to(protocol, destination, port.get()),
        None => Packet::ping(destination),
    };
    if let Some(pod) = world.pod_at(source) {
        return Ok((pod.start(), packet.from(query.source.unwrap_or(source))));
    }
    if let Some(node) = world.node_at(source) {
        let packet = query.source.map_or(packet, |source| packet.from(source));
        return Ok((Start::Node { node: node.clone() }, packet));
    }
    let entry = world.node_at(destination).cloned().or_else(|| Some(world.pod_at(destination)?.node));
    let entry = entry.unwrap_or_else(|| known.node.clone());
    Ok((Start::Outside { node: entry, link: None }, packet.from(query.source.unwrap_or(source))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_read_as_people_write_them() {
        let check = |text: &str, place: &str, port: Option<(Protocol, u16)>| {
            let target = Target::from_str(text).unwrap();
            assert_eq!(
                (target.place.as_str(), target.port.map(|(a, b)| (a, b.get()))),
                (place, port),
                "{text}"
            );
        };
        check("web:80", "web", Some((Protocol::Tcp, 80)));
        check("shop/web-0:53/udp", "shop/web-0", Some((Protocol::Udp, 53)));
        check("10.0.0.1", "10.0.0.1", None);
        check("[fd00::1]:8080", "fd00::1", Some((Protocol::Tcp, 8080)));
        check("fd00::1", "fd00::1", None);
        check("shop/web-0", "shop/web-0", None);
        assert!(Target::from_str("web:0").is_err());
        assert!(Target::from_str("web:x").is_err());
    }

    fn node(name: &str, last: u8) -> Node {
        let mut node = Node::named(NodeName::new(name).unwrap());
        let ip = IpAddr::from([192, 0, 2, last]);
        node.addresses = vec![weft_model::NodeAddress { ip, prefix: Some(24) }];
        let cidr = format!("10.244.{last}.0/24").parse().unwrap();
        node.pod_cidrs = vec![weft_model::NodeCidr { network: weft_model::NetworkName::ordinary(), cidr }];
        node
    }

    #[test]
    fn a_mapped_port_of_another_node_is_known_here() {
        let mut compiler = Compiler::new(Settings::new(NodeName::new("n1").unwrap()));
        let (here, there) = (node("n1", 1), node("n2", 2));
        let mut web = weft_model::Pod::named(ObjectKey::new("default", "web").unwrap());
        web.node = Some(there.name.clone());
        web.ips = vec!["10.244.2.5".parse().unwrap()];
        web.host_ports = Box::new([weft_model::HostPort {
            host_ip: None,
            host_port: Port::new(8080).unwrap(),
            container_port: Port::new(80).unwrap(),
            protocol: Protocol::Tcp,
        }]);
        let host = Fact::Host(peer_host(&here));
        for fact in [host, Fact::Node(here), Fact::Node(there), Fact::Pod(web)] {
            compiler.apply(Change::set(fact));
        }
        let plans = SharedPlans::default();
        compiler.flush(&mut plans.kernel.write().unwrap());
        let known = Known {
            node: NodeName::new("n1").unwrap(),
            settings: compiler.settings().clone(),
            facts: compiler.facts().clone(),
            plans,
        };
        let ask = |to: &str| {
            let query = Query { from: "n1".into(), to: to.into(), family: None, source: None };
            explain(&known, &[query]).remove(0)
        };
        let mapped = ask("192.0.2.2:8080");
        assert!(mapped.works && mapped.text.contains("10.244.2.5"), "{}", mapped.text);
        let other = ask("192.0.2.2:8081");
        assert!(!other.text.contains("10.244.2.5"), "{}", other.text);
    }
}
