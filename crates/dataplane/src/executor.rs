//! Makes a kernel equal to the plan: all at once, by changed rows, and again where it failed.
//!
//! What always holds: the same plan applied twice changes nothing; a row that fails stops no other; a failed row is
//! tried again until it works or is no longer wanted; an older plan is refused. Cost of a step is that of its
//! rows: nothing is listed.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use weft_model::IfName;
use weft_plan::{KernelKey, KernelRow, Plan};

use crate::KernelError;
use crate::kernel::{Effect, Kernel, Observation, Op, link_of};
use crate::order;

/// The first pause before a failed row is tried again; it doubles each time.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Why a plan was not applied at all.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ExecutorError {
    /// It is older than one that was applied.
    #[error("plan {offered} is older than plan {applied}, which is in force")]
    OlderPlan {
        /// Its generation.
        offered: u64,
        /// The newest applied.
        applied: u64,
    },
    /// What is there could not be listed, so that nothing was changed.
    #[error("can't see what the kernel holds: {0}")]
    Observe(#[source] KernelError),
}

/// What a call did.
#[derive(Debug, Clone, Default)]
pub struct Outcome {
    /// Rows set or removed.
    pub applied: usize,
    /// Netlink messages sent.
    pub messages: u64,
    /// Rows that failed in this call, and why; [`Executor::retry`] takes care of them.
    pub failed: Vec<(KernelKey, KernelError)>,
    /// The plan's generation.
    pub generation: u64,
}

#[derive(Debug, Clone)]
struct Failure {
    error: KernelError,
    attempts: u32,
    due: Instant,
}

/// Applies plans to a kernel.
#[derive(Debug)]
pub struct Executor<K> {
    kernel: K,
    generation: Option<u64>,
    failed: BTreeMap<KernelKey, Failure>,
    /// Links as they were applied last: a step must know whether an MTU grows or shrinks.
    links: BTreeMap<IfName, KernelRow>,
}

impl<K: Kernel> Executor<K> {
    /// Starts with a kernel of which nothing is known; the first call should be [`Executor::sync`].
    pub fn new(kernel: K) -> Self {
        Self { kernel, generation: None, failed: BTreeMap::new(), links: BTreeMap::new() }
    }

    /// The kernel.
    pub fn kernel(&self) -> &K {
        &self.kernel
    }

    /// The kernel, to hand it a pod's namespace or look at it.
    pub fn kernel_mut(&mut self) -> &mut K {
        &mut self.kernel
    }

    /// Makes the kernel equal to the plan: observes, and changes what differs among desired and owned objects.
    ///
    /// # Errors
    /// [`ExecutorError`]; single rows' failures are in the outcome.
    pub fn sync(&mut self, plan: &Plan) -> Result<Outcome, ExecutorError> {
        self.accept(plan)?;
        let before = self.kernel.messages();
        let seen = self.kernel.observe(&plan.kernel).map_err(ExecutorError::Observe)?;
        self.links = seen
            .rows
            .iter()
            .filter_map(|(key, row)| match key {
                KernelKey::Link(name) => Some((*name, row.clone())),
                _ => None,
            })
            .collect();
        let wanted: Vec<KernelKey> = differing(plan, &seen).into_iter().cloned().collect();
        // What failed before and is right now has been mended by somebody else.
        self.failed.retain(|key, _| wanted.binary_search(key).is_ok());
        let mut outcome = self.run(plan, &wanted);
        outcome.messages = self.kernel.messages() - before;
        Ok(outcome)
    }

    /// Applies only these keys, as the plan has them or lacks them.
    ///
    /// # Errors
    /// [`ExecutorError::OlderPlan`]; single rows' failures are in the outcome.
    pub fn step(&mut self, plan: &Plan, changed: &[KernelKey]) -> Result<Outcome, ExecutorError> {
        self.accept(plan)?;
        let before = self.kernel.messages();
        let mut outcome = self.run(plan, changed);
        outcome.messages = self.kernel.messages() - before;
        Ok(outcome)
    }

    /// Tries again the failed rows whose pause is over.
    ///
    /// # Errors
    /// [`ExecutorError::OlderPlan`]; rows that fail again are in the outcome.
    pub fn retry(&mut self, plan: &Plan, now: Instant) -> Result<Outcome, ExecutorError> {
        let due: Vec<KernelKey> = self
            .failed
            .iter()
            .filter(|(_, failure)| failure.due <= now)
            .map(|(key, _)| key.clone())
            .collect();
        self.step(plan, &due)
    }

    /// When [`Executor::retry`] has something to do; `None` without failed rows.
    pub fn next_retry(&self) -> Option<Instant> {
        self.failed.values().map(|failure| failure.due).min()
    }

    /// All rows that are not as they should be, and why.
    pub fn failures(&self) -> impl Iterator<Item = (&KernelKey, &KernelError)> {
        self.failed.iter().map(|(key, failure)| (key, &failure.error))
    }

    fn accept(&mut self, plan: &Plan) -> Result<(), ExecutorError> {
        match self.generation {
            Some(applied) if plan.generation < applied => {
                Err(ExecutorError::OlderPlan { offered: plan.generation, applied })
            }
            _ => {
                self.generation = Some(plan.generation);
                Ok(())
            }
        }
    }

    /// Applies keys; links that had to be made anew take a second round for what hung on them.
    fn run(&mut self, plan: &Plan, keys: &[KernelKey]) -> Outcome {
        let mut outcome = Outcome { generation: plan.generation, ..Outcome::default() };
        let recreated = self.round(plan, keys.iter(), &mut outcome);
        if !recreated.is_empty() {
            let orphans: Vec<&KernelKey> = plan
                .kernel
                .iter()
                .filter(|(key, entry)| {
                    link_of(key, &entry.value).is_some_and(|link| recreated.contains(&link))
                })
                .map(|(key, _)| key)
                .collect();
            self.round(plan, orphans.into_iter(), &mut outcome);
        }
        outcome
    }

    fn round<'a>(
        &mut self,
        plan: &'a Plan,
        keys: impl Iterator<Item = &'a KernelKey>,
        outcome: &mut Outcome,
    ) -> BTreeSet<IfName> {
        let mut recreated = BTreeSet::new();
        // Out of `self` for as long as the batch borrows from it.
        let links = std::mem::take(&mut self.links);
        let mut batch: Vec<Op<'_>> = keys
            .map(|key| match plan.kernel.get(key) {
                Some(row) => Op::Set {
                    key,
                    row,
                    was: match key {
                        KernelKey::Link(name) => links.get(name),
                        _ => None,
                    },
                },
                None => Op::Remove { key },
            })
            .collect();
        order::arrange(&mut batch);
        let results = if batch.is_empty() { Vec::new() } else { self.kernel.apply(&batch) };
        debug_assert_eq!(results.len(), batch.len());
        let keys: Vec<KernelKey> = batch.iter().map(|op| op.key().clone()).collect();
        self.links = links;
        let now = Instant::now();
        for (key, result) in keys.into_iter().zip(results) {
            match result {
                Ok(effect) => {
                    outcome.applied += 1;
                    self.failed.remove(&key);
                    self.remember(plan, &key);
                    if let (Effect::Recreated, KernelKey::Link(name)) = (effect, key) {
                        recreated.insert(name);
                    }
                }
                Err(error) => {
                    self.postpone(&key, &error, now);
                    outcome.failed.push((key, error));
                }
            }
        }
        recreated
    }

    fn remember(&mut self, plan: &Plan, key: &KernelKey) {
        if let KernelKey::Link(name) = key {
            match plan.kernel.get(key) {
                Some(row) => self.links.insert(*name, row.clone()),
                None => self.links.remove(name),
            };
        }
    }

    fn postpone(&mut self, key: &KernelKey, error: &KernelError, now: Instant) {
        let attempts = self.failed.get(key).map_or(0, |failure| failure.attempts + 1);
        let failure = Failure { error: error.clone(), attempts, due: now + pause(attempts) };
        self.failed.insert(key.clone(), failure);
    }
}

/// How long a row rests after so many failures before this one.
fn pause(attempts: u32) -> Duration {
    FIRST_PAUSE.saturating_mul(1 << attempts.min(16)).min(LONGEST_PAUSE)
}

/// Keys that differ between what should be and what is, sorted: wanted rows that are absent, other or damaged, and
/// owned rows that nobody wants.
pub fn differing<'a>(plan: &'a Plan, seen: &'a Observation) -> Vec<&'a KernelKey> {
    let wanted = plan
        .kernel
        .iter()
        .filter(|(key, entry)| seen.rows.get(key) != Some(&entry.value) || seen.damaged.contains_key(key))
        .map(|(key, _)| key);
    let unwanted = seen.rows.keys().filter(|key| plan.kernel.get(*key).is_none());
    let mut keys: Vec<&KernelKey> = wanted.chain(unwanted).collect();
    keys.sort_unstable();
    keys
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_limit() {
        assert_eq!(pause(0), Duration::from_millis(200));
        assert_eq!(pause(3), Duration::from_millis(1600));
        assert_eq!(pause(60), LONGEST_PAUSE);
    }
}
