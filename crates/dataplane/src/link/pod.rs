//! A pod's veth pair: made in one request, configured at both ends, mended in place where it can be.
//!
//! The alias is written last: a host end without it was left unfinished by a crash, or has just been taken over from another
//! network, and is finished when it is seen.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use weft_model::IfName;
use weft_plan::{KernelRow, Link, PodLink};

use super::host_end::{self, Seed};
use super::request::{Request, alias, find, found, ours, send};
use super::state::{LinkState, by_name};
use super::{former, netns, pod_end, remove};
use crate::netlink::Rtnl;
use crate::{Effect, KernelError, sysctl};

/// Pauses between looks whether a new pair carries packets: under load-free conditions it takes some 50 µs.
const FIRST_LOOK: Duration = Duration::from_micros(20);
const LAST_LOOK: Duration = Duration::from_millis(1);
/// When the waiting ends.
const SETTLE_LIMIT: Duration = Duration::from_secs(1);

/// What is to be made.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted<'a> {
    /// The host end's name.
    pub(crate) name: IfName,
    /// The row.
    pub(crate) link: &'a Link,
    /// The row's pod part.
    pub(crate) pod: &'a PodLink,
    /// The row as applied last.
    pub(crate) was: Option<&'a KernelRow>,
}

/// Makes the pair be as wanted. `brought` is the namespace that the runtime handed over; without it the row's path is opened,
/// where the pod's end has to be touched at all.
pub(crate) fn ensure(
    rtnl: &mut Rtnl,
    wanted: Wanted<'_>,
    brought: Option<&OwnedFd>,
) -> Result<Effect, KernelError> {
    // With a namespace at hand this is an ADD, and creation the likely case: no look beforehand.
    if brought.is_some() {
        return create(rtnl, wanted, brought);
    }
    match find(rtnl, wanted.name)? {
        Some(state) => repair(rtnl, wanted, &state, brought),
        None => create(rtnl, wanted, brought),
    }
}

fn create(rtnl: &mut Rtnl, wanted: Wanted<'_>, brought: Option<&OwnedFd>) -> Result<Effect, KernelError> {
    let opened;
    let namespace = match brought {
        Some(fd) => fd,
        None => {
            opened = netns::open(wanted.name, &wanted.pod.netns)?;
            &opened
        }
    };
    let creation = host_end::create(wanted.name, wanted.pod, namespace.as_raw_fd());
    let mut replies = rtnl.exchange(&[creation.message.clone(), by_name(wanted.name)])?;
    let (look_up, created) = (found(replies.pop()), replies.pop());
    let exists = |errno| errno == libc::EEXIST;
    match (created.map(|reply| creation.judge(reply)), look_up) {
        (Some(Ok(_)), Some(state)) => {
            finish(rtnl, wanted, namespace, &state)?;
            Ok(Effect::of_creation(wanted.was))
        }
        (Some(Err(error)), Some(state)) if error.errno().is_some_and(exists) => {
            repair(rtnl, wanted, &state, Some(namespace))
        }
        (Some(Err(error)), None) if error.errno().is_some_and(exists) => {
            Err(KernelError::PodInterfaceTaken(wanted.pod.attachment.ifname))
        }
        (Some(Err(error)), _) => Err(error),
        _ => Err(KernelError::NoLink(wanted.name)),
    }
}

/// Configures a pair that was just made: host end first, so that the pod's end comes up with a carrier.
fn finish(
    rtnl: &mut Rtnl,
    wanted: Wanted<'_>,
    namespace: &OwnedFd,
    state: &LinkState,
) -> Result<(), KernelError> {
    configure_host_end(rtnl, wanted, state)?;
    let inner = wanted.pod.attachment.ifname;
    let mut inside = netns::socket_after(namespace.as_fd(), wanted.name, || {
        if host_end::has_ipv6(wanted.pod) {
            sysctl::announce_neighbour(inner);
        }
    })?;
    let index = state.peer.ok_or(KernelError::NoLink(inner))?;
    pod_end::configure(&mut inside, namespace.as_fd(), wanted.pod, index)?;
    complete(rtnl, wanted, state, Seed::Anyway)?;
    settle(rtnl, &mut inside, wanted)
}

/// Waits until the pair carries packets: the kernel notices the carrier, and takes IPv6 addresses into use, in threads of
/// its own. A pod that comes to life before loses its first packet. Past the limit the pod is as it is.
fn settle(rtnl: &mut Rtnl, inside: &mut Rtnl, wanted: Wanted<'_>) -> Result<(), KernelError> {
    let start = Instant::now();
    let mut pause = FIRST_LOOK;
    while start.elapsed() < SETTLE_LIMIT {
        let mut settled = find(rtnl, wanted.name)?.is_none_or(|state| state.carries());
        for address in wanted.pod.addresses.iter().filter(|a| a.is_ipv6()) {
            settled &= pod_end::is_local(inside, *address)?;
        }
        if settled {
            return Ok(());
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(LAST_LOOK);
    }
    tracing::warn!(link = %wanted.name, "the pod's link has no carrier yet");
    Ok(())
}

fn configure_host_end(rtnl: &mut Rtnl, wanted: Wanted<'_>, state: &LinkState) -> Result<(), KernelError> {
    let requests = host_end::configure(state, wanted.pod);
    match send(rtnl, &requests) {
        Err(error) if error.errno() == Some(libc::EACCES) && host_end::has_ipv6(wanted.pod) => {
            sysctl::enable_ipv6(wanted.name)?;
            send(rtnl, &requests).map(drop)
        }
        other => other.map(drop),
    }
}

/// What needs both ends up, and the mark that all is done.
fn complete(rtnl: &mut Rtnl, wanted: Wanted<'_>, state: &LinkState, seed: Seed) -> Result<(), KernelError> {
    let mut requests: Vec<Request> = host_end::seed_neighbours(state, wanted.pod, seed);
    requests.push(alias(state.index, wanted.name, &wanted.link.alias));
    send(rtnl, &requests).map(drop)
}

fn repair(
    rtnl: &mut Rtnl,
    wanted: Wanted<'_>,
    state: &LinkState,
    brought: Option<&OwnedFd>,
) -> Result<Effect, KernelError> {
    ours(state)?;
    let needs_inside = brought.is_some()
        || state.alias.is_empty()
        || state.mtu != wanted.pod.mtu
        || state.kind != "veth"
        || wanted.was.is_some_and(|was| inside_differs(was, wanted.pod));
    if !needs_inside {
        configure_host_end(rtnl, wanted, state)?;
        complete(rtnl, wanted, state, Seed::IfAbsent)?;
        return Ok(Effect::Done);
    }
    let opened;
    let namespace = match brought {
        Some(fd) => fd,
        None => {
            opened = netns::open(wanted.name, &wanted.pod.netns)?;
            &opened
        }
    };
    let mut inside = netns::socket(namespace.as_fd(), wanted.name)?;
    let end = find(&mut inside, wanted.pod.attachment.ifname)?
        .filter(|end| end.kind == "veth" && state.peer == Some(end.index) && end.peer == Some(state.index));
    let Some(end) = end else {
        // The other end is somewhere else, or nothing that we can use: make the pair anew.
        remove::one(rtnl, state)?;
        create(rtnl, wanted, Some(namespace))?;
        return Ok(Effect::Recreated);
    };
    let mut host = vec![host_end::mtu(state, wanted.pod.mtu)];
    let seed = if end.mac == Some(wanted.pod.pod_mac) { Seed::IfAbsent } else { Seed::Anyway };
    // The pod sends, the host end receives: the pod shrinks first and grows last.
    if wanted.pod.mtu > state.mtu {
        send(rtnl, &std::mem::take(&mut host))?;
    }
    configure_host_end(rtnl, wanted, state)?;
    pod_end::repair(&mut inside, namespace.as_fd(), wanted.pod, &end)?;
    if state.alias.is_empty() {
        // Unfinished: the pair may be another network's, which has just become ours.
        former::clear(&mut inside, wanted.pod, end.index)?;
    }
    send(rtnl, &host)?;
    complete(rtnl, wanted, state, seed)?;
    settle(rtnl, &mut inside, wanted)?;
    Ok(Effect::Done)
}

fn inside_differs(was: &KernelRow, now: &PodLink) -> bool {
    match was {
        KernelRow::Link(link) => {
            link.kind.as_pod().is_none_or(|pod| pod.pod_mac != now.pod_mac || pod.addresses != now.addresses)
        }
        _ => false,
    }
}
