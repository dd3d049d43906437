//! A synchronous netlink socket of netfilter: transactions, listings, single requests.
//!
//! What always holds: the kernel has worked a transaction off when `sendmsg` returns, so that its errors lie in the
//! receive buffer by then; the last message asks for an acknowledgement, and its absence is an error too. A socket
//! stays in the network namespace that it was opened in.

use std::io;
use std::os::fd::AsRawFd;

use netlink_sys::protocols::NETLINK_NETFILTER;
use netlink_sys::{Socket, SocketAddr};

use super::attribute::{Attributes, MESSAGE_HEADER, Message, Messages, Writer};
use super::error::FilterError;
use super::uapi as k;
use crate::netlink::Refusal;

/// One read: larger than any datagram of a dump (32 KiB) and than most piles of errors.
const READ: usize = 1 << 18;
/// Buffers that are asked for at first, in bytes.
const BUFFER: usize = 4 << 20;
/// The kernel keeps this much of the send buffer for itself (`netlink_sendmsg`), rounded up.
const RESERVE: usize = 64;
/// A listing that others change on the way is read again this often.
const ATTEMPTS: usize = 10;

/// What the kernel refused of a transaction: the message's number in it, and why.
pub type Refused = (u32, Refusal);

/// The socket.
#[derive(Debug)]
pub struct Nfnl {
    socket: Socket,
    sequence: u32,
    sent: u64,
    buffer: Vec<u8>,
    /// A test's own limit of [`Nfnl::capacity`].
    #[cfg(test)]
    pub limit: Option<usize>,
}

impl Nfnl {
    /// Opens one in the calling thread's network namespace.
    ///
    /// # Errors
    /// [`FilterError::Open`].
    pub fn open() -> Result<Self, FilterError> {
        let mut socket = Socket::new(NETLINK_NETFILTER).map_err(FilterError::Open)?;
        socket.bind_auto().map_err(FilterError::Open)?;
        // Without them errors have less text, and carry the request with them: no reason to fail.
        let _ = socket.set_ext_ack(true);
        let _ = socket.set_cap_ack(true);
        raise(&socket, libc::SO_RCVBUFFORCE, libc::SO_RCVBUF, BUFFER);
        raise(&socket, libc::SO_SNDBUFFORCE, libc::SO_SNDBUF, BUFFER);
        Ok(Self {
            socket,
            sequence: 0,
            sent: 0,
            buffer: vec![0; READ],
            #[cfg(test)]
            limit: None,
        })
    }

    /// Netlink messages sent so far.
    pub fn sent(&self) -> u64 {
        self.sent
    }

    /// The port that the kernel's notifications of our changes carry.
    pub fn port(&self) -> u32 {
        let mut address = SocketAddr::new(0, 0);
        match self.socket.get_address(&mut address) {
            Ok(()) => address.port_number(),
            Err(_) => 0,
        }
    }

    /// The most bytes that one transaction may have, after trying to make that `wanted`: root gets what it asks for,
    /// others up to twice `net.core.wmem_max`.
    pub fn capacity(&self, wanted: usize) -> usize {
        #[cfg(test)]
        if let Some(limit) = self.limit {
            return limit;
        }
        let now = || buffer_size(&self.socket).saturating_sub(RESERVE);
        if now() < wanted {
            raise(&self.socket, libc::SO_SNDBUFFORCE, libc::SO_SNDBUF, wanted);
        }
        now()
    }

    /// The number that the next message gets.
    pub fn next(&self) -> u32 {
        self.sequence.wrapping_add(1)
    }

    /// Takes the numbers of `count` messages, and returns the first.
    pub fn reserve(&mut self, count: u32) -> u32 {
        let first = self.sequence.wrapping_add(1);
        self.sequence = self.sequence.wrapping_add(count);
        first
    }

    /// Sends a transaction of messages numbered from `first`, of which the one numbered `acknowledged` asks for an
    /// acknowledgement. Returns what the kernel refused; nothing of it was done then.
    ///
    /// # Errors
    /// When the socket fails.
    pub fn transact(
        &mut self,
        bytes: &[u8],
        (first, acknowledged): (u32, u32),
    ) -> Result<Vec<Refused>, FilterError> {
        self.send(bytes)?;
        self.sent += u64::from(acknowledged.wrapping_sub(first)) + 2;
        let mut refused = Vec::new();
        let mut heard = false;
        loop {
            let length = match self.receive(libc::MSG_DONTWAIT) {
                Ok(length) => length,
                Err(FilterError::Receive(e)) if e.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            };
            for message in Messages(&self.buffer[..length]) {
                let number = message.sequence.wrapping_sub(first);
                if message.kind != k::NLMSG_ERROR || number > acknowledged.wrapping_sub(first) {
                    continue;
                }
                heard = true;
                if let Some(refusal) = refusal(&message) {
                    refused.push((number, refusal));
                }
            }
        }
        if heard { Ok(refused) } else { Err(FilterError::Receive(io::Error::from(io::ErrorKind::TimedOut))) }
    }

    /// Lists objects: every message of the answer, one behind the other. An object that isn't there is an empty list.
    ///
    /// # Errors
    /// When the socket fails, the kernel refuses, or the list never holds still.
    pub fn dump(
        &mut self,
        what: &'static str,
        (kind, family): (u16, u8),
        body: impl Fn(&mut Writer),
    ) -> Result<Vec<u8>, FilterError> {
        for _ in 0..ATTEMPTS {
            let number = self.reserve(1);
            let mut w = Writer::new();
            w.message((kind, k::NLM_F_REQUEST | k::NLM_F_DUMP, number), (family, 0), |w| body(w));
            self.send(&w.into_bytes())?;
            self.sent += 1;
            if let Some(list) = self.read_list(what, number)? {
                return Ok(list);
            }
        }
        Err(FilterError::Unsteady { what: "it was listed", attempts: ATTEMPTS })
    }

    /// `None` where the list changed while it was read.
    fn read_list(&mut self, what: &'static str, number: u32) -> Result<Option<Vec<u8>>, FilterError> {
        let mut list = Vec::new();
        let mut steady = true;
        loop {
            let length = match self.receive(0) {
                Ok(length) => length,
                // The list outran the buffer: it is read again, from a new request.
                Err(FilterError::Receive(e)) if e.raw_os_error() == Some(libc::ENOBUFS) => return Ok(None),
                Err(error) => return Err(error),
            };
            let datagram = &self.buffer[..length];
            for message in Messages(datagram) {
                if message.sequence != number {
                    continue;
                }
                steady &= message.flags & k::NLM_F_DUMP_INTR == 0;
                match message.kind {
                    k::NLMSG_DONE => return Ok(steady.then_some(list)),
                    k::NLMSG_ERROR => {
                        return match refusal(&message) {
                            None => Ok(steady.then_some(list)),
                            Some(r) if r.errno == libc::ENOENT => Ok(Some(Vec::new())),
                            Some(r) if matches!(r.errno, libc::EINTR | libc::EAGAIN) => Ok(None),
                            Some(refusal) => Err(FilterError::List { what, refusal }),
                        };
                    }
                    _ => push_message(&mut list, &message),
                }
            }
        }
    }

    /// Sends one request that asks for an acknowledgement, and returns the kernel's refusal, if any, and the messages
    /// that came before it.
    ///
    /// # Errors
    /// When the socket fails.
    pub fn ask(
        &mut self,
        (kind, flags, family): (u16, u16, u8),
        body: impl Fn(&mut Writer),
    ) -> Result<Result<Vec<u8>, Refusal>, FilterError> {
        let number = self.reserve(1);
        let mut w = Writer::new();
        let flags = flags | k::NLM_F_REQUEST | k::NLM_F_ACK;
        w.message((kind, flags, number), (family, 0), |w| body(w));
        self.send(&w.into_bytes())?;
        self.sent += 1;
        let mut answer = Vec::new();
        loop {
            let length = self.receive(0)?;
            for message in Messages(&self.buffer[..length]).filter(|m| m.sequence == number) {
                if message.kind == k::NLMSG_ERROR {
                    return Ok(match refusal(&message) {
                        Some(refusal) => Err(refusal),
                        None => Ok(answer),
                    });
                }
                push_message(&mut answer, &message);
            }
        }
    }

    fn send(&self, bytes: &[u8]) -> Result<(), FilterError> {
        loop {
            match self.socket.send_to(bytes, &SocketAddr::new(0, 0), 0) {
                Ok(_) => return Ok(()),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => return Err(FilterError::Send { bytes: bytes.len(), source }),
            }
        }
    }

    fn receive(&mut self, flags: i32) -> Result<usize, FilterError> {
        loop {
            match self.socket.recv(&mut &mut self.buffer[..], flags) {
                Ok(length) => return Ok(length),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(FilterError::Receive(e)),
            }
        }
    }
}

fn push_message(list: &mut Vec<u8>, message: &Message<'_>) {
    list.extend_from_slice(&((MESSAGE_HEADER + message.payload.len()) as u32).to_ne_bytes());
    list.extend_from_slice(&message.kind.to_ne_bytes());
    list.extend_from_slice(&message.flags.to_ne_bytes());
    list.extend_from_slice(&message.sequence.to_ne_bytes());
    list.extend_from_slice(&[0; 4]);
    list.extend_from_slice(message.payload);
    list.resize(list.len().next_multiple_of(4), 0);
}

/// The refusal in an `NLMSG_ERROR`, unless it is an acknowledgement.
fn refusal(message: &Message<'_>) -> Option<Refusal> {
    let code = message.payload.get(..4)?;
    let errno = i32::from_ne_bytes([code[0], code[1], code[2], code[3]]).wrapping_neg();
    if errno == 0 {
        return None;
    }
    // Behind the number stands the refused message: its header alone where it is capped.
    let request = message.payload.get(4..).unwrap_or_default();
    let length = if message.flags & k::NLM_F_CAPPED == 0 {
        Messages(request).next().map_or(MESSAGE_HEADER, |m| MESSAGE_HEADER + m.payload.len())
    } else {
        MESSAGE_HEADER
    };
    let text = (message.flags & k::NLM_F_ACK_TLVS != 0)
        .then(|| request.get(length.next_multiple_of(4)..))
        .flatten()
        .and_then(|rest| Attributes(rest).get(k::NLMSGERR_ATTR_MSG))
        .and_then(|a| a.text())
        .unwrap_or_default();
    Some(Refusal { errno, text: text.trim_end_matches('.').to_owned() })
}

/// Raises a buffer: past the system's limit where we may, else up to it.
fn raise(socket: &Socket, force: i32, plain: i32, bytes: usize) {
    // The kernel doubles what it is told, for its own accounting.
    let bytes = i32::try_from(bytes).unwrap_or(i32::MAX / 2);
    if set_option(socket, force, bytes).is_err() {
        let _ = set_option(socket, plain, bytes);
    }
}

#[allow(unsafe_code)]
fn set_option(socket: &Socket, option: i32, value: i32) -> io::Result<()> {
    // SAFETY: `value` lives through the call, and its size is given with it.
    let done = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            option,
            std::ptr::from_ref(&value).cast(),
            size_of::<i32>() as u32,
        )
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Bytes of the send buffer; 0 where the kernel doesn't say.
#[allow(unsafe_code)]
fn buffer_size(socket: &Socket) -> usize {
    let mut value = 0_i32;
    let mut length = size_of::<i32>() as u32;
    // SAFETY: both outlive the call, and `length` is the size of `value`.
    let done = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_SNDBUF,
            std::ptr::from_mut(&mut value).cast(),
            &raw mut length,
        )
    };
    if done == 0 { usize::try_from(value).unwrap_or_default() } else { 0 }
}
