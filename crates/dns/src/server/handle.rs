//! Starting and stopping the server.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, RwLock};
use std::thread::JoinHandle;
use std::time::Duration;

use thiserror::Error;
use tokio::net::{TcpListener, UdpSocket};
use tokio::sync::watch;
use tokio::task::JoinSet;
use weft_plan::Plan;

use super::config::Config;
use super::counters::{Counters, Tally};
use super::service::Service;
use super::socket::Pair;
use super::{tcp, udp};
use crate::forward::{Forwarder, Limits};

/// Why a server can't begin.
#[derive(Debug, Error)]
pub enum DnsError {
    /// There is nothing to listen at.
    #[error("the DNS server has no address to listen at; give it one, or turn it off")]
    NoAddress,
    /// An address can't be had.
    #[error(
        "listening for DNS by {protocol} at {address}: {source}; see whether another server has it (`ss -lnp`)"
    )]
    Bind {
        /// UDP or TCP.
        protocol: &'static str,
        /// The address.
        address: SocketAddr,
        /// What the kernel says.
        source: io::Error,
    },
    /// The thread can't be made, or its event loop.
    #[error("starting the DNS server's thread: {0}; see the limits on processes and open files")]
    Thread(#[source] io::Error),
}

impl DnsError {
    fn lacks_family(&self) -> bool {
        const EAFNOSUPPORT: i32 = 97;
        matches!(self, Self::Bind { source, .. } if source.raw_os_error() == Some(EAFNOSUPPORT))
    }
}

/// How often the list of resolvers is looked at.
const REFRESH: Duration = Duration::from_secs(2);
/// How long a client's request may wait for resolvers in all; clients give up after 5 seconds.
const FORWARD_LIMIT: Duration = Duration::from_secs(4);
/// How long a stopped server waits for resolvers.
const LAST_WAIT: Duration = Duration::from_secs(1);

/// A running server. It stops when this is dropped.
#[derive(Debug)]
pub struct Handle {
    addresses: Vec<SocketAddr>,
    absent: Vec<SocketAddr>,
    tally: Arc<Tally>,
    stop: Option<watch::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// Starts a server that answers from `plan` as it is at each request. Addresses of a family that the kernel doesn't have
/// are left out, as long as there are others.
///
/// # Errors
/// [`DnsError`]; nothing listens then.
pub fn serve(config: &Config, plan: Arc<RwLock<Plan>>) -> Result<Handle, DnsError> {
    if config.listen.is_empty() {
        return Err(DnsError::NoAddress);
    }
    let (pairs, absent) = present(config.listen.iter().map(|address| (*address, Pair::bind(*address))))?;
    let addresses: Vec<SocketAddr> = pairs.iter().map(|pair| pair.address).collect();
    let limits = Limits { per_try: config.per_try, in_all: FORWARD_LIMIT, udp_payload: config.udp_payload };
    let forwarder = Forwarder::new(config.upstreams.clone(), addresses.clone(), limits);
    let tally = Arc::new(Tally::default());
    let service = Arc::new(Service::new(config, plan, forwarder, tally.clone()));
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(DnsError::Thread)?;
    let sockets = {
        let _inside = runtime.enter();
        pairs.into_iter().map(register).collect::<io::Result<Vec<_>>>().map_err(DnsError::Thread)?
    };
    let (stop, stopped) = watch::channel(());
    let thread = std::thread::Builder::new()
        .name("weft-dns".into())
        .spawn(move || {
            runtime.block_on(run(sockets, service, stopped));
        })
        .map_err(DnsError::Thread)?;
    Ok(Handle { addresses, absent, tally, stop: Some(stop), thread: Some(thread) })
}

/// What could be made, and the addresses whose family the kernel lacks (`ipv6.disable=1`); where it lacks all, its error.
fn present<T>(
    bound: impl Iterator<Item = (SocketAddr, Result<T, DnsError>)>,
) -> Result<(Vec<T>, Vec<SocketAddr>), DnsError> {
    let (mut pairs, mut absent, mut why) = (Vec::new(), Vec::new(), None);
    for (address, result) in bound {
        match result {
            Ok(pair) => pairs.push(pair),
            Err(error) if error.lacks_family() => {
                absent.push(address);
                why = Some(error);
            }
            Err(error) => return Err(error),
        }
    }
    match why {
        Some(error) if pairs.is_empty() => Err(error),
        _ => Ok((pairs, absent)),
    }
}

fn register(pair: Pair) -> io::Result<(UdpSocket, TcpListener)> {
    Ok((UdpSocket::from_std(pair.udp.into())?, TcpListener::from_std(pair.tcp.into())?))
}

async fn run(
    sockets: Vec<(UdpSocket, TcpListener)>,
    service: Arc<Service>,
    mut stopped: watch::Receiver<()>,
) {
    service.forwarder.refresh();
    let (close, closed) = watch::channel(());
    let mut loops = JoinSet::new();
    for (datagrams, connections) in sockets {
        loops.spawn(udp::run(datagrams, service.clone(), closed.clone()));
        loops.spawn(tcp::run(connections, service.clone(), closed.clone()));
    }
    let mut tick = tokio::time::interval(REFRESH);
    loop {
        tokio::select! {
            _ = tick.tick() => service.forwarder.refresh(),
            _ = stopped.changed() => break,
        }
    }
    // Whoever waits for a resolver is still served: all permits are back once nobody does.
    let _ = tokio::time::timeout(LAST_WAIT, service.forwards.acquire_many(service.max_forwards)).await;
    drop(close);
    while loops.join_next().await.is_some() {}
}

impl Handle {
    /// The addresses that it listens at, with the ports that the kernel chose.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// The addresses that it was to listen at and can't, since the kernel lacks their family.
    pub fn absent(&self) -> &[SocketAddr] {
        &self.absent
    }

    /// What it has done so far.
    pub fn counters(&self) -> Counters {
        self.tally.read()
    }

    /// Stops it: what has arrived is answered first. Takes at most about a second. Returns what it has done.
    pub fn stop(mut self) -> Counters {
        self.end();
        self.tally.read()
    }

    fn end(&mut self) {
        // The server notices that the other half of the channel is gone.
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.end();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The numbers of what was made and of what is absent, or the error's number.
    fn sorted(outcomes: &[Result<u16, i32>]) -> Result<(Vec<u16>, usize), Option<i32>> {
        let bound = outcomes.iter().enumerate().map(|(at, outcome)| {
            let address = SocketAddr::from(([127, 0, 0, 1], at as u16));
            let source = |code: &i32| io::Error::from_raw_os_error(*code);
            let result = outcome.as_ref().copied().map_err(|code| DnsError::Bind {
                protocol: "UDP",
                address,
                source: source(code),
            });
            (address, result)
        });
        present(bound).map(|(made, absent)| (made, absent.len())).map_err(|error| match error {
            DnsError::Bind { source, .. } => source.raw_os_error(),
            _ => None,
        })
    }

    #[test]
    fn a_kernel_without_ipv6_has_names_by_ipv4() {
        let (no_family, in_use) = (97, 98);
        assert_eq!(sorted(&[Ok(1), Err(no_family), Ok(2)]), Ok((vec![1, 2], 1)));
        assert_eq!(sorted(&[Ok(1), Err(in_use)]), Err(Some(in_use)));
        assert_eq!(sorted(&[Err(no_family), Err(in_use)]), Err(Some(in_use)));
        assert_eq!(sorted(&[Err(no_family)]), Err(Some(no_family)));
    }
}
