//! `weft forget`: takes a node that is gone out of the store.
//!
//! What always holds: what another machine has as this machine's node is left alone, unless `--force` says otherwise. Of other nodes a
//! person says that they are gone.

use std::fs::File;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::fcntl::Flock;
use serde::Serialize;
use weft_agent::AgentConfig;
use weft_agent::api::{RunDirError, hold_state};
use weft_agent::machine;
use weft_agent::run::{Opener, open_store};
use weft_model::NodeName;
use weft_store::{Forgotten, Store};

use crate::cli::ForgetArgs;
use crate::output::{Format, print, print_json};

/// What was done.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Answer<'a> {
    forgotten: &'a NodeName,
    /// Whether there was anything; not with a name that nobody has.
    had_something: bool,
}

pub fn run(args: &ForgetArgs, format: Format) -> Result<ExitCode> {
    let config = args.config.read()?;
    let _held = if args.force { None } else { hold_own_state(&config, &args.node)? };
    let store = open_store(&config, Opener::Person)?;
    if !args.force
        && config.node_name()? == args.node
        && let Some(why) = not_ours(&*store, &args.node, &config.state_dir)?
    {
        bail!("{why}");
    }
    if !args.force
        && let Some(left) = store.relied_on_for(&args.node)?
    {
        bail!("{}", refusal(&args.node, left));
    }
    let forgotten = store.forget_node(&args.node)?;
    match format {
        Format::Json => {
            print_json(&Answer { forgotten: &args.node, had_something: forgotten == Forgotten::Something })?;
        }
        Format::Text => print(&format!("{}\n", outcome(&args.node, forgotten)))?,
    }
    Ok(ExitCode::SUCCESS)
}

/// What was done: of a misspelt name that there was nothing, so that it doesn't look as if its node were gone.
fn outcome(node: &NodeName, forgotten: Forgotten) -> String {
    match forgotten {
        Forgotten::Something => format!("nothing of node {node} is left in the store"),
        Forgotten::Nothing => {
            format!("the store had nothing of node {node}: it was forgotten before, or has another name")
        }
    }
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

/// Why a node isn't this machine's to forget, where the store has it as another's, or nothing here tells whose it is.
pub(super) fn not_ours(store: &dyn Store, node: &NodeName, state_dir: &Path) -> Result<Option<String>> {
    let Some(there) = store.machine_of(node)? else { return Ok(None) };
    let here = machine::known(state_dir)
        .with_context(|| format!("can't read {}", state_dir.join(machine::FILE).display()))?;
    Ok((here.as_ref() != Some(&there)).then(|| whose(node, &there, here.as_deref())))
}

fn whose(node: &NodeName, there: &str, here: Option<&str>) -> String {
    let this = match here {
        Some(here) => format!("this one ({here}) is another, and has nothing in the store"),
        None => "whether it is this one can't be told, whose word went with its state".to_owned(),
    };
    format!(
        "machine {there} is node {node}, and {this}: where that machine is gone for good, or was this one before it was set up anew, \
         `weft forget {node} --force`"
    )
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
    fn whose_node_it_is_is_said() {
        let check = |here, expected: &str| {
            let text = whose(&"n1".parse().unwrap(), "one", here);
            assert!(text.starts_with("machine one is node n1, and "), "{text}");
            assert!(text.contains(expected) && text.ends_with("`weft forget n1 --force`"), "{text}");
        };
        check(Some("two"), "this one (two) is another");
        check(None, "can't be told");
    }

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
