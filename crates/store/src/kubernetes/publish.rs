//! What a node writes on its own Node object: annotations, and the condition that its network is there.
//!
//! What always holds: only what differs is written, and only fields that are Weft's; nothing is created. What other
//! writers have on the object stays theirs. Of the one condition that others write as well, what a network says that leaves is turned over at
//! once, and what anybody else says twice at most: a cloud says of each new node that it has no route yet, and leaves it to the network
//! to take that back; who goes on saying it means it.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::SystemTime;

use hyper::{Method, StatusCode};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use weft_model::time::rfc3339;
use weft_model::{Cidr, NetworkName, NodeName};

use super::client::{Ask, Client, Failure};
use super::time::parse_timestamp;
use crate::object::{ADDRESSES_ANNOTATION, POD_CIDRS_ANNOTATION, VTEP_MAC_ANNOTATION, flannel};
use crate::store::{Forgotten, PublishedNode};

/// By whom fields are, as the server keeps it.
const MANAGER: &str = "fieldManager=weft";

/// The condition that keeps pods off nodes whose network isn't there.
const CONDITION: &str = "NetworkUnavailable";

/// The condition's reasons, by which ours is told from a cloud's.
const UP: &str = "WeftIsUp";
const NOT_UP: &str = "WeftIsNotUpYet";

/// How the reasons of other networks begin (`CalicoIsDown`, `FlannelIsUp`): where Weft works, they have left.
const NETWORKS: [&str; 4] = ["Calico", "Cilium", "Flannel", "Weave"];

/// Annotation: which machine is the node ([`super::place`]).
pub(super) const MACHINE_ANNOTATION: &str = "weft.dev/machine";

/// How often somebody else's word is turned over.
pub(super) const TURNS: u32 = 2;

/// What came of announcing that a network is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Announced {
    /// It is said, or there is no Node.
    Said,
    /// The contrary had been said by somebody who is neither Weft nor a network that leaves.
    TurnedOver,
    /// The contrary is said, for this reason, and was left.
    Left(String),
}

/// A Node, as far as its writer has to know it.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct NodeObject {
    pub metadata: NodeMeta,
    pub spec: NodeSpec,
    pub status: NodeStatus,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct NodeMeta {
    pub uid: String,
    resource_version: String,
    annotations: BTreeMap<String, String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct NodeSpec {
    #[serde(rename = "podCIDRs")]
    pub pod_cidrs: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct NodeStatus {
    conditions: Vec<Condition>,
    addresses: Vec<Address>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Address {
    r#type: String,
    address: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Condition {
    r#type: String,
    status: String,
    reason: String,
    message: String,
    last_transition_time: String,
}

impl Condition {
    /// It is Weft's, of an earlier boot of the machine.
    fn is_outdated(&self) -> bool {
        self.reason == UP && self.message != up_message()
    }

    /// Somebody else's than Weft's, and no network's.
    fn is_foreign(&self) -> bool {
        let is_networks = NETWORKS.iter().any(|network| self.reason.starts_with(network));
        !is_networks && ![UP, NOT_UP].contains(&self.reason.as_str())
    }
}

/// What the condition says, with the boot in which it holds: a network doesn't outlive one.
fn up_message() -> String {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    format!("Weft has set this node's network up (boot {})", boot.trim())
}

fn path(node: &NodeName) -> String {
    format!("/api/v1/nodes/{node}")
}

impl NodeObject {
    pub fn annotation(&self, key: &str) -> Option<&str> {
        self.metadata.annotations.get(key).map(String::as_str)
    }

    /// The addresses by which the cluster knows the node.
    pub fn registered(&self) -> Vec<IpAddr> {
        let internal = self.status.addresses.iter().filter(|address| address.r#type == "InternalIP");
        internal.filter_map(|address| address.address.parse().ok()).collect()
    }

    /// Since when the cluster has heard nothing of the node's kubelet; nothing while it does.
    pub fn unheard_since(&self) -> Option<SystemTime> {
        let ready = self.status.conditions.iter().find(|c| c.r#type == "Ready")?;
        parse_timestamp(&ready.last_transition_time).filter(|_| ready.status == "Unknown")
    }
}

/// The node's object; `None` where there is none.
pub(super) async fn read(client: &Client, node: &NodeName) -> Result<Option<NodeObject>, Failure> {
    let bytes = match client.whole(&Ask::get(path(node))).await {
        Err(failure) if failure.is(StatusCode::NOT_FOUND) => return Ok(None),
        answer => answer?,
    };
    let parsed = serde_json::from_slice(&bytes);
    parsed.map(Some).map_err(|error| Failure::Garbled(format!("node {node}: {error}")))
}

/// Makes a node's own facts annotations of its object.
pub(super) async fn publish(client: &Client, said: &PublishedNode) -> Result<(), Failure> {
    let Some(there) = read(client, &said.name).await? else {
        return Err(Failure::Lost(
            "the cluster has no such Node yet: the kubelet registers it; is `node` its name?".into(),
        ));
    };
    let wanted = annotations(said, &there.spec.pod_cidrs);
    let to_flannel = said.flannel.as_ref().map(|words| flannel::words(said, words)).unwrap_or_default();
    annotate(client, &said.name, &there, &wanted, &to_flannel).await?;
    if there.status.conditions.iter().any(|c| c.r#type == CONDITION && !c.is_outdated()) {
        return Ok(());
    }
    // A node that is new to Weft, or that was started anew: pods are kept off until its network is announced.
    set_condition(client, &said.name, condition("True", NOT_UP, "Weft is setting this node's network up"))
        .await
}

/// The annotations that say it all. Blocks that the object has in its own field aren't said twice.
fn annotations(said: &PublishedNode, given: &[String]) -> BTreeMap<&'static str, String> {
    let mut wanted = BTreeMap::new();
    let addresses = said.addresses.iter().map(|a| match a.prefix {
        Some(prefix) => format!("{}/{prefix}", a.ip),
        None => a.ip.to_string(),
    });
    wanted.insert(ADDRESSES_ANNOTATION, addresses.collect::<Vec<_>>().join(","));
    if let Some(mac) = said.vtep_mac {
        wanted.insert(VTEP_MAC_ANNOTATION, mac.to_string());
    }
    let is_given = |c: &&weft_model::NodeCidr| {
        c.network == NetworkName::ordinary() && given.iter().any(|text| text.parse() == Ok(c.cidr))
    };
    let own = said.pod_cidrs.iter().filter(|c| !is_given(c));
    let own: Vec<String> = own.map(|c| format!("{}={}", c.network, c.cidr)).collect();
    if !own.is_empty() {
        wanted.insert(POD_CIDRS_ANNOTATION, own.join(","));
    }
    wanted.retain(|_, value| !value.is_empty());
    wanted
}

/// What has to be written so that of Weft's annotations these are there and no others; empty where they are.
fn difference(there: &NodeObject, wanted: &BTreeMap<&'static str, String>) -> Map<String, Value> {
    let ours = [ADDRESSES_ANNOTATION, VTEP_MAC_ANNOTATION, POD_CIDRS_ANNOTATION];
    let differs = |key: &&str| there.metadata.annotations.get(*key) != wanted.get(*key);
    let value = |key: &str| wanted.get(key).map_or(Value::Null, |value| value.as_str().into());
    ours.into_iter().filter(differs).map(|key| (key.to_owned(), value(key))).collect()
}

async fn annotate(
    client: &Client,
    node: &NodeName,
    there: &NodeObject,
    wanted: &BTreeMap<&'static str, String>,
    to_flannel: &BTreeMap<&'static str, String>,
) -> Result<(), Failure> {
    let own = difference(there, wanted);
    if !own.is_empty() {
        write_annotations(client, node, json!({ "annotations": own })).await?;
    }
    if flannel::difference(&there.metadata.annotations, to_flannel).is_empty() {
        return Ok(());
    }
    // These flannel writes too: only over what was read is written.
    let Some(there) = read(client, node).await? else { return Ok(()) };
    let shared = flannel::difference(&there.metadata.annotations, to_flannel);
    let version = there.metadata.resource_version;
    write_annotations(client, node, json!({ "annotations": shared, "resourceVersion": version })).await
}

async fn write_annotations(client: &Client, node: &NodeName, metadata: Value) -> Result<(), Failure> {
    let body = json!({ "metadata": metadata }).to_string();
    // By way of the status, where annotations can be written and `spec` can't: so nobody needs the right to taint nodes.
    let path = format!("{}/status?{MANAGER}", path(node));
    client.whole(&Ask::with(Method::PATCH, path, "application/merge-patch+json", body)).await.map(drop)
}

/// Says which machine is the node, over the version that was read.
pub(super) async fn write_machine(
    client: &Client,
    node: &NodeName,
    read: &NodeObject,
    text: &str,
) -> Result<(), Failure> {
    let version = &read.metadata.resource_version;
    let annotations = json!({ MACHINE_ANNOTATION: text });
    write_annotations(client, node, json!({ "annotations": annotations, "resourceVersion": version })).await
}

/// Takes blocks that the node has lost out of what its object says.
pub(super) async fn withdraw(
    client: &Client,
    node: &NodeName,
    is_lost: impl Fn(&NetworkName, &Cidr) -> bool,
) -> Result<(), Failure> {
    let Some(there) = read(client, node).await? else { return Ok(()) };
    let Some(said) = there.metadata.annotations.get(POD_CIDRS_ANNOTATION) else { return Ok(()) };
    let stays = |entry: &&str| {
        let parsed = entry
            .trim()
            .split_once('=')
            .and_then(|(network, cidr)| Some((NetworkName::new(network).ok()?, cidr.parse::<Cidr>().ok()?)));
        parsed.is_none_or(|(network, cidr)| !is_lost(&network, &cidr))
    };
    let left = said.split(',').filter(stays).collect::<Vec<_>>().join(",");
    if left == *said {
        return Ok(());
    }
    let value = if left.is_empty() { Value::Null } else { left.into() };
    write_annotations(client, node, json!({ "annotations": { POD_CIDRS_ANNOTATION: value } })).await
}

/// Says that the node's network is there, where nobody has said so. `turns` is how often somebody else's word may yet be turned over.
pub(super) async fn announce(client: &Client, node: &NodeName, turns: u32) -> Result<Announced, Failure> {
    let Some(there) = read(client, node).await? else { return Ok(Announced::Said) };
    let said = there.status.conditions.iter().find(|c| c.r#type == CONDITION);
    let contrary = said.filter(|c| c.status != "False");
    if said.is_some_and(|c| c.status == "False" && !c.is_outdated()) {
        return Ok(Announced::Said);
    }
    let foreign = contrary.filter(|c| c.is_foreign());
    if let Some(foreign) = foreign.filter(|_| turns == 0) {
        return Ok(Announced::Left(foreign.reason.clone()));
    }
    set_condition(client, node, condition("False", UP, &up_message())).await?;
    Ok(if foreign.is_some() { Announced::TurnedOver } else { Announced::Said })
}

fn condition(status: &str, reason: &str, message: &str) -> Value {
    let now = rfc3339(SystemTime::now());
    json!({
        "type": CONDITION,
        "status": status,
        "reason": reason,
        "message": message,
        "lastHeartbeatTime": now,
        "lastTransitionTime": now,
    })
}

async fn set_condition(client: &Client, node: &NodeName, condition: Value) -> Result<(), Failure> {
    let body = json!({ "status": { "conditions": [condition] } }).to_string();
    let path = format!("{}/status?{MANAGER}", path(node));
    // Conditions are merged by their type: nobody else's is touched.
    let content_type = "application/strategic-merge-patch+json";
    client.whole(&Ask::with(Method::PATCH, path, content_type, body)).await.map(drop)
}

/// Takes all of Weft's off a node's object, if there is one.
pub(super) async fn forget(client: &Client, node: &NodeName) -> Result<Forgotten, Failure> {
    let mut forgotten = Forgotten::Nothing;
    let Some(there) = read(client, node).await? else { return Ok(forgotten) };
    let ours = |c: &Condition| c.r#type == CONDITION && [UP, NOT_UP].contains(&c.reason.as_str());
    if there.status.conditions.iter().any(ours) {
        // The next network says for itself whether it is there.
        set_condition(client, node, json!({ "type": CONDITION, "$patch": "delete" })).await?;
        forgotten = Forgotten::Something;
    }
    if there.annotation(MACHINE_ANNOTATION).is_some() {
        write_annotations(client, node, json!({ "annotations": { MACHINE_ANNOTATION: null } })).await?;
        forgotten = Forgotten::Something;
    }
    if !difference(&there, &BTreeMap::new()).is_empty() {
        forgotten = Forgotten::Something;
    }
    match annotate(client, node, &there, &BTreeMap::new(), &BTreeMap::new()).await {
        Err(failure) if !failure.is(StatusCode::NOT_FOUND) => Err(failure),
        _ => Ok(forgotten),
    }
}

#[cfg(test)]
mod tests {
    use weft_model::{NodeAddress, NodeCidr};

    use super::*;

    fn said() -> PublishedNode {
        let cidr = |network: &str, cidr: &str| NodeCidr {
            network: NetworkName::new(network).unwrap(),
            cidr: cidr.parse().unwrap(),
        };
        PublishedNode {
            name: NodeName::new("n1").unwrap(),
            addresses: vec![NodeAddress { ip: "192.0.2.1".parse().unwrap(), prefix: Some(24) }],
            pod_cidrs: vec![cidr("default", "10.244.1.0/24"), cidr("blue", "10.9.0.0/24")],
            vtep_mac: None,
            flannel: None,
        }
    }

    #[test]
    fn only_what_differs_is_written_and_what_others_have_is_left_alone() {
        let check = |object: Value, expected: Value| {
            let there: NodeObject = serde_json::from_value(object.clone()).unwrap();
            let wanted = annotations(&said(), &there.spec.pod_cidrs);
            assert_eq!(Value::Object(difference(&there, &wanted)), expected, "{object}");
        };
        let all = json!({
            "weft.dev/addresses": "192.0.2.1/24",
            "weft.dev/pod-cidrs": "default=10.244.1.0/24,blue=10.9.0.0/24",
        });
        check(json!({}), all.clone());
        check(json!({ "metadata": { "annotations": all } }), json!({}));
        check(
            json!({
                "metadata": { "annotations": {
                    "weft.dev/addresses": "192.0.2.9/24",
                    "weft.dev/vtep-mac": "02:00:00:00:00:01",
                    "other.io/x": "y",
                } },
                "spec": { "podCIDRs": ["10.244.1.0/24"] },
            }),
            json!({
                "weft.dev/addresses": "192.0.2.1/24",
                "weft.dev/pod-cidrs": "blue=10.9.0.0/24",
                "weft.dev/vtep-mac": null,
            }),
        );
    }
}
