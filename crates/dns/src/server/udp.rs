//! The datagram loop.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::sync::watch;

use super::counters::count;
use super::service::{Service, Step};
use crate::answer::Transport;

/// Longest request that is read, in bytes; what is longer is cut, and then not understood.
const MAX_REQUEST: usize = 4096;

/// How long a request may be on its way inside the kernel after its socket was chosen.
const ON_ITS_WAY: Duration = Duration::from_millis(5);

/// Serves a socket until `stop` says so, and then what still waits in it.
pub(super) async fn run(socket: UdpSocket, service: Arc<Service>, mut stop: watch::Receiver<()>) {
    let socket = Arc::new(socket);
    let mut query = vec![0; MAX_REQUEST];
    let mut out = Vec::with_capacity(MAX_REQUEST);
    loop {
        let received = tokio::select! {
            biased;
            received = socket.recv_from(&mut query) => received,
            _ = stop.changed() => break,
        };
        match received {
            Ok((length, client)) => handle(&socket, &service, &query[..length], client, &mut out),
            Err(error) => {
                tracing::warn!("receiving DNS requests: {error}");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
    // A connected socket gets nothing from others, and the kernel gives their requests to the server that takes over.
    if let Ok(own) = socket.local_addr() {
        let _ = socket.connect(own).await;
    }
    tokio::time::sleep(ON_ITS_WAY).await;
    while let Ok((length, client)) = socket.try_recv_from(&mut query) {
        handle(&socket, &service, &query[..length], client, &mut out);
    }
}

fn handle(
    socket: &Arc<UdpSocket>,
    service: &Arc<Service>,
    query: &[u8],
    client: SocketAddr,
    out: &mut Vec<u8>,
) {
    count(&service.tally.udp);
    match service.step(query, client.ip().to_canonical(), Transport::Udp, out) {
        Step::Send => send(socket, service, out, client),
        Step::Drop => count(&service.tally.dropped),
        Step::Wait(waiting) => {
            let (socket, service) = (socket.clone(), service.clone());
            tokio::spawn(async move {
                let mut out = Vec::new();
                service.wait(waiting, &mut out).await;
                send(&socket, &service, &out, client);
            });
        }
    }
}

/// Sends now or never: a client that isn't heard asks again.
fn send(socket: &UdpSocket, service: &Service, reply: &[u8], client: SocketAddr) {
    if let Err(error) = socket.try_send_to(reply, client) {
        count(&service.tally.dropped);
        if error.kind() != io::ErrorKind::WouldBlock {
            tracing::debug!("sending a DNS reply to {client}: {error}");
        }
    }
}
