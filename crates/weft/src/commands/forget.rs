//! `weft forget`: takes a node that is gone out of the store.

use std::process::ExitCode;

use anyhow::Result;
use weft_agent::run::open_store;

use crate::cli::ForgetArgs;
use crate::output::print;

pub fn run(args: &ForgetArgs) -> Result<ExitCode> {
    let config = args.config.read()?;
    open_store(&config)?.forget_node(&args.node)?;
    print(&format!("nothing of node {} is left in the store\n", args.node))?;
    Ok(ExitCode::SUCCESS)
}
