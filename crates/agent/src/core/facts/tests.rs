//! One agent after another, with a store in between that says less than before.

use std::path::Path;
use std::sync::mpsc::channel;
use std::time::Duration;

use weft_model::{Namespace, NamespaceName, NodeName};

use super::super::{Around, SharedPlans};
use super::*;
use crate::health::news;
use crate::message::Message;

fn core(folder: &Path) -> Core {
    let at = |name: &str| folder.join(name);
    let config = serde_json::json!({
        "node": "n1",
        "store": {"directory": at("cluster")},
        "stateDir": at("state"),
        "runDir": at("run"),
        "cni": {"confDir": at("cni"), "leaseDir": at("leases")},
    });
    let around = Around { kernel: channel().0, publish: channel().0, health: news().0 };
    Core::new(serde_json::from_value(config).unwrap(), SharedPlans::default(), around).unwrap()
}

fn namespace(name: &str) -> Change {
    Change::set(Fact::Namespace(Namespace::named(NamespaceName::new(name).unwrap())))
}

fn node(name: &str) -> Change {
    Change::set(Fact::Node(weft_model::Node::named(NodeName::new(name).unwrap())))
}

fn tell(core: &mut Core, events: impl IntoIterator<Item = Event>) {
    for event in events {
        assert!(core.take(Message::Store(event)));
    }
}

fn unread(about: &str, only: Option<FactKey>) -> Event {
    Event::Notice(Notice {
        about: about.into(),
        text: Some(Remark::Unread { text: "is broken".into(), only }),
    })
}

fn mended(about: &str) -> Event {
    Event::Notice(Notice { about: about.into(), text: None })
}

/// The namespaces that are in force.
fn in_force(core: &Core) -> Vec<String> {
    let mut names: Vec<String> =
        core.compiler.facts().namespaces().map(|namespace| namespace.name.to_string()).collect();
    names.sort();
    names
}

/// A folder in which an agent has known namespaces a and b, and has ended.
fn after_a_first_agent() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let mut first = core(folder.path());
    tell(&mut first, [Event::Changes(vec![node("n1"), namespace("a"), namespace("b")]), Event::Synced]);
    assert_eq!(in_force(&first), ["a", "b"]);
    folder
}

fn later(core: &mut Core, after: Duration) {
    let at = core.now + after;
    assert!(core.take(Message::Tick(at)));
}

#[test]
fn what_a_whole_snapshot_lacks_is_gone() {
    let folder = after_a_first_agent();
    let mut next = core(folder.path());
    tell(&mut next, [Event::Changes(vec![node("n1"), namespace("a")]), Event::Synced]);
    assert_eq!(in_force(&next), ["a"]);
}

#[test]
fn a_restart_beside_a_broken_file_takes_nothing_away() {
    let folder = after_a_first_agent();
    // The log that the second one leaves knows it as well.
    for _ in 0..2 {
        let mut next = core(folder.path());
        let said = Event::Changes(vec![node("n1"), namespace("a")]);
        tell(&mut next, [said, unread("b.yaml", None), Event::Synced]);
        assert_eq!(in_force(&next), ["a", "b"]);
        later(&mut next, 3 * LOOK_EVERY);
        assert_eq!(in_force(&next), ["a", "b"]);
    }
    // Mended, it holds another one: what it no longer holds goes, a little later.
    let mut next = core(folder.path());
    let said = Event::Changes(vec![node("n1"), namespace("a")]);
    tell(&mut next, [said, unread("b.yaml", None), Event::Synced]);
    tell(&mut next, [Event::Changes(vec![namespace("c")]), mended("b.yaml")]);
    later(&mut next, Duration::ZERO);
    assert_eq!(in_force(&next), ["a", "b", "c"]);
    later(&mut next, LOOK_EVERY);
    assert_eq!(in_force(&next), ["a", "c"]);
    drop(next);
    let (last, _) = fact_log::read(&folder.path().join("state")).unwrap();
    assert_eq!(last.last(), Some(&Change::Remove(namespace("b").key())), "the log knows that it has gone");
}

#[test]
fn one_object_that_cannot_be_read_keeps_no_other() {
    let folder = after_a_first_agent();
    let mut next = core(folder.path());
    let broken = unread("namespace b", Some(namespace("b").key()));
    tell(&mut next, [Event::Changes(vec![node("n1"), node("n2")]), broken, Event::Synced]);
    assert_eq!(in_force(&next), ["b"]);
}

#[test]
fn a_store_that_is_bare_at_the_start_takes_nothing_away() {
    let folder = after_a_first_agent();
    let mut next = core(folder.path());
    tell(&mut next, [Event::Changes(vec![node("n1")]), Event::Synced]);
    assert_eq!(in_force(&next), ["a", "b"]);
    later(&mut next, 3 * LOOK_EVERY);
    assert_eq!(in_force(&next), ["a", "b"]);
    let asks = |core: &Core| core.warnings().iter().any(|w| w.contains("is its file system mounted?"));
    assert!(asks(&next), "{:?}", next.warnings());
    // It is mounted; its files come in pieces.
    tell(&mut next, [Event::Changes(vec![namespace("a")])]);
    later(&mut next, Duration::ZERO);
    assert_eq!(in_force(&next), ["a", "b"]);
    later(&mut next, LOOK_EVERY);
    assert_eq!(in_force(&next), ["a"]);
    later(&mut next, Duration::ZERO);
    assert!(!asks(&next), "{:?}", next.warnings());
}

#[test]
fn a_server_that_no_longer_knows_the_node_takes_nothing_away() {
    let folder = after_a_first_agent();
    // Twice: what the log says of it stays.
    for _ in 0..2 {
        let mut next = core(folder.path());
        tell(&mut next, [Event::Changes(vec![namespace("default")]), Event::Synced]);
        later(&mut next, 3 * LOOK_EVERY);
        assert_eq!(in_force(&next), ["a", "b", "default"]);
        let asks = |core: &Core| core.warnings().iter().any(|w| w.contains("no longer holds this node"));
        assert!(asks(&next), "{:?}", next.warnings());
    }
    let mut next = core(folder.path());
    tell(&mut next, [Event::Changes(vec![namespace("default"), namespace("a")]), Event::Synced]);
    // It is registered again.
    tell(&mut next, [Event::Changes(vec![node("n1")])]);
    later(&mut next, Duration::ZERO);
    later(&mut next, LOOK_EVERY);
    assert_eq!(in_force(&next), ["a", "default"]);
    later(&mut next, Duration::ZERO);
    assert!(next.warnings().iter().all(|w| !w.contains("no longer holds")), "{:?}", next.warnings());
}

#[test]
fn a_broken_file_after_an_outage_at_the_start_takes_nothing_away() {
    let folder = after_a_first_agent();
    let mut next = core(folder.path());
    later(&mut next, 4 * LOOK_EVERY);
    assert_eq!(in_force(&next), ["a", "b"], "by the last facts");
    let said = Event::Changes(vec![node("n1"), namespace("a")]);
    tell(&mut next, [said, unread("b.yaml", None), Event::Synced]);
    assert_eq!(in_force(&next), ["a", "b"]);
    tell(&mut next, [mended("b.yaml")]);
    later(&mut next, Duration::ZERO);
    later(&mut next, LOOK_EVERY);
    assert_eq!(in_force(&next), ["a"]);
}
