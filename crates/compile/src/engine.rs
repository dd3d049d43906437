//! The incremental engine: a change marks keys dirty, a rule turns one key into rows, the plan follows.
//!
//! What always holds: the plan after [`Compiler::flush`] is a function of the facts alone, never of the order or the
//! pieces in which they came. From scratch is the same code with every key dirty. `compile` never fails and does no I/O:
//! what it can't express it leaves out, with a warning that names the object.

use std::collections::BTreeMap;
use std::net::IpAddr;

use rustc_hash::{FxHashMap, FxHashSet};
use weft_model::{Change, FactKey, Warning};
use weft_plan::{DnsName, KernelKey, KernelRow, NameRow, Plan};

use crate::claims::Claims;
use crate::facts::{Facts, Transition};
use crate::settings::Settings;

/// A piece of a rule's work: its rows are computed, and recomputed, together.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RuleKey {
    /// What there is one of on a node.
    Constant,
    /// What follows from one fact.
    Fact(FactKey),
    /// What follows from one address.
    Address(IpAddr),
}

/// Turns facts into rows, a key at a time.
///
/// A rule is pure: the rows of a key depend on settings and facts only, and [`Rule::affected`] names every key whose rows
/// a transition can change.
pub trait Rule: Send + Sync {
    /// Names the keys whose rows may differ after `transition`; `facts` are those after it.
    fn affected(&self, transition: &Transition, context: &Context<'_>, dirty: &mut dyn FnMut(RuleKey));

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
    kernel: Vec<(KernelKey, KernelRow, FactKey)>,
    names: Vec<(DnsName, NameRow, FactKey)>,
    warnings: Vec<Warning>,
}

impl Output {
    /// A kernel row, because of `origin`.
    pub fn kernel(&mut self, key: KernelKey, row: KernelRow, origin: &FactKey) {
        self.kernel.push((key, row, origin.clone()));
    }

    /// A name, because of `origin`.
    pub fn name(&mut self, name: DnsName, row: NameRow, origin: &FactKey) {
        self.names.push((name, row, origin.clone()));
    }

    /// Something that a person should know of `object`.
    pub fn warn(&mut self, object: &FactKey, text: impl Into<String>) {
        self.warnings.push(Warning { object: object.clone(), text: text.into() });
    }
}

/// What a piece of work has put into the plan, so that it can be taken out again.
#[derive(Debug, Default)]
struct Produced {
    claim: u32,
    kernel: Box<[KernelKey]>,
    names: Box<[DnsName]>,
    warnings: Box<[Warning]>,
}

/// A rule's index and the key of a piece of its work.
pub(crate) type Piece = (u8, RuleKey);

/// Facts in, plan out.
pub struct Compiler {
    settings: Settings,
    facts: Facts,
    rules: Vec<Box<dyn Rule>>,
    dirty: FxHashSet<Piece>,
    produced: FxHashMap<Piece, Produced>,
    kernel_claims: Claims<KernelKey, KernelRow>,
    name_claims: Claims<DnsName, NameRow>,
    warnings: BTreeMap<Warning, u32>,
    next_claim: u32,
}

impl Compiler {
    /// A compiler without facts, whose rules see to what every node has.
    pub fn new(settings: Settings) -> Self {
        Self::with_rules(settings, crate::rules::all())
    }

    /// A compiler with these rules only.
    pub fn with_rules(settings: Settings, rules: Vec<Box<dyn Rule>>) -> Self {
        let dirty = (0..rules.len()).map(|rule| (rule as u8, RuleKey::Constant)).collect();
        Self {
            settings,
            facts: Facts::default(),
            rules,
            dirty,
            produced: FxHashMap::default(),
            kernel_claims: Claims::default(),
            name_claims: Claims::default(),
            warnings: BTreeMap::new(),
            next_claim: 0,
        }
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
        self.kernel_claims.rival_of(origin).or_else(|| self.name_claims.rival_of(origin))
    }

    /// Takes one change; says whether it was news.
    pub fn apply(&mut self, change: Change) -> bool {
        let Some(transition) = self.facts.apply(change) else {
            return false;
        };
        let context = Context { settings: &self.settings, facts: &self.facts };
        for (index, rule) in self.rules.iter().enumerate() {
            rule.affected(&transition, &context, &mut |key| {
                self.dirty.insert((index as u8, key));
            });
        }
        true
    }

    /// Brings `plan` up to the facts; says whether anything changed. `plan` must be the one of the last flush, or empty
    /// the first time.
    pub fn flush(&mut self, plan: &mut Plan) -> bool {
        let mut pieces: Vec<Piece> = self.dirty.drain().collect();
        pieces.sort();
        let before = (plan.kernel.changed_len(), plan.names.changed_len());
        let mut warned = false;
        for piece in pieces {
            let mut out = Output::default();
            let context = Context { settings: &self.settings, facts: &self.facts };
            self.rules[usize::from(piece.0)].rows(&piece.1, &context, &mut out);
            warned |= self.replace(piece, out, plan);
        }
        if warned {
            let conflicts = self.kernel_claims.warnings().chain(self.name_claims.warnings());
            plan.warnings = self.warnings.keys().cloned().chain(conflicts).collect();
            plan.warnings.sort();
            plan.warnings.dedup();
        }
        let changed = warned || before != (plan.kernel.changed_len(), plan.names.changed_len());
        if changed {
            plan.generation += 1;
        }
        changed
    }

    /// Puts a piece's new rows in place of its old ones; says whether warnings may differ.
    fn replace(&mut self, piece: Piece, mut out: Output, plan: &mut Plan) -> bool {
        let old = self.produced.remove(&piece).unwrap_or_default();
        let claim = if old.claim == 0 {
            self.next_claim += 1;
            self.next_claim
        } else {
            old.claim
        };
        out.warnings.sort();
        out.warnings.dedup();
        let contested = self.kernel_claims.contested() + self.name_claims.contested();
        let kernel = self.kernel_claims.replace(&mut plan.kernel, claim, &piece, &old.kernel, out.kernel);
        let names = self.name_claims.replace(&mut plan.names, claim, &piece, &old.names, out.names);
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
        let touches_conflict = contested + self.kernel_claims.contested() + self.name_claims.contested() > 0;
        if !(kernel.is_empty() && names.is_empty() && out.warnings.is_empty()) {
            self.produced.insert(piece, Produced { claim, kernel, names, warnings: out.warnings.into() });
        }
        warnings_differ || touches_conflict
    }
}

/// The plan of a node from its facts, from scratch.
pub fn compile(settings: Settings, facts: impl IntoIterator<Item = weft_model::Fact>) -> Plan {
    let mut compiler = Compiler::new(settings);
    for fact in facts {
        compiler.apply(Change::set(fact));
    }
    let mut plan = Plan::default();
    compiler.flush(&mut plan);
    plan
}
