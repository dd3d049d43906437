//! One node of a big cluster on a real API server: from the first request to the plan, and one change.
//!
//! What is measured is the Kubernetes store with the compiler, in a process of its own, in turns with a bare watcher that
//! asks for the same, decodes each line as the store does, and keeps nothing; and a whole agent, with all that this takes besides.

mod api;
mod objects;
mod server;
mod watchers;
mod whole;

use std::io::{BufRead, BufReader, Lines};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use weft_lab::load::percentile;
use weft_lab::weft::Programs;

use self::objects::Cluster;
use self::server::Server;
use self::watchers::Said;
use super::Options;
use super::report::{Bound, Report};
pub use watchers::{bare, node};

/// Nodes of the cluster, where no size is given.
const NODES: usize = 5000;
/// Turns of whole agents, and of the two that are compared: with all pods, and with the node's own. Now and then the server collects its
/// garbage, for seconds, and whoever asks meanwhile waits; that must not be a median.
const TURNS: usize = 3;
const TURNS_OF_OWN: usize = 9;
/// How long a server that has started is left alone with what it does then.
const SETTLE: Duration = Duration::from_secs(5);
/// Changes of each kind.
const CHANGES: usize = 50;

/// The variable that names the folder with `etcd` and `kube-apiserver`.
const PROGRAMS: &str = "WEFT_KUBERNETES_BIN";

/// Measures, and says what came of it.
pub fn run(options: &Options) -> Result<Report> {
    let programs = std::env::var_os(PROGRAMS).map(PathBuf::from);
    let programs = programs.with_context(|| {
        format!("{PROGRAMS} names no folder with etcd and kube-apiserver; cargo xtask bench builds them")
    })?;
    let loopback = Command::new("ip").args(["link", "set", "lo", "up"]).status();
    if !loopback.context("can't run ip")?.success() {
        bail!("the loopback link can't be set up");
    }
    whole::provide_link()?;
    let agents = Programs::in_folder(&options.programs)?;
    let sizes = options.sizes.clone().unwrap_or_else(|| vec![NODES]);
    let mut report = Report::new("kubernetes", "store and compiler; peer: a bare watcher of the same stream");
    for nodes in sizes {
        let cluster = Cluster { nodes: nodes.clamp(10, NODES) };
        eprintln!("{nodes} nodes, {} pods, {} services: writing…", cluster.pods(), cluster.services());
        let server = Server::start(&programs, cluster)?;
        std::thread::sleep(SETTLE);
        for (scope, turns, suffix) in [("own", TURNS_OF_OWN, ""), ("all", TURNS, ".all-pods")] {
            eprintln!("following pods: {scope}");
            starts(&mut report, &server, scope, turns, &format!("{suffix}.{nodes}"))?;
        }
        eprintln!("whole agents");
        whole_agents(&mut report, &server, &agents, nodes)?;
        eprintln!("changes");
        changes(&mut report, &server, cluster, options.rounds.unwrap_or(CHANGES), nodes)?;
    }
    Ok(report)
}

/// From the first request to the plan, in turns.
fn starts(report: &mut Report, server: &Server, scope: &str, turns: usize, suffix: &str) -> Result<()> {
    let (mut ours, mut peer) = (Vec::new(), Vec::new());
    for _ in 0..turns {
        for (kind, found) in [("bare", &mut peer), ("node", &mut ours)] {
            let mut process = Process::start(kind, server, scope)?;
            found.push(process.ready()?);
            process.end()?;
        }
    }
    let both = |of: fn(&Ready) -> f64| [Some(median(&ours, of)), Some(median(&peer, of)), None];
    report.add(format!("kubernetes.ready{suffix}"), "ms", both(|r| r.ms));
    report.add(format!("kubernetes.ready-cpu{suffix}"), "ms", both(|r| r.cpu_ms));
    report.add(format!("kubernetes.rss{suffix}"), "MB", both(|r| r.rss));
    report.add(format!("kubernetes.rss-peak{suffix}"), "MB", both(|r| r.peak));
    report.add(format!("kubernetes.objects{suffix}"), "objects", both(|r| r.objects));
    report.add(
        format!("kubernetes.bytes{suffix}"),
        "MB",
        [None, Some(median(&peer, |r| r.bytes / 1e6)), None],
    );
    let ratio = median(&ours, |r| r.ms) / median(&peer, |r| r.ms);
    report.aim(format!("ready beside a bare watcher{suffix}"), ratio, Bound::AtMost(1.3));
    report.aim(format!("memory{suffix}, MB"), median(&ours, |r| r.rss), Bound::AtMost(200.0));
    Ok(())
}

/// Agents as nodes have them, from their start to their plan in the kernel.
fn whole_agents(report: &mut Report, server: &Server, programs: &Programs, nodes: usize) -> Result<()> {
    let found = (0..TURNS).map(|_| whole::measure(programs, server)).collect::<Result<Vec<_>>>()?;
    let ours = |of: fn(&whole::Found) -> f64| {
        [Some(percentile(&mut found.iter().map(of).collect::<Vec<_>>(), 50)), None, None]
    };
    report.add(format!("kubernetes.agent.running.{nodes}"), "ms", ours(|f| f.ms));
    report.add(format!("kubernetes.agent.cpu.{nodes}"), "ms", ours(|f| f.cpu_ms));
    let rss = ours(|f| f.rss);
    report.add(format!("kubernetes.agent.rss.{nodes}"), "MB", rss);
    report.aim(
        format!("memory of a whole agent, {nodes} nodes, MB"),
        rss[0].unwrap_or(0.0),
        Bound::AtMost(200.0),
    );
    Ok(())
}

/// One change after the other, with both watching.
fn changes(report: &mut Report, server: &Server, cluster: Cluster, count: usize, nodes: usize) -> Result<()> {
    let (mut ours, mut peer) =
        (Process::start("node", server, "own")?, Process::start("bare", server, "own")?);
    let (first, mut bytes) = (ours.ready()?, peer.ready()?.bytes);
    let api = server.api();
    let mut found: [Found; 3] = Default::default();
    let mut cpu = first.cpu_ms;
    for turn in 0..count {
        for (of_kind, change) in found.iter_mut().zip(objects::changes(cluster, turn / 2)) {
            of_kind.kind = change.kind;
            let began = watchers::now_ns()?;
            api.ask("PATCH", &change.path, change.content_type, &change.bodies[turn % 2])?;
            let (own, theirs) = (ours.changed()?, peer.changed()?);
            of_kind.took.push(own.took_ms);
            of_kind.latency.push(milliseconds(own.at_ns - began));
            of_kind.peer_latency.push(milliseconds(theirs.at_ns - began));
            of_kind.bytes.push(theirs.bytes - bytes);
            of_kind.cpu.push(own.cpu_ms - cpu);
            (bytes, cpu) = (theirs.bytes, own.cpu_ms);
        }
    }
    let mut slowest: f64 = 0.0;
    for mut kind in found {
        let name = |what: &str| format!("kubernetes.change.{}.{what}.{nodes}", kind.kind);
        report.add(name("to-plan"), "ms", [Some(percentile(&mut kind.took, 50)), None, None]);
        report.add(name("to-plan.p99"), "ms", [Some(percentile(&mut kind.took, 99)), None, None]);
        let p50s = [percentile(&mut kind.latency, 50), percentile(&mut kind.peer_latency, 50)];
        report.add(name("since-request"), "ms", [Some(p50s[0]), Some(p50s[1]), None]);
        let cpu = kind.cpu.iter().sum::<f64>() / kind.cpu.len().max(1) as f64;
        report.add(name("cpu"), "ms", [Some(cpu), None, None]);
        report.add(name("bytes"), "bytes", [None, Some(percentile(&mut kind.bytes, 50)), None]);
        slowest = slowest.max(percentile(&mut kind.took, 50)).max(cpu);
    }
    report.aim(
        format!("one change, with all that belongs to it, {nodes} nodes, ms"),
        slowest,
        Bound::AtMost(5.0),
    );
    ours.end()?;
    peer.end()
}

/// Changes of one kind. Times in milliseconds.
#[derive(Default)]
struct Found {
    kind: &'static str,
    took: Vec<f64>,
    latency: Vec<f64>,
    peer_latency: Vec<f64>,
    cpu: Vec<f64>,
    bytes: Vec<f64>,
}

/// Far fewer than 2^53.
#[allow(clippy::cast_precision_loss)]
fn milliseconds(ns: i64) -> f64 {
    ns as f64 / 1e6
}

fn median(found: &[Ready], of: fn(&Ready) -> f64) -> f64 {
    percentile(&mut found.iter().map(of).collect::<Vec<_>>(), 50)
}

/// What a process said when it was ready.
struct Ready {
    ms: f64,
    cpu_ms: f64,
    rss: f64,
    peak: f64,
    bytes: f64,
    objects: f64,
}

struct Changed {
    at_ns: i64,
    took_ms: f64,
    cpu_ms: f64,
    bytes: f64,
}

/// One of the two processes.
struct Process {
    child: Child,
    input: Option<ChildStdin>,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Process {
    fn start(kind: &str, server: &Server, scope: &str) -> Result<Self> {
        let api = server.api();
        let (port, ca) = (api.port.to_string(), api.ca.display().to_string());
        let token = server.token_file().display().to_string();
        let program = std::env::current_exe().context("can't find this program")?;
        let mut command = Command::new(program);
        command.args(["bench", &format!("kubernetes-{kind}"), &port, &ca]);
        if kind == "node" {
            command.arg(token);
        }
        command.arg(scope).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().context("can't start a process that watches")?;
        let input = child.stdin.take();
        let output = child.stdout.take().context("a process without output")?;
        Ok(Self { child, input, lines: BufReader::new(output).lines() })
    }

    fn next(&mut self) -> Result<Said> {
        let line = self.lines.next().context("the process ended")??;
        serde_json::from_str(&line).with_context(|| format!("the process said: {line}"))
    }

    // Bytes and objects are far fewer than 2^53.
    #[allow(clippy::cast_precision_loss)]
    fn ready(&mut self) -> Result<Ready> {
        match self.next()? {
            Said::Ready { ms, cpu_ms, rss, peak, bytes, objects } => {
                Ok(Ready { ms, cpu_ms, rss, peak, bytes: bytes as f64, objects: objects as f64 })
            }
            other => bail!("the process is not ready, and said {other:?}"),
        }
    }

    #[allow(clippy::cast_precision_loss)]
    fn changed(&mut self) -> Result<Changed> {
        match self.next()? {
            Said::Changed { at_ns, took_ms, cpu_ms, bytes } => {
                Ok(Changed { at_ns, took_ms, cpu_ms, bytes: bytes as f64 })
            }
            other => bail!("no change; the process said {other:?}"),
        }
    }

    /// Has it end, and waits for that.
    fn end(mut self) -> Result<()> {
        drop(self.input.take());
        self.child.wait().context("can't wait for a process that watches").map(drop)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
