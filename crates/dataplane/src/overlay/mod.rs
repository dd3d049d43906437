//! Overlays: the tunnel links that carry pods' packets between nodes.
//!
//! Here one more is a folder with its [`Overlay`], a line in [`of`], and one in [`read`]. ARCHITECTURE.md lists the other files
//! that know one overlay from another.

pub(crate) mod vxlan;

use weft_model::IfName;
use weft_plan::kernel::LinkKind;
use weft_plan::{KernelRow, Link};

use crate::link::remove;
use crate::link::request::{Request, alias, change, find, no_own_addresses, ours, own, send, settings, up};
use crate::link::state::{Conf, DOOMED_GROUPS, LinkState};
use crate::netlink::Rtnl;
use crate::{Effect, KernelError};
use weft_model::Mac;
use weft_plan::kernel::{LINK_GROUP, TUNNEL_LINK_PREFIX};

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
    /// MAC address of the tunnel's end; nothing for a kind of link that has none.
    fn mac(&self) -> Option<Mac>;
    /// The request that makes it, with name, group, MAC and MTU.
    fn create(&self, name: IfName) -> Request;
    /// The request that changes what can be changed.
    fn change(&self, state: &LinkState) -> Request;
    /// How an existing link fits.
    fn fitness(&self, state: &LinkState) -> Fitness;
    /// What is wrong with an existing link of this kind that no row could say; nothing, for most kinds.
    fn damage(&self, _state: &LinkState) -> Option<&'static str> {
        None
    }
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

/// True for a tunnel of ours, by its name: its peers are rows too.
pub(crate) fn is_one(state: &LinkState) -> bool {
    state.name.as_str().starts_with(TUNNEL_LINK_PREFIX)
}

/// What is wrong with a tunnel beside what a row says. It was read as a link of this kind.
pub(crate) fn damage(kind: &LinkKind, state: &LinkState) -> Option<String> {
    let mut faults = Vec::new();
    if DOOMED_GROUPS.contains(&state.group) {
        faults.push("its removal was broken off".to_owned());
    }
    if !state.is_up() {
        faults.push("it is down".into());
    }
    faults.extend(of(kind).and_then(|overlay| overlay.damage(state)).map(str::to_owned));
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
    if let Some(mac) = overlay.mac().filter(|mac| state.mac != Some(*mac)) {
        let message = change(index).attr(libc::IFLA_ADDRESS, &mac.0);
        requests.push(Request::new(message, "set the MAC of", format!("link {name}")));
    }
    let mtu = link.kind.mtu();
    if state.mtu != mtu {
        let message = change(index).u32(libc::IFLA_MTU, mtu);
        requests.push(Request::new(message, "set the MTU of", format!("link {name}")));
    }
    requests.push(settings(index, name, &CONF, no_own_addresses()));
    requests.push(alias(index, name, &link.alias));
    requests.push(up(index, name));
    send(rtnl, &requests).map(drop)
}
