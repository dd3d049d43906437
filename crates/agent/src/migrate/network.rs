//! The network that was here before: what a runtime's configuration says of it, and flannel's own file.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde_json::Value;
use weft_model::{Cidr, IfName};

use super::{MigrateError, Places};
use crate::config::{CniConfig, read_small};

/// What a configuration that was set aside is called beside its name: runtimes read `.conf`, `.conflist` and `.json`.
const ASIDE: &str = "before-weft";
/// The bridge plugin's own choice, and flannel's.
const BRIDGE: &str = "cni0";

/// Who made it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// flannel, which calls the bridge plugin.
    Flannel,
    /// The bridge plugin alone.
    Bridge,
}

impl Kind {
    /// As a report says it.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Flannel => "flannel",
            Kind::Bridge => "bridge",
        }
    }
}

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Network {
    /// Who made it.
    pub kind: Kind,
    /// The configuration, under the name that runtimes know it by.
    pub conflist: PathBuf,
    /// Its name.
    pub name: String,
    /// The bridge that its pods are on.
    pub bridge: IfName,
    /// host-local's leases.
    pub leases: PathBuf,
    /// This node's blocks, where they are known.
    pub blocks: Vec<Cidr>,
    /// The blocks of all nodes' pods; none without flannel.
    pub cluster: Vec<Cidr>,
}

impl Network {
    /// Where the configuration stands when it is set aside.
    pub fn aside(&self) -> PathBuf {
        aside(&self.conflist)
    }
}

/// A path's name once it is set aside.
pub(super) fn aside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(ASIDE);
    name.into()
}

/// The first configuration of another network that can be moved in from, by file name, as runtimes choose; one that was set
/// aside comes after all others.
pub(super) fn find(cni: &CniConfig, places: &Places) -> Result<Option<Network>, MigrateError> {
    let read = |source| MigrateError::Read { path: cni.conf_dir.clone(), source };
    let entries = match fs::read_dir(&cni.conf_dir) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        entries => entries.map_err(read)?,
    };
    let mut active = Vec::new();
    let mut set_aside = Vec::new();
    for entry in entries {
        let path = entry.map_err(read)?.path();
        match path.extension().and_then(|e| e.to_str()) {
            Some("conf" | "conflist" | "json") if path.file_name() != Some(cni.conf_name.as_ref()) => {
                active.push(path);
            }
            Some(ASIDE) => set_aside.push(path),
            _ => {}
        }
    }
    active.sort();
    set_aside.sort();
    for path in active.into_iter().chain(set_aside) {
        let text = read_small(&path).map_err(|source| MigrateError::Read { path: path.clone(), source })?;
        let known_as = match path.extension().is_some_and(|e| e == ASIDE) {
            true => path.with_extension(""),
            false => path,
        };
        if let Some(network) = read_conflist(&known_as, &text, places)? {
            return Ok(Some(network));
        }
    }
    Ok(None)
}

/// Reads a configuration; `None` for networks of other kinds.
fn read_conflist(path: &Path, text: &str, places: &Places) -> Result<Option<Network>, MigrateError> {
    let wrong = |field, reason: String| MigrateError::Network { path: path.to_owned(), field, reason };
    let list: Value = serde_json::from_str(text).map_err(|error| wrong("JSON", error.to_string()))?;
    let plugins = match list["plugins"].as_array() {
        Some(plugins) => plugins.clone(),
        // The older form: one plugin, no list.
        None => vec![list.clone()],
    };
    let of_type = |name: &str| plugins.iter().find(|plugin| plugin["type"] == name);
    let (kind, wiring) = match (of_type("flannel"), of_type("bridge")) {
        (Some(flannel), _) => (Kind::Flannel, &flannel["delegate"]),
        (None, Some(bridge)) => (Kind::Bridge, bridge),
        (None, None) => return Ok(None),
    };
    let ipam = &wiring["ipam"];
    let ipam_type = ipam["type"].as_str().unwrap_or("host-local");
    if ipam_type != "host-local" || (kind == Kind::Bridge && ipam["type"].is_null()) {
        let reason = format!("{} is not host-local: its leases can't be read", ipam["type"]);
        return Err(wrong("ipam.type", reason));
    }
    if kind == Kind::Flannel && wiring["type"].as_str().is_some_and(|wiring| wiring != "bridge") {
        return Err(wrong(
            "delegate.type",
            format!("{} is not bridge: its pods are wired otherwise", wiring["type"]),
        ));
    }
    let name = list["name"].as_str().filter(|name| is_folder_name(name));
    let name = name.ok_or_else(|| wrong("name", format!("{} names no folder of leases", list["name"])))?;
    let bridge = wiring["bridge"].as_str().unwrap_or(BRIDGE);
    let bridge = IfName::new(bridge).map_err(|error| wrong("bridge", error.to_string()))?;
    let leases = ipam["dataDir"].as_str().map_or_else(|| places.cni_state.join("networks"), PathBuf::from);
    let told = match kind {
        Kind::Flannel => subnet_file(&places.subnet_file),
        Kind::Bridge => BTreeMap::new(),
    };
    let of = |keys: [&str; 2]| {
        keys.iter().filter_map(|key| told.get(*key)).filter_map(|text| block(text)).collect()
    };
    Ok(Some(Network {
        kind,
        conflist: path.to_owned(),
        name: name.to_owned(),
        bridge,
        leases: leases.join(name),
        blocks: if kind == Kind::Flannel {
            of(["FLANNEL_SUBNET", "FLANNEL_IPV6_SUBNET"])
        } else {
            subnets(ipam)
        },
        cluster: of(["FLANNEL_NETWORK", "FLANNEL_IPV6_NETWORK"]),
    }))
}

fn is_folder_name(name: &str) -> bool {
    !name.is_empty() && !name.starts_with('.') && !name.contains('/')
}

/// flannel writes the gateway's address with the block's length.
fn block(text: &str) -> Option<Cidr> {
    Cidr::new(text.parse::<ipnet::IpNet>().ok()?.trunc()).ok()
}

/// host-local's blocks: the older `subnet`, or `ranges`, of each of which the first range counts.
fn subnets(ipam: &Value) -> Vec<Cidr> {
    let single = ipam["subnet"].as_str().into_iter();
    let ranges = ipam["ranges"].as_array().into_iter().flatten();
    let ranges = ranges.filter_map(|range| range[0]["subnet"].as_str());
    single.chain(ranges).filter_map(block).collect()
}

/// `NAME=VALUE` lines; empty where there is no such file, as after a reboot.
fn subnet_file(path: &Path) -> BTreeMap<String, String> {
    let text = read_small(path).unwrap_or_default();
    let pair = |line: &str| {
        line.split_once('=').map(|(key, value)| (key.trim().to_owned(), value.trim().to_owned()))
    };
    text.lines().filter_map(pair).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Option<Network>, String> {
        let folder = tempfile::tempdir().unwrap();
        let subnet_file = folder.path().join("subnet.env");
        let told = "FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET=10.244.3.1/24\nFLANNEL_MTU=1450\n";
        fs::write(&subnet_file, told).unwrap();
        let places = Places { subnet_file, ..Places::default() };
        read_conflist(Path::new("/etc/cni/net.d/10-x.conflist"), text, &places).map_err(|e| e.to_string())
    }

    #[test]
    fn flannel_and_bridge_are_known_and_others_are_not() {
        let flannel = r#"{"name": "cbr0", "cniVersion": "0.3.1", "plugins": [{"type": "flannel", "delegate":
            {"hairpinMode": true, "isDefaultGateway": true}}, {"type": "portmap", "capabilities": {"portMappings": true}}]}"#;
        let network = read(flannel).unwrap().unwrap();
        assert_eq!((network.kind, network.bridge.as_str()), (Kind::Flannel, "cni0"));
        assert_eq!(network.leases, Path::new("/var/lib/cni/networks/cbr0"));
        assert_eq!(network.blocks, ["10.244.3.0/24".parse().unwrap()]);
        assert_eq!(network.cluster, ["10.244.0.0/16".parse().unwrap()]);
        let bridge = r#"{"name": "pods", "type": "bridge", "bridge": "br7", "ipam": {"type": "host-local", "dataDir": "/l",
            "ranges": [[{"subnet": "10.22.0.0/16"}], [{"subnet": "fd22::/64"}]]}}"#;
        let network = read(bridge).unwrap().unwrap();
        assert_eq!((network.kind, network.bridge.as_str()), (Kind::Bridge, "br7"));
        assert_eq!(network.leases, Path::new("/l/pods"));
        assert_eq!(network.blocks, ["10.22.0.0/16", "fd22::/64"].map(|text| text.parse().unwrap()));
        assert!(network.cluster.is_empty());
        assert_eq!(read(r#"{"name": "x", "plugins": [{"type": "ptp"}]}"#), Ok(None));
    }

    #[test]
    fn what_cannot_be_moved_in_from_names_file_and_field() {
        let check = |text: &str, expected: &str| {
            let said = read(text).unwrap_err();
            assert!(said.contains(expected) && said.contains("10-x.conflist"), "{said}");
        };
        check(r#"{"name": "x", "type": "bridge", "ipam": {"type": "dhcp"}}"#, "ipam.type: \"dhcp\"");
        check(r#"{"name": "x", "type": "bridge"}"#, "ipam.type: null");
        check(r#"{"name": "../x", "type": "flannel"}"#, "name: \"../x\"");
        check(
            r#"{"name": "x", "type": "flannel", "delegate": {"type": "ipvlan"}}"#,
            "delegate.type: \"ipvlan\"",
        );
        check("{", "JSON");
    }
}
