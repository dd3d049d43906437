//! Rules as the kernel's expressions, and back.

use proptest::prelude::*;
use weft_model::{Family, IfName};
use weft_plan::filter::{Comparison, ConntrackState, ConntrackStatus, NatTarget, Reject, Statement, Value};
use weft_plan::{Field, Ident, KernelRow, Rule, Verdict};

use super::chain;
use crate::filter::{canonical, lower, raise};

fn check(statements: impl IntoIterator<Item = Statement>, expected: &str) {
    let lines: Vec<String> =
        lower::rule(&Rule::new("", statements)).iter().map(ToString::to_string).collect();
    assert_eq!(lines, expected.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>());
}

#[test]
fn expressions_are_those_of_nft() {
    let v4 = Family::V4;
    check(
        [
            Statement::Match(Field::Iifname, Comparison::Is, Value::LinkPrefix("weftp".into())),
            Statement::Lookup(vec![Field::Iifname, Field::Saddr(v4)], Comparison::IsNot, Ident::new("pods")),
            Statement::Counter,
            Statement::Verdict(Verdict::Drop),
        ],
        "[ meta load iifname => reg 1 ]
         [ cmp eq reg 1 0x74666577 0x00000070 ]
         [ meta load nfproto => reg 1 ]
         [ cmp eq reg 1 0x00000002 ]
         [ meta load iifname => reg 1 ]
         [ payload load 4b @ network header + 12 => reg 2 ]
         [ lookup reg 1 set pods 0x1 ]
         [ counter ]
         [ immediate reg 0 drop ]",
    );
    check(
        [
            Statement::Match(Field::FibDaddrType, Comparison::Is, Value::Local),
            Statement::Dnat(NatTarget::AddressPortFrom {
                family: v4,
                key: vec![Field::L4Proto, Field::Dport],
                map: Ident::new("ports"),
            }),
        ],
        "[ fib daddr type => reg 1 ]
         [ cmp eq reg 1 0x00000002 ]
         [ meta load l4proto => reg 1 ]
         [ payload load 2b @ transport header + 2 => reg 9 ]
         [ lookup reg 1 set ports dreg 1 ]
         [ nat dnat ip address reg 1 port reg 9 ]",
    );
    check(
        [
            Statement::Match(Field::CtState, Comparison::IsNot, Value::State(ConntrackState::Invalid)),
            Statement::Match(Field::Daddr(v4), Comparison::Is, Value::Net("10.1.0.0/20".parse().unwrap())),
            Statement::Match(Field::Saddr(v4), Comparison::Is, Value::Net("10.0.0.0/8".parse().unwrap())),
            Statement::Masquerade,
        ],
        "[ ct load state => reg 1 ]
         [ bitwise reg 1 = ( reg 1 & 0x00000001 ) ]
         [ cmp eq reg 1 0x00000000 ]
         [ meta load nfproto => reg 1 ]
         [ cmp eq reg 1 0x00000002 ]
         [ payload load 4b @ network header + 16 => reg 1 ]
         [ bitwise reg 1 = ( reg 1 & 0x00f0ffff ) ]
         [ cmp eq reg 1 0x0000010a ]
         [ payload load 1b @ network header + 12 => reg 1 ]
         [ cmp eq reg 1 0x0000000a ]
         [ masq flags 0x10 ]",
    );
}

#[test]
fn two_ways_to_say_one_thing_have_one_canonical_form() {
    let same = |left: Vec<Statement>, right: Vec<Statement>| {
        let row = |statements| chain("c", vec![Rule::new("why", statements)]).1;
        assert_eq!(canonical(&row(left)), row(right));
    };
    let saddr = |value| Statement::Match(Field::Saddr(Family::V4), Comparison::Is, value);
    let protocol = |number| Statement::Match(Field::L4Proto, Comparison::Is, Value::Byte(number));
    let solicit = || Statement::Match(Field::Icmpv6Type, Comparison::Is, Value::Byte(135));
    same(
        vec![saddr(Value::Net("10.0.0.1/32".parse().unwrap()))],
        vec![saddr(Value::Address("10.0.0.1".parse().unwrap()))],
    );
    same(vec![Statement::Reject(Reject::TcpReset)], vec![protocol(6), Statement::Reject(Reject::TcpReset)]);
    same(vec![protocol(6), protocol(6)], vec![protocol(6)]);
    same(vec![solicit()], vec![solicit()]);
}

#[test]
fn what_the_plan_cannot_say_is_no_rule_of_ours() {
    let mut expressions =
        lower::rule(&Rule::new("", [Statement::Match(Field::Dport, Comparison::Is, Value::Port(53))]));
    assert!(raise::rule(&expressions, "").is_some());
    expressions.pop();
    assert!(raise::rule(&expressions, "").is_none());
}

fn comparison() -> impl Strategy<Value = Comparison> + Clone {
    prop_oneof![Just(Comparison::Is), Just(Comparison::IsNot)]
}

fn address_match() -> impl Strategy<Value = Statement> {
    let field = prop_oneof![
        Just(Field::Saddr(Family::V4)),
        Just(Field::Daddr(Family::V4)),
        Just(Field::Saddr(Family::V6)),
        Just(Field::Daddr(Family::V6)),
        Just(Field::CtOriginalDaddr(Family::V4)),
        Just(Field::CtOriginalDaddr(Family::V6)),
    ];
    (field, comparison(), any::<u128>(), 0_u8..=128).prop_map(|(field, comparison, bits, prefix)| {
        let v6 = field.kind() == Some(weft_plan::Type::Ipv6Addr);
        let (address, prefix): (std::net::IpAddr, u8) = if v6 {
            (std::net::Ipv6Addr::from(bits).into(), prefix)
        } else {
            (std::net::Ipv4Addr::from(bits as u32).into(), prefix % 33)
        };
        let net = ipnet::IpNet::new(address, prefix).unwrap().trunc();
        Statement::Match(field, comparison, Value::Net(net))
    })
}

fn field() -> impl Strategy<Value = Field> + Clone {
    prop::sample::select(vec![
        Field::Iifname,
        Field::Oifname,
        Field::Mark,
        Field::CtMark,
        Field::L4Proto,
        Field::Saddr(Family::V6),
        Field::Daddr(Family::V6),
        Field::Sport,
        Field::Dport,
        Field::Random(5),
        Field::CtMarkMasked(0x7f80_0000),
        Field::CtOriginalDaddr(Family::V4),
        Field::SaddrHash(Family::V6),
        Field::DaddrHash(Family::V6),
        Field::SaddrBlock(Family::V6, 61),
    ])
}

/// What packets write into a map: keys of up to 16 bytes.
fn written() -> impl Strategy<Value = Statement> {
    let part = prop::sample::select(vec![
        Field::CtMark,
        Field::L4Proto,
        Field::Saddr(Family::V4),
        Field::DaddrHash(Family::V4),
        Field::Dport,
    ]);
    let data = prop::sample::select(vec![Field::Mark, Field::CtMark]);
    (prop::collection::vec(part, 1..5), data, prop::option::of(any::<u32>())).prop_map(|(key, data, time)| {
        let map = Ident::new("m");
        match time {
            // The kernel says nothing of a time of nothing.
            Some(seconds) => Statement::Update { map, key, timeout_seconds: seconds.max(1), data },
            None => Statement::Delete { map, key, data },
        }
    })
}

fn statement() -> impl Strategy<Value = Statement> {
    let key = prop::collection::vec(field(), 1..4);
    let set = || Ident::new("s");
    prop_oneof![
        address_match(),
        (comparison(), any::<u16>()).prop_map(|(c, p)| Statement::Match(Field::Dport, c, Value::Port(p))),
        (comparison(), any::<u32>()).prop_map(|(c, m)| Statement::Match(Field::CtMark, c, Value::Mark(m))),
        (comparison(), any::<u8>()).prop_map(|(c, b)| Statement::Match(Field::L4Proto, c, Value::Byte(b))),
        (comparison(), any::<u8>()).prop_map(|(c, b)| Statement::Match(Field::Icmpv6Type, c, Value::Byte(b))),
        comparison().prop_map(|c| {
            Statement::Match(Field::Oifname, c, Value::Link(IfName::new("fifteen-letters").unwrap()))
        }),
        comparison().prop_map(|c| Statement::Match(Field::Iifname, c, Value::LinkPrefix("weftp".into()))),
        comparison().prop_map(|c| {
            Statement::Match(Field::CtState, c, Value::State(ConntrackState::EstablishedOrRelated))
        }),
        comparison().prop_map(|c| Statement::Match(Field::CtDirection, c, Value::Reply)),
        comparison().prop_map(|c| Statement::Match(Field::CtStatus, c, Value::Status(ConntrackStatus::Dnat))),
        comparison().prop_map(|c| Statement::Match(Field::FibDaddrType, c, Value::Local)),
        comparison().prop_map(|c| Statement::Match(Field::FibSaddrType, c, Value::Local)),
        (comparison(), any::<u16>()).prop_map(|(c, p)| Statement::Match(
            Field::CtOriginalDport,
            c,
            Value::Port(p)
        )),
        (comparison(), any::<u32>(), any::<u32>()).prop_map(|(c, bits, m)| Statement::Match(
            Field::CtMarkMasked(bits),
            c,
            Value::Mark(m & bits)
        )),
        (key.clone(), comparison()).prop_map(move |(key, c)| Statement::Lookup(key, c, set())),
        key.clone().prop_map(move |key| Statement::SetMarkFrom(key, set())),
        key.clone().prop_map(move |key| Statement::SetCtMarkFrom(key, set())),
        key.clone().prop_map(move |key| Statement::VerdictFrom(key, set())),
        key.prop_map(move |key| {
            Statement::Snat(NatTarget::AddressPortFrom { family: Family::V6, key, map: set() })
        }),
        (1..u32::MAX).prop_map(Statement::SetMarkBits),
        any::<u32>().prop_map(Statement::SetCtMark),
        written(),
        Just(Statement::SaveMark),
        Just(Statement::Counter),
        Just(Statement::Notrack),
        Just(Statement::Reject(Reject::PortUnreachable)),
        Just(Statement::Reject(Reject::TcpReset)),
        Just(Statement::Verdict(Verdict::Goto(Ident::new("c")))),
    ]
}

proptest! {
    /// Every rule that the plan can say comes back from the kernel's expressions as its canonical self, which is
    /// the same expressions.
    #[test]
    fn raising_undoes_lowering(statements in prop::collection::vec(statement(), 0..6)) {
        let rule = Rule::new("why", statements);
        let expressions = lower::rule(&rule);
        let raised = raise::rule(&expressions, "why");
        prop_assert!(raised.is_some(), "{rule}");
        prop_assert_eq!(lower::rule(&raised.clone().unwrap()), expressions);
        let once = canonical(&chain("c", vec![rule]).1);
        let KernelRow::Chain(body) = &once else { unreachable!() };
        prop_assert_eq!(&body.rules[0], raised.as_ref().unwrap());
        prop_assert_eq!(&canonical(&once), &once);
    }
}
