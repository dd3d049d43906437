//! The subcommands, one a file.

mod agent;
mod explain;
mod forget;
mod install;
mod lab;
mod migrate;
mod plan;
mod preflight;
mod status;
mod uninstall;

use std::io::ErrorKind;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Result, anyhow};
use weft_agent::config::read_small;
use weft_agent::{AgentConfig, ConfigError};

use crate::cli::{Cli, Command, ConfigArg, DEFAULT_CONFIG};
use crate::socket::AgentSocket;

/// Does what the command line says.
pub fn run(cli: Cli) -> Result<ExitCode> {
    let folder = cli.run_dir_or_usual().to_owned();
    let socket = AgentSocket::new(&folder);
    let run_dir = cli.run_dir.clone();
    match cli.command {
        Command::Agent(args) => agent::run(&args, run_dir),
        Command::Status(args) => status::run(&args, &folder, &socket, cli.output),
        Command::Plan(args) => plan::run(&args, &socket, cli.output),
        Command::Explain(args) => explain::run(&args, &socket, cli.output),
        Command::Preflight(args) => preflight::run(&args, run_dir, cli.output),
        Command::Install(args) => install::run(&args, cli.output),
        Command::Forget(args) => forget::run(&args, cli.output),
        Command::Migrate(args) => migrate::run(&args, run_dir, cli.output),
        Command::Uninstall(args) => uninstall::run(&args, run_dir, cli.output),
        Command::Lab(args) => Ok(lab::run(&args)),
    }
}

impl ConfigArg {
    /// The named file, or the customary one.
    fn path(&self) -> &Path {
        self.config.as_deref().unwrap_or(Path::new(DEFAULT_CONFIG))
    }

    /// The configuration where there is one: none where no file was named and the customary one doesn't exist.
    fn read_if_any(&self) -> Result<Option<AgentConfig>> {
        if self.config.is_none() && !self.path().exists() {
            return Ok(None);
        }
        self.read().map(Some)
    }

    /// The configuration; an error is one line that names file, line and field.
    fn read(&self) -> Result<AgentConfig> {
        AgentConfig::read(self.path()).map_err(|error| match &error {
            ConfigError::Read { source, .. } if source.kind() == ErrorKind::NotFound => {
                anyhow!("{error}; write one (examples/agent.yaml has every field), or name it with --config")
            }
            ConfigError::Parse { path, field, reason } => {
                let field = if field.is_empty() { String::new() } else { format!("{field}: ") };
                let reason = one_line(reason, &read_small(path).unwrap_or_default());
                anyhow!("{}: {field}{reason}", path.display())
            }
            _ => anyhow!("{error}"),
        })
    }
}

/// A parser's complaint of several lines as one, with the text that it is about: that names the field.
fn one_line(reason: &str, text: &str) -> String {
    let first = reason.lines().next().unwrap_or_default();
    let first = first.strip_prefix("error: ").unwrap_or(first);
    let number = first.strip_prefix("line ").and_then(|rest| rest.split(' ').next()?.parse::<usize>().ok());
    match number.and_then(|number| text.lines().nth(number.checked_sub(1)?)) {
        Some(line) => format!("{first}, at `{}`", line.trim()),
        None => first.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example shows the defaults: it says the same as a file with nothing but the store.
    #[test]
    fn the_example_configuration_is_complete_and_shows_the_defaults() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/agent.yaml");
        let shown = serde_json::to_value(AgentConfig::read(&path).unwrap()).unwrap();
        let shortest = serde_json::json!({"store": {"directory": "/srv/cluster"}});
        let usual: AgentConfig = serde_json::from_value(shortest).unwrap();
        assert_eq!(shown, serde_json::to_value(&usual).unwrap());
        let text = read_small(&path).unwrap();
        let mut open = vec![shown];
        while let Some(value) = open.pop() {
            for (key, value) in value.as_object().into_iter().flatten() {
                assert!(text.contains(&format!("{key}:")), "{key} is not in the example");
                open.push(value.clone());
            }
        }
    }
}
