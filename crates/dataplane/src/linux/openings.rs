//! Openings in other programs' firewalls, as rows.
//!
//! An opening is there when every chain that would drop lets it through; without such a chain it is there by itself.

use std::collections::BTreeSet;

use weft_model::Family;
use weft_plan::{KernelKey, KernelRow, Opening};

use super::LinuxKernel;
use super::observe::Wanted;
use crate::KernelError;
use crate::firewall::{self, Accept, BackEnd, Finding, FirewallError, ForeignFirewall, Path};
use crate::kernel::{Effect, Observation, Op};

impl From<FirewallError> for KernelError {
    fn from(error: FirewallError) -> Self {
        KernelError::Firewall(error.to_string())
    }
}

impl LinuxKernel {
    /// What of foreign firewalls stood in the way when openings were last applied, and what to type.
    pub fn findings(&self) -> &[Finding] {
        &self.findings
    }

    /// Opens and closes for all changes of the run at once.
    pub(super) fn apply_openings(&mut self, run: &[Op<'_>]) -> Vec<Result<Effect, KernelError>> {
        match self.reconcile(run) {
            Ok(firewalls) => run
                .iter()
                .map(|op| match op {
                    Op::Set { key: KernelKey::Opening(opening), .. } if !is_open(opening, &firewalls) => {
                        Err(KernelError::Firewall(format!(
                            "{opening} is still shut by a policy of drop{}",
                            self.findings.iter().map(|f| format!("; {f}")).collect::<String>()
                        )))
                    }
                    _ => Ok(Effect::Done),
                })
                .collect(),
            Err(error) => run.iter().map(|_| Err(error.clone())).collect(),
        }
    }

    fn reconcile(&mut self, run: &[Op<'_>]) -> Result<Vec<ForeignFirewall>, KernelError> {
        let mut openings = match self.openings.take() {
            Some(known) => known,
            None => ours(&firewall::observe()?),
        };
        for op in run {
            match (op.key(), op) {
                (KernelKey::Opening(opening), Op::Set { .. }) => openings.insert(*opening),
                (KernelKey::Opening(opening), Op::Remove { .. }) => openings.remove(opening),
                _ => false,
            };
        }
        let report = firewall::reconcile(&openings)?;
        self.findings = report.findings;
        self.openings = Some(openings);
        Ok(firewall::observe()?)
    }

    /// Adds the openings that are there: the wanted ones that nothing shuts, and all that have rules of ours.
    pub(super) fn see_openings(
        &mut self,
        wanted: Wanted<'_>,
        seen: &mut Observation,
    ) -> Result<(), KernelError> {
        let firewalls = firewall::observe()?;
        let ours = ours(&firewalls);
        let planned: BTreeSet<Opening> = wanted
            .iter()
            .flat_map(|rows| rows.iter())
            .filter_map(|(key, _)| match key {
                KernelKey::Opening(opening) => Some(*opening),
                _ => None,
            })
            .collect();
        let needless: BTreeSet<Opening> = firewalls
            .iter()
            .filter(|firewall| !firewall.drops)
            .flat_map(|firewall| firewall.open.iter().map(opening_of))
            .collect();
        for opening in planned.iter().filter(|o| is_open(o, &firewalls)).chain(&ours) {
            let key = KernelKey::Opening(*opening);
            if needless.contains(opening) {
                let why = "it is open in a chain that no longer drops".to_owned();
                seen.damaged.insert(key.clone(), why);
            }
            seen.rows.insert(key, KernelRow::Opening);
        }
        for shut in planned.iter().filter(|o| !is_open(o, &firewalls)) {
            // Open in one chain, shut in another.
            seen.rows.remove(&KernelKey::Opening(*shut));
        }
        // What is no longer wanted goes when a row's removal says so: which there are isn't known to a partial plan.
        self.openings = Some(planned.union(&ours).copied().collect());
        Ok(())
    }
}

/// The opening that one of our rules belongs to.
fn opening_of(accept: &Accept) -> Opening {
    match accept {
        Accept::From(cidr) | Accept::To(cidr) => Opening::Forward(*cidr),
        Accept::Port(protocol, port) => Opening::Input(*protocol, *port),
    }
}

fn ours(firewalls: &[ForeignFirewall]) -> BTreeSet<Opening> {
    firewalls.iter().flat_map(|firewall| firewall.open.iter().map(opening_of)).collect()
}

/// True where every chain that drops lets it through.
fn is_open(opening: &Opening, firewalls: &[ForeignFirewall]) -> bool {
    firewalls.iter().filter(|firewall| firewall.drops).all(|firewall| match (opening, firewall.path) {
        (Opening::Forward(cidr), Path::Forward) => {
            !sees(&firewall.place, cidr.family())
                || [Accept::From(*cidr), Accept::To(*cidr)]
                    .iter()
                    .all(|accept| firewall.open.contains(accept))
        }
        (Opening::Input(protocol, port), Path::Input) => {
            firewall.open.contains(&Accept::Port(*protocol, *port))
        }
        _ => true,
    })
}

/// Whether a chain sees packets of a family.
fn sees(place: &BackEnd, family: Family) -> bool {
    let name = match place {
        BackEnd::Nftables { family, .. } => family,
        BackEnd::Legacy { binary, .. } => binary,
    };
    match family {
        Family::V4 => !name.starts_with("ip6"),
        Family::V6 => name.starts_with("ip6") || *name == "inet",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn firewall(family: &'static str, open: &[Accept]) -> ForeignFirewall {
        ForeignFirewall {
            place: BackEnd::Nftables { family, table: "filter".into(), chain: "FORWARD".into() },
            path: Path::Forward,
            drops: true,
            open: open.iter().copied().collect(),
        }
    }

    #[test]
    fn open_means_open_in_every_chain_that_drops() {
        let cidr = "10.244.0.0/16".parse().unwrap();
        let opening = Opening::Forward(cidr);
        let both = [Accept::From(cidr), Accept::To(cidr)];
        assert!(is_open(&opening, &[]));
        assert!(!is_open(&opening, &[firewall("ip", &both[..1])]));
        assert!(is_open(&opening, &[firewall("ip", &both), firewall("ip6", &[])]));
        assert!(!is_open(&opening, &[firewall("ip", &both), firewall("inet", &[])]));
    }
}
