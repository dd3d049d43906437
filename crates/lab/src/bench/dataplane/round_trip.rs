//! One byte to and fro, over one TCP connection (`rr`) or a new one each time (`crr`).
//!
//! One thread asks on all ways in turns of [`SLICE`] round trips, so that whatever else the machine does happens to all of
//! them alike: a turn is far shorter than such a disturbance. Clients end their connections with a reset, so that neither
//! end keeps the port and neither does connection tracking.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::sched::{CloneFlags, CpuSet, sched_setaffinity, setns};
use nix::unistd::Pid;
use socket2::SockRef;
use weft_lab::load::percentile;
use weft_lab::{Net, Process, Tool};

use super::{Place, Way};

const PORT: u16 = 7777;

/// Round trips on one way before the next has its turn.
const SLICE: usize = 100;

/// What is repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Repeated {
    /// A byte to and fro.
    Exchange,
    /// A connection, and a byte to and fro.
    Connection,
}

/// What a client found.
#[derive(Debug)]
pub struct RoundTrips {
    /// Round trips per second: the median of its turns.
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

/// Measures from the clients' pods for so long altogether. One result a way.
pub fn measure(ways: &[&Way], what: Repeated, duration: Duration) -> Result<Vec<RoundTrips>> {
    let asked = std::thread::scope(|scope| scope.spawn(|| ask(ways, what, duration)).join());
    asked.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Waits until the server answers.
pub fn wait_for(way: &Way, patience: Duration) -> Result<()> {
    let deadline = Instant::now() + patience;
    loop {
        match measure(&[way], Repeated::Connection, Duration::ZERO) {
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

/// One client, and what it has found.
struct Client {
    netns: File,
    server: SocketAddr,
    stream: TcpStream,
    /// Of each turn.
    rates: Vec<f64>,
    /// Of each round trip, in microseconds.
    times: Vec<f64>,
}

impl Client {
    fn new(way: &Way) -> Result<Self> {
        let path = way.client.machine.path(&way.client.netns.to_string_lossy());
        let netns = File::open(&path).with_context(|| format!("can't open {}", path.display()))?;
        let server = SocketAddr::new(way.server.address, PORT);
        setns(&netns, CloneFlags::CLONE_NEWNET).context("can't enter a pod")?;
        let stream = connect(server)?;
        Ok(Self { netns, server, stream, rates: Vec::new(), times: Vec::new() })
    }

    fn take_turn(&mut self, what: Repeated) -> Result<()> {
        setns(&self.netns, CloneFlags::CLONE_NEWNET).context("can't enter a pod")?;
        let mut total = 0.0;
        for _ in 0..SLICE {
            let begun = Instant::now();
            match what {
                Repeated::Exchange => exchange(&mut self.stream),
                Repeated::Connection => connect(self.server).and_then(|mut stream| exchange(&mut stream)),
            }
            .context("the server doesn't answer")?;
            let time = begun.elapsed().as_secs_f64() * 1e6;
            total += time;
            self.times.push(time);
        }
        // A hundred.
        #[allow(clippy::cast_precision_loss)]
        self.rates.push(SLICE as f64 / total * 1e6);
        Ok(())
    }

    fn summary(mut self) -> RoundTrips {
        RoundTrips {
            per_second: percentile(&mut self.rates, 50),
            p50_us: percentile(&mut self.times, 50),
            p99_us: percentile(&mut self.times, 99),
        }
    }
}

/// Asks on all ways in turns, at least one each. The thread ends in another namespace than it began in.
fn ask(ways: &[&Way], what: Repeated, duration: Duration) -> Result<Vec<RoundTrips>> {
    stay_on(0);
    let mut clients = ways.iter().map(|way| Client::new(way)).collect::<Result<Vec<_>>>()?;
    if what == Repeated::Connection {
        // A server serves one connection at a time.
        for client in &mut clients {
            client.stream.shutdown(Shutdown::Both).context("can't end a connection")?;
        }
    }
    let mut order: Vec<usize> = (0..clients.len()).collect();
    let start = Instant::now();
    loop {
        // So that nobody always comes after the same one.
        fastrand::shuffle(&mut order);
        for &turn in &order {
            clients[turn].take_turn(what)?;
        }
        if start.elapsed() >= duration {
            return Ok(clients.into_iter().map(Client::summary).collect());
        }
    }
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
