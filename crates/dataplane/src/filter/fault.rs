//! What the kernel's refusal of a set, a chain or a rule means.
//!
//! "No such file or directory" has two meanings. Where another program took away what is named, the next comparison puts it
//! back, and it is worth waiting for. Where all that is named is there, this kernel was built without a part of the packet
//! filter (`nft_expr_type_get` and `nf_tables_newchain` answer `ENOENT` for types that no module brings), and waiting helps nobody.
//!
//! What is absent: refusals of single elements, which are left out one by one ([`super::nft`]).

use weft_plan::filter::TABLE;
use weft_plan::{Ident, KernelKey, Rule, Verdict};

use super::error::FilterError;
use super::expression::{Expression, Source};
use super::lower;
use super::nft::{Change, Stop};
use super::prepare::Before;
use super::transaction::{About, Steps};
use crate::netlink::Refusal;

/// What is known of the table that a refused transaction was made for.
#[derive(Clone, Copy)]
pub(super) struct Known<'a> {
    /// The caller's changes.
    pub changes: &'a [Change<'a>],
    /// What was there before them.
    pub before: &'a Before,
    /// Nobody has changed anything since that was seen: the kernel would have refused the transaction as a whole.
    pub is_certain: bool,
}

impl Known<'_> {
    fn has(&self, key: &KernelKey) -> bool {
        match self.changes.iter().rfind(|change| change.key() == key) {
            Some(Change::Remove(_)) => false,
            Some(_) => true,
            None => match key {
                KernelKey::Set(name) => self.before.sets.contains_key(name),
                KernelKey::Chain(name) => self.before.chains.contains_key(name),
                _ => false,
            },
        }
    }

    /// True where all that the refused object names is there for certain.
    fn has_what_it_names(&self, about: &About<'_>, rule: Option<&Rule>) -> bool {
        let names = match (about, rule) {
            (About::Table | About::Chain(_) | About::Set(_), _) => Vec::new(),
            (About::Rule(chain, _), Some(rule)) => named(chain, rule),
            _ => return false,
        };
        self.is_certain && names.iter().all(|key| self.has(key))
    }
}

/// Why a declaration was refused; or that it is to be tried again.
pub(super) fn of_declaration(
    about: &About<'_>,
    refusal: Refusal,
    steps: &Steps<'_>,
    known: Known<'_>,
) -> Stop {
    let rule = match about {
        About::Rule(chain, at) => {
            steps.rules.iter().find(|(name, _)| name == chain).and_then(|(_, rules)| rules.get(*at))
        }
        _ => None,
    };
    let (object, needs) = match about {
        About::Batch => return whole(refusal),
        About::Table => (format!("table inet {TABLE}"), "CONFIG_NF_TABLES_INET".to_owned()),
        About::Chain(name) => {
            (format!("chain {name}"), "CONFIG_NF_TABLES_INET, and CONFIG_NFT_NAT for type nat".into())
        }
        About::Set(name) => (format!("set or map {name}"), "CONFIG_NF_TABLES".into()),
        About::Rule(name, at) => match rule {
            Some(rule) => (format!("rule {} of chain {name} ({rule})", at + 1), features(rule)),
            None => (format!("a rule of chain {name}"), String::new()),
        },
        About::Come(_) | About::Go(_) => ("an element".to_owned(), String::new()),
    };
    let lacks = match refusal.errno {
        libc::EOPNOTSUPP | libc::EAFNOSUPPORT | libc::EPROTONOSUPPORT => true,
        libc::ENOENT => known.has_what_it_names(about, rule),
        _ => false,
    };
    Stop::Error(match lacks {
        true => FilterError::Lack {
            object,
            refusal,
            needs: if needs.is_empty() { "CONFIG_NF_TABLES".into() } else { needs },
        },
        false => FilterError::Declaration { object, refusal },
    })
}

/// The sets and chains that a rule of this chain refers to, and the chain itself.
fn named(chain: &Ident, rule: &Rule) -> Vec<KernelKey> {
    let mut names = vec![KernelKey::Chain(chain.clone())];
    names.extend(lower::rule(rule).into_iter().filter_map(|expression| match expression {
        Expression::Lookup(set, ..) | Expression::Dynset { map: set, .. } => Some(KernelKey::Set(set)),
        Expression::Verdict(Verdict::Jump(chain) | Verdict::Goto(chain)) => Some(KernelKey::Chain(chain)),
        _ => None,
    }));
    names
}

/// The kernel's options that a rule needs beside `CONFIG_NF_TABLES`.
fn features(rule: &Rule) -> String {
    let mut names: Vec<&str> = lower::rule(rule)
        .iter()
        .filter_map(|expression| match expression {
            Expression::Load(Source::Ct(_), _) | Expression::SetCt(..) | Expression::Notrack => {
                Some("CONFIG_NFT_CT")
            }
            Expression::Load(Source::FibDaddrType, _) => Some("CONFIG_NFT_FIB_INET"),
            Expression::Load(Source::Random(_), _) => Some("CONFIG_NFT_NUMGEN"),
            Expression::Hash { .. } => Some("CONFIG_NFT_HASH"),
            Expression::Nat(..) => Some("CONFIG_NFT_NAT"),
            Expression::Masquerade(_) => Some("CONFIG_NFT_MASQ"),
            Expression::Reject(..) => Some("CONFIG_NFT_REJECT_INET"),
            _ => None,
        })
        .collect();
    names.sort_unstable();
    names.dedup();
    names.join(", ")
}

/// A refusal of the transaction as such.
fn whole(refusal: Refusal) -> Stop {
    let mend = match refusal.errno {
        libc::ERESTART => return Stop::Again,
        libc::EPERM => "; CAP_NET_ADMIN over this network namespace is needed",
        libc::EOPNOTSUPP | libc::EINVAL => "; the kernel needs CONFIG_NF_TABLES",
        _ => "",
    };
    Stop::Error(FilterError::Transaction { refusal, mend })
}

#[cfg(test)]
mod tests {
    use weft_plan::filter::{HookKind, Statement};
    use weft_plan::{Field, KernelRow, SetSpec, Type};

    use super::*;
    use crate::filter::tests::{base, set};

    /// What is said of a refused chain with this rule, of a table that has a map of this name besides.
    fn check(errno: i32, statement: &Statement, there: Option<&str>, is_certain: bool) -> (bool, String) {
        let rows: Vec<(KernelKey, KernelRow)> = there
            .map(|name| set(name, SetSpec::map(&[Type::Ipv4Addr], &[Type::Mark], "")))
            .into_iter()
            .chain([base("guard", (HookKind::Output, false, 0), vec![Rule::new("", [statement.clone()])])])
            .collect();
        let changes: Vec<Change<'_>> = rows.iter().map(|(key, row)| Change::Set(key, row)).collect();
        let before = Before::default();
        let (steps, _) = super::super::prepare::steps(&changes, &before).unwrap();
        let known = Known { changes: &changes, before: &before, is_certain };
        let refusal = Refusal { errno, text: "refused".into() };
        let guard = Ident::new("guard");
        match of_declaration(&About::Rule(&guard, 0), refusal, &steps, known) {
            Stop::Error(error) => (error.is_disturbance(), error.to_string()),
            Stop::Again => panic!("it is tried again"),
        }
    }

    #[test]
    fn what_the_kernel_lacks_is_told_from_what_somebody_took_away() {
        let asks = Statement::SetMarkFrom(vec![Field::Daddr(weft_model::Family::V4)], Ident::new("marks"));
        let jumps = Statement::Verdict(Verdict::Jump(Ident::new("nowhere")));
        let passes = true;
        let stays = false;
        let (enoent, unsupported) = (libc::ENOENT, libc::EOPNOTSUPP);
        for (errno, statement, there, is_certain, expected) in [
            (enoent, &Statement::Masquerade, None, true, stays),
            (enoent, &Statement::Masquerade, None, false, passes),
            (enoent, &asks, Some("marks"), true, stays),
            (enoent, &asks, Some("others"), true, passes),
            (enoent, &asks, None, true, passes),
            (enoent, &jumps, None, true, passes),
            (unsupported, &Statement::Masquerade, None, false, stays),
            (libc::EINVAL, &Statement::Masquerade, None, true, stays),
        ] {
            let (passing, text) = check(errno, statement, there, is_certain);
            assert_eq!(passing, expected, "{text}");
            assert_eq!(text.contains("lacks"), !passing && errno != libc::EINVAL, "{text}");
        }
        let (_, text) = check(enoent, &Statement::Masquerade, None, true);
        insta::assert_snapshot!(text, @"the kernel lacks what rule 1 of chain guard (masquerade fully-random) needs: No such file or directory (refused); load or build in CONFIG_NFT_MASQ (weft preflight names the modules)");
    }
}
