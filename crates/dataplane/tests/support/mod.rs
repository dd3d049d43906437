//! Tests in fresh network namespaces: a test starts its own binary again inside `unshare`, so that nothing that it does
//! reaches the machine's network. As root a network and a mount namespace are enough, otherwise a user namespace is made too.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::process::Command;
use std::time::Duration;

const INSIDE: &str = "WEFT_TEST_NAMESPACE";

/// Runs the rest of the test `name` in a namespace of its own: returns true inside, where the test goes on, and false
/// outside, after the inner run succeeded. Where namespaces can't be made it says `SKIPPED` and returns false.
pub fn inside(name: &str) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        run("ip link set lo up");
        return true;
    }
    let flags: &[&str] =
        if nix::unistd::geteuid().is_root() { &["-n", "-m"] } else { &["-U", "-r", "-n", "-m"] };
    let possible = Command::new("unshare").args(flags).arg("true").status();
    if !possible.is_ok_and(|status| status.success()) {
        println!("SKIPPED: {name}: `unshare {}` does not work here", flags.join(" "));
        return false;
    }
    let binary = std::env::current_exe().expect("the test's own path");
    let output = Command::new("unshare")
        .args(flags)
        .arg(binary)
        .args([name, "--exact", "--nocapture", "--test-threads=1"])
        .env(INSIDE, "1")
        .output()
        .expect("unshare was there a moment ago");
    let text = String::from_utf8_lossy(&output.stdout);
    print!("{text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "the test failed inside its namespace");
    assert!(text.contains("1 passed"), "no test of the name {name} ran");
    false
}

/// Runs a command line, which must succeed; returns what it printed. Words are split at blanks.
pub fn run(line: &str) -> String {
    let (ok, text) = attempt(line);
    assert!(ok, "`{line}` failed: {text}");
    text
}

/// Runs a command line; says whether it succeeded, and what it printed.
pub fn attempt(line: &str) -> (bool, String) {
    let mut words = line.split_whitespace();
    let program = words.next().expect("a command");
    let output = Command::new(program).args(words).output().expect("the command exists");
    let text =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    (output.status.success(), text)
}

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
