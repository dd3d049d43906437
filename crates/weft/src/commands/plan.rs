//! `weft plan`: the desired state, its difference from the kernel, or what another folder of manifests would change.

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Result, anyhow};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::cli::PlanArgs;
use crate::output::{Format, on_one_line, print, print_json};
use crate::socket::AgentSocket;

/// The agent's answer to `/v1/plan`.
#[derive(Debug, Deserialize)]
struct Plan {
    generation: u64,
    rows: Vec<Row>,
    warnings: Vec<String>,
}

#[derive(Debug, Deserialize)]
struct Row {
    row: String,
    origin: String,
}

/// The agent's answer to questions for differences.
#[derive(Debug, Deserialize)]
struct Differences {
    differences: Vec<String>,
    #[serde(default)]
    notices: Vec<String>,
}

pub fn run(args: &PlanArgs, socket: &AgentSocket, format: Format) -> Result<ExitCode> {
    let answer = match &args.folder {
        Some(folder) => socket.post("/v1/plan/preview", &json!({ "folder": absolute(folder)? }))?,
        None if args.diff => socket.get("/v1/plan/kernel")?,
        None => socket.get("/v1/plan")?,
    };
    let text = if args.diff || args.folder.is_some() {
        let same = if args.diff { "The kernel is as the plan has it." } else { "Nothing would change." };
        render_differences(&read(&answer)?, same)
    } else {
        render(&read(&answer)?, args.origin)
    };
    match format {
        Format::Json => print_json(&answer)?,
        Format::Text => print(&text)?,
    }
    let differs = answer["differences"].as_array().is_some_and(|lines| !lines.is_empty());
    Ok(ExitCode::from(u8::from(args.diff && differs)))
}

fn read<T: for<'a> Deserialize<'a>>(answer: &Value) -> Result<T> {
    T::deserialize(answer)
        .map_err(|e| anyhow!("the agent answered something else ({e}): is it of another version?"))
}

/// The agent has another working directory, and may see other mounts: the path must at least exist here.
fn absolute(folder: &Path) -> Result<String> {
    let path =
        folder.canonicalize().map_err(|e| anyhow!("can't open the folder {}: {e}", folder.display()))?;
    path.into_os_string().into_string().map_err(|_| anyhow!("the path of {} is not UTF-8", folder.display()))
}

fn render(plan: &Plan, with_origin: bool) -> String {
    let mut text = format!("# plan {}, {} rows\n", plan.generation, plan.rows.len());
    for Row { row, origin } in &plan.rows {
        match row.split_once('\n') {
            _ if !with_origin => text.push_str(row),
            None => text.push_str(&format!("{row}  # {origin}")),
            Some((first, rest)) => text.push_str(&format!("{first}  # {origin}\n{rest}")),
        }
        text.push('\n');
    }
    for warning in &plan.warnings {
        text.push_str(&format!("warning {}\n", on_one_line(warning)));
    }
    text
}

fn render_differences(answer: &Differences, same: &str) -> String {
    let mut text: String = answer.differences.iter().map(|line| format!("{line}\n")).collect();
    if answer.differences.is_empty() {
        text.push_str(&format!("{same}\n"));
    }
    for notice in &answer.notices {
        text.push_str(&format!("notice {}\n", on_one_line(notice)));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan() -> Plan {
        let rows = [("sysctl a = 1", "node n1"), ("chain x {\n    accept\n}", "network default")];
        Plan {
            generation: 7,
            rows: rows.map(|(row, origin)| Row { row: row.into(), origin: origin.into() }).into(),
            warnings: vec!["pod a/b: odd".into()],
        }
    }

    #[test]
    fn rows_are_printed_as_given() {
        insta::assert_snapshot!(render(&plan(), false), @r"
        # plan 7, 2 rows
        sysctl a = 1
        chain x {
            accept
        }
        warning pod a/b: odd
        ");
    }

    #[test]
    fn origins_stand_behind_the_first_line() {
        insta::assert_snapshot!(render(&plan(), true), @r"
        # plan 7, 2 rows
        sysctl a = 1  # node n1
        chain x {  # network default
            accept
        }
        warning pod a/b: odd
        ");
    }

    #[test]
    fn differences_or_the_word_that_there_are_none() {
        let check = |lines: &[&str], expected: &str| {
            let differences = lines.iter().map(|line| (*line).to_owned()).collect();
            assert_eq!(render_differences(&Differences { differences, notices: vec![] }, "Same."), expected);
        };
        check(&[], "Same.\n");
        check(&["- a", "+ b"], "- a\n+ b\n");
    }
}
