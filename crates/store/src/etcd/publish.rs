//! What a node writes: Kubernetes-shaped objects, one a key, under its lease.
//!
//! What always holds: nothing is written under a lease that is no longer the node's; and a node never names a block as its own that
//! etcd says is another's.

use serde_json::{Value, json};
use weft_model::{Cidr, NodeName};

use super::client::Failure;
use super::session::{Around, Session};
use super::wire::{self, Transacted};
use crate::store::{Published, PublishedNode};
use crate::words::{is_same, render_node, render_pod, stamp};

/// The node whose fact it is.
pub(super) fn owner(fact: &Published) -> &NodeName {
    match fact {
        Published::Node(node) => &node.name,
        Published::Pod(pod) => &pod.node,
        Published::PodGone { node, .. } => node,
    }
}

/// What a person calls it.
pub(super) fn named(fact: &Published) -> String {
    match fact {
        Published::Node(node) => format!("node {}", node.name),
        Published::Pod(pod) => format!("pod {}", pod.key),
        Published::PodGone { key, .. } => format!("the end of pod {key}"),
    }
}

/// Writes a fact. The caller has the session's turn.
pub(super) async fn publish(around: &Around, session: &Session, fact: &Published) -> Result<(), Failure> {
    let (key, object, compare) = match fact {
        Published::Node(node) => {
            (around.keys.node(&node.name), render_node(node), of_its_blocks(around, session, node))
        }
        Published::Pod(pod) => (around.keys.pod(&pod.node, &pod.key), render_pod(pod), vec![]),
        Published::PodGone { node, key } => {
            let key = around.keys.pod(node, key);
            let delete = json!({ "request_delete_range": wire::get(&key) });
            // Late, it would remove what another process of the node's says of a pod of the same name.
            settle(around, session, vec![], delete).await?;
            session.note_published(&key, None);
            return Ok(());
        }
    };
    let there = around.get(&key).await?;
    let is_there = there.is_some_and(|kv| kv.lease == session.lease() && is_same(&kv.value, &object));
    if !is_there {
        write(around, session, &key, &object, compare).await?;
    }
    session.note_published(&key, Some(object));
    Ok(())
}

/// That the blocks which a node names are its own, or nobody's claim.
fn of_its_blocks(around: &Around, session: &Session, node: &PublishedNode) -> Vec<Value> {
    let claims = session.claims();
    let compare = node.pod_cidrs.iter().map(|block| {
        let key = around.keys.block(&block.network, block.cidr);
        match claims.contains(&(block.network.clone(), block.cidr)) {
            true => wire::holds(&key, node.name.as_str()),
            false => wire::is_absent(&key),
        }
    });
    compare.collect()
}

async fn write(
    around: &Around,
    session: &Session,
    key: &str,
    object: &Value,
    compare: Vec<Value>,
) -> Result<(), Failure> {
    let mut object = object.clone();
    stamp(&mut object);
    let put = json!({ "request_put": wire::put(key, object.to_string().as_bytes(), session.lease()) });
    settle(around, session, compare, put).await
}

/// Changes something, if all of `compare` hold and the node's lease is this session's.
async fn settle(
    around: &Around,
    session: &Session,
    mut compare: Vec<Value>,
    change: Value,
) -> Result<(), Failure> {
    compare.push(wire::is_leased(&around.keys.session(&session.node), session.lease()));
    let question = wire::txn(&compare, &[change], &[]);
    let answer = around.client.ask::<Transacted>(wire::TXN, &question).await;
    if answer.as_ref().is_ok_and(|answer| answer.succeeded) {
        return Ok(());
    }
    session.renew.notify_one();
    answer?;
    Err(Failure::Away(
        "the node's lease has run out, or one of its blocks is another node's; it claims again".to_owned(),
    ))
}

/// Writes an object again under another lease.
pub(super) async fn write_under(
    around: &Around,
    node: &NodeName,
    lease: i64,
    key: &str,
    object: &mut Value,
) -> Result<(), Failure> {
    stamp(object);
    let put = json!({ "request_put": wire::put(key, object.to_string().as_bytes(), lease) });
    let compare = wire::is_leased(&around.keys.session(node), lease);
    around.client.ask::<Transacted>(wire::TXN, &wire::txn(&[compare], &[put], &[])).await.map(drop)
}

/// True where a published node names one of these blocks.
pub(super) fn names_one_of(object: &Value, blocks: &[Cidr]) -> bool {
    let listed = object.pointer("/spec/podCIDRs").and_then(Value::as_array).into_iter().flatten();
    let listed = listed.filter_map(Value::as_str);
    let annotation = object
        .pointer("/metadata/annotations")
        .and_then(|annotations| annotations.get(crate::object::POD_CIDRS_ANNOTATION))
        .and_then(Value::as_str);
    let named = annotation.into_iter().flat_map(|text| text.split(','));
    let named = named.filter_map(|part| part.split_once('=')).map(|(_, cidr)| cidr);
    listed.chain(named).filter_map(|text| text.parse::<Cidr>().ok()).any(|cidr| blocks.contains(&cidr))
}

/// Removes all that a node has published, and its presence.
pub(super) async fn forget(around: &Around, node: &NodeName) -> Result<(), Failure> {
    let delete = |question: Value| json!({ "request_delete_range": question });
    let all = vec![
        delete(wire::get(&around.keys.session(node))),
        delete(wire::get(&around.keys.node(node))),
        delete(wire::range(&around.keys.pods_of(node))),
    ];
    around.client.ask::<Transacted>(wire::TXN, &wire::txn(&[], &all, &[])).await.map(drop)
}

#[cfg(test)]
mod tests {
    use weft_model::{Network, NetworkName, NodeCidr};

    use super::*;

    #[test]
    fn a_nodes_blocks_are_found_in_what_it_published() {
        let block = |network: &str, cidr: &str| NodeCidr {
            network: NetworkName::new(network).unwrap(),
            cidr: cidr.parse().unwrap(),
        };
        let node = PublishedNode {
            name: NodeName::new("n1").unwrap(),
            addresses: vec![],
            pod_cidrs: vec![
                block(Network::ordinary().name.as_str(), "10.0.0.0/24"),
                block("blue", "10.9.0.0/24"),
            ],
            vtep_mac: None,
            flannel: None,
        };
        let object = render_node(&node);
        for (cidr, expected) in [("10.0.0.0/24", true), ("10.9.0.0/24", true), ("10.0.1.0/24", false)] {
            assert_eq!(names_one_of(&object, &[cidr.parse().unwrap()]), expected, "{cidr}");
        }
    }
}
