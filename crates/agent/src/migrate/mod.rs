//! Moving in: a node of flannel's or the bridge plugin's, with host-local's leases, becomes ours with its pods running.
//!
//! [`network`] reads what the other network is, [`pods`] finds its pods, and [`take`] makes them ours: each gets a record, as if
//! it had come by an ADD, and its veth pair leaves the bridge and becomes one of ours. From then on nothing is special about it,
//! and no other part of the program knows of this folder, but that the agent leaves alone what [`leases`] holds.
//!
//! What always holds: no agent runs meanwhile, and one that moves in holds off a second. A pod's record is written before its
//! link is touched, and a link that was taken and not finished is finished by the next who looks, this or the agent; so it may
//! end at any point. What can't be proved to be the other network's is left alone and named.
//!
//! What it doesn't do: stop the other network's daemon, or start the agent.

mod error;
pub(crate) mod leases;
pub mod network;
pub mod pods;
mod process;
mod report;
mod rules;
mod take;

use std::path::PathBuf;

use weft_dataplane::LinuxKernel;

pub use error::MigrateError;
pub use report::{MovedPod, Report, Standing, Tunnel};

use crate::api::{RunDir, hold_state};
use crate::config::AgentConfig;

/// Where the other network's traces are.
#[derive(Debug, Clone)]
pub struct Places {
    /// libcni's folder of state, which holds `networks` and `results`: `/var/lib/cni`.
    pub cni_state: PathBuf,
    /// What flannel's daemon says of this node: `/run/flannel/subnet.env`.
    pub subnet_file: PathBuf,
    /// Folders in which runtimes keep namespaces, searched where nothing names one.
    pub netns_dirs: Vec<PathBuf>,
}

impl Default for Places {
    fn default() -> Self {
        Self {
            cni_state: "/var/lib/cni".into(),
            subnet_file: "/run/flannel/subnet.env".into(),
            netns_dirs: vec!["/run/netns".into(), "/run/docker/netns".into()],
        }
    }
}

/// Says what there is and what would be done; changes nothing.
///
/// # Errors
/// [`MigrateError`] where the other network can't be read.
pub fn look(config: &AgentConfig, places: &Places) -> Result<Option<Report>, MigrateError> {
    let Some(network) = network::find(&config.cni, places)? else { return Ok(None) };
    let mut kernel = LinuxKernel::open(&config.state_dir)?;
    take::fits(&mut kernel, config, &network)?;
    let found = pods::find(&mut kernel, &network, places)?;
    Ok(Some(take::outlook(&mut kernel, &network, found)?))
}

/// Moves in; `None` where there is nobody to move in from.
///
/// # Errors
/// [`MigrateError`]: then nothing of the other network's was changed. Once anything was, what stops the work is in the report, with all that
/// was done, and another call does the rest; so are single pods' failures.
pub fn run(config: &AgentConfig, places: &Places) -> Result<Option<Report>, MigrateError> {
    let folder = |path: &PathBuf| {
        std::fs::create_dir_all(path).map_err(|source| MigrateError::Write { path: path.clone(), source })
    };
    folder(&config.state_dir)?;
    let _run_dir = RunDir::claim(&config.run_dir)?;
    let _state = hold_state(&config.state_dir)?;
    let Some(network) = network::find(&config.cni, places)? else { return Ok(None) };
    if let Some(pid) = process::of_this_network("flanneld") {
        return Err(MigrateError::DaemonRuns { pid });
    }
    let mut kernel = LinuxKernel::open(&config.state_dir)?;
    take::fits(&mut kernel, config, &network)?;
    take::all(&mut kernel, config, &network, places).map(Some)
}
