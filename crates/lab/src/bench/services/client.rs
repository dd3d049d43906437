//! What a client in a pod does: it connects to services, and sees how long that takes and where it arrives.
//!
//! Connections end with a reset, so that neither end keeps the port.

use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use socket2::{Domain, Socket, Type};

use super::objects::{PORT, TARGET_PORT, cluster_ip};
use super::place::Place;

/// Where connections go: to services, or straight to endpoints of theirs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Towards {
    Services,
    Endpoints,
}

/// Connections at once where their rate is measured.
const AT_ONCE: usize = 4;
/// After this a connection is tried again: what isn't programmed yet may as well be silent.
const TRY: Duration = Duration::from_millis(10);
/// What a connection may take that should work.
const PATIENCE: Duration = Duration::from_secs(2);
/// Between two tries.
const PAUSE: Duration = Duration::from_millis(2);
/// A step that no size divides: neighbours in time aren't neighbours in the list.
const STEP: usize = 7919;

/// Numbers of services, all over the list.
pub fn spread(count: usize) -> impl Iterator<Item = usize> {
    (0..).map(move |turn: usize| turn.wrapping_mul(STEP) % count)
}

fn address(towards: Towards, number: usize) -> SocketAddr {
    match towards {
        Towards::Services => (cluster_ip(number), PORT).into(),
        Towards::Endpoints => (super::objects::Third::Home.address(number), TARGET_PORT).into(),
    }
}

/// Opens a connection; returns it with the time that the handshake took.
fn connect(to: SocketAddr, patience: Duration) -> std::io::Result<(Socket, Duration)> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.set_linger(Some(Duration::ZERO))?;
    // Holds for connect(2) too (socket(7)), and spares it a poll.
    socket.set_write_timeout(Some(patience))?;
    let to = to.into();
    let start = Instant::now();
    socket.connect(&to)?;
    Ok((socket, start.elapsed()))
}

/// Connects to a service, and asks where it has arrived.
fn arrival(number: usize) -> std::io::Result<Ipv4Addr> {
    let (socket, _) = connect(address(Towards::Services, number), TRY)?;
    let mut stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut octets = [0; 4];
    stream.read_exact(&mut octets)?;
    Ok(octets.into())
}

/// Waits until each of these services takes a connection; an error where one doesn't in time.
pub fn wait_for(place: &Place, numbers: &[usize], deadline: Instant) -> Result<()> {
    place.in_client(|| {
        for number in numbers {
            while let Err(error) = connect(address(Towards::Services, *number), TRY) {
                if Instant::now() > deadline {
                    bail!("service {number} ({}) doesn't answer: {error}", cluster_ip(*number));
                }
                std::thread::sleep(PAUSE);
            }
        }
        Ok(())
    })?
}

/// Makes sure that every service takes a connection; some may need a second one. Returns how many did.
pub fn all_answer(place: &Place, count: usize, deadline: Instant) -> Result<usize> {
    let refused: Vec<usize> = place.in_client(|| {
        (0..count).filter(|n| connect(address(Towards::Services, *n), PATIENCE).is_err()).collect()
    })?;
    wait_for(place, &refused, deadline)?;
    Ok(refused.len())
}

/// Connects to a service until a connection arrives at `endpoint`; `false` where `within` has gone by first.
pub fn arrives_at(number: usize, endpoint: Ipv4Addr, within: Duration) -> bool {
    let start = Instant::now();
    while start.elapsed() < within {
        // One that fails has met a change in the middle of it, and isn't at the new endpoint.
        if arrival(number).is_ok_and(|found| found == endpoint) {
            return true;
        }
    }
    false
}

/// Times of one connection each to `batch` services, in milliseconds; `turn` says which batch this is.
pub fn latencies(
    place: &Place,
    towards: Towards,
    count: usize,
    batch: usize,
    turn: usize,
) -> Result<Vec<f64>> {
    place.in_client(|| {
        let one = |number| {
            let took = connect(address(towards, number), PATIENCE).map(|(_, took)| took);
            took.map(|took| took.as_secs_f64() * 1000.0)
                .with_context(|| format!("service {number} doesn't answer"))
        };
        spread(count).skip(batch * turn).take(batch).map(one).collect()
    })?
}

/// Connections per second, some at a time.
pub fn rate(place: &Place, towards: Towards, count: usize, duration: Duration) -> Result<f64> {
    let made = AtomicU64::new(0);
    let work = |first: usize| -> Result<()> {
        let start = Instant::now();
        for number in spread(count).skip(first * 100) {
            if start.elapsed() >= duration {
                break;
            }
            connect(address(towards, number), PATIENCE)
                .with_context(|| format!("service {number} doesn't answer"))?;
            made.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    };
    let start = Instant::now();
    std::thread::scope(|scope| {
        let threads: Vec<_> =
            (0..AT_ONCE).map(|n| scope.spawn(move || place.in_client(|| work(n)))).collect();
        threads.into_iter().try_for_each(|thread| match thread.join() {
            Ok(result) => result?,
            Err(_) => bail!("a thread of the benchmark panicked"),
        })
    })?;
    // Far fewer than 2^53.
    #[allow(clippy::cast_precision_loss)]
    let made = made.into_inner() as f64;
    Ok(made / start.elapsed().as_secs_f64())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    #[test]
    fn every_service_gets_its_turn() {
        for count in [1, 100, 10_000, 30_000] {
            assert_eq!(super::spread(count).take(count).collect::<BTreeSet<_>>().len(), count);
        }
    }
}
