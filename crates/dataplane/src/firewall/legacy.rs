//! The older iptables, whose tables netlink can't reach: through its own binaries, with fixed arguments.
//!
//! What always holds: a binary is run only for a family whose `filter` table exists already, because asking for a table
//! makes it.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::process::Command;

use weft_model::Family;

use super::accept::{Accept, Path};

/// Where the binaries are looked for.
const FOLDERS: [&str; 4] = ["/usr/sbin", "/sbin", "/usr/local/sbin", "/usr/bin"];
/// How long a call waits for another program's lock, in seconds.
const PATIENCE: &str = "5";

/// The binary's name for a family.
pub fn binary(family: Family) -> &'static str {
    match family {
        Family::V4 => "iptables-legacy",
        Family::V6 => "ip6tables-legacy",
    }
}

/// Whether the family's `filter` table exists.
pub fn in_use(family: Family) -> bool {
    let path = match family {
        Family::V4 => "/proc/thread-self/net/ip_tables_names",
        Family::V6 => "/proc/thread-self/net/ip6_tables_names",
    };
    fs::read_to_string(path).is_ok_and(|names| names.lines().any(|name| name == "filter"))
}

fn find(family: Family) -> Option<String> {
    FOLDERS
        .iter()
        .map(|folder| format!("{folder}/{}", binary(family)))
        .find(|path| fs::metadata(path).is_ok_and(|found| found.is_file()))
}

/// A built-in chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BuiltIn {
    /// Whose packets it sees.
    pub family: Family,
    /// Which of them.
    pub path: Path,
    /// Its policy is DROP.
    pub drops: bool,
    /// Our rules in it; of two equal ones both.
    pub ours: Vec<Accept>,
    /// What its owner's rules let through before all else is dropped, as far as it has the form of ours.
    pub theirs: BTreeSet<Accept>,
    /// It has a rule of its own that drops or rejects everything that reaches it.
    pub drop_rule: bool,
}

/// Runs the binary; the error is a sentence.
fn call(family: Family, arguments: &[&str]) -> Result<String, String> {
    let name = binary(family);
    let path = find(family).ok_or_else(|| format!("{name} is not installed"))?;
    let result: io::Result<_> = Command::new(path).args(["-w", PATIENCE]).args(arguments).output();
    match result {
        Ok(output) if output.status.success() => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr);
            Err(format!("{name} {}: {}", arguments.join(" "), said.trim()))
        }
        Err(error) => Err(format!("{name} can't be started: {error}")),
    }
}

/// The chain as it is now.
pub fn chain(family: Family, path: Path) -> Result<BuiltIn, String> {
    Ok(read(family, path, &call(family, &["-S", path.chain()])?))
}

/// Reads `iptables -S CHAIN`.
pub fn read(family: Family, path: Path, listing: &str) -> BuiltIn {
    let mut chain =
        BuiltIn { family, path, drops: false, ours: Vec::new(), theirs: BTreeSet::new(), drop_rule: false };
    let append = format!("-A {} ", path.chain());
    for line in listing.lines() {
        if let Some(policy) = line.strip_prefix("-P ") {
            chain.drops = policy.split_whitespace().nth(1) == Some("DROP");
        } else if let Some(rule) = line.strip_prefix(&append) {
            match Accept::parse(rule) {
                Some(accept) => chain.ours.push(accept),
                None if !chain.drop_rule => chain.theirs.extend(Accept::parse_unmarked(rule)),
                None => {}
            }
            chain.drop_rule |= rule.starts_with("-j DROP") || rule.starts_with("-j REJECT");
        }
    }
    chain
}

/// Makes the chain's openings be these; rules put in and taken out. The error is a sentence.
pub fn open(chain: &BuiltIn, wanted: &BTreeSet<Accept>) -> Result<(usize, usize), String> {
    let mut missing = wanted.clone();
    let surplus: Vec<&Accept> = chain.ours.iter().filter(|accept| !missing.remove(accept)).collect();
    let edit = |verb: &str, accept: &Accept| {
        let rule = accept.arguments();
        let mut arguments = vec![verb, chain.path.chain()];
        arguments.extend(rule.iter().map(String::as_str));
        call(chain.family, &arguments)
    };
    for accept in &surplus {
        edit("-D", accept)?;
    }
    for accept in missing.iter().rev() {
        edit("-I", accept)?;
    }
    Ok((missing.len(), surplus.len()))
}
