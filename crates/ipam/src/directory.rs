//! Leases as files, in the layout of the host-local plugin, so that a cluster can move from it (and back) with its
//! pods running, and `ls` shows who has what:
//!
//! ```text
//! <dir>/<network>/10.244.1.7            container id, CR LF, interface name
//! <dir>/<network>/fd00:244::7
//! <dir>/<network>/last_reserved_ip.0    the address given last, by position of the family
//! <dir>/<network>/lock                  flock(2) is held on it around every operation
//! <dir>/<network>/boot_id               Weft's own: the boot that the leases belong to
//! <dir>/<network>/.spare                Weft's own: the file of a lease that is over, for the next one
//! ```
//!
//! What always holds: a file exists for an address exactly as long as somebody holds it. The file is created with
//! `O_EXCL` and filled under the lock, so an *empty* one that is seen under the lock is what a killed process left,
//! and is freed. The leases of one attachment are links to one file, where the file system has links; none is ever written a second time: the spare is
//! written while it has no other name. Nothing is synced to disk: after a power cut the leases are dead anyway.
//!
//! `boot_id` stands in a file of its own because host-local compares whole contents when it frees a lease. host-local
//! passes over any file whose contents are not its container's.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use weft_model::{AttachmentId, IfName, NetworkName};

use crate::reuse::{is_its_only_name, overwrite};
use crate::{Boot, Lease, LeaseError, LeaseOwner, LeaseStore, Reservation};

const LOCK: &str = "lock";
const BOOT_ID: &str = "boot_id";
const SPARE: &str = ".spare";
const LAST_RESERVED: &str = "last_reserved_ip.";
const LINE_BREAK: &str = "\r\n";

/// A [`LeaseStore`] over a directory that may be shared with host-local.
#[derive(Debug)]
pub struct DirectoryLeases {
    dir: PathBuf,
    boot_id: String,
    /// The lease that was written last.
    last: Option<Lease>,
}

/// A lease's file that was just made.
enum Made {
    /// It says who the owner is.
    Whole,
    /// It has to be written.
    Empty(File),
}

impl DirectoryLeases {
    /// Opens the leases of `network` under `dir`, which is made where it is missing, and frees what an earlier boot
    /// left. Returns the leases so freed.
    ///
    /// A lease is an earlier boot's when `boot_id` says so *and* its file is older than this boot: host-local knows
    /// nothing of `boot_id` and may have given addresses since. What a wrong clock keeps alive this way is freed by
    /// [`crate::Leases::reconcile`]. Without a `boot_id`, the leases are host-local's own, and all are kept.
    ///
    /// # Errors
    /// When the directory can't be made, locked, read or written.
    pub fn open(dir: &Path, network: &NetworkName, boot: &Boot) -> Result<(Self, Vec<Lease>), LeaseError> {
        let dir = dir.join(network.as_str());
        std::fs::create_dir_all(&dir)
            .map_err(|source| LeaseError::CreateDirectory { path: dir.clone(), source })?;
        let store = Self { dir, boot_id: boot.id.clone(), last: None };
        let _lock = store.lock()?;
        let freed = store.free_earlier_boots(boot)?;
        Ok((store, freed))
    }

    /// Frees what an earlier boot left, and then says that the rest is this boot's. Killed in between, it is done
    /// again at the next start, before any new lease. The lock is held.
    fn free_earlier_boots(&self, boot: &Boot) -> Result<Vec<Lease>, LeaseError> {
        let path = self.dir.join(BOOT_ID);
        let recorded = match std::fs::read_to_string(&path) {
            Ok(text) => Some(text.trim().to_owned()).filter(|id| !id.is_empty()),
            Err(e) if e.kind() == ErrorKind::NotFound => None,
            Err(source) => return Err(LeaseError::Read { path, source }),
        };
        if recorded.as_deref() == Some(boot.id.as_str()) {
            return Ok(Vec::new());
        }
        let mut freed = Vec::new();
        if recorded.is_some() {
            for lease in self.list_locked()? {
                let path = self.path(lease.address);
                let written = std::fs::metadata(&path).and_then(|m| m.modified());
                if written.is_ok_and(|at| at < boot.began) {
                    remove(&path)?;
                    freed.push(lease);
                }
            }
        }
        self.write_boot_id()?;
        Ok(freed)
    }

    fn write_boot_id(&self) -> Result<(), LeaseError> {
        let (staged, path) = (self.dir.join(".boot_id"), self.dir.join(BOOT_ID));
        std::fs::write(&staged, &self.boot_id)
            .and_then(|()| std::fs::rename(&staged, &path))
            .map_err(|source| LeaseError::WriteBoot { path, source })
    }

    fn path(&self, address: IpAddr) -> PathBuf {
        self.dir.join(address.to_string())
    }

    /// Takes host-local's lock until the file is dropped.
    fn lock(&self) -> Result<File, LeaseError> {
        let path = self.dir.join(LOCK);
        let open = || OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
        let lock = || -> std::io::Result<File> {
            let file = match open() {
                // Somebody has removed the folder: without one no pod could come or go until the next start.
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    std::fs::create_dir_all(&self.dir)?;
                    open()
                }
                result => result,
            }?;
            loop {
                match file.lock() {
                    Err(e) if e.kind() == ErrorKind::Interrupted => {}
                    result => return result.map(|()| file),
                }
            }
        };
        lock().map_err(|source| LeaseError::Lock { path, source })
    }

    /// The owner that a file names. `None` where there is none; one without an owner is a killed process' and is
    /// removed. The lock is held.
    fn owner_locked(&self, address: IpAddr) -> Result<Option<LeaseOwner>, LeaseError> {
        let path = self.path(address);
        match std::fs::read(&path) {
            Ok(bytes) => match parse_owner(&String::from_utf8_lossy(&bytes)) {
                Some(owner) => Ok(Some(owner)),
                None => remove(&path).map(|()| None),
            },
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
            Err(source) => Err(LeaseError::Read { path, source }),
        }
    }

    /// Makes a lease's file where there is none: another name of the owner's other lease, whose contents are the same, the spare, or a
    /// new one. New files are dear on ext4, which passes over those that were removed in the last minutes. The lock is held.
    fn make_locked(&self, path: &Path, owner: &AttachmentId) -> std::io::Result<Made> {
        if let Some(last) = self.last.as_ref().filter(|last| last.owner.is(owner)) {
            let other = self.path(last.address);
            // Others may have given it away since.
            let is_still = std::fs::read_to_string(&other)
                .is_ok_and(|text| parse_owner(&text).as_ref() == Some(&last.owner));
            if is_still {
                match std::fs::hard_link(&other, path) {
                    Ok(()) => return Ok(Made::Whole),
                    Err(e) if e.kind() == ErrorKind::AlreadyExists => return Err(e),
                    // Not every file system has links.
                    Err(_) => {}
                }
            }
        }
        match self.name_spare_locked(path, owner) {
            Ok(true) => Ok(Made::Whole),
            Err(e) if e.kind() == ErrorKind::AlreadyExists => Err(e),
            // No spare, or none that can be used.
            _ => OpenOptions::new().write(true).create_new(true).open(path).map(Made::Empty),
        }
    }

    /// Writes the spare and gives it a lease's name, where none has it; false where there is no spare. The lock is held.
    fn name_spare_locked(&self, path: &Path, owner: &AttachmentId) -> std::io::Result<bool> {
        let spare = self.dir.join(SPARE);
        if is_its_only_name(&spare) {
            overwrite(&spare, contents(owner).as_bytes())?;
            std::fs::hard_link(&spare, path)?;
            // It is a lease from now on. A name that can't be taken away is found to be a second one.
            let _ = std::fs::remove_file(&spare);
            return Ok(true);
        }
        // Where there is one it is a lease, since somebody was killed between the two steps above, or none of ours.
        let _ = std::fs::remove_file(&spare);
        Ok(false)
    }

    /// Takes a lease's name away, and keeps its file where that was the only one. The lock is held.
    fn retire_locked(&self, path: &Path) -> Result<(), LeaseError> {
        if is_its_only_name(path) && std::fs::rename(path, self.dir.join(SPARE)).is_ok() {
            return Ok(());
        }
        remove(path)
    }

    fn list_locked(&self) -> Result<Vec<Lease>, LeaseError> {
        let failed = |source| LeaseError::List { path: self.dir.clone(), source };
        let mut leases = Vec::new();
        for entry in std::fs::read_dir(&self.dir).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            // Whatever isn't named by an address is no lease.
            let Some(address) = name.to_str().and_then(|n| n.parse().ok()) else {
                continue;
            };
            if let Some(owner) = self.owner_locked(address)? {
                leases.push(Lease { address, owner });
            }
        }
        Ok(leases)
    }
}

impl LeaseStore for DirectoryLeases {
    fn reserve(&mut self, address: IpAddr, owner: &AttachmentId) -> Result<Reservation, LeaseError> {
        let path = self.path(address);
        let failed = |path: PathBuf| move |source| LeaseError::Write { path, source };
        let _lock = self.lock()?;
        let made = loop {
            match self.make_locked(&path, owner) {
                Ok(made) => break made,
                Err(e) if e.kind() == ErrorKind::AlreadyExists => {
                    // An empty file is removed by the look, and then the next turn succeeds.
                    if let Some(holder) = self.owner_locked(address)? {
                        return Ok(Reservation::Taken(holder));
                    }
                }
                Err(source) => return Err(failed(path)(source)),
            }
        };
        if let Made::Empty(mut file) = made
            && let Err(source) = file.write_all(contents(owner).as_bytes())
        {
            remove(&path)?;
            return Err(failed(path)(source));
        }
        self.last = Some(Lease { address, owner: owner.into() });
        Ok(Reservation::Done)
    }

    fn release(&mut self, lease: &Lease) -> Result<(), LeaseError> {
        let _lock = self.lock()?;
        match self.owner_locked(lease.address)? {
            Some(owner) if owner == lease.owner => self.retire_locked(&self.path(lease.address)),
            _ => Ok(()),
        }
    }

    fn list(&self) -> Result<Vec<Lease>, LeaseError> {
        let _lock = self.lock()?;
        // It is there from the first moment: without it the directory, or all in it, has been removed since.
        if !self.dir.join(BOOT_ID).exists() {
            return Err(LeaseError::Vanished { path: self.dir.clone() });
        }
        self.list_locked()
    }

    fn confirm(&mut self) -> Result<(), LeaseError> {
        let _lock = self.lock()?;
        if self.dir.join(BOOT_ID).exists() { Ok(()) } else { self.write_boot_id() }
    }

    fn last_reserved(&self, range: usize) -> Option<IpAddr> {
        let path = self.dir.join(format!("{LAST_RESERVED}{range}"));
        std::fs::read_to_string(path).ok()?.trim().parse().ok()
    }

    fn set_last_reserved(&mut self, range: usize, address: IpAddr) {
        let path = self.dir.join(format!("{LAST_RESERVED}{range}"));
        if let Err(error) = overwrite(&path, address.to_string().as_bytes()) {
            tracing::debug!(path = %path.display(), %error, "the last reserved address was not remembered");
        }
    }
}

/// What a lease's file says.
fn contents(owner: &AttachmentId) -> String {
    format!("{}{LINE_BREAK}{}", owner.container, owner.ifname)
}

/// Reads a lease's contents; `None` where they name nobody.
fn parse_owner(text: &str) -> Option<LeaseOwner> {
    let mut lines = text.trim().lines().map(str::trim);
    let container = lines.next().filter(|c| !c.is_empty())?;
    Some(LeaseOwner { container: container.into(), ifname: lines.next().and_then(|n| IfName::new(n).ok()) })
}

fn remove(path: &Path) -> Result<(), LeaseError> {
    match std::fs::remove_file(path) {
        Err(source) if source.kind() != ErrorKind::NotFound => {
            Err(LeaseError::Remove { path: path.to_owned(), source })
        }
        _ => Ok(()),
    }
}
