//! What of the kernel is ours, as rows.

use std::collections::BTreeSet;
use std::net::IpAddr;

use rustc_hash::FxHashMap;
use weft_model::{AttachmentId, Family, IfName, Mac};
use weft_plan::kernel::{GATEWAY_V6, LinkKind};
use weft_plan::{KernelKey, KernelRow, Link, PodLink, Rows};

use super::LinuxKernel;
use crate::kernel::Observation;
use crate::ledger::Expected;
use crate::link::host_end::{self, Gateway};
use crate::link::state::{self, LinkState};
use crate::netlink::{Message, Received, headers, number};
use crate::{KernelError, overlay, route, sysctl};

pub(super) type Wanted<'a> = Option<&'a Rows<KernelKey, KernelRow>>;

impl LinuxKernel {
    /// Lists everything owned. Without `wanted`, what only a plan knows (whose pod's link, which sysctls beside those that
    /// were changed) stays open.
    pub(super) fn see(&mut self, wanted: Wanted<'_>) -> Result<Observation, KernelError> {
        let mut seen = Observation::default();
        let links = self.all_links()?;
        let names: FxHashMap<u32, IfName> = links.iter().map(|link| (link.index, link.name)).collect();
        let ours: Vec<&LinkState> = links.iter().filter(|link| link.is_ours()).collect();
        self.see_links(&ours, wanted, &mut seen)?;
        for tunnel in ours.iter().filter(|link| overlay::is_one(link)) {
            self.see_peers(tunnel, &mut seen.rows)?;
        }
        self.see_routes(&names, &mut seen.rows)?;
        self.see_sysctls(wanted, &mut seen.rows);
        self.see_filter(wanted, &mut seen)?;
        self.see_openings(wanted, &mut seen)?;
        Ok(seen)
    }

    /// Every link of the namespace.
    pub(crate) fn all_links(&mut self) -> Result<Vec<LinkState>, KernelError> {
        Ok(self.rtnl.list("links", &state::list(), state::read)?)
    }

    fn see_links(
        &mut self,
        ours: &[&LinkState],
        wanted: Wanted<'_>,
        seen: &mut Observation,
    ) -> Result<(), KernelError> {
        let gateways = self.links_with_gateway()?;
        for state in ours {
            let key = KernelKey::Link(state.name);
            let row = wanted.and_then(|rows| rows.get(&key));
            let (kind, damage) = if state.kind == "veth" {
                let pod = pod_row(state, row);
                let gateway =
                    if gateways.contains(&state.index) { Gateway::Present } else { Gateway::Missing };
                let damage = host_end::damage(state, &pod, gateway);
                (LinkKind::Pod(pod), damage)
            } else {
                match overlay::read(state) {
                    Some(kind) => {
                        let damage = overlay::damage(&kind, state);
                        (kind, damage)
                    }
                    None => {
                        (LinkKind::Pod(pod_row(state, row)), Some(format!("it is a {:?} link", state.kind)))
                    }
                }
            };
            seen.damaged.extend(damage.map(|text| (key.clone(), text)));
            let link = Link { kind, alias: state.alias.as_str().into() };
            let seen_row = KernelRow::Link(Box::new(link.clone()));
            if row == Some(&seen_row) && !seen.damaged.contains_key(&key) {
                self.ledger.expect(state.name, Expected::of(&link));
            }
            seen.rows.insert(key, seen_row);
        }
        Ok(())
    }

    /// Indices of the links that have the pods' IPv6 gateway as address.
    fn links_with_gateway(&mut self) -> Result<BTreeSet<u32>, KernelError> {
        const FIXED: usize = 8;
        let family = libc::AF_INET6 as u8;
        let request = Message::new(libc::RTM_GETADDR, 0, &headers::address(family, 0, 0, 0, 0));
        let links = self.rtnl.list("addresses", &request, |message| {
            let has = message.attributes(FIXED).address(libc::IFA_ADDRESS) == Some(IpAddr::V6(GATEWAY_V6));
            number(message.body, 4).filter(|_| has)
        })?;
        Ok(links.into_iter().collect())
    }

    fn see_peers(
        &mut self,
        tunnel: &LinkState,
        rows: &mut FxHashMap<KernelKey, KernelRow>,
    ) -> Result<(), KernelError> {
        let (index, name) = (tunnel.index, tunnel.name);
        for family in Family::ALL {
            let request = route::list_neighbours(family, index);
            self.collect("neighbours", &request, rows, |m| route::neighbour(m, index, name))?;
        }
        let request = route::list_fdb(index);
        self.collect("forwarding entries", &request, rows, |m| route::fdb(m, index, name))
    }

    fn see_routes(
        &mut self,
        names: &FxHashMap<u32, IfName>,
        rows: &mut FxHashMap<KernelKey, KernelRow>,
    ) -> Result<(), KernelError> {
        self.routes.clear();
        for family in Family::ALL {
            let mut routes = FxHashMap::default();
            let request = route::list_routes(family);
            self.collect("routes", &request, &mut routes, |m| route::route(m, names))?;
            for (key, row) in &routes {
                if let (KernelKey::Route(key), KernelRow::Route(route)) = (key, row) {
                    self.routes.insert(*key);
                    self.ledger.uses(route);
                }
            }
            rows.extend(routes);
            self.collect("rules", &route::list_rules(family), rows, route::rule)?;
        }
        Ok(())
    }

    /// Learns anew which routes are ours.
    pub(super) fn relist_routes(&mut self) -> Result<(), KernelError> {
        self.see_routes(&FxHashMap::default(), &mut FxHashMap::default())
    }

    /// Lists objects and adds those that `read` takes for ours. A family that the kernel was built or started
    /// without has none.
    fn collect(
        &mut self,
        what: &'static str,
        request: &Message,
        rows: &mut FxHashMap<KernelKey, KernelRow>,
        read: impl Fn(&Received<'_>) -> Option<(KernelKey, KernelRow)>,
    ) -> Result<(), KernelError> {
        match self.rtnl.list(what, request, read) {
            Err(crate::netlink::SocketError::Dump { refusal, .. })
                if matches!(refusal.errno, libc::EOPNOTSUPP | libc::EAFNOSUPPORT) => {}
            found => rows.extend(found?),
        }
        Ok(())
    }

    /// Values of the sysctls that are wanted, or were changed. One that can't be read is absent, and setting it says why.
    fn see_sysctls(&self, wanted: Wanted<'_>, rows: &mut FxHashMap<KernelKey, KernelRow>) {
        let planned = wanted.iter().flat_map(|rows| rows.iter()).filter_map(|(key, _)| match key {
            KernelKey::Sysctl(path) => Some(&**path),
            _ => None,
        });
        for path in planned.chain(self.originals.paths()) {
            if let Ok(value) = sysctl::read(path) {
                rows.insert(KernelKey::Sysctl(path.into()), KernelRow::Sysctl(value.into()));
            }
        }
    }
}

/// The row of a pod's host end: what the kernel says here, and what the plan says of the pod's side.
fn pod_row(state: &LinkState, wanted: Option<&KernelRow>) -> PodLink {
    let planned = match wanted {
        Some(KernelRow::Link(link)) => link.kind.as_pod().cloned(),
        _ => None,
    };
    let unknown = || PodLink {
        attachment: AttachmentId { container: "unknown".into(), ifname: state.name },
        netns: "".into(),
        pod_mac: Mac([0; 6]),
        addresses: Vec::new(),
        mtu: 0,
    };
    PodLink { mtu: state.mtu, ..planned.unwrap_or_else(unknown) }
}
