//! The subcommands, one a file.

mod agent;
mod explain;
mod lab;
mod plan;
mod preflight;
mod status;
mod uninstall;

use std::path::Path;
use std::process::ExitCode;

use anyhow::Result;
use weft_agent::AgentConfig;

use crate::cli::{Cli, Command, ConfigArg, DEFAULT_CONFIG};
use crate::socket::AgentSocket;

/// Does what the command line says.
pub fn run(cli: Cli) -> Result<ExitCode> {
    let socket = AgentSocket::new(cli.run_dir_or_usual());
    let run_dir = cli.run_dir.clone();
    match cli.command {
        Command::Agent(args) => agent::run(&args, run_dir),
        Command::Status(args) => status::run(&args, &socket, cli.output),
        Command::Plan(args) => plan::run(&args, &socket, cli.output),
        Command::Explain(args) => explain::run(&args, &socket, cli.output),
        Command::Preflight(args) => preflight::run(&args, run_dir, cli.output),
        Command::Uninstall(args) => uninstall::run(&args, run_dir, cli.output),
        Command::Lab(args) => Ok(lab::run(&args)),
    }
}

impl ConfigArg {
    /// The named file, or the customary one.
    fn path(&self) -> &Path {
        self.config.as_deref().unwrap_or(Path::new(DEFAULT_CONFIG))
    }

    /// The configuration where there is one: none where no file was named and the customary one doesn't exist.
    fn read_if_any(&self) -> Result<Option<AgentConfig>> {
        if self.config.is_none() && !self.path().exists() {
            return Ok(None);
        }
        Ok(Some(AgentConfig::read(self.path())?))
    }
}
