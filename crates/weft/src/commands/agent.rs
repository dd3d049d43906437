//! `weft agent`: runs the agent until a signal.

use std::io::{IsTerminal, stderr};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, anyhow};
use tracing_subscriber::EnvFilter;
use weft_agent::api::RunDir;
use weft_agent::{Agent, memory};

use crate::cli::AgentArgs;
use crate::signals::Signals;

/// Environment variable that says how much is logged.
const LOG: &str = "WEFT_LOG";

pub fn run(args: &AgentArgs, run_dir: Option<PathBuf>) -> Result<ExitCode> {
    memory::keep_little();
    let mut config = args.config.read()?;
    if let Some(run_dir) = run_dir {
        config.run_dir = run_dir;
    }
    if let Some(node) = &args.node {
        config.node = Some(node.clone());
    }
    start_logging()?;
    let node = config.node_name()?;
    let signals = Signals::take()?;
    // While it waits, a signal ends it at once.
    let run_dir = match args.take_over {
        true => {
            Agent::try_out(&config)?;
            RunDir::wait(&config.run_dir)?
        }
        false => RunDir::claim(&config.run_dir)?,
    };
    let told = signals.hold();
    let agent = Agent::start(&config, run_dir)?;
    tracing::info!("agent {} of node {node} runs", weft_agent::VERSION);
    let signal = told.recv().map_err(|_| anyhow!("signals are no longer heard"))?;
    tracing::info!("{signal}: ending; the network stays as it is");
    agent.stop();
    Ok(ExitCode::SUCCESS)
}

fn start_logging() -> Result<()> {
    let wanted = std::env::var(LOG).unwrap_or_else(|_| "info".into());
    let filter = EnvFilter::try_new(&wanted).map_err(|e| {
        anyhow!("{LOG}={wanted:?} is no log filter ({e}); write a level such as info or debug")
    })?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(stderr)
        .with_ansi(stderr().is_terminal())
        .try_init()
        .map_err(|e| anyhow!("can't start logging: {e}"))
}
