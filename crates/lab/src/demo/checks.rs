//! What must work in a cluster: status, names, mapped ports, the way out; and how fast it is.

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use weft_lab::load::{Job, Report, percentile};
use weft_lab::matrix::both;
use weft_lab::probe::{Outcome, Target, Transport};
use weft_lab::resolve::{Kind, Question, Reply};
use weft_lab::runtime::Sandbox;
use weft_lab::topology::{CLIENT, INTERNET};
use weft_lab::weft::DNS;
use weft_lab::{Pod, serve};

use super::cluster::Cluster;
use super::matrix;

/// Step: what each agent says of itself.
pub fn status(cluster: &mut Cluster) -> Result<String> {
    let mut table =
        format!("{:<5} {:<9} {:>5} {:>5} {:>9}  pod CIDRs", "node", "phase", "pods", "peers", "memory");
    let mut problems = Vec::new();
    for (node, agent) in &cluster.agents {
        let status = agent.status()?;
        let text = |key: &str| status[key].as_str().unwrap_or("?").to_owned();
        let count = |key: &str| status[key].as_array().map_or(0, Vec::len);
        let strings = |key: &str| {
            let list = status[key].as_array().into_iter().flatten().filter_map(|v| v.as_str());
            list.collect::<Vec<_>>().join(", ")
        };
        let memory = agent.resident_mb().map_or_else(|| "?".into(), |mb| format!("{mb:.1} MB"));
        let (phase, pods, peers) = (text("phase"), count("pods"), count("peers"));
        let _ =
            write!(table, "\n{node:<5} {phase:<9} {pods:>5} {peers:>5} {memory:>9}  {}", strings("podCidrs"));
        let expected = cluster.pods.values().filter(|p| p.machine().name() == node).count();
        if pods != expected {
            problems.push(format!("{node} says {pods} pods, and has {expected}"));
        }
        if count("warnings") > 0 {
            problems.push(format!("{node} warns: {}", strings("warnings")));
        }
    }
    cluster.show(table);
    if !problems.is_empty() {
        bail!("{}", problems.join("; "));
    }
    Ok(format!("{} agents, no warnings", cluster.agents.len()))
}

/// A question and the records that are right.
struct Name {
    name: String,
    kind: Kind,
    records: Vec<String>,
}

/// Step: names as pods ask for them, at each address of the DNS server.
pub fn names(cluster: &mut Cluster) -> Result<String> {
    let (db0, db1) = (cluster.pod("shop/db-0")?, cluster.pod("shop/db-1")?);
    let expected = names_of_the_shop(db0, db1)?;
    let asking = [cluster.pod("shop/web-2")?, cluster.pod("tools/probe-1")?, db1];
    let mut answers = 0;
    for pod in asking {
        for server in DNS {
            let questions: Vec<Question> = expected
                .iter()
                .map(|n| Question { server: SocketAddr::new(server, 53), name: n.name.clone(), kind: n.kind })
                .collect();
            answers += ask_until_right(cluster, pod, &questions, &expected)?;
        }
    }
    let mut table = String::new();
    for name in &expected {
        let _ = writeln!(table, "{:<46} {:<5} {}", name.name, name.kind, name.records.join(", "));
    }
    cluster.show(table);
    Ok(format!("{answers} answers in 3 pods over both families, all right"))
}

fn ask_until_right(cluster: &Cluster, pod: &Pod, questions: &[Question], expected: &[Name]) -> Result<usize> {
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        let tool = cluster.lab()?.tool();
        let replies: Vec<Reply> = tool.ask(pod.machine(), pod.net(), "resolve", questions)?;
        let wrong: Vec<String> = replies
            .iter()
            .zip(expected)
            .filter(|(reply, name)| reply.records() != name.records || matches!(reply, Reply::Failed(_)))
            .map(|(reply, name)| {
                format!("{} {}: {reply:?} instead of {:?}", name.name, name.kind, name.records)
            })
            .collect();
        if wrong.is_empty() {
            return Ok(replies.len());
        }
        if Instant::now() > deadline {
            bail!("in {} at {}: {}", pod.key(), questions[0].server, wrong.join("; "));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn names_of_the_shop(db0: &Pod, db1: &Pod) -> Result<Vec<Name>> {
    let pick = |pod: &Pod, v4: bool| {
        let found = pod.addresses().iter().find(|a| a.is_ipv4() == v4);
        found.copied().with_context(|| format!("{} lacks a family", pod.key()))
    };
    let (a0, a1, b0, b1) = (pick(db0, true)?, pick(db1, true)?, pick(db0, false)?, pick(db1, false)?);
    let name = |name: &str, kind: Kind, records: &[String]| {
        let mut records = records.to_vec();
        records.sort();
        Name { name: name.into(), kind, records }
    };
    let host = |n: u8| format!("8080 db-{n}.db.shop.svc.cluster.local.");
    Ok(vec![
        name("web.shop.svc.cluster.local", Kind::A, &["10.43.0.80".into()]),
        name("web.shop.svc.cluster.local", Kind::Aaaa, &["fd43::80".into()]),
        name("probe.tools.svc.cluster.local", Kind::A, &["10.43.1.10".into()]),
        name("db.shop.svc.cluster.local", Kind::A, &[a0.to_string(), a1.to_string()]),
        name("db.shop.svc.cluster.local", Kind::Aaaa, &[b0.to_string(), b1.to_string()]),
        name("db-0.db.shop.svc.cluster.local", Kind::A, &[a0.to_string()]),
        name("_http._tcp.db.shop.svc.cluster.local", Kind::Srv, &[host(0), host(1)]),
        name(&reverse(a0), Kind::Ptr, &["db-0.db.shop.svc.cluster.local.".into()]),
        name("nothing.shop.svc.cluster.local", Kind::A, &[]),
        name(serve::INTERNET_NAME, Kind::A, &["203.0.113.10".into()]),
        name(serve::INTERNET_NAME, Kind::Aaaa, &["2001:db8:ffff::a".into()]),
    ])
}

/// The name under which an address's own name is asked for (RFC 1035 §3.5, RFC 3596 §2.5).
fn reverse(address: IpAddr) -> String {
    match address {
        IpAddr::V4(v4) => {
            let [a, b, c, d] = v4.octets();
            format!("{d}.{c}.{b}.{a}.in-addr.arpa")
        }
        IpAddr::V6(v6) => {
            let nibbles = v6.octets().into_iter().rev().flat_map(|o| [o & 0xf, o >> 4]);
            nibbles.map(|n| format!("{n:x}.")).collect::<String>() + "ip6.arpa"
        }
    }
}

/// Step: the ports of n1 that lead to shop/web-1, from everywhere.
pub fn mapped_ports(cluster: &mut Cluster) -> Result<String> {
    let pod = cluster.pod("shop/web-1")?;
    let lab = cluster.lab()?;
    let n1 = lab.topology().machine("n1").context("there is no n1")?;
    let mapped = |ip: IpAddr| {
        [(Transport::Http, 30080), (Transport::Udp, 30081)]
            .map(|(transport, port)| Target::new(transport, SocketAddr::new(ip, port)))
    };
    let from_outside: Vec<Target> = n1.addresses().flat_map(mapped).collect();
    let from_itself: Vec<Target> =
        from_outside.iter().cloned().chain(mapped([127, 0, 0, 1].into())).collect();
    let places = matrix::places(cluster)?;
    let oracle = matrix::oracle(cluster)?;
    let mut answers = 0;
    let mut problems = Vec::new();
    for name in [CLIENT, "n1", "n3", "tools/probe-1", "shop/web-1", "shop/db-1"] {
        let place = places.iter().find(|p| p.name == name).with_context(|| format!("there is no {name}"))?;
        let targets = if name == "n1" { &from_itself } else { &from_outside };
        let outcomes = place.probe(lab.tool(), targets)?;
        let predictions = oracle.predict(&matrix::packets(place, targets))?;
        answers += outcomes.len();
        for ((target, outcome), predicted) in targets.iter().zip(outcomes).zip(predictions) {
            if !predicted.works || outcome.greeting().is_none_or(|g| g.name != pod.key()) {
                let (transport, address, verdict) = (target.transport, target.address, predicted.verdict);
                let works = if predicted.works { "it works" } else { "it doesn't work" };
                problems.push(format!(
                    "{name} → {transport} {address}: {outcome:?}; the oracle: {verdict}, {works}"
                ));
            }
        }
    }
    if !problems.is_empty() {
        bail!("{} of {answers} are wrong: {}", problems.len(), problems.join("; "));
    }
    Ok(format!(
        "{answers} answers of {} as the oracle says: to outside, n1, 127.0.0.1, n3, and pods on n1 and n3, itself among them",
        pod.key()
    ))
}

/// Step: each pod reaches the internet, and is seen there with its node's address.
pub fn internet(cluster: &mut Cluster) -> Result<String> {
    let lab = cluster.lab()?;
    let internet = lab.topology().machine(INTERNET).context("there is no internet")?;
    let targets: Vec<Target> = internet.addresses().flat_map(both).collect();
    let mut problems = Vec::new();
    let mut answers = 0;
    for pod in cluster.pods.values() {
        let node = lab.topology().machine(pod.machine().name()).context("a pod is on no node")?;
        let outcomes: Vec<Outcome> = lab.tool().ask(pod.machine(), pod.net(), "probe", &targets)?;
        for (target, outcome) in targets.iter().zip(outcomes) {
            answers += 1;
            let right = node.address_like(target.address.ip());
            if outcome.greeting().map(|g| g.client.ip()) != right {
                problems.push(format!(
                    "{} → {}: {outcome:?}, not seen as {right:?}",
                    pod.key(),
                    target.address
                ));
            }
        }
    }
    if !problems.is_empty() {
        bail!("{} of {answers} are wrong: {}", problems.len(), problems.join("; "));
    }
    Ok(format!("{answers} answers, each server saw the address of the pod's node"))
}

/// ADDs and DELs that are timed.
const ROUNDS: usize = 25;

/// Step: how long ADD and DEL take on n1.
pub fn speed_of_add(cluster: &mut Cluster) -> Result<String> {
    let runtime = cluster.runtimes.get("n1").context("n1 has no runtime")?;
    let (mut adds, mut dels) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let name = format!("timed-{round}");
        let netns = runtime.create_netns(&name)?;
        let sandbox = Sandbox::new(&name, netns);
        let added = runtime.add(&sandbox);
        let deleted = runtime.del(&sandbox);
        runtime.delete_netns(&name)?;
        adds.push(added?.took.as_secs_f64() * 1000.0);
        dels.push(deleted?.as_secs_f64() * 1000.0);
    }
    let (add50, add99) = (percentile(&mut adds, 50), percentile(&mut adds, 99));
    let (del50, del99) = (percentile(&mut dels, 50), percentile(&mut dels, 99));
    Ok(format!(
        "{ROUNDS} each, with the start of the plugin: ADD {add50:.1} ms (p99 {add99:.1}), DEL {del50:.1} ms (p99 {del99:.1})"
    ))
}

/// Step: throughput and round-trip time on one node, over the shared link, and through the tunnel.
pub fn speed_of_packets(cluster: &mut Cluster) -> Result<String> {
    let from = cluster.pod("shop/web-1")?;
    let ways = [
        ("same node", "tools/probe-1"),
        ("n1 → n2, direct", "tools/probe-2"),
        ("n1 → n3, tunnel", "shop/db-1"),
    ];
    let mut table =
        format!("{:<17} {:>10} {:>12} {:>12}", "from shop/web-1", "TCP Gb/s", "UDP p50 µs", "UDP p99 µs");
    for (name, to) in ways {
        let to =
            cluster.pod(to)?.addresses().iter().copied().find(IpAddr::is_ipv4).context("it lacks IPv4")?;
        let ask = |job: Job| -> Result<Report> {
            Ok(cluster.lab()?.tool().ask(from.machine(), from.net(), "load", &job)?)
        };
        let pump = ask(Job::Pump { server: SocketAddr::new(to, serve::SINK), duration_ms: 1000 })?;
        let ping = ask(Job::PingPong { server: SocketAddr::new(to, serve::UDP), count: 2000 })?;
        let (Report::Pump { bytes, seconds }, Report::PingPong { p50_us, p99_us }) = (&pump, &ping) else {
            bail!("{name}: {pump:?}, {ping:?}");
        };
        ensure!(*seconds > 0.0, "{name}: no time went by");
        // Precision doesn't matter above 2^53 bytes.
        #[allow(clippy::cast_precision_loss)]
        let gigabits = *bytes as f64 * 8.0 / seconds / 1e9;
        let _ = write!(table, "\n{name:<17} {gigabits:>10.1} {p50_us:>12.0} {p99_us:>12.0}");
    }
    cluster.show(table);
    Ok("one TCP stream and one UDP packet at a time, between test servers".into())
}
