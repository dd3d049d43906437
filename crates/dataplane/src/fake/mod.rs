//! A kernel in memory, for tests of everything above it.
//!
//! It keeps state as the real one does: a route needs its link, an element its set; what hangs on a link goes with it; a
//! tunnel whose port changes is made anew. The packet filter's rows of one turn are one transaction. It can be told to fail, to die in the middle of a batch, and to lose or
//! alter what it holds. It does *not* carry packets.

pub mod rows;

use std::collections::{BTreeMap, BTreeSet};

use rustc_hash::FxHashMap;
use weft_plan::kernel::LinkKind;
use weft_plan::{Ident, KernelKey, KernelRow, Rows};

use crate::KernelError;
use crate::conntrack::{Entry, Narrowing};
use crate::kernel::{Effect, Kernel, Observation, Op, link_of};
use crate::netlink::Refusal;

/// What shall go wrong, counted in changes from now on.
#[derive(Debug, Clone, Default)]
pub struct Trouble {
    /// These changes are refused.
    pub refuse: BTreeSet<usize>,
    /// Before this change the process dies: it and all later ones of the batch have no effect.
    pub die_before: Option<usize>,
    /// Transactions of the packet filter that touch one of these sets are refused as a whole.
    pub refuse_sets: BTreeSet<Ident>,
    /// Connections can't be looked at.
    pub refuse_flushes: bool,
}

/// The kernel.
#[derive(Debug, Clone, Default)]
pub struct FakeKernel {
    /// What is ours.
    pub owned: BTreeMap<KernelKey, KernelRow>,
    /// What is somebody else's: nothing may change it.
    pub foreign: BTreeMap<KernelKey, KernelRow>,
    /// Sysctls' values; those absent are "0".
    pub sysctls: BTreeMap<String, String>,
    /// Damage that [`Kernel::observe`] reports until the row is set again.
    pub damaged: BTreeMap<KernelKey, String>,
    /// Tracked connections.
    pub connections: Vec<Entry>,
    /// What shall go wrong.
    pub trouble: Trouble,
    /// The packet filter's elements and chains after each transaction, for tests that ask for them by putting an empty list here.
    pub commits: Option<Vec<BTreeMap<KernelKey, KernelRow>>>,
    /// Lists of connections that were asked for.
    pub lists: u32,
    originals: BTreeMap<String, String>,
    changes: usize,
    messages: u64,
}

impl FakeKernel {
    /// An empty kernel.
    pub fn new() -> Self {
        Self::default()
    }

    /// A kernel that holds other people's objects.
    pub fn beside(foreign: BTreeMap<KernelKey, KernelRow>) -> Self {
        Self { foreign, ..Self::default() }
    }

    /// Ends all trouble; counting starts again.
    pub fn calm(&mut self) {
        self.trouble = Trouble::default();
        self.changes = 0;
    }

    /// Somebody removes an owned object, and with a link all that hangs on it.
    pub fn lose(&mut self, key: &KernelKey) {
        self.owned.remove(key);
        match key {
            KernelKey::Link(name) => self.owned.retain(|k, row| link_of(k, row) != Some(*name)),
            KernelKey::Set(set) => {
                let inside = |k: &KernelKey| matches!(k, KernelKey::Element(of, _) if of == set);
                self.owned.retain(|k, _| !inside(k));
            }
            _ => {}
        }
        self.damaged.retain(|k, _| self.owned.contains_key(k));
    }

    fn refuses_set(&self, op: &Op<'_>) -> bool {
        matches!(op.key(), KernelKey::Element(set, _) | KernelKey::Set(set) if self.trouble.refuse_sets.contains(set))
    }

    fn commit(&mut self) {
        let is_seen = |key: &KernelKey| matches!(key, KernelKey::Element(..) | KernelKey::Chain(_));
        if let Some(commits) = &mut self.commits {
            let elements = self.owned.iter().filter(|(key, _)| is_seen(key));
            commits.push(elements.map(|(key, row)| (key.clone(), row.clone())).collect());
        }
    }

    fn change(&mut self, op: &Op<'_>) -> Result<Effect, KernelError> {
        let number = self.changes;
        if self.trouble.die_before.is_some_and(|at| number >= at) {
            return Err(KernelError::Killed);
        }
        self.changes += 1;
        self.messages += 1;
        if self.trouble.refuse.contains(&number) {
            return Err(refused_change("change", op.key(), libc::ENOMEM));
        }
        match op {
            Op::Set { key, row, .. } => self.set(key, row),
            Op::Remove { key, .. } => {
                self.remove(key);
                Ok(Effect::Done)
            }
        }
    }

    fn set(&mut self, key: &KernelKey, row: &KernelRow) -> Result<Effect, KernelError> {
        if self.foreign.contains_key(key) {
            return Err(refused_change("add", key, libc::EEXIST));
        }
        if let Some(link) = link_of(key, row) {
            let own = link.as_str().starts_with("weft");
            if own && !self.owned.contains_key(&KernelKey::Link(link)) {
                return Err(KernelError::NoLink(link));
            }
        }
        if let KernelKey::Element(set, _) = key
            && !self.owned.contains_key(&KernelKey::Set(set.clone()))
        {
            return Err(KernelError::Disturbed(format!("there is no {set} for {key:?}")));
        }
        if let (KernelKey::Sysctl(path), KernelRow::Sysctl(value)) = (key, row) {
            let now = self.sysctls.get(&**path).cloned().unwrap_or_else(|| "0".into());
            self.originals.entry(path.to_string()).or_insert(now);
            self.sysctls.insert(path.to_string(), value.to_string());
            return Ok(Effect::Done);
        }
        let recreate = matches!((self.owned.get(key), row), (Some(old), new) if needs_recreation(old, new));
        if recreate {
            self.lose(key);
        }
        self.damaged.remove(key);
        self.owned.insert(key.clone(), row.clone());
        Ok(if recreate { Effect::Recreated } else { Effect::Done })
    }

    fn remove(&mut self, key: &KernelKey) {
        if let KernelKey::Sysctl(path) = key {
            if let Some(original) = self.originals.remove(&**path) {
                self.sysctls.insert(path.to_string(), original);
            }
            return;
        }
        self.damaged.remove(key);
        self.lose(key);
    }
}

fn of_filter(op: &Op<'_>) -> bool {
    matches!(op.key(), KernelKey::Set(_) | KernelKey::Chain(_) | KernelKey::Element(..))
}

fn needs_recreation(old: &KernelRow, new: &KernelRow) -> bool {
    let (KernelRow::Link(old), KernelRow::Link(new)) = (old, new) else {
        return false;
    };
    match (&old.kind, &new.kind) {
        (LinkKind::Vxlan(a), LinkKind::Vxlan(b)) => (a.vni, a.port) != (b.vni, b.port),
        (LinkKind::Pod(_), LinkKind::Pod(_)) => false,
        _ => true,
    }
}

fn refused_change(action: &'static str, key: &KernelKey, errno: i32) -> KernelError {
    KernelError::Refused {
        action,
        object: format!("{key:?}"),
        refusal: Refusal { errno, text: String::new() },
    }
}

impl Kernel for FakeKernel {
    fn observe(&mut self, wanted: &Rows<KernelKey, KernelRow>) -> Result<Observation, KernelError> {
        self.messages += 1;
        let mut rows: FxHashMap<KernelKey, KernelRow> =
            self.owned.iter().map(|(key, row)| (key.clone(), row.clone())).collect();
        let read = |path: &str| self.sysctls.get(path).cloned().unwrap_or_else(|| "0".into());
        let paths = wanted.iter().filter_map(|(key, _)| match key {
            KernelKey::Sysctl(path) => Some(path.to_string()),
            _ => None,
        });
        for path in paths.chain(self.originals.keys().cloned()) {
            let value = KernelRow::Sysctl(read(&path).into());
            rows.insert(KernelKey::Sysctl(path.into()), value);
        }
        Ok(Observation { rows, damaged: self.damaged.clone() })
    }

    fn apply(&mut self, batch: &[Op<'_>]) -> Vec<Result<Effect, KernelError>> {
        let mut results = Vec::with_capacity(batch.len());
        let mut refused = None;
        for run in batch.chunk_by(|a, b| (of_filter(a), a.turn()) == (of_filter(b), b.turn())) {
            if !of_filter(&run[0]) {
                results.extend(run.iter().map(|op| self.change(op)));
                continue;
            }
            if let Some(error) = &refused {
                let error = KernelError::After(Box::new(KernelError::clone(error)));
                results.extend(run.iter().map(|_| Err(error.clone())));
                continue;
            }
            if let Some(op) = run.iter().find(|op| self.refuses_set(op)) {
                let error = refused_change("change", op.key(), libc::ENOMEM);
                results.extend(run.iter().map(|_| Err(error.clone())));
                refused = Some(error);
                continue;
            }
            results.extend(run.iter().map(|op| self.change(op)));
            self.commit();
        }
        results
    }

    fn forget(
        &mut self,
        narrowing: &Narrowing,
        stale: &dyn Fn(&Entry) -> bool,
    ) -> Result<usize, KernelError> {
        if self.trouble.refuse_flushes {
            return Err(KernelError::Killed);
        }
        self.messages += 1;
        self.lists += 1;
        let before = self.connections.len();
        self.connections.retain(|entry| {
            let listed = match *narrowing {
                Narrowing::None => true,
                Narrowing::Protocol(family, protocol) => {
                    let original = &entry.original;
                    (weft_model::Family::of(original.destination), original.protocol) == (family, protocol)
                }
                Narrowing::Marked(bits) => entry.mark & bits == bits,
                Narrowing::Unmarked(bits) => entry.mark & bits == 0,
                Narrowing::OpenedTo { address, protocol, port } => {
                    let original = &entry.original;
                    (original.destination, original.protocol, original.destination_port)
                        == (address, protocol, port)
                }
                Narrowing::AnsweredBy { address, protocol, port } => {
                    let reply = &entry.reply;
                    (reply.source, reply.protocol, reply.source_port) == (address, protocol, port)
                }
            };
            !(listed && stale(entry))
        });
        Ok(before - self.connections.len())
    }

    fn messages(&self) -> u64 {
        self.messages
    }
}
