//! The way from pods to this node's DNS server: its addresses are local, and its packets pass without connection tracking.
//!
//! Tracking a query costs an entry each, and two queries from one port race in the kernel for it: the loser is dropped,
//! and a client waits five seconds.

use weft_model::{FactKey, Family, Port, Protocol};
use weft_plan::filter::{Comparison, HookKind, Value};
use weft_plan::kernel::Opening;
use weft_plan::{Atom, Field, Ident, KernelKey, KernelRow, SetSpec, Statement, Verdict};

use super::table::{Pair, address_type, filter, in_set};
use crate::engine::{Context, Output, Rule, RuleKey};
use crate::facts::Transition;

/// Addresses of this node's DNS server.
pub const SERVERS: Pair = Pair { v4: "dns4", v6: "dns6" };

const DNS_PORT: u16 = 53;
/// Chains for what goes to port 53, and what comes from there.
const QUERIES: &str = "name_queries";
const ANSWERS: &str = "name_answers";

/// See the module.
pub struct DnsPathRule;

impl Rule for DnsPathRule {
    fn affected(
        &mut self,
        _transition: &Transition,
        _context: &Context<'_>,
        _dirty: &mut dyn FnMut(RuleKey),
    ) {
        // Its rows depend on settings only.
    }

    fn rows(&self, _key: &RuleKey, context: &Context<'_>, out: &mut Output) {
        let addresses = &context.settings.dns.addresses;
        if addresses.is_empty() {
            return;
        }
        let origin = FactKey::Node(context.settings.node.clone());
        for address in addresses {
            out.local_address(*address, &origin);
            out.member(SERVERS.of(Family::of(*address)), [Atom::from(*address)], &origin);
        }
        for family in Family::ALL {
            let spec = SetSpec::set(&[address_type(family)], "addresses of this node's DNS server");
            out.table_set(SERVERS.of(family), spec, &origin);
        }
        out.chain(Ident::new(QUERIES), untracked(Field::Daddr), &origin);
        out.chain(Ident::new(ANSWERS), untracked(Field::Saddr), &origin);
        let queries = look_at(Field::Dport, QUERIES);
        let both = vec![queries.clone(), look_at(Field::Sport, ANSWERS)];
        out.base_chain("dns_notrack", filter(HookKind::Prerouting, -303), vec![queries], &origin);
        out.base_chain("dns_notrack_out", filter(HookKind::Output, -303), both, &origin);
        if let Ok(port) = Port::new(u32::from(DNS_PORT)) {
            for protocol in [Protocol::Udp, Protocol::Tcp] {
                out.kernel(KernelKey::Opening(Opening::Input(protocol, port)), KernelRow::Opening, &origin);
            }
        }
    }
}

/// Nearly every packet of the node has another port, and is done with after this one comparison.
fn look_at(port: Field, chain: &str) -> weft_plan::Rule {
    let is_dns = Statement::Match(port, Comparison::Is, Value::Port(DNS_PORT));
    weft_plan::Rule::new("names", [is_dns, Statement::Verdict(Verdict::Jump(Ident::new(chain)))])
}

fn untracked(address: fn(Family) -> Field) -> Vec<weft_plan::Rule> {
    let mut rules = Vec::new();
    for family in Family::ALL {
        for protocol in [Protocol::Udp, Protocol::Tcp] {
            rules.push(weft_plan::Rule::new(
                "names without connection tracking",
                [
                    Statement::Match(Field::L4Proto, Comparison::Is, Value::Byte(protocol.number())),
                    in_set([address(family)], SERVERS.of(family)),
                    Statement::Notrack,
                ],
            ));
        }
    }
    rules
}
