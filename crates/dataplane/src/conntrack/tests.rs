//! Real connections in a network namespace of their own, with Debian's nft to translate them; and what is decided without.

use std::net::{IpAddr, UdpSocket};

use weft_model::Family;
use weft_plan::Plan;

use super::suspects::{Flow, Served, UDP, Who};
use super::{Conntrack, Entry, Narrowing, Suspects, Tuple};
use crate::filter::tests::namespace::{inside, pipe};

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

/// Ends suspects who by an empty plan lead to nobody; says how many.
fn forget(conntrack: &mut Conntrack, suspects: &Suspects) -> usize {
    let plan = Plan::default();
    let named = |entry: &Entry| suspects.end(&plan, entry);
    suspects.lists().iter().map(|list| conntrack.forget(list, &named).unwrap()).sum()
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
    Flow { to: to.map(ip), protocol: UDP, port, led_to: (ip(led_to), 5353) }
}

fn led(flows: impl IntoIterator<Item = Flow>) -> Suspects {
    Suspects { led: flows.into_iter().collect(), ..Suspects::default() }
}

/// Those that a map served which is gone, by where they were opened to.
fn served(opened: &[(&str, u16, Who)], left: &[&str]) -> Suspects {
    let served = Served {
        mark: MARK,
        opened: opened.iter().map(|(address, port, who)| ((ip(address), *port), *who)).collect(),
        left: left.iter().map(|address| (ip(address), 5353)).collect(),
        all: None,
    };
    Suspects { served: [("m".into(), served)].into_iter().collect(), ..Suspects::default() }
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
    let check = |suspects: Suspects, gone: &[&str]| {
        let plan = Plan::default();
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
            let mut conntrack = Conntrack::open().unwrap();
            assert_eq!(forget(&mut conntrack, &suspects), gone.len(), "{suspects:?}");
            let left: Vec<&str> = all.into_iter().filter(|to| !gone.contains(to)).collect();
            assert_eq!(tracked(), left, "{suspects:?}");
            let named = |entry: &Entry| suspects.end(&plan, entry);
            assert_eq!(conntrack.forget(&Narrowing::None, &named).unwrap(), 0, "{suspects:?}: in any list");
            drop(servers);
        });
    };
    for (flow, gone) in [
        (flow(None, 8053, "127.0.0.9"), &["127.0.0.1:8053", "127.0.0.3:8053"][..]),
        (flow(Some("127.0.0.3"), 8053, "127.0.0.9"), &["127.0.0.3:8053"]),
        (flow(Some("127.0.0.3"), 8054, "127.0.0.9"), &["127.0.0.3:8054"]),
        // Led elsewhere; not translated.
        (flow(None, 8053, "127.0.0.8"), &[]),
        (flow(None, 9000, "127.0.0.2"), &[]),
        (flow(None, 8053, "::1"), &["::1:8053"]),
        (Flow { protocol: 6, ..flow(None, 8053, "127.0.0.9") }, &[]),
    ] {
        check(led([flow]), gone);
        // So many that they share a list.
        let absent = |n| self::flow(Some("192.0.2.1"), 1, &format!("192.0.2.{n}"));
        check(led((2..9).map(absent).chain([flow])), gone);
    }
    let (marked, everybody) = (Who::Marked, Who::Everybody);
    for (opened, left, gone) in [
        (&[("127.0.0.1", 8055, marked)][..], &["127.0.0.8"][..], &["127.0.0.1:8055"][..]),
        // Not by us; led by us, and not asked about.
        (&[("127.0.0.1", 8053, marked)], &["127.0.0.9"], &[]),
        (&[("127.0.0.2", 8055, marked)], &["127.0.0.8"], &[]),
        // Whoever led them, and where nobody did.
        (&[("127.0.0.1", 8053, everybody)], &[], &["127.0.0.1:8053"]),
        (&[("127.0.0.2", 9000, everybody), ("::1", 9000, everybody)], &[], &["127.0.0.2:9000", "::1:9000"]),
    ] {
        check(served(opened, left), gone);
        let more: Vec<String> = (1..9).map(|n| format!("192.0.2.{n}")).collect();
        let more_opened = more.iter().map(|to| (to.as_str(), 1, everybody));
        let opened: Vec<(&str, u16, Who)> = opened.iter().copied().chain(more_opened).collect();
        let left: Vec<&str> = left.iter().copied().chain(more.iter().map(String::as_str)).collect();
        check(served(&opened, &left), gone);
    }
    let all_of = |family, opened| {
        let mut suspects = served(&[(opened, 9000, everybody)], &[]);
        suspects.served.values_mut().for_each(|served| served.all = Some(family));
        suspects
    };
    check(all_of(Family::V4, "127.0.0.2"), &["127.0.0.1:8055", "127.0.0.2:9000"]);
    check(all_of(Family::V6, "::1"), &["::1:9000"]);
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
        assert_eq!(listed(Narrowing::Unmarked(MARK)), 2);
        assert_eq!(listed(Narrowing::Protocol(Family::V4, UDP)), 3);
        assert_eq!(listed(Narrowing::Protocol(Family::V4, 6)), 0);
        assert_eq!(listed(Narrowing::Protocol(Family::V6, UDP)), 0);
        let opened = |address: &str, port| Narrowing::OpenedTo { address: ip(address), protocol: UDP, port };
        assert_eq!(listed(opened("127.0.0.1", 8053)), 1);
        assert_eq!(listed(opened("127.0.0.2", 8053)), 0);
        assert_eq!(listed(opened("::1", 8053)), 0);
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
        let suspects = led([flow(None, 8053, "127.0.0.9")]);
        let mut conntrack = Conntrack::open().unwrap();
        let start = std::time::Instant::now();
        let gone = forget(&mut conntrack, &suspects);
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
        assert_eq!(forget(&mut Conntrack::open().unwrap(), &led([flow(None, 8053, "127.0.0.9")])), 1);
        assert!(!arrives());
    });
}

#[test]
fn many_share_a_list_and_few_have_their_own() {
    let check = |suspects: Suspects, expected: &[Narrowing]| assert_eq!(suspects.lists(), expected);
    let answered = |address: &str| Narrowing::AnsweredBy { address: ip(address), protocol: UDP, port: 5353 };
    let opened = |address: &str, port| Narrowing::OpenedTo { address: ip(address), protocol: UDP, port };
    check(Suspects::default(), &[]);
    // Of one end: one question, however many led to it.
    check(led((0..8).map(|n| flow(None, n, "10.244.0.5"))), &[answered("10.244.0.5")]);
    check(led((0..3).map(|n| flow(None, 1, &format!("10.244.1.{n}")))), &[Narrowing::None]);
    let at = |address, who| (address, 53, who);
    let (marked, everybody) = (Who::Marked, Who::Everybody);
    let three = ["10.96.0.1", "10.96.0.2", "10.96.0.3"];
    check(served(&three.map(|a| at(a, marked)), &["10.244.0.5"]), &[answered("10.244.0.5")]);
    check(served(&[at("10.96.0.1", marked)], &three), &[Narrowing::Marked(MARK)]);
    check(served(&[at("10.96.0.1", everybody)], &[]), &[opened("10.96.0.1", 53)]);
    check(served(&three.map(|a| at(a, everybody)), &[]), &[Narrowing::Unmarked(MARK)]);
}

#[test]
fn suspicion_grows_with_what_comes_while_nobody_looks() {
    let of = |who| served(&[("10.96.0.1", 53, who)], &[]);
    for (first, second) in [(Who::Marked, Who::Everybody), (Who::Everybody, Who::Marked)] {
        let mut suspects = of(first);
        suspects.merge(of(second));
        suspects.merge(led([flow(None, 53, "10.244.0.5")]));
        let opened = Narrowing::OpenedTo { address: ip("10.96.0.1"), protocol: UDP, port: 53 };
        let answered = Narrowing::AnsweredBy { address: ip("10.244.0.5"), protocol: UDP, port: 5353 };
        assert_eq!(suspects.lists(), [opened, answered]);
    }
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
    let plan = Plan::default();
    let mut suspects = led((0..10_000).map(|port| flow(None, port, "10.244.0.6")));
    assert!(!suspects.end(&plan, &entry));
    suspects.merge(led([flow(Some("192.0.2.1"), 8053, "10.244.0.5")]));
    assert!(suspects.end(&plan, &entry));
}
