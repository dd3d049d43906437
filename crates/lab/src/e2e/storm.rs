//! A storm: a hundred pods come and go, again and again; no address may be lost, and none given out twice.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
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
    // Pods of the steps before may still be on their way out.
    no_lease_is_lost(rig)?;
    let timings = network_timings(rig)?;
    let begun = Instant::now();
    for round in 0..rounds {
        gust(&kubectl, round)?;
    }
    let took = begun.elapsed();
    no_lease_is_lost(rig)?;
    kubectl.run(&["delete", "namespace", NAMESPACE, "--wait=false"])?;
    let during = network_timings(rig)?.since(&timings);
    rig.show(during.table());
    let counted = during.network.1;
    // A pod whose network is set up at the second try counts twice.
    ensure!(
        counted >= (rounds * PODS) as f64,
        "containerd counted {counted} networks of {} pods",
        rounds * PODS
    );
    Ok(format!(
        "{} pods came and went in {:.0} s, every address came back; network set-up p99 {}",
        rounds * PODS,
        took.as_secs_f64(),
        during.quantile(0.99)
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

/// Waits until the addresses that are given out are those of living pods, and no others.
pub fn no_lease_is_lost(rig: &Rig) -> Result<()> {
    let kubectl = rig.kubectl();
    kubectl.wait("leases of living pods only", PATIENCE, || {
        let look = || -> Result<_> { Ok((leases(rig)?, living(&kubectl)?)) };
        let (leased, living) = look().map_err(|e| format!("{e:#}"))?;
        if leased == living {
            return Ok(());
        }
        let (lost, bare): (Vec<_>, Vec<_>) =
            (leased.difference(&living).collect(), living.difference(&leased).collect());
        Err(format!("leased and no pod's: {lost:?}; pods' and not leased: {bare:?}"))
    })?;
    Ok(())
}

/// Addresses of pods that run.
fn living(kubectl: &Kubectl) -> Result<BTreeSet<IpAddr>> {
    let everything = kubectl.get(&["pods", "-A"])?;
    let pods = everything["items"].as_array().into_iter().flatten();
    let running: Vec<Value> = pods.filter(|pod| pod["status"]["phase"] == "Running").cloned().collect();
    let given = addresses(&running);
    let different: BTreeSet<IpAddr> = given.iter().copied().collect();
    ensure!(different.len() == given.len(), "two pods have one address: {given:?}");
    Ok(different)
}

/// Addresses that nodes have given out.
fn leases(rig: &Rig) -> Result<BTreeSet<IpAddr>> {
    let mut all = BTreeSet::new();
    for machine in rig.lab().nodes() {
        let path = machine.path(LEASES);
        let entries = std::fs::read_dir(&path).with_context(|| format!("can't list {}", path.display()))?;
        let names = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
        // Beside addresses lie the boot id and host-local's own notes.
        all.extend(names.filter_map(|name| name.parse::<IpAddr>().ok()));
    }
    Ok(all)
}

/// containerd's own measures (Prometheus' histograms; the unit stands twice in some names): its calls of plugins, and what the
/// runtime takes to start a sandbox.
const NETWORK: &str =
    "containerd_cri_network_plugin_operations_duration_seconds_seconds_BUCKET{operation_type=\"set_up_pod\"";
const SANDBOX: &str =
    "containerd_cri_sandbox_runtime_create_seconds_BUCKET{runtime=\"io.containerd.runc.v2\"";

/// What containerd has counted, of all nodes together.
#[derive(Debug, Default, Clone, PartialEq)]
struct Timings {
    /// How often it set networks up, by the upper bound of the time in seconds: each bucket counts all that took at most that long.
    buckets: BTreeMap<String, f64>,
    /// Seconds and number, of networks.
    network: (f64, f64),
    /// The same of sandboxes without their networks.
    sandbox: (f64, f64),
}

impl Timings {
    /// Adds what one node's containerd says, in Prometheus' text format.
    fn read(&mut self, text: &str) {
        let series = |name: &str, kind: &str| {
            let begin = name.replace("BUCKET", kind);
            let lines = text.lines().filter(move |line| line.starts_with(&begin));
            lines.filter_map(|line| Some((line, line.rsplit(' ').next()?.parse::<f64>().ok()?)))
        };
        for (line, count) in series(NETWORK, "bucket") {
            if let Some(bound) = line.split("le=\"").nth(1).and_then(|rest| rest.split('"').next()) {
                *self.buckets.entry(bound.to_owned()).or_default() += count;
            }
        }
        for (name, sum) in [(NETWORK, &mut self.network), (SANDBOX, &mut self.sandbox)] {
            sum.0 += series(name, "sum").map(|(_, value)| value).sum::<f64>();
            sum.1 += series(name, "count").map(|(_, value)| value).sum::<f64>();
        }
    }

    fn since(&self, before: &Self) -> Self {
        let counted = |(bound, count): (&String, &f64)| {
            (bound.clone(), count - before.buckets.get(bound).copied().unwrap_or(0.0))
        };
        let less = |a: (f64, f64), b: (f64, f64)| (a.0 - b.0, a.1 - b.1);
        Self {
            buckets: self.buckets.iter().map(counted).collect(),
            network: less(self.network, before.network),
            sandbox: less(self.sandbox, before.sandbox),
        }
    }

    /// The time within which this share of all was done, as Prometheus' `histogram_quantile` has it: as if the times of a bucket were
    /// spread evenly over it. Its bounds stand beside it: they are what is known for certain.
    fn quantile(&self, share: f64) -> String {
        let all = self.buckets.values().copied().fold(0.0, f64::max);
        let mut bounds: Vec<(f64, f64)> =
            self.buckets.iter().filter_map(|(bound, count)| Some((bound.parse().ok()?, *count))).collect();
        bounds.sort_by(|a, b| a.0.total_cmp(&b.0));
        let wanted = share * all;
        let Some(at) = bounds.iter().position(|(_, count)| all > 0.0 && *count >= wanted) else {
            return "unknown: containerd counted nothing".into();
        };
        let (lower, fewer) = at.checked_sub(1).map_or((0.0, 0.0), |below| bounds[below]);
        let (upper, count) = bounds[at];
        let ms = |seconds: f64| format!("{:.0}", seconds * 1000.0);
        if upper.is_infinite() {
            return format!("over {} ms", ms(lower));
        }
        let estimate = lower + (upper - lower) * (wanted - fewer) / (count - fewer).max(f64::MIN_POSITIVE);
        format!("{} ms ({}–{})", ms(estimate), ms(lower), ms(upper))
    }

    /// Beside each other, since both share the processors: what the network takes of a pod's start.
    fn table(&self) -> String {
        let mean = |(seconds, count): (f64, f64)| seconds / count.max(1.0) * 1000.0;
        let (network, sandbox) = (mean(self.network), mean(self.sandbox));
        let (p50, p90, p99) = (self.quantile(0.5), self.quantile(0.9), self.quantile(0.99));
        format!(
            "of a pod's start         mean {:>20} {:>20} {:>20}\n\
             its network        {network:>7.0} ms {p50:>20} {p90:>20} {p99:>20}\n\
             its sandbox        {sandbox:>7.0} ms\n\
             the network's share {:>6.1} %",
            "p50",
            "p90",
            "p99",
            100.0 * network / (network + sandbox).max(f64::MIN_POSITIVE)
        )
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
        let series =
            |name: &str, kind: &str, value: f64| format!("{}}} {value}\n", name.replace("BUCKET", kind));
        let bucket = |bound: &str, count: u64| {
            format!("{},le=\"{bound}\"}} {count}\n", NETWORK.replace("BUCKET", "bucket"))
        };
        let (mut before, mut after) = (Timings::default(), Timings::default());
        before.read(&bucket("0.01", 5));
        let text =
            [("0.01", 5), ("0.025", 95), ("0.1", 104), ("+Inf", 105)].map(|(b, c)| bucket(b, c)).concat()
                + &series(NETWORK, "sum", 2.0)
                + &series(NETWORK, "count", 100.0)
                + &series(SANDBOX, "sum", 18.0)
                + &series(SANDBOX, "count", 100.0);
        after.read(&text);
        let during = after.since(&before);
        assert_eq!(during.quantile(1.0), "over 100 ms");
        assert_eq!(Timings::default().quantile(0.5), "unknown: containerd counted nothing");
        insta::assert_snapshot!(during.table(), @r"
        of a pod's start         mean                  p50                  p90                  p99
        its network             20 ms        18 ms (10–25)        25 ms (10–25)      100 ms (25–100)
        its sandbox            180 ms
        the network's share   10.0 %
        ");
    }
}
