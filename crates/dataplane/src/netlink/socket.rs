//! A synchronous rtnetlink socket: many requests in one `sendmsg`, answers matched by sequence number.
//!
//! Only the last request of a chunk asks for an acknowledgement: the kernel works a chunk off in order and reports
//! each failure anyway, so silence before the last answer means success. It saves a reply and a wake-up per message.
//!
//! Chunks are small enough that their answers fit an unprivileged receive buffer even when every request fails.

use std::io;
use std::os::fd::AsRawFd;

use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

use super::message::{Attributes, Message, Received, number};

/// Requests of one chunk: 200 error reports fit the default receive buffer of 208 KiB.
const CHUNK_MESSAGES: usize = 200;
/// Bytes of one chunk: the kernel refuses over about 190 KB without a raised send buffer.
const CHUNK_BYTES: usize = 64 * 1024;
/// Buffers that are asked for; the kernel cuts them to its limit without CAP_NET_ADMIN.
const BUFFER: i32 = 4 * 1024 * 1024;
/// One read: the kernel's dumps come in datagrams of at most 32 KiB, and grow with the reader's buffer up to that.
pub(super) const READ: usize = 64 * 1024;
/// A dump that others change on the way is read again this often.
const DUMP_ATTEMPTS: usize = 10;
/// `NLMSGERR_ATTR_MSG`: the kernel's own words for an error.
const ERROR_TEXT: u16 = 1;

/// Why talking to the kernel failed; a request that the kernel *refused* is a [`Reply`], not this.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// The socket could not be made.
    #[error("can't open a netlink socket: {0}; CAP_NET_ADMIN and a kernel with rtnetlink are needed")]
    Open(#[source] io::Error),
    /// Sending failed.
    #[error("can't send to the kernel over netlink: {0}")]
    Send(#[source] io::Error),
    /// Receiving failed.
    #[error("can't read the kernel's answer from netlink: {0}")]
    Receive(#[source] io::Error),
    /// A listing changed under us time and again.
    #[error(
        "the kernel's list of {0} changed {DUMP_ATTEMPTS} times while it was read; something else rewrites it"
    )]
    Unsteady(&'static str),
    /// A listing was refused.
    #[error("the kernel refused to list {what}: {refusal}")]
    Dump {
        /// What was asked for.
        what: &'static str,
        /// Its answer.
        refusal: Refusal,
    },
}

/// The kernel's "no".
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The error number, positive.
    pub errno: i32,
    /// What the kernel says beside the number; often empty.
    pub text: String,
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let name = nix::errno::Errno::from_raw(self.errno);
        write!(f, "{}", name.desc())?;
        if !self.text.is_empty() {
            write!(f, " ({})", self.text)?;
        }
        Ok(())
    }
}

/// What became of one request.
#[derive(Debug, Clone)]
pub struct Reply {
    /// Success, or the kernel's refusal.
    pub result: Result<(), Refusal>,
    /// Type and body of what a request for an object brought.
    pub object: Option<(u16, Vec<u8>)>,
}

/// The socket.
#[derive(Debug)]
pub struct Rtnl {
    socket: Socket,
    sequence: u32,
    sent: u64,
    port: u32,
    buffer: Vec<u8>,
}

impl Rtnl {
    /// Opens one in the calling thread's network namespace, where it stays.
    ///
    /// # Errors
    /// [`SocketError::Open`].
    pub fn open() -> Result<Self, SocketError> {
        let mut socket = Socket::new(NETLINK_ROUTE).map_err(SocketError::Open)?;
        let address = socket.bind_auto().map_err(SocketError::Open)?;
        // Best effort: old kernels lack the first three, and the buffers' force needs CAP_NET_ADMIN over the host.
        let _ = socket.set_ext_ack(true);
        let _ = socket.set_cap_ack(true);
        let _ = socket.set_netlink_get_strict_chk(true);
        raise_buffers(&socket);
        Ok(Self { socket, sequence: 0, sent: 0, port: address.port_number(), buffer: vec![0; READ] })
    }

    /// Number of requests sent so far.
    pub fn sent(&self) -> u64 {
        self.sent
    }

    /// The socket's own address: notifications of its changes carry it.
    pub fn port(&self) -> u32 {
        self.port
    }

    /// Sends all requests and returns a reply each, in order.
    ///
    /// # Errors
    /// When the socket itself fails; what was sent may have taken effect then.
    pub fn exchange(&mut self, messages: &[Message]) -> Result<Vec<Reply>, SocketError> {
        let mut replies = Vec::with_capacity(messages.len());
        let mut rest = messages;
        while !rest.is_empty() {
            let mut bytes = 0;
            let fits = rest.iter().take(CHUNK_MESSAGES).take_while(|m| {
                bytes += m.len();
                bytes <= CHUNK_BYTES
            });
            let count = fits.count().max(1);
            self.exchange_chunk(&rest[..count], &mut replies)?;
            rest = &rest[count..];
        }
        Ok(replies)
    }

    /// Sends one request and returns its reply.
    ///
    /// # Errors
    /// When the socket itself fails.
    pub fn ask(&mut self, message: Message) -> Result<Reply, SocketError> {
        let mut replies = self.exchange(&[message])?;
        // `exchange` returns as many replies as requests.
        Ok(replies.remove(0))
    }

    fn exchange_chunk(&mut self, chunk: &[Message], replies: &mut Vec<Reply>) -> Result<(), SocketError> {
        let first = self.sequence.wrapping_add(1);
        let mut bytes = Vec::with_capacity(chunk.iter().map(Message::len).sum());
        for (at, message) in chunk.iter().enumerate() {
            self.sequence = self.sequence.wrapping_add(1);
            let flags = if at + 1 == chunk.len() { libc::NLM_F_ACK } else { 0 };
            message.write(&mut bytes, self.sequence, flags);
        }
        self.send(&bytes)?;
        self.sent += chunk.len() as u64;
        let start = replies.len();
        replies.extend(chunk.iter().map(|_| Reply { result: Ok(()), object: None }));
        let replies = &mut replies[start..];
        loop {
            let len = self.receive()?;
            let mut rest = &self.buffer[..len];
            while let Some((message, after)) = Received::split(rest) {
                rest = after;
                let Some(at) = usize::try_from(message.sequence.wrapping_sub(first))
                    .ok()
                    .filter(|at| *at < replies.len())
                else {
                    continue; // An answer to a request of an earlier, broken-off exchange.
                };
                if i32::from(message.kind) != libc::NLMSG_ERROR {
                    replies[at].object = Some((message.kind, message.body.to_vec()));
                    continue;
                }
                if let Some(refusal) = refusal(&message) {
                    replies[at].result = Err(refusal);
                }
                if at + 1 == replies.len() {
                    return Ok(());
                }
            }
        }
    }

    /// Lists objects: those of which `read` makes something. A list that changed meanwhile is read again.
    ///
    /// # Errors
    /// When the socket fails, the kernel refuses, or the list never holds still.
    pub fn list<T>(
        &mut self,
        what: &'static str,
        request: &Message,
        read: impl Fn(&Received<'_>) -> Option<T>,
    ) -> Result<Vec<T>, SocketError> {
        for _ in 0..DUMP_ATTEMPTS {
            let mut found = Vec::new();
            if self.dump(what, request, &mut |message| found.extend(read(message)))? {
                return Ok(found);
            }
        }
        Err(SocketError::Unsteady(what))
    }

    /// Reads a list once; says whether it held still meanwhile.
    fn dump(
        &mut self,
        what: &'static str,
        request: &Message,
        each: &mut impl FnMut(&Received<'_>),
    ) -> Result<bool, SocketError> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut bytes = Vec::new();
        request.write(&mut bytes, self.sequence, libc::NLM_F_DUMP);
        self.send(&bytes)?;
        self.sent += 1;
        let mut steady = true;
        loop {
            let len = self.receive()?;
            let mut rest = &self.buffer[..len];
            while let Some((message, after)) = Received::split(rest) {
                rest = after;
                if message.sequence != self.sequence {
                    continue;
                }
                steady &= i32::from(message.flags) & libc::NLM_F_DUMP_INTR == 0;
                match i32::from(message.kind) {
                    libc::NLMSG_DONE => return Ok(steady),
                    libc::NLMSG_ERROR => match refusal(&message) {
                        Some(refusal) if refusal.errno == libc::EINTR => return Ok(false),
                        Some(refusal) => return Err(SocketError::Dump { what, refusal }),
                        None => return Ok(steady),
                    },
                    _ => each(&message),
                }
            }
        }
    }

    fn send(&self, bytes: &[u8]) -> Result<(), SocketError> {
        let kernel = SocketAddr::new(0, 0);
        loop {
            match self.socket.send_to(bytes, &kernel, 0) {
                Ok(_) => return Ok(()),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(SocketError::Send(e)),
            }
        }
    }

    fn receive(&mut self) -> Result<usize, SocketError> {
        loop {
            match self.socket.recv(&mut &mut self.buffer[..], 0) {
                Ok(len) => return Ok(len),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(SocketError::Receive(e)),
            }
        }
    }
}

/// The error in an acknowledgement, if it is one.
pub(super) fn refusal(message: &Received<'_>) -> Option<Refusal> {
    let errno = (number(message.body, 0).unwrap_or(0) as i32).wrapping_neg();
    if errno == 0 {
        return None;
    }
    // Behind the number comes our request's header, cut to that by NETLINK_CAP_ACK, then attributes.
    let text = Attributes::new(message.body.get(20..).unwrap_or_default())
        .text(ERROR_TEXT)
        .filter(|_| i32::from(message.flags) & libc::NLM_F_ACK_TLVS != 0)
        .unwrap_or_default();
    Some(Refusal { errno, text: text.trim_end_matches('.').to_owned() })
}

/// Raises both buffers, past the system's limit where we may.
pub(crate) fn raise_buffers(socket: &Socket) {
    for (force, plain) in [(libc::SO_RCVBUFFORCE, libc::SO_RCVBUF), (libc::SO_SNDBUFFORCE, libc::SO_SNDBUF)] {
        if set_int(socket.as_raw_fd(), force, BUFFER).is_err() {
            let _ = set_int(socket.as_raw_fd(), plain, BUFFER);
        }
    }
}

#[allow(unsafe_code)]
fn set_int(fd: i32, option: i32, value: i32) -> io::Result<()> {
    // SAFETY: `value` lives through the call, and its size is given with it.
    let done = unsafe {
        libc::setsockopt(
            fd,
            libc::SOL_SOCKET,
            option,
            std::ptr::from_ref(&value).cast(),
            size_of::<i32>() as u32,
        )
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
