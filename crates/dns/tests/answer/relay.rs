//! What resolvers say, well-formed or not, on its way to a client.

use std::str::FromStr;

use hickory_proto::op::{Message, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, CNAME, MX, SOA, SRV, TXT};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use proptest::prelude::*;
use weft_dns::relay::{Match, Question, compare, compose, is_failure, is_truncated, pass_on};
use weft_dns::wire::Request;
use weft_dns::{Answer, Chase, Transport, Via};

use super::fixture::{TCP, UDP, ask, cluster, opt, request};

/// The client's request for an alias that leads out, and what is to be asked.
fn chase(edns: &[u8]) -> Chase {
    match ask(&cluster(), &request("Out.default.svc.cluster.local", 1, 1, edns), UDP).0 {
        Answer::Chase(chase) => chase,
        other => panic!("{other:?}"),
    }
}

fn some_name() -> impl Strategy<Value = Name> {
    let label = prop::sample::select(vec!["www", "a", "mail", "example", "com", "WWW"]);
    prop::collection::vec(label, 0..5).prop_map(|labels| {
        let suffix = labels.join(".");
        Name::from_str(format!("{suffix}.example.com.").trim_start_matches('.')).unwrap()
    })
}

fn some_record() -> impl Strategy<Value = Record> {
    let data = prop_oneof![
        any::<[u8; 4]>().prop_map(|ip| RData::A(A::from(std::net::Ipv4Addr::from(ip)))),
        some_name().prop_map(|name| RData::CNAME(CNAME(name))),
        (any::<u16>(), some_name()).prop_map(|(preference, name)| RData::MX(MX::new(preference, name))),
        (any::<u16>(), some_name()).prop_map(|(port, name)| RData::SRV(SRV::new(1, 2, port, name))),
        "[a-z]{0,40}".prop_map(|text| RData::TXT(TXT::new(vec![text]))),
    ];
    (some_name(), any::<u16>(), data)
        .prop_map(|(name, ttl, data)| Record::from_rdata(name, u32::from(ttl), data))
}

/// A resolver's reply, written by another library with names compressed.
fn some_reply() -> impl Strategy<Value = Message> {
    let soa = (some_name(), some_name())
        .prop_map(|(a, b)| Record::from_rdata(a.clone(), 60, RData::SOA(SOA::new(a, b, 1, 2, 3, 4, 5))));
    (prop::collection::vec(some_record(), 0..6), prop::option::of(soa), any::<bool>()).prop_map(
        |(answers, soa, exists)| {
            let mut message = Message::response(0x1234, OpCode::Query);
            message.metadata.response_code =
                if exists { ResponseCode::NoError } else { ResponseCode::NXDomain };
            message.add_query(Query::query(Name::from_str("www.example.com.").unwrap(), RecordType::A));
            message.add_answers(answers);
            if let Some(soa) = soa {
                message.add_authority(soa);
            }
            message
        },
    )
}

#[test]
fn a_reply_counts_when_everything_fits() {
    let request = Request::read(&request("www.example.com", 1, 1, b"")).unwrap();
    let mut question = Question::of(&request, UDP);
    question.name.randomize_case(0xaaaa);
    let sent = question.message(0x1234);
    let reply = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut reply = sent.clone();
        reply[2] |= 0x80;
        change(&mut reply);
        compare(&sent, &reply)
    };
    assert_eq!(reply(&|_| {}), Match::Reply);
    assert_eq!(reply(&|r| r[12..28].make_ascii_lowercase()), Match::OtherCase);
    assert_eq!(reply(&|r| r[1] ^= 1), Match::Foreign);
    assert_eq!(reply(&|r| r[2] &= 0x7f), Match::Foreign);
    assert_eq!(reply(&|r| r[2] |= 0x08), Match::Foreign);
    assert_eq!(reply(&|r| r[5] = 2), Match::Foreign);
    assert_eq!(reply(&|r| r[13] = b'x'), Match::Foreign);
    assert_eq!(reply(&|r| *r.last_mut().unwrap() = 3), Match::Foreign);
    assert_eq!(reply(&|r| r.truncate(20)), Match::Foreign);
    let bare = |r: &mut Vec<u8>, rcode: u8| {
        r.truncate(12);
        r[3] = rcode;
        r[5] = 0;
    };
    assert_eq!(reply(&|r| bare(r, 1)), Match::Refusal);
    assert_eq!(reply(&|r| bare(r, 0)), Match::Foreign);
    assert_eq!(reply(&|r| bare(r, 3)), Match::Foreign);
}

#[test]
fn a_reply_that_is_too_long_for_the_client_is_cut() {
    let check = |edns: &[u8], via: Via, length: usize, cut: bool| {
        let request = Request::read(&request("www.example.com", 1, 1, edns)).unwrap();
        let mut reply = Question::of(&request, via).message(1);
        reply[2] |= 0x80;
        reply.resize(length, 0);
        let mut out = Vec::new();
        assert_eq!(pass_on(&request, &reply, via, &mut out), 0);
        assert_eq!((is_truncated(&out), out.len() < length), (cut, cut));
        assert_eq!(out[..2], [0xab, 0xcd]);
    };
    check(b"", UDP, 512, false);
    check(b"", UDP, 513, true);
    check(&opt(4096, 0, 0, b""), UDP, 1232, false);
    check(&opt(4096, 0, 0, b""), UDP, 1233, true);
    check(b"", TCP, 5000, false);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

    /// Behind the alias stand the resolver's records, each as it was.
    #[test]
    fn records_behind_an_alias_are_unchanged(reply in some_reply()) {
        let via = Via { transport: Transport::Tcp, ..TCP };
        let mut out = Vec::new();
        compose(&chase(b""), &reply.to_vec().unwrap(), via, &mut out);
        let composed = Message::from_vec(&out).unwrap();
        prop_assert_eq!(composed.metadata.response_code, reply.metadata.response_code);
        prop_assert_eq!(composed.queries[0].name().to_string(), "Out.default.svc.cluster.local.");
        prop_assert_eq!(composed.answers[0].data.to_string(), "www.example.com.");
        let text = |records: &[Record]| records.iter().map(|r| r.to_string().to_lowercase()).collect::<Vec<_>>();
        prop_assert_eq!(text(&composed.answers[1..]), text(&reply.answers));
        prop_assert_eq!(text(&composed.authorities), text(&reply.authorities));
    }

    /// A resolver can't make us panic, read past its message, or send what is longer than the client takes.
    #[test]
    fn no_resolver_can_harm_us(
        reply in some_reply(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        length in any::<prop::sample::Index>(),
        with_edns in any::<bool>(),
    ) {
        let mut bytes = reply.to_vec().unwrap();
        for (at, value) in changes {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        bytes.truncate(length.index(bytes.len() * 2));
        let edns = if with_edns { opt(1232, 0, 0, b"") } else { Vec::new() };
        let chase = chase(&edns);
        let sent = Question::behind(&chase, UDP).message(0x1234);
        let _ = (compare(&sent, &bytes), is_failure(&bytes), is_truncated(&bytes));
        let mut out = Vec::new();
        compose(&chase, &bytes, UDP, &mut out);
        prop_assert!(out.len() <= 1232 && out[..2] == [0xab, 0xcd]);
        pass_on(&chase.request, &bytes, UDP, &mut out);
        prop_assert!(out.len() <= 1232 && out[..2] == [0xab, 0xcd]);
    }
}
