//! One change after the other, from the fact to the kernel.

use std::time::Instant;

use anyhow::{Result, ensure};
use weft_compile::Compiler;
use weft_dataplane::{Executor, LinuxKernel};
use weft_lab::load::percentile;
use weft_model::{Change, Fact};
use weft_plan::Plan;
use weft_store::object::Interner;

use super::Changed;
use super::facts::{self, Cluster, State};

/// A node as it runs: what compiles, the plan, and what applies it.
pub struct Running {
    pub compiler: Compiler,
    pub plan: Plan,
    pub executor: Executor<LinuxKernel>,
}

/// A kind of change: a fact by its number and state.
type Kind = (&'static str, fn(Cluster, usize, State) -> Result<Fact>, fn(Cluster) -> usize);

const KINDS: [Kind; 3] = [
    // The one that is looked at stays where it is.
    ("node-address", |_, number, state| facts::node(number + 1, state), |cluster| cluster.nodes - 1),
    (
        "pod-labels",
        |cluster, number, state| cluster.pod(number, state, &mut Interner::default()),
        |cluster| cluster.pods(),
    ),
    ("endpoint", |cluster, number, state| cluster.slice(number, state), |cluster| cluster.slices()),
];

/// Makes so many changes of each kind, of things all over the cluster.
pub fn run(cluster: Cluster, running: &mut Running, count: usize) -> Result<Vec<Changed>> {
    KINDS.iter().map(|kind| of_kind(kind, cluster, running, count)).collect()
}

fn of_kind(
    (kind, fact, population): &Kind,
    cluster: Cluster,
    running: &mut Running,
    count: usize,
) -> Result<Changed> {
    let (mut times, mut most) = (Vec::new(), 0);
    for turn in 0..count {
        // Each thing there and back again, so that the cluster stays what it is.
        let state = if turn % 2 == 0 { State::Second } else { State::First };
        // A step that no population divides: neighbours in time aren't neighbours in the cluster.
        let number = (turn / 2 * 7919) % population(cluster);
        let change = Change::set(fact(cluster, number, state)?);
        let start = Instant::now();
        let messages = running.one(change)?;
        times.push(start.elapsed().as_secs_f64() * 1000.0);
        most = most.max(messages);
    }
    // Far fewer than 2^53.
    #[allow(clippy::cast_precision_loss)]
    let messages = most as f64;
    Ok(Changed {
        kind: (*kind).into(),
        p50: percentile(&mut times, 50),
        p99: percentile(&mut times, 99),
        messages,
    })
}

impl Running {
    /// Takes one change through to the kernel; returns the number of netlink messages.
    fn one(&mut self, change: Change) -> Result<u64> {
        ensure!(self.compiler.apply(change), "a change of the benchmark changed no fact");
        self.compiler.flush(&mut self.plan);
        // The DNS server reads the names where they are.
        self.plan.names.forget_changed();
        let changed = self.plan.kernel.take_changed();
        let outcome = self.executor.step(&self.plan, changed)?;
        ensure!(outcome.failed.is_empty(), "the kernel refused a row: {:?}", outcome.failed.first());
        Ok(outcome.messages)
    }
}
