//! Wakes whoever waits for a change of the packet filter: the kernel tells of each nftables commit, whoever makes it.
//!
//! iptables' nft variant commits the same way; a legacy one is silent, and waiting for it ends with the time that is given.

use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::socket::sockopt::ReceiveTimeout;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, setsockopt, socket,
};
use nix::sys::time::TimeVal;
use weft_lab::Machine;

/// `NFNLGRP_NFTABLES` of `linux/netfilter/nfnetlink.h`, as a bit.
const GROUP: u32 = 1 << (7 - 1);

/// A machine's commits, as they come.
#[derive(Debug)]
pub struct Commits(OwnedFd);

impl Commits {
    /// Listens to a machine from now on.
    pub fn of(machine: &Machine) -> Result<Self> {
        let open = || -> nix::Result<OwnedFd> {
            let socket = socket(
                AddressFamily::Netlink,
                SockType::Raw,
                SockFlag::SOCK_CLOEXEC,
                SockProtocol::NetlinkNetFilter,
            )?;
            bind(socket.as_raw_fd(), &NetlinkAddr::new(0, GROUP))?;
            Ok(socket)
        };
        Ok(Self(machine.enter_net(open)?.context("can't listen to the packet filter's commits")?))
    }

    /// Forgets what has come so far.
    pub fn drain(&self) {
        let mut buffer = [0; 1 << 16];
        loop {
            match recv(self.0.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) {
                // What has been lost is forgotten as well.
                Ok(_) | Err(nix::Error::ENOBUFS) => {}
                Err(_) => return,
            }
        }
    }

    /// Waits for word of a commit, or until so much time has gone by.
    pub fn wait(&self, at_most: Duration) -> Result<()> {
        let micros = i64::try_from(at_most.as_micros()).unwrap_or(i64::MAX).max(1);
        let timeout = TimeVal::new(micros / 1_000_000, micros % 1_000_000);
        setsockopt(&self.0, ReceiveTimeout, &timeout).context("can't limit a wait")?;
        match recv(self.0.as_raw_fd(), &mut [0; 1 << 16], MsgFlags::empty()) {
            Ok(_) | Err(nix::Error::ENOBUFS | nix::Error::EAGAIN | nix::Error::EINTR) => Ok(()),
            Err(error) => Err(error).context("can't hear of commits"),
        }
    }
}
