//! What the kernel tells of changes in the folder (inotify(7)).
//!
//! What always holds: whatever can't be told apart becomes "look at everything".

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor};

use super::layout;

/// What may have happened. Paths are relative to the folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Hint {
    /// A file was closed by its writer, or came or went by name: it is as it should be.
    Whole(String),
    /// A file is being written.
    Open(String),
    /// Anything.
    Rescan,
}

/// The kernel's watches.
#[derive(Debug)]
pub(super) struct Notify {
    inotify: Inotify,
    dirs: HashMap<WatchDescriptor, String>,
}

impl Notify {
    pub fn new() -> nix::Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
        Ok(Self { inotify, dirs: HashMap::new() })
    }

    /// Watches folders. True where one of them was not watched before, so that what came in before the watch did has
    /// to be looked for again.
    ///
    /// # Errors
    /// When the kernel takes no more watches.
    pub fn watch(&mut self, root: &Path, dirs: &[String]) -> nix::Result<bool> {
        let events = AddWatchFlags::IN_CLOSE_WRITE
            | AddWatchFlags::IN_MODIFY
            | AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_MOVED_FROM
            | AddWatchFlags::IN_MOVED_TO
            | AddWatchFlags::IN_ATTRIB
            | AddWatchFlags::IN_DELETE_SELF
            | AddWatchFlags::IN_MOVE_SELF
            | AddWatchFlags::IN_ONLYDIR;
        let mut is_new = false;
        for dir in dirs {
            match self.inotify.add_watch(&root.join(dir), events) {
                // A folder that was renamed keeps its descriptor and gets its new name here.
                Ok(descriptor) => is_new |= self.dirs.insert(descriptor, dir.clone()).as_ref() != Some(dir),
                Err(Errno::ENOENT | Errno::ENOTDIR) => is_new = true,
                Err(error) => return Err(error),
            }
        }
        Ok(is_new)
    }

    /// Takes what has come in.
    pub fn read(&mut self) -> Vec<Hint> {
        let mut hints = Vec::new();
        loop {
            match self.inotify.read_events() {
                Ok(events) => {
                    for event in events {
                        let name = event.name.as_deref();
                        hints.extend(self.hint(event.wd, event.mask, name));
                    }
                }
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return hints,
                Err(_) => {
                    hints.push(Hint::Rescan);
                    return hints;
                }
            }
        }
    }

    fn hint(
        &mut self,
        wd: WatchDescriptor,
        mask: AddWatchFlags,
        name: Option<&std::ffi::OsStr>,
    ) -> Option<Hint> {
        if mask.contains(AddWatchFlags::IN_IGNORED) {
            self.dirs.remove(&wd);
            return Some(Hint::Rescan);
        }
        if mask.intersects(AddWatchFlags::IN_Q_OVERFLOW | AddWatchFlags::IN_UNMOUNT) {
            return Some(Hint::Rescan);
        }
        let dir = self.dirs.get(&wd)?;
        let Some(name) = name.and_then(|n| n.to_str()) else {
            let is_self = AddWatchFlags::IN_DELETE_SELF | AddWatchFlags::IN_MOVE_SELF;
            return mask.intersects(is_self).then_some(Hint::Rescan);
        };
        // Kubernetes' volumes swap all their files by renaming this link.
        if name == "..data" || mask.contains(AddWatchFlags::IN_ISDIR) && layout::is_entered(dir, name) {
            return Some(Hint::Rescan);
        }
        let path = if dir.is_empty() { name.to_owned() } else { format!("{dir}/{name}") };
        layout::writer_of(&path)?;
        Some(if mask.contains(AddWatchFlags::IN_MODIFY) { Hint::Open(path) } else { Hint::Whole(path) })
    }
}

impl AsFd for Notify {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inotify.as_fd()
    }
}
