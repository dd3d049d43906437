//! Whether this node serves pods, and the sign of it that runtimes and kubelets see: the network configuration.
//!
//! What always holds: the sign isn't set before the node is ready. It stays when the node is no longer: pods that start then are told
//! to come again, and those that end need it.

use weft_cni::{CniError, Code, ConflistSettings};
use weft_compile::Context;
use weft_compile::rules::networks::overlap;
use weft_ipam::Pool;
use weft_model::NetworkName;

use super::{Core, Phase, PublishWork, describe};
use crate::conflist::{self, Written};

impl Core {
    /// Whether an ADD to a network would be served now.
    ///
    /// # Errors
    /// Why not, with the code that STATUS answers.
    pub fn ready_for(&self, network: &str) -> Result<(), CniError> {
        let (network, pool) = self.serves(network)?;
        if self.leases.get(&network).is_none_or(|leases| leases.has_room(&pool)) {
            return Ok(());
        }
        let blocks: Vec<String> = pool.cidrs.iter().map(ToString::to_string).collect();
        let details = [Some(blocks.join(", ")), self.blocks.outlook(&network)];
        let details: Vec<String> = details.into_iter().flatten().collect();
        let msg = "all addresses of this node's pod CIDRs are taken";
        Err(CniError::new(Code::NOT_AVAILABLE, msg, details.join("; ")))
    }

    /// The network that is meant, and this node's blocks of it, where pods of it are served: for as long as there are addresses.
    pub(super) fn serves(&self, network: &str) -> Result<(NetworkName, Pool), CniError> {
        let unavailable = |msg: &str, details: String| Err(CniError::new(Code::NOT_AVAILABLE, msg, details));
        match self.phase {
            Phase::Waiting => {
                return unavailable("the agent waits for its store's first snapshot", self.waiting_for());
            }
            Phase::Applying => return unavailable("the agent applies its first plan", String::new()),
            Phase::Running => {}
        }
        // It fails closed.
        if let Some(key) = self.refused_base() {
            let reason = self.failed.get(key).cloned().unwrap_or_default();
            return unavailable("the packet filter is not in force", format!("{}: {reason}", describe(key)));
        }
        if let Some(reason) = self.lapsed() {
            return unavailable("this node may not rely on its pod CIDRs now", reason);
        }
        let network = NetworkName::new(network)
            .map_err(|error| CniError::new(Code::INVALID_CONFIG, "no such network", error.to_string()))?;
        let pool = self.pool(&network);
        if pool.families().is_empty() && self.own_addresses().is_empty() {
            let hint = match self.config.absent_on(self.compiler.facts().host()) {
                Some(absent) => format!("{}; {}", absent.problem, absent.mend),
                None => "give a link of this node a global address, or set `addresses` in the configuration"
                    .into(),
            };
            return unavailable("this node has no address", hint);
        }
        if pool.families().is_empty() {
            let (problem, hint) = self.why_without_blocks(&network);
            return unavailable(&problem, hint);
        }
        Ok((network, pool))
    }

    /// Why this node has no blocks of a network, and the mend.
    fn why_without_blocks(&self, network: &NetworkName) -> (String, String) {
        if let Some((block, address)) = self.block_with_own_address(network) {
            let hint = "where it is the bridge of a network that pods moved in from, `weft migrate` does the rest and says what is \
                        left of it (stop the agent first); else give the node another block";
            let problem =
                format!("this node's pod CIDR {block} holds an address of the node itself, {address}");
            return (problem, hint.to_owned());
        }
        let context = Context { settings: self.compiler.settings(), facts: self.compiler.facts() };
        let networks = context.networks();
        let Some(described) = networks.iter().find(|described| described.name == *network) else {
            let names: Vec<&str> = networks.iter().map(|described| described.name.as_str()).collect();
            let names = names.join(", ");
            let hint = format!(
                "write one that there is in the runtime's network configuration (`network`: {names}), or describe {network} as a Network"
            );
            return (format!("nobody has described a Network {network}"), hint);
        };
        if let Some(overlap) = overlap(described, &networks) {
            let hint = format!("{overlap}; give one of the two networks another");
            return (format!("nodes get no blocks of network {network}"), hint);
        }
        let hint =
            format!("give node {} spec.podCIDRs, or network {network} podCIDRs to cut them from", self.node);
        ("this node has no pod CIDR".to_owned(), hint)
    }

    fn waiting_for(&self) -> String {
        self.stale.as_ref().map_or_else(|| "it is being read".to_owned(), |(_, reason)| reason.clone())
    }

    /// Writes the network configuration for runtimes once the node is ready: its presence is what makes a kubelet
    /// report the node as ready.
    pub(super) fn announce_readiness(&mut self) {
        if self.conflist_written || self.ready_for(NetworkName::ordinary().as_str()).is_err() {
            return;
        }
        if self.write_conflist() {
            self.conflist_written = true;
            self.publish(PublishWork::Ready);
        }
    }

    /// Puts the configuration back where somebody has removed or changed it: without it no pod starts any more.
    pub(super) fn look_at_conflist(&mut self) {
        if self.conflist_written {
            self.write_conflist();
        }
    }

    /// Says whether the file is there as it should be.
    fn write_conflist(&mut self) -> bool {
        let folder = &self.config.cni.conf_dir;
        let path = folder.join(&self.config.cni.conf_name);
        let text = weft_cni::conflist(&ConflistSettings {
            name: self.config.cni.network_name.clone(),
            plugin: conflist::PLUGIN.into(),
            network: NetworkName::ordinary().to_string(),
            socket: self.socket_path(),
            state_dir: self.config.state_dir.clone(),
            mtu: None,
            deadline: self.config.add_deadline(),
        });
        match conflist::write(&path, &text) {
            Ok(written) => {
                if written == Written::Anew {
                    tracing::info!("wrote {}", path.display());
                }
                self.trouble("conflist", None);
                true
            }
            Err(error) => {
                let folder = folder.display();
                let text = format!("cannot write {}: {error}; make {folder} writable", path.display());
                self.trouble("conflist", Some(text));
                false
            }
        }
    }
}
