//! `weft forget`: takes a node that is gone out of the store.

use std::fs::File;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, bail};
use nix::fcntl::Flock;
use serde::Serialize;
use weft_agent::AgentConfig;
use weft_agent::api::{RunDirError, hold_state};
use weft_agent::run::{Opener, open_store};
use weft_model::NodeName;

use crate::cli::ForgetArgs;
use crate::output::{Format, print, print_json};

/// What was done.
#[derive(Debug, Serialize)]
struct Answer<'a> {
    forgotten: &'a NodeName,
}

pub fn run(args: &ForgetArgs, format: Format) -> Result<ExitCode> {
    let config = args.config.read()?;
    let _held = if args.force { None } else { hold_own_state(&config, &args.node)? };
    let store = open_store(&config, Opener::Person)?;
    if !args.force
        && let Some(left) = store.relied_on_for(&args.node)?
    {
        bail!("{}", refusal(&args.node, left));
    }
    store.forget_node(&args.node)?;
    match format {
        Format::Json => print_json(&Answer { forgotten: &args.node })?,
        Format::Text => print(&format!("nothing of node {} is left in the store\n", args.node))?,
    }
    Ok(ExitCode::SUCCESS)
}

/// This machine's own node is forgotten while no agent of it runs, and none can begin before that is done: it would write all of it
/// again.
fn hold_own_state(config: &AgentConfig, node: &NodeName) -> Result<Option<Flock<File>>> {
    if config.node_name()? != *node || !config.state_dir.exists() {
        return Ok(None);
    }
    match hold_state(&config.state_dir) {
        Ok(held) => Ok(Some(held)),
        Err(RunDirError::StateHeld { .. }) => bail!(
            "the agent of node {node} runs on this machine, and would write it all again: stop it first, or add --force"
        ),
        Err(error) => Err(error.into()),
    }
}

/// Why a node is not forgotten yet.
fn refusal(node: &NodeName, left: Duration) -> String {
    let minutes = left.as_secs().div_ceil(60);
    let time = match (minutes / 60, minutes % 60) {
        (0, minutes) => format!("{minutes} min"),
        (hours, minutes) => format!("{hours} h {minutes} min"),
    };
    format!(
        "node {node} was heard of lately: if it is only cut off, it goes on giving out addresses of its blocks for up to {time}, and nobody else \
         may have them; wait that long, or add --force where it is surely switched off"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_says_how_long_and_what_else() {
        let check = |seconds, expected: &str| {
            let text = refusal(&"n1".parse().unwrap(), Duration::from_secs(seconds));
            assert!(text.contains(expected) && text.contains("--force"), "{text}");
        };
        check(1, "up to 1 min,");
        check(600, "up to 10 min,");
        check(64_741, "up to 18 h 0 min,");
    }
}
