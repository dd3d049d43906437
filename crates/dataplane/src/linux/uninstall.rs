//! Leaving the machine as it was.

use std::collections::BTreeMap;

use weft_plan::{KernelKey, KernelRow, text};

use super::LinuxKernel;
use crate::kernel::{Kernel, Op};
use crate::{KernelError, order};

/// What an uninstall did.
#[derive(Debug, Clone, Default)]
pub struct Removed {
    /// Objects that were removed, and sysctls that were put back: a line each.
    pub objects: Vec<String>,
    /// What could not be removed, and why.
    pub failed: Vec<(KernelKey, KernelError)>,
}

impl LinuxKernel {
    /// Removes everything owned, and puts sysctls back.
    ///
    /// # Errors
    /// When what is owned can't be listed; single failures are in the answer.
    pub fn uninstall(&mut self) -> Result<Removed, KernelError> {
        let owned = self.owned()?;
        let mut batch: Vec<Op<'_>> = owned.keys().map(|key| Op::remove(key, None)).collect();
        order::arrange(&mut batch, |_| 0);
        let results = self.apply(&batch);
        let mut removed = Removed::default();
        for (op, result) in batch.iter().zip(results) {
            match result {
                Ok(_) => removed.objects.extend(owned.get(op.key()).map(|row| line(op.key(), row))),
                Err(error) => removed.failed.push((op.key().clone(), error)),
            }
        }
        self.filter.delete_table()?;
        removed.objects.sort();
        Ok(removed)
    }

    /// What is still there of ours: a line each, none after a complete uninstall.
    ///
    /// # Errors
    /// When the kernel can't be asked.
    pub fn leftovers(&mut self) -> Result<Vec<String>, KernelError> {
        let mut lines: Vec<String> = self.owned()?.iter().map(|(key, row)| line(key, row)).collect();
        if self.filter.table_exists()? {
            lines.push(format!("table inet {}", weft_plan::filter::TABLE));
        }
        Ok(lines)
    }

    /// All that is ours, but for the packet filter's content, which goes with its table.
    fn owned(&mut self) -> Result<BTreeMap<KernelKey, KernelRow>, KernelError> {
        let of_filter =
            |key: &KernelKey| matches!(key, KernelKey::Set(_) | KernelKey::Chain(_) | KernelKey::Element(..));
        Ok(self.see(None)?.rows.into_iter().filter(|(key, _)| !of_filter(key)).collect())
    }
}

fn line(key: &KernelKey, row: &KernelRow) -> String {
    match key {
        // Of a link that no plan describes the kernel shows little.
        KernelKey::Link(name) => format!("link {name}"),
        _ => text::kernel_row(key, row),
    }
}
