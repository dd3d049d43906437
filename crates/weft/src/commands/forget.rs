//! `weft forget`: takes a node that is gone out of the store.

use std::process::ExitCode;

use anyhow::Result;
use serde::Serialize;
use weft_agent::run::open_store;
use weft_model::NodeName;

use crate::cli::ForgetArgs;
use crate::output::{Format, print, print_json};

/// What was done.
#[derive(Debug, Serialize)]
struct Answer<'a> {
    forgotten: &'a NodeName,
}

pub fn run(args: &ForgetArgs, format: Format) -> Result<ExitCode> {
    let config = args.config.read()?;
    open_store(&config)?.forget_node(&args.node)?;
    match format {
        Format::Json => print_json(&Answer { forgotten: &args.node })?,
        Format::Text => print(&format!("nothing of node {} is left in the store\n", args.node))?,
    }
    Ok(ExitCode::SUCCESS)
}
