//! A connection whose reads also collect the file descriptors that come with the bytes (SCM_RIGHTS).
//!
//! What always holds: a descriptor that arrives has an owner from the moment we know of it, and closes on exec. More
//! than [`MAX_DESCRIPTORS`] on one connection end it.

use std::io;
use std::mem;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use hyper::rt::ReadBufCursor;
use nix::libc;
use tokio::io::{AsyncWrite, Interest};
use tokio::net::UnixStream;

/// The most descriptors that one connection may bring.
pub(super) const MAX_DESCRIPTORS: usize = 4;
/// `CMSG_SPACE` for that many: a header of 16 bytes, and 4 bytes each.
const CONTROL_WORDS: usize = 4;
const CHUNK: usize = 16 << 10;

/// Descriptors that have arrived and that no request has taken.
#[derive(Debug, Clone, Default)]
pub(super) struct Arrived(Arc<Mutex<Vec<OwnedFd>>>);

impl Arrived {
    /// Takes all.
    pub(super) fn take(&self) -> Vec<OwnedFd> {
        mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn add(&self, mut more: Vec<OwnedFd>) -> io::Result<()> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.append(&mut more);
        if all.len() > MAX_DESCRIPTORS { Err(too_many()) } else { Ok(()) }
    }
}

fn too_many() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "more file descriptors came than can be taken")
}

/// The connection, for hyper.
#[derive(Debug)]
pub(super) struct DescriptorStream {
    stream: UnixStream,
    arrived: Arrived,
    chunk: Box<[u8]>,
}

impl DescriptorStream {
    pub(super) fn new(stream: UnixStream, arrived: Arrived) -> Self {
        Self { stream, arrived, chunk: vec![0; CHUNK].into_boxed_slice() }
    }
}

impl hyper::rt::Read for DescriptorStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let room = buffer.remaining().min(CHUNK);
        loop {
            ready!(this.stream.poll_read_ready(cx))?;
            let chunk = &mut this.chunk[..room];
            let fd = this.stream.as_raw_fd();
            match this.stream.try_io(Interest::READABLE, || receive(fd, chunk)) {
                Ok((count, descriptors)) => {
                    this.arrived.add(descriptors)?;
                    buffer.put_slice(&this.chunk[..count]);
                    return Poll::Ready(Ok(()));
                }
                Err(error)
                    if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl hyper::rt::Write for DescriptorStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

/// One `recvmsg`, without waiting: how many bytes came, and the descriptors beside them.
///
/// The C call is used directly, because what did not fit must be an error *and* what did fit must be closed; the
/// kernel closes only what it has not handed over.
#[allow(unsafe_code)]
fn receive(fd: RawFd, bytes: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut control = [0_u64; CONTROL_WORDS];
    let mut part = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
    // SAFETY: all-zero bytes are a valid msghdr: null pointers with zero lengths.
    let mut message: libc::msghdr = unsafe { mem::zeroed() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = size_of_val(&control) as _;
    // SAFETY: the message points to live buffers of the stated lengths, and the descriptor is open.
    let count = unsafe { libc::recvmsg(fd, &raw mut message, libc::MSG_CMSG_CLOEXEC | libc::MSG_DONTWAIT) };
    let Ok(count) = usize::try_from(count) else { return Err(io::Error::last_os_error()) };
    let mut descriptors = Vec::new();
    // SAFETY: the kernel filled the control buffer and set its length; it is aligned for a header.
    let mut header = unsafe { libc::CMSG_FIRSTHDR(&raw const message) };
    while !header.is_null() {
        // SAFETY: the macro gave a header within the buffer. SCM_RIGHTS carries whole descriptors up to its length,
        // which the kernel has just made for us, so each is open and nobody else's.
        unsafe {
            if (*header).cmsg_level == libc::SOL_SOCKET && (*header).cmsg_type == libc::SCM_RIGHTS {
                let length = (*header).cmsg_len as usize - libc::CMSG_LEN(0) as usize;
                let first: *const RawFd = libc::CMSG_DATA(header).cast();
                for at in 0..length / size_of::<RawFd>() {
                    descriptors.push(OwnedFd::from_raw_fd(first.add(at).read_unaligned()));
                }
            }
            header = libc::CMSG_NXTHDR(&raw const message, header);
        }
    }
    if message.msg_flags & libc::MSG_CTRUNC != 0 {
        return Err(too_many());
    }
    Ok((count, descriptors))
}
