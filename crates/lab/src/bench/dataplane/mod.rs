//! Throughput and round trips between pods, beside links, routes and tunnels that were made by hand.
//!
//! One lab with nine machines: `n1` and `n2` run Weft with host-gw, `n3` and `n4` with vxlan, `n5` and `n6` have pods made
//! by hand with `ip` and connection tracking by `nft`, `n7` has two namespaces with nothing but a cable between them, and `n8` and
//! `n9` are as `n5` and `n6`, but translate as well: metrics that end in `.nat` have these for peers.
//! All machines hang on one bridge. Every measurement is taken in turns, each client on the first processor, each server on
//! the second.

mod hand_made;
mod iperf;
mod round_trip;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use weft_lab::load::percentile;
use weft_lab::runtime::{Runtime, Sandbox};
use weft_lab::{Lab, Machine, Process, Tool, Topology};

use super::report::{Bound, Report};
use super::{Options, cluster};
use hand_made::Connections;
use round_trip::Repeated;
pub use round_trip::{answer, stay_on};

/// A pod, or what stands for one: a namespace on a machine, with an address.
pub struct Place {
    machine: Arc<Machine>,
    netns: PathBuf,
    address: IpAddr,
}

/// From where to where.
struct Way {
    client: Place,
    server: Place,
    /// iperf3 and the round trips' server.
    _servers: [Process; 2],
}

/// One shape of path: Weft's, and those made by hand.
struct Shape {
    name: &'static str,
    ours: Way,
    peer: Way,
    translating: Way,
}

/// Of whom a value is; the place in [`Values`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Whose {
    Ours,
    Peer,
    /// The bare cable's.
    Limit,
    /// The hand-made one's that translates; round trips only.
    Translating,
}

impl Whose {
    fn name(self) -> &'static str {
        match self {
            Self::Ours => "Weft",
            Self::Peer => "the hand-made",
            Self::Limit => "nobody",
            Self::Translating => "the hand-made that translates",
        }
    }
}

/// Values by metric (with its unit), of each of the four.
type Values = BTreeMap<(String, &'static str), [Vec<f64>; 4]>;

/// Measures, and says what came of it.
pub fn run(options: &Options) -> Result<Report> {
    let lab = Lab::new("bench-dataplane", Topology::one_link(9), Tool::current()?)?;
    let programs = options.programs()?;
    let direct = cluster::start(&lab, &programs, "direct", &["n1", "n2"], "host-gw")?;
    let tunnel = cluster::start(&lab, &programs, "tunnel", &["n3", "n4"], "vxlan")?;
    let hand = hand_made::lay(&lab, ["n5", "n6"], Connections::Tracked)?;
    let translating = hand_made::lay(&lab, ["n8", "n9"], Connections::Translated)?;
    let weft = |a: &Arc<Runtime>, b: &Arc<Runtime>, name: &str| -> Result<Way> {
        Way::between(&lab, attach(a, &format!("{name}-client"))?, attach(b, &format!("{name}-server"))?)
    };
    let by_hand = |(client, server): (Place, Place)| Way::between(&lab, client, server);
    let shapes = [
        Shape {
            name: "same-node",
            ours: weft(&direct[0].runtime, &direct[0].runtime, "same")?,
            peer: by_hand(hand.same_node)?,
            translating: by_hand(translating.same_node)?,
        },
        Shape {
            name: "host-gw",
            ours: weft(&direct[0].runtime, &direct[1].runtime, "direct")?,
            peer: by_hand(hand.direct)?,
            translating: by_hand(translating.direct)?,
        },
        Shape {
            name: "vxlan",
            ours: weft(&tunnel[0].runtime, &tunnel[1].runtime, "tunnel")?,
            peer: by_hand(hand.tunnel)?,
            translating: by_hand(translating.tunnel)?,
        },
    ];
    let bare = by_hand(hand_made::bare(&lab.machine("n7")?)?)?;
    let rounds = options.rounds.unwrap_or(5);
    let mut values = Values::new();
    for round in 0..rounds {
        eprintln!("round {} of {rounds}", round + 1);
        one_round(&shapes, &bare, round, options.seconds, &mut values)?;
    }
    let report = summarise(values);
    drop((shapes, bare));
    cluster::stop(direct)?;
    cluster::stop(tunnel)?;
    lab.close()?;
    Ok(report)
}

/// Each measurement on each way. Who comes first changes from round to round.
fn one_round(shapes: &[Shape], bare: &Way, round: usize, seconds: u32, values: &mut Values) -> Result<()> {
    let mut ways = vec![(Whose::Limit, "bare", bare)];
    for shape in shapes {
        ways.extend([(Whose::Ours, shape.name, &shape.ours), (Whose::Peer, shape.name, &shape.peer)]);
    }
    if round % 2 == 1 {
        ways.reverse();
    }
    let mut note = |(whose, shape, _): (Whose, &'static str, &Way), metric: &str, unit, value| match whose {
        // The same for every shape.
        Whose::Limit => shapes.iter().for_each(|s| insert(values, s.name, metric, unit, whose, value)),
        _ => insert(values, shape, metric, unit, whose, value),
    };
    for (metric, streams) in [("tcp1", 1), ("tcp8", 8)] {
        for way in &ways {
            let found = iperf::gigabits(way.2, streams, seconds);
            note(*way, metric, "Gb/s", found.with_context(|| format!("{} of {}", way.1, way.0.name()))?);
        }
    }
    ways.extend(shapes.iter().map(|shape| (Whose::Translating, shape.name, &shape.translating)));
    let all: Vec<&Way> = ways.iter().map(|way| way.2).collect();
    let time = Duration::from_secs(seconds.into()) * u32::try_from(all.len())?;
    for (metric, what) in [("rr", Repeated::Exchange), ("crr", Repeated::Connection)] {
        for (way, found) in ways.iter().zip(round_trip::measure(&all, what, time)?) {
            note(*way, metric, "1/s", found.per_second);
            note(*way, &format!("{metric}.p50"), "ms", found.p50_us / 1000.0);
            note(*way, &format!("{metric}.p99"), "ms", found.p99_us / 1000.0);
        }
    }
    Ok(())
}

fn insert(values: &mut Values, shape: &str, metric: &str, unit: &'static str, whose: Whose, value: f64) {
    values.entry((format!("dataplane.{shape}.{metric}"), unit)).or_default()[whose as usize].push(value);
}

fn summarise(values: Values) -> Report {
    let mut report = Report::new(
        "dataplane",
        "peer: routes and tunnels made by hand, with connection tracking; limit: two namespaces and a bare veth pair",
    );
    for ((metric, unit), mut found) in values {
        let translates = !found[Whose::Translating as usize].is_empty();
        let [ours, peer, limit, translating] = found.each_mut().map(|v| percentile(v, 50));
        if unit != "ms" {
            report.aim(format!("{metric}: ours / hand-made"), ours / peer, Bound::AtLeast(0.95));
        }
        if translates {
            report.add(format!("{metric}.nat"), unit, [Some(ours), Some(translating), Some(limit)]);
        }
        report.add(metric, unit, [Some(ours), Some(peer), Some(limit)]);
    }
    report
}

/// A pod that Weft connects.
fn attach(runtime: &Arc<Runtime>, name: &str) -> Result<Place> {
    let netns = runtime.create_netns(name)?;
    let added = runtime.add(&Sandbox::new(name, &netns))?;
    let address = added.result.ips().find(IpAddr::is_ipv4).context("a pod has no IPv4 address")?;
    Ok(Place { machine: Arc::clone(runtime.machine()), netns, address })
}

impl Way {
    fn between(lab: &Lab, client: Place, server: Place) -> Result<Self> {
        let servers = [iperf::serve(&server)?, round_trip::serve(lab.tool(), &server)?];
        let way = Self { client, server, _servers: servers };
        // The first packets find neighbours; and a path that doesn't work is named before anything is measured.
        let patience = Duration::from_secs(5);
        round_trip::wait_for(&way, patience).with_context(|| {
            format!("{} on {} can't reach its server", way.client.address, way.client.machine.name())
        })?;
        Ok(way)
    }
}
