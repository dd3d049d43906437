//! Any bytes at all.

use std::sync::LazyLock;

use hickory_proto::op::Message;
use proptest::prelude::*;
use weft_dns::Answer;
use weft_dns::wire::{Request, WireName};
use weft_plan::Plan;

use super::fixture::{TCP, UDP, ask, cluster, opt, request};

static PLAN: LazyLock<Plan> = LazyLock::new(cluster);

/// Requests that are nearly right: a good one with a few bytes changed and its end cut or lengthened.
fn nearly_requests() -> impl Strategy<Value = Vec<u8>> {
    let names = prop_oneof![
        Just("web.default.svc.cluster.local".to_owned()),
        Just("_pg._tcp.db.default.svc.cluster.local".to_owned()),
        Just("in2.default.svc.cluster.local".to_owned()),
        Just("1.0.1.10.in-addr.arpa".to_owned()),
        "([a-zA-Z0-9_-]{1,63}\\.){0,5}cluster\\.local",
        "([a-z0-9-]{1,20}\\.){0,3}",
    ];
    let types = prop_oneof![Just(1u16), Just(28), Just(33), Just(12), Just(6), Just(255), any::<u16>()];
    let options = prop_oneof![Just(Vec::new()), any::<u16>().prop_map(|size| opt(size, 0, 0, b""))];
    let changes = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4);
    let tail = prop::collection::vec(any::<u8>(), 0..8);
    (names, types, options, changes, tail, 0usize..4).prop_map(|(name, rtype, opt, changes, tail, cut)| {
        let mut bytes = request(&name, rtype, 1, &opt);
        for (at, value) in changes {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        bytes.truncate(bytes.len() - cut);
        bytes.extend(tail);
        bytes
    })
}

fn any_bytes() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![3 => nearly_requests(), 1 => prop::collection::vec(any::<u8>(), 0..600)]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, ..ProptestConfig::default() })]

    /// Whatever comes, the reply is well-formed for another library, within limits, and for the right request.
    #[test]
    fn every_reply_is_well_formed(bytes in any_bytes()) {
        for (via, limit) in [(UDP, 1232), (TCP, 65535)] {
            let (answer, out) = ask(&PLAN, &bytes, via);
            if let Answer::Reply(_) = answer {
                prop_assert!(out.len() <= limit);
                prop_assert_eq!(&out[..2], &bytes[..2]);
                prop_assert!(out[2] & 0x80 != 0);
                let read = Message::from_vec(&out);
                prop_assert!(read.is_ok(), "{:?}: {:02x?}", read, out);
            }
        }
    }

    /// What another library reads as a request with one question is read alike here.
    #[test]
    fn requests_are_read_as_others_read_them(bytes in any_bytes()) {
        if let (Ok(theirs), Ok(ours)) = (Message::from_vec(&bytes), Request::read(&bytes)) {
            prop_assert_eq!(theirs.metadata.id, ours.id);
            let query = &theirs.queries[0];
            prop_assert_eq!(u16::from(query.query_type()), ours.rtype);
            let labels: Vec<Vec<u8>> = query.name().iter().map(<[u8]>::to_vec).collect();
            let own: Vec<Vec<u8>> = ours.name.labels().map(<[u8]>::to_vec).collect();
            prop_assert_eq!(labels, own);
        }
    }

    /// Reading a name anywhere in any bytes ends, and gives a name that fits.
    #[test]
    fn names_never_run_away(bytes in prop::collection::vec(prop_oneof![any::<u8>(), Just(0xc0), 0u8..8], 0..300), at in 0usize..310) {
        if let Some((name, end)) = WireName::read(&bytes, at) {
            prop_assert!(name.as_bytes().len() <= 255 && end <= bytes.len());
            prop_assert_eq!(name.labels().map(|l| l.len() + 1).sum::<usize>() + 1, name.as_bytes().len());
        }
    }
}
