//! Tunnels: this node's own ends of them. The ways through them are the `peers` rule's.
//!
//! An overlay is one module here: the link that it needs, and the rows by which one peer is reached.

pub mod vxlan;

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use weft_model::{FactKey, Overlay};

use crate::engine::{Context, Output, Rule, RuleKey};
use crate::facts::Transition;

/// See the module.
pub struct OverlayRule;

impl Rule for OverlayRule {
    fn affected(&mut self, transition: &Transition, context: &Context<'_>, dirty: &mut dyn FnMut(RuleKey)) {
        if transition.concerns_this_node(context) {
            dirty(RuleKey::Constant);
        }
    }

    fn rows(&self, _key: &RuleKey, context: &Context<'_>, out: &mut Output) {
        let mut tunnels = BTreeMap::new();
        for network in context.networks() {
            let origin = FactKey::Network(network.name.clone());
            match network.overlay {
                Overlay::Auto | Overlay::Vxlan => match tunnels.entry(network.vni) {
                    Entry::Vacant(free) => {
                        free.insert(network.name.clone());
                        vxlan::own_end(network, &origin, context, out);
                    }
                    Entry::Occupied(other) => out.warn(
                        &origin,
                        format!(
                            "its VNI {} is that of network {}, which has the tunnel; give it one of its own in spec.vni",
                            network.vni.get(),
                            other.get()
                        ),
                    ),
                },
                Overlay::HostGw => {}
            }
        }
    }
}
