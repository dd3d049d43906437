//! `weft status`: the node at a glance.

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Result, anyhow};
use serde::Deserialize;
use weft_agent::api::is_awaited;
use weft_agent::status::{KernelStatus, PlanStatus, Status};
use weft_agent::trial::Lack;

use crate::cli::StatusArgs;
use crate::output::{Format, Table, on_one_line, print, print_json};
use crate::socket::AgentSocket;

pub fn run(args: &StatusArgs, run_dir: &Path, socket: &AgentSocket, format: Format) -> Result<ExitCode> {
    if (args.or_waiting || args.alive) && is_awaited(run_dir) {
        print("an agent waits to take over\n")?;
        return Ok(ExitCode::SUCCESS);
    }
    if args.alive {
        return alive(socket, format);
    }
    let answer = socket.get("/v1/status")?;
    let status = Status::deserialize(&answer)
        .map_err(|e| anyhow!("the agent answered something else ({e}): is it of another version?"))?;
    match format {
        Format::Json => print_json(&answer)?,
        Format::Text => print(&render(&status, args.leases))?,
    }
    Ok(ExitCode::from(if status.ready { 0 } else { 2 }))
}

fn alive(socket: &AgentSocket, format: Format) -> Result<ExitCode> {
    let answer = socket.get("/v1/alive")?;
    let alive = answer["alive"] == true;
    match format {
        Format::Json => print_json(&answer)?,
        Format::Text if alive => print("the agent works\n")?,
        Format::Text => print("the agent's kernel thread is silent: start the agent anew\n")?,
    }
    Ok(ExitCode::from(if alive { 0 } else { 2 }))
}

fn render(status: &Status, leases: bool) -> String {
    let mut text = head(status);
    let leases = if leases { leases_table(status) } else { String::new() };
    for part in [peers(status), pods(status), health_ports(status), leases] {
        if !part.is_empty() {
            text.push('\n');
            text.push_str(&part);
        }
    }
    let lacks = status.kernel.lacks.iter().flatten();
    let lacks = lacks.map(|Lack { what, text, mend }| format!("{what}: {text}; {mend}")).collect();
    let parts = [("the kernel lacks", &lacks), ("warnings", &status.warnings), ("notices", &status.notices)];
    for (title, lines) in parts {
        if !lines.is_empty() {
            text.push_str(&format!("\n{title}\n"));
            lines.iter().for_each(|line| text.push_str(&format!("  {}\n", on_one_line(line))));
        }
    }
    text
}

fn head(status: &Status) -> String {
    let ready = if status.ready { "ready" } else { "NOT ready" };
    let mut text = format!(
        "node {} is {ready} ({}, weft {}, up {})\n",
        status.node,
        status.phase,
        status.version,
        duration(status.uptime_seconds)
    );
    let mut line = |name: &str, value: String| text.push_str(&format!("{name:<10} {value}\n"));
    if let Some(reason) = &status.not_ready_because {
        line("because", reason.clone());
    }
    if let Some(stale) = &status.stale {
        let ago = std::time::UNIX_EPOCH.elapsed().map_or(0, |now| now.as_secs().saturating_sub(stale.since));
        line("store", format!("not heard of for {}: {}", duration(ago), stale.reason));
    }
    if let Some(plugin) = status.plugin_version.as_ref().filter(|version| **version != status.version) {
        line(
            "plugin",
            format!("weft-cni {plugin}, not the agent's version: `weft install`, or start the agent anew"),
        );
    }
    line("addresses", or_none(&join(&status.addresses)));
    line("pod CIDRs", or_none(&status.pod_cidrs.join(", ")));
    line("plan", plan(&status.plan));
    if !status.kernel.release.is_empty() {
        line("kernel", kernel(&status.kernel));
    }
    let facts = &status.facts;
    line(
        "facts",
        format!(
            "nodes {}, pods {}, services {}, namespaces {}",
            facts.nodes, facts.pods, facts.services, facts.namespaces
        ),
    );
    line("here", format!("pods {}, addresses given out {}", status.pods.len(), status.leases.len()));
    text
}

fn kernel(kernel: &KernelStatus) -> String {
    let said = match (&kernel.lacks, &kernel.untried) {
        (Some(lacks), _) if lacks.is_empty() => "can do all that Weft may ask of it".into(),
        (Some(lacks), _) => {
            format!("LACKS {}", lacks.iter().map(|lack| lack.what.as_str()).collect::<Vec<_>>().join(", "))
        }
        (None, Some(why)) => why.clone(),
        (None, None) => "what it can do is being tried".into(),
    };
    format!("{}, {said}", kernel.release)
}

fn plan(plan: &PlanStatus) -> String {
    let force = match plan.in_force == plan.generation {
        true => "in force".into(),
        false => format!("{} still in force", plan.in_force),
    };
    let refused = match plan.failed {
        0 => String::new(),
        count => format!(", REFUSED by the kernel {count}"),
    };
    let (ms, tenths) = (plan.last_micros / 1000, plan.last_micros % 1000 / 100);
    format!(
        "{}, {force}; kernel rows {}, names {}{refused}; last change: rows {}, messages {}, {ms}.{tenths} ms",
        plan.generation, plan.kernel_rows, plan.names, plan.last_applied, plan.last_messages
    )
}

fn peers(status: &Status) -> String {
    let mut table = Table::new(["PEER", "ADDRESSES", "WAYS"]);
    for peer in &status.peers {
        table.row([peer.name.clone(), lines(&peer.addresses), or_none(&peer.ways.join("\n"))]);
    }
    table.render()
}

fn pods(status: &Status) -> String {
    let mut table = Table::new(["POD", "ADDRESSES", "LINK", "HOST PORTS"]);
    for pod in &status.pods {
        table.row([pod.name.clone(), lines(&pod.addresses), pod.link.clone(), pod.host_ports.join("\n")]);
    }
    table.render()
}

fn health_ports(status: &Status) -> String {
    let mut table = Table::new(["HEALTH PORT", "SERVICE", "ENDPOINTS HERE", "ADDRESSES"]);
    for port in &status.health_ports {
        let addresses = if port.addresses.is_empty() { "all".into() } else { lines(&port.addresses) };
        table.row([port.port.to_string(), port.service.clone(), port.local_endpoints.to_string(), addresses]);
    }
    table.render()
}

fn leases_table(status: &Status) -> String {
    let mut table = Table::new(["LEASE", "NETWORK", "OWNER"]);
    for lease in &status.leases {
        table.row([lease.address.to_string(), lease.network.clone(), lease.owner.clone()]);
    }
    table.render()
}

fn join<T: ToString>(list: &[T]) -> String {
    list.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn lines<T: ToString>(list: &[T]) -> String {
    or_none(&list.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
}

fn or_none(text: &str) -> String {
    if text.is_empty() { "none".into() } else { text.into() }
}

/// The two largest units: `3d 4h`, `12s`.
fn duration(seconds: u64) -> String {
    let parts =
        [(seconds / 86_400, 'd'), (seconds / 3600 % 24, 'h'), (seconds / 60 % 60, 'm'), (seconds % 60, 's')];
    let first = parts.iter().position(|(n, _)| *n > 0).unwrap_or(3);
    let shown = parts[first..].iter().take(2).filter(|(n, _)| *n > 0 || first == 3);
    shown.map(|(n, unit)| format!("{n}{unit}")).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn status() -> Status {
        let value = json!({
            "node": "n1", "version": "0.1.0", "pluginVersion": "0.1.0", "uptimeSeconds": 3700, "phase": "running", "ready": true,
            "addresses": ["192.0.2.1", "2001:db8::1"], "podCidrs": ["default 10.244.1.0/24"],
            "peers": [
                {"name": "n2", "addresses": ["192.0.2.2", "2001:db8::2"],
                 "ways": ["10.244.2.0/24 via 192.0.2.2 dev eth0"]},
                {"name": "n3", "addresses": [], "ways": []},
            ],
            "pods": [{"name": "shop/web-0", "container": "c1", "link": "weftp0123456789",
                      "addresses": ["10.244.1.2"], "hostPorts": ["8080/tcp → 80"]}],
            "leases": [{"network": "default", "address": "10.244.1.2", "owner": "shop/web-0"}],
            "healthPorts": [
                {"port": 31000, "service": "shop/web", "localEndpoints": 1, "addresses": []},
                {"port": 31001, "service": "shop/api", "localEndpoints": 0, "addresses": ["192.0.2.1"]},
            ],
            "facts": {"nodes": 3, "pods": 1, "services": 0, "namespaces": 1},
            "plan": {"generation": 9, "inForce": 9, "kernelRows": 80, "names": 12, "failed": 0,
                     "lastApplied": 3, "lastMessages": 5, "lastMicros": 1250},
            "kernel": {"release": "6.1.0-38-amd64", "lacks": []},
            "warnings": [], "notices": [],
        });
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn a_node_in_good_health() {
        insta::assert_snapshot!(render(&status(), true), @r"
        node n1 is ready (running, weft 0.1.0, up 1h 1m)
        addresses  192.0.2.1, 2001:db8::1
        pod CIDRs  default 10.244.1.0/24
        plan       9, in force; kernel rows 80, names 12; last change: rows 3, messages 5, 1.2 ms
        kernel     6.1.0-38-amd64, can do all that Weft may ask of it
        facts      nodes 3, pods 1, services 0, namespaces 1
        here       pods 1, addresses given out 1

        PEER  ADDRESSES    WAYS
        n2    192.0.2.2    10.244.2.0/24 via 192.0.2.2 dev eth0
              2001:db8::2
        n3    none         none

        POD         ADDRESSES   LINK             HOST PORTS
        shop/web-0  10.244.1.2  weftp0123456789  8080/tcp → 80

        HEALTH PORT  SERVICE   ENDPOINTS HERE  ADDRESSES
        31000        shop/web  1               all
        31001        shop/api  0               192.0.2.1

        LEASE       NETWORK  OWNER
        10.244.1.2  default  shop/web-0
        ");
    }

    #[test]
    fn a_node_with_troubles() {
        let mut status = status();
        status.ready = false;
        status.plugin_version = Some("0.0.9".into());
        status.not_ready_because = Some("the store has not been read; wait".into());
        status.plan.in_force = 8;
        status.plan.failed = 2;
        let lack = |what: &str, mend: &str| Lack {
            what: what.into(),
            text: "3 refused, such as: operation not supported".into(),
            mend: mend.into(),
        };
        status.kernel.lacks =
            Some(vec![lack("VXLAN tunnels", "modprobe vxlan"), lack("routes", "CONFIG_IPV6")]);
        status.peers.clear();
        status.pods.clear();
        status.health_ports.clear();
        status.warnings = vec!["node n1: it has no pod CIDR".into()];
        status.notices = vec!["ingress.yaml: kind Ingress is passed over".into()];
        insta::assert_snapshot!(render(&status, false), @r"
        node n1 is NOT ready (running, weft 0.1.0, up 1h 1m)
        because    the store has not been read; wait
        plugin     weft-cni 0.0.9, not the agent's version: `weft install`, or start the agent anew
        addresses  192.0.2.1, 2001:db8::1
        pod CIDRs  default 10.244.1.0/24
        plan       9, 8 still in force; kernel rows 80, names 12, REFUSED by the kernel 2; last change: rows 3, messages 5, 1.2 ms
        kernel     6.1.0-38-amd64, LACKS VXLAN tunnels, routes
        facts      nodes 3, pods 1, services 0, namespaces 1
        here       pods 0, addresses given out 1

        the kernel lacks
          VXLAN tunnels: 3 refused, such as: operation not supported; modprobe vxlan
          routes: 3 refused, such as: operation not supported; CONFIG_IPV6

        warnings
          node n1: it has no pod CIDR

        notices
          ingress.yaml: kind Ingress is passed over
        ");
    }

    #[test]
    fn durations_have_two_units() {
        let check = |seconds, expected: &str| assert_eq!(duration(seconds), expected);
        check(0, "0s");
        check(59, "59s");
        check(61, "1m 1s");
        check(3600, "1h");
        check(200_000, "2d 7h");
    }
}
