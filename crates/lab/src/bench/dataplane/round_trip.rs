//! One byte to and fro, over one TCP connection (`rr`) or a new one each time (`crr`).
//!
//! Clients end their connections with a reset, so that neither end keeps the port and neither does connection tracking.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};
use socket2::SockRef;
use weft_lab::load::percentile;
use weft_lab::{Net, Process, Tool};

use super::{Place, Way};

const PORT: u16 = 7777;

/// What a client found.
#[derive(Debug, Serialize, Deserialize)]
pub struct RoundTrips {
    /// Round trips per second.
    pub per_second: f64,
    /// The median, in microseconds.
    pub p50_us: f64,
    /// The 99th percentile, in microseconds.
    pub p99_us: f64,
}

/// Starts a server in a pod; it ends when the value is dropped.
pub fn serve(tool: &Tool, place: &Place) -> Result<Process> {
    let address = SocketAddr::new(place.address, PORT).to_string();
    let mut command = std::process::Command::new(tool.program());
    command.args(["bench", "answer", &address]).stdin(Stdio::null()).stdout(Stdio::null());
    Ok(place.machine.spawn(command, Net::At(&place.netns))?)
}

/// Measures from the client's pod; `what` is `rr` or `crr`.
pub fn measure(tool: &Tool, way: &Way, what: &str, seconds: u32) -> Result<RoundTrips> {
    let server = SocketAddr::new(way.server.address, PORT).to_string();
    let mut command = std::process::Command::new(tool.program());
    command.args(["bench", "ask", &server, what, &seconds.to_string()]);
    let finished = way.client.machine.output(command, Net::At(&way.client.netns), b"")?;
    let text = finished.success_or(|output| anyhow::anyhow!("{what} failed: {output}"))?;
    serde_json::from_str(&text).with_context(|| format!("{what} gave no readable answer"))
}

/// Waits until the server answers.
pub fn wait_for(tool: &Tool, way: &Way, patience: Duration) -> Result<()> {
    let deadline = Instant::now() + patience;
    loop {
        match measure(tool, way, "crr", 0) {
            Err(_) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(50)),
            result => return result.map(drop),
        }
    }
}

/// Moves this thread, and those that it will start, to one processor, where there are several.
pub fn stay_on(processor: usize) {
    let mut set = CpuSet::new();
    if set.set(processor).is_ok() {
        // On a machine with one processor there is nothing to choose.
        let _ = sched_setaffinity(Pid::from_raw(0), &set);
    }
}

/// `answer ADDRESS`: sends back what comes, one connection at a time, until it is killed.
pub fn answer(address: &str) -> Result<()> {
    stay_on(1);
    let listener = TcpListener::bind(address).with_context(|| format!("can't listen at {address}"))?;
    loop {
        let (mut stream, _) = listener.accept().context("can't accept")?;
        stream.set_nodelay(true)?;
        let mut byte = [0; 1];
        // The client's end, orderly or not, is the end of the connection.
        while let Ok(1) = stream.read(&mut byte) {
            if stream.write_all(&byte).is_err() {
                break;
            }
        }
    }
}

/// `ask ADDRESS rr|crr SECONDS`: measures, and prints what it found as JSON.
pub fn ask(address: &str, what: &str, seconds: &str) -> Result<()> {
    stay_on(0);
    let server: SocketAddr = address.parse().with_context(|| format!("{address} is no address"))?;
    let duration = Duration::from_secs(seconds.parse().with_context(|| format!("{seconds} is no time"))?);
    let mut times = match what {
        "rr" => {
            let mut stream = connect(server)?;
            repeat(duration, || exchange(&mut stream))?
        }
        "crr" => repeat(duration, || exchange(&mut connect(server)?))?,
        other => bail!("{other} is neither rr nor crr"),
    };
    let total: f64 = times.iter().sum();
    // Far fewer than 2^53.
    #[allow(clippy::cast_precision_loss)]
    let per_second = times.len() as f64 / total * 1e6;
    let found =
        RoundTrips { per_second, p50_us: percentile(&mut times, 50), p99_us: percentile(&mut times, 99) };
    println!("{}", serde_json::to_string(&found)?);
    Ok(())
}

fn connect(server: SocketAddr) -> std::io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&server, Duration::from_secs(2))?;
    stream.set_nodelay(true)?;
    SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
    Ok(stream)
}

fn exchange(stream: &mut TcpStream) -> std::io::Result<()> {
    stream.write_all(b"x")?;
    match stream.read(&mut [0; 1])? {
        1 => Ok(()),
        _ => Err(ErrorKind::UnexpectedEof.into()),
    }
}

/// Times of each call in microseconds: at least one.
fn repeat(duration: Duration, mut work: impl FnMut() -> std::io::Result<()>) -> Result<Vec<f64>> {
    let start = Instant::now();
    let mut times = Vec::new();
    loop {
        let begun = Instant::now();
        work().context("the server doesn't answer")?;
        times.push(begun.elapsed().as_secs_f64() * 1e6);
        if start.elapsed() >= duration {
            return Ok(times);
        }
    }
}
