//! The loop of a watch: the kernel's hints, the clock and outages in, events out.

use std::io::PipeReader;
use std::ops::ControlFlow;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::DirectoryOptions;
use super::follow::Follower;
use super::notify::{Hint, Notify};
use super::place::{IsFirst, Place};
use super::scan::{self, Found};
use crate::seat::Dispute;
use crate::store::{Event, Remark, StoreError};

type Sink<'a> = &'a mut dyn FnMut(Event) -> ControlFlow<()>;

/// Time between attempts while the folder is away.
const RETRY: Duration = Duration::from_millis(500);

struct Watch<'a> {
    root: &'a Path,
    options: &'a DirectoryOptions,
    place: Option<&'a Place>,
    /// What was told of the node's place.
    told: Dispute,
    /// When to look at it again.
    next_look: Instant,
    follower: Follower,
    notify: Notify,
    /// The folder that was there at first.
    identity: (u64, u64),
    /// Since when it is away, and why.
    stale: Option<(SystemTime, String)>,
    /// It is back, and what has changed meanwhile is being taken in.
    is_recovering: bool,
    next_scan: Instant,
}

/// Runs until the sink breaks or the pipe has a byte.
pub(super) fn watch(
    root: &Path,
    (options, place): (&DirectoryOptions, Option<&Place>),
    stopped: &PipeReader,
    sink: Sink<'_>,
) -> Result<(), StoreError> {
    let failed = |source| StoreError::OpenFolder { path: root.to_owned(), source };
    let no_watch = |e: nix::Error| StoreError::Watch { path: root.to_owned(), source: e.into() };
    let mut watch = Watch {
        root,
        options,
        place,
        told: Dispute::default(),
        next_look: Instant::now(),
        follower: Follower::new(root, options),
        notify: Notify::new().map_err(no_watch)?,
        identity: scan::identity(root).map_err(failed)?,
        stale: None,
        is_recovering: false,
        next_scan: Instant::now(),
    };
    if deliver(watch.look_at_place(IsFirst::Yes), sink).is_break() {
        return Ok(());
    }
    // Watched first and read after it, so that nothing falls in between.
    let found = scan::scan(root).map_err(failed)?;
    watch.watch_all(&found);
    let mut heard = ControlFlow::Continue(());
    let mut tell = |event| {
        if heard.is_continue() {
            heard = sink(event);
        }
    };
    let loaded = watch.follower.load(&mut tell).map_err(failed)?;
    if heard.is_break() {
        return Ok(());
    }
    watch.watch_all(&loaded);
    let first = watch.follower.drain().into_iter().chain([Event::Synced]);
    if deliver(first, sink).is_break() {
        return Ok(());
    }
    watch.run(stopped, sink).map_err(no_watch)
}

fn deliver(events: impl IntoIterator<Item = Event>, sink: Sink<'_>) -> ControlFlow<()> {
    events.into_iter().try_for_each(sink)
}

impl Watch<'_> {
    fn run(&mut self, stopped: &PipeReader, sink: Sink<'_>) -> nix::Result<()> {
        let mut due: Option<Instant> = None;
        loop {
            let mut wake = due.map_or(self.next_scan, |due| due.min(self.next_scan));
            if self.place.is_some() {
                wake = wake.min(self.next_look);
            }
            let timeout = wake.saturating_duration_since(Instant::now());
            // Rounded up: waking a little early would spin until the time has come.
            let timeout =
                PollTimeout::try_from(timeout + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX);
            let mut fds = [
                PollFd::new(stopped.as_fd(), PollFlags::POLLIN),
                PollFd::new(self.notify.as_fd(), PollFlags::POLLIN),
            ];
            match poll(&mut fds, timeout) {
                Ok(_) | Err(nix::Error::EINTR) => {}
                Err(error) => return Err(error),
            }
            if fds[0].any() == Some(true) {
                return Ok(());
            }
            let mut events = Vec::new();
            due = self.turn(&mut events);
            if Instant::now() >= self.next_look {
                events.extend(self.look_at_place(IsFirst::No));
            }
            if deliver(events, sink).is_break() {
                return Ok(());
            }
        }
    }

    /// Looks which machine is the node, and says what has changed. Where the folder is away, or another is in its place, nothing has.
    fn look_at_place(&mut self, is_first: IsFirst) -> Vec<Event> {
        let Some(place) = self.place else { return Vec::new() };
        self.next_look = Instant::now() + self.options.look;
        if self.stale.is_some() || scan::identity(self.root).ok() != Some(self.identity) {
            return Vec::new();
        }
        if let Err(error) = place.look(self.root, is_first) {
            tracing::debug!("cannot look which machine is this node: {error}");
        }
        place.news(&mut self.told)
    }

    /// One turn: takes the hints, looks at the folder where it is time, settles. Returns when files are due.
    fn turn(&mut self, events: &mut Vec<Event>) -> Option<Instant> {
        let hints = self.notify.read();
        let now = Instant::now();
        let has_moved = scan::identity(self.root).ok() != Some(self.identity);
        if now >= self.next_scan || self.stale.is_some() || has_moved || hints.contains(&Hint::Rescan) {
            self.look(now, events);
        }
        if self.stale.is_some() {
            return None;
        }
        for hint in &hints {
            self.follower.hint(hint, now);
        }
        let (root, identity) = (self.root, self.identity);
        let due = self.follower.settle(now, || scan::identity(root).ok() == Some(identity));
        events.extend(self.follower.drain());
        if self.is_recovering && self.follower.is_settled() {
            self.is_recovering = false;
            events.push(Event::Synced);
        }
        due
    }

    /// Looks at the whole folder, and says whether it is there.
    fn look(&mut self, now: Instant, events: &mut Vec<Event>) {
        let outcome = scan::identity(self.root).and_then(|id| Ok((id, scan::scan(self.root)?)));
        let (identity, found) = match outcome {
            Ok(ok) => ok,
            Err(error) => return self.lose(now, format!("the folder can't be read: {error}"), events),
        };
        if identity != self.identity && self.follower.is_suddenly_empty(&found) {
            let reason = "another, empty folder is in its place; is its file system mounted?".to_owned();
            return self.lose(now, reason, events);
        }
        self.identity = identity;
        self.watch_all(&found);
        self.follower.compare(&found, now);
        self.is_recovering |= self.stale.take().is_some();
    }

    fn lose(&mut self, now: Instant, reason: String, events: &mut Vec<Event>) {
        self.next_scan = now + RETRY;
        let since = self.stale.as_ref().map_or_else(SystemTime::now, |(since, _)| *since);
        if self.stale.as_ref().is_none_or(|(_, before)| *before != reason) {
            let text = format!("{}: {reason}", self.root.display());
            events.push(Event::Stale { since, reason: text });
        }
        self.stale = Some((since, reason));
    }

    /// Watches all folders, also those that came in meanwhile, and sets the time of the next look.
    fn watch_all(&mut self, found: &Found) {
        let result = self.notify.watch(self.root, &found.dirs);
        let about = "folder watch";
        let poll = match result {
            // What was put into a new folder before its watch is found by a second look, soon.
            Ok(true) => self.options.debounce,
            Ok(false) if is_shared(self.root) => self.options.shared_poll,
            Ok(false) => self.options.safety_poll,
            Err(error) => {
                let text = format!(
                    "the kernel takes no watch on every folder ({error}), so it is looked at every {:?}; \
                     raise fs.inotify.max_user_watches",
                    self.options.shared_poll
                );
                self.follower.set_notice(about, Some(Remark::Warning(text)));
                self.next_scan = Instant::now() + self.options.shared_poll;
                return;
            }
        };
        self.follower.set_notice(about, None);
        self.next_scan = Instant::now() + poll;
    }
}

/// True where another machine may change files without this kernel's knowing (statfs(2), `linux/magic.h`).
fn is_shared(root: &Path) -> bool {
    const SHARED: [u32; 13] = [
        0x6969,      // NFS
        0x517b,      // SMB
        0xff53_4d42, // CIFS
        0xfe53_4d42, // SMB2
        0x0102_1997, // 9p
        0x6573_5546, // FUSE, virtiofs with it
        0x00c3_6400, // Ceph
        0x0116_1970, // GFS2
        0x7461_636f, // OCFS2
        0x5346_414f, // OpenAFS
        0x6b41_4653, // kAFS
        0x786f_4256, // VirtualBox
        0x0bd0_0bd0, // Lustre
    ];
    nix::sys::statfs::statfs(root).is_ok_and(|s| SHARED.contains(&(s.filesystem_type().0 as u32)))
}
