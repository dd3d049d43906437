//! The handle: applies changes to our table and reads it back.
//!
//! What always holds: what a refused call leaves is what was in force, but for transactions before it where a change was too large
//! for one. In the steady state nothing is listed: what is declared is known from our own changes, and from the kernel again after
//! a refusal, or where another program wrote to the packet filter and more than elements change.
//!
//! What is absent: the bytes ([`transaction`], `set`, [`lower`]), which changes go together and in which order (`crate::order`),
//! elements that packets put into sets, and other programs' tables.

use std::collections::BTreeSet;

use weft_plan::filter::TABLE;
use weft_plan::{Ident, KernelKey, KernelRow, SetSpec};

use super::attribute::{Messages, Writer};
use super::error::{ElementFault, FilterError, Quarantined};
use super::expression::Expression;
use super::fault::{self, Known};
use super::observe::{self, Counter, SeenChain};
use super::prepare::{self, Before, Chains, Sets};
use super::socket::{Nfnl, Refused};
use super::transaction::{self, About, Act, Steps};
use super::uapi as k;

/// The most elements of a transaction in which nothing else changes. While anybody listens to the packet filter's changes, in whatever
/// network namespace, the kernel makes a notification of 8 KiB for each (`nf_tables_setelem_notify`), and keeps them until the
/// transaction is over: 64 MiB.
pub(super) const ELEMENTS: usize = 8192;
/// Another program changed the packet filter between our looking and our writing so often.
const ATTEMPTS: usize = 10;

/// One change of one object of the packet filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change<'a> {
    /// It should be so, whatever it is now.
    Set(&'a KernelKey, &'a KernelRow),
    /// It should be so, and is known to be there with other data: an element only.
    Replace(&'a KernelKey, &'a KernelRow),
    /// It should be absent.
    Remove(&'a KernelKey),
}

/// What a call of [`Nft::apply`] did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FilterOutcome {
    /// Changes that are in force now.
    pub applied: usize,
    /// Elements that were left out.
    pub quarantined: Vec<Quarantined>,
}

/// Our table in the network namespace that it was opened in.
#[derive(Debug)]
pub struct Nft {
    pub(super) nfnl: Nfnl,
    /// Transactions that were taken so far.
    commits: u32,
    /// What is declared in the table, where known.
    declared: Option<Declared>,
}

/// What is declared in the table: an element's bytes depend on its set's, and a chain is made or emptied.
#[derive(Debug)]
struct Declared {
    /// The packet filter's generation for which all of this is certain. Without one, only elements are written by it: the
    /// monitor sees when another program changes the table, and all is compared then.
    generation: Option<u32>,
    sets: Sets,
    chains: Chains,
}

/// Whether a transaction is refused when the packet filter changed since we looked.
#[derive(Clone, Copy)]
enum Insist {
    OnWhatWasSeen,
    OnNothing,
}

#[derive(Debug)]
pub(super) enum Stop {
    /// Another program was faster: look again.
    Again,
    Error(FilterError),
}

impl From<FilterError> for Stop {
    fn from(error: FilterError) -> Self {
        Stop::Error(error)
    }
}

impl Nft {
    /// Opens a socket in the calling thread's network namespace. Nothing is created before the first change.
    ///
    /// # Errors
    /// [`FilterError::Open`].
    pub fn open() -> Result<Self, FilterError> {
        Ok(Self { nfnl: Nfnl::open()?, commits: 0, declared: None })
    }

    /// Netlink messages sent so far.
    pub fn messages(&self) -> u64 {
        self.nfnl.sent()
    }

    /// The netlink port that the kernel's notifications of our own changes carry.
    pub fn port(&self) -> u32 {
        self.nfnl.port()
    }

    /// Applies all changes as one transaction (several, where the socket's buffer can't be made large enough, and of very many
    /// elements: see [`transaction::split`]). Nothing is listed but by the first call, and where another program wrote to the packet
    /// filter since and more than elements change.
    ///
    /// A set that should have another declaration is made anew in the same transaction, with its elements as far as
    /// they fit, and with the rules that look into it. An element that the kernel refuses is left out, and the rest
    /// goes in.
    ///
    /// # Errors
    /// When the kernel can't be reached, or refuses a set, a chain or a rule: what was in force stays so.
    pub fn apply(&mut self, changes: &[Change<'_>]) -> Result<FilterOutcome, FilterError> {
        for attempt in 0..ATTEMPTS {
            // Where another program is faster time and again, what we saw of our own table is still the best guess; the
            // kernel refuses what has become impossible.
            let insist = if attempt < ATTEMPTS / 2 { Insist::OnWhatWasSeen } else { Insist::OnNothing };
            match self.attempt(changes, insist) {
                Ok(outcome) => return Ok(outcome),
                Err(Stop::Again) => {}
                Err(Stop::Error(error)) => return Err(error),
            }
        }
        Err(FilterError::Unsteady { what: "it was changed", attempts: ATTEMPTS })
    }

    /// Everything in our table, as rows; canonical ones ([`observe::canonical`]). Elements of dynamic sets are left out.
    ///
    /// # Errors
    /// When the kernel can't be asked.
    pub fn observe(&mut self) -> Result<Vec<(KernelKey, KernelRow)>, FilterError> {
        let mut rows = Vec::new();
        self.observe_each(&mut |key, row| rows.push((key, row)))?;
        Ok(rows)
    }

    /// [`Nft::observe`], one by one: of many elements no list is kept.
    ///
    /// # Errors
    /// When the kernel can't be asked; some rows may have been given by then.
    pub fn observe_each(&mut self, each: &mut dyn FnMut(KernelKey, KernelRow)) -> Result<(), FilterError> {
        self.declared = None;
        let mut declared = self.list_declared(Insist::OnWhatWasSeen)?;
        observe::rows(&mut self.nfnl, &mut declared.sets, &declared.chains, each)?;
        self.declared = Some(declared);
        Ok(())
    }

    /// The counters of our rules, by chain and in the rules' order.
    ///
    /// # Errors
    /// When the kernel can't be asked.
    pub fn counters(&mut self) -> Result<Vec<Counter>, FilterError> {
        observe::counters(&mut self.nfnl)
    }

    /// True where our table exists.
    ///
    /// # Errors
    /// When the kernel can't be asked.
    pub fn table_exists(&mut self) -> Result<bool, FilterError> {
        let kind = k::NFT_MSG_GETTABLE | k::NFNL_SUBSYS_NFTABLES << 8;
        let name = |w: &mut Writer| w.text(k::NFTA_TABLE_NAME, TABLE);
        match self.nfnl.ask((kind, 0, k::NFPROTO_INET), name)? {
            Ok(_) => Ok(true),
            Err(refusal) if refusal.errno == libc::ENOENT => Ok(false),
            Err(refusal) => Err(FilterError::List { what: "tables", refusal }),
        }
    }

    /// Removes our table with all that is in it; says whether there was one.
    ///
    /// # Errors
    /// When the kernel can't be reached or refuses.
    pub fn delete_table(&mut self) -> Result<bool, FilterError> {
        self.declared = None;
        if !self.table_exists()? {
            return Ok(false);
        }
        let first = self.nfnl.reserve(3);
        let mut w = Writer::new();
        let batch = (k::NFPROTO_UNSPEC, k::NFNL_SUBSYS_NFTABLES);
        w.message((k::NFNL_MSG_BATCH_BEGIN, k::NLM_F_REQUEST, first), batch, |_| {});
        let kind = k::NFT_MSG_DELTABLE | k::NFNL_SUBSYS_NFTABLES << 8;
        let header = (kind, k::NLM_F_REQUEST | k::NLM_F_ACK, first.wrapping_add(1));
        w.message(header, (k::NFPROTO_INET, 0), |w| w.text(k::NFTA_TABLE_NAME, TABLE));
        w.message((k::NFNL_MSG_BATCH_END, k::NLM_F_REQUEST, first.wrapping_add(2)), batch, |_| {});
        let refused = self.nfnl.transact(&w.into_bytes(), (first, first.wrapping_add(1)))?;
        match refused.into_iter().next() {
            None => Ok(true),
            Some((_, refusal)) if refusal.errno == libc::ENOENT => Ok(false),
            Some((_, refusal)) => {
                Err(FilterError::Declaration { object: format!("to delete table inet {TABLE}"), refusal })
            }
        }
    }

    fn attempt(&mut self, changes: &[Change<'_>], insist: Insist) -> Result<FilterOutcome, Stop> {
        let declares = prepare::declares(changes);
        let mut declared = match self.declared.take() {
            Some(known) if !declares || known.generation.is_some() => known,
            _ => self.list_declared(insist)?,
        };
        let before = self.look(changes, &mut declared, declares)?;
        let (steps, mut quarantined) = prepare::steps(changes, &before)?;
        if !steps.is_empty() {
            match self.run(steps, (changes, &before), &mut declared.generation, &mut quarantined) {
                Ok(()) => {}
                Err(Stop::Again) => {
                    // Elements go in all the same; for more it has to be listed again.
                    let Before { sets, chains, .. } = before;
                    self.declared = Some(Declared { generation: None, sets, chains });
                    return Err(Stop::Again);
                }
                Err(stop) => return Err(stop),
            }
        }
        let Before { sets, chains, .. } = before;
        declared.sets = sets;
        declared.chains = chains;
        declared.take(changes);
        // An element that was refused may be so because its set is gone: look again next time.
        self.declared = quarantined.is_empty().then_some(declared);
        Ok(FilterOutcome { applied: changes.len() - quarantined.len(), quarantined })
    }

    /// Lists what is declared, and the generation before.
    fn list_declared(&mut self, insist: Insist) -> Result<Declared, FilterError> {
        let generation = match insist {
            Insist::OnWhatWasSeen => Some(self.generation()?),
            Insist::OnNothing => None,
        };
        let (sets, chains) = (observe::sets(&mut self.nfnl)?, observe::chains(&mut self.nfnl)?);
        Ok(Declared { generation, sets, chains })
    }

    /// What the changes need to know of the table.
    fn look(
        &mut self,
        changes: &[Change<'_>],
        declared: &mut Declared,
        declares: bool,
    ) -> Result<Before, FilterError> {
        let (sets, chains) = (std::mem::take(&mut declared.sets), std::mem::take(&mut declared.chains));
        let mut before = Before { sets, chains, ..Before::default() };
        if !declares {
            return Ok(before);
        }
        for change in changes {
            // A set that is set again holds what no row can say, or is being looked at for the first time.
            let Change::Set(KernelKey::Set(name), _) = change else { continue };
            if let Some(Some(spec)) = before.sets.get(name).filter(|spec| is_static(spec.as_ref()))
                && observe::elements(&mut self.nfnl, name, spec)?.is_none()
            {
                before.sets.insert(name.clone(), None);
            }
        }
        let anew: BTreeSet<Ident> = prepare::recreated(changes, &before.sets).into_iter().cloned().collect();
        if anew.is_empty() {
            return Ok(before);
        }
        for name in &anew {
            if let Some(Some(spec)) = before.sets.get(name).filter(|spec| is_static(spec.as_ref())) {
                let held = observe::elements(&mut self.nfnl, name, spec)?.unwrap_or_default();
                before.kept_elements.extend(held.into_iter().map(|(key, data)| (name.clone(), key, data)));
            }
        }
        let rules = observe::rules(&mut self.nfnl)?;
        let looks = |e: &Expression| matches!(e, Expression::Lookup(set, ..) if anew.contains(set));
        let chains: BTreeSet<Ident> =
            rules.iter().filter(|r| r.expressions.iter().any(looks)).map(|r| r.chain.clone()).collect();
        for rule in rules.into_iter().filter(|rule| chains.contains(&rule.chain)) {
            before.kept_rules.entry(rule.chain).or_default().push(rule.raw);
        }
        Ok(before)
    }

    /// Transactions of ours that were taken so far.
    pub fn commits(&self) -> u32 {
        self.commits
    }

    /// The number of the packet filter's present state, which every change by anybody counts up ([`after`]).
    ///
    /// # Errors
    /// When the kernel can't be asked.
    pub fn generation(&mut self) -> Result<u32, FilterError> {
        let kind = k::NFT_MSG_GETGEN | k::NFNL_SUBSYS_NFTABLES << 8;
        let list = self.nfnl.ask((kind, 0, k::NFPROTO_UNSPEC), |_| {})?.map_err(|refusal| {
            let mend = "; the kernel needs CONFIG_NF_TABLES, and this process CAP_NET_ADMIN";
            FilterError::Transaction { refusal, mend }
        })?;
        Ok(Messages(&list)
            .find_map(|message| message.attributes().get(k::NFTA_GEN_ID)?.u32())
            .unwrap_or_default())
    }

    fn run(
        &mut self,
        mut steps: Steps<'_>,
        (changes, before): (&[Change<'_>], &Before),
        generation: &mut Option<u32>,
        quarantined: &mut Vec<Quarantined>,
    ) -> Result<(), Stop> {
        if steps.elements.len() > ELEMENTS && steps.are_of_elements() {
            for part in transaction::split(steps, ELEMENTS) {
                self.run(part, (changes, before), generation, quarantined)?;
            }
            return Ok(());
        }
        let mut replaced = BTreeSet::new();
        loop {
            let first = self.nfnl.next();
            let batch = transaction::render(&steps, first, *generation);
            let capacity = self.nfnl.capacity(batch.bytes.len());
            if batch.bytes.len() > capacity && steps.elements.len() > 1 {
                // Half of what would fit on average: elements differ in size.
                let limit = steps.elements.len() * (capacity / 2) / batch.bytes.len();
                for part in transaction::split(steps, limit.max(1)) {
                    self.run(part, (changes, before), generation, quarantined)?;
                }
                return Ok(());
            }
            let count = batch.about.len() as u32;
            self.nfnl.reserve(count + 1);
            let refused = self.nfnl.transact(&batch.bytes, (first, first.wrapping_add(count - 1)))?;
            if refused.is_empty() {
                self.commits += 1;
                *generation = generation.map(after);
                return Ok(());
            }
            let known = Known { changes, before, is_certain: generation.is_some() };
            settle(&mut steps, refused, &batch.about, known, &mut replaced, quarantined)?;
            if steps.is_empty() {
                return Ok(());
            }
        }
    }
}

/// The generation that a transaction makes of this one (`nf_tables_commit`): none is 0.
pub fn after(generation: u32) -> u32 {
    match generation.wrapping_add(1) {
        0 => 1,
        next => next,
    }
}

impl Declared {
    /// Takes in what was declared by these changes.
    fn take(&mut self, changes: &[Change<'_>]) {
        for change in changes {
            match *change {
                Change::Set(KernelKey::Set(name), KernelRow::Set(spec)) => {
                    self.sets.insert(name.clone(), Some(spec.declaration()));
                }
                Change::Set(KernelKey::Chain(name), KernelRow::Chain(chain)) => {
                    self.chains.insert(name.clone(), SeenChain { hook: chain.hook, plain: true });
                }
                Change::Remove(KernelKey::Set(name)) => drop(self.sets.remove(name)),
                Change::Remove(KernelKey::Chain(name)) => drop(self.chains.remove(name)),
                _ => {}
            }
        }
    }
}

/// True for a set whose elements are rows.
fn is_static(spec: Option<&SetSpec>) -> bool {
    spec.is_some_and(|spec| spec.dynamic_timeout.is_none())
}

/// Changes the steps so that the next try gets further, or gives up. Each refusal takes a step out, gives it a message of
/// its own, or turns an addition into a replacement once: the tries come to an end.
fn settle(
    steps: &mut Steps<'_>,
    mut refused: Vec<Refused>,
    about: &[About<'_>],
    known: Known<'_>,
    replaced: &mut BTreeSet<usize>,
    quarantined: &mut Vec<Quarantined>,
) -> Result<(), Stop> {
    refused.sort_by_key(|(at, _)| *at);
    // The kernel looks for loops in the whole table after each message: only the first one is at fault.
    if matches!(refused[0].1.errno, libc::ELOOP | libc::EMLINK) {
        refused.truncate(1);
    }
    let mut gone = BTreeSet::new();
    // A declaration's fault has others in its wake, never the other way round.
    let declaration =
        refused.iter().find(|(at, _)| !matches!(about[*at as usize], About::Come(_) | About::Go(_)));
    if let Some((at, refusal)) = declaration {
        return Err(fault::of_declaration(&about[*at as usize], refusal.clone(), steps, known));
    }
    for (at, refusal) in refused {
        match &about[at as usize] {
            About::Come(list) | About::Go(list) if list.len() > 1 => {
                for step in list {
                    steps.elements[*step].alone = true;
                }
            }
            About::Go(list) if refusal.errno == libc::ENOENT => {
                // It is gone already.
                for step in list {
                    match steps.elements[*step].act {
                        Act::Replace => steps.elements[*step].act = Act::Add,
                        Act::Add | Act::Delete => drop(gone.insert(*step)),
                    }
                }
            }
            About::Come(list)
                if refusal.errno == libc::EEXIST && !replaced.contains(&identity(steps, list)) =>
            {
                replaced.insert(identity(steps, list));
                steps.elements[list[0]].act = Act::Replace;
            }
            About::Come(list) | About::Go(list) => {
                gone.insert(list[0]);
                // An element that was only being kept is no row of the caller's.
                if let Some(change) = steps.elements[list[0]].change {
                    let (key, fault) = (known.changes[change].key().clone(), ElementFault::Refused(refusal));
                    quarantined.push(Quarantined { key, fault });
                }
            }
            _ => {}
        }
    }
    let mut at = 0;
    steps.elements.retain(|_| {
        at += 1;
        !gone.contains(&(at - 1))
    });
    Ok(())
}

/// What stays the same for an element while others leave the list: the address of its key.
fn identity(steps: &Steps<'_>, list: &[usize]) -> usize {
    std::ptr::from_ref(steps.elements[list[0]].key) as usize
}
