//! What a cluster goes through: an upgrade under load, an API server that is down, a node that loses power.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use weft_lab::kubernetes::Kubectl;

use super::clients::{in_client, pods, restarts, shop_is_ready};
use super::options::Length;
use super::rig::Rig;
use super::{storm, weft};

/// The load in the client's pod, while it runs.
struct Load {
    kubectl: Kubectl,
}

/// Questions so far, by address and by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Tally {
    asked: u64,
    failed: u64,
}

impl Load {
    fn start(kubectl: &Kubectl) -> Result<Self> {
        in_client(kubectl, "rm -f /load/address /load/name; touch /load/go")?;
        let load = Self { kubectl: kubectl.clone() };
        kubectl.wait("the load", Duration::from_secs(20), || {
            load.tally("name")
                .map_err(|e| e.to_string())
                .and_then(|t| if t.asked > 5 { Ok(()) } else { Err("slow".into()) })
        })?;
        Ok(load)
    }

    fn tally(&self, what: &str) -> Result<Tally> {
        let text = in_client(&self.kubectl, &format!("cat /load/{what}"))?;
        let mut numbers = text.split_whitespace().map(str::parse::<u64>);
        match (numbers.next(), numbers.next()) {
            (Some(Ok(asked)), Some(Ok(failed))) => Ok(Tally { asked, failed }),
            _ => anyhow::bail!("the load says {text:?}"),
        }
    }

    /// Ends it; returns what was asked by address and by name.
    fn stop(self) -> Result<[Tally; 2]> {
        in_client(&self.kubectl, "rm /load/go")?;
        // The question that is under way ends within two seconds.
        std::thread::sleep(Duration::from_secs(3));
        Ok([self.tally("address")?, self.tally("name")?])
    }
}

/// What is left of a load's failures is an error.
fn judge([address, name]: [Tally; 2]) -> Result<String> {
    let text = format!(
        "{} of {} requests by address failed, {} of {} by name",
        address.failed, address.asked, name.failed, name.asked
    );
    ensure!(address.failed == 0 && name.failed == 0, "{text}");
    Ok(text)
}

/// A crash costs names for as long as nobody is there to answer, and nothing else.
fn judge_crash([address, name]: [Tally; 2]) -> Result<String> {
    let text = format!(
        "{} of {} requests by address failed, {} of {} by name",
        address.failed, address.asked, name.failed, name.asked
    );
    ensure!(address.failed == 0, "{text}");
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
    rig.cluster().tag(image, &next)?;
    let changed = format!("weft={next}");
    let installed = format!("install={next}");
    let mut outcomes = Vec::new();
    for (what, words) in [
        ("upgrade", vec!["set", "image", "daemonset/weft", &changed, &installed]),
        ("downgrade", vec!["rollout", "undo", "daemonset/weft"]),
    ] {
        let load = Load::start(&kubectl)?;
        let begun = Instant::now();
        kubectl.run(&[&words[..], &["-n", "kube-system"]].concat())?;
        weft::ready(rig)?;
        let took = begun.elapsed().as_secs();
        // What a late answer would show.
        std::thread::sleep(Duration::from_secs(2));
        outcomes.push(judge(load.stop()?).map(|text| format!("{what} in {took} s: {text}")).context(what)?);
    }
    Ok(outcomes.join("; "))
}

/// Step: the API server is down for a while, and an agent starts meanwhile; then a pod is created.
pub fn outage(rig: &mut Rig) -> Result<String> {
    let length = match rig.options().length {
        Length::Quick => Duration::from_secs(30),
        Length::Full => Duration::from_secs(600),
    };
    let kubectl = rig.kubectl();
    // The client is asked through the API server: what it found is read when that is back.
    let load = Load::start(&kubectl)?;
    rig.cluster().control().kill_api_server();
    let begun = Instant::now();
    std::thread::sleep(length / 2);
    kill_agent(rig)?;
    std::thread::sleep(length.saturating_sub(begun.elapsed()));
    rig.cluster().control().start_api_server()?;
    weft::ready(rig)?;
    let text = judge_crash(load.stop()?)?;
    kubectl.run(&["delete", "pod", "db-0", "-n", "shop"])?;
    shop_is_ready(&kubectl)?;
    Ok(format!("{} s down, the client's agent killed meanwhile: {text}", length.as_secs()))
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
