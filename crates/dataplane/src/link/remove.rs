//! Removal of links. The kernel keeps whoever asks waiting, once per request: many links go in one request, by way of a group
//! that only they are in, and the waiting is left to [`Removals`].

use std::collections::BTreeSet;

use weft_model::IfName;
use weft_plan::kernel::LINK_GROUP;

use super::request::{Request, change, found, send};
use super::state::{DOOMED_GROUPS, LinkState, by_name};
use crate::KernelError;
use crate::netlink::{Message, Removals, Reply, Rtnl, headers};

/// Removes one link, and waits until the kernel is done with it; one that is gone already is removed too.
pub(crate) fn one(rtnl: &mut Rtnl, state: &LinkState) -> Result<(), KernelError> {
    send(rtnl, &[by_index(state)]).map(drop)
}

fn by_index(state: &LinkState) -> Request {
    let message = Message::new(libc::RTM_DELLINK, 0, &headers::link(state.index, 0, 0));
    Request::new(message, "remove", format!("link {}", state.name)).tolerate(&[libc::ENODEV])
}

/// Removes links by name, one result each. They are gone then; the kernel may still be freeing their memory.
pub(crate) fn all(
    rtnl: &mut Rtnl,
    removals: &mut Removals,
    names: &[IfName],
) -> Vec<Result<(), KernelError>> {
    let looks: Vec<Message> = names.iter().map(|name| by_name(*name)).collect();
    let states: Vec<Option<LinkState>> = match rtnl.exchange(&looks) {
        Ok(replies) => replies.into_iter().map(|reply| found(Some(reply))).collect(),
        Err(error) => {
            let error = KernelError::from(error);
            return names.iter().map(|_| Err(error.clone())).collect();
        }
    };
    let doomed: Vec<&LinkState> = states.iter().flatten().filter(|s| s.is_ours()).collect();
    // Where that fails, they go one by one below.
    let together = doomed.len() > 1 && by_group(rtnl, removals, &doomed).is_ok();
    // Another owner's link of our name is not ours to remove: ours is gone.
    let mut remove = |state: &LinkState| {
        if together || !state.is_ours() {
            Ok(())
        } else {
            out_of_sight(removals, &by_index(state), BTreeSet::from([state.index]))
        }
    };
    states.iter().map(|state| state.as_ref().map_or(Ok(()), &mut remove)).collect()
}

fn out_of_sight(removals: &mut Removals, request: &Request, links: BTreeSet<u32>) -> Result<(), KernelError> {
    let result = removals.remove(&request.message, links)?;
    request.judge(Reply { result, object: None }).map(drop)
}

fn by_group(rtnl: &mut Rtnl, removals: &mut Removals, doomed: &[&LinkState]) -> Result<(), KernelError> {
    // The number is new each time, as far as a batch of links can tell: nobody else's link is in the group.
    let span = DOOMED_GROUPS.end - DOOMED_GROUPS.start;
    let seed =
        doomed.iter().fold(std::process::id(), |seed, state| seed.wrapping_mul(31).wrapping_add(state.index));
    let group = DOOMED_GROUPS.start + seed % span;
    debug_assert_ne!(group, LINK_GROUP);
    let moves: Vec<Request> = doomed
        .iter()
        .map(|state| {
            let message = change(state.index).u32(libc::IFLA_GROUP, group);
            Request::new(message, "set the group of", format!("link {}", state.name))
                .tolerate(&[libc::ENODEV])
        })
        .collect();
    send(rtnl, &moves)?;
    let message = Message::new(libc::RTM_DELLINK, 0, &headers::link(0, 0, 0)).u32(libc::IFLA_GROUP, group);
    // All of them may be gone with their namespaces by now.
    let request = Request::new(message, "remove", "links together").tolerate(&[libc::ENODEV]);
    out_of_sight(removals, &request, doomed.iter().map(|state| state.index).collect())
}
