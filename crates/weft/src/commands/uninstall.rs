//! `weft uninstall`: takes all of Weft off this machine, or looks whether any is left.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, anyhow};
use serde::Serialize;
use weft_agent::api::RunDir;

use crate::cli::UninstallArgs;
use crate::output::{Format, print, print_json};
use crate::traces::{Places, kernel};

/// What was done, and what is left.
#[derive(Debug, Default, Serialize)]
struct Answer {
    removed: Vec<String>,
    leftovers: Vec<String>,
}

pub fn run(args: &UninstallArgs, run_dir: Option<PathBuf>, format: Format) -> Result<ExitCode> {
    let config = args.config.read_if_any()?;
    let places = Places::new(config.as_ref(), run_dir);
    let answer = if args.verify { look(&places)? } else { remove(&places)? };
    match format {
        Format::Json => print_json(&answer)?,
        Format::Text => print(&render(&answer))?,
    }
    Ok(ExitCode::from(u8::from(!answer.leftovers.is_empty())))
}

fn look(places: &Places) -> Result<Answer> {
    let mut leftovers = kernel::leftovers(&places.state_dir)?;
    leftovers.extend(places.present().iter().map(|path| path.display().to_string()));
    Ok(Answer { removed: Vec::new(), leftovers })
}

fn remove(places: &Places) -> Result<Answer> {
    // Held until all is gone, so that no agent begins meanwhile. Without the folder none runs.
    let held = places.run_dir.exists().then(|| RunDir::claim(&places.run_dir)).transpose();
    let _held = held.map_err(|e| anyhow!("nothing was removed: {e}"))?;
    // Files can go only after the kernel's part: the sysctls' originals are among them.
    let outcome = kernel::uninstall(&places.state_dir)?;
    let mut answer = Answer { removed: outcome.removed, leftovers: outcome.left };
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
        let answer = Answer { removed: vec!["link weftx9338".into()], leftovers: vec!["/run/weft".into()] };
        insta::assert_snapshot!(render(&answer), @r"
        removed  link weftx9338
        left     /run/weft
        something of Weft is left; `weft uninstall` tries again
        ");
    }
}
