//! How long this node may rely on its claims.
//!
//! What always holds: a claim that was found counts for [`Patience::held`](super::Patience) from *before* the server was asked, by a clock
//! that nobody can set. A claim that ends stays in its place for longer than that ([`super::claim`]). So when a block becomes
//! anybody's, the node that had it has known for a while that it will, and gives out none of its addresses. A claim that was
//! taken away is made again, where the block is still free; where it isn't, the node says so, no longer publishes the block, and is given
//! another when it asks.
//!
//! What is absent: what a node does that relies on nothing any more (the agent).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use weft_model::{Cidr, NetworkName, NodeName};

use super::backoff::Backoff;
use super::claim::{Claims, Held};
use super::client::{Client, Failure};
use super::lease::{self, Leases};
use super::publish;
use super::{KubernetesOptions, Patience};
use crate::clock::BootTime;
use crate::store::{Hold, PublishedNode};

type Block = (NetworkName, Cidr);

/// See the module.
#[derive(Debug)]
pub(super) struct Holds {
    node: NodeName,
    namespace: String,
    patience: Patience,
    state: Mutex<State>,
    /// Held by whoever changes what is at the server.
    turn: tokio::sync::Mutex<()>,
    told: watch::Sender<Hold>,
}

#[derive(Debug, Default)]
struct State {
    /// The node's claims, and when the server was asked that confirmed them last.
    claims: BTreeMap<Block, BootTime>,
    /// All claims of the node have been looked for.
    is_known: bool,
    /// Blocks whose claims are gone, and are being made again: anybody may come first.
    missing: BTreeSet<Block>,
    /// Blocks that went to other nodes; those of a network are forgotten when it gets another.
    lost: BTreeSet<Block>,
}

impl State {
    fn hold(&self, held: Duration) -> Hold {
        if let Some((network, cidr)) = self.lost.first() {
            return Hold::Lapsed(format!(
                "the claim of {cidr} in network {network} ended while this node's Node object was gone, and another node has the \
                 block now; pods here that have addresses of it must be made anew"
            ));
        }
        if let Some((network, cidr)) = self.missing.first() {
            return Hold::Lapsed(format!(
                "the claim of {cidr} in network {network} is gone, and is being made again"
            ));
        }
        if !self.is_known {
            let text = "the API server has not confirmed this node's blocks since the agent started";
            return Hold::Lapsed(text.into());
        }
        self.claims.values().min().map_or(Hold::Unbound, |asked| Hold::Until(*asked + held))
    }
}

impl Holds {
    pub fn of(options: &KubernetesOptions) -> Self {
        let state = State::default();
        let told = watch::Sender::new(state.hold(options.patience.held));
        Self {
            node: options.node.clone(),
            namespace: options.namespace.to_string(),
            patience: options.patience,
            state: Mutex::new(state),
            turn: tokio::sync::Mutex::default(),
            told,
        }
    }

    /// What the node may rely on, as it is and as it changes.
    pub fn subscribe(&self) -> watch::Receiver<Hold> {
        self.told.subscribe()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.state();
        change(&mut state);
        let hold = state.hold(self.patience.held);
        self.told.send_if_modified(|told| {
            let differs = *told != hold;
            *told = hold;
            differs
        });
    }

    /// Notes all claims of a network, which were just made or found.
    pub fn set(&self, network: &NetworkName, held: &Held) {
        self.change(|state| {
            state.claims.retain(|(name, _), _| name != network);
            state.claims.extend(held.cidrs.iter().map(|cidr| ((network.clone(), *cidr), held.asked)));
            state.lost.retain(|(name, _)| name != network);
            state.missing.retain(|(name, _)| name != network);
        });
    }

    /// Notes a claim that was just made or found, beside the others, and when the server was asked that confirmed it.
    pub fn add(&self, network: &NetworkName, cidr: Cidr, asked: BootTime) {
        self.change(|state| {
            state.claims.insert((network.clone(), cidr), asked);
        });
    }

    /// Forgets all claims, and makes none again while the guard lasts.
    pub async fn forget(&self) -> tokio::sync::MutexGuard<'_, ()> {
        let turn = self.turn.lock().await;
        self.change(|state| {
            state.claims.clear();
            state.lost.clear();
            state.missing.clear();
        });
        turn
    }

    /// Why this must not be published: it names a block that another node has.
    pub fn refusal(&self, said: &PublishedNode) -> Option<String> {
        let state = self.state();
        let mut blocks = said.pod_cidrs.iter().filter(|_| said.name == self.node);
        let lost = blocks.find(|b| state.lost.contains(&(b.network.clone(), b.cidr)))?;
        Some(format!("its block {} of network {} is another node's now", lost.cidr, lost.network))
    }

    /// Looks at the claims again and again, for as long as the runtime lasts.
    pub async fn keep(self: Arc<Self>, client: Arc<Client>) {
        let mut backoff = Backoff::new(self.patience.first_pause, self.patience.longest_pause);
        loop {
            let pause = match tokio::time::timeout(self.patience.request, self.look(&client)).await {
                Ok(Ok(())) => {
                    backoff.reset();
                    self.patience.look.mul_f64(0.75 + 0.5 * fastrand::f64())
                }
                Ok(Err(failure)) => {
                    tracing::debug!("cannot look at the claims of node {}: {failure}", self.node);
                    backoff.next(None)
                }
                Err(_) => backoff.next(None),
            };
            tokio::time::sleep(pause).await;
        }
    }

    async fn look(&self, client: &Client) -> Result<(), Failure> {
        let _turn = self.turn.lock().await;
        let leases = Leases { client, namespace: &self.namespace };
        if !self.state().is_known {
            let asked = BootTime::now();
            let (there, _) = leases.list(None).await?;
            let own = there.into_iter().filter(|lease| lease.is_relied_on_by(&self.node));
            let own: Vec<Block> = own.map(|lease| (lease.network, lease.claim.cidr)).collect();
            self.change(|state| {
                state.is_known = true;
                for block in own {
                    state.claims.entry(block).or_insert(asked);
                }
            });
            return Ok(());
        }
        let blocks: Vec<Block> = self.state().claims.keys().cloned().collect();
        for (network, cidr) in blocks {
            self.look_at(leases, network, cidr).await?;
        }
        let is_lost =
            |network: &NetworkName, cidr: &Cidr| self.state().lost.contains(&(network.clone(), *cidr));
        if self.state().lost.is_empty() {
            return Ok(());
        }
        // The agent hears that the node has no block, and asks for one.
        publish::withdraw(client, &self.node, is_lost).await
    }

    async fn look_at(&self, leases: Leases<'_>, network: NetworkName, cidr: Cidr) -> Result<(), Failure> {
        let asked = BootTime::now();
        let held = leases.held(&network, cidr, &self.node).await?;
        if held != lease::Held::Firmly {
            tracing::warn!("the claim of {cidr} in network {network} was taken away; making it again");
            let block = (network.clone(), cidr);
            if held == lease::Held::Not {
                self.change(|state| {
                    if state.claims.contains_key(&block) {
                        state.missing.insert(block.clone());
                    }
                });
            }
            let claims = Claims { leases, node: &self.node, spare: self.patience.spare };
            let is_ours = claims.claim_again(&network, cidr).await?;
            self.change(|state| {
                state.missing.remove(&block);
                if !is_ours && state.claims.remove(&block).is_some() {
                    state.lost.insert(block);
                }
            });
            if !is_ours {
                return Ok(());
            }
        }
        self.change(|state| {
            // It may have been given up meanwhile.
            if let Some(confirmed) = state.claims.get_mut(&(network, cidr)) {
                *confirmed = asked;
            }
        });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_look_counts_and_what_is_lost_more() {
        let block = |text: &str| (NetworkName::ordinary(), text.parse::<Cidr>().unwrap());
        let at = |seconds| BootTime::at(Duration::from_secs(seconds));
        let held = Duration::from_secs(600);
        let mut state = State::default();
        assert!(matches!(state.hold(held), Hold::Lapsed(text) if text.contains("not confirmed")));
        state.is_known = true;
        assert_eq!(state.hold(held), Hold::Unbound);
        state.claims.insert(block("10.244.0.0/24"), at(100));
        state.claims.insert(block("fd00::/64"), at(40));
        assert_eq!(state.hold(held), Hold::Until(at(640)));
        state.missing.insert(block("fd00::/64"));
        assert!(matches!(state.hold(held), Hold::Lapsed(text) if text.contains("fd00::/64")));
        state.missing.clear();
        state.lost.insert(block("10.244.9.0/24"));
        assert!(matches!(state.hold(held), Hold::Lapsed(text) if text.contains("10.244.9.0/24")));
    }
}
