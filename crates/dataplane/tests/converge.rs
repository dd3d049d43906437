//! The executor against the fake kernel: from any state, through failures and crashes, it ends at the plan.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use weft_dataplane::fake::{FakeKernel, Trouble, rows};
use weft_dataplane::{Executor, ExecutorError, Kernel};
use weft_model::FactKey;
use weft_plan::filter::Element;
use weft_plan::kernel::MAIN_TABLE;
use weft_plan::{Atom, Chain, Field, Ident, KernelKey, KernelRow, Plan, Rule, SetSpec, Statement, Type};

type Row = (KernelKey, KernelRow);

/// What a generated plan holds, by number.
#[derive(Debug, Clone)]
struct Choice {
    tunnel: Option<(u16, u32)>,
    peers: Vec<u8>,
    pods: Vec<(u8, u32)>,
    ports: Vec<u16>,
    forwarding: bool,
}

impl Choice {
    fn rows(&self) -> Vec<Row> {
        let mut list = Vec::new();
        if let Some((port, mtu)) = self.tunnel {
            list.push(rows::vxlan(port, mtu));
            for n in &self.peers {
                list.extend([rows::fdb(*n), rows::neighbour(*n), rows::peer_route(*n)]);
            }
        }
        for (n, mtu) in &self.pods {
            list.extend([rows::pod(*n, *mtu), rows::route(*n)]);
        }
        if !self.ports.is_empty() {
            list.push(rows::set("ports"));
            list.extend(self.ports.iter().map(|port| rows::element("ports", *port)));
        }
        if self.forwarding {
            list.push(rows::sysctl("1"));
        }
        list
    }

    fn plan(&self, generation: u64) -> Plan {
        plan(generation, self.rows())
    }
}

fn plan(generation: u64, rows: impl IntoIterator<Item = Row>) -> Plan {
    let mut plan = Plan { generation, ..Plan::default() };
    for (key, row) in rows {
        plan.kernel.set(key, row, FactKey::Host);
    }
    plan
}

fn choice() -> impl Strategy<Value = Choice> {
    let mtu = prop_oneof![Just(1400_u32), Just(1450)];
    let tunnel = proptest::option::of((prop_oneof![Just(4789_u16), Just(8472)], mtu.clone()));
    (
        tunnel,
        proptest::collection::vec(1_u8..6, 0..4),
        proptest::collection::btree_map(1_u8..6, mtu, 0..4),
        proptest::collection::vec(1_u16..6, 0..4),
        any::<bool>(),
    )
        .prop_map(|(tunnel, peers, pods, ports, forwarding)| Choice {
            tunnel,
            peers,
            pods: pods.into_iter().collect(),
            ports,
            forwarding,
        })
}

/// Somebody else's: a route of ours never replaces it.
fn foreign() -> BTreeMap<KernelKey, KernelRow> {
    [rows::route(200), rows::pod(201, 1500)].into()
}

/// Asserts that the kernel equals the plan, and that another full sync finds nothing to do.
fn assert_converged(executor: &mut Executor<FakeKernel>, plan: &Plan) {
    let seen = executor.kernel_mut().observe(&plan.kernel).unwrap();
    let wanted = plan.kernel.iter().map(|(k, e)| (k.clone(), e.value.clone())).collect();
    assert_eq!(seen.rows, wanted);
    assert!(seen.damaged.is_empty());
    let again = executor.sync(plan).unwrap();
    assert_eq!((again.applied, again.failed.len()), (0, 0));
    assert_eq!(executor.kernel().foreign, foreign());
    let forwarding = executor.kernel().sysctls.get("net/ipv4/ip_forward");
    let planned = plan.kernel.get(&rows::sysctl("1").0).is_some();
    assert_eq!(forwarding.is_some_and(|v| v == "1"), planned);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// From what any plan left, through a crash and refusals, to any other plan.
    #[test]
    fn syncs_converge(
        first in choice(),
        second in choice(),
        refuse in proptest::collection::btree_set(0_usize..40, 0..8),
        die_before in proptest::option::of(0_usize..40),
        lost in proptest::collection::vec(any::<prop::sample::Index>(), 0..4),
        damaged in proptest::option::of(any::<prop::sample::Index>()),
    ) {
        let kernel = FakeKernel::beside(foreign());
        let mut executor = Executor::new(kernel);
        executor.sync(&first.plan(1)).unwrap();
        let rows = first.rows();
        for at in lost.iter().filter(|_| !rows.is_empty()) {
            executor.kernel_mut().lose(&rows[at.index(rows.len())].0);
        }
        let key = damaged.filter(|_| !rows.is_empty()).map(|at| rows[at.index(rows.len())].0.clone());
        if let Some(key) = key && executor.kernel().owned.contains_key(&key) {
            executor.kernel_mut().damaged.insert(key, "it is down".into());
        }
        let plan = second.plan(2);
        executor.kernel_mut().trouble = Trouble { refuse, die_before, ..Trouble::default() };
        let _ = executor.sync(&plan).unwrap();
        // The process may have died: a new executor knows nothing of the old one's failures.
        let mut executor = Executor::new(executor.kernel().clone());
        executor.kernel_mut().calm();
        let outcome = executor.sync(&plan).unwrap();
        prop_assert!(outcome.failed.is_empty(), "{:?}", outcome.failed);
        assert_converged(&mut executor, &plan);
    }

    /// Steps by changed keys alone, with refusals mended by retries, get to the same place.
    #[test]
    fn steps_and_retries_converge(
        history in proptest::collection::vec(choice(), 1..5),
        refuse in proptest::collection::btree_set(0_usize..60, 0..8),
    ) {
        let kernel = FakeKernel::beside(foreign());
        let mut executor = Executor::new(kernel);
        let mut plan = Plan::default();
        executor.sync(&plan).unwrap();
        executor.kernel_mut().trouble.refuse = refuse;
        for next in history {
            change_to(&mut plan, next.rows());
            let changed = plan.kernel.take_changed();
            let _ = executor.step(&plan, changed).unwrap();
        }
        executor.kernel_mut().calm();
        for _ in 0..8 {
            if let Some(due) = executor.next_retry() {
                let _ = executor.retry(&plan, due + Duration::from_secs(60)).unwrap();
            }
        }
        prop_assert!(executor.next_retry().is_none());
        assert_converged(&mut executor, &plan);
    }
}

/// A service, as packets look it up.
#[derive(Debug, Clone)]
struct Service {
    /// Which of the maps of services has it: those of [`ASKED`].
    map: usize,
    /// Its end points by number, each reached through a slot.
    endpoints: Vec<u8>,
}

#[derive(Debug, Clone, Default)]
struct Services(BTreeMap<u8, Service>);

fn services() -> impl Strategy<Value = Services> {
    let service = (0..ASKED.len(), proptest::collection::vec(1_u8..7, 1..4))
        .prop_map(|(map, endpoints)| Service { map, endpoints });
    proptest::collection::btree_map(1_u8..4, service, 0..4).prop_map(Services)
}

/// Maps of ranks 0 and 1: endpoint → address; (service, slot) → endpoint.
const MAPS: [&str; 2] = ["endpoint", "slot"];
/// Maps of rank 2: service → slots. Only those that have a service are there, and a chain asks them in turn.
const ASKED: [&str; 3] = ["service", "service_keep_60", "service_keep_600"];

fn map_key(map: &str, key: &[u32]) -> KernelKey {
    KernelKey::Element(Ident::new(map), key.iter().map(|n| Atom::Mark(*n)).collect())
}

fn asking_chain() -> KernelKey {
    KernelKey::Chain(Ident::new("services"))
}

impl Services {
    fn rows(&self) -> Vec<Row> {
        let declare = |map: &str, parts: usize, rank: u8| {
            let spec = SetSpec::map(&vec![Type::Mark; parts], &[Type::Mark], "").ranked(rank);
            (KernelKey::Set(Ident::new(map)), KernelRow::Set(Box::new(spec)))
        };
        let asked = || {
            let there = |map: &usize| self.0.values().any(|service| service.map == *map);
            (0..ASKED.len()).filter(there).map(|map| ASKED[map])
        };
        let rules = asked()
            .map(|map| Rule::new("", [Statement::SetCtMarkFrom(vec![Field::CtMark], Ident::new(map))]));
        let chain = Chain { hook: None, rules: rules.collect() };
        let mut rows = vec![declare(MAPS[0], 1, 0), declare(MAPS[1], 2, 1)];
        rows.extend(asked().map(|map| declare(map, 1, 2)));
        rows.push((asking_chain(), KernelRow::Chain(Box::new(chain))));
        let mut entry = |map: &str, key: &[u32], data: u32| {
            rows.push((map_key(map, key), KernelRow::Element(Element::maps_to([Atom::Mark(data)]))));
        };
        for (number, service) in &self.0 {
            let number = u32::from(*number);
            entry(ASKED[service.map], &[number], service.endpoints.len() as u32);
            for (slot, endpoint) in (0..).zip(&service.endpoints) {
                let endpoint = u32::from(*endpoint) + number * 100;
                entry(MAPS[1], &[number, slot], endpoint);
                entry(MAPS[0], &[endpoint], 7);
            }
        }
        rows
    }
}

/// Elements, and the chain that asks.
type State = BTreeMap<KernelKey, KernelRow>;

fn found(state: &State, map: &str, key: &[u32]) -> Option<u32> {
    match state.get(&map_key(map, key))? {
        KernelRow::Element(element) => match element.data.to_vec()[..] {
            [Atom::Mark(mark)] => Some(mark),
            _ => None,
        },
        _ => None,
    }
}

/// The maps that a packet asks whose look-up begins now.
fn asked(state: &State) -> Vec<String> {
    let Some(KernelRow::Chain(chain)) = state.get(&asking_chain()) else { return Vec::new() };
    let map = |rule: &Rule| match &rule.statements[..] {
        [Statement::SetCtMarkFrom(_, map)] => map.to_string(),
        _ => panic!("such a rule is not made here"),
    };
    chain.rules.iter().map(map).collect()
}

/// Packets whose look-ups may each see a later state than the one before: what led one nowhere, if anything.
fn astray(states: &[State]) -> Option<String> {
    for (first, seen) in states.iter().enumerate() {
        let next = states.get(first + 1).unwrap_or(seen);
        let maps = asked(seen);
        for service in 1..4 {
            let is_there = |state: &State| ASKED.iter().any(|map| found(state, map, &[service]).is_some());
            // The commit falls before this look-up.
            for commit in 0..=maps.len() {
                let mut answers = maps.iter().enumerate().map(|(at, map)| {
                    let later = at >= commit;
                    Some((
                        found(if later { next } else { seen }, map, &[service])?,
                        first + usize::from(later),
                    ))
                });
                match answers.find_map(|answer| answer) {
                    Some((slots, now)) => {
                        if let Some(where_to) = lost_behind(states, service, slots, now) {
                            return Some(where_to);
                        }
                    }
                    None if is_there(seen) && is_there(next) => {
                        return Some(format!(
                            "service {service} of state {first}, found in none of {maps:?}"
                        ));
                    }
                    None => {}
                }
            }
        }
    }
    None
}

/// The same for one that has found its service in this state.
fn lost_behind(states: &[State], service: u32, slots: u32, first: usize) -> Option<String> {
    for (second, later) in states.iter().enumerate().skip(first).take(2) {
        for slot in 0..slots {
            let Some(endpoint) = found(later, MAPS[1], &[service, slot]) else {
                return Some(format!("service {service} of state {first}, slot {slot} of state {second}"));
            };
            let missed = |state: &State| found(state, MAPS[0], &[endpoint]).is_none();
            if let Some(last) = states.iter().skip(second).take(2).position(missed) {
                return Some(format!("endpoint {endpoint} of state {second}, {last} later"));
            }
        }
    }
    None
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever changes, a commit between two look-ups of a packet never leaves it without the second one's answer.
    #[test]
    fn no_commit_leads_a_packet_to_what_is_not_there(history in proptest::collection::vec(services(), 2..5)) {
        let mut executor = Executor::new(FakeKernel::new());
        let mut plan = Plan::default();
        executor.kernel_mut().commits = Some(vec![State::new()]);
        for (at, services) in history.iter().enumerate() {
            change_to(&mut plan, services.rows());
            let changed = plan.kernel.take_changed();
            // Both ways to change a kernel.
            let outcome = if at % 2 == 0 { executor.step(&plan, changed) } else { executor.sync(&plan) };
            prop_assert!(outcome.unwrap().failed.is_empty());
        }
        let states = executor.kernel().commits.clone().unwrap();
        prop_assert_eq!(astray(&states), None);
    }

    /// A transaction that is refused as a whole holds back what would lead packets to it, and all of it comes later.
    #[test]
    fn what_builds_on_a_refused_transaction_waits(
        first in services(),
        second in services(),
        refused in proptest::sample::select([&MAPS[..], &ASKED[..]].concat()),
    ) {
        let mut executor = Executor::new(FakeKernel::new());
        let mut plan = Plan::default();
        executor.kernel_mut().commits = Some(vec![State::new()]);
        change_to(&mut plan, first.rows());
        let changed = plan.kernel.take_changed();
        prop_assert!(executor.step(&plan, changed).unwrap().failed.is_empty());
        change_to(&mut plan, second.rows());
        executor.kernel_mut().trouble.refuse_sets = [Ident::new(refused)].into();
        let changed = plan.kernel.take_changed();
        let outcome = executor.step(&plan, changed).unwrap();
        let touches = outcome.failed.iter().any(|(key, _)| matches!(key, KernelKey::Element(set, _) if set.as_str() == refused));
        prop_assert_eq!(outcome.failed.is_empty(), !touches);
        executor.kernel_mut().calm();
        if let Some(due) = executor.next_retry() {
            executor.retry(&plan, due + Duration::from_secs(1)).unwrap();
        }
        prop_assert!(executor.next_retry().is_none());
        let states = executor.kernel().commits.clone().unwrap();
        prop_assert_eq!(astray(&states), None);
        prop_assert_eq!(executor.sync(&plan).unwrap().applied, 0);
    }
}

/// Makes the plan hold these rows and no others.
fn change_to(plan: &mut Plan, rows: Vec<Row>) {
    let gone: Vec<KernelKey> = plan.kernel.iter().map(|(key, _)| key.clone()).collect();
    for key in gone.iter().filter(|key| rows.iter().all(|(other, _)| other != *key)) {
        plan.kernel.remove(key);
    }
    for (key, row) in rows {
        plan.kernel.set(key, row, FactKey::Host);
    }
    plan.generation += 1;
}

#[test]
fn a_step_costs_its_rows_and_not_the_table() {
    let mut executor = Executor::new(FakeKernel::new());
    let peers: Vec<Row> = (1..=250)
        .flat_map(|n| [rows::fdb(n), rows::neighbour(n), rows::peer_route(n)])
        .chain([rows::vxlan(4789, 1450)])
        .collect();
    let mut plan = plan(1, peers);
    executor.sync(&plan).unwrap();
    let _ = plan.kernel.take_changed();
    let (key, row) = rows::fdb(251);
    plan.kernel.set(key, row, FactKey::Host);
    let changed = plan.kernel.take_changed();
    let outcome = executor.step(&plan, changed).unwrap();
    assert_eq!((outcome.applied, outcome.messages), (1, 1));
}

#[test]
fn a_recreated_tunnel_gets_its_peers_back() {
    let mut executor = Executor::new(FakeKernel::new());
    let peer = [rows::fdb(1), rows::neighbour(1), rows::peer_route(1)];
    let before = plan(1, peer.clone().into_iter().chain([rows::vxlan(4789, 1450)]));
    executor.sync(&before).unwrap();
    let after = plan(2, peer.into_iter().chain([rows::vxlan(8472, 1450)]));
    let outcome = executor.step(&after, [rows::vxlan(8472, 1450).0.into()]).unwrap();
    assert_eq!(outcome.applied, 4);
    assert_eq!(executor.kernel().owned.len(), 4);
}

#[test]
fn an_older_plan_is_refused() {
    let mut executor = Executor::new(FakeKernel::new());
    executor.sync(&plan(7, [])).unwrap();
    let error = executor.sync(&plan(6, [rows::pod(1, 1450)])).unwrap_err();
    assert_eq!(error, ExecutorError::OlderPlan { offered: 6, applied: 7 });
    assert!(executor.kernel().owned.is_empty());
}

#[test]
fn what_fails_is_tried_again_only_after_a_pause() {
    let kernel = FakeKernel::beside(foreign());
    let mut executor = Executor::new(kernel);
    let plan = plan(1, [rows::pod(200, 1450), rows::route(200)]);
    let outcome = executor.sync(&plan).unwrap();
    assert_eq!(outcome.failed.len(), 1, "the route is somebody else's");
    let start = Instant::now();
    assert!(executor.next_retry().unwrap() > start);
    let too_early = executor.retry(&plan, start).unwrap();
    assert_eq!(too_early.applied + too_early.failed.len(), 0);
    let key = outcome.failed[0].0.clone();
    assert!(matches!(key, KernelKey::Route(route) if route.table == MAIN_TABLE));
    executor.kernel_mut().foreign.remove(&key);
    let late = executor.retry(&plan, start + Duration::from_secs(1)).unwrap();
    assert_eq!((late.applied, executor.failures().count()), (1, 0));
}

/// An element waits for its set where somebody took that away, and not where the kernel has never taken it.
#[test]
fn only_what_somebody_took_away_is_waited_for() {
    let passes = |executor: &Executor<FakeKernel>, row: &Row| {
        executor.failures().find(|(key, _)| **key == row.0).map(|(_, error)| error.may_pass())
    };
    let (set, first, late) = (rows::set("ports"), rows::element("ports", 1), rows::element("ports", 2));
    for (refused, expected) in [(false, Some(true)), (true, Some(false))] {
        let mut executor = Executor::new(FakeKernel::new());
        if refused {
            executor.kernel_mut().trouble.refuse_sets = [Ident::new("ports")].into();
        }
        let mut plan = plan(1, [set.clone(), first.clone()]);
        executor.sync(&plan).unwrap();
        // The pod comes later: by then the kernel's answer is only that there is no such set.
        executor.kernel_mut().calm();
        executor.kernel_mut().lose(&set.0);
        plan.kernel.forget_changed();
        plan.kernel.set(late.0.clone(), late.1.clone(), FactKey::Host);
        plan.generation += 1;
        let changed = plan.kernel.take_changed();
        executor.step(&plan, changed).unwrap();
        assert_eq!(passes(&executor, &late), expected);
        executor.sync(&plan).unwrap();
        assert_eq!(executor.failures().count(), 0, "it has come since");
    }
}

#[test]
fn a_partial_plan_takes_away_no_more_than_pods_links() {
    let all = [rows::vxlan(4789, 1450), rows::fdb(1), rows::peer_route(1), rows::set("ports")];
    let pods = [rows::pod(1, 1450), rows::pod(2, 1450), rows::route(2)];
    let mut before = Executor::new(FakeKernel::new());
    before.sync(&plan(1, all.clone().into_iter().chain(pods))).unwrap();
    // The next agent knows less; what it says itself is made, and what is there may be as it is for a reason that it doesn't know.
    let mut executor = Executor::new(before.kernel().clone());
    let mut partial = plan(1, [rows::vxlan(4789, 1400), rows::pod(2, 1450), rows::fdb(2)]);
    partial.is_partial = true;
    executor.sync(&partial).unwrap();
    let owned = |executor: &Executor<FakeKernel>, row: &Row| executor.kernel().owned.contains_key(&row.0);
    assert!(all.iter().all(|row| owned(&executor, row)));
    assert!(!owned(&executor, &rows::pod(1, 1450)) && owned(&executor, &rows::fdb(2)));
    let tunnel = rows::vxlan(4789, 1450);
    assert_eq!(executor.kernel().owned.get(&tunnel.0), Some(&tunnel.1));
    assert_eq!(executor.sync(&partial).unwrap().applied, 0);
    let _ = partial.kernel.take_changed();
    partial.kernel.remove(&rows::fdb(2).0);
    partial.generation += 1;
    let changed = partial.kernel.take_changed();
    executor.step(&partial, changed).unwrap();
    assert!(!owned(&executor, &rows::fdb(2)));
    // All is told.
    partial.is_partial = false;
    executor.sync(&partial).unwrap();
    assert_eq!(executor.kernel().owned.len(), 2);
    assert!(owned(&executor, &rows::vxlan(4789, 1400)) && owned(&executor, &rows::pod(2, 1450)));
}
