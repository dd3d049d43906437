//! Who may use a balancer's addresses (`loadBalancerSourceRanges`): lists of sources, and the way through them.
//!
//! Where only some sources may use a service's port, its element in the service maps leads to a list's mark instead of its own.
//! The list's sources are elements of one set for each length of blocks, the mark in front; who isn't among
//! them is dropped. Behind them a map gives the service's own mark. So a list is elements, whatever
//! the number of lists and of services that share one; and what is missing between two commits, or because the kernel has
//! refused it, lets nobody in.
//!
//! A length that no block has had yet, or has any more, is one rule more or less in the chain that asks.

use weft_model::{Fact, FactKey, Family};
use weft_plan::filter::{Comparison, Value};
use weft_plan::marks::CLASS;
use weft_plan::{Atom, Field, Ident, Rule, SetSpec, Statement, Type, Verdict};

use super::table::{Rank, Side, digit, frontend};
use crate::engine::{Context, Output, RuleKey};
use crate::facts::Transition;
use crate::rules::table::{address_type, in_set};
use crate::services::marks::SOURCES;
use crate::services::sources::{CLOSED, SourceList};

/// Drops whoever is not in the list that the connection's mark stands for.
const LISTS: &str = "service_sources";

/// The map from (address . protocol . port) to the service's own mark, behind its sources.
pub fn restricted(family: Family, side: Side) -> Ident {
    let name = match side {
        Side::Inside => "restricted",
        Side::Outside => "outside_restricted",
    };
    Ident::new(&format!("{name}{}", digit(family)))
}

/// The set of (list's mark . block's first address) of blocks of one length.
fn blocks(family: Family, prefix: u8) -> Ident {
    Ident::new(&format!("source{}_{prefix}", digit(family)))
}

/// The chain that lets a list's sources through and finds the service's own mark.
fn chain(side: Side) -> Ident {
    Ident::new(match side {
        Side::Inside => "service_restricted",
        Side::Outside => "service_outside_restricted",
    })
}

/// Names what a service that came, went or changed does to lists.
pub fn affected(transition: &Transition, context: &Context<'_>, dirty: &mut dyn FnMut(RuleKey)) {
    let lists = |fact: &Option<Fact>| match fact {
        Some(Fact::Service(service)) => SourceList::all_of(service).collect::<Vec<_>>(),
        _ => Vec::new(),
    };
    let (before, after) = (lists(&transition.before), lists(&transition.after));
    let index = context.facts.sources();
    for (list, users) in before.iter().map(|list| (list, 0)).chain(after.iter().map(|list| (list, 1))) {
        if before.contains(list) && after.contains(list) {
            continue;
        }
        dirty(RuleKey::Sources(list.clone()));
        // The first that uses it, or the last.
        if index.users(list).take(2).count() != users {
            continue;
        }
        for other in index.neighbours(list) {
            dirty(RuleKey::Sources(other.clone()));
            index.users(other).for_each(|key| dirty(RuleKey::Fact(FactKey::Service(key.clone()))));
        }
        if list.lengths().into_iter().any(|prefix| index.having(list.family(), prefix) <= users) {
            dirty(RuleKey::Constant);
        }
    }
}

/// A list's sources.
pub fn rows(list: &SourceList, context: &Context<'_>, out: &mut Output) {
    let index = context.facts.sources();
    let mut users = index.users(list).map(|key| FactKey::Service(key.clone())).peekable();
    let Some(origin) = users.peek().cloned() else { return };
    let mark = index.mark(list);
    if mark == CLOSED {
        let text = "its loadBalancerSourceRanges can't be told from others' that seem made up for it: nobody is let in; \
                    add a block to them, or take one away";
        return users.for_each(|user| out.warn(&user, text));
    }
    for block in list.blocks() {
        let key = [Atom::Mark(mark), Atom::from(block.first())];
        out.member(blocks(list.family(), block.prefix()), key, &origin);
    }
}

/// What there is once: maps, chains, and a set for each length.
pub fn constant(context: &Context<'_>, origin: &FactKey, out: &mut Output) {
    let mut asked = Vec::new();
    for family in Family::ALL {
        let address = address_type(family);
        for side in [Side::Inside, Side::Outside] {
            let key = [address, Type::InetProto, Type::InetService];
            let spec = SetSpec::map(&key, &[Type::Mark], "services, behind those who may use them");
            out.table_set(restricted(family, side), spec.ranked(Rank::RESTRICTED), origin);
        }
        for prefix in context.facts.sources().lengths(family) {
            let set = blocks(family, prefix);
            let spec = SetSpec::set(&[Type::Mark, address], "sources, by list");
            out.table_set(set.clone(), spec.ranked(Rank::SOURCES), origin);
            let source = match prefix {
                whole if whole == family.bits() => Field::Saddr(family),
                prefix => Field::SaddrBlock(family, prefix),
            };
            let known = in_set([Field::CtMark, source], set);
            asked.push(Rule::new("", [known, Statement::Verdict(Verdict::Return)]));
        }
    }
    let drop = |why: &'static str| Rule::new(why, [Statement::Counter, Statement::Verdict(Verdict::Drop)]);
    asked.push(drop("not one of the service's source ranges"));
    out.chain(Ident::new(LISTS), asked, origin);
    for side in [Side::Inside, Side::Outside] {
        let by_list = Rule::new("", [Statement::Verdict(Verdict::Jump(Ident::new(LISTS)))]);
        let found = Family::ALL.map(|family| {
            let own = Statement::SetCtMarkFrom(frontend(family), restricted(family, side));
            Rule::new("", [own, Statement::Verdict(Verdict::Return)])
        });
        let rules = [by_list].into_iter().chain(found).chain([drop("the service has just gone")]);
        out.chain(chain(side), rules.collect(), origin);
    }
}

/// Behind it the connection's mark is a service's own: where it was a list's, the packet is one of its sources'.
pub fn let_in(side: Side) -> Rule {
    let is_list = Statement::Match(Field::CtMarkMasked(CLASS), Comparison::Is, Value::Mark(SOURCES));
    Rule::new("", [is_list, Statement::Verdict(Verdict::Jump(chain(side)))])
}
