//! Invariant 11: what we write, nft lists as a person would have typed it, and the listing loads and lists alike.

use weft_model::{Family, IfName};
use weft_plan::filter::{
    Comparison, ConntrackState, ConntrackStatus, HookKind, NatTarget, Reject, Statement, Value,
};
use weft_plan::{Atom, Field, Ident, Rule, SetSpec, Type, Verdict};

use super::namespace::{inside, listing, pipe};
use super::{Row, apply, base, chain, entry, expected, member, observed, set};
use crate::filter::Nft;

fn is(field: Field, value: Value) -> Statement {
    Statement::Match(field, Comparison::Is, value)
}

fn not(field: Field, value: Value) -> Statement {
    Statement::Match(field, Comparison::IsNot, value)
}

fn link(name: &str) -> IfName {
    IfName::new(name).unwrap()
}

/// A set or map of every type and kind, and an element or two in each.
fn sets() -> Vec<Row> {
    use Type::{IfName, InetProto, InetService, Ipv4Addr, Ipv6Addr, Mark, Number, Verdict as VerdictType};
    let v4 = |text: &str| Atom::V4(text.parse().unwrap());
    let v6 = |text: &str| Atom::V6(text.parse().unwrap());
    let net = |text: &str| Atom::Net(text.parse().unwrap());
    let port = Atom::Port;
    vec![
        set("pods4", SetSpec::set(&[IfName, Ipv4Addr], "addresses of pods, by host end")),
        member("pods4", [Atom::Link(link("weftp1234")), v4("10.244.0.5")]),
        member("pods4", [Atom::Link(link("fifteen-letters")), v4("10.244.0.6")]),
        set("pods6", SetSpec::set(&[IfName, Ipv6Addr], "")),
        member("pods6", [Atom::Link(link("weftp1234")), v6("fd00::5")]),
        set("blocks4", SetSpec::intervals(Ipv4Addr, "blocks")),
        member("blocks4", [net("10.0.0.0/24")]),
        member("blocks4", [net("10.0.1.0/24")]),
        member("blocks4", [net("10.9.0.0/16")]),
        member("blocks4", [net("192.0.2.7/32")]),
        member("blocks4", [net("255.0.0.0/8")]),
        set("low4", SetSpec::intervals(Ipv4Addr, "the first block of all")),
        member("low4", [net("0.0.0.0/8")]),
        set("blocks6", SetSpec::intervals(Ipv6Addr, "blocks")),
        member("blocks6", [net("fd00::/48")]),
        member("blocks6", [net("2001:db8::1/128")]),
        member("blocks6", [net("ff00::/8")]),
        set("names", SetSpec::set(&[IfName], "one name")),
        member("names", [Atom::Link(link("eth0"))]),
        set("protocols", SetSpec::set(&[InetProto], "")),
        member("protocols", [Atom::Proto(6)]),
        member("protocols", [Atom::Proto(200)]),
        set("services", SetSpec::set(&[InetService], "")),
        member("services", [port(80)]),
        set("marks", SetSpec::set(&[Mark], "")),
        member("marks", [Atom::Mark(0x10)]),
        set(
            "recent",
            SetSpec { dynamic_timeout: Some(60), ..SetSpec::set(&[Ipv4Addr], "kept by the kernel") },
        ),
        set("svc", SetSpec::set(&[Ipv4Addr, InetProto, InetService], "")),
        member("svc", [v4("10.96.0.1"), Atom::Proto(6), port(443)]),
        set("svc6", SetSpec::set(&[Ipv6Addr, InetProto, InetService], "")),
        member("svc6", [v6("fd00:96::1"), Atom::Proto(17), port(53)]),
        set(
            "pairs",
            SetSpec { interval: true, ..SetSpec::set(&[Ipv4Addr, InetService], "blocks and ports") },
        ),
        member("pairs", [net("10.5.0.0/16"), port(80)]),
        set("ports4", SetSpec::map(&[InetProto, InetService], &[Ipv4Addr, InetService], "port mappings")),
        entry("ports4", [Atom::Proto(6), port(8080)], [v4("10.244.0.5"), port(80)]),
        set("ports6", SetSpec::map(&[InetProto, InetService], &[Ipv6Addr, InetService], "")),
        entry("ports6", [Atom::Proto(17), port(53)], [v6("fd00::5"), port(5353)]),
        set("svc_mark", SetSpec::map(&[Ipv4Addr, InetProto, InetService], &[Mark], "service marks")),
        entry("svc_mark", [v4("10.96.0.1"), Atom::Proto(6), port(443)], [Atom::Mark(0x1_0001)]),
        set("block_mark", SetSpec { interval: true, ..SetSpec::map(&[Ipv4Addr], &[Mark], "") }),
        entry("block_mark", [net("10.0.0.0/8")], [Atom::Mark(7)]),
        set("slot", SetSpec::map(&[Mark, Number], &[Mark], "a group's endpoints")),
        entry("slot", [Atom::Mark(1), Atom::Number(0)], [Atom::Mark(7)]),
        entry("slot", [Atom::Mark(1), Atom::Number(1)], [Atom::Mark(8)]),
        set("mixed", SetSpec::map(&[IfName, Number, InetProto], &[Mark], "")),
        entry("mixed", [Atom::Link(link("eth0")), Atom::Number(3), Atom::Proto(6)], [Atom::Mark(9)]),
        set("numbers", SetSpec::set(&[Number], "")),
        member("numbers", [Atom::Number(5)]),
        set("by_link", SetSpec::map(&[IfName], &[VerdictType], "chains of links")),
        entry("by_link", [Atom::Link(link("eth0"))], [Atom::Verdict(Verdict::Goto(Ident::new("inner")))]),
        entry("by_link", [Atom::Link(link("eth1"))], [Atom::Verdict(Verdict::Drop)]),
        set("by_mark", SetSpec::map(&[Mark], &[VerdictType], "")),
        entry("by_mark", [Atom::Mark(1)], [Atom::Verdict(Verdict::Jump(Ident::new("inner")))]),
        entry("by_mark", [Atom::Mark(2)], [Atom::Verdict(Verdict::Return)]),
        entry("by_mark", [Atom::Mark(3)], [Atom::Verdict(Verdict::Accept)]),
    ]
}

/// Each way to match one field.
fn matches() -> Vec<Statement> {
    let address = |text: &str| Value::Address(text.parse().unwrap());
    let net = |text: &str| Value::Net(text.parse().unwrap());
    let (v4, v6) = (Family::V4, Family::V6);
    vec![
        is(Field::Iifname, Value::Link(link("eth0"))),
        not(Field::Oifname, Value::Link(IfName::loopback())),
        is(Field::Iifname, Value::LinkPrefix("weftp".into())),
        not(Field::Oifname, Value::LinkPrefix("weftp".into())),
        is(Field::Mark, Value::Mark(0x10)),
        not(Field::CtMark, Value::Mark(0x20)),
        is(Field::L4Proto, Value::Byte(17)),
        not(Field::L4Proto, Value::Byte(58)),
        is(Field::L4Proto, Value::Byte(200)),
        is(Field::Saddr(v4), address("10.0.0.1")),
        not(Field::Daddr(v4), address("10.0.0.1")),
        is(Field::Saddr(v4), net("10.0.0.0/8")),
        not(Field::Daddr(v4), net("10.16.0.0/20")),
        is(Field::Saddr(v4), net("0.0.0.0/0")),
        is(Field::Saddr(v4), net("10.0.0.1/32")),
        is(Field::Saddr(v6), address("fd00::1")),
        not(Field::Daddr(v6), address("fd00::1")),
        is(Field::Daddr(v6), net("fe80::/10")),
        is(Field::Saddr(v6), net("fd00::/64")),
        not(Field::Saddr(v6), net("fd00:10::/61")),
        is(Field::Sport, Value::Port(53)),
        not(Field::Dport, Value::Port(53)),
        is(Field::Icmpv6Type, Value::Byte(134)),
        not(Field::Icmpv6Type, Value::Byte(7)),
        is(Field::FibDaddrType, Value::Local),
        not(Field::FibDaddrType, Value::Local),
        is(Field::CtState, Value::State(ConntrackState::EstablishedOrRelated)),
        is(Field::CtState, Value::State(ConntrackState::Invalid)),
        is(Field::CtState, Value::State(ConntrackState::Untracked)),
        not(Field::CtState, Value::State(ConntrackState::Invalid)),
        not(Field::CtState, Value::State(ConntrackState::EstablishedOrRelated)),
        is(Field::CtStatus, Value::Status(ConntrackStatus::Dnat)),
        is(Field::CtDirection, Value::Reply),
        not(Field::CtStatus, Value::Status(ConntrackStatus::Dnat)),
        is(Field::Random(3), Value::Number(1)),
    ]
}

/// Look-ups in every set, over one field and over concatenations.
fn lookups() -> Vec<Statement> {
    let (v4, v6) = (Family::V4, Family::V6);
    let look = |key: &[Field], set: &str| Statement::Lookup(key.to_vec(), Comparison::Is, Ident::new(set));
    let lack = |key: &[Field], set: &str| Statement::Lookup(key.to_vec(), Comparison::IsNot, Ident::new(set));
    vec![
        look(&[Field::Iifname, Field::Saddr(v4)], "pods4"),
        lack(&[Field::Iifname, Field::Saddr(v4)], "pods4"),
        lack(&[Field::Iifname, Field::Saddr(v6)], "pods6"),
        look(&[Field::Daddr(v4)], "blocks4"),
        lack(&[Field::Saddr(v4)], "low4"),
        lack(&[Field::Saddr(v6)], "blocks6"),
        look(&[Field::Oifname], "names"),
        look(&[Field::L4Proto], "protocols"),
        lack(&[Field::Dport], "services"),
        look(&[Field::Mark], "marks"),
        look(&[Field::CtMark], "marks"),
        look(&[Field::Saddr(v4)], "recent"),
        look(&[Field::Daddr(v4), Field::L4Proto, Field::Dport], "svc"),
        look(&[Field::Daddr(v6), Field::L4Proto, Field::Dport], "svc6"),
        look(&[Field::Daddr(v4), Field::Dport], "pairs"),
    ]
}

fn rules() -> Vec<Row> {
    let (v4, v6) = (Family::V4, Family::V6);
    let accept = || Statement::Verdict(Verdict::Accept);
    let mut filter: Vec<Rule> = matches()
        .into_iter()
        .chain(lookups())
        .map(|statement| Rule::new("", [statement, accept()]))
        .collect();
    let service = vec![Field::Daddr(v4), Field::L4Proto, Field::Dport];
    let udp = is(Field::L4Proto, Value::Byte(17));
    let port = is(Field::Dport, Value::Port(53));
    filter.extend([
        // Fields one after the other, each with what nft adds before it.
        Rule::new(
            "two addresses",
            [
                is(Field::Iifname, Value::Link(link("eth0"))),
                is(Field::Saddr(v4), Value::Net("10.0.0.0/8".parse().unwrap())),
                not(Field::Daddr(v4), Value::Net("10.0.0.0/8".parse().unwrap())),
                accept(),
            ],
        ),
        Rule::new("names", [udp.clone(), port.clone(), accept()]),
        Rule::new(
            "after a look-up",
            [
                Statement::Lookup(vec![Field::Daddr(v4)], Comparison::Is, Ident::new("blocks4")),
                udp.clone(),
                port.clone(),
                accept(),
            ],
        ),
        Rule::new(
            "spoofed source",
            [
                is(Field::Iifname, Value::LinkPrefix("weftp".into())),
                Statement::Lookup(
                    vec![Field::Iifname, Field::Saddr(v6)],
                    Comparison::IsNot,
                    Ident::new("pods6"),
                ),
                Statement::Counter,
                Statement::Verdict(Verdict::Drop),
            ],
        ),
        Rule::new("", [Statement::SetMark(0x100), Statement::SaveMark]),
        Rule::new("", [Statement::SetMarkFrom(service, Ident::new("svc_mark"))]),
        Rule::new("", [Statement::SetMarkFrom(vec![Field::Saddr(v4)], Ident::new("block_mark"))]),
        Rule::new("", [Statement::SetMarkFrom(vec![Field::Mark, Field::Random(2)], Ident::new("slot"))]),
        Rule::new(
            "",
            [Statement::SetMarkFrom(
                vec![Field::Oifname, Field::Random(9), Field::L4Proto],
                Ident::new("mixed"),
            )],
        ),
        Rule::new("", [Statement::VerdictFrom(vec![Field::Iifname], Ident::new("by_link"))]),
        Rule::new("", [udp, Statement::VerdictFrom(vec![Field::Mark], Ident::new("by_mark"))]),
        Rule::new("", [Statement::Counter, Statement::Reject(Reject::PortUnreachable)]),
        Rule::new("", [Statement::Reject(Reject::AdminProhibited)]),
        Rule::new("", [Statement::Reject(Reject::TcpReset)]),
        Rule::new("", [is(Field::L4Proto, Value::Byte(6)), port, Statement::Reject(Reject::TcpReset)]),
        Rule::new(
            "",
            [
                is(Field::Saddr(v6), Value::Address("fd00::1".parse().unwrap())),
                Statement::Reject(Reject::PortUnreachable),
            ],
        ),
        Rule::new(
            "",
            [
                is(Field::Saddr(v4), Value::Address("10.0.0.1".parse().unwrap())),
                Statement::Reject(Reject::PortUnreachable),
            ],
        ),
        Rule::new(
            "",
            [
                Statement::Lookup(vec![Field::Saddr(v4)], Comparison::Is, Ident::new("blocks4")),
                Statement::Reject(Reject::AdminProhibited),
            ],
        ),
        Rule::new(
            "",
            [
                Statement::Lookup(vec![Field::Saddr(v6)], Comparison::Is, Ident::new("blocks6")),
                Statement::Reject(Reject::AdminProhibited),
            ],
        ),
        Rule::new("", [Statement::Verdict(Verdict::Jump(Ident::new("inner")))]),
        Rule::new("", [Statement::Verdict(Verdict::Drop)]),
        Rule::new("", [Statement::Verdict(Verdict::Goto(Ident::new("inner")))]),
    ]);
    let local = || is(Field::FibDaddrType, Value::Local);
    let mapped = |family: Family, key: &[Field], map: &str| NatTarget::AddressPortFrom {
        family,
        key: key.to_vec(),
        map: Ident::new(map),
    };
    let key = [Field::L4Proto, Field::Dport];
    let prerouting = vec![
        Rule::new("port mappings", [local(), Statement::Dnat(mapped(v4, &key, "ports4"))]),
        Rule::new("port mappings", [local(), Statement::Dnat(mapped(v6, &key, "ports6"))]),
        Rule::new(
            "",
            [
                not(Field::Daddr(v6), Value::Address("::1".parse().unwrap())),
                Statement::Dnat(mapped(v6, &key, "ports6")),
            ],
        ),
        Rule::new("", [Statement::Dnat(NatTarget::Address("10.0.0.1".parse().unwrap()))]),
        Rule::new("", [Statement::Dnat(NatTarget::Address("fd00::1".parse().unwrap()))]),
    ];
    let postrouting = vec![
        Rule::new(
            "",
            [
                is(Field::CtStatus, Value::Status(ConntrackStatus::Dnat)),
                Statement::Lookup(vec![Field::Saddr(v4)], Comparison::Is, Ident::new("blocks4")),
                Statement::Masquerade,
            ],
        ),
        Rule::new("", [Statement::Snat(NatTarget::Address("10.0.0.1".parse().unwrap()))]),
        Rule::new("", [Statement::Snat(NatTarget::Address("fd00::1".parse().unwrap()))]),
        Rule::new("", [Statement::Snat(mapped(v4, &key, "ports4"))]),
        Rule::new("", [Statement::Masquerade]),
    ];
    vec![
        chain("inner", vec![Rule::new("", [Statement::Verdict(Verdict::Return)])]),
        chain("empty", vec![]),
        base("guard", (HookKind::Forward, false, -5), filter),
        base("to_host", (HookKind::Input, false, 0), vec![]),
        base(
            "untracked",
            (HookKind::Output, false, -303),
            vec![Rule::new("no tracking", [Statement::Notrack])],
        ),
        base("mapped", (HookKind::Prerouting, true, -110), prerouting),
        base("edge", (HookKind::Postrouting, true, 95), postrouting),
    ]
}

fn everything() -> Vec<Row> {
    sets().into_iter().chain(rules()).collect()
}

fn text((key, row): &Row) -> String {
    weft_plan::text::kernel_row(key, row)
}

/// The part of nft's listing that begins so, without its indentation.
fn part<'a>(listing: &'a str, head: &str) -> Vec<&'a str> {
    let lines = listing.lines().map(str::trim).skip_while(|line| *line != head);
    lines.take_while(|line| *line != "}").collect()
}

#[test]
fn a_listing_of_everything_loads_and_lists_alike() {
    inside("a_listing_of_everything_loads_and_lists_alike", || {
        let rows = everything();
        let mut nft = Nft::open().unwrap();
        apply(&mut nft, &rows);
        let ours = listing();
        let seen = observed(&mut nft);
        inside("the listing, loaded elsewhere", || {
            pipe("nft", &["-f", "-"], &ours);
            assert_eq!(listing(), ours, "a loaded listing lists otherwise");
            // nft compiled it from text: the kernel holds the same expressions.
            for (loaded, written) in observed(&mut Nft::open().unwrap()).iter().zip(&seen) {
                assert_eq!(text(loaded), text(written));
            }
        });
    });
}

/// nft pulls a protocol and its port together, over what stands between: the rule means the same.
#[test]
fn a_protocol_before_an_address_is_listed_after_it() {
    inside("a_protocol_before_an_address_is_listed_after_it", || {
        let rule = Rule::new(
            "",
            [
                is(Field::L4Proto, Value::Byte(17)),
                is(Field::Saddr(Family::V4), Value::Address("10.0.0.1".parse().unwrap())),
                is(Field::Dport, Value::Port(53)),
                Statement::Notrack,
            ],
        );
        apply(&mut Nft::open().unwrap(), &[base("raw", (HookKind::Output, false, -303), vec![rule])]);
        let ours = listing();
        assert!(ours.contains("ip saddr 10.0.0.1 udp dport 53 notrack"), "{ours}");
        inside("the listing, loaded elsewhere", || {
            pipe("nft", &["-f", "-"], &ours);
            assert_eq!(listing(), ours);
        });
    });
}

#[test]
fn what_is_applied_is_observed() {
    inside("what_is_applied_is_observed", || {
        let rows = everything();
        let mut nft = Nft::open().unwrap();
        apply(&mut nft, &rows);
        let (seen, wanted) = (observed(&mut nft), expected(&rows));
        for (seen, wanted) in seen.iter().zip(&wanted) {
            assert_eq!(seen, wanted);
        }
        assert_eq!(seen.len(), wanted.len());
        let before = listing();
        apply(&mut nft, &rows);
        assert_eq!(listing(), before, "applying twice changes something");
    });
}

#[test]
fn rules_are_listed_in_the_words_of_the_plan() {
    inside("rules_are_listed_in_the_words_of_the_plan", || {
        let rows = everything();
        let mut nft = Nft::open().unwrap();
        apply(&mut nft, &rows);
        insta::assert_snapshot!(part(&listing(), "chain guard {").join("\n"), @r#"
        chain guard {
        type filter hook forward priority filter - 5; policy accept;
        iifname "eth0" accept
        oifname != "lo" accept
        iifname "weftp*" accept
        oifname != "weftp*" accept
        meta mark 0x00000010 accept
        ct mark != 0x00000020 accept
        meta l4proto udp accept
        meta l4proto != ipv6-icmp accept
        meta l4proto 200 accept
        ip saddr 10.0.0.1 accept
        ip daddr != 10.0.0.1 accept
        ip saddr 10.0.0.0/8 accept
        ip daddr != 10.16.0.0/20 accept
        ip saddr 0.0.0.0/0 accept
        ip saddr 10.0.0.1 accept
        ip6 saddr fd00::1 accept
        ip6 daddr != fd00::1 accept
        ip6 daddr fe80::/10 accept
        ip6 saddr fd00::/64 accept
        ip6 saddr != fd00:10::/61 accept
        th sport 53 accept
        th dport != 53 accept
        icmpv6 type nd-router-advert accept
        icmpv6 type != 7 accept
        fib daddr type local accept
        fib daddr type != local accept
        ct state established,related accept
        ct state invalid accept
        ct state untracked accept
        ct state ! invalid accept
        ct state ! established,related accept
        ct status dnat accept
        ct direction reply accept
        ct status ! dnat accept
        numgen random mod 3 1 accept
        iifname . ip saddr @pods4 accept
        iifname . ip saddr != @pods4 accept
        iifname . ip6 saddr != @pods6 accept
        ip daddr @blocks4 accept
        ip saddr != @low4 accept
        ip6 saddr != @blocks6 accept
        oifname @names accept
        meta l4proto @protocols accept
        th dport != @services accept
        meta mark @marks accept
        ct mark @marks accept
        ip saddr @recent accept
        ip daddr . meta l4proto . th dport @svc accept
        ip6 daddr . meta l4proto . th dport @svc6 accept
        ip daddr . th dport @pairs accept
        iifname "eth0" ip saddr 10.0.0.0/8 ip daddr != 10.0.0.0/8 accept comment "two addresses"
        udp dport 53 accept comment "names"
        ip daddr @blocks4 udp dport 53 accept comment "after a look-up"
        iifname "weftp*" iifname . ip6 saddr != @pods6 counter packets 0 bytes 0 drop comment "spoofed source"
        meta mark set 0x00000100 ct mark set meta mark
        meta mark set ip daddr . meta l4proto . th dport map @svc_mark
        meta mark set ip saddr map @block_mark
        meta mark set meta mark . numgen random mod 2 map @slot
        meta mark set oifname . numgen random mod 9 . meta l4proto map @mixed
        iifname vmap @by_link
        meta l4proto udp meta mark vmap @by_mark
        counter packets 0 bytes 0 reject
        reject with icmpx admin-prohibited
        meta l4proto tcp reject with tcp reset
        tcp dport 53 reject with tcp reset
        ip6 saddr fd00::1 reject with icmpv6 port-unreachable
        ip saddr 10.0.0.1 reject with icmp port-unreachable
        ip saddr @blocks4 reject with icmpx admin-prohibited
        ip6 saddr @blocks6 reject with icmpx admin-prohibited
        jump inner
        drop
        goto inner
        "#);
        insta::assert_snapshot!(part(&listing(), "chain mapped {").join("\n"), @r#"
        chain mapped {
        type nat hook prerouting priority dstnat - 10; policy accept;
        fib daddr type local dnat ip to meta l4proto . th dport map @ports4 comment "port mappings"
        fib daddr type local dnat ip6 to meta l4proto . th dport map @ports6 comment "port mappings"
        ip6 daddr != ::1 dnat ip6 to meta l4proto . th dport map @ports6
        dnat ip to 10.0.0.1
        dnat ip6 to fd00::1
        "#);
        insta::assert_snapshot!(part(&listing(), "chain edge {").join("\n"), @r#"
        chain edge {
        type nat hook postrouting priority srcnat - 5; policy accept;
        ct status dnat ip saddr @blocks4 masquerade fully-random
        snat ip to 10.0.0.1
        snat ip6 to fd00::1
        snat ip to meta l4proto . th dport map @ports4
        masquerade fully-random
        "#);
    });
}

#[test]
fn sets_are_listed_with_their_types() {
    inside("sets_are_listed_with_their_types", || {
        let mut nft = Nft::open().unwrap();
        apply(&mut nft, &everything());
        let text = listing();
        let head: Vec<&str> = text.lines().take_while(|line| !line.contains("chain")).collect();
        insta::assert_snapshot!(head.join("\n").replace('\t', "  "), @r#"
        table inet weft {
          comment "written by weft, the cluster's network: changes by hand are undone"
          map block_mark {
            type ipv4_addr : mark
            flags interval
            elements = { 10.0.0.0/8 : 0x00000007 }
          }

          set blocks4 {
            type ipv4_addr
            flags interval
            comment "blocks"
            elements = { 10.0.0.0/24, 10.0.1.0/24,
                   10.9.0.0/16, 192.0.2.7,
                   255.0.0.0/8 }
          }

          set blocks6 {
            type ipv6_addr
            flags interval
            comment "blocks"
            elements = { 2001:db8::1,
                   fd00::/48,
                   ff00::/8 }
          }

          map by_link {
            type ifname : verdict
        "#);
    });
}
