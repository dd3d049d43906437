//! Which machine is a node: two that have one name, and one that can't say it.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use weft_model::{Network, NodeAddress, NodeName};
use weft_store::{
    DirectoryOptions, DirectoryStore, Event, Notice, Published, PublishedNode, Remark, Store, StoreError,
};

use super::listening::Listening;

/// Waits for an event like this.
fn until_told(listening: &Listening, what: &str, is_it: impl Fn(&Event) -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        match listening.events.recv_timeout(left) {
            Ok(event) if is_it(&event) => return,
            Ok(_) => {}
            Err(_) => panic!("{what} did not come"),
        }
    }
}

fn says(ip: &str) -> Published {
    Published::Node(PublishedNode {
        name: NodeName::new("n1").unwrap(),
        addresses: vec![NodeAddress { ip: ip.parse().unwrap(), prefix: None }],
        pod_cidrs: Vec::new(),
        vtep_mac: None,
        flannel: None,
    })
}

fn network() -> Network {
    Network { pod_cidrs: vec!["10.244.0.0/16".parse().unwrap()], ..Network::ordinary() }
}

/// Two machines of one name would give out the same addresses, and each would say the other's.
#[test]
fn another_machine_of_the_nodes_name_is_refused_while_the_first_answers() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("cluster")).unwrap();
    let n1 = NodeName::new("n1").unwrap();
    let look = Duration::from_millis(100);
    let open = |machine: &str| {
        let options = DirectoryOptions {
            machine: Some((n1.clone(), machine.to_owned())),
            look,
            ..DirectoryOptions::default()
        };
        Arc::new(DirectoryStore::open(&dir.path().join("cluster"), options).unwrap())
    };
    let published = || fs::read_to_string(dir.path().join("cluster/.weft/nodes/n1.json")).unwrap();
    let begin = |store: &Arc<DirectoryStore>| Listening::begin(store.clone());
    let is_refused = |by: &'static str| move |event: &Event| matches!(event, Event::Hold(weft_store::Hold::Lapsed(text)) if text.contains(by));
    let is_free = |event: &Event| *event == Event::Hold(weft_store::Hold::Unbound);

    let one = open("one");
    let listening = begin(&one);
    one.publish(&says("192.0.2.1")).unwrap();
    let claim = one.claim_pod_cidrs(&network(), &n1, &[]).unwrap();

    let two = open("two");
    let heard = begin(&two);
    until_told(&heard, "the second's refusal", is_refused("another machine (one) is node n1 as well"));
    let refused = two.publish(&says("192.0.2.2")).unwrap_err().to_string();
    assert!(refused.contains("another machine (one)"), "{refused}");
    assert!(two.claim_pod_cidrs(&network(), &n1, &[]).is_err());
    until_told(
        &listening,
        "the first's warning",
        |event| matches!(event, Event::Notice(Notice { text: Some(Remark::Warning(text)), .. }) if text.contains("(two)")),
    );
    // For longer than a silence lasts.
    std::thread::sleep(look * 40);
    assert!(two.publish(&says("192.0.2.2")).is_err());
    assert!(published().contains("192.0.2.1"));

    // The first one restarts: it goes on.
    drop((listening, one));
    let one = open("one");
    assert_eq!(one.claim_pod_cidrs(&network(), &n1, &[]).unwrap(), claim);
    one.publish(&says("192.0.2.3")).unwrap();
    drop(one);

    // Where it stays away, it may be the second one before it was set up anew.
    until_told(&heard, "the silent one's place", is_free);
    two.publish(&says("192.0.2.2")).unwrap();
    assert_eq!(two.claim_pod_cidrs(&network(), &n1, &[]).unwrap(), claim);
    let one = open("one");
    let listening = begin(&one);
    until_told(&listening, "the first's refusal", is_refused("another machine (two)"));
    assert!(one.publish(&says("192.0.2.1")).is_err());
    assert!(published().contains("192.0.2.2"));
    // A person decides, who can see whose it is.
    drop((heard, two));
    assert_eq!(one.machine_of(&n1).unwrap().as_deref(), Some("two"));
    one.forget_node(&n1).unwrap();
    one.publish(&says("192.0.2.1")).unwrap();
    assert!(published().contains("192.0.2.1"));
}

/// Mounts a folder on itself, in this thread's own mount namespace.
fn mount_on_itself(folder: &Path) -> nix::Result<()> {
    unshare(CloneFlags::CLONE_NEWNS)?;
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(None::<&str>, "/", None::<&str>, private, None::<&str>)?;
    mount(Some(folder), folder, None::<&str>, MsFlags::MS_BIND, None::<&str>)
}

/// What an earlier version has claimed and published stands, and is all that a folder which can only be read lets a node do.
#[test]
fn a_node_whose_folder_can_only_be_read_goes_on_with_what_it_has() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("cluster");
    fs::create_dir(&root).unwrap();
    if let Err(error) = mount_on_itself(&root) {
        println!(
            "SKIPPED: a_node_whose_folder_can_only_be_read_goes_on_with_what_it_has: no mounts of its own: {error}"
        );
        return;
    }
    let remount = |how: MsFlags| {
        let flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | how;
        mount(None::<&str>, &root, None::<&str>, flags, None::<&str>).unwrap();
    };
    let n1 = NodeName::new("n1").unwrap();
    let earlier = DirectoryStore::open(&root, DirectoryOptions::default()).unwrap();
    earlier.publish(&says("192.0.2.1")).unwrap();
    let claim = earlier.claim_pod_cidrs(&network(), &n1, &[]).unwrap();

    remount(MsFlags::MS_RDONLY);
    let options = DirectoryOptions {
        machine: Some((n1.clone(), "one".to_owned())),
        look: Duration::from_millis(100),
        ..DirectoryOptions::default()
    };
    let one = Arc::new(DirectoryStore::open(&root, options).unwrap());
    assert_eq!(one.claim_pod_cidrs(&network(), &n1, &[]).unwrap(), claim);
    let listening = Listening::begin(one.clone());
    until_told(
        &listening,
        "the warning",
        |event| matches!(event, Event::Notice(Notice { text: Some(Remark::Warning(text)), .. }) if text.starts_with("cannot write ")),
    );
    until_told(&listening, "the snapshot", |event| *event == Event::Synced);
    one.publish(&says("192.0.2.1")).unwrap();
    assert!(matches!(one.publish(&says("192.0.2.2")), Err(StoreError::Publish { .. })));
    assert_eq!(one.machine_of(&n1).unwrap(), None);

    remount(MsFlags::empty());
    let is_over = |event: &Event| matches!(event, Event::Notice(Notice { about, text: None }) if about == "machine of node n1");
    until_told(&listening, "the end of the warning", is_over);
    assert_eq!(one.machine_of(&n1).unwrap().as_deref(), Some("one"));
    one.publish(&says("192.0.2.2")).unwrap();
    drop(listening);
    umount2(&root, MntFlags::MNT_DETACH).unwrap();
}
