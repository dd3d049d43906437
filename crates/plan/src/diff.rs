//! The difference of two plans.

use std::collections::BTreeSet;
use std::fmt;

use crate::kernel::KernelKey;
use crate::names::DnsName;
use crate::{HealthKey, Plan, health, text};

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
        let ports: BTreeSet<&HealthKey> =
            from.health.iter().chain(to.health.iter()).map(|(k, _)| k).collect();
        for port in ports {
            let line = |plan: &Plan| plan.health.get(port).map(|row| health::line(port, row));
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
