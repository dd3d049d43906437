//! Members that are reached by TLS only: who they are, and what happens when that is renewed.

use std::path::Path;
use std::sync::Arc;

use weft_store::{EtcdOptions, EtcdStore, EtcdTls, Store};

use super::certificates::certificates;
use super::heard::Heard;
use super::members::{Members, Terms};
use super::{narrow, node, options, wait_for};

/// How members are started that show `server.crt`, and want to see a client's certificate.
fn terms(folder: &Path) -> Terms {
    let text = |name: &str| folder.join(name).display().to_string();
    let [certificate, key, ca] = ["server.crt", "server.key", "ca.crt"].map(text);
    let arguments = [["--cert-file", &certificate], ["--key-file", &key], ["--trusted-ca-file", &ca]];
    let mut arguments: Vec<String> = arguments.concat().into_iter().map(str::to_owned).collect();
    arguments.push("--client-cert-auth".to_owned());
    Terms { arguments, is_tls: true }
}

#[test]
fn members_with_tls_are_told_from_impostors() {
    let folder = tempfile::tempdir().unwrap();
    if !certificates(folder.path()) {
        return;
    }
    let file = |name: &str| folder.path().join(name);
    let Some(members) = Members::start(1, &terms(folder.path())) else { return };
    let claim = |ca: &str, own: Option<&str>| {
        let own = own.map(|name| (file(&format!("{name}.crt")), file(&format!("{name}.key"))));
        let tls = Some(EtcdTls { ca_file: file(ca), own });
        let store = EtcdStore::open(EtcdOptions { tls, ..options(members.endpoints()) }).unwrap();
        store
            .claim_pod_cidrs(&narrow(), &node("n1"), &[])
            .map(|claim| claim.cidrs.len())
            .map_err(|e| e.to_string())
    };
    // It listens before it serves.
    wait_for("an answer", || claim("ca.crt", Some("client")).ok());
    let refused = |ca: &str, own: Option<&str>, part: &str| {
        let error = claim(ca, own).unwrap_err();
        assert!(error.to_lowercase().contains(part), "{error}");
    };
    refused("impostor.crt", Some("client"), "certificate");
    refused("ca.crt", None, "certificate");
    refused("nowhere.crt", None, "cafile");
    refused("server.key", None, "holds no certificate");
}

/// Everything is renewed under a running store: who vouches, the servers' certificates and the node's own. The files' names stay.
#[test]
fn renewed_certificates_count_without_a_restart() {
    let [before, after] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    if !certificates(before.path()) || !certificates(after.path()) {
        return;
    }
    let file = |name: &str| before.path().join(name);
    let Some(mut members) = Members::start(1, &terms(before.path())) else { return };
    let tls = EtcdTls { ca_file: file("ca.crt"), own: Some((file("client.crt"), file("client.key"))) };
    let options = EtcdOptions { tls: Some(tls), ..options(members.endpoints()) };
    let store = Arc::new(EtcdStore::open(options).unwrap());
    let n1 = node("n1");
    wait_for("a claim", || store.claim_pod_cidrs(&narrow(), &n1, &[]).ok());
    let mut heard = Heard::begin(store.clone());
    heard.until("the first snapshot", |h| h.synced == 1);
    // Half of a file is none: what stood there before counts.
    let whole = std::fs::read(file("client.crt")).unwrap();
    std::fs::write(file("client.crt"), &whole[..whole.len() / 2]).unwrap();
    members.kill(0);
    members.begin(0);
    heard.until("word of the half", |h| h.notices.values().any(|text| text.contains("client.crt")));
    heard.until("the member again", |h| !h.is_stale);
    std::fs::write(file("client.crt"), whole).unwrap();
    heard.until("the notice's end", |h| h.notices.is_empty());
    members.kill(0);
    let names = ["ca.crt", "server.crt", "server.key", "client.crt", "client.key"];
    // The server first: meanwhile nobody fits.
    for name in &names[1..3] {
        std::fs::copy(after.path().join(name), file(name)).unwrap();
    }
    members.begin(0);
    heard.until("the outage", |h| h.is_stale);
    assert!(store.claim_pod_cidrs(&narrow(), &n1, &[]).is_err());
    for name in names {
        std::fs::copy(after.path().join(name), file(name)).unwrap();
    }
    // This etcd reads who may be its client only as it starts.
    members.kill(0);
    members.begin(0);
    heard.until("the end of the outage", |h| !h.is_stale);
    wait_for("the claim", || store.claim_pod_cidrs(&narrow(), &n1, &[]).ok());
}
