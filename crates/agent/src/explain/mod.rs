//! `weft explain`: what would happen to a packet, and who decided.
//!
//! The packet walks through the plans of the nodes that it meets. This node's plan is the one in force; a peer's is
//! compiled here from the same facts, with what only the peer knows (host ends' names, its other links) filled in from what
//! it publishes.

mod ends;
mod kernels;
mod peers;

use std::net::{IpAddr, Ipv4Addr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use weft_compile::oracle::{Conversation, NodeView, Packet, Start, World, converse_with, explore};
use weft_compile::rules::services::asked;
use weft_compile::{Context, Facts, Settings};
use weft_model::{Attachment, Family, NodeName, ObjectKey, Pod, Port, Protocol};
use weft_plan::{DnsName, Record};

use crate::core::{Core, SharedPlans};

use ends::Luck;
pub use ends::{End, Endpoint, Endpoints};
pub use kernels::{Kernels, NodeKernel, PeerKernel};

/// Ways of a packet that are looked at where dice are thrown.
const MOST_WAYS: usize = 64;

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
    /// True where the packet arrives and its answer comes back, whatever dice say on its way: by each of the ways that
    /// were looked at, at most 64.
    pub works: bool,
    /// For people.
    pub text: String,
    /// Where the packet can end where dice are thrown on its way: each end once. `text` and `conversation` are of the first
    /// that fails, else of the first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ends: Vec<End>,
    /// The endpoints of the service that it met, and why each is used or isn't.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoints: Option<Endpoints>,
    /// What the kernels of the nodes on the way say, where they were to be asked; this node's first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub kernels: Vec<NodeKernel>,
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

/// Answers many questions over one view of the cluster; each hop with what its node's kernel says, where that is known.
pub fn explain(known: &Known, queries: &[Query], kernels: Option<&Kernels>) -> Vec<Explanation> {
    let facts = &known.facts;
    let peers = peers::peers(known, queries);
    let own = known.plans.kernel.read().unwrap_or_else(std::sync::PoisonError::into_inner);
    let views = std::iter::once(NodeView { name: known.node.clone(), plan: &own, host: facts.host() })
        .chain(peers.iter().map(|p| NodeView { name: p.name.clone(), plan: &p.plan, host: &p.host }));
    let world = World::new(views);
    let of_node = |node: &NodeName| match peers.iter().find(|peer| peer.name == *node) {
        Some(peer) => Context { settings: peer.compiler.settings(), facts: peer.compiler.facts() },
        None => Context { settings: &known.settings, facts },
    };
    queries.iter().map(|query| answer(known, &world, &of_node, kernels, query)).collect()
}

/// What is known as a node knows it.
type OfNode<'f, 'c> = &'f dyn Fn(&NodeName) -> Context<'c>;

fn answer(
    known: &Known,
    world: &World<'_>,
    of_node: OfNode<'_, '_>,
    kernels: Option<&Kernels>,
    query: &Query,
) -> Explanation {
    match resolve(known, world, query) {
        Ok((start, packet)) => {
            let mut ways = explore(MOST_WAYS, |dice| converse_with(world, &start, packet, dice));
            let ends = ends::ends(&ways);
            let luck = Luck::of(&ways);
            // There is always one, and one that fails tells more.
            let mut conversation = ways.swap_remove(luck.first_failing.unwrap_or(0));
            let kernels =
                kernels.map(|kernels| kernels.mark(&known.node, &mut conversation)).unwrap_or_default();
            let asked = asked(|node| of_node(node), &conversation.forward);
            let endpoints = asked.map(Endpoints::from);
            let verdict = serde_json::to_value(&conversation.forward.outcome)
                .ok()
                .and_then(|outcome| Some(outcome.get("verdict")?.as_str()?.to_owned()))
                .unwrap_or_default();
            let mut text = conversation.forward.to_string();
            if let Some(reply) = &conversation.reply {
                text.push_str(&format!("\nand back:\n{reply}"));
            }
            let shown = End { outcome: conversation.forward.outcome.clone(), works: conversation.works() };
            text.push_str(&ends::text(&ends, &shown, &luck, endpoints.as_ref()));
            let works = luck.first_failing.is_none();
            Explanation {
                query: query.clone(),
                verdict,
                works,
                text,
                ends,
                endpoints,
                kernels,
                conversation: Some(conversation),
            }
        }
        Err(reason) => Explanation {
            query: query.clone(),
            verdict: "unanswerable".into(),
            works: false,
            text: reason,
            ends: Vec::new(),
            endpoints: None,
            kernels: Vec::new(),
            conversation: None,
        },
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
    if let Some((port, name)) = text.split_once('/') {
        return Err(format!("{name:?} is no protocol; write {port}/tcp, {port}/udp or {port}/sctp"));
    }
    let number: u32 =
        text.parse().map_err(|_| format!("{text:?} is no port; write a number from 1 to 65535"))?;
    Port::new(number).map_err(|error| error.to_string())
}

fn pod_key(text: &str) -> Option<ObjectKey> {
    let (namespace, name) = text.split_once('/').unwrap_or(("default", text));
    ObjectKey::new(namespace, name).ok()
}

fn pod_of<'k>(known: &'k Known, text: &str) -> Option<&'k Pod> {
    pod_key(text).and_then(|key| known.facts.pod(&key))
}

/// Addresses that a person may mean: an address itself, a pod's, a node's, or a DNS name's.
fn addresses_of(known: &Known, text: &str) -> Vec<IpAddr> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return vec![address];
    }
    if let Some(pod) = pod_of(known, text).filter(|pod| !pod.ips.is_empty()) {
        return pod.ips.to_vec();
    }
    // Of a pod that has just come here the store doesn't tell yet, and people's manifests may be all that it tells.
    let key = pod_key(text);
    let is_meant = |a: &&Attachment| {
        a.owner() == text
            || *a.id.container == *text
            || key.is_some() && a.pod.as_ref().map(|pod| &pod.key) == key.as_ref()
    };
    if let Some(attachment) = known.facts.attachments().find(is_meant) {
        return attachment.addresses.clone();
    }
    // Pods on their node's network have its addresses, whoever writes that down.
    let host = pod_of(known, text).filter(|pod| pod.host_network).and_then(|pod| pod.node.clone());
    let named = host.or_else(|| NodeName::new(text).ok());
    if let Some(node) = named.and_then(|name| known.facts.node(&name)) {
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
    let unknown = |text: &str| match pod_of(known, text) {
        Some(pod) if pod.ips.is_empty() => format!("pod {} has no address yet", pod.key),
        _ => format!("{text:?} is no pod, node, address or name that this node knows"),
    };
    let (sources, destinations) = (addresses_of(known, &query.from), addresses_of(known, &target.place));
    if sources.is_empty() {
        return Err(match Target::from_str(&query.from) {
            Ok(Target { place, port: Some(_) }) if !addresses_of(known, &place).is_empty() => {
                format!("{:?}: where a packet comes from has no port; write {place}", query.from)
            }
            _ => unknown(&query.from),
        });
    }
    if destinations.is_empty() {
        return Err(unknown(&target.place));
    }
    let families: Vec<Family> = query.family.map_or_else(|| Family::ALL.to_vec(), |family| vec![family]);
    let of = |list: &[IpAddr], family: Family| list.iter().copied().find(|ip| Family::of(*ip) == family);
    let (source, destination) = families
        .into_iter()
        .find_map(|family| Some((of(&sources, family)?, of(&destinations, family)?)))
        .ok_or_else(|| match query.family {
            Some(family) => format!(
                "{} and {} don't both have an {family} address; leave -{} (family, in a matrix) out",
                query.from,
                target.place,
                if family == Family::V4 { 4 } else { 6 }
            ),
            None => format!("{} and {} have no address of one family", query.from, target.place),
        })?;
    if destination.is_multicast() || destination == IpAddr::V4(Ipv4Addr::BROADCAST) {
        return Err(format!(
            "{destination} is a multicast or broadcast address: what becomes of packets to many is not known here"
        ));
    }
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
    use weft_compile::Compiler;
    use weft_compile::oracle::KernelWord;
    use weft_model::{
        Change, EndpointPort, EndpointSlice, Fact, Network, Node, Service, ServicePort, SliceSource,
        TargetPort, TrafficPolicy,
    };
    use weft_plan::{KernelKey, RouteKey};

    use crate::message::Differing;

    use super::peers::peer_host;
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
        let error = Target::from_str("192.0.2.7:443/foo").err().unwrap();
        assert_eq!(error, "\"foo\" is no protocol; write 443/tcp, 443/udp or 443/sctp");
    }

    fn node(name: &str, last: u8) -> Node {
        let mut node = Node::named(NodeName::new(name).unwrap());
        let ip = IpAddr::from([192, 0, 2, last]);
        node.addresses = vec![weft_model::NodeAddress { ip, prefix: Some(24) }];
        let cidr = format!("10.244.{last}.0/24").parse().unwrap();
        node.pod_cidrs = vec![weft_model::NodeCidr { network: weft_model::NetworkName::ordinary(), cidr }];
        node
    }

    /// What `n1` knows of these facts and of `n1` and `n2`.
    fn known(facts: impl IntoIterator<Item = Fact>) -> Known {
        let mut compiler = Compiler::new(Settings::new(NodeName::new("n1").unwrap()));
        let (here, there) = (node("n1", 1), node("n2", 2));
        let network = Network { pod_cidrs: vec!["10.244.0.0/16".parse().unwrap()], ..Network::ordinary() };
        let own = [Fact::Network(network), Fact::Host(peer_host(&here)), Fact::Node(here), Fact::Node(there)];
        for fact in own.into_iter().chain(facts) {
            compiler.apply(Change::set(fact));
        }
        let plans = SharedPlans::default();
        compiler.flush(&mut plans.kernel.write().unwrap());
        Known {
            node: NodeName::new("n1").unwrap(),
            settings: compiler.settings().clone(),
            facts: compiler.facts().clone(),
            plans,
        }
    }

    fn ask(known: &Known, from: &str, to: &str) -> Explanation {
        let query = Query { from: from.into(), to: to.into(), family: None, source: None };
        explain(known, &[query], None).remove(0)
    }

    #[test]
    fn a_mapped_port_of_another_node_is_known_here() {
        let mut web = Pod::named(ObjectKey::new("default", "web").unwrap());
        web.node = Some(NodeName::new("n2").unwrap());
        web.ips.push("10.244.2.5".parse().unwrap());
        web.host_ports = Box::new([weft_model::HostPort {
            host_ip: None,
            host_port: Port::new(8080).unwrap(),
            container_port: Port::new(80).unwrap(),
            protocol: Protocol::Tcp,
        }]);
        let known = known([Fact::Pod(web)]);
        let mapped = ask(&known, "n1", "192.0.2.2:8080");
        assert!(mapped.works && mapped.text.contains("10.244.2.5"), "{}", mapped.text);
        let other = ask(&known, "n1", "192.0.2.2:8081");
        assert!(!other.text.contains("10.244.2.5"), "{}", other.text);
    }

    #[test]
    fn a_question_without_an_answer_says_why() {
        let mut waiting = Pod::named(ObjectKey::new("default", "waiting").unwrap());
        let mut web = waiting.clone();
        (web.key, web.node) = (ObjectKey::new("default", "web").unwrap(), NodeName::new("n1").ok());
        let mut placed = web.clone();
        placed.ips.push("10.244.1.5".parse().unwrap());
        // The store tells only what people wrote of it, and it is attached here.
        let attached = Fact::Attachment(peers::guessed_attachment(&placed));
        waiting.node = NodeName::new("n2").ok();
        let mut on_host = waiting.clone();
        (on_host.key, on_host.host_network) = (ObjectKey::new("default", "on-host").unwrap(), true);
        let known = known([Fact::Pod(web), Fact::Pod(waiting), Fact::Pod(on_host), attached]);
        let host = ask(&known, "web", "on-host");
        assert!(host.works && host.text.contains("192.0.2.2"), "{}", host.text);
        for name in ["web", "default/web"] {
            let explained = ask(&known, "n1", name);
            assert!(explained.works && explained.text.contains("10.244.1.5"), "{}", explained.text);
        }
        let check = |from: &str, to: &str, family, expected: &str| {
            let query = Query { from: from.into(), to: to.into(), family, source: None };
            let answer = explain(&known, &[query], None).remove(0);
            assert_eq!((answer.verdict.as_str(), answer.text.as_str()), ("unanswerable", expected));
        };
        check("web", "waiting:80", None, "pod default/waiting has no address yet");
        check("waiting", "web", None, "pod default/waiting has no address yet");
        check("web", "nope", None, "\"nope\" is no pod, node, address or name that this node knows");
        check("web:80", "n1", None, "\"web:80\": where a packet comes from has no port; write web");
        let family = "web and fd00::2 don't both have an IPv4 address; leave -4 (family, in a matrix) out";
        check("web", "[fd00::2]", Some(Family::V4), family);
        check("web", "[fd00::2]", None, "web and fd00::2 have no address of one family");
        for many in ["224.0.0.251", "255.255.255.255"] {
            let expected = format!(
                "{many} is a multicast or broadcast address: what becomes of packets to many is not known here"
            );
            check("web", many, None, &expected);
        }
    }

    /// A service at a cluster address and at the nodes' port 30080: a pod of each node is ready, one of `n2` isn't.
    fn services_and_pods() -> Vec<Fact> {
        let mut service = Service::named(ObjectKey::new("default", "web").unwrap());
        service.cluster_ips = vec!["10.96.0.10".parse().unwrap()];
        service.ports = vec![ServicePort {
            name: "".into(),
            protocol: Protocol::Tcp,
            port: Port::new(80).unwrap(),
            target: TargetPort::Number(Port::new(8080).unwrap()),
            node_port: Port::new(30080).ok(),
        }];
        service.external_policy = TrafficPolicy::Local;
        let endpoint = |at: &str, ip: &str, ready: bool| weft_model::Endpoint {
            addresses: vec![ip.parse().unwrap()],
            ready,
            serving: ready,
            terminating: false,
            hostname: None,
            node: Some(NodeName::new(at).unwrap()),
            zone: None,
            hint_zones: Vec::new(),
            hint_nodes: Vec::new(),
            pod: None,
        };
        let slice = EndpointSlice {
            key: ObjectKey::new("default", "web-abcde").unwrap(),
            service: Some(service.key.name.clone()),
            source: SliceSource::EndpointSlice,
            family: Family::V4,
            ports: [EndpointPort { name: "".into(), protocol: Protocol::Tcp, port: Port::new(8080).ok() }]
                .into(),
            endpoints: [
                endpoint("n1", "10.244.1.5", true),
                endpoint("n2", "10.244.2.5", true),
                endpoint("n2", "10.244.2.6", false),
            ]
            .into(),
        };
        let pods = [("n1", "a", "10.244.1.5"), ("n2", "b", "10.244.2.5"), ("n2", "c", "10.244.2.6")];
        let pods = pods.map(|(node, name, ip)| {
            let mut pod = Pod::named(ObjectKey::new("default", name).unwrap());
            pod.node = Some(NodeName::new(node).unwrap());
            pod.ips.push(ip.parse().unwrap());
            pod
        });
        let here = Fact::Attachment(peers::guessed_attachment(&pods[0]));
        let facts = [Fact::Service(service), Fact::EndpointSlice(slice), here];
        facts.into_iter().chain(pods.map(Fact::Pod)).collect()
    }

    /// The part of an explanation that is about services.
    fn about_services(explanation: &Explanation) -> &str {
        let words = ["chosen at random", "endpoints of service"];
        let at = words.iter().filter_map(|word| explanation.text.find(word)).min();
        at.map_or("", |at| &explanation.text[at..])
    }

    #[test]
    fn endpoints_are_named_with_their_slice_and_why() {
        let known = known(services_and_pods());
        let all = ask(&known, "n1", "10.96.0.10:80");

        let expected = [
            "endpoints of service default/web as n1 sees them:",
            "  10.244.1.5:8080 [endpointslice default/web-abcde] used",
            "  10.244.2.5:8080 [endpointslice default/web-abcde] used",
            "  10.244.2.6:8080 [endpointslice default/web-abcde] not ready",
        ];
        assert!(about_services(&all).ends_with(&expected.join("\n")), "{}", all.text);
        let other = "one of 2, the others:\n  delivered to pod default/b on n2 ";
        assert!(about_services(&all).contains(other), "{}", all.text);
        assert!(all.ends.len() == 2 && all.ends.iter().all(|end| end.works), "{}", all.text);
        // One of them can't answer: by luck it works, and that is no "yes".
        let fewer = services_and_pods().into_iter().filter(|fact| !matches!(fact, Fact::Attachment(_)));
        let half = ask(&self::known(fewer), "n1", "10.96.0.10:80");
        assert!(!half.works && half.ends.iter().any(|end| end.works), "{}", half.text);
        assert!(half.text.contains("1 of 2 ways that it can take work"), "{}", half.text);
        assert_ne!(half.verdict, "delivered", "{}", half.text);
        // Another node's port, which is asked from outside of that node.
        let local = ask(&known, "n1", "192.0.2.2:30080");
        assert!(local.works, "{}", local.text);
        let expected = [
            "endpoints of service default/web as n2 sees them:",
            "  10.244.1.5:8080 [endpointslice default/web-abcde] on another node, and the traffic policy is Local",
            "  10.244.2.5:8080 [endpointslice default/web-abcde] used",
            "  10.244.2.6:8080 [endpointslice default/web-abcde] not ready",
        ];
        assert_eq!(about_services(&local), expected.join("\n"));
        assert!(local.ends.is_empty());
        let none = ask(&known, "n1", "192.0.2.2:443");
        assert!(about_services(&none).is_empty() && none.endpoints.is_none(), "{}", none.text);
    }
    #[test]
    fn each_hop_says_whether_its_kernel_agrees() {
        let known = known(services_and_pods());
        let ask = |own: &[&str], peers: &[(&str, &[&str])]| {
            let own = own.iter().map(|block| {
                let destination = block.parse().unwrap();
                let key = KernelKey::Route(RouteKey { table: 254, destination, metric: 0 });
                Differing { key, lines: vec![format!("+ route {block}")] }
            });
            let peers = peers.iter().map(|(node, lines)| PeerKernel {
                node: NodeName::new(node).unwrap(),
                differences: lines.iter().map(|line| (*line).to_owned()).collect(),
            });
            let kernels = Kernels::new(own.collect(), peers.collect());
            let query = Query { from: "a".into(), to: "b:80".into(), family: None, source: None };
            explain(&known, &[query], Some(&kernels)).remove(0)
        };
        let signs = |explanation: &Explanation| {
            let Some(conversation) = &explanation.conversation else { return String::new() };
            let hops = conversation.forward.hops.iter();
            hops.filter_map(|hop| hop.kernel.as_ref()).map(KernelWord::sign).collect::<String>()
        };
        let words = |explanation: &Explanation| -> Vec<String> {
            let said = explanation.kernels.iter();
            said.map(|kernel| format!("{} {}", kernel.word.sign(), kernel.node)).collect()
        };
        let check = |own: &[&str], peers: &[(&str, &[&str])], expected: &str, nodes: [&str; 2]| {
            let explanation = ask(own, peers);
            let mut met: Vec<char> = signs(&explanation).chars().collect();
            met.dedup();
            assert_eq!(met.into_iter().collect::<String>(), expected, "{}", explanation.text);
            assert_eq!(words(&explanation), nodes);
            explanation.text
        };
        check(&[], &[], "=?", ["= n1", "? n2"]);
        check(&[], &[("n2", &[])], "=", ["= n1", "= n2"]);
        check(&[], &[("n2", &["+ x"]), ("n3", &["+ y"])], "=~", ["= n1", "! n2"]);
        // A row that the way there asks for, and one that it doesn't.
        let text = check(&["10.244.2.0/24"], &[("n2", &[])], "=!=", ["! n1", "= n2"]);
        assert!(text.contains("\n      + route 10.244.2.0/24\n"), "{text}");
        check(&["10.244.9.0/24"], &[("n2", &[])], "=", ["! n1", "= n2"]);
    }
}
