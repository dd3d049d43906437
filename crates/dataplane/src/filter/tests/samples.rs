//! Rows of every kind, with every statement and type: what the judges of these tests look at.

use weft_model::{Family, IfName};
use weft_plan::filter::{
    Comparison, ConntrackState, ConntrackStatus, HookKind, NatTarget, Reject, Statement, Value,
};
use weft_plan::{Atom, Field, Ident, Rule, SetSpec, Type, Verdict};

use super::{Row, base, chain, entry, member, set};

pub fn is(field: Field, value: Value) -> Statement {
    Statement::Match(field, Comparison::Is, value)
}

fn not(field: Field, value: Value) -> Statement {
    Statement::Match(field, Comparison::IsNot, value)
}

fn link(name: &str) -> IfName {
    IfName::new(name).unwrap()
}

/// A map from keys to marks, as session affinity needs it.
fn packets_write(key: &[Type]) -> SetSpec {
    SetSpec { dynamic_timeout: Some(10_800), ..SetSpec::map(key, &[Type::Mark], "clients") }
}

/// A set or map of every type and kind, and an element or two in each.
#[allow(clippy::too_many_lines, reason = "a table, one row a line")]
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
        set("near4", SetSpec::set(&[Mark, Ipv4Addr], "sources by mark and block")),
        member("near4", [Atom::Mark(0x10), v4("203.0.112.0")]),
        set("near6", SetSpec::set(&[Mark, Ipv6Addr], "")),
        member("near6", [Atom::Mark(0x10), v6("2001:db8:c::")]),
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
        set("service4", SetSpec::map(&[Ipv4Addr, InetProto, InetService], &[Mark], "services")),
        entry("service4", [v4("10.96.0.1"), Atom::Proto(6), port(443)], [Atom::Mark(0x180_0001)]),
        set("endpoint4", SetSpec::map(&[Mark, InetProto], &[Ipv4Addr, InetService], "endpoints")),
        entry("endpoint4", [Atom::Mark(0x8000_0007), Atom::Proto(6)], [v4("10.244.0.5"), port(8443)]),
        set("endpoint6", SetSpec::map(&[Mark, InetProto], &[Ipv6Addr, InetService], "")),
        entry("endpoint6", [Atom::Mark(0x8000_0008), Atom::Proto(6)], [v6("fd00::5"), port(8443)]),
        set("client4", packets_write(&[Ipv4Addr, Ipv4Addr, InetProto, InetService])),
        set("client6", packets_write(&[Number, Number, InetProto, InetService])),
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
        is(Field::TcpFlags, Value::Syn),
        not(Field::TcpFlags, Value::Syn),
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
        is(Field::CtMarkMasked(0x8000_0000), Value::Mark(0x8000_0000)),
        not(Field::CtMarkMasked(0x8000_0000), Value::Mark(0)),
        is(Field::CtMarkMasked(0xff00_0000), Value::Mark(0x0100_0000)),
        is(Field::CtMarkMasked(0x7f80_0000), Value::Mark(0x0180_0000)),
        not(Field::CtMarkMasked(0x0000_00ff), Value::Mark(0x12)),
        is(Field::FibSaddrType, Value::Local),
        not(Field::FibSaddrType, Value::Local),
        is(Field::CtOriginalDaddr(v4), address("10.96.0.1")),
        not(Field::CtOriginalDaddr(v4), net("10.96.0.0/16")),
        is(Field::CtOriginalDaddr(v4), net("10.96.0.0/20")),
        is(Field::CtOriginalDaddr(v6), address("fd00::1")),
        not(Field::CtOriginalDaddr(v6), net("fd00::/64")),
        is(Field::CtOriginalDaddr(v6), net("fd00::/61")),
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
        look(&[Field::CtMarkMasked(0x7fff_ffff)], "marks"),
        lack(&[Field::CtMarkMasked(0xffff_0000)], "marks"),
        look(&[Field::CtMark, Field::Saddr(v4)], "near4"),
        look(&[Field::CtMark, Field::SaddrBlock(v4, 24)], "near4"),
        lack(&[Field::CtMark, Field::SaddrBlock(v4, 22)], "near4"),
        look(&[Field::CtMark, Field::SaddrBlock(v4, 1)], "near4"),
        look(&[Field::CtMark, Field::SaddrBlock(v6, 48)], "near6"),
        lack(&[Field::CtMark, Field::SaddrBlock(v6, 61)], "near6"),
        look(&[Field::CtMark, Field::SaddrBlock(v6, 127)], "near6"),
        look(&[Field::CtOriginalDaddr(v4)], "blocks4"),
        look(&[Field::CtOriginalDaddr(v4), Field::L4Proto, Field::Dport], "svc"),
        look(&[Field::CtOriginalDaddr(v6), Field::L4Proto, Field::Dport], "svc6"),
    ]
}

/// A nat chain with all that services are made of.
pub fn services() -> Vec<Rule> {
    let (v4, v6) = (Family::V4, Family::V6);
    let rule = |statements: &[Statement]| Rule::new("", statements.to_vec());
    let client4 = vec![Field::Saddr(v4), Field::Daddr(v4), Field::L4Proto, Field::Dport];
    let client6 = vec![Field::SaddrHash(v6), Field::DaddrHash(v6), Field::L4Proto, Field::Dport];
    let update = |map: &str, key: &[Field], timeout_seconds: u32| Statement::Update {
        map: Ident::new(map),
        key: key.to_vec(),
        timeout_seconds,
        data: Field::CtMark,
    };
    let delete = |map: &str, key: &[Field]| Statement::Delete {
        map: Ident::new(map),
        key: key.to_vec(),
        data: Field::CtMark,
    };
    let from = |key: &[Field], map: &str| Statement::SetCtMarkFrom(key.to_vec(), Ident::new(map));
    let translate = |family: Family, map: &str| {
        let key = vec![Field::CtMark, Field::L4Proto];
        Statement::Dnat(NatTarget::AddressPortFrom { family, key, map: Ident::new(map) })
    };
    vec![
        rule(&[from(&[Field::Daddr(v4), Field::L4Proto, Field::Dport], "service4")]),
        rule(&[Statement::VerdictFrom(vec![Field::CtMarkMasked(0x7f80_0000)], Ident::new("by_mark"))]),
        rule(&[from(&client4, "client4"), update("client4", &client4, 10_800), translate(v4, "endpoint4")]),
        rule(&[delete("client4", &client4), from(&[Field::CtMark, Field::Random(3)], "slot")]),
        rule(&[update("client4", &client4, 86_399), translate(v4, "endpoint4")]),
        rule(&[from(&client6, "client6"), update("client6", &client6, 60), translate(v6, "endpoint6")]),
        rule(&[delete("client6", &client6)]),
        rule(&[from(&[Field::CtMarkMasked(0x7fff_ffff), Field::Random(2)], "slot")]),
        rule(&[Statement::SetMarkFrom(client6, Ident::new("client6"))]),
        rule(&[
            is(Field::L4Proto, Value::Byte(6)),
            is(Field::CtOriginalDport, Value::Port(443)),
            Statement::Counter,
        ]),
        rule(&[Statement::SetCtMark(0x10)]),
        rule(&[is(Field::L4Proto, Value::Byte(6)), Statement::Reject(Reject::TcpReset)]),
        rule(&[Statement::Reject(Reject::PortUnreachable)]),
    ]
}

/// Fields one after the other, each with what nft adds before it; marks, and verdicts that maps give.
fn decisions() -> Vec<Rule> {
    let (v4, v6) = (Family::V4, Family::V6);
    let accept = || Statement::Verdict(Verdict::Accept);
    let service = vec![Field::Daddr(v4), Field::L4Proto, Field::Dport];
    let (udp, port) = (is(Field::L4Proto, Value::Byte(17)), is(Field::Dport, Value::Port(53)));
    vec![
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
        Rule::new("", [Statement::SetMarkBits(0x100), Statement::SaveMark]),
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
    ]
}

/// Each way to refuse, with and without what says the family; then where packets go on.
fn refusals() -> Vec<Rule> {
    let (v4, v6) = (Family::V4, Family::V6);
    let port = is(Field::Dport, Value::Port(53));
    vec![
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
    ]
}

/// Addresses and ports by a map, which the key finds.
fn mapped(family: Family, map: &str) -> NatTarget {
    let key = vec![Field::L4Proto, Field::Dport];
    NatTarget::AddressPortFrom { family, key, map: Ident::new(map) }
}

fn prerouting() -> Vec<Rule> {
    let (v4, v6) = (Family::V4, Family::V6);
    let local = || is(Field::FibDaddrType, Value::Local);
    vec![
        Rule::new("port mappings", [local(), Statement::Dnat(mapped(v4, "ports4"))]),
        Rule::new("port mappings", [local(), Statement::Dnat(mapped(v6, "ports6"))]),
        Rule::new(
            "",
            [
                not(Field::Daddr(v6), Value::Address("::1".parse().unwrap())),
                Statement::Dnat(mapped(v6, "ports6")),
            ],
        ),
        Rule::new("", [Statement::Dnat(NatTarget::Address("10.0.0.1".parse().unwrap()))]),
        Rule::new("", [Statement::Dnat(NatTarget::Address("fd00::1".parse().unwrap()))]),
    ]
}

fn postrouting() -> Vec<Rule> {
    let v4 = Family::V4;
    vec![
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
        Rule::new("", [Statement::Snat(mapped(v4, "ports4"))]),
        Rule::new("", [Statement::Masquerade]),
    ]
}

fn rules() -> Vec<Row> {
    let filter = matches().into_iter().chain(lookups());
    let filter = filter.map(|statement| Rule::new("", [statement, Statement::Verdict(Verdict::Accept)]));
    let filter = filter.chain(decisions()).chain(refusals()).collect();
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
        base("mapped", (HookKind::Prerouting, true, -110), prerouting()),
        base("services", (HookKind::Prerouting, true, -105), services()),
        base("edge", (HookKind::Postrouting, true, 95), postrouting()),
    ]
}

pub fn everything() -> Vec<Row> {
    sets().into_iter().chain(rules()).collect()
}
