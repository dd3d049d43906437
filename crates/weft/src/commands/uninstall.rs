//! `weft uninstall`: takes all of Weft off this machine, or looks whether any is left.
//!
//! What always holds: what the store has of another machine that has the node's name is left alone, however often this is called.

use std::fs;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, anyhow};
use nix::sys::signal::{SigSet, Signal};
use serde::Serialize;
use weft_agent::api::{RunDir, hold_state};
use weft_agent::conflist::PLUGIN;
use weft_agent::machine;
use weft_agent::run::{Opener, open_store};
use weft_model::NodeName;
use weft_store::Forgotten;

use super::forget::not_ours;
use super::install::UNFINISHED;
use crate::cli::UninstallArgs;
use crate::output::{Format, print, print_json};
use crate::traces::{Kept, Places, kernel};

/// What was done, and what is left.
#[derive(Debug, Default, Serialize)]
struct Answer {
    removed: Vec<String>,
    leftovers: Vec<String>,
    /// What was asked for and wasn't there.
    absent: Vec<String>,
    /// What was asked for and not done, and why.
    refused: Vec<String>,
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
    let is_done = answer.leftovers.is_empty() && answer.refused.is_empty();
    if let (Some(signals), true) = (signals, is_done) {
        signals.wait().map_err(|e| anyhow!("can't wait for signals: {e}"))?;
    }
    Ok(ExitCode::from(u8::from(!is_done)))
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
    let mut answer = remove(places, args)?;
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

fn remove(places: &Places, args: &UninstallArgs) -> Result<Answer> {
    // Held until all is gone, so that no agent begins meanwhile. Without the folders none runs; one with a run folder of its own
    // still has its state here.
    let nothing_removed = |error| anyhow!("nothing was removed: {error}");
    let run = places.run_dir.exists().then(|| RunDir::claim(&places.run_dir)).transpose();
    let _run = run.map_err(nothing_removed)?;
    let state = places.state_dir.exists().then(|| hold_state(&places.state_dir)).transpose();
    let _state = state.map_err(nothing_removed)?;
    // Files can go only after the kernel's part: the sysctls' originals are among them.
    let outcome = kernel::uninstall(&places.state_dir)?;
    let mut answer = Answer { removed: outcome.removed, leftovers: outcome.left, ..Answer::default() };
    let is_kernel_clean = answer.leftovers.is_empty();
    // Before the file goes that tells this machine from another of the node's name.
    let word = match &args.forget {
        Some(node) => forget_node(places, args, node, &mut answer),
        None => None,
    };
    if !is_kernel_clean {
        answer.leftovers.extend(places.present().iter().map(|path| path.display().to_string()));
        return Ok(answer);
    }
    let (removed, failed) = places.remove_but(word.as_deref());
    answer.removed.extend(removed.iter().map(|path| path.display().to_string()));
    answer.leftovers.extend(failed.iter().map(|(path, error)| format!("{}: {error}", path.display())));
    Ok(answer)
}

/// Takes the node out of the store, where it is this machine's. Returns the file that has to stay for another attempt, where the store
/// can't be asked.
fn forget_node(
    places: &Places,
    args: &UninstallArgs,
    node: &NodeName,
    answer: &mut Answer,
) -> Option<PathBuf> {
    let forget = || -> Result<Result<Forgotten, String>> {
        let mut config = args.config.read()?;
        config.node = Some(node.clone());
        let store = open_store(&config, Opener::Person)?;
        match not_ours(&*store, node, &places.state_dir)? {
            Some(why) => Ok(Err(why)),
            None => Ok(Ok(store.forget_node(node)?)),
        }
    };
    match forget() {
        Ok(Ok(Forgotten::Something)) => answer.removed.push(format!("what node {node} had in the store")),
        Ok(Ok(Forgotten::Nothing)) => answer.absent.push(format!("anything of node {node} in the store")),
        Ok(Err(why)) => answer.refused.push(format!("what node {node} has in the store: {why}")),
        Err(error) => {
            answer.leftovers.push(format!("what node {node} has in the store: {error:#}"));
            let word = Some(places.state_dir.join(machine::FILE)).filter(|word| word.exists());
            answer
                .leftovers
                .extend(word.iter().map(|word| format!("{}: it says whose node it is", word.display())));
            return word;
        }
    }
    None
}

fn render(answer: &Answer) -> String {
    let mut text = String::new();
    for line in &answer.removed {
        text.push_str(&format!("removed  {line}\n"));
    }
    for line in &answer.absent {
        text.push_str(&format!("absent   {line}\n"));
    }
    for line in &answer.leftovers {
        text.push_str(&format!("left     {line}\n"));
    }
    for line in &answer.refused {
        text.push_str(&format!("refused  {line}\n"));
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
            absent: vec!["anything of node n2 in the store".into()],
            refused: vec!["what node n1 has in the store: it is another's".into()],
            kept: vec!["/x, of old; else: rm /x".into()],
        };
        insta::assert_snapshot!(render(&answer), @r"
        removed  link weftx9338
        absent   anything of node n2 in the store
        left     /run/weft
        refused  what node n1 has in the store: it is another's
        kept     /x, of old; else: rm /x
        something of Weft is left; `weft uninstall` tries again
        ");
    }
}
