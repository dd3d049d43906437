//! The directory store's own promises: editors, half-done copies, broken files, outages, who wins.

#[path = "../listening/mod.rs"]
mod listening;
mod machines;

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use weft_model::{Cidr, Fact, FactKey, Network, NetworkName, NodeName, ObjectKey, Pod};
use weft_store::{
    DirectoryOptions, DirectoryStore, Event, Notice, Published, PublishedNode, PublishedPod, Remark, Store,
};

use listening::{Listening, learn};

const SETTLE: Duration = Duration::from_millis(500);

struct Folder {
    // First, so that it ends before the folder does.
    listening: Listening,
    dir: tempfile::TempDir,
    store: Arc<DirectoryStore>,
    facts: BTreeMap<FactKey, Fact>,
    notices: BTreeMap<String, Remark>,
    /// Everything but changes and notices, in order.
    signals: Vec<String>,
}

impl Folder {
    fn with(files: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("cluster");
        fs::create_dir(&root).unwrap();
        for (name, text) in files {
            put(&root, name, text);
        }
        Self::open(dir)
    }

    fn open(dir: tempfile::TempDir) -> Self {
        let options = DirectoryOptions {
            settle: SETTLE,
            open: Duration::from_secs(4),
            safety_poll: Duration::from_secs(600),
            max_file: 1 << 20,
            ..DirectoryOptions::default()
        };
        Self::open_with(dir, options)
    }

    fn open_with(dir: tempfile::TempDir, options: DirectoryOptions) -> Self {
        let store = Arc::new(DirectoryStore::open(&dir.path().join("cluster"), options).unwrap());
        let mut folder = Self {
            listening: Listening::begin(store.clone()),
            dir,
            store,
            facts: BTreeMap::new(),
            notices: BTreeMap::new(),
            signals: Vec::new(),
        };
        folder.until("the first snapshot", |f| f.signals == ["synced"]);
        folder
    }

    fn root(&self) -> std::path::PathBuf {
        self.dir.path().join("cluster")
    }

    fn put(&self, name: &str, text: &str) {
        put(&self.root(), name, text);
    }

    fn take(&mut self, event: Event) {
        match event {
            Event::Changes(changes) => {
                for change in changes {
                    learn(&mut self.facts, change);
                }
            }
            Event::Notice(Notice { about, text: Some(text) }) => {
                self.notices.insert(about, text);
            }
            Event::Notice(Notice { about, text: None }) => {
                self.notices.remove(&about);
            }
            Event::Synced => self.signals.push("synced".into()),
            Event::Stale { reason, .. } => self.signals.push(format!("stale: {reason}")),
            // Claims of a folder never end.
            Event::Hold(hold) => self.signals.push(format!("{hold:?}")),
        }
    }

    #[track_caller]
    fn until(&mut self, what: &str, done: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !done(self) {
            match self.listening.events.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(event) => self.take(event),
                Err(_) => {
                    panic!("{what} did not come: {:?} {:#?} {:?}", self.keys(), self.notices, self.signals)
                }
            }
        }
    }

    /// Holds for a good while longer than anything takes to settle.
    #[track_caller]
    fn always(&mut self, what: &str, holds: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + 3 * SETTLE;
        loop {
            assert!(holds(self), "{what} no longer holds: {:?} {:#?}", self.keys(), self.notices);
            match self.listening.events.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(event) => self.take(event),
                Err(_) => return,
            }
        }
    }

    fn keys(&self) -> Vec<String> {
        self.facts.keys().map(ToString::to_string).collect()
    }

    fn has(&self, key: &str) -> bool {
        self.facts.keys().any(|k| k.to_string() == key)
    }

    fn warning(&self, about: &str) -> Option<&str> {
        match self.notices.get(about) {
            Some(Remark::Warning(text) | Remark::Unread { text, .. }) => Some(text),
            _ => None,
        }
    }

    fn pod(&self, key: &str) -> &Pod {
        let (namespace, name) = key.split_once('/').unwrap();
        match self.facts.get(&FactKey::Pod(ObjectKey::new(namespace, name).unwrap())) {
            Some(Fact::Pod(pod)) => pod,
            other => panic!("{key}: {other:?}"),
        }
    }
}

fn put(root: &Path, name: &str, text: &str) {
    let path = root.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

fn namespace(name: &str) -> String {
    format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: {name}}}\n")
}

fn labelled(app: &str) -> String {
    format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: web, namespace: shop, labels: {{app: {app}}}}}\n")
}

fn published(node: &str, ip: &str) -> Published {
    Published::Pod(PublishedPod {
        key: ObjectKey::new("shop", "web").unwrap(),
        uid: None,
        network: NetworkName::ordinary(),
        node: NodeName::new(node).unwrap(),
        ips: vec![ip.parse().unwrap()],
        host_ports: Vec::new(),
    })
}

#[test]
fn files_at_any_depth_are_read_and_others_are_not() {
    let folder = Folder::with(&[
        ("a.yaml", &namespace("a")),
        ("deep/er/b.yml", &namespace("b")),
        ("c.json", r#"{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"c"}}"#),
        (".hidden.yaml", &namespace("no")),
        (".git/x.yaml", &namespace("no")),
        ("a.yaml~", &namespace("no")),
        ("README.md", "no"),
        ("app.yaml", "apiVersion: apps/v1\nkind: Deployment\n---\napiVersion: apps/v1\nkind: Deployment\n"),
        ("app2.yaml", "apiVersion: apps/v1\nkind: Deployment\n"),
    ]);
    assert_eq!(folder.keys(), ["namespace a", "namespace b", "namespace c"]);
    let expected = "Weft has no use for this kind and passes it over (in app.yaml and 1 more files)";
    let notices: Vec<_> = folder.notices.iter().map(|(about, r)| (about.as_str(), r.clone())).collect();
    assert_eq!(notices, [("kind Deployment (apps/v1)", Remark::Info(expected.into()))]);
}

#[test]
fn changes_are_applied_as_they_are_saved() {
    let mut folder = Folder::with(&[]);
    folder.put("new/dir/a.yaml", &namespace("a"));
    folder.until("a file in a new folder", |f| f.has("namespace a"));
    folder.put("new/dir/b.yaml", &namespace("b"));
    folder.until("a second one there", |f| f.has("namespace b"));
    fs::rename(folder.root().join("new"), folder.root().join("old")).unwrap();
    folder.put("old/dir/c.yaml", &namespace("c"));
    folder.until("a file in a renamed folder", |f| f.has("namespace c"));
    folder.always("renaming takes nothing away", |f| f.facts.len() == 3 && f.notices.is_empty());
    std::os::unix::fs::symlink("old/dir/c.yaml", folder.root().join("d.yaml")).unwrap();
    folder.until("a link to the same", |f| f.warning("namespace c").is_some());
    fs::remove_dir_all(folder.root().join("old")).unwrap();
    folder.until("the end of all", |f| f.facts.is_empty());
}

#[test]
fn a_file_that_is_replaced_is_never_a_deletion() {
    let mut folder = Folder::with(&[("web.yaml", &labelled("web")), ("ns.yaml", &namespace("shop"))]);
    let root = folder.root();
    for round in 0..5 {
        // As one editor does: move away, write anew.
        fs::rename(root.join("web.yaml"), root.join("web.yaml~")).unwrap();
        std::thread::sleep(Duration::from_millis(30));
        folder.put("web.yaml", &labelled(&format!("a{round}")));
        // As another does: truncate, write slowly.
        let mut file = fs::File::create(root.join("ns.yaml")).unwrap();
        std::thread::sleep(Duration::from_millis(30));
        file.write_all(namespace("shop").as_bytes()).unwrap();
        drop(file);
        folder.until("the new label", |f| {
            assert_eq!(f.facts.len(), 2);
            f.pod("shop/web").labels.get("app") == Some(&format!("a{round}"))
        });
    }
    folder.always("nothing is missing", |f| f.facts.len() == 2);
}

#[test]
fn a_half_copied_file_takes_nothing_away() {
    let whole: String = ["a", "b", "c"].map(namespace).join("---\n");
    let mut folder = Folder::with(&[("all.yaml", &whole)]);
    // A copy that keeps the file open, longer than anything settles.
    let mut file = fs::File::create(folder.root().join("all.yaml")).unwrap();
    file.write_all(&whole.as_bytes()[..whole.len() / 2]).unwrap();
    folder.always("an unfinished copy takes nothing away", |f| f.facts.len() == 3);
    file.write_all(&whole.as_bytes()[whole.len() / 2..]).unwrap();
    drop(file);
    // Versions that end anywhere, one after the other, each closed.
    for end in 0..whole.len() {
        folder.put("all.yaml", &whole[..end]);
    }
    folder.put("all.yaml", &whole);
    folder.always("neither do they", |f| f.facts.len() == 3 && f.notices.is_empty());
    folder.put("all.yaml", &namespace("b"));
    folder.until("what is really gone", |f| f.keys() == ["namespace b"]);
    folder.put("all.yaml", "");
    folder.until("an empty file", |f| f.facts.is_empty());
}

#[test]
fn what_is_broken_stays_in_force_and_the_rest_applies() {
    let mut folder = Folder::with(&[("all.yaml", &format!("{}---\n{}", labelled("one"), namespace("a")))]);
    let broken = "apiVersion: v1\nkind: Pod\nmetadata:\n  name: web\n  namespace: shop\nspec:\n  nodeName: Not_A_Node\n";
    folder.put("all.yaml", &format!("{broken}---\n{}", namespace("b")));
    folder.until("the good part", |f| f.has("namespace b"));
    folder.until("the warning", |f| f.warning("all.yaml:7").is_some());
    assert_eq!(
        folder.warning("all.yaml:7"),
        Some(
            "pod shop/web: spec.nodeName: \"Not_A_Node\" is no valid node name: only a-z, 0-9 and dashes are allowed. \
             What was in force of it stays; mend the file"
        )
    );
    assert_eq!(folder.pod("shop/web").labels.get("app"), Some("one"));
    assert!(folder.has("namespace a"), "a may be what is broken");
    folder.put("all.yaml", &format!("{}---\n{}", labelled("two"), namespace("b")));
    folder.until("the mended file", |f| !f.has("namespace a") && f.notices.is_empty());
    assert_eq!(folder.pod("shop/web").labels.get("app"), Some("two"));
}

#[test]
fn unreadable_files_are_warnings() {
    let mut folder = Folder::with(&[("a.yaml", &namespace("a")), ("b.yaml", &namespace("b"))]);
    fs::write(folder.root().join("a.yaml"), b"apiVersion: v1\nkind: \xff\n").unwrap();
    folder.put("b.yaml", &"# big\n".repeat(400_000));
    std::os::unix::fs::symlink(".", folder.root().join("loop")).unwrap();
    std::os::unix::fs::symlink("nowhere", folder.root().join("dangling.yaml")).unwrap();
    nix::unistd::mkfifo(&folder.root().join("pipe.yaml"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    folder.until("both warnings", |f| f.notices.len() == 2);
    assert!(folder.warning("a.yaml").unwrap().starts_with("it is not UTF-8 (byte 21)"));
    assert!(folder.warning("b.yaml").unwrap().contains("no more than 1048576 are read"));
    folder.always("both stay in force", |f| f.facts.len() == 2);
    folder.put("a.yaml", &namespace("a"));
    folder.put("b.yaml", &namespace("b"));
    folder.until("both mended", |f| f.notices.is_empty());
}

#[test]
fn of_two_files_the_first_by_path_wins() {
    let mut folder = Folder::with(&[("b.yaml", &labelled("b")), ("a.yaml", &labelled("a"))]);
    assert_eq!(folder.pod("shop/web").labels.get("app"), Some("a"));
    let expected = "b.yaml and a.yaml both hold it; a.yaml counts, since its path comes first. Remove one";
    assert_eq!(folder.warning("pod shop/web"), Some(expected));
    fs::remove_file(folder.root().join("a.yaml")).unwrap();
    folder.until("the other one", |f| f.pod("shop/web").labels.get("app") == Some("b"));
    folder.until("no more warning", |f| f.notices.is_empty());
    // A move from one file to another is neither a double nor a deletion.
    fs::rename(folder.root().join("b.yaml"), folder.root().join("c.yaml")).unwrap();
    folder.always("a move goes unnoticed", |f| f.has("pod shop/web") && f.notices.is_empty());
}

#[test]
fn the_node_owns_addresses_and_people_own_the_rest() {
    let user = "apiVersion: v1\nkind: Node\nmetadata: {name: n1, labels: {zone: a}}\nspec: {podCIDRs: [10.7.0.0/24]}\n";
    let mut folder = Folder::with(&[("web.yaml", &labelled("web")), ("n1.yaml", user)]);
    assert!(!folder.pod("shop/web").ready);
    folder.store.publish(&published("n1", "10.7.0.2")).unwrap();
    folder.until("the address", |f| f.pod("shop/web").ips.len() == 1);
    let pod = folder.pod("shop/web");
    assert!(pod.ready && pod.labels.get("app") == Some("web") && pod.node.as_ref().unwrap().as_str() == "n1");
    // The pod moved: the later word holds, until people name the node.
    std::thread::sleep(Duration::from_millis(5));
    folder.store.publish(&published("n2", "10.8.0.2")).unwrap();
    folder.until("the later word", |f| f.pod("shop/web").ips[0].to_string() == "10.8.0.2");
    folder.put("web.yaml", &format!("{}spec: {{nodeName: n1}}\n", labelled("web")));
    folder.until("the named node", |f| f.pod("shop/web").ips[0].to_string() == "10.7.0.2");
    folder.put(
        "web.yaml",
        &format!("{}status: {{conditions: [{{type: Ready, status: 'False'}}]}}\n", labelled("web")),
    );
    folder.until("a condition that people wrote", |f| !f.pod("shop/web").ready);

    let cidr = |text: &str| weft_model::NodeCidr {
        network: Network::ordinary().name,
        cidr: text.parse::<Cidr>().unwrap(),
    };
    let name = NodeName::new("n1").unwrap();
    let addresses = vec![weft_model::NodeAddress { ip: "192.0.2.1".parse().unwrap(), prefix: Some(24) }];
    let said = PublishedNode {
        name: name.clone(),
        addresses,
        pod_cidrs: vec![cidr("10.244.9.0/24")],
        vtep_mac: None,
        flannel: None,
    };
    folder.store.publish(&Published::Node(said)).unwrap();
    let node = |f: &Folder| match &f.facts[&FactKey::Node(name.clone())] {
        Fact::Node(node) => node.clone(),
        other => panic!("{other:?}"),
    };
    folder.until("the node's address", |f| !node(f).addresses.is_empty());
    assert_eq!(node(&folder).pod_cidrs, [cidr("10.7.0.0/24")]);
    folder.put("n1.yaml", "apiVersion: v1\nkind: Node\nmetadata: {name: n1}\n");
    folder.until("the claimed block", |f| node(f).pod_cidrs == [cidr("10.244.9.0/24")]);
}

#[test]
fn a_node_may_only_write_what_is_its_own() {
    let mut folder = Folder::with(&[]);
    folder.put(".weft/nodes/n1.json", r#"{"apiVersion":"v1","kind":"Node","metadata":{"name":"n2"}}"#);
    folder.until("the warning", |f| f.warning(".weft/nodes/n1.json").is_some());
    assert!(folder.facts.is_empty());
    assert!(folder.warning(".weft/nodes/n1.json").unwrap().contains("only that node may write here"));
}

#[test]
fn the_folders_absence_is_an_outage() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("cluster")).unwrap();
    for name in ["a", "b"] {
        put(&dir.path().join("cluster"), &format!("{name}.yaml"), &namespace(name));
    }
    // An agent looks at its node's seat meanwhile, and makes nothing for it.
    let machine = Some((NodeName::new("n1").unwrap(), "one".to_owned()));
    let look = Duration::from_millis(20);
    let options = DirectoryOptions { settle: SETTLE, machine, look, ..DirectoryOptions::default() };
    let mut folder = Folder::open_with(dir, options);
    let (root, away) = (folder.root(), folder.dir.path().join("away"));
    fs::rename(&root, &away).unwrap();
    folder.until("the outage", |f| f.signals.len() == 2);
    assert!(folder.signals[1].starts_with("stale: ") && folder.signals[1].contains("can't be read"));
    fs::create_dir(&root).unwrap();
    folder.until("the empty folder in its place", |f| f.signals.len() == 3);
    folder.always("nothing is taken away", |f| f.facts.len() == 2);
    fs::remove_dir(&root).unwrap();
    fs::remove_file(away.join("b.yaml")).unwrap();
    put(&away, "c.yaml", &namespace("c"));
    fs::rename(&away, &root).unwrap();
    folder.until("its return", |f| f.signals.last().is_some_and(|s| s == "synced"));
    assert_eq!(folder.keys(), ["namespace a", "namespace c"], "all that was missed comes before Synced");
    // It is watched again.
    folder.put("d.yaml", &namespace("d"));
    folder.until("the next change", |f| f.has("namespace d"));
}

#[test]
fn a_flood_of_changes_ends_where_the_files_end() {
    let mut folder = Folder::with(&[]);
    let root = folder.root();
    for round in 0..3 {
        for i in 0..400 {
            put(&root, &format!("d{}/{i}.yaml", i % 7), &namespace(&format!("n{i}-{round}")));
        }
    }
    fs::remove_dir_all(root.join("d3")).unwrap();
    let expected: Vec<String> =
        (0..400).filter(|i| i % 7 != 3).map(|i| format!("namespace n{i}-2")).collect();
    folder.until("the last state", |f| f.facts.len() == expected.len() && expected.iter().all(|k| f.has(k)));
    let once = folder.store.read_once().unwrap();
    let count: usize = once.iter().map(|e| if let Event::Changes(c) = e { c.len() } else { 0 }).sum();
    assert_eq!(count, expected.len());
}

#[test]
fn an_overflowing_watch_looks_at_everything() {
    let limit: usize =
        match fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").map(|t| t.trim().parse()) {
            Ok(Ok(limit)) if limit <= 100_000 => limit,
            other => {
                println!("SKIPPED: an_overflowing_watch_looks_at_everything: the queue's limit is {other:?}");
                return;
            }
        };
    let dir = tempfile::tempdir().unwrap();
    put(dir.path(), "a.yaml", &namespace("a"));
    let store = DirectoryStore::open(dir.path(), DirectoryOptions::default()).unwrap();
    let mut facts: BTreeMap<FactKey, Fact> = BTreeMap::new();
    let mut resumed = None;
    let sink = &mut |event| {
        match event {
            Event::Changes(changes) => {
                for change in changes {
                    learn(&mut facts, change);
                }
            }
            // The watch stands still in here while the kernel's queue runs over.
            Event::Synced => {
                put(dir.path(), "x0.yaml", &namespace("x"));
                put(dir.path(), "x1.yaml", &namespace("x"));
                // Equal events after each other are joined, so they come from two files by turns.
                for i in 0..limit + 64 {
                    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o644);
                    fs::set_permissions(dir.path().join(format!("x{}.yaml", i % 2)), mode).unwrap();
                }
                put(dir.path(), "late.yaml", &namespace("late"));
                fs::remove_file(dir.path().join("a.yaml")).unwrap();
                fs::remove_file(dir.path().join("x1.yaml")).unwrap();
                resumed = Some(Instant::now());
            }
            _ => {}
        }
        let keys: Vec<String> = facts.keys().map(ToString::to_string).collect();
        if resumed.is_some() && keys == ["namespace late", "namespace x"] {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    };
    // It ends only when what the lost events would have told is known; the safety net comes too late to help.
    store.watch(sink).unwrap();
    assert!(resumed.unwrap().elapsed() < Duration::from_secs(15));
}

#[test]
fn a_killed_claim_neither_locks_a_block_nor_gives_it_twice() {
    let folder = Folder::with(&[]);
    let network = Network { pod_cidrs: vec!["10.244.0.0/22".parse().unwrap()], ..Network::ordinary() };
    // What a kill leaves before the link: a staged file, empty or full.
    folder.put(".weft/claims/default/.n1.99.0", "");
    folder.put(".weft/claims/default/.n1.99.1", "n1\n");
    let claim = |node: &str| {
        folder.store.claim_pod_cidrs(&network, &NodeName::new(node).unwrap(), &[]).unwrap().cidrs
    };
    assert_eq!(claim("n2"), ["10.244.0.0/24".parse().unwrap()]);
    assert_eq!(claim("n1"), ["10.244.1.0/24".parse().unwrap()]);
    // A claim that somebody emptied is nobody's, and is not given out.
    folder.put(".weft/claims/default/10.244.2.0_24", "");
    assert_eq!(claim("n3"), ["10.244.3.0/24".parse().unwrap()]);
    let text = fs::read_to_string(folder.root().join(".weft/claims/default/10.244.1.0_24")).unwrap();
    assert_eq!(text, "n1\n");
}

#[test]
fn a_claim_that_was_never_relied_on_yields_to_one_that_is() {
    let folder = Folder::with(&[]);
    let network = Network { pod_cidrs: vec!["10.244.0.0/22".parse().unwrap()], ..Network::ordinary() };
    let claim = |node: &str| {
        folder.store.claim_pod_cidrs(&network, &NodeName::new(node).unwrap(), &[]).unwrap().cidrs
    };
    // n2 believes in smaller shares. n1 was killed after it had made its claim, and before it looked around.
    folder.put(".weft/claims/default/10.244.0.0_26", "n2\n");
    folder.put(".weft/claims/default/.10.244.0.0_24.n1.unconfirmed", "");
    folder.put(".weft/claims/default/10.244.0.0_24", "n1\n");
    assert_eq!(claim("n1"), ["10.244.1.0/24".parse().unwrap()]);
    let names = || {
        let there = fs::read_dir(folder.root().join(".weft/claims/default")).unwrap();
        let mut names: Vec<_> = there.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    };
    assert_eq!(names(), ["10.244.0.0_26", "10.244.1.0_24"]);
    // Where nobody is in the way, the same is simply gone on with.
    folder.put(".weft/claims/default/.10.244.2.0_24.n3.unconfirmed", "");
    folder.put(".weft/claims/default/10.244.2.0_24", "n3\n");
    assert_eq!(claim("n3"), ["10.244.2.0/24".parse().unwrap()]);
    assert_eq!(names(), ["10.244.0.0_26", "10.244.1.0_24", "10.244.2.0_24"]);
}
