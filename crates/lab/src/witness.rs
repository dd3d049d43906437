//! A witness: notes who sends UDP packets to a place, so that packets which must not arrive can be missed there.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv6Addr, UdpSocket};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// How long to watch.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Watch {
    /// The UDP port; nothing else may listen there.
    pub port: u16,
    /// How long, in milliseconds.
    pub duration_ms: u64,
}

/// The sources seen, or why there is nothing to say.
pub type Testimony = Result<BTreeSet<IpAddr>, String>;

/// Watches to the end.
pub fn watch(watch: &Watch) -> Testimony {
    sources(watch).map_err(|e| format!("can't watch UDP port {}: {e}", watch.port))
}

fn sources(watch: &Watch) -> io::Result<BTreeSet<IpAddr>> {
    let socket = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, watch.port))?;
    let end = Instant::now() + Duration::from_millis(watch.duration_ms);
    let mut seen = BTreeSet::new();
    loop {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(seen);
        }
        socket.set_read_timeout(Some(left))?;
        // The end of the time shows above; other errors are about packets that nobody sent here.
        if let Ok((_, client)) = socket.recv_from(&mut [0; 64]) {
            seen.insert(client.ip().to_canonical());
        }
    }
}
