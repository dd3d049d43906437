//! `cargo xtask tidy`: what every commit must hold, checked without running anything of the project.

mod crates;
mod licence;
#[cfg(test)]
mod systemd;
mod text;

use anyhow::Result;

use crate::shell;

/// One check and what it has found.
#[derive(Debug)]
pub struct Check {
    /// What was looked at.
    pub name: &'static str,
    /// What is wrong; empty where all is well.
    pub problems: Vec<String>,
}

/// All checks, then rustfmt and clippy.
pub fn run() -> Result<()> {
    let checks = static_checks()?;
    let mut wrong = 0;
    for check in &checks {
        println!("{:<18} {}", check.name, if check.problems.is_empty() { "ok" } else { "FAILED" });
        check.problems.iter().for_each(|p| println!("  {p}"));
        wrong += check.problems.len();
    }
    format_and_lints()?;
    anyhow::ensure!(wrong == 0, "{wrong} problem(s)");
    Ok(())
}

/// The checks that take no compiler.
pub fn static_checks() -> Result<Vec<Check>> {
    let metadata = crates::Metadata::read()?;
    let files = text::files()?;
    Ok(vec![
        Check { name: "crate directions", problems: crates::directions(&metadata) },
        Check { name: "licences", problems: crates::licences()? },
        Check { name: "walls", problems: text::walls(&files) },
        Check { name: "file length", problems: text::lengths(&files) },
        Check { name: "module docs", problems: text::module_docs(&files) },
        Check { name: "forbidden text", problems: text::forbidden(&files) },
    ])
}

/// rustfmt and clippy over the workspace; any warning is an error, and so is a function that is too long.
pub fn format_and_lints() -> Result<()> {
    shell::must(shell::cargo().args(["fmt", "--all", "--check"]))?;
    shell::must(shell::cargo().args([
        "clippy",
        "--workspace",
        "--all-targets",
        "--quiet",
        "--",
        "-D",
        "warnings",
        // Its limit stands in clippy.toml.
        "-D",
        "clippy::too_many_lines",
    ]))
}
