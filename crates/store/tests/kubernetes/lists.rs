//! Lists: streamed, in pages, broken off, and followed by watches that are refused.

use std::time::Duration;

use weft_store::kubernetes::Patience;

use super::fake::{Fake, Faults};
use super::watching::{NODES, Watching, impatient, node, store, store_with};
use super::{two_nodes, unhurried};

#[test]
fn what_comes_between_a_list_and_its_watch_is_told_and_a_refused_watch_withholds_no_snapshot() {
    let fake = two_nodes();
    let refuse_watches = std::iter::repeat_n((429, None), 10_000).collect();
    fake.set_faults(Faults { refuse_watches, ..Faults::default() });
    let mut watching = Watching::synced(unhurried(&fake));
    fake.put(NODES, node("n1", 2));
    fake.put(NODES, node("n3", 1));
    fake.delete(NODES, "n2");
    fake.set_faults(Faults::default());
    watching.until_nodes("n1=2 n3=1");
    assert_eq!(watching.said, ["synced"]);
}

#[test]
fn lists_whose_watches_come_to_nothing_are_asked_for_less_and_less() {
    let fake = two_nodes();
    let refuse_watches = std::iter::repeat_n((410, None), 10_000).collect();
    fake.set_faults(Faults { refuse_watches, ..Faults::default() });
    let patience = Patience { longest_pause: Duration::from_secs(60), ..impatient() };
    let mut watching = Watching::synced(store_with(&fake, None, patience));
    std::thread::sleep(Duration::from_secs(2));
    let requests = fake.requests();
    let lists = requests.iter().filter(|(_, line)| line.contains("/nodes?") && line.contains("sendInitial"));
    // Pauses of 10 ms, 20 ms and so on; without growth it would be some hundred lists.
    let count = lists.count();
    assert!((2..20).contains(&count), "{count} lists");
    fake.set_faults(Faults::default());
    fake.put(NODES, node("n1", 2));
    watching.until_nodes("n1=2 n2=1");
}

#[test]
fn a_server_that_does_not_stream_lists_is_asked_for_pages() {
    let check = |faults: Faults| {
        let fake = Fake::start();
        for i in 0..1234 {
            fake.put(NODES, node(&format!("n{i:04}"), 1));
        }
        fake.set_faults(faults);
        let mut watching = Watching::synced(store(&fake, None));
        assert_eq!(watching.facts.len(), 1234);
        fake.delete(NODES, "n0007");
        watching.until("a removal", |w| w.facts.len() == 1233);
        let pages = fake.requests().iter().filter(|(_, r)| r.contains("/nodes?limit=")).count();
        assert_eq!(pages, 3);
    };
    check(Faults { no_streams: true, ..Faults::default() });
    // One that has never heard of them sends the objects, and no end.
    check(Faults { no_end: true, ..Faults::default() });
}

#[test]
fn a_list_whose_pages_always_come_too_late_is_asked_for_as_a_whole() {
    let fake = Fake::start();
    for i in 0..1234 {
        fake.put(NODES, node(&format!("n{i:04}"), 1));
    }
    fake.set_faults(Faults { no_streams: true, forgets_pages: true, ..Faults::default() });
    let watching = Watching::synced(store(&fake, None));
    assert_eq!(watching.facts.len(), 1234);
    let requests = fake.requests();
    let asked = |what: &str| requests.iter().filter(|(_, r)| r.contains(what)).count();
    assert_eq!((asked("/nodes?limit=500"), asked("/nodes?limit=0")), (4, 1));
}

/// Other failures in between are no reason to begin counting anew, or a server that is busy as well would be asked for pages for ever.
#[test]
fn pages_that_come_too_late_count_whatever_else_fails_in_between() {
    let fake = Fake::start();
    for i in 0..1234 {
        fake.put(NODES, node(&format!("n{i:04}"), 1));
    }
    fake.set_faults(Faults {
        no_streams: true,
        forgets_pages: true,
        busy_between_pages: true,
        ..Faults::default()
    });
    let watching = Watching::synced(store(&fake, None));
    assert_eq!(watching.facts.len(), 1234);
}

#[test]
fn a_list_that_breaks_off_takes_nothing_away() {
    let fake = two_nodes();
    fake.put(NODES, node("n3", 1));
    let mut watching = Watching::synced(store(&fake, None));
    fake.put(NODES, node("n1", 2));
    watching.until_nodes("n1=2 n2=1 n3=1");
    fake.set_faults(Faults { cut_lists: Some(1), mute: true, ..Faults::default() });
    fake.compact();
    fake.put(NODES, node("n1", 3));
    fake.hang_up();
    watching.until_nodes("n1=3 n2=1 n3=1");
    watching.until("trouble", |w| w.said.last().is_some_and(|s| s.starts_with("stale: nodes: ")));
    fake.set_faults(Faults::default());
    watching.until("its end", |w| w.said.last().is_some_and(|s| s == "synced"));
    assert!(watching.removed.is_empty());
    assert_eq!(watching.versions(), "n1=3 n2=1 n3=1");
}
