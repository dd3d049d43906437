//! Streams (RFC 7766): a length of two bytes before each message, several messages one after the other.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::timeout;

use super::counters::count;
use super::service::{Service, Step};
use crate::answer::Transport;

/// How long a connection may be idle, or take for one message.
const IDLE: Duration = Duration::from_secs(10);

/// Accepts connections until `stop` says so.
pub(super) async fn run(listener: TcpListener, service: Arc<Service>, mut stop: watch::Receiver<()>) {
    loop {
        let accepted = tokio::select! {
            biased;
            _ = stop.changed() => break,
            accepted = listener.accept() => accepted,
        };
        let (stream, client) = match accepted {
            Ok((stream, client)) => (stream, client.ip().to_canonical()),
            Err(error) => {
                tracing::warn!("accepting DNS connections: {error}");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        // One connection too many is closed at once: the client may come back.
        let places = (service.connected.enter(client), service.connections.clone().try_acquire_owned());
        let (Some(place), Ok(permit)) = places else {
            count(&service.tally.dropped);
            continue;
        };
        let service = service.clone();
        tokio::spawn(async move {
            if let Err(error) = converse(stream, client, &service).await {
                tracing::debug!("a DNS connection ended: {error}");
            }
            drop((place, permit));
        });
    }
}

async fn converse(mut stream: TcpStream, client: IpAddr, service: &Service) -> io::Result<()> {
    let mut out = Vec::new();
    // Until the client closes it, or is idle for too long.
    while let Ok(query) = timeout(IDLE, read(&mut stream)).await? {
        count(&service.tally.tcp);
        match service.step(&query, client, Transport::Tcp, &mut out) {
            Step::Send => {}
            Step::Drop => {
                count(&service.tally.dropped);
                return Ok(());
            }
            Step::Wait(waiting) => service.wait(waiting, &mut out).await,
        }
        // Replies are never longer than 64 KB.
        let length = (out.len() as u16).to_be_bytes();
        timeout(IDLE, stream.write_all(&[&length, out.as_slice()].concat())).await??;
    }
    Ok(())
}

async fn read(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let length = stream.read_u16().await?;
    let mut message = vec![0; usize::from(length)];
    stream.read_exact(&mut message).await?;
    Ok(message)
}
