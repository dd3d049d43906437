//! Connections end with the elements by which they were translated, and no others: the executor over the fake kernel.

use std::net::IpAddr;
use std::time::Duration;

use weft_dataplane::Executor;
use weft_dataplane::conntrack::{Entry, Tuple};
use weft_dataplane::fake::FakeKernel;
use weft_model::FactKey;
use weft_plan::filter::{Element, Flushed};
use weft_plan::{Atom, Ident, KernelKey, KernelRow, Plan, SetSpec, Type};

const TCP: u8 = 6;
const UDP: u8 = 17;
const CHOSEN: u32 = 1 << 31;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// A connection from a client to a service's address, translated to an end point.
fn connection(protocol: u8, to: &str, led_to: &str, mark: u32) -> Entry {
    let tuple = |source: &str, destination: &str, source_port, destination_port| Tuple {
        source: ip(source),
        destination: ip(destination),
        protocol,
        source_port,
        destination_port,
    };
    Entry {
        original: tuple("10.244.0.2", to, 40_000, 53),
        reply: tuple(led_to, "10.244.0.2", 5353, 40_000),
        mark,
    }
}

struct Node {
    executor: Executor<FakeKernel>,
    plan: Plan,
    which: Flushed,
}

impl Node {
    /// A map like that of services' end points: (address . protocol . port . number) → (address . port).
    fn new(which: Flushed) -> Self {
        let mut node = Node { executor: Executor::new(FakeKernel::new()), plan: Plan::default(), which };
        node.declare();
        node.step();
        node
    }

    fn declare(&mut self) {
        let key = [Type::Ipv4Addr, Type::InetProto, Type::InetService, Type::Mark];
        let spec = SetSpec::map(&key, &[Type::Ipv4Addr, Type::InetService], "");
        let spec = spec.flushing(self.which, CHOSEN);
        self.plan.kernel.set(KernelKey::Set(name()), KernelRow::Set(Box::new(spec)), FactKey::Host);
    }

    fn key(protocol: u8, to: &str, number: u32) -> KernelKey {
        let key = [Atom::from(ip(to)), Atom::Proto(protocol), Atom::Port(53), Atom::Mark(number)];
        KernelKey::Element(name(), key.into())
    }

    fn leads(&mut self, protocol: u8, to: &str, number: u32, led_to: &str) {
        let row = KernelRow::Element(Element::maps_to([Atom::from(ip(led_to)), Atom::Port(5353)]));
        self.plan.kernel.set(Self::key(protocol, to, number), row, FactKey::Host);
    }

    fn gone(&mut self, protocol: u8, to: &str, number: u32) {
        assert!(self.plan.kernel.remove(&Self::key(protocol, to, number)));
    }

    fn step(&mut self) {
        self.plan.generation += 1;
        let changed = self.plan.kernel.take_changed();
        let outcome = self.executor.step(&self.plan, changed).unwrap();
        assert!(outcome.failed.is_empty(), "{:?}", outcome.failed);
    }

    fn connections(&mut self) -> &mut Vec<Entry> {
        &mut self.executor.kernel_mut().connections
    }
}

fn name() -> Ident {
    Ident::new("endpoint4")
}

/// Two end points of one service, and one of them of another too; with a connection each, and one that is nobody's.
fn services(which: Flushed) -> (Node, [Entry; 5]) {
    let mut node = Node::new(which);
    for (to, number, led_to) in [
        ("10.96.0.1", CHOSEN | 1, "10.244.1.1"),
        ("10.96.0.1", CHOSEN | 2, "10.244.1.2"),
        ("10.96.0.2", CHOSEN | 1, "10.244.1.1"),
    ] {
        for protocol in [TCP, UDP] {
            node.leads(protocol, to, number, led_to);
        }
    }
    node.step();
    let entries = [
        connection(UDP, "10.96.0.1", "10.244.1.1", CHOSEN | 1),
        connection(TCP, "10.96.0.1", "10.244.1.1", CHOSEN | 1),
        connection(UDP, "10.96.0.1", "10.244.1.2", CHOSEN | 2),
        connection(UDP, "10.96.0.2", "10.244.1.1", CHOSEN | 1),
        connection(UDP, "10.96.0.1", "10.244.1.1", 0),
    ];
    *node.connections() = entries.to_vec();
    (node, entries)
}

#[test]
fn connections_end_with_their_element_and_those_of_others_go_on() {
    for (which, left) in [(Flushed::All, vec![2, 3, 4]), (Flushed::AllButTcp, vec![1, 2, 3, 4])] {
        let (mut node, entries) = services(which);
        for protocol in [TCP, UDP] {
            node.gone(protocol, "10.96.0.1", CHOSEN | 1);
        }
        node.step();
        let left: Vec<Entry> = left.into_iter().map(|at: usize| entries[at]).collect();
        assert_eq!(*node.connections(), left, "{which:?}");
        // Nor does a full comparison find more.
        node.executor.sync(&node.plan).unwrap();
        assert_eq!(*node.connections(), left, "{which:?}");
    }
}

#[test]
fn connections_end_when_their_element_leads_elsewhere() {
    let (mut node, entries) = services(Flushed::All);
    node.leads(UDP, "10.96.0.1", CHOSEN | 1, "10.244.1.9");
    node.step();
    assert_eq!(*node.connections(), entries[1..]);
}

#[test]
fn an_end_point_of_another_number_keeps_its_connections() {
    let (mut node, entries) = services(Flushed::All);
    node.gone(UDP, "10.96.0.1", CHOSEN | 2);
    node.leads(UDP, "10.96.0.1", CHOSEN | 3, "10.244.1.2");
    node.step();
    assert_eq!(*node.connections(), entries);
}

#[test]
fn all_connections_end_with_the_whole_map() {
    let (mut node, entries) = services(Flushed::All);
    let keys: Vec<KernelKey> = node.plan.kernel.iter().map(|(key, _)| key.clone()).collect();
    for key in keys {
        node.plan.kernel.remove(&key);
    }
    node.step();
    assert_eq!(*node.connections(), entries[4..]);
}

#[test]
fn what_went_unseen_is_found_by_its_mark() {
    let (mut node, entries) = services(Flushed::All);
    node.plan.kernel.remove(&Node::key(UDP, "10.96.0.1", CHOSEN | 2));
    node.plan.kernel.take_changed();
    // The element went with an agent that died before it came to the connections.
    node.executor.kernel_mut().lose(&Node::key(UDP, "10.96.0.1", CHOSEN | 2));
    node.executor.sync(&node.plan).unwrap();
    assert_eq!(*node.connections(), [entries[0], entries[1], entries[3], entries[4]]);
}

#[test]
fn what_could_not_be_flushed_is_flushed_later() {
    let (mut node, entries) = services(Flushed::All);
    node.executor.kernel_mut().trouble.refuse_flushes = true;
    node.gone(UDP, "10.96.0.1", CHOSEN | 2);
    node.step();
    assert_eq!(node.connections().len(), 5);
    let due = node.executor.next_retry().expect("something is to be tried again");
    node.executor.retry(&node.plan, due).unwrap();
    assert_eq!(node.connections().len(), 5);
    node.executor.kernel_mut().calm();
    let due = node.executor.next_retry().expect("something is to be tried again");
    node.executor.retry(&node.plan, due + Duration::from_secs(1)).unwrap();
    assert_eq!(*node.connections(), [entries[0], entries[1], entries[3], entries[4]]);
    assert!(node.executor.next_retry().is_none());
}
