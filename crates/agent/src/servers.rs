//! The servers inside the agent, names and health, and how one agent hands them to the next.
//!
//! What always holds: while one agent takes over from another, at least one of them answers at each port. The one that leaves has
//! given up kernel and state by then, and answers by what it knew last; the one that comes begins to answer once its own plan is
//! in force. They share ports by SO_REUSEPORT.
//!
//! What is absent: who is next. That is said by locks in the run folder.

use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, RwLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use weft_plan::Plan;

use crate::api::{Turn, is_awaited};
use crate::config::AgentConfig;
use crate::dns::Dns;
use crate::health::{HealthEars, HealthServer};
use crate::message::Message;
use crate::run::RunError;

/// How long a plan may take to be in force before servers begin without: the one before has to leave some day.
const TAKING_OVER: Duration = Duration::from_secs(10);
/// How long servers go on for the next agent's sake. Longer than [`TAKING_OVER`], as that agent has to start first.
const HANDING_OVER: Duration = Duration::from_secs(15);
/// How often to look.
const PAUSE: Duration = Duration::from_millis(20);

/// What servers are made from.
pub(crate) struct Wiring {
    pub config: AgentConfig,
    pub names: Arc<RwLock<Plan>>,
    pub core: Sender<Message>,
    pub ears: HealthEars,
}

/// Servers that run; they end with the value.
#[derive(Debug)]
pub(crate) struct Running {
    _dns: Option<Dns>,
    _health: Option<HealthServer>,
}

/// Servers that run, or will.
#[derive(Debug)]
pub(crate) enum Servers {
    /// Since the agent's start.
    Here(Running),
    /// Once the plan is in force. The sender's end breaks the wait off.
    Coming(Sender<()>, JoinHandle<Option<Running>>),
}

impl Servers {
    /// Starts them at once.
    pub fn start(wiring: Wiring) -> Self {
        Self::Here(run(wiring))
    }

    /// Starts them when they can answer as well as the agent's before, and then says so.
    ///
    /// # Errors
    /// Where there is no thread to be had.
    pub fn take_over(wiring: Wiring, turn: Turn) -> Result<Self, RunError> {
        let (ended, is_ended) = channel();
        let thread = std::thread::Builder::new().name("weft-take-over".into()).spawn(move || {
            let begun = Instant::now();
            let is_in_force = || wiring.ears.node.borrow().is_in_force(Instant::now());
            while !is_in_force() && begun.elapsed() < TAKING_OVER {
                if has_ended(&is_ended) {
                    return None;
                }
            }
            let running = run(wiring);
            tracing::info!("took over after {} ms", begun.elapsed().as_millis());
            drop(turn);
            Some(running)
        })?;
        Ok(Self::Coming(ended, thread))
    }

    /// Ends them: now, or where another agent waits for the run folder, when its own answer.
    pub fn end(self, run_dir: &Path) {
        let _running = match self {
            Self::Here(running) => Some(running),
            Self::Coming(ended, thread) => {
                drop(ended);
                // A panic ends the process anyway.
                thread.join().ok().flatten()
            }
        };
        let begun = Instant::now();
        while is_awaited(run_dir) && begun.elapsed() < HANDING_OVER {
            std::thread::sleep(PAUSE);
        }
    }
}

/// Waits a moment; says whether nobody needs the servers any more.
fn has_ended(end: &Receiver<()>) -> bool {
    !matches!(end.recv_timeout(PAUSE), Err(RecvTimeoutError::Timeout))
}

fn run(wiring: Wiring) -> Running {
    let Wiring { config, names, core, ears } = wiring;
    Running { _dns: start_dns(&config, &names, &core), _health: start_health(&config, ears, &core) }
}

/// A node without names still has a network: the trouble is shown, and the agent goes on.
fn start_dns(config: &AgentConfig, names: &Arc<RwLock<Plan>>, core: &Sender<Message>) -> Option<Dns> {
    match Dns::start(config, names, core) {
        Ok(dns) => dns,
        Err(error) => {
            let _ = core.send(Message::Trouble("dns", Some(format!("no DNS server: {error}"))));
            None
        }
    }
}

/// Balancers that hear nothing turn away, and pods keep their network: the trouble is shown, and the agent goes on.
fn start_health(config: &AgentConfig, ears: HealthEars, core: &Sender<Message>) -> Option<HealthServer> {
    if !config.services.enabled {
        return None;
    }
    // The agent's start has asked for it already.
    let node = config.node_name().ok()?;
    let to_core = core.clone();
    let complain = Box::new(move |warnings| drop(to_core.send(Message::Unserved(warnings))));
    match HealthServer::start(node, config.health_port(), ears, complain) {
        Ok(server) => Some(server),
        Err(error) => {
            let _ = core.send(Message::Trouble("health", Some(format!("no health ports: {error}"))));
            None
        }
    }
}
