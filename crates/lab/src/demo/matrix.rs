//! The reachability matrix: every pod and node, and a client outside, asks every other, by HTTP and UDP, over both
//! families, and the oracle has said before what would come of it. One more row is a pod that pretends to be another.

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use weft_lab::LabError;
use weft_lab::matrix::{Expected, Place, Standing, both};
use weft_lab::probe::{Outcome, Target, Transport};
use weft_lab::topology::CLIENT;
use weft_lab::weft::{Agent, Packet};

use super::cluster::Cluster;

/// The pod that pretends, and the one on the same node that it pretends to be.
const PRETENDER: &str = "tools/probe-1";
const PRETENDED: &str = "shop/web-1";
/// How long an answer is waited for that isn't to come.
const BLOCKED_MS: u64 = 600;

/// A row: who asks, and under whose addresses where they aren't its own.
struct Row {
    name: String,
    place: Place,
    borrowed: Vec<IpAddr>,
}

/// A column: who is asked, and how.
struct Column {
    name: String,
    targets: Vec<Target>,
    /// Only the cluster's own network knows the way there.
    island: Option<Vec<IpAddr>>,
}

/// One question of the matrix, what was to come of it, and what came.
struct Cell {
    row: usize,
    column: usize,
    target: Target,
    expected: Expected,
    outcome: Outcome,
}

impl Cell {
    fn problem(&self, rows: &[Row], columns: &[Column]) -> Option<String> {
        let (from, to) = (&rows[self.row].name, &columns[self.column].name);
        let Target { transport, address, .. } = &self.target;
        let objection = self.expected.objection(&self.outcome)?;
        Some(format!("{from} → {to} ({transport} {address}): {objection}"))
    }

    fn is_answered(&self) -> bool {
        matches!(self.expected, Expected::Answer(..))
    }
}

/// Every node, every pod, and the client.
pub fn places(cluster: &Cluster) -> Result<Vec<Place>> {
    let nodes = cluster.nodes()?.into_iter();
    let nodes = nodes.map(|(machine, addresses)| Place::machine(machine, addresses, Standing::InCluster));
    let pods = cluster.pods.values().map(Place::pod);
    let lab = cluster.lab()?;
    let addresses = lab.topology().machine(CLIENT).context("there is no client")?.addresses().collect();
    let client = Place::machine(lab.machine(CLIENT)?, addresses, Standing::Outside);
    Ok(nodes.chain(pods).chain([client]).collect())
}

/// Step: the whole matrix beside the oracle's.
pub fn compare(cluster: &mut Cluster) -> Result<String> {
    let places = places(cluster)?;
    settle(cluster, &places)?;
    let columns = columns(cluster, &places)?;
    let rows = rows(cluster, places)?;
    let cells = fill(cluster, &rows, &columns)?;
    cluster.show(table(&rows, &columns, &cells));
    let problems: Vec<String> = cells.iter().filter_map(|c| c.problem(&rows, &columns)).collect();
    let working = cells.iter().filter(|c| c.is_answered()).count();
    if !problems.is_empty() {
        let shown: Vec<&str> = problems.iter().take(5).map(String::as_str).collect();
        bail!("{} of {} cells are wrong: {}", problems.len(), cells.len(), shown.join("; "));
    }
    let blocked = cells.len() - working;
    Ok(format!("{} cells, each as the oracle says ({working} answered, {blocked} blocked)", cells.len()))
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
    for place in places.iter().filter(|p| p.netns.is_none() && p.standing == Standing::InCluster) {
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

/// The packets that a place's probes begin with.
pub fn packets(source: &Place, targets: &[Target]) -> Vec<Packet> {
    targets.iter().map(|target| source.packet(target)).collect()
}

fn columns(cluster: &Cluster, places: &[Place]) -> Result<Vec<Column>> {
    let mut columns: Vec<Column> = places
        .iter()
        .map(|place| Column {
            name: place.name.clone(),
            targets: place.addresses.iter().flat_map(|a| both(*a)).collect(),
            island: place.netns.is_some().then(|| place.addresses.clone()),
        })
        .collect();
    let mapped = cluster.pod(PRETENDED)?;
    let node = mapped.machine().name().to_owned();
    let addresses = places.iter().find(|p| p.name == node).context("its node isn't there")?.addresses.iter();
    let targets = addresses.flat_map(|ip| {
        [(Transport::Http, 30080), (Transport::Udp, 30081)]
            .map(|(transport, port)| Target::new(transport, SocketAddr::new(*ip, port)))
    });
    columns.push(Column { name: format!("ports of {node}"), targets: targets.collect(), island: None });
    Ok(columns)
}

fn rows(cluster: &Cluster, places: Vec<Place>) -> Result<Vec<Row>> {
    let borrowed = cluster.pod(PRETENDED)?.addresses().to_vec();
    let pretender = Place::pod(cluster.pod(PRETENDER)?);
    let name = format!("{PRETENDER} as {PRETENDED}");
    let row = |place: Place| Row { name: place.name.clone(), place, borrowed: Vec::new() };
    let mut rows: Vec<Row> = places.into_iter().map(row).collect();
    rows.push(Row { name, place: pretender, borrowed });
    Ok(rows)
}

fn fill(cluster: &Cluster, rows: &[Row], columns: &[Column]) -> Result<Vec<Cell>> {
    let oracle = oracle(cluster)?;
    let lab = cluster.lab()?;
    let outside = |ip: IpAddr| {
        lab.topology().machines.iter().find(|m| m.addresses().any(|a| a == ip)).map(|m| m.name.clone())
    };
    let mut cells = Vec::new();
    for (number, row) in rows.iter().enumerate() {
        let mut asked = questions(row, columns);
        let targets: Vec<Target> = asked.iter().map(|(_, target)| target.clone()).collect();
        let predictions = oracle.predict(&packets(&row.place, &targets))?;
        let mut expected = Vec::new();
        for ((column, target), prediction) in asked.iter_mut().zip(predictions) {
            // The oracle follows what has entered a node, and a client's packets to an island's pods never do.
            let island = &columns[*column].island;
            let lost = row.place.standing == Standing::Outside && island.is_some();
            let expects = match lost {
                true => Expected::NoAnswer,
                false => Expected::of(&prediction, target.transport, outside),
            };
            if !matches!(expects, Expected::Answer(..)) {
                target.patience_ms = BLOCKED_MS;
            }
            expected.push(expects);
        }
        let targets: Vec<Target> = asked.iter().map(|(_, target)| target.clone()).collect();
        borrow(row, "add")?;
        let outcomes = row.place.probe(lab.tool(), &targets);
        borrow(row, "del")?;
        for (((column, target), expected), outcome) in asked.into_iter().zip(expected).zip(outcomes?) {
            cells.push(Cell { row: number, column, target, expected, outcome });
        }
    }
    Ok(cells)
}

/// What a row asks: everybody but itself. Under another's addresses a pod asks whoever isn't on its own machine, because
/// that one's answers are none of the network's business.
fn questions(row: &Row, columns: &[Column]) -> Vec<(usize, Target)> {
    let from = |to: IpAddr| row.borrowed.iter().copied().find(|a| a.is_ipv4() == to.is_ipv4());
    let others = columns.iter().enumerate().filter(|(_, c)| c.name != row.place.name);
    let others = others.filter(|(_, c)| c.island.as_ref().is_none_or(|a| *a != row.borrowed));
    let targets = others.flat_map(|(number, c)| c.targets.iter().map(move |t| (number, t)));
    targets.map(|(number, t)| (number, Target { from: from(t.address.ip()), ..t.clone() })).collect()
}

/// Gives a pretender the addresses that it borrows, or takes them away.
fn borrow(row: &Row, verb: &str) -> Result<()> {
    for address in &row.borrowed {
        let mut command = Command::new("ip");
        command.args(["address", verb, &format!("{address}/{}", if address.is_ipv4() { 32 } else { 128 })]);
        command.args(["dev", "eth0"]);
        if address.is_ipv6() && verb == "add" {
            command.arg("nodad");
        }
        let machine = &row.place.machine;
        machine.output(command, row.place.net(), b"")?.success_or(|output| LabError::Command {
            machine: machine.name().into(),
            command: format!("ip address {verb} {address} in {}", row.place.name),
            output,
        })?;
    }
    Ok(())
}

/// A mark a cell of four: reached, not reached as predicted, wrong.
fn table(rows: &[Row], columns: &[Column], cells: &[Cell]) -> String {
    let width = rows.iter().map(|row| row.name.chars().count()).max().unwrap_or(0);
    let mut text = format!("{:width$}  ", "");
    (1..=columns.len()).for_each(|column| {
        let _ = write!(text, "{column:>3}");
    });
    for (number, row) in rows.iter().enumerate() {
        let _ = write!(text, "\n{:<width$}  ", row.name);
        for column in 0..columns.len() {
            let of: Vec<&Cell> = cells.iter().filter(|c| (c.row, c.column) == (number, column)).collect();
            let mark = if of.is_empty() {
                " "
            } else if of.iter().any(|c| c.problem(rows, columns).is_some()) {
                "✗"
            } else if of.iter().all(|c| c.is_answered()) {
                "✓"
            } else {
                "·"
            };
            let _ = write!(text, "{mark:>3}");
        }
    }
    let last = columns.last().map_or("", |column| column.name.as_str());
    let _ = write!(
        text,
        "\ncolumns are the rows in order, the last one the mapped {last}; ✓ HTTP and UDP over IPv4 and IPv6 as predicted, · blocked as predicted, ✗ wrong"
    );
    text
}
