//! One node of a big cluster: the first plan, the first apply, one change, and memory.
//!
//! Facts go straight into the compiler, and its plan into the kernel of an empty network namespace, in a process of its own
//! for each size. What a store would add is not measured here.

mod changes;
mod facts;
mod one_size;

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use weft_lab::{Lab, Tool, Topology};

use super::report::{Bound, Report};
use super::{Options, cluster};
pub use one_size::one_size;

/// Nodes of the clusters.
const SIZES: [usize; 3] = [100, 1000, 5000];
/// How long agents are left alone before their memory is looked at.
const IDLE: Duration = Duration::from_secs(5);

/// What was found for one size. Times in milliseconds, memory in MB.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Found {
    rows: usize,
    first_plan: f64,
    first_apply: f64,
    /// Memory once the first plan is in force.
    rss: f64,
    changes: Vec<Changed>,
}

/// Changes of one kind.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Changed {
    kind: String,
    p50: f64,
    p99: f64,
    /// The most netlink messages that one of them took.
    messages: f64,
}

/// Measures, and says what came of it.
pub fn run(options: &Options) -> Result<Report> {
    let mut report = Report::new("scale", "one node; 30 pods a node; peer and limit: none");
    let changes = options.rounds.unwrap_or(200);
    let mut last = None;
    for nodes in SIZES {
        eprintln!("{nodes} nodes");
        let found = in_own_process(nodes, changes)?;
        add(&mut report, &format!(".{nodes}"), &found);
        last = Some(found);
    }
    let found = last.context("there are sizes")?;
    add(&mut report, "", &found);
    let idle = idle_agents(options)?;
    report.add("scale.idle-rss", "MB", [Some(idle), None, None]);
    report.aim("first apply at 5,000 nodes, ms", found.first_apply, Bound::AtMost(2000.0));
    report.aim(
        "slowest kind of change at 5,000 nodes, p50, ms",
        worst(&found, |c| c.p50),
        Bound::AtMost(2.0),
    );
    report.aim("messages for one change at 5,000 nodes", worst(&found, |c| c.messages), Bound::AtMost(20.0));
    report.aim("memory at 5,000 nodes, MB", found.rss, Bound::AtMost(150.0));
    report.aim("memory of an idle agent of three, MB", idle, Bound::AtMost(15.0));
    Ok(report)
}

fn worst(found: &Found, of: impl Fn(&Changed) -> f64) -> f64 {
    found.changes.iter().map(of).fold(0.0, f64::max)
}

fn add(report: &mut Report, suffix: &str, found: &Found) {
    let mut put = |metric: &str, unit, value| {
        report.add(format!("scale.{metric}{suffix}"), unit, [Some(value), None, None]);
    };
    // Far fewer than 2^53.
    #[allow(clippy::cast_precision_loss)]
    put("rows", "rows", found.rows as f64);
    put("first-plan", "ms", found.first_plan);
    put("first-apply", "ms", found.first_apply);
    put("one-change", "ms", worst(found, |c| c.p50));
    for changed in &found.changes {
        put(&format!("one-change.{}", changed.kind), "ms", changed.p50);
        put(&format!("one-change.{}.p99", changed.kind), "ms", changed.p99);
        put(&format!("messages-per-change.{}", changed.kind), "messages", changed.messages);
    }
    put("messages-per-change", "messages", worst(found, |c| c.messages));
    put("rss", "MB", found.rss);
}

fn in_own_process(nodes: usize, changes: usize) -> Result<Found> {
    let program = std::env::current_exe().context("can't find this program")?;
    let output = Command::new(program)
        .args(["bench", "one-size", &nodes.to_string(), &changes.to_string()])
        .output()
        .context("can't start a process for one size")?;
    if !output.status.success() {
        bail!("{nodes} nodes: {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    serde_json::from_slice(&output.stdout).context("the process for one size gave no readable answer")
}

/// Memory of the biggest of three agents that have nothing to do, in MB.
fn idle_agents(options: &Options) -> Result<f64> {
    let lab = Lab::new("bench-scale", Topology::routed(), Tool::current()?)?;
    let nodes = cluster::start(&lab, &options.programs()?, "cluster", &["n1", "n2", "n3"], "auto")?;
    std::thread::sleep(IDLE);
    let memory = nodes.iter().filter_map(|node| node.agent.resident_mb()).fold(0.0, f64::max);
    cluster::stop(nodes)?;
    lab.close()?;
    Ok(memory)
}
