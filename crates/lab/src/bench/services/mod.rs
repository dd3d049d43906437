//! Services beside kube-proxy in both of its modes: the same objects, three endpoints each.
//!
//! For each number of services there are three nodes, one a side, each with a client's pod and one namespace that answers
//! for all endpoints. One after the other they get their services and some changes; then their processes end, all that they have put into the
//! kernel is kept, and connections are measured in turns, so that a busy moment is nobody's alone. Ours learns of objects through a folder, kube-proxy through
//! an API server that serves JSON from memory. The limit is a connection straight to an endpoint. Memory of the kernel is what
//! it charges to the agent's or the proxy's control group.

mod client;
mod commits;
mod kube_proxy;
pub mod memory;
mod objects;
mod place;
mod side;
mod weft;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use weft_lab::kube_proxy::Mode;
use weft_lab::load::percentile;
use weft_lab::{Lab, Machine, Tool, Topology};

use super::Options;
use super::report::{Bound, Report};
use client::Towards;
use kube_proxy::KubeProxy;
use side::{Found, Side};
use weft::Weft;

/// Numbers of services, where nobody asks for others.
const SIZES: [usize; 4] = [100, 1000, 10_000, 30_000];
/// The addresses that [`objects`] has end here.
pub const MOST: usize = 60_000;
/// What ours may take for one step at most, whatever the others may: many times what is aimed at.
const OUR_LIMIT: Duration = Duration::from_secs(10);
/// What a peer takes for one step however few services there are.
const OF_ITS_OWN: Duration = Duration::from_secs(2);
/// A wait for the end of processes that people should know of.
const WORTH_MENTION: Duration = Duration::from_secs(1);
/// Connections of one turn, and turns.
const BATCH: usize = 250;
const TURNS: usize = 40;
/// The same for their rate.
const RATE_TURNS: usize = 3;
const RATE_FOR: Duration = Duration::from_millis(500);

/// Whose numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Who {
    Ours,
    Nftables,
    Iptables,
    /// Straight to an endpoint.
    Direct,
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ours => "Weft",
            Self::Nftables => "kube-proxy (nftables)",
            Self::Iptables => "kube-proxy (iptables)",
            Self::Direct => "a pod without a service",
        })
    }
}

const PEERS: [(Who, Mode); 2] = [(Who::Nftables, Mode::Nftables), (Who::Iptables, Mode::Iptables)];

/// A side that works, and what was found of it.
struct Working {
    who: Who,
    count: usize,
    side: Box<dyn Side>,
    found: Found,
}

/// Times and rates of connections.
#[derive(Debug, Default)]
struct Connections {
    latencies: Vec<f64>,
    rates: Vec<f64>,
}

type Connected = BTreeMap<(usize, Who), Connections>;

/// A run.
struct Course<'a> {
    lab: &'a Lab,
    options: &'a Options,
    working: Vec<Working>,
    failed: BTreeSet<Who>,
    /// Why numbers are missing.
    notes: Vec<String>,
}

/// One of kube-proxy's modes, as people type it.
pub fn mode(text: &str) -> Result<String> {
    let known = PEERS.map(|(_, mode)| mode.word());
    anyhow::ensure!(known.contains(&text), "kube-proxy's modes are {}, not {text}", known.join(" and "));
    Ok(text.into())
}

/// Measures, and says what came of it.
pub fn run(options: &Options) -> Result<Report> {
    let mut sizes = options.sizes.clone().unwrap_or_else(|| SIZES.to_vec());
    sizes.sort_unstable();
    sizes.dedup();
    // Fewer sizes than a LAN has addresses; the command line sees to it.
    #[allow(clippy::cast_possible_truncation)]
    let lab = Lab::new("bench-services", Topology::one_link(3 * sizes.len() as u8), Tool::current()?)?;
    let mut course =
        Course { lab: &lab, options, working: Vec::new(), failed: BTreeSet::new(), notes: Vec::new() };
    for (row, count) in sizes.iter().enumerate() {
        course.ours(&format!("n{}", 3 * row + 1), *count)?;
        for (column, (who, mode)) in PEERS.into_iter().enumerate() {
            if options.peer.as_ref().is_some_and(|only| only != mode.word()) {
                continue;
            }
            course.peer(&format!("n{}", 3 * row + column + 2), who, mode, *count)?;
        }
    }
    let Course { working, notes, .. } = course;
    let connected = connect(&working)?;
    // Ours stands beside nftables mode, and once more where there is iptables mode as well.
    let has_iptables = options.kube_proxy.is_some() && options.peer.as_deref() != Some(Mode::Nftables.word());
    let columns = [("", Who::Nftables), (".iptables", Who::Iptables)];
    let columns = if has_iptables { &columns[..] } else { &columns[..1] };
    let mut report = summarise(&sizes, &working, &connected, columns);
    notes.into_iter().for_each(|note| report.note(note));
    drop(working);
    lab.close()?;
    Ok(report)
}

impl Course<'_> {
    fn ours(&mut self, machine: &str, count: usize) -> Result<()> {
        let machine = self.lab.machine(machine)?;
        let side = Weft::prepare(self.lab, &machine, &self.options.programs()?, count)?;
        self.measure(Who::Ours, count, Box::new(side), OUR_LIMIT);
        Ok(())
    }

    /// Measures kube-proxy, unless there is none or smaller numbers say that it would take too long.
    fn peer(&mut self, machine: &str, who: Who, mode: Mode, count: usize) -> Result<()> {
        let Some(program) = &self.options.kube_proxy else { return Ok(()) };
        let limit = Duration::from_secs(self.options.limit);
        if let Some(why) = self.too_long(who, count, limit) {
            self.note(format!("{who} at {count} was left out: {why} (--limit)"));
            return Ok(());
        }
        let machine = self.lab.machine(machine)?;
        let side = KubeProxy::prepare(self.lab, &machine, program, mode, count)?;
        self.measure(who, count, Box::new(side), limit);
        Ok(())
    }

    /// Why a peer would take longer than the limit.
    fn too_long(&self, who: Who, count: usize, limit: Duration) -> Option<String> {
        if self.failed.contains(&who) {
            return Some("fewer were too many already".into());
        }
        let before = self.working.iter().rfind(|w| w.who == who)?;
        // What comes on top of its start and its own delays grows at least as fast as the number.
        #[allow(clippy::cast_precision_loss)]
        let factor = count as f64 / before.count as f64;
        let found = &before.found;
        let longest = (found.program.max(found.change) / 1000.0 - OF_ITS_OWN.as_secs_f64()) * factor;
        (longest > limit.as_secs_f64()).then(|| format!("it would take {longest:.0} s or more"))
    }

    /// A side that fails is named, and its columns stay empty.
    fn measure(&mut self, who: Who, count: usize, mut side: Box<dyn Side>, limit: Duration) {
        match side::measure(&mut *side, count, limit) {
            Ok(found) => {
                eprintln!("{count} services, {who}: {found}");
                if found.refused > 0 {
                    let note = format!("{who} at {count} refused {} services that had worked", found.refused);
                    self.note(note);
                }
                side.rest();
                self.working.push(Working { who, count, side, found });
            }
            Err(error) => {
                eprintln!("{}", side.last_words());
                self.failed.insert(who);
                self.note(format!("{who} at {count} FAILED: {error:#}"));
                end_all_on(&side.place().machine);
            }
        }
    }

    fn note(&mut self, text: String) {
        eprintln!("{text}");
        self.notes.push(text);
    }
}

/// Ends everything on a machine, and waits until it has ended; what is in its kernel's tables stays. `nft` and `iptables-restore` outlive the
/// kube-proxy that started them, and a kill, for as long as the kernel is at work on what they asked for: minutes for very many chains, on a
/// processor of which a kernel without preemption lets nobody else have any.
fn end_all_on(machine: &Machine) {
    let begun = Instant::now();
    machine.kill();
    if begun.elapsed() > WORTH_MENTION {
        let (name, seconds) = (machine.name(), begun.elapsed().as_secs());
        eprintln!("what had been asked of the kernel on {name} took it {seconds} s more");
    }
}

/// Connections of all that works, in turns.
fn connect(working: &[Working]) -> Result<Connected> {
    let mut connected = Connected::new();
    let mut ways: Vec<(&Working, Who, Towards)> =
        working.iter().map(|w| (w, w.who, Towards::Services)).collect();
    // The way without services is the same on every node; the first of each size stands for all.
    let sizes: BTreeSet<usize> = working.iter().map(|w| w.count).collect();
    let first = sizes.iter().filter_map(|count| working.iter().find(|w| w.count == *count));
    ways.extend(first.map(|w| (w, Who::Direct, Towards::Endpoints)));
    for turn in 0..TURNS {
        for (w, who, towards) in &ways {
            let times = client::latencies(w.side.place(), *towards, w.count, BATCH, turn)
                .with_context(|| format!("{who} at {}", w.count))?;
            connected.entry((w.count, *who)).or_default().latencies.extend(times);
        }
    }
    for _ in 0..RATE_TURNS {
        for (w, who, towards) in &ways {
            let rate = client::rate(w.side.place(), *towards, w.count, RATE_FOR)
                .with_context(|| format!("{who} at {}", w.count))?;
            connected.entry((w.count, *who)).or_default().rates.push(rate);
        }
    }
    Ok(connected)
}

/// A number by its metric's last word.
fn value(word: &str, found: Option<&Found>, connections: Option<&Connections>) -> Option<f64> {
    let of = |values: fn(&Connections) -> &Vec<f64>, percent| {
        connections.map(|c| percentile(&mut values(c).clone(), percent))
    };
    match word {
        "program" => found.map(|f| f.program),
        "change" => found.map(|f| f.change),
        "rss" => found.map(|f| f.rss),
        "kernel" => found.and_then(|f| f.kernel),
        "connect.p50" => of(|c| &c.latencies, 50),
        "connect.p99" => of(|c| &c.latencies, 99),
        _ => of(|c| &c.rates, 50),
    }
}

const METRICS: [(&str, &str); 7] = [
    ("program", "ms"),
    ("change", "ms"),
    ("connect.p50", "ms"),
    ("connect.p99", "ms"),
    ("rate", "1/s"),
    ("rss", "MB"),
    ("kernel", "MB"),
];

fn summarise(sizes: &[usize], working: &[Working], connected: &Connected, peers: &[(&str, Who)]) -> Report {
    let mut report = Report::new(
        "services",
        "peer: kube-proxy, in nftables mode but where the metric says iptables; limit: straight to an endpoint",
    );
    let get = |count: usize, who: Who, word: &str| {
        let found = working.iter().find(|w| (w.count, w.who) == (count, who)).map(|w| &w.found);
        value(word, found, connected.get(&(count, who)))
    };
    for count in sizes {
        for (infix, peer) in peers {
            for (word, unit) in METRICS {
                let values = [Who::Ours, *peer, Who::Direct].map(|who| get(*count, who, word));
                report.add(format!("services.{count}{infix}.{word}"), unit, values);
            }
        }
    }
    if let (Some(least), Some(most)) = (sizes.first(), sizes.last()) {
        // What has no number has missed its aim.
        let ours = |count: usize, word: &str| get(count, Who::Ours, word).unwrap_or(f64::INFINITY);
        report.aim(format!("programmed at {most}, ms"), ours(*most, "program"), Bound::AtMost(2000.0));
        report.aim(format!("one change at {most}, ms"), ours(*most, "change"), Bound::AtMost(3.0));
        for (word, bound) in [("connect.p50", 1.1), ("connect.p99", 1.5)] {
            let ratio = ours(*most, word) / get(*least, Who::Ours, word).unwrap_or(0.0);
            report.aim(format!("{word} at {most} / at {least}"), ratio, Bound::AtMost(bound));
        }
        report.aim(format!("memory of the agent at {most}, MB"), ours(*most, "rss"), Bound::AtMost(200.0));
    }
    report
}
