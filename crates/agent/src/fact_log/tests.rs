//! The log on disk, over starts, ends and full disks.

use std::process::Command;

use super::*;
use weft_model::{Fact, Namespace, NamespaceName};

fn set(name: &str) -> Change {
    Change::set(Fact::Namespace(Namespace::named(NamespaceName::new(name).unwrap())))
}

fn replay(folder: &Path) -> Vec<String> {
    let mut names = std::collections::BTreeSet::new();
    for change in read(folder).map(|last| last.changes).unwrap_or_default() {
        match change {
            Change::Set(fact) => drop(names.insert(fact.key().to_string())),
            Change::Remove(key) => drop(names.remove(&key.to_string())),
        }
    }
    names.into_iter().collect()
}

#[test]
fn the_old_log_counts_until_the_new_one_is_complete() {
    let folder = tempfile::tempdir().unwrap();
    assert!(read(folder.path()).is_none());
    let log = FactLog::begin(folder.path()).unwrap();
    log.append(vec![set("a"), set("b")]);
    log.complete();
    log.append(vec![Change::Remove(FactKey::Namespace(NamespaceName::new("a").unwrap()))]);
    drop(log);
    assert_eq!(replay(folder.path()), ["namespace b"]);
    let log = FactLog::begin(folder.path()).unwrap();
    log.append(vec![set("c")]);
    drop(log);
    assert_eq!(replay(folder.path()), ["namespace b"]);
}

/// Of a first snapshot all is queued at once, and whoever stops the agent, or takes over, waits for its end.
#[test]
fn a_first_log_holds_up_no_end() {
    let folder = tempfile::tempdir().unwrap();
    let old = FactLog::begin(folder.path()).unwrap();
    old.append(vec![set("a")]);
    old.complete();
    drop(old);
    let log = FactLog::begin_with(folder.path(), PAUSE, Duration::ZERO).unwrap();
    let many = |n: usize| (0..1000).map(|m| set(&format!("n{n}-{m}"))).collect();
    let all: Vec<Vec<Change>> = (0..100).map(many).collect();
    all.into_iter().for_each(|changes| log.append(changes));
    log.complete();
    assert!(!log.has_settled());
    drop(log);
    assert_eq!(replay(folder.path()), ["namespace a"]);
    assert!(!folder.path().join("facts.log.new").exists());
    // What it lacks may be in force: nothing goes for want of it.
    let lost = || read(folder.path()).unwrap().lost;
    assert!(lost().is_some_and(|said| said.contains("lacks what the last agent knew")));
    // The next one begins with it, and with time enough leaves nothing of that.
    let log = FactLog::begin(folder.path()).unwrap();
    assert!(lost().is_some());
    log.append(vec![set("b")]);
    log.complete();
    log.complete();
    drop(log);
    assert_eq!((lost(), replay(folder.path())), (None, vec!["namespace b".to_owned()]));
}

/// An agent may be killed as well, or run out of memory over its first snapshot.
#[test]
fn from_the_first_snapshot_on_the_log_before_counts_as_one_that_lacks_facts() {
    let folder = tempfile::tempdir().unwrap();
    let first = FactLog::begin(folder.path()).unwrap();
    first.append(vec![set("a")]);
    first.complete();
    drop(first);
    let lost = || read(folder.path()).unwrap().lost;
    // A log whose writer never comes to it.
    let (entries, _inbox) = channel();
    let behind = folder.path().join(BEHIND);
    let (shared, is_full) = (Arc::new(Shared::default()), AtomicBool::new(false));
    let log = FactLog { entries: Some(entries), thread: None, shared, grace: GRACE, behind, is_full };
    log.append(vec![set("b")]);
    assert_eq!(lost(), None, "nothing of it is in force yet");
    log.complete();
    assert!(lost().is_some_and(|said| said.contains("lacks what the last agent knew")));
}

#[test]
fn that_the_first_snapshot_is_written_is_told_once() {
    let folder = tempfile::tempdir().unwrap();
    let log = FactLog::begin(folder.path()).unwrap();
    log.append(vec![set("a")]);
    assert!(!log.has_settled());
    log.complete();
    let deadline = Instant::now() + Duration::from_secs(20);
    while !log.has_settled() {
        assert!(Instant::now() < deadline);
        std::thread::sleep(Duration::from_millis(5));
    }
    log.append(vec![set("b")]);
    drop(log);
    assert_eq!(replay(folder.path()), ["namespace a", "namespace b"]);
}

#[test]
fn what_a_newer_version_wrote_is_read_as_far_as_it_is_known() {
    let folder = tempfile::tempdir().unwrap();
    let known = serde_json::to_string(&set("a")).unwrap();
    let strange = ["{\"Set\":{\"Policy\":{\"x\":1}}}", "{\"Rename\":[\"a\",\"b\"]}"].join("\n");
    std::fs::write(folder.path().join(NAME), format!("{strange}\n{known}\n")).unwrap();
    assert_eq!(replay(folder.path()), ["namespace a"]);
}

#[test]
fn what_is_lost_is_said_until_all_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let lost = || read(folder.path()).unwrap().lost;
    let known = serde_json::to_string(&set("a")).unwrap();
    let check = |text: &str, expected: Option<&str>| {
        std::fs::write(folder.path().join(NAME), text).unwrap();
        match (lost(), expected) {
            (None, None) => {}
            (Some(said), Some(expected)) => assert!(said.contains(expected), "{said}"),
            (said, _) => panic!("{text}: {said:?}"),
        }
    };
    check(&format!("{known}\n{known}\n"), None);
    check(&known, None);
    check(&format!("{known}\n\0\0{known}\n{known}\n"), Some("1 lines are not understood"));
    check(&format!("{known}\n{}", &known[..9]), Some("1 lines are not understood"));
    mark_incomplete(folder.path()).unwrap();
    check(&format!("{known}\n"), Some("was damaged"));
    // It goes when the log that lacks nothing is in its place, not before.
    let log = FactLog::begin(folder.path()).unwrap();
    log.append(vec![set("b")]);
    log.lacks_nothing();
    drop(log);
    assert!(lost().is_some_and(|said| said.contains("was damaged")));
    let log = FactLog::begin(folder.path()).unwrap();
    log.lacks_nothing();
    log.append(vec![set("b")]);
    log.complete();
    drop(log);
    assert_eq!((lost(), replay(folder.path())), (None, vec!["namespace b".to_owned()]));
}

#[test]
fn a_log_that_cannot_be_opened_is_lost_and_none_is_none() {
    let folder = tempfile::tempdir().unwrap();
    let lost = || read(folder.path()).map(|last| (last.changes.len(), last.lost.unwrap()));
    assert_eq!(lost(), None);
    mark_incomplete(folder.path()).unwrap();
    let (changes, said) = lost().unwrap();
    assert!(changes == 0 && said.contains("facts.log can't be read"), "{said}");
    std::fs::remove_file(folder.path().join(MARK)).unwrap();
    // Even root can't open it.
    std::os::unix::fs::symlink(NAME, folder.path().join(NAME)).unwrap();
    assert!(lost().is_some_and(|(_, said)| said.contains("facts.log can't be read")));
}

#[test]
fn a_part_of_a_log_goes_with_the_next_start() {
    let folder = tempfile::tempdir().unwrap();
    let left = folder.path().join("facts.log.new");
    std::fs::write(&left, "{\"Set\":").unwrap();
    let log = FactLog::begin(folder.path()).unwrap();
    assert!(!left.exists());
    drop(log);
}

#[test]
fn the_log_stays_in_proportion_and_survives_a_cut_line() {
    let folder = tempfile::tempdir().unwrap();
    let log = FactLog::begin(folder.path()).unwrap();
    log.complete();
    for _ in 0..50 {
        log.append((0..100).map(|n| set(&format!("n{}", n % 7))).collect());
    }
    drop(log);
    let text = std::fs::read_to_string(folder.path().join(NAME)).unwrap();
    assert!(text.lines().count() < 1500, "{}", text.lines().count());
    std::fs::write(folder.path().join(NAME), format!("{text}{{\"Set\":{{\"Na")).unwrap();
    assert_eq!(replay(folder.path()).len(), 7);
}

#[test]
fn a_full_disk_is_said_and_waited_out() {
    let disk = tempfile::tempdir().unwrap();
    // With room for all that is said below, outdated or not: how much of it waits together is luck.
    let mounted =
        Command::new("mount").args(["-t", "tmpfs", "-o", "size=1m", "none"]).arg(disk.path()).status();
    if !mounted.is_ok_and(|status| status.success()) {
        println!("SKIPPED: a_full_disk_is_said_and_waited_out: mounting a tmpfs needs root");
        return;
    }
    let filled = std::panic::catch_unwind(|| fill_and_free(disk.path()));
    let unmounted = Command::new("umount").args(["-l"]).arg(disk.path()).status();
    assert!(unmounted.is_ok_and(|status| status.success()));
    if let Err(panic) = filled {
        std::panic::resume_unwind(panic);
    }
}

fn fill_and_free(disk: &Path) {
    let log = FactLog::begin_with(disk, Duration::from_millis(20), GRACE).unwrap();
    let until = |what: &str, done: &dyn Fn() -> bool| {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !done() {
            assert!(Instant::now() < deadline, "{what} did not come");
            std::thread::sleep(Duration::from_millis(5));
        }
    };
    log.append(vec![set("a"), set("b")]);
    log.complete();
    until("the first log", &|| replay(disk) == ["namespace a", "namespace b"]);
    assert_eq!(log.trouble(), None);
    // As much as there is room for.
    let mut rest = File::create(disk.join("rest")).unwrap();
    while rest.write_all(&[0; 512]).is_ok() {}
    // More than what is left of the log's last page; and more than is kept of what is outdated.
    let many: Vec<Change> = (0..200).map(|n| set(&format!("n{n}"))).collect();
    for _ in 0..20 {
        log.append(many.clone());
    }
    log.append(vec![Change::Remove(FactKey::Namespace(NamespaceName::new("a").unwrap()))]);
    until("the trouble", &|| log.trouble().is_some_and(|text| text.contains("facts.log")));
    // What was there is there, and no part of what didn't fit takes up the room that others may need.
    assert!(replay(disk).contains(&"namespace b".to_owned()));
    until("the room of what did not fit", &|| {
        let text = std::fs::read_to_string(disk.join(NAME)).unwrap();
        text.ends_with('\n') && !disk.join("facts.log.new").exists()
    });
    // The next agent would hear that this one knew more.
    until("the mark", &|| read(disk).is_some_and(|last| last.lost.is_some()));
    drop(rest);
    std::fs::remove_file(disk.join("rest")).unwrap();
    until("the end of the trouble", &|| log.trouble().is_none());
    assert_eq!(read(disk).unwrap().lost, None);
    log.append(vec![set("c")]);
    drop(log);
    let found = replay(disk);
    assert_eq!(found.len(), 202, "{found:?}");
    assert!(!found.contains(&"namespace a".to_owned()));
    let text = std::fs::read_to_string(disk.join(NAME)).unwrap();
    assert!(text.lines().all(|line| serde_json::from_str::<Change>(line).is_ok()), "a torn line is left");
}
