//! The difference of two plans, and a plan's own consistency.

use std::collections::BTreeSet;
use std::fmt;

use crate::filter::{SetKind, Statement, Verdict};
use crate::kernel::{KernelKey, KernelRow, LinkKind};
use crate::names::DnsName;
use crate::{Plan, text};

/// What has to change to get from one plan to another: keys in order, with the line before and after.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Difference {
    /// Each changed row: text before, text after; one of them may be absent.
    pub rows: Vec<(Option<String>, Option<String>)>,
}

impl Difference {
    /// Compares every row of both plans.
    pub fn between(from: &Plan, to: &Plan) -> Self {
        let mut rows = Vec::new();
        let keys: BTreeSet<&KernelKey> = from.kernel.iter().chain(to.kernel.iter()).map(|(k, _)| k).collect();
        for key in keys {
            let line = |plan: &Plan| plan.kernel.get(key).map(|row| text::kernel_row(key, row));
            Self::push(&mut rows, line(from), line(to));
        }
        let names: BTreeSet<&DnsName> = from.names.iter().chain(to.names.iter()).map(|(k, _)| k).collect();
        for name in names {
            let line = |plan: &Plan| plan.names.get(name).map(|row| text::name_row(name, row));
            Self::push(&mut rows, line(from), line(to));
        }
        Self { rows }
    }

    fn push(rows: &mut Vec<(Option<String>, Option<String>)>, before: Option<String>, after: Option<String>) {
        if before != after {
            rows.push((before, after));
        }
    }

    /// True where nothing has to change.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }
}

impl fmt::Display for Difference {
    /// Lines that go begin with `-`, lines that come with `+`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (before, after) in &self.rows {
            for line in before.iter().flat_map(|text| text.lines()) {
                writeln!(f, "- {line}")?;
            }
            for line in after.iter().flat_map(|text| text.lines()) {
                writeln!(f, "+ {line}")?;
            }
        }
        Ok(())
    }
}

impl Plan {
    /// Looks for rows that contradict each other: a route by a link that nobody makes, an element that doesn't fit its
    /// set, a jump into nothing. Returns a sentence each; a plan that `weft-compile` made has none.
    pub fn check(&self) -> Vec<String> {
        let mut faults = Vec::new();
        for (key, entry) in self.kernel.sorted() {
            match (key, &entry.value) {
                (KernelKey::Element(set, parts), KernelRow::Element(element)) => {
                    faults.extend(self.check_element(set, parts, &element.data));
                }
                (KernelKey::Chain(name), KernelRow::Chain(chain)) => {
                    for statement in chain.rules.iter().flat_map(|rule| &rule.statements) {
                        faults.extend(
                            self.check_statement(statement).map(|fault| format!("chain {name}: {fault}")),
                        );
                    }
                }
                (KernelKey::Link(name), KernelRow::Link(link)) => {
                    let mtu = match &link.kind {
                        LinkKind::Pod(pod) => pod.mtu,
                        LinkKind::Vxlan(vxlan) => vxlan.mtu,
                    };
                    if mtu < 576 {
                        faults.push(format!("link {name}: MTU {mtu} is below 576"));
                    }
                    if link.alias.len() > 255 {
                        faults.push(format!("link {name}: its alias has over 255 bytes"));
                    }
                }
                (KernelKey::Fdb(link, _) | KernelKey::Neighbour(link, _), _)
                    if !self
                        .kernel
                        .get(&KernelKey::Link(*link))
                        .is_some_and(|row| matches!(row, KernelRow::Link(_))) =>
                {
                    faults.push(format!("{}: no such link in the plan", text::kernel_row(key, &entry.value)));
                }
                _ => {}
            }
        }
        faults
    }

    fn check_element(
        &self,
        set: &crate::Ident,
        parts: &[crate::Atom],
        data: &[crate::Atom],
    ) -> Option<String> {
        let Some(KernelRow::Set(spec)) = self.kernel.get(&KernelKey::Set(set.clone())) else {
            return Some(format!("element of {set}: no such set"));
        };
        let kinds = |atoms: &[crate::Atom]| atoms.iter().map(crate::Atom::kind).collect::<Vec<_>>();
        let wanted: &[crate::Type] = match &spec.kind {
            SetKind::Set => &[],
            SetKind::Map(types) => types,
        };
        (kinds(parts) != spec.key || kinds(data) != wanted)
            .then(|| format!("element of {set}: {parts:?} : {data:?} does not have the set's types"))
    }

    fn check_statement(&self, statement: &Statement) -> Option<String> {
        let has_set = |name: &crate::Ident| self.kernel.get(&KernelKey::Set(name.clone())).is_some();
        let has_chain = |name: &crate::Ident| self.kernel.get(&KernelKey::Chain(name.clone())).is_some();
        match statement {
            Statement::Lookup(_, _, set)
            | Statement::SetMarkFrom(_, set)
            | Statement::VerdictFrom(_, set)
                if !has_set(set) =>
            {
                Some(format!("no set {set}"))
            }
            Statement::Dnat(crate::filter::NatTarget::AddressPortFrom { map, .. })
            | Statement::Snat(crate::filter::NatTarget::AddressPortFrom { map, .. })
                if !has_set(map) =>
            {
                Some(format!("no map {map}"))
            }
            Statement::Verdict(Verdict::Jump(chain) | Verdict::Goto(chain)) if !has_chain(chain) => {
                Some(format!("no chain {chain}"))
            }
            _ => None,
        }
    }
}
