//! Which node has which block of pod addresses, where no controller gives them out: one Lease object a block.
//!
//! What always holds: a Lease bears the name of its block, and the server makes no two of one name: whoever made it has the
//! block. A node that finds, after its claim, another's that overlaps, steps back and takes another block. A Lease belongs
//! to its Node's object: the cluster removes it after the Node, and nobody else takes it away.

use std::time::Duration;

use hyper::{Method, StatusCode};
use serde::Deserialize;
use serde_json::json;
use weft_model::{Cidr, Network, NetworkName, NodeName};

use super::client::{Ask, Client, Failure};
use super::publish::{self, NodeObject};
use crate::blocks::{lowest_free, share_of};
use crate::store::{Claim, StoreError};

/// Label of a claim: the network that its block is of.
const NETWORK: &str = "weft.dev/network";
/// Annotation of a claim: its block.
const BLOCK: &str = "weft.dev/block";

/// Leases of a list (`coordination.k8s.io/v1`).
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct LeaseList {
    items: Vec<Lease>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Lease {
    metadata: LeaseMeta,
    spec: LeaseSpec,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct LeaseMeta {
    name: String,
    resource_version: String,
    annotations: std::collections::BTreeMap<String, String>,
    owner_references: Vec<Owner>,
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

/// A claim that is there.
#[derive(Debug)]
struct Claimed {
    cidr: Cidr,
    node: String,
    name: String,
    version: String,
    /// Uid of the Node object that it belongs to; empty for none.
    owner: String,
}

/// Who claims, and where claims are.
pub(super) struct Claims<'a> {
    pub client: &'a Client,
    /// The namespace of the Leases.
    pub namespace: &'a str,
    pub node: &'a NodeName,
}

impl Claims<'_> {
    fn path(&self) -> String {
        format!("/apis/coordination.k8s.io/v1/namespaces/{}/leases", self.namespace)
    }

    fn failed(&self, failure: &Failure) -> StoreError {
        StoreError::Server {
            action: format!("cannot claim a block for node {} ({})", self.node, self.path()),
            reason: failure.to_string(),
        }
    }

    /// The blocks that the cluster has given to the node.
    pub async fn given(&self, network: &Network) -> Result<Claim, StoreError> {
        let there = self.object().await?.unwrap_or_default();
        let cidrs = given(&there);
        if !network.pod_cidrs.is_empty() && cidrs.is_empty() {
            return Err(StoreError::Server {
                action: format!("node {} has no spec.podCIDRs yet", self.node),
                reason: "the cluster's controller gives them (kube-controller-manager --allocate-node-cidrs); \
                         where there is none, set `allocate: true` for the network in store.kubernetes.networks"
                    .into(),
            });
        }
        Ok(Claim { cidrs, unfit: Vec::new() })
    }

    /// The node's blocks, those that are given and those that it claims.
    pub async fn claim(&self, network: &Network, in_use: &[Cidr]) -> Result<Claim, StoreError> {
        let mut result = Claim::default();
        if network.pod_cidrs.is_empty() {
            return Ok(result);
        }
        let object = self.object().await?;
        let owner = object.as_ref().map_or("", |node| &node.metadata.uid);
        let mut claims = self.list(Some(&network.name)).await.map_err(|e| self.failed(&e))?;
        let given = match network.name == NetworkName::ordinary() {
            true => object.as_ref().map(given).unwrap_or_default(),
            false => Vec::new(),
        };
        for block in &network.pod_cidrs {
            if let Some(cidr) = given.iter().find(|c| c.family() == block.family()) {
                result.cidrs.push(*cidr);
                continue;
            }
            let share = share_of(network, block.family());
            let fits = |c: &&Claimed| {
                c.node == self.node.as_str()
                    && c.cidr.prefix() == share
                    && block.net().contains(&c.cidr.net())
            };
            let cidr = match claims.iter().find(fits) {
                Some(own) => {
                    self.adopt(own, owner).await?;
                    own.cidr
                }
                None => self.take(network, *block, owner, in_use, &mut claims).await?,
            };
            result.cidrs.push(cidr);
        }
        let unfit = claims.iter().filter(|c| c.node == self.node.as_str());
        result.unfit = unfit.map(|c| c.cidr).filter(|cidr| !result.cidrs.contains(cidr)).collect();
        Ok(result)
    }

    async fn object(&self) -> Result<Option<NodeObject>, StoreError> {
        publish::read(self.client, self.node).await.map_err(|e| self.failed(&e))
    }

    /// Takes the lowest free share of `block`.
    async fn take(
        &self,
        network: &Network,
        block: Cidr,
        owner: &str,
        in_use: &[Cidr],
        claims: &mut Vec<Claimed>,
    ) -> Result<Cidr, StoreError> {
        let share = share_of(network, block.family());
        let mut steps_back = 0;
        loop {
            let busy: Vec<Cidr> = claims.iter().map(|c| c.cidr).chain(in_use.iter().copied()).collect();
            let Some(cidr) = lowest_free(block, share, &busy) else {
                return Err(StoreError::BlocksExhausted {
                    network: network.name.to_string(),
                    node: self.node.clone(),
                    block,
                    taken: busy.iter().filter(|c| c.overlaps(&block)).count(),
                });
            };
            let is_ours = self.create(&network.name, cidr, owner).await.map_err(|e| self.failed(&e))?;
            *claims = self.list(Some(&network.name)).await.map_err(|e| self.failed(&e))?;
            // Where the answer to a creation got lost, the next attempt finds the claim as its own.
            let holds = claims.iter().any(|c| c.cidr == cidr && c.node == self.node.as_str());
            if !is_ours && !holds {
                continue;
            }
            let overlaps =
                |c: &&Claimed| c.cidr.overlaps(&cidr) && (c.cidr != cidr || c.node != self.node.as_str());
            if !claims.iter().any(|c| overlaps(&c)) {
                return Ok(cidr);
            }
            // Another node claimed a share of another size meanwhile: both may step back, and come again at other times.
            let name = claim_name(&network.name, cidr);
            self.delete(&name).await.map_err(|e| self.failed(&e))?;
            claims.retain(|c| c.cidr != cidr || c.node != self.node.as_str());
            steps_back += 1;
            let pause = Duration::from_millis((steps_back * 20).min(500));
            tokio::time::sleep(pause.mul_f64(0.5 + fastrand::f64())).await;
        }
    }

    /// All claims, of one network or of all. The server answers with what is true now, never from a cache.
    async fn list(&self, network: Option<&NetworkName>) -> Result<Vec<Claimed>, Failure> {
        let selector = match network {
            Some(network) => format!("weft.dev%2Fnetwork%3D{network}"),
            None => "weft.dev%2Fnetwork".to_owned(),
        };
        let bytes = self.client.whole(&Ask::get(format!("{}?labelSelector={selector}", self.path()))).await?;
        let list: LeaseList = serde_json::from_slice(&bytes)
            .map_err(|error| Failure::Garbled(format!("a list of leases: {error}")))?;
        let claimed = |lease: Lease| {
            Some(Claimed {
                cidr: lease.metadata.annotations.get(BLOCK)?.parse().ok()?,
                node: lease.spec.holder_identity,
                name: lease.metadata.name,
                version: lease.metadata.resource_version,
                owner: lease.metadata.owner_references.into_iter().next().unwrap_or_default().uid,
            })
        };
        Ok(list.items.into_iter().filter_map(claimed).collect())
    }

    fn lease(&self, network: &NetworkName, cidr: Cidr, owner: &str) -> serde_json::Value {
        let mut metadata = json!({
            "name": claim_name(network, cidr),
            "labels": { NETWORK: network },
            "annotations": { BLOCK: cidr },
        });
        if !owner.is_empty() {
            let owner = json!({ "apiVersion": "v1", "kind": "Node", "name": self.node, "uid": owner });
            metadata["ownerReferences"] = json!([owner]);
        }
        json!({
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": metadata,
            "spec": { "holderIdentity": self.node },
        })
    }

    /// Makes the claim's object; false where there is one.
    async fn create(&self, network: &NetworkName, cidr: Cidr, owner: &str) -> Result<bool, Failure> {
        let body = self.lease(network, cidr, owner).to_string();
        match self.client.whole(&Ask::with(Method::POST, self.path(), "application/json", body)).await {
            Err(failure) if failure.is(StatusCode::CONFLICT) => Ok(false),
            answer => answer.map(|_| true),
        }
    }

    /// Gives an own claim to the Node object of today: one of an earlier object of the name would be removed with that.
    async fn adopt(&self, own: &Claimed, owner: &str) -> Result<(), StoreError> {
        if own.owner == owner || owner.is_empty() {
            return Ok(());
        }
        let owner = json!({ "apiVersion": "v1", "kind": "Node", "name": self.node, "uid": owner });
        let metadata = json!({ "resourceVersion": own.version, "ownerReferences": [owner] });
        let body = json!({ "metadata": metadata }).to_string();
        let path = format!("{}/{}", self.path(), own.name);
        let ask = Ask::with(Method::PATCH, path, "application/merge-patch+json", body);
        self.client.whole(&ask).await.map(drop).map_err(|e| self.failed(&e))
    }

    async fn delete(&self, name: &str) -> Result<(), Failure> {
        let ask = Ask::with(Method::DELETE, format!("{}/{name}", self.path()), "", String::new());
        match self.client.whole(&ask).await {
            Err(failure) if failure.is(StatusCode::NOT_FOUND) => Ok(()),
            answer => answer.map(drop),
        }
    }

    /// Removes every claim of the node, in every network.
    pub async fn forget(&self) -> Result<(), Failure> {
        for claim in self.list(None).await? {
            if claim.node == self.node.as_str() {
                self.delete(&claim.name).await?;
            }
        }
        Ok(())
    }
}

fn given(node: &NodeObject) -> Vec<Cidr> {
    node.spec.pod_cidrs.iter().filter_map(|text| text.parse().ok()).collect()
}

/// The name of a block's claim: `weft-default-10-244-1-0-24`. An IPv6 address is written in full.
fn claim_name(network: &NetworkName, cidr: Cidr) -> String {
    let address = match cidr.first() {
        std::net::IpAddr::V4(ip) => ip.octets().map(|o| o.to_string()).join("-"),
        std::net::IpAddr::V6(ip) => ip.segments().map(|s| format!("{s:x}")).join("-"),
    };
    format!("weft-{network}-{address}-{}", cidr.prefix())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claims_name_is_a_name_that_the_server_takes() {
        let check = |cidr: &str, expected: &str| {
            assert_eq!(claim_name(&NetworkName::ordinary(), cidr.parse().unwrap()), expected);
            assert!(weft_model::ObjectName::new(expected).is_ok());
        };
        check("10.244.1.0/24", "weft-default-10-244-1-0-24");
        check("fd00:244:0:1::/64", "weft-default-fd00-244-0-1-0-0-0-0-64");
    }
}
