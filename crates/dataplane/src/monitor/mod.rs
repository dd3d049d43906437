//! Watches what others change: this machine's links and addresses, and what is ours.
//!
//! The kernel's notifications are gathered for a moment, then judged together: a pod's creation is dozens of them. Our
//! own changes are known by netlink port or by the [`Ledger`]. A notification that could not be kept means that anything may
//! have changed.
//!
//! Not seen: sysctls, iptables-legacy, and forwarding entries that somebody *changes*; a full sync finds these.

mod ears;
mod judge;
mod own;

use std::collections::VecDeque;
use std::io;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use netlink_sys::protocols::{NETLINK_NETFILTER, NETLINK_ROUTE};
use netlink_sys::{Socket, SocketAddr};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::KernelError;
use crate::ledger::Ledger;
use crate::link::state;
use crate::netlink::{Received, Rtnl, SocketError, raise_buffers};

pub(crate) use ears::Ears;
use judge::Judge;

/// How long it must be quiet before what was gathered is judged.
const QUIET: Duration = Duration::from_millis(50);
/// How long to let more come before reading.
const BREATH: Duration = Duration::from_millis(5);
/// The longest that gathering goes on.
const LONGEST: Duration = Duration::from_millis(500);
/// `NFNLGRP_NFTABLES`.
const NFTABLES_GROUP: u32 = 7;
/// rtnetlink groups: links, addresses, routes and rules of both families, and neighbours (for forwarding entries).
const ROUTE_GROUPS: [u32; 8] = [
    libc::RTNLGRP_LINK,
    libc::RTNLGRP_IPV4_IFADDR,
    libc::RTNLGRP_IPV6_IFADDR,
    libc::RTNLGRP_IPV4_ROUTE,
    libc::RTNLGRP_IPV6_ROUTE,
    libc::RTNLGRP_IPV4_RULE,
    libc::RTNLGRP_IPV6_RULE,
    libc::RTNLGRP_NEIGH,
];

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notification {
    /// This machine's own links, addresses or default routes changed: see [`crate::observe_host`].
    HostChanged,
    /// Somebody changed what is ours, or what ours stands on: a full sync mends it.
    Disturbed {
        /// What, for people.
        what: String,
    },
}

/// The watch.
#[derive(Debug)]
pub struct Monitor {
    route: Socket,
    netfilter: Socket,
    judge: Judge,
    ready: VecDeque<Notification>,
    buffer: Vec<u8>,
}

impl Monitor {
    /// Watches the calling thread's network namespace; `own` is [`crate::LinuxKernel::ledger`]'s.
    ///
    /// # Errors
    /// When a socket can't be had.
    pub fn open(own: Ledger) -> Result<Self, KernelError> {
        let route = subscribe(NETLINK_ROUTE, &ROUTE_GROUPS, &[]).map_err(SocketError::Open)?;
        let ports = own.ports();
        let netfilter = subscribe(NETLINK_NETFILTER, &[NFTABLES_GROUP], &ports).map_err(SocketError::Open)?;
        own.hears_with(Ears::of(&netfilter, NFTABLES_GROUP).map_err(SocketError::Open)?);
        // Subscribed first, listed then: what changes in between is seen twice, and not missed.
        let links = Rtnl::open()?.list("links", &state::list(), state::read)?;
        Ok(Self {
            route,
            netfilter,
            judge: Judge::new(own, links),
            ready: VecDeque::new(),
            buffer: vec![0; 64 * 1024],
        })
    }

    /// Waits for something to happen.
    ///
    /// # Errors
    /// When watching is no longer possible.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> Result<Notification, KernelError> {
        loop {
            if let Some(notification) = self.ready.pop_front() {
                return Ok(notification);
            }
            self.gather()?;
            self.ready.extend(self.judge.verdict());
        }
    }

    /// What happens within `limit`; `None` where nothing does.
    ///
    /// # Errors
    /// As [`Monitor::next`].
    pub fn next_within(&mut self, limit: Duration) -> Result<Option<Notification>, KernelError> {
        let end = Instant::now() + limit;
        while self.ready.is_empty() {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() || !self.wait(Some(left))? {
                return Ok(None);
            }
            self.gather()?;
            self.ready.extend(self.judge.verdict());
        }
        Ok(self.ready.pop_front())
    }

    /// Reads from the first notification until it is quiet, or for long enough.
    fn gather(&mut self) -> Result<(), KernelError> {
        self.wait(None)?;
        let start = Instant::now();
        loop {
            // One change of ours makes a dozen notifications: to wake for each would take the processor from who makes it.
            std::thread::sleep(BREATH);
            self.read()?;
            let left = LONGEST.saturating_sub(start.elapsed()).min(QUIET);
            if left.is_zero() || !self.wait(Some(left))? {
                return Ok(());
            }
        }
    }

    /// Waits for either socket; false when the time is over.
    fn wait(&self, limit: Option<Duration>) -> Result<bool, KernelError> {
        let mut sockets = [&self.route, &self.netfilter].map(|s| PollFd::new(s.as_fd(), PollFlags::POLLIN));
        let timeout =
            limit.map_or(PollTimeout::NONE, |limit| PollTimeout::try_from(limit).unwrap_or(PollTimeout::MAX));
        loop {
            match poll(&mut sockets, timeout) {
                Ok(ready) => return Ok(ready > 0),
                Err(nix::errno::Errno::EINTR) => {}
                Err(errno) => return Err(SocketError::Receive(errno.into()).into()),
            }
        }
    }

    /// Takes everything that waits.
    fn read(&mut self) -> Result<(), KernelError> {
        for socket in [&self.route, &self.netfilter] {
            loop {
                let len = match socket.recv(&mut &mut self.buffer[..], 0) {
                    Ok(len) => len,
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                    Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                    Err(e) if e.raw_os_error() == Some(libc::ENOBUFS) => {
                        self.judge.lost();
                        continue;
                    }
                    Err(e) => return Err(SocketError::Receive(e).into()),
                };
                let mut rest = &self.buffer[..len.min(self.buffer.len())];
                while let Some((message, after)) = Received::split(rest) {
                    rest = after;
                    self.judge.take(&message);
                }
            }
        }
        Ok(())
    }
}

/// A socket that hears these groups, but nothing of what requests of these ports did.
fn subscribe(protocol: isize, groups: &[u32], but: &[u32]) -> io::Result<Socket> {
    let mut socket = Socket::new(protocol)?;
    socket.bind(&SocketAddr::new(0, 0))?;
    raise_buffers(&socket);
    own::leave_out(&socket, but)?;
    for group in groups {
        socket.add_membership(*group)?;
    }
    socket.set_non_blocking(true)?;
    Ok(socket)
}
