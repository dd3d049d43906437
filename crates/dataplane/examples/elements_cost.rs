//! What the packet filter's elements cost at the size of 30,000 services with three endpoints each: 210,000 in three maps.
//!
//! `cargo run --release --example elements_cost [SERVICES]`, as root: it works in a network namespace of its own.

use std::error::Error;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, unshare};
use weft_dataplane::{Executor, Kernel, LinuxKernel};
use weft_model::FactKey;
use weft_plan::filter::{Element, Flush};
use weft_plan::{Atom, Ident, KernelKey, KernelRow, Plan, SetSpec, Type};

const ENDPOINTS: u32 = 3;
/// Bit of the marks of connections that a service has led somewhere.
const CHOSEN: u32 = 1 << 31;

fn main() -> Result<(), Box<dyn Error>> {
    let services: u32 = std::env::args().nth(1).map_or(Ok(30_000), |text| text.parse())?;
    unshare(CloneFlags::CLONE_NEWNET)?;
    let state = std::env::temp_dir().join(format!("weft-elements-cost-{}", std::process::id()));
    std::fs::create_dir(&state)?;
    let measured = measure(services, &state);
    std::fs::remove_dir_all(&state)?;
    measured
}

fn measure(services: u32, state: &std::path::Path) -> Result<(), Box<dyn Error>> {
    let mut plan = Plan { generation: 1, ..Plan::default() };
    declare(&mut plan);
    for service in 0..services {
        add(&mut plan, service);
    }
    plan.kernel.take_changed();
    println!("{} rows, {} MB", plan.kernel.len(), resident());
    let mut executor = Executor::new(LinuxKernel::open(state)?);
    timed("from nothing", &mut executor, |executor| drop(executor.sync(&plan)))?;
    timed("observe all", &mut executor, |executor| drop(executor.kernel_mut().observe(&plan.kernel)))?;
    timed("compare all, change nothing", &mut executor, |executor| drop(executor.sync(&plan)))?;
    let mut times = Vec::new();
    for round in 0..200 {
        let service = round * 97 % services;
        let row = KernelRow::Element(leads_to(service, 0, 100 + round));
        plan.kernel.set(endpoint(service, 0), row, FactKey::Host);
        times.push(step(&mut executor, &mut plan)?);
    }
    println!("one element changed: {:?}", median(&mut times));
    let mut times = Vec::new();
    for more in 0..200 {
        add(&mut plan, services + more);
        times.push(step(&mut executor, &mut plan)?);
    }
    println!("one service added: {:?}", median(&mut times));
    let keys: Vec<KernelKey> = plan
        .kernel
        .iter()
        .map(|(key, _)| key.clone())
        .filter(|key| matches!(key, KernelKey::Element(..)))
        .collect();
    for key in keys {
        plan.kernel.remove(&key);
    }
    plan.generation += 1;
    let changed = plan.kernel.take_changed();
    timed("all elements go", &mut executor, |executor| drop(executor.step(&plan, changed)))
}

fn timed(
    what: &str,
    executor: &mut Executor<LinuxKernel>,
    work: impl FnOnce(&mut Executor<LinuxKernel>),
) -> Result<(), Box<dyn Error>> {
    let (start, sent) = (Instant::now(), executor.kernel().messages());
    work(executor);
    let took = start.elapsed();
    println!("{what}: {took:?}, {} messages, {} MB", executor.kernel().messages() - sent, resident());
    Ok(())
}

/// One step with what changed in the plan; how long it took.
fn step<K: Kernel>(executor: &mut Executor<K>, plan: &mut Plan) -> Result<Duration, Box<dyn Error>> {
    plan.generation += 1;
    let changed = plan.kernel.take_changed();
    let start = Instant::now();
    let outcome = executor.step(plan, changed)?;
    let took = start.elapsed();
    assert!(outcome.failed.is_empty());
    Ok(took)
}

fn median(times: &mut [Duration]) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

fn declare(plan: &mut Plan) {
    let frontend = [Type::Ipv4Addr, Type::InetProto, Type::InetService];
    let endpoint = [Type::Ipv4Addr, Type::InetProto, Type::InetService, Type::Mark];
    let endpoints = SetSpec::map(&endpoint, &[Type::Ipv4Addr, Type::InetService], "");
    for (name, spec) in [
        (
            "endpoint4",
            endpoints.ranked(1).flushing(Flush::Served { mark: CHOSEN, listed: Ident::new("listed4") }),
        ),
        ("slot", SetSpec::map(&[Type::Mark, Type::Number], &[Type::Mark], "").ranked(2)),
        ("service4", SetSpec::map(&frontend, &[Type::Mark], "").ranked(3)),
    ] {
        plan.kernel.set(KernelKey::Set(Ident::new(name)), KernelRow::Set(Box::new(spec)), FactKey::Host);
    }
}

fn address(service: u32) -> [Atom; 3] {
    [Atom::V4(Ipv4Addr::from(0x0a60_0000 + service)), Atom::Proto(6), Atom::Port(80)]
}

fn endpoint(service: u32, slot: u32) -> KernelKey {
    let [a, b, c] = address(service);
    KernelKey::Element(
        Ident::new("endpoint4"),
        [a, b, c, Atom::Mark(CHOSEN | (service * ENDPOINTS + slot))].into(),
    )
}

fn leads_to(service: u32, slot: u32, port: u32) -> Element {
    let place = Ipv4Addr::from(0x0af4_0000 + service * ENDPOINTS + slot);
    Element::maps_to([Atom::V4(place), Atom::Port(port as u16)])
}

fn add(plan: &mut Plan, service: u32) {
    for slot in 0..ENDPOINTS {
        plan.kernel.set(
            endpoint(service, slot),
            KernelRow::Element(leads_to(service, slot, 8080)),
            FactKey::Host,
        );
        let key = KernelKey::Element(Ident::new("slot"), [Atom::Mark(service), Atom::Number(slot)].into());
        let mark = Atom::Mark(CHOSEN | (service * ENDPOINTS + slot));
        plan.kernel.set(key, KernelRow::Element(Element::maps_to([mark])), FactKey::Host);
    }
    let key = KernelKey::Element(Ident::new("service4"), address(service).into());
    plan.kernel.set(key, KernelRow::Element(Element::maps_to([Atom::Mark(service)])), FactKey::Host);
}

/// Resident memory of this process in MB, and the most that it was.
fn resident() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let of = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|l| l.trim().trim_end_matches(" kB").parse::<u64>().ok()).unwrap_or_default() / 1024
    };
    format!("{} (at most {})", of("VmRSS:"), of("VmHWM:"))
}
