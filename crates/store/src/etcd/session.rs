//! A node's presence: the lease under which all its keys are, and how long the node may rely on it.
//!
//! What always holds: a node relies on its lease for [`HELD`] of its time, counted from *before* the renewal was sent, by a clock that
//! nobody can set ([`BootTime`]); etcd keeps the lease for the whole of its time, counted from when the renewal arrived. So
//! when a node's blocks become anybody's, the node has known for a quarter of that time that they will, and has given out none of their
//! addresses since. A renewal counts only where the session's key and every claimed block's still hang on the lease afterwards, by a read
//! that the leader has confirmed. A lease that is gone, or could be, is never renewed: the node takes another one, and claims again. A session that
//! is over takes nothing back from the node's next process.
//!
//! All of that holds between nodes. Of machines that have one node's name, one that comes later takes nothing from another that is heard of. One
//! that was silent ([`SILENT_PAUSES`]) can lose its place without knowing: until it hears of the other machine, both give out addresses of the
//! same blocks. From then on it relies on nothing, and says why.
//!
//! What is absent: which blocks ([`super::claim`]), and what a node does that relies on nothing any more (the agent).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use weft_model::{Cidr, NetworkName, NodeName};

use super::client::{Client, Failure};
use super::keys::Keys;
use super::wire::{self, Done, Granted, KeyValue, Ranged, Streamed, TimeToLive, Transacted, code};
use super::{claim, publish};
use crate::clock::BootTime;
use crate::store::Hold;

/// The share of a lease's time for which a node relies on it, in quarters. The last quarter is the time of grace.
const HELD: u32 = 3;
/// Between renewals at most.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// Claims that one transaction looks at; etcd takes 128 comparisons (`--max-txn-ops`).
const COMPARED: usize = 100;
/// Longest pauses between renewals after which a lease's holder is taken to renew it no more. For how long it relies on its blocks is no
/// matter where it is this machine before it was set up anew; where it is another one, see the module.
const SILENT_PAUSES: u32 = 4;
/// Between attempts to renew while etcd doesn't answer, at least.
const SHORTEST_PAUSE: Duration = Duration::from_millis(100);

/// What one node has at etcd, as far as this process sees to it.
#[derive(Debug)]
pub(super) struct Session {
    pub node: NodeName,
    state: Mutex<State>,
    /// Held by whoever changes what is at etcd.
    pub turn: tokio::sync::Mutex<()>,
    /// Tells the renewer to look at once.
    pub renew: tokio::sync::Notify,
}

#[derive(Debug, Default)]
struct State {
    lease: i64,
    /// Whole seconds, as etcd granted them.
    time: Duration,
    held_until: Option<BootTime>,
    claims: BTreeSet<(NetworkName, Cidr)>,
    /// Networks in which a block went to another node, and none was claimed since.
    lost: BTreeSet<NetworkName>,
    /// Another machine has this node's place, as was heard since the last renewal: what is known of it.
    twin: Option<String>,
    /// The node was forgotten, or the store stopped: nothing of it is to be made again.
    is_over: bool,
    /// What was published, by key, without the time of writing.
    published: BTreeMap<String, Value>,
}

impl Session {
    pub fn of(node: NodeName) -> Self {
        let (state, turn) = (Mutex::default(), tokio::sync::Mutex::default());
        Self { node, state, turn, renew: tokio::sync::Notify::new() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends it: its renewer makes nothing again.
    pub fn end(&self) {
        self.state().is_over = true;
        self.renew.notify_one();
    }

    pub fn lease(&self) -> i64 {
        self.state().lease
    }

    pub fn claims(&self) -> Vec<(NetworkName, Cidr)> {
        self.state().claims.iter().cloned().collect()
    }

    pub fn is_over(&self) -> bool {
        self.state().is_over
    }

    /// Notes all claims of a network anew.
    pub fn set_claims(&self, network: &NetworkName, cidrs: &[Cidr]) {
        let mut state = self.state();
        state.claims.retain(|(name, _)| name != network);
        state.claims.extend(cidrs.iter().map(|cidr| (network.clone(), *cidr)));
        state.lost.remove(network);
    }

    pub fn note_claim(&self, network: NetworkName, cidr: Cidr) {
        self.state().claims.insert((network, cidr));
    }

    fn lose(&self, network: &NetworkName, cidr: Cidr) {
        let mut state = self.state();
        state.claims.remove(&(network.clone(), cidr));
        state.lost.insert(network.clone());
    }

    pub fn note_published(&self, key: &str, object: Option<Value>) {
        let mut state = self.state();
        match object {
            Some(object) => state.published.insert(key.to_owned(), object),
            None => state.published.remove(key),
        };
    }

    fn published(&self) -> Vec<(String, Value)> {
        self.state().published.iter().map(|(key, object)| (key.clone(), object.clone())).collect()
    }

    /// What the node may rely on.
    pub fn hold(&self) -> Hold {
        let state = self.state();
        if let Some(twin) = &state.twin {
            return Hold::Lapsed(twin.clone());
        }
        if let Some(network) = state.lost.first() {
            return Hold::Lapsed(format!(
                "node {} was out of etcd's reach for longer than its lease lasts, and another node has its block of network \
                 {network} now; pods here that have addresses of it must be made anew",
                self.node
            ));
        }
        match state.held_until {
            // Also before the first claim: who relies on one as soon as it is made must know until when.
            Some(until) => Hold::Until(until),
            None => {
                Hold::Lapsed("etcd has not confirmed this node's blocks since the agent started".to_owned())
            }
        }
    }

    fn renewed(&self, lease: i64, time: Duration, sent: BootTime) {
        let mut state = self.state();
        (state.lease, state.time) = (lease, time);
        state.held_until = Some(sent + time * HELD / 4);
        state.twin = None;
    }

    /// Another machine renews a lease as this node: nothing is this one's until a renewal of its own.
    fn note_twin(&self, reason: &str) {
        let mut state = self.state();
        if state.twin.is_none() {
            tracing::warn!("{reason}");
        }
        state.twin = Some(reason.to_owned());
    }

    /// True where the node may not rely on its lease at that moment.
    fn is_late(&self, now: BootTime) -> bool {
        self.state().held_until.is_none_or(|until| now >= until)
    }

    fn pause(&self) -> Duration {
        let pause = pause_of(self.state().time);
        pause.mul_f32(0.8 + 0.4 * fastrand::f32())
    }
}

/// Between renewals of a lease of this time, on average.
fn pause_of(time: Duration) -> Duration {
    (time / 6).clamp(SHORTEST_PAUSE, LONGEST_PAUSE)
}

/// The machine that a session's key names ([`Around::signature`]); an earlier version names none.
fn signed_by(node: &NodeName, there: &KeyValue) -> Option<String> {
    let text = there.text();
    let machine = text.strip_prefix(node.as_str()).map_or("", str::trim_start);
    Some(machine.to_owned()).filter(|machine| !machine.is_empty())
}

/// What every step needs.
#[derive(Debug)]
pub(super) struct Around {
    pub client: Client,
    pub keys: Keys,
    /// The time of a lease that is asked for.
    pub time: Duration,
    /// What tells this machine from another one of the same node's name; empty where nothing does.
    pub machine: String,
    /// Leases that were taken by attempts that failed later on, or that others have replaced.
    pub abandoned: Mutex<BTreeSet<i64>>,
}

impl Around {
    /// Every key that begins with `start`.
    pub async fn list(&self, start: &str) -> Result<Vec<KeyValue>, Failure> {
        let ranged: Ranged = self.client.ask(wire::RANGE, &wire::range(start)).await?;
        Ok(ranged.kvs)
    }

    pub async fn get(&self, key: &str) -> Result<Option<KeyValue>, Failure> {
        let ranged: Ranged = self.client.ask(wire::RANGE, &wire::get(key)).await?;
        Ok(ranged.kvs.into_iter().next())
    }

    /// Makes a session stand, and finds what the node has already.
    pub async fn open(&self, session: &Session) -> Result<(), Failure> {
        let (lease, time, sent) = self.obtain(&session.node).await?;
        self.gather(session, lease).await.inspect_err(|_| self.abandon(lease))?;
        session.renewed(lease, time, sent);
        self.end_abandoned().await;
        Ok(())
    }

    /// Nobody renews this lease, though something of the node's may hang on it, which the next attempt takes from there.
    fn abandon(&self, lease: i64) {
        self.abandoned.lock().unwrap_or_else(PoisonError::into_inner).insert(lease);
    }

    /// Ends the abandoned leases on which nothing hangs any more: they last for a day, and an etcd that comes and goes, or an agent that
    /// starts again and again, would gather them. What fails here is tried again with the next attempt.
    async fn end_abandoned(&self) {
        let abandoned = self.abandoned.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for lease in abandoned {
            let question = json!({ "ID": lease.to_string(), "keys": true });
            let Ok(stands) = self.client.ask::<TimeToLive>(wire::TIME_TO_LIVE, &question).await else {
                return;
            };
            if stands.keys.is_empty() && self.revoke(lease).await.is_ok() {
                self.abandoned.lock().unwrap_or_else(PoisonError::into_inner).remove(&lease);
            }
        }
    }

    /// What the session's key holds: the node's name, and which machine is that node.
    fn signature(&self, node: &NodeName) -> String {
        format!("{node} {}", self.machine).trim_end().to_owned()
    }

    /// The machine that is a node.
    pub async fn machine_of(&self, node: &NodeName) -> Result<Option<String>, Failure> {
        let there = self.get(&self.keys.session(node)).await?;
        Ok(there.as_ref().and_then(|there| signed_by(node, there)))
    }

    /// Refuses where another machine is this node as well, and renews its lease. An earlier version names no machine; and one that falls
    /// silent makes way, so that a machine which was set up anew isn't kept out for long.
    async fn refuse_twin(&self, node: &NodeName, there: &KeyValue) -> Result<(), Failure> {
        let Some(other) = signed_by(node, there).filter(|other| *other != self.machine) else {
            return Ok(());
        };
        if self.machine.is_empty() {
            return Ok(());
        }
        let question = json!({ "ID": there.lease.to_string() });
        let stands: TimeToLive = self.client.ask(wire::TIME_TO_LIVE, &question).await?;
        let [left, granted] =
            [stands.ttl, stands.granted].map(|s| Duration::from_secs(s.max(0).unsigned_abs()));
        let (silence, longest) = (granted.saturating_sub(left), pause_of(granted) * SILENT_PAUSES);
        if left.is_zero() || silence > longest {
            return Ok(());
        }
        Err(Failure::Twin(format!(
            "another machine ({other}) is node {node} as well, and was heard of {} s ago: give one of the two another `node` in its \
             configuration. Where it is this one before it was set up anew, wait: once it is silent for {} s, this one takes its place",
            silence.as_secs(),
            longest.as_secs()
        )))
    }

    /// A new lease for the node, its time, and when it was asked for.
    async fn obtain(&self, node: &NodeName) -> Result<(i64, Duration, BootTime), Failure> {
        let key = self.keys.session(node);
        self.end_abandoned().await;
        loop {
            let there = self.get(&key).await?;
            if let Some(there) = &there {
                self.refuse_twin(node, there).await?;
            }
            let sent = BootTime::now();
            let question = json!({ "TTL": self.time.as_secs().to_string() });
            let granted: Granted = self.client.ask(wire::GRANT, &question).await?;
            if granted.id == 0 || granted.ttl <= 0 {
                return Err(Failure::Away("it granted a lease without a time".to_owned()));
            }
            let compare = match &there {
                Some(kv) => wire::is_unchanged(&key, kv.mod_revision),
                None => wire::is_absent(&key),
            };
            let put = json!({ "request_put": wire::put(&key, self.signature(node).as_bytes(), granted.id) });
            let get = json!({ "request_range": wire::get(&key) });
            let question = wire::txn(&[compare], &[put], &[get]);
            let answer = match self.client.ask::<Transacted>(wire::TXN, &question).await {
                Ok(answer) => answer,
                Err(failure) => {
                    // Nothing hangs on it but perhaps the session's key, which the next attempt makes again. Else an etcd that comes and goes
                    // would gather them.
                    let _ = self.revoke(granted.id).await;
                    return Err(failure);
                }
            };
            if answer.succeeded || answer.found().any(|kv| kv.lease == granted.id) {
                // That of the process before, or one that may have run out: all that is under it comes under this one.
                there.iter().filter(|kv| kv.lease != 0).for_each(|kv| self.abandon(kv.lease));
                return Ok((granted.id, Duration::from_secs(granted.ttl.unsigned_abs()), sent));
            }
            // Another process of this node's was quicker.
            self.revoke(granted.id).await?;
        }
    }

    /// Renews a lease by one member: its time in seconds, or 0 where it is gone.
    async fn keep_alive(&self, at: usize, lease: i64) -> Result<i64, Failure> {
        let question = json!({ "ID": lease.to_string() });
        let answer: Streamed<Granted> = self.client.ask_at(at, wire::KEEP_ALIVE, &question).await?;
        match (answer.result, answer.error) {
            (Some(granted), None) => Ok(granted.ttl),
            (_, Some(error)) if error.code == code::NOT_FOUND => Ok(0),
            (_, Some(error)) => Err(Failure::Away(error.message)),
            (None, None) => Err(Failure::Away("an empty answer to a renewal".to_owned())),
        }
    }

    /// Every lease under which a node has something.
    pub async fn leases(&self, node: &NodeName) -> Result<BTreeSet<i64>, Failure> {
        let mut own = self.list(&self.keys.all_blocks()).await?;
        own.retain(|kv| {
            kv.text() == node.as_str() && kv.key().and_then(|key| self.keys.claimed(key)).is_some()
        });
        own.extend(self.list(&self.keys.pods_of(node)).await?);
        own.extend(self.get(&self.keys.node(node)).await?);
        own.extend(self.get(&self.keys.session(node)).await?);
        Ok(own.into_iter().map(|kv| kv.lease).filter(|lease| *lease != 0).collect())
    }

    /// How long a node may rely on its leases, at most: it counts from before each renewal, and for a part of the time.
    pub async fn relied_on_for(&self, node: &NodeName) -> Result<Option<Duration>, Failure> {
        let mut longest = Duration::ZERO;
        for lease in self.leases(node).await? {
            let question = json!({ "ID": lease.to_string() });
            let stands: TimeToLive = self.client.ask(wire::TIME_TO_LIVE, &question).await?;
            let [left, granted] =
                [stands.ttl, stands.granted].map(|s| Duration::from_secs(s.max(0).unsigned_abs()));
            longest = longest.max(left.saturating_sub(granted * (4 - HELD) / 4));
        }
        Ok(Some(longest).filter(|longest| !longest.is_zero()))
    }

    pub async fn revoke(&self, lease: i64) -> Result<(), Failure> {
        let question = json!({ "ID": lease.to_string() });
        match self.client.ask::<Done>(wire::REVOKE, &question).await {
            Err(Failure::Refused(error)) if error.code == code::NOT_FOUND => Ok(()),
            other => other.map(drop),
        }
    }

    /// Finds the node's claims, and puts all its keys under its lease.
    async fn gather(&self, session: &Session, lease: i64) -> Result<(), Failure> {
        let node = &session.node;
        for kv in self.list(&self.keys.all_blocks()).await? {
            let claimed = kv.key().and_then(|key| self.keys.claimed(key));
            let Some((network, cidr)) = claimed.filter(|_| kv.text() == node.as_str()) else { continue };
            if self.bring_under(lease, &kv).await? {
                session.note_claim(network, cidr);
            }
        }
        let mut own = self.list(&self.keys.pods_of(node)).await?;
        own.extend(self.get(&self.keys.node(node)).await?);
        for kv in &own {
            // What was written meanwhile is under the right lease.
            self.bring_under(lease, kv).await?;
        }
        Ok(())
    }

    /// Puts a key under a lease, unless it is there already. False where it was written, or has ended, meanwhile.
    pub async fn bring_under(&self, lease: i64, kv: &KeyValue) -> Result<bool, Failure> {
        let Some(key) = kv.key() else { return Ok(false) };
        if kv.lease == lease {
            return Ok(true);
        }
        let put = json!({ "request_put": wire::put(key, &kv.value, lease) });
        let question = wire::txn(&[wire::is_unchanged(key, kv.mod_revision)], &[put], &[]);
        let answer: Transacted = self.client.ask(wire::TXN, &question).await?;
        Ok(answer.succeeded)
    }

    /// Renews a session until it is over.
    pub async fn keep(self: Arc<Self>, session: Arc<Session>) {
        let mut patience = session.pause();
        loop {
            let _ = tokio::time::timeout(patience, session.renew.notified()).await;
            if session.is_over() {
                return;
            }
            let (lease, sent) = (session.lease(), BootTime::now());
            let renewed = match self.renew(&session, lease, sent).await {
                Ok(true) => Ok(()),
                Ok(false) => self.establish_again(&session, lease).await,
                Err(failure) => Err(failure),
            };
            patience = session.pause();
            if let Err(failure) = renewed {
                if let Failure::Twin(reason) = &failure {
                    session.note_twin(reason);
                }
                tracing::debug!("cannot renew the lease of node {}: {failure}", session.node);
                patience /= 2;
            }
        }
    }

    /// Renews the session's lease. False where it isn't to be relied on any more.
    ///
    /// A renewal that comes late is worth nothing, even if etcd takes it: a leader may have proposed to revoke the lease, and its successor,
    /// which renews it, hears of that only afterwards. And under another process's lease the node's keys end with that one.
    async fn renew(&self, session: &Session, lease: i64, sent: BootTime) -> Result<bool, Failure> {
        if session.is_late(sent) {
            return Ok(false);
        }
        let mut failures = Vec::new();
        for _ in 0..self.client.count() {
            let at = self.client.at();
            match self.renew_at(at, session, lease).await {
                Ok(Some(time)) => {
                    session.renewed(lease, time, sent);
                    return Ok(true);
                }
                Ok(None) => return Ok(false),
                Err(Failure::Away(reason)) => {
                    failures.push(format!("{}: {reason}", self.client.name(at)));
                    self.client.leave(at);
                }
                Err(failure) => return Err(failure),
            }
        }
        Err(Failure::Away(failures.join("; ")))
    }

    /// Renews the lease by one member: its time, or nothing where it is not the node's lease any more.
    ///
    /// A leader that hangs may go on renewing leases while its successor ends them (etcd#15247). So the same member says before and after,
    /// each time by a read that the leader of that moment has confirmed, what hangs on the lease: if its term didn't change, the leader that
    /// renewed was the leader.
    async fn renew_at(&self, at: usize, session: &Session, lease: i64) -> Result<Option<Duration>, Failure> {
        let Some(before) = self.confirm(at, session, lease).await? else { return Ok(None) };
        let ttl = self.keep_alive(at, lease).await?;
        if ttl <= 0 {
            return Ok(None);
        }
        let Some(after) = self.confirm(at, session, lease).await? else { return Ok(None) };
        if before != after {
            return Err(Failure::Away("another member leads since; the renewal doesn't count".to_owned()));
        }
        Ok(Some(Duration::from_secs(ttl.unsigned_abs())))
    }

    /// Which member answered, and in which term, that the session and all its claims hang on the lease; nothing where one doesn't.
    async fn confirm(&self, at: usize, session: &Session, lease: i64) -> Result<Option<(i64, i64)>, Failure> {
        let own = self.keys.session(&session.node);
        let claims = session.claims();
        let blocks: Vec<String> =
            claims.iter().map(|(network, cidr)| self.keys.block(network, *cidr)).collect();
        // A transaction that reads nothing is answered from what the member knows; with a range, the leader is asked.
        let read = [json!({ "request_range": wire::get(&own) })];
        let mut seat = None;
        for part in blocks.chunks(COMPARED).chain(blocks.is_empty().then_some(&[][..])) {
            let mut compare = vec![wire::is_leased(&own, lease)];
            compare.extend(part.iter().map(|key| wire::is_leased(key, lease)));
            let question = wire::txn(&compare, &read, &read);
            let answer: Transacted = self.client.ask_at(at, wire::TXN, &question).await?;
            if !answer.succeeded {
                return Ok(None);
            }
            let now = (answer.header.member_id, answer.header.raft_term);
            if *seat.get_or_insert(now) != now {
                return Err(Failure::Away("another member leads since".to_owned()));
            }
        }
        Ok(seat)
    }

    /// The lease is not to be relied on: takes a new one, and puts the node's keys under it, as far as no other node has taken
    /// their place. Each by a transaction, which comes after whatever may have been under way to revoke the old lease.
    async fn establish_again(&self, session: &Session, old: i64) -> Result<(), Failure> {
        let _turn = session.turn.lock().await;
        if session.lease() != old || session.is_over() {
            return Ok(());
        }
        tracing::warn!("the lease of node {} may have run out; taking a new one", session.node);
        let (lease, time, sent) = self.obtain(&session.node).await?;
        self.bring_all_under(session, lease).await.inspect_err(|_| self.abandon(lease))?;
        if !session.is_over() {
            session.renewed(lease, time, sent);
            self.end_abandoned().await;
        }
        Ok(())
    }

    /// Puts the session's keys under a new lease, as far as no other node has taken their place; stops where it is over.
    async fn bring_all_under(&self, session: &Session, lease: i64) -> Result<(), Failure> {
        let mut lost = Vec::new();
        for (network, cidr) in session.claims() {
            if session.is_over() {
                return Ok(());
            }
            if !claim::claim_again(self, session, lease, &network, cidr).await? {
                session.lose(&network, cidr);
                lost.push(cidr);
            }
        }
        for (key, mut object) in session.published() {
            if session.is_over() {
                return Ok(());
            }
            if publish::names_one_of(&object, &lost) {
                // The agent hears that its node is gone, and publishes it with other blocks.
                session.note_published(&key, None);
                continue;
            }
            publish::write_under(self, &session.node, lease, &key, &mut object).await?;
        }
        Ok(())
    }
}
