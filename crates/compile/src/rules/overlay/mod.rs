//! Tunnels: this node's own ends of them. The ways through them are the `peers` rule's.
//!
//! An overlay is one module here with its [`Tunnel`]: the link that it needs, and the rows by which one peer is reached; and a
//! line in [`of`].

mod vxlan;

use std::net::IpAddr;

use weft_model::{Cidr, FactKey, Family, Network, Node, Overlay};
use weft_plan::Atom;

use super::table::Pair;
use crate::engine::{Context, Output, Rule, RuleKey};
use crate::facts::Transition;

/// Underlay addresses from which tunnel packets are taken, of whichever network.
const PEERS: Pair = Pair { v4: "tunnel_peer4", v6: "tunnel_peer6" };

/// How one overlay carries pods' packets.
pub trait Tunnel {
    /// This node's end: the link, the packet filter that admits known peers only, and what the host must allow for it.
    fn own_end(&self, network: &Network, origin: &FactKey, context: &Context<'_>, out: &mut Output);

    /// The way to one block of a peer; the node's own packets go with `source`.
    fn block(&self, to: &Peer<'_>, block: Cidr, source: Option<IpAddr>, out: &mut Output);

    /// What a peer has once in a network, whatever its blocks: its tunnel end, and the way from pods to its own addresses of
    /// these families.
    fn peer(&self, to: &Peer<'_>, underlay: IpAddr, families: &[Family], out: &mut Output);
}

/// Another node in a network.
#[derive(Debug, Clone, Copy)]
pub struct Peer<'a> {
    /// The node.
    pub node: &'a Node,
    /// The network.
    pub network: &'a Network,
    /// The node as an origin.
    pub origin: &'a FactKey,
}

/// The tunnel that a network's packets take where nodes share no link, if it has one ([`Context::has_tunnel`]); nothing where they never
/// take one.
pub fn of(network: &Network) -> Option<&'static dyn Tunnel> {
    match network.overlay {
        Overlay::Auto | Overlay::Vxlan => Some(&vxlan::Vxlan),
        Overlay::HostGw => None,
    }
}

/// Takes tunnel packets from a peer.
pub fn admit(underlay: IpAddr, origin: &FactKey, out: &mut Output) {
    out.member(PEERS.of(Family::of(underlay)), [Atom::from(underlay)], origin);
}

/// See the module.
pub struct OverlayRule;

impl Rule for OverlayRule {
    fn affected(&mut self, transition: &Transition, context: &Context<'_>, dirty: &mut dyn FnMut(RuleKey)) {
        if transition.concerns_this_node(context) {
            dirty(RuleKey::Constant);
        }
    }

    fn rows(&self, _key: &RuleKey, context: &Context<'_>, out: &mut Output) {
        for network in context.networks() {
            let origin = FactKey::Network(network.name.clone());
            if let Some(text) = too_large(network, context) {
                out.warn(&origin, text);
            }
            let Some(tunnel) = of(network) else { continue };
            match context.tunnel_of(network.vni).filter(|holder| holder.name != network.name) {
                None => tunnel.own_end(network, &origin, context, out),
                Some(other) => out.warn(
                    &origin,
                    format!(
                        "its VNI {} is that of network {}, which has the tunnel; give it one of its own in spec.vni",
                        network.vni.get(),
                        other.name
                    ),
                ),
            }
        }
    }
}

/// An MTU that somebody gave the network's pods and that doesn't fit through this node's uplink.
fn too_large(network: &Network, context: &Context<'_>) -> Option<String> {
    let link = context.uplink()?;
    let fits = match network.overlay {
        Overlay::Vxlan => context.tunnel_mtu(network),
        // Peers on one link with the node are reached without a tunnel.
        Overlay::Auto | Overlay::HostGw => link.mtu,
    };
    let mtu = network.mtu.filter(|mtu| *mtu > fits)?;
    Some(format!(
        "its MTU {mtu} is more than the {fits} bytes that reach other nodes by this node's link {}: larger packets are refused \
         on the way; leave spec.mtu out, and it follows the link",
        link.name
    ))
}
