//! The run folder (`/run/weft`), held by one agent at a time.
//!
//! What always holds: whoever has a [`RunDir`] is the only one, until it is dropped or its process ends in whatever
//! way: the lock is the kernel's (flock on `agent.pid`), so a crash leaves nothing that is in the way.

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
    #[error("can't make the run folder {path}: {cause}; choose another, or mend its parent")]
    Create {
        /// The folder.
        path: PathBuf,
        /// What the file system says.
        cause: io::Error,
    },
    /// The lock file can't be opened or written.
    #[error("can't write {path}: {cause}; the agent needs a run folder of its own")]
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
}

impl RunDir {
    /// Makes the folder where it is missing, and takes hold of it.
    ///
    /// # Errors
    /// [`RunDirError`]: it can't be made or written, or another agent has it.
    pub fn claim(path: &Path) -> Result<Self, RunDirError> {
        fs::create_dir_all(path).map_err(|cause| RunDirError::Create { path: path.to_owned(), cause })?;
        let file_path = path.join("agent.pid");
        let failed = |cause| RunDirError::Write { path: file_path.clone(), cause };
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o644)
            .open(&file_path)
            .map_err(failed)?;
        let mut lock = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => lock,
            Err((mut file, Errno::EWOULDBLOCK)) => {
                let mut pid = String::new();
                // Only for the message: the lock is what counts.
                let _ = file.read_to_string(&mut pid);
                let pid = if pid.trim().is_empty() { "unknown".into() } else { pid.trim().to_owned() };
                return Err(RunDirError::Held { path: path.to_owned(), pid });
            }
            Err((_, errno)) => return Err(failed(errno.into())),
        };
        // The file stays where it is: removing it would let two agents lock two files of one name.
        lock.set_len(0)
            .and_then(|()| lock.rewind())
            .and_then(|()| writeln!(lock, "{}", process::id()))
            .map_err(failed)?;
        Ok(Self { path: path.to_owned(), _lock: lock })
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
