//! The server on loopback, with real sockets, made-up resolvers, and the real `dig`.

#[path = "../answer/fixture.rs"]
#[allow(dead_code, reason = "the other test uses the rest")]
mod fixture;

mod dig;
mod forwarding;
mod lifecycle;
mod resolver;

use std::net::{SocketAddr, UdpSocket};
use std::sync::{Arc, RwLock};
use std::time::Duration;

use weft_dns::{Config, Handle, UpstreamSource, serve};
use weft_plan::DnsName;

/// A server with the fixture's names at a port of its own, with quick failover.
fn server(upstreams: UpstreamSource) -> Handle {
    let mut config = config();
    config.upstreams = upstreams;
    serve(&config, Arc::new(RwLock::new(fixture::cluster()))).unwrap()
}

fn config() -> Config {
    let mut config = Config::new(vec![([127, 0, 0, 1], 0).into()], vec![DnsName::new("cluster.local")]);
    config.per_try = Duration::from_millis(400);
    config.upstreams = UpstreamSource::Fixed(Vec::new());
    config
}

/// Sends a request by UDP and waits for the reply, at most five seconds, as clients do.
fn exchange(server: SocketAddr, query: &[u8]) -> Option<Vec<u8>> {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    socket.send_to(query, server).unwrap();
    let mut reply = vec![0; 65535];
    let (length, from) = socket.recv_from(&mut reply).ok()?;
    assert_eq!(from, server);
    reply.truncate(length);
    Some(reply)
}

/// The reply to a question, as text.
fn ask(server: &Handle, name: &str, rtype: &str) -> String {
    let query = fixture::request(name, fixture::type_number(rtype), 1, b"");
    exchange(server.addresses()[0], &query).map_or("silence".into(), |reply| fixture::text(&reply))
}
