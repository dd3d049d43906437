//! The packet filter's part of a batch: a transaction for each of its turns.

use std::collections::BTreeMap;

use weft_plan::{KernelKey, KernelRow};

use super::LinuxKernel;
use super::observe::Wanted;
use crate::KernelError;
use crate::filter::{self, Change, ElementFault, FilterError, FilterOutcome, after};
use crate::kernel::{Effect, Observation, Op};

/// Changes of one transaction that are too many to be heard of one by one.
const MANY: usize = 4096;

impl From<FilterError> for KernelError {
    fn from(error: FilterError) -> Self {
        let text = error.to_string();
        if error.is_disturbance() { KernelError::Disturbed(text) } else { KernelError::Filter(text) }
    }
}

impl From<&ElementFault> for KernelError {
    fn from(fault: &ElementFault) -> Self {
        let text = fault.to_string();
        if fault.is_disturbance() { KernelError::Disturbed(text) } else { KernelError::Filter(text) }
    }
}

impl LinuxKernel {
    /// Applies neighbouring changes of sets, chains and elements at once. Elements that the kernel refuses fail alone; any
    /// other refusal leaves all of it undone, and `refused` keeps the later turns of the batch from being tried.
    pub(super) fn apply_filter(
        &mut self,
        run: &[Op<'_>],
        refused: &mut Option<KernelError>,
    ) -> Vec<Result<Effect, KernelError>> {
        if let Some(error) = refused {
            let error = KernelError::After(Box::new(error.clone()));
            return run.iter().map(|_| Err(error.clone())).collect();
        }
        let changes: Vec<Change<'_>> = run
            .iter()
            .map(|op| match op {
                Op::Set { key, row, was: Some(was), .. } if *was != *row && is_element(key) => {
                    Change::Replace(key, row)
                }
                Op::Set { key, row, .. } => Change::Set(key, row),
                Op::Remove { key, .. } => Change::Remove(key),
            })
            .collect();
        let outcome =
            if changes.len() < MANY { self.filter.apply(&changes) } else { self.apply_unheard(&changes) };
        match outcome {
            Ok(outcome) => {
                let faults: BTreeMap<&KernelKey, &ElementFault> =
                    outcome.quarantined.iter().map(|q| (&q.key, &q.fault)).collect();
                run.iter()
                    .map(|op| match faults.get(op.key()) {
                        Some(fault) => Err(KernelError::from(*fault)),
                        None => Ok(Effect::Done),
                    })
                    .collect()
            }
            Err(error) => {
                let error = KernelError::from(error);
                *refused = Some(error.clone());
                run.iter().map(|_| Err(error.clone())).collect()
            }
        }
    }

    /// Applies changes without a notification of each. Where others changed the packet filter meanwhile, nobody has heard of it:
    /// all has to be compared.
    fn apply_unheard(&mut self, changes: &[Change<'_>]) -> Result<FilterOutcome, FilterError> {
        let before = (self.filter.generation(), self.filter.commits());
        if !self.ledger.stops_its_ears() {
            return self.filter.apply(changes);
        }
        let outcome = self.filter.apply(changes);
        if let Err(error) = self.ledger.opens_its_ears() {
            tracing::warn!("the packet filter's changes by others go unnoticed: {error}");
        }
        let (Ok(generation), commits) = before else {
            self.missed = true;
            return outcome;
        };
        let expected = (commits..self.filter.commits()).fold(generation, |generation, _| after(generation));
        self.missed |= self.filter.generation().ok() != Some(expected);
        outcome
    }

    /// Adds the packet filter's rows. What the plan says in another way than the kernel is taken as the plan says it.
    pub(super) fn see_filter(
        &mut self,
        wanted: Wanted<'_>,
        seen: &mut Observation,
    ) -> Result<(), KernelError> {
        self.filter.observe_each(&mut |key, row| {
            let planned = wanted.and_then(|rows| rows.get(&key));
            let row = match planned {
                Some(planned) if *planned != row && filter::canonical(planned) == row => {
                    KernelRow::clone(planned)
                }
                _ => row,
            };
            seen.rows.insert(key, row);
        })?;
        Ok(())
    }
}

fn is_element(key: &KernelKey) -> bool {
    matches!(key, KernelKey::Element(..))
}
