//! Who makes services work on a node, and what can be measured of any of them.

use std::fmt;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use weft_lab::load::percentile;

use super::client;
use super::commits::Commits;
use super::memory::{self, Group};
use super::objects::{self, Third};
use super::place::Place;

/// An agent or a proxy on a node of its own, with a cluster of its own.
pub trait Side {
    /// Its node.
    fn place(&self) -> &Place;

    /// Starts it; all services are there already. Returns when that was.
    fn start(&mut self) -> Result<Instant>;

    /// Puts the third endpoint of a service elsewhere. Returns when that was known to those who watch.
    fn change(&mut self, number: usize, third: Third) -> Result<Instant>;

    /// Ends what it is no longer measured by and would burden others' measurements with; what it has put into the kernel stays.
    fn rest(&mut self) {}

    /// Its process.
    fn pid(&self) -> Option<i32>;

    /// The end of its log.
    fn last_words(&self) -> String;
}

/// Times in milliseconds, memory in MB.
#[derive(Debug, Clone)]
pub struct Found {
    /// From its start until services answer.
    pub program: f64,
    /// From an endpoint's change until connections arrive there: the median of [`Found::changes`].
    pub change: f64,
    pub changes: usize,
    /// Services that refused their first connection after all had seemed to answer.
    pub refused: usize,
    /// Resident memory of the process.
    pub rss: f64,
    /// What the kernel holds on its behalf; nothing where the system doesn't count that.
    pub kernel: Option<f64>,
    /// Keeps the control group as long as the process.
    _group: Option<Rc<Group>>,
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { program, change, changes, rss, .. } = self;
        write!(f, "programmed in {program:.0} ms, a change in {change:.2} ms (of {changes}), {rss:.0} MB")?;
        self.kernel.map_or(Ok(()), |mb| write!(f, ", kernel {mb:.1} MB"))
    }
}

/// Services that are waited for: if these answer, all do, and asking them takes no time that counts.
const SAMPLE: usize = 200;
/// Changes, where they are fast; and time after which no further one is begun.
const CHANGES: usize = 40;
const LONG_ENOUGH: Duration = Duration::from_secs(6);
/// Between two changes.
const PAUSE: Duration = Duration::from_millis(50);
/// How long a commit may take to show.
const AFTER_COMMIT: Duration = Duration::from_millis(20);
/// After so much time without word of a commit one looks all the same.
const WITHOUT_COMMIT: Duration = Duration::from_millis(50);

/// Starts a side with `count` services, waits until they work, and changes endpoints. Nothing may take longer than `limit`.
pub fn measure(side: &mut dyn Side, count: usize, limit: Duration) -> Result<Found> {
    client::latencies(side.place(), client::Towards::Endpoints, count, 1, 0)
        .context("there is no way to endpoints, with or without services")?;
    let group = Group::new().map(Rc::new);
    let start = side.start()?;
    if let (Some(group), Some(pid)) = (&group, side.pid()) {
        group.take(pid)?;
    }
    let sample: Vec<usize> = client::spread(count).take(SAMPLE).chain(objects::changing(count)).collect();
    client::wait_for(side.place(), &sample, start + limit)?;
    let program = milliseconds(start.elapsed());
    let refused = client::all_answer(side.place(), count, start + limit)?;
    let mut changes = change_endpoints(side, count, limit)?;
    let kernel = group.as_ref().and_then(|group| group.kernel_mb());
    let rss = match side.pid() {
        Some(pid) => memory::of_process(pid)?,
        None => bail!("it has ended"),
    };
    Ok(Found {
        program,
        change: percentile(&mut changes, 50),
        changes: changes.len(),
        refused,
        rss,
        kernel,
        _group: group,
    })
}

/// Moves endpoints there and back again, one after the other. Milliseconds of each change.
fn change_endpoints(side: &mut dyn Side, count: usize, limit: Duration) -> Result<Vec<f64>> {
    let commits = Commits::of(&side.place().machine)?;
    let numbers: Vec<usize> = objects::changing(count).collect();
    let (mut times, mut third, begun) = (Vec::new(), Third::Home, Instant::now());
    'all: loop {
        third = third.other();
        for number in &numbers {
            if times.len() >= CHANGES || (!times.is_empty() && begun.elapsed() > LONG_ENOUGH) {
                break 'all;
            }
            std::thread::sleep(PAUSE);
            times.push(one_change(side, &commits, *number, third, limit)?);
        }
    }
    Ok(times)
}

fn one_change(
    side: &mut dyn Side,
    commits: &Commits,
    number: usize,
    third: Third,
    limit: Duration,
) -> Result<f64> {
    commits.drain();
    let start = side.change(number, third)?;
    let arrived = side.place().in_client(|| -> Result<Option<Instant>> {
        while start.elapsed() < limit {
            commits.wait(WITHOUT_COMMIT)?;
            if client::arrives_at(number, third.address(number), AFTER_COMMIT) {
                return Ok(Some(Instant::now()));
            }
        }
        Ok(None)
    })??;
    match arrived {
        Some(at) => Ok(milliseconds(at - start)),
        None => bail!("{limit:?} after its change, no connection arrives at an endpoint of service {number}"),
    }
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}
