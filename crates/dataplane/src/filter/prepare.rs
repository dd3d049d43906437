//! Changes of rows → the steps of a transaction, given what the table holds before. Pure.

use std::collections::{BTreeMap, BTreeSet};

use weft_plan::filter::Element;
use weft_plan::{Atoms, Ident, KernelKey, KernelRow, SetSpec};

use super::error::{ElementFault, FilterError, Quarantined};
use super::nft::Change;
use super::observe::SeenChain;
use super::set;
use super::transaction::{Act, ElementStep, RawRule, Steps};

/// The sets of the table, `None` for what a plan can't say.
pub(super) type Sets = BTreeMap<Ident, Option<SetSpec>>;

/// The chains of the table.
pub(super) type Chains = BTreeMap<Ident, SeenChain>;

/// What the table holds before, as far as the changes need to know.
#[derive(Debug, Default)]
pub(super) struct Before {
    /// All sets.
    pub sets: Sets,
    /// All chains.
    pub chains: Chains,
    /// Elements of sets that are to be made anew.
    pub kept_elements: Vec<(Ident, Atoms, Element)>,
    /// Rules of chains that look into such sets.
    pub kept_rules: BTreeMap<Ident, Vec<RawRule>>,
}

impl Change<'_> {
    /// Which object it changes.
    pub fn key(&self) -> &KernelKey {
        match self {
            Change::Set(key, _) | Change::Replace(key, _) | Change::Remove(key) => key,
        }
    }
}

/// True where a change is of more than elements.
pub(super) fn declares(changes: &[Change<'_>]) -> bool {
    changes.iter().any(|change| !matches!(change.key(), KernelKey::Element(..)))
}

/// The sets that are there with another declaration than they should have.
pub(super) fn recreated<'a>(changes: &[Change<'a>], sets: &Sets) -> BTreeSet<&'a Ident> {
    changes
        .iter()
        .filter_map(|change| match change {
            Change::Set(KernelKey::Set(name), KernelRow::Set(wanted)) => match sets.get(name) {
                Some(Some(there)) if there.declares_like(wanted) => None,
                Some(_) => Some(name),
                None => None,
            },
            _ => None,
        })
        .collect()
}

/// The sets as they will be: those that are there, and above them what the changes make of them, `None` for what goes. So
/// a change costs nothing for the sets that it doesn't name.
struct Specs<'a> {
    there: &'a Sets,
    changed: BTreeMap<&'a Ident, Option<&'a SetSpec>>,
}

impl<'a> Specs<'a> {
    /// `None` for no such set, `Some(None)` for what a plan can't say.
    fn get(&self, name: &Ident) -> Option<Option<&'a SetSpec>> {
        match self.changed.get(name) {
            Some(changed) => changed.map(Some),
            None => self.there.get(name).map(Option::as_ref),
        }
    }
}

/// The steps, and the elements that can't be part of them.
pub(super) fn steps<'a>(
    changes: &[Change<'a>],
    before: &'a Before,
) -> Result<(Steps<'a>, Vec<Quarantined>), FilterError> {
    let mut steps = Steps { table: declares(changes), ..Steps::default() };
    let anew = recreated(changes, &before.sets);
    let mut specs = Specs { there: &before.sets, changed: BTreeMap::new() };
    for change in changes {
        declaration(change, before, &anew, &mut specs, &mut steps)?;
    }
    let mut quarantined = Vec::new();
    for (at, change) in changes.iter().enumerate() {
        match element(change, at, &specs, &anew) {
            Ok(step) => steps.elements.extend(step),
            Err(fault) => quarantined.push(Quarantined { key: change.key().clone(), fault }),
        }
    }
    keep(before, changes, &specs, &anew, &mut steps);
    // Changes come in no order; a listing should always look the same.
    steps.add_chains.sort_by_key(|(name, _)| *name);
    steps.add_sets.sort_by_key(|(name, _)| *name);
    steps.rules.sort_by_key(|(name, _)| *name);
    steps.elements.sort_by(|a, b| a.set.cmp(b.set));
    Ok((steps, quarantined))
}

fn declaration<'a>(
    change: &Change<'a>,
    before: &Before,
    anew: &BTreeSet<&'a Ident>,
    specs: &mut Specs<'a>,
    steps: &mut Steps<'a>,
) -> Result<(), FilterError> {
    match *change {
        Change::Set(KernelKey::Set(name), KernelRow::Set(wanted)) => {
            if anew.contains(name) {
                steps.delete_sets.insert(name);
            }
            if anew.contains(name) || !before.sets.contains_key(name) {
                steps.add_sets.push((name, wanted));
            }
            specs.changed.insert(name, Some(wanted));
        }
        Change::Set(KernelKey::Chain(name), KernelRow::Chain(wanted)) => {
            if let Some(there) = before.chains.get(name) {
                steps.flush.insert(name);
                if there.hook != wanted.hook {
                    steps.delete_chains.insert(name);
                }
            }
            steps.add_chains.push((name, wanted.hook));
            steps.rules.push((name, &wanted.rules));
        }
        Change::Remove(KernelKey::Set(name)) => {
            if before.sets.contains_key(name) {
                steps.delete_sets.insert(name);
            }
            specs.changed.insert(name, None);
        }
        Change::Remove(KernelKey::Chain(name)) => {
            if before.chains.contains_key(name) {
                steps.flush.insert(name);
                steps.delete_chains.insert(name);
            }
        }
        Change::Set(KernelKey::Element(..), KernelRow::Element(_))
        | Change::Replace(KernelKey::Element(..), KernelRow::Element(_))
        | Change::Remove(KernelKey::Element(..)) => {}
        Change::Set(key, _) | Change::Replace(key, _) | Change::Remove(key) => {
            return Err(FilterError::ForeignRow(key.clone()));
        }
    }
    Ok(())
}

fn element<'a>(
    change: &Change<'a>,
    at: usize,
    specs: &Specs<'a>,
    anew: &BTreeSet<&Ident>,
) -> Result<Option<ElementStep<'a>>, ElementFault> {
    let step = |set: &'a Ident, key: &'a Atoms, element: Option<&'a Element>, act: Act| {
        Some(ElementStep { set, key, element, act, alone: false, change: Some(at) })
    };
    let act = match change {
        // A set that is made anew holds nothing that could be replaced.
        Change::Replace(KernelKey::Element(set, _), _) if !anew.contains(set) => Act::Replace,
        _ => Act::Add,
    };
    match *change {
        Change::Set(KernelKey::Element(set, key), KernelRow::Element(data))
        | Change::Replace(KernelKey::Element(set, key), KernelRow::Element(data)) => match specs.get(set) {
            None => Err(ElementFault::NoSet),
            Some(None) => Err(ElementFault::Misfit("the set is not as the plan has it".into())),
            Some(Some(spec)) => match set::misfit(spec, key, data) {
                Some(why) => Err(ElementFault::Misfit(why)),
                None => Ok(step(set, key, Some(data), act)),
            },
        },
        // Elements go with their set.
        Change::Remove(KernelKey::Element(set, key)) => {
            let there = matches!(specs.get(set), Some(Some(_))) && !anew.contains(set);
            Ok(if there { step(set, key, None, Act::Delete) } else { None })
        }
        _ => Ok(None),
    }
}

/// Puts back what the recreation of sets takes with it.
fn keep<'a>(
    before: &'a Before,
    changes: &[Change<'a>],
    specs: &Specs<'a>,
    anew: &BTreeSet<&Ident>,
    steps: &mut Steps<'a>,
) {
    if anew.is_empty() {
        return;
    }
    let changed: BTreeSet<&KernelKey> = changes.iter().map(Change::key).collect();
    for (set, key, element) in &before.kept_elements {
        let fits = matches!(specs.get(set), Some(Some(spec)) if set::misfit(spec, key, element).is_none());
        let named = changed.contains(&KernelKey::Element(set.clone(), key.clone()));
        if fits && !named {
            let (element, act) = (Some(element), Act::Add);
            steps.elements.push(ElementStep { set, key, element, act, alone: false, change: None });
        }
    }
    for (chain, rules) in &before.kept_rules {
        if !changed.contains(&KernelKey::Chain(chain.clone())) {
            steps.flush.insert(chain);
            steps.raw_rules.push((chain, rules));
        }
    }
}
