//! Real connections in a network namespace of their own, and selectors.

use std::net::{IpAddr, UdpSocket};

use super::flush::Selection;
use super::{Entry, Flow, Tuple, flush};
use crate::filter::tests::namespace::{inside, pipe};

const UDP: u8 = 17;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// Loopback with tracking and a port mapping: UDP port 8053 at any address leads to 127.0.0.9:5353.
fn mapped() {
    let rules = "table ip t {
        chain out { type nat hook output priority -100; udp dport 8053 dnat to 127.0.0.9:5353; }
        chain marks { type filter hook output priority filter; udp dport 7000 ct mark set 0x00120034; }
    }
    table ip6 t {
        chain out { type filter hook output priority filter; ct state invalid drop; }
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

/// Entries of UDP in this namespace, by the kernel's own listing.
fn tracked() -> usize {
    let list = std::fs::read_to_string("/proc/thread-self/net/nf_conntrack").unwrap();
    list.lines().filter(|line| line.contains(" udp ")).count()
}

#[test]
fn selectors_remove_what_they_name_and_nothing_else() {
    let check = |flows: &[Flow], removed: usize| {
        inside("selectors_remove_what_they_name_and_nothing_else", || {
            mapped();
            let servers: Vec<UdpSocket> =
                ["127.0.0.9:5353", "127.0.0.1:7000", "127.0.0.2:9000", "[::1]:9000"]
                    .iter()
                    .map(|address| UdpSocket::bind(address).unwrap())
                    .collect();
            for to in ["127.0.0.1:8053", "127.0.0.3:8053", "127.0.0.1:7000", "127.0.0.2:9000", "[::1]:9000"] {
                send(to);
            }
            if !std::path::Path::new("/proc/thread-self/net/nf_conntrack").exists() {
                // Without the listing the numbers that flush gives are all there is to compare.
                assert_eq!(flush(flows).unwrap(), removed, "{flows:?}");
                assert_eq!(flush(flows).unwrap(), 0, "{flows:?}: a second time");
                return;
            }
            let before = tracked();
            assert_eq!(
                before,
                5,
                "{}",
                std::fs::read_to_string("/proc/thread-self/net/nf_conntrack").unwrap()
            );
            assert_eq!(flush(flows).unwrap(), removed, "{flows:?}");
            assert_eq!(tracked(), before - removed, "{flows:?}");
            assert_eq!(flush(flows).unwrap(), 0, "{flows:?}: a second time");
            drop(servers);
        });
    };
    let to = |address: Option<&str>, port| Flow::To { address: address.map(ip), protocol: UDP, port };
    check(&[], 0);
    check(&[to(None, 8053)], 2);
    check(&[to(Some("127.0.0.3"), 8053)], 1);
    check(&[to(Some("127.0.0.3"), 8054)], 0);
    check(&[Flow::To { address: None, protocol: 6, port: 8053 }], 0);
    // Any address means what was translated: this host's own service on the port goes on.
    check(&[to(None, 9000)], 0);
    check(&[to(Some("::1"), 9000)], 1);
    check(&[Flow::AnsweredBy { address: ip("127.0.0.9"), protocol: UDP, port: 5353 }], 2);
    check(&[Flow::Mark { mark: 0x0012_0000, mask: 0xffff_0000 }], 1);
    check(&[Flow::Mark { mark: 0x0013_0000, mask: 0xffff_0000 }], 0);
    check(&[Flow::Address(ip("127.0.0.2"))], 1);
    check(&[Flow::Address(ip("127.0.0.9"))], 2);
    check(&[Flow::Address(ip("127.0.0.2")), to(None, 8053), Flow::Address(ip("::1"))], 4);
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
        assert_eq!(flush(&[Flow::To { address: None, protocol: UDP, port: 8053 }]).unwrap(), 1);
        assert!(!arrives());
    });
}

#[test]
fn many_selectors_ask_an_entry_few_questions() {
    let tuple = |source: &str, destination: &str, source_port, destination_port| Tuple {
        source: ip(source),
        destination: ip(destination),
        protocol: UDP,
        source_port,
        destination_port,
    };
    let entry = Entry {
        original: tuple("192.0.2.9", "192.0.2.1", 1000, 8053),
        reply: tuple("10.244.0.5", "192.0.2.9", 53, 1000),
        mark: 0,
    };
    let mut flows: Vec<Flow> =
        (0..10_000_u32).map(|n| Flow::Address(std::net::Ipv4Addr::from(0x0b00_0000 + n).into())).collect();
    assert!(!Selection::new(&flows).names(&entry));
    flows.push(Flow::Address(ip("10.244.0.5")));
    assert!(Selection::new(&flows).names(&entry));
}
