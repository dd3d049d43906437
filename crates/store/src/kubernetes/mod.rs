//! The Kubernetes store: a cluster's own API server.
//!
//! Facts are the objects that it serves, pruned as they arrive; the networks are described by the configuration. A node
//! writes annotations and one condition on its own Node object, and, where no controller gives out pod CIDRs, a Lease for
//! each block that it claims, which it relies on only as long as the server confirms it. A pod's addresses are published by its kubelet, so Weft doesn't.
//!
//! What always holds: an outage of the server takes nothing away. Nothing but this node's own objects and Weft's own
//! Leases is ever written. `docs/interfaces/cluster-state.md` is the long form, with the rights that are asked for.

mod access;
mod announce;
mod asides;
mod assembly;
mod backoff;
mod beginning;
mod claim;
mod client;
mod credentials;
mod follow;
mod hold;
mod kind;
mod lease;
mod lines;
mod mirror;
mod networks;
mod place;
mod publish;
mod time;

use std::future::Future;
use std::net::IpAddr;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Runtime;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};
use weft_model::{Change, Cidr, Fact, NamespaceName, Network, NodeName};

use self::announce::Announcing;
use self::asides::Asides;
use self::assembly::Assembly;
use self::claim::Claims;
use self::client::{Client, Failure};
use self::follow::{Follower, OwnNode};
use self::hold::Holds;
use self::kind::Kind;
use self::lease::Leases;
use self::place::Place;
use crate::seat::look_at;
use crate::store::{Claim, Event, Forgotten, Published, Store, StoreError};

pub use self::access::{AccessError, AccessSource};
pub use self::networks::{BlockSource, DescribedNetwork};

/// Which pods a node follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PodScope {
    /// Those that are bound to it.
    Own,
    /// All that have a node and haven't ended; of others' only addresses, labels and state are kept.
    All,
}

/// How long to wait, for what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// The pause after the first failure; each one is twice the one before.
    pub first_pause: Duration,
    /// The longest pause.
    pub longest_pause: Duration,
    /// How long trouble lasts before the store says that it is stale.
    pub grace: Duration,
    /// Silence after which a watch is no longer believed; a server sends a bookmark about every minute.
    pub silence: Duration,
    /// Silence after which a streamed list is given up.
    pub stalled_list: Duration,
    /// How long lists are asked for in pages after a streamed one came to nothing.
    pub paged: Duration,
    /// How long a watch lasts at least that goes on after an outage: shortly before its end the server says how far it has come.
    pub catch_up: Duration,
    /// How long a watch lasts at least, as the server is asked; at most twice as long.
    pub watch: Duration,
    /// Time between looks at the claims of this node.
    pub look: Duration,
    /// How long a node relies on its claims after a look has found them.
    pub held: Duration,
    /// How long a block is nobody's after its claim has ended; longer than `held`, by more than servers' clocks differ. The
    /// same on all nodes.
    pub spare: Duration,
    /// Time between looks at which machine is the node, while another one asks.
    pub ask: Duration,
    /// How long a single request may take with all that belongs to it.
    pub request: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            first_pause: Duration::from_millis(500),
            longest_pause: Duration::from_secs(30),
            grace: Duration::from_secs(5),
            silence: Duration::from_secs(180),
            stalled_list: Duration::from_secs(60),
            paged: Duration::from_secs(600),
            catch_up: Duration::from_secs(5),
            watch: Duration::from_secs(300),
            look: Duration::from_secs(120),
            held: Duration::from_secs(600),
            spare: Duration::from_secs(900),
            ask: Duration::from_secs(5),
            request: Duration::from_secs(90),
        }
    }
}

/// What a Kubernetes store has to know.
#[derive(Debug, Clone)]
pub struct KubernetesOptions {
    /// This node.
    pub node: NodeName,
    /// The server, and as whom to speak to it.
    pub access: AccessSource,
    /// The cluster's networks.
    pub networks: Vec<DescribedNetwork>,
    /// Which pods to follow.
    pub pods: PodScope,
    /// Where claims of blocks are kept.
    pub namespace: NamespaceName,
    /// How long to wait, for what.
    pub patience: Patience,
    /// What tells this machine from another one whose node has the same name by mistake: a word of its own, the same after each start.
    /// Empty where nothing does.
    pub machine: String,
}

/// A [`Store`] over a Kubernetes API server.
pub struct KubernetesStore {
    options: KubernetesOptions,
    client: Arc<Client>,
    /// What this node holds, where nodes claim their blocks.
    holds: Option<Arc<Holds>>,
    announcing: Arc<Announcing>,
    place: Option<Arc<Place>>,
    /// Which machine is the node, as the watch of Nodes tells it.
    machine: watch::Sender<Option<String>>,
    stop: watch::Sender<bool>,
    runtime: Option<Runtime>,
}

impl KubernetesStore {
    /// A store that asks the server when it is first needed.
    ///
    /// # Errors
    /// When the access that is named can't be read, or no thread can be started.
    pub fn open(options: KubernetesOptions) -> Result<Self, StoreError> {
        let failed = |reason: String| StoreError::Server {
            action: "cannot prepare for the Kubernetes API server".into(),
            reason,
        };
        let client = Arc::new(Client::new(options.access.clone()));
        client.credentials.ready().map_err(failed)?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("weft-kubernetes")
            .enable_all()
            .build()
            .map_err(|error| failed(format!("no thread: {error}")))?;
        let (reader, pause) = (client.clone(), options.patience.longest_pause);
        runtime.spawn(async move { reader.credentials.read_again(pause).await });
        let allocates = options.networks.iter().any(|described| described.blocks == BlockSource::Nodes);
        let holds = allocates.then(|| Arc::new(Holds::of(&options)));
        if let Some(holds) = &holds {
            runtime.spawn(holds.clone().keep(client.clone()));
        }
        let announcing = Arc::new(Announcing::of(&options.node));
        let machine = watch::Sender::default();
        let place = (!options.machine.is_empty()).then(|| {
            Arc::new(Place::of(&options.node, &options.machine, options.patience.ask, machine.clone()))
        });
        if let Some(place) = &place {
            runtime.spawn(place.clone().keep(client.clone()));
        }
        Ok(Self {
            options,
            client,
            holds,
            announcing,
            place,
            machine,
            stop: watch::Sender::new(false),
            runtime: Some(runtime),
        })
    }

    /// Asks for this node's own object, and returns the server's address and those by which the cluster knows the node (`InternalIP`).
    ///
    /// # Errors
    /// When the server can't be reached, refuses, or knows no such node.
    pub fn look(&self) -> Result<(String, Vec<IpAddr>), StoreError> {
        let node = &self.options.node;
        let failed =
            |reason: String| StoreError::Server { action: format!("cannot look up node {node}"), reason };
        let found =
            self.wait(async { publish::read(&self.client, node).await.map_err(|e| failed(e.to_string())) })?;
        let ready = self.client.credentials.ready().map_err(failed)?;
        let server = &ready.server;
        match found {
            Some(node) => Ok((server.to_string(), node.registered())),
            None => Err(failed(format!("{server} has no Node of this name; is `node` its name?"))),
        }
    }

    fn runtime(&self) -> &Runtime {
        // It is taken away by `drop` alone.
        self.runtime.as_ref().unwrap_or_else(|| unreachable!("the store is being dropped"))
    }

    /// Runs a request to its end; for callers without a runtime.
    fn wait<T>(&self, request: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
        let limit = self.options.patience.request;
        self.runtime().block_on(async {
            timeout(limit, request).await.unwrap_or_else(|_| {
                Err(StoreError::Server {
                    action: "cannot reach the Kubernetes API server".into(),
                    reason: format!("no answer in {} s", limit.as_secs()),
                })
            })
        })
    }

    fn claims<'a>(&'a self, node: &'a NodeName) -> Claims<'a> {
        let leases = Leases { client: &self.client, namespace: self.options.namespace.as_str() };
        Claims { leases, node, spare: self.options.patience.spare }
    }

    /// Refuses to speak for this machine's node while another machine is it.
    async fn admit(&self, node: &NodeName) -> Result<(), StoreError> {
        match &self.place {
            Some(place) => place.admit(&self.client, node).await,
            None => Ok(()),
        }
    }

    fn asides(&self) -> Asides {
        let [access, token] = self.client.credentials.subscribe();
        Asides {
            held: self.holds.as_ref().map(|holds| holds.subscribe()),
            place: self.place.as_ref().map(|place| (place.clone(), place.subscribe())),
            notices: [self.announcing.subscribe(), access, token],
        }
    }

    fn followers(&self, out: &mpsc::Sender<follow::Told>) -> JoinSet<()> {
        let mut followers = JoinSet::new();
        let options = &self.options;
        let own = OwnNode::of(&options.node, self.machine.clone());
        for kind in Kind::ALL {
            let follower =
                Follower::new(kind, self.client.clone(), &own, options.pods, options.patience, out.clone());
            followers.spawn_on(follower.run(), self.runtime().handle());
        }
        followers
    }
}

fn server_error(action: String) -> impl Fn(Failure) -> StoreError {
    move |failure| StoreError::Server { action: action.clone(), reason: failure.to_string() }
}

impl Drop for KubernetesStore {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // Its tasks only wait for the server, and have nothing to finish.
            runtime.shutdown_background();
        }
    }
}

impl Store for KubernetesStore {
    fn watch(&self, sink: &mut dyn FnMut(Event) -> ControlFlow<()>) -> Result<(), StoreError> {
        let networks = self.options.networks.iter();
        let networks = networks.map(|described| Change::set(Fact::Network(described.network.clone())));
        if sink(Event::Changes(networks.collect())).is_break() {
            return Ok(());
        }
        let mut stopped = self.stop.subscribe();
        if let Some(place) = &self.place {
            // Where the server can't be asked, it is looked for with the first thing that is said. A stop gives that up: who ends says
            // nothing more, and needn't know whose node it is.
            self.runtime().block_on(async {
                tokio::select! {
                    _ = stopped.wait_for(|stopped| *stopped) => {}
                    _ = timeout(self.options.patience.ask, place.look_first(&self.client)) => {}
                }
            });
        }
        // Little waits here: a server that is faster than the plan is held back.
        let (out, mut inbox) = mpsc::channel(16);
        let mut followers = self.followers(&out);
        drop(out);
        let mut assembly = Assembly::new(self.options.patience.grace);
        let mut asides = self.asides();
        if asides.first().into_iter().try_for_each(&mut *sink).is_break() {
            return Ok(());
        }
        let ended = self.runtime().block_on(async {
            loop {
                let due = assembly.due();
                let wake = async {
                    match due {
                        Some(due) => sleep_until(due).await,
                        None => std::future::pending().await,
                    }
                };
                let events = tokio::select! {
                    _ = stopped.wait_for(|stopped| *stopped) => return Ok(()),
                    told = inbox.recv() => match told {
                        Some(told) => assembly.take(told, Instant::now()),
                        // A follower ends only when nobody listens, or by a panic.
                        None => return Err(StoreError::Server {
                            action: "cannot follow the Kubernetes API server".into(),
                            reason: "its threads have ended; this is an error in Weft".into(),
                        }),
                    },
                    events = asides.next() => events,
                    () = wake => assembly.tick(Instant::now()).into_iter().collect(),
                };
                if events.into_iter().try_for_each(&mut *sink).is_break() {
                    return Ok(());
                }
            }
        });
        followers.abort_all();
        ended
    }

    fn stop(&self) {
        self.stop.send_replace(true);
    }

    fn publish(&self, fact: &Published) -> Result<(), StoreError> {
        match fact {
            Published::Node(node) => self.wait(async {
                self.admit(&node.name).await?;
                if let Some(reason) = self.holds.as_ref().and_then(|holds| holds.refusal(node)) {
                    return Err(StoreError::Server {
                        action: format!("cannot publish node {}", node.name),
                        reason,
                    });
                }
                let failed = server_error(format!("cannot publish node {}", node.name));
                publish::publish(&self.client, node).await.map_err(failed)
            }),
            // The kubelet writes a pod's addresses, and ends a pod; until it has, no peer has a use for them.
            Published::Pod(_) | Published::PodGone { .. } => Ok(()),
        }
    }

    fn announce_ready(&self, node: &NodeName) -> Result<(), StoreError> {
        let failed = server_error(format!("cannot say that the network of node {node} is there"));
        if *node != self.options.node {
            let said = self
                .wait(async { publish::announce(&self.client, node, publish::TURNS).await.map_err(failed) });
            return said.map(drop);
        }
        self.wait(async {
            self.admit(node).await?;
            self.announcing.say(&self.client).await.map_err(failed)
        })?;
        if self.announcing.begin() {
            let (client, announcing) = (self.client.clone(), self.announcing.clone());
            self.runtime().spawn(announcing.go_on(client, self.options.patience.look));
        }
        Ok(())
    }

    fn claim_pod_cidrs(
        &self,
        network: &Network,
        node: &NodeName,
        in_use: &[Cidr],
    ) -> Result<Claim, StoreError> {
        let described = self.options.networks.iter().find(|d| d.network.name == network.name);
        let claims = self.claims(node);
        match described.map(|d| d.blocks) {
            Some(BlockSource::Cluster) => self.wait(async {
                self.admit(node).await?;
                claims.given(network).await
            }),
            _ => {
                let (claim, held) = self.wait(async {
                    self.admit(node).await?;
                    claims.claim(network, in_use).await
                })?;
                if let Some(holds) = self.holds.as_ref().filter(|_| *node == self.options.node) {
                    holds.set(&network.name, &held);
                }
                Ok(claim)
            }
        }
    }

    fn claim_another(
        &self,
        network: &Network,
        node: &NodeName,
        full: &[Cidr],
        in_use: &[Cidr],
    ) -> Result<Cidr, StoreError> {
        let described = self.options.networks.iter().find(|d| d.network.name == network.name);
        if described.is_some_and(|d| d.blocks == BlockSource::Cluster) {
            return Err(StoreError::BlocksGiven { network: network.name.to_string(), node: node.clone() });
        }
        let (cidr, asked) = self.wait(async {
            self.admit(node).await?;
            self.claims(node).another(network, full, in_use).await
        })?;
        if let Some(holds) = self.holds.as_ref().filter(|_| *node == self.options.node) {
            holds.add(&network.name, cidr, asked);
        }
        Ok(cidr)
    }

    fn relied_on_for(&self, node: &NodeName) -> Result<Option<Duration>, StoreError> {
        let failed = server_error(format!("cannot look whether node {node} relies on blocks"));
        self.wait(async {
            match self.claims(node).relied_on_for(self.options.patience.held).await {
                // As in `forget_node`.
                Err(failure) if failure.is(hyper::StatusCode::FORBIDDEN) && self.holds.is_none() => Ok(None),
                looked => looked.map_err(failed),
            }
        })
    }

    fn machine_of(&self, node: &NodeName) -> Result<Option<String>, StoreError> {
        self.wait(async { place::machine_of(&self.client, node).await.map_err(server_error(look_at(node))) })
    }

    fn forget_node(&self, node: &NodeName) -> Result<Forgotten, StoreError> {
        self.wait(async {
            let failed = server_error(format!("cannot remove what node {node} has left"));
            let _silent = match *node == self.options.node {
                true => Some(self.announcing.end().await),
                false => None,
            };
            let _unplaced = match self.place.as_ref().filter(|_| *node == self.options.node) {
                Some(place) => Some(place.forget().await),
                None => None,
            };
            let _forgotten = match self.holds.as_ref().filter(|_| *node == self.options.node) {
                Some(holds) => Some(holds.forget().await),
                None => None,
            };
            let published = publish::forget(&self.client, node).await.map_err(&failed)?;
            match self.claims(node).forget().await {
                // Where the cluster gives out the blocks, there are no claims, and no right to look for any.
                Err(failure) if failure.is(hyper::StatusCode::FORBIDDEN) && self.holds.is_none() => {
                    Ok(published)
                }
                claimed => Ok(published | claimed.map_err(failed)?),
            }
        })
    }
}
