//! Starting an agent: the core, and the threads around it.
//!
//! What always holds: a state folder has one agent, from before its kernel is opened until its kernel's thread has ended. An agent
//! that can't start leaves the kernel as it was, and one that ends leaves there all that it made. Servers end last, when whoever waits
//! to take over has begun.
//!
//! What is absent: what the threads do, and signals (the command `weft agent`).

use std::fs::File;
use std::io;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::fcntl::Flock;
use weft_dataplane::{Ledger, LinuxKernel, Monitor, observe_host};
use weft_ipam::Boot;
use weft_model::NodeName;
use weft_store::{DirectoryOptions, DirectoryStore, EtcdStore, KubernetesStore, Store, StoreError};

use crate::api::{ApiServer, Limits, RunDir, RunDirError, hold_state};
use crate::background;
use crate::config::{AgentConfig, ConfigError, StoreConfig};
use crate::core::{Around, Core, PublishWork, SharedPlans, StartError, Work};
use crate::health;
use crate::kernel_thread::KernelThread;
use crate::late_store::LateStore;
use crate::machine;
use crate::message::Message;
use crate::others::Watch;
use crate::publisher;
use crate::records::{RECORDS, Records};
use crate::routes::Routes;
use crate::servers::{Servers, Wiring};
use crate::trial::{FOLDER, Refused, lacks};

/// How long an agent that ends waits until the store has heard what it had to say. A store that is away holds up no end.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// How often the core is told that time passes.
const TICK: Duration = Duration::from_millis(500);

/// How long to wait before watching others' changes is tried again.
const MONITOR_PAUSE: Duration = Duration::from_secs(5);

/// Why an agent can't run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// What was kept.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The run folder.
    #[error(transparent)]
    RunDir(#[from] RunDirError),
    /// The socket.
    #[error(transparent)]
    Api(#[from] crate::api::StartError),
    /// The kernel.
    #[error("cannot use the kernel's network: {error}{hint}", error = .0, hint = rights_hint(.0))]
    Kernel(#[from] weft_dataplane::KernelError),
    /// A folder of the agent's own.
    #[error("cannot make {}: {source}; choose another stateDir, or mend its parent", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// A thread.
    #[error("cannot start a thread: {0}")]
    Thread(#[from] io::Error),
}

/// A running agent.
pub struct Agent {
    core: Sender<Message>,
    core_thread: Option<JoinHandle<()>>,
    kernel_thread: Option<JoinHandle<()>>,
    publisher: Publisher,
    store: Arc<dyn Store>,
    api: Option<ApiServer>,
    servers: Servers,
    run_dir: RunDir,
    state: Flock<File>,
}

impl Agent {
    /// Whether it could begin, as far as can be seen without beginning: asked before the agent that runs has ended.
    ///
    /// # Errors
    /// [`RunError`].
    pub fn try_out(config: &AgentConfig) -> Result<(), RunError> {
        config.settings()?;
        let boot = Boot::current().map_err(StartError::from)?;
        Records::try_out(&config.state_dir.join(RECORDS), &boot.id).map_err(StartError::from)?;
        Ok(())
    }

    /// Starts everything, in the calling thread's network namespace. `run_dir` is the folder that the configuration names.
    ///
    /// # Errors
    /// [`RunError`]; then nothing runs, and the kernel is as it was.
    pub fn start(config: &AgentConfig, mut run_dir: RunDir) -> Result<Self, RunError> {
        let node = config.node_name()?;
        make_folder(&config.state_dir)?;
        let state = hold_state(&config.state_dir)?;
        let store = open_store(config, Opener::Agent)?;
        let kernel = LinuxKernel::open(&config.state_dir)?;
        let ledger = kernel.ledger();
        let plans = SharedPlans::default();
        let (to_core, inbox) = channel();
        let (to_kernel, kernel_inbox) = channel();
        let (to_publisher, publisher_inbox) = channel();
        let (news, ears) = health::news();
        let around = Around { kernel: to_kernel.clone(), publish: to_publisher, health: news };
        let core = Core::new(config.clone(), plans.clone(), around)?;
        let api = ApiServer::start(&run_dir, Limits::default(), Arc::new(Routes::new(to_core.clone())))?;
        let wiring =
            Wiring { config: config.clone(), names: plans.names.clone(), core: to_core.clone(), ears };
        let servers = match run_dir.take_turn() {
            None => Servers::start(wiring),
            Some(turn) => Servers::take_over(wiring, turn)?,
        };
        let _ = to_core.send(Message::Host(observe_host()?));
        let kernel_work = KernelThread::new(kernel, plans.kernel.clone(), kernel_inbox, to_core.clone());
        let kernel_thread = spawn("weft-kernel", move || kernel_work.run())?;
        let core_thread = spawn("weft-core", move || core.run(&inbox))?;
        spawn_monitor(ledger, &to_core, to_kernel)?;
        spawn_store(&store, &to_core)?;
        let publisher = Publisher::start(&store, node, publisher_inbox, &to_core)?;
        spawn_clock(&to_core)?;
        spawn_trial(run_dir.path().join(FOLDER), &to_core)?;
        Ok(Self {
            core: to_core,
            core_thread: Some(core_thread),
            kernel_thread: Some(kernel_thread),
            publisher,
            store,
            api: Some(api),
            servers,
            run_dir,
            state,
        })
    }

    /// Ends the agent; what it made in the kernel stays, and goes on working. Where another agent waits for its turn, this one's
    /// servers go on until that one's have begun.
    pub fn stop(mut self) {
        if let Some(api) = self.api.take() {
            api.stop();
        }
        let _ = self.core.send(Message::Stop);
        // A panic ends the process anyway.
        let join = |thread: Option<JoinHandle<()>>| drop(thread.map(JoinHandle::join));
        join(self.core_thread.take());
        // A store that is stopped takes no more words: the publisher may have some left, and this process may outlast its turn.
        self.publisher.end_within(LAST_WORDS);
        self.store.stop();
        join(self.kernel_thread.take());
        // From here on this agent changes nothing any more, and another may.
        let Self { run_dir, state, servers, .. } = self;
        let folder = run_dir.path().to_owned();
        drop(state);
        drop(run_dir);
        servers.end(&folder);
    }
}

/// What to do where rights may be what lacks: a file that can't be read says itself.
fn rights_hint(error: &weft_dataplane::KernelError) -> &'static str {
    match error {
        weft_dataplane::KernelError::Originals { .. } => "",
        _ => "; run as root, or with CAP_NET_ADMIN in this network namespace",
    }
}

fn make_folder(path: &std::path::Path) -> Result<(), RunError> {
    std::fs::create_dir_all(path).map_err(|source| RunError::Folder { path: path.to_owned(), source })
}

/// Who opens a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opener {
    /// This machine's agent, which speaks for its node.
    Agent,
    /// A person's command. It leaves no trace on this machine, and isn't asked which machine it is.
    Person,
}

/// The store that a configuration names, opened when it is first needed. One arm a store.
///
/// # Errors
/// Where the configuration names no node.
pub fn open_store(config: &AgentConfig, opener: Opener) -> Result<Arc<dyn Store>, ConfigError> {
    let (store, node, pods) = (config.store.clone(), config.node_name()?, config.pods());
    let state_dir = config.state_dir.clone();
    let word = move || {
        if opener == Opener::Person {
            return String::new();
        }
        machine::word(&state_dir).unwrap_or_else(|error| {
            let folder = state_dir.display();
            tracing::warn!("another machine of this node's name would not be noticed: {folder}: {error}");
            String::new()
        })
    };
    Ok(Arc::new(LateStore::new(Box::new(move || match &store {
        StoreConfig::Directory(folder) => {
            let machine = Some((node.clone(), word())).filter(|(_, word)| !word.is_empty());
            let options = DirectoryOptions { machine, ..DirectoryOptions::default() };
            Ok(Arc::new(DirectoryStore::open(folder, options)?) as Arc<dyn Store>)
        }
        StoreConfig::Kubernetes(kubernetes) => {
            let mut options = kubernetes
                .options(node.clone(), pods)
                .map_err(|(field, reason)| StoreError::Server { action: field.into(), reason })?;
            options.machine = word();
            Ok(Arc::new(KubernetesStore::open(options)?))
        }
        StoreConfig::Etcd(etcd) => {
            let mut options = etcd
                .options()
                .map_err(|(field, reason)| StoreError::Settings { field: field.to_owned(), reason })?;
            options.machine = word();
            Ok(Arc::new(EtcdStore::open(options)?))
        }
    }))))
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, RunError> {
    Ok(thread::Builder::new().name(name.into()).spawn(work)?)
}

fn spawn_monitor(ledger: Ledger, core: &Sender<Message>, kernel: Sender<Work>) -> Result<(), RunError> {
    let open = move || Monitor::open(ledger.clone());
    let watch = Watch { monitor: open()?, core: core.clone(), kernel, pause: MONITOR_PAUSE };
    spawn("weft-monitor", move || watch.run(open))?;
    Ok(())
}

fn spawn_store(store: &Arc<dyn Store>, core: &Sender<Message>) -> Result<(), RunError> {
    let (store, core) = (store.clone(), core.clone());
    spawn("weft-store", move || {
        let to_core = core.clone();
        let ended = store.watch(&mut |event| match to_core.send(Message::Store(event)) {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        });
        if let Err(error) = ended {
            let _ = core.send(Message::Trouble(
                "store",
                Some(format!("the store is no longer watched: {error}; restart the agent")),
            ));
        }
    })?;
    Ok(())
}

/// The publisher's thread.
struct Publisher {
    /// Closes when it has ended.
    ended: Receiver<()>,
}

impl Publisher {
    fn start(
        store: &Arc<dyn Store>,
        node: NodeName,
        inbox: Receiver<PublishWork>,
        core: &Sender<Message>,
    ) -> Result<Self, RunError> {
        let (store, core) = (store.clone(), core.clone());
        let (running, ended) = channel();
        spawn("weft-publish", move || {
            let _running: Sender<()> = running;
            publisher::run(&store, &node, &inbox, &core);
        })?;
        Ok(Self { ended })
    }

    /// Waits until it has said everything, where nobody gives it work any more; not for longer than that.
    fn end_within(&self, limit: Duration) {
        let _ = self.ended.recv_timeout(limit);
    }
}

/// Tries out what the kernel can do, once, in `folder`: for people who ask for the status.
fn spawn_trial(folder: PathBuf, core: &Sender<Message>) -> Result<(), RunError> {
    let core = core.clone();
    spawn("weft-tries", move || {
        // The network is not to come up later for it.
        background::step_back();
        let in_folder = || -> Result<_, Refused> {
            // An agent that was killed in the middle has left one.
            let _ = std::fs::remove_dir_all(&folder);
            std::fs::create_dir(&folder)?;
            lacks(&folder)
        };
        let tried = in_folder();
        let _ = std::fs::remove_dir_all(&folder);
        let _ = core.send(Message::Tried(tried));
    })?;
    Ok(())
}

fn spawn_clock(core: &Sender<Message>) -> Result<(), RunError> {
    let core = core.clone();
    spawn("weft-clock", move || {
        while core.send(Message::Tick(Instant::now())).is_ok() {
            thread::sleep(TICK);
        }
    })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use weft_model::ObjectKey;
    use weft_store::{Published, PublishedPod};

    use super::*;

    fn pod() -> PublishWork {
        PublishWork::Publish(Published::Pod(PublishedPod {
            key: ObjectKey::new("shop", "web").unwrap(),
            uid: None,
            network: weft_model::NetworkName::ordinary(),
            node: node(),
            ips: vec!["10.244.1.2".parse().unwrap()],
            host_ports: Vec::new(),
        }))
    }

    fn node() -> NodeName {
        NodeName::new("n1").unwrap()
    }

    /// A publisher that was given something and will be given no more.
    fn with_last_words(store: &Arc<dyn Store>) -> Publisher {
        let (work, inbox) = channel();
        let (core, _) = channel();
        let publisher = Publisher::start(store, node(), inbox, &core).unwrap();
        work.send(pod()).unwrap();
        publisher
    }

    #[test]
    fn what_was_to_be_said_is_said_before_the_end() {
        let folder = tempfile::tempdir().unwrap();
        let options = DirectoryOptions::default();
        let store: Arc<dyn Store> = Arc::new(DirectoryStore::open(folder.path(), options).unwrap());
        with_last_words(&store).end_within(Duration::from_secs(60));
        assert_eq!(std::fs::read_dir(folder.path().join(".weft/pods/n1")).unwrap().count(), 1);
    }

    #[test]
    fn a_store_that_does_not_answer_holds_up_no_end() {
        let (keep, kept) = channel::<()>();
        let kept = std::sync::Mutex::new(kept);
        let store: Arc<dyn Store> = Arc::new(LateStore::new(Box::new(move || {
            let _ = kept.lock().unwrap().recv();
            Err(StoreError::Server { action: "opening it".into(), reason: "it is away".into() })
        })));
        let begun = Instant::now();
        with_last_words(&store).end_within(Duration::from_millis(20));
        assert!(begun.elapsed() < Duration::from_secs(30));
        drop(keep);
    }
}
