//! The incremental engine: a change marks keys dirty, a rule turns one key into rows, the plan follows.
//!
//! What always holds: the plan after [`Compiler::flush`] is a function of the facts alone, never of the order or the
//! pieces in which they came. From scratch is the same code with every key dirty. `compile` never fails and does no I/O:
//! what it can't express it leaves out, with a warning that names the object.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::thread;

use weft_model::{Change, Fact, FactKey, Hashed, Keyed, NetworkName, NodeName, Slot, Table, Warning};
use weft_plan::{DnsName, HealthKey, HealthRow, KernelKey, KernelRow, NameRow, Plan};

use crate::claims::Claims;
use crate::facts::{Facts, Transition};
use crate::services::sources::SourceList;
use crate::settings::Settings;

/// A piece of a rule's work: its rows are computed, and recomputed, together.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RuleKey {
    /// What there is one of on a node.
    Constant,
    /// What follows from one fact.
    Fact(FactKey),
    /// What follows from one node in one network.
    NodeIn(NodeName, NetworkName),
    /// What follows from one address.
    Address(IpAddr),
    /// What follows from one list of sources.
    Sources(SourceList),
}

/// Whom rows are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The kernel, and load balancers that ask for health.
    Kernel,
    /// The DNS server.
    Names,
}

/// Turns facts into rows, a key at a time.
///
/// A rule is pure: the rows of a key depend on settings and facts only, and [`Rule::affected`] names every key whose rows
/// a transition can change. It sees every transition, so that a rule may keep an index there: one that is a function of the
/// facts, whatever their order, and says no more than they do.
pub trait Rule: Send + Sync {
    /// Whom all its rows are for.
    fn part(&self) -> Part {
        Part::Kernel
    }

    /// Names the keys whose rows may differ after `transition`; `facts` are those after it.
    fn affected(&mut self, transition: &Transition, context: &Context<'_>, dirty: &mut dyn FnMut(RuleKey));

    /// Gives the rows of one key; none for a key that has nothing (any more).
    fn rows(&self, key: &RuleKey, context: &Context<'_>, out: &mut Output);
}

/// What a rule reads.
#[derive(Debug, Clone, Copy)]
pub struct Context<'a> {
    /// This node's configuration.
    pub settings: &'a Settings,
    /// The cluster.
    pub facts: &'a Facts,
}

/// What a rule writes.
#[derive(Debug, Default)]
pub struct Output {
    kernel: Vec<(Hashed<KernelKey>, KernelRow, Arc<FactKey>)>,
    names: Vec<(Hashed<DnsName>, NameRow, Arc<FactKey>)>,
    health: Vec<(Hashed<HealthKey>, HealthRow, Arc<FactKey>)>,
    warnings: Vec<Warning>,
    /// The last origin: rows that follow each other mostly have one.
    origin: Option<Arc<FactKey>>,
}

impl Output {
    /// With room for so many kernel rows and names.
    fn with_room([kernel, names]: [usize; 2]) -> Self {
        Self { kernel: Vec::with_capacity(kernel), names: Vec::with_capacity(names), ..Self::default() }
    }

    /// A kernel row, because of `origin`.
    pub fn kernel(&mut self, key: KernelKey, row: KernelRow, origin: &FactKey) {
        let origin = self.shared(origin);
        self.kernel.push((Hashed::new(key), row, origin));
    }

    /// A name, because of `origin`.
    pub fn name(&mut self, name: DnsName, row: NameRow, origin: &FactKey) {
        let origin = self.shared(origin);
        self.names.push((Hashed::new(name), row, origin));
    }

    /// A health port, because of `origin`.
    pub fn health(&mut self, key: HealthKey, row: HealthRow, origin: &FactKey) {
        let origin = self.shared(origin);
        self.health.push((Hashed::new(key), row, origin));
    }

    /// Something that a person should know of `object`.
    pub fn warn(&mut self, object: &FactKey, text: impl Into<String>) {
        self.warnings.push(Warning { object: object.clone(), text: text.into() });
    }

    fn shared(&mut self, origin: &FactKey) -> Arc<FactKey> {
        match &self.origin {
            Some(last) if **last == *origin => last.clone(),
            _ => self.origin.insert(Arc::new(origin.clone())).clone(),
        }
    }
}

/// A rule's index and the key of a piece of its work.
pub(crate) type Piece = (u8, RuleKey);

/// Pieces of a rule after which it is known about how many rows the others have.
const SAMPLE: usize = 1024;
/// Pieces that are worth a thread.
const MANY: usize = 4096;
/// Pieces that are handed over together, and bunches that wait for being written at most.
const BUNCH: usize = 32;
const AHEAD: usize = 16;

/// A piece of a rule's work that has to be done again.
struct Due(RuleKey);

impl Keyed for Due {
    type Key = RuleKey;
    fn key(&self) -> &RuleKey {
        &self.0
    }
}

/// What a piece of work has put into the plan, so that it can be taken out again. Its slot is its claim.
#[derive(Debug)]
struct Produced {
    piece: Piece,
    kernel: Box<[Slot]>,
    names: Box<[Slot]>,
    health: Box<[Slot]>,
    warnings: Box<[Warning]>,
}

impl Keyed for Produced {
    type Key = Piece;
    fn key(&self) -> &Piece {
        &self.piece
    }
}

/// Facts in, plan out.
pub struct Compiler {
    settings: Settings,
    facts: Facts,
    rules: Vec<Box<dyn Rule>>,
    /// What each rule has to compute anew, in the order in which it came up.
    dirty: Vec<Table<Due>>,
    written: Written,
}

/// What of the plan came from whom. Apart from what rules read, so that rows can be computed while others are written.
#[derive(Debug, Default)]
struct Written {
    produced: Table<Produced>,
    kernel_claims: Claims<KernelKey, KernelRow>,
    name_claims: Claims<DnsName, NameRow>,
    health_claims: Claims<HealthKey, HealthRow>,
    warnings: BTreeMap<Warning, u32>,
    /// The plan doesn't say all warnings yet.
    unsaid: bool,
}

impl Compiler {
    /// A compiler without facts, whose rules see to what every node has.
    pub fn new(settings: Settings) -> Self {
        Self::with_rules(settings, crate::rules::all())
    }

    /// A compiler with these rules only.
    pub fn with_rules(settings: Settings, rules: Vec<Box<dyn Rule>>) -> Self {
        let mut dirty: Vec<Table<Due>> = rules.iter().map(|_| Table::default()).collect();
        dirty.iter_mut().for_each(|due| drop(due.insert(Due(RuleKey::Constant))));
        Self { settings, facts: Facts::default(), rules, dirty, written: Written::default() }
    }

    /// The facts so far.
    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// This node's configuration.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Who else asks, since the last flush, for a row that `origin` asks for, and wants it different; nobody, ordinarily.
    pub fn rival_of(&self, origin: &FactKey) -> Option<&FactKey> {
        let Written { kernel_claims, name_claims, health_claims, .. } = &self.written;
        kernel_claims
            .rival_of(origin)
            .or_else(|| name_claims.rival_of(origin))
            .or_else(|| health_claims.rival_of(origin))
    }

    /// Takes one change; says whether it was news.
    pub fn apply(&mut self, mut change: Change) -> bool {
        if let Change::Set(fact) = &mut change {
            trim(fact, &self.settings);
        }
        let Some(transition) = self.facts.apply(change) else {
            return false;
        };
        let context = Context { settings: &self.settings, facts: &self.facts };
        for (rule, due) in self.rules.iter_mut().zip(&mut self.dirty) {
            rule.affected(&transition, &context, &mut |key| drop(due.insert(Due(key))));
        }
        true
    }

    /// Brings `plan` up to the facts; says whether anything changed. `plan` must be the one of the last flush, or empty
    /// the first time.
    pub fn flush(&mut self, plan: &mut Plan) -> bool {
        self.work_off(&[Part::Kernel, Part::Names], plan)
    }

    /// [`Compiler::flush`] of one part alone, whose reader need not wait for the other's: that has a plan of its own, whose rows are
    /// brought up by flushes of its part. Warnings are said with the kernel's; what names give cause for, with the next one of those.
    pub fn flush_part(&mut self, part: Part, plan: &mut Plan) -> bool {
        self.work_off(&[part], plan)
    }

    /// Puts the rows of all that is dirty in these parts, computed anew, into the plan.
    fn work_off(&mut self, parts: &[Part], plan: &mut Plan) -> bool {
        let revisions = |plan: &Plan| [plan.kernel.revision(), plan.names.revision(), plan.health.revision()];
        let before = revisions(plan);
        let Self { settings, facts, rules, dirty, written } = self;
        let context = Context { settings, facts };
        for (number, (rule, dirty)) in (0..).zip(rules.iter().zip(dirty)) {
            if !parts.contains(&rule.part()) {
                continue;
            }
            let due = std::mem::take(dirty);
            let (count, before) = (due.len(), written.sizes(plan));
            let mut done = 0;
            compute(&**rule, due, &context, &mut |key, out| {
                if done == SAMPLE {
                    written.make_room(before, count, plan);
                }
                done += 1;
                written.unsaid |= written.replace((number, key), out, plan);
            });
        }
        let said = parts.contains(&Part::Kernel) && self.written.say_warnings(plan);
        let changed = said || before != revisions(plan);
        plan.generation += u64::from(changed);
        changed
    }
}

/// Computes the rows of all that is due, in its order: facts that came one after the other lie side by side in memory. Many are computed on
/// a thread of their own, while those before them are written: two processors then make a first plan in little more than half the time.
///
/// Only for the kernel, because for its rows somebody waits; names are worked out beside the kernel thread, which is to have the other processor.
fn compute(rule: &dyn Rule, due: Table<Due>, context: &Context<'_>, write: &mut dyn FnMut(RuleKey, Output)) {
    let count = due.len();
    let mut room = [0; 2];
    // The room of a first flush is never needed again.
    let rows = due.into_values().map(|Due(key)| {
        let mut out = Output::with_room(room);
        rule.rows(&key, context, &mut out);
        // The next piece is mostly much like it.
        room = [out.kernel.len(), out.names.len()];
        (key, out)
    });
    if count < MANY || rule.part() != Part::Kernel {
        rows.for_each(|(key, out)| write(key, out));
        return;
    }
    let (sender, computed) = sync_channel(AHEAD);
    thread::scope(|scope| {
        scope.spawn(move || {
            let mut rows = rows.peekable();
            // Whoever takes them goes away only in a panic of its own.
            while rows.peek().is_some() && sender.send(rows.by_ref().take(BUNCH).collect::<Vec<_>>()).is_ok()
            {
            }
        });
        computed.into_iter().flatten().for_each(|(key, out)| write(key, out));
    });
}

impl Written {
    /// Sizes of what grows with the pieces that are worked off.
    fn sizes(&self, plan: &Plan) -> [usize; 3] {
        [self.produced.len(), plan.kernel.len(), plan.names.len()]
    }

    /// Makes room for the rows of `count` pieces, by those of the first few: tables that grow step by step look at all their keys
    /// again with each.
    fn make_room(&mut self, before: [usize; 3], count: usize, plan: &mut Plan) {
        let after = self.sizes(plan);
        let [pieces, kernel, names] =
            std::array::from_fn(|at| after[at].saturating_sub(before[at]) * (count - SAMPLE) / SAMPLE);
        self.produced.reserve(pieces);
        plan.kernel.reserve(kernel);
        plan.names.reserve(names);
    }

    /// Has the plan say all warnings; says whether it may not have.
    fn say_warnings(&mut self, plan: &mut Plan) -> bool {
        let unsaid = std::mem::take(&mut self.unsaid);
        if unsaid {
            let conflicts = self.kernel_claims.warnings().chain(self.name_claims.warnings());
            let conflicts = conflicts.chain(self.health_claims.warnings());
            plan.warnings = self.warnings.keys().cloned().chain(conflicts).collect();
            plan.warnings.sort();
            plan.warnings.dedup();
        }
        unsaid
    }

    /// Puts a piece's new rows in place of its old ones; says whether warnings may differ.
    fn replace(&mut self, piece: Piece, mut out: Output, plan: &mut Plan) -> bool {
        let piece = Hashed::new(piece);
        let slot = self.produced.slot_of(&piece).unwrap_or_else(|| {
            let (kernel, names, health, warnings) = Default::default();
            self.produced.add(piece, |piece| Produced { piece, kernel, names, health, warnings })
        });
        let Some(old) = self.produced.at(slot) else { return false };
        out.warnings.sort();
        out.warnings.dedup();
        let contested = self.contested();
        let piece_of = |claim| self.produced.at(claim).map(|held| &held.piece);
        let kernel = self.kernel_claims.replace(&mut plan.kernel, slot, &old.kernel, out.kernel, piece_of);
        let names = self.name_claims.replace(&mut plan.names, slot, &old.names, out.names, piece_of);
        let health = self.health_claims.replace(&mut plan.health, slot, &old.health, out.health, piece_of);
        let warnings_differ = *old.warnings != *out.warnings;
        if warnings_differ {
            for warning in &old.warnings {
                if let Some(count) = self.warnings.get_mut(warning) {
                    *count -= 1;
                    if *count == 0 {
                        self.warnings.remove(warning);
                    }
                }
            }
            for warning in &out.warnings {
                *self.warnings.entry(warning.clone()).or_default() += 1;
            }
        }
        let touches_conflict = contested + self.contested() > 0;
        if kernel.is_empty() && names.is_empty() && health.is_empty() && out.warnings.is_empty() {
            self.produced.remove_at(slot);
        } else if let Some(held) = self.produced.at_mut(slot) {
            (held.kernel, held.names, held.health) = (kernel, names, health);
            held.warnings = out.warnings.into();
        }
        warnings_differ || touches_conflict
    }

    /// Number of rows for which several pieces ask.
    fn contested(&self) -> usize {
        self.kernel_claims.contested() + self.name_claims.contested() + self.health_claims.contested()
    }
}

/// Takes out what only a pod's own node asks for: a uid is as long as all else that is kept of a pod elsewhere.
fn trim(fact: &mut Fact, settings: &Settings) {
    if let Fact::Pod(pod) = fact
        && pod.node.as_ref() != Some(&settings.node)
    {
        pod.uid = None;
    }
}

/// The plan of a node from its facts, from scratch.
pub fn compile(settings: Settings, facts: impl IntoIterator<Item = Fact>) -> Plan {
    let mut compiler = Compiler::new(settings);
    for fact in facts {
        compiler.apply(Change::set(fact));
    }
    let mut plan = Plan::default();
    compiler.flush(&mut plan);
    plan
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use weft_model::{NodeName, ObjectKey, Pod, Port, Protocol, Service, ServicePort, TargetPort};

    use super::*;
    use crate::settings::ServiceSettings;

    #[test]
    fn what_a_second_thread_computes_is_what_one_thread_does() {
        let node = NodeName::new("n1").unwrap();
        let facts = || {
            (0..MANY as u32 + 3 * BUNCH as u32 / 2).map(|at| {
                let mut service = Service::named(ObjectKey::new("shop", &format!("s{at}")).unwrap());
                service.cluster_ips = vec![Ipv4Addr::from(0x0a60_0000 + at).into()];
                // A few want the same address, and are warned.
                service.external_ips = vec![Ipv4Addr::from(0xc612_0000 + at.max(20)).into()];
                service.ports = vec![ServicePort {
                    name: "".into(),
                    protocol: Protocol::Tcp,
                    port: Port::new(80).unwrap(),
                    node_port: None,
                    target: TargetPort::Number(Port::new(8080).unwrap()),
                }];
                Change::set(Fact::Service(service))
            })
        };
        let mut settings = Settings::new(node);
        settings.services = Some(ServiceSettings::default());
        let (mut at_once, mut whole) = (Compiler::new(settings.clone()), Plan::default());
        for change in facts() {
            at_once.apply(change);
        }
        at_once.flush(&mut whole);
        let (mut piecemeal, mut pieces) = (Compiler::new(settings), Plan::default());
        for change in facts() {
            piecemeal.apply(change);
            piecemeal.flush(&mut pieces);
        }
        assert!(whole.kernel.len() > MANY);
        assert_eq!(whole.kernel.sorted(), pieces.kernel.sorted());
        assert_eq!(whole.warnings, pieces.warnings);
    }

    #[test]
    fn of_pods_elsewhere_no_uid_is_kept() {
        let node = |name: &str| NodeName::new(name).unwrap();
        let pod = |on: Option<&str>| {
            let mut pod = Pod::named(ObjectKey::new("shop", "web").unwrap());
            (pod.uid, pod.node) = (Some("u".into()), on.map(node));
            Change::set(Fact::Pod(pod))
        };
        let mut compiler = Compiler::new(Settings::new(node("n1")));
        let mut check = |on: Option<&str>, news: bool, uid: Option<&str>| {
            assert_eq!(compiler.apply(pod(on)), news, "{on:?}");
            let held = compiler.facts().pods().next().unwrap();
            assert_eq!(held.uid.as_deref(), uid, "{on:?}");
        };
        check(None, true, None);
        check(None, false, None);
        check(Some("n2"), true, None);
        check(Some("n1"), true, Some("u"));
        check(Some("n1"), false, Some("u"));
    }
}
