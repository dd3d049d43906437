//! The seat of this machine's node ([`crate::seat`]) as a file: `.weft/machines/NODE`.
//!
//! What always holds: it is read before anything is published or claimed for the node, and nothing is while it is another machine's.
//! Where it can't be written and nobody has it, the node goes on without, with a warning: what it claimed before stands, and is read.
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
use crate::seat::{ATTEMPTS, Dispute, Entry, Seat, look_at};
use crate::store::{Event, Forgotten, Hold, StoreError};

/// See the module.
#[derive(Debug)]
pub(super) struct Place {
    seat: Mutex<Seat>,
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
            let text = read(&path)?;
            let there = text.as_deref().map(Entry::read).unwrap_or_default();
            let Some(entry) = seat.look(&there, BootTime::now()) else { return Ok(()) };
            let line = format!("{}\n", entry.write());
            let written = match text {
                None => make(root, &path, &line),
                Some(_) => publish::replace(root, &path, line.as_bytes()),
            };
            match written {
                // Of one that is away or full nothing is known of who has what, or soon will be.
                Err(error) if there.holder.is_empty() && can_only_be_read(&error) => {
                    seat.cannot_take(format!("cannot write {}: {error}", path.display()));
                    return Ok(());
                }
                written => written?,
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
        self.seat().dispute().admit(node)
    }

    /// What has changed since it was told.
    pub fn news(&self, told: &mut Dispute) -> Vec<Event> {
        let seat = self.seat();
        let now = seat.dispute();
        let mut events = Vec::new();
        if now.refusal != told.refusal {
            events.push(Event::Hold(now.refusal.clone().map_or(Hold::Unbound, Hold::Lapsed)));
        }
        if now.warning != told.warning {
            events.push(Event::Notice(now.notice(seat.node())));
        }
        *told = now;
        events
    }

    /// Who has a node's seat.
    pub fn machine_of(root: &Path, node: &NodeName) -> Result<Option<String>, StoreError> {
        let path = layout::machine_file(root, node);
        let failed = |error| StoreError::Server {
            action: look_at(node),
            reason: format!("cannot read {}: {error}", path.display()),
        };
        let text = read(&path).map_err(failed)?;
        Ok(text.as_deref().map(Entry::read).and_then(Entry::machine))
    }

    /// Removes a node's file.
    pub fn forget(place: Option<&Self>, root: &Path, node: &NodeName) -> Result<Forgotten, StoreError> {
        let mut seat = place.map(Self::seat).filter(|seat| seat.node() == node);
        let path = layout::machine_file(root, node);
        let forgotten = publish::gone(fs::remove_file(&path)).map_err(|source| StoreError::Forget {
            node: node.clone(),
            path,
            source,
        })?;
        if let Some(seat) = &mut seat {
            seat.forget();
        }
        Ok(forgotten)
    }
}

/// Whether somebody has looked before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum IsFirst {
    Yes,
    No,
}

/// What the file says, where there is one.
fn read(path: &Path) -> std::io::Result<Option<String>> {
    match fs::read_to_string(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        read => read.map(Some),
    }
}

/// True where a folder lets nobody like us write.
fn can_only_be_read(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::ReadOnlyFilesystem | ErrorKind::PermissionDenied)
}

/// Makes the file where there is none.
fn make(root: &Path, path: &Path, line: &str) -> std::io::Result<()> {
    let Some(dir) = path.parent() else { return Err(ErrorKind::InvalidInput.into()) };
    publish::make_below(root, dir)?;
    let unique = format!(".{}.{}", std::process::id(), fastrand::u64(..));
    let staged = dir.join(unique);
    let written = fs::write(&staged, line);
    let made = written.is_ok().then(|| claim::place(&staged, path, dir));
    // On a full disk there may be an empty one.
    let _ = fs::remove_file(&staged);
    written?;
    match made {
        // Without links and exclusive renaming, the last one counts.
        Some(Err(_)) => publish::replace(root, path, line.as_bytes()),
        _ => Ok(()),
    }
}
