//! Replies that don't fit.

use super::fixture::{TCP, UDP, a, add, ask, cluster, opt, request, srv, text};
use weft_dns::Via;
use weft_plan::Plan;

/// `many`: 200 addresses, and SRV records to 20 targets with long names.
fn crowd() -> Plan {
    let mut plan = cluster();
    let addresses = (0..200).map(|i| a(&format!("10.2.0.{i}"))).collect();
    add(&mut plan, "many.default.svc.cluster.local", addresses);
    let host = |i: usize| format!("{i:02}{}.many.default.svc.cluster.local", "x".repeat(10));
    let targets = (0..6).map(|i| srv(80, &host(i))).collect();
    add(&mut plan, "_p._tcp.many.default.svc.cluster.local", targets);
    for i in 0..6 {
        add(&mut plan, &host(i), vec![a(&format!("10.2.0.{i}"))]);
    }
    plan
}

#[test]
fn size_follows_edns_and_our_own_limit() {
    let plan = crowd();
    let check = |via: Via, record: &[u8], limit: usize, whole: usize, cut: &str| {
        let (_, out) = ask(&plan, &request("many.default.svc.cluster.local", 1, 1, record), via);
        assert!(
            out.len() <= limit && out.len() + 16 > whole.min(limit),
            "{} bytes, limit {limit}",
            out.len()
        );
        assert_eq!(text(&out).lines().next().unwrap(), format!("NoError aa{cut} ra"));
    };
    let whole = 12 + 36 + 200 * 16;
    check(UDP, b"", 512, whole, " tc");
    check(UDP, &opt(100, 0, 0, b""), 512, whole, " tc");
    check(UDP, &opt(1000, 0, 0, b""), 1000, whole, " tc");
    check(UDP, &opt(4096, 0, 0, b""), 1232, whole, " tc");
    check(Via { udp_payload: 4096, ..UDP }, &opt(4096, 0, 0, b""), 4096, whole, "");
    check(Via { udp_payload: 100, ..UDP }, &opt(4096, 0, 0, b""), 512, whole, " tc");
    check(TCP, b"", 65535, whole, "");
}

#[test]
fn additional_records_that_do_not_fit_are_no_truncation() {
    let plan = crowd();
    let query = request("_p._tcp.many.default.svc.cluster.local", 33, 1, b"");
    let (_, out) = ask(&plan, &query, UDP);
    let reply = text(&out);
    assert!(reply.starts_with("NoError aa ra\n"), "{reply}");
    assert_eq!(reply.matches(" SRV ").count(), 6);
    let (_, out) = ask(&plan, &query, TCP);
    let beside = |reply: &str| reply.matches("\nadditional ").count();
    assert_eq!(beside(&text(&out)), 6);
    assert!(beside(&reply) < 6, "{reply}");
}

#[test]
fn a_reply_that_no_stream_can_hold_is_cut() {
    let mut plan = cluster();
    let addresses = (0..5000).map(|i| a(&format!("10.2.{}.{}", i / 250, i % 250))).collect();
    add(&mut plan, "huge.default.svc.cluster.local", addresses);
    let (_, out) = ask(&plan, &request("huge.default.svc.cluster.local", 1, 1, b""), TCP);
    assert!(out.len() <= 65535 && text(&out).starts_with("NoError aa tc ra"));
}
