//! A storm: a hundred pods come and go, again and again; no address may be lost, and none given out twice.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use weft_lab::kubernetes::Kubectl;

use super::clients::{addresses, exchange, pods};
use super::options::Length;
use super::rig::Rig;

const NAMESPACE: &str = "storm";
/// Pods of one gust.
const PODS: usize = 100;
/// How long a gust may take to come, or to go.
const PATIENCE: Duration = Duration::from_secs(300);
/// Leases of a node, by host-local's layout: a file an address.
const LEASES: &str = "/var/lib/cni/networks/weft/default";

/// Step: see the module.
pub fn run(rig: &mut Rig) -> Result<String> {
    let rounds = match rig.options().length {
        Length::Quick => 1,
        Length::Full => 10,
    };
    let kubectl = rig.kubectl();
    kubectl.apply(&format!("{{apiVersion: v1, kind: Namespace, metadata: {{name: {NAMESPACE}}}}}"))?;
    let (before, begun) = (leases(rig)?, Instant::now());
    let timings = network_timings(rig)?;
    for round in 0..rounds {
        gust(&kubectl, round)?;
    }
    let took = begun.elapsed();
    kubectl.wait("the leases of pods that are gone", PATIENCE, || {
        let now = leases(rig).map_err(|e| format!("{e:#}"))?;
        if now == before { Ok(()) } else { Err(format!("leases before: {before:?}, now: {now:?}")) }
    })?;
    kubectl.run(&["delete", "namespace", NAMESPACE, "--wait=false"])?;
    let quantile = network_timings(rig)?.since(&timings).quantile(0.99);
    Ok(format!(
        "{} pods came and went in {:.0} s, every address came back; network set-up p99 at most {quantile}",
        rounds * PODS,
        took.as_secs_f64()
    ))
}

/// Pods come, each with an address of its own, and go.
fn gust(kubectl: &Kubectl, round: usize) -> Result<()> {
    let mut manifests = String::new();
    for number in 0..PODS {
        writeln!(
            manifests,
            "{{apiVersion: v1, kind: Pod, metadata: {{name: p{round}-{number}, namespace: {NAMESPACE}}}, spec: {{\
             terminationGracePeriodSeconds: 0, containers: [{{name: pause, image: \"registry.k8s.io/pause:3.10.2\"}}]}}}}\n---"
        )?;
    }
    kubectl.apply(&manifests)?;
    kubectl.wait("a hundred pods", PATIENCE, || {
        let pods = pods(kubectl, NAMESPACE).map_err(|e| e.to_string())?;
        let given = addresses(&pods);
        let different: BTreeSet<_> = given.iter().collect();
        if different.len() < given.len() {
            return Err("an address was given out twice".into());
        }
        if given.len() == PODS { Ok(()) } else { Err(format!("{} have an address", given.len())) }
    })?;
    kubectl.run(&["delete", "pods", "--all", "-n", NAMESPACE, "--wait=false"])?;
    kubectl.wait("the end of a hundred pods", PATIENCE, || {
        let left = pods(kubectl, NAMESPACE).map_err(|e| e.to_string())?.len();
        if left == 0 { Ok(()) } else { Err(format!("{left} are left")) }
    })?;
    Ok(())
}

/// Addresses that are given out, by node.
pub fn leases(rig: &Rig) -> Result<BTreeMap<String, BTreeSet<String>>> {
    let mut all = BTreeMap::new();
    for machine in rig.lab().nodes() {
        let path = machine.path(LEASES);
        let entries = std::fs::read_dir(&path).with_context(|| format!("can't list {}", path.display()))?;
        let names = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
        // Beside addresses lie the boot id and host-local's own notes.
        let addresses = names.filter(|name| name.parse::<std::net::IpAddr>().is_ok());
        all.insert(machine.name().to_owned(), addresses.collect());
    }
    Ok(all)
}

/// containerd's own measure of its calls of plugins; the unit stands in the name twice.
const HISTOGRAM: &str = "containerd_cri_network_plugin_operations_duration_seconds_seconds_bucket";

/// How often containerd set networks up, by the upper bound of its time in seconds; of all nodes together.
#[derive(Debug, Default, Clone, PartialEq)]
struct Timings(BTreeMap<String, u64>);

impl Timings {
    /// Reads containerd's histogram (Prometheus' text format): each bucket counts all that was at most that long.
    fn read(&mut self, text: &str) {
        for line in text.lines().filter(|l| l.starts_with(HISTOGRAM)) {
            if !line.contains("operation_type=\"set_up_pod\"") {
                continue;
            }
            let bound = line.split("le=\"").nth(1).and_then(|rest| rest.split('"').next());
            let count = line.rsplit(' ').next().and_then(|number| number.parse::<f64>().ok());
            if let (Some(bound), Some(count)) = (bound, count) {
                *self.0.entry(bound.to_owned()).or_default() += count as u64;
            }
        }
    }

    fn since(&self, before: &Self) -> Self {
        let counted = |(bound, count): (&String, &u64)| {
            (bound.clone(), count.saturating_sub(before.0.get(bound).copied().unwrap_or(0)))
        };
        Self(self.0.iter().map(counted).collect())
    }

    /// The bound under which at least this share of all lies.
    fn quantile(&self, share: f64) -> String {
        let all = self.0.values().copied().max().unwrap_or(0);
        let mut bounds: Vec<(f64, u64)> =
            self.0.iter().filter_map(|(bound, count)| Some((bound.parse().ok()?, *count))).collect();
        bounds.sort_by(|a, b| a.0.total_cmp(&b.0));
        match bounds.iter().find(|(_, count)| all > 0 && *count as f64 >= share * all as f64) {
            Some((bound, _)) if bound.is_finite() => format!("{:.0} ms", bound * 1000.0),
            Some(_) => "more than all of containerd's bounds".into(),
            None => "unknown: containerd counted nothing".into(),
        }
    }
}

fn network_timings(rig: &Rig) -> Result<Timings> {
    let mut timings = Timings::default();
    for machine in rig.lab().nodes() {
        let text =
            machine.enter_net(|| exchange(SocketAddr::from(([127, 0, 0, 1], 1338)), "/v1/metrics"))??;
        timings.read(&text);
    }
    Ok(timings)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_is_the_bound_that_holds_the_share() {
        let line = |bound: &str, count: u64| {
            format!("{HISTOGRAM}{{operation_type=\"set_up_pod\",le=\"{bound}\"}} {count}\n")
        };
        let (mut before, mut after) = (Timings::default(), Timings::default());
        before.read(&line("0.01", 5));
        let text =
            [("0.01", 5), ("0.025", 95), ("0.1", 104), ("+Inf", 105)].map(|(b, c)| line(b, c)).concat();
        after.read(&text);
        let during = after.since(&before);
        assert_eq!(during.quantile(0.9), "25 ms");
        assert_eq!(during.quantile(0.99), "100 ms");
        assert_eq!(during.quantile(1.0), "more than all of containerd's bounds");
        assert_eq!(Timings::default().quantile(0.5), "unknown: containerd counted nothing");
    }
}
