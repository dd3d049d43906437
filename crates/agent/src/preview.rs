//! What would change if the store held other manifests: `weft plan --folder`.
//!
//! What always holds: manifests as they are in force, without what nodes wrote beside them (a checkout of them), change nothing. What nodes
//! make known goes on being said, whatever the manifests are: it is taken from the facts as they are now, and merged with people's word as
//! stores merge it (`words/` of the stores).
//!
//! What is absent: reading the folder (`routes`), and what the agent itself would do then: ask for blocks, or let go of them.

use std::collections::BTreeSet;
use std::sync::PoisonError;

use weft_compile::{Compiler, Facts, Settings};
use weft_model::{Change, Fact, NetworkName, Node, NodeName, ObjectKey, Pod};
use weft_plan::Plan;
use weft_plan::diff::Difference;

use crate::core::{Core, SharedPlans};

/// Whom the manifests describe.
#[derive(Default)]
struct Described {
    nodes: BTreeSet<NodeName>,
    pods: BTreeSet<ObjectKey>,
}

/// Manifests that are not applied yet lack what nodes make known themselves. Nodes and pods that they don't describe stay as their nodes
/// publish them, and what they leave open of those that they do describe is as it is now.
fn with_what_nodes_say(mut changes: Vec<Change>, now: &Facts) -> Vec<Change> {
    let mut described = Described::default();
    for change in &mut changes {
        let Change::Set(fact) = change else { continue };
        match fact.as_mut() {
            Fact::Node(node) => {
                described.nodes.insert(node.name.clone());
                if let Some(known) = now.node(&node.name) {
                    complete_node(node, known);
                }
            }
            Fact::Pod(pod) => {
                described.pods.insert(pod.key.clone());
                if let Some(known) = now.pod(&pod.key).filter(|known| is_published_as(known, pod)) {
                    take_published(pod, known);
                }
            }
            _ => {}
        }
    }
    let nodes = now.nodes().filter(|node| !described.nodes.contains(&node.name));
    changes.extend(nodes.map(|node| Change::set(Fact::Node(node.clone()))));
    let pods = now.pods().filter(|pod| !described.pods.contains(&pod.key));
    changes.extend(pods.filter_map(as_published).map(|pod| Change::set(Fact::Pod(pod))));
    changes
}

/// What a node says of itself beside a manifest: its addresses' prefixes too, and blocks of networks in which people give it none.
fn complete_node(node: &mut Node, known: &Node) {
    // Nodes alone write prefixes. What a node has published counts, whatever people write of it.
    let is_published = known.addresses.iter().any(|address| address.prefix.is_some());
    if is_published {
        node.flannel = None;
    }
    if is_published || node.addresses.is_empty() {
        node.addresses.clone_from(&known.addresses);
    }
    let given: Vec<NetworkName> = node.pod_cidrs.iter().map(|block| block.network.clone()).collect();
    let published = known.pod_cidrs.iter().filter(|block| !given.contains(&block.network));
    node.pod_cidrs.extend(published.cloned());
    node.published_vtep_mac = node.published_vtep_mac.or(known.published_vtep_mac);
}

/// True where a node has published addresses of the pod that a manifest describes without any. Another uid is another pod that had
/// the name before; another node is where people no longer want it.
fn is_published_as(known: &Pod, wanted: &Pod) -> bool {
    wanted.ips.is_empty()
        && !known.ips.is_empty()
        && (wanted.uid.is_none() || known.uid.is_none() || wanted.uid == known.uid)
        && (wanted.node.is_none() || wanted.node == known.node)
}

/// What nodes say of a pod, and its readiness: of a pod without an address it can't be told from the manifest.
fn take_published(pod: &mut Pod, known: &Pod) {
    pod.ips.clone_from(&known.ips);
    pod.network.clone_from(&known.network);
    pod.host_ports.clone_from(&known.host_ports);
    pod.node.clone_from(&known.node);
    if pod.uid.is_none() {
        pod.uid.clone_from(&known.uid);
    }
    pod.ready = known.ready;
}

/// A pod as its node alone publishes it: without labels, and as ready as one can tell. Nothing for one that no node has published.
fn as_published(known: &Pod) -> Option<Pod> {
    if known.ips.is_empty() || known.node.is_none() || known.host_network || known.finished {
        return None;
    }
    let mut pod = Pod::named(known.key.clone());
    take_published(&mut pod, known);
    pod.ready = true;
    Some(pod)
}

/// What a preview starts from: this node's own facts, and the manifests with what nodes make known themselves.
pub struct Basis {
    settings: Settings,
    facts: Vec<Change>,
}

impl Basis {
    /// Of these manifests, and of what the core knows now.
    pub fn of(core: &Core, changes: Vec<Change>) -> Self {
        let own = core.facts();
        let attachments = own.attachments().cloned().map(Fact::Attachment);
        let mut facts: Vec<Change> =
            std::iter::once(Fact::Host(own.host().clone())).chain(attachments).map(Change::set).collect();
        facts.extend(with_what_nodes_say(changes, own));
        Self { settings: core.compiler().settings().clone(), facts }
    }
}

/// What would change if the store held these facts: a line a row, `+` for what comes and `-` for what goes.
pub fn preview(basis: Basis, plans: &SharedPlans) -> Vec<String> {
    let mut compiler = Compiler::new(basis.settings);
    for change in basis.facts {
        compiler.apply(change);
    }
    let mut to = Plan::default();
    compiler.flush(&mut to);
    let (kernel, health) = {
        let plan = plans.kernel.read().unwrap_or_else(PoisonError::into_inner);
        (plan.kernel.clone(), plan.health.clone())
    };
    let from = Plan {
        kernel,
        health,
        names: plans.names.read().unwrap_or_else(PoisonError::into_inner).names.clone(),
        ..Plan::default()
    };
    Difference::between(&from, &to).to_string().lines().map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use weft_model::{Labels, NodeAddress, NodeCidr};

    use super::*;

    fn node(name: &str, address: Option<&str>) -> Node {
        let mut node = Node::named(NodeName::new(name).unwrap());
        node.addresses =
            address.map(|ip| NodeAddress { ip: ip.parse().unwrap(), prefix: Some(24) }).into_iter().collect();
        node
    }

    #[test]
    fn a_preview_keeps_what_nodes_have_made_known() {
        let mut now = Compiler::new(Settings::new(NodeName::new("n1").unwrap()));
        for known in [node("n1", Some("192.0.2.1")), node("n2", Some("192.0.2.2"))] {
            now.apply(Change::set(Fact::Node(known)));
        }
        let check = |folder: Vec<Node>, expected: &[(&str, Option<&str>)]| {
            let changes = folder.into_iter().map(|node| Change::set(Fact::Node(node))).collect();
            let mut complete = with_what_nodes_say(changes, now.facts());
            complete.sort_by_key(Change::key);
            let expected: Vec<Change> =
                expected.iter().map(|(name, ip)| Change::set(Fact::Node(node(name, *ip)))).collect();
            assert_eq!(complete, expected);
        };
        let (one, two) = (("n1", Some("192.0.2.1")), ("n2", Some("192.0.2.2")));
        check(vec![], &[one, two]);
        check(vec![node("n2", None)], &[one, two]);
        check(vec![node("n2", Some("192.0.2.9")), node("n3", None)], &[one, two, ("n3", None)]);
        // Of a node that publishes nothing people say where it is.
        let mut silent = node("n2", Some("192.0.2.2"));
        silent.addresses[0].prefix = None;
        now.apply(Change::set(Fact::Node(silent)));
        let moved = vec![Change::set(Fact::Node(node("n2", Some("192.0.2.9"))))];
        assert!(with_what_nodes_say(moved.clone(), now.facts()).contains(&moved[0]));
    }

    #[test]
    fn a_preview_keeps_blocks_of_networks_in_which_a_manifest_gives_none() {
        let block = |network: &str, cidr: &str| NodeCidr {
            network: NetworkName::new(network).unwrap(),
            cidr: cidr.parse().unwrap(),
        };
        let mut known = node("n1", Some("192.0.2.1"));
        known.pod_cidrs = vec![block("default", "10.244.1.0/24"), block("red", "10.9.1.0/24")];
        let mut now = Compiler::new(Settings::new(NodeName::new("n1").unwrap()));
        now.apply(Change::set(Fact::Node(known.clone())));
        // As people write it: no prefix, and the blocks of the ordinary network.
        let mut manifest = node("n1", Some("192.0.2.1"));
        manifest.addresses[0].prefix = None;
        manifest.pod_cidrs = vec![block("default", "10.244.1.0/24")];
        let complete = with_what_nodes_say(vec![Change::set(Fact::Node(manifest))], now.facts());
        assert_eq!(complete, [Change::set(Fact::Node(known))]);
    }

    fn pod(name: &str, ip: Option<&str>) -> Pod {
        let mut pod = Pod::named(ObjectKey::new("default", name).unwrap());
        pod.node = Some(NodeName::new("n1").unwrap());
        pod.ips = ip.map(|ip| ip.parse().unwrap()).into_iter().collect();
        pod.ready = ip.is_some();
        pod
    }

    fn labelled(pod: Pod) -> Pod {
        Pod { labels: [("app", "web")].into_iter().collect::<Labels>(), ..pod }
    }

    #[test]
    fn a_preview_keeps_what_nodes_have_made_known_of_pods() {
        let known = labelled(Pod { uid: Some("one".into()), ..pod("web", Some("10.244.1.2")) });
        let elsewhere = Some(NodeName::new("n2").unwrap());
        let check = |known: &Pod, folder: Option<Pod>, expected: Option<Pod>| {
            let mut now = Compiler::new(Settings::new(NodeName::new("n1").unwrap()));
            now.apply(Change::set(Fact::Pod(known.clone())));
            let of = |pod: Option<Pod>| -> Vec<Change> {
                pod.map(|pod| Change::set(Fact::Pod(pod))).into_iter().collect()
            };
            assert_eq!(with_what_nodes_say(of(folder), now.facts()), of(expected));
        };
        // A manifest says neither node nor address, and no condition.
        let manifest = labelled(Pod { node: None, ..pod("web", None) });
        check(&known, Some(manifest.clone()), Some(known.clone()));
        let unready = Pod { ready: false, ..known.clone() };
        check(&unready, Some(manifest.clone()), Some(unready.clone()));
        // Of the pod that loses its manifest, its node goes on telling.
        check(&known, None, Some(Pod { labels: Labels::default(), ..known.clone() }));
        // What another pod of the name had, and a manifest's own word.
        for other in [
            Pod { uid: Some("two".into()), ..manifest.clone() },
            Pod { node: elsewhere.clone(), ..manifest.clone() },
            labelled(pod("web", Some("10.244.1.9"))),
        ] {
            check(&known, Some(other.clone()), Some(other));
        }
        // What no node publishes goes with its manifest.
        for unpublished in [
            pod("web", None),
            Pod { host_network: true, ..known.clone() },
            Pod { finished: true, ..known.clone() },
        ] {
            check(&unpublished, None, None);
        }
    }
}
