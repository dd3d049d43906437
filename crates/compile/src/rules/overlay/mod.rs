//! Tunnels: this node's own ends of them. The ways through them are the `peers` rule's.
//!
//! An overlay is one module here: the link that it needs, and the rows by which one peer is reached.

pub mod vxlan;

use weft_model::{FactKey, Overlay};

use crate::engine::{Context, Output, Rule, RuleKey};
use crate::facts::Transition;

/// See the module.
pub struct OverlayRule;

impl Rule for OverlayRule {
    fn affected(&self, transition: &Transition, context: &Context<'_>, dirty: &mut dyn FnMut(RuleKey)) {
        if transition.concerns_this_node(context) {
            dirty(RuleKey::Constant);
        }
    }

    fn rows(&self, _key: &RuleKey, context: &Context<'_>, out: &mut Output) {
        for network in context.networks() {
            let origin = FactKey::Network(network.name.clone());
            match network.overlay {
                Overlay::Auto | Overlay::Vxlan => vxlan::own_end(&network, &origin, context, out),
                Overlay::HostGw => {}
            }
        }
    }
}
