//! The store, a folder or etcd, which is read; and our own folders.

use std::net::IpAddr;
use std::ops::ControlFlow;
use std::path::Path;

use nix::errno::Errno;
use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, PROC_SUPER_MAGIC, SYSFS_MAGIC, statfs};
use nix::unistd::{AccessFlags, access};
use weft_agent::AgentConfig;
use weft_agent::config::{EtcdConfig, KubernetesConfig, StoreConfig};
use weft_model::{Change, Fact, Network, NodeName};
use weft_store::{
    DirectoryOptions, DirectoryStore, EtcdStore, Event, KubernetesStore, Notice, Remark, Store,
};

use super::{Finding, Machine};

/// Remarks of the store that are shown.
const SHOWN: usize = 5;

/// What the store says of the cluster, as far as checks of this machine go by it.
#[derive(Debug, Default)]
pub struct Cluster {
    /// Its networks: the ordinary one where it describes none.
    pub networks: Vec<Network>,
    /// How many nodes it knows; 0 where the store isn't asked for them.
    pub nodes: usize,
    /// The addresses by which it knows this node (`InternalIP`); `None` where it can't be asked.
    pub registered: Option<Vec<IpAddr>>,
}

/// What was found, and what the store says.
pub fn check(machine: &Machine, config: Option<&AgentConfig>) -> (Vec<Finding>, Cluster) {
    let Some(config) = config else {
        let finding = Finding::warning(
            "store",
            format!("no configuration ({}), so the store was not looked at", crate::cli::DEFAULT_CONFIG),
            "write one (examples/agent.yaml has all fields), or name it with --config",
        );
        return (vec![finding], Cluster { networks: vec![Network::ordinary()], ..Cluster::default() });
    };
    let held = || Held { node: config.node_name().ok(), ..Held::default() };
    let (mut findings, mut cluster) = match &config.store {
        StoreConfig::Directory(folder) => read(&machine.path(folder), held()),
        StoreConfig::Kubernetes(kubernetes) => ask_server(config, kubernetes),
        StoreConfig::Etcd(etcd) => ask_etcd(etcd, held()),
    };
    if cluster.networks.is_empty() {
        cluster.networks.push(Network::ordinary());
    }
    for (name, folder) in [
        ("cni.confDir", &config.cni.conf_dir),
        ("stateDir", &config.state_dir),
        ("runDir", &config.run_dir),
        ("cni.leaseDir", &config.cni.lease_dir),
    ] {
        findings.extend(writable(&machine.path(folder), name));
    }
    (findings, cluster)
}

/// Asks the API server for this node, and for no more.
fn ask_server(config: &AgentConfig, kubernetes: &KubernetesConfig) -> (Vec<Finding>, Cluster) {
    let failed = |reason: String| {
        let mend = "mend store.kubernetes: kubeconfig, server, tokenFile, caFile; or node";
        Finding::missing("store", reason, mend)
    };
    let options = match config.node_name() {
        Ok(node) => kubernetes.options(node, config.pods()).map_err(|(field, r)| format!("{field}: {r}")),
        Err(error) => Err(error.to_string()),
    };
    let options = match options {
        Ok(options) => options,
        Err(reason) => return (vec![failed(reason)], Cluster::default()),
    };
    let networks = options.networks.iter().map(|described| described.network.clone()).collect();
    let (finding, registered) = match KubernetesStore::open(options).and_then(|store| store.look()) {
        Ok((server, registered)) => {
            (Finding::ok("store", format!("{server} answers, and knows this node")), Some(registered))
        }
        Err(error) => (failed(error.to_string()), None),
    };
    (vec![finding], Cluster { networks, nodes: 0, registered })
}

/// What a store holds at an agent's start.
#[derive(Default)]
struct Held {
    /// This node.
    node: Option<NodeName>,
    cluster: Cluster,
    facts: usize,
    /// What can't be read.
    broken: Vec<String>,
}

impl Held {
    fn take(&mut self, event: Event) {
        match event {
            Event::Changes(changes) => {
                self.facts += changes.len();
                for change in changes {
                    let Change::Set(fact) = change else { continue };
                    match *fact {
                        Fact::Network(network) => self.cluster.networks.push(network),
                        Fact::Node(node) => {
                            self.cluster.nodes += 1;
                            if self.node.as_ref() == Some(&node.name) {
                                self.cluster.registered = Some(node.registered);
                            }
                        }
                        _ => {}
                    }
                }
            }
            Event::Notice(Notice {
                about,
                text: Some(Remark::Warning(text) | Remark::Unread { text, .. }),
            }) => {
                self.broken.push(format!("{about}: {text}"));
            }
            _ => {}
        }
    }

    /// What the store says of the cluster, all of which was taken.
    fn into_cluster(self) -> Cluster {
        Cluster { registered: self.cluster.registered.or_else(|| Some(Vec::new())), ..self.cluster }
    }

    /// A finding for each of the first few texts that are broken; `text` is what people call one.
    fn warnings(&self, text: &str) -> Vec<Finding> {
        let mend = format!("mend the {text}; until then it counts as absent");
        let shown = self.broken.iter().take(SHOWN);
        let mut findings: Vec<Finding> =
            shown.map(|broken| Finding::warning("store", broken, mend.as_str())).collect();
        if self.broken.len() > SHOWN {
            let text = format!("and {} more broken {text}s", self.broken.len() - SHOWN);
            findings.push(Finding::warning("store", text, "weft status lists them all"));
        }
        findings
    }
}

/// Reads the folder as an agent would at its start.
fn read(folder: &Path, mut held: Held) -> (Vec<Finding>, Cluster) {
    let shown = folder.display();
    let events =
        DirectoryStore::open(folder, DirectoryOptions::default()).and_then(|store| store.read_once());
    let events = match events {
        Ok(events) => events,
        Err(error) => {
            let mend = match folder.exists() {
                false => format!(
                    "mkdir -p {shown}, or mount the folder that the nodes share; or mend store.directory"
                ),
                true => "name the folder that the nodes share in store.directory".to_owned(),
            };
            return (vec![Finding::missing("store", error.to_string(), mend)], Cluster::default());
        }
    };
    events.into_iter().for_each(|event| held.take(event));
    let mut findings = held.warnings("file");
    findings.push(match access(folder, AccessFlags::W_OK) {
        Ok(()) => Finding::ok("store", format!("{shown} can be read and written ({} objects)", held.facts)),
        Err(errno) => Finding::missing(
            "store",
            format!("{shown} can't be written ({}), so this node can't make itself known", errno.desc()),
            format!("mount {shown} writable"),
        ),
    });
    (findings, held.into_cluster())
}

/// Asks etcd for everything, as an agent would at its start; a member that doesn't answer is not waited for again.
fn ask_etcd(etcd: &EtcdConfig, mut held: Held) -> (Vec<Finding>, Cluster) {
    let failed = |reason: String| {
        let mend =
            "mend store.etcd: endpoints, caFile, certFile, keyFile, username, passwordFile; or start etcd";
        (vec![Finding::missing("store", reason, mend)], Cluster::default())
    };
    let store = match etcd.options().map_err(|(field, reason)| format!("{field}: {reason}")) {
        Ok(options) => EtcdStore::open(options).map_err(|error| error.to_string()),
        Err(reason) => Err(reason),
    };
    let mut lost = None;
    let watched = store.and_then(|store| {
        let sink = &mut |event| match event {
            Event::Synced => ControlFlow::Break(()),
            Event::Stale { reason, .. } => {
                lost = Some(reason);
                ControlFlow::Break(())
            }
            event => {
                held.take(event);
                ControlFlow::Continue(())
            }
        };
        store.watch(sink).map_err(|error| error.to_string())
    });
    match (watched, lost) {
        (Ok(()), None) => {}
        (Err(reason), _) | (Ok(()), Some(reason)) => return failed(reason),
    }
    let mut findings = held.warnings("key");
    let text = format!("etcd answers, with {} objects below {}", held.facts, etcd.prefix);
    findings.push(Finding::ok("store", text));
    (findings, held.into_cluster())
}

/// A folder that the agent makes and writes: the nearest parent that exists must be writable.
fn writable(folder: &Path, name: &str) -> Option<Finding> {
    let parent = folder.ancestors().find(|path| path.exists())?;
    let errno = match access(parent, AccessFlags::W_OK) {
        Err(errno) => errno,
        Ok(()) if !parent.is_dir() => Errno::ENOTDIR,
        // Root may write there, and nobody makes anything.
        Ok(()) if is_the_kernels(parent) => Errno::EPERM,
        Ok(()) => return None,
    };
    let text =
        format!("{name} {} can't be written: {} ({})", folder.display(), errno.desc(), parent.display());
    Some(Finding::missing("folders", text, format!("make it writable, or choose another {name}")))
}

/// Whether what is in a folder is the kernel's: there is no place for ours.
fn is_the_kernels(folder: &Path) -> bool {
    statfs(folder).is_ok_and(|found| {
        [PROC_SUPER_MAGIC, SYSFS_MAGIC, CGROUP2_SUPER_MAGIC].contains(&found.filesystem_type())
    })
}

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::super::machine::testing::FakeMachine;
    use super::*;

    fn config(folder: &str, state: &str) -> AgentConfig {
        let text = serde_json::json!({"store": {"directory": folder}, "stateDir": state});
        serde_json::from_value(text).unwrap()
    }

    fn verdicts(fake: &FakeMachine, config: &AgentConfig) -> Vec<(Verdict, String)> {
        check(&fake.machine(), Some(config)).0.into_iter().map(|f| (f.verdict, f.text)).collect()
    }

    #[test]
    fn a_store_is_read_and_its_networks_are_known() {
        let network =
            "apiVersion: weft.dev/v1\nkind: Network\nmetadata: {name: default}\nspec: {vxlanPort: 8472}\n";
        let node = |name: &str, ip: &str| {
            format!(
                "apiVersion: v1\nkind: Node\nmetadata: {{name: {name}}}\n\
                 status: {{addresses: [{{type: InternalIP, address: {ip}}}]}}\n"
            )
        };
        let nodes = [node("n1", "192.0.2.1"), node("n2", "192.0.2.2")].join("---\n");
        let fake =
            FakeMachine::new(&[("/srv/cluster/network.yaml", network), ("/srv/cluster/nodes.yaml", &nodes)]);
        let mut config = config("/srv/cluster", "/var/lib/weft");
        config.node = Some(NodeName::new("n1").unwrap());
        let (findings, cluster) = check(&fake.machine(), Some(&config));
        assert_eq!((cluster.nodes, cluster.registered), (2, Some(vec!["192.0.2.1".parse().unwrap()])));
        assert_eq!(findings.len(), 1, "{findings:?}");
        assert_eq!(findings[0].verdict, Verdict::Ok, "{findings:?}");
        assert_eq!(cluster.networks[0].vxlan_port.get(), 8472);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let fake = FakeMachine::new(&[
            ("/srv/cluster/pod.yaml", "kind: Pod\napiVersion: v1\nmetadata: 7\n"),
            ("/flat", ""),
        ]);
        let found = verdicts(&fake, &config("/srv/cluster", "/var/lib/weft"));
        assert_eq!(found[0].0, Verdict::Warning, "{found:?}");
        assert!(found[0].1.contains("pod.yaml"), "{found:?}");
        let found = verdicts(&fake, &config("/srv/nowhere", "/flat/state"));
        assert_eq!(found[0].0, Verdict::Missing, "{found:?}");
        assert!(found[1].1.contains("stateDir") && found[1].1.contains("directory"), "{found:?}");
    }

    #[test]
    fn folders_that_cannot_be_made_are_named_with_their_field() {
        for there in ["/proc/nope", "/sys/nope", "/proc/self/status"] {
            let found = writable(Path::new(there), "cni.confDir").map(|finding| finding.text);
            assert!(
                found.as_ref().is_some_and(|text| text.starts_with("cni.confDir /")),
                "{there}: {found:?}"
            );
        }
        let mut config = config("/srv/cluster", "/var/lib/weft");
        config.cni.conf_dir = "/flat/net.d".into();
        let fake = FakeMachine::new(&[("/srv/cluster/empty.yaml", ""), ("/flat", "")]);
        let found = verdicts(&fake, &config);
        assert!(found.iter().any(|(_, text)| text.starts_with("cni.confDir")), "{found:?}");
        // A file in place of the store's folder can't be made a folder.
        config.store = StoreConfig::Directory("/flat".into());
        let mend = check(&fake.machine(), Some(&config)).0.remove(0).mend.unwrap();
        assert_eq!(mend, "name the folder that the nodes share in store.directory");
    }
}
