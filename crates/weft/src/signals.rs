//! The signals by which a server is told to end.
//!
//! What always holds: they count from the moment they are taken, also in a container, where the server is process 1 and the
//! kernel drops what nobody has asked for. Until they are held they end the process at once; after that the first is told, and
//! a second ends the process at once: whoever sends it is in a hurry.

use std::process::exit;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Result, anyhow};
use nix::sys::signal::{SigSet, Signal};

/// The server had begun, and ended before it was done: what a shell says of a process that SIGTERM ended.
const HURRIED: i32 = 128 + 15;

/// Who is told of a signal.
#[derive(Debug, Default)]
enum Ear {
    /// Nobody yet: there is nothing to end in order.
    #[default]
    None,
    /// The server.
    Server(Sender<Signal>),
    /// The server has been told.
    Told,
}

/// SIGTERM and SIGINT, taken.
#[derive(Debug)]
pub struct Signals {
    ear: Arc<Mutex<Ear>>,
}

impl Signals {
    /// Takes them. To be called before there is any thread: all inherit the mask, so that only one takes signals.
    ///
    /// # Errors
    /// They can't be blocked, or there is no thread to be had.
    pub fn take() -> Result<Self> {
        let mut set = SigSet::empty();
        set.add(Signal::SIGTERM);
        set.add(Signal::SIGINT);
        set.thread_block().map_err(|e| anyhow!("can't block signals: {e}"))?;
        let ear: Arc<Mutex<Ear>> = Arc::default();
        let told = ear.clone();
        std::thread::Builder::new()
            .name("weft-signals".into())
            .spawn(move || {
                // Waiting can only fail for a set that is no set.
                while let Ok(signal) = set.wait() {
                    tell(&told, signal);
                }
            })
            .map_err(|e| anyhow!("can't listen for signals: {e}"))?;
        Ok(Self { ear })
    }

    /// From here on the first one is told.
    pub fn hold(&self) -> Receiver<Signal> {
        let (sender, receiver) = channel();
        *self.ear.lock().unwrap_or_else(PoisonError::into_inner) = Ear::Server(sender);
        receiver
    }
}

fn tell(ear: &Mutex<Ear>, signal: Signal) {
    let mut ear = ear.lock().unwrap_or_else(PoisonError::into_inner);
    match std::mem::replace(&mut *ear, Ear::Told) {
        Ear::None => exit(0),
        // A server that doesn't listen any more is about to end.
        Ear::Server(server) => drop(server.send(signal)),
        Ear::Told => exit(HURRIED),
    }
}
