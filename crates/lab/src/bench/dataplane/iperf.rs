//! Throughput by iperf3.

use std::process::{Command, Stdio};

use anyhow::{Context, Result};
use serde_json::Value;
use weft_lab::{Net, Process};

use super::{Place, Way};

/// Starts a server in a pod; it ends when the value is dropped.
pub fn serve(place: &Place) -> Result<Process> {
    let mut command = Command::new("iperf3");
    command.args(["--server", "--affinity", "1"]).stdin(Stdio::null()).stdout(Stdio::null());
    Ok(place.machine.spawn(command, Net::At(&place.netns))?)
}

/// Gigabits per second that arrive over so many streams.
pub fn gigabits(way: &Way, streams: u32, seconds: u32) -> Result<f64> {
    let mut command = Command::new("iperf3");
    command.args(["--json", "--affinity", "0", "--client", &way.server.address.to_string()]).args([
        "--parallel",
        &streams.to_string(),
        "--time",
        &seconds.to_string(),
    ]);
    let finished = way.client.machine.output(command, Net::At(&way.client.netns), b"")?;
    let text = finished.success_or(|output| anyhow::anyhow!("iperf3 failed: {output}"))?;
    let result: Value = serde_json::from_str(&text).context("iperf3 wrote no JSON")?;
    let rate = result.pointer("/end/sum_received/bits_per_second").and_then(Value::as_f64);
    Ok(rate.context("iperf3 counted nothing")? / 1e9)
}
