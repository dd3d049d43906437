//! The Kubernetes store and servers that misbehave: whatever happens, facts stay, and then they heal.

#[path = "../apiserver/mod.rs"]
mod apiserver;
#[path = "../certificates/mod.rs"]
mod certificates;
mod claims;
mod fake;
mod front;
#[path = "../listening/mod.rs"]
mod listening;
mod lists;
mod machines;
mod real;
mod renewal;
mod watching;

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::json;
use weft_model::{FactKey, Family, NamespaceName, NodeAddress, NodeName};
use weft_store::kubernetes::Patience;
use weft_store::{FlannelWords, Published, PublishedNode, Store};

use self::fake::{Fake, Faults};
use self::watching::{NODES, Watching, impatient, node, store, store_with};

/// A store that doesn't call anything an outage, however busy this machine is.
fn unhurried(fake: &Fake) -> std::sync::Arc<weft_store::KubernetesStore> {
    store_with(fake, None, Patience { grace: Duration::from_secs(60), ..impatient() })
}

/// A line of a watch whose place is lost.
const EXPIRED: &str = "{\"type\":\"ERROR\",\"object\":{\"kind\":\"Status\",\"code\":410}}\n";

/// A server with two nodes.
fn two_nodes() -> Fake {
    let fake = Fake::start();
    fake.put(NODES, node("n1", 1));
    fake.put(NODES, node("n2", 1));
    fake
}

fn key(name: &str) -> FactKey {
    FactKey::Node(NodeName::new(name).unwrap())
}

#[test]
fn a_place_that_the_server_has_lost_leads_to_a_new_list() {
    let fake = two_nodes();
    let mut watching = Watching::synced(unhurried(&fake));
    assert_eq!(watching.versions(), "n1=1 n2=1");
    // Said against the request.
    fake.set_faults(Faults { mute: true, ..Faults::default() });
    fake.delete(NODES, "n2");
    fake.put(NODES, node("n1", 2));
    fake.compact();
    fake.put(NODES, node("n3", 1));
    fake.hang_up();
    fake.set_faults(Faults::default());
    watching.until_nodes("n1=2 n3=1");
    assert_eq!(watching.removed, [key("n2")]);
    // Said in the middle of a watch.
    fake.send_raw(
        NODES,
        "{\"type\":\"ERROR\",\"object\":{\"kind\":\"Status\",\"code\":410,\"reason\":\"Expired\"}}\n",
    );
    fake.put(NODES, node("n1", 3));
    watching.until_nodes("n1=3 n3=1");
    assert_eq!(watching.said, ["synced"], "a new list is no outage");
}

#[test]
fn a_busy_server_is_left_alone_for_as_long_as_it_asks() {
    let fake = two_nodes();
    let patience = Patience { longest_pause: Duration::from_secs(2), ..impatient() };
    let mut watching = Watching::synced(store_with(&fake, None, patience));
    let refuse = std::iter::repeat_n((429, Some(1)), 6).collect();
    fake.set_faults(Faults { refuse, ..Faults::default() });
    let before = fake.requests().len();
    fake.hang_up();
    fake.put(NODES, node("n1", 2));
    watching.until_nodes("n1=2 n2=1");
    let asked: Vec<_> =
        fake.requests().split_off(before).into_iter().filter(|(_, r)| r.contains("/nodes?")).collect();
    for pair in asked.windows(2) {
        assert!(pair[1].0 - pair[0].0 >= Duration::from_millis(990), "{asked:?}");
    }
    assert!(watching.removed.is_empty());
}

#[test]
fn a_token_that_rotates_is_followed_and_one_that_expired_is_told() {
    let fake = two_nodes();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    std::fs::write(&file, "first\n").unwrap();
    fake.set_token("first");
    let mut watching = Watching::synced(store(&fake, Some(file.clone())));
    fake.set_token("second");
    fake.hang_up();
    watching.until("trouble", |w| w.said.last().is_some_and(|s| s.contains("401") && s.contains("renew")));
    fake.put(NODES, node("n2", 2));
    assert_eq!(watching.versions(), "n1=1 n2=1");
    std::fs::write(&file, "second\n").unwrap();
    watching.until_nodes("n1=1 n2=2");
    watching.until("the end of it", |w| w.said.last().is_some_and(|s| s == "synced"));
    assert!(watching.removed.is_empty());
}

#[test]
fn a_watch_that_hangs_is_not_believed_for_ever() {
    let fake = two_nodes();
    let mut watching = Watching::synced(unhurried(&fake));
    fake.set_faults(Faults { mute: true, ..Faults::default() });
    fake.put(NODES, node("n1", 2));
    fake.delete(NODES, "n2");
    // Streamed lists are not muted: what is true comes with the next one.
    watching.until_nodes("n1=2");
    assert_eq!((watching.removed.as_slice(), watching.said.len()), (&[key("n2")][..], 1));
}

#[test]
fn what_is_no_event_is_told_and_takes_nothing_away() {
    let fake = two_nodes();
    let mut watching = Watching::synced(store(&fake, None));
    for text in [
        "<html>go away</html>\n",
        "{\"type\":\"ADDED\"}\n",
        "{\"type\":\"DANCE\",\"object\":{}}\n",
        "\u{0}\u{7}\n",
    ] {
        fake.send_raw(NODES, text);
        let v = fake.requests().len() as u32;
        fake.put(NODES, node("n1", v));
        watching.until_nodes(&format!("n1={v} n2=1"));
    }
    assert!(watching.removed.is_empty());
}

#[test]
fn an_object_that_cannot_be_read_keeps_what_it_was() {
    let fake = two_nodes();
    let mut watching = Watching::synced(store(&fake, None));
    let mut broken = node("n2", 2);
    broken["metadata"]["annotations"] = json!({ "weft.dev/addresses": "nowhere" });
    fake.put(NODES, broken.clone());
    watching.until("a notice", |w| w.notices.get("node n2").is_some_and(|t| t.contains("nowhere")));
    fake.compact();
    fake.hang_up();
    fake.put(NODES, node("n1", 2));
    // A new list doesn't make it a deletion.
    watching.until_nodes("n1=2 n2=1");
    fake.put(NODES, node("n2", 3));
    watching.until_nodes("n1=2 n2=3");
    watching.until("the notice's end", |w| w.notices.is_empty());
    broken["metadata"]["name"] = "n3".into();
    fake.put(NODES, broken);
    watching.until("another notice", |w| w.notices.contains_key("node n3"));
    fake.delete(NODES, "n3");
    watching.until("its end", |w| w.notices.is_empty());
    assert!(watching.removed.is_empty());
}

#[test]
fn an_object_beyond_all_measure_is_passed_over() {
    let fake = two_nodes();
    // So much takes its time, also to be sent.
    let long = Duration::from_secs(60);
    let patience = Patience { silence: long, stalled_list: long, ..impatient() };
    let mut watching = Watching::synced(store_with(&fake, None, patience));
    let mut huge = node("n2", 2);
    huge["status"] = json!({ "noise": "x".repeat(17 << 20) });
    fake.put(NODES, huge);
    fake.put(NODES, node("n1", 2));
    watching.until_nodes("n1=2 n2=1");
    watching.until("a notice", |w| w.notices.get("node n2").is_some_and(|t| t.contains("16 MiB")));
    // Large, and within measure.
    let mut large = node("n2", 3);
    large["status"] = json!({ "noise": "x".repeat(9 << 20) });
    fake.put(NODES, large);
    watching.until_nodes("n1=2 n2=3");
    watching.until("the notice's end", |w| w.notices.is_empty());
}

#[test]
fn a_server_that_went_back_in_time_is_listed_anew() {
    let fake = two_nodes();
    let mut watching = Watching::synced(store(&fake, None));
    fake.delete(NODES, "n2");
    watching.until_nodes("n1=1");
    // The backup is older than what we know, so the watch that goes on hears nothing.
    fake.put(NODES, node("n1", 9));
    watching.until_nodes("n1=9");
    fake.go_back(5);
    fake.put(NODES, node("n4", 1));
    watching.until_nodes("n1=9 n4=1");
}

#[test]
fn without_the_server_facts_stay_and_afterwards_all_is_told() {
    let fake = two_nodes();
    fake.set_faults(Faults { down: true, ..Faults::default() });
    let mut watching = Watching::begin(store(&fake, None));
    watching.until("the first word", |w| w.said.last().is_some_and(|s| s.starts_with("stale: ")));
    fake.set_faults(Faults::default());
    watching.until("the snapshot", |w| w.said.last().is_some_and(|s| s == "synced"));
    assert_eq!(watching.versions(), "n1=1 n2=1");

    fake.set_faults(Faults { down: true, ..Faults::default() });
    fake.hang_up();
    watching.until("stale", |w| w.said.last().is_some_and(|s| s.starts_with("stale: ")));
    fake.delete(NODES, "n2");
    fake.put(NODES, node("n3", 1));
    assert_eq!(watching.versions(), "n1=1 n2=1");
    fake.set_faults(Faults::default());
    watching.until("synced", |w| w.said.last().is_some_and(|s| s == "synced"));
    // By then all that was missed has been told.
    assert_eq!(watching.versions(), "n1=1 n3=1");
}

#[test]
fn a_kind_that_the_server_does_not_know_is_not_waited_for() {
    let fake = two_nodes();
    fake.set_faults(Faults { unknown: vec!["servicecidrs"], ..Faults::default() });
    let watching = Watching::synced(store(&fake, None));
    assert_eq!(watching.said, ["synced"]);
}

#[test]
fn a_node_writes_only_what_differs() {
    let fake = two_nodes();
    let store = store(&fake, None);
    let writes = || fake.requests().iter().filter(|(_, r)| r.starts_with("PATCH")).count();
    let mut said = PublishedNode {
        name: NodeName::new("n1").unwrap(),
        addresses: vec![NodeAddress { ip: "192.0.2.1".parse().unwrap(), prefix: Some(24) }],
        pod_cidrs: Vec::new(),
        vtep_mac: None,
        flannel: None,
    };
    store.publish(&Published::Node(said.clone())).unwrap();
    store.publish(&Published::Node(said.clone())).unwrap();
    // The annotations, and that pods shall wait.
    assert_eq!(writes(), 2);
    let condition = |field: &str| fake.object(NODES, "n1").unwrap()["status"]["conditions"][0][field].clone();
    assert_eq!((condition("status"), condition("reason")), (json!("True"), json!("WeftIsNotUpYet")));
    let there = fake.object(NODES, "n1").unwrap();
    assert_eq!(there["metadata"]["annotations"], json!({ "weft.dev/addresses": "192.0.2.1/24" }));
    assert_eq!(there["metadata"]["labels"], json!({ "v": "1" }));
    store.announce_ready(&said.name).unwrap();
    store.announce_ready(&said.name).unwrap();
    assert_eq!(writes(), 3);
    assert_eq!((condition("status"), condition("reason")), (json!("False"), json!("WeftIsUp")));
    // Another network says, as it stops, that there is none.
    let says = |status: &str, reason: &str| {
        let mut there = fake.object(NODES, "n1").unwrap();
        there["status"]["conditions"][0]["status"] = status.into();
        there["status"]["conditions"][0]["reason"] = reason.into();
        fake.put(NODES, there);
    };
    let until = |what: &str, done: &dyn Fn() -> bool| {
        let deadline = std::time::Instant::now() + Duration::from_secs(20);
        while !done() {
            assert!(std::time::Instant::now() < deadline, "{what} did not come");
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    for _ in 0..4 {
        says("True", "CalicoIsDown");
        until("our word", &|| condition("reason") == "WeftIsUp");
    }
    said.name = NodeName::new("elsewhere").unwrap();
    let error = store.publish(&Published::Node(said)).unwrap_err().to_string();
    assert!(error.contains("no such Node"), "{error}");
}

#[test]
fn what_is_said_to_flannels_nodes_is_taken_back_and_flannels_own_is_left() {
    let fake = two_nodes();
    let store = store(&fake, None);
    let said = PublishedNode {
        name: NodeName::new("n1").unwrap(),
        addresses: vec![NodeAddress { ip: "192.0.2.1".parse().unwrap(), prefix: Some(24) }],
        pod_cidrs: Vec::new(),
        vtep_mac: None,
        flannel: Some(FlannelWords { tunnel: None, families: vec![Family::V4] }),
    };
    let flannels = || {
        let node = fake.object(NODES, "n1").unwrap();
        let annotations = node["metadata"]["annotations"].as_object().cloned().unwrap_or_default();
        annotations.keys().filter(|key| key.starts_with("flannel.")).count()
    };
    let publish = |words: bool| {
        let flannel = said.flannel.clone().filter(|_| words);
        store.publish(&Published::Node(PublishedNode { flannel, ..said.clone() })).unwrap();
    };
    for _ in 0..2 {
        publish(true);
        assert_eq!(flannels(), 4);
    }
    publish(false);
    assert_eq!(flannels(), 0);
    publish(true);
    store.forget_node(&said.name).unwrap();
    assert_eq!(flannels(), 0);
    // A node that flannel has written on, and keeps.
    let mut there = fake.object(NODES, "n1").unwrap();
    there["metadata"]["annotations"] = json!({ "flannel.alpha.coreos.com/public-ip": "198.51.100.7" });
    fake.put(NODES, there);
    publish(true);
    publish(false);
    assert_eq!(flannels(), 1);
}

/// What was said of the network that was there before a machine was started anew doesn't hold after it.
#[test]
fn a_machine_that_was_started_anew_has_no_network_yet() {
    let fake = two_nodes();
    let mut before = node("n1", 1);
    let message = "Weft has set this node's network up (boot 0)";
    let condition =
        json!({ "type": "NetworkUnavailable", "status": "False", "reason": "WeftIsUp", "message": message });
    before["status"] = json!({ "conditions": [condition] });
    fake.put(NODES, before);
    let store = store(&fake, None);
    let n1 = NodeName::new("n1").unwrap();
    let said = PublishedNode {
        name: n1.clone(),
        addresses: Vec::new(),
        pod_cidrs: Vec::new(),
        vtep_mac: None,
        flannel: None,
    };
    let publish = || store.publish(&Published::Node(said.clone())).unwrap();
    let says = || {
        let condition = &fake.object(NODES, "n1").unwrap()["status"]["conditions"][0];
        (condition["status"].clone(), condition["reason"].clone())
    };
    publish();
    assert_eq!(says(), (json!("True"), json!("WeftIsNotUpYet")));
    store.announce_ready(&n1).unwrap();
    assert_eq!(says(), (json!("False"), json!("WeftIsUp")));
    publish();
    assert_eq!(says(), (json!("False"), json!("WeftIsUp")));
}

/// Who says again and again that a node's network is unavailable has a reason, and is not fought.
#[test]
fn a_writer_that_insists_is_left_its_word_and_named() {
    let fake = two_nodes();
    let store = store(&fake, None);
    let mut watching = Watching::synced(store.clone());
    let n1 = NodeName::new("n1").unwrap();
    let mut routeless = node("n1", 1);
    let condition = json!({ "type": "NetworkUnavailable", "status": "True", "reason": "NoRouteCreated" });
    routeless["status"] = json!({ "conditions": [condition] });
    let status = || fake.object(NODES, "n1").unwrap()["status"]["conditions"][0]["status"].clone();
    // A cloud says it of every new node; somebody has to take it back.
    fake.put(NODES, routeless.clone());
    store.announce_ready(&n1).unwrap();
    assert_eq!(status(), "False");
    let about = |w: &Watching| w.notices.values().any(|text| text.contains("NoRouteCreated"));
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    while !about(&watching) {
        assert!(std::time::Instant::now() < deadline, "{:?}", watching.notices);
        if status() == "False" {
            fake.put(NODES, routeless.clone());
        }
        watching.hear(Duration::from_millis(20));
    }
    // Several looks later.
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(status(), "True");
    // Who begins to watch only now hears of it, too.
    let mut later = Watching::begin(store.clone());
    later.until("the notice", about);
    let mut routed = routeless;
    routed["status"]["conditions"][0]["status"] = "False".into();
    fake.put(NODES, routed);
    watching.until("the end of it", |w| !about(w));
}

#[test]
fn a_kind_that_was_there_is_not_gone_because_somebody_says_404() {
    const CIDRS: &str = "apis/networking.k8s.io/v1/servicecidrs";
    let fake = two_nodes();
    let cidr = json!({ "metadata": { "name": "kubernetes" }, "spec": { "cidrs": ["10.96.0.0/12"] } });
    fake.put(CIDRS, cidr);
    let mut watching = Watching::synced(store(&fake, None));
    let key = FactKey::ServiceCidr(weft_model::ObjectName::new("kubernetes").unwrap());
    assert!(watching.facts.contains_key(&key));
    fake.set_faults(Faults { unknown: vec!["servicecidrs"], ..Faults::default() });
    fake.hang_up();
    watching
        .until("trouble", |w| w.said.last().is_some_and(|s| s.contains("servicecidrs") && s.contains("404")));
    assert!(watching.facts.contains_key(&key) && watching.removed.is_empty());
    // What the server has is believed.
    let group = json!({ "metadata": { "name": "v1" }, "resources": [{ "name": "ingresses" }] });
    fake.put("apis/networking.k8s.io", group);
    watching.until("the end", |w| w.said.last().is_some_and(|s| s == "synced"));
    assert_eq!(watching.removed, [key]);
}

/// An API server on an etcd without its data, or on another cluster's, has a few objects of its own, and says so of its own accord.
#[test]
fn a_server_that_no_longer_knows_the_node_takes_nothing_away() {
    let fake = two_nodes();
    let namespace = |name: &str| json!({ "metadata": { "name": name } });
    fake.put("api/v1/namespaces", namespace("shop"));
    let mut watching = Watching::synced(store(&fake, None));
    let facts = watching.facts.len();
    for (collection, name) in [(NODES, "n1"), (NODES, "n2"), ("api/v1/namespaces", "shop")] {
        fake.lose(collection, name);
    }
    fake.put("api/v1/namespaces", namespace("default"));
    fake.restart();
    watching.until("trouble", |w| w.said.last().is_some_and(|s| s.contains("no longer knows node n1")));
    assert!(watching.removed.is_empty() && watching.facts.len() >= facts, "{:?}", watching.removed);
    // The kubelet registers it again.
    fake.put(NODES, node("n1", 1));
    watching.until("the end", |w| w.said.last().is_some_and(|s| s == "synced"));
    // Each kind is listed on its own, and the nodes' list may come first.
    let gone = BTreeSet::from([FactKey::Namespace(NamespaceName::new("shop").unwrap()), key("n2")]);
    watching.until("what is gone", |w| BTreeSet::from_iter(w.removed.clone()) == gone);
}

#[test]
fn what_changes_nothing_that_is_read_is_not_told() {
    let fake = two_nodes();
    let mut watching = Watching::synced(store(&fake, None));
    let before = watching.sets;
    for beat in 0..20 {
        let mut n1 = node("n1", 1);
        n1["status"] = json!({ "conditions": [{ "type": "Ready", "lastHeartbeatTime": beat }] });
        fake.put(NODES, n1);
    }
    // Not even a new list tells what is known.
    fake.send_raw(NODES, EXPIRED);
    fake.put(NODES, node("n2", 2));
    watching.until_nodes("n1=1 n2=2");
    assert_eq!(watching.sets, before + 1);
}

#[test]
fn silence_is_no_sign_that_nothing_was_missed() {
    let fake = two_nodes();
    let patience = Patience { silence: Duration::from_secs(60), ..impatient() };
    let mut watching = Watching::synced(store_with(&fake, None, patience));
    fake.set_faults(Faults { down: true, ..Faults::default() });
    fake.hang_up();
    watching.until("stale", |w| w.said.last().is_some_and(|s| s.starts_with("stale: ")));
    // It is back, has changes to tell, and is late with them.
    fake.put(NODES, node("n1", 2));
    fake.set_faults(Faults { mute: true, ..Faults::default() });
    let asked = |fake: &Fake| fake.requests().iter().filter(|(_, r)| r.contains("/nodes?watch")).count();
    let (before, deadline) = (asked(&fake), std::time::Instant::now() + Duration::from_secs(20));
    while asked(&fake) == before {
        assert!(std::time::Instant::now() < deadline, "no watch goes on");
        std::thread::sleep(Duration::from_millis(10));
    }
    std::thread::sleep(Duration::from_millis(1500));
    fake.set_faults(Faults::default());
    watching.until("synced", |w| w.said.last().is_some_and(|s| s == "synced"));
    assert_eq!(watching.versions(), "n1=2 n2=1");
}

#[test]
fn a_server_that_streams_again_is_asked_to() {
    let fake = two_nodes();
    fake.set_faults(Faults { no_streams: true, ..Faults::default() });
    let patience = Patience { paged: Duration::from_millis(50), ..impatient() };
    let mut watching = Watching::synced(store_with(&fake, None, patience));
    fake.set_faults(Faults::default());
    let is_streamed = |r: &str| r.contains("/nodes?") && r.contains("sendInitialEvents");
    let streamed = || fake.requests().iter().filter(|(_, r)| is_streamed(r)).count();
    let before = streamed();
    std::thread::sleep(Duration::from_millis(60));
    fake.send_raw(NODES, EXPIRED);
    fake.put(NODES, node("n1", 2));
    watching.until_nodes("n1=2 n2=1");
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    while streamed() == before {
        assert!(std::time::Instant::now() < deadline, "lists are paged for ever");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// What preflight asks.
#[test]
fn a_look_tells_by_which_addresses_the_cluster_knows_the_node() {
    let fake = Fake::start();
    let store = store(&fake, None);
    assert_eq!(store.look().unwrap().1.len(), 0, "no kubelet has said any yet");
    let addresses = json!([
        { "type": "Hostname", "address": "n1" },
        { "type": "InternalIP", "address": "192.0.2.1" },
        { "type": "ExternalIP", "address": "203.0.113.1" },
        { "type": "InternalIP", "address": "2001:db8::1" },
    ]);
    fake.put(
        NODES,
        json!({ "kind": "Node", "metadata": { "name": "n1" }, "status": { "addresses": addresses } }),
    );
    let (server, registered) = store.look().unwrap();
    assert_eq!((server.trim_end_matches('/'), registered.len()), (&*fake.address(), 2));
    assert_eq!(registered[0].to_string(), "192.0.2.1");
}
