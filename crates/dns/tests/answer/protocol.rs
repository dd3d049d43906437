//! What the protocol demands of any server.

use super::fixture::{TCP, UDP, ask, cluster, opt, request, text};
use weft_dns::Answer;

const NAME: &str = "web.default.svc.cluster.local";

fn header(message: &[u8]) -> (u16, u16, [u16; 4]) {
    let word = |at: usize| u16::from_be_bytes([message[at], message[at + 1]]);
    (word(0), word(2), [word(4), word(6), word(8), word(10)])
}

#[test]
fn a_reply_repeats_id_question_and_the_flags_that_it_should() {
    let plan = cluster();
    let mut query = request(NAME, 1, 1, b"");
    let check = |query: &[u8], flags: u16| {
        let (_, out) = ask(&plan, query, UDP);
        assert_eq!(header(&out), (0xabcd, flags, [1, 1, 0, 0]));
        assert_eq!(out[12..12 + query.len() - 12], query[12..]);
    };
    check(&query, 0x8580); // QR AA RD RA
    query[2] = 0;
    check(&query, 0x8480); // RD was not set
    query[3] = 0x30;
    check(&query, 0x8490); // CD is repeated, AD is not
}

#[test]
fn what_is_not_answered_is_refused_in_the_right_words() {
    let plan = cluster();
    let check = |query: &[u8], expected: Option<u16>| {
        let (answer, out) = ask(&plan, query, TCP);
        match expected {
            Some(rcode) => {
                assert_eq!(answer, Answer::Reply(rcode), "{query:02x?}");
                assert_eq!(out[3] & 0xf, (rcode & 0xf) as u8);
                assert_eq!(header(&out).0, 0xabcd);
            }
            None => assert_eq!((answer, out.len()), (Answer::Silence, 0), "{query:02x?}"),
        }
    };
    let plain = request(NAME, 1, 1, b"");
    check(&request("cluster.local", 252, 1, b""), Some(5));
    check(&request("cluster.local", 251, 1, b""), Some(5));
    check(&request("example.com", 252, 1, b""), Some(5));
    for class in [2, 3, 4, 254, 255] {
        check(&request(NAME, 1, class, b""), Some(5));
    }
    check(&request("version.bind", 16, 3, b""), Some(5));
    for opcode in [1, 2, 4, 5, 6, 15] {
        let mut query = plain.clone();
        query[2] = opcode << 3;
        check(&query, Some(4));
    }
    let mut two = plain.clone();
    two[5] = 2;
    two.extend_from_slice(&plain[12..]);
    check(&two, Some(1));
    two[5] = 0;
    check(&two, Some(1));
    check(&plain[..plain.len() - 1], Some(1));
    check(&plain[..11], None);
    let mut reply = plain.clone();
    reply[2] |= 0x80;
    check(&reply, None);
    check(&request(NAME, 1, 1, &opt(1232, 1, 0, b"")), Some(16));
    check(&request(NAME, 1, 1, &[opt(1232, 0, 0, b""), b"x".to_vec()].concat()), Some(0));
}

#[test]
fn edns_is_answered_with_edns_and_nothing_else() {
    let plan = cluster();
    let check = |record: &[u8], expected: &[u8]| {
        let (_, out) = ask(&plan, &request(NAME, 1, 1, record), UDP);
        assert!(out.ends_with(expected), "{out:02x?}");
        assert_eq!(header(&out).2[3], u16::from(!expected.is_empty()));
    };
    let plain_opt = opt(1232, 0, 0, b"");
    check(&plain_opt, &plain_opt);
    check(&opt(4096, 0, 1, b""), &opt(1232, 0, 1, b""));
    // A cookie is not answered at all (RFC 7873 §5.2.1), nor is any other option.
    check(&opt(4096, 0, 0, b"\0\x0a\0\x08abcdefgh"), &plain_opt);
    check(&opt(4096, 0, 0, b"\xfd\xe9\0\0"), &plain_opt);
    let (_, out) = ask(&plan, &request(NAME, 1, 1, b""), UDP);
    assert_eq!(header(&out).2[3], 0);
    // BADVERS is 16: 0 in the header, 1 in the OPT record, version 0.
    let (_, out) = ask(&plan, &request(NAME, 1, 1, &opt(1232, 1, 0, b"")), UDP);
    assert!(out.ends_with(&[0, 0, 41, 0x04, 0xd0, 1, 0, 0, 0, 0, 0]), "{out:02x?}");
    assert_eq!(out[3] & 0xf, 0);
}

#[test]
fn names_are_compressed_but_not_in_srv_data() {
    let plan = cluster();
    let (_, out) = ask(&plan, &request("nobody.cluster.local", 1, 1, b""), UDP);
    // Owner of the SOA: the question's "cluster.local"; its server and mailbox end there too.
    assert_eq!(text(&out).lines().count(), 2);
    assert_eq!(out.windows(7).filter(|w| w == b"cluster").count(), 1);
    let (_, out) = ask(&plan, &request("_http._tcp.web.default.svc.cluster.local", 33, 1, b""), UDP);
    assert_eq!(out.windows(7).filter(|w| w == b"cluster").count(), 2);
}
