//! Claims of blocks, where answers get lost and Nodes come and go.

use serde_json::json;
use weft_model::{Cidr, Network, NodeName};
use weft_store::Store;

use super::fake::{Fake, Faults};
use super::watching::{NODES, store};

const LEASES: &str = "apis/coordination.k8s.io/v1/namespaces/kube-system/leases";

fn network() -> Network {
    Network { pod_cidrs: vec!["10.244.0.0/16".parse().unwrap()], ..Network::ordinary() }
}

fn n1() -> NodeName {
    NodeName::new("n1").unwrap()
}

fn cidr(text: &str) -> Cidr {
    text.parse().unwrap()
}

#[test]
fn a_claim_whose_answer_got_lost_is_found_again() {
    let fake = Fake::start();
    fake.put(NODES, json!({ "metadata": { "name": "n1", "uid": "first" } }));
    fake.set_faults(Faults { lose_answers: 1, ..Faults::default() });
    let store = store(&fake, None);
    store.claim_pod_cidrs(&network(), &n1(), &[]).unwrap_err();
    let claim = store.claim_pod_cidrs(&network(), &n1(), &[]).unwrap();
    assert_eq!(claim.cidrs, [cidr("10.244.0.0/24")]);
    assert!(fake.object(LEASES, "weft-default-10-244-1-0-24").is_none());
}

#[test]
fn a_claim_belongs_to_the_node_object_of_today() {
    let fake = Fake::start();
    fake.put(NODES, json!({ "metadata": { "name": "n1", "uid": "first" } }));
    let store = store(&fake, None);
    let claim = store.claim_pod_cidrs(&network(), &n1(), &[]).unwrap();
    let owner = || {
        let lease = fake.object(LEASES, "weft-default-10-244-0-0-24").unwrap();
        lease["metadata"]["ownerReferences"][0]["uid"].as_str().unwrap().to_owned()
    };
    assert_eq!(owner(), "first");
    // The Node is registered anew: what belongs to the old one will be removed.
    fake.put(NODES, json!({ "metadata": { "name": "n1", "uid": "second" } }));
    assert_eq!(store.claim_pod_cidrs(&network(), &n1(), &[]).unwrap(), claim);
    assert_eq!(owner(), "second");
}

#[test]
fn what_the_cluster_gives_counts_before_claims() {
    let fake = Fake::start();
    fake.put(NODES, json!({ "metadata": { "name": "n1" }, "spec": { "podCIDRs": ["10.244.7.0/24"] } }));
    let claim = store(&fake, None).claim_pod_cidrs(&network(), &n1(), &[]).unwrap();
    assert_eq!(claim.cidrs, [cidr("10.244.7.0/24")]);
    assert!(fake.object(LEASES, "weft-default-10-244-0-0-24").is_none());
}
