//! What a node writes on its own Node object: annotations, and the condition that its network is there.
//!
//! What always holds: only what differs is written, and only fields that are Weft's; nothing is created. What other
//! writers have on the object stays theirs.

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use hyper::{Method, StatusCode};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use weft_model::{NetworkName, NodeName};

use super::client::{Ask, Client, Failure};
use crate::object::{ADDRESSES_ANNOTATION, POD_CIDRS_ANNOTATION, VTEP_MAC_ANNOTATION};
use crate::store::PublishedNode;

/// By whom fields are, as the server keeps it.
const MANAGER: &str = "fieldManager=weft";

/// The condition that keeps pods off nodes whose network isn't there.
const CONDITION: &str = "NetworkUnavailable";

/// The condition's reason, by which ours is told from a cloud's.
const REASON: &str = "WeftIsUp";

/// A Node, as far as its writer has to know it.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct NodeObject {
    pub metadata: NodeMeta,
    pub spec: NodeSpec,
    pub status: NodeStatus,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct NodeMeta {
    pub uid: String,
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
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Condition {
    r#type: String,
    status: String,
    reason: String,
}

fn path(node: &NodeName) -> String {
    format!("/api/v1/nodes/{node}")
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
    annotate(client, &said.name, &there, &wanted).await
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
) -> Result<(), Failure> {
    let patch = difference(there, wanted);
    if patch.is_empty() {
        return Ok(());
    }
    let body = json!({ "metadata": { "annotations": patch } }).to_string();
    let path = format!("{}?{MANAGER}", path(node));
    client.whole(&Ask::with(Method::PATCH, path, "application/merge-patch+json", body)).await.map(drop)
}

/// Says that the node's network is there, where nobody has said so.
pub(super) async fn announce(client: &Client, node: &NodeName) -> Result<(), Failure> {
    let Some(there) = read(client, node).await? else { return Ok(()) };
    let is_said = |c: &Condition| c.r#type == CONDITION && c.status == "False";
    if there.status.conditions.iter().any(is_said) {
        return Ok(());
    }
    let now = timestamp(SystemTime::now());
    let condition = json!({
        "type": CONDITION,
        "status": "False",
        "reason": REASON,
        "message": "Weft has set this node's network up",
        "lastHeartbeatTime": now,
        "lastTransitionTime": now,
    });
    set_condition(client, node, condition).await
}

async fn set_condition(client: &Client, node: &NodeName, condition: Value) -> Result<(), Failure> {
    let body = json!({ "status": { "conditions": [condition] } }).to_string();
    let path = format!("{}/status?{MANAGER}", path(node));
    // Conditions are merged by their type: nobody else's is touched.
    let content_type = "application/strategic-merge-patch+json";
    client.whole(&Ask::with(Method::PATCH, path, content_type, body)).await.map(drop)
}

/// Takes all of Weft's off a node's object, if there is one.
pub(super) async fn forget(client: &Client, node: &NodeName) -> Result<(), Failure> {
    let Some(there) = read(client, node).await? else { return Ok(()) };
    let ours = |c: &Condition| c.r#type == CONDITION && c.reason == REASON;
    if there.status.conditions.iter().any(ours) {
        // The next network says for itself whether it is there.
        set_condition(client, node, json!({ "type": CONDITION, "$patch": "delete" })).await?;
    }
    match annotate(client, node, &there, &BTreeMap::new()).await {
        Err(failure) if failure.is(StatusCode::NOT_FOUND) => Ok(()),
        done => done,
    }
}

/// Seconds since 1970 in RFC 3339's form, in UTC.
fn timestamp(time: SystemTime) -> String {
    let seconds = time.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    // Days to a date of the Gregorian calendar, in eras of 400 years that begin in March.
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", rest / 3600, rest / 60 % 60, rest % 60)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

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

    #[test]
    fn times_are_written_as_the_server_reads_them() {
        let check = |seconds, expected: &str| {
            assert_eq!(timestamp(UNIX_EPOCH + Duration::from_secs(seconds)), expected);
        };
        check(0, "1970-01-01T00:00:00Z");
        check(951_827_696, "2000-02-29T12:34:56Z");
        check(1_772_323_199, "2026-02-28T23:59:59Z");
        check(4_107_542_400, "2100-03-01T00:00:00Z");
    }
}
