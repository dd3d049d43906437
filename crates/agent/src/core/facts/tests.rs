//! One agent after another, with a store in between that says less than before.

use std::path::Path;
use std::sync::mpsc::channel;
use std::time::Duration;

use weft_model::{Namespace, NamespaceName, NodeName};

use super::super::{Around, STORE_PATIENCE, SharedPlans, Work};
use super::*;
use crate::health::news;
use crate::message::Message;

fn core(folder: &Path) -> Core {
    core_over(folder, channel().0)
}

fn core_over(folder: &Path, kernel: std::sync::mpsc::Sender<Work>) -> Core {
    let at = |name: &str| folder.join(name);
    let config = serde_json::json!({
        "node": "n1",
        "store": {"directory": at("cluster")},
        "stateDir": at("state"),
        "runDir": at("run"),
        "cni": {"confDir": at("cni"), "leaseDir": at("leases")},
    });
    let around = Around { kernel, publish: channel().0, health: news().0 };
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

/// Namespaces in the log that the last agent left, and how many changes it has.
fn logged(folder: &Path) -> (Vec<String>, usize) {
    let changes = fact_log::read(&folder.join("state")).unwrap().changes;
    let is_namespace = |change: &&Change| matches!(change.key(), FactKey::Namespace(_));
    let mut names: Vec<String> = changes.iter().filter(is_namespace).map(|c| c.key().to_string()).collect();
    names.sort();
    (names, changes.len())
}

#[test]
fn the_log_begins_with_all_that_the_first_snapshot_left() {
    let folder = tempfile::tempdir().unwrap();
    let mut core = core(folder.path());
    core.compiler.apply(Change::set(Fact::Host(weft_model::Host::default())));
    let more = TOLD_TOGETHER + 1;
    let many = (0..more).map(|n| namespace(&format!("n-{n}"))).collect();
    let gone = Change::Remove(namespace("n-0").key());
    tell(&mut core, [Event::Changes(many), Event::Changes(vec![gone, node("n1")]), Event::Synced]);
    // What was told once is not told again.
    tell(&mut core, [Event::Changes(vec![namespace("n-1")]), Event::Synced]);
    drop(core);
    let (names, changes) = logged(folder.path());
    assert_eq!((names.len(), changes), (more - 1, more), "as many namespaces, and the node");
    assert!(!names.contains(&"namespace n-0".to_owned()));
}

#[test]
fn what_the_store_took_back_before_it_fell_silent_is_not_recalled() {
    let folder = after_a_first_agent();
    let mut next = core(folder.path());
    let said = vec![node("n1"), namespace("b"), Change::Remove(namespace("b").key()), namespace("c")];
    tell(&mut next, [Event::Changes(said)]);
    later(&mut next, STORE_PATIENCE * 2);
    assert_eq!(in_force(&next), ["a", "c"]);
    // The log that it leaves knows both what it recalled and what it was told, and nothing of what has gone.
    tell(&mut next, [unread("a.yaml", None), Event::Synced]);
    drop(next);
    assert_eq!(logged(folder.path()).0, ["namespace a", "namespace c"]);
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
    let last = fact_log::read(&folder.path().join("state")).unwrap().changes;
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

/// The log that the last agent left, with its word on namespace b made unreadable.
fn damage(folder: &Path) {
    let log = folder.join("state/facts.log");
    let text = std::fs::read_to_string(&log).unwrap();
    let damaged: Vec<&str> =
        text.lines().map(|line| if line.contains("\"b\"") { "\0\0" } else { line }).collect();
    assert!(damaged.contains(&"\0\0"), "{text}");
    std::fs::write(&log, damaged.join("\n") + "\n").unwrap();
}

/// Whether the plan takes away what it lacks.
fn takes_away(core: &mut Core) -> bool {
    core.flush();
    !core.plans.kernel.read().unwrap().is_partial
}

fn says_lost(core: &Core) -> bool {
    core.warnings().iter().any(|warning| warning.contains("some of the last facts are lost"))
}

#[test]
fn a_damaged_log_takes_nothing_away_until_the_store_has_told_everything() {
    let folder = after_a_first_agent();
    damage(folder.path());
    let (kernel, work) = channel();
    let mut next = core_over(folder.path(), kernel);
    later(&mut next, LOOK_EVERY);
    assert_eq!(in_force(&next), ["a"]);
    assert!(says_lost(&next) && !takes_away(&mut next));
    // A file can't be read, in which it may be.
    let said = Event::Changes(vec![node("n1"), namespace("a")]);
    tell(&mut next, [said, unread("b.yaml", None), Event::Synced]);
    later(&mut next, 3 * LOOK_EVERY);
    assert!(says_lost(&next) && !takes_away(&mut next));
    while work.try_recv().is_ok() {}
    tell(&mut next, [Event::Changes(vec![namespace("c")]), mended("b.yaml")]);
    later(&mut next, Duration::ZERO);
    later(&mut next, LOOK_EVERY);
    assert!(takes_away(&mut next) && !says_lost(&next));
    assert!(work.try_iter().any(|work| matches!(work, Work::Sync)), "what was left is never compared");
    drop(next);
    assert_eq!(fact_log::read(&folder.path().join("state")).unwrap().lost, None);
}

#[test]
fn what_was_lost_is_remembered_over_restarts() {
    let folder = after_a_first_agent();
    damage(folder.path());
    // The log that each of them leaves is whole by itself.
    for _ in 0..2 {
        let mut next = core(folder.path());
        let said = Event::Changes(vec![node("n1"), namespace("a")]);
        tell(&mut next, [said, unread("b.yaml", None), Event::Synced]);
        assert!(says_lost(&next) && !takes_away(&mut next));
    }
    let mut next = core(folder.path());
    tell(&mut next, [Event::Changes(vec![node("n1"), namespace("a")]), Event::Synced]);
    assert!(takes_away(&mut next) && !says_lost(&next));
    drop(next);
    // Nothing more is to be kept in mind.
    let mut next = core(folder.path());
    later(&mut next, LOOK_EVERY);
    assert!(takes_away(&mut next) && !says_lost(&next));
}

#[test]
fn a_store_without_this_node_takes_nothing_away_where_the_log_lost_it() {
    let folder = after_a_first_agent();
    let log = folder.path().join("state/facts.log");
    let text = std::fs::read_to_string(&log).unwrap();
    std::fs::write(
        &log,
        text.lines().filter(|l| !l.contains("\"n1\"")).collect::<Vec<_>>().join("\n") + "\n\0\n",
    )
    .unwrap();
    let mut next = core(folder.path());
    tell(&mut next, [Event::Changes(vec![namespace("default")]), Event::Synced]);
    later(&mut next, 3 * LOOK_EVERY);
    assert_eq!(in_force(&next), ["a", "b", "default"]);
    assert!(!takes_away(&mut next));
}
