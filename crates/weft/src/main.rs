//! The `weft` binary: one subcommand a file in [`commands`], nothing but wiring and printing.
//!
//! What always holds: a user's mistake is one line on standard error that says what to do, never a backtrace; the exit
//! status says what the help text of the subcommand promises.

mod cli;
mod commands;
mod output;
mod preflight;
mod signals;
mod socket;
mod traces;

use std::process::ExitCode;

use clap::error::ErrorKind;

use crate::cli::Cli;

/// Exit status of a command line that can't be understood (`EX_USAGE` of sysexits.h), apart from every answer.
const USAGE: u8 = 64;

fn main() -> ExitCode {
    let cli = match Cli::understand() {
        Ok(cli) => cli,
        Err(error) => {
            // A closed pipe is nobody's fault.
            let _ = error.print();
            return match error.kind() {
                ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => ExitCode::SUCCESS,
                _ => ExitCode::from(USAGE),
            };
        }
    };
    let trouble = cli.command.trouble();
    match commands::run(cli) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("weft: {}", output::visible(&error.to_string()));
            ExitCode::from(trouble)
        }
    }
}
