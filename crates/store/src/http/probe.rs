//! Whether the other end of a connection is there: asked by the kernel.

use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};
use tokio::net::TcpStream;

/// Seconds without a word after which the kernel asks whether the other end is there, and between such questions.
const IDLE: u32 = 15;
const BETWEEN_PROBES: u32 = 5;
/// So many without an answer, and the connection has ended.
const PROBES: u32 = 3;

/// Has the kernel ask over a connection that is idle whether the other end is there, and give it up where nothing is answered, or where nothing
/// that was sent arrives. A watch sends nothing itself; and what stands between (a firewall, a balancer) forgets connections over which
/// nothing goes, some within 5 minutes, and tells nobody.
pub(crate) fn probe(tcp: &TcpStream) -> nix::Result<()> {
    setsockopt(tcp, sockopt::KeepAlive, &true)?;
    setsockopt(tcp, sockopt::TcpKeepIdle, &IDLE)?;
    setsockopt(tcp, sockopt::TcpKeepInterval, &BETWEEN_PROBES)?;
    setsockopt(tcp, sockopt::TcpKeepCount, &PROBES)?;
    let unanswered = Duration::from_secs(u64::from(IDLE + PROBES * BETWEEN_PROBES));
    setsockopt(tcp, sockopt::TcpUserTimeout, &u32::try_from(unanswered.as_millis()).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use nix::sys::socket::getsockopt;

    use super::*;

    #[test]
    fn the_kernel_looks_after_connections() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let tcp = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            probe(&tcp).unwrap();
            assert_eq!(getsockopt(&tcp, sockopt::KeepAlive), Ok(true));
            assert_eq!(getsockopt(&tcp, sockopt::TcpKeepIdle), Ok(15));
            assert_eq!(getsockopt(&tcp, sockopt::TcpUserTimeout), Ok(30_000));
        });
    }
}
