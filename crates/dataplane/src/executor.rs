//! Makes a kernel equal to the plan: all at once, by changed rows, and again where it failed.
//!
//! What always holds: the same plan applied twice changes nothing; a row that fails stops no other; a failed row is
//! tried again until it works or is no longer wanted; an older plan is refused. Cost of a step is that of its
//! rows: nothing is listed.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use rustc_hash::FxHashSet;
use weft_model::IfName;
use weft_plan::kernel::LinkKind;
use weft_plan::{Changed, Ident, KernelKey, KernelRow, Plan};

use crate::KernelError;
use crate::conntrack::{Held, Suspects, ended};
use crate::kernel::{Effect, Kernel, Observation, Op, link_of};
use crate::order;

/// The first pause before a failed row is tried again; it doubles each time.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// Between two looks at tracked connections, for each of which the kernel walks its whole table.
const BETWEEN_LOOKS: Duration = Duration::from_millis(100);

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
    /// What the object was before the change that failed, where known.
    before: Option<Box<KernelRow>>,
}

/// A row to apply.
#[derive(Clone, Copy)]
struct Due<'a> {
    key: &'a KernelKey,
    /// What the object should be; nothing where it should not be.
    wanted: Option<&'a KernelRow>,
    /// What it is now, as far as known.
    before: Option<&'a KernelRow>,
}

/// Applies plans to a kernel.
#[derive(Debug)]
pub struct Executor<K> {
    kernel: K,
    generation: Option<u64>,
    /// A plan of all facts has been compared with the kernel.
    has_compared: bool,
    failed: BTreeMap<KernelKey, Failure>,
    /// Links as they were applied last: a step must know whether an MTU grows or shrinks.
    links: BTreeMap<IfName, KernelRow>,
    looks: Looks,
}

/// Looks at tracked connections: a first one at once, and those that follow closely together.
#[derive(Debug, Default)]
struct Looks {
    /// Who has not been looked at yet.
    suspects: Suspects,
    /// Who has a while.
    held: Held,
    /// Looks that failed since one did not.
    attempts: u32,
    /// Not before; `None` where there was none.
    next: Option<Instant>,
}

impl Looks {
    /// When somebody is to be looked at.
    fn due(&self, now: Instant) -> Option<Instant> {
        let at_once = (!self.suspects.is_empty()).then(|| self.next.unwrap_or(now));
        at_once.into_iter().chain(self.held.due()).min()
    }

    fn suspect(&mut self, mut found: Suspects) {
        self.held.add(Instant::now(), found.take_lasting());
        self.suspects.merge(found);
    }
}

impl<K: Kernel> Executor<K> {
    /// Starts with a kernel of which nothing is known; the first call should be [`Executor::sync`].
    pub fn new(kernel: K) -> Self {
        Self {
            kernel,
            generation: None,
            has_compared: false,
            failed: BTreeMap::new(),
            links: BTreeMap::new(),
            looks: Looks::default(),
        }
    }

    /// The kernel.
    pub fn kernel(&self) -> &K {
        &self.kernel
    }

    /// The kernel, to hand it a pod's namespace or look at it.
    pub fn kernel_mut(&mut self) -> &mut K {
        &mut self.kernel
    }

    /// Makes the kernel equal to the plan: observes, and changes what differs among desired and owned objects. Of a partial plan
    /// (see there) it makes what is absent, but changes and takes away nothing and ends no connection, but for pods' links that no longer have a pod.
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
        let due = unequal(plan, &seen);
        // What failed before and is right now has been mended by somebody else.
        if !self.failed.is_empty() {
            let still: FxHashSet<&KernelKey> = due.iter().map(|row| row.key).collect();
            self.failed.retain(|key, _| still.contains(key));
        }
        let mut outcome = self.run(plan, &due);
        if !plan.is_partial {
            let mut unseen = ended::by_plan(plan);
            if std::mem::replace(&mut self.has_compared, true) {
                // Nothing has been missed since: others' edits of a map take nothing from a service.
                unseen.take_lasting();
            }
            self.looks.suspect(unseen);
            self.look(plan);
        }
        outcome.messages = self.kernel.messages() - before;
        Ok(outcome)
    }

    /// Applies only these keys, as the plan has them or lacks them. What stood there before saves the kernel a question, and
    /// says which connections end.
    ///
    /// # Errors
    /// [`ExecutorError::OlderPlan`]; single rows' failures are in the outcome.
    pub fn step(
        &mut self,
        plan: &Plan,
        changed: impl IntoIterator<Item = Changed<KernelKey, KernelRow>>,
    ) -> Result<Outcome, ExecutorError> {
        self.accept(plan)?;
        let before = self.kernel.messages();
        let changed: Vec<Changed<KernelKey, KernelRow>> =
            changed.into_iter().map(|row| self.since_failure(row)).collect();
        let due: Vec<Due<'_>> = changed
            .iter()
            .map(|Changed { key, before }| Due {
                key,
                wanted: plan.kernel.get(key),
                before: before.as_deref(),
            })
            .collect();
        let mut outcome = self.run(plan, &due);
        let now = Instant::now();
        self.look_if_due(plan, now);
        outcome.messages = self.kernel.messages() - before;
        Ok(outcome)
    }

    /// Tries again the failed rows whose pause is over, and looks at connections that had to wait.
    ///
    /// # Errors
    /// [`ExecutorError::OlderPlan`]; rows that fail again are in the outcome.
    pub fn retry(&mut self, plan: &Plan, now: Instant) -> Result<Outcome, ExecutorError> {
        let due: Vec<Changed<KernelKey, KernelRow>> = self
            .failed
            .iter()
            .filter(|(_, failure)| failure.due <= now)
            .map(|(key, _)| key.clone().into())
            .collect();
        let before = self.kernel.messages();
        self.look_if_due(plan, now);
        let flushed = self.kernel.messages() - before;
        let outcome = self.step(plan, due)?;
        Ok(Outcome { messages: outcome.messages + flushed, ..outcome })
    }

    /// When [`Executor::retry`] has something to do; `None` without failed rows or connections to look at.
    pub fn next_retry(&self) -> Option<Instant> {
        let look = self.looks.due(Instant::now());
        self.failed.values().map(|failure| failure.due).chain(look).min()
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

    /// The change of a row whose last change failed began where that one did.
    fn since_failure(&self, row: Changed<KernelKey, KernelRow>) -> Changed<KernelKey, KernelRow> {
        match self.failed.get(&row.key) {
            Some(Failure { before: before @ Some(_), .. }) => Changed { before: before.clone(), ..row },
            _ => row,
        }
    }

    /// Applies keys; links that had to be made anew take a second round for what hung on them.
    fn run(&mut self, plan: &Plan, due: &[Due<'_>]) -> Outcome {
        let mut outcome = Outcome { generation: plan.generation, ..Outcome::default() };
        let recreated = self.round(plan, due, &mut outcome);
        if !recreated.is_empty() {
            let orphans: Vec<Due<'_>> = plan
                .kernel
                .iter()
                .filter(|(key, entry)| {
                    link_of(key, &entry.value).is_some_and(|link| recreated.contains(&link))
                })
                .map(|(key, entry)| Due { key, wanted: Some(&entry.value), before: None })
                .collect();
            self.round(plan, &orphans, &mut outcome);
        }
        outcome
    }

    fn round(&mut self, plan: &Plan, due: &[Due<'_>], outcome: &mut Outcome) -> BTreeSet<IfName> {
        let mut recreated = BTreeSet::new();
        if due.is_empty() {
            return recreated;
        }
        // Out of `self` for as long as the batch borrows from it.
        let links = std::mem::take(&mut self.links);
        let mut batch: Vec<Op<'_>> = due
            .iter()
            .map(|Due { key, wanted, before }| {
                let was = match key {
                    KernelKey::Link(name) => links.get(name),
                    _ => *before,
                };
                match wanted {
                    Some(row) => Op::set(key, row, was),
                    None => Op::remove(key, was),
                }
            })
            .collect();
        order::arrange(&mut batch, |set| rank(plan, set));
        let results = self.kernel.apply(&batch);
        debug_assert_eq!(results.len(), batch.len());
        // By a partial plan a connection may lead to nobody whose endpoint is only unknown. The first whole one finds them all.
        if !plan.is_partial {
            self.looks.suspect(ended::by_batch(plan, &batch, |at| results[at].is_ok()));
        }
        let now = Instant::now();
        let mut made = Vec::new();
        for (op, result) in batch.iter().zip(results) {
            let key = op.key();
            match result {
                Ok(effect) => {
                    outcome.applied += 1;
                    if !self.failed.is_empty() {
                        self.failed.remove(key);
                    }
                    if let KernelKey::Link(name) = key {
                        made.push(*name);
                        if effect == Effect::Recreated {
                            recreated.insert(*name);
                        }
                    }
                }
                Err(error) => {
                    let error = self.for_good(op, error);
                    self.postpone(op, &error, now);
                    outcome.failed.push((key.clone(), error));
                }
            }
        }
        self.links = links;
        self.remember(plan, &made);
        recreated
    }

    fn look_if_due(&mut self, plan: &Plan, now: Instant) {
        if !self.looks.suspects.is_empty() && self.looks.next.is_none_or(|next| next <= now) {
            self.look(plan);
        }
        while let Some(lasting) = self.looks.held.take(now) {
            let mut ended = 0;
            let looked = lasting.lists(plan).iter().try_for_each(|list| {
                ended += self.kernel.forget(list, &|entry| lasting.end(plan, entry))?;
                Ok::<(), KernelError>(())
            });
            if let Err(error) = looked {
                tracing::warn!("connections to what has left go on for now: {error}");
                self.looks.held.add(Instant::now().max(now), lasting);
            }
            if ended > 0 {
                tracing::debug!("{ended} connections to what has left have ended");
            }
        }
    }

    /// Ends the connections among the suspects that by this plan lead to nobody; where they can't be looked at, later.
    fn look(&mut self, plan: &Plan) {
        let suspects = std::mem::take(&mut self.looks.suspects);
        let mut ended = 0;
        let looked = suspects.lists().iter().try_for_each(|list| {
            ended += self.kernel.forget(list, &|entry| suspects.end(plan, entry))?;
            Ok::<(), KernelError>(())
        });
        let pause = match looked {
            Ok(()) => {
                self.looks.attempts = 0;
                BETWEEN_LOOKS
            }
            Err(error) => {
                tracing::warn!("connections to what is gone go on for now: {error}");
                self.looks.suspects.merge(suspects);
                self.looks.attempts += 1;
                pause(self.looks.attempts - 1)
            }
        };
        self.looks.next = Some(Instant::now() + pause);
        if ended > 0 {
            tracing::debug!("{ended} connections to what is gone have ended");
        }
    }

    /// Keeps links as they were applied.
    fn remember(&mut self, plan: &Plan, names: &[IfName]) {
        for name in names {
            match plan.kernel.get(&KernelKey::Link(*name)) {
                Some(row) => self.links.insert(*name, row.clone()),
                None => self.links.remove(name),
            };
        }
    }

    /// An element that has no set, of which nobody took the set away: the kernel refuses that one, and no comparison mends it.
    fn for_good(&self, op: &Op<'_>, error: KernelError) -> KernelError {
        let KernelKey::Element(set, _) = op.key() else { return error };
        match self.failed.get(&KernelKey::Set(set.clone())) {
            Some(refused) if error.may_pass() && !refused.error.may_pass() => {
                KernelError::After(Box::new(refused.error.clone()))
            }
            _ => error,
        }
    }

    fn postpone(&mut self, op: &Op<'_>, error: &KernelError, now: Instant) {
        let attempts = self.failed.get(op.key()).map_or(0, |failure| failure.attempts + 1);
        let before = match op.key() {
            KernelKey::Element(..) | KernelKey::Chain(_) | KernelKey::Set(_) => {
                op.was().cloned().map(Box::new)
            }
            _ => None,
        };
        let failure = Failure { error: error.clone(), attempts, due: now + pause(attempts), before };
        self.failed.insert(op.key().clone(), failure);
    }
}

/// The rank of a set in the plan; 0 for one that is no longer there.
fn rank(plan: &Plan, set: &Ident) -> u8 {
    match plan.kernel.get(&KernelKey::Set(set.clone())) {
        Some(KernelRow::Set(spec)) => spec.rank,
        _ => 0,
    }
}

/// How long a row rests after so many failures before this one.
fn pause(attempts: u32) -> Duration {
    FIRST_PAUSE.saturating_mul(1 << attempts.min(16)).min(LONGEST_PAUSE)
}

/// Keys that differ between what should be and what is: wanted rows that are absent, other or damaged, and owned rows that
/// nobody wants. By a partial plan what is there stays as it is, since a fact that is missing may turn a row into another one: only wanted rows that
/// are absent or damaged, and pods' links that nobody wants. They are sorted, but for the packet filter's elements, of which there are many and whose order is nothing.
pub fn differing<'a>(plan: &'a Plan, seen: &'a Observation) -> Vec<&'a KernelKey> {
    unequal(plan, seen).into_iter().map(|row| row.key).collect()
}

/// [`differing`], with what should be and what is: of a first plan's hundreds of thousands, none is looked up again.
fn unequal<'a>(plan: &'a Plan, seen: &'a Observation) -> Vec<Due<'a>> {
    let wanted = plan.kernel.iter().filter_map(|(key, entry)| {
        let before = seen.rows.get(key);
        let differs = match before {
            None => true,
            Some(there) if *there == entry.value => seen.damaged.contains_key(key),
            Some(_) => !plan.is_partial,
        };
        differs.then_some(Due { key, wanted: Some(&entry.value), before })
    });
    let unwanted = seen.rows.iter().filter(|(key, _)| plan.kernel.get(*key).is_none());
    // Which pods there are is known here, by their attachments, whatever the store has told.
    let unwanted = unwanted.filter(|(_, row)| !plan.is_partial || is_pods_link(row));
    let unwanted = unwanted.map(|(key, row)| Due { key, wanted: None, before: Some(row) });
    let (elements, mut due): (Vec<Due<'_>>, Vec<Due<'_>>) =
        wanted.chain(unwanted).partition(|row| matches!(row.key, KernelKey::Element(..)));
    due.sort_unstable_by_key(|row| row.key);
    due.extend(elements);
    due
}

fn is_pods_link(row: &KernelRow) -> bool {
    matches!(row, KernelRow::Link(link) if matches!(link.kind, LinkKind::Pod(_)))
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
