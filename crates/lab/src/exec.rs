//! `weft lab exec NAME -- COMMAND`: runs a command on a machine or in a pod of a running lab.

use std::fs::File;
use std::process::{Command, ExitCode};

use nix::sched::{CloneFlags, setns};
use nix::unistd::geteuid;

use crate::directory::{State, base, read_state};
use crate::machine;

/// Help text of the subcommand.
pub const USAGE: &str = "\
Runs a command on a machine or in a pod of a running lab.

Usage: weft lab exec [--lab LAB] NAME [-- COMMAND [ARGUMENT...]]
       weft lab list

NAME is a machine (n1, router, internet, client, fabric) or a pod (shop/web-0, or web-0 where only one has that
name). Without COMMAND it starts a shell. LAB is needed only where several labs run.
";

/// The `lab` subcommand: `arguments` are what follows `weft lab`. Must be called while the process has one thread.
pub fn exec_main(arguments: &[String]) -> ExitCode {
    match dispatch(arguments) {
        Ok(code) => code,
        Err(why) => {
            eprintln!("weft lab: {why}");
            ExitCode::from(2)
        }
    }
}

fn dispatch(arguments: &[String]) -> Result<ExitCode, String> {
    let mut words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let mut lab = None;
    let verb = words.first().copied();
    if let [_, "--lab", name, ..] = words.as_slice() {
        lab = Some(*name);
        words.drain(1..3);
    }
    match (verb, words.get(1..).unwrap_or_default()) {
        (Some("list"), []) => {
            let (name, state) = find(lab)?;
            println!("lab {name}, process {}", state.pid);
            state.places.iter().for_each(|(place, pid)| println!("  {place} (process {pid})"));
            Ok(ExitCode::SUCCESS)
        }
        (Some("exec"), [place]) => exec(lab, place, &["sh"]),
        (Some("exec"), [place, "--", command @ ..]) if !command.is_empty() => exec(lab, place, command),
        (Some("-h" | "--help" | "help"), _) => {
            print!("{USAGE}");
            Ok(ExitCode::SUCCESS)
        }
        _ => Err(format!("I don't understand this.\n\n{USAGE}")),
    }
}

/// The lab of this name, or the only one that runs.
fn find(lab: Option<&str>) -> Result<(String, State), String> {
    let entries = std::fs::read_dir(base()).into_iter().flatten().flatten();
    let running: Vec<(String, State)> = entries
        .filter_map(|e| Some((e.file_name().into_string().ok()?, read_state(&e.path())?)))
        .filter(|(_, state)| std::path::Path::new(&format!("/proc/{}", state.pid)).exists())
        .filter(|(name, _)| lab.is_none_or(|wanted| wanted == name))
        .collect();
    match (<[_; 1]>::try_from(running), lab) {
        (Ok([only]), _) => Ok(only),
        (Err(none), _) if none.is_empty() => {
            Err("no such lab is running; start one with `cargo xtask demo --keep`".into())
        }
        (Err(several), _) => {
            let names: Vec<_> = several.into_iter().map(|(name, _)| name).collect();
            Err(format!("several labs are running: choose one with --lab ({})", names.join(", ")))
        }
    }
}

fn exec(lab: Option<&str>, place: &str, command: &[&str]) -> Result<ExitCode, String> {
    let (_, state) = find(lab)?;
    let pid = process_of(&state, place)?;
    join(pid).map_err(|e| format!("can't enter {place} (process {pid}): {e}"))?;
    let mut shown = Command::new(command[0]);
    shown.args(&command[1..]).env("PS1", format!("{place} # "));
    let status = shown.status().map_err(|e| format!("can't run {} on {place}: {e}", command[0]))?;
    Ok(ExitCode::from(machine::exit_code(status)))
}

fn process_of(state: &State, place: &str) -> Result<i32, String> {
    if let Some(pid) = state.places.get(place) {
        return Ok(*pid);
    }
    let short = |key: &str| key.split_once('/').is_some_and(|(_, name)| name == place);
    let found: Vec<_> = state.places.iter().filter(|(key, _)| short(key)).collect();
    match found.as_slice() {
        [(_, pid)] => Ok(**pid),
        [] => {
            let known: Vec<_> = state.places.keys().map(String::as_str).collect();
            Err(format!("nothing is called {place}; there are: {}", known.join(", ")))
        }
        _ => Err(format!("several pods are called {place}: name the namespace as well")),
    }
}

/// Joins all namespaces of a process. The user namespace comes first, because it gives the right to join the others.
fn join(pid: i32) -> std::io::Result<()> {
    let open = |kind: &str| File::open(format!("/proc/{pid}/ns/{kind}"));
    let mut wanted = Vec::new();
    if !geteuid().is_root() {
        wanted.push((open("user")?, CloneFlags::CLONE_NEWUSER));
    }
    // Opened before any is joined: afterwards /proc is another one.
    wanted.push((open("pid")?, CloneFlags::CLONE_NEWPID));
    wanted.push((open("net")?, CloneFlags::CLONE_NEWNET));
    wanted.push((open("uts")?, CloneFlags::CLONE_NEWUTS));
    wanted.push((open("ipc")?, CloneFlags::CLONE_NEWIPC));
    wanted.push((open("mnt")?, CloneFlags::CLONE_NEWNS));
    for (file, kind) in wanted {
        setns(file, kind)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(place: &str, expected: Result<i32, &str>) {
        let places = [("n1", 1), ("shop/web-0", 2), ("shop/db-0", 3), ("test/db-0", 4)];
        let places = places.into_iter().map(|(name, pid)| (name.to_owned(), pid)).collect();
        let found = process_of(&State { pid: 9, places }, place);
        assert_eq!(found.as_ref().map_err(String::as_str).copied(), expected);
    }

    #[test]
    fn places_by_full_and_by_short_name() {
        check("n1", Ok(1));
        check("shop/web-0", Ok(2));
        check("web-0", Ok(2));
        check("db-0", Err("several pods are called db-0: name the namespace as well"));
        check("x", Err("nothing is called x; there are: n1, shop/db-0, shop/web-0, test/db-0"));
    }
}
