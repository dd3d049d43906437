//! The thread that makes the kernel equal the plan.
//!
//! It takes whatever is waiting as one: a hundred requests to step are one step, and the rows of a hundred pods one batch.
//!
//! What always holds: nothing is applied before the core has made its first plan, whoever asks. What is reported as in force
//! has been applied: a turn that only tries again or looks after something reports the generation of the last one that took changes.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::OwnedFd;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, PoisonError, RwLock, RwLockWriteGuard};
use std::time::{Duration, Instant};

use std::os::fd::AsFd;
use weft_dataplane::{Executor, Kernel, LinuxKernel, Outcome};
use weft_model::{AttachmentId, IfName};
use weft_plan::{Changed, KernelKey, KernelRow, Link, Plan};

use crate::core::Work;
use crate::memory;
use crate::message::{Differing, Message, Report};

/// What the thread needs of a kernel beside rows.
pub trait NodeKernel: Kernel + Send {
    /// Keeps a namespace for the link that will be made in it.
    fn keep_netns(&mut self, id: AttachmentId, netns: OwnedFd);

    /// Makes itself at home in the namespaces that it keeps.
    fn enter_netns(&mut self);

    /// Lets it go: no link will be made.
    fn leave_netns(&mut self, id: &AttachmentId);

    /// What is wrong with a pod's end, and the host's: sentences, none where all is well.
    fn look_at_pod(&mut self, name: IfName, link: &Link, netns: OwnedFd) -> Vec<String>;

    /// What stands in pods' way and is not ours to change: sentences with the mend.
    fn findings(&self) -> Vec<String>;

    /// True, once, where others may have changed what is ours and nobody will tell.
    fn has_missed(&mut self) -> bool;
}

impl NodeKernel for LinuxKernel {
    fn keep_netns(&mut self, id: AttachmentId, netns: OwnedFd) {
        self.register_netns(id, netns);
    }

    fn enter_netns(&mut self) {
        LinuxKernel::enter_netns(self);
    }

    fn leave_netns(&mut self, id: &AttachmentId) {
        LinuxKernel::leave_netns(self, id);
    }

    fn look_at_pod(&mut self, name: IfName, link: &Link, netns: OwnedFd) -> Vec<String> {
        self.check_pod(name, link, Some(netns.as_fd())).unwrap_or_else(|error| vec![error.to_string()])
    }

    fn findings(&self) -> Vec<String> {
        LinuxKernel::findings(self).iter().map(ToString::to_string).collect()
    }

    fn has_missed(&mut self) -> bool {
        LinuxKernel::has_missed(self)
    }
}

/// How long to wait for work when nothing has to be tried again.
const IDLE: Duration = Duration::from_secs(60);

/// How long to rest when the kernel could not be asked at all.
const REST: Duration = Duration::from_secs(1);

/// See the module.
pub struct KernelThread<K> {
    executor: Executor<K>,
    plan: Arc<RwLock<Plan>>,
    inbox: Receiver<Work>,
    core: Sender<Message>,
    /// The plan's generation when its changes were taken last.
    taken: u64,
    /// Rows among those taken of whose objects the kernel tells nothing: a few, however large the plan is.
    silent: BTreeSet<KernelKey>,
}

/// What is to be done now.
#[derive(Default)]
struct Pending {
    sync: bool,
    step: bool,
    tend: bool,
    stop: bool,
    /// Who wants to know where the kernel differs.
    differences: Vec<Sender<Result<Vec<Differing>, String>>>,
}

impl Pending {
    fn is_empty(&self) -> bool {
        !(self.sync || self.step || self.tend) && self.differences.is_empty()
    }
}

impl<K: NodeKernel> KernelThread<K> {
    /// A thread's worth of work over a kernel.
    pub fn new(kernel: K, plan: Arc<RwLock<Plan>>, inbox: Receiver<Work>, core: Sender<Message>) -> Self {
        Self { executor: Executor::new(kernel), plan, inbox, core, taken: 0, silent: BTreeSet::new() }
    }

    /// Works until it is told to stop, or nobody can tell it anything any more.
    pub fn run(mut self) {
        let mut pending = Pending::default();
        while !pending.stop {
            // What came in the middle of the last turn has its own now.
            if pending.is_empty() {
                let due = self.executor.next_retry();
                let pause = due.map_or(IDLE, |due| due.saturating_duration_since(Instant::now()));
                match self.inbox.recv_timeout(pause) {
                    Ok(work) => self.take(work, &mut pending),
                    Err(RecvTimeoutError::Timeout) => {}
                    Err(RecvTimeoutError::Disconnected) => return,
                }
                self.drain(&mut pending);
                // The rows of namespaces that came alone are being worked out.
                if pending.is_empty() {
                    self.executor.kernel_mut().enter_netns();
                }
            }
            // A namespace alone, kept for the row that follows, is no reason to take the plan, on which the core is at work.
            let due = self.executor.next_retry().is_some_and(|due| due <= Instant::now());
            if !pending.stop && (due || !pending.is_empty()) {
                pending = self.act(pending);
            }
        }
    }

    fn drain(&mut self, pending: &mut Pending) {
        while let Ok(work) = self.inbox.try_recv() {
            self.take(work, pending);
        }
    }

    fn take(&mut self, work: Work, pending: &mut Pending) {
        match work {
            Work::Sync => pending.sync = true,
            Work::Step => pending.step = true,
            Work::Tend => pending.tend = true,
            Work::Stop => pending.stop = true,
            Work::Netns(id, netns) => self.executor.kernel_mut().keep_netns(id, netns),
            Work::NoNetns(id) => self.executor.kernel_mut().leave_netns(&id),
            Work::Check(name, link, netns, answer) => {
                let _ = answer.send(self.executor.kernel_mut().look_at_pod(name, &link, netns));
            }
            Work::Differences(answer) => pending.differences.push(answer),
        }
    }

    /// Does what is pending; returns what came meanwhile.
    fn act(&mut self, pending: Pending) -> Pending {
        let began = Instant::now();
        let shared = self.plan.clone();
        let mut plan = shared.write().unwrap_or_else(PoisonError::into_inner);
        if plan.generation == 0 {
            return self.wait_for_a_plan(&plan, pending);
        }
        if pending.sync || pending.step {
            self.taken = plan.generation;
        }
        // A full comparison looks at all rows anyway: of a first plan the changes alone would be half as large as the plan.
        let changed = match pending {
            Pending { sync: true, .. } => {
                plan.kernel.forget_changed();
                self.silent = plan.kernel.iter().map(|(key, _)| key).filter(is_silent).cloned().collect();
                None
            }
            Pending { step: true, .. } => Some(plan.kernel.take_changed()),
            _ => None,
        };
        self.keep_silent(&plan, changed.as_deref().unwrap_or_default());
        // Without letting go: what is applied, and reported as this generation, is exactly what was taken.
        let plan = RwLockWriteGuard::downgrade(plan);
        // A namespace is sent before the row that needs it: with the row in the plan, it is here.
        let mut later = Pending::default();
        self.drain(&mut later);
        let outcome = match changed {
            None if pending.sync => self.executor.sync(&plan),
            Some(changed) => self.executor.step(&plan, changed),
            None if pending.tend && !plan.is_partial => self.tend(&plan),
            None => self.executor.retry(&plan, Instant::now()),
        };
        for answer in pending.differences {
            let _ = answer.send(self.differences(&plan));
        }
        drop(plan);
        later.sync |= self.executor.kernel_mut().has_missed();
        let done = self.report(outcome, pending.sync, began);
        if pending.sync {
            memory::give_back();
        }
        if !done {
            // What changed is no longer known as changed: only a full comparison finds it.
            std::thread::sleep(REST);
            later.sync = true;
        }
        later
    }

    /// Before the core knows what there should be, the plan is empty, and applying it would take down what the last agent
    /// left. The core asks for the first comparison itself.
    fn wait_for_a_plan(&mut self, plan: &Plan, pending: Pending) -> Pending {
        for answer in pending.differences {
            let _ = answer.send(self.differences(plan));
        }
        Pending::default()
    }

    /// Sets again what is not as it should be among the rows of which no notification comes.
    fn tend(&mut self, plan: &Plan) -> Result<Outcome, weft_dataplane::ExecutorError> {
        let rows: Vec<_> = self.silent.iter().cloned().map(Changed::from).collect();
        self.executor.step(plan, rows)
    }

    fn keep_silent(&mut self, plan: &Plan, changed: &[Changed<KernelKey, KernelRow>]) {
        for key in changed.iter().map(|row| &row.key).filter(is_silent) {
            match plan.kernel.get(key) {
                Some(_) => self.silent.insert(key.clone()),
                None => self.silent.remove(key),
            };
        }
    }

    /// Tells the core what came of it; false where nothing could be applied at all.
    fn report(
        &self,
        outcome: Result<Outcome, weft_dataplane::ExecutorError>,
        full: bool,
        began: Instant,
    ) -> bool {
        let (message, done) = match outcome {
            Ok(outcome) => {
                // Rows that failed for good stay failed until they are mended: the core is told of all of them.
                let failed: BTreeMap<KernelKey, String> =
                    self.executor.failures().map(|(key, error)| (key.clone(), error.to_string())).collect();
                let passing = self.executor.failures().filter(|(_, error)| error.may_pass());
                let report = Report {
                    generation: self.taken,
                    failed: failed.into_iter().collect(),
                    passing: passing.map(|(key, _)| key.clone()).collect(),
                    full,
                    applied: outcome.applied,
                    messages: outcome.messages,
                    took: began.elapsed(),
                    findings: self.executor.kernel().findings(),
                };
                (Message::Applied(report), true)
            }
            Err(error) => (Message::NotApplied(format!("nothing was applied: {error}")), false),
        };
        let _ = self.core.send(message);
        done
    }

    /// Where the kernel is not as the plan says.
    fn differences(&mut self, plan: &Plan) -> Result<Vec<Differing>, String> {
        let seen = self.executor.kernel_mut().observe(&plan.kernel).map_err(|error| error.to_string())?;
        let mut keys = weft_dataplane::executor::differing(plan, &seen);
        keys.sort_unstable();
        let differing = keys.into_iter().map(|key| {
            let text = |row| weft_plan::text::kernel_row(key, row);
            let (there, wanted) = (seen.rows.get(key).map(text), plan.kernel.get(key).map(text));
            let there = there.iter().flat_map(|text| text.lines()).map(|line| format!("- {line}"));
            let wanted = wanted.iter().flat_map(|text| text.lines()).map(|line| format!("+ {line}"));
            let damaged = seen.damaged.get(key).map(|how| format!("! {how}"));
            Differing { key: key.clone(), lines: there.chain(wanted).chain(damaged).collect() }
        });
        Ok(differing.collect())
    }
}

/// True for rows of whose objects the kernel tells nothing.
fn is_silent(key: &&KernelKey) -> bool {
    matches!(key, KernelKey::Sysctl(_) | KernelKey::Opening(_))
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use weft_dataplane::fake::FakeKernel;
    use weft_model::{FactKey, NodeName};
    use weft_plan::{Route, RouteKey, RouteKind};

    use super::*;

    impl NodeKernel for FakeKernel {
        fn keep_netns(&mut self, _: AttachmentId, _: OwnedFd) {}

        fn enter_netns(&mut self) {}

        fn leave_netns(&mut self, _: &AttachmentId) {}

        fn look_at_pod(&mut self, _: IfName, _: &Link, _: OwnedFd) -> Vec<String> {
            Vec::new()
        }

        fn findings(&self) -> Vec<String> {
            Vec::new()
        }

        fn has_missed(&mut self) -> bool {
            false
        }
    }

    fn sysctl(name: &str) -> (KernelKey, KernelRow, FactKey) {
        let origin = FactKey::Node(NodeName::new("n1").unwrap());
        (KernelKey::Sysctl(name.into()), KernelRow::Sysctl("1".into()), origin)
    }

    /// A plan with one row, one generation further.
    fn add(plan: &Arc<RwLock<Plan>>, name: &str) {
        let (key, row, origin) = sysctl(name);
        let mut plan = plan.write().unwrap();
        plan.kernel.set(key, row, origin);
        plan.generation += 1;
    }

    fn thread_over(
        kernel: FakeKernel,
        plan: &Arc<RwLock<Plan>>,
    ) -> (KernelThread<FakeKernel>, Receiver<Message>) {
        let (to_core, core) = channel();
        let (_, inbox) = channel();
        (KernelThread::new(kernel, plan.clone(), inbox, to_core), core)
    }

    fn reported(core: &Receiver<Message>) -> u64 {
        match core.try_recv() {
            Ok(Message::Applied(report)) => report.generation,
            _ => panic!("nothing was reported as applied"),
        }
    }

    #[test]
    fn a_turn_that_took_no_changes_puts_none_in_force() {
        let plan = Arc::default();
        let (mut thread, core) = thread_over(FakeKernel::new(), &plan);
        add(&plan, "a");
        thread.act(Pending { sync: true, ..Pending::default() });
        assert_eq!(reported(&core), 1);
        // The core has made the next plan, and something else has woken the thread before the core's request to step.
        add(&plan, "b");
        for pending in [Pending::default(), Pending { tend: true, ..Pending::default() }] {
            thread.act(pending);
            assert_eq!(reported(&core), 1);
        }
        thread.act(Pending { step: true, ..Pending::default() });
        assert_eq!(reported(&core), 2);
        assert_eq!(thread.executor.kernel().sysctls.len(), 2);
    }

    #[test]
    fn what_the_kernel_does_not_tell_of_is_set_again() {
        let plan = Arc::default();
        let (mut thread, _core) = thread_over(FakeKernel::new(), &plan);
        add(&plan, "a");
        thread.act(Pending { sync: true, ..Pending::default() });
        add(&plan, "b");
        thread.act(Pending { step: true, ..Pending::default() });
        thread.executor.kernel_mut().sysctls.clear();
        thread.act(Pending { tend: true, ..Pending::default() });
        assert_eq!(thread.executor.kernel().sysctls.len(), 2);
        plan.write().unwrap().kernel.remove(&sysctl("a").0);
        thread.act(Pending { step: true, ..Pending::default() });
        assert_eq!(thread.silent.len(), 1);
    }

    #[test]
    fn nothing_is_taken_down_before_the_first_plan() {
        let key = KernelKey::Route(RouteKey {
            table: 254,
            destination: "10.244.0.0/24".parse().unwrap(),
            metric: 0,
        });
        let row = Route { kind: RouteKind::Unreachable, link: None, via: None, onlink: false, source: None };
        let mut kernel = FakeKernel::new();
        kernel.owned.insert(key.clone(), KernelRow::Route(row));
        let plan = Arc::default();
        let (mut thread, core) = thread_over(kernel, &plan);
        // As the monitor does when somebody changes what is ours.
        thread.act(Pending { sync: true, ..Pending::default() });
        assert!(thread.executor.kernel().owned.contains_key(&key));
        assert!(core.try_recv().is_err(), "nothing was applied, and something was reported");
        add(&plan, "a");
        thread.act(Pending { sync: true, ..Pending::default() });
        assert_eq!(reported(&core), 1);
        assert!(!thread.executor.kernel().owned.contains_key(&key));
    }
}
