//! The seat of this machine's node ([`crate::seat`]) as a file: `.weft/machines/NODE`.
//!
//! What always holds: it is read before anything is published or claimed for the node, and nothing is while it is another machine's.
//! It is made only where there is none, in one step; later writers replace it. Two machines that take the place of a third in the same
//! moment see who was last at their next look.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use weft_model::NodeName;

use super::{claim, layout, publish};
use crate::clock::BootTime;
use crate::seat::{Entry, Seat};
use crate::store::{Event, Hold, Notice, Remark, StoreError};

/// Writes in a row until the file is as it should be.
const ATTEMPTS: usize = 8;

/// See the module.
#[derive(Debug)]
pub(super) struct Place {
    seat: Mutex<Seat>,
}

/// What was told of it.
#[derive(Debug, Default)]
pub(super) struct Told {
    refusal: Option<String>,
    warning: Option<String>,
}

impl Place {
    pub fn of(node: NodeName, machine: String, pause: Duration) -> Self {
        Self { seat: Mutex::new(Seat::of(node, machine, pause)) }
    }

    fn seat(&self) -> MutexGuard<'_, Seat> {
        self.seat.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks for the first time, and later on only where a look has been.
    ///
    /// # Errors
    /// The system's, where the file can be neither read nor written.
    pub fn look(&self, root: &Path, is_first: IsFirst) -> std::io::Result<()> {
        let mut seat = self.seat();
        if seat.is_unknown() != (is_first == IsFirst::Yes) {
            return Ok(());
        }
        let path = layout::machine_file(root, seat.node());
        for _ in 0..ATTEMPTS {
            let text = match fs::read_to_string(&path) {
                Err(error) if error.kind() == ErrorKind::NotFound => None,
                read => Some(read?),
            };
            let there = text.as_deref().map(Entry::read).unwrap_or_default();
            let Some(entry) = seat.look(&there, BootTime::now()) else { return Ok(()) };
            let line = format!("{}\n", entry.write());
            match text {
                None => make(root, &path, &line)?,
                Some(_) => publish::replace(root, &path, line.as_bytes())?,
            }
            if seat.is_question(&entry) {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Refuses what would be said or claimed for the node while another machine is it.
    pub fn admit(&self, root: &Path, node: &NodeName) -> Result<(), StoreError> {
        if self.seat().node() != node {
            return Ok(());
        }
        let path = layout::machine_file(root, node);
        let failed =
            |source| StoreError::Publish { what: format!("the machine of node {node}"), path, source };
        self.look(root, IsFirst::Yes).map_err(failed)?;
        match self.seat().refusal() {
            Some(reason) => {
                Err(StoreError::Server { action: format!("cannot speak for node {node}"), reason })
            }
            None => Ok(()),
        }
    }

    /// What has changed since it was told.
    pub fn news(&self, told: &mut Told) -> Vec<Event> {
        let seat = self.seat();
        let now = Told { refusal: seat.refusal(), warning: seat.warning() };
        let mut events = Vec::new();
        if now.refusal != told.refusal {
            events.push(Event::Hold(now.refusal.clone().map_or(Hold::Unbound, Hold::Lapsed)));
        }
        if now.warning != told.warning {
            let about = format!("machine of node {}", seat.node());
            events.push(Event::Notice(Notice { about, text: now.warning.clone().map(Remark::Warning) }));
        }
        *told = now;
        events
    }

    /// Removes a node's file.
    pub fn forget(place: Option<&Self>, root: &Path, node: &NodeName) -> Result<(), StoreError> {
        let mut seat = place.map(Self::seat).filter(|seat| seat.node() == node);
        let path = layout::machine_file(root, node);
        match fs::remove_file(&path) {
            Err(source) if source.kind() != ErrorKind::NotFound => {
                return Err(StoreError::Forget { node: node.clone(), path, source });
            }
            _ => {}
        }
        if let Some(seat) = &mut seat {
            seat.forget();
        }
        Ok(())
    }
}

/// Whether somebody has looked before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum IsFirst {
    Yes,
    No,
}

/// Makes the file where there is none.
fn make(root: &Path, path: &Path, line: &str) -> std::io::Result<()> {
    let Some(dir) = path.parent() else { return Err(ErrorKind::InvalidInput.into()) };
    publish::make_below(root, dir)?;
    let unique = format!(".{}.{}", std::process::id(), fastrand::u64(..));
    let staged = dir.join(unique);
    fs::write(&staged, line)?;
    let made = claim::place(&staged, path, dir);
    let _ = fs::remove_file(&staged);
    match made {
        Ok(_) => Ok(()),
        // Without links and exclusive renaming, the last one counts.
        Err(_) => publish::replace(root, path, line.as_bytes()),
    }
}
