//! Names of pods' addresses, where only those of existing pods are answered.

use weft_model::FactKey;
use weft_plan::NameRow;

use super::address::{dashed, record};
use super::zone::is_served;
use crate::engine::{Context, Output, Part, Rule, RuleKey};
use crate::facts::Transition;
use crate::settings::PodNames;

/// See the module.
pub struct PodRule;

impl Rule for PodRule {
    fn part(&self) -> Part {
        Part::Names
    }

    fn affected(&mut self, transition: &Transition, context: &Context<'_>, dirty: &mut dyn FnMut(RuleKey)) {
        if matches!(transition.key, FactKey::Pod(_)) && context.settings.dns.pod_names == PodNames::Verified {
            dirty(RuleKey::Fact(transition.key.clone()));
        }
    }

    fn rows(&self, key: &RuleKey, context: &Context<'_>, out: &mut Output) {
        let dns = &context.settings.dns;
        let RuleKey::Fact(origin @ FactKey::Pod(name)) = key else { return };
        let Some(pod) = context.facts.pod(name).filter(|pod| is_served(dns) && !pod.finished) else { return };
        for ip in &pod.ips {
            let name = dns.zone.child(format_args!("{}.{}.pod", dashed(*ip), name.namespace));
            out.name(name, NameRow::new(vec![record(*ip)]), origin);
        }
    }
}
