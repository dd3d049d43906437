//! The cluster's zone: its top, what it says of itself, and the names that hold all others.

use weft_model::FactKey;
use weft_plan::names::Zone;
use weft_plan::{DnsName, NameRow, Record};

use super::address;
use crate::engine::{Context, Output, Part, Rule, RuleKey};
use crate::facts::Transition;
use crate::settings::DnsSettings;

/// Version of the Kubernetes DNS specification that the names follow.
const SPECIFICATION: &str = "1.1.0";

/// Time to live of every record, in seconds. An endpoint that goes is asked for no longer than this.
const TTL: u32 = 5;

/// See the module.
pub struct ZoneRule;

impl Rule for ZoneRule {
    fn part(&self) -> Part {
        Part::Names
    }

    fn affected(
        &mut self,
        _transition: &Transition,
        _context: &Context<'_>,
        _dirty: &mut dyn FnMut(RuleKey),
    ) {
        // Its rows depend on settings only.
    }

    fn rows(&self, key: &RuleKey, context: &Context<'_>, out: &mut Output) {
        let dns = &context.settings.dns;
        let origin = FactKey::Node(context.settings.node.clone());
        if *key != RuleKey::Constant || dns.addresses.is_empty() {
            return;
        }
        if !is_served(dns) {
            let text = format!(
                "the cluster domain \"{}\" is no domain name; no name of the cluster is answered until it is one",
                dns.zone.as_str()
            );
            out.warn(&origin, text);
            return;
        }
        let top = NameRow::new(vec![Record::Ns(server(dns))]).with_zone(zone(dns));
        out.name(dns.zone.clone(), top, &origin);
        for holder in ["svc", "pod", "dns"] {
            out.name(dns.zone.child(holder), NameRow::default(), &origin);
        }
        let addresses = dns.addresses.iter().copied().map(address::record).collect();
        out.name(server(dns), NameRow::new(addresses), &origin);
        let version = NameRow::new(vec![Record::Txt(SPECIFICATION.into())]);
        out.name(dns.zone.child("dns-version"), version, &origin);
    }
}

/// True on a node that answers names. Nobody answers for the root.
pub fn is_served(dns: &DnsSettings) -> bool {
    !dns.addresses.is_empty() && dns.zone.is_encodable() && !dns.zone.as_str().is_empty()
}

/// What holds for our zones, the reverse ones too.
pub fn zone(dns: &DnsSettings) -> Zone {
    Zone { primary: server(dns), mailbox: dns.zone.child("hostmaster"), ttl: TTL }
}

/// The name server's own name.
fn server(dns: &DnsSettings) -> DnsName {
    dns.zone.child("ns.dns")
}
