//! The thread that serves health ports as the plan comes to have them.
//!
//! What always holds: a port that was ordered and can't be had is named, and tried again every five seconds. A port that is closed
//! still answers who had connected. Connections are bounded, over all and at each port, and an answer is of the moment when it is
//! asked for.
//!
//! What is absent: how the node does (`state`, which the core tells), what is answered (`answer`), and HTTP (`connection`).

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use thiserror::Error;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, timeout};
use weft_model::{FactKey, NodeName, Port, Warning};
use weft_plan::{HealthKey, HealthRow, Listen};

use super::HealthEars;
use super::answer::{of_node, of_service};
use super::connection::converse;
use super::listener::{addresses, listen};
use super::state::NodeHealth;

/// Connections at once, over all ports; what is more is closed at once.
const CONNECTIONS: usize = 512;
/// Connections at once at one port, so that nobody takes all the room at one.
const CONNECTIONS_A_PORT: usize = 64;
/// How often a port that could not be had is tried again.
const RETRY: Duration = Duration::from_secs(5);
/// How long connections in work may go on when the server stops.
const FAREWELL: Duration = Duration::from_secs(1);

/// Why there is no server.
#[derive(Debug, Error)]
#[error("starting the thread that answers health checks: {0}; see the limits on processes and open files")]
pub struct HealthServerError(#[from] io::Error);

/// What the server is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Order {
    /// Serve this port like this from now on.
    Serve(HealthKey, HealthRow),
    /// Serve it no longer.
    Close(HealthKey),
}

/// Whom to tell of ports that can't be had: a warning each, all that there are; the server goes on trying.
pub type Complain = Box<dyn Fn(Vec<Warning>) + Send>;

/// A running server. It stops when this is dropped.
#[derive(Debug)]
pub struct HealthServer {
    stop: Option<watch::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl HealthServer {
    /// Starts a server in the calling thread's network namespace. It answers of the node at `own`, where it is given.
    ///
    /// # Errors
    /// [`HealthServerError`]; nothing runs then.
    pub fn start(
        node: NodeName,
        own: Option<Port>,
        ears: HealthEars,
        complain: Complain,
    ) -> Result<Self, HealthServerError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (stop, stopped) = watch::channel(());
        let thread = std::thread::Builder::new().name("weft-health".into()).spawn(move || {
            let mut server = Server {
                ports: BTreeMap::new(),
                shared: Shared { health: ears.node, room: Arc::new(Semaphore::new(CONNECTIONS)) },
                complain,
                said: Vec::new(),
            };
            if let Some(port) = own {
                let served = Served::new(Subject::Node(node), Listen::Everywhere);
                server.ports.insert(port, served);
            }
            runtime.block_on(server.run(ears.orders, stopped));
        })?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for HealthServer {
    fn drop(&mut self) {
        // The server notices that the other half of the channel is gone.
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Of whom a port answers.
#[derive(Debug)]
enum Subject {
    Node(NodeName),
    Service(HealthRow),
}

impl Subject {
    fn object(&self) -> FactKey {
        match self {
            Subject::Node(name) => FactKey::Node(name.clone()),
            Subject::Service(row) => FactKey::Service(row.service.clone()),
        }
    }
}

/// A port that is wanted, and as far as it could be had is served.
struct Served {
    subject: watch::Sender<Subject>,
    listen: Listen,
    room: Arc<Semaphore>,
    listeners: BTreeMap<SocketAddr, Listening>,
}

/// What became of one address. Its listener is closed when the sender is dropped.
enum Listening {
    Served { _close: watch::Sender<()> },
    Refused(String),
}

impl Served {
    fn new(subject: Subject, listen: Listen) -> Self {
        let room = Arc::new(Semaphore::new(CONNECTIONS_A_PORT));
        Self { subject: watch::Sender::new(subject), listen, room, listeners: BTreeMap::new() }
    }
}

/// What all connections share.
#[derive(Clone)]
struct Shared {
    health: watch::Receiver<NodeHealth>,
    room: Arc<Semaphore>,
}

struct Server {
    ports: BTreeMap<Port, Served>,
    shared: Shared,
    complain: Complain,
    /// What was complained of last.
    said: Vec<Warning>,
}

impl Server {
    async fn run(mut self, mut orders: mpsc::UnboundedReceiver<Order>, mut stopped: watch::Receiver<()>) {
        let mut tasks = JoinSet::new();
        let mut retry = interval(RETRY);
        retry.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                order = orders.recv() => match order {
                    Some(order) => self.obey(order, &mut tasks),
                    // Whoever gives orders has ended; what was ordered stays until this is stopped.
                    None => {
                        let _ = stopped.changed().await;
                        break;
                    }
                },
                _ = retry.tick() => self.open_all(&mut tasks),
                _ = stopped.changed() => break,
                // Closed ports.
                Some(_) = tasks.join_next(), if !tasks.is_empty() => {}
            }
        }
        self.ports.clear();
        while tasks.join_next().await.is_some() {}
        let _ = timeout(FAREWELL, self.shared.room.acquire_many(CONNECTIONS as u32)).await;
    }

    fn obey(&mut self, order: Order, tasks: &mut JoinSet<()>) {
        match order {
            Order::Serve(HealthKey { port }, row) => {
                let (listen, subject) = (row.listen.clone(), Subject::Service(row));
                match self.ports.get_mut(&port) {
                    Some(served) => {
                        served.subject.send_replace(subject);
                        served.listen = listen;
                    }
                    None => drop(self.ports.insert(port, Served::new(subject, listen))),
                }
                self.open(port, tasks);
            }
            Order::Close(HealthKey { port }) => drop(self.ports.remove(&port)),
        }
        self.report();
    }

    fn open_all(&mut self, tasks: &mut JoinSet<()>) {
        let ports: Vec<Port> = self.ports.keys().copied().collect();
        for port in ports {
            self.open(port, tasks);
        }
        self.report();
    }

    /// Brings a port's listeners to what is wanted; what can't be had is kept as refused.
    fn open(&mut self, port: Port, tasks: &mut JoinSet<()>) {
        let Some(served) = self.ports.get_mut(&port) else { return };
        let wanted = addresses(&served.listen, port);
        served.listeners.retain(|address, _| wanted.contains(address));
        for address in wanted {
            if matches!(served.listeners.get(&address), Some(Listening::Served { .. })) {
                continue;
            }
            let now = match listen(address) {
                Ok(Some(listener)) => {
                    let (close, closed) = watch::channel(());
                    let port = PortServer { subject: served.subject.subscribe(), room: served.room.clone() };
                    tasks.spawn(accept(listener, port, self.shared.clone(), closed));
                    Listening::Served { _close: close }
                }
                Ok(None) => continue,
                Err(error) => Listening::Refused(error.to_string()),
            };
            served.listeners.insert(address, now);
        }
    }

    /// Complains of what is refused, where that is news.
    fn report(&mut self) {
        let mut refused = Vec::new();
        for served in self.ports.values() {
            for (address, listening) in &served.listeners {
                let Listening::Refused(reason) = listening else { continue };
                let text = format!(
                    "its health is not answered at {address}: {reason}; see who has the port (`ss -ltnp`), it is tried again"
                );
                refused.push(Warning { object: served.subject.borrow().object(), text });
            }
        }
        if refused != self.said {
            self.said.clone_from(&refused);
            (self.complain)(refused);
        }
    }
}

/// A port as its connections see it.
struct PortServer {
    subject: watch::Receiver<Subject>,
    room: Arc<Semaphore>,
}

/// Accepts until `closed` says so, and then what still waits.
async fn accept(listener: TcpListener, port: PortServer, shared: Shared, mut closed: watch::Receiver<()>) {
    let mut closing = false;
    loop {
        let accepted = if closing {
            match timeout(Duration::ZERO, listener.accept()).await {
                Ok(accepted) => accepted,
                Err(_) => return,
            }
        } else {
            tokio::select! {
                accepted = listener.accept() => accepted,
                _ = closed.changed() => {
                    closing = true;
                    continue;
                }
            }
        };
        let room = (shared.room.clone().try_acquire_owned(), port.room.clone().try_acquire_owned());
        match (accepted, room) {
            (Ok((stream, _)), (Ok(of_all), Ok(of_port))) => {
                let (subject, health) = (port.subject.clone(), shared.health.clone());
                tokio::spawn(async move {
                    converse(stream, |path| match &*subject.borrow() {
                        Subject::Service(row) => of_service(row, &health.borrow(), Instant::now()),
                        Subject::Node(_) => {
                            of_node(path, &health.borrow(), Instant::now(), SystemTime::now())
                        }
                    })
                    .await;
                    drop((of_all, of_port));
                });
            }
            // One too many is closed at once: who asked asks again.
            (Ok(_), _) => {}
            (Err(error), _) if closing => {
                tracing::debug!("accepting a last health check: {error}");
                return;
            }
            (Err(error), _) => {
                tracing::warn!("accepting health checks: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}
