//! The run folder (`/run/weft`), held by one agent at a time.
//!
//! What always holds: whoever has a [`RunDir`] is the only one, until it is dropped or its process ends in whatever
//! way: the lock is the kernel's (flock on `agent.pid`), so a crash leaves nothing that is in the way. An agent that waits
//! for its turn holds another lock, `next.pid`, until it does everything by itself: so the one before it knows that it may
//! leave ([`is_awaited`]).

use std::fs::{self, File};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

/// Why the run folder can't be held.
#[derive(Debug, thiserror::Error)]
pub enum RunDirError {
    /// The folder can't be made.
    #[error("can't make the run folder {path}: {cause}; {mend}", mend = mend(.cause, "choose another, or mend its parent"))]
    Create {
        /// The folder.
        path: PathBuf,
        /// What the file system says.
        cause: io::Error,
    },
    /// The lock file can't be opened or written.
    #[error("can't write {path}: {cause}; {mend}", mend = mend(.cause, "the agent needs a run folder of its own"))]
    Write {
        /// The file.
        path: PathBuf,
        /// What the file system says.
        cause: io::Error,
    },
    /// Another agent has it.
    #[error("another agent holds {path} (process {pid}); stop it first, or choose another run folder")]
    Held {
        /// The folder.
        path: PathBuf,
        /// Its process id, as it wrote it down.
        pid: String,
    },
    /// Another agent uses the state folder, with a run folder of its own.
    #[error("another agent uses {path}; stop it first, or give this one a stateDir of its own")]
    StateHeld {
        /// The folder.
        path: PathBuf,
    },
}

/// What to do: who may not write there isn't root, as a rule.
fn mend(cause: &io::Error, otherwise: &'static str) -> &'static str {
    match cause.kind() {
        io::ErrorKind::PermissionDenied => "only root may, as a rule: try `sudo weft …`",
        _ => otherwise,
    }
}

/// Takes hold of the state folder until the result is dropped: two agents would undo each other's work. Nothing is written,
/// since an agent has to start on a full disk as well.
///
/// # Errors
/// [`RunDirError`]: it can't be opened, or another agent has it.
pub fn hold_state(folder: &Path) -> Result<Flock<File>, RunDirError> {
    let failed = |cause| RunDirError::Write { path: folder.to_owned(), cause };
    let opened = File::open(folder).map_err(failed)?;
    Flock::lock(opened, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| match errno {
        Errno::EWOULDBLOCK => RunDirError::StateHeld { path: folder.to_owned() },
        errno => failed(errno.into()),
    })
}

/// A run folder that this process holds.
#[derive(Debug)]
pub struct RunDir {
    path: PathBuf,
    _lock: Flock<File>,
    turn: Option<Turn>,
}

/// An agent that takes over from another, and isn't done yet. Dropping it says that it is.
#[derive(Debug)]
pub struct Turn {
    _lock: Flock<File>,
}

const HOLDER: &str = "agent.pid";
const NEXT: &str = "next.pid";

/// Whether an agent waits for a run folder, or has it and isn't yet all that the one before it was.
pub fn is_awaited(path: &Path) -> bool {
    let Ok(file) = File::open(path.join(NEXT)) else { return false };
    // Shared, and given back at once: whoever wants it for itself waits that long.
    matches!(Flock::lock(file, FlockArg::LockSharedNonblock), Err((_, Errno::EWOULDBLOCK)))
}

/// Opens a lock file, and makes it where it is missing. It stays where it is: removing it would let two agents lock two files
/// of one name.
fn lock_file(path: &Path) -> Result<File, RunDirError> {
    File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o644)
        .open(path)
        .map_err(|cause| RunDirError::Write { path: path.to_owned(), cause })
}

impl RunDir {
    /// Makes the folder where it is missing, and takes hold of it.
    ///
    /// # Errors
    /// [`RunDirError`]: it can't be made or written, or another agent has it.
    pub fn claim(path: &Path) -> Result<Self, RunDirError> {
        Self::make(path)?;
        let file_path = path.join(HOLDER);
        match Flock::lock(lock_file(&file_path)?, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => Self::held(path, lock, None),
            Err((mut file, Errno::EWOULDBLOCK)) => {
                let mut pid = String::new();
                // Only for the message: the lock is what counts.
                let _ = file.read_to_string(&mut pid);
                let pid = if pid.trim().is_empty() { "unknown".into() } else { pid.trim().to_owned() };
                Err(RunDirError::Held { path: path.to_owned(), pid })
            }
            Err((_, errno)) => Err(RunDirError::Write { path: file_path, cause: errno.into() }),
        }
    }

    /// [`RunDir::claim`], but waits where another agent has it, for as long as that takes.
    ///
    /// # Errors
    /// [`RunDirError`]: it can't be made or written.
    pub fn wait(path: &Path) -> Result<Self, RunDirError> {
        match Self::claim(path) {
            Err(RunDirError::Held { pid, .. }) => {
                tracing::info!("waiting for the agent that runs here (process {pid}) to end");
            }
            claimed => return claimed,
        }
        let lock = |name: &str| {
            let path = path.join(name);
            Flock::lock(lock_file(&path)?, FlockArg::LockExclusive)
                .map_err(|(_, errno)| RunDirError::Write { path, cause: errno.into() })
        };
        // Of several that wait, the first one is next.
        let turn = Turn { _lock: lock(NEXT)? };
        Self::held(path, lock(HOLDER)?, Some(turn))
    }

    fn make(path: &Path) -> Result<(), RunDirError> {
        fs::create_dir_all(path).map_err(|cause| RunDirError::Create { path: path.to_owned(), cause })
    }

    fn held(path: &Path, mut lock: Flock<File>, turn: Option<Turn>) -> Result<Self, RunDirError> {
        lock.set_len(0)
            .and_then(|()| lock.rewind())
            .and_then(|()| writeln!(lock, "{}", process::id()))
            .map_err(|cause| RunDirError::Write { path: path.join(HOLDER), cause })?;
        Ok(Self { path: path.to_owned(), _lock: lock, turn })
    }

    /// Takes out that this agent takes over from another, if it does.
    pub fn take_turn(&mut self) -> Option<Turn> {
        self.turn.take()
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where the agent listens.
    pub fn socket(&self) -> PathBuf {
        self.path.join("weft.sock")
    }
}
