//! What a cluster must survive: an agent killed under traffic, a node that dies and returns.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use weft_lab::load::{Job, Report};
use weft_lab::{Pod, serve};

use super::cluster::Cluster;
use super::matrix;

/// Time between the packets that are counted, and how long they go on.
const INTERVAL_US: u64 = 2000;
const DURATION_MS: u64 = 3000;

/// Step: kill -9 of n1's agent while packets pass between its pods and to those of other nodes.
pub fn agent_killed(cluster: &mut Cluster) -> Result<String> {
    let from = cluster.pod("shop/web-1")?;
    let flows = ["tools/probe-1", "shop/web-2", "shop/db-1"]
        .into_iter()
        .flat_map(|to| [(to, Family::V4), (to, Family::V6)])
        .map(|(to, family)| Ok((to, server_of(cluster.pod(to)?, family)?)))
        .collect::<Result<Vec<_>>>()?;
    let lab = cluster.lab()?;
    let node = lab.machine("n1")?;
    let agent = cluster.agents.get("n1").context("n1 has no agent")?;
    let reports = std::thread::scope(|scope| {
        let threads: Vec<_> = flows
            .iter()
            .map(|(to, server)| {
                let job = Job::Echo { server: *server, interval_us: INTERVAL_US, duration_ms: DURATION_MS };
                let ask = move || lab.tool().ask::<_, Report>(from.machine(), from.net(), "load", &job);
                (*to, scope.spawn(ask))
            })
            .collect();
        std::thread::sleep(Duration::from_millis(DURATION_MS / 4));
        agent.kill();
        let joined = threads.into_iter().map(|(to, thread)| (to, thread.join()));
        joined.collect::<Vec<_>>()
    });
    cluster.start_agent(&node)?;
    cluster.wait_ready("n1")?;
    let (mut packets, mut longest) = (0, 0.0_f64);
    for (to, report) in reports {
        match report {
            Ok(Ok(Report::Echo { sent, received, longest_gap_ms })) if sent == received => {
                packets += sent;
                longest = longest.max(longest_gap_ms);
            }
            Ok(report) => bail!("to {to}: {report:?}"),
            Err(_) => bail!("to {to}: the counting itself failed"),
        }
    }
    Ok(format!(
        "{packets} packets in {} flows, 0 lost, longest gap {longest:.0} ms; the agent is back",
        flows.len()
    ))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Family {
    V4,
    V6,
}

fn server_of(pod: &Pod, family: Family) -> Result<SocketAddr> {
    let wanted = |a: &&IpAddr| a.is_ipv4() == (family == Family::V4);
    let address =
        pod.addresses().iter().find(wanted).with_context(|| format!("{} lacks {family:?}", pod.key()))?;
    Ok(SocketAddr::new(*address, serve::UDP))
}

/// Step: n2 loses its power; the others must not care.
pub fn node_dies(cluster: &mut Cluster) -> Result<String> {
    let gone = cluster.kill_node("n2")?;
    let rest = matrix::compare(cluster)?;
    // The smaller matrix is no news.
    cluster.take_tables();
    Ok(format!("n2 and its {gone} pods are gone; the rest: {rest}"))
}

/// Step: n2 boots again, with the disk it had.
pub fn node_returns(cluster: &mut Cluster) -> Result<String> {
    let back = cluster.return_node("n2")?;
    let rest = matrix::compare(cluster)?;
    cluster.take_tables();
    Ok(format!("n2 and its {back} pods are back: {rest}"))
}
