//! The work itself, in an order in which each step leaves a node that works: no new pods by the other network, a record for
//! each of its pods, then its link; the tunnel and routes; and what nobody needs any more last.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use weft_compile::topology::{second_tunnel_link, tunnel_link};
use weft_compile::{Settings, compile};
use weft_dataplane::{Kernel, LinuxKernel, Op, observe_host, order};
use weft_ipam::Boot;
use weft_model::{Attachment, Fact, FactKey, Host, IfName, Network as Described, NetworkName, Overlay, Vni};
use weft_plan::{KernelKey, KernelRow, text};

use super::leases::Held;
use super::network::{Kind, Network, aside};
use super::pods::{self, Found, Pods, cache_name};
use super::report::{MovedPod, Report, Standing, Tunnel};
use super::{MigrateError, Places, rules};
use crate::config::{AgentConfig, StoreConfig};
use crate::records::{RECORDS, Record, Records};

/// flannel's devices are called by their VNI: IPv4's, and IPv6's.
const FLANNEL_TUNNELS: [&str; 2] = ["flannel.", "flannel-v6."];
/// Where the bridge plugin's caller keeps flannel's configuration of each pod.
const FLANNEL_STATE: &str = "flannel";

/// What [`all`] would do.
pub(super) fn outlook(
    kernel: &mut LinuxKernel,
    network: &Network,
    found: Pods,
) -> Result<Report, MigrateError> {
    let mut report = begin(network);
    report.pods = outset(&found);
    report.stale_leases = found.stale;
    report.tunnels = tunnels(kernel, network)?.into_iter().map(|(_, tunnel)| tunnel).collect();
    Ok(report)
}

/// Does it all. Once anything has been done, whatever stops it is part of the report.
pub(super) fn all(
    kernel: &mut LinuxKernel,
    config: &AgentConfig,
    network: &Network,
    places: &Places,
) -> Result<Report, MigrateError> {
    let (settings, host) = (config.settings()?, observe_host()?);
    let boot = Boot::current()?;
    let (records, _) = Records::open(&config.state_dir.join(RECORDS), &boot.id)?;
    let held = Held::open(config, &boot)?;
    let mut work = Work { kernel, config, network, places, settings, host, records, held };
    let mut report = begin(network);
    report.stopped = work.run(&mut report).err().map(|error| error.to_string());
    Ok(report)
}

/// What the work needs at each step.
struct Work<'a> {
    kernel: &'a mut LinuxKernel,
    config: &'a AgentConfig,
    network: &'a Network,
    places: &'a Places,
    settings: Settings,
    host: Host,
    records: Records,
    held: Held,
}

impl Work<'_> {
    /// Each step stands in the report as soon as it is done.
    fn run(&mut self, report: &mut Report) -> Result<(), MigrateError> {
        set_aside(&self.network.conflist, report)?;
        let found = pods::find(self.kernel, self.network, self.places)?;
        report.pods = outset(&found);
        report.stale_leases.clone_from(&found.stale);
        self.held.hold(&found.found.iter().filter(|pod| !pod.is_ours()).collect::<Vec<_>>())?;
        let mut kept = Vec::new();
        for (pod, line) in found.found.iter().zip(&mut report.pods) {
            if pod.refused.is_some() {
                continue;
            }
            let moved = pod_moves(self.kernel, self.config, &self.records, pod, (&self.settings, &self.host));
            line.standing = moved.map_or_else(Standing::Left, |()| Standing::Moved);
            // It is the pod's own by now; a lease too many keeps nobody from moving.
            if line.standing == Standing::Moved
                && let Err(error) = self.held.let_go(&pod.attachment.id)
            {
                kept.push(format!(
                    "{}: its addresses are still held for the former network: {error}",
                    line.pod
                ));
            }
        }
        for (former, tunnel) in tunnels(self.kernel, self.network)? {
            let name = IfName::new(&tunnel.link).map_err(|error| MigrateError::Network {
                path: self.network.conflist.clone(),
                field: "VNI",
                reason: error.to_string(),
            })?;
            self.kernel.take_link(former, name)?;
            report.tunnels.push(tunnel);
        }
        self.kernel.take_routes(&self.network.cluster, |route| report.routes.push(route.to_string()))?;
        // Said also where the rest fails.
        let tidied = tidy(self.kernel, self.network, self.places, &found, report);
        report.left.extend(kept);
        tidied
    }
}

/// How pods stand before anything is done.
fn outset(found: &Pods) -> Vec<MovedPod> {
    let standing = |pod: &Found| match &pod.refused {
        Some(reason) => Standing::Left(reason.clone()),
        None if pod.is_ours() => Standing::Moved,
        None => Standing::Waits,
    };
    found.found.iter().map(|pod| line(pod, standing(pod))).collect()
}

fn begin(network: &Network) -> Report {
    Report {
        from: network.kind.name().into(),
        conflist: network.conflist.clone(),
        bridge: network.bridge.to_string(),
        blocks: network.blocks.iter().map(ToString::to_string).collect(),
        ..Report::default()
    }
}

fn line(pod: &Found, standing: Standing) -> MovedPod {
    MovedPod {
        pod: pod.attachment.owner(),
        addresses: pod.attachment.addresses.clone(),
        former_link: pod.host.to_string(),
        link: pod.attachment.id.host_link().to_string(),
        standing,
    }
}

/// The record, then the link's mark, then the rows: as an agent would, had it found the link unfinished.
fn pod_moves(
    kernel: &mut LinuxKernel,
    config: &AgentConfig,
    records: &Records,
    pod: &Found,
    (settings, host): (&Settings, &Host),
) -> Result<(), String> {
    let record = records.attached(&pod.attachment.id).unwrap_or_else(|| Record {
        attachment: pod.attachment.clone(),
        conf_name: config.cni.network_name.clone(),
    });
    // What an earlier attempt wrote knows more: the runtime's cache may be gone by now.
    records.keep(&record).map_err(|error| error.to_string())?;
    let attachment = &record.attachment;
    crate::crash::point("migrate:recorded");
    if !pod.is_ours() {
        kernel.take_link(pod.host, attachment.id.host_link()).map_err(|error| error.to_string())?;
    }
    crate::crash::point("migrate:taken");
    // The agent follows the network's MTU; until then it stays.
    let now = Attachment { mtu: Some(pod.mtu), ..attachment.clone() };
    let rows = rows(settings.clone(), host.clone(), now);
    let mut batch: Vec<Op<'_>> = rows.iter().map(|(key, row)| Op::set(key, row, None)).collect();
    order::arrange(&mut batch, |_| 0);
    for (op, result) in batch.iter().zip(kernel.apply(&batch)) {
        if let (Op::Set { key, row, .. }, Err(error)) = (op, result) {
            return Err(format!("{}: {error}", text::kernel_row(key, row)));
        }
    }
    Ok(())
}

/// The rows that the pod can't do without: its link, and the routes to it. The agent adds the others.
fn rows(settings: Settings, host: Host, attachment: Attachment) -> Vec<(KernelKey, KernelRow)> {
    let origin = FactKey::Attachment(attachment.id.clone());
    let plan = compile(settings, [Fact::Host(host), Fact::Attachment(attachment)]);
    let rows = plan.kernel.iter().filter(|(key, entry)| {
        *entry.origin == origin && matches!(key, KernelKey::Link(_) | KernelKey::Route(_))
    });
    rows.map(|(key, entry)| (key.clone(), entry.value.clone())).collect()
}

/// flannel's tunnels, where they are there and still its own: one a family. The first is our only one, where nodes are all ours.
fn tunnels(kernel: &mut LinuxKernel, network: &Network) -> Result<Vec<(IfName, Tunnel)>, MigrateError> {
    if network.kind != Kind::Flannel {
        return Ok(Vec::new());
    }
    let mut found: Vec<(IfName, Tunnel)> = Vec::new();
    let former = kernel.former_tunnels()?;
    for prefix in FLANNEL_TUNNELS {
        let of_prefix = former.iter().find_map(|former| {
            let number = former.name.as_str().strip_prefix(prefix)?;
            let vni = Vni::new(former.vni).ok().filter(|vni| number == vni.get().to_string())?;
            Some((former, vni))
        });
        let Some((former, vni)) = of_prefix else { continue };
        let link = if found.is_empty() { tunnel_link(vni) } else { second_tunnel_link(vni) };
        let tunnel = Tunnel {
            former_link: former.name.to_string(),
            link: link.to_string(),
            vni: vni.get(),
            port: former.port,
        };
        found.push((former.name, tunnel));
    }
    Ok(found)
}

/// Refuses where the configuration describes the network otherwise than flannel's tunnel is. Networks stand in it where a Kubernetes cluster
/// is the store; elsewhere the agent looks when it knows them.
pub(super) fn fits(
    kernel: &mut LinuxKernel,
    config: &AgentConfig,
    network: &Network,
) -> Result<(), MigrateError> {
    let StoreConfig::Kubernetes(kubernetes) = &config.store else { return Ok(()) };
    let Some((_, theirs)) = tunnels(kernel, network)?.into_iter().next() else { return Ok(()) };
    is_alike(&kubernetes.network(&NetworkName::ordinary()), &theirs)
}

/// Refuses where the agent would make another tunnel than this of flannel's.
fn is_alike(ours: &Described, theirs: &Tunnel) -> Result<(), MigrateError> {
    if ours.overlay != Overlay::HostGw && (ours.vni.get(), ours.vxlan_port.get()) == (theirs.vni, theirs.port)
    {
        return Ok(());
    }
    let overlay = match ours.overlay {
        Overlay::Auto => "auto",
        Overlay::HostGw => "host-gw",
        Overlay::Vxlan => "vxlan",
    };
    Err(MigrateError::OtherTunnel {
        overlay,
        vni: ours.vni.get(),
        port: ours.vxlan_port.get(),
        tunnel: format!("{} VNI {} and port {}", theirs.former_link, theirs.vni, theirs.port),
    })
}

/// Puts away what only the other network's pods needed, once none is left.
fn tidy(
    kernel: &mut LinuxKernel,
    network: &Network,
    places: &Places,
    found: &Pods,
    report: &mut Report,
) -> Result<(), MigrateError> {
    let moved: Vec<&Found> = found
        .found
        .iter()
        .zip(&report.pods)
        .filter(|(_, line)| line.standing == Standing::Moved)
        .map(|(pod, _)| pod)
        .collect();
    for pod in &moved {
        // Runtimes that go by it would ask the former plugins to delete the pod's network.
        for path in [
            places.cni_state.join("results").join(cache_name(network, &pod.attachment.id)),
            places.cni_state.join(FLANNEL_STATE).join(&*pod.attachment.id.container),
        ] {
            remove(&path)?;
        }
    }
    let containers: Vec<&str> = moved.iter().map(|pod| &*pod.attachment.id.container).collect();
    report.left.extend(rules::clear(&network.name, &containers));
    let ports = kernel.bridge_ports(network.bridge)?;
    for port in ports.iter().flatten() {
        report.left.push(format!(
            "{port} is still on bridge {}: no lease of a running pod is its; end what it belongs to, and try again",
            network.bridge
        ));
    }
    let failed = report.pods.len() - moved.len();
    if failed > 0 {
        report.left.push(format!("{failed} pods stay with the former network: mend what is said of them, or restart them, and try again"));
    }
    if report.left.is_empty() {
        kernel.remove_bridge(network.bridge)?;
        set_aside(&network.leases, report)?;
    }
    Ok(())
}

/// Renames a file or folder, so that nobody finds it by its name; one that is gone has been set aside before.
fn set_aside(path: &Path, report: &mut Report) -> Result<(), MigrateError> {
    let to = aside(path);
    let renamed = match fs::rename(path, &to) {
        Err(source) if source.kind() == ErrorKind::NotFound => return Ok(()),
        // Of an earlier migration: what is newer counts.
        Err(source) if matches!(source.kind(), ErrorKind::DirectoryNotEmpty | ErrorKind::AlreadyExists) => {
            fs::remove_dir_all(&to).and_then(|()| fs::rename(path, &to))
        }
        other => other,
    };
    renamed.map_err(|source| MigrateError::Write { path: to.clone(), source })?;
    report.set_aside.push(to);
    Ok(())
}

fn remove(path: &Path) -> Result<(), MigrateError> {
    match fs::remove_file(path) {
        Err(source) if source.kind() != ErrorKind::NotFound => {
            Err(MigrateError::Write { path: path.to_owned(), source })
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use weft_store::kubernetes::DescribedNetwork;

    use super::*;

    /// What is said of a network that is described so, where flannel's tunnel has this VNI and port.
    fn check(spec: &serde_json::Value, (vni, port): (u32, u16), expected: Result<(), &str>) {
        let mut entry = spec.as_object().unwrap().clone();
        entry.insert("name".into(), "default".into());
        let ours = DescribedNetwork::from_entry(&entry).unwrap().network;
        let former_link = format!("flannel.{vni}");
        let theirs = Tunnel { former_link, link: tunnel_link(Vni::new(vni).unwrap()).to_string(), vni, port };
        let found = is_alike(&ours, &theirs).map_err(|error| error.to_string());
        match expected {
            Ok(()) => assert_eq!(found, Ok(()), "{spec}"),
            Err(part) => assert!(found.as_ref().is_err_and(|text| text.contains(part)), "{spec}: {found:?}"),
        }
    }

    #[test]
    fn a_tunnel_that_flannels_nodes_have_no_way_to_is_refused() {
        // flannel's own choice for Linux.
        let flannels = (1, 8472);
        check(&json!({"overlay": "vxlan", "vni": 1, "vxlanPort": 8472}), flannels, Ok(()));
        // The way to flannel's nodes goes by what flannel says of them.
        check(&json!({"overlay": "auto", "vni": 1, "vxlanPort": 8472}), flannels, Ok(()));
        check(&json!({"vni": 1, "vxlanPort": 8472}), flannels, Ok(()));
        check(&json!({"vni": 4096, "vxlanPort": 4789}), (4096, 4789), Ok(()));
        check(
            &json!({"overlay": "vxlan", "vni": 1, "vxlanPort": 4789}),
            flannels,
            Err("has overlay vxlan, VNI 1 and port 4789, and flannel's tunnel flannel.1 VNI 1 and port 8472"),
        );
        check(
            &json!({"overlay": "vxlan", "vni": 2, "vxlanPort": 8472}),
            flannels,
            Err("VNI 2 and port 8472"),
        );
        check(
            &json!({"overlay": "host-gw", "vni": 1, "vxlanPort": 8472}),
            flannels,
            Err("give it `overlay: vxlan`"),
        );
        // What a network has that says nothing of a tunnel is Weft's choice, and not flannel's.
        check(&json!({}), flannels, Err("has overlay auto"));
    }
}
