//! `weft lab`: passes its arguments to the lab.

use std::process::ExitCode;

use crate::cli::LabArgs;

pub fn run(args: &LabArgs) -> ExitCode {
    weft_lab::exec_main(&args.arguments)
}
