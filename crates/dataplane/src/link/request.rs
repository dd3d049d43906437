//! A batch of requests in which each knows how to name itself when the kernel refuses it.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use weft_model::IfName;
use weft_plan::kernel::LINK_GROUP;

use super::state::INET6_ADDR_GEN_MODE;
use super::state::{Conf, INET_CONF, LinkState, by_name};
use crate::KernelError;
use crate::netlink::{Message, Reply, Rtnl, headers};

/// `IN6_ADDR_GEN_MODE_NONE`: the kernel makes no link-local address by itself.
pub(crate) const ADDR_GEN_NONE: u8 = 1;

/// One request.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) message: Message,
    pub(crate) action: &'static str,
    pub(crate) object: String,
    /// Refusals that mean that it is so already.
    pub(crate) tolerate: &'static [i32],
}

impl Request {
    pub(crate) fn new(message: Message, action: &'static str, object: impl Into<String>) -> Self {
        Self { message, action, object: object.into(), tolerate: &[] }
    }

    pub(crate) fn tolerate(mut self, errnos: &'static [i32]) -> Self {
        self.tolerate = errnos;
        self
    }

    /// The request's outcome as our error.
    pub(crate) fn judge(&self, reply: Reply) -> Result<Reply, KernelError> {
        match reply.result {
            Err(refusal) if !self.tolerate.contains(&refusal.errno) => {
                Err(KernelError::Refused { action: self.action, object: self.object.clone(), refusal })
            }
            _ => Ok(reply),
        }
    }
}

/// Sends all, and returns the first refusal that matters; the kernel tries the later ones all the same.
pub(crate) fn send(rtnl: &mut Rtnl, requests: &[Request]) -> Result<Vec<Reply>, KernelError> {
    let messages: Vec<Message> = requests.iter().map(|r| r.message.clone()).collect();
    let replies = rtnl.exchange(&messages)?;
    requests.iter().zip(replies).map(|(request, reply)| request.judge(reply)).collect()
}

/// Looks a link up by name; `None` where there is none.
pub(crate) fn find(rtnl: &mut Rtnl, name: IfName) -> Result<Option<LinkState>, KernelError> {
    let request = Request::new(by_name(name), "look up", format!("link {name}")).tolerate(&[libc::ENODEV]);
    let replies = send(rtnl, std::slice::from_ref(&request))?;
    Ok(found(replies.into_iter().next()))
}

/// The link in a reply to [`by_name`].
pub(crate) fn found(reply: Option<Reply>) -> Option<LinkState> {
    reply?.object.and_then(|(_, body)| LinkState::read(&body))
}

/// Fails for a link that has our name and isn't ours.
pub(crate) fn ours(state: &LinkState) -> Result<(), KernelError> {
    if state.is_ours() {
        Ok(())
    } else {
        Err(KernelError::ForeignLink { name: state.name, group: state.group })
    }
}

/// A change of an existing link.
pub(crate) fn change(index: u32) -> Message {
    Message::new(libc::RTM_SETLINK, 0, &headers::link(index, 0, 0))
}

/// Takes a link up.
pub(crate) fn up(index: u32, name: IfName) -> Request {
    let flag = libc::IFF_UP as u32;
    let message = Message::new(libc::RTM_SETLINK, 0, &headers::link(index, flag, flag));
    Request::new(message, "take up", format!("link {name}"))
}

/// Sets the alias.
pub(crate) fn alias(index: u32, name: IfName, text: &str) -> Request {
    let message = change(index).attr(libc::IFLA_IFALIAS, text.as_bytes());
    Request::new(message, "set the alias of", format!("link {name}"))
}

/// Puts a link into our group.
pub(crate) fn own(index: u32, name: IfName) -> Request {
    let message = change(index).u32(libc::IFLA_GROUP, LINK_GROUP);
    Request::new(message, "set the group of", format!("link {name}"))
}

/// IPv4 settings of a link, and no IPv6 address of the kernel's own making where `quiet` says so.
pub(crate) fn settings(
    index: u32,
    name: IfName,
    conf: &[(Conf, u32)],
    own_addresses: OwnAddresses,
) -> Request {
    let message = change(index).nest(libc::IFLA_AF_SPEC, |spec| {
        let spec = spec.nest(libc::AF_INET as u16, |inet| {
            inet.nest(INET_CONF, |list| {
                conf.iter().fold(list, |list, (setting, value)| list.u32(*setting as u16, *value))
            })
        });
        match own_addresses {
            OwnAddresses::None => {
                spec.nest(libc::AF_INET6 as u16, |inet6| inet6.u8(INET6_ADDR_GEN_MODE, ADDR_GEN_NONE))
            }
            OwnAddresses::Kernel => spec,
        }
    });
    Request::new(message, "set the IP settings of", format!("link {name}"))
}

/// Whether the kernel makes an IPv6 link-local address for a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OwnAddresses {
    /// As it always does.
    Kernel,
    /// Never.
    None,
}

/// [`OwnAddresses::None`] where this kernel has IPv6 at all: without it the request would be refused. A kernel that has it keeps it.
pub(crate) fn no_own_addresses() -> OwnAddresses {
    static SEEN: AtomicBool = AtomicBool::new(false);
    if SEEN.load(Ordering::Relaxed) || Path::new("/proc/sys/net/ipv6").exists() {
        SEEN.store(true, Ordering::Relaxed);
        OwnAddresses::None
    } else {
        OwnAddresses::Kernel
    }
}
