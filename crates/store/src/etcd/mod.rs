//! The etcd store: a cluster's facts as keys of etcd, with no API server.
//!
//! It speaks etcd's own JSON gateway ([decision 0018](../../../../docs/decisions/0018-etcd-by-its-json-gateway.md)). Where the keys
//! lie says [`keys`]; what they hold, `docs/interfaces/cluster-state.md`.
//!
//! What always holds: everything that a node writes is under its lease, and goes with it. A node knows by its own clock when it
//! may no longer rely on that ([`Hold`]), well before etcd gives its blocks to others.
//!
//! What is absent: putting people's keys there, and running etcd.

mod claim;
mod client;
mod connection;
mod doubt;
mod follow;
mod keys;
mod publish;
mod session;
mod strays;
mod watch;
mod wire;

use std::collections::BTreeMap;
use std::future::Future;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::runtime::{Builder, Handle};
use weft_model::{Cidr, Network, NodeName};

use crate::seat::look_at;
use crate::store::{Claim, Event, Forgotten, Hold, Published, Store, StoreError};
use client::{Access, Client, Failure};
use connection::{Endpoint, Trust};
use keys::Keys;
use session::{Around, Session};

pub use client::EtcdUser;
pub use connection::EtcdTls;

/// The shortest time of a lease.
pub const SHORTEST_LEASE: Duration = Duration::from_secs(5);

/// Where etcd is, and how a store behaves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EtcdOptions {
    /// Addresses of members: `https://HOST:PORT`.
    pub endpoints: Vec<String>,
    /// What all keys begin with.
    pub prefix: String,
    /// Needed for `https`.
    pub tls: Option<EtcdTls>,
    /// Needed where etcd's authentication is enabled.
    pub user: Option<EtcdUser>,
    /// How long a node's keys stay after it was last heard of.
    pub lease: Duration,
    /// How long an answer, or the next piece of one, is waited for.
    pub patience: Duration,
    /// How often the member that is listened to is asked whether it is still there.
    pub pulse: Duration,
    /// What tells this machine from another one whose node has the same name by mistake: a word of its own, the same after each start.
    /// Empty where nothing does.
    pub machine: String,
}

impl Default for EtcdOptions {
    fn default() -> Self {
        Self {
            endpoints: Vec::new(),
            prefix: "/weft".to_owned(),
            tls: None,
            user: None,
            lease: Duration::from_secs(24 * 60 * 60),
            patience: Duration::from_secs(5),
            pulse: Duration::from_secs(5),
            machine: String::new(),
        }
    }
}

impl EtcdOptions {
    /// What is wrong with them: the field, and the mend.
    ///
    /// # Errors
    /// The field's name and the reason.
    pub fn check(&self) -> Result<(), (&'static str, String)> {
        if self.endpoints.is_empty() {
            return Err(("store.etcd.endpoints", "there is none; write [https://HOST:2379]".to_owned()));
        }
        for text in &self.endpoints {
            let endpoint = Endpoint::parse(text).map_err(|reason| ("store.etcd.endpoints", reason))?;
            if endpoint.is_tls && self.tls.is_none() {
                return Err((
                    "store.etcd.caFile",
                    format!("{text} needs it: who vouches for the server's certificate"),
                ));
            }
            if self.user.is_some() && !endpoint.is_tls && !endpoint.is_loopback() {
                let reason = format!(
                    "{text} would show the user's password to everybody on the way; write https:// and give caFile, or leave username out"
                );
                return Err(("store.etcd.endpoints", reason));
            }
        }
        if !self.prefix.starts_with('/') || self.prefix.trim_end_matches('/').is_empty() {
            return Err((
                "store.etcd.prefix",
                format!("{:?} must begin with / and name something, such as /weft", self.prefix),
            ));
        }
        if self.lease < SHORTEST_LEASE {
            let text =
                format!("{} is too short; write {} or more", self.lease.as_secs(), SHORTEST_LEASE.as_secs());
            return Err(("store.etcd.leaseSeconds", text));
        }
        Ok(())
    }

    fn access(&self) -> Result<Access, StoreError> {
        let failed = |(field, reason): (&'static str, String)| StoreError::Settings {
            field: field.to_owned(),
            reason,
        };
        self.check().map_err(failed)?;
        let endpoints = self.endpoints.iter().map(|text| Endpoint::parse(text)).collect::<Result<_, _>>();
        Ok(Access {
            endpoints: endpoints.map_err(|reason| failed(("store.etcd.endpoints", reason)))?,
            tls: self.tls.clone().map(|files| Arc::new(Trust::of(files))),
            user: self.user.clone(),
            patience: self.patience,
        })
    }
}

/// A [`Store`] over etcd.
#[derive(Debug)]
pub struct EtcdStore {
    access: Access,
    options: EtcdOptions,
    shared: Arc<Shared>,
    runtime: Handle,
    stopped: tokio::sync::watch::Sender<bool>,
    /// Ends the runtime's thread when it is dropped.
    _alive: tokio::sync::oneshot::Sender<()>,
}

/// What calls and renewals share.
#[derive(Debug)]
struct Shared {
    around: Arc<Around>,
    sessions: Mutex<BTreeMap<NodeName, Arc<Session>>>,
    /// Held while a session is made.
    opening: tokio::sync::Mutex<()>,
    /// No session is renewed any more.
    is_stopped: AtomicBool,
}

impl EtcdStore {
    /// A store over these members. Doesn't wait for any of them.
    ///
    /// # Errors
    /// When the options can't be used, or no thread can be had.
    pub fn open(options: EtcdOptions) -> Result<Self, StoreError> {
        let access = options.access()?;
        let failed = |error: std::io::Error| StoreError::Server {
            action: "cannot start the thread that talks to etcd".to_owned(),
            reason: error.to_string(),
        };
        let runtime = Builder::new_current_thread().enable_all().build().map_err(failed)?;
        let handle = runtime.handle().clone();
        let (alive, ended) = tokio::sync::oneshot::channel::<()>();
        let run = move || {
            // Nothing is ever sent: it ends when the store is dropped.
            let _ = runtime.block_on(ended);
            runtime.shutdown_background();
        };
        std::thread::Builder::new().name("weft-etcd".to_owned()).spawn(run).map_err(failed)?;
        let around = Arc::new(Around {
            client: Client::new(access.clone()),
            keys: Keys::under(&options.prefix),
            time: options.lease,
            machine: options.machine.clone(),
            abandoned: Mutex::default(),
        });
        let shared = Arc::new(Shared {
            around,
            sessions: Mutex::default(),
            opening: tokio::sync::Mutex::default(),
            is_stopped: AtomicBool::new(false),
        });
        let (stopped, _) = tokio::sync::watch::channel(false);
        Ok(Self { access, options, shared, runtime: handle, stopped, _alive: alive })
    }

    /// What the nodes that this store speaks for may rely on: the least of what each may.
    pub fn hold(&self) -> Hold {
        self.shared.hold()
    }

    /// Runs something on the store's own thread, and waits for it.
    fn wait<T: Send + 'static>(
        &self,
        action: &str,
        work: impl Future<Output = Result<T, Failure>> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (sender, answer) = channel();
        self.runtime.spawn(async move {
            // Nobody waits any more where this fails.
            let _ = sender.send(work.await);
        });
        let ended = Err(Failure::Away("the store was closed".to_owned()));
        answer.recv().unwrap_or(ended).map_err(|failure| server(action, &failure))
    }
}

fn server(action: &str, failure: &Failure) -> StoreError {
    StoreError::Server { action: action.to_owned(), reason: failure.to_string() }
}

impl Shared {
    fn sessions(&self) -> std::sync::MutexGuard<'_, BTreeMap<NodeName, Arc<Session>>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn hold(&self) -> Hold {
        let holds = self.sessions().values().map(|session| session.hold()).collect::<Vec<_>>();
        let unconfirmed = "etcd has not confirmed this node's blocks since the agent started".to_owned();
        holds.into_iter().min().unwrap_or(Hold::Lapsed(unconfirmed))
    }

    /// The node's session; made, and renewed from then on, where there is none.
    async fn session(self: &Arc<Self>, node: &NodeName) -> Result<Arc<Session>, Failure> {
        let _opening = self.opening.lock().await;
        if self.is_stopped.load(Ordering::SeqCst) {
            return Err(Failure::Away("this store was stopped".to_owned()));
        }
        if let Some(session) = self.sessions().get(node) {
            return Ok(session.clone());
        }
        let session = Arc::new(Session::of(node.clone()));
        self.around.open(&session).await?;
        self.sessions().insert(node.clone(), session.clone());
        if self.is_stopped.load(Ordering::SeqCst) {
            // Meanwhile.
            session.end();
        }
        tokio::spawn(self.around.clone().keep(session.clone()));
        Ok(session)
    }
}

impl Store for EtcdStore {
    fn watch(&self, sink: &mut dyn FnMut(Event) -> ControlFlow<()>) -> Result<(), StoreError> {
        let runtime = Builder::new_current_thread().enable_all().build().map_err(|error| {
            StoreError::Server { action: "cannot watch etcd".to_owned(), reason: error.to_string() }
        })?;
        let mut stopped = self.stopped.subscribe();
        let hold = || self.shared.hold();
        let (client, keys) = (Client::new(self.access.clone()), self.shared.around.keys.clone());
        runtime.block_on(watch::Watch::new(client, keys, self.options.pulse, &hold).run(&mut stopped, sink));
        runtime.shutdown_background();
        Ok(())
    }

    fn stop(&self) {
        self.stopped.send_replace(true);
        // Another process of this node's may take its place from now on: this one takes nothing back.
        self.shared.is_stopped.store(true, Ordering::SeqCst);
        self.shared.sessions().values().for_each(|session| session.end());
    }

    fn publish(&self, fact: &Published) -> Result<(), StoreError> {
        let (shared, fact) = (self.shared.clone(), fact.clone());
        let action = format!("cannot publish {} at etcd", publish::named(&fact));
        self.wait(&action, async move {
            let session = shared.session(publish::owner(&fact)).await?;
            let _turn = session.turn.lock().await;
            publish::publish(&shared.around, &session, &fact).await
        })
    }

    fn claim_pod_cidrs(
        &self,
        network: &Network,
        node: &NodeName,
        in_use: &[Cidr],
    ) -> Result<Claim, StoreError> {
        if network.pod_cidrs.is_empty() {
            return Ok(Claim::default());
        }
        let action = format!("cannot claim a block of network {} at etcd", network.name);
        let shared = self.shared.clone();
        let (network, node, in_use) = (network.clone(), node.clone(), in_use.to_vec());
        let claimed = self.wait(&action, async move {
            let session = shared.session(&node).await?;
            let _turn = session.turn.lock().await;
            claimed(&session, claim::claim(&shared.around, &session, &network, &in_use).await)
        });
        claimed?
    }

    fn claim_another(
        &self,
        network: &Network,
        node: &NodeName,
        full: &[Cidr],
        in_use: &[Cidr],
    ) -> Result<Cidr, StoreError> {
        let action = format!("cannot claim another block of network {} at etcd", network.name);
        let shared = self.shared.clone();
        let (network, node) = (network.clone(), node.clone());
        let (full, in_use) = (full.to_vec(), in_use.to_vec());
        let given = self.wait(&action, async move {
            let session = shared.session(&node).await?;
            let _turn = session.turn.lock().await;
            claimed(
                &session,
                claim::claim_another(&shared.around, &session, &network, (&full, &in_use)).await,
            )
        });
        given?
    }

    fn relied_on_for(&self, node: &NodeName) -> Result<Option<Duration>, StoreError> {
        let (shared, node) = (self.shared.clone(), node.clone());
        let action = format!("cannot look when node {node} was last heard of at etcd");
        self.wait(&action, async move { shared.around.relied_on_for(&node).await })
    }

    fn machine_of(&self, node: &NodeName) -> Result<Option<String>, StoreError> {
        let (shared, node) = (self.shared.clone(), node.clone());
        self.wait(&look_at(&node), async move { shared.around.machine_of(&node).await })
    }

    fn forget_node(&self, node: &NodeName) -> Result<Forgotten, StoreError> {
        let (shared, node) = (self.shared.clone(), node.clone());
        let action = format!("cannot remove what node {node} has at etcd");
        self.wait(&action, async move {
            let _opening = shared.opening.lock().await;
            let session = shared.sessions().remove(&node);
            let _turn = match &session {
                Some(session) => {
                    session.end();
                    Some(session.turn.lock().await)
                }
                None => None,
            };
            let around = &shared.around;
            // First, and found by all that hangs on it: whatever fails afterwards, nothing is left that somebody renews, and what
            // is left can be forgotten again.
            let mut forgotten = Forgotten::Nothing;
            for lease in around.leases(&node).await? {
                around.revoke(lease).await?;
                forgotten = Forgotten::Something;
            }
            // All that a node writes hangs on a lease of its own.
            publish::forget(around, &node).await?;
            Ok(forgotten | claim::forget(around, &node).await?)
        })
    }
}

/// What etcd failed to say is asked again; what it said is the answer.
fn claimed<T>(
    session: &Session,
    answer: Result<T, claim::Unclaimed>,
) -> Result<Result<T, StoreError>, Failure> {
    match answer {
        Ok(answer) => Ok(Ok(answer)),
        Err(claim::Unclaimed::Exhausted(error)) => Ok(Err(error)),
        Err(claim::Unclaimed::Failed(failure)) => {
            // The lease may be gone.
            session.renew.notify_one();
            Err(failure)
        }
    }
}
