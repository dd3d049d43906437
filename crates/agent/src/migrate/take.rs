//! The work itself, in an order in which each step leaves a node that works: no new pods by the other network, a record for
//! each of its pods, then its link; the tunnel and routes; and what nobody needs any more last.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use weft_compile::{Settings, compile};
use weft_dataplane::{Kernel, LinuxKernel, Op, observe_host, order};
use weft_ipam::Boot;
use weft_model::{Attachment, Fact, FactKey, Host, IfName, Vni};
use weft_plan::kernel::TUNNEL_LINK_PREFIX;
use weft_plan::{KernelKey, KernelRow, text};

use super::network::{Kind, Network, aside};
use super::pods::{self, Found, Pods, cache_name};
use super::report::{MovedPod, Report, Standing, Tunnel};
use super::{MigrateError, Places, rules};
use crate::config::AgentConfig;
use crate::records::{RECORDS, Record, Records};

/// flannel's devices are called by their VNI.
const FLANNEL_TUNNEL: &str = "flannel.";
/// Where the bridge plugin's caller keeps flannel's configuration of each pod.
const FLANNEL_STATE: &str = "flannel";

/// What [`all`] would do.
pub(super) fn outlook(
    kernel: &mut LinuxKernel,
    network: &Network,
    found: Pods,
) -> Result<Report, MigrateError> {
    let mut report = begin(network);
    report.stale_leases = found.stale;
    for pod in found.found {
        let standing = match &pod.refused {
            Some(reason) => Standing::Left(reason.clone()),
            None if pod.host == pod.attachment.id.host_link() => Standing::Moved,
            None => Standing::Waits,
        };
        report.pods.push(line(&pod, standing));
    }
    report.tunnel = tunnel(kernel, network)?.map(|(_, tunnel)| tunnel);
    Ok(report)
}

/// Does it all.
pub(super) fn all(
    kernel: &mut LinuxKernel,
    config: &AgentConfig,
    network: &Network,
    places: &Places,
) -> Result<Report, MigrateError> {
    let mut report = begin(network);
    let (settings, host) = (config.settings()?, observe_host()?);
    let (records, _) = Records::open(&config.state_dir.join(RECORDS), &Boot::current()?.id)?;
    set_aside(&network.conflist)?;
    let found = pods::find(kernel, network, places)?;
    for pod in &found.found {
        let standing = match &pod.refused {
            Some(reason) => Standing::Left(reason.clone()),
            None => match pod_moves(kernel, config, &records, pod, (&settings, &host)) {
                Ok(()) => Standing::Moved,
                Err(reason) => Standing::Left(reason),
            },
        };
        report.pods.push(line(pod, standing));
    }
    if let Some((former, tunnel)) = tunnel(kernel, network)? {
        let name = IfName::new(&tunnel.link).map_err(|error| MigrateError::Network {
            path: network.conflist.clone(),
            field: "VNI",
            reason: error.to_string(),
        })?;
        kernel.take_link(former, name)?;
        report.tunnel = Some(tunnel);
    }
    report.routes = kernel.take_routes(&network.cluster)?.iter().map(ToString::to_string).collect();
    tidy(kernel, network, places, &found, &mut report)?;
    report.stale_leases = found.stale;
    Ok(report)
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
    if pod.host != attachment.id.host_link() {
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

/// flannel's tunnel, where it is there and still its own.
fn tunnel(kernel: &mut LinuxKernel, network: &Network) -> Result<Option<(IfName, Tunnel)>, MigrateError> {
    if network.kind != Kind::Flannel {
        return Ok(None);
    }
    let tunnels = kernel.former_tunnels()?;
    let found = tunnels.into_iter().find_map(|former| {
        let number = former.name.as_str().strip_prefix(FLANNEL_TUNNEL)?;
        let vni = Vni::new(former.vni).ok().filter(|vni| number == vni.get().to_string())?;
        let tunnel = Tunnel {
            former_link: former.name.to_string(),
            link: format!("{TUNNEL_LINK_PREFIX}{}", vni.get()),
            vni: vni.get(),
            port: former.port,
        };
        Some((former.name, tunnel))
    });
    Ok(found)
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
        set_aside(&network.leases)?;
    }
    Ok(())
}

/// Renames a file or folder, so that nobody finds it by its name; one that is gone has been set aside before.
fn set_aside(path: &Path) -> Result<(), MigrateError> {
    let to = aside(path);
    match fs::rename(path, &to) {
        Err(source) if source.kind() == ErrorKind::NotFound => Ok(()),
        // Of an earlier migration: what is newer counts.
        Err(source) if matches!(source.kind(), ErrorKind::DirectoryNotEmpty | ErrorKind::AlreadyExists) => {
            fs::remove_dir_all(&to)
                .and_then(|()| fs::rename(path, &to))
                .map_err(|source| MigrateError::Write { path: to, source })
        }
        other => other.map_err(|source| MigrateError::Write { path: to, source }),
    }
}

fn remove(path: &Path) -> Result<(), MigrateError> {
    match fs::remove_file(path) {
        Err(source) if source.kind() != ErrorKind::NotFound => {
            Err(MigrateError::Write { path: path.to_owned(), source })
        }
        _ => Ok(()),
    }
}
