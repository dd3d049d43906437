//! Files that are renewed under a running store: who vouches for the server, the node's own certificate, its token.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hyper::Version;
use serde_json::json;
use weft_model::{NamespaceName, NodeAddress, NodeName};
use weft_store::kubernetes::{AccessSource, Patience, PodScope};
use weft_store::{KubernetesOptions, KubernetesStore, Published, PublishedNode, Store};

use super::apiserver::{self, ApiServer};
use super::certificates::{CLIENT, certificates};
use super::fake::Fake;
use super::front::{Front, Speaks};
use super::watching::{NODES, Watching, impatient, node, options, store};

/// What is told of files with certificates.
const ACCESS: &str = "access to the Kubernetes API server";
const TOKEN: &str = "token for the Kubernetes API server";

/// A kubeconfig as a kubelet's: certificate and key stand in one file, which is replaced, and so is the CA's.
fn kubeconfig(folder: &Path, server: &str) -> AccessSource {
    let text = json!({
        "clusters": [{ "name": "k", "cluster": { "server": server, "certificate-authority": "current-ca.pem" } }],
        "users": [{ "name": "u", "user": { "client-certificate": "current.pem", "client-key": "current.pem" } }],
        "contexts": [{ "name": "c", "context": { "cluster": "k", "user": "u" } }],
        "current-context": "c",
    });
    let path = folder.join("kubelet.conf");
    std::fs::write(&path, text.to_string()).unwrap();
    AccessSource { kubeconfig: Some(path), ..AccessSource::default() }
}

/// Certificate and key of the client that `from` was made for.
fn pair(from: &Path) -> String {
    ["client.crt", "client.key"].map(|name| std::fs::read_to_string(from.join(name)).unwrap()).concat()
}

fn renew(folder: &Path, from: &Path) {
    std::fs::copy(from.join("ca.crt"), folder.join("current-ca.pem")).unwrap();
    std::fs::write(folder.join("current.pem"), pair(from)).unwrap();
}

/// Two folders with certificates of different CAs, and one for what is current.
fn folders() -> Option<[tempfile::TempDir; 3]> {
    let folders = [(); 3].map(|()| tempfile::tempdir().unwrap());
    let are_made = folders[..2].iter().all(|folder| certificates(folder.path()));
    are_made.then_some(folders)
}

/// A server with one node behind a door that shows the certificates of `from`, and a store that has read it by files in `folder`.
fn begin(from: &Path, folder: &Path, patience: Patience) -> (Fake, Front, Watching) {
    begin_by(Speaks::Http2, from, folder, patience)
}

fn begin_by(speaks: Speaks, from: &Path, folder: &Path, patience: Patience) -> (Fake, Front, Watching) {
    let fake = Fake::start();
    fake.put(NODES, node("n1", 1));
    let front = Front::before(fake.socket(), from, speaks);
    renew(folder, from);
    let access = kubeconfig(folder, &front.address());
    let options = KubernetesOptions { access, ..options(&fake, None, patience) };
    let watching = Watching::synced(Arc::new(KubernetesStore::open(options).unwrap()));
    (fake, front, watching)
}

#[test]
fn a_renewed_ca_and_certificate_count_without_a_restart() {
    let Some([before, after, current]) = folders() else { return };
    let folder = current.path();
    let (fake, front, mut watching) = begin(before.path(), folder, impatient());

    // The server first: until the files follow, nobody is whom the other believes.
    front.renew(after.path());
    fake.hang_up();
    watching.until("the outage", |w| w.said.last().is_some_and(|s| s.contains("certificate")));
    std::fs::copy(after.path().join("ca.crt"), folder.join("current-ca.pem")).unwrap();
    // The other half of it is on its way.
    let whole = pair(after.path());
    std::fs::write(folder.join("current.pem"), &whole[..whole.len() - 60]).unwrap();
    watching.until("the half", |w| w.notices.get(ACCESS).is_some_and(|text| text.contains("current.pem")));
    std::fs::write(folder.join("current.pem"), &whole).unwrap();
    watching.until("its end", |w| w.said.last().is_some_and(|s| s == "synced"));
    watching.until("the notice's end", |w| w.notices.is_empty());

    // The files first, and then the server, which no longer knows the connection: nobody notices.
    renew(folder, before.path());
    front.renew(before.path());
    fake.hang_up();
    let said = watching.said.len();
    fake.put(NODES, node("n1", 2));
    watching.until_nodes("n1=2");
    assert_eq!(watching.said.len(), said, "{:?}", watching.said);
    assert!(watching.removed.is_empty());
}

#[test]
fn files_that_cannot_be_used_leave_what_stood_in_them_and_are_named() {
    let Some([before, _, current]) = folders() else { return };
    let folder = current.path();
    let patience = Patience { grace: Duration::from_secs(60), ..impatient() };
    let (fake, front, mut watching) = begin(before.path(), folder, patience);
    let mut version = 1;
    let whole = std::fs::read(folder.join("current.pem")).unwrap();
    let ca = std::fs::read(folder.join("current-ca.pem")).unwrap();
    let config = std::fs::read(folder.join("kubelet.conf")).unwrap();
    let mut check = |name: &str, broken: &[u8], said: &str| {
        let before_it = std::fs::read(folder.join(name)).unwrap();
        std::fs::write(folder.join(name), broken).unwrap();
        // All connections are new from here on.
        front.renew(before.path());
        fake.hang_up();
        version += 1;
        fake.put(NODES, node("n1", version));
        watching.until_nodes(&format!("n1={version}"));
        watching.until(said, |w| w.notices.get(ACCESS).is_some_and(|text| text.contains(said)));
        std::fs::write(folder.join(name), before_it).unwrap();
        watching.until("the notice's end", |w| w.notices.is_empty());
    };
    check("current.pem", b"", "current.pem: it holds no certificate");
    check("current.pem", &whole[..whole.len() / 2], "current.pem: it holds no");
    check("current-ca.pem", &ca[..ca.len() / 2], "current-ca.pem: it holds no certificate");
    check("kubelet.conf", &config[..config.len() / 2], "kubelet.conf");
    assert_eq!(watching.said, ["synced"]);
}

#[test]
fn a_token_that_is_away_for_a_moment_counts_on() {
    let fake = Fake::start();
    fake.put(NODES, node("n1", 1));
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    std::fs::write(&file, "first").unwrap();
    fake.set_token("first");
    let mut watching = Watching::synced(store(&fake, Some(file.clone())));
    std::fs::write(&file, "").unwrap();
    fake.hang_up();
    fake.put(NODES, node("n1", 2));
    watching.until_nodes("n1=2");
    watching.until("a notice", |w| w.notices.get(TOKEN).is_some_and(|text| text.contains("empty")));
    std::fs::write(&file, "first").unwrap();
    watching.until("its end", |w| w.notices.is_empty());
}

/// The same as the first of these at a real server, which reads its files again by itself.
#[test]
fn a_real_servers_certificates_are_renewed_under_a_running_store() {
    let test = "a_real_servers_certificates_are_renewed_under_a_running_store";
    let Some(programs) = apiserver::programs(test) else { return };
    let Some([before, after, current]) = folders() else { return };
    let servers = tempfile::tempdir().unwrap();
    let serve = |from: &Path| {
        for name in ["server.crt", "server.key", "ca.crt"] {
            let staged = servers.path().join("staged");
            std::fs::copy(from.join(name), &staged).unwrap();
            std::fs::rename(staged, servers.path().join(name)).unwrap();
        }
    };
    serve(before.path());
    let of = |flag: &str, name: &str| format!("--{flag}={}", servers.path().join(name).display());
    let arguments = vec![
        of("tls-cert-file", "server.crt"),
        of("tls-private-key-file", "server.key"),
        of("client-ca-file", "ca.crt"),
    ];
    let server = ApiServer::start_with(&programs, arguments, Some(servers.path().join("ca.crt")));
    super::real::wait_for(&server, "/api/v1/namespaces/kube-system");
    super::real::give_rights(&server);
    server.ask("POST", "/api/v1/nodes", Some(&json!({ "metadata": { "name": "n1" } })));

    renew(current.path(), before.path());
    let name = NodeName::new("n1").unwrap();
    let options = KubernetesOptions {
        node: name.clone(),
        access: kubeconfig(current.path(), &server.address()),
        networks: Vec::new(),
        pods: PodScope::Own,
        namespace: NamespaceName::new("kube-system").unwrap(),
        patience: Patience { silence: Duration::from_secs(180), ..impatient() },
        machine: String::new(),
    };
    let store = Arc::new(KubernetesStore::open(options).unwrap());
    let watching = Watching::synced(store.clone());
    let mut last = 0;
    let mut publish = || {
        last += 1;
        let addresses = vec![NodeAddress { ip: format!("192.0.2.{last}").parse().unwrap(), prefix: None }];
        let said = PublishedNode {
            name: name.clone(),
            addresses,
            pod_cidrs: Vec::new(),
            vtep_mac: None,
            flannel: None,
        };
        store.publish(&Published::Node(said)).map_err(|error| error.to_string())
    };
    publish().unwrap();
    serve(after.path());
    // By and by the server believes nobody whom the old CA vouches for, and shows what the new one has signed.
    let deadline = Instant::now() + Duration::from_secs(150);
    let refused = loop {
        match publish() {
            Err(reason) if reason.contains("certificate") => break reason,
            _ => std::thread::sleep(Duration::from_millis(300)),
        }
        assert!(Instant::now() < deadline, "the server never took its new files");
    };
    assert!(refused.contains("cannot reach"), "{refused}");
    renew(current.path(), after.path());
    let done = loop {
        match publish() {
            Err(reason) if Instant::now() > deadline => panic!("{CLIENT} is not believed again: {reason}"),
            Err(_) => std::thread::sleep(Duration::from_millis(300)),
            done => break done,
        }
    };
    done.unwrap();
    assert!(watching.removed.is_empty());
}

#[test]
fn a_long_list_has_a_connection_of_its_own_where_there_is_one_to_be_had() {
    let Some([from, _, current]) = folders() else { return };
    let (one, two) = (Version::HTTP_11, Version::HTTP_2);
    let cases = [
        (Speaks::Either, one),
        (Speaks::Http2, two),
        (Speaks::EitherBadly, two),
        (Speaks::Saying(302, ""), two),
        (Speaks::Saying(400, "no HTTP/1.1"), two),
        (Speaks::Saying(403, "<html>no</html>"), two),
        (Speaks::Saying(410, ""), two),
        (Speaks::Saying(503, "busy"), two),
        (Speaks::Saying(200, "<html>\nwelcome\n</html>"), two),
        (Speaks::Saying(200, "{\"type\":\"ADD"), two),
    ];
    // However busy this machine is, no list comes to a halt.
    let long = Duration::from_secs(60);
    let patience = Patience { stalled_list: long, silence: long, grace: long, ..impatient() };
    for (speaks, of_lists) in cases {
        let (fake, front, mut watching) = begin_by(speaks, from.path(), current.path(), patience);
        fake.put(NODES, node("n1", 2));
        watching.until_nodes("n1=2");
        let deadline = Instant::now() + Duration::from_secs(20);
        while front.singles() > 0 {
            assert!(Instant::now() < deadline, "{} connections are left", front.singles());
            std::thread::sleep(Duration::from_millis(10));
        }
        let asked = front.asked();
        let of_kind = |kind: &str, what: &str| {
            let mut those = asked.iter().filter(|(_, path)| path.contains(kind) && path.contains(what));
            those.next_back().map(|(version, _)| *version)
        };
        for kind in ["/nodes?", "/services?", "/endpointslices?"] {
            let lists = of_kind(kind, "sendInitialEvents=true");
            assert_eq!(lists, Some(of_lists), "{speaks:?} {kind} {asked:?}");
        }
        assert_eq!(of_kind("/pods?", "sendInitialEvents=true"), Some(two), "{asked:?}");
        assert_eq!(of_kind("/nodes?", "&resourceVersion="), Some(two), "{asked:?}");
    }
}

#[test]
fn a_list_that_is_silent_over_its_own_connection_is_asked_for_over_the_shared_one() {
    let Some([from, _, current]) = folders() else { return };
    let (_fake, front, mut watching) = begin_by(Speaks::Halting, from.path(), current.path(), impatient());
    watching.until_nodes("n1=1");
    let asked = front.asked();
    let is_other_way = |(version, path): &(Version, String)| {
        *version == Version::HTTP_2 && path.contains("/nodes?") && path.contains("limit=")
    };
    assert!(asked.iter().any(is_other_way), "{asked:?}");
}

#[test]
fn a_busy_server_is_asked_once_and_then_left_alone() {
    let Some([from, _, current]) = folders() else { return };
    let pause = Duration::from_secs(1);
    let patience = Patience { first_pause: pause, longest_pause: pause, grace: 60 * pause, ..impatient() };
    let began = Instant::now();
    let _begun = begin_by(Speaks::Saying(429, ""), from.path(), current.path(), patience);
    // Three quarters of the pause at least: who says that he is busy isn't asked at once over another connection.
    assert!(began.elapsed() > pause * 7 / 10, "{:?}", began.elapsed());
}
