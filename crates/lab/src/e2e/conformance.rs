//! Kubernetes' own specs of networks, and the page that says how they went.
//!
//! What always holds: what was to be run is what Ginkgo says beforehand, in a dry run; a spec among it that has no outcome, was
//! passed over or was broken off counts as failed.

use std::collections::{BTreeMap, BTreeSet};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use weft_lab::kubernetes::Kubectl;
use weft_lab::{Net, Process};

use super::options::Length;
use super::rig::Rig;

/// All of them, and how many there are in the Kubernetes that the harness builds.
const WHOLE: &str = r"\[sig-network\] .*\[Conformance\]";
const NUMBER: usize = 47;
/// The specs, in groups that run side by side: they wait more than they work. Each is `focus`, `skip`.
const ALL: [(&str, &str); 3] = [
    (r"\[sig-network\] Services .*\[Conformance\]", "NOTHING"),
    (r"\[sig-network\] (DNS|Networking) .*\[Conformance\]", "NOTHING"),
    (WHOLE, r"\[sig-network\] (Services|DNS|Networking) "),
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

impl Outcome {
    fn failed(note: &str) -> Self {
        Self { passed: false, seconds: 0, note: note.into() }
    }
}

/// Step: runs the specs, shows those that failed, and writes the page where all were run.
pub fn run(rig: &mut Rig) -> Result<String> {
    let options = rig.options().clone();
    let groups: Vec<(&str, &str)> = match (&options.focus, options.length) {
        (Some(focus), _) => vec![(focus, "NOTHING")],
        (None, Length::Quick) => QUICK.into(),
        (None, Length::Full) => ALL.into(),
    };
    let all = options.focus.is_none() && options.length == Length::Full;
    let whole = match all {
        true => WHOLE.to_owned(),
        false => groups.iter().map(|(focus, _)| format!("({focus})")).collect::<Vec<_>>().join("|"),
    };
    let planned = plan(rig, &whole)?;
    ensure!(!planned.is_empty(), "no spec has such a name");
    ensure!(!all || planned.len() >= NUMBER, "of {NUMBER} specs this Kubernetes has only {}", planned.len());
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
    let mut broken = Vec::new();
    for (name, process) in &running {
        let found = read(&report(rig, name)?, &planned)?;
        ensure!(!found.is_empty(), "none of the specs that {name} was to tell of was run");
        // Ginkgo says by its exit status what no spec may say: that something around them went wrong.
        let well = process.ended().is_some_and(|status| status.success());
        if !well && found.values().all(|outcome| outcome.passed) {
            broken
                .push(format!("{name}: all specs passed, but the program ended with {:?}", process.ended()));
        }
        outcomes.extend(found);
    }
    let missing = planned.iter().filter(|spec| !outcomes.contains_key(*spec)).cloned().collect::<Vec<_>>();
    outcomes.extend(missing.into_iter().map(|spec| (spec, Outcome::failed("it was not run"))));
    let failed: Vec<String> =
        outcomes.iter().filter(|(_, o)| !o.passed).map(|(name, o)| format!("{name}: {}", o.note)).collect();
    if let Some(path) = options.report.clone().or_else(|| all.then(|| PAGE_PATH.into())) {
        let run = rig.describe_run()?;
        std::fs::write(&path, page(&run, &outcomes))
            .with_context(|| format!("can't write {}", path.display()))?;
    }
    failed.iter().chain(&broken).for_each(|line| rig.show(line.clone()));
    ensure!(failed.is_empty(), "{} of {} specs failed", failed.len(), outcomes.len());
    ensure!(broken.is_empty(), "{}", broken.join("; "));
    Ok(format!("{} specs passed", outcomes.len()))
}

/// A report that the specs have left.
fn report(rig: &mut Rig, name: &str) -> Result<Vec<u8>> {
    let path = rig.cluster().lab().directory().join(name);
    std::fs::read(&path).with_context(|| format!("the specs left no {name}; see their log"))
}

/// The specs that Ginkgo would run.
fn plan(rig: &mut Rig, focus: &str) -> Result<BTreeSet<String>> {
    let kubectl = rig.kubectl();
    let mut command = specs(&kubectl, "plan", focus, "NOTHING");
    command.arg("--ginkgo.dry-run");
    let finished = kubectl.machine().output(command, Net::Machine, b"")?;
    ensure!(finished.status.success(), "the specs can't be listed: {}", finished.status);
    would_run(&report(rig, "conformance-plan.json")?)
}

/// The program with the specs, told which to run, and that its report shall be called `conformance-NAME.json`.
fn specs(kubectl: &Kubectl, name: &str, focus: &str, skip: &str) -> Command {
    let mut command = kubectl.client("e2e.test");
    command.args([
        "--kubeconfig=/etc/kubernetes/admin.conf",
        "--provider=skeleton",
        "--disable-log-dump",
        "--ginkgo.no-color",
        &format!("--ginkgo.focus={focus}"),
        &format!("--ginkgo.skip={skip}"),
        &format!("--ginkgo.json-report=/lab/conformance-{name}.json"),
    ]);
    command
}

fn start(rig: &mut Rig, number: usize, focus: &str, skip: &str) -> Result<Process> {
    let kubectl = rig.kubectl();
    let mut command = specs(&kubectl, &number.to_string(), focus, skip);
    let log = rig.options().logs.join(format!("conformance-{number}.log"));
    let file = std::fs::File::create(&log).with_context(|| format!("can't make {}", log.display()))?;
    let copy = file.try_clone().context("can't share a log")?;
    command.stdin(Stdio::null()).stdout(file).stderr(copy);
    Ok(kubectl.machine().spawn(command, Net::Machine)?)
}

fn parse(text: &[u8]) -> Result<impl Iterator<Item = Spec>> {
    let reports: Vec<Report> = serde_json::from_slice(text).context("can't read Ginkgo's report")?;
    Ok(reports.into_iter().flat_map(|report| report.spec_reports.unwrap_or_default()))
}

impl Spec {
    /// Its whole name; of what surrounds specs and has none, what it is.
    fn name(&self) -> String {
        let leaf = if self.leaf_node_text.is_empty() { &self.leaf_node_type } else { &self.leaf_node_text };
        let words = self.container_hierarchy_texts.iter().flatten().chain([leaf]);
        words.map(String::as_str).collect::<Vec<_>>().join(" ")
    }

    fn is_one(&self) -> bool {
        self.leaf_node_type == "It"
    }
}

/// The specs that a dry run has named.
fn would_run(text: &[u8]) -> Result<BTreeSet<String>> {
    Ok(parse(text)?.filter(|spec| spec.is_one() && spec.state != "skipped").map(|spec| spec.name()).collect())
}

/// How the specs went that were to be run and belong to this report. Thousands are in it that were not to be run, and specs of
/// another group look the same as those that were passed over: these have said why, or have begun.
fn read(text: &[u8], planned: &BTreeSet<String>) -> Result<BTreeMap<String, Outcome>> {
    let outcomes = parse(text)?.filter_map(|spec| {
        let name = spec.name();
        let message = spec.failure.as_ref().map(|f| f.message.as_str()).unwrap_or_default();
        let note = message.lines().map(str::trim).find(|l| !l.is_empty()).unwrap_or_default();
        let left_out = spec.state == "skipped" && note.is_empty() && spec.run_time == 0;
        let counts = match spec.is_one() {
            true => planned.contains(&name) && !left_out,
            // What surrounds all specs is a node of its own kind, and matters only where it fails.
            false => !["passed", "skipped"].contains(&spec.state.as_str()),
        };
        let passed = spec.state == "passed";
        let note = if passed { note.to_owned() } else { format!("{}: {note}", spec.state) };
        counts.then_some((name, Outcome { passed, seconds: spec.run_time / 1_000_000_000, note }))
    });
    Ok(outcomes.collect())
}

/// Where the page goes after a run of all specs, unless it is said otherwise.
const PAGE_PATH: &str = "docs/conformance.md";
const PAGE: &str = "\
# Conformance

The [sig-network] specs of Kubernetes' own conformance tests, as the last full run of `cargo xtask e2e` left them: Weft installed by
[deploy/kubernetes.yaml](../deploy/kubernetes.yaml) as CNI plugin, DNS server and service proxy, with neither kube-proxy nor CoreDNS.
What was to be run is what Ginkgo lists beforehand; a spec that was skipped, broken off or not run counts as failed.
With the reference plugins, kube-proxy and CoreDNS all of them passed in a cluster of the same parts (another run, by hand).

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

    fn planned() -> BTreeSet<String> {
        let dry = REPORT.replace("failed", "passed");
        let planned = would_run(dry.as_bytes()).unwrap();
        let names = [
            "[sig-network] DNS should resolve [Conformance]",
            "[sig-network] Services should a|b [Conformance]",
        ];
        assert_eq!(planned, names.map(str::to_owned).into());
        planned
    }

    #[test]
    fn a_page_of_a_report() {
        let outcomes = read(REPORT.as_bytes(), &planned()).unwrap();
        assert_eq!(outcomes["[sig-network] DNS should resolve [Conformance]"].seconds, 12);
        let text = page("Today.", &outcomes);
        let table = text.split("\n\n").skip(2).collect::<Vec<_>>().join("\n");
        insta::assert_snapshot!(table, @r"
        Today.
        1 of 2 pass.
        | spec | outcome | note |
        |---|---|---|
        | DNS should resolve | pass |  |
        | Services should a\|b | fail | failed: timed out |
        ");
    }

    #[test]
    fn what_was_to_be_run_and_was_not_has_failed() {
        let check = |from: &str, to: &str, expected: Option<&str>| {
            let text = REPORT.replace(from, to);
            assert_ne!(text, REPORT);
            let outcomes = read(text.as_bytes(), &planned()).unwrap();
            let outcome = outcomes.get("[sig-network] DNS should resolve [Conformance]");
            assert_eq!(outcome.map(|o| (o.passed, o.note.as_str())), expected.map(|note| (false, note)));
        };
        let well = "\"passed\", \"RunTime\": 12500000000";
        check(well, "\"interrupted\", \"RunTime\": 12", Some("interrupted: "));
        check(well, "\"pending\", \"RunTime\": 0", Some("pending: "));
        let words = "\"skipped\", \"RunTime\": 3, \"Failure\": {\"Message\": \"only with GPUs\"}";
        check(well, words, Some("skipped: only with GPUs"));
        // Of another group, or left out after an abort: the whole tells whether it has an outcome anywhere.
        check(well, "\"skipped\", \"RunTime\": 0", None);
    }

    #[test]
    fn what_surrounds_all_specs_counts_where_it_fails() {
        let text = REPORT.replace(
            "\"LeafNodeText\": \"\", \"State\": \"passed\"",
            "\"LeafNodeText\": \"\", \"State\": \"failed\"",
        );
        assert!(!read(text.as_bytes(), &planned()).unwrap()["SynchronizedBeforeSuite"].passed);
    }
}
