//! A node's configuration file: YAML, every field optional but `store`.
//!
//! What always holds: an unknown field, a value of the wrong type, a relative path or an address that is no machine's is an error
//! with file and field, and then there is no configuration at all. What is left out has the default that `examples/agent.yaml` shows.
//!
//! What is absent: a look at what is named. Folders, servers, certificates and resolvers are tried by who uses them. And watching:
//! a running agent doesn't read the file again.

use std::io::{self, Read};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use weft_compile::{DnsSettings, PodNames, ServiceSettings, Settings};
use weft_model::{Cidr, IfName, NodeName, Port, PortRange, Protocol, machine_address};
use weft_plan::DnsName;
use weft_store::kubernetes::PodScope;

mod kubernetes;

pub use kubernetes::KubernetesConfig;

mod dns;

pub use dns::{DnsConfig, PodNamesConfig};

mod etcd;

pub use etcd::EtcdConfig;

mod links;

pub use links::Absent;

mod resolver;

pub use resolver::Resolver;

mod words;

/// The DNS server's port, and resolvers'.
const DNS_PORT: u16 = 53;
/// Where node ports lie unless somebody says otherwise, as with an API server.
const NODE_PORTS: &str = "30000-32767";

/// Where the cluster's facts come from. One field is set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum StoreConfig {
    /// A folder of Kubernetes YAML, shared by the cluster's nodes.
    Directory(PathBuf),
    /// The API server of a Kubernetes cluster.
    Kubernetes(KubernetesConfig),
    /// Keys of etcd.
    Etcd(EtcdConfig),
}

/// How container runtimes find us.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct CniConfig {
    /// Folder of network configurations.
    pub conf_dir: PathBuf,
    /// File name of ours in it; runtimes take the first by name.
    pub conf_name: String,
    /// Network name in it.
    pub network_name: String,
    /// Where leases lie, in host-local's layout.
    pub lease_dir: PathBuf,
    /// How long an ADD may take, in milliseconds.
    pub deadline_ms: u64,
}

impl Default for CniConfig {
    fn default() -> Self {
        Self {
            conf_dir: "/etc/cni/net.d".into(),
            conf_name: "10-weft.conflist".into(),
            network_name: "weft".into(),
            lease_dir: "/var/lib/cni/networks/weft".into(),
            deadline_ms: 20_000,
        }
    }
}

/// Service addresses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct ServicesConfig {
    /// Whether Weft leads packets to services' addresses. Without, what it made for them is removed.
    pub enabled: bool,
    /// The `service.kubernetes.io/service-proxy-name` of the services that are ours; otherwise those without one.
    pub proxy_name: Option<Arc<str>>,
    /// Blocks in which the node's addresses must be to serve node ports; empty means all of them.
    pub node_port_addresses: Vec<Cidr>,
    /// The ports that node ports and services' health ports are taken from; 30000 to 32767 where it is not given. Not for a
    /// Kubernetes cluster, whose API server has a range of its own.
    pub node_port_range: Option<PortRange>,
    /// The TCP port, at all of the node's addresses, at which it says how it does: `/healthz` and `/livez`. 0 for none.
    pub health_port: u16,
}

impl Default for ServicesConfig {
    fn default() -> Self {
        // As kube-proxy has it.
        Self {
            enabled: true,
            proxy_name: None,
            node_port_addresses: Vec::new(),
            node_port_range: None,
            health_port: 10_256,
        }
    }
}

/// Checks a label's value by the API server's rule.
fn label_value(value: &str) -> Result<(), String> {
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    let ends = [value.bytes().next(), value.bytes().next_back()];
    let is_fine = value.len() <= 63
        && value.bytes().all(inner)
        && ends.into_iter().all(|end| end.is_some_and(|b| b.is_ascii_alphanumeric()));
    match is_fine {
        true => Ok(()),
        false => Err(format!(
            "{value:?} is no label's value: it has 1 to 63 letters, digits and -_. in between; leave it out for services without the label"
        )),
    }
}

impl ServicesConfig {
    /// The ports that services may have of the node's own. What an API server has taken in lies in its range, whichever that is
    /// (`--service-node-port-range`); what stands in a folder or in etcd nobody has looked at.
    fn node_ports(&self, store: &StoreConfig) -> Option<PortRange> {
        match store {
            StoreConfig::Kubernetes(_) => None,
            StoreConfig::Directory(_) | StoreConfig::Etcd(_) => {
                self.node_port_range.or_else(|| NODE_PORTS.parse().ok())
            }
        }
    }
}

/// The whole file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AgentConfig {
    /// This node's name; the host's name where it is not given.
    #[serde(default)]
    pub node: Option<NodeName>,
    /// Where facts come from.
    pub store: StoreConfig,
    /// This node's addresses, the preferred first; otherwise those of the link with the default route.
    #[serde(default)]
    pub addresses: Vec<IpAddr>,
    /// The link that peers are reached by; otherwise that of the default route.
    #[serde(default)]
    pub uplink: Option<IfName>,
    /// What must survive a restart.
    #[serde(default = "default_state_dir")]
    pub state_dir: PathBuf,
    /// The socket and the lock.
    #[serde(default = "default_run_dir")]
    pub run_dir: PathBuf,
    /// Container runtimes.
    #[serde(default)]
    pub cni: CniConfig,
    /// Names.
    #[serde(default)]
    pub dns: DnsConfig,
    /// Services.
    #[serde(default)]
    pub services: ServicesConfig,
}

fn default_state_dir() -> PathBuf {
    "/var/lib/weft".into()
}

fn default_run_dir() -> PathBuf {
    "/run/weft".into()
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file can't be read.
    #[error("cannot read the configuration {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// The file is not a configuration.
    #[error("{}: {}{reason}", path.display(), prefix(field))]
    Parse {
        /// The file.
        path: PathBuf,
        /// The field's path; empty where it is about the whole.
        field: String,
        /// What is wrong, with line and field.
        reason: String,
    },
    /// A field's value can't be used.
    #[error("{}: {field}: {reason}", path.display())]
    Value {
        /// The file.
        path: PathBuf,
        /// The field.
        field: &'static str,
        /// What is wrong with it, and what to write.
        reason: String,
    },
    /// The host's name is no node name.
    #[error("the host's name is no node name ({0}); set `node` in the configuration")]
    HostName(String),
}

fn prefix(field: &str) -> String {
    if field.is_empty() { String::new() } else { format!("{field}: ") }
}

/// Largest configuration file, in bytes.
const LIMIT: u64 = 64 * 1024;

/// A configuration file's text: a regular file of at most 64 KiB, as devices and pipes may never end.
///
/// # Errors
/// The system's, or one that says which of the two it is not.
pub fn read_small(path: &Path) -> io::Result<String> {
    if !std::fs::metadata(path)?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no regular file"));
    }
    let mut text = String::new();
    std::fs::File::open(path)?.take(LIMIT + 1).read_to_string(&mut text)?;
    if text.len() as u64 > LIMIT {
        let reason = format!("it is longer than {} KiB", LIMIT / 1024);
        return Err(io::Error::new(io::ErrorKind::InvalidData, reason));
    }
    Ok(text)
}

/// The configuration; an error has its field's path and what is wrong there.
fn parse(text: &str) -> Result<AgentConfig, (String, String)> {
    let mut field = String::new();
    let parsed = serde_saphyr::with_deserializer_from_str(text, |from| {
        serde_path_to_error::deserialize(from).map_err(|error| {
            field = error.path().to_string();
            error.into_inner()
        })
    });
    parsed.map_err(|error| {
        // A path of nothing is a dot; of what the parser itself refuses, a question mark.
        let field = field.trim_start_matches('.').trim_end_matches('?').trim_end_matches('.').to_owned();
        let reason = words::plainly(&error, &field);
        (field, reason)
    })
}

impl AgentConfig {
    /// Reads a file.
    ///
    /// # Errors
    /// [`ConfigError`], naming the file, the line and the field.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let text = read_small(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        let config: Self = parse(&text).map_err(|(field, reason)| ConfigError::Parse {
            path: path.to_owned(),
            field,
            reason,
        })?;
        config.check().map_err(|(field, reason)| ConfigError::Value {
            path: path.to_owned(),
            field,
            reason,
        })?;
        Ok(config)
    }

    /// What the types let pass: the field, and what is wrong with its value.
    fn check(&self) -> Result<(), (&'static str, String)> {
        let mut paths = match &self.store {
            StoreConfig::Directory(directory) => vec![("store.directory", directory)],
            StoreConfig::Kubernetes(kubernetes) => {
                let node = self.node_name().map_err(|error| ("node", error.to_string()))?;
                kubernetes.options(node, self.pods())?;
                kubernetes.files().collect()
            }
            StoreConfig::Etcd(etcd) => {
                etcd.options()?;
                etcd.files().collect()
            }
        };
        paths.extend([
            ("stateDir", &self.state_dir),
            ("runDir", &self.run_dir),
            ("cni.confDir", &self.cni.conf_dir),
            ("cni.leaseDir", &self.cni.lease_dir),
        ]);
        for (field, path) in paths {
            if !path.is_absolute() {
                // Runtimes call the plugin in folders of their own.
                return Err((field, format!("{:?} is no absolute path; begin it with /", path.display())));
            }
        }
        if self.cni.conf_name.starts_with('.')
            || self.cni.conf_name.contains('/')
            || !self.cni.conf_name.ends_with(".conflist")
        {
            let reason = format!("{:?} must be a file's name that ends in .conflist", self.cni.conf_name);
            return Err(("cni.confName", reason));
        }
        if self.dns.enabled && self.services.enabled && self.services.health_port == DNS_PORT {
            let reason = format!("{DNS_PORT} is where names are answered; write another port, or 0 for none");
            return Err(("services.healthPort", reason));
        }
        self.dns.check()?;
        if let Some(name) = &self.services.proxy_name {
            label_value(name).map_err(|reason| ("services.proxyName", reason))?;
        }
        if matches!(self.store, StoreConfig::Kubernetes(_)) && self.services.node_port_range.is_some() {
            let reason = "the cluster's API server bounds node ports (its --service-node-port-range); leave it out here";
            return Err(("services.nodePortRange", reason.to_owned()));
        }
        // The specification's own rule for names (section 1, "Network configuration format").
        let name = self.cni.network_name.as_bytes();
        let allowed = |byte: &u8| byte.is_ascii_alphanumeric() || b"_.-".contains(byte);
        if !name.first().is_some_and(u8::is_ascii_alphanumeric) || !name.iter().all(allowed) {
            let reason = format!(
                "{:?} must begin with a letter or digit, and have letters, digits and _.- only",
                self.cni.network_name
            );
            return Err(("cni.networkName", reason));
        }
        let addresses = [
            ("addresses", &self.addresses),
            ("dns.clusterAddresses", &self.dns.cluster_addresses),
            ("dns.linkLocal", &self.dns.link_local),
        ];
        for (field, address) in addresses.into_iter().flat_map(|(f, list)| list.iter().map(move |a| (f, a))) {
            machine_address(*address).map_err(|error| (field, error.to_string()))?;
        }
        Ok(())
    }

    /// The pods that the plan has a use for. Names of pods elsewhere are checked against pods elsewhere; nothing else is.
    pub fn pods(&self) -> PodScope {
        match self.dns.pod_names {
            PodNamesConfig::Verified if self.dns.enabled => PodScope::All,
            _ => PodScope::Own,
        }
    }

    /// The node's name.
    ///
    /// # Errors
    /// Where none is given and the host's isn't one.
    pub fn node_name(&self) -> Result<NodeName, ConfigError> {
        if let Some(name) = &self.node {
            return Ok(name.clone());
        }
        let name = nix::unistd::gethostname().map_err(|error| ConfigError::HostName(error.to_string()))?;
        NodeName::new(&name.to_string_lossy().to_lowercase())
            .map_err(|error| ConfigError::HostName(error.to_string()))
    }

    /// What `compile` needs to know.
    ///
    /// # Errors
    /// As [`AgentConfig::node_name`].
    pub fn settings(&self) -> Result<Settings, ConfigError> {
        let mut settings = Settings::new(self.node_name()?);
        let pod_names = match self.dns.pod_names {
            PodNamesConfig::Disabled => PodNames::Disabled,
            PodNamesConfig::Insecure => PodNames::Insecure,
            PodNamesConfig::Verified => PodNames::Verified,
        };
        settings.dns = DnsSettings {
            zone: DnsName::new(&self.dns.cluster_domain),
            addresses: self.dns_addresses(),
            pod_names,
        };
        settings.services = self.services.enabled.then(|| ServiceSettings {
            proxy_name: self.services.proxy_name.clone(),
            node_port_addresses: self.services.node_port_addresses.clone(),
            node_ports: self.services.node_ports(&self.store),
        });
        settings.open_ports.extend(self.health_port().map(|port| (Protocol::Tcp, port)));
        Ok(settings)
    }

    /// The port at which the node says how it does; none where it serves no services, or was told not to.
    pub fn health_port(&self) -> Option<Port> {
        Port::new(u32::from(self.services.health_port)).ok().filter(|_| self.services.enabled)
    }

    /// Addresses of the node's DNS server; none without one.
    pub fn dns_addresses(&self) -> Vec<IpAddr> {
        if !self.dns.enabled {
            return Vec::new();
        }
        let mut addresses: Vec<IpAddr> = Vec::new();
        for address in self.dns.cluster_addresses.iter().chain(&self.dns.link_local) {
            if !addresses.contains(address) {
                addresses.push(*address);
            }
        }
        addresses
    }

    /// The agent's socket.
    pub fn socket(&self) -> PathBuf {
        self.run_dir.join("weft.sock")
    }

    /// How long an ADD may take.
    pub fn add_deadline(&self) -> Duration {
        Duration::from_millis(self.cni.deadline_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_file_is_enough_and_a_wrong_field_is_named() {
        let config: AgentConfig =
            serde_saphyr::from_str("node: n1\nstore: {directory: /srv/cluster}\n").unwrap();
        assert_eq!(config.socket(), Path::new("/run/weft/weft.sock"));
        assert_eq!(config.dns_addresses().len(), 2);
        let error = serde_saphyr::from_str::<AgentConfig>("store: {directory: /x}\nnoed: n1\n").unwrap_err();
        assert!(error.to_string().contains("noed"), "{error}");
        let error = serde_saphyr::from_str::<AgentConfig>("store: {directory: /x}\nnode: N_1\n").unwrap_err();
        assert!(error.to_string().contains("no valid node name"), "{error}");
    }

    #[test]
    fn a_value_of_the_wrong_type_names_its_field() {
        let check = |text: &str, expected: &str| assert_eq!(parse(text).unwrap_err().0, expected, "{text}");
        check("store: {directory: /x}\ncni:\n  deadlineMs: soon\n", "cni.deadlineMs");
        check(
            "store: {directory: /x}\ndns: {clusterAddresses: [10.0.0.10, ten]}\n",
            "dns.clusterAddresses[1]",
        );
        check("store: {directory: [/x]}\n", "store.directory");
        check("", "");
    }

    #[test]
    fn only_small_regular_files_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("agent.yaml");
        let said = |path: &Path| AgentConfig::read(path).unwrap_err().to_string();
        assert!(said(Path::new("/dev/zero")).contains("/dev/zero: it is no regular file"));
        assert!(said(folder.path()).contains("it is no regular file"));
        std::fs::write(&path, vec![b'#'; 64 * 1024 + 1]).unwrap();
        assert!(said(&path).contains("it is longer than 64 KiB"));
    }

    #[test]
    fn a_value_that_cannot_be_used_is_refused_with_its_field() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("agent.yaml");
        let check = |text: &str, expected: &str| {
            std::fs::write(&path, text).unwrap();
            let said = AgentConfig::read(&path).map(|_| String::new()).unwrap_or_else(|e| e.to_string());
            assert!(said.contains(expected), "{text}: {said}");
        };
        check("store: {directory: cluster}\n", "store.directory: \"cluster\" is no absolute path");
        let store = "store: {directory: /x}";
        check(&format!("{store}\nrunDir: run\n"), "runDir: \"run\" is no absolute path");
        for name in ["../x.conflist", "", ".conflist", "10-weft.conf"] {
            check(&format!("{store}\ncni: {{confName: \"{name}\"}}\n"), "cni.confName: ");
        }
        check(&format!("{store}\ncni: {{networkName: a/b}}\n"), "cni.networkName: \"a/b\" must begin");
        check(
            &format!("{store}\naddresses: [127.0.0.1]\n"),
            "addresses: \"127.0.0.1\" is no valid machine's address",
        );
        // A DNS server at all addresses would answer the world.
        check(
            &format!("{store}\ndns: {{clusterAddresses: [0.0.0.0]}}\n"),
            "dns.clusterAddresses: \"0.0.0.0\"",
        );
        check(
            &format!("{store}\nservices: {{healthPort: 53}}\n"),
            "services.healthPort: 53 is where names are answered; write another port",
        );
        for range in ["30000", "40000-30000", "0-1"] {
            check(&format!("{store}\nservices: {{nodePortRange: {range}}}\n"), "services.nodePortRange: ");
        }
        for zone in ["-bad..x", "", "a_b"] {
            check(&format!("{store}\ndns: {{clusterDomain: \"{zone}\"}}\n"), "dns.clusterDomain: ");
        }
        check(&format!("{store}\ndns: {{linkLocal: []}}\n"), "dns.linkLocal: without it");
        check(&format!("{store}\ndns: {{upstreams: [dns.example]}}\n"), "dns.upstreams[0]: ");
        check(&format!("{store}\ndns: {{upstreams: [\"1.1.1.1:0\"]}}\n"), "is no machine's port");
        check(
            &format!("{store}\nservices: {{proxyName: a/b}}\n"),
            "services.proxyName: \"a/b\" is no label's value",
        );
        check(
            "node: n1\nstore: {kubernetes: {}}\n",
            "store.kubernetes.server: there is neither a server nor a kubeconfig",
        );
        assert!(AgentConfig::read(&path).is_err());
        for fine in [
            "dns: {clusterDomain: Cluster.Local.}",
            "dns: {linkLocal: [], enabled: false}",
            "dns: {linkLocal: [], clusterAddresses: [10.96.0.10]}",
            "services: {proxyName: weft}",
            "services: {healthPort: 0}",
            "dns: {enabled: false}\nservices: {healthPort: 53}",
        ] {
            std::fs::write(&path, format!("{store}\n{fine}\n")).unwrap();
            assert!(AgentConfig::read(&path).is_ok(), "{fine}");
        }
        std::fs::write(&path, store).unwrap();
        assert!(AgentConfig::read(&path).is_ok());
    }

    #[test]
    fn node_ports_are_bounded_where_nobody_else_does_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("agent.yaml");
        let range = |text: &str| {
            std::fs::write(&path, format!("node: n1\n{text}\n")).unwrap();
            let config = AgentConfig::read(&path).map_err(|error| error.to_string())?;
            let services = config.settings().unwrap().services.unwrap();
            Ok::<_, String>(services.node_ports.map(|range| range.to_string()))
        };
        let folder = "store: {directory: /x}";
        assert_eq!(range(folder), Ok(Some("30000-32767".into())));
        let wider = "services: {nodePortRange: 1024-65535}";
        assert_eq!(range(&format!("{folder}\n{wider}")), Ok(Some("1024-65535".into())));
        let cluster = "store: {kubernetes: {kubeconfig: /x}}";
        assert_eq!(range(cluster), Ok(None));
        let said = range(&format!("{cluster}\n{wider}")).unwrap_err();
        assert!(
            said.contains("services.nodePortRange: the cluster's API server bounds node ports"),
            "{said}"
        );
    }
}
