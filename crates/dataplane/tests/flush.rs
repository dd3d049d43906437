//! Connections end with the elements by which they were translated, and no others: the executor over the fake kernel.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use weft_dataplane::Executor;
use weft_dataplane::conntrack::{Entry, Tuple};
use weft_dataplane::fake::FakeKernel;
use weft_model::FactKey;
use weft_plan::filter::{Element, Flush};
use weft_plan::marks::{self, CHOSEN};
use weft_plan::{Atom, Ident, KernelKey, KernelRow, Plan, SetSpec, Type};

const TCP: u8 = 6;
const UDP: u8 = 17;

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
}

/// A map like that of services' ends: (address . protocol . port . mark) → (address . port).
fn served(flush: Flush) -> SetSpec {
    let key = [Type::Ipv4Addr, Type::InetProto, Type::InetService, Type::Mark];
    SetSpec::map(&key, &[Type::Ipv4Addr, Type::InetService], "").flushing(flush)
}

/// A map like that of mapped ports: (address . protocol . port) → (address . port).
fn led() -> SetSpec {
    let key = [Type::Ipv4Addr, Type::InetProto, Type::InetService];
    SetSpec::map(&key, &[Type::Ipv4Addr, Type::InetService], "").flushing(Flush::Led)
}

fn mark(led_to: &str) -> u32 {
    marks::of_endpoint((ip(led_to), 5353)).next().unwrap()
}

fn element(protocol: u8, to: &str, led_to: &str) -> (KernelKey, KernelRow) {
    let key = [Atom::from(ip(to)), Atom::Proto(protocol), Atom::Port(53), Atom::Mark(mark(led_to))];
    (KernelKey::Element(Ident::new("endpoint4"), key.into()), leads(led_to))
}

fn leads(led_to: &str) -> KernelRow {
    KernelRow::Element(Element::maps_to([Atom::from(ip(led_to)), Atom::Port(5353)]))
}

fn mapped_port(protocol: u8, to: &str) -> KernelKey {
    let key = [Atom::from(ip(to)), Atom::Proto(protocol), Atom::Port(53)];
    KernelKey::Element(Ident::new("host_port_at4"), key.into())
}

impl Node {
    fn new() -> Self {
        let mut node = Node { executor: Executor::new(FakeKernel::new()), plan: Plan::default() };
        let serving = Flush::Served { mark: CHOSEN, listed: Ident::new("listed4") };
        let listed = Flush::Listed { of: Ident::new("endpoint4") };
        let maps = [("endpoint4", served(serving)), ("listed4", served(listed)), ("host_port_at4", led())];
        for (name, spec) in maps {
            let key = KernelKey::Set(Ident::new(name));
            node.plan.kernel.set(key, KernelRow::Set(Box::new(spec)), FactKey::Host);
        }
        node.step();
        node
    }

    fn comes(&mut self, protocol: u8, to: &str, led_to: &str) {
        let (key, row) = element(protocol, to, led_to);
        self.plan.kernel.set(key, row, FactKey::Host);
    }

    fn goes(&mut self, protocol: u8, to: &str, led_to: &str) {
        assert!(self.plan.kernel.remove(&element(protocol, to, led_to).0));
    }

    /// Applies what has changed, without looking at connections that may wait.
    fn apply(&mut self) {
        self.plan.generation += 1;
        let changed = self.plan.kernel.take_changed();
        let outcome = self.executor.step(&self.plan, changed).unwrap();
        assert!(outcome.failed.is_empty(), "{:?}", outcome.failed);
    }

    /// Applies what has changed, and looks at all connections that there is a reason to look at.
    fn step(&mut self) {
        self.apply();
        self.look();
    }

    fn look(&mut self) {
        let mut looks = 0;
        while let Some(due) = self.executor.next_retry() {
            self.executor.retry(&self.plan, due).unwrap();
            looks += 1;
            assert!(looks < 10, "it never ends");
        }
    }

    /// Applies what has changed, and looks only at those who end at once.
    fn glance(&mut self) {
        self.apply();
        let due = self.executor.next_retry().map(|due| due.min(Instant::now() + Duration::from_millis(200)));
        if let Some(due) = due {
            self.executor.retry(&self.plan, due).unwrap();
        }
    }

    fn connections(&mut self) -> &mut Vec<Entry> {
        &mut self.executor.kernel_mut().connections
    }

    /// Which of these are left.
    fn left(&mut self, of: &[Entry]) -> Vec<usize> {
        let left = self.connections().clone();
        (0..of.len()).filter(|at| left.contains(&of[*at])).collect()
    }
}

const WEB: &str = "10.96.0.1";
const OTHER: &str = "10.96.0.2";
const ONE: &str = "10.244.1.1";
const TWO: &str = "10.244.1.2";

/// Two ends of one service, and one of them of another too; connections through them, by another program, and by nobody.
fn services() -> (Node, [Entry; 8]) {
    let mut node = Node::new();
    for (to, led_to) in [(WEB, ONE), (WEB, TWO), (OTHER, ONE)] {
        for protocol in [TCP, UDP] {
            node.comes(protocol, to, led_to);
        }
    }
    node.step();
    let mut untranslated = connection(UDP, "10.96.0.9", "10.96.0.9", 0);
    untranslated.reply.source_port = 53;
    let entries = [
        connection(UDP, WEB, ONE, mark(ONE)),
        connection(TCP, WEB, ONE, mark(ONE)),
        connection(UDP, WEB, TWO, mark(TWO)),
        connection(UDP, OTHER, ONE, mark(ONE)),
        // Another program's, to the same ends.
        connection(UDP, WEB, ONE, 0),
        connection(UDP, WEB, TWO, 0),
        // Of no service as yet: by nobody, and by another program.
        untranslated,
        connection(UDP, "10.96.0.8", ONE, 0),
    ];
    *node.connections() = entries.to_vec();
    (node, entries)
}

#[test]
fn udp_ends_with_its_end_and_nothing_else_does_at_once() {
    let (mut node, entries) = services();
    for protocol in [TCP, UDP] {
        node.goes(protocol, WEB, ONE);
    }
    node.glance();
    // Others' connections are looked at when something comes.
    assert_eq!(node.left(&entries), [1, 2, 3, 4, 5, 6, 7]);
    node.comes(UDP, WEB, "10.244.1.3");
    node.glance();
    assert_eq!(node.left(&entries), [1, 2, 3, 5, 6, 7]);
    // Nor does a full comparison find more.
    node.executor.sync(&node.plan).unwrap();
    assert_eq!(node.left(&entries), [1, 2, 3, 5, 6, 7]);
}

fn listed(protocol: u8, to: &str, led_to: &str) -> (KernelKey, KernelRow) {
    let (KernelKey::Element(_, key), row) = element(protocol, to, led_to) else { unreachable!("it is one") };
    (KernelKey::Element(Ident::new("listed4"), key), row)
}

/// TCP to an end that has left ends a while later, and not where the end came back, is unready, or never left.
#[test]
fn tcp_ends_a_while_after_its_end_has_left() {
    let entries = [
        connection(TCP, WEB, ONE, mark(ONE)),
        connection(TCP, WEB, TWO, mark(TWO)),
        connection(TCP, OTHER, ONE, mark(ONE)),
        // Another program's.
        connection(TCP, WEB, ONE, 0),
    ];
    let begin = || {
        let mut node = services().0;
        *node.connections() = entries.to_vec();
        node.goes(TCP, WEB, ONE);
        node.glance();
        assert_eq!(node.left(&entries), [0, 1, 2, 3], "not at once");
        node
    };
    let mut node = begin();
    node.look();
    assert_eq!(node.left(&entries), [1, 2, 3]);

    let mut node = begin();
    node.comes(TCP, WEB, ONE);
    node.step();
    assert_eq!(node.left(&entries), [0, 1, 2, 3], "it moved from one slice to another");

    let mut node = begin();
    let (key, row) = listed(TCP, WEB, ONE);
    node.plan.kernel.set(key.clone(), row, FactKey::Host);
    node.step();
    assert_eq!(node.left(&entries), [0, 1, 2, 3], "it isn't ready");
    node.plan.kernel.remove(&key);
    node.step();
    assert_eq!(node.left(&entries), [1, 2, 3], "and then it left");
}

/// While others come and go all the time, each has its own while.
#[test]
fn what_leaves_now_does_not_end_with_what_left_before() {
    let mut node = services().0;
    let entries = [connection(TCP, WEB, ONE, mark(ONE)), connection(TCP, WEB, TWO, mark(TWO))];
    *node.connections() = entries.to_vec();
    node.goes(TCP, WEB, ONE);
    node.apply();
    std::thread::sleep(Duration::from_millis(600));
    node.goes(TCP, WEB, TWO);
    node.apply();
    let due = node.executor.next_retry().expect("one is to be looked at");
    node.executor.retry(&node.plan, due).unwrap();
    assert_eq!(node.left(&entries), [1]);
    node.look();
    assert_eq!(node.left(&entries), [0; 0]);
}

#[test]
fn what_left_while_nobody_looked_ends_with_the_first_comparison() {
    let mut node = services().0;
    let entries = [
        connection(TCP, WEB, ONE, mark(ONE)),
        connection(TCP, WEB, "10.244.9.9", mark("10.244.9.9")),
        // Others' marks with that bit.
        connection(TCP, WEB, "10.244.9.9", mark("10.244.9.9") ^ 0x3456),
        connection(TCP, WEB, "10.244.9.9", 0),
    ];
    let plan = std::mem::take(&mut node.plan);
    let mut kernel = FakeKernel::new();
    kernel.connections = entries.to_vec();
    let mut node = Node { executor: Executor::new(kernel), plan };
    node.executor.sync(&node.plan).unwrap();
    assert_eq!(node.left(&entries), [0, 1, 2, 3]);
    node.look();
    assert_eq!(node.left(&entries), [0, 2, 3]);
    // A later one finds nothing that it wasn't told of.
    node.connections().push(entries[1]);
    node.executor.sync(&node.plan).unwrap();
    node.look();
    assert_eq!(node.left(&entries), [0, 1, 2, 3]);
}

#[test]
fn what_began_before_there_was_a_service_begins_anew() {
    let (mut node, entries) = services();
    node.comes(TCP, "10.96.0.9", ONE);
    node.step();
    assert_eq!(node.left(&entries).len(), entries.len());
    node.comes(UDP, "10.96.0.9", ONE);
    node.comes(UDP, "10.96.0.8", ONE);
    node.step();
    // Untranslated it would never reach the service; what another program led to one of its ends is where it should be.
    assert_eq!(node.left(&entries), [0, 1, 2, 3, 4, 5, 7]);
}

#[test]
fn without_any_end_only_what_was_led_there_ends() {
    let (mut node, entries) = services();
    for led_to in [ONE, TWO] {
        node.goes(UDP, WEB, led_to);
    }
    node.step();
    assert_eq!(node.left(&entries), [1, 3, 4, 5, 6, 7]);
}

#[test]
fn an_end_with_another_mark_keeps_its_connections() {
    let (mut node, _) = services();
    // Another end hashes alike and stands before it in the list.
    let marked_before = connection(UDP, WEB, TWO, CHOSEN | 7);
    node.connections().push(marked_before);
    node.goes(UDP, WEB, ONE);
    node.step();
    assert!(node.connections().contains(&marked_before));
    node.goes(UDP, WEB, TWO);
    node.step();
    assert!(!node.connections().contains(&marked_before));
}

#[test]
fn all_that_was_led_ends_with_the_whole_map() {
    let (mut node, entries) = services();
    let keys: Vec<KernelKey> = node.plan.kernel.iter().map(|(key, _)| key.clone()).collect();
    for key in keys {
        node.plan.kernel.remove(&key);
    }
    node.step();
    assert_eq!(node.left(&entries), [1, 4, 5, 6, 7]);
}

#[test]
fn what_changed_unseen_is_found_by_a_full_comparison() {
    let (mut node, entries) = services();
    node.goes(UDP, WEB, TWO);
    node.plan.kernel.remove(&element(UDP, OTHER, ONE).0);
    node.comes(UDP, "10.96.0.9", TWO);
    // The changes went in with an agent that died before it came to the connections.
    for key in [element(UDP, WEB, TWO).0, element(UDP, OTHER, ONE).0] {
        node.executor.kernel_mut().lose(&key);
    }
    let (key, row) = element(UDP, "10.96.0.9", TWO);
    node.executor.kernel_mut().owned.insert(key, row);
    node.plan.kernel.take_changed();
    node.executor.sync(&node.plan).unwrap();
    assert_eq!(node.left(&entries), [0, 1, 4, 7]);
}

#[test]
fn a_mapped_ports_connections_end_whatever_their_protocol() {
    let mut node = Node::new();
    for protocol in [TCP, UDP] {
        node.plan.kernel.set(mapped_port(protocol, WEB), leads(ONE), FactKey::Host);
    }
    node.step();
    let entries = [
        connection(UDP, WEB, ONE, 0),
        connection(TCP, WEB, ONE, 0),
        connection(UDP, WEB, TWO, 0),
        connection(UDP, OTHER, ONE, 0),
    ];
    *node.connections() = entries.to_vec();
    node.plan.kernel.set(mapped_port(UDP, WEB), leads(TWO), FactKey::Host);
    node.step();
    assert_eq!(node.left(&entries), [1, 2, 3]);
    for protocol in [TCP, UDP] {
        node.plan.kernel.remove(&mapped_port(protocol, WEB));
    }
    node.step();
    assert_eq!(node.left(&entries), [3]);
}

#[test]
fn many_changes_share_a_look() {
    let (mut node, entries) = services();
    let began = Instant::now();
    let before = node.executor.kernel().lists;
    for n in 1..=200 {
        node.comes(UDP, WEB, &format!("10.244.2.{n}"));
        node.apply();
        node.goes(UDP, WEB, &format!("10.244.2.{n}"));
        node.apply();
    }
    node.goes(UDP, WEB, TWO);
    node.apply();
    // One now and one each 100 ms, for what came and for what went.
    let looks = 1 + began.elapsed().as_millis() as u32 / 100;
    assert!(node.executor.kernel().lists - before <= 3 * looks, "{looks}");
    node.look();
    let left = node.left(&entries);
    assert!(!left.contains(&2) && [0, 1, 3, 4, 6, 7].iter().all(|at| left.contains(at)), "{left:?}");
}

#[test]
fn what_could_not_be_looked_at_is_looked_at_later() {
    let (mut node, entries) = services();
    node.executor.kernel_mut().trouble.refuse_flushes = true;
    node.goes(UDP, WEB, TWO);
    node.apply();
    for _ in 0..3 {
        let due = node.executor.next_retry().expect("something is to be tried again");
        node.executor.retry(&node.plan, due).unwrap();
    }
    assert_eq!(node.left(&entries).len(), entries.len());
    node.executor.kernel_mut().calm();
    node.look();
    assert_eq!(node.left(&entries), [0, 1, 3, 4, 5, 6, 7]);
}
