//! What others change in the kernel: the machine's own links for the core, what is ours for the kernel thread.
//!
//! What always holds: a watch that breaks is begun again, and then everything is looked at once, since what happened meanwhile was not
//! seen. What it doesn't do: judge whose change it was (`weft_dataplane::Monitor`).

use std::sync::mpsc::Sender;
use std::thread;
use std::time::Duration;

use weft_dataplane::{KernelError, Monitor, Notification, observe_host};

use crate::core::Work;
use crate::message::Message;

/// What tells of changes, one at a time.
pub trait Changes {
    /// Waits for the next.
    ///
    /// # Errors
    /// When there will be no more.
    fn next(&mut self) -> Result<Notification, KernelError>;
}

impl Changes for Monitor {
    fn next(&mut self) -> Result<Notification, KernelError> {
        Monitor::next(self)
    }
}

/// The work of the thread `weft-monitor`.
pub struct Watch<M> {
    /// The watch to begin with.
    pub monitor: M,
    /// The core, told of the host.
    pub core: Sender<Message>,
    /// The kernel thread, told of what is to be mended.
    pub kernel: Sender<Work>,
    /// How long to wait before a watch is opened again.
    pub pause: Duration,
}

/// The agent ends.
struct Ends;

impl<M: Changes> Watch<M> {
    /// Watches until the agent ends; `open` begins a watch anew.
    pub fn run(mut self, open: impl Fn() -> Result<M, KernelError>) {
        while let Ok(error) = self.follow() {
            if self.reopen(&open, error).is_err() {
                return;
            }
        }
    }

    /// Hands on what happens, until the watch breaks.
    fn follow(&mut self) -> Result<KernelError, Ends> {
        loop {
            match self.monitor.next() {
                Ok(Notification::HostChanged) => self.tell_host()?,
                Ok(Notification::Disturbed { what }) => {
                    tracing::info!("mending what somebody changed: {what}");
                    self.kernel.send(Work::Sync).map_err(|_| Ends)?;
                }
                Err(error) => return Ok(error),
            }
        }
    }

    fn reopen(
        &mut self,
        open: &impl Fn() -> Result<M, KernelError>,
        mut error: KernelError,
    ) -> Result<(), Ends> {
        loop {
            let text = format!("changes by others go unnoticed, and are looked for again soon: {error}");
            self.tell(Message::Trouble("monitor", Some(text)))?;
            thread::sleep(self.pause);
            match open() {
                Ok(monitor) => self.monitor = monitor,
                Err(next) => {
                    error = next;
                    continue;
                }
            }
            self.tell(Message::Trouble("monitor", None))?;
            self.tell_host()?;
            return self.kernel.send(Work::Sync).map_err(|_| Ends);
        }
    }

    fn tell_host(&self) -> Result<(), Ends> {
        match observe_host() {
            Ok(host) => self.tell(Message::Host(host)),
            Err(error) => self.tell(Message::Trouble("host", Some(error.to_string()))),
        }
    }

    fn tell(&self, message: Message) -> Result<(), Ends> {
        self.core.send(message).map_err(|_| Ends)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::sync::mpsc::channel;

    use weft_model::IfName;

    use super::*;

    /// Tells of one disturbance, and breaks.
    struct Short(bool);

    impl Changes for Short {
        fn next(&mut self) -> Result<Notification, KernelError> {
            match std::mem::replace(&mut self.0, true) {
                false => Ok(Notification::Disturbed { what: "a route".into() }),
                true => Err(broken()),
            }
        }
    }

    fn broken() -> KernelError {
        KernelError::NoLink(IfName::loopback())
    }

    #[test]
    fn a_watch_that_breaks_is_begun_again_and_everything_looked_at() {
        let (core, to_core) = channel();
        let (kernel, to_kernel) = channel();
        let watch = Watch { monitor: Short(false), core, kernel, pause: Duration::ZERO };
        // The first time it can't be opened; after the second the agent ends.
        let (tried, to_core) = (Cell::new(0), Cell::new(Some(to_core)));
        let heard = Cell::new(Vec::new());
        watch.run(|| {
            tried.set(tried.get() + 1);
            let inbox = to_core.take().unwrap();
            let mut all = heard.take();
            all.extend(inbox.try_iter().filter_map(|message| match message {
                Message::Trouble("monitor", text) => Some(text.is_some()),
                _ => None,
            }));
            heard.set(all);
            match tried.get() {
                1 => {
                    to_core.set(Some(inbox));
                    Err(broken())
                }
                2 => {
                    to_core.set(Some(inbox));
                    Ok(Short(false))
                }
                _ => Ok(Short(false)),
            }
        });
        assert_eq!(tried.get(), 3);
        assert_eq!(heard.take(), [true, true, false, true], "broken, still broken, over, broken again");
        // A disturbance, the look at everything, and the disturbance that the second watch told of.
        assert_eq!(to_kernel.try_iter().filter(|work| matches!(work, Work::Sync)).count(), 3);
    }
}
