//! Beginning: take up where the last agent left off.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use weft_compile::Compiler;
use weft_ipam::{Boot, DirectoryLeases, LeaseError, Leases};
use weft_model::{Attachment, Change, Fact, NetworkName};

use super::blocks::Blocks;
use super::{Around, Core, Phase, SharedPlans};
use crate::config::{AgentConfig, ConfigError};
use crate::conflist;
use crate::fact_log::FactLog;
use crate::message::Report;
use crate::records::{RECORDS, Record, RecordError, Records, Since, Stage};

/// Why an agent can't begin.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration is not enough.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Records can't be opened.
    #[error(transparent)]
    Records(#[from] RecordError),
    /// Leases can't be opened.
    #[error(transparent)]
    Leases(#[from] LeaseError),
    /// Leases can't be read.
    #[error(transparent)]
    Ipam(#[from] weft_ipam::IpamError),
    /// The log of facts can't be begun.
    #[error("cannot start the thread that keeps the last facts: {0}")]
    FactLog(#[source] std::io::Error),
}

/// The configuration of an earlier boot says that the node is ready, which it isn't yet. Written again when it is.
fn set_conflist_aside(config: &AgentConfig) {
    let path = config.cni.conf_dir.join(&config.cni.conf_name);
    if !conflist::is_ours(&path) {
        return;
    }
    match std::fs::remove_file(&path) {
        Ok(()) => tracing::info!("took {} away until the node is ready", path.display()),
        Err(error) => tracing::warn!("cannot take {} away until the node is ready: {error}", path.display()),
    }
}

impl Core {
    /// Reads what was kept, and makes this node's attachments facts again.
    ///
    /// # Errors
    /// [`StartError`] where state can't be read or written.
    pub fn new(config: AgentConfig, plans: SharedPlans, around: Around) -> Result<Self, StartError> {
        let settings = config.settings()?;
        let node = settings.node.clone();
        let boot = Boot::current()?;
        let (records, since) = Records::open(&config.state_dir.join(RECORDS), &boot.id)?;
        if since == Since::EarlierBoot {
            set_conflist_aside(&config);
        }
        let (found, broken) = records.list()?;
        for reason in broken {
            tracing::warn!("{reason}");
        }
        let mut core = Self {
            compiler: Compiler::new(settings),
            node,
            boot,
            plans,
            around,
            phase: Phase::Waiting,
            stale: None,
            hold: weft_store::Hold::default(),
            log: Some(FactLog::begin(&config.state_dir).map_err(StartError::FactLog)?),
            earlier: super::facts::Earlier::default(),
            notices: BTreeMap::new(),
            troubles: BTreeMap::new(),
            unserved: Vec::new(),
            tried: None,
            plugin_version: None,
            progress: super::health::Progress::default(),
            failed: BTreeMap::new(),
            generation_in_force: 0,
            last_report: Report::default(),
            started: Instant::now(),
            now: Instant::now(),
            leases: BTreeMap::new(),
            records,
            attached: BTreeMap::new(),
            adding: BTreeMap::new(),
            removing: BTreeMap::new(),
            published_node: None,
            unmoved: super::flannel::Unmoved::default(),
            blocks: Blocks::default(),
            conflist_written: false,
            next_look: Instant::now(),
            config,
        };
        core.open_leases(&found)?;
        core.take_up(found);
        core.hold_addresses();
        Ok(core)
    }

    /// Opens the leases of every network that has any, so that what nobody owns is found.
    fn open_leases(&mut self, found: &[(Stage, Record)]) -> Result<(), StartError> {
        let mut networks: BTreeSet<NetworkName> =
            found.iter().map(|(_, record)| record.attachment.network.clone()).collect();
        networks.insert(NetworkName::ordinary());
        if let Ok(folders) = std::fs::read_dir(&self.config.cni.lease_dir) {
            let names = folders.flatten().filter(|entry| entry.path().is_dir());
            networks.extend(
                names.filter_map(|entry| NetworkName::new(&entry.file_name().to_string_lossy()).ok()),
            );
        }
        for network in networks {
            let (store, freed) = DirectoryLeases::open(&self.config.cni.lease_dir, &network, &self.boot)?;
            for lease in freed {
                tracing::info!("{} was held by {} before the reboot: freed", lease.address, lease.owner);
            }
            self.leases.insert(network, Leases::open(store)?);
        }
        Ok(())
    }

    /// Sees to it that every attachment holds the leases of its addresses: one that somebody has removed would be given to
    /// another pod.
    pub(super) fn hold_addresses(&mut self) {
        // Not for one on its way out: its leases may have gone already, as the last step but one.
        for Attachment { id, network, addresses, .. } in self.attached.values().map(|r| &r.attachment) {
            let Some(leases) = self.leases.get_mut(network) else { continue };
            match leases.restore(id, addresses) {
                Ok(restored) => {
                    for address in restored {
                        tracing::warn!("the lease of {address}, which {id} uses, was gone: made again");
                    }
                }
                Err(error) => tracing::warn!("{id}: its addresses are not all its own: {error}"),
            }
        }
        for leases in self.leases.values_mut() {
            if let Err(error) = leases.confirm() {
                tracing::warn!("{error}");
            }
        }
    }

    /// Attached ones are facts again. What was under way when the last agent ended is taken down by the first
    /// comparison, since no fact asks for it.
    fn take_up(&mut self, found: Vec<(Stage, Record)>) {
        for (stage, record) in found {
            let id = record.attachment.id.clone();
            match stage {
                Stage::Attached => {
                    self.compiler.apply(Change::set(Fact::Attachment(record.attachment.clone())));
                    self.attached.insert(id, record);
                }
                Stage::Adding | Stage::Deleting => {
                    let removing = super::Removing {
                        generation: Some(1),
                        record: Some(record),
                        waiting: Vec::new(),
                        unfinished: None,
                    };
                    self.removing.insert(id, removing);
                }
            }
        }
    }

    /// What can be done only when the kernel has been compared with the plan once.
    pub(super) fn after_first_sync(&mut self) {
        self.take_tombstones();
        self.free_ownerless();
        self.publish_pods();
        self.drop_dead();
    }

    /// Attachments whose link is refused because their namespace is gone have ended without a DEL: a runtime that fails in the
    /// middle of a pod's start may never send one.
    pub(super) fn drop_dead(&mut self) {
        let dead: Vec<_> = self
            .attached
            .values()
            .filter(|record| {
                let link = weft_plan::KernelKey::Link(record.attachment.id.host_link());
                self.failed.contains_key(&link) && !std::path::Path::new(&record.attachment.netns).exists()
            })
            .map(|record| record.attachment.id.clone())
            .collect();
        for id in dead {
            tracing::info!("{id}: its namespace is gone, so its addresses are freed");
            self.remove(&id, None);
        }
    }
}
