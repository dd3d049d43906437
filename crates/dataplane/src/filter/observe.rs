//! Reading back: what our table holds, as rows of the plan.
//!
//! Chains are compared by their rules' expressions, counters aside, and comments: a rule that somebody added, removed,
//! moved or changed makes the chain's row differ from every plan's. What the plan's language can't say (a rule of
//! another kind, a set of another type, a range that is no block) reads as a row that no plan has.

use std::collections::BTreeMap;

use weft_plan::filter::{Comment, TABLE};
use weft_plan::{Chain, Hook, Ident, KernelKey, KernelRow, Rule, SetSpec};

use super::attribute::{Attributes, Messages};
use super::error::FilterError;
use super::expression::{Expression, read_ident};
use super::socket::Nfnl;
use super::transaction::{RawRule, hook_of};
use super::uapi as k;
use super::{lower, raise, set, userdata};

/// The comment of what the plan's language can't say.
const NOT_OURS: &str = "(not written by weft)";

/// A counter in a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counter {
    /// The chain.
    pub chain: Ident,
    /// The rule's comment.
    pub comment: Comment,
    /// Packets so far.
    pub packets: u64,
    /// Bytes so far.
    pub bytes: u64,
}

/// A chain as the kernel holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SeenChain {
    /// Its hook; `None` for one without, and for one that the plan can't say.
    pub hook: Option<Hook>,
    /// Its hook and policy are what a plan's chain could have.
    pub plain: bool,
}

/// A rule as the kernel holds it.
#[derive(Debug, Clone)]
pub(super) struct SeenRule {
    pub chain: Ident,
    pub expressions: Vec<Expression>,
    pub comment: Comment,
    pub raw: RawRule,
}

fn subsystem(kind: u16) -> (u16, u8) {
    (kind | k::NFNL_SUBSYS_NFTABLES << 8, k::NFPROTO_INET)
}

/// The sets and maps of our table, but those without a name of their own; `None` for what the plan can't say.
pub(super) fn sets(nfnl: &mut Nfnl) -> Result<BTreeMap<Ident, Option<SetSpec>>, FilterError> {
    let list = nfnl.dump("sets", subsystem(k::NFT_MSG_GETSET), |w| w.text(k::NFTA_SET_TABLE, TABLE))?;
    let mut sets = BTreeMap::new();
    for message in Messages(&list) {
        let a = message.attributes();
        let flags = a.get(k::NFTA_SET_FLAGS).and_then(|f| f.u32()).unwrap_or_default();
        if flags & k::NFT_SET_ANONYMOUS != 0 {
            continue;
        }
        if let Some(name) = a.get(k::NFTA_SET_NAME).and_then(read_ident) {
            sets.insert(name, set::read(a));
        }
    }
    Ok(sets)
}

/// The elements of a set; `None` where one is something that the plan can't say.
pub(super) fn elements(
    nfnl: &mut Nfnl,
    name: &Ident,
    spec: &SetSpec,
) -> Result<Option<set::Elements>, FilterError> {
    let list = nfnl.dump("elements", subsystem(k::NFT_MSG_GETSETELEM), |w| {
        w.text(k::NFTA_SET_ELEM_LIST_TABLE, TABLE);
        w.text(k::NFTA_SET_ELEM_LIST_SET, name.as_str());
    })?;
    let found: Vec<Attributes<'_>> = Messages(&list)
        .filter_map(|message| message.attributes().get(k::NFTA_SET_ELEM_LIST_ELEMENTS))
        .flat_map(|elements| elements.nested())
        .map(|element| element.nested())
        .collect();
    Ok(set::read_elements(spec, &found))
}

/// The chains of our table.
pub(super) fn chains(nfnl: &mut Nfnl) -> Result<BTreeMap<Ident, SeenChain>, FilterError> {
    let list = nfnl.dump("chains", subsystem(k::NFT_MSG_GETCHAIN), |w| w.text(k::NFTA_CHAIN_TABLE, TABLE))?;
    let mut chains = BTreeMap::new();
    for message in Messages(&list) {
        let a = message.attributes();
        // The kernel gives the chains of every table, whatever is asked for.
        if a.get(k::NFTA_CHAIN_TABLE).and_then(|t| t.text()) != Some(TABLE) {
            continue;
        }
        if let Some(name) = a.get(k::NFTA_CHAIN_NAME).and_then(read_ident) {
            chains.insert(name, read_chain(a));
        }
    }
    Ok(chains)
}

fn read_chain(a: Attributes<'_>) -> SeenChain {
    let Some(hook) = a.get(k::NFTA_CHAIN_HOOK) else {
        return SeenChain { hook: None, plain: true };
    };
    let number = |kind: u16| hook.nested().get(kind)?.u32();
    let nat = match a.get(k::NFTA_CHAIN_TYPE).and_then(|kind| kind.text()) {
        Some("nat") => Some(true),
        Some("filter") => Some(false),
        _ => None,
    };
    let hook = (|| {
        Some(Hook {
            at: hook_of(number(k::NFTA_HOOK_HOOKNUM)?)?,
            nat: nat?,
            priority: number(k::NFTA_HOOK_PRIORITY)? as i32,
        })
    })();
    let accepts = a.get(k::NFTA_CHAIN_POLICY).and_then(|p| p.u32()) == Some(k::NF_ACCEPT);
    SeenChain { hook, plain: hook.is_some() && accepts }
}

/// The rules of our table, chain by chain in their order.
pub(super) fn rules(nfnl: &mut Nfnl) -> Result<Vec<SeenRule>, FilterError> {
    let list = nfnl.dump("rules", subsystem(k::NFT_MSG_GETRULE), |w| w.text(k::NFTA_RULE_TABLE, TABLE))?;
    let mut rules = Vec::new();
    for message in Messages(&list) {
        let a = message.attributes();
        let ours = a.get(k::NFTA_RULE_TABLE).and_then(|t| t.text()) == Some(TABLE);
        let Some(chain) = a.get(k::NFTA_RULE_CHAIN).and_then(read_ident).filter(|_| ours) else {
            continue;
        };
        let expressions = a.get(k::NFTA_RULE_EXPRESSIONS);
        let user = a.get(k::NFTA_RULE_USERDATA).map(|u| u.value).unwrap_or_default();
        rules.push(SeenRule {
            chain,
            expressions: expressions
                .into_iter()
                .flat_map(|list| list.nested())
                .map(Expression::read)
                .collect(),
            comment: userdata::rule_comment(user).unwrap_or_default().to_owned().into(),
            raw: RawRule {
                expressions: expressions.map(|list| list.value.to_vec()).unwrap_or_default(),
                userdata: user.to_vec(),
            },
        });
    }
    Ok(rules)
}

/// Everything in our table, of which these sets and chains are listed already. A set that turns out to hold what the plan
/// can't say becomes `None`.
pub(super) fn rows(
    nfnl: &mut Nfnl,
    sets: &mut BTreeMap<Ident, Option<SetSpec>>,
    chains: &BTreeMap<Ident, SeenChain>,
    each: &mut dyn FnMut(KernelKey, KernelRow),
) -> Result<(), FilterError> {
    for (name, declared) in sets {
        let spec = declared.clone();
        let held = match &spec {
            Some(spec) if spec.dynamic_timeout.is_none() => elements(nfnl, name, spec)?,
            Some(_) => Some(Vec::new()),
            None => None,
        };
        let key = KernelKey::Set(name.clone());
        match (spec, held) {
            (Some(spec), Some(held)) => {
                each(key, KernelRow::Set(Box::new(spec)));
                for (atoms, element) in held {
                    each(KernelKey::Element(name.clone(), atoms), KernelRow::Element(element));
                }
            }
            _ => {
                *declared = None;
                each(key, KernelRow::Set(Box::new(SetSpec::set(&[], NOT_OURS))));
            }
        }
    }
    let mut found: BTreeMap<Ident, Chain> = BTreeMap::new();
    for (name, seen) in chains {
        let rules = if seen.plain { Vec::new() } else { vec![Rule::new(NOT_OURS, [])] };
        found.insert(name.clone(), Chain { hook: seen.hook, rules });
    }
    for seen in rules(nfnl)? {
        let rule = raise::rule(&seen.expressions, &seen.comment).unwrap_or_else(|| Rule::new(NOT_OURS, []));
        found.entry(seen.chain).or_default().rules.push(rule);
    }
    for (name, chain) in found {
        each(KernelKey::Chain(name), KernelRow::Chain(Box::new(chain)));
    }
    Ok(())
}

/// The counters of all rules that have one, in the order of chains and rules.
pub(super) fn counters(nfnl: &mut Nfnl) -> Result<Vec<Counter>, FilterError> {
    let mut counters = Vec::new();
    for rule in rules(nfnl)? {
        for expression in &rule.expressions {
            if let Expression::Counter { packets, bytes } = expression {
                counters.push(Counter {
                    chain: rule.chain.clone(),
                    comment: rule.comment.clone(),
                    packets: *packets,
                    bytes: *bytes,
                });
            }
        }
    }
    counters.sort_by(|a, b| a.chain.cmp(&b.chain));
    Ok(counters)
}

/// The row as observation gives it back once it is applied.
///
/// The plan can say some things in two ways that are one to the kernel: a block of one address and the address, a
/// protocol named twice, ICMPv6 named before its type; and of sets some that the kernel doesn't hold. Compare canonical rows with observed ones.
pub fn canonical(row: &KernelRow) -> KernelRow {
    match row {
        KernelRow::Chain(chain) => KernelRow::Chain(Box::new(Chain {
            hook: chain.hook,
            rules: chain
                .rules
                .iter()
                .map(|rule| raise::rule(&lower::rule(rule), &rule.comment).unwrap_or_else(|| rule.clone()))
                .collect(),
        })),
        KernelRow::Set(spec) => KernelRow::Set(Box::new(spec.declaration())),
        other => other.clone(),
    }
}
