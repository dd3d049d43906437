//! What a cluster goes through: an upgrade under load, an API server that is down, a node that loses power.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use weft_lab::kubernetes::Kubectl;

use super::clients::{in_client, pods, restarts, shop_is_ready};
use super::options::Length;
use super::rig::Rig;
use super::{storm, weft};

/// How long a cluster may take to be well again.
const PATIENCE: Duration = Duration::from_secs(120);

/// What the client's kernel has counted.
const SNMP: &str = "cat /proc/net/snmp";

/// The load in the client's pod, while it runs.
struct Load {
    kubectl: Kubectl,
    /// The pod's volume on its node's disk: it can be read while there is no API server.
    volume: PathBuf,
    /// What had been sent before it began.
    before: Segments,
}

/// Questions so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Tally {
    asked: u64,
    failed: u64,
}

impl Tally {
    /// As the load writes it: `ASKED FAILED`.
    fn read(text: &str) -> Result<Self> {
        let mut numbers = text.split_whitespace().map(str::parse::<u64>);
        match (numbers.next(), numbers.next()) {
            (Some(Ok(asked)), Some(Ok(failed))) => Ok(Self { asked, failed }),
            _ => anyhow::bail!("the load says {text:?}"),
        }
    }

    fn since(self, before: Self) -> Self {
        Self { asked: self.asked - before.asked, failed: self.failed - before.failed }
    }
}

/// What is asked: a service by its address, by its name, and one that keeps its clients to their pods.
const ASKED: [&str; 3] = ["address", "name", "sticky"];
/// In the order of [`ASKED`].
type Tallies = [Tally; 3];

/// Segments that the client's kernel has sent by TCP. One that is lost and sent again fails no question, and counts here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Segments {
    sent: u64,
    again: u64,
}

impl Segments {
    /// Of /proc/net/snmp, `OutSegs` and `RetransSegs`: a line of names, and one of numbers.
    fn read(text: &str) -> Result<Self> {
        let mut tcp = text.lines().filter_map(|line| line.strip_prefix("Tcp:").map(str::split_whitespace));
        let (names, numbers) = (tcp.next().into_iter().flatten(), tcp.next().into_iter().flatten());
        let pairs: BTreeMap<&str, &str> = names.zip(numbers).collect();
        let number = |name: &str| {
            pairs.get(name).and_then(|n| n.parse().ok()).with_context(|| format!("no {name} in {text:?}"))
        };
        Ok(Self { sent: number("OutSegs")?, again: number("RetransSegs")? })
    }

    /// A machine that is busy for longer than a fifth of a second looks like a loss to the sender.
    fn judge(self) -> Result<String> {
        let text = format!("{} of {} segments were sent again", self.again, self.sent);
        ensure!(self.again * 1000 <= self.sent, "{text}: packets were lost");
        Ok(text)
    }
}

impl Load {
    fn start(rig: &Rig) -> Result<Self> {
        let kubectl = rig.kubectl();
        in_client(&kubectl, "rm -f /load/address /load/name /load/sticky; touch /load/go")?;
        let pod = kubectl.get(&["pod", "client", "-n", "shop"])?;
        let uid = pod["metadata"]["uid"].as_str().context("the client's pod has no uid")?;
        let volume = format!("/var/lib/kubelet/pods/{uid}/volumes/kubernetes.io~empty-dir/load");
        let before = Segments::read(&in_client(&kubectl, SNMP)?)?;
        let load = Self { volume: rig.lab().machine("n1")?.path(&volume), kubectl, before };
        load.kubectl.wait("the load", Duration::from_secs(20), || {
            let tallies = load.tallies().map_err(|e| format!("{e:#}"))?;
            if tallies.iter().all(|tally| tally.asked > 5) { Ok(()) } else { Err("slow".into()) }
        })?;
        Ok(load)
    }

    fn tallies(&self) -> Result<Tallies> {
        let read = |what: &str| {
            let path = self.volume.join(what);
            let text = std::fs::read_to_string(&path);
            Tally::read(&text.with_context(|| format!("can't read {}", path.display()))?)
        };
        let [address, name, sticky] = ASKED.map(read);
        Ok([address?, name?, sticky?])
    }

    /// What the client's kernel has sent since the beginning.
    fn segments(&self) -> Result<Segments> {
        let now = Segments::read(&in_client(&self.kubectl, SNMP)?)?;
        Ok(Segments { sent: now.sent - self.before.sent, again: now.again - self.before.again })
    }

    /// Waits until nothing fails for a while; returns what was asked until then.
    fn wait_good(&self) -> Result<Tallies> {
        const WHILE: Duration = Duration::from_secs(5);
        Ok(self.kubectl.wait("a load of which nothing fails", PATIENCE, || {
            let count = || self.tallies().map_err(|e| format!("{e:#}"));
            let before = count()?;
            std::thread::sleep(WHILE);
            let now = count()?;
            let during = difference(now, before);
            if during.iter().all(|tally| tally.asked > 0 && tally.failed == 0) {
                return Ok(now);
            }
            Err(tell(during))
        })?)
    }

    /// Ends it; returns what was asked.
    fn stop(self) -> Result<Tallies> {
        in_client(&self.kubectl, "rm /load/go")?;
        // The question that is under way ends within two seconds.
        std::thread::sleep(Duration::from_secs(3));
        self.tallies()
    }
}

fn difference(now: Tallies, before: Tallies) -> Tallies {
    [now[0].since(before[0]), now[1].since(before[1]), now[2].since(before[2])]
}

fn tell([address, name, sticky]: Tallies) -> String {
    format!(
        "{} of {} requests by address failed, {} of {} by name, {} of {} failed or left their pod",
        address.failed, address.asked, name.failed, name.asked, sticky.failed, sticky.asked
    )
}

/// Any failure of a load is an error.
fn judge(tallies: Tallies) -> Result<String> {
    let text = tell(tallies);
    ensure!(tallies.iter().all(|tally| tally.failed == 0), "{text}");
    Ok(text)
}

/// A crash costs names for as long as nobody is there to answer, and nothing else.
fn judge_crash(tallies: Tallies) -> Result<String> {
    let ([address, name, sticky], text) = (tallies, tell(tallies));
    ensure!(address.failed == 0 && sticky.failed == 0, "{text}");
    // The kubelet starts another agent within seconds, and that one waits three for its store.
    ensure!(name.failed <= 200, "{text}: no agent came back in time");
    Ok(text)
}

/// Step: every agent is replaced by the next version, one after the other, and then by the previous one again, under load.
pub fn upgrade(rig: &mut Rig) -> Result<String> {
    let kubectl = rig.kubectl();
    let set = kubectl.get(&["daemonset", "weft", "-n", "kube-system"])?;
    let image = set["spec"]["template"]["spec"]["containers"][0]["image"].as_str().unwrap_or_default();
    let (next, _) = image.rsplit_once(':').context("the image has no tag")?;
    let next = format!("{next}:next");
    let what_next = match rig.options().next.clone() {
        Some(archive) => {
            rig.cluster().import(&archive)?;
            "another version"
        }
        None => {
            rig.cluster().tag(image, &next)?;
            "the same programs"
        }
    };
    let before = weft::versions(rig)?;
    let changed = format!("weft={next}");
    let installed = format!("install={next}");
    let mut outcomes = Vec::new();
    for (what, words) in [
        ("upgrade", vec!["set", "image", "daemonset/weft", &changed, &installed]),
        ("downgrade", vec!["rollout", "undo", "daemonset/weft"]),
    ] {
        let load = Load::start(rig)?;
        let begun = Instant::now();
        kubectl.run(&[&words[..], &["-n", "kube-system"]].concat())?;
        weft::ready(rig)?;
        let took = begun.elapsed().as_secs();
        // What a late answer would show.
        std::thread::sleep(Duration::from_secs(2));
        let segments = load.segments()?.judge().context(what)?;
        let text = judge(load.stop()?).context(what)?;
        outcomes.push(format!("{what} in {took} s: {text}, {segments}"));
        let now = weft::versions(rig)?;
        let is_other = what == "upgrade" && rig.options().next.is_some();
        ensure!((now != before) == is_other, "{what}: agents are of versions {now:?}, before {before:?}");
    }
    Ok(format!("to {what_next} and back: {}", outcomes.join("; ")))
}

/// Step: the API server is down for a while, and an agent starts meanwhile; then a pod is created.
pub fn outage(rig: &mut Rig) -> Result<String> {
    let length = match rig.options().length {
        Length::Quick => Duration::from_secs(30),
        Length::Full => Duration::from_secs(600),
    };
    let kubectl = rig.kubectl();
    let load = Load::start(rig)?;
    rig.cluster().control().kill_api_server();
    let begun = Instant::now();
    std::thread::sleep(length / 2);
    kill_agent(rig)?;
    std::thread::sleep(length.saturating_sub(begun.elapsed()));
    let during = load.tallies()?;
    rig.cluster().control().start_api_server()?;
    weft::ready(rig)?;
    let after = difference(load.wait_good()?, during);
    load.stop()?;
    let text = judge_crash(during)?;
    kubectl.run(&["delete", "pod", "db-0", "-n", "shop"])?;
    shop_is_ready(&kubectl)?;
    // A controller that finds all leases of nodes old when its server is back calls the nodes lost, and takes their pods out of every
    // service until the kubelets have said otherwise. Weft goes by what the server says, as any proxy does.
    Ok(format!(
        "{} s down, the client's agent killed meanwhile: {text}; while Kubernetes recovered: {}",
        length.as_secs(),
        tell(after)
    ))
}

/// Kills the agent on the first node; its kubelet starts another.
fn kill_agent(rig: &mut Rig) -> Result<()> {
    let machine = rig.lab().machine("n1")?;
    // The number in its lock file is that of its own process namespace: it is found by its program instead.
    let holder = machine.run(
        "sh",
        &[
            "-c",
            "for p in /proc/[0-9]*; do [ \"$(readlink $p/exe)\" = /weft ] && echo ${p#/proc/}; done; true",
        ],
    )?;
    let holder = holder.split_whitespace().next().context("no agent runs on n1")?;
    machine.run("kill", &["-9", holder])?;
    Ok(())
}

/// Step: a node loses power and comes back: its pods start again, each address has one owner, and none is lost.
pub fn reboot(rig: &mut Rig) -> Result<String> {
    let kubectl = rig.kubectl();
    let begun = Instant::now();
    rig.cluster().reboot("n2")?;
    kubectl.wait("pods of n2 that have started again", Duration::from_secs(120), || {
        let pods = pods(&kubectl, "shop").map_err(|e| e.to_string())?;
        let mut there = pods.iter().filter(|pod| pod["spec"]["nodeName"] == "n2");
        if there.all(|pod| restarts(pod) > 0) {
            Ok(())
        } else {
            Err("the API server has their old state".into())
        }
    })?;
    weft::ready(rig)?;
    shop_is_ready(&kubectl)?;
    let took = begun.elapsed();
    let answer = in_client(
        &kubectl,
        "for i in 1 2 3 4 5 6 7 8; do curl -sS -m 2 http://web/hostname >/dev/null || exit 1; done; echo good",
    )?;
    ensure!(answer.trim() == "good", "the shop says {answer:?}");
    storm::no_lease_is_lost(rig)?;
    Ok(format!("the shop was whole again after {:.0} s", took.as_secs_f64()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crash_may_cost_names_and_no_address() {
        let check = |address: &str, name: &str, expected: Option<&str>| {
            let tallies = [address, name, "9 0"].map(|text| Tally::read(text).unwrap());
            assert_eq!(judge_crash(tallies).ok().as_deref(), expected, "{address}, {name}");
        };
        check(
            "90 0",
            "80 4",
            Some("0 of 90 requests by address failed, 4 of 80 by name, 0 of 9 failed or left their pod"),
        );
        check("90 1", "80 0", None);
        check("900 0", "800 201", None);
        assert!(Tally::read("").is_err());
    }

    #[test]
    fn what_failed_later_is_told_apart() {
        let at = |asked, failed| Tally { asked, failed };
        let after = difference([at(30, 2), at(20, 1), at(9, 3)], [at(10, 0), at(15, 1), at(8, 3)]);
        assert_eq!(after, [at(20, 2), at(5, 0), at(1, 0)]);
        assert!(judge(after).is_err());
        assert!(judge([at(20, 0), at(5, 0), at(1, 0)]).is_ok());
    }

    #[test]
    fn segments_are_found_by_their_names() {
        let text = "Ip: Forwarding\nIp: 1\nTcp: RtoMin OutSegs RetransSegs InErrs\nTcp: 200 5310 2 0\nUdp: X\nUdp: 1\n";
        let segments = Segments::read(text).unwrap();
        assert_eq!(segments, Segments { sent: 5310, again: 2 });
        assert_eq!(segments.judge().unwrap(), "2 of 5310 segments were sent again");
        assert!(Segments { sent: 999, again: 1 }.judge().is_err());
        assert!(Segments::read("Tcp: OutSegs\nTcp: 5\n").is_err());
    }
}
