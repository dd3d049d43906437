//! `weft uninstall`: takes all of Weft off this machine, or looks whether any is left.

use std::fs;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, anyhow};
use nix::sys::signal::{SigSet, Signal};
use serde::Serialize;
use weft_agent::api::{RunDir, hold_state};
use weft_agent::conflist::PLUGIN;
use weft_agent::run::{Opener, open_store};

use super::install::UNFINISHED;
use crate::cli::UninstallArgs;
use crate::output::{Format, print, print_json};
use crate::traces::{Kept, Places, kernel};

/// What was done, and what is left.
#[derive(Debug, Default, Serialize)]
struct Answer {
    removed: Vec<String>,
    leftovers: Vec<String>,
    /// What is not for it to remove, and what to type.
    kept: Vec<String>,
}

pub fn run(args: &UninstallArgs, run_dir: Option<PathBuf>, format: Format) -> Result<ExitCode> {
    let config = args.config.read_if_any()?;
    let places = Places::new(config.as_ref(), run_dir);
    // Before any thread exists, so that all inherit the mask and only this one takes the signal.
    let signals = if args.stay { Some(ended_by()?) } else { None };
    let answer = if args.verify { look(&places)? } else { remove_all(&places, args)? };
    match format {
        Format::Json => print_json(&answer)?,
        Format::Text => print(&render(&answer))?,
    }
    if let (Some(signals), true) = (signals, answer.leftovers.is_empty()) {
        signals.wait().map_err(|e| anyhow!("can't wait for signals: {e}"))?;
    }
    Ok(ExitCode::from(u8::from(!answer.leftovers.is_empty())))
}

/// Blocks the signals that end a program, so that they can be waited for.
fn ended_by() -> Result<SigSet> {
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGTERM);
    signals.add(Signal::SIGINT);
    signals.thread_block().map_err(|e| anyhow!("can't block signals: {e}"))?;
    Ok(signals)
}

/// This machine's part, and what else was asked for.
fn remove_all(places: &Places, args: &UninstallArgs) -> Result<Answer> {
    // Refuses while an agent runs, and that one would publish the node again.
    let mut answer = remove(places)?;
    if let Some(node) = &args.forget {
        let mut config = args.config.read()?;
        config.node = Some(node.clone());
        open_store(&config, Opener::Person)?.forget_node(node)?;
        answer.removed.push(format!("what node {node} had in the store"));
    }
    if let Some(folder) = &args.plugin_from {
        for plugin in [PLUGIN, UNFINISHED].map(|name| folder.join(name)) {
            match fs::remove_file(&plugin) {
                Ok(()) => answer.removed.push(plugin.display().to_string()),
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => answer.leftovers.push(format!("{}: {error}", plugin.display())),
            }
        }
    }
    answer.kept = Kept::new(args.config.read_if_any()?.as_ref()).lines();
    Ok(answer)
}

fn look(places: &Places) -> Result<Answer> {
    let mut leftovers = kernel::leftovers(&places.state_dir)?;
    leftovers.extend(places.present().iter().map(|path| path.display().to_string()));
    Ok(Answer { leftovers, ..Answer::default() })
}

fn remove(places: &Places) -> Result<Answer> {
    // Held until all is gone, so that no agent begins meanwhile. Without the folders none runs; one with a run folder of its own
    // still has its state here.
    let nothing_removed = |error| anyhow!("nothing was removed: {error}");
    let run = places.run_dir.exists().then(|| RunDir::claim(&places.run_dir)).transpose();
    let _run = run.map_err(nothing_removed)?;
    let state = places.state_dir.exists().then(|| hold_state(&places.state_dir)).transpose();
    let _state = state.map_err(nothing_removed)?;
    // Files can go only after the kernel's part: the sysctls' originals are among them.
    let outcome = kernel::uninstall(&places.state_dir)?;
    let mut answer = Answer { removed: outcome.removed, leftovers: outcome.left, kept: Vec::new() };
    if !answer.leftovers.is_empty() {
        answer.leftovers.extend(places.present().iter().map(|path| path.display().to_string()));
        return Ok(answer);
    }
    let (removed, failed) = places.remove();
    answer.removed.extend(removed.iter().map(|path| path.display().to_string()));
    answer.leftovers.extend(failed.iter().map(|(path, error)| format!("{}: {error}", path.display())));
    Ok(answer)
}

fn render(answer: &Answer) -> String {
    let mut text = String::new();
    for line in &answer.removed {
        text.push_str(&format!("removed  {line}\n"));
    }
    for line in &answer.leftovers {
        text.push_str(&format!("left     {line}\n"));
    }
    for line in &answer.kept {
        text.push_str(&format!("kept     {line}\n"));
    }
    text.push_str(match answer.leftovers.is_empty() {
        true => "nothing of Weft is left on this machine\n",
        false => "something of Weft is left; `weft uninstall` tries again\n",
    });
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_went_what_is_left_and_a_last_word() {
        assert_eq!(render(&Answer::default()), "nothing of Weft is left on this machine\n");
        let answer = Answer {
            removed: vec!["link weftx9338".into()],
            leftovers: vec!["/run/weft".into()],
            kept: vec!["/x, of old; else: rm /x".into()],
        };
        insta::assert_snapshot!(render(&answer), @r"
        removed  link weftx9338
        left     /run/weft
        kept     /x, of old; else: rm /x
        something of Weft is left; `weft uninstall` tries again
        ");
    }
}
