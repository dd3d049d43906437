//! What services are made of, end to end: a virtual address that leads to endpoints by way of the connection's mark, clients that
//! stay with their endpoint, refusals, and the way back.

use weft_model::{FactKey, Family};
use weft_plan::filter::{Comparison, HookKind, NatTarget, Reject, Value};
use weft_plan::{Atom, Field, Ident, Rule, SetSpec, Statement, Type, Verdict};

use super::rows::{Made, drop, from_node, from_outside, from_pod, ip, node, tcp, udp, world};
use crate::oracle::{Conversation, Fixed, Outcome, Random, Session, converse, explore, trace};

const V4: Family = Family::V4;
const ENDPOINT: u32 = 0x8000_0000;
const CLASS: u32 = 0x7f80_0000;
/// Services by how they choose, in the bits of [`CLASS`].
const ANY: u32 = 0x0080_0000;
const STICKY: u32 = 0x0100_0000;
const NOBODY: u32 = 0x0180_0000;

fn rule(statements: impl IntoIterator<Item = Statement>) -> Rule {
    Rule::new("", statements)
}

fn from(key: &[Field], map: &str) -> Statement {
    Statement::SetCtMarkFrom(key.to_vec(), Ident::new(map))
}

fn goto(chain: &str) -> Statement {
    Statement::Verdict(Verdict::Goto(Ident::new(chain)))
}

const SERVICE: [Field; 3] = [Field::Daddr(V4), Field::L4Proto, Field::Dport];
const CLIENT: [Field; 4] = [Field::Saddr(V4), Field::Daddr(V4), Field::L4Proto, Field::Dport];

/// A node with two pods, and three services: `10.96.0.1` chooses anew for every connection, `10.96.0.2` once for each
/// client, `10.96.0.3` has nobody.
fn made() -> Made {
    let service = SetSpec::map(&[Type::Ipv4Addr, Type::InetProto, Type::InetService], &[Type::Mark], "");
    let client = [Type::Ipv4Addr, Type::Ipv4Addr, Type::InetProto, Type::InetService];
    let clients = SetSpec { dynamic_timeout: Some(60), ..SetSpec::map(&client, &[Type::Mark], "") };
    let endpoint = SetSpec::map(&[Type::Mark, Type::InetProto], &[Type::Ipv4Addr, Type::InetService], "");
    let translate = Statement::Dnat(NatTarget::AddressPortFrom {
        family: V4,
        key: vec![Field::CtMark, Field::L4Proto],
        map: Ident::new("endpoint4"),
    });
    let client_map = || Ident::new("client4");
    let remember = || Statement::Update {
        map: client_map(),
        key: CLIENT.to_vec(),
        timeout_seconds: 60,
        data: Field::CtMark,
    };
    let forget = Statement::Delete { map: client_map(), key: CLIENT.to_vec(), data: Field::CtMark };
    let choose = || from(&[Field::CtMark, Field::Random(2)], "slot");
    let services = vec![
        rule([from(&SERVICE, "service4")]),
        rule([Statement::VerdictFrom(vec![Field::CtMarkMasked(CLASS)], Ident::new("classes"))]),
    ];
    let sticky = vec![
        rule([from(&CLIENT, "client4"), remember(), translate.clone()]),
        rule([forget, from(&SERVICE, "service4"), choose()]),
        rule([remember()]),
        rule([goto("translate")]),
    ];
    let tcp_only = Statement::Match(Field::L4Proto, Comparison::Is, Value::Byte(6));
    let nobody = vec![
        rule([tcp_only, Statement::Reject(Reject::TcpReset)]),
        rule([Statement::Reject(Reject::PortUnreachable)]),
    ];
    let made = node("n1")
        .own("eth0", "192.0.2.1/24")
        .pod("a", "10.0.0.2")
        .pod("b", "10.0.0.3")
        .set("service4", service)
        .set("classes", SetSpec::map(&[Type::Mark], &[Type::Verdict], ""))
        .set("slot", SetSpec::map(&[Type::Mark, Type::Number], &[Type::Mark], ""))
        .set("endpoint4", endpoint)
        .set("client4", clients)
        .nat("services", HookKind::Prerouting, -105, services.clone())
        .nat("services_out", HookKind::Output, -105, services)
        .sub("any", vec![rule([choose()]), rule([goto("translate")])])
        .sub("sticky", sticky)
        .sub("nobody", nobody)
        .sub("translate", vec![rule([translate]), rule([drop()])]);
    [(ANY, "any"), (STICKY, "sticky"), (NOBODY, "nobody")].into_iter().zip(1..).fold(
        made,
        |made, ((class, chain), last)| {
            let leads = [Atom::Verdict(Verdict::Goto(Ident::new(chain)))];
            let made = made.element("classes", &[Atom::Mark(class)], &leads, FactKey::Host);
            [6, 17].into_iter().fold(made, |made, protocol| {
                let key = [Atom::V4([10, 96, 0, last].into()), Atom::Proto(protocol), Atom::Port(80)];
                made.element("service4", &key, &[Atom::Mark(class | u32::from(last))], FactKey::Host)
            })
        },
    )
}

/// Slots of a service, and whether an endpoint is there: 1 is pod a, 2 is pod b, others are gone.
fn with_slots(made: Made, service: u32, slots: [u32; 2]) -> Made {
    slots.into_iter().zip(0..).fold(made, |made, (endpoint, slot)| {
        let key = [Atom::Mark(service), Atom::Number(slot)];
        let made = made.element("slot", &key, &[Atom::Mark(ENDPOINT | endpoint)], FactKey::Host);
        let pod = match endpoint {
            1 => "10.0.0.2",
            2 => "10.0.0.3",
            _ => return made,
        };
        [6, 17].into_iter().fold(made, |made, protocol| {
            let key = [Atom::Mark(ENDPOINT | endpoint), Atom::Proto(protocol)];
            made.element("endpoint4", &key, &[Atom::from(ip(pod)), Atom::Port(8080)], FactKey::Host)
        })
    })
}

fn standard() -> Made {
    with_slots(with_slots(made(), ANY | 1, [1, 2]), STICKY | 2, [1, 2])
}

/// Dice that show these sides, one after the other.
struct Sides(Vec<u32>);

impl Random for Sides {
    fn pick(&mut self, modulus: u32) -> u32 {
        self.0.remove(0) % modulus
    }
}

/// Who answered.
fn pod(conversation: &Conversation) -> String {
    match &conversation.forward.outcome {
        Outcome::Delivered { seen, .. } if conversation.works() => seen.destination.to_string(),
        other => other.to_string(),
    }
}

#[test]
fn such_rules_are_sound() {
    assert_eq!(standard().plan.check(), Vec::<String>::new());
}

#[test]
fn a_service_leads_to_each_of_its_endpoints_and_back() {
    let nodes = [standard()];
    let world = world(&nodes);
    for start in [from_outside("n1"), from_node("n1")] {
        let source =
            if matches!(start, crate::oracle::Start::Node { .. }) { "192.0.2.1" } else { "192.0.2.9" };
        for packet in [tcp("10.96.0.1", 80), udp("10.96.0.1", 80)] {
            let pods =
                explore(9, |dice| pod(&Session::new(&world).converse(&start, packet.from(ip(source)), dice)));
            assert_eq!(pods, ["10.0.0.2", "10.0.0.3"], "{start:?}");
        }
    }
    // Another port is no service's.
    let other = trace(&world, &from_pod("n1", "a"), tcp("10.96.0.1", 81)).outcome;
    assert!(
        matches!(&other, Outcome::Delivered { seen, .. } if seen.destination == ip("10.96.0.1")),
        "{other}"
    );
}

#[test]
fn a_client_stays_with_its_endpoint() {
    let nodes = [standard()];
    let world = world(&nodes);
    let mut session = Session::new(&world);
    let mut dice = Sides(vec![1, 0]);
    let mut connect = |client: &str, sport: u16| {
        let packet = crate::oracle::Packet { sport, ..tcp("10.96.0.2", 80) }.from(ip(client));
        pod(&session.converse(&from_outside("n1"), packet, &mut dice))
    };
    assert_eq!(connect("192.0.2.8", 1001), "10.0.0.3");
    // No dice are left but for one more client: the first one's choice is remembered.
    assert_eq!(connect("192.0.2.8", 1002), "10.0.0.3");
    assert_eq!(connect("192.0.2.9", 1001), "10.0.0.2");
    assert_eq!(connect("192.0.2.8", 1003), "10.0.0.3");
    assert_eq!(connect("192.0.2.9", 1002), "10.0.0.2");
}

#[test]
fn a_client_of_a_dead_endpoint_gets_another_and_stays_there() {
    // Slot 0 leads to an endpoint that is gone.
    let nodes = [with_slots(made(), STICKY | 2, [9, 2])];
    let world = world(&nodes);
    let mut session = Session::new(&world);
    let mut dice = Sides(vec![0, 1]);
    let mut connect = |sport: u16| {
        let packet = crate::oracle::Packet { sport, ..tcp("10.96.0.2", 80) }.from(ip("192.0.2.8"));
        pod(&session.converse(&from_outside("n1"), packet, &mut dice))
    };
    assert!(connect(1001).starts_with("dropped on n1: chain services: drop"));
    assert_eq!(connect(1002), "10.0.0.3");
    assert_eq!(connect(1003), "10.0.0.3");
}

#[test]
fn what_is_deleted_has_data_to_be_read() {
    let delete = Statement::Delete { map: "client4".into(), key: CLIENT.to_vec(), data: Field::CtMark };
    let dropped = |priority| {
        let chain = vec![rule([delete.clone(), drop()])];
        let nodes = [standard().chain("early", HookKind::Prerouting, priority, chain)];
        let packet = tcp("192.0.2.1", 80).from(ip("192.0.2.9"));
        !trace(&world(&nodes), &from_outside("n1"), packet).outcome.is_delivered()
    };
    // Before connection tracking there is no mark.
    assert!(!dropped(-300));
    assert!(dropped(-150));
}

#[test]
fn a_connection_keeps_its_endpoint() {
    let nodes = [standard()];
    let world = world(&nodes);
    let mut session = Session::new(&world);
    let packet = tcp("10.96.0.1", 80).from(ip("192.0.2.9"));
    let mut sent = |side| pod(&session.converse(&from_outside("n1"), packet, &mut Fixed(side)));
    assert_eq!(sent(1), "10.0.0.3");
    assert_eq!(sent(0), "10.0.0.3", "the same connection, whatever the dice say now");
}

#[test]
fn a_service_without_endpoints_refuses() {
    let nodes = [made()];
    let world = world(&nodes);
    for start in [from_pod("n1", "a"), from_node("n1")] {
        for packet in [tcp("10.96.0.3", 80), udp("10.96.0.3", 80)] {
            let outcome = trace(&world, &start, packet).outcome;
            assert!(matches!(outcome, Outcome::Rejected { .. }), "{outcome}");
        }
    }
    // One that has slots and no endpoint behind them is broken, and lets nothing pass.
    let outcome = trace(&world, &from_pod("n1", "a"), tcp("10.96.0.1", 80)).outcome;
    assert!(matches!(outcome, Outcome::Dropped { .. }), "{outcome}");
}

#[test]
fn the_first_destination_is_known_after_translation() {
    let is = |field, value| Statement::Match(field, Comparison::Is, value);
    let after = |statements: Vec<Statement>| {
        let nodes = [standard().chain("look", HookKind::Postrouting, 0, vec![rule(statements)])];
        converse(&world(&nodes), &from_outside("n1"), tcp("10.96.0.1", 80).from(ip("192.0.2.9")))
            .forward
            .outcome
    };
    let dropped = |statement: Statement| {
        let tcp_only = is(Field::L4Proto, Value::Byte(6));
        !after(vec![tcp_only, statement, drop()]).is_delivered()
    };
    assert!(dropped(is(Field::CtOriginalDaddr(V4), Value::Address(ip("10.96.0.1")))));
    assert!(dropped(is(Field::CtOriginalDaddr(V4), Value::Net("10.96.0.0/16".parse().unwrap()))));
    assert!(!dropped(is(Field::CtOriginalDaddr(V4), Value::Address(ip("10.0.0.2")))));
    assert!(!dropped(is(Field::CtOriginalDaddr(Family::V6), Value::Address(ip("fd00::1")))));
    assert!(dropped(is(Field::CtOriginalDport, Value::Port(80))));
    assert!(dropped(is(Field::Dport, Value::Port(8080))));
    assert!(dropped(is(Field::CtMarkMasked(ENDPOINT), Value::Mark(ENDPOINT))));
    assert!(!dropped(is(Field::CtMarkMasked(ENDPOINT), Value::Mark(0))));
    assert!(!dropped(is(Field::FibSaddrType, Value::Local)));
}
