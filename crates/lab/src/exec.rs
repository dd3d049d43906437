//! `weft lab exec NAME -- COMMAND`: runs a command on a machine or in a pod of a running lab.

use std::fs::File;
use std::io::{ErrorKind, Write, stdout};
use std::path::Path;
use std::process::{Command, ExitCode};

use nix::sched::{CloneFlags, setns};
use nix::unistd::geteuid;

use crate::directory::{State, base, read_state};
use crate::machine;

/// Help text of the subcommand.
pub const USAGE: &str = "\
Runs a command on a machine or in a pod of a running lab.

Usage: weft lab exec [--lab LAB] NAME [-- COMMAND [ARGUMENT...]]
       weft lab list [--lab LAB]

NAME is a machine (n1, router, internet, client, fabric) or a pod (shop/web-0, or web-0 where only one has that
name). Without COMMAND it starts a shell. LAB is needed only where several labs run.

Exit status: that of COMMAND; 2 where there is no such lab or NAME, or COMMAND can't be run; 64 where the command line was
not understood. Of list: 0, or 2 where no such lab runs.
";

/// Exit status of a command line that can't be understood (`EX_USAGE` of sysexits.h), as all of `weft` has it.
const MISUSE: u8 = 64;

/// Why nothing was done.
#[derive(Debug, PartialEq, Eq)]
enum Refusal {
    /// The command line can't be understood.
    Misuse,
    /// What it asks for can't be had.
    Because(String),
}

/// What a command line asks for.
#[derive(Debug, PartialEq, Eq)]
enum Asked<'a> {
    Help,
    List { lab: Option<&'a str> },
    Exec { lab: Option<&'a str>, place: &'a str, command: &'a [&'a str] },
}

/// The `lab` subcommand: `arguments` are what follows `weft lab`. Must be called while the process has one thread.
pub fn exec_main(arguments: &[String]) -> ExitCode {
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done =
        understand(&words).ok_or(Refusal::Misuse).and_then(|asked| serve(&asked).map_err(Refusal::Because));
    match done {
        Ok(code) => code,
        Err(Refusal::Misuse) => {
            eprintln!("weft lab: I don't understand this.\n\n{USAGE}");
            ExitCode::from(MISUSE)
        }
        Err(Refusal::Because(why)) => {
            eprintln!("weft lab: {why}");
            ExitCode::from(2)
        }
    }
}

fn understand<'a>(words: &'a [&'a str]) -> Option<Asked<'a>> {
    let (verb, rest) = words.split_first()?;
    let is_help = |word: &&str| matches!(*word, "-h" | "--help");
    // Behind `--` stands somebody else's command.
    if *verb == "help" || words.iter().take_while(|word| **word != "--").any(is_help) {
        return Some(Asked::Help);
    }
    let (lab, rest) = match rest {
        ["--lab", name, rest @ ..] => (Some(*name), rest),
        rest => (None, rest),
    };
    match (*verb, rest) {
        ("list", []) => Some(Asked::List { lab }),
        ("exec", [place]) if !place.starts_with('-') => Some(Asked::Exec { lab, place, command: &["sh"] }),
        ("exec", [place, "--", command @ ..]) if !command.is_empty() && !place.starts_with('-') => {
            Some(Asked::Exec { lab, place, command })
        }
        _ => None,
    }
}

fn serve(asked: &Asked<'_>) -> Result<ExitCode, String> {
    match *asked {
        Asked::Help => say(USAGE),
        Asked::List { lab } => {
            let (name, state) = find(lab)?;
            let places = state.places.iter().map(|(place, pid)| format!("  {place} (process {pid})\n"));
            say(&format!("lab {name}, process {}\n{}", state.pid, places.collect::<String>()))
        }
        Asked::Exec { lab, place, command } => exec(lab, place, command),
    }
}

/// Writes to standard output. A reader that has gone away has seen enough.
fn say(text: &str) -> Result<ExitCode, String> {
    let mut out = stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(format!("can't write to standard output: {error}"))
        }
        _ => Ok(ExitCode::SUCCESS),
    }
}

/// The lab of this name, or the only one that runs.
fn find(lab: Option<&str>) -> Result<(String, State), String> {
    let entries = std::fs::read_dir(base()).into_iter().flatten().flatten();
    let running = entries
        .filter_map(|e| Some((e.file_name().into_string().ok()?, read_state(&e.path())?)))
        .filter(|(_, state)| Path::new(&format!("/proc/{}", state.pid)).exists());
    choose(running.collect(), lab)
}

fn choose(mut running: Vec<(String, State)>, lab: Option<&str>) -> Result<(String, State), String> {
    running.sort_by(|(a, _), (b, _)| a.cmp(b));
    let names: Vec<String> = running.iter().map(|(name, _)| name.clone()).collect();
    let names = names.join(", ");
    let is_meant = |(name, _): &(String, State)| lab.is_none_or(|wanted| wanted == name);
    let mut meant: Vec<(String, State)> = running.into_iter().filter(is_meant).collect();
    match (meant.pop(), lab) {
        (Some(only), _) if meant.is_empty() => Ok(only),
        (Some(_), _) => Err(format!("several labs are running: choose one with --lab ({names})")),
        (None, Some(wanted)) if !names.is_empty() => {
            Err(format!("no lab {wanted} is running; there is: {names}"))
        }
        (None, _) => Err("no lab is running; start one with `cargo xtask demo --keep`".into()),
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
    fn command_lines_are_understood_or_refused() {
        let check = |line: &str, expected: Option<Asked<'_>>| {
            let words: Vec<&str> = line.split_whitespace().collect();
            assert_eq!(understand(&words), expected, "{line}");
        };
        let exec = |lab, place, command| Some(Asked::Exec { lab, place, command });
        check("list", Some(Asked::List { lab: None }));
        check("list --lab a", Some(Asked::List { lab: Some("a") }));
        check("exec web-0", exec(None, "web-0", &["sh"]));
        check("exec --lab a n1 -- ip --help", exec(Some("a"), "n1", &["ip", "--help"]));
        for help in ["help", "--help", "-h", "exec --help", "exec n1 -h", "list --help"] {
            check(help, Some(Asked::Help));
        }
        for misuse in
            ["", "lst", "list x", "exec", "exec n1 --", "exec n1 ip", "exec --lba a", "exec --lab a"]
        {
            check(misuse, None);
        }
    }

    #[test]
    fn labs_by_name_or_the_only_one() {
        let check = |running: &[&str], lab: Option<&str>, expected: Result<&str, &str>| {
            let running = running.iter().map(|name| ((*name).to_owned(), State::default())).collect();
            let found = choose(running, lab).map(|(name, _)| name);
            assert_eq!(found.as_deref().map_err(String::as_str), expected);
        };
        let none = Err("no lab is running; start one with `cargo xtask demo --keep`");
        check(&[], None, none);
        check(&[], Some("a"), none);
        check(&["a"], None, Ok("a"));
        check(&["b", "a"], Some("a"), Ok("a"));
        check(&["b", "a"], None, Err("several labs are running: choose one with --lab (a, b)"));
        check(&["b", "a"], Some("nope"), Err("no lab nope is running; there is: a, b"));
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
