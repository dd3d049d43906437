//! The reachability matrix: every pod and node asks every other, by HTTP and UDP, over both families, and the oracle
//! has said before what would come of it.

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use weft_lab::probe::{Outcome, Target, Transport};
use weft_lab::weft::{Agent, Packet, Prediction};
use weft_lab::{Machine, Net, Tool, serve};

use super::cluster::Cluster;

/// A row and a column of the matrix.
#[derive(Clone)]
pub struct Place {
    pub name: String,
    pub machine: Arc<Machine>,
    /// Absent for the machine's own network.
    pub netns: Option<PathBuf>,
    pub addresses: Vec<IpAddr>,
}

impl Place {
    /// The network that its probes run in.
    pub fn net(&self) -> Net<'_> {
        self.netns.as_deref().map_or(Net::Machine, Net::At)
    }

    /// Has this place ask all targets.
    pub fn probe(&self, tool: &Tool, targets: &[Target]) -> Result<Vec<Outcome>> {
        tool.ask(&self.machine, self.net(), "probe", targets)
            .with_context(|| format!("can't probe from {}", self.name))
    }
}

/// One question of the matrix, what the oracle said, and what came of it.
struct Cell {
    from: usize,
    to: usize,
    target: Target,
    predicted: Prediction,
    outcome: Outcome,
}

impl Cell {
    /// What is wrong with it; nothing where kernel and oracle agree and the right server saw the right client.
    fn problem(&self, places: &[Place]) -> Option<String> {
        let (from, to) = (&places[self.from], &places[self.to]);
        let what = format!("{} → {} ({} {})", from.name, to.name, self.target.transport, self.target.address);
        match (self.predicted.works, &self.outcome) {
            (true, Outcome::Answered { greeting, .. }) => {
                let right = greeting.name == to.name && from.addresses.contains(&greeting.client.ip());
                let (name, client) = (&greeting.name, greeting.client);
                (!right).then(|| format!("{what}: {name} answered, and saw the client {client}"))
            }
            (false, Outcome::Refused(_) | Outcome::Silent) => None,
            (true, failed) => Some(format!("{what}: predicted to work, and {failed:?}")),
            (false, Outcome::Answered { .. }) => {
                Some(format!("{what}: predicted {}, and it answered", self.predicted.verdict))
            }
        }
    }
}

/// Every node and pod.
pub fn places(cluster: &Cluster) -> Result<Vec<Place>> {
    let nodes = cluster.nodes()?.into_iter().map(|(machine, addresses)| Place {
        name: machine.name().into(),
        machine,
        netns: None,
        addresses,
    });
    let pods = cluster.pods.values().map(|pod| Place {
        name: pod.key(),
        machine: Arc::clone(pod.machine()),
        netns: match pod.net() {
            Net::Machine => None,
            Net::At(path) => Some(path.into()),
        },
        addresses: pod.addresses().to_vec(),
    });
    Ok(nodes.chain(pods).collect())
}

/// Both ways to ask an address.
pub fn both(address: IpAddr) -> [Target; 2] {
    [(Transport::Http, serve::HTTP), (Transport::Udp, serve::UDP)].map(|(transport, port)| Target {
        transport,
        address: SocketAddr::new(address, port),
        patience_ms: 2000,
    })
}

/// Step: the whole matrix beside the oracle's.
pub fn compare(cluster: &mut Cluster) -> Result<String> {
    let places = places(cluster)?;
    settle(cluster, &places)?;
    let cells = fill(cluster, &places)?;
    cluster.show(table(&places, &cells));
    let problems: Vec<String> = cells.iter().filter_map(|c| c.problem(&places)).collect();
    let working = cells.iter().filter(|c| c.predicted.works).count();
    if !problems.is_empty() {
        let shown: Vec<&str> = problems.iter().take(5).map(String::as_str).collect();
        bail!("{} of {} cells are wrong: {}", problems.len(), cells.len(), shown.join("; "));
    }
    Ok(format!("{} cells, each as the oracle says ({working} reachable)", cells.len()))
}

/// How long facts may take from node to node.
const SETTLED: Duration = Duration::from_secs(10);

/// Waits until every node reaches every place, and the oracle's node knows of them all; what isn't so in time, the
/// matrix shows.
fn settle(cluster: &Cluster, places: &[Place]) -> Result<()> {
    let deadline = Instant::now() + SETTLED;
    let all: Vec<Target> = places.iter().flat_map(|p| p.addresses.iter().flat_map(|a| both(*a))).collect();
    let tool = cluster.lab()?.tool();
    let oracle = oracle(cluster)?;
    for place in places.iter().filter(|p| p.netns.is_none()) {
        loop {
            let reached = place.probe(tool, &all)?.iter().all(|o| o.greeting().is_some());
            let foreseen = oracle.predict(&packets(place, &all))?.iter().all(|p| p.works);
            if reached && foreseen || Instant::now() > deadline {
                break;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
    Ok(())
}

/// The agent that is asked for predictions: the first by name, because any of them can say.
pub fn oracle(cluster: &Cluster) -> Result<&Agent> {
    cluster.agents.values().next().context("no agent is running")
}

fn fill(cluster: &Cluster, places: &[Place]) -> Result<Vec<Cell>> {
    let oracle = oracle(cluster)?;
    let tool = cluster.lab()?.tool();
    let mut cells = Vec::new();
    for (from, source) in places.iter().enumerate() {
        let asked: Vec<(usize, Target)> = places
            .iter()
            .enumerate()
            .filter(|(to, _)| *to != from)
            .flat_map(|(to, place)| place.addresses.iter().flat_map(|a| both(*a)).map(move |t| (to, t)))
            .collect();
        let targets: Vec<Target> = asked.iter().map(|(_, t)| t.clone()).collect();
        let outcomes = source.probe(tool, &targets)?;
        let predictions = oracle.predict(&packets(source, &targets))?;
        for (((to, target), predicted), outcome) in asked.into_iter().zip(predictions).zip(outcomes) {
            cells.push(Cell { from, to, target, predicted, outcome });
        }
    }
    Ok(cells)
}

/// The packets that a place's probes begin with.
pub fn packets(source: &Place, targets: &[Target]) -> Vec<Packet> {
    let of_family = |to: IpAddr| source.addresses.iter().copied().find(|a| a.is_ipv4() == to.is_ipv4());
    targets
        .iter()
        .map(|target| Packet {
            // A place without an address of the family can't send; any source then gives the same prediction.
            from: of_family(target.address.ip()).unwrap_or(target.address.ip()),
            to: target.address,
            transport: target.transport,
        })
        .collect()
}

/// A mark a cell of four: reached, not reached as predicted, wrong.
fn table(places: &[Place], cells: &[Cell]) -> String {
    let width = places.iter().map(|p| p.name.len()).max().unwrap_or(0);
    let mut text = format!("{:width$}  ", "");
    (1..=places.len()).for_each(|column| {
        let _ = write!(text, "{column:>3}");
    });
    for (from, place) in places.iter().enumerate() {
        let _ = write!(text, "\n{:<width$}  ", place.name);
        for to in 0..places.len() {
            let of: Vec<&Cell> = cells.iter().filter(|c| (c.from, c.to) == (from, to)).collect();
            let mark = if of.is_empty() {
                " "
            } else if of.iter().any(|c| c.problem(places).is_some()) {
                "✗"
            } else if of.iter().all(|c| c.predicted.works) {
                "✓"
            } else {
                "·"
            };
            let _ = write!(text, "{mark:>3}");
        }
    }
    text.push_str("\ncolumns are the rows in order; ✓ HTTP and UDP over IPv4 and IPv6 as predicted, · blocked as predicted, ✗ wrong");
    text
}
