//! Claims of blocks, where answers get lost and Nodes come and go.

use serde_json::json;
use weft_model::{Cidr, Network, NetworkName, NodeCidr, NodeName};
use weft_store::{Hold, Published, PublishedNode, Store};

use super::fake::{Fake, Faults};
use super::watching::{NODES, Watching, claiming, store};

/// By how much this machine's clock was set ahead.
const HOUR: std::time::Duration = std::time::Duration::from_secs(3600);

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

#[test]
fn without_a_node_object_nothing_is_claimed() {
    let fake = Fake::start();
    let error = store(&fake, None).claim_pod_cidrs(&network(), &n1(), &[]).unwrap_err().to_string();
    assert!(error.contains("no such Node"), "{error}");
    assert!(fake.object(LEASES, "weft-default-10-244-0-0-24").is_none());
}

#[test]
fn a_claim_that_was_never_relied_on_yields_to_one_that_is() {
    let fake = Fake::start();
    for node in ["n1", "n2"] {
        fake.put(NODES, json!({ "metadata": { "name": node, "uid": node } }));
    }
    let store = store(&fake, None);
    // n2, whose network has smaller shares, looks and finds nobody. n1's claim around it is made, and the answer is lost.
    let small = Network { node_prefix_v4: 26, ..network() };
    let n2 = NodeName::new("n2").unwrap();
    assert_eq!(store.claim_pod_cidrs(&small, &n2, &[]).unwrap().cidrs, [cidr("10.244.0.0/26")]);
    fake.put(LEASES, lease("weft-default-10-244-0-0-24", "n1"));
    assert_eq!(store.claim_pod_cidrs(&network(), &n1(), &[]).unwrap().cidrs, [cidr("10.244.1.0/24")]);
    assert!(fake.object(LEASES, "weft-default-10-244-0-0-24").is_none());
    assert_eq!(store.claim_pod_cidrs(&small, &n2, &[]).unwrap().cidrs, [cidr("10.244.0.0/26")]);
}

fn lease(name: &str, node: &str) -> serde_json::Value {
    json!({
        "metadata": { "name": name, "labels": { "weft.dev/network": "default" } },
        "spec": { "holderIdentity": node },
    })
}

#[test]
fn a_name_that_is_taken_by_something_else_is_passed_over() {
    let fake = Fake::start();
    fake.put(NODES, json!({ "metadata": { "name": "n1", "uid": "first" } }));
    let mut foreign = lease("weft-default-10-244-0-0-24", "somebody");
    foreign["metadata"]["labels"] = json!({});
    fake.put(LEASES, foreign);
    // One that says nothing but its name.
    fake.put(LEASES, lease("weft-default-10-244-1-0-24", ""));
    let claim = store(&fake, None).claim_pod_cidrs(&network(), &n1(), &[]).unwrap();
    assert_eq!(claim.cidrs, [cidr("10.244.2.0/24")]);
    let tries = fake.requests().iter().filter(|(_, r)| r.starts_with("POST")).count();
    assert_eq!(tries, 2, "each block is tried once");
}

#[test]
fn a_block_whose_node_is_cut_off_is_nobodys_until_that_node_has_let_go() {
    let fake = Fake::start();
    for node in ["n1", "n2"] {
        fake.put(NODES, json!({ "metadata": { "name": node, "uid": node } }));
    }
    let (cut_off, other) = (claiming(&fake, "n1"), claiming(&fake, "n2"));
    let mut watching = Watching::synced(cut_off.clone());
    let block = cidr("10.244.0.0/24");
    assert_eq!(cut_off.claim_pod_cidrs(&network(), &n1(), &[]).unwrap().cidrs, [block]);
    watching.until("a hold", |w| matches!(w.hold, Hold::Until(_)));
    // It is looked at again, and counts for longer.
    let first = watching.hold.clone();
    watching.until("a longer one", |w| w.hold > first);

    // n1 hears nothing any more; its Node is removed, and so are its claims.
    drop(watching);
    drop(cut_off);
    let n2 = NodeName::new("n2").unwrap();
    fake.delete(NODES, "n1");
    fake.set_faults(Faults { behind: HOUR, ..Faults::default() });
    fake.collect(LEASES, "weft-default-10-244-0-0-24");
    let began = std::time::Instant::now();
    assert_eq!(other.claim_pod_cidrs(&network(), &n2, &[]).unwrap().cidrs, [cidr("10.244.1.0/24")]);
    let third = NodeName::new("n3").unwrap();
    fake.put(NODES, json!({ "metadata": { "name": "n3", "uid": "n3" } }));
    let whole = Network { pod_cidrs: vec![cidr("10.244.0.0/23")], ..network() };
    other.claim_pod_cidrs(&whole, &third, &[]).unwrap_err();
    let deadline = began + std::time::Duration::from_secs(20);
    while other.claim_pod_cidrs(&whole, &third, &[]).is_err() {
        assert!(std::time::Instant::now() < deadline, "the block is never given again");
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    // Longer than the 1 s for which n1 relied on it, though this machine's clock is an hour ahead; ends are noted in whole seconds.
    assert!(began.elapsed() >= std::time::Duration::from_millis(1001), "{:?}", began.elapsed());

    // A server that doesn't say what time it is: nothing is over by this machine's clock.
    fake.delete(NODES, "n3");
    fake.collect(LEASES, "weft-default-10-244-0-0-24");
    fake.set_faults(Faults { timeless: true, ..Faults::default() });
    fake.put(NODES, json!({ "metadata": { "name": "n4", "uid": "n4" } }));
    let fourth = NodeName::new("n4").unwrap();
    other.claim_pod_cidrs(&whole, &fourth, &[]).unwrap_err();
    fake.set_faults(Faults::default());
    assert_eq!(other.claim_pod_cidrs(&whole, &fourth, &[]).unwrap().cidrs, [block]);
}

#[test]
fn a_claim_that_was_taken_away_is_made_again_or_said_to_be_lost() {
    let fake = Fake::start();
    for node in ["n1", "n2"] {
        fake.put(NODES, json!({ "metadata": { "name": node, "uid": node } }));
    }
    let store = claiming(&fake, "n1");
    let mut watching = Watching::synced(store.clone());
    let claim = store.claim_pod_cidrs(&network(), &n1(), &[]).unwrap();
    watching.until("a hold", |w| matches!(w.hold, Hold::Until(_)));
    let name = "weft-default-10-244-0-0-24";
    let version = || fake.object(LEASES, name).map(|lease| lease["metadata"]["resourceVersion"].clone());
    let first = version();
    fake.delete(LEASES, name);
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while version().is_none() || version() == first {
        assert!(std::time::Instant::now() < deadline, "the claim isn't made again");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }

    let said = PublishedNode {
        name: n1(),
        addresses: Vec::new(),
        pod_cidrs: vec![NodeCidr { network: NetworkName::ordinary(), cidr: claim.cidrs[0] }],
        vtep_mac: None,
        flannel: None,
    };
    store.publish(&Published::Node(said.clone())).unwrap();
    fake.put(LEASES, lease(name, "n2"));
    watching.until(
        "the loss",
        |w| matches!(&w.hold, Hold::Lapsed(text) if text.contains("another node has the block")),
    );
    let error = store.publish(&Published::Node(said)).unwrap_err().to_string();
    assert!(error.contains("another node's"), "{error}");
    while !fake.object(NODES, "n1").unwrap()["metadata"]["annotations"]["weft.dev/pod-cidrs"].is_null() {
        assert!(std::time::Instant::now() < deadline, "the node goes on saying that it has the block");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    assert_eq!(store.claim_pod_cidrs(&network(), &n1(), &[]).unwrap().cidrs, [cidr("10.244.1.0/24")]);
    watching.until("another hold", |w| matches!(w.hold, Hold::Until(_)));
}

/// The garbage collector ends a claim whose Node's object was made anew: the node, which has pods in the block, never leaves it to others.
#[test]
fn a_claim_that_ends_is_made_again_before_it_is_let_go_of() {
    let fake = Fake::start();
    fake.put(NODES, json!({ "metadata": { "name": "n1", "uid": "first" } }));
    let store = claiming(&fake, "n1");
    let mut watching = Watching::synced(store.clone());
    let claim = store.claim_pod_cidrs(&network(), &n1(), &[]).unwrap();
    watching.until("a hold", |w| matches!(w.hold, Hold::Until(_)));
    let (first, second) = ("weft-default-10-244-0-0-24", "weft-default-10-244-0-0-24-again");
    for (uid, gone, made) in [("second", first, second), ("third", second, first), ("fourth", first, second)]
    {
        fake.put(NODES, json!({ "metadata": { "name": "n1", "uid": uid } }));
        fake.collect(LEASES, gone);
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
        let is_done = || fake.object(LEASES, gone).is_none() && fake.object(LEASES, made).is_some();
        while !is_done() {
            assert!(std::time::Instant::now() < deadline, "the claim isn't made again");
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }
    // Another agent of the node's finds it under that name.
    assert_eq!(claiming(&fake, "n1").claim_pod_cidrs(&network(), &n1(), &[]).unwrap(), claim);
    let lasting = watching.hold.clone();
    watching.until("a look", |w| w.hold > lasting);

    let (mut firm, mut was_firm) = (std::collections::BTreeSet::new(), false);
    for (name, lease) in fake.history(LEASES) {
        let finalizers = lease.as_ref().and_then(|lease| lease["metadata"]["finalizers"].as_array());
        match finalizers.is_some_and(|finalizers| !finalizers.is_empty()) {
            true => firm.insert(name),
            false => firm.remove(&name),
        };
        assert!(!was_firm || !firm.is_empty(), "the block was nobody's");
        was_firm |= !firm.is_empty();
    }
    assert!(was_firm);
    store.forget_node(&n1()).unwrap();
    assert!([first, second].iter().all(|name| fake.object(LEASES, name).is_none()));
}

/// A node that is only cut off goes on relying on its blocks for a while, and `weft forget` has to know for how long.
#[test]
fn how_long_a_node_may_rely_on_its_blocks_is_known() {
    let fake = Fake::start();
    let ready = |status: &str, since: std::time::Duration| {
        let since = weft_model::time::rfc3339(std::time::SystemTime::now() - since);
        let condition = json!({ "type": "Ready", "status": status, "lastTransitionTime": since });
        fake.put(
            NODES,
            json!({
                "metadata": { "name": "n1", "uid": "n1" }, "status": { "conditions": [condition] },
            }),
        );
    };
    let (second, hour) = (std::time::Duration::from_secs(1), HOUR);
    let store = claiming(&fake, "n2");
    let left = || store.relied_on_for(&n1()).unwrap();
    ready("True", hour);
    assert_eq!(left(), None, "it has claimed nothing");
    store.claim_pod_cidrs(&network(), &n1(), &[]).unwrap();
    assert_eq!(left(), Some(second), "its kubelet is heard of");
    ready("Unknown", hour);
    assert_eq!(left(), None);
    ready("Unknown", std::time::Duration::ZERO);
    assert!(left().is_some());
    // Its Node is removed.
    fake.delete(NODES, "n1");
    assert_eq!(left(), Some(second));
    fake.collect(LEASES, "weft-default-10-244-0-0-24");
    let deadline = std::time::Instant::now() + 20 * second;
    while left().is_some() {
        assert!(std::time::Instant::now() < deadline, "it is relied on for ever");
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
}
