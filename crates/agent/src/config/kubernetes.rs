//! The part of the configuration that names a Kubernetes API server and describes the cluster's networks.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use weft_model::{NamespaceName, Network, NetworkName, NodeName};
use weft_store::kubernetes::{AccessSource, DescribedNetwork, KubernetesOptions, Patience, PodScope};

/// `store.kubernetes`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct KubernetesConfig {
    /// A kubeconfig: server, CA and credentials of its current context.
    #[serde(default)]
    pub kubeconfig: Option<PathBuf>,
    /// The server's address, instead of the kubeconfig's. Never a service's: nobody leads to one before Weft does.
    #[serde(default)]
    pub server: Option<String>,
    /// A file with a bearer token, instead of the kubeconfig's credentials; read again at every request.
    #[serde(default)]
    pub token_file: Option<PathBuf>,
    /// A file with the CA that signs the server's certificate, instead of the kubeconfig's.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
    /// The cluster's networks: `name`, `allocate`, and the fields of a Network's `spec`.
    #[serde(default)]
    pub networks: Vec<Map<String, Value>>,
    /// The namespace in which nodes claim blocks, where they give them out themselves.
    #[serde(default = "default_namespace")]
    pub namespace: String,
}

fn default_namespace() -> String {
    "kube-system".into()
}

impl KubernetesConfig {
    /// Files that are named, with their fields.
    pub(super) fn files(&self) -> impl Iterator<Item = (&'static str, &PathBuf)> {
        let files = [
            ("store.kubernetes.kubeconfig", &self.kubeconfig),
            ("store.kubernetes.tokenFile", &self.token_file),
            ("store.kubernetes.caFile", &self.ca_file),
        ];
        files.into_iter().filter_map(|(field, path)| Some((field, path.as_ref()?)))
    }

    /// A network as it is described; as networks are by themselves where it isn't.
    pub fn network(&self, name: &NetworkName) -> Network {
        let described = self.networks.iter().filter_map(|entry| DescribedNetwork::from_entry(entry).ok());
        let mut networks = described.map(|described| described.network);
        networks.find(|network| network.name == *name).unwrap_or_else(|| Network::named(name.clone()))
    }

    /// What a store has to know.
    ///
    /// # Errors
    /// The field, and what is wrong with its value.
    pub fn options(
        &self,
        node: NodeName,
        pods: PodScope,
    ) -> Result<KubernetesOptions, (&'static str, String)> {
        let mut networks: Vec<DescribedNetwork> = Vec::new();
        for (i, entry) in self.networks.iter().enumerate() {
            let broken = |reason: String| ("store.kubernetes.networks", format!("[{i}]: {reason}"));
            let described = DescribedNetwork::from_entry(entry).map_err(|error| broken(error.to_string()))?;
            if networks.iter().any(|other| other.network.name == described.network.name) {
                return Err(broken(format!("network {} is described twice", described.network.name)));
            }
            networks.push(described);
        }
        let namespace = NamespaceName::new(&self.namespace);
        let namespace = namespace.map_err(|error| ("store.kubernetes.namespace", error.to_string()))?;
        if self.kubeconfig.is_none() && self.server.is_none() {
            let reason = "there is neither a server nor a kubeconfig; give one of the two";
            return Err(("store.kubernetes.server", reason.to_owned()));
        }
        let access = AccessSource {
            kubeconfig: self.kubeconfig.clone(),
            server: self.server.clone(),
            token_file: self.token_file.clone(),
            ca_file: self.ca_file.clone(),
        };
        Ok(KubernetesOptions {
            node,
            access,
            networks,
            pods,
            namespace,
            patience: Patience::default(),
            machine: String::new(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_part_is_read_and_what_is_wrong_with_it_is_named() {
        let check = |text: &str, expected: Result<(), &str>| {
            let config: KubernetesConfig = serde_saphyr::from_str(text).unwrap();
            let options = config.options(NodeName::new("n1").unwrap(), PodScope::Own);
            let found = options.map(drop).map_err(|(field, reason)| format!("{field}: {reason}"));
            match expected {
                Ok(()) => assert_eq!(found, Ok(()), "{text}"),
                Err(part) => assert!(found.as_ref().is_err_and(|e| e.contains(part)), "{text}: {found:?}"),
            }
        };
        check("{kubeconfig: /etc/kubernetes/kubelet.conf}", Ok(()));
        check(
            "{server: \"https://192.0.2.10:6443\", networks: [{name: default, podCIDRs: [10.244.0.0/16]}]}",
            Ok(()),
        );
        check(
            "{networks: [{name: default}, {name: blue, podCIDRs: [10.0.0.0]}]}",
            Err("networks: [1]: podCIDRs[0]"),
        );
        check("{networks: [{name: blue}, {name: blue}]}", Err("[1]: network blue is described twice"));
        check("{namespace: Weft}", Err("store.kubernetes.namespace: \"Weft\""));
        check("{}", Err("store.kubernetes.server: there is neither"));
        check("{networks: [{podCIDRs: [10.0.0.0/8]}]}", Err("networks: [0]: name: it is missing"));
    }
}
