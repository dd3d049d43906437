//! Beginning, ending, and what comes in between.

use std::net::{SocketAddr, UdpSocket};
use std::sync::{Arc, RwLock};
use std::time::Duration;

use super::fixture::{cluster, request};
use super::{ask, config, exchange, server};
use weft_dns::{DnsError, UpstreamSource, serve};
use weft_plan::Plan;

#[test]
fn a_server_listens_at_addresses_that_do_not_exist_yet() {
    let mut config = config();
    config.listen = vec![
        "127.0.0.1:0".parse().unwrap(),
        "192.0.2.53:0".parse().unwrap(),
        "[2001:db8::53]:0".parse().unwrap(),
    ];
    let server = serve(&config, Arc::new(RwLock::new(cluster()))).unwrap();
    assert_eq!(server.addresses().len(), 3);
    assert!(ask(&server, "old.default.svc.cluster.local", "A").ends_with("10.96.0.2"));
}

#[test]
fn an_address_that_is_taken_is_named() {
    let taken = UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut config = config();
    config.listen = vec![taken.local_addr().unwrap()];
    let plan = Arc::new(RwLock::new(Plan::default()));
    let error = serve(&config, plan.clone()).unwrap_err().to_string();
    let wanted =
        format!("listening for DNS by UDP at {}: Address already in use", taken.local_addr().unwrap());
    assert!(error.starts_with(&wanted), "{error}");
    config.listen.clear();
    assert!(matches!(serve(&config, plan), Err(DnsError::NoAddress)));
}

#[test]
fn changes_of_the_plan_are_answered_at_once() {
    let plan = Arc::new(RwLock::new(Plan::default()));
    let server = serve(&config(), plan.clone()).unwrap();
    let name = "old.default.svc.cluster.local";
    assert_eq!(ask(&server, name, "A"), "ServFail ra");
    *plan.write().unwrap() = cluster();
    assert!(ask(&server, name, "A").ends_with("10.96.0.2"));
}

#[test]
fn another_server_takes_over_without_a_loss() {
    let old = server(UpstreamSource::Fixed(Vec::new()));
    let address = old.addresses()[0];
    let asking = std::thread::spawn(move || {
        let query = request("old.default.svc.cluster.local", 1, 1, b"");
        (0..2000).filter(|_| exchange(address, &query).is_some()).count()
    });
    std::thread::sleep(Duration::from_millis(30));
    let mut config = config();
    config.listen = vec![address];
    let new = serve(&config, Arc::new(RwLock::new(cluster()))).unwrap();
    std::thread::sleep(Duration::from_millis(30));
    let (before, answered) = (old.stop().udp, asking.join().unwrap());
    let after = new.stop().udp;
    assert_eq!((answered, before + after), (2000, 2000));
    assert!(before > 0 && after > 0, "{before} {after}");
    // Nobody listens any more.
    assert!(std::net::TcpStream::connect(address).is_err());
}

#[test]
fn rubbish_is_counted_and_harms_nothing() {
    let server = server(UpstreamSource::Fixed(Vec::new()));
    let address: SocketAddr = server.addresses()[0];
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    for length in [0, 1, 11, 12, 600, 60000] {
        socket.send_to(&vec![0xff; length], address).unwrap();
    }
    assert!(ask(&server, "old.default.svc.cluster.local", "A").ends_with("10.96.0.2"));
    let counters = server.stop();
    assert_eq!((counters.udp, counters.dropped, counters.rcodes[0]), (7, 6, 1));
}

/// As on a node: port 53 at a link-local address and the cluster's DNS addresses, which are local routes that come later.
#[test]
fn a_nodes_addresses_answer_once_they_are_routed() {
    let run = |program: &str, arguments: &str| {
        let output = std::process::Command::new(program).args(arguments.split(' ')).output();
        let output = output.unwrap_or_else(|error| panic!("{program}: {error}"));
        assert!(
            output.status.success(),
            "{program} {arguments}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    };
    // A thread's network namespace is inherited by the threads and processes that it starts.
    let inside = move || {
        if let Err(error) = nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET) {
            eprintln!("SKIPPED: no network namespace can be made ({error}); run as root");
            return;
        }
        let addresses = ["169.254.20.10", "10.96.0.10", "fd00:96::a"];
        let mut config = config();
        config.listen = addresses.map(|ip| SocketAddr::new(ip.parse().unwrap(), 53)).to_vec();
        let server = serve(&config, Arc::new(RwLock::new(cluster()))).unwrap();
        run("ip", "link set lo up");
        for address in addresses {
            let family = if address.contains(':') { "-6" } else { "-4" };
            run("ip", &format!("{family} route add local {address} dev lo"));
            for transport in ["+notcp", "+tcp"] {
                run("dig", &format!("@{address} {transport} +tries=1 +time=5 web.default.svc.cluster.local"));
            }
        }
        let counters = server.stop();
        assert_eq!((counters.udp, counters.tcp, counters.rcodes[0]), (3, 3, 6));
    };
    std::thread::spawn(inside).join().unwrap();
}

#[test]
fn one_client_leaves_connections_for_others() {
    use std::io::{Read, Write};
    use std::net::TcpStream;
    let mut config = config();
    (config.max_connections, config.max_connections_per_client) = (8, 3);
    let server = serve(&config, Arc::new(RwLock::new(cluster()))).unwrap();
    let query = request("old.default.svc.cluster.local", 1, 1, b"");
    // Answered, or closed at once.
    let is_served = |stream: &mut TcpStream| {
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let _ = stream.write_all(&[&(query.len() as u16).to_be_bytes(), query.as_slice()].concat());
        stream.read_exact(&mut [0; 2]).is_ok()
    };
    let connect = |from: [u8; 4]| {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::from((from, 0)).into()).unwrap();
        socket.connect(&server.addresses()[0].into()).unwrap();
        TcpStream::from(socket)
    };
    let mut greedy: Vec<TcpStream> = (0..8).map(|_| connect([127, 0, 0, 2])).collect();
    let served = greedy.iter_mut().filter_map(|stream| is_served(stream).then_some(())).count();
    assert_eq!(served, 3);
    assert!(is_served(&mut connect([127, 0, 0, 3])));
    drop(greedy);
    let deadline = std::time::Instant::now() + Duration::from_secs(5);
    while !is_served(&mut connect([127, 0, 0, 2])) {
        assert!(std::time::Instant::now() < deadline, "places come back");
    }
}
