//! Kubernetes' own specs of networks, and the page that says how they went.
//!
//! What always holds: a spec that was to be run and has no outcome counts as failed.

use std::collections::BTreeMap;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use weft_lab::{Net, Process};

use super::options::Length;
use super::rig::Rig;

/// The specs, in groups that run side by side: they wait more than they work. Each is `focus`, `skip`.
const ALL: [(&str, &str); 3] = [
    (r"\[sig-network\] Services .*\[Conformance\]", "NOTHING"),
    (r"\[sig-network\] (DNS|Networking) .*\[Conformance\]", "NOTHING"),
    (r"\[sig-network\] .*\[Conformance\]", r"\[sig-network\] (Services|DNS|Networking) "),
];
/// Some of each kind that don't take long.
const QUICK: [(&str, &str); 2] = [
    (
        r"\[sig-network\] Services should (serve (a basic|multiport) endpoint|be able to switch session affinity for (NodePort|service with type clusterIP)|be able to create a functioning NodePort|be able to change the type from ExternalName to NodePort).*\[Conformance\]",
        "NOTHING",
    ),
    (
        r"\[sig-network\] (DNS should provide DNS for (services|the cluster|pods for Subdomain)|DNS should support configurable|Networking Granular Checks: Pods should function for|HostPort).*\[Conformance\]",
        "NOTHING",
    ),
];
/// How long a group may take.
const PATIENCE: Duration = Duration::from_secs(45 * 60);
const PAUSE: Duration = Duration::from_millis(500);

/// A report of Ginkgo's (`--ginkgo.json-report`), as far as it matters.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Report {
    spec_reports: Option<Vec<Spec>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Spec {
    container_hierarchy_texts: Option<Vec<String>>,
    leaf_node_type: String,
    leaf_node_text: String,
    state: String,
    /// Nanoseconds.
    run_time: u64,
    failure: Option<Failure>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Failure {
    message: String,
}

/// How a spec went.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Outcome {
    passed: bool,
    seconds: u64,
    /// Why it failed, in one line.
    note: String,
}

/// Step: runs the specs, shows those that failed, and writes the page where all were run.
pub fn run(rig: &mut Rig) -> Result<String> {
    let options = rig.options().clone();
    let groups: Vec<(String, String)> = match (&options.focus, options.length) {
        (Some(focus), _) => vec![(focus.clone(), "NOTHING".into())],
        (None, Length::Quick) => QUICK.iter().map(|(f, s)| ((*f).to_owned(), (*s).to_owned())).collect(),
        (None, Length::Full) => ALL.iter().map(|(f, s)| ((*f).to_owned(), (*s).to_owned())).collect(),
    };
    let begun = Instant::now();
    let mut running = Vec::new();
    for (number, (focus, skip)) in groups.iter().enumerate() {
        running.push((format!("conformance-{number}.json"), start(rig, number, focus, skip)?));
    }
    for (_, process) in &running {
        while process.is_running() {
            ensure!(
                begun.elapsed() < PATIENCE,
                "the specs have not ended within {} minutes",
                PATIENCE.as_secs() / 60
            );
            std::thread::sleep(PAUSE);
        }
    }
    let mut outcomes = BTreeMap::new();
    for (name, _) in &running {
        let path = rig.cluster().lab().directory().join(name);
        let text =
            std::fs::read(&path).with_context(|| format!("the specs left no {name}; see their log"))?;
        outcomes.append(&mut read(&text)?);
    }
    let failed: Vec<String> =
        outcomes.iter().filter(|(_, o)| !o.passed).map(|(name, o)| format!("{name}: {}", o.note)).collect();
    let all = options.focus.is_none() && options.length == Length::Full;
    if let Some(path) = options.report.clone().or_else(|| all.then(|| PAGE_PATH.into())) {
        let run = rig.describe_run()?;
        std::fs::write(&path, page(&run, &outcomes))
            .with_context(|| format!("can't write {}", path.display()))?;
    }
    failed.iter().for_each(|line| rig.show(line.clone()));
    ensure!(failed.is_empty(), "{} of {} specs failed", failed.len(), outcomes.len());
    ensure!(!outcomes.is_empty(), "no spec has such a name");
    Ok(format!("{} specs passed", outcomes.len()))
}

fn start(rig: &mut Rig, number: usize, focus: &str, skip: &str) -> Result<Process> {
    let kubectl = rig.kubectl();
    let mut command = kubectl.client("e2e.test");
    command.args([
        "--kubeconfig=/etc/kubernetes/admin.conf",
        "--provider=skeleton",
        "--disable-log-dump",
        "--ginkgo.no-color",
        &format!("--ginkgo.focus={focus}"),
        &format!("--ginkgo.skip={skip}"),
        &format!("--ginkgo.json-report=/lab/conformance-{number}.json"),
    ]);
    let log = rig.options().logs.join(format!("conformance-{number}.log"));
    let file = std::fs::File::create(&log).with_context(|| format!("can't make {}", log.display()))?;
    let copy = file.try_clone().context("can't share a log")?;
    command.stdin(Stdio::null()).stdout(file).stderr(copy);
    Ok(kubectl.machine().spawn(command, Net::Machine)?)
}

fn read(text: &[u8]) -> Result<BTreeMap<String, Outcome>> {
    let reports: Vec<Report> = serde_json::from_slice(text).context("can't read Ginkgo's report")?;
    let specs = reports.into_iter().flat_map(|report| report.spec_reports.unwrap_or_default());
    // What surrounds all specs is a node of its own kind, and matters only where it fails.
    let run = specs.filter(|s| s.state != "skipped" && s.state != "pending");
    Ok(run
        .filter(|s| s.leaf_node_type == "It" || s.state != "passed")
        .map(|spec| {
            let mut words = spec.container_hierarchy_texts.unwrap_or_default();
            words.push(if spec.leaf_node_text.is_empty() {
                spec.leaf_node_type
            } else {
                spec.leaf_node_text
            });
            let message = spec.failure.map(|f| f.message).unwrap_or_default();
            let outcome = Outcome {
                passed: spec.state == "passed",
                seconds: spec.run_time / 1_000_000_000,
                note: message.lines().map(str::trim).find(|l| !l.is_empty()).unwrap_or_default().to_owned(),
            };
            (words.join(" "), outcome)
        })
        .collect())
}

/// Where the page goes after a run of all specs, unless it is said otherwise.
const PAGE_PATH: &str = "docs/conformance.md";
const PAGE: &str = "\
# Conformance

The [sig-network] specs of Kubernetes' own conformance tests, as the last full run of `cargo xtask e2e` left them: Weft installed by
[deploy/kubernetes.yaml](../deploy/kubernetes.yaml) as CNI plugin, DNS server and service proxy, with neither kube-proxy nor CoreDNS.
With the reference plugins, kube-proxy and CoreDNS all of them pass in a cluster of the same parts.

";

/// `run` says when that was, and with what.
fn page(run: &str, outcomes: &BTreeMap<String, Outcome>) -> String {
    let passed = outcomes.values().filter(|o| o.passed).count();
    let mut text = format!(
        "{PAGE}{run}\n\n{passed} of {} pass.\n\n| spec | outcome | note |\n|---|---|---|\n",
        outcomes.len()
    );
    for (name, outcome) in outcomes {
        let name = name.replace(" [Conformance]", "").replace("[sig-network] ", "").replace('|', "\\|");
        let word = if outcome.passed { "pass" } else { "fail" };
        text.push_str(&format!("| {name} | {word} | {} |\n", outcome.note.replace('|', "\\|")));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const REPORT: &str = r#"[{"SpecReports": [
        {"ContainerHierarchyTexts": null, "LeafNodeType": "SynchronizedBeforeSuite", "LeafNodeText": "", "State": "passed", "RunTime": 1},
        {"ContainerHierarchyTexts": ["[sig-network] DNS"], "LeafNodeType": "It", "LeafNodeText": "should resolve [Conformance]",
         "State": "passed", "RunTime": 12500000000},
        {"ContainerHierarchyTexts": ["[sig-network] Services"], "LeafNodeType": "It", "LeafNodeText": "should a|b [Conformance]",
         "State": "failed", "RunTime": 1, "Failure": {"Message": "\n timed out\nmore"}},
        {"ContainerHierarchyTexts": ["[sig-apps] Job"], "LeafNodeType": "It", "LeafNodeText": "x", "State": "skipped", "RunTime": 0}
    ]}]"#;

    #[test]
    fn a_page_of_a_report() {
        let outcomes = read(REPORT.as_bytes()).unwrap();
        assert_eq!(outcomes["[sig-network] DNS should resolve [Conformance]"].seconds, 12);
        let text = page("Today.", &outcomes);
        let table = text.split("\n\n").skip(2).collect::<Vec<_>>().join("\n");
        insta::assert_snapshot!(table, @r"
        Today.
        1 of 2 pass.
        | spec | outcome | note |
        |---|---|---|
        | DNS should resolve | pass |  |
        | Services should a\|b | fail | timed out |
        ");
    }

    #[test]
    fn what_was_broken_off_has_failed() {
        let text = REPORT.replace("\"passed\", \"RunTime\": 12", "\"interrupted\", \"RunTime\": 12");
        assert!(read(text.as_bytes()).unwrap().values().all(|outcome| !outcome.passed));
    }
}
