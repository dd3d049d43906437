//! Leases that are claims of blocks: what they say, and the requests that change them.
//!
//! What always holds: the name alone says which block a Lease claims, since the server makes no two of one name. A block has two names: where a
//! Lease is on its way out while its node relies on it, the node makes the other one before it lets go of this one. A change is
//! made to the version that was seen, or not at all. A Lease that is relied on has Weft's finalizer: when the cluster's garbage
//! collector removes it after its Node, it stays, with the time of its end, until somebody takes the finalizer off.
//!
//! What is absent: who claims what and when ([`super::claim`]).

use std::time::{Duration, SystemTime};

use hyper::{Method, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};
use weft_model::{Cidr, NetworkName, NodeName};

use super::client::{Ask, Client, Failure};
use super::time::parse_timestamp;
use crate::claiming::{Claimed, Standing};

/// Label of a claim: the network that its block is of.
const NETWORK: &str = "weft.dev/network";
/// Annotation of a claim: its block, for people.
const BLOCK: &str = "weft.dev/block";
/// Finalizer of a claim that its node relies on.
const RELIED_ON: &str = "weft.dev/relied-on";

/// Leases of a list (`coordination.k8s.io/v1`).
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct LeaseList {
    items: Vec<LeaseObject>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct LeaseObject {
    metadata: LeaseMeta,
    spec: LeaseSpec,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct LeaseMeta {
    name: String,
    resource_version: String,
    labels: std::collections::BTreeMap<String, String>,
    finalizers: Vec<String>,
    owner_references: Vec<Owner>,
    deletion_timestamp: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Owner {
    uid: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct LeaseSpec {
    holder_identity: String,
}

/// What the second of a block's names ends with.
const SECOND: &str = "-again";

/// Which of a block's names it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Naming {
    First,
    Second,
}

/// What a node has of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Held {
    /// It may rely on it.
    Firmly,
    /// Its claim is on its way out, and keeps the block from others as long as it does.
    Ending,
    Not,
}

/// Longer after 1970 than any clock says.
const NEVER: Duration = Duration::from_secs(1 << 40);

/// A claim that is there.
#[derive(Debug)]
pub(super) struct Lease {
    pub network: NetworkName,
    pub claim: Claimed,
    pub naming: Naming,
    /// Uid of the Node object that it belongs to; empty for none.
    pub owner: String,
    /// Since when it is on its way out.
    pub ended: Option<SystemTime>,
    name: String,
    version: String,
    finalizers: Vec<String>,
}

impl Lease {
    /// `None` for a Lease that is no claim of Weft's.
    fn read(object: LeaseObject) -> Option<Self> {
        let LeaseObject { metadata, spec } = object;
        let network = NetworkName::new(metadata.labels.get(NETWORK)?).ok()?;
        let (cidr, naming) = block_of(&network, &metadata.name)?;
        let is_relied_on = metadata.finalizers.iter().any(|f| f == RELIED_ON);
        let standing = if is_relied_on { Standing::Confirmed } else { Standing::Made };
        // A time that can't be read is no reason to give the block out: it is as if it were yet to come.
        let ended = metadata.deletion_timestamp;
        let ended = ended.map(|text| parse_timestamp(&text).unwrap_or(SystemTime::UNIX_EPOCH + NEVER));
        Some(Self {
            network,
            claim: Claimed { cidr, node: spec.holder_identity, standing },
            naming,
            owner: metadata.owner_references.into_iter().next().unwrap_or_default().uid,
            ended,
            name: metadata.name,
            version: metadata.resource_version,
            finalizers: metadata.finalizers,
        })
    }

    /// What the node has by it.
    fn held_by(&self, node: &NodeName) -> Held {
        let claim = &self.claim;
        match (claim.node == node.as_str() && claim.standing == Standing::Confirmed, self.ended) {
            (true, None) => Held::Firmly,
            (true, Some(_)) => Held::Ending,
            (false, _) => Held::Not,
        }
    }

    /// True where this node may rely on it.
    pub fn is_relied_on_by(&self, node: &NodeName) -> bool {
        self.held_by(node) == Held::Firmly
    }

    /// True where this node has relied on it, and it is on its way out.
    pub fn is_ending_for(&self, node: &NodeName) -> bool {
        self.held_by(node) == Held::Ending
    }
}

/// Whether a change was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Changed {
    Done,
    /// It is another version by now, or gone.
    Meanwhile,
}

fn changed(answer: Result<impl Sized, Failure>) -> Result<Changed, Failure> {
    match answer {
        Ok(_) => Ok(Changed::Done),
        Err(failure) if failure.is(StatusCode::CONFLICT) || failure.is(StatusCode::NOT_FOUND) => {
            Ok(Changed::Meanwhile)
        }
        Err(failure) => Err(failure),
    }
}

/// The Leases of one namespace.
#[derive(Clone, Copy)]
pub(super) struct Leases<'a> {
    pub client: &'a Client,
    pub namespace: &'a str,
}

impl Leases<'_> {
    pub fn path(&self) -> String {
        format!("/apis/coordination.k8s.io/v1/namespaces/{}/leases", self.namespace)
    }

    /// All claims, of one network or of all, and the server's time, where it says it. The server answers with what is true now, never
    /// from a cache.
    pub async fn list(
        &self,
        network: Option<&NetworkName>,
    ) -> Result<(Vec<Lease>, Option<SystemTime>), Failure> {
        let selector = match network {
            Some(network) => format!("weft.dev%2Fnetwork%3D{network}"),
            None => "weft.dev%2Fnetwork".to_owned(),
        };
        let ask = Ask::get(format!("{}?labelSelector={selector}", self.path()));
        let (bytes, date) = self.client.dated(&ask).await?;
        let list: LeaseList = serde_json::from_slice(&bytes)
            .map_err(|error| Failure::Garbled(format!("a list of leases: {error}")))?;
        let leases = list.items.into_iter().filter_map(Lease::read).collect();
        Ok((leases, date))
    }

    /// What a node has of one block.
    pub async fn held(&self, network: &NetworkName, cidr: Cidr, node: &NodeName) -> Result<Held, Failure> {
        let mut held = Held::Not;
        for naming in [Naming::First, Naming::Second] {
            let found = self.get(network, cidr, naming).await?;
            match found.map_or(Held::Not, |lease| lease.held_by(node)) {
                Held::Firmly => return Ok(Held::Firmly),
                Held::Ending => held = Held::Ending,
                Held::Not => {}
            }
        }
        Ok(held)
    }

    async fn get(&self, network: &NetworkName, cidr: Cidr, naming: Naming) -> Result<Option<Lease>, Failure> {
        Ok(self.object(network, cidr, naming).await?.and_then(Lease::read))
    }

    /// True where a name of a block's is taken by a Lease that is no claim.
    pub async fn is_foreign(
        &self,
        network: &NetworkName,
        (cidr, naming): (Cidr, Naming),
    ) -> Result<bool, Failure> {
        Ok(self.object(network, cidr, naming).await?.is_some_and(|object| Lease::read(object).is_none()))
    }

    async fn object(
        &self,
        network: &NetworkName,
        cidr: Cidr,
        naming: Naming,
    ) -> Result<Option<LeaseObject>, Failure> {
        let path = format!("{}/{}", self.path(), lease_name(network, cidr, naming));
        let bytes = match self.client.whole(&Ask::get(path)).await {
            Err(failure) if failure.is(StatusCode::NOT_FOUND) => return Ok(None),
            answer => answer?,
        };
        let object = serde_json::from_slice(&bytes)
            .map_err(|error| Failure::Garbled(format!("the lease of {cidr}: {error}")))?;
        Ok(Some(object))
    }

    /// Makes the claim's object, where none has its name.
    pub async fn create(
        &self,
        network: &NetworkName,
        (cidr, naming): (Cidr, Naming),
        node: &NodeName,
        owner: &str,
    ) -> Result<Changed, Failure> {
        let body = json!({
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {
                "name": lease_name(network, cidr, naming),
                "labels": { NETWORK: network },
                "annotations": { BLOCK: cidr },
                "ownerReferences": owners(node, owner),
            },
            "spec": { "holderIdentity": node },
        });
        changed(self.client.whole(&Ask::with(Method::POST, self.path(), JSON, body.to_string())).await)
    }

    /// Notes that the node relies on it, and that it belongs to the Node object of today: one of an earlier object of the
    /// name would be removed with that.
    pub async fn confirm(&self, lease: &Lease, node: &NodeName, owner: &str) -> Result<Changed, Failure> {
        let mut finalizers = lease.finalizers.clone();
        finalizers.push(RELIED_ON.to_owned());
        finalizers.dedup();
        let metadata = json!({ "finalizers": finalizers, "ownerReferences": owners(node, owner) });
        self.patch(lease, metadata).await
    }

    /// Notes that nobody relies on it any more: the server removes one that is on its way out.
    pub async fn release(&self, lease: &Lease) -> Result<Changed, Failure> {
        let left: Vec<&String> = lease.finalizers.iter().filter(|f| *f != RELIED_ON).collect();
        self.patch(lease, json!({ "finalizers": left })).await
    }

    async fn patch(&self, lease: &Lease, mut metadata: Value) -> Result<Changed, Failure> {
        metadata["resourceVersion"] = lease.version.as_str().into();
        let body = json!({ "metadata": metadata }).to_string();
        let path = format!("{}/{}", self.path(), lease.name);
        changed(
            self.client.whole(&Ask::with(Method::PATCH, path, "application/merge-patch+json", body)).await,
        )
    }

    /// Removes one that isn't relied on, where it is still the one that was seen.
    pub async fn remove(&self, lease: &Lease) -> Result<Changed, Failure> {
        let body = json!({
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "preconditions": { "resourceVersion": lease.version },
        });
        let path = format!("{}/{}", self.path(), lease.name);
        changed(self.client.whole(&Ask::with(Method::DELETE, path, JSON, body.to_string())).await)
    }
}

const JSON: &str = "application/json";

fn owners(node: &NodeName, uid: &str) -> Value {
    json!([{ "apiVersion": "v1", "kind": "Node", "name": node, "uid": uid }])
}

/// The name of a block's claim: `weft-default-10-244-1-0-24`, or with `-again` at its end. An IPv6 address is written in full.
fn lease_name(network: &NetworkName, cidr: Cidr, naming: Naming) -> String {
    let address = match cidr.first() {
        std::net::IpAddr::V4(ip) => ip.octets().map(|o| o.to_string()).join("-"),
        std::net::IpAddr::V6(ip) => ip.segments().map(|s| format!("{s:x}")).join("-"),
    };
    let end = match naming {
        Naming::First => "",
        Naming::Second => SECOND,
    };
    format!("weft-{network}-{address}-{}{end}", cidr.prefix())
}

/// The block that a claim's name says, and which of its names it is.
fn block_of(network: &NetworkName, name: &str) -> Option<(Cidr, Naming)> {
    let rest = name.strip_prefix(&format!("weft-{network}-"))?;
    let (rest, naming) = match rest.strip_suffix(SECOND) {
        Some(rest) => (rest, Naming::Second),
        None => (rest, Naming::First),
    };
    let parts: Vec<&str> = rest.split('-').collect();
    let (prefix, address) = parts.split_last()?;
    let address = match address.len() {
        4 => address.join("."),
        8 => address.join(":"),
        _ => return None,
    };
    Some((format!("{address}/{prefix}").parse().ok()?, naming))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claims_name_is_a_name_that_the_server_takes_and_says_the_block() {
        let check = |cidr: &str, naming: Naming, expected: &str| {
            let (network, cidr) = (NetworkName::ordinary(), cidr.parse().unwrap());
            assert_eq!(lease_name(&network, cidr, naming), expected);
            assert!(weft_model::ObjectName::new(expected).is_ok());
            assert_eq!(block_of(&network, expected), Some((cidr, naming)));
        };
        check("10.244.1.0/24", Naming::First, "weft-default-10-244-1-0-24");
        check("10.244.1.0/24", Naming::Second, "weft-default-10-244-1-0-24-again");
        check("fd00:244:0:1::/64", Naming::First, "weft-default-fd00-244-0-1-0-0-0-0-64");
        let strange = [
            "weft-default-10-244-1-24",
            "weft-blue-10-244-1-0-24",
            "weft-default-10-244-1-x-24",
            "weft-default-10-244-1-0-24-again-again",
            "",
        ];
        for name in strange {
            assert_eq!(block_of(&NetworkName::ordinary(), name), None, "{name}");
        }
    }
}
