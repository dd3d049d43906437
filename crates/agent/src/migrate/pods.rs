//! The other network's pods: leases say which, libcni's cache whose they are, and the namespaces themselves prove it.
//!
//! Source: host-local's layout of leases (`backend/disk`), and libcni's cached results (`libcni/api.go`, `cniCacheV1`).

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::net::IpAddr;
use std::path::Path;

use serde::Deserialize;
use serde_json::Value;
use weft_cni::PortMapping;
use weft_dataplane::{FormerPod, LinuxKernel};
use weft_model::{Attachment, AttachmentId, Family, HostPort, IfName, NetworkName, ObjectKey, PodIdentity};

use super::network::Network;
use super::{MigrateError, Places};
use crate::core::host_port;

/// Largest cached result that is read, in bytes.
const CACHE_LIMIT: u64 = 1 << 20;
/// What leases of old host-local versions leave out.
const FIRST: &str = "eth0";

/// A pod that was found, as it will be ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// What it will be.
    pub attachment: Attachment,
    /// Its host end, under the name that it has now.
    pub host: IfName,
    /// Its MTU now, in bytes.
    pub mtu: u32,
    /// Why it can't be taken over.
    pub refused: Option<String>,
}

impl Found {
    /// True where its link is ours already.
    pub fn is_ours(&self) -> bool {
        self.host == self.attachment.id.host_link()
    }
}

/// See the module.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pods {
    /// Those that run.
    pub found: Vec<Found>,
    /// Leases that nobody running holds.
    pub stale: Vec<IpAddr>,
}

/// What libcni remembers of an ADD. Fields are as its versions have them; none is needed.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Cached {
    #[serde(rename = "netns")]
    netns: Option<String>,
    cni_args: Option<Vec<(String, String)>>,
    capability_args: Value,
    result: Option<CachedResult>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct CachedResult {
    interfaces: Vec<CachedInterface>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct CachedInterface {
    name: String,
    sandbox: String,
}

/// Finds them. Changes nothing.
pub(super) fn find(
    kernel: &mut LinuxKernel,
    network: &Network,
    places: &Places,
) -> Result<Pods, MigrateError> {
    let mut pods = Pods::default();
    for (id, addresses) in leases(&network.leases)? {
        let cached = cached(&places.cni_state, network, &id);
        let Some((netns, end)) = locate(kernel, &id, &addresses, &cached, places) else {
            pods.stale.extend(addresses);
            continue;
        };
        let refused = refusal(network, &id, &end, &addresses);
        let attachment = Attachment {
            network: NetworkName::ordinary(),
            pod: identity(&cached),
            addresses,
            mac: end.mac,
            // As the network says from now on.
            mtu: None,
            host_ports: host_ports(&cached),
            netns,
            id,
        };
        pods.found.push(Found { attachment, host: end.host, mtu: end.mtu, refused });
    }
    Ok(pods)
}

/// Addresses by holder.
fn leases(folder: &Path) -> Result<BTreeMap<AttachmentId, Vec<IpAddr>>, MigrateError> {
    let read = |source| MigrateError::Read { path: folder.to_owned(), source };
    let mut held: BTreeMap<AttachmentId, Vec<IpAddr>> = BTreeMap::new();
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(held),
        entries => entries.map_err(read)?,
    };
    for entry in entries {
        let entry = entry.map_err(read)?;
        let Some(address) = entry.file_name().to_str().and_then(|name| name.parse::<IpAddr>().ok()) else {
            continue;
        };
        // One that a plugin just removed is nobody's.
        let Ok(text) = fs::read_to_string(entry.path()) else { continue };
        let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
        let Some(container) = lines.next() else { continue };
        let Ok(ifname) = IfName::new(lines.next().unwrap_or(FIRST)) else { continue };
        held.entry(AttachmentId { container: container.into(), ifname }).or_default().push(address);
    }
    held.values_mut().for_each(|addresses| addresses.sort());
    Ok(held)
}

fn cached(state: &Path, network: &Network, id: &AttachmentId) -> Cached {
    let path = state.join("results").join(cache_name(network, id));
    let small = fs::metadata(&path).is_ok_and(|data| data.is_file() && data.len() <= CACHE_LIMIT);
    let text = if small { fs::read(&path).unwrap_or_default() } else { Vec::new() };
    serde_json::from_slice(&text).unwrap_or_default()
}

/// libcni's name for an attachment's file.
pub(super) fn cache_name(network: &Network, id: &AttachmentId) -> String {
    format!("{}-{}-{}", network.name, id.container, id.ifname)
}

/// The namespace in which the interface has all of the leased addresses.
fn locate(
    kernel: &mut LinuxKernel,
    id: &AttachmentId,
    addresses: &[IpAddr],
    cached: &Cached,
    places: &Places,
) -> Option<(String, FormerPod)> {
    let interfaces = cached.result.iter().flat_map(|result| &result.interfaces);
    let sandboxes = interfaces.filter(|i| i.name == id.ifname.as_str()).map(|i| i.sandbox.clone());
    let named = cached.netns.clone().into_iter().chain(sandboxes).filter(|path| path.starts_with('/'));
    let listed = places.netns_dirs.iter().filter_map(|folder| fs::read_dir(folder).ok()).flatten().flatten();
    let listed = listed.map(|entry| entry.path().to_string_lossy().into_owned());
    named.chain(listed).find_map(|path| {
        let end = kernel.former_pod(&path, id.ifname).ok()??;
        let all = addresses.iter().all(|wanted| end.addresses.iter().any(|(has, _)| has == wanted));
        all.then_some((path, end))
    })
}

fn refusal(network: &Network, id: &AttachmentId, end: &FormerPod, addresses: &[IpAddr]) -> Option<String> {
    if end.host == id.host_link() {
        return None;
    }
    if end.bridge != Some(network.bridge) {
        let on = end.bridge.map_or_else(|| "no bridge".to_owned(), |bridge| format!("bridge {bridge}"));
        return Some(format!("its host end {} is on {on}, not on {}", end.host, network.bridge));
    }
    if Family::ALL.iter().any(|family| addresses.iter().filter(|a| Family::of(**a) == *family).count() > 1) {
        return Some("it has more than one address of a family; restart it".into());
    }
    None
}

fn identity(cached: &Cached) -> Option<PodIdentity> {
    let args = cached.cni_args.as_deref().unwrap_or_default();
    let value = |key: &str| args.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str());
    let key = ObjectKey::new(value("K8S_POD_NAMESPACE")?, value("K8S_POD_NAME")?).ok()?;
    Some(PodIdentity { key, uid: value("K8S_POD_UID").map(Into::into) })
}

/// Those that can be read: what the former plugins couldn't, they didn't map.
fn host_ports(cached: &Cached) -> Vec<HostPort> {
    let mappings = cached.capability_args["portMappings"].as_array().into_iter().flatten();
    let read = |entry| PortMapping::read(entry, "portMappings".into()).ok().flatten();
    mappings.filter_map(|entry| host_port(&read(entry)?).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leases_are_read_by_holder_and_nothing_else_is() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
        write("10.22.0.2", "c1\r\neth0");
        write("fd22::2", "c1\r\neth0");
        write("10.22.0.3", "c2");
        write("10.22.0.4", "");
        write("last_reserved_ip.0", "10.22.0.4");
        write("lock", "");
        let id = |container: &str| AttachmentId {
            container: container.into(),
            ifname: IfName::new("eth0").unwrap(),
        };
        let ips = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<IpAddr>>();
        let expected = [(id("c1"), ips(&["10.22.0.2", "fd22::2"])), (id("c2"), ips(&["10.22.0.3"]))];
        assert_eq!(leases(folder.path()).unwrap(), BTreeMap::from(expected));
        assert_eq!(leases(&folder.path().join("none")).unwrap(), BTreeMap::new());
    }

    #[test]
    fn a_cached_result_says_whose_the_pod_is() {
        let cached: Cached = serde_json::from_str(
            r#"{"kind": "cniCacheV1", "containerId": "c1", "config": "e30=", "ifName": "eth0", "networkName": "cbr0",
              "netns": "/var/run/netns/c1",
              "cniArgs": [["IgnoreUnknown", "1"], ["K8S_POD_NAMESPACE", "shop"], ["K8S_POD_NAME", "web-0"], ["K8S_POD_UID", "u"]],
              "capabilityArgs": {"portMappings": [{"hostPort": 30080, "containerPort": 80, "protocol": "tcp", "hostIP": ""},
                {"HostPort": 30081, "ContainerPort": 81, "Protocol": "udp", "HostIP": "192.0.2.1"}, {"hostPort": "none"}],
                "dns": {"Servers": []}},
              "result": {"cniVersion": "0.3.1", "interfaces": [{"name": "eth0", "sandbox": "/var/run/netns/c1"}]}}"#,
        )
        .unwrap();
        let pod = identity(&cached).unwrap();
        assert_eq!((pod.key.to_string().as_str(), pod.uid.as_deref()), ("shop/web-0", Some("u")));
        let ports = host_ports(&cached);
        assert_eq!(ports.len(), 2);
        assert_eq!((ports[0].host_port.get(), ports[0].host_ip), (30080, None));
        // In containerd's own words.
        assert_eq!((ports[1].host_port.get(), ports[1].host_ip), (30081, "192.0.2.1".parse().ok()));
        assert_eq!(cached.netns.as_deref(), Some("/var/run/netns/c1"));
        assert!(identity(&Cached::default()).is_none());
    }
}
