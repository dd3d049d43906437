//! Packets between a test's namespaces.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::time::Duration;

/// Where one end of a test's traffic sits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum At {
    /// The namespace that the test runs in.
    Node,
    /// The namespace `/run/netns/pod<n>`.
    Pod(u8),
}

/// Runs `work` in a place, in a thread that ends there.
pub fn at<T: Send>(place: At, work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            if let At::Pod(n) = place {
                let namespace =
                    std::fs::File::open(format!("/run/netns/pod{n}")).expect("the namespace exists");
                nix::sched::setns(namespace, nix::sched::CloneFlags::CLONE_NEWNET).expect("entering it");
            }
            work()
        });
        thread.join().expect("the work succeeds")
    })
}

/// Sends a UDP packet to `address`, which `to` has, and the answer back: once, without patience.
pub fn echo(from: At, to: At, address: &str, patience: Duration) -> bool {
    let address: IpAddr = address.parse().expect("an address");
    let any: IpAddr = match address {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = |place| {
        at(place, move || {
            let socket = UdpSocket::bind((any, 0)).expect("a free port");
            socket.set_read_timeout(Some(patience)).expect("a time-out");
            socket
        })
    };
    let (client, server) = (socket(from), socket(to));
    let port = server.local_addr().expect("bound").port();
    let mut buffer = [0; 8];
    let there = client.send_to(b"ping", (address, port)).is_ok();
    let Some((_, back)) = there.then(|| server.recv_from(&mut buffer).ok()).flatten() else {
        return false;
    };
    server.send_to(b"pong", back).is_ok() && client.recv(&mut buffer).is_ok()
}
