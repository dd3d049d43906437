//! What a pod's link costs, beside the kernel's own price for the same objects.
//!
//! Run as root, in a namespace of its own: `unshare -n -m target/release/examples/pod_link_cost [PODS]`. It mounts a tmpfs on
//! `/run` for the pods' namespaces. The floor makes a veth pair, addresses and routes by the fewest raw requests, and knows
//! no repair, no settings and no waiting for the carrier.

use std::fs::File;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::process::Command;
use std::time::{Duration, Instant};

use weft_dataplane::netlink::{Message, Rtnl};
use weft_dataplane::{Executor, LinuxKernel};
use weft_model::{AttachmentId, Cidr, FactKey, IfName, Mac};
use weft_plan::kernel::{LinkKind, MAIN_TABLE};
use weft_plan::{KernelKey, KernelRow, Link, Plan, PodLink, Route, RouteKey, RouteKind};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let pods: u8 = std::env::args().nth(1).map_or(Ok(50), |text| text.parse())?;
    let ip = |arguments: &[&str]| Command::new("ip").args(arguments).status();
    Command::new("mount").args(["-t", "tmpfs", "none", "/run"]).status()?;
    for n in 1..=pods {
        ip(&["netns", "add", &format!("pod{n}")])?;
    }
    let floor: Vec<(Duration, Duration)> = (1..=pods).map(floor).collect::<Result<_, _>>()?;
    let ours = measure(pods)?;
    for (what, at) in [("create", 0), ("remove", 1)] {
        let (floor, ours) = (percentiles(&floor, at), percentiles(&ours, at));
        println!(
            "{what}: floor p50 {:?} p99 {:?}; weft p50 {:?} p99 {:?}; ratio at p50 {:.2}",
            floor.0,
            floor.1,
            ours.0,
            ours.1,
            ours.0.as_secs_f64() / floor.0.as_secs_f64()
        );
    }
    Ok(())
}

fn percentiles(samples: &[(Duration, Duration)], at: usize) -> (Duration, Duration) {
    let mut times: Vec<Duration> = samples.iter().map(|s| if at == 0 { s.0 } else { s.1 }).collect();
    times.sort_unstable();
    (times[times.len() / 2], times[times.len() * 99 / 100])
}

fn addresses(n: u8) -> [IpAddr; 2] {
    [IpAddr::from([10, 244, 0, n]), IpAddr::from([0xfd00, 0x244, 0, 0, 0, 0, 0, u16::from(n)])]
}

/// Makes and removes one pod after the other through the executor: link and host routes.
fn measure(pods: u8) -> Result<Vec<(Duration, Duration)>, Box<dyn std::error::Error>> {
    let state = tempfile::tempdir()?;
    let mut executor = Executor::new(LinuxKernel::open(state.path())?);
    let mut plan = Plan::default();
    executor.sync(&plan)?;
    let mut times = Vec::new();
    for n in 1..=pods {
        let id = AttachmentId { container: format!("container{n}").into(), ifname: IfName::new("eth0")? };
        let namespace = File::open(format!("/run/netns/pod{n}"))?;
        let rows = rows(&id, n);
        let start = Instant::now();
        executor.kernel_mut().register_netns(id, OwnedFd::from(namespace));
        for (key, row) in rows.clone() {
            plan.kernel.set(key, row, FactKey::Host);
        }
        let changed = plan.kernel.take_changed();
        let outcome = executor.step(&plan, changed)?;
        let created = start.elapsed();
        assert!(outcome.failed.is_empty(), "{:?}", outcome.failed);
        let start = Instant::now();
        for (key, _) in rows {
            plan.kernel.remove(&key);
        }
        let changed = plan.kernel.take_changed();
        executor.step(&plan, changed)?;
        times.push((created, start.elapsed()));
    }
    Ok(times)
}

fn rows(id: &AttachmentId, n: u8) -> Vec<(KernelKey, KernelRow)> {
    let name = id.host_link();
    let link = Link {
        kind: LinkKind::Pod(PodLink {
            attachment: id.clone(),
            netns: "".into(),
            pod_mac: Mac([2, 0, 0, 0, 1, n]),
            addresses: addresses(n).to_vec(),
            mtu: 1450,
        }),
        alias: format!("weft:default/pod-{n}").into(),
    };
    let mut rows = vec![(KernelKey::Link(name), KernelRow::Link(Box::new(link)))];
    for address in addresses(n) {
        let key = RouteKey { table: MAIN_TABLE, destination: Cidr::host(address), metric: 0 };
        let route =
            Route { kind: RouteKind::Unicast, link: Some(name), via: None, onlink: false, source: None };
        rows.push((KernelKey::Route(key), KernelRow::Route(route)));
    }
    rows
}

const CREATE: i32 = libc::NLM_F_CREATE | libc::NLM_F_EXCL;

/// `struct ifinfomsg`.
fn link_header(index: u32, flags: u32) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[4..8].copy_from_slice(&index.to_ne_bytes());
    bytes[8..12].copy_from_slice(&flags.to_ne_bytes());
    bytes[12..16].copy_from_slice(&flags.to_ne_bytes());
    bytes
}

fn family(address: IpAddr) -> (u8, u8) {
    if address.is_ipv4() { (libc::AF_INET as u8, 32) } else { (libc::AF_INET6 as u8, 128) }
}

fn up(index: u32) -> Message {
    Message::new(libc::RTM_SETLINK, 0, &link_header(index, libc::IFF_UP as u32))
}

fn route(address: Option<IpAddr>, v6: IpAddr, scope: u8) -> Message {
    let (af, bits) = family(address.unwrap_or(v6));
    let bits = if address.is_some() { bits } else { 0 };
    let header = [af, bits, 0, 0, 254, 3, scope, libc::RTN_UNICAST, 0, 0, 0, 0];
    let message = Message::new(libc::RTM_NEWROUTE, CREATE, &header);
    match address {
        Some(address) => message.address(libc::RTA_DST, address),
        None => message,
    }
}

/// The same objects by raw requests; returns the times of making and removing.
fn floor(n: u8) -> Result<(Duration, Duration), Box<dyn std::error::Error>> {
    let mut host = Rtnl::open()?;
    let namespace = File::open(format!("/run/netns/pod{n}"))?;
    let start = Instant::now();
    let name = format!("floor{n}");
    let create = Message::new(libc::RTM_NEWLINK, CREATE, &link_header(0, 0))
        .text(libc::IFLA_IFNAME, &name)
        .nest(libc::IFLA_LINKINFO, |info| {
            info.attr(libc::IFLA_INFO_KIND, b"veth").nest(libc::IFLA_INFO_DATA, |data| {
                data.nest(1, |peer| {
                    peer.raw(&link_header(0, 0))
                        .text(libc::IFLA_IFNAME, "eth0")
                        .attr(libc::IFLA_NET_NS_FD, &namespace.as_raw_fd().to_ne_bytes())
                })
            })
        });
    let look = Message::new(libc::RTM_GETLINK, 0, &link_header(0, 0)).text(libc::IFLA_IFNAME, &name);
    let replies = host.exchange(&[create, look])?;
    let (_, body) = replies[1].object.clone().ok_or("no link")?;
    let index = u32::from_ne_bytes(body[4..8].try_into()?);
    let peer = weft_dataplane::netlink::Attributes::new(&body[16..]).u32(libc::IFLA_LINK).ok_or("no peer")?;
    // The host end up, then all of the pod's end, then the host's routes.
    host.exchange(&[up(index)])?;
    let mut inside = std::thread::scope(|scope| {
        scope
            .spawn(|| {
                nix::sched::setns(&namespace, nix::sched::CloneFlags::CLONE_NEWNET).map(|()| Rtnl::open())
            })
            .join()
    })
    .map_err(|_| "the thread panicked")???;
    let gateways: [IpAddr; 2] = ["169.254.1.1".parse()?, "fe80::1".parse()?];
    let mut requests = vec![up(1)];
    for address in addresses(n) {
        let (af, bits) = family(address);
        let nodad = if address.is_ipv6() { 2 } else { 0 };
        let i = peer.to_ne_bytes();
        let header = [af, bits, nodad, 0, i[0], i[1], i[2], i[3]];
        requests.push(Message::new(libc::RTM_NEWADDR, CREATE, &header).address(libc::IFA_LOCAL, address));
    }
    requests.push(up(peer));
    requests.push(route(Some(gateways[0]), gateways[1], libc::RT_SCOPE_LINK).u32(libc::RTA_OIF, peer));
    for gateway in gateways {
        requests.push(route(None, gateway, 0).u32(libc::RTA_OIF, peer).address(libc::RTA_GATEWAY, gateway));
    }
    let mut replies = inside.exchange(&requests)?;
    let routes: Vec<Message> = addresses(n)
        .iter()
        .map(|a| {
            let scope = if a.is_ipv4() { libc::RT_SCOPE_LINK } else { 0 };
            route(Some(*a), gateways[1], scope).u32(libc::RTA_OIF, index)
        })
        .collect();
    replies.extend(host.exchange(&routes)?);
    let created = start.elapsed();
    for reply in replies {
        reply.result.map_err(|refusal| refusal.to_string())?;
    }
    let start = Instant::now();
    let remove = Message::new(libc::RTM_DELLINK, 0, &link_header(index, 0));
    host.exchange(&[remove])?;
    Ok((created, start.elapsed()))
}
