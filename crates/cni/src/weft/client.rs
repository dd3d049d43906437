//! A small synchronous client of the agent's socket, for the plugin and the command line.
//!
//! What always holds: every call returns by its deadline, whatever the other side does. An error says whether the
//! agent may have acted on the request.
//!
//! What it does not do: keep connections, follow redirects, speak anything but [`wire`](crate::weft::wire).

use std::fmt;
use std::io::{self, IoSlice, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, UnixAddr, connect, sendmsg, socket,
};

use crate::weft::wire::{self, MAX_BODY, Response};

/// One request to be made.
#[derive(Debug, Clone, Copy)]
pub struct Exchange<'a> {
    /// The agent's socket.
    pub socket: &'a Path,
    /// `GET` or `POST`.
    pub method: &'a str,
    /// Path and query.
    pub path: &'a str,
    /// The body; may be empty.
    pub body: &'a [u8],
    /// A descriptor to pass beside the first byte.
    pub descriptor: Option<BorrowedFd<'a>>,
    /// How long to go on trying to connect: an agent that restarts is away for a moment.
    pub connect_within: Duration,
    /// How long all of it may take.
    pub answer_within: Duration,
}

/// Why there is no answer.
#[derive(Debug)]
pub enum ClientError {
    /// Nobody listens; nothing was sent.
    Unreachable {
        /// The socket's path.
        socket: PathBuf,
        /// What the kernel said last.
        cause: io::Error,
    },
    /// The request was sent, or a part of it, and the connection ended before the answer.
    Lost(io::Error),
    /// The request was sent and no answer came in time.
    Late(Duration),
    /// The answer is not what an agent sends.
    Garbage(String),
}

impl ClientError {
    /// True where the agent may have acted on the request.
    pub fn may_have_acted(&self) -> bool {
        !matches!(self, ClientError::Unreachable { .. })
    }
}

impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ClientError::Unreachable { socket, cause } => {
                write!(f, "the agent can't be reached at {}: {cause}", socket.display())
            }
            ClientError::Lost(cause) => write!(f, "the agent went away before it answered: {cause}"),
            ClientError::Late(after) => write!(f, "the agent did not answer within {} ms", after.as_millis()),
            ClientError::Garbage(what) => write!(f, "the agent's answer makes no sense: {what}"),
        }
    }
}

impl std::error::Error for ClientError {}

/// For `poll`, in whole milliseconds. Rounded up: waking a little early would spin until the time has come.
fn timeout(left: Duration) -> PollTimeout {
    PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX)
}

impl Exchange<'_> {
    /// Makes the request and waits for the answer.
    ///
    /// # Errors
    /// A [`ClientError`]; an answer with an error status is no error here.
    pub fn run(&self) -> Result<Response, ClientError> {
        let end = Instant::now() + self.answer_within;
        let unreachable = |cause| ClientError::Unreachable { socket: self.socket.to_owned(), cause };
        let mut stream = self.connect(end).map_err(unreachable)?;
        let left = end.saturating_duration_since(Instant::now());
        // The agent gets a little less than we wait, so that its own refusal arrives in time.
        let for_agent = left.saturating_sub((left / 4).min(Duration::from_millis(500)));
        let request = wire::encode_request(self.method, self.path, for_agent, self.body);
        let sent = self.send(&mut stream, &request, end);
        // An agent that refuses early closes its side while we still write: its answer may be there all the same.
        match (self.receive(&mut stream, end), sent) {
            (Ok(response), _) => Ok(response),
            (Err(_), Err(error)) | (Err(error), Ok(())) => Err(error),
        }
    }

    fn connect(&self, end: Instant) -> io::Result<UnixStream> {
        let address = UnixAddr::new(self.socket)?;
        let give_up = end.min(Instant::now() + self.connect_within);
        let mut pause = Duration::from_millis(2);
        loop {
            // Without waiting: a full backlog must not outlast the deadline.
            let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
            let fd: OwnedFd = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
            let errno = match connect(fd.as_raw_fd(), &address) {
                Ok(()) => {
                    let stream = UnixStream::from(fd);
                    stream.set_nonblocking(false)?;
                    return Ok(stream);
                }
                Err(errno) => errno,
            };
            let passing = matches!(errno, Errno::ENOENT | Errno::ECONNREFUSED | Errno::EAGAIN | Errno::EINTR);
            if !passing || Instant::now() + pause >= give_up {
                return Err(errno.into());
            }
            thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(50));
        }
    }

    fn send(&self, stream: &mut UnixStream, request: &[u8], end: Instant) -> Result<(), ClientError> {
        stream.set_write_timeout(Some(self.left(end)?)).map_err(ClientError::Lost)?;
        let raw: Vec<_> = self.descriptor.iter().map(AsRawFd::as_raw_fd).collect();
        let rights = [ControlMessage::ScmRights(&raw)];
        let control = if raw.is_empty() { &[][..] } else { &rights[..] };
        let part = [IoSlice::new(request)];
        let sent = loop {
            match sendmsg::<()>(stream.as_raw_fd(), &part, control, MsgFlags::MSG_NOSIGNAL, None) {
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(self.failed(errno.into())),
                Ok(sent) => break sent,
            }
        };
        let mut rest = &request[sent..];
        while !rest.is_empty() {
            stream.set_write_timeout(Some(self.left(end)?)).map_err(ClientError::Lost)?;
            match stream.write(rest) {
                Ok(sent) => rest = &rest[sent..],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.failed(error)),
            }
        }
        Ok(())
    }

    fn receive(&self, stream: &mut UnixStream, end: Instant) -> Result<Response, ClientError> {
        let garbage = |what: &str| ClientError::Garbage(what.to_owned());
        let mut bytes = Vec::new();
        let mut head = None;
        let mut chunk = [0; 16 << 10];
        loop {
            if head.is_none() {
                head = wire::response_head(&bytes).map_err(garbage)?;
            }
            if let Some(head) = head
                && let Some(length) = head.length
                && bytes.len() >= head.body_at + length
            {
                return Ok(Response { status: head.status, body: bytes[head.body_at..][..length].to_vec() });
            }
            self.await_more(stream, end)?;
            let count = match stream.read(&mut chunk) {
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(self.failed(error)),
            };
            bytes.extend_from_slice(&chunk[..count]);
            if bytes.len() > MAX_BODY + wire::MAX_HEAD {
                return Err(garbage("it is too long"));
            }
            match head {
                _ if count > 0 => {}
                Some(head) if head.length.is_none() => {
                    return Ok(Response { status: head.status, body: bytes.split_off(head.body_at) });
                }
                _ => return Err(ClientError::Lost(io::ErrorKind::UnexpectedEof.into())),
            }
        }
    }

    /// Waits until there is something to read. A read would wait as well, and be woken in vain when the agent takes the request.
    fn await_more(&self, stream: &UnixStream, end: Instant) -> Result<(), ClientError> {
        loop {
            let left = timeout(self.left(end)?);
            match poll(&mut [PollFd::new(stream.as_fd(), PollFlags::POLLIN)], left) {
                Ok(1..) => return Ok(()),
                // `left` says when it is over.
                Ok(_) | Err(Errno::EINTR) => {}
                Err(errno) => return Err(ClientError::Lost(errno.into())),
            }
        }
    }

    /// The time that is left, never zero: zero would mean for ever to the kernel.
    fn left(&self, end: Instant) -> Result<Duration, ClientError> {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(ClientError::Late(self.answer_within)) } else { Ok(left) }
    }

    fn failed(&self, error: io::Error) -> ClientError {
        match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => ClientError::Late(self.answer_within),
            _ => ClientError::Lost(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A `poll` of 0 ms returns at once, and the last part of a millisecond would be spent in asking again.
    #[test]
    fn the_last_millisecond_is_slept_through() {
        let check = |left: Duration, ms: i32| {
            assert_eq!(timeout(left), PollTimeout::try_from(ms).unwrap(), "{left:?}");
        };
        check(Duration::from_nanos(1), 1);
        check(Duration::from_micros(999), 1);
        check(Duration::from_micros(1500), 2);
        assert_eq!(timeout(Duration::from_secs(u64::from(u32::MAX))), PollTimeout::MAX);
    }
}
