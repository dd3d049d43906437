//! Overlays: the tunnel links that carry pods' packets between nodes.
//!
//! Here one more is a folder with its [`Overlay`], a line in [`of`], one in [`read`], and what can be wrong with it in
//! [`damage`]. ARCHITECTURE.md lists the other files that know one overlay from another.

mod vxlan;

use weft_model::IfName;
use weft_plan::kernel::LinkKind;
use weft_plan::{KernelRow, Link};

use crate::link::remove;
use crate::link::request::{Request, alias, change, find, no_own_addresses, ours, own, send, settings, up};
use crate::link::state::{Conf, DOOMED_GROUPS, LinkState};
use crate::netlink::Rtnl;
use crate::{Effect, KernelError};
use weft_model::Mac;
use weft_plan::kernel::LINK_GROUP;

/// IPv4 settings of every tunnel: what comes from a pod of another node may take another way back.
const CONF: [(Conf, u32); 2] = [(Conf::RpFilter, 2), (Conf::SendRedirects, 0)];

/// How an existing tunnel relates to its row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fitness {
    /// Its kind's own attributes are right.
    Right,
    /// They are wrong, and the kernel can change them while it stands.
    Changeable,
    /// They are wrong, and only a new link has others.
    Useless,
}

/// One kind of tunnel.
pub(crate) trait Overlay {
    /// MAC address of the tunnel's end.
    fn mac(&self) -> Mac;
    /// MTU in bytes.
    fn mtu(&self) -> u32;
    /// The request that makes it, with name, group, MAC and MTU.
    fn create(&self, name: IfName) -> Request;
    /// The request that changes what can be changed.
    fn change(&self, state: &LinkState) -> Request;
    /// How an existing link fits.
    fn fitness(&self, state: &LinkState) -> Fitness;
}

/// The overlay that a link's kind is; `None` for links that are none.
pub(crate) fn of(kind: &LinkKind) -> Option<&dyn Overlay> {
    match kind {
        LinkKind::Vxlan(vxlan) => Some(vxlan),
        LinkKind::Pod(_) => None,
    }
}

/// What an existing tunnel is, as a row.
pub(crate) fn read(state: &LinkState) -> Option<LinkKind> {
    vxlan::read(state).map(LinkKind::Vxlan)
}

/// What is wrong with a tunnel beside what a row says.
pub(crate) fn damage(state: &LinkState) -> Option<String> {
    let mut faults = Vec::new();
    if DOOMED_GROUPS.contains(&state.group) {
        faults.push("its removal was broken off".to_owned());
    }
    if !state.is_up() {
        faults.push("it is down".into());
    }
    if state.vxlan.is_some_and(|v| v.learning != 0) {
        faults.push("it learns addresses".into());
    }
    for (setting, value) in CONF {
        if state.conf(setting).is_some_and(|now| now != value) {
            faults.push(format!("{} is not {value}", setting.name()));
        }
    }
    (!faults.is_empty()).then(|| faults.join(", "))
}

/// Makes a tunnel be as wanted.
pub(crate) fn ensure(
    rtnl: &mut Rtnl,
    name: IfName,
    link: &Link,
    overlay: &dyn Overlay,
    was: Option<&KernelRow>,
) -> Result<Effect, KernelError> {
    let Some(state) = find(rtnl, name)? else {
        create(rtnl, name, link, overlay)?;
        return Ok(Effect::of_creation(was));
    };
    ours(&state)?;
    let fitness = overlay.fitness(&state);
    if fitness == Fitness::Changeable && send(rtnl, &[overlay.change(&state)]).is_ok()
        || fitness == Fitness::Right
    {
        configure(rtnl, &state, link, overlay)?;
        return Ok(Effect::Done);
    }
    remove::one(rtnl, &state)?;
    create(rtnl, name, link, overlay)?;
    Ok(Effect::Recreated)
}

fn create(rtnl: &mut Rtnl, name: IfName, link: &Link, overlay: &dyn Overlay) -> Result<(), KernelError> {
    send(rtnl, &[overlay.create(name)])?;
    let state = find(rtnl, name)?.ok_or(KernelError::NoLink(name))?;
    configure(rtnl, &state, link, overlay)
}

fn configure(
    rtnl: &mut Rtnl,
    state: &LinkState,
    link: &Link,
    overlay: &dyn Overlay,
) -> Result<(), KernelError> {
    let (index, name) = (state.index, state.name);
    let mut requests = Vec::new();
    if state.group != LINK_GROUP {
        requests.push(own(index, name));
    }
    if state.mac != Some(overlay.mac()) {
        let message = change(index).attr(libc::IFLA_ADDRESS, &overlay.mac().0);
        requests.push(Request::new(message, "set the MAC of", format!("link {name}")));
    }
    if state.mtu != overlay.mtu() {
        let message = change(index).u32(libc::IFLA_MTU, overlay.mtu());
        requests.push(Request::new(message, "set the MTU of", format!("link {name}")));
    }
    requests.push(settings(index, name, &CONF, no_own_addresses()));
    requests.push(alias(index, name, &link.alias));
    requests.push(up(index, name));
    send(rtnl, &requests).map(drop)
}
