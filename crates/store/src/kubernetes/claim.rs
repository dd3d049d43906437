//! Which node has which block of pod addresses, where no controller gives them out: one Lease object a block.
//!
//! What always holds: the server makes no two Leases of one name, and [`crate::claiming`] decides between those that overlap. A
//! Lease belongs to its Node's object: the cluster ends it after the Node. Then its block is nobody's until
//! [`Patience::spare`](super::Patience) has passed by the server's clock: as long as the node, which may be cut off from the server, could still
//! rely on it ([`super::hold`]). A node that is there claims it again before that, under the block's other name, and only then lets go of
//! the one that ends: in between no moment comes at which the block is nobody's.

use std::time::{Duration, SystemTime};

use weft_model::{Cidr, Network, NetworkName, NodeName};

use super::client::Failure;
use super::lease::{Changed, Lease, Leases, Naming};
use super::publish::{self, NodeObject};
use crate::claiming::{Another, Standing, Step, Wanted, another, step};
use crate::clock::BootTime;
use crate::store::{Claim, Forgotten, StoreError};

/// Why a block was not claimed.
#[derive(Debug)]
pub(super) enum Unclaimed {
    Failed(Failure),
    /// With so many claims in the block.
    Exhausted(usize),
}

impl From<Failure> for Unclaimed {
    fn from(failure: Failure) -> Self {
        Unclaimed::Failed(failure)
    }
}

/// The node's own claims in a network, and when it began to ask for them.
#[derive(Debug)]
pub(super) struct Held {
    pub asked: BootTime,
    pub cidrs: Vec<Cidr>,
}

/// Who claims, and where claims are.
pub(super) struct Claims<'a> {
    pub leases: Leases<'a>,
    pub node: &'a NodeName,
    /// How long a block is nobody's after its claim has ended.
    pub spare: Duration,
}

impl Claims<'_> {
    fn failed(&self, failure: &Failure) -> StoreError {
        StoreError::Server {
            action: format!("cannot claim a block for node {} ({})", self.node, self.leases.path()),
            reason: failure.to_string(),
        }
    }

    /// The blocks that the cluster has given to the node.
    pub async fn given(&self, network: &Network) -> Result<Claim, StoreError> {
        let there = self.object().await.map_err(|e| self.failed(&e))?.unwrap_or_default();
        let cidrs = given(&there);
        if !network.pod_cidrs.is_empty() && cidrs.is_empty() {
            return Err(StoreError::Server {
                action: format!("node {} has no spec.podCIDRs yet", self.node),
                reason: "the cluster's controller gives them (kube-controller-manager --allocate-node-cidrs); \
                         where there is none, set `allocate: true` for the network in store.kubernetes.networks"
                    .into(),
            });
        }
        Ok(Claim { cidrs, unfit: Vec::new() })
    }

    /// The node's blocks, those that are given and those that it claims.
    pub async fn claim(&self, network: &Network, in_use: &[Cidr]) -> Result<(Claim, Held), StoreError> {
        let mut result = Claim::default();
        let mut claimed = Vec::new();
        if !network.pod_cidrs.is_empty() {
            let object = self.object().await.map_err(|e| self.failed(&e))?;
            let given = given_in(network, object.as_ref());
            for block in &network.pod_cidrs {
                if let Some(cidr) = given.iter().find(|c| c.family() == block.family()) {
                    result.cidrs.push(*cidr);
                    continue;
                }
                let wanted = Wanted::of(network, *block, self.node.as_str(), in_use);
                let cidr =
                    self.obtain(&network.name, &wanted, object.as_ref()).await.map_err(|e| match e {
                        Unclaimed::Failed(failure) => self.failed(&failure),
                        Unclaimed::Exhausted(taken) => self.exhausted(network, *block, taken),
                    })?;
                claimed.push(cidr);
                result.cidrs.push(cidr);
            }
        }
        if claimed.is_empty() {
            return Ok((result, Held { asked: BootTime::now(), cidrs: claimed }));
        }
        let held = self.held(&network.name).await.map_err(|e| self.failed(&e))?;
        self.check_held(&claimed, &held)?;
        let counts = |cidr: &Cidr| claimed.iter().any(|claimed| claimed.family() == cidr.family());
        let (own, idle): (Vec<Cidr>, Vec<Cidr>) = held.cidrs.iter().partition(|cidr| counts(cidr));
        result.add(network, own);
        // The cluster gives the node blocks of this family by now.
        result.unfit.extend(idle);
        Ok((result, held))
    }

    /// Another share, for a node whose shares of a family are `full`; and when the server was asked that confirmed it.
    pub async fn another(
        &self,
        network: &Network,
        full: &[Cidr],
        in_use: &[Cidr],
    ) -> Result<(Cidr, BootTime), StoreError> {
        let not_ours =
            || StoreError::BlocksGiven { network: network.name.to_string(), node: self.node.clone() };
        let object = self.object().await.map_err(|e| self.failed(&e))?;
        let given = given_in(network, object.as_ref());
        let is_given = full.iter().any(|full| given.iter().any(|given| given.family() == full.family()));
        let held = self.held(&network.name).await.map_err(|e| self.failed(&e))?;
        let place = another(&held.cidrs, network, full).filter(|_| !is_given);
        let blocks = match place.ok_or_else(not_ours)? {
            Another::Has(cidr) => return Ok((cidr, held.asked)),
            Another::In(blocks) => blocks,
        };
        let mut exhausted = not_ours();
        for block in blocks {
            let wanted = Wanted { full, ..Wanted::of(network, block, self.node.as_str(), in_use) };
            let cidr = match self.obtain(&network.name, &wanted, object.as_ref()).await {
                Ok(cidr) => cidr,
                Err(Unclaimed::Failed(failure)) => return Err(self.failed(&failure)),
                Err(Unclaimed::Exhausted(taken)) => {
                    exhausted = self.exhausted(network, block, taken);
                    continue;
                }
            };
            let held = self.held(&network.name).await.map_err(|e| self.failed(&e))?;
            self.check_held(&[cidr], &held)?;
            return Ok((cidr, held.asked));
        }
        Err(exhausted)
    }

    /// An error where a claim is gone that was just made.
    fn check_held(&self, claimed: &[Cidr], held: &Held) -> Result<(), StoreError> {
        match claimed.iter().find(|cidr| !held.cidrs.contains(cidr)) {
            Some(cidr) => {
                let text = format!("the claim of {cidr} was taken away as soon as it was made");
                Err(self.failed(&Failure::Lost(text)))
            }
            None => Ok(()),
        }
    }

    fn exhausted(&self, network: &Network, block: Cidr, taken: usize) -> StoreError {
        StoreError::BlocksExhausted {
            network: network.name.to_string(),
            node: self.node.clone(),
            block,
            taken,
        }
    }

    pub async fn object(&self) -> Result<Option<NodeObject>, Failure> {
        publish::read(self.leases.client, self.node).await
    }

    /// Claims a block again that was taken away; false where another node has it, or a part of it.
    pub async fn claim_again(&self, network: &NetworkName, cidr: Cidr) -> Result<bool, Failure> {
        let node = self.node.as_str();
        let (share, none) = (cidr.prefix(), &[][..]);
        let wanted =
            Wanted { node, block: cidr, share, busy: none, elsewhere: none, before: none, full: &[] };
        let object = self.object().await?;
        match self.obtain(network, &wanted, object.as_ref()).await {
            Ok(_) => Ok(true),
            Err(Unclaimed::Exhausted(_)) => Ok(false),
            Err(Unclaimed::Failed(failure)) => Err(failure),
        }
    }

    /// All blocks of a network that the node may rely on.
    async fn held(&self, network: &NetworkName) -> Result<Held, Failure> {
        let asked = BootTime::now();
        let (leases, _) = self.leases.list(Some(network)).await?;
        let own = leases.into_iter().filter(|lease| lease.is_relied_on_by(self.node));
        Ok(Held { asked, cidrs: own.map(|lease| lease.claim.cidr).collect() })
    }

    /// A share of a block: the one that the node has, or a free one. `object` is its Node.
    pub async fn obtain(
        &self,
        network: &NetworkName,
        wanted: &Wanted<'_>,
        object: Option<&NodeObject>,
    ) -> Result<Cidr, Unclaimed> {
        let uid = object.map_or("", |node| &node.metadata.uid);
        if uid.is_empty() {
            // A claim that belongs to nothing would never end.
            let text = "the cluster has no such Node yet: the kubelet registers it; is `node` its name?";
            return Err(Failure::Lost(text.into()).into());
        }
        let (mut busy, mut before) = (wanted.busy.to_vec(), wanted.before.to_vec());
        let mut fruitless = 0_u32;
        loop {
            let (leases, now) = self.leases.list(None).await?;
            if self.free_what_is_over(&leases, now).await? == Changed::Done {
                continue;
            }
            let (leases, others): (Vec<Lease>, Vec<Lease>) =
                leases.into_iter().partition(|lease| lease.network == *network);
            let elsewhere: Vec<Cidr> = others.iter().map(|lease| lease.claim.cidr).collect();
            // Those of its own that end keep others away, and are no reason not to claim the same again.
            let (ending, lasting): (Vec<&Lease>, Vec<&Lease>) =
                leases.iter().partition(|lease| lease.is_ending_for(self.node));
            for cidr in ending.iter().map(|lease| lease.claim.cidr) {
                let known = if cidr.prefix() == wanted.share { &mut before } else { &mut busy };
                if !known.contains(&cidr) {
                    known.push(cidr);
                }
            }
            let claims: Vec<_> = lasting.iter().map(|lease| lease.claim.clone()).collect();
            let about = |cidr| lasting.iter().copied().find(|lease| lease.claim.cidr == cidr);
            let next =
                step(&claims, &Wanted { busy: &busy, elsewhere: &elsewhere, before: &before, ..*wanted });
            let done = match (next, next_cidr(next).and_then(about)) {
                (Step::Keep(cidr), Some(lease)) if lease.owner == uid => {
                    for over in ending.iter().filter(|lease| lease.claim.cidr == cidr) {
                        self.leases.release(over).await?;
                    }
                    return Ok(cidr);
                }
                (Step::Keep(_) | Step::Confirm(_), Some(lease)) => {
                    self.leases.confirm(lease, self.node, uid).await?
                }
                (Step::Back(_), Some(lease)) => {
                    self.leases.remove(lease).await?;
                    // Another node claimed a share of another size: both may step back, and come again at other times.
                    Changed::Meanwhile
                }
                (Step::Take(cidr), _) => {
                    let named = |naming| {
                        ending.iter().find(|lease| (lease.claim.cidr, lease.naming) == (cidr, naming))
                    };
                    match (named(Naming::First), named(Naming::Second)) {
                        // The other one keeps the block.
                        (Some(first), Some(_)) => self.leases.release(first).await?,
                        (Some(_), None) => self.make(network, (cidr, Naming::Second), uid, &mut busy).await?,
                        (None, _) => self.make(network, (cidr, Naming::First), uid, &mut busy).await?,
                    }
                }
                (Step::Exhausted(taken), _) => return Err(Unclaimed::Exhausted(taken)),
                // `step` names only what it was given.
                (_, None) => Changed::Meanwhile,
            };
            if done == Changed::Meanwhile {
                fruitless += 1;
                let pause = Duration::from_millis(u64::from((fruitless * 20).min(500)));
                tokio::time::sleep(pause.mul_f64(0.5 + fastrand::f64())).await;
            }
        }
    }

    /// Makes a claim; a block whose name is taken by something else is noted as busy.
    async fn make(
        &self,
        network: &NetworkName,
        named: (Cidr, Naming),
        uid: &str,
        busy: &mut Vec<Cidr>,
    ) -> Result<Changed, Failure> {
        let made = self.leases.create(network, named, self.node, uid).await?;
        // A claim that was made first is seen at the next look, if it is still there.
        if made == Changed::Meanwhile && self.leases.is_foreign(network, named).await? {
            busy.push(named.0);
        }
        Ok(made)
    }

    /// Lets go of other nodes' claims that ended so long ago that nobody relies on them, by the clock that noted their ends: this
    /// machine's may be hours ahead.
    async fn free_what_is_over(&self, leases: &[Lease], now: Option<SystemTime>) -> Result<Changed, Failure> {
        let mut result = Changed::Meanwhile;
        let Some(now) = now else { return Ok(result) };
        let is_others = |lease: &&Lease| lease.claim.node != self.node.as_str();
        for lease in leases.iter().filter(is_others) {
            let age = lease.ended.and_then(|ended| now.duration_since(ended).ok());
            if age.is_some_and(|age| age > self.spare) && lease.claim.standing == Standing::Confirmed {
                result = self.leases.release(lease).await?;
            }
        }
        Ok(result)
    }

    /// How long the node may rely on its claims, at most, where it does so for `held` after it has looked at them. While its kubelet is heard
    /// of, and where the server doesn't say what time it is, that may have been just now.
    pub async fn relied_on_for(&self, held: Duration) -> Result<Option<Duration>, Failure> {
        let (leases, now) = self.leases.list(None).await?;
        let confirmed = leases
            .iter()
            .filter(|l| l.claim.node == self.node.as_str() && l.claim.standing == Standing::Confirmed);
        let mut confirmed = confirmed.peekable();
        if confirmed.peek().is_none() {
            return Ok(None);
        }
        let object = self.object().await?;
        let unheard = object.as_ref().and_then(NodeObject::unheard_since);
        let since = confirmed.map(|lease| lease.ended.or(unheard));
        let left = since.map(|since| match (since, now) {
            (Some(since), Some(now)) => held.saturating_sub(now.duration_since(since).unwrap_or_default()),
            _ => held,
        });
        Ok(left.max().filter(|left| !left.is_zero()))
    }

    /// Removes every claim of the node, in every network.
    pub async fn forget(&self) -> Result<Forgotten, Failure> {
        let mut forgotten = Forgotten::Nothing;
        loop {
            let (leases, _) = self.leases.list(None).await?;
            let is_there = |lease: &&Lease| {
                let is_over = lease.claim.standing == Standing::Made && lease.ended.is_some();
                lease.claim.node == self.node.as_str() && !is_over
            };
            let mut own = leases.iter().filter(is_there).peekable();
            if own.peek().is_none() {
                return Ok(forgotten);
            }
            forgotten = Forgotten::Something;
            for lease in own {
                match lease.claim.standing {
                    Standing::Confirmed => self.leases.release(lease).await?,
                    Standing::Made => self.leases.remove(lease).await?,
                };
            }
        }
    }
}

/// The block that a step is about.
fn next_cidr(next: Step) -> Option<Cidr> {
    match next {
        Step::Keep(cidr) | Step::Confirm(cidr) | Step::Back(cidr) => Some(cidr),
        Step::Take(_) | Step::Exhausted(_) => None,
    }
}

fn given(node: &NodeObject) -> Vec<Cidr> {
    node.spec.pod_cidrs.iter().filter_map(|text| text.parse().ok()).collect()
}

/// The blocks of a network that the cluster has given to the node: those of the network `default` alone can be.
fn given_in(network: &Network, node: Option<&NodeObject>) -> Vec<Cidr> {
    match network.name == NetworkName::ordinary() {
        true => node.map(given).unwrap_or_default(),
        false => Vec::new(),
    }
}
