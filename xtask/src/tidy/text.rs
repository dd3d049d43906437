//! Rules that hold for the text of files.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::shell;

/// A file of the checkout that is text.
#[derive(Debug)]
pub struct File {
    path: PathBuf,
    text: String,
}

/// Lines that a source file may have.
const LONG: usize = 600;

/// What no file may contain, and why; each in two parts, so that this file doesn't contain it.
const FORBIDDEN: [(&str, &str, &str); 6] = [
    ("to", "do!(", "finish it or leave it out"),
    ("unimple", "mented!(", "finish it or leave it out"),
    ("db", "g!(", "left over from debugging"),
    ("#[ign", "ore", "a test that can't run here says so and skips"),
    ("/wo", "rk/", "a path of somebody's own machine"),
    ("/tmp", "/t/", "a path of somebody's own machine"),
];

/// Crates that may not see facts, and what of the model they may name: checked words, numbers and identifiers, and
/// `Host`, which the dataplane doesn't look up but sees for itself and hands on.
const BEHIND_THE_WALL: [&str; 3] = ["crates/plan/src", "crates/dataplane/src", "crates/dns/src"];
const NEWTYPES: [&str; 24] = [
    // A table of values by key, whatever they are.
    "Hashed",
    "Keyed",
    "Slot",
    "Table",
    "AttachmentId",
    "Cidr",
    "FactKey",
    "Family",
    "Host",
    "HostLink",
    "IfName",
    "InvalidName",
    "InvalidNet",
    "Mac",
    "NamespaceName",
    "NetworkName",
    "NodeName",
    "ObjectKey",
    "ObjectName",
    "Port",
    "Protocol",
    "Vni",
    "Warning",
    "net",
];

/// Every text file that is, or could be, committed.
pub fn files() -> Result<Vec<File>> {
    let mut git = Command::new("git");
    git.args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"]).current_dir(shell::root());
    let listing = String::from_utf8(shell::output(&mut git)?).context("a file name is not UTF-8")?;
    let paths = listing.split('\0').filter(|p| !p.is_empty());
    Ok(paths
        // What is listed and not there has just been deleted; what isn't UTF-8 isn't text.
        .filter_map(|p| {
            Some(File { path: p.into(), text: std::fs::read_to_string(shell::root().join(p)).ok()? })
        })
        .collect())
}

fn is_rust(path: &Path) -> bool {
    path.extension().is_some_and(|e| e == "rs")
}

/// Source files that are too long.
pub fn lengths(files: &[File]) -> Vec<String> {
    let sources = files.iter().filter(|f| is_rust(&f.path)).map(|f| (f, f.text.lines().count()));
    sources
        .filter(|(_, lines)| *lines > LONG)
        .map(|(file, lines)| format!("{} has {lines} lines: split it", file.path.display()))
        .collect()
}

/// Source files that don't begin by saying what they are.
pub fn module_docs(files: &[File]) -> Vec<String> {
    let sources = files.iter().filter(|f| is_rust(&f.path));
    sources
        .filter(|f| !f.text.trim_start().starts_with("//!"))
        .map(|f| format!("{} doesn't begin with `//!`: say what it is", f.path.display()))
        .collect()
}

/// Facts that are named where only the plan may be seen.
pub fn walls(files: &[File]) -> Vec<String> {
    let behind = |f: &&File| BEHIND_THE_WALL.iter().any(|folder| f.path.starts_with(folder));
    let mut problems = Vec::new();
    for file in files.iter().filter(behind) {
        for name in model_names(&file.text).filter(|name| !NEWTYPES.contains(name)) {
            problems.push(format!("{} names weft_model::{name}, which is a fact", file.path.display()));
        }
    }
    problems
}

/// What follows each `weft_model::`, one name or a list of them in braces.
fn model_names(text: &str) -> impl Iterator<Item = &str> {
    text.split("weft_model::").skip(1).flat_map(|rest| {
        let list = match rest.strip_prefix('{') {
            Some(inside) => inside.split('}').next().unwrap_or_default(),
            None => rest.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or_default(),
        };
        list.split(',').map(str::trim).filter(|name| !name.is_empty())
    })
}

/// Text that must not be there.
pub fn forbidden(files: &[File]) -> Vec<String> {
    let mut problems = Vec::new();
    for file in files {
        for (number, line) in file.text.lines().enumerate() {
            for (first, second, why) in FORBIDDEN {
                let pattern = format!("{first}{second}");
                if line.contains(&pattern) {
                    problems.push(format!("{}:{}: `{pattern}`: {why}", file.path.display(), number + 1));
                }
            }
        }
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, text: &str) -> File {
        File { path: path.into(), text: text.into() }
    }

    #[test]
    fn lengths_of_source_files() {
        let lines = |count| "x\n".repeat(count);
        let files = [file("a.rs", &lines(600)), file("b.rs", &lines(601)), file("c.md", &lines(9000))];
        assert_eq!(lengths(&files), ["b.rs has 601 lines: split it"]);
    }

    #[test]
    fn module_docs_come_first() {
        let files = [file("a.rs", "//! Yes.\n"), file("b.rs", "use x;\n//! No.\n"), file("c.md", "")];
        assert_eq!(module_docs(&files), ["b.rs doesn't begin with `//!`: say what it is"]);
    }

    #[test]
    fn facts_stay_behind_the_wall() {
        let text =
            "use weft_model::{\n    Cidr, Pod,\n};\nfn f(x: weft_model::Mac, y: weft_model::Service) {}";
        let files = [file("crates/dns/src/a.rs", text), file("crates/agent/src/a.rs", text)];
        let found =
            ["Pod", "Service"].map(|n| format!("crates/dns/src/a.rs names weft_model::{n}, which is a fact"));
        assert_eq!(walls(&files), found);
    }

    #[test]
    fn forbidden_text_is_found_with_its_line() {
        let text = format!("fn a() {{\n  {}{}x)\n}}\n", "db", "g!(");
        assert_eq!(
            forbidden(&[file("a.rs", &text)]),
            [format!("a.rs:2: `{}{}`: left over from debugging", "db", "g!(")]
        );
    }
}
