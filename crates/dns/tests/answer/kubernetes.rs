//! The Kubernetes DNS specification 1.1.0 and its corner cases.

use super::fixture::{UDP, ask, cluster, dig, request};
use weft_dns::Via;
use weft_plan::Plan;

const SOA: &str = "5 SOA ns.dns.cluster.local. hostmaster.cluster.local. 7 7200 1800 86400 5";

#[track_caller]
fn check(question: &str, expected: &str) {
    assert_eq!(dig(&cluster(), question), expected, "{question}");
}

fn no_data(question: &str) {
    check(question, &format!("NoError aa ra\nauthority cluster.local. {SOA}"));
}

fn no_name(question: &str) {
    check(question, &format!("NXDomain aa ra\nauthority cluster.local. {SOA}"));
}

#[test]
fn a_service_has_its_virtual_addresses() {
    check("web.default.svc.cluster.local A", "NoError aa ra\nweb.default.svc.cluster.local. 5 A 10.96.0.1");
    check(
        "web.default.svc.cluster.local AAAA",
        "NoError aa ra\nweb.default.svc.cluster.local. 5 AAAA fd00::1",
    );
}

#[test]
fn names_that_exist_without_the_asked_type_are_no_data() {
    no_data("cluster.local A");
    no_data("svc.cluster.local A");
    no_data("pod.cluster.local AAAA");
    no_data("default.svc.cluster.local A");
    no_data("default.svc.cluster.local SRV");
    no_data("default.pod.cluster.local A");
    no_data("_tcp.web.default.svc.cluster.local SRV");
    no_data("_tcp.web.default.svc.cluster.local A");
    no_data("web.default.svc.cluster.local MX");
    no_data("web.default.svc.cluster.local 65");
    // A missing family of a dual-stack service.
    no_data("old.default.svc.cluster.local AAAA");
    // A service without named ports.
    no_data("old.default.svc.cluster.local SRV");
}

#[test]
fn names_that_do_not_exist_are_no_names() {
    no_name("nobody.cluster.local A");
    no_name("nobody.svc.cluster.local A");
    no_name("web.nobody.svc.cluster.local A");
    no_name("nobody.pod.cluster.local A");
    no_name("x.web.default.svc.cluster.local A");
    no_name("_ftp._tcp.web.default.svc.cluster.local SRV");
    no_name("_sctp.web.default.svc.cluster.local SRV");
    no_name("web.default.svc.cluster.local.svc.cluster.local A");
    // A label with a dot in it is another name than two labels.
    let mut bytes = request("x", 1, 1, b"");
    bytes.splice(12..15, *b"\x0bweb.default\x03svc\x07cluster\x05local\0");
    assert!(super::fixture::text(&ask(&cluster(), &bytes, UDP).1).starts_with("NXDomain"));
}

#[test]
fn ports_have_srv_records_with_addresses_beside_them() {
    check(
        "_http._tcp.web.default.svc.cluster.local SRV",
        "NoError aa ra
_http._tcp.web.default.svc.cluster.local. 5 SRV 0 100 80 web.default.svc.cluster.local.
additional web.default.svc.cluster.local. 5 A 10.96.0.1
additional web.default.svc.cluster.local. 5 AAAA fd00::1",
    );
    check(
        "web.default.svc.cluster.local SRV",
        "NoError aa ra
web.default.svc.cluster.local. 5 SRV 0 100 53 web.default.svc.cluster.local.
web.default.svc.cluster.local. 5 SRV 0 100 80 web.default.svc.cluster.local.
additional web.default.svc.cluster.local. 5 A 10.96.0.1
additional web.default.svc.cluster.local. 5 AAAA fd00::1",
    );
    check(
        "_pg._tcp.db.default.svc.cluster.local SRV",
        "NoError aa ra
_pg._tcp.db.default.svc.cluster.local. 5 SRV 0 100 5432 db-0.db.default.svc.cluster.local.
_pg._tcp.db.default.svc.cluster.local. 5 SRV 0 100 5432 db-1.db.default.svc.cluster.local.
additional db-0.db.default.svc.cluster.local. 5 A 10.1.0.1
additional db-1.db.default.svc.cluster.local. 5 A 10.1.0.2",
    );
}

#[test]
fn addresses_have_names() {
    check(
        "1.0.96.10.in-addr.arpa PTR",
        "NoError aa ra\n1.0.96.10.in-addr.arpa. 5 PTR web.default.svc.cluster.local.",
    );
    check(
        "1.0.1.10.in-addr.arpa PTR",
        "NoError aa ra
1.0.1.10.in-addr.arpa. 5 PTR db-0.db.default.svc.cluster.local.
1.0.1.10.in-addr.arpa. 5 PTR db-1.db.default.svc.cluster.local.",
    );
    check("9.9.9.10.in-addr.arpa PTR", &format!("NXDomain aa ra\nauthority 10.in-addr.arpa. {SOA}"));
    check("9.9.10.in-addr.arpa PTR", &format!("NoError aa ra\nauthority 10.in-addr.arpa. {SOA}"));
    check("0.9.9.9.10.in-addr.arpa PTR", &format!("NXDomain aa ra\nauthority 10.in-addr.arpa. {SOA}"));
    check("1.0.0.11.in-addr.arpa PTR", "forward 1.0.0.11.in-addr.arpa");
    let v6 = "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa";
    check(&format!("{v6} PTR"), &format!("NoError aa ra\n{v6}. 5 PTR web.default.svc.cluster.local."));
}

#[test]
fn pods_names_spell_their_address() {
    let name = |label: &str| format!("{label}.default.pod.cluster.local");
    check(
        &format!("{} A", name("10-1-2-3")),
        "NoError aa ra\n10-1-2-3.default.pod.cluster.local. 5 A 10.1.2.3",
    );
    check(
        &format!("{} AAAA", name("2001-db8--1")),
        "NoError aa ra\n2001-db8--1.default.pod.cluster.local. 5 AAAA 2001:db8::1",
    );
    no_data(&format!("{} AAAA", name("10-1-2-3")));
    no_name(&format!("{} A", name("10-1-2")));
    no_name(&format!("{} A", name("x.10-1-2-3")));
    no_name("10-1-2-3.nobody.pod.cluster.local A");
}

#[test]
fn aliases_are_followed() {
    check("out.default.svc.cluster.local A", "chase 5 www.example.com");
    check("out.default.svc.cluster.local TXT", "chase 5 www.example.com");
    check(
        "out.default.svc.cluster.local CNAME",
        "NoError aa ra\nout.default.svc.cluster.local. 5 CNAME www.example.com.",
    );
    no_data("out.default.svc.cluster.local SRV");
    check(
        "in2.default.svc.cluster.local A",
        "NoError aa ra
in2.default.svc.cluster.local. 5 CNAME in.default.svc.cluster.local.
in.default.svc.cluster.local. 5 CNAME web.default.svc.cluster.local.
web.default.svc.cluster.local. 5 A 10.96.0.1",
    );
    // The last name decides (RFC 6604).
    check(
        "gone.default.svc.cluster.local A",
        &format!(
            "NXDomain aa ra
gone.default.svc.cluster.local. 5 CNAME no.default.svc.cluster.local.
authority cluster.local. {SOA}"
        ),
    );
    check(
        "v4only.default.svc.cluster.local AAAA",
        &format!(
            "NoError aa ra
v4only.default.svc.cluster.local. 5 CNAME old.default.svc.cluster.local.
authority cluster.local. {SOA}"
        ),
    );
    check("ring1.default.svc.cluster.local A", "ServFail ra");
}

#[test]
fn the_zone_speaks_of_itself() {
    check("dns-version.cluster.local TXT", "NoError aa ra\ndns-version.cluster.local. 5 TXT 1.1.0");
    check("cluster.local SOA", &format!("NoError aa ra\ncluster.local. {SOA}"));
    check(
        "cluster.local NS",
        "NoError aa ra\ncluster.local. 5 NS ns.dns.cluster.local.\nadditional ns.dns.cluster.local. 5 A 10.96.0.10",
    );
    check("web.default.svc.cluster.local ANY", "NoError aa ra\nweb.default.svc.cluster.local. 5 A 10.96.0.1");
}

#[test]
fn negative_answers_live_at_most_five_minutes() {
    let mut plan = cluster();
    let zone = weft_plan::names::Zone { ttl: 3600, ..super::fixture::zone() };
    let row = weft_plan::NameRow::default().with_zone(zone);
    plan.names.set(weft_plan::DnsName::new("cluster.local"), row, weft_model::FactKey::Host);
    assert_eq!(
        dig(&plan, "no.cluster.local A"),
        "NXDomain aa ra
authority cluster.local. 300 SOA ns.dns.cluster.local. hostmaster.cluster.local. 7 7200 1800 86400 300"
    );
    assert!(dig(&plan, "old.default.svc.cluster.local A").ends_with(" 3600 A 10.96.0.2"));
}

#[test]
fn other_names_are_forwarded() {
    check("www.example.com A", "forward www.example.com");
    check("notcluster.local A", "forward notcluster.local");
    check("local A", "forward local");
    check(". NS", "forward ");
}

#[test]
fn case_is_echoed_and_does_not_matter() {
    check("WeB.dEFAULT.svc.Cluster.LOCAL A", "NoError aa ra\nWeB.dEFAULT.svc.Cluster.LOCAL. 5 A 10.96.0.1");
    check(
        "10-1-2-3.Default.POD.cluster.local A",
        "NoError aa ra\n10-1-2-3.Default.POD.cluster.local. 5 A 10.1.2.3",
    );
}

#[test]
fn addresses_take_turns() {
    let plan = cluster();
    let query = request("db.default.svc.cluster.local", 1, 1, b"");
    let first = |turn| {
        let (_, out) = ask(&plan, &query, Via { turn, ..UDP });
        let text = super::fixture::text(&out);
        let order: Vec<_> = text.lines().skip(1).map(|l| l.rsplit(' ').next().unwrap().to_owned()).collect();
        order.join(" ")
    };
    assert_eq!(first(0), "10.1.0.1 10.1.0.2");
    assert_eq!(first(1), "10.1.0.2 10.1.0.1");
    assert_eq!(first(2), "10.1.0.1 10.1.0.2");
}

#[test]
fn before_the_names_have_come_our_zones_fail_and_others_are_forwarded() {
    let empty = Plan::default();
    assert_eq!(dig(&empty, "web.default.svc.cluster.local A"), "ServFail ra");
    assert_eq!(dig(&empty, "www.example.com A"), "forward www.example.com");
    let opt = super::fixture::opt(1232, 0, 0, b"");
    let (_, out) = ask(&empty, &request("cluster.local", 1, 1, &opt), UDP);
    // Option 15, then info-code 14 "not ready" (RFC 8914).
    let reason = b"the names of the cluster have not arrived yet";
    assert!(out.ends_with(&[&[0, 15, 0, 2 + reason.len() as u8, 0, 14], &reason[..]].concat()), "{out:02x?}");
}
