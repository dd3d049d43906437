//! Namespaces exist as names, and hold the names of pods that nobody checks.

use weft_model::FactKey;
use weft_plan::NameRow;
use weft_plan::names::Below;

use super::zone::is_served;
use crate::engine::{Context, Output, Part, Rule, RuleKey};
use crate::facts::Transition;
use crate::settings::PodNames;

/// See the module.
pub struct NamespaceRule;

impl Rule for NamespaceRule {
    fn part(&self) -> Part {
        Part::Names
    }

    fn affected(&mut self, transition: &Transition, context: &Context<'_>, dirty: &mut dyn FnMut(RuleKey)) {
        let comes_or_goes = transition.before.is_none() || transition.after.is_none();
        let namespace = match &transition.key {
            FactKey::Namespace(name) => name,
            // An object's namespace exists, whether or not anybody has written it down.
            FactKey::Service(key) | FactKey::Pod(key)
                if comes_or_goes && !context.facts.has_namespace(&key.namespace) =>
            {
                &key.namespace
            }
            _ => return,
        };
        dirty(RuleKey::Fact(FactKey::Namespace(namespace.clone())));
    }

    fn rows(&self, key: &RuleKey, context: &Context<'_>, out: &mut Output) {
        let dns = &context.settings.dns;
        let RuleKey::Fact(origin @ FactKey::Namespace(name)) = key else { return };
        if !is_served(dns) || !context.facts.namespace_exists(name) {
            return;
        }
        out.name(dns.zone.child(format_args!("{name}.svc")), NameRow::default(), origin);
        let below = match dns.pod_names {
            PodNames::Disabled => return,
            PodNames::Insecure => Below::DashedAddresses,
            PodNames::Verified => Below::Nothing,
        };
        let row = NameRow::default().with_below(below);
        out.name(dns.zone.child(format_args!("{name}.pod")), row, origin);
    }
}
