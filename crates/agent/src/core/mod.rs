//! The core: one thread that knows everything.
//!
//! It takes messages, keeps the facts, and has the plan follow them. What takes time (kernel, store, sockets) runs on
//! threads of its own and reports back. The core waits for this machine's files and for the locks of the plans, and for nothing else.
//!
//! What always holds: nothing is applied before the store has delivered its first snapshot. A CNI ADD is answered when its
//! own rows are in force, or it has left nothing. An address is given back only when the kernel has let go of it.

mod add;
mod blocks;
mod check;
mod del;
mod facts;
mod flannel;
mod gc;
mod health;
mod node;
mod ready;
mod start;

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::mpsc::Sender;
use std::sync::{Arc, RwLock};
use std::time::{Duration, Instant, SystemTime};

use weft_cni::CniError;
use weft_compile::{Compiler, Facts, Part};
use weft_ipam::{DirectoryLeases, Leases};
use weft_model::{AttachmentId, Change, Fact, NetworkName, NodeName, ObjectKey, Warning};
use weft_plan::{KernelKey, Plan};
use weft_store::{Hold, Published, Remark};

use self::blocks::Blocks;
pub use self::blocks::Question;
use crate::cluster_dns::{Advice, advice};
use crate::config::AgentConfig;
use crate::fact_log::FactLog;
use crate::health::HealthNews;
use crate::memory;
use crate::message::{CniCall, CniReply, CniVerb, Differing, Message, Report};
use crate::records::{Record, Records};
use crate::trial::{Lack, Refused};

pub use add::attachment_id;
pub(crate) use add::host_port;
pub use start::StartError;

/// What the core asks of the kernel thread.
pub enum Work {
    /// Compare everything and mend.
    Sync,
    /// Apply what changed in the plan.
    Step,
    /// Look after what nobody tells us of: sysctls, and other firewalls.
    Tend,
    /// Keep this namespace for the link that may be about to be made.
    Netns(AttachmentId, OwnedFd),
    /// Let it go: the ADD was refused.
    NoNetns(AttachmentId),
    /// Look whether a pod's own end is as it should be, and answer with what is not.
    Check(weft_model::IfName, Box<weft_plan::Link>, OwnedFd, Sender<Vec<String>>),
    /// Say where the kernel is not as the plan has it, by key, or why it can't be seen.
    Differences(Sender<Result<Vec<Differing>, String>>),
    /// End.
    Stop,
}

/// What the core asks of the publishing thread.
pub enum PublishWork {
    /// Make a fact of this node known.
    Publish(Published),
    /// Get blocks for this node.
    Claim(Box<Question>),
    /// Make known that this node's network is in force.
    Ready,
}

/// The threads around the core, as the core sees them.
pub struct Around {
    /// The kernel thread.
    pub kernel: Sender<Work>,
    /// The publishing thread.
    pub publish: Sender<PublishWork>,
    /// The health server.
    pub health: HealthNews,
}

/// Plans that others read: the kernel thread and the DNS server.
#[derive(Debug, Clone, Default)]
pub struct SharedPlans {
    /// Kernel rows, health ports and warnings.
    pub kernel: Arc<RwLock<Plan>>,
    /// Names. Apart, so that a query never waits for the kernel.
    pub names: Arc<RwLock<Plan>>,
}

/// How long a start waits for the store before it goes by the facts that it knew last.
const STORE_PATIENCE: Duration = Duration::from_secs(3);

/// How often to look after what nobody tells us of: what this node published, sysctls, other firewalls.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// How far the agent is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Phase {
    /// The store has not delivered its first snapshot: nothing is applied.
    Waiting,
    /// Facts are complete; the first full comparison is under way.
    Applying,
    /// The plan is in force.
    Running,
}

/// An ADD that waits for its rows.
struct Adding {
    /// The plan that has them; `None` until the next flush.
    generation: Option<u64>,
    deadline: Instant,
    reply: CniReply,
    attach: Box<weft_cni::weft::Attach>,
}

/// An attachment on its way out, and who wants to know.
struct Removing {
    /// The plan that no longer has its rows; `None` until the next flush.
    generation: Option<u64>,
    record: Option<Record>,
    /// Who waits, until when, and what they are told.
    waiting: Vec<(CniReply, Instant, Result<serde_json::Value, CniError>)>,
    /// Why its leases or its record could not be removed, the last time that it was tried.
    unfinished: Option<String>,
}

/// See the module.
pub struct Core {
    config: AgentConfig,
    node: NodeName,
    boot: weft_ipam::Boot,
    compiler: Compiler,
    plans: SharedPlans,
    around: Around,
    phase: Phase,
    stale: Option<(SystemTime, String)>,
    /// How far the node may rely on its blocks, as the store says.
    hold: Hold,
    log: Option<FactLog>,
    /// What the last agent knew, as far as it still matters.
    earlier: facts::Earlier,
    notices: BTreeMap<String, Remark>,
    troubles: BTreeMap<&'static str, String>,
    /// Health ports that can't be had.
    unserved: Vec<Warning>,
    /// What this kernel refuses; `None` until that has been tried.
    tried: Option<Result<Vec<Lack>, Refused>>,
    /// The version of the plugin that called last, where it says one.
    plugin_version: Option<String>,
    progress: health::Progress,
    failed: BTreeMap<KernelKey, String>,
    generation_in_force: u64,
    last_report: Report,
    started: Instant,
    /// The time of the last tick.
    now: Instant,
    leases: BTreeMap<NetworkName, Leases<DirectoryLeases>>,
    records: Records,
    attached: BTreeMap<AttachmentId, Record>,
    adding: BTreeMap<AttachmentId, Adding>,
    removing: BTreeMap<AttachmentId, Removing>,
    published_node: Option<weft_store::PublishedNode>,
    /// Nodes that haven't moved in from flannel yet.
    unmoved: flannel::Unmoved,
    blocks: Blocks,
    conflist_written: bool,
    /// When to look next whether what this node published is still there.
    next_look: Instant,
}

impl Core {
    /// Takes messages until [`Message::Stop`].
    pub fn run(mut self, inbox: &std::sync::mpsc::Receiver<Message>) {
        while let Ok(message) = inbox.recv() {
            if !self.take(message) {
                break;
            }
            // Whatever else is waiting goes into the same plan: a storm costs one flush.
            let mut budget = 4096;
            while budget > 0 {
                let Ok(message) = inbox.try_recv() else { break };
                if !self.take(message) {
                    return self.end();
                }
                budget -= 1;
            }
            self.flush();
        }
        self.end();
    }

    fn end(&mut self) {
        let _ = self.around.kernel.send(Work::Stop);
    }

    /// Takes one message; says whether there will be more.
    fn take(&mut self, message: Message) -> bool {
        match message {
            Message::Store(event) => self.store_says(event),
            Message::Host(host) => {
                if self.compiler.apply(Change::set(Fact::Host(host))) {
                    self.refresh_node();
                }
            }
            Message::Applied(report) => self.applied(report),
            Message::Cni(call) => self.cni(call),
            Message::Inspect(look) => look(self),
            Message::Claimed(network, claim) => self.claimed(&network, claim),
            Message::ClaimedAnother(network, answer) => self.claimed_another(&network, answer),
            Message::NotApplied(reason) => {
                self.note_sign_of_life(Instant::now());
                self.trouble("kernel", Some(reason));
            }
            Message::Trouble(part, text) => self.trouble(part, text),
            Message::Tried(tried) => self.tried = Some(tried),
            Message::Unserved(warnings) => {
                for warning in warnings.iter().filter(|warning| !self.unserved.contains(warning)) {
                    tracing::warn!("{warning}");
                }
                self.unserved = warnings;
            }
            Message::Tick(now) => self.tick(now),
            Message::Stop => return false,
        }
        true
    }

    /// Keeps what a person should know of a part, and says it once; `None` when it is over.
    fn trouble(&mut self, part: &'static str, text: Option<String>) {
        let Some(text) = text else {
            self.troubles.remove(part);
            return;
        };
        if self.troubles.get(part) != Some(&text) {
            tracing::warn!(part, "{text}");
        }
        self.troubles.insert(part, text);
    }

    /// Brings the plan up to the facts and has the kernel follow.
    fn flush(&mut self) {
        if self.phase == Phase::Waiting {
            return;
        }
        let is_partial = self.earlier.is_partial();
        let (changed, was_partial, generation, orders) = {
            let mut kernel = lock(&self.plans.kernel);
            let mut names = lock(&self.plans.names);
            // One plan for the time of the flush, two for its readers.
            std::mem::swap(&mut kernel.names, &mut names.names);
            let changed = self.compiler.flush(&mut kernel);
            std::mem::swap(&mut kernel.names, &mut names.names);
            names.names.forget_changed();
            names.generation = kernel.generation;
            let was_partial = std::mem::replace(&mut kernel.is_partial, is_partial);
            (changed, was_partial, kernel.generation, health::orders(&mut kernel))
        };
        self.order_health(orders);
        self.note_generation(generation);
        if changed && self.phase == Phase::Running {
            self.send(Work::Step);
        }
        if was_partial && !is_partial {
            // What was left alone because it might be wanted.
            self.send(Work::Sync);
        }
        self.await_generation(generation);
        self.tell_health(Instant::now());
    }

    /// Makes the first plan. The kernel thread begins with its part while names are worked out, which is more work than the rest:
    /// on a node with many services both take long, and with two processors the one time is saved.
    fn flush_first(&mut self) {
        let (generation, orders) = {
            let mut kernel = lock(&self.plans.kernel);
            self.compiler.flush_part(Part::Kernel, &mut kernel);
            kernel.is_partial = self.earlier.is_partial();
            (kernel.generation, health::orders(&mut kernel))
        };
        self.send(Work::Sync);
        self.order_health(orders);
        self.note_generation(generation);
        // Apart from the plan that is shared, so that no query waits.
        let mut names = Plan::default();
        self.compiler.flush_part(Part::Names, &mut names);
        names.names.forget_changed();
        names.generation = generation;
        *lock(&self.plans.names) = names;
        self.await_generation(generation);
        self.tell_health(Instant::now());
    }

    /// Has those who came since the last flush wait for this generation; one that is in force already has them answered.
    fn await_generation(&mut self, generation: u64) {
        let mut settled = false;
        let adding = self.adding.values_mut().map(|adding| &mut adding.generation);
        for awaited in adding.chain(self.removing.values_mut().map(|removing| &mut removing.generation)) {
            if awaited.is_none() {
                *awaited = Some(generation);
                settled |= generation <= self.generation_in_force;
            }
        }
        if settled {
            self.settle_adding();
            self.settle_removing();
        }
    }

    /// Gives the kernel thread work.
    pub fn send(&self, work: Work) {
        // The kernel thread ends only after the core.
        let _ = self.around.kernel.send(work);
    }

    fn publish(&self, work: PublishWork) {
        let _ = self.around.publish.send(work);
    }

    fn applied(&mut self, report: Report) {
        self.generation_in_force = report.generation;
        self.troubles.remove("kernel");
        let failed: BTreeMap<KernelKey, String> = report.failed.iter().cloned().collect();
        for (key, reason) in &failed {
            if self.failed.get(key) != Some(reason) {
                tracing::warn!("{}: {reason}", describe(key));
            }
        }
        self.failed = failed;
        if report.full && self.phase == Phase::Applying {
            self.phase = Phase::Running;
            // What changed while the comparison ran.
            self.send(Work::Step);
            self.after_first_sync();
        }
        self.last_report = report;
        self.note_success(Instant::now());
        // An answer past its deadline finds nobody: what it would promise is taken back first.
        self.expire_adding(Instant::now());
        self.settle_adding();
        self.settle_removing();
        self.announce_readiness();
    }

    fn cni(&mut self, call: CniCall) {
        let CniCall { verb, deadline, reply, plugin_version } = call;
        self.plugin_version = plugin_version;
        match verb {
            CniVerb::Add(attach, netns) => self.add(attach, netns, deadline, reply),
            CniVerb::Del(id) => self.del(&id, deadline, reply),
            CniVerb::Check(attach, netns) => self.check(&attach, netns, reply),
            CniVerb::Gc(request) => self.gc(&request, deadline, reply),
            CniVerb::Status(conf) => {
                reply.send(self.ready_for(&conf.network).map(|()| serde_json::Value::Null));
            }
        }
    }

    fn tick(&mut self, now: Instant) {
        self.now = now;
        self.expire_adding(now);
        self.settle_removing();
        self.expire_removing(now);
        match self.phase {
            Phase::Running => self.take_tombstones(),
            Phase::Waiting if now.saturating_duration_since(self.started) > STORE_PATIENCE => {
                self.use_last_facts();
            }
            _ => {}
        }
        self.look_at_hold();
        self.let_go_of_earlier(now);
        let trouble = self.log.as_ref().and_then(FactLog::trouble);
        self.trouble("facts.log", trouble);
        if self.log.as_ref().is_some_and(FactLog::has_settled) {
            // Here, not by the writer: it stands back behind all others, who would wait for it meanwhile.
            memory::give_back();
        }
        self.refresh_node();
        if self.phase == Phase::Running && now >= self.next_look {
            self.next_look = now + LOOK_EVERY;
            self.publish_missing();
            self.look_at_conflist();
            self.drop_dead();
            self.send(Work::Tend);
        }
        self.announce_readiness();
    }

    /// The facts.
    pub fn facts(&self) -> &Facts {
        self.compiler.facts()
    }

    /// The compiler, for its settings.
    pub fn compiler(&self) -> &Compiler {
        &self.compiler
    }

    /// This node's configuration.
    pub fn config(&self) -> &AgentConfig {
        &self.config
    }

    /// This node's name.
    pub fn node(&self) -> &NodeName {
        &self.node
    }

    /// How far the agent is.
    pub fn phase(&self) -> &Phase {
        &self.phase
    }

    /// Since when the store can't be reached, and why.
    pub fn stale(&self) -> Option<&(SystemTime, String)> {
        self.stale.as_ref()
    }

    /// When the agent started.
    pub fn started(&self) -> Instant {
        self.started
    }

    /// The plans that others read.
    pub fn plans(&self) -> &SharedPlans {
        &self.plans
    }

    /// Leases of each network.
    pub fn leases(&self) -> impl Iterator<Item = (&NetworkName, Vec<weft_ipam::Lease>)> {
        self.leases.iter().map(|(network, leases)| (network, leases.iter().collect()))
    }

    /// What was attached, and by which network configuration.
    pub fn attached(&self) -> impl Iterator<Item = &Record> {
        self.attached.values()
    }

    /// Rows that are not in force, and why.
    pub fn failed(&self) -> &BTreeMap<KernelKey, String> {
        &self.failed
    }

    /// What this kernel refuses of all that Weft may ask; `None` until that has been tried.
    pub fn tried(&self) -> Option<&Result<Vec<Lack>, Refused>> {
        self.tried.as_ref()
    }

    /// The version of the plugin that called last; `None` before a call, or where it says none.
    pub fn plugin_version(&self) -> Option<&str> {
        self.plugin_version.as_deref()
    }

    /// The newest generation that is in force.
    pub fn generation_in_force(&self) -> u64 {
        self.generation_in_force
    }

    /// What the kernel thread did last.
    pub fn last_report(&self) -> &Report {
        &self.last_report
    }

    /// Everything that a person should know, each a line: of the plan, the store and the agent itself.
    pub fn warnings(&self) -> Vec<String> {
        let plan = self.plans.kernel.read().map(|plan| plan.warnings.clone()).unwrap_or_default();
        let notices = self.notices.iter().filter_map(|(about, remark)| match remark {
            Remark::Warning(text) | Remark::Unread { text, .. } => Some(format!("{about}: {text}")),
            Remark::Info(_) => None,
        });
        let failed = self.failed.iter().map(|(key, reason)| format!("{}: {reason}", describe(key)));
        let nodes: Vec<_> = self.compiler.facts().nodes().collect();
        let overlaps = crate::overlaps::overlaps(&nodes, &self.node);
        plan.iter()
            .map(Warning::to_string)
            .chain(self.unserved.iter().map(Warning::to_string))
            .chain(notices)
            .chain(self.troubles.values().cloned())
            .chain(self.last_report.findings.iter().cloned())
            .chain(failed)
            .chain(overlaps)
            .chain(self.blocks.warnings())
            .chain(self.dns_advice().and_then(|advice| match advice {
                Advice::Contradiction(text) => Some(text),
                Advice::Elsewhere(_) => None,
            }))
            .collect()
    }

    /// Whether pods ask for names where this node answers.
    fn dns_advice(&self) -> Option<Advice> {
        if !self.config.dns.enabled {
            return None;
        }
        let key = ObjectKey::new("kube-system", "kube-dns").ok()?;
        advice(self.compiler.facts().service(&key)?, &self.config.dns.cluster_addresses)
    }

    /// Notices that only inform.
    pub fn notices(&self) -> Vec<String> {
        let info = self.notices.iter().filter_map(|(about, remark)| match remark {
            Remark::Info(text) => Some(format!("{about}: {text}")),
            Remark::Warning(_) | Remark::Unread { .. } => None,
        });
        let elsewhere = self.dns_advice().and_then(|advice| match advice {
            Advice::Elsewhere(text) => Some(text),
            Advice::Contradiction(_) => None,
        });
        info.chain(elsewhere).collect()
    }

    fn socket_path(&self) -> PathBuf {
        self.config.socket()
    }
}

/// A kernel object in a person's words.
pub fn describe(key: &KernelKey) -> String {
    match key {
        KernelKey::Sysctl(path) => format!("sysctl {}", path.replace('/', ".")),
        KernelKey::Link(name) => format!("link {name}"),
        KernelKey::Route(route) => format!("route {}", route.destination),
        KernelKey::Rule(rule) => format!("rule from {}", rule.from),
        KernelKey::Neighbour(link, address) => format!("neighbour {address} on {link}"),
        KernelKey::Fdb(link, mac) => format!("forwarding entry {mac} on {link}"),
        KernelKey::Opening(opening) => format!("firewall opening {opening}"),
        KernelKey::Set(name) => format!("set {name}"),
        KernelKey::Chain(name) => format!("chain {name}"),
        KernelKey::Element(set, key) => {
            let key: Vec<String> = key.iter().map(|atom| atom.to_string()).collect();
            format!("element {{ {} }} of {set}", key.join(" . "))
        }
    }
}

/// A lock whose holder can't have left anything half done: a panic ends the process.
fn lock(plan: &RwLock<Plan>) -> std::sync::RwLockWriteGuard<'_, Plan> {
    plan.write().unwrap_or_else(std::sync::PoisonError::into_inner)
}
