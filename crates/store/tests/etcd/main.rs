//! The etcd store with a real etcd that fails in the ways in which it can.

#[path = "../certificates/mod.rs"]
mod certificates;
mod claimers;
mod heard;
#[path = "../listening/mod.rs"]
mod listening;
mod machines;
mod members;
mod proxy;
mod tls;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;
use weft_model::{Cidr, Network, NetworkName, NodeCidr, NodeName, ObjectKey};
use weft_store::{
    BootTime, EtcdOptions, EtcdStore, EtcdUser, Hold, Published, PublishedNode, PublishedPod, Store,
    StoreError,
};

use claimers::Claimers;
use heard::{Heard, PATIENCE};
use members::{Members, Terms, encode};
use proxy::{Proxy, Way};

/// Options that notice trouble soon.
fn options(endpoints: Vec<String>) -> EtcdOptions {
    EtcdOptions {
        endpoints,
        patience: Duration::from_secs(2),
        pulse: Duration::from_millis(500),
        lease: Duration::from_secs(5),
        ..EtcdOptions::default()
    }
}

fn open(endpoints: Vec<String>) -> Arc<EtcdStore> {
    Arc::new(EtcdStore::open(options(endpoints)).unwrap())
}

fn namespace(name: &str) -> String {
    json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name } }).to_string()
}

fn node(name: &str) -> NodeName {
    NodeName::new(name).unwrap()
}

/// A network with room for one node.
fn narrow() -> Network {
    Network { pod_cidrs: vec!["10.244.7.0/24".parse().unwrap()], ..Network::ordinary() }
}

#[track_caller]
fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        if let Some(found) = look() {
            return found;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    panic!("{what} did not come");
}

/// Processes are stopped for longer than their lease lasts, members are stopped and killed, and there are fewer blocks than nodes.
#[test]
fn two_nodes_never_hold_one_block() {
    let Some(mut members) = Members::start(3, &Terms::default()) else { return };
    let folder = tempfile::tempdir().unwrap();
    let claimers = Claimers::start(8, folder.path(), &members.endpoints(), 5);
    wait_for("a block for each of six", || {
        let blocks: BTreeSet<String> = claimers.beliefs().into_iter().map(|b| b.block).collect();
        (blocks.len() == 6).then_some(())
    });
    let begun = Instant::now();
    let mut frozen: Vec<(usize, Instant)> = Vec::new();
    let mut turn = 0;
    while begun.elapsed() < Duration::from_secs(24) {
        // Longer than a lease, shorter than the grace, and in between.
        let time = Duration::from_millis([9_000, 700, 4_300, 7_000, 5_100][turn % 5]);
        let next = (0..8).map(|i| (turn * 3 + i) % 8).find(|i| frozen.iter().all(|(other, _)| other != i));
        if let Some(i) = next.filter(|_| frozen.len() < 4) {
            claimers.freeze(i);
            frozen.push((i, Instant::now() + time));
        }
        match turn % 24 {
            12 => {
                let leader = members.leader();
                members.freeze(leader);
                std::thread::sleep(Duration::from_millis(2_500));
                members.thaw(leader);
            }
            20 => {
                members.kill(turn % 3);
                std::thread::sleep(Duration::from_millis(500));
                members.begin(turn % 3);
            }
            _ => std::thread::sleep(Duration::from_millis(600)),
        }
        frozen.retain(|(i, until)| {
            let is_over = Instant::now() >= *until;
            if is_over {
                claimers.thaw(*i);
            }
            !is_over
        });
        turn += 1;
    }
    frozen.iter().for_each(|(i, _)| claimers.thaw(*i));
    // At least one block goes to another node while its holder is stopped, who then comes back.
    let last = claimers.beliefs().pop().expect("somebody holds a block");
    claimers.freeze(last.node);
    wait_for("another holder", || {
        let takes = |b: &claimers::Belief| b.block == last.block && b.node != last.node && b.at > last.at;
        claimers.beliefs().iter().any(takes).then_some(())
    });
    claimers.thaw(last.node);
    std::thread::sleep(Duration::from_secs(3));
    let beliefs = claimers.beliefs();
    assert!(claimers::changed_hands(&beliefs) > 0);
    assert_eq!(claimers::first_clash(&beliefs), None);
}

/// A node's block is its own for as long as it relies on it, also when it can't be reached; and it learns what became of it.
#[test]
fn a_lost_block_is_known_to_be_lost() {
    let Some(members) = Members::start(1, &Terms::default()) else { return };
    let way = Proxy::to(members.port(0));
    let (network, n1, n2) = (narrow(), node("n1"), node("n2"));
    let block: Cidr = network.pod_cidrs[0];
    let first = open(vec![way.endpoint()]);
    assert_eq!(first.claim_pod_cidrs(&network, &n1, &[]).unwrap().cidrs, [block]);
    let published = |node: &NodeName| {
        Published::Node(PublishedNode {
            name: node.clone(),
            addresses: vec![],
            pod_cidrs: vec![NodeCidr { network: network.name.clone(), cidr: block }],
            vtep_mac: None,
            flannel: None,
        })
    };
    first.publish(&published(&n1)).unwrap();
    // Another process of the node's finds what the node has.
    let second = open(vec![way.endpoint()]);
    second.publish(&published(&n1)).unwrap();
    assert!(matches!(second.hold(), Hold::Until(_)), "{:?}", second.hold());
    drop(second);

    let other = open(members.endpoints());
    assert!(matches!(
        other.claim_pod_cidrs(&network, &n2, &[]),
        Err(StoreError::BlocksExhausted { taken: 1, .. })
    ));
    assert!(other.publish(&published(&n2)).is_err(), "nobody says that another's block is its own");
    let mut heard = Heard::begin(first.clone());
    heard.until("the first hold", |h| matches!(h.hold, Some(Hold::Until(_))));
    way.set(Way::Silent);
    let taken_at = wait_for("the block for another", || {
        other.claim_pod_cidrs(&network, &n2, &[]).ok().map(|_| BootTime::now())
    });
    let Hold::Until(until) = first.hold() else { panic!("{:?}", first.hold()) };
    assert!(until < taken_at, "the node relied on it until {until:?}, and it was another's at {taken_at:?}");
    heard.until("the outage", |h| h.is_stale);
    way.set(Way::Open);
    heard.until(
        "what became of the block",
        |h| matches!(&h.hold, Some(Hold::Lapsed(reason)) if reason.contains("another node has its block")),
    );
    heard.until("the end of the outage", |h| !h.is_stale);
    assert!(first.claim_pod_cidrs(&network, &n1, &[]).is_err());
    other.forget_node(&n2).unwrap();
    assert_eq!(first.claim_pod_cidrs(&network, &n1, &[]).unwrap().cidrs, [block]);
    heard.until("the block", |h| matches!(h.hold, Some(Hold::Until(_))));
}

/// A renewed lease says nothing of keys that don't hang on it any more: a person may have taken them away.
#[test]
fn a_lease_without_its_keys_is_not_relied_on() {
    let Some(members) = Members::start(1, &Terms::default()) else { return };
    let (network, n1) = (narrow(), node("n1"));
    let store = open(members.endpoints());
    assert!(matches!(store.hold(), Hold::Lapsed(_)), "{:?}", store.hold());
    let said = Published::Node(PublishedNode {
        name: n1.clone(),
        addresses: vec![],
        pod_cidrs: vec![],
        vtep_mac: None,
        flannel: None,
    });
    assert_eq!(store.relied_on_for(&n1).unwrap(), None);
    store.publish(&said).unwrap();
    assert!(matches!(store.hold(), Hold::Until(_)), "before the first claim: {:?}", store.hold());
    // What anybody else may think of how long the node will.
    let left = open(members.endpoints()).relied_on_for(&n1).unwrap().expect("it was heard of just now");
    assert!(left >= Duration::from_secs(1) && left <= Duration::from_secs(4), "{left:?}");
    store.claim_pod_cidrs(&network, &n1, &[]).unwrap();
    let (session, block) = ("/weft/sessions/n1", "/weft/blocks/default/10.244.7.0_24");
    for key in [session, block] {
        members.delete(key);
        // By the renewal alone: nothing is published.
        wait_for("the key", || members.lease_of(key).filter(|lease| lease != "0"));
    }
    // The block goes while it is being claimed again, which says nothing of who has it.
    members.delete(session);
    let until = Instant::now() + Duration::from_secs(4);
    while Instant::now() < until {
        members.delete(block);
    }
    wait_for("the block, taken away again and again", || members.lease_of(block));
    // Somebody removes the node while it lives: it starts anew.
    open(members.endpoints()).forget_node(&n1).unwrap();
    wait_for("the session", || members.lease_of(session));
    wait_for("the block", || members.lease_of(block));
    wait_for("the node", || members.lease_of("/weft/nodes/n1"));
    store.publish(&said).unwrap();
    members.put(block, "n2");
    let lapsed = |hold: &Hold| matches!(hold, Hold::Lapsed(reason) if reason.contains("another node has"));
    wait_for("the loss", || Some(store.hold()).filter(lapsed));
}

/// At an upgrade the agent before lives on for a while: it must not take back what the next one has, nor write dead pods again.
#[test]
fn a_store_that_was_stopped_takes_nothing_back() {
    let Some(members) = Members::start(1, &Terms::default()) else { return };
    let n1 = node("n1");
    let key = |name: &str| ObjectKey::new("shop", name).unwrap();
    let pod = |name: &str| {
        let (key, ips) = (key(name), vec!["10.244.7.9".parse().unwrap()]);
        let network = NetworkName::ordinary();
        Published::Pod(PublishedPod { key, uid: None, network, node: n1.clone(), ips, host_ports: vec![] })
    };
    let gone = |name: &str| Published::PodGone { node: n1.clone(), key: key(name) };
    let before = open(members.endpoints());
    before.claim_pod_cidrs(&narrow(), &n1, &[]).unwrap();
    before.publish(&pod("web-0")).unwrap();
    before.stop();
    let next = open(members.endpoints());
    next.publish(&gone("web-0")).unwrap();
    next.publish(&pod("web-1")).unwrap();
    let lease = || members.lease_of("/weft/sessions/n1");
    let taken = lease();
    // Three renewals of each.
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(lease(), taken, "the one that was stopped has taken the session back");
    assert_eq!(members.lease_of("/weft/pods/n1/shop/web-0"), None);
    assert_eq!(members.lease_of("/weft/blocks/default/10.244.7.0_24"), taken);
    // Nor does what it still wanted to say reach anything of the next one's.
    before.publish(&gone("web-1")).unwrap_err();
    assert_eq!(members.lease_of("/weft/pods/n1/shop/web-1"), taken);
}

/// Each attempt, and each start, takes a lease, which lasts for a day by default.
#[test]
fn attempts_that_fail_and_processes_that_end_leave_no_leases() {
    let Some(members) = Members::start(1, &Terms::default()) else { return };
    let access = |of: &str| {
        let (key, range_end) = (encode(&format!("/weft/{of}")), encode(&format!("/weft/{of}~")));
        json!({ "name": "network", "perm": { "permType": "READWRITE", "key": key, "range_end": range_end } })
    };
    for (path, question) in [
        ("user/add", json!({ "name": "root", "password": "r" })),
        ("role/add", json!({ "name": "root" })),
        ("user/grant", json!({ "user": "root", "role": "root" })),
        ("user/add", json!({ "name": "weft", "password": "w" })),
        ("role/add", json!({ "name": "network" })),
        // A session can be had, and then nothing more.
        ("role/grant", access("sessions/")),
        ("user/grant", json!({ "user": "weft", "role": "network" })),
        ("enable", json!({})),
    ] {
        members.ask(&format!("/v3/auth/{path}"), &question);
    }
    let port = members.port(0);
    let root = json!({ "name": "root", "password": "r" });
    let token = members::ask(port, "/v3/auth/authenticate", &root, None).unwrap();
    let token = token["token"].as_str().unwrap();
    let leases = || {
        let answer = members::ask(port, "/v3/lease/leases", &json!({}), Some(token)).unwrap();
        answer["leases"].as_array().map_or(0, Vec::len)
    };
    let folder = tempfile::tempdir().unwrap();
    let password_file = folder.path().join("password");
    std::fs::write(&password_file, "w\n").unwrap();
    let user = Some(EtcdUser { name: "weft".to_owned(), password_file });
    let lease = Duration::from_secs(600);
    let with_user = EtcdOptions { user, lease, ..options(members.endpoints()) };
    let store = EtcdStore::open(with_user.clone()).unwrap();
    for _ in 0..5 {
        store.claim_pod_cidrs(&narrow(), &node("n1"), &[]).unwrap_err();
    }
    assert!((1..=2).contains(&leases()), "{}", leases());
    members::ask(port, "/v3/auth/role/grant", &access(""), Some(token)).unwrap();
    store.claim_pod_cidrs(&narrow(), &node("n1"), &[]).unwrap();
    assert_eq!(leases(), 1);
    // Nor does a process that ends leave one behind, once the next has taken all that was under it.
    store.stop();
    let next = EtcdStore::open(with_user).unwrap();
    next.claim_pod_cidrs(&narrow(), &node("n1"), &[]).unwrap();
    assert_eq!(leases(), 1);
}

/// A claim that another one beat, and whose maker died before it took it back, costs nobody a block.
#[test]
fn a_beaten_claim_that_was_left_is_taken_back() {
    let Some(members) = Members::start(1, &Terms::default()) else { return };
    members.put("/weft/blocks/default/10.244.0.0_26", "n2");
    members.put("/weft/blocks/default/10.244.0.0_24", "n1");
    let network = Network { pod_cidrs: vec!["10.244.0.0/16".parse().unwrap()], ..Network::ordinary() };
    let claim = open(members.endpoints()).claim_pod_cidrs(&network, &node("n1"), &[]).unwrap();
    assert_eq!(claim.cidrs, ["10.244.1.0/24".parse::<Cidr>().unwrap()]);
    assert_eq!(claim.unfit, []);
    assert_eq!(members.lease_of("/weft/blocks/default/10.244.0.0_24"), None);
}

/// Forgetting ends every lease of a node's, also one whose session is gone already: an attempt before may have ended halfway.
#[test]
fn forgetting_ends_every_lease_of_the_node() {
    let Some(members) = Members::start(1, &Terms::default()) else { return };
    let left = ["blocks/default/10.244.7.0_24", "nodes/n3", "pods/n3/shop/web", "sessions/n3"];
    let leases = left.map(|key| {
        let granted = members.ask("/v3/lease/grant", &json!({ "TTL": "600" }));
        let lease = granted["ID"].as_str().unwrap().to_owned();
        let key = format!("/weft/{key}");
        members.ask("/v3/kv/put", &json!({ "key": encode(&key), "value": encode("n3"), "lease": lease }));
        (key, lease)
    });
    members.put("/weft/blocks/default/10.244.8.0_24", "n4");
    let store = open(members.endpoints());
    store.forget_node(&node("n3")).unwrap();
    store.forget_node(&node("n3")).unwrap();
    for (key, lease) in leases {
        let time = members.ask("/v3/lease/timetolive", &json!({ "ID": lease }));
        assert_eq!((time["TTL"].as_str(), members.lease_of(&key)), (Some("-1"), None), "{key}");
    }
    assert!(members.lease_of("/weft/blocks/default/10.244.8.0_24").is_some());
}

#[test]
fn a_store_outlives_members_leaders_and_quorums() {
    let Some(mut members) = Members::start(3, &Terms::default()) else { return };
    let mut heard = Heard::begin(open(members.endpoints()));
    heard.until("the first snapshot", |h| h.synced == 1);
    let mut told = BTreeSet::new();
    let mut check = |members: &Members, heard: &mut Heard, name: &str| {
        members.put(&format!("/weft/objects/{name}"), &namespace(name));
        told.insert(name.to_owned());
        heard.until(name, |h| h.namespaces() == told);
    };
    check(&members, &mut heard, "before");
    // Each in turn, so that the one that is listened to is among them.
    for i in 0..3 {
        members.freeze(i);
        check(&members, &mut heard, &format!("frozen-{i}"));
        members.thaw(i);
    }
    let leader = members.leader();
    members.kill(leader);
    check(&members, &mut heard, "leaderless");
    // One of three can do nothing.
    let next = members.leader();
    members.kill(next);
    heard.until("the outage", |h| h.is_stale);
    members.begin(next);
    heard.until("the end of the outage", |h| !h.is_stale);
    check(&members, &mut heard, "after");
}

/// Who listened to a member that is gone goes on with the next one: with thousands of nodes, a list for each would be a storm.
#[test]
fn another_member_goes_on_where_one_broke_off() {
    let Some(members) = Members::start(3, &Terms::default()) else { return };
    let ways: Vec<Proxy> = (0..3).map(|i| Proxy::to(members.port(i))).collect();
    let mut heard = Heard::begin(open(ways.iter().map(Proxy::endpoint).collect()));
    heard.until("the first snapshot", |h| h.synced == 1);
    let mut told = BTreeSet::new();
    let mut put = |heard: &mut Heard, name: String| {
        members.put(&format!("/weft/objects/{name}"), &namespace(&name));
        told.insert(name.clone());
        heard.until(&name, |h| h.namespaces() == told);
        // A member that lags behind is not gone on with.
        wait_for("all members at one revision", || {
            let revisions: BTreeSet<String> = (0..3).map(|i| members.revision(i)).collect();
            (revisions.len() == 1).then_some(())
        });
    };
    put(&mut heard, "before".to_owned());
    for (i, way) in ways.iter().enumerate() {
        way.set(Way::Cut);
        put(&mut heard, format!("without-{i}"));
        way.set(Way::Open);
        put(&mut heard, format!("with-{i}"));
    }
    assert_eq!(ways.iter().map(Proxy::lists).sum::<usize>(), 0, "everything was listed again");
    assert_eq!((heard.synced, heard.outages), (1, 0));
    // Two breaks in a row are no longer gone on from.
    ways.iter().for_each(|way| way.set(Way::Cut));
    heard.until("the outage", |h| h.is_stale);
    ways.iter().for_each(|way| way.set(Way::Open));
    heard.until("the end of the outage", |h| !h.is_stale);
    assert!(ways.iter().map(Proxy::lists).sum::<usize>() > 0, "lists aren't seen");
}

/// What stands between may forget a connection over which nothing has gone for long, and tell neither end.
#[test]
fn a_stream_that_died_without_a_word_is_found_out() {
    let Some(members) = Members::start(1, &Terms::default()) else { return };
    let way = Proxy::to(members.port(0));
    let mut heard = Heard::begin(open(vec![way.endpoint()]));
    heard.until("the first snapshot", |h| h.synced == 1);
    members.put("/weft/objects/before", &namespace("before"));
    heard.until("what comes by the stream", |h| h.namespaces().contains("before"));
    for name in ["put", "deleted"] {
        way.set(Way::Deaf);
        match name {
            "put" => members.put("/weft/objects/put", &namespace("put")),
            _ => members.delete("/weft/objects/put"),
        }
        heard.until(name, |h| h.namespaces().contains("put") == (name == "put"));
        way.set(Way::Open);
        members.put("/weft/objects/after", &namespace(&format!("after-{name}")));
        heard.until("a stream", |h| h.namespaces().contains(&format!("after-{name}")));
    }
}

/// Where etcd is others' too, its revision goes on without a word to this watch: that is no reason to list all keys again and again.
#[test]
fn what_others_write_is_no_reason_to_list_for_ever() {
    let Some(members) = Members::start(1, &Terms::default()) else { return };
    let way = Proxy::to(members.port(0));
    let pulse = Duration::from_millis(50);
    let store = EtcdStore::open(EtcdOptions { pulse, ..options(vec![way.endpoint()]) }).unwrap();
    let mut heard = Heard::begin(Arc::new(store));
    heard.until("the first snapshot", |h| h.synced == 1);
    let begun = Instant::now();
    while begun.elapsed() < pulse * 100 {
        members.put("/others/key", "1");
        std::thread::sleep(pulse / 5);
    }
    // Each time twice as late as before.
    let lists = way.lists();
    assert!((1..=6).contains(&lists), "{lists} lists");
    members.put("/weft/objects/mine", &namespace("mine"));
    heard.until("a key", |h| h.namespaces().contains("mine"));
    assert_eq!(heard.outages, 0);
}

#[test]
fn a_partition_with_compaction_misses_nothing() {
    let Some(members) = Members::start(1, &Terms::default()) else { return };
    let way = Proxy::to(members.port(0));
    for name in ["old", "kept", "broken"] {
        members.put(&format!("/weft/objects/{name}"), &namespace(name));
    }
    members.put("/weft/network/default", r#"{"podCIDRs": ["10.244.0.0/16"]}"#);
    let mut heard = Heard::begin(open(vec![way.endpoint()]));
    heard.until("the first snapshot", |h| h.synced == 1);
    assert_eq!(heard.facts.len(), 4);
    members.put("/weft/objects/broken", "{\"apiVersion\": \"v1\", \"kind\"");
    heard.until("the notice", |h| h.notices.keys().any(|about| about.starts_with("/weft/objects/broken")));
    for cut in [Way::Cut, Way::Silent] {
        way.set(cut);
        heard.until("the outage", |h| h.is_stale);
        let all = BTreeSet::from(["old", "kept", "broken"].map(str::to_owned));
        assert_eq!(heard.namespaces(), all, "nothing is taken away");
        members.delete("/weft/objects/old");
        members.put("/weft/objects/new", &namespace("new"));
        members.compact();
        way.set(Way::Open);
        heard.until("the end of the outage", |h| !h.is_stale);
        // All that was missed was told before.
        assert_eq!(heard.namespaces(), BTreeSet::from(["new", "kept", "broken"].map(str::to_owned)));
        members.put("/weft/objects/old", &namespace("old"));
        members.delete("/weft/objects/new");
        heard.until("the way back", |h| h.namespaces() == all);
    }
}

/// An etcd that is started again without its data has the name that it had, and soon holds what the nodes write: still, nothing that people
/// wrote has been removed by anybody.
#[test]
fn an_etcd_that_lost_its_data_is_an_outage() {
    let Some(mut members) = Members::start(1, &Terms::default()) else { return };
    let network = ("/weft/network/default", r#"{"podCIDRs": ["10.244.0.0/16"]}"#.to_owned());
    let shop = ("/weft/objects/shop", namespace("shop"));
    for (key, value) in [&network, &shop] {
        members.put(key, value);
    }
    let other = open(members.endpoints());
    let said = PublishedNode {
        name: node("n2"),
        addresses: vec![],
        pod_cidrs: vec![],
        vtep_mac: None,
        flannel: None,
    };
    other.publish(&Published::Node(said)).unwrap();
    let way = Proxy::to(members.port(0));
    let mut heard = Heard::begin(open(vec![way.endpoint()]));
    heard.until("the first snapshot", |h| h.synced == 1);
    assert_eq!(heard.facts.len(), 3);

    members.kill(0);
    members.wipe(0);
    members.begin(0);
    heard.until("the outage", |h| h.is_stale);
    wait_for("what the other node writes", || members.lease_of("/weft/nodes/n2"));
    let lists = way.lists();
    wait_for("two lists since", || (way.lists() > lists + 1).then_some(()));
    // What people wrote comes back, with a change.
    members.put(network.0, &network.1);
    members.put(shop.0, &namespace("depot"));
    heard.until("the end of the outage", |h| {
        !h.is_stale && h.namespaces() == BTreeSet::from(["depot".to_owned()])
    });
    heard.until("the node and the network", |h| h.facts.len() == 3);
    assert_eq!(heard.removed, 1);
}

#[test]
fn a_token_that_is_forgotten_is_asked_for_again() {
    let Some(mut members) = Members::start(1, &Terms::default()) else { return };
    let all = json!({ "permType": "READWRITE", "key": encode("/weft/"), "range_end": encode("/weft0") });
    for (path, question) in [
        ("user/add", json!({ "name": "root", "password": "r" })),
        ("role/add", json!({ "name": "root" })),
        ("user/grant", json!({ "user": "root", "role": "root" })),
        ("user/add", json!({ "name": "weft", "password": "secret" })),
        ("role/add", json!({ "name": "network" })),
        ("role/grant", json!({ "name": "network", "perm": all })),
        ("user/grant", json!({ "user": "weft", "role": "network" })),
        ("enable", json!({})),
    ] {
        members.ask(&format!("/v3/auth/{path}"), &question);
    }
    let folder = tempfile::tempdir().unwrap();
    let password_file = folder.path().join("password");
    std::fs::write(&password_file, "wrong\n").unwrap();
    let user = EtcdUser { name: "weft".to_owned(), password_file: password_file.clone() };
    let with_user = EtcdOptions { user: Some(user), ..options(members.endpoints()) };
    let store = Arc::new(EtcdStore::open(with_user.clone()).unwrap());
    let error = store.claim_pod_cidrs(&narrow(), &node("n1"), &[]).unwrap_err().to_string();
    assert!(error.contains("user weft") && error.contains("passwordFile"), "{error}");
    // A mended file counts at once.
    std::fs::write(&password_file, "secret\n").unwrap();
    store.claim_pod_cidrs(&narrow(), &node("n1"), &[]).unwrap();
    let mut heard = Heard::begin(store.clone());
    heard.until("the first snapshot", |h| h.synced == 1);
    // A member that starts anew has forgotten every token.
    members.kill(0);
    members.begin(0);
    wait_for("the member", || {
        let said = PublishedNode {
            name: node("n1"),
            addresses: vec![],
            pod_cidrs: vec![],
            vtep_mac: None,
            flannel: None,
        };
        store.publish(&Published::Node(said)).ok()
    });
    heard.until("the node", |h| !h.facts.is_empty());
    let elsewhere = EtcdOptions { prefix: "/other".to_owned(), ..with_user };
    let error = EtcdStore::open(elsewhere).unwrap().forget_node(&node("n1")).unwrap_err().to_string();
    assert!(error.contains("readwrite"), "{error}");
}
