//! A folder that another machine changes, on a real file system of such a kind: nothing tells this kernel, so it is polled.

mod fuse;
#[path = "../listening/mod.rs"]
mod listening;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use weft_model::{Fact, FactKey};
use weft_store::{DirectoryOptions, DirectoryStore, Event};

use fuse::RemoteFolder;
use listening::{Listening, learn};

fn pod(app: &str) -> String {
    format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: web, labels: {{app: {app}}}}}\n")
}

#[test]
fn what_another_machine_writes_is_found_by_polling() {
    let dir = tempfile::tempdir().unwrap();
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    // The mount is this test's alone, and goes with it.
    let mounted = unshare(CloneFlags::CLONE_NEWNS)
        .and_then(|()| mount(None::<&str>, "/", None::<&str>, private, None::<&str>))
        .map_err(|error| error.to_string())
        .and_then(|()| RemoteFolder::mount(dir.path()));
    let remote = match mounted {
        Ok(remote) => remote,
        Err(error) => {
            println!("SKIPPED: no FUSE file system can be mounted: {error}; run as root with /dev/fuse");
            return;
        }
    };
    remote.write("a.yaml", &pod("before"));
    let options = DirectoryOptions {
        settle: Duration::from_millis(50),
        shared_poll: Duration::from_millis(100),
        // A folder that is not polled as a shared one is not looked at again within the test.
        safety_poll: Duration::from_secs(600),
        ..DirectoryOptions::default()
    };
    let store = Arc::new(DirectoryStore::open(dir.path(), options).unwrap());
    let listening = Listening::begin(store);
    let mut facts: BTreeMap<FactKey, Fact> = BTreeMap::new();
    let mut until = |what: &str, done: &dyn Fn(&BTreeMap<FactKey, Fact>) -> bool| {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !done(&facts) {
            let left = deadline.saturating_duration_since(Instant::now());
            let Event::Changes(changes) =
                listening.events.recv_timeout(left).unwrap_or_else(|_| panic!("{what}: {facts:?}"))
            else {
                continue;
            };
            changes.into_iter().for_each(|change| learn(&mut facts, change));
        }
    };
    let label = |facts: &BTreeMap<FactKey, Fact>, app: &str| {
        facts.values().any(|fact| matches!(fact, Fact::Pod(pod) if pod.labels.get("app") == Some(app)))
    };
    until("the first snapshot", &|facts| label(facts, "before"));
    remote.write("a.yaml", &pod("behind"));
    until("a change of the same length", &|facts| label(facts, "behind"));
    remote.write("b.yaml", "apiVersion: v1\nkind: Namespace\nmetadata: {name: new}\n");
    until("a new file", &|facts| facts.len() == 2);
}
