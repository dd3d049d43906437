//! Real connections in a network namespace of their own, with Debian's nft to translate them; and what is decided without.

use std::net::{IpAddr, Ipv4Addr, UdpSocket};

use super::{Conntrack, Entry, Flow, Narrowing, Selection, Tuple, narrow};
use crate::filter::tests::namespace::{inside, pipe};

const UDP: u8 = 17;
const MARK: u32 = 0x8000_0000;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// Loopback with tracking: UDP ports 8053 and 8054 at any address lead to 127.0.0.9:5353, and 8055 to 127.0.0.8:5353; for
/// IPv6 8053 leads to `[::1]:5353`. Connections to 8055 are marked.
fn mapped() {
    let rules = "table ip t {
        chain out { type nat hook output priority -100;
            udp dport 8055 ct mark set 0x80001234 dnat to 127.0.0.8:5353
            udp dport { 8053, 8054 } dnat to 127.0.0.9:5353;
        }
        chain tracks { type filter hook output priority filter; ct state invalid drop; }
    }
    table ip6 t {
        chain out { type nat hook output priority -100; udp dport 8053 dnat to [::1]:5353; }
    }";
    pipe("nft", &["-f", "-"], rules);
}

/// Sends a datagram, so that an entry is made.
fn send(to: &str) {
    let local = if to.starts_with('[') { "[::1]:0" } else { "127.0.0.1:0" };
    // A refusal by ICMP comes later, if at all: the entry is there.
    let sent = UdpSocket::bind(local).unwrap().send_to(b"x", to);
    assert!(sent.is_ok(), "{to}: {sent:?}");
}

/// Where UDP connections of this namespace were opened to, sorted.
fn tracked() -> Vec<String> {
    let seen = std::cell::RefCell::new(Vec::new());
    let look = |entry: &Entry| {
        if entry.original.protocol == UDP {
            seen.borrow_mut()
                .push(format!("{}:{}", entry.original.destination, entry.original.destination_port));
        }
        false
    };
    assert_eq!(Conntrack::open().unwrap().forget(&Narrowing::None, &look).unwrap(), 0);
    let mut seen = seen.into_inner();
    seen.sort();
    seen
}

fn flow(to: Option<&str>, port: u16, led_to: &str) -> Flow {
    Flow { to: to.map(ip), protocol: UDP, port, led_to: (ip(led_to), 5353), mark: 0 }
}

#[test]
fn flows_that_are_named_go_and_nothing_else() {
    let all = [
        "127.0.0.1:8053",
        "127.0.0.1:8055",
        "127.0.0.2:9000",
        "127.0.0.3:8053",
        "127.0.0.3:8054",
        "::1:8053",
        "::1:9000",
    ];
    let check = |flows: &[Flow], gone: &[&str]| {
        inside("flows_that_are_named_go_and_nothing_else", || {
            mapped();
            // Whoever answers keeps ICMP from ending the connection.
            let servers: Vec<UdpSocket> =
                ["127.0.0.9:5353", "127.0.0.8:5353", "[::1]:5353", "127.0.0.2:9000", "[::1]:9000"]
                    .iter()
                    .map(|address| UdpSocket::bind(address).unwrap())
                    .collect();
            for to in all {
                let (address, port) = to.rsplit_once(':').unwrap();
                send(&if address.contains(':') { format!("[{address}]:{port}") } else { to.to_owned() });
            }
            assert_eq!(tracked(), all);
            let selection = Selection::new(flows);
            let mut conntrack = Conntrack::open().unwrap();
            // By whichever list they are found: the same go.
            let lists = if flows.len().is_multiple_of(2) { narrow(flows) } else { vec![Narrowing::None] };
            let mut forget = || {
                let count = |list| conntrack.forget(list, &|entry| selection.names(entry)).unwrap();
                lists.iter().map(count).sum::<usize>()
            };
            assert_eq!(forget(), gone.len(), "{flows:?}");
            let left: Vec<&str> = all.into_iter().filter(|to| !gone.contains(to)).collect();
            assert_eq!(tracked(), left, "{flows:?}");
            assert_eq!(forget(), 0, "{flows:?}: a second time");
            drop(servers);
        });
    };
    for (flows, gone) in [
        (vec![flow(None, 8053, "127.0.0.9")], &["127.0.0.1:8053", "127.0.0.3:8053"][..]),
        (vec![flow(Some("127.0.0.3"), 8053, "127.0.0.9")], &["127.0.0.3:8053"]),
        (vec![flow(Some("127.0.0.3"), 8054, "127.0.0.9")], &["127.0.0.3:8054"]),
        // Led elsewhere; not translated; of another mark.
        (vec![flow(None, 8053, "127.0.0.8")], &[]),
        (vec![flow(None, 9000, "127.0.0.2")], &[]),
        (vec![Flow { mark: MARK, ..flow(None, 8053, "127.0.0.9") }], &[]),
        (vec![Flow { mark: MARK, ..flow(None, 8055, "127.0.0.8") }], &["127.0.0.1:8055"]),
        (vec![flow(None, 8053, "::1")], &["::1:8053"]),
        (vec![Flow { protocol: 6, ..flow(None, 8053, "127.0.0.9") }], &[]),
    ] {
        let absent = flow(Some("192.0.2.1"), 1, "192.0.2.2");
        check(&flows, gone);
        check(&[&flows[..], &[absent]].concat(), gone);
    }
    // So many that they share a list, of those that have the mark.
    let marked = |n: u8| Flow {
        to: Some(ip("127.0.0.1")),
        led_to: (Ipv4Addr::new(127, 0, 0, n).into(), 5353),
        mark: MARK,
        ..flow(None, 8055, "127.0.0.8")
    };
    check(&(1..=100).map(marked).collect::<Vec<_>>(), &["127.0.0.1:8055"]);
}

#[test]
fn the_kernel_picks_out_what_is_asked_for() {
    inside("the_kernel_picks_out_what_is_asked_for", || {
        mapped();
        for port in 8053..=8055 {
            send(&format!("127.0.0.1:{port}"));
        }
        let listed = |narrowing: Narrowing| {
            let count = std::cell::Cell::new(0);
            let look = |_: &Entry| {
                count.set(count.get() + 1);
                false
            };
            Conntrack::open().unwrap().forget(&narrowing, &look).unwrap();
            count.get()
        };
        // The ICMP answers of ports that nobody has are part of these connections, and none of their own.
        assert_eq!(listed(Narrowing::None), 3);
        assert_eq!(listed(Narrowing::Marked(MARK)), 1);
        assert_eq!(listed(Narrowing::Marked(MARK | 1)), 0);
        let answered =
            |address: &str| Narrowing::AnsweredBy { address: ip(address), protocol: UDP, port: 5353 };
        assert_eq!(listed(answered("127.0.0.9")), 2);
        assert_eq!(listed(answered("127.0.0.8")), 1);
        assert_eq!(listed(answered("::1")), 0);
    });
}

#[test]
fn thousands_go_in_few_messages() {
    inside("thousands_go_in_few_messages", || {
        mapped();
        let server = UdpSocket::bind("127.0.0.9:5353").unwrap();
        let clients = 2000;
        for _ in 0..clients {
            send("127.0.0.1:8053");
        }
        send("127.0.0.1:8054");
        // Some clients have had the same port.
        let all = tracked().len();
        let flows = [flow(None, 8053, "127.0.0.9")];
        let selection = Selection::new(&flows);
        let mut conntrack = Conntrack::open().unwrap();
        let start = std::time::Instant::now();
        let gone = conntrack.forget(&narrow(&flows)[0], &|entry| selection.names(entry)).unwrap();
        println!("{gone} connections of {all} ended in {:?}", start.elapsed());
        assert!(all > clients / 2);
        assert_eq!((gone, tracked().len()), (all - 1, 1));
        drop(server);
    });
}

#[test]
fn a_mapping_that_is_gone_leads_nowhere_after_a_flush() {
    inside("a_mapping_that_is_gone_leads_nowhere_after_a_flush", || {
        mapped();
        let old = UdpSocket::bind("127.0.0.9:5353").unwrap();
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        let arrives = || {
            client.send_to(b"x", "127.0.0.3:8053").unwrap();
            old.set_nonblocking(true).unwrap();
            old.recv(&mut [0; 4]).is_ok()
        };
        assert!(arrives());
        pipe("nft", &["-f", "-"], "flush chain ip t out");
        assert!(arrives(), "the entry outlives the rule: else there is nothing to test");
        let selection = Selection::new(&[flow(None, 8053, "127.0.0.9")]);
        let named = |entry: &Entry| selection.names(entry);
        assert_eq!(Conntrack::open().unwrap().forget(&Narrowing::None, &named).unwrap(), 1);
        assert!(!arrives());
    });
}

#[test]
fn many_flows_share_a_list_and_few_have_their_own() {
    let of = |n: u16, mark: u32| Flow { port: n, mark, ..flow(None, 0, "10.244.0.5") };
    let check = |flows: Vec<Flow>, expected: &[Narrowing]| assert_eq!(narrow(&flows), expected);
    let answered = Narrowing::AnsweredBy { address: ip("10.244.0.5"), protocol: UDP, port: 5353 };
    check(vec![], &[]);
    // Of one end point: one question.
    check((0..8).map(|n| of(n, 0)).collect(), &[answered]);
    let elsewhere = |n: u8, mark: u32| Flow { led_to: (ip(&format!("10.244.1.{n}")), 5353), ..of(0, mark) };
    check((0..3).map(|n| elsewhere(n, MARK)).collect(), &[Narrowing::Marked(MARK)]);
    check((0..3).map(|n| elsewhere(n, if n == 1 { 0 } else { MARK })).collect(), &[Narrowing::None]);
}

#[test]
fn a_connection_is_asked_few_questions_by_many_flows() {
    let tuple = |source: &str, destination: &str, source_port, destination_port| Tuple {
        source: ip(source),
        destination: ip(destination),
        protocol: UDP,
        source_port,
        destination_port,
    };
    let entry = Entry {
        original: tuple("192.0.2.9", "192.0.2.1", 1000, 8053),
        reply: tuple("10.244.0.5", "192.0.2.9", 5353, 1000),
        mark: 0,
    };
    let mut flows: Vec<Flow> = (0..10_000).map(|port| flow(None, port, "10.244.0.6")).collect();
    assert!(!Selection::new(&flows).names(&entry));
    flows.push(flow(Some("192.0.2.1"), 8053, "10.244.0.5"));
    assert!(Selection::new(&flows).names(&entry));
}
