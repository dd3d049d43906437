//! The lab's own processes: one program, one subcommand each.
//!
//! A machine's init, a pod's process, probes and load run as `PROGRAM lab-tool WHAT …`, where PROGRAM is any
//! binary whose `main` hands such arguments to [`main`]; `weft-lab` does. Answers are JSON on standard output.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::machine::{Finished, Machine, Net};
use crate::{LabError, load, machine, pod, probe, resolve, serve, witness};

/// The first argument of every call.
pub const SUBCOMMAND: &str = "lab-tool";

/// Runs one of the lab's processes; `arguments` are what follows [`SUBCOMMAND`].
pub fn main(arguments: &[String]) -> ExitCode {
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["machine", name, directory] => machine::outer_main(name, Path::new(directory)),
        ["machine-init", name, directory] => machine::inner_main(name, Path::new(directory)),
        ["pod", spec] => pod::pod_main(spec),
        ["serve", name] => serve::serve_main(name),
        ["internet", name] => serve::internet_main(name),
        ["probe"] => answer(|targets: Vec<probe::Target>| probe::probe_all(&targets)),
        ["resolve"] => answer(|questions: Vec<resolve::Question>| resolve::resolve_all(&questions)),
        ["witness"] => answer(|watch: witness::Watch| witness::watch(&watch)),
        ["load"] => answer(|job: load::Job| load::run(&job)),
        _ => {
            eprintln!("the lab has no such process: {arguments:?}");
            ExitCode::from(2)
        }
    }
}

/// Reads one JSON value, and writes the one that `work` makes of it.
fn answer<I: DeserializeOwned, O: Serialize>(work: impl FnOnce(I) -> O) -> ExitCode {
    let mut input = Vec::new();
    let result = std::io::stdin()
        .read_to_end(&mut input)
        .map_err(|e| e.to_string())
        .and_then(|_| serde_json::from_slice(&input).map_err(|e| e.to_string()))
        .and_then(|input| serde_json::to_string(&work(input)).map_err(|e| e.to_string()));
    match result {
        Ok(text) => {
            println!("{text}");
            ExitCode::SUCCESS
        }
        Err(why) => {
            eprintln!("{why}");
            ExitCode::FAILURE
        }
    }
}

/// The program that runs the lab's processes.
#[derive(Debug, Clone)]
pub struct Tool(PathBuf);

impl Tool {
    /// A program whose `main` hands [`SUBCOMMAND`] to [`main`].
    pub fn new(program: impl Into<PathBuf>) -> Self {
        Self(program.into())
    }

    /// The running program, which must be such a one.
    pub fn current() -> Result<Self, LabError> {
        std::env::current_exe().map(Self).map_err(LabError::file("find", "/proc/self/exe"))
    }

    /// Its path.
    pub fn program(&self) -> &Path {
        &self.0
    }

    /// A command for one of the lab's processes.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.0);
        command.arg(SUBCOMMAND).args(arguments);
        command
    }

    /// Runs a process that answers JSON with JSON.
    pub fn ask<I: Serialize + ?Sized, O: DeserializeOwned>(
        &self,
        machine: &Machine,
        net: Net<'_>,
        what: &'static str,
        input: &I,
    ) -> Result<O, LabError> {
        let tool = |why: String| LabError::Tool { tool: what, why };
        let input = serde_json::to_vec(input).map_err(|e| tool(e.to_string()))?;
        let finished: Finished = machine.output(self.command(&[what]), net, &input)?;
        let text = finished.success_or(tool)?;
        serde_json::from_str(&text).map_err(|e| tool(e.to_string()))
    }
}
