//! Removals of links: over when the link is gone, not when the kernel has freed its memory.
//!
//! The kernel acknowledges RTM_DELLINK only after `rcu_barrier`, when everything that may have looked at the link has let go
//! of its memory: one or two grace periods, 13 to 40 ms at 250 Hz, whatever the link. By then the link is long gone: closed
//! and unlisted, its name free, its addresses, routes and neighbours flushed. All that happens in the first half millisecond,
//! under the lock that every later request waits for, and ends with a notification to whoever watches links.
//!
//! So a request is sent by a thread of its own, which waits for the kernel as it must, while the caller reads the same
//! socket, subscribed to notifications for this while. A refusal comes the same way.
//!
//! What it does not do: look links up, or decide what may go.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant};

use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::message::{Message, Received, number};
use super::socket::{READ, Refusal, SocketError, raise_buffers, refusal};

/// Removals under way at once. One more waits until one of them is done with.
const LANES: usize = 8;
/// When to give up waiting: the link lock may be somebody else's for a while.
const PATIENCE: Duration = Duration::from_secs(10);
/// Stack of a sending thread, in bytes: it makes one system call after the other.
const STACK: usize = 64 * 1024;

/// Sends removals, and says when the links are gone: see the module's first lines.
#[derive(Debug)]
pub struct Removals {
    lanes: Vec<Lane>,
    /// The lane to take when none is free.
    next: usize,
    sent: u64,
    buffer: Vec<u8>,
}

#[derive(Debug)]
struct Lane {
    socket: Arc<Socket>,
    port: u32,
    sequence: u32,
    /// The sending thread, once there is one.
    sender: Option<Sender<Vec<u8>>>,
    /// Requests that the kernel has not finished.
    under_way: Arc<AtomicUsize>,
}

impl Removals {
    /// Opens sockets in the calling thread's network namespace, where they stay. Threads start when they are needed.
    ///
    /// # Errors
    /// [`SocketError::Open`].
    pub fn open() -> Result<Self, SocketError> {
        let lanes = (0..LANES).map(|_| Lane::open()).collect::<Result<_, _>>()?;
        Ok(Self { lanes, next: 0, sent: 0, buffer: vec![0; READ] })
    }

    /// The sockets' own addresses: notifications of their changes carry them.
    pub(crate) fn ports(&self) -> impl Iterator<Item = u32> + '_ {
        self.lanes.iter().map(|lane| lane.port)
    }

    /// Number of requests sent so far.
    pub(crate) fn sent(&self) -> u64 {
        self.sent
    }

    /// Sends a request that removes the links with these indices. Returns when they are gone, or the kernel has answered.
    ///
    /// # Errors
    /// Where neither can be seen: the links may be gone, or go later.
    pub fn remove(
        &mut self,
        request: &Message,
        links: BTreeSet<u32>,
    ) -> Result<Result<(), Refusal>, SocketError> {
        let free = self.lanes.iter().position(Lane::is_free);
        let at = free.unwrap_or_else(|| {
            self.next = (self.next + 1) % self.lanes.len();
            self.next
        });
        let lane = &mut self.lanes[at];
        let group = libc::RTNLGRP_LINK;
        lane.socket.add_membership(group).map_err(SocketError::Open)?;
        self.sent += 1;
        let outcome = lane.send(request).and_then(|()| lane.watch(links, &mut self.buffer));
        // What arrives for nobody would fill the buffer; what is in it already is passed over the next time.
        let _ = lane.socket.drop_membership(group);
        outcome
    }
}

impl Lane {
    fn open() -> Result<Self, SocketError> {
        let mut socket = Socket::new(NETLINK_ROUTE).map_err(SocketError::Open)?;
        let address = socket.bind_auto().map_err(SocketError::Open)?;
        // Best effort, as for every socket of ours.
        let _ = socket.set_ext_ack(true);
        let _ = socket.set_cap_ack(true);
        raise_buffers(&socket);
        Ok(Self {
            socket: Arc::new(socket),
            port: address.port_number(),
            sequence: 0,
            sender: None,
            under_way: Arc::default(),
        })
    }

    fn is_free(&self) -> bool {
        self.under_way.load(Ordering::Acquire) == 0
    }

    fn send(&mut self, request: &Message) -> Result<(), SocketError> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut bytes = Vec::with_capacity(request.len());
        request.write(&mut bytes, self.sequence, libc::NLM_F_ACK);
        let sender = match &self.sender {
            Some(sender) => sender,
            None => self.sender.insert(start(&self.socket, &self.under_way).map_err(SocketError::Send)?),
        };
        self.under_way.fetch_add(1, Ordering::AcqRel);
        // The thread lives as long as its sender.
        sender.send(bytes).map_err(|_| SocketError::Send(io::ErrorKind::BrokenPipe.into()))
    }

    /// Reads until all links are gone, or the request is acknowledged.
    fn watch(&self, mut links: BTreeSet<u32>, buffer: &mut [u8]) -> Result<Result<(), Refusal>, SocketError> {
        let end = Instant::now() + PATIENCE;
        loop {
            let len = self.receive(end, buffer).map_err(SocketError::Receive)?;
            let mut rest = &buffer[..len];
            while let Some((message, after)) = Received::split(rest) {
                rest = after;
                match i32::from(message.kind) {
                    libc::NLMSG_ERROR if message.sequence == self.sequence => {
                        return Ok(refusal(&message).map_or(Ok(()), Err));
                    }
                    _ if message.kind == libc::RTM_DELLINK && is_whole_link(&message) => {
                        links.remove(&number(message.body, 4).unwrap_or(0));
                        if links.is_empty() {
                            return Ok(Ok(()));
                        }
                    }
                    _ => {}
                }
            }
        }
    }

    fn receive(&self, end: Instant, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
            match poll(&mut [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)], timeout) {
                Ok(0) if left.is_zero() => return Err(io::ErrorKind::TimedOut.into()),
                Ok(_) | Err(nix::errno::Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
            match self.socket.recv(&mut &mut buffer[..], libc::MSG_DONTWAIT) {
                Err(error)
                    if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
                other => return other,
            }
        }
    }
}

/// Not a bridge's port: the bridge layer sends the same kind of message when a link leaves a bridge.
fn is_whole_link(message: &Received<'_>) -> bool {
    message.body.first() == Some(&(libc::AF_UNSPEC as u8))
}

/// Starts the thread that sends on a socket.
fn start(socket: &Arc<Socket>, under_way: &Arc<AtomicUsize>) -> io::Result<Sender<Vec<u8>>> {
    let (sender, requests) = channel::<Vec<u8>>();
    let (socket, under_way) = (Arc::clone(socket), Arc::clone(under_way));
    let work = move || {
        let kernel = SocketAddr::new(0, 0);
        while let Ok(bytes) = requests.recv() {
            // What could not be sent brings no answer, which the watching side says.
            while socket.send_to(&bytes, &kernel, 0).is_err_and(|e| e.kind() == io::ErrorKind::Interrupted) {}
            under_way.fetch_sub(1, Ordering::AcqRel);
        }
    };
    std::thread::Builder::new().name("weft-unlink".into()).stack_size(STACK).spawn(work)?;
    Ok(sender)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::headers;

    #[test]
    fn a_refusal_is_heard_by_every_lane() {
        let mut removals = Removals::open().unwrap();
        let absent = 0x7fff_0001;
        let request = Message::new(libc::RTM_DELLINK, 0, &headers::link(absent, 0, 0));
        for _ in 0..2 * LANES {
            let outcome = removals.remove(&request, BTreeSet::from([absent])).unwrap();
            // Without CAP_NET_ADMIN it is refused before it is looked at.
            assert!([libc::ENODEV, libc::EPERM].contains(&outcome.unwrap_err().errno));
        }
        assert_eq!(removals.sent(), 2 * LANES as u64);
    }
}
