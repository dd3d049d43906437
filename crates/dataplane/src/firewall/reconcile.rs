//! Looking at all foreign firewalls, and making their openings be the wanted ones.

use std::collections::BTreeSet;
use std::fmt;

use weft_model::Family;
use weft_plan::Opening;

use super::accept::{Accept, Path, wanted};
use super::legacy::{self, BuiltIn};
use super::native::{self, BaseChain};
use crate::filter::FilterError;
use crate::filter::socket::Nfnl;

/// Why foreign firewalls could not be looked at, or not be changed.
#[derive(Debug, thiserror::Error)]
pub enum FirewallError {
    /// nftables can't be asked.
    #[error("can't look at other programs' firewalls: {0}")]
    Netfilter(#[from] FilterError),
}

/// Whose chain it is, in the words of the tool that shows it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum BackEnd {
    /// nftables, iptables-nft's tables among them.
    Nftables {
        /// `ip`, `ip6` or `inet`.
        family: &'static str,
        /// The table.
        table: String,
        /// The chain.
        chain: String,
    },
    /// The older iptables.
    Legacy {
        /// `iptables-legacy` or `ip6tables-legacy`.
        binary: &'static str,
        /// `FORWARD` or `INPUT`.
        chain: &'static str,
    },
}

impl fmt::Display for BackEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BackEnd::Nftables { family, table, chain } => {
                write!(f, "nftables chain {family} {table} {chain}")
            }
            BackEnd::Legacy { binary, chain } => write!(f, "{binary} chain {chain}"),
        }
    }
}

/// A foreign base chain with a drop policy, or with our rules in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForeignFirewall {
    /// Which chain.
    pub place: BackEnd,
    /// Which packets it sees.
    pub path: Path,
    /// Its policy is drop.
    pub drops: bool,
    /// What our rules in it let through.
    pub open: BTreeSet<Accept>,
}

/// What stands in the way and could not be helped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What was found.
    pub what: String,
    /// What to type.
    pub mend: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; {}", self.what, self.mend)
    }
}

/// What a call did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Rules put in.
    pub inserted: usize,
    /// Rules taken out.
    pub removed: usize,
    /// What could not be helped.
    pub findings: Vec<Finding>,
}

fn place(chain: &BaseChain) -> BackEnd {
    BackEnd::Nftables { family: chain.family_name(), table: chain.table.clone(), chain: chain.chain.clone() }
}

fn legacy_place(family: Family, path: Path) -> BackEnd {
    BackEnd::Legacy { binary: legacy::binary(family), chain: path.chain() }
}

/// The built-in chains of the older iptables, as far as its tables exist.
fn built_in() -> Vec<Result<BuiltIn, (Family, Path, String)>> {
    let mut chains = Vec::new();
    for family in Family::ALL.into_iter().filter(|family| legacy::in_use(*family)) {
        for path in [Path::Forward, Path::Input] {
            chains.push(legacy::chain(family, path).map_err(|reason| (family, path, reason)));
        }
    }
    chains
}

/// The firewalls in this thread's network namespace that would drop, or that have our rules.
///
/// # Errors
/// When nftables can't be asked. An older iptables whose binary is missing is left out: [`reconcile`] reports it.
pub fn observe() -> Result<Vec<ForeignFirewall>, FirewallError> {
    let mut found = Vec::new();
    for chain in native::chains(&mut Nfnl::open()?)? {
        let open = chain.ours.iter().map(|(accept, _)| *accept).collect();
        found.push(ForeignFirewall { place: place(&chain), path: chain.path, drops: chain.drops, open });
    }
    for chain in built_in().into_iter().flatten() {
        found.push(ForeignFirewall {
            place: legacy_place(chain.family, chain.path),
            path: chain.path,
            drops: chain.drops,
            open: chain.ours.into_iter().collect(),
        });
    }
    found.retain(|firewall| firewall.drops || !firewall.open.is_empty());
    Ok(found)
}

/// Opens every chain with a drop policy for these, and closes what of ours is no longer wanted or needed. Call it again
/// when another program has changed its rules.
///
/// # Errors
/// When nftables can't be asked; what a single firewall refuses is a finding.
pub fn reconcile(openings: &BTreeSet<Opening>) -> Result<Report, FirewallError> {
    let mut report = Report::default();
    let mut nfnl = Nfnl::open()?;
    for chain in native::chains(&mut nfnl)? {
        let all = wanted(openings, chain.path, chain.families());
        let accepts = if chain.drops { all.clone() } else { BTreeSet::new() };
        match native::open(&mut nfnl, &chain, &accepts)? {
            Ok(changed) => {
                report.inserted += changed.inserted;
                report.removed += changed.removed;
            }
            Err(refusal) => report.findings.push(Finding {
                what: format!("{} has the policy drop, and can't be changed: {refusal}", place(&chain)),
                mend: format!("let its owner accept {}", words(&accepts)),
            }),
        }
        let shut: BTreeSet<Accept> = all.difference(&chain.theirs).copied().collect();
        if chain.drop_rule && !chain.drops && !shut.is_empty() {
            report.findings.push(drop_rule(&chain, &shut));
        }
    }
    for chain in built_in() {
        match chain {
            Ok(chain) => reconcile_legacy(&chain, openings, &mut report),
            Err((family, path, reason)) => unseen(family, path, &reason, openings, &mut report),
        }
    }
    Ok(report)
}

fn reconcile_legacy(chain: &BuiltIn, openings: &BTreeSet<Opening>, report: &mut Report) {
    let all = wanted(openings, chain.path, &[chain.family]);
    let accepts = if chain.drops { all.clone() } else { BTreeSet::new() };
    let place = legacy_place(chain.family, chain.path);
    match legacy::open(chain, &accepts) {
        Ok((inserted, removed)) => {
            report.inserted += inserted;
            report.removed += removed;
        }
        Err(reason) => report.findings.push(Finding {
            what: format!("{place} can't be changed: {reason}"),
            mend: format!("type: {}", commands(chain.family, chain.path, &accepts)),
        }),
    }
    let shut: BTreeSet<Accept> = all.difference(&chain.theirs).copied().collect();
    if chain.drop_rule && !chain.drops && !shut.is_empty() {
        report.findings.push(Finding {
            what: format!("{place} has a rule that drops all that reaches it"),
            mend: format!(
                "if that hits pods or node services, type: {}",
                commands(chain.family, chain.path, &shut)
            ),
        });
    }
}

/// A table of the older iptables exists, and what is in it can't be seen.
fn unseen(family: Family, path: Path, reason: &str, openings: &BTreeSet<Opening>, report: &mut Report) {
    let all = wanted(openings, path, &[family]);
    if all.is_empty() {
        return;
    }
    report.findings.push(Finding {
        what: format!("{} is in use and can't be looked at: {reason}", legacy_place(family, path)),
        mend: format!(
            "where its policy is DROP, type on the node: {}; or let the agent have the node's {}, which its image doesn't",
            commands(family, path, &all),
            legacy::binary(family)
        ),
    });
}

fn drop_rule(chain: &BaseChain, accepts: &BTreeSet<Accept>) -> Finding {
    let first = accepts.iter().next().map(|accept| match accept {
        Accept::From(cidr) if cidr.family() == Family::V4 => format!("ip saddr {cidr}"),
        Accept::From(cidr) => format!("ip6 saddr {cidr}"),
        Accept::To(cidr) if cidr.family() == Family::V4 => format!("ip daddr {cidr}"),
        Accept::To(cidr) => format!("ip6 daddr {cidr}"),
        Accept::Port(protocol, port) => format!("{protocol} dport {port}"),
    });
    Finding {
        what: format!("{} has a rule that drops all that reaches it", place(chain)),
        mend: format!(
            "if that hits pods or node services, let its owner accept {}, for instance: nft insert rule {} {} {} {} accept",
            words(accepts),
            chain.family_name(),
            chain.table,
            chain.chain,
            first.unwrap_or_default()
        ),
    }
}

fn words(accepts: &BTreeSet<Accept>) -> String {
    let word = |accept: &Accept| match accept {
        Accept::From(cidr) => format!("from {cidr}"),
        Accept::To(cidr) => format!("to {cidr}"),
        Accept::Port(protocol, port) => format!("{protocol} port {port}"),
    };
    accepts.iter().map(word).collect::<Vec<_>>().join(", ")
}

fn commands(family: Family, path: Path, accepts: &BTreeSet<Accept>) -> String {
    let command =
        |accept: &Accept| format!("{} -I {} {}", legacy::binary(family), path.chain(), accept.command());
    accepts.iter().map(command).collect::<Vec<_>>().join("; ")
}

/// Removes every rule of ours from foreign firewalls; says how many.
///
/// # Errors
/// When nftables can't be asked.
pub fn remove_all() -> Result<Report, FirewallError> {
    reconcile(&BTreeSet::new())
}
