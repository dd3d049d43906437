//! What chains, sets and verdicts mean: each case is a plan of a few rules, and the packet's end.

use weft_model::{FactKey, Family};
use weft_plan::filter::{Comparison, ConntrackState, HookKind, NatTarget, Reject, Value};
use weft_plan::{Atom, Field, Ident, Rule, SetSpec, Statement, Type, Verdict};

use super::rows::{Made, accept, drop, from_outside, ip, node, tcp, world};
use crate::oracle::{Fixed, Outcome, explore, trace, trace_with};

fn rule(statements: impl IntoIterator<Item = Statement>) -> Rule {
    Rule::new("", statements)
}

fn verdict(verdict: Verdict) -> Statement {
    Statement::Verdict(verdict)
}

fn jump(chain: &str) -> Statement {
    verdict(Verdict::Jump(Ident::new(chain)))
}

fn goto(chain: &str) -> Statement {
    verdict(Verdict::Goto(Ident::new(chain)))
}

fn port(comparison: Comparison, number: u16) -> Statement {
    Statement::Match(Field::Dport, comparison, Value::Port(number))
}

fn from_v6(comparison: Comparison) -> Statement {
    Statement::Match(Field::Saddr(Family::V6), comparison, Value::Address(ip("2001:db8::9")))
}

const IN: HookKind = HookKind::Prerouting;

/// A machine that packets from outside reach.
fn made() -> Made {
    node("n1").own("eth0", "192.0.2.1/24")
}

/// What becomes of a TCP packet to port 80 from a neighbour: `passed`, `dropped in CHAIN`, `rejected in CHAIN`, `looped`.
fn end(made: Made) -> String {
    let nodes = [made];
    let packet = tcp("192.0.2.1", 80).from(ip("192.0.2.9"));
    let chain = |why: &str| {
        why.strip_prefix("chain ").and_then(|why| why.split(':').next()).unwrap_or(why).to_owned()
    };
    match trace(&world(&nodes), &from_outside("n1"), packet).outcome {
        Outcome::Delivered { .. } => "passed".into(),
        Outcome::Dropped { why, .. } => format!("dropped in {}", chain(&why)),
        Outcome::Rejected { why, .. } => format!("rejected in {}", chain(&why)),
        Outcome::Unreachable { why, .. } => why,
        Outcome::Looped => "looped".into(),
    }
}

fn check(made: Made, expected: &str) {
    assert_eq!(end(made), expected);
}

#[test]
fn an_accept_ends_its_base_chain_only() {
    check(
        made().chain("first", IN, -10, vec![rule([accept()]), rule([drop()])]).chain(
            "second",
            IN,
            0,
            vec![rule([drop()])],
        ),
        "dropped in second",
    );
    check(made().chain("only", IN, 0, vec![rule([accept()]), rule([drop()])]), "passed");
}

#[test]
fn base_chains_run_by_hook_priority_and_name() {
    let dropping = || vec![rule([drop()])];
    check(made().chain("a", IN, 10, dropping()).chain("b", IN, -10, dropping()), "dropped in b");
    check(made().chain("b", IN, 0, dropping()).chain("a", IN, 0, dropping()), "dropped in a");
    check(
        made().chain("a", HookKind::Input, -300, dropping()).chain("b", IN, 300, dropping()),
        "dropped in b",
    );
    check(made().chain("a", HookKind::Forward, 0, dropping()), "passed");
}

#[test]
fn jump_returns_and_goto_does_not() {
    let start = |first: Statement| made().chain("base", IN, 0, vec![rule([first]), rule([drop()])]);
    check(start(jump("sub")).sub("sub", vec![]), "dropped in base");
    check(start(jump("sub")).sub("sub", vec![rule([accept()])]), "passed");
    check(
        start(jump("sub")).sub("sub", vec![rule([verdict(Verdict::Return)]), rule([accept()])]),
        "dropped in base",
    );
    check(start(goto("sub")).sub("sub", vec![]), "passed");
    // A goto below a jump comes back to where the jump was.
    check(
        start(jump("sub")).sub("sub", vec![rule([goto("leaf")]), rule([accept()])]).sub("leaf", vec![]),
        "dropped in base",
    );
    check(start(verdict(Verdict::Return)), "passed");
    check(start(jump("nowhere")), "dropped in base");
}

#[test]
fn circles_of_chains_end() {
    check(made().chain("base", IN, 0, vec![rule([jump("a")])]).sub("a", vec![rule([jump("a")])]), "looped");
    check(made().chain("base", IN, 0, vec![rule([goto("a")])]).sub("a", vec![rule([goto("a")])]), "looped");
}

#[test]
fn a_failed_match_ends_the_rule() {
    let base = |statements: Vec<Statement>| made().chain("base", IN, 0, vec![rule(statements)]);
    check(base(vec![port(Comparison::Is, 80), drop()]), "dropped in base");
    check(base(vec![port(Comparison::Is, 81), drop()]), "passed");
    check(base(vec![port(Comparison::IsNot, 81), drop()]), "dropped in base");
    // A field of the other family is no field at all, however it is compared.
    check(base(vec![from_v6(Comparison::Is), drop()]), "passed");
    check(base(vec![from_v6(Comparison::IsNot), drop()]), "passed");
    check(base(vec![Statement::Reject(Reject::PortUnreachable)]), "rejected in base");
}

#[test]
fn sets_and_maps() {
    let host = || FactKey::Host;
    let lookup = |comparison| Statement::Lookup(vec![Field::Saddr(Family::V4)], comparison, Ident::new("s"));
    let with =
        |comparison, element: Atom| {
            made()
                .set("s", SetSpec::intervals(Type::Ipv4Addr, ""))
                .element("s", &[element], &[], host())
                .chain("base", IN, 0, vec![rule([lookup(comparison), drop()])])
        };
    let block = |text: &str| Atom::Net(text.parse().unwrap());
    check(with(Comparison::Is, block("192.0.2.0/28")), "dropped in base");
    check(with(Comparison::Is, block("192.0.2.16/28")), "passed");
    check(with(Comparison::IsNot, block("192.0.2.16/28")), "dropped in base");

    let key = vec![Field::L4Proto, Field::Dport];
    let map = |number: u16, found: Verdict| {
        made()
            .set("m", SetSpec::map(&[Type::InetProto, Type::InetService], &[Type::Verdict], ""))
            .element("m", &[Atom::Proto(6), Atom::Port(number)], &[Atom::Verdict(found)], host())
            .chain(
                "base",
                IN,
                0,
                vec![rule([Statement::VerdictFrom(key.clone(), Ident::new("m"))]), rule([drop()])],
            )
            .sub("sub", vec![rule([accept()])])
    };
    check(map(80, Verdict::Accept), "passed");
    check(map(80, Verdict::Jump(Ident::new("sub"))), "passed");
    check(map(81, Verdict::Accept), "dropped in base");
}

#[test]
fn marks_travel_within_a_node() {
    let marks = |number: u16| {
        made()
            .set("m", SetSpec::map(&[Type::InetService], &[Type::Mark], ""))
            .element("m", &[Atom::Port(number)], &[Atom::Mark(7)], FactKey::Host)
            .chain(
                "early",
                IN,
                -100,
                vec![rule([
                    Statement::SetMarkFrom(vec![Field::Dport], Ident::new("m")),
                    Statement::SaveMark,
                ])],
            )
            .chain(
                "late",
                HookKind::Input,
                0,
                vec![rule([
                    Statement::Match(Field::Mark, Comparison::Is, Value::Mark(7)),
                    Statement::Match(Field::CtMark, Comparison::Is, Value::Mark(7)),
                    drop(),
                ])],
            )
    };
    check(marks(80), "dropped in late");
    check(marks(81), "passed");
}

#[test]
fn untracked_packets_are_not_translated() {
    let state = |state| Statement::Match(Field::CtState, Comparison::Is, Value::State(state));
    let elsewhere = Statement::Dnat(NatTarget::Address(ip("203.0.113.5")));
    let translated = || made().nat("nat", IN, -100, vec![rule([elsewhere.clone()])]);
    let lost = "delivered to outside";
    let nodes = [translated()];
    let packet = tcp("192.0.2.1", 80).from(ip("192.0.2.9"));
    let outcome = trace(&world(&nodes), &from_outside("n1"), packet).outcome.to_string();
    assert!(outcome.starts_with(lost), "{outcome}");
    let untracked = || translated().chain("raw", IN, -300, vec![rule([Statement::Notrack])]);
    check(untracked(), "passed");
    let asks = |state| vec![rule([state, drop()])];
    check(
        untracked().chain("ask", HookKind::Input, 0, asks(state(ConntrackState::Untracked))),
        "dropped in ask",
    );
    // Before connection tracking a packet has no state yet, which reads as invalid.
    check(made().chain("ask", IN, -301, asks(state(ConntrackState::Invalid))), "dropped in ask");
    check(made().chain("ask", IN, -199, asks(state(ConntrackState::Invalid))), "passed");
}

#[test]
fn nat_chains_need_somebody_who_asks_for_tracking() {
    let all = || made().nat("nat", IN, -100, vec![rule([drop()])]);
    check(all(), "passed");
    let asks = rule([Statement::Match(Field::CtMark, Comparison::Is, Value::Mark(1))]);
    check(all().chain("ask", HookKind::Input, 0, vec![asks]), "dropped in nat");
}

#[test]
fn a_connection_is_translated_once() {
    // The first nat chain that decides is the last one asked; filter chains see what it did only afterwards.
    let to = |address: &str| vec![rule([Statement::Dnat(NatTarget::Address(ip(address)))])];
    let two = made().nat("one", IN, -110, to("192.0.2.1")).nat("two", IN, -100, to("203.0.113.5"));
    check(two, "passed");
}

#[test]
fn every_slot_is_seen() {
    let at = |number: u32| Statement::Match(Field::Random(3), Comparison::Is, Value::Number(number));
    let nodes = [made().chain("dice", IN, 0, vec![rule([at(1), drop()])])];
    let world = world(&nodes);
    let packet = tcp("192.0.2.1", 80).from(ip("192.0.2.9"));
    let ends: Vec<bool> =
        explore(10, |dice| trace_with(&world, &from_outside("n1"), packet, dice).outcome.is_delivered());
    assert_eq!(ends, [true, false, true]);
    assert!(!trace_with(&world, &from_outside("n1"), packet, &mut Fixed(1)).outcome.is_delivered());
}
