//! Random tables that the kernel takes: types fit, chains never call backwards, translation stands where it may.

use std::net::IpAddr;

use proptest::collection::vec;
use proptest::prelude::{BoxedStrategy, Just, Strategy, prop_oneof};
use proptest::sample::select;
use weft_model::{Cidr, Family};
use weft_plan::filter::{
    Comparison, ConntrackState, ConntrackStatus, Element, HookKind, NatTarget, Reject, Value, address_hash,
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
    let net = || select(vec!["192.0.2.0/24", "10.0.0.0/8", "192.0.2.8/29"]).prop_map(|n| n.parse().unwrap());
    let original = net();
    let field_and_value = prop_oneof![
        2 => name().prop_map(|n| (Field::Iifname, Value::Link(n))),
        2 => name().prop_map(|n| (Field::Oifname, Value::Link(n))),
        1 => Just((Field::Iifname, Value::LinkPrefix("weftp".into()))),
        1 => Just((Field::Oifname, Value::LinkPrefix("weftp".into()))),
        2 => (0u32..4).prop_map(|m| (Field::Mark, Value::Mark(m))),
        2 => (0u32..3).prop_map(|m| (Field::CtMark, Value::Mark(m))),
        2 => (mask(), 0u32..3).prop_map(|(bits, m)| (Field::CtMarkMasked(bits), Value::Mark(m & bits))),
        2 => address().prop_map(move |a| (Field::CtOriginalDaddr(v4), Value::Address(a))),
        1 => original.prop_map(move |n| (Field::CtOriginalDaddr(v4), Value::Net(n))),
        1 => Just((Field::CtOriginalDaddr(Family::V6), Value::Address(ip("2001:db8::1")))),
        1 => Just((Field::FibSaddrType, Value::Local)),
        1 => select(vec![6u8, 17]).prop_map(|p| (Field::L4Proto, Value::Byte(p))),
        3 => port().prop_map(|p| (Field::Dport, Value::Port(p))),
        2 => address().prop_map(move |a| (Field::Saddr(v4), Value::Address(a))),
        2 => address().prop_map(move |a| (Field::Daddr(v4), Value::Address(a))),
        1 => net().prop_map(move |n| (Field::Saddr(v4), Value::Net(n))),
        1 => Just((Field::Daddr(Family::V6), Value::Address(ip("2001:db8::1")))),
        2 => Just((Field::FibDaddrType, Value::Local)),
        2 => state.prop_map(|s| (Field::CtState, Value::State(s))),
        2 => Just((Field::CtStatus, Value::Status(ConntrackStatus::Dnat))),
    ];
    (field_and_value, comparison()).prop_map(|((field, value), c)| Statement::Match(field, c, value)).boxed()
}

/// Some of the bits of the marks that these tables have.
fn mask() -> BoxedStrategy<u32> {
    select(vec![1u32, 2, 3, 0x8000_0000, 0xffff_fffe]).boxed()
}

/// The connection's first port, behind the protocol as nft wants it.
fn original_port() -> BoxedStrategy<Vec<Statement>> {
    let udp = Statement::Match(Field::L4Proto, Comparison::Is, Value::Byte(17));
    (port(), comparison())
        .prop_map(move |(port, c)| {
            vec![udp.clone(), Statement::Match(Field::CtOriginalDport, c, Value::Port(port))]
        })
        .boxed()
}

fn lookup() -> BoxedStrategy<Statement> {
    let v4 = Family::V4;
    let key = select(vec![
        (vec![Field::Saddr(v4)], "blocks"),
        (vec![Field::Daddr(v4)], "blocks"),
        (vec![Field::Iifname, Field::Saddr(v4)], "pairs"),
        (vec![Field::Oifname, Field::Daddr(v4)], "pairs"),
        (vec![Field::CtOriginalDaddr(v4)], "blocks"),
        (vec![Field::CtMarkMasked(3)], "few"),
        (vec![Field::CtMark, Field::SaddrBlock(v4, 24)], "near"),
        (vec![Field::CtMark, Field::SaddrBlock(v4, 29)], "near"),
    ]);
    (key, comparison()).prop_map(|((key, set), c)| Statement::Lookup(key, c, Ident::new(set))).boxed()
}

fn effect() -> BoxedStrategy<Statement> {
    prop_oneof![
        Just(Statement::Counter),
        Just(Statement::Notrack),
        (1u32..3).prop_map(Statement::SetMarkBits),
        Just(Statement::SetMarkFrom(vec![Field::Dport], Ident::new("marks"))),
        Just(Statement::SaveMark),
        (0u32..3).prop_map(Statement::SetCtMark),
        from(&[Field::Dport], "marks"),
        from(&[Field::CtMarkMasked(3), Field::Random(1)], "turn"),
        from(&[Field::SaddrHash(Family::V4), Field::L4Proto], "hashed"),
        from(&[Field::DaddrHash(Family::V4), Field::L4Proto], "hashed"),
        from(&CLIENT, "clients"),
        Just(remember()),
        Just(Statement::Delete { map: Ident::new("clients"), key: CLIENT.to_vec(), data: Field::CtMark }),
    ]
    .boxed()
}

/// What packets remember: each sends from a port of its own, so that the order of two of them says nothing.
const CLIENT: [Field; 3] = [Field::Saddr(Family::V4), Field::L4Proto, Field::Sport];

fn from(key: &[Field], map: &str) -> Just<Statement> {
    Just(Statement::SetCtMarkFrom(key.to_vec(), Ident::new(map)))
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
        let from = Statement::VerdictFrom(vec![Field::CtMarkMasked(3)], Ident::new("classes"));
        ends.push(Just(Some(from)).boxed());
    }
    if hook.is_some_and(|hook| hook != HookKind::Postrouting) {
        ends.push(Just(Some(Statement::Reject(Reject::PortUnreachable))).boxed());
    }
    proptest::strategy::Union::new(ends).boxed()
}

fn rule(end: BoxedStrategy<Option<Statement>>) -> BoxedStrategy<Rule> {
    let one = |statement: BoxedStrategy<Statement>| statement.prop_map(|statement| vec![statement]);
    let part = prop_oneof![9 => one(simple_match()), 3 => one(lookup()), 1 => original_port()];
    (vec(part, 0..3), vec(effect(), 0..3), end)
        .prop_map(|(matches, effects, end)| {
            let all: Vec<Statement> = matches.into_iter().flatten().chain(effects).chain(end).collect();
            let of_v4 = all
                .iter()
                .any(|s| ["ip saddr", "ip daddr", "ip to"].iter().any(|w| s.to_string().contains(w)));
            // nft refuses a rule of both families.
            let fits = |s: &Statement| {
                !(of_v4
                    && matches!(
                        s,
                        Statement::Match(Field::Daddr(Family::V6) | Field::CtOriginalDaddr(Family::V6), ..)
                    ))
            };
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
    let marked = || {
        Just(NatTarget::AddressPortFrom {
            family: Family::V4,
            key: vec![Field::CtMark, Field::L4Proto],
            map: Ident::new("ends"),
        })
    };
    let to = || prop_oneof![target().prop_map(NatTarget::Address), from(), marked()];
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
            vec(rule(prop_oneof![3 => translation(at), 1 => end(1, Some(at))].boxed()), 0..4)
                .prop_map(move |rules| chain(name, Some(Hook { at, nat: true, priority }), rules))
        })
        .boxed()
}

fn sub_chain(at: usize) -> BoxedStrategy<(KernelKey, KernelRow)> {
    vec(rule(end(at + 1, None)), 0..3).prop_map(move |rules| chain(SUBS[at], None, rules)).boxed()
}

fn element(set: &str, key: Vec<Atom>, data: Vec<Atom>) -> (KernelKey, KernelRow) {
    (KernelKey::Element(Ident::new(set), key.into()), KernelRow::Element(Element::maps_to(data)))
}

/// Elements of the maps by which services choose.
fn of_services() -> BoxedStrategy<(KernelKey, KernelRow)> {
    let few = (0u32..4).prop_map(move |mark| element("few", vec![Atom::Mark(mark)], vec![]));
    let turn = (0u32..4, 0u32..4).prop_map(move |(mark, to)| {
        element("turn", vec![Atom::Mark(mark), Atom::Number(0)], vec![Atom::Mark(to)])
    });
    let class = (0u32..4, verdict(0)).prop_map(move |(mark, verdict)| {
        element("classes", vec![Atom::Mark(mark)], vec![Atom::Verdict(verdict)])
    });
    let hashed = (address(), 1u32..3).prop_map(move |(address, mark)| {
        let key = vec![Atom::Number(address_hash(address)), Atom::Proto(17)];
        element("hashed", key, vec![Atom::Mark(mark)])
    });
    let end = (0u32..4, target(), port()).prop_map(move |(mark, to, port)| {
        element("ends", vec![Atom::Mark(mark), Atom::Proto(17)], vec![Atom::from(to), Atom::Port(port)])
    });
    let near = (0u32..3, address(), select(vec![24, 29])).prop_map(move |(mark, address, prefix)| {
        let block = Cidr::around(address, prefix).first();
        element("near", vec![Atom::Mark(mark), Atom::from(block)], vec![])
    });
    prop_oneof![few, turn, class, hashed, end, near].boxed()
}

fn elements() -> BoxedStrategy<Table> {
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
    vec(prop_oneof![block, pair, mark, verdict, target, of_services()], 0..16).boxed()
}

fn sets() -> Table {
    let (v4, proto, service) = (Type::Ipv4Addr, Type::InetProto, Type::InetService);
    let clients = SetSpec::map(&[v4, proto, service], &[Type::Mark], "clients");
    [
        ("blocks", SetSpec::intervals(v4, "blocks")),
        ("pairs", SetSpec::set(&[Type::IfName, v4], "pairs")),
        ("marks", SetSpec::map(&[service], &[Type::Mark], "marks")),
        ("verdicts", SetSpec::map(&[proto, service], &[Type::Verdict], "verdicts")),
        ("targets", SetSpec::map(&[proto, service], &[v4, service], "targets")),
        ("few", SetSpec::set(&[Type::Mark], "few")),
        ("near", SetSpec::set(&[Type::Mark, v4], "near")),
        ("turn", SetSpec::map(&[Type::Mark, Type::Number], &[Type::Mark], "turn")),
        ("classes", SetSpec::map(&[Type::Mark], &[Type::Verdict], "classes")),
        ("hashed", SetSpec::map(&[Type::Number, proto], &[Type::Mark], "hashed")),
        ("ends", SetSpec::map(&[Type::Mark, proto], &[v4, service], "ends")),
        ("clients", SetSpec { dynamic_timeout: Some(60), ..clients }),
    ]
    .map(|(name, spec)| (KernelKey::Set(Ident::new(name)), KernelRow::Set(Box::new(spec))))
    .to_vec()
}

fn remember() -> Statement {
    let (map, key) = (Ident::new("clients"), CLIENT.to_vec());
    Statement::Update { map, key, timeout_seconds: 60, data: Field::CtMark }
}

/// A table that passes only packets of which the first of two memories stayed, and the second of two with a deletion
/// between them.
pub fn memories() -> Table {
    let look = || Statement::SetCtMarkFrom(CLIENT.to_vec(), Ident::new("clients"));
    let (map, key) = (Ident::new("clients"), CLIENT.to_vec());
    let forget = Statement::Delete { map, key, data: Field::CtMark };
    let drop_unless = |mark| {
        let other = Statement::Match(Field::CtMark, Comparison::IsNot, Value::Mark(mark));
        Rule::new("", [other, Statement::Verdict(Verdict::Drop)])
    };
    let set = Statement::SetCtMark;
    let rules = vec![
        Rule::new("", [set(1), remember(), set(2), remember(), look()]),
        drop_unless(1),
        Rule::new("", [forget, set(2), remember(), set(3), look()]),
        drop_unless(2),
    ];
    let hook = Hook { at: HookKind::Prerouting, nat: false, priority: -150 };
    sets().into_iter().chain([chain("f0", Some(hook), rules)]).collect()
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
            forget_ports_that_change(&mut rows);
            rows
        })
        .boxed()
}

/// Masquerading gives a packet a port that nobody can foretell, by which this machine's own packets to itself would be remembered.
fn forget_ports_that_change(rows: &mut Table) {
    let mut chains: Vec<&mut Chain> = rows
        .iter_mut()
        .filter_map(|(_, row)| match row {
            KernelRow::Chain(chain) => Some(&mut **chain),
            _ => None,
        })
        .collect();
    let masquerades =
        |chain: &&mut Chain| chain.rules.iter().any(|rule| rule.statements.contains(&Statement::Masquerade));
    if !chains.iter().any(masquerades) {
        return;
    }
    for chain in &mut chains {
        let kept = std::mem::take(&mut chain.rules).into_iter().map(|mut rule| {
            rule.statements.retain(|statement| !statement.to_string().contains("clients"));
            rule
        });
        chain.rules = kept.filter(|rule| !rule.statements.is_empty()).collect();
    }
}
