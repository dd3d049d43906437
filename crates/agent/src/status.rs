//! What `weft status` shows: a snapshot of the node as plain data.
//!
//! What always holds: all of it is of one moment between two messages of the core, and taking it changes nothing. The command reads
//! it by the same types, and may be of another version: fields that came later have a default.
//!
//! What is absent: how it is printed (the command), and what was before.

use std::net::IpAddr;
use std::time::{Instant, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use weft_compile::Context;
use weft_compile::topology::Way;
use weft_model::{Family, Node};
use weft_plan::{Entry, HealthKey, HealthRow, Listen};

use crate::core::{Core, Phase};
use crate::trial::Lack;

/// The whole.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// This node's name.
    pub node: String,
    /// The agent's version.
    pub version: String,
    /// The version of the plugin that called last, where one has, and said it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plugin_version: Option<String>,
    /// Seconds since the agent started.
    pub uptime_seconds: u64,
    /// `waiting`, `applying` or `running`.
    pub phase: String,
    /// Whether a pod could be attached now.
    pub ready: bool,
    /// Why not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_ready_because: Option<String>,
    /// Since when the store can't be reached (seconds since 1970), and why.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stale: Option<Stale>,
    /// This node's addresses.
    pub addresses: Vec<IpAddr>,
    /// Its pod CIDRs, `network cidr`.
    pub pod_cidrs: Vec<String>,
    /// The other nodes.
    pub peers: Vec<Peer>,
    /// Pods that are attached here.
    pub pods: Vec<Pod>,
    /// Addresses given out, and to whom.
    pub leases: Vec<Lease>,
    /// Ports at which load balancers ask for services.
    #[serde(default)]
    pub health_ports: Vec<HealthPort>,
    /// Facts by kind.
    pub facts: Facts,
    /// The plan.
    pub plan: PlanStatus,
    /// The kernel; older agents don't tell of it.
    #[serde(default)]
    pub kernel: KernelStatus,
    /// Things to mend.
    pub warnings: Vec<String>,
    /// Things to know.
    pub notices: Vec<String>,
}

/// An outage of the store.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Stale {
    /// Since when, in seconds since 1970.
    pub since: u64,
    /// Why.
    pub reason: String,
}

/// Another node, as seen from here.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Peer {
    /// Its name.
    pub name: String,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// Its pod CIDRs, each with the way there: `10.244.2.0/24 via 192.0.2.2 dev eth0`.
    pub ways: Vec<String>,
}

/// A pod here.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Pod {
    /// `namespace/name`, or the container's id.
    pub name: String,
    /// The runtime's container id.
    pub container: String,
    /// Host end.
    pub link: String,
    /// Addresses.
    pub addresses: Vec<IpAddr>,
    /// Port mappings, `8080/tcp → 80`.
    pub host_ports: Vec<String>,
}

/// An address given out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Lease {
    /// The network.
    pub network: String,
    /// The address.
    pub address: IpAddr,
    /// Who holds it.
    pub owner: String,
}

/// What load balancers hear at a port.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HealthPort {
    /// The port.
    pub port: u16,
    /// `namespace/name` of the service.
    pub service: String,
    /// Its ready endpoints on this node.
    pub local_endpoints: u32,
    /// The addresses at which it is answered; none for all.
    pub addresses: Vec<IpAddr>,
}

/// Numbers of facts.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Facts {
    /// Nodes.
    pub nodes: usize,
    /// Pods.
    pub pods: usize,
    /// Services.
    pub services: usize,
    /// Namespaces.
    pub namespaces: usize,
}

/// The plan and how far the kernel is.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PlanStatus {
    /// Its generation.
    pub generation: u64,
    /// The generation in force.
    pub in_force: u64,
    /// Kernel rows.
    pub kernel_rows: usize,
    /// Names.
    pub names: usize,
    /// Kernel rows that are refused.
    pub failed: usize,
    /// Rows that the last change set or removed.
    pub last_applied: usize,
    /// Netlink messages that it took.
    pub last_messages: u64,
    /// Microseconds that it took.
    pub last_micros: u64,
}

/// What this kernel can do, tried out when the agent started.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct KernelStatus {
    /// Its version, as `uname -r` has it.
    pub release: String,
    /// What it refuses of all that Weft may ask of one, whether or not this cluster needs it; `None` where that isn't known.
    pub lacks: Option<Vec<Lack>>,
    /// Why that isn't known, where it was tried.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub untried: Option<String>,
}

impl Status {
    /// Looks at the core.
    pub fn of(core: &Core) -> Self {
        let ready = core.ready_for("default");
        let facts = core.facts();
        let context = Context { settings: core.compiler().settings(), facts };
        let own = context.own_node();
        let mut peers: Vec<Peer> =
            facts.nodes().filter(|node| node.name != *core.node()).map(|node| peer(node, &context)).collect();
        peers.sort_by(|a, b| a.name.cmp(&b.name));
        let leases = core.leases().flat_map(|(network, leases)| {
            leases.into_iter().map(move |lease| Lease {
                network: network.to_string(),
                address: lease.address,
                owner: lease.owner.to_string(),
            })
        });
        Self {
            node: core.node().to_string(),
            version: crate::VERSION.into(),
            plugin_version: core.plugin_version().map(str::to_owned),
            uptime_seconds: Instant::now().duration_since(core.started()).as_secs(),
            phase: match core.phase() {
                Phase::Waiting => "waiting",
                Phase::Applying => "applying",
                Phase::Running => "running",
            }
            .into(),
            ready: ready.is_ok(),
            not_ready_because: ready.err().map(|error| match error.details.as_str() {
                "" => error.msg,
                details => format!("{}; {details}", error.msg),
            }),
            stale: core.stale().map(|(since, reason)| Stale {
                since: since.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs()),
                reason: reason.clone(),
            }),
            addresses: own.map(|node| node.addresses.iter().map(|a| a.ip).collect()).unwrap_or_default(),
            pod_cidrs: own
                .map(|node| node.pod_cidrs.iter().map(|b| format!("{} {}", b.network, b.cidr)).collect())
                .unwrap_or_default(),
            peers,
            pods: core.attached().map(|record| pod(&record.attachment)).collect(),
            leases: leases.collect(),
            health_ports: health_ports(core),
            facts: Facts {
                nodes: facts.nodes().count(),
                pods: facts.pods().count(),
                services: facts.services().count(),
                namespaces: facts.namespaces().count(),
            },
            plan: plan_status(core),
            kernel: kernel_status(core),
            warnings: core.warnings(),
            notices: core.notices(),
        }
    }
}

fn health_ports(core: &Core) -> Vec<HealthPort> {
    let Ok(plan) = core.plans().kernel.read() else { return Vec::new() };
    let port = |(key, entry): (&HealthKey, &Entry<HealthRow>)| HealthPort {
        port: key.port.get(),
        service: entry.value.service.to_string(),
        local_endpoints: entry.value.local_endpoints,
        addresses: match &entry.value.listen {
            Listen::Everywhere => Vec::new(),
            Listen::At(addresses) => addresses.to_vec(),
        },
    };
    plan.health.sorted().into_iter().map(port).collect()
}

fn plan_status(core: &Core) -> PlanStatus {
    let last = core.last_report();
    let names = core.plans().names.read().map_or(0, |plan| plan.names.len());
    let (generation, kernel_rows) =
        core.plans().kernel.read().map_or((0, 0), |plan| (plan.generation, plan.kernel.len()));
    PlanStatus {
        generation,
        in_force: core.generation_in_force(),
        kernel_rows,
        names,
        failed: core.failed().len(),
        last_applied: last.applied,
        last_messages: last.messages,
        last_micros: u64::try_from(last.took.as_micros()).unwrap_or(u64::MAX),
    }
}

fn kernel_status(core: &Core) -> KernelStatus {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let (lacks, untried) = match core.tried() {
        None => (None, None),
        Some(Ok(lacks)) => (Some(lacks.clone()), None),
        Some(Err(refused)) => (None, Some(refused.to_string())),
    };
    KernelStatus { release: release.trim().into(), lacks, untried }
}

fn peer(node: &Node, context: &Context<'_>) -> Peer {
    let ways = node.pod_cidrs.iter().map(|block| {
        let network = context.facts.network_or_default(&block.network);
        match context.way(node, &network, Family::of(block.cidr.first())) {
            Way::Direct { via, link } => format!("{} via {via} dev {link}", block.cidr),
            Way::Tunnel { underlay } => {
                format!(
                    "{} through {} to {underlay}",
                    block.cidr,
                    weft_compile::topology::tunnel_link(network.vni)
                )
            }
            Way::None(why) => format!("{}: no way, {why}", block.cidr),
        }
    });
    Peer {
        name: node.name.to_string(),
        addresses: node.addresses.iter().map(|a| a.ip).collect(),
        ways: ways.collect(),
    }
}

fn pod(attachment: &weft_model::Attachment) -> Pod {
    let port = |port: &weft_model::HostPort| {
        let at = port.host_ip.map_or(String::new(), |ip| format!("{ip} "));
        format!("{at}{}/{} → {}", port.host_port, port.protocol, port.container_port)
    };
    Pod {
        name: attachment.owner(),
        container: attachment.id.container.to_string(),
        link: attachment.id.host_link().to_string(),
        addresses: attachment.addresses.clone(),
        host_ports: attachment.host_ports.iter().map(port).collect(),
    }
}
