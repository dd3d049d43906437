//! Whatever a plan holds, a walk ends, and ends without a panic: plans of random rows, which no compiler would write.

use std::net::IpAddr;

use proptest::collection::vec;
use proptest::prelude::{BoxedStrategy, Just, Strategy, any, prop_oneof, proptest};
use weft_model::{Cidr, FactKey, Family, IfName, Mac, Protocol};
use weft_plan::filter::{
    Comparison, ConntrackState, ConntrackStatus, Element, HookKind, NatTarget, Reject, Value,
};
use weft_plan::{
    Atom, Chain, Fdb, Field, Hook, Ident, KernelKey, KernelRow, Neighbour, PolicyRule, Route, RouteKey,
    RouteKind, Rule, SetSpec, Statement, Type, Verdict,
};

use super::rows::{Made, end_of, from_node, from_outside, from_pod, link, node};
use crate::oracle::{Packet, Start, World, converse, explore, trace_with};

/// Few addresses, so that rows meet each other.
fn address() -> BoxedStrategy<IpAddr> {
    let few = [
        "10.0.0.1",
        "10.0.0.2",
        "10.0.1.1",
        "10.0.1.2",
        "192.0.2.1",
        "192.0.2.2",
        "127.0.0.1",
        "224.0.0.1",
        "255.255.255.255",
        "0.0.0.0",
        "203.0.113.1",
        "fd00::1",
        "fd00::2",
        "2001:db8::1",
        "2001:db8::2",
        "::1",
        "::",
        "ff02::1",
        "fe80::1",
        "fe80::2",
    ];
    proptest::sample::select(few.to_vec()).prop_map(|text| text.parse().unwrap()).boxed()
}

fn cidr() -> BoxedStrategy<Cidr> {
    (address(), 0u8..=128).prop_map(|(address, prefix)| Cidr::around(address, prefix)).boxed()
}

fn name() -> BoxedStrategy<IfName> {
    let few = vec![link("eth0"), link("lo"), link("weftx7"), link("gone"), end_of("a"), end_of("b")];
    proptest::sample::select(few).boxed()
}

fn ident() -> BoxedStrategy<Ident> {
    proptest::sample::select(vec!["a", "b", "c", "d"]).prop_map(Ident::new).boxed()
}

fn mac() -> BoxedStrategy<Mac> {
    proptest::sample::select(vec!["n1", "n2"]).prop_map(Mac::derived).boxed()
}

fn port() -> BoxedStrategy<u16> {
    proptest::sample::select(vec![53u16, 80, 4789, 40_000]).boxed()
}

fn verdict() -> BoxedStrategy<Verdict> {
    prop_oneof![
        3 => Just(Verdict::Accept),
        1 => Just(Verdict::Drop),
        1 => Just(Verdict::Return),
        2 => ident().prop_map(Verdict::Jump),
        2 => ident().prop_map(Verdict::Goto),
    ]
    .boxed()
}

fn atom() -> BoxedStrategy<Atom> {
    prop_oneof![
        address().prop_map(Atom::from),
        cidr().prop_map(|cidr| Atom::Net(cidr.net())),
        name().prop_map(Atom::Link),
        proptest::sample::select(vec![1u8, 6, 17, 58]).prop_map(Atom::Proto),
        port().prop_map(Atom::Port),
        (0u32..3).prop_map(Atom::Mark),
        (0u32..3).prop_map(Atom::Number),
        verdict().prop_map(Atom::Verdict),
    ]
    .boxed()
}

fn family() -> BoxedStrategy<Family> {
    prop_oneof![Just(Family::V4), Just(Family::V6)].boxed()
}

fn field() -> BoxedStrategy<Field> {
    let plain = vec![
        Field::Iifname,
        Field::Oifname,
        Field::Mark,
        Field::CtMark,
        Field::L4Proto,
        Field::Sport,
        Field::Dport,
        Field::TcpFlags,
        Field::Icmpv6Type,
        Field::FibDaddrType,
        Field::FibSaddrType,
        Field::CtOriginalDport,
        Field::CtState,
        Field::CtStatus,
    ];
    prop_oneof![
        4 => proptest::sample::select(plain),
        1 => family().prop_map(Field::Saddr),
        1 => family().prop_map(Field::Daddr),
        1 => (0u32..4).prop_map(Field::Random),
        1 => any::<u32>().prop_map(Field::CtMarkMasked),
        1 => family().prop_map(Field::CtOriginalDaddr),
        1 => family().prop_map(Field::SaddrHash),
        1 => (family(), 0u8..33).prop_map(|(family, prefix)| Field::SaddrBlock(family, prefix)),
        1 => family().prop_map(Field::DaddrHash),
    ]
    .boxed()
}

fn value() -> BoxedStrategy<Value> {
    prop_oneof![
        name().prop_map(Value::Link),
        Just(Value::LinkPrefix("weft".into())),
        any::<u8>().prop_map(Value::Byte),
        port().prop_map(Value::Port),
        address().prop_map(Value::Address),
        cidr().prop_map(|cidr| Value::Net(cidr.net())),
        (0u32..3).prop_map(Value::Mark),
        Just(Value::Local),
        Just(Value::Syn),
        Just(Value::State(ConntrackState::EstablishedOrRelated)),
        Just(Value::State(ConntrackState::Invalid)),
        Just(Value::State(ConntrackState::Untracked)),
        Just(Value::Status(ConntrackStatus::Dnat)),
    ]
    .boxed()
}

fn target() -> BoxedStrategy<NatTarget> {
    prop_oneof![
        address().prop_map(NatTarget::Address),
        (family(), vec(field(), 0..3), ident()).prop_map(|(family, key, map)| NatTarget::AddressPortFrom {
            family,
            key,
            map
        }),
    ]
    .boxed()
}

fn statement() -> BoxedStrategy<Statement> {
    let comparison = || prop_oneof![Just(Comparison::Is), Just(Comparison::IsNot)];
    prop_oneof![
        3 => (field(), comparison(), value()).prop_map(|(f, c, v)| Statement::Match(f, c, v)),
        2 => (vec(field(), 1..3), comparison(), ident()).prop_map(|(f, c, s)| Statement::Lookup(f, c, s)),
        1 => Just(Statement::Counter),
        1 => Just(Statement::Notrack),
        1 => (0u32..3).prop_map(Statement::SetMarkBits),
        1 => (vec(field(), 1..3), ident()).prop_map(|(f, m)| Statement::SetMarkFrom(f, m)),
        1 => Just(Statement::SaveMark),
        1 => (0u32..3).prop_map(Statement::SetCtMark),
        1 => (vec(field(), 1..3), ident()).prop_map(|(f, m)| Statement::SetCtMarkFrom(f, m)),
        1 => (ident(), vec(field(), 1..3), field())
            .prop_map(|(map, key, data)| Statement::Update { map, key, timeout_seconds: 1, data }),
        1 => (ident(), vec(field(), 1..3), field())
            .prop_map(|(map, key, data)| Statement::Delete { map, key, data }),
        1 => (vec(field(), 1..3), ident()).prop_map(|(f, m)| Statement::VerdictFrom(f, m)),
        1 => target().prop_map(Statement::Dnat),
        1 => target().prop_map(Statement::Snat),
        1 => Just(Statement::Masquerade),
        1 => Just(Statement::Reject(Reject::TcpReset)),
        3 => verdict().prop_map(Statement::Verdict),
    ]
    .boxed()
}

fn chain() -> BoxedStrategy<KernelRow> {
    let at = prop_oneof![
        Just(HookKind::Prerouting),
        Just(HookKind::Input),
        Just(HookKind::Forward),
        Just(HookKind::Output),
        Just(HookKind::Postrouting),
    ];
    let hook = (at, any::<bool>(), -310..310i32).prop_map(|(at, nat, priority)| Hook { at, nat, priority });
    let rule = vec(statement(), 0..4).prop_map(|statements| Rule::new("", statements));
    (proptest::option::weighted(0.6, hook), vec(rule, 0..4))
        .prop_map(|(hook, rules)| KernelRow::Chain(Box::new(Chain { hook, rules })))
        .boxed()
}

fn route() -> BoxedStrategy<(KernelKey, KernelRow)> {
    let kind = prop_oneof![
        6 => Just(RouteKind::Unicast),
        1 => Just(RouteKind::Local),
        1 => Just(RouteKind::Unreachable),
    ];
    let table = proptest::sample::select(vec![7u32, 254, 255]);
    let hop = proptest::option::of(address());
    (kind, table, cidr(), 0u32..2, proptest::option::weighted(0.9, name()), hop.clone(), hop)
        .prop_map(|(kind, table, destination, metric, link, via, source)| {
            let key = RouteKey { table, destination, metric };
            let route = Route { kind, link, via, onlink: true, source };
            (KernelKey::Route(key), KernelRow::Route(route))
        })
        .boxed()
}

fn row() -> BoxedStrategy<(KernelKey, KernelRow)> {
    let set = prop_oneof![
        Just(SetSpec::set(&[Type::Ipv4Addr], "")),
        Just(SetSpec::intervals(Type::Ipv6Addr, "")),
        Just(SetSpec::map(&[Type::InetService], &[Type::Verdict], "")),
        Just(SetSpec { dynamic_timeout: Some(1), ..SetSpec::map(&[Type::Mark], &[Type::Mark], "") }),
    ];
    prop_oneof![
        4 => route(),
        3 => (ident(), chain()).prop_map(|(name, chain)| (KernelKey::Chain(name), chain)),
        2 => (ident(), set).prop_map(|(name, set)| (KernelKey::Set(name), KernelRow::Set(Box::new(set)))),
        4 => (ident(), vec(atom(), 1..3), vec(atom(), 0..3)).prop_map(|(set, key, data)| {
            (KernelKey::Element(set, key.into()), KernelRow::Element(Element::maps_to(data)))
        }),
        1 => (cidr(), 0u32..40_000).prop_map(|(from, priority)| {
            (KernelKey::Rule(PolicyRule { from, table: 7, priority, unless_mark: 0 }), KernelRow::Rule)
        }),
        2 => (address(), mac()).prop_map(|(address, mac)| {
            (KernelKey::Neighbour(link("weftx7"), address), KernelRow::Neighbour(Neighbour { mac }))
        }),
        1 => (mac(), address()).prop_map(|(mac, destination)| {
            (KernelKey::Fdb(link("weftx7"), mac), KernelRow::Fdb(Fdb { destination }))
        }),
    ]
    .boxed()
}

fn with_rows(made: Made, rows: Vec<(KernelKey, KernelRow)>) -> Made {
    let mut made = made;
    for (key, row) in rows {
        made.plan.kernel.set(key, row, FactKey::Host);
    }
    made
}

fn packet() -> BoxedStrategy<Packet> {
    let plain = prop_oneof![
        (address(), port()).prop_map(|(to, port)| Packet::to(Protocol::Tcp, to, port)),
        (address(), port()).prop_map(|(to, port)| Packet::to(Protocol::Udp, to, port)),
        address().prop_map(Packet::ping),
    ];
    (plain, proptest::option::of(address())).prop_map(|(packet, source)| Packet { source, ..packet }).boxed()
}

fn start() -> BoxedStrategy<Start> {
    proptest::sample::select(vec![
        from_pod("n1", "a"),
        from_pod("n2", "b"),
        from_pod("n2", "a"),
        from_node("n1"),
        from_node("n3"),
        from_outside("n1"),
    ])
    .boxed()
}

proptest! {
    #![proptest_config(proptest::test_runner::Config { cases: 256, ..Default::default() })]
    #[test]
    fn a_walk_always_ends(
        first in vec(row(), 0..40),
        second in vec(row(), 0..40),
        packets in vec((start(), packet()), 1..12),
    ) {
        let n1 = node("n1").own("eth0", "192.0.2.1/24").own("eth0", "2001:db8::1/64");
        let n1 = with_rows(n1.pod("a", "10.0.0.2 fd00::2").tunnel("192.0.2.1"), first);
        let n2 = node("n2").own("eth0", "192.0.2.2/24").own("eth0", "2001:db8::2/64");
        let n2 = with_rows(n2.pod("b", "10.0.1.2").tunnel("192.0.2.2"), second);
        let world = World::new([n1.view(), n2.view()]);
        for (start, packet) in packets {
            let conversation = converse(&world, &start, packet);
            assert!(conversation.forward.hops.len() < 20_000);
            assert!(conversation.to_string().lines().count() > conversation.forward.hops.len());
            let outcomes = explore(8, |dice| trace_with(&world, &start, packet, dice).outcome);
            assert!(outcomes.contains(&conversation.forward.outcome));
        }
    }
}
