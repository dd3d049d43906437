//! Beginning: take up where the last agent left off.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use weft_compile::Compiler;
use weft_ipam::{Boot, DirectoryLeases, LeaseError, Leases};
use weft_model::{Change, Fact, NetworkName};

use super::{Around, Core, Phase, SharedPlans};
use crate::config::{AgentConfig, ConfigError};
use crate::message::Report;
use crate::records::{Record, RecordError, Records, Stage};

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
        let records = Records::open(&config.state_dir.join("attachments"), &boot.id)?;
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
            notices: BTreeMap::new(),
            troubles: BTreeMap::new(),
            failed: BTreeMap::new(),
            generation_in_force: 0,
            last_report: Report::default(),
            started: Instant::now(),
            leases: BTreeMap::new(),
            records,
            attached: BTreeMap::new(),
            adding: BTreeMap::new(),
            removing: BTreeMap::new(),
            published_node: None,
            claiming: BTreeSet::new(),
            conflist_written: false,
            config,
        };
        core.open_leases(&found)?;
        core.take_up(found);
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
                    let removing =
                        super::Removing { generation: 1, record: Some(record), waiting: Vec::new() };
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

    /// Attachments whose link is refused because their namespace is gone have ended without a DEL.
    fn drop_dead(&mut self) {
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
