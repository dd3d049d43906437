//! Counted packets from test/a1 to others while something happens.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use weft_lab::load::{Job, Report};
use weft_lab::serve;

use crate::rig::Rig;

const FROM: &str = "test/a1";
const INTERVAL_US: u64 = 4000;
/// How long packets pass where nothing else is said, in milliseconds.
const DURATION_MS: u64 = 2000;

/// What may be lost.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Tolerance {
    /// Not one packet.
    None,
    /// What is sent in so many milliseconds; at the end all of it must pass again.
    GapMs(f64),
}

/// Does something while packets pass in both families; prints what was lost, and panics where that is too much.
pub fn under_traffic<T>(
    rig: &Rig,
    what: &str,
    to: &[&str],
    tolerance: Tolerance,
    work: impl FnOnce() -> T,
) -> T {
    under_traffic_for(DURATION_MS, rig, what, to, tolerance, work)
}

/// The same for so many milliseconds.
pub fn under_traffic_for<T>(
    duration_ms: u64,
    rig: &Rig,
    what: &str,
    to: &[&str],
    tolerance: Tolerance,
    work: impl FnOnce() -> T,
) -> T {
    let from = &rig.pods[FROM];
    let servers = to.iter().flat_map(|name| addresses(rig, name).into_iter().map(move |ip| (*name, ip)));
    let (done, reports): (T, Vec<_>) = std::thread::scope(|scope| {
        let threads: Vec<_> = servers
            .map(|(name, ip)| {
                let server = SocketAddr::new(ip, serve::UDP);
                let job = Job::Echo { server, interval_us: INTERVAL_US, duration_ms };
                let ask = move || -> Report {
                    rig.lab.tool().ask(from.machine(), from.net(), "load", &job).expect("packets are sent")
                };
                (name, ip, scope.spawn(ask))
            })
            .collect();
        std::thread::sleep(Duration::from_millis(DURATION_MS / 6));
        let done = work();
        let joined = threads.into_iter().map(|(name, ip, t)| (name, ip, t.join().expect("it counts")));
        (done, joined.collect())
    });
    let (mut all, mut lost, mut longest, mut wrong) = (0, 0, 0.0_f64, Vec::new());
    for (name, ip, report) in reports {
        let Report::Echo { sent, received, longest_gap_ms } = report else {
            panic!("{what}: {name} {ip}: {report:?}");
        };
        all += sent;
        lost += sent - received.min(sent);
        longest = longest.max(longest_gap_ms);
        let fine = match tolerance {
            Tolerance::None => received == sent,
            Tolerance::GapMs(most) => longest_gap_ms <= most,
        };
        if !fine || received == 0 {
            wrong.push(format!("{name} {ip}: {received} of {sent}, longest gap {longest_gap_ms:.0} ms"));
        }
    }
    println!("{what:<24} {lost:>5} of {all} packets lost, longest gap {longest:.0} ms");
    assert!(wrong.is_empty(), "{what}: allowed {tolerance:?}: {}", wrong.join("; "));
    done
}

/// Addresses of a pod or of a machine.
fn addresses(rig: &Rig, name: &str) -> Vec<IpAddr> {
    match rig.pods.get(name) {
        Some(pod) => pod.addresses().to_vec(),
        None => {
            let machine = rig.lab.topology().machine(name).expect("it is a pod or a machine");
            machine.addresses().collect()
        }
    }
}
