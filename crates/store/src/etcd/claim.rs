//! Which node has which block of pod addresses, decided by etcd's transactions.
//!
//! What always holds: a claim is made only where its key isn't there. Of two claims that overlap (shares of different sizes, while nodes
//! see different versions of the network, or of two networks) the one that was made first stands, by etcd's own order; the other is taken
//! back before anybody relies on it. A claim counts only under its node's present lease: one that still stands under an earlier lease, which
//! may end at any moment, is put under the present one first.

use std::time::Duration;

use serde_json::json;
use weft_model::{Cidr, Network, NetworkName, NodeName};

use super::client::Failure;
use super::session::{Around, Session};
use super::wire::{self, Transacted};
use crate::blocks::{lowest_free, share_of};
use crate::claiming::{Another, another};
use crate::store::{Claim, Forgotten, StoreError};

/// Claimers that were beaten look for a share among this many, so that many at once don't all try the same one again.
const SPREAD: usize = 64;

/// Between attempts to claim a block again that goes away as it is claimed.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);

/// A claim that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Claimed {
    network: NetworkName,
    cidr: Cidr,
    node: String,
    made: i64,
    /// It stands under another lease than its node's present one. Of other networks' claims it isn't known.
    is_ending: bool,
}

/// Why a block was not claimed.
#[derive(Debug)]
pub(super) enum Unclaimed {
    Failed(Failure),
    Exhausted(StoreError),
}

impl From<Failure> for Unclaimed {
    fn from(failure: Failure) -> Self {
        Unclaimed::Failed(failure)
    }
}

/// The node's blocks in a network. The caller has the session's turn.
pub(super) async fn claim(
    around: &Around,
    session: &Session,
    network: &Network,
    in_use: &[Cidr],
) -> Result<Claim, Unclaimed> {
    let mut claims = standing(around, session, &network.name).await?;
    let is_own = |c: &Claimed| is_own(c, session, &network.name);
    let mut result = Claim::default();
    for block in &network.pod_cidrs {
        let share = share_of(network, block.family());
        let fits =
            |c: &&Claimed| is_own(c) && c.cidr.prefix() == share && block.net().contains(&c.cidr.net());
        let own = claims.iter().find(fits).map(|c| c.cidr);
        let cidr = match own {
            Some(cidr) => cidr,
            None => take(around, session, network, *block, in_use, &mut claims).await?,
        };
        result.cidrs.push(cidr);
    }
    let own = own(&claims, session, &network.name);
    result.add(network, own.iter().copied());
    session.set_claims(&network.name, &own);
    Ok(result)
}

/// Another share for a node whose shares of a family are `full`. The caller has the session's turn.
pub(super) async fn claim_another(
    around: &Around,
    session: &Session,
    network: &Network,
    (full, in_use): (&[Cidr], &[Cidr]),
) -> Result<Cidr, Unclaimed> {
    let given = || StoreError::BlocksGiven { network: network.name.to_string(), node: session.node.clone() };
    let mut claims = standing(around, session, &network.name).await?;
    let place = another(&own(&claims, session, &network.name), network, full);
    let blocks = match place.ok_or_else(|| Unclaimed::Exhausted(given()))? {
        Another::Has(cidr) => {
            session.note_claim(network.name.clone(), cidr);
            return Ok(cidr);
        }
        Another::In(blocks) => blocks,
    };
    let mut exhausted = given();
    for block in blocks {
        match take(around, session, network, block, in_use, &mut claims).await {
            Ok(cidr) => {
                session.note_claim(network.name.clone(), cidr);
                return Ok(cidr);
            }
            Err(Unclaimed::Exhausted(error)) => exhausted = error,
            failed => return failed,
        }
    }
    Err(Unclaimed::Exhausted(exhausted))
}

/// True for a claim in the network of the session's node that stands under its present lease.
fn is_own(claim: &Claimed, session: &Session, network: &NetworkName) -> bool {
    claim.network == *network && claim.node == session.node.as_str() && !claim.is_ending
}

fn own(claims: &[Claimed], session: &Session, network: &NetworkName) -> Vec<Cidr> {
    claims.iter().filter(|c| is_own(c, session, network)).map(|c| c.cidr).collect()
}

/// All claims that stand, in whichever network: what this node's own in `network` have lost against earlier ones is taken back.
async fn standing(
    around: &Around,
    session: &Session,
    network: &NetworkName,
) -> Result<Vec<Claimed>, Failure> {
    let mut claims = list(around, session, network).await?;
    let is_lost = |c: &&Claimed| is_own(c, session, network) && is_beaten(c, &claims);
    let beaten: Vec<Cidr> = claims.iter().filter(is_lost).map(|c| c.cidr).collect();
    for cidr in beaten {
        // Whoever made it ended before it took it back. Nobody has relied on it.
        take_back(around, &session.node, network, cidr).await?;
        claims.retain(|c| c.cidr != cidr || !is_own(c, session, network));
    }
    Ok(claims)
}

/// Takes the lowest free share of `block`.
async fn take(
    around: &Around,
    session: &Session,
    network: &Network,
    block: Cidr,
    in_use: &[Cidr],
    claims: &mut Vec<Claimed>,
) -> Result<Cidr, Unclaimed> {
    let share = share_of(network, block.family());
    let mut beaten = 0;
    loop {
        let busy: Vec<Cidr> = claims.iter().map(|c| c.cidr).chain(in_use.iter().copied()).collect();
        let Some(cidr) = free_share(block, share, busy.clone(), beaten) else {
            return Err(Unclaimed::Exhausted(StoreError::BlocksExhausted {
                network: network.name.to_string(),
                node: session.node.clone(),
                block,
                taken: busy.iter().filter(|c| c.overlaps(&block)).count(),
            }));
        };
        let is_ours = create(around, &session.node, session.lease(), &network.name, cidr).await?;
        *claims = list(around, session, &network.name).await?;
        let is_it =
            |c: &Claimed| c.network == network.name && c.cidr == cidr && c.node == session.node.as_str();
        match claims.iter().find(|c| is_it(c)) {
            Some(own) if is_ours && !is_beaten(own, claims) => return Ok(cidr),
            Some(_) if is_ours => {
                take_back(around, &session.node, &network.name, cidr).await?;
                claims.retain(|c| !is_it(c));
            }
            _ => {}
        }
        beaten += 1;
    }
}

/// The lowest free share; for one that was beaten, any of the next few.
fn free_share(block: Cidr, share: u8, mut busy: Vec<Cidr>, beaten: usize) -> Option<Cidr> {
    let mut found = lowest_free(block, share, &busy)?;
    for _ in 0..fastrand::usize(..=(beaten * 4).min(SPREAD)) {
        busy.push(found);
        let Some(next) = lowest_free(block, share, &busy) else { break };
        found = next;
    }
    Some(found)
}

/// True where an overlapping claim was made before.
fn is_beaten(own: &Claimed, claims: &[Claimed]) -> bool {
    let is_other = |c: &&Claimed| (&c.network, c.cidr) != (&own.network, own.cidr);
    claims.iter().filter(is_other).any(|c| c.cidr.overlaps(&own.cidr) && c.made < own.made)
}

/// All claims; the node's own in `network` are put under its lease.
async fn list(around: &Around, session: &Session, network: &NetworkName) -> Result<Vec<Claimed>, Failure> {
    let mut claims = Vec::new();
    for kv in around.list(&around.keys.all_blocks()).await? {
        let Some((of, cidr)) = kv.key().and_then(|key| around.keys.claimed(key)) else { continue };
        // A claim without a name is nobody's that we know of; it is left alone, like any other node's.
        let node = kv.text();
        let is_own = of == *network && node == session.node.as_str();
        let is_ending = is_own && !around.bring_under(session.lease(), &kv).await?;
        claims.push(Claimed { network: of, cidr, node, made: kv.create_revision, is_ending });
    }
    Ok(claims)
}

/// Makes the claim's key where there is none. False where somebody was first.
async fn create(
    around: &Around,
    node: &NodeName,
    lease: i64,
    network: &NetworkName,
    cidr: Cidr,
) -> Result<bool, Failure> {
    let key = around.keys.block(network, cidr);
    let put = json!({ "request_put": wire::put(&key, node.as_str().as_bytes(), lease) });
    let get = json!({ "request_range": wire::get(&key) });
    let question = wire::txn(&[wire::is_absent(&key)], &[put], &[get]);
    let answer: Transacted = around.client.ask(wire::TXN, &question).await?;
    // An attempt whose answer was lost may have gone well: under this lease only this node writes.
    Ok(answer.succeeded || answer.found().any(|kv| kv.lease == lease && kv.text() == node.as_str()))
}

async fn take_back(
    around: &Around,
    node: &NodeName,
    network: &NetworkName,
    cidr: Cidr,
) -> Result<(), Failure> {
    let key = around.keys.block(network, cidr);
    let delete = json!({ "request_delete_range": wire::get(&key) });
    let question = wire::txn(&[wire::holds(&key, node.as_str())], &[delete], &[]);
    around.client.ask::<Transacted>(wire::TXN, &question).await.map(drop)
}

/// Claims a block again that ended with its lease, or is about to. False where another node has it, or a part of it.
pub(super) async fn claim_again(
    around: &Around,
    session: &Session,
    lease: i64,
    network: &NetworkName,
    cidr: Cidr,
) -> Result<bool, Failure> {
    let node = &session.node;
    let mut rounds = 0_u32;
    loop {
        if session.is_over() {
            return Err(Failure::Away("the session is over".to_owned()));
        }
        if rounds > 0 {
            // Somebody takes it away again and again.
            tokio::time::sleep((FIRST_PAUSE * rounds).min(LONGEST_PAUSE)).await;
        }
        rounds += 1;
        if !create(around, node, lease, network, cidr).await? {
            match around.get(&around.keys.block(network, cidr)).await? {
                Some(kv) if kv.text() != node.as_str() => return Ok(false),
                Some(kv) if around.bring_under(lease, &kv).await? => {}
                // It has ended just now.
                _ => continue,
            }
        }
        let claims = list_under(around, lease).await?;
        let is_it = |c: &&Claimed| c.network == *network && c.cidr == cidr && c.node == node.as_str();
        match claims.iter().find(|c| is_it(c) && !c.is_ending) {
            // Taken away since it was made, which says nothing of who has it.
            None => continue,
            Some(own) if !is_beaten(own, &claims) => return Ok(true),
            Some(_) => {
                take_back(around, node, network, cidr).await?;
                return Ok(false);
            }
        }
    }
}

/// All claims, of which those that don't hang on `lease` are ending.
async fn list_under(around: &Around, lease: i64) -> Result<Vec<Claimed>, Failure> {
    let listed = around.list(&around.keys.all_blocks()).await?;
    let claims = listed.iter().filter_map(|kv| {
        let (network, cidr) = around.keys.claimed(kv.key()?)?;
        let (node, made, is_ending) = (kv.text(), kv.create_revision, kv.lease != lease);
        Some(Claimed { network, cidr, node, made, is_ending })
    });
    Ok(claims.collect())
}

/// Removes every claim of a node, in every network.
pub(super) async fn forget(around: &Around, node: &NodeName) -> Result<Forgotten, Failure> {
    let mut forgotten = Forgotten::Nothing;
    for kv in around.list(&around.keys.all_blocks()).await? {
        let claimed = kv.key().and_then(|key| around.keys.claimed(key));
        if let Some((network, cidr)) = claimed.filter(|_| kv.text() == node.as_str()) {
            take_back(around, node, &network, cidr).await?;
            forgotten = Forgotten::Something;
        }
    }
    Ok(forgotten)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_earlier_of_two_that_overlap_stands() {
        let claim = |network: &str, cidr: &str, made: i64| Claimed {
            network: NetworkName::new(network).unwrap(),
            cidr: cidr.parse().unwrap(),
            node: "n".into(),
            made,
            is_ending: false,
        };
        let claims = [
            claim("red", "10.0.0.0/24", 5),
            claim("red", "10.0.0.0/26", 7),
            claim("red", "10.0.1.0/24", 3),
            // Whatever network it is of.
            claim("blue", "10.0.1.0/24", 4),
            claim("blue", "10.0.2.0/24", 6),
        ];
        assert_eq!(claims.each_ref().map(|c| is_beaten(c, &claims)), [false, true, false, true, false]);
    }

    #[test]
    fn the_beaten_spread_and_stay_inside() {
        let block: Cidr = "10.0.0.0/22".parse().unwrap();
        let busy = vec!["10.0.0.0/24".parse().unwrap()];
        assert_eq!(free_share(block, 24, busy.clone(), 0).unwrap().to_string(), "10.0.1.0/24");
        let mut found: Vec<String> =
            (0..200).map(|_| free_share(block, 24, busy.clone(), 9).unwrap().to_string()).collect();
        found.sort();
        found.dedup();
        assert_eq!(found, ["10.0.1.0/24", "10.0.2.0/24", "10.0.3.0/24"]);
        assert_eq!(free_share(block, 24, vec![block], 9), None);
    }
}
