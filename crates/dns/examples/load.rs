//! How many requests a second the server answers on loopback, and how fast one is answered.
//!
//! `cargo run --release -p weft-dns --example load [SERVICES [SECONDS]]`. Client and server share the machine's cores, so
//! the rate is a lower bound.

use std::net::{SocketAddr, UdpSocket};
use std::sync::{Arc, RwLock};
use std::time::{Duration, Instant};

use weft_dns::{Answer, Config, Transport, UpstreamSource, Via, Zones, answer, serve};
use weft_model::FactKey;
use weft_plan::names::Zone;
use weft_plan::{DnsName, NameRow, Plan, Record};

/// Requests under way at once, per client.
const WINDOW: usize = 64;

fn main() {
    let mut arguments = std::env::args().skip(1).map(|a| a.parse::<u64>().expect("a number"));
    let services = arguments.next().unwrap_or(10_000) as usize;
    let duration = Duration::from_secs(arguments.next().unwrap_or(3));
    let mut config = Config::new(vec![([127, 0, 0, 1], 0).into()], vec![DnsName::new("cluster.local")]);
    config.upstreams = UpstreamSource::Fixed(Vec::new());
    let plan = plan(services);
    println!("answer alone: {:.2} µs", alone(&plan, &config, services, duration));
    let server = serve(&config, Arc::new(RwLock::new(plan))).expect("a server on loopback");
    let address = server.addresses()[0];
    println!("{services} services; {WINDOW} requests under way, then one at a time");
    for (what, suffix, rtype) in [
        ("A, exists", ".default.svc.cluster.local", 1),
        ("AAAA, no data", ".default.svc.cluster.local", 28),
        ("A, search list miss", ".default.svc.cluster.local.svc.cluster.local", 1),
    ] {
        let queries: Vec<Vec<u8>> =
            (0..services.min(5000)).map(|i| request(&format!("s{i}{suffix}"), rtype)).collect();
        let rate = pipelined(address, &queries, duration);
        let mut times = single(address, &queries, duration / 3);
        times.sort();
        let at = |share: usize| times[times.len() * share / 1000].as_secs_f64() * 1e6;
        println!("{what:22} {rate:>9.0}/s   p50 {:5.1} µs   p99 {:5.1} µs", at(500), at(990));
    }
    println!("{:?}", server.stop());
}

/// Microseconds that `answer` takes for an address, without any socket.
fn alone(plan: &Plan, config: &Config, services: usize, duration: Duration) -> f64 {
    let zones = Zones::of(plan, &config.zones);
    let mut out = Vec::new();
    let queries: Vec<Vec<u8>> =
        (0..services.min(5000)).map(|i| request(&format!("s{i}.default.svc.cluster.local"), 1)).collect();
    let start = Instant::now();
    let mut count = 0u32;
    while start.elapsed() < duration / 3 {
        for query in &queries {
            let via = Via { transport: Transport::Udp, udp_payload: 1232, turn: count };
            assert_eq!(answer(&zones, query, via, &mut out), Answer::Reply(0));
            count += 1;
        }
    }
    start.elapsed().as_secs_f64() * 1e6 / f64::from(count)
}

fn plan(services: usize) -> Plan {
    let mut plan = Plan { generation: 1, ..Plan::default() };
    let zone = Zone {
        primary: DnsName::new("ns.dns.cluster.local"),
        mailbox: DnsName::new("hostmaster.cluster.local"),
        ttl: 5,
    };
    let mut row = |name: &str, row: NameRow| plan.names.set(DnsName::new(name), row, FactKey::Host);
    row("cluster.local", NameRow::default().with_zone(zone));
    row("svc.cluster.local", NameRow::default());
    row("default.svc.cluster.local", NameRow::default());
    for i in 0..services {
        let ip = std::net::Ipv4Addr::from_bits(0x0a60_0000 + i as u32);
        row(&format!("s{i}.default.svc.cluster.local"), NameRow::new(vec![Record::A(ip)]));
    }
    plan
}

/// A request as a C library sends it: recursion desired, EDNS with 1,232 bytes.
fn request(name: &str, rtype: u16) -> Vec<u8> {
    let mut bytes = vec![0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 1];
    for label in name.split('.') {
        bytes.push(label.len() as u8);
        bytes.extend(label.as_bytes());
    }
    bytes.push(0);
    bytes.extend(rtype.to_be_bytes());
    bytes.extend([0, 1, 0, 0, 41, 4, 0xd0, 0, 0, 0, 0, 0, 0]);
    bytes
}

fn client(server: SocketAddr) -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    socket.connect(server).expect("loopback");
    socket.set_read_timeout(Some(Duration::from_millis(500))).expect("a time-out");
    socket
}

/// Replies a second with a window of requests under way.
fn pipelined(server: SocketAddr, queries: &[Vec<u8>], duration: Duration) -> f64 {
    let socket = client(server);
    let mut reply = [0; 2048];
    let mut next = queries.iter().cycle();
    let mut send = || drop(socket.send(next.next().expect("it never ends")));
    (0..WINDOW).for_each(|_| send());
    let start = Instant::now();
    let mut replies = 0u64;
    while start.elapsed() < duration {
        match socket.recv(&mut reply) {
            Ok(_) => replies += 1,
            // The whole window was lost.
            Err(_) => (1..WINDOW).for_each(|_| send()),
        }
        send();
    }
    replies as f64 / start.elapsed().as_secs_f64()
}

/// Round-trip times of requests one at a time.
fn single(server: SocketAddr, queries: &[Vec<u8>], duration: Duration) -> Vec<Duration> {
    let socket = client(server);
    let mut reply = [0; 2048];
    let mut times = Vec::new();
    let start = Instant::now();
    for query in queries.iter().cycle() {
        let sent = Instant::now();
        if socket.send(query).and_then(|_| socket.recv(&mut reply)).is_ok() {
            times.push(sent.elapsed());
        }
        if start.elapsed() > duration {
            break;
        }
    }
    times
}
