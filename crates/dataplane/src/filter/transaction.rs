//! One transaction: its steps, their order, and their bytes.
//!
//! The order inside a transaction is always the same, whatever order changes came in: rules go, elements go, sets go,
//! chains go; then chains come, sets come, rules come, elements come. So nothing refers to what is not there, on either
//! side. Everything here is pure; [`super::Nft`] sends it.

use std::collections::BTreeSet;

use weft_plan::filter::{Element, HookKind, TABLE};
use weft_plan::{Atoms, Hook, Ident, Rule, SetSpec};

use super::attribute::Writer;
use super::uapi as k;
use super::{lower, set, userdata};

/// A message's list of elements ends before its 16-bit length does.
const ELEMENT_BYTES: usize = 60_000;
/// What `nft list` shows of the table beside its name.
const TABLE_COMMENT: &str = "written by weft, the cluster's network: changes by hand are undone";

/// What happens to an element.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// It comes.
    Add,
    /// It goes.
    Delete,
    /// It is there with other data: it goes and comes.
    Replace,
}

/// One element of a transaction.
#[derive(Debug, Clone, Copy)]
pub struct ElementStep<'a> {
    /// Its set or map.
    pub set: &'a Ident,
    /// Its key.
    pub key: &'a Atoms,
    /// Its data, where it comes.
    pub element: Option<&'a Element>,
    /// What happens to it.
    pub act: Act,
    /// It gets a message of its own, so that the kernel's refusal is for it alone.
    pub alone: bool,
    /// Which of the caller's changes it is; `None` for one kept over the recreation of its set.
    pub change: Option<usize>,
}

/// A rule as the kernel gave it, to be put back unchanged.
#[derive(Debug, Clone)]
pub struct RawRule {
    /// Its list of expressions.
    pub expressions: Vec<u8>,
    /// Its user data.
    pub userdata: Vec<u8>,
}

/// All steps of one transaction.
#[derive(Debug, Clone, Default)]
pub struct Steps<'a> {
    /// Create the table, which changes nothing where it is there.
    pub table: bool,
    /// Chains whose rules go.
    pub flush: BTreeSet<&'a Ident>,
    /// Sets that go, in order.
    pub delete_sets: BTreeSet<&'a Ident>,
    /// Chains that go.
    pub delete_chains: BTreeSet<&'a Ident>,
    /// Chains that come, or are there with this hook.
    pub add_chains: Vec<(&'a Ident, Option<Hook>)>,
    /// Sets that come.
    pub add_sets: Vec<(&'a Ident, &'a SetSpec)>,
    /// Elements, those of one set together.
    pub elements: Vec<ElementStep<'a>>,
    /// Rules that come, in their chains' order.
    pub rules: Vec<(&'a Ident, &'a [Rule])>,
    /// Rules that were flushed for a set's sake, and come back.
    pub raw_rules: Vec<(&'a Ident, &'a [RawRule])>,
}

/// What a message of a batch is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum About<'a> {
    /// The transaction as a whole.
    Batch,
    /// The table.
    Table,
    /// A chain.
    Chain(&'a Ident),
    /// A set or map.
    Set(&'a Ident),
    /// A rule: its chain and its place there.
    Rule(&'a Ident, usize),
    /// Elements that come, by their place in [`Steps::elements`].
    Come(Vec<usize>),
    /// Elements that go.
    Go(Vec<usize>),
}

/// A rendered transaction.
#[derive(Debug)]
pub struct Batch<'a> {
    /// All messages.
    pub bytes: Vec<u8>,
    /// What each is about; the first is the batch's beginning, its end is left out.
    pub about: Vec<About<'a>>,
}

impl Steps<'_> {
    /// True where there is nothing to send.
    pub fn is_empty(&self) -> bool {
        self.elements.is_empty() && self.are_of_elements()
    }

    /// True where nothing but elements changes.
    pub fn are_of_elements(&self) -> bool {
        self.flush.is_empty()
            && self.delete_sets.is_empty()
            && self.delete_chains.is_empty()
            && self.add_chains.is_empty()
            && self.add_sets.is_empty()
            && self.rules.is_empty()
            && self.raw_rules.is_empty()
    }
}

/// The steps as messages numbered from `first`; with a generation, the kernel refuses them once it has another.
pub fn render<'a>(steps: &Steps<'a>, first: u32, generation: Option<u32>) -> Batch<'a> {
    let mut out = Rendering { w: Writer::new(), about: Vec::new(), first };
    out.bare(k::NFNL_MSG_BATCH_BEGIN, |w| {
        if let Some(generation) = generation {
            w.u32(k::NFNL_BATCH_GENID, generation);
        }
    });
    out.about.push(About::Batch);
    if steps.table {
        out.message(About::Table, (k::NFT_MSG_NEWTABLE, k::NLM_F_CREATE), |w| {
            w.text(k::NFTA_TABLE_NAME, TABLE);
            w.u32(k::NFTA_TABLE_FLAGS, 0);
            let mut user = Vec::new();
            userdata::push_text(&mut user, k::NFTNL_UDATA_TABLE_COMMENT, TABLE_COMMENT);
            w.bytes(k::NFTA_TABLE_USERDATA, &user);
        });
    }
    for chain in &steps.flush {
        out.message(About::Chain(chain), (k::NFT_MSG_DELRULE, 0), |w| {
            w.text(k::NFTA_RULE_TABLE, TABLE);
            w.text(k::NFTA_RULE_CHAIN, chain.as_str());
        });
    }
    out.elements(steps, k::NFT_MSG_DELSETELEM);
    for set in &steps.delete_sets {
        out.message(About::Set(set), (k::NFT_MSG_DELSET, 0), |w| {
            w.text(k::NFTA_SET_TABLE, TABLE);
            w.text(k::NFTA_SET_NAME, set.as_str());
        });
    }
    for chain in &steps.delete_chains {
        out.message(About::Chain(chain), (k::NFT_MSG_DELCHAIN, 0), |w| {
            w.text(k::NFTA_CHAIN_TABLE, TABLE);
            w.text(k::NFTA_CHAIN_NAME, chain.as_str());
        });
    }
    for (chain, hook) in &steps.add_chains {
        out.message(About::Chain(chain), (k::NFT_MSG_NEWCHAIN, k::NLM_F_CREATE), |w| {
            w.text(k::NFTA_CHAIN_TABLE, TABLE);
            w.text(k::NFTA_CHAIN_NAME, chain.as_str());
            if let Some(hook) = hook {
                write_hook(w, *hook);
            }
        });
    }
    for (at, (set, spec)) in steps.add_sets.iter().enumerate() {
        let flags = k::NLM_F_CREATE | k::NLM_F_EXCL;
        out.message(About::Set(set), (k::NFT_MSG_NEWSET, flags), |w| {
            w.text(k::NFTA_SET_TABLE, TABLE);
            set::write(w, set.as_str(), spec, at as u32 + 1);
        });
    }
    // Before the elements, so that one whose verdict closes a loop is refused itself, and not the rule that looks it up.
    out.rules(steps);
    out.elements(steps, k::NFT_MSG_NEWSETELEM);
    out.finish()
}

/// The kernel's number of a hook (`enum nf_inet_hooks`).
fn hook_number(at: HookKind) -> u32 {
    match at {
        HookKind::Prerouting => 0,
        HookKind::Input => 1,
        HookKind::Forward => 2,
        HookKind::Output => 3,
        HookKind::Postrouting => 4,
    }
}

/// The hook of this number.
pub(super) fn hook_of(number: u32) -> Option<HookKind> {
    [HookKind::Prerouting, HookKind::Input, HookKind::Forward, HookKind::Output, HookKind::Postrouting]
        .into_iter()
        .find(|at| hook_number(*at) == number)
}

fn write_hook(w: &mut Writer, hook: Hook) {
    w.nest(k::NFTA_CHAIN_HOOK, |w| {
        w.u32(k::NFTA_HOOK_HOOKNUM, hook_number(hook.at));
        w.bytes(k::NFTA_HOOK_PRIORITY, &hook.priority.to_be_bytes());
    });
    w.u32(k::NFTA_CHAIN_POLICY, k::NF_ACCEPT);
    w.text(k::NFTA_CHAIN_TYPE, if hook.nat { "nat" } else { "filter" });
}

struct Rendering<'a> {
    w: Writer,
    about: Vec<About<'a>>,
    first: u32,
}

impl<'a> Rendering<'a> {
    fn number(&self) -> u32 {
        self.first.wrapping_add(self.about.len() as u32)
    }

    /// A message of the batch itself, whose header names the subsystem.
    fn bare(&mut self, kind: u16, body: impl FnOnce(&mut Writer)) {
        let header = (kind, k::NLM_F_REQUEST, self.number());
        self.w.message(header, (k::NFPROTO_UNSPEC, k::NFNL_SUBSYS_NFTABLES), body);
    }

    fn message(&mut self, about: About<'a>, (kind, flags): (u16, u16), body: impl FnOnce(&mut Writer)) {
        let header = (kind | k::NFNL_SUBSYS_NFTABLES << 8, flags | k::NLM_F_REQUEST, self.number());
        self.w.message(header, (k::NFPROTO_INET, 0), body);
        self.about.push(about);
    }

    /// Elements in as few messages as hold them: one set each, below the limit.
    fn elements(&mut self, steps: &Steps<'a>, kind: u16) {
        let comes = kind == k::NFT_MSG_NEWSETELEM;
        let other = if comes { Act::Delete } else { Act::Add };
        let list: Vec<(usize, &ElementStep<'a>)> =
            steps.elements.iter().enumerate().filter(|(_, step)| step.act != other).collect();
        let mut rest = &list[..];
        while let Some((_, head)) = rest.first() {
            let mut members = Vec::new();
            let (set, alone) = (head.set, head.alone);
            let flags = if comes { k::NLM_F_CREATE } else { 0 };
            let header = (kind | k::NFNL_SUBSYS_NFTABLES << 8, flags | k::NLM_F_REQUEST, self.number());
            self.w.message(header, (k::NFPROTO_INET, 0), |w| {
                w.text(k::NFTA_SET_ELEM_LIST_TABLE, TABLE);
                w.text(k::NFTA_SET_ELEM_LIST_SET, set.as_str());
                let start = w.written();
                w.nest(k::NFTA_SET_ELEM_LIST_ELEMENTS, |w| {
                    while let [(at, step), after @ ..] = rest {
                        let joins =
                            step.set == set && !step.alone && !alone && w.written() - start < ELEMENT_BYTES;
                        if !members.is_empty() && !joins {
                            break;
                        }
                        set::write_element(w, step.key, step.element.filter(|_| comes));
                        members.push(*at);
                        rest = after;
                    }
                });
            });
            self.about.push(if comes { About::Come(members) } else { About::Go(members) });
        }
    }

    fn rules(&mut self, steps: &Steps<'a>) {
        let header = (k::NFT_MSG_NEWRULE, k::NLM_F_CREATE | k::NLM_F_APPEND);
        for (chain, rules) in &steps.rules {
            for (at, rule) in rules.iter().enumerate() {
                self.message(About::Rule(chain, at), header, |w| {
                    w.text(k::NFTA_RULE_TABLE, TABLE);
                    w.text(k::NFTA_RULE_CHAIN, chain.as_str());
                    w.nest(k::NFTA_RULE_EXPRESSIONS, |w| {
                        for expression in lower::rule(rule) {
                            expression.write(w);
                        }
                    });
                    if !rule.comment.is_empty() {
                        w.bytes(k::NFTA_RULE_USERDATA, &userdata::rule_userdata(&rule.comment));
                    }
                });
            }
        }
        for (chain, rules) in &steps.raw_rules {
            for (at, rule) in rules.iter().enumerate() {
                self.message(About::Rule(chain, at), header, |w| {
                    w.text(k::NFTA_RULE_TABLE, TABLE);
                    w.text(k::NFTA_RULE_CHAIN, chain.as_str());
                    w.bytes(k::NFTA_RULE_EXPRESSIONS | super::attribute::NESTED, &rule.expressions);
                    if !rule.userdata.is_empty() {
                        w.bytes(k::NFTA_RULE_USERDATA, &rule.userdata);
                    }
                });
            }
        }
    }

    fn finish(mut self) -> Batch<'a> {
        self.bare(k::NFNL_MSG_BATCH_END, |_| {});
        let mut bytes = self.w.into_bytes();
        acknowledge_last(&mut bytes);
        Batch { bytes, about: self.about }
    }
}

/// Asks for an acknowledgement of the last message before the batch's end.
fn acknowledge_last(bytes: &mut [u8]) {
    let mut at = 0;
    let mut before = 0;
    while let Some(length) = bytes.get(at..at + 4) {
        let length = u32::from_ne_bytes([length[0], length[1], length[2], length[3]]) as usize;
        if at + length.next_multiple_of(4) >= bytes.len() {
            break;
        }
        before = at;
        at += length.next_multiple_of(4);
    }
    if before != 0 {
        let flags = u16::from_ne_bytes([bytes[before + 6], bytes[before + 7]]) | k::NLM_F_ACK;
        bytes[before + 6..before + 8].copy_from_slice(&flags.to_ne_bytes());
    }
}

/// Several transactions where one is too large for the socket, or for a listener: what comes first has no effect before what comes later.
///
/// 1. The table, new sets, new chains without rules. 2. Elements that come or are replaced, `limit` at a time.
/// 3. Sets of another declaration, and all rules. 4. The new sets' elements, and elements that go, `limit` at a time.
/// 5. Sets and chains that go.
///
/// Between two of them a packet that looks for what is not there yet is treated as one without an entry.
pub fn split<'a>(steps: Steps<'a>, limit: usize) -> Vec<Steps<'a>> {
    let recreated: BTreeSet<&Ident> =
        steps.add_sets.iter().map(|(set, _)| *set).filter(|set| steps.delete_sets.contains(set)).collect();
    let again: BTreeSet<&Ident> = steps
        .add_chains
        .iter()
        .map(|(chain, _)| *chain)
        .filter(|chain| steps.delete_chains.contains(chain) || steps.flush.contains(chain))
        .collect();
    let (sets_again, sets_new): (Vec<_>, Vec<_>) =
        steps.add_sets.into_iter().partition(|(set, _)| recreated.contains(set));
    let (chains_again, chains_new): (Vec<_>, Vec<_>) =
        steps.add_chains.into_iter().partition(|(chain, _)| again.contains(chain));
    let (late, early): (Vec<_>, Vec<_>) =
        steps.elements.into_iter().partition(|step| step.act == Act::Delete || recreated.contains(step.set));
    let mut parts =
        vec![Steps { table: steps.table, add_sets: sets_new, add_chains: chains_new, ..Steps::default() }];
    let chunks = |elements: Vec<ElementStep<'a>>| {
        elements
            .chunks(limit.max(1))
            .map(|chunk| Steps { elements: chunk.to_vec(), ..Steps::default() })
            .collect::<Vec<_>>()
    };
    parts.extend(chunks(early));
    let (chains_remade, chains_gone) =
        steps.delete_chains.into_iter().partition(|chain| again.contains(chain));
    parts.push(Steps {
        flush: steps.flush,
        delete_chains: chains_remade,
        add_chains: chains_again,
        add_sets: sets_again,
        delete_sets: recreated.clone(),
        rules: steps.rules,
        raw_rules: steps.raw_rules,
        ..Steps::default()
    });
    parts.extend(chunks(late));
    parts.push(Steps {
        delete_sets: steps.delete_sets.into_iter().filter(|set| !recreated.contains(set)).collect(),
        delete_chains: chains_gone,
        ..Steps::default()
    });
    parts.retain(|part| part.table || !part.is_empty());
    parts
}
