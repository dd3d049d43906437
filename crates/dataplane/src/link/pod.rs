//! A pod's veth pair: made in one request, configured at both ends, mended in place where it can be.
//!
//! The alias is written last: a host end without it was left unfinished by a crash, or has just been taken over from another
//! network, and is finished when it is seen.

use std::fmt;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd};
use std::time::{Duration, Instant};

use weft_model::IfName;
use weft_plan::{KernelRow, Link, PodLink};

use super::announce::{Announced, Announcer};
use super::host_end::{self, Seed};
use super::netns::Place;
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

/// What was made or mended, and its pair, where that is to be waited for.
type Made = (Effect, Option<Pair>);

/// Makes the pair be as wanted, but for packets: see [`settle`]. `brought` is the namespace that the runtime handed over; without
/// it the row's path is opened, where the pod's end has to be touched at all.
pub(crate) fn ensure(
    rtnl: &mut Rtnl,
    announcer: &mut Announcer,
    wanted: Wanted<'_>,
    brought: Option<&mut Place>,
) -> Result<Made, KernelError> {
    // With a namespace at hand this is an ADD, and creation the likely case: no look beforehand.
    if brought.is_some() {
        return create(rtnl, announcer, wanted, brought);
    }
    match find(rtnl, wanted.name)? {
        Some(state) => repair(rtnl, announcer, wanted, &state, brought),
        None => create(rtnl, announcer, wanted, brought),
    }
}

fn create(
    rtnl: &mut Rtnl,
    announcer: &mut Announcer,
    wanted: Wanted<'_>,
    brought: Option<&mut Place>,
) -> Result<Made, KernelError> {
    let mut opened;
    let place = match brought {
        Some(place) => place,
        None => {
            opened = Place::new(netns::open(wanted.name, &wanted.pod.netns)?);
            &mut opened
        }
    };
    let creation = host_end::create(wanted.name, wanted.pod, place.namespace().as_raw_fd());
    let mut replies = rtnl.exchange(&[creation.message.clone(), by_name(wanted.name)])?;
    let (look_up, created) = (found(replies.pop()), replies.pop());
    let exists = |errno| errno == libc::EEXIST;
    match (created.map(|reply| creation.judge(reply)), look_up) {
        (Some(Ok(_)), Some(state)) => {
            let pair = finish(rtnl, announcer, wanted, place, &state)?;
            Ok((Effect::of_creation(wanted.was), Some(pair)))
        }
        (Some(Err(error)), Some(state)) if error.errno().is_some_and(exists) => {
            repair(rtnl, announcer, wanted, &state, Some(place))
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
    announcer: &mut Announcer,
    wanted: Wanted<'_>,
    place: &mut Place,
    state: &LinkState,
) -> Result<Pair, KernelError> {
    let inner = wanted.pod.attachment.ifname;
    let announced =
        if host_end::has_ipv6(wanted.pod) { announcer.begin(place.namespace(), inner) } else { None };
    match configure(rtnl, wanted, place, state) {
        Ok(inside) => Ok(Pair { announced, ..Pair::of(inside, wanted, state) }),
        Err(error) => {
            // Whoever hears of the failure may take the namespace away, and nobody is to hold it then.
            if let Some(announced) = announced {
                announced.wait(SETTLE_LIMIT);
            }
            Err(error)
        }
    }
}

/// Both ends, but for the announcements; returns a socket in the pod's namespace.
fn configure(
    rtnl: &mut Rtnl,
    wanted: Wanted<'_>,
    place: &mut Place,
    state: &LinkState,
) -> Result<Rtnl, KernelError> {
    configure_host_end(rtnl, wanted, state)?;
    let mut inside = place.socket(wanted.name)?;
    let index = state.peer.ok_or(KernelError::NoLink(wanted.pod.attachment.ifname))?;
    pod_end::configure(&mut inside, place.namespace().as_fd(), wanted.pod, index)?;
    complete(rtnl, wanted, state, Seed::Anyway)?;
    Ok(inside)
}

/// What a pair still lacks, in the order in which it is looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lack {
    /// The kernel hasn't taken this address of the pod's into use.
    Address(IpAddr),
    /// The kernel hasn't noticed that both ends are up.
    Carrier,
    /// The setting that has a changed MAC announced is still being made: a pod can talk without.
    Announcements,
}

impl fmt::Display for Lack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => write!(f, "the pod's address {address} is not in use yet"),
            Self::Carrier => f.write_str("the pod's link has no carrier yet"),
            Self::Announcements => {
                f.write_str("the pod may not announce a changed MAC yet: ndisc_notify is still being set")
            }
        }
    }
}

/// A pair that is up at both ends, and may not carry packets yet.
#[derive(Debug)]
pub(crate) struct Pair {
    pub(crate) name: IfName,
    /// The host end's index.
    pub(crate) index: u32,
    inside: Rtnl,
    /// The pod's addresses that the kernel takes into use later.
    addresses: Vec<IpAddr>,
    announced: Option<Announced>,
}

impl Pair {
    fn of(inside: Rtnl, wanted: Wanted<'_>, state: &LinkState) -> Self {
        let addresses = wanted.pod.addresses.iter().copied().filter(IpAddr::is_ipv6).collect();
        Self { name: wanted.name, index: state.index, inside, addresses, announced: None }
    }

    fn lacks(&mut self, rtnl: &mut Rtnl) -> Result<Option<Lack>, KernelError> {
        for address in &self.addresses {
            if !pod_end::is_local(&mut self.inside, *address)? {
                return Ok(Some(Lack::Address(*address)));
            }
        }
        if find(rtnl, self.name)?.is_some_and(|state| !state.carries()) {
            return Ok(Some(Lack::Carrier));
        }
        let announces = self.announced.as_ref().is_none_or(Announced::is_over);
        Ok((!announces).then_some(Lack::Announcements))
    }
}

/// Waits until pairs carry packets: the kernel notices the carrier, and takes IPv6 addresses into use, in threads of
/// its own, while the rest of a batch is applied. A pod that comes to life before loses its first packet. Past the limit the
/// pods are as they are, and what they lack is told.
pub(crate) fn settle(rtnl: &mut Rtnl, mut pairs: Vec<Pair>) {
    let start = Instant::now();
    let mut pause = FIRST_LOOK;
    loop {
        let late = start.elapsed() >= SETTLE_LIMIT;
        pairs.retain_mut(|pair| match pair.lacks(rtnl) {
            Ok(None) => false,
            Ok(Some(lack)) => {
                if late {
                    tracing::warn!(link = %pair.name, "{lack}");
                }
                !late
            }
            Err(error) => {
                tracing::warn!(link = %pair.name, "can't see whether the pod's link carries packets: {error}");
                false
            }
        });
        if pairs.is_empty() {
            return;
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(LAST_LOOK);
    }
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
    announcer: &mut Announcer,
    wanted: Wanted<'_>,
    state: &LinkState,
    brought: Option<&mut Place>,
) -> Result<Made, KernelError> {
    ours(state)?;
    let needs_inside = brought.is_some()
        || state.alias.is_empty()
        || state.mtu != wanted.pod.mtu
        || state.kind != "veth"
        || wanted.was.is_some_and(|was| inside_differs(was, wanted.pod));
    if !needs_inside {
        configure_host_end(rtnl, wanted, state)?;
        complete(rtnl, wanted, state, Seed::IfAbsent)?;
        return Ok((Effect::Done, None));
    }
    let mut opened;
    let place = match brought {
        Some(place) => place,
        None => {
            opened = Place::new(netns::open(wanted.name, &wanted.pod.netns)?);
            &mut opened
        }
    };
    let mut inside = place.socket(wanted.name)?;
    let end = find(&mut inside, wanted.pod.attachment.ifname)?
        .filter(|end| end.kind == "veth" && state.peer == Some(end.index) && end.peer == Some(state.index));
    let Some(end) = end else {
        // The other end is somewhere else, or nothing that we can use: make the pair anew.
        remove::one(rtnl, state)?;
        let (_, pair) = create(rtnl, announcer, wanted, Some(place))?;
        return Ok((Effect::Recreated, pair));
    };
    let mut host = vec![host_end::mtu(state, wanted.pod.mtu)];
    let seed = if end.mac == Some(wanted.pod.pod_mac) { Seed::IfAbsent } else { Seed::Anyway };
    // The pod sends, the host end receives: the pod shrinks first and grows last.
    if wanted.pod.mtu > state.mtu {
        send(rtnl, &std::mem::take(&mut host))?;
    }
    configure_host_end(rtnl, wanted, state)?;
    pod_end::repair(&mut inside, place.namespace().as_fd(), wanted.pod, &end)?;
    if state.alias.is_empty() {
        // Unfinished: the pair may be another network's, which has just become ours.
        former::clear(&mut inside, wanted.pod, end.index)?;
    }
    send(rtnl, &host)?;
    complete(rtnl, wanted, state, seed)?;
    Ok((Effect::Done, Some(Pair::of(inside, wanted, state))))
}

fn inside_differs(was: &KernelRow, now: &PodLink) -> bool {
    match was {
        KernelRow::Link(link) => {
            link.kind.as_pod().is_none_or(|pod| pod.pod_mac != now.pod_mac || pod.addresses != now.addresses)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// It only looks, and at a link and an address that nobody has.
    #[test]
    fn what_a_pair_lacks_is_told_apart() {
        let mut rtnl = Rtnl::open().unwrap();
        let (done, announced) = Announced::pending();
        let address: IpAddr = "2001:db8::7".parse().unwrap();
        let mut pair = Pair {
            name: IfName::new("weft-no-link").unwrap(),
            index: 0,
            inside: Rtnl::open().unwrap(),
            addresses: vec![address],
            announced: Some(announced),
        };
        let mut lack = || pair.lacks(&mut rtnl).unwrap();
        assert_eq!(lack().unwrap().to_string(), "the pod's address 2001:db8::7 is not in use yet");
        pair.addresses.clear();
        let mut lack = || pair.lacks(&mut rtnl).unwrap();
        assert_eq!(lack(), Some(Lack::Announcements));
        assert!(!Lack::Announcements.to_string().contains("carrier"));
        drop(done);
        assert_eq!(lack(), None);
    }
}
