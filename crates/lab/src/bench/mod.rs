//! The benchmarks: `cargo xtask bench cni | dataplane | kubernetes | scale | services`.
//!
//! What always holds: everything runs in private namespaces; ours, the peer and the floor or ceiling are measured in one
//! run, in turns, so that a busy machine is busy for all of them; medians are reported, and the table says what was aimed
//! at. A missed aim is a result, not a failure of the run.

mod cluster;
mod cni;
mod dataplane;
mod kubernetes;
mod report;
mod scale;
mod services;

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use weft_lab::sandbox;
use weft_lab::weft::Programs;

/// Help text of the subcommand.
pub const USAGE: &str = "\
Usage: cargo xtask bench cni|dataplane|kubernetes|scale|services [OPTION...]

  cni         ADD and DEL beside the reference plugins and beside raw netlink
  dataplane   throughput and round trips beside hand-made links, routes and tunnels
  kubernetes  one node of a cluster of 5,000 nodes on a real API server, beside a bare watcher
  scale       one node of clusters of 100, 1,000 and 5,000 nodes
  services    100 to 30,000 services beside kube-proxy in nftables and iptables mode

  --rounds N    cni: ADDs and DELs one after the other (100); dataplane: rounds (5); scale: changes of each kind (200);
                kubernetes: changes of each kind (50)
  --seconds N   dataplane: length of each measurement (2)
  --sizes N,N   services: how many (100,1000,10000,30000); kubernetes: nodes (5000)
  --no-peer     services: without kube-proxy
  --peer MODE   services: kube-proxy in this mode only, nftables or iptables
  --kube-proxy PROGRAM  services: use this one, and don't build any
  --limit N     services: a peer that takes more seconds than this for one step is left out (120)
  --out FOLDER  where NAME.json goes (target/bench)
";

/// What was asked for.
#[derive(Debug)]
pub struct Options {
    /// The folder with `weft` and `weft-cni`.
    programs: PathBuf,
    /// Where the results go.
    out: PathBuf,
    /// See [`USAGE`].
    rounds: Option<usize>,
    seconds: u32,
    sizes: Option<Vec<usize>>,
    /// kube-proxy's mode, where only one is wanted.
    peer: Option<String>,
    /// The program; without it the peers' columns are empty.
    kube_proxy: Option<PathBuf>,
    /// Seconds.
    limit: u64,
}

impl Options {
    fn parse(arguments: &[&str]) -> Result<Self> {
        let here = std::env::current_exe().context("can't find this program")?;
        let folder = here.parent().map(PathBuf::from).unwrap_or_default();
        let mut options = Self {
            programs: folder,
            out: "target/bench".into(),
            rounds: None,
            seconds: 2,
            sizes: None,
            peer: None,
            kube_proxy: None,
            limit: 120,
        };
        let mut rest = arguments.iter();
        while let Some(argument) = rest.next() {
            if *argument == "--no-peer" {
                options.kube_proxy = None;
                continue;
            }
            let value = rest.next().with_context(|| format!("{argument} needs a value\n\n{USAGE}"))?;
            match *argument {
                "--programs" => options.programs = value.into(),
                "--out" => options.out = value.into(),
                "--rounds" => options.rounds = Some(positive(value)?),
                "--sizes" => options.sizes = Some(sizes(value)?),
                "--peer" => options.peer = Some(services::mode(value)?),
                "--kube-proxy" => options.kube_proxy = Some(value.into()),
                "--limit" => options.limit = positive(value)? as u64,
                "--seconds" => options.seconds = u32::try_from(positive(value)?)?,
                other => bail!("I don't know the option {other}.\n\n{USAGE}"),
            }
        }
        Ok(options)
    }

    fn programs(&self) -> Result<Programs> {
        Programs::in_folder(&self.programs)
            .context("build them with `cargo xtask bench`, which links the plugin as people get it")
    }
}

fn positive(text: &str) -> Result<usize> {
    match text.parse() {
        Ok(number) if number > 0 => Ok(number),
        _ => bail!("{text} is no positive number"),
    }
}

fn sizes(text: &str) -> Result<Vec<usize>> {
    let sizes = text.split(',').map(positive).collect::<Result<Vec<_>>>()?;
    if sizes.len() > 8 || sizes.iter().any(|size| *size > services::MOST) {
        bail!("{text}: at most eight sizes, of at most {} each", services::MOST);
    }
    Ok(sizes)
}

/// Runs a benchmark, or one of the processes that benchmarks start.
pub fn run(arguments: &[&str]) -> Result<()> {
    match arguments {
        [] | ["--help" | "-h", ..] => {
            print!("{USAGE}");
            Ok(())
        }
        ["answer", address] => dataplane::answer(address),
        ["kubernetes-node", port, ca, token, pods] => kubernetes::node(port, ca, token, pods),
        ["kubernetes-bare", port, ca, pods] => kubernetes::bare(port, ca, pods),
        ["one-size", nodes, changes] => scale::one_size(positive(nodes)?, positive(changes)?),
        [name, options @ ..] => {
            let options = Options::parse(options)?;
            sandbox::enter()?;
            let report = match *name {
                "cni" => cni::run(&options)?,
                "dataplane" => dataplane::run(&options)?,
                "kubernetes" => kubernetes::run(&options)?,
                "scale" => scale::run(&options)?,
                "services" => services::run(&options)?,
                other => bail!("I don't know the benchmark {other}.\n\n{USAGE}"),
            };
            print!("{report}");
            report.write(&options.out)
        }
    }
}
