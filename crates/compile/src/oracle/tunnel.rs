//! Tunnels: into the outer packet, and out of it.
//!
//! A VXLAN end without learning knows a next hop's MAC by its neighbour entry, and that MAC's node by its forwarding entry. The
//! outer packet is one of the node's own, and is walked like any other.

use std::net::IpAddr;

use weft_model::{FactKey, Family, Mac, Protocol, Vni};
use weft_plan::{KernelKey, KernelRow, VxlanLink};

use super::conntrack::{Phase, Tracking};
use super::look_up::LookUp;
use super::packet::{Headers, Transport};
use super::trace::Stage;
use super::walk::{Ended, InFlight, Step, Walk, Way};

/// Tunnels in tunnels before the oracle gives up, as the kernel does at some depth (`XMIT_RECURSION_LIMIT` 8).
const DEPTH: usize = 4;
/// The lowest source port of outer packets (RFC 7348 §5 recommends 49152 and up; the kernel hashes the inner flow).
const OUTER_SPORT: u16 = 49_152;

/// What an outer packet carries.
#[derive(Debug)]
pub(super) struct Frame {
    packet: InFlight,
    vni: Vni,
    mac: Mac,
}

impl Frame {
    fn depth(&self) -> usize {
        1 + self.packet.inner.as_ref().map_or(0, |frame| frame.depth())
    }
}

impl<'a> Walk<'_, 'a> {
    pub fn encapsulate(
        &mut self,
        at: usize,
        way: Way,
        tunnel: &VxlanLink,
        origin: &FactKey,
        packet: InFlight,
    ) -> Ended<Step> {
        let next_hop = way.via.unwrap_or(packet.headers.destination);
        self.look_ups.push(LookUp::Neighbour(way.link, next_hop));
        let (mac, behind) = self.peer(at, way, next_hop, origin)?;
        self.look_ups.push(LookUp::Fdb(way.link, mac));
        self.hop(
            at,
            Stage::Encap,
            format!("neighbour {next_hop} lladdr {mac}, fdb dst {behind}, vni {}", tunnel.vni.get()),
            self.index(at)
                .plan
                .kernel
                .entry(&KernelKey::Fdb(way.link, mac))
                .map_or(origin, |entry| &entry.origin),
        );
        if Family::of(behind) != Family::of(tunnel.local) {
            let why = format!("the tunnel end {} can't send to {behind}", tunnel.local);
            return Err(self.dropped(at, why, origin));
        }
        let headers = Headers {
            source: tunnel.local,
            destination: behind,
            transport: Transport::Ports(Protocol::Udp),
            sport: OUTER_SPORT,
            dport: tunnel.port.get(),
        };
        let mark = packet.mark;
        let packet = InFlight { tracking: Tracking::None, ..packet };
        let frame = Frame { packet, vni: tunnel.vni, mac };
        if frame.depth() > DEPTH {
            return Err(self.dropped(at, "tunnels within tunnels without end", origin));
        }
        let outer = InFlight::new(headers, Phase::Opening);
        Ok(Step::Emit { at, packet: InFlight { mark, inner: Some(Box::new(frame)), ..outer } })
    }

    /// MAC of a next hop behind a tunnel, and the underlay address of the node that has it.
    fn peer(&self, at: usize, way: Way, next_hop: IpAddr, origin: &FactKey) -> Ended<(Mac, IpAddr)> {
        let rows = &self.index(at).plan.kernel;
        let Some(KernelRow::Neighbour(neighbour)) = rows.get(&KernelKey::Neighbour(way.link, next_hop))
        else {
            return Err(self.unreachable(at, format!("no neighbour {next_hop} on {}", way.link), origin));
        };
        match rows.get(&KernelKey::Fdb(way.link, neighbour.mac)) {
            Some(KernelRow::Fdb(fdb)) => Ok((neighbour.mac, fdb.destination)),
            _ => Err(self.dropped(at, format!("no fdb entry for {} on {}", neighbour.mac, way.link), origin)),
        }
    }

    pub fn decapsulate(&mut self, at: usize, outer: &InFlight, frame: Frame) -> Ended<Step> {
        let index = self.index(at);
        let ends = index.tunnels.iter();
        let found = ends
            .filter(|(_, tunnel, _)| tunnel.port.get() == outer.headers.dport && tunnel.vni == frame.vni)
            .find(|(_, tunnel, _)| Family::of(tunnel.local) == outer.headers.family());
        let Some((link, tunnel, origin)) = found else {
            let why = format!("no tunnel end for VNI {} at port {}", frame.vni.get(), outer.headers.dport);
            return Err(self.dropped(at, why, &FactKey::Host));
        };
        if tunnel.mac != frame.mac {
            let why = format!("the frame is for {}, and {link} has {}", frame.mac, tunnel.mac);
            return Err(self.dropped(at, why, origin));
        }
        self.look_ups.push(LookUp::Link(*link));
        self.hop(at, Stage::Decap, format!("by {link}, from {}", outer.headers.source), origin);
        let packet = InFlight { mark: outer.mark, ..frame.packet };
        Ok(Step::Arrive { at, link: *link, packet })
    }
}
