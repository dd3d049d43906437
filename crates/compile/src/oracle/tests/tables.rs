//! Random tables that the kernel takes: types fit, chains never call backwards, translation stands where it may.

use std::net::IpAddr;

use proptest::collection::vec;
use proptest::prelude::{BoxedStrategy, Just, Strategy, prop_oneof};
use proptest::sample::select;
use weft_model::Family;
use weft_plan::filter::{
    Comparison, ConntrackState, ConntrackStatus, Element, HookKind, NatTarget, Reject, Value,
};
use weft_plan::{
    Atom, Chain, Field, Hook, Ident, KernelKey, KernelRow, Rule, SetSpec, Statement, Type, Verdict,
};

use super::rows::{end_of, ip, link};

/// Rows of a table.
pub type Table = Vec<(KernelKey, KernelRow)>;

/// Chains that others jump to; each calls later ones only.
const SUBS: [&str; 3] = ["sub0", "sub1", "sub2"];

fn address() -> BoxedStrategy<IpAddr> {
    select(vec!["192.0.2.1", "192.0.2.9", "10.0.0.2", "203.0.113.5", "127.0.0.1"]).prop_map(ip).boxed()
}

/// Addresses that a packet may be led to without waiting for a neighbour.
fn target() -> BoxedStrategy<IpAddr> {
    select(vec!["192.0.2.1", "192.0.2.9", "10.0.0.2", "203.0.113.5", "10.0.0.99"]).prop_map(ip).boxed()
}

fn port() -> BoxedStrategy<u16> {
    select(vec![53u16, 80]).boxed()
}

fn comparison() -> BoxedStrategy<Comparison> {
    prop_oneof![3 => Just(Comparison::Is), 1 => Just(Comparison::IsNot)].boxed()
}

fn simple_match() -> BoxedStrategy<Statement> {
    let v4 = Family::V4;
    let name = || select(vec![link("eth0"), link("lo"), end_of("a")]);
    let state = select(vec![
        ConntrackState::EstablishedOrRelated,
        ConntrackState::Invalid,
        ConntrackState::Untracked,
    ]);
    let net = select(vec!["192.0.2.0/24", "10.0.0.0/8", "192.0.2.8/29"]).prop_map(|n| n.parse().unwrap());
    let field_and_value = prop_oneof![
        2 => name().prop_map(|n| (Field::Iifname, Value::Link(n))),
        2 => name().prop_map(|n| (Field::Oifname, Value::Link(n))),
        1 => Just((Field::Iifname, Value::LinkPrefix("weftp".into()))),
        1 => Just((Field::Oifname, Value::LinkPrefix("weftp".into()))),
        2 => (0u32..3).prop_map(|m| (Field::Mark, Value::Mark(m))),
        2 => (0u32..3).prop_map(|m| (Field::CtMark, Value::Mark(m))),
        1 => select(vec![6u8, 17]).prop_map(|p| (Field::L4Proto, Value::Byte(p))),
        3 => port().prop_map(|p| (Field::Dport, Value::Port(p))),
        2 => address().prop_map(move |a| (Field::Saddr(v4), Value::Address(a))),
        2 => address().prop_map(move |a| (Field::Daddr(v4), Value::Address(a))),
        1 => net.prop_map(move |n| (Field::Saddr(v4), Value::Net(n))),
        1 => Just((Field::Daddr(Family::V6), Value::Address(ip("2001:db8::1")))),
        2 => Just((Field::FibDaddrType, Value::Local)),
        2 => state.prop_map(|s| (Field::CtState, Value::State(s))),
        2 => Just((Field::CtStatus, Value::Status(ConntrackStatus::Dnat))),
    ];
    (field_and_value, comparison()).prop_map(|((field, value), c)| Statement::Match(field, c, value)).boxed()
}

fn lookup() -> BoxedStrategy<Statement> {
    let v4 = Family::V4;
    let key = select(vec![
        (vec![Field::Saddr(v4)], "blocks"),
        (vec![Field::Daddr(v4)], "blocks"),
        (vec![Field::Iifname, Field::Saddr(v4)], "pairs"),
        (vec![Field::Oifname, Field::Daddr(v4)], "pairs"),
    ]);
    (key, comparison()).prop_map(|((key, set), c)| Statement::Lookup(key, c, Ident::new(set))).boxed()
}

fn effect() -> BoxedStrategy<Statement> {
    prop_oneof![
        Just(Statement::Counter),
        Just(Statement::Notrack),
        (1u32..3).prop_map(Statement::SetMark),
        Just(Statement::SetMarkFrom(vec![Field::Dport], Ident::new("marks"))),
        Just(Statement::SaveMark),
    ]
    .boxed()
}

/// A verdict; jumps go to chains from `first` on.
fn verdict(first: usize) -> BoxedStrategy<Verdict> {
    let plain = prop_oneof![4 => Just(Verdict::Accept), 2 => Just(Verdict::Drop), 1 => Just(Verdict::Return)];
    if first >= SUBS.len() {
        return plain.boxed();
    }
    let sub = || select(SUBS[first..].to_vec()).prop_map(Ident::new);
    prop_oneof![2 => plain, 2 => sub().prop_map(Verdict::Jump), 1 => sub().prop_map(Verdict::Goto)].boxed()
}

/// What may end a rule of an ordinary chain; the chains below hang at every hook, so they refuse nothing.
fn end(first: usize, hook: Option<HookKind>) -> BoxedStrategy<Option<Statement>> {
    let verdict = verdict(first).prop_map(|v| Some(Statement::Verdict(v)));
    let mut ends = vec![verdict.boxed(), Just(None).boxed()];
    if first == 0 {
        let from = Statement::VerdictFrom(vec![Field::L4Proto, Field::Dport], Ident::new("verdicts"));
        ends.push(Just(Some(from)).boxed());
    }
    if matches!(hook, Some(HookKind::Input | HookKind::Forward | HookKind::Output)) {
        ends.push(Just(Some(Statement::Reject(Reject::PortUnreachable))).boxed());
    }
    proptest::strategy::Union::new(ends).boxed()
}

fn rule(end: BoxedStrategy<Option<Statement>>) -> BoxedStrategy<Rule> {
    let matches = vec(prop_oneof![3 => simple_match(), 1 => lookup()], 0..3);
    (matches, proptest::option::weighted(0.4, effect()), end)
        .prop_map(|(matches, effect, end)| {
            let all: Vec<Statement> = matches.into_iter().chain(effect).chain(end).collect();
            let of_v4 = all
                .iter()
                .any(|s| ["ip saddr", "ip daddr", "ip to"].iter().any(|w| s.to_string().contains(w)));
            // nft refuses a rule of both families.
            let fits =
                |s: &Statement| !(of_v4 && matches!(s, Statement::Match(Field::Daddr(Family::V6), ..)));
            Rule::new("", all.into_iter().filter(fits))
        })
        .prop_filter("a rule without statements is none", |rule| !rule.statements.is_empty())
        .boxed()
}

fn translation(hook: HookKind) -> BoxedStrategy<Option<Statement>> {
    let from = || {
        Just(NatTarget::AddressPortFrom {
            family: Family::V4,
            key: vec![Field::L4Proto, Field::Dport],
            map: Ident::new("targets"),
        })
    };
    let to = || prop_oneof![target().prop_map(NatTarget::Address), from()];
    match hook {
        HookKind::Prerouting | HookKind::Output => to().prop_map(|t| Some(Statement::Dnat(t))).boxed(),
        HookKind::Postrouting => prop_oneof![
            target().prop_map(|t| Some(Statement::Snat(NatTarget::Address(t)))),
            Just(Some(Statement::Masquerade)),
        ]
        .boxed(),
        _ => target().prop_map(|t| Some(Statement::Snat(NatTarget::Address(t)))).boxed(),
    }
}

fn chain(name: &'static str, hook: Option<Hook>, rules: Vec<Rule>) -> (KernelKey, KernelRow) {
    (KernelKey::Chain(Ident::new(name)), KernelRow::Chain(Box::new(Chain { hook, rules })))
}

const HOOKS: [HookKind; 5] =
    [HookKind::Prerouting, HookKind::Input, HookKind::Forward, HookKind::Output, HookKind::Postrouting];

/// `tie` keeps priorities apart: among equals the kernel asks the one first that came last.
fn filter_chain(name: &'static str, tie: i32) -> BoxedStrategy<(KernelKey, KernelRow)> {
    (select(HOOKS.to_vec()), select(vec![-350, -250, -150, -50, 0, 50, 150]))
        .prop_flat_map(move |(at, priority)| {
            let priority = priority + tie;
            vec(rule(end(0, Some(at))), 0..4)
                .prop_map(move |rules| chain(name, Some(Hook { at, nat: false, priority }), rules))
        })
        .boxed()
}

fn nat_chain(name: &'static str, tie: i32) -> BoxedStrategy<(KernelKey, KernelRow)> {
    let hooks = vec![HookKind::Prerouting, HookKind::Output, HookKind::Postrouting, HookKind::Input];
    (select(hooks), select(vec![-110, -90, 90, 110]))
        .prop_flat_map(move |(at, priority)| {
            let priority = priority + tie;
            vec(rule(prop_oneof![3 => translation(at), 1 => end(1, None)].boxed()), 0..4)
                .prop_map(move |rules| chain(name, Some(Hook { at, nat: true, priority }), rules))
        })
        .boxed()
}

fn sub_chain(at: usize) -> BoxedStrategy<(KernelKey, KernelRow)> {
    vec(rule(end(at + 1, None)), 0..3).prop_map(move |rules| chain(SUBS[at], None, rules)).boxed()
}

fn elements() -> BoxedStrategy<Table> {
    let element = |set: &str, key: Vec<Atom>, data: Vec<Atom>| {
        let key = KernelKey::Element(Ident::new(set), key.into());
        (key, KernelRow::Element(Element::maps_to(data)))
    };
    let block = select(vec!["192.0.2.0/30", "192.0.2.8/30", "10.0.0.0/8", "203.0.113.0/24", "127.0.0.0/8"])
        .prop_map(move |net| element("blocks", vec![Atom::Net(net.parse().unwrap())], vec![]));
    let pair = (select(vec![link("eth0"), link("lo"), end_of("a")]), address())
        .prop_map(move |(name, a)| element("pairs", vec![Atom::Link(name), Atom::from(a)], vec![]));
    let mark = (port(), 1u32..3)
        .prop_map(move |(port, mark)| element("marks", vec![Atom::Port(port)], vec![Atom::Mark(mark)]));
    let verdict = (port(), verdict(0)).prop_map(move |(port, verdict)| {
        element("verdicts", vec![Atom::Proto(17), Atom::Port(port)], vec![Atom::Verdict(verdict)])
    });
    let target = (port(), target(), port()).prop_map(move |(port, to, other)| {
        element("targets", vec![Atom::Proto(17), Atom::Port(port)], vec![Atom::from(to), Atom::Port(other)])
    });
    vec(prop_oneof![block, pair, mark, verdict, target], 0..10).boxed()
}

fn sets() -> Table {
    let (v4, proto, service) = (Type::Ipv4Addr, Type::InetProto, Type::InetService);
    [
        ("blocks", SetSpec::intervals(v4, "blocks")),
        ("pairs", SetSpec::set(&[Type::IfName, v4], "pairs")),
        ("marks", SetSpec::map(&[service], &[Type::Mark], "marks")),
        ("verdicts", SetSpec::map(&[proto, service], &[Type::Verdict], "verdicts")),
        ("targets", SetSpec::map(&[proto, service], &[v4, service], "targets")),
    ]
    .map(|(name, spec)| (KernelKey::Set(Ident::new(name)), KernelRow::Set(Box::new(spec))))
    .to_vec()
}

/// A table with all sets, three filter chains, three nat chains, and three chains to jump to.
pub fn table() -> BoxedStrategy<Table> {
    let filters = (filter_chain("f0", 0), filter_chain("f1", 1), filter_chain("f2", 2));
    let nats = (nat_chain("t0", 0), nat_chain("t1", 1), nat_chain("t2", 2));
    let subs = (sub_chain(0), sub_chain(1), sub_chain(2));
    (filters, nats, subs, elements())
        .prop_map(|(filters, nats, subs, elements)| {
            let mut rows = sets();
            rows.extend([filters.0, filters.1, filters.2, nats.0, nats.1, nats.2, subs.0, subs.1, subs.2]);
            rows.extend(elements);
            rows
        })
        .boxed()
}
