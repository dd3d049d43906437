//! Load: packets that are counted, and bytes that are timed.

use std::io::{Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::serve;

/// Something to do for a while.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Job {
    /// Send a numbered UDP packet at each interval, and count those that come back.
    Echo {
        /// The server, port [`serve::UDP`].
        server: SocketAddr,
        /// Time between packets, in microseconds.
        interval_us: u64,
        /// How long to go on, in milliseconds.
        duration_ms: u64,
    },
    /// Send bytes over one TCP connection as fast as they go.
    Pump {
        /// The server, port [`serve::SINK`].
        server: SocketAddr,
        /// How long to go on, in milliseconds.
        duration_ms: u64,
    },
    /// One packet to and fro at a time.
    PingPong {
        /// The server, port [`serve::UDP`].
        server: SocketAddr,
        /// How many round trips.
        count: u32,
    },
}

/// What came of a [`Job`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Report {
    /// Of [`Job::Echo`].
    Echo {
        /// Packets sent.
        sent: u64,
        /// Packets that came back.
        received: u64,
        /// The longest time without an answer, in milliseconds.
        longest_gap_ms: f64,
    },
    /// Of [`Job::Pump`].
    Pump {
        /// Bytes that the server has read.
        bytes: u64,
        /// Time until it had, in seconds.
        seconds: f64,
    },
    /// Of [`Job::PingPong`]: the median and the 99th percentile, in microseconds.
    PingPong {
        /// The median.
        p50_us: f64,
        /// The 99th percentile.
        p99_us: f64,
    },
    /// It couldn't be done.
    Failed(String),
}

/// Does a job to its end.
pub fn run(job: &Job) -> Report {
    let result = match *job {
        Job::Echo { server, interval_us, duration_ms } => {
            echo(server, Duration::from_micros(interval_us), Duration::from_millis(duration_ms))
        }
        Job::Pump { server, duration_ms } => pump(server, Duration::from_millis(duration_ms)),
        Job::PingPong { server, count } => ping_pong(server, count),
    };
    result.unwrap_or_else(|e| Report::Failed(e.to_string()))
}

fn connected(server: SocketAddr) -> std::io::Result<UdpSocket> {
    let any: IpAddr = if server.is_ipv4() { [0u8; 4].into() } else { [0u16; 8].into() };
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect(server)?;
    Ok(socket)
}

/// How long an answer to the last packet may take.
const LAST_ANSWER: Duration = Duration::from_millis(500);

fn echo(server: SocketAddr, interval: Duration, duration: Duration) -> std::io::Result<Report> {
    let socket = connected(server)?;
    socket.set_read_timeout(Some(Duration::from_millis(50)))?;
    let sent = AtomicU64::new(0);
    let done = AtomicBool::new(false);
    let (received, longest) = std::thread::scope(|scope| {
        let receiver = scope.spawn(|| count_answers(&socket, &sent, &done));
        let start = Instant::now();
        let mut next = start;
        while start.elapsed() < duration {
            let mut packet = serve::ECHO.to_vec();
            packet.extend_from_slice(&sent.load(Ordering::Relaxed).to_be_bytes());
            // A packet that can't be sent counts as lost.
            let _ = socket.send(&packet);
            sent.fetch_add(1, Ordering::SeqCst);
            next += interval;
            std::thread::sleep(next.saturating_duration_since(Instant::now()));
        }
        done.store(true, Ordering::SeqCst);
        receiver.join().unwrap_or((0, duration))
    });
    Ok(Report::Echo { sent: sent.into_inner(), received, longest_gap_ms: longest.as_secs_f64() * 1000.0 })
}

/// Counts what comes back until everything has, or [`LAST_ANSWER`] has gone by after the last packet was sent.
fn count_answers(socket: &UdpSocket, sent: &AtomicU64, done: &AtomicBool) -> (u64, Duration) {
    let mut buffer = [0; 64];
    let (mut received, mut longest, mut last) = (0, Duration::ZERO, Instant::now());
    let mut ended: Option<Instant> = None;
    loop {
        if socket.recv(&mut buffer).is_ok() {
            received += 1;
            longest = longest.max(last.elapsed());
            last = Instant::now();
        }
        if done.load(Ordering::SeqCst) {
            let over = *ended.get_or_insert_with(Instant::now);
            if received >= sent.load(Ordering::SeqCst) || over.elapsed() > LAST_ANSWER {
                return (received, longest);
            }
        } else {
            longest = longest.max(last.elapsed());
        }
    }
}

fn pump(server: SocketAddr, duration: Duration) -> std::io::Result<Report> {
    let mut stream = TcpStream::connect_timeout(&server, Duration::from_secs(2))?;
    stream.set_write_timeout(Some(Duration::from_secs(5)))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let block = vec![0x5a; 256 << 10];
    let start = Instant::now();
    while start.elapsed() < duration {
        stream.write_all(&block)?;
    }
    stream.shutdown(Shutdown::Write)?;
    let mut total = [0; 8];
    stream.read_exact(&mut total)?;
    Ok(Report::Pump { bytes: u64::from_be_bytes(total), seconds: start.elapsed().as_secs_f64() })
}

fn ping_pong(server: SocketAddr, count: u32) -> std::io::Result<Report> {
    let socket = connected(server)?;
    socket.set_read_timeout(Some(Duration::from_secs(1)))?;
    let mut buffer = [0; 64];
    let mut times = Vec::with_capacity(count as usize);
    for _ in 0..count {
        let start = Instant::now();
        socket.send(serve::ECHO)?;
        socket.recv(&mut buffer)?;
        times.push(start.elapsed().as_secs_f64() * 1e6);
    }
    Ok(Report::PingPong { p50_us: percentile(&mut times, 50), p99_us: percentile(&mut times, 99) })
}

/// The value below which `percent` of `values` lie; 0 where there is none.
pub fn percentile(values: &mut [f64], percent: usize) -> f64 {
    values.sort_by(f64::total_cmp);
    let at = (values.len() * percent / 100).min(values.len().saturating_sub(1));
    values.get(at).copied().unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::percentile;

    #[track_caller]
    fn check(mut values: Vec<f64>, percent: usize, expected: f64) {
        assert!((percentile(&mut values, percent) - expected).abs() < f64::EPSILON);
    }

    #[test]
    fn percentiles() {
        check(vec![], 50, 0.0);
        check(vec![7.0], 99, 7.0);
        check(vec![3.0, 1.0, 2.0], 50, 2.0);
        check((0..100).map(f64::from).collect(), 99, 99.0);
    }
}
