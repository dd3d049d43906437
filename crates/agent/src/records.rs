//! Attachments on disk: what this node has promised to its pods, one small file each.
//!
//! A record is written *before* anything is made for it, as `ID.adding.json`; it becomes `ID.json` before ADD answers, and
//! `ID.deleting.json` before anything is unmade. Whoever finds one after a crash knows from its name what to do:
//! finish it, keep it, or take the rest down. A rename is the step from one to the next, so no state is ever half written.
//! The file of a record that is over is kept for the next one, under a name that is no record's.
//! Nothing is forced to the platter: pods don't survive a power cut either, and records of an earlier boot are dropped.

use std::cell::Cell;
use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use weft_ipam::reuse::{is_its_only_name, overwrite};
use weft_model::name::file_stem;
use weft_model::{Attachment, AttachmentId};

/// How far an attachment is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// ADD has not answered yet.
    Adding,
    /// ADD has answered.
    Attached,
    /// DEL was asked for, or ADD failed.
    Deleting,
}

impl Stage {
    fn suffix(self) -> &'static str {
        match self {
            Stage::Adding => ".adding.json",
            Stage::Attached => ".json",
            Stage::Deleting => ".deleting.json",
        }
    }

    fn of(name: &str) -> Option<Self> {
        // The plain suffix ends the others too, so it comes last.
        [Stage::Adding, Stage::Deleting, Stage::Attached]
            .into_iter()
            .find(|stage| name.ends_with(stage.suffix()))
    }
}

/// What a record holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The attachment.
    pub attachment: Attachment,
    /// Name of the runtime's network configuration: what its GC speaks for.
    pub conf_name: String,
}

/// A record, and how far its attachment is.
pub type Found = (Stage, Record);

/// Why a record can't be kept.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// It can't be written.
    #[error("cannot write {}: {source}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// The records can't be listed.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file or folder.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// What was promised to a pod can't be read: without it the pod's link and address would count as nobody's.
    #[error(
        "cannot read {}: {reason}; its pod would lose its network. If a later version of Weft wrote it, start that one; otherwise delete \
         the pod, then this file",
        path.display()
    )]
    Promise {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

/// When the last agent wrote here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Since {
    /// Since the machine started, as far as anybody can tell.
    ThisBoot,
    /// Before that.
    EarlierBoot,
}

/// The folder of records.
#[derive(Debug)]
pub struct Records {
    folder: PathBuf,
    /// Whether [`SPARE`] is there.
    has_spare: Cell<bool>,
}

/// Name of the folder below `stateDir`.
pub const RECORDS: &str = "attachments";
const BOOT_ID: &str = "boot_id";
/// A file that was a record, and becomes the next one: to make and remove a file costs more than all that is written, on ext4 above
/// all, which passes over files that were removed in the last minutes.
const SPARE: &str = "spare";

impl Records {
    fn of(folder: &Path) -> Self {
        Self { folder: folder.to_owned(), has_spare: Cell::new(is_its_only_name(&folder.join(SPARE))) }
    }

    /// Opens the folder, which is made where it is missing. Records of an earlier boot are dropped: their pods are gone. Where
    /// somebody has removed what says of which boot they are, all are kept: a pod that is gone is found without.
    ///
    /// # Errors
    /// [`RecordError`] where the folder can't be made, read or changed.
    pub fn open(folder: &Path, boot: &str) -> Result<(Self, Since), RecordError> {
        let write = |path: &Path, source| RecordError::Write { path: path.to_owned(), source };
        fs::create_dir_all(folder).map_err(|e| write(folder, e))?;
        let records = Self::of(folder);
        let boot_file = folder.join(BOOT_ID);
        let recorded = match fs::read_to_string(&boot_file) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => String::new(),
            Err(source) => return Err(RecordError::Read { path: boot_file, source }),
        };
        let since = match recorded.trim() {
            same if same == boot => return Ok((records, Since::ThisBoot)),
            "" => Since::ThisBoot,
            _ => Since::EarlierBoot,
        };
        if since == Since::EarlierBoot {
            for path in records.files()? {
                fs::remove_file(&path).map_err(|e| write(&path, e))?;
            }
        }
        records.replace(&boot_file, boot.as_bytes())?;
        Ok((records, since))
    }

    /// Whether an agent that begins now could read what was promised in this boot. It changes nothing: for one that waits for its turn.
    ///
    /// # Errors
    /// As [`Records::list`].
    pub fn try_out(folder: &Path, boot: &str) -> Result<(), RecordError> {
        let recorded = fs::read_to_string(folder.join(BOOT_ID)).unwrap_or_default();
        // As `open` has it: without an id they count as this boot's.
        if !folder.is_dir() || !["", boot].contains(&recorded.trim()) {
            return Ok(());
        }
        Self::of(folder).list().map(drop)
    }

    /// All records with their stages, by id. A file that can't be read of an attachment that comes or goes is left alone and reported.
    ///
    /// # Errors
    /// Where the folder can't be listed, or the file of a pod that is attached can't be read.
    pub fn list(&self) -> Result<(Vec<Found>, Vec<String>), RecordError> {
        let (mut records, mut broken) = (Vec::new(), Vec::new());
        for path in self.files()? {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let Some(stage) = Stage::of(&name) else { continue };
            let read = fs::read(&path).map_err(|e| e.to_string());
            match read.and_then(|bytes| serde_json::from_slice::<Record>(&bytes).map_err(|e| e.to_string())) {
                Ok(record) => records.push((stage, record)),
                Err(reason) if stage == Stage::Attached => {
                    return Err(RecordError::Promise { path, reason });
                }
                Err(reason) => {
                    broken.push(format!("{}: {reason}; remove it if its pod is gone", path.display()));
                }
            }
        }
        records.sort_by(|a, b| a.1.attachment.id.cmp(&b.1.attachment.id));
        Ok((records, broken))
    }

    /// Writes a new record, in stage [`Stage::Adding`].
    ///
    /// # Errors
    /// Where it can't be written; then nothing of it is left.
    pub fn begin(&self, record: &Record) -> Result<(), RecordError> {
        self.write(record, Stage::Adding)
    }

    /// Writes the record of a pod that is attached already, by another network; whatever stage an earlier one was in.
    ///
    /// # Errors
    /// As [`Records::begin`].
    pub fn keep(&self, record: &Record) -> Result<(), RecordError> {
        self.write(record, Stage::Attached)?;
        for stage in [Stage::Adding, Stage::Deleting] {
            let path = self.path(&record.attachment.id, stage);
            match fs::remove_file(&path) {
                Err(source) if source.kind() != ErrorKind::NotFound => {
                    return Err(RecordError::Write { path, source });
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// The record of an attachment that ADD has answered; `None` where there is none that can be read.
    pub fn attached(&self, id: &AttachmentId) -> Option<Record> {
        serde_json::from_slice(&fs::read(self.path(id, Stage::Attached)).ok()?).ok()
    }

    fn write(&self, record: &Record, stage: Stage) -> Result<(), RecordError> {
        let path = self.path(&record.attachment.id, stage);
        let bytes = serde_json::to_vec(record)
            .map_err(|e| RecordError::Write { path: path.clone(), source: io::Error::other(e) })?;
        self.replace(&path, &bytes)
    }

    /// Takes a record from one stage to another. A record that isn't there any more is no error.
    ///
    /// # Errors
    /// Where the file can't be renamed.
    pub fn advance(&self, id: &AttachmentId, from: Stage, to: Stage) -> Result<(), RecordError> {
        let (old, new) = (self.path(id, from), self.path(id, to));
        match fs::rename(&old, &new) {
            Err(source) if source.kind() != ErrorKind::NotFound => {
                Err(RecordError::Write { path: new, source })
            }
            _ => Ok(()),
        }
    }

    /// Removes a record, whatever its stage.
    ///
    /// # Errors
    /// Where the file is there and can't be removed.
    pub fn remove(&self, id: &AttachmentId) -> Result<(), RecordError> {
        for stage in [Stage::Adding, Stage::Attached, Stage::Deleting] {
            let path = self.path(id, stage);
            match self.discard(&path) {
                Err(source) if source.kind() != ErrorKind::NotFound => {
                    return Err(RecordError::Write { path, source });
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Removes a file, or makes it the spare one.
    fn discard(&self, path: &Path) -> io::Result<()> {
        if !self.has_spare.get() && fs::rename(path, self.folder.join(SPARE)).is_ok() {
            self.has_spare.set(true);
            return Ok(());
        }
        fs::remove_file(path)
    }

    fn path(&self, id: &AttachmentId, stage: Stage) -> PathBuf {
        // Neither part may hold a slash, and an interface's name holds no colon: the name is safe and unambiguous.
        let name = format!("{}:{}", id.container, id.ifname);
        self.folder.join(format!("{}{}", file_stem(&name), stage.suffix()))
    }

    fn files(&self) -> Result<Vec<PathBuf>, RecordError> {
        let read = |source| RecordError::Read { path: self.folder.clone(), source };
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.folder).map_err(read)? {
            let path = entry.map_err(read)?.path();
            if path.extension().is_some_and(|e| e == "json" || e == "tmp") {
                files.push(path);
            }
        }
        Ok(files)
    }

    /// Writes a whole file or nothing.
    fn replace(&self, path: &Path, bytes: &[u8]) -> Result<(), RecordError> {
        let spare = self.folder.join(SPARE);
        let temporary = if self.has_spare.replace(false) && is_its_only_name(&spare) {
            spare
        } else {
            let mut name = path.file_name().unwrap_or_default().to_owned();
            name.push(".tmp");
            path.with_file_name(name)
        };
        let done = overwrite(&temporary, bytes).and_then(|()| fs::rename(&temporary, path));
        done.map_err(|source| {
            let _ = fs::remove_file(&temporary);
            RecordError::Write { path: path.to_owned(), source }
        })
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;
    use weft_model::{IfName, Mac, NetworkName};

    fn record(container: &str) -> Record {
        Record {
            attachment: Attachment {
                id: AttachmentId { container: container.into(), ifname: IfName::new("eth0").unwrap() },
                network: NetworkName::ordinary(),
                pod: None,
                addresses: Vec::new(),
                mac: Mac::derived(container),
                mtu: None,
                host_ports: Vec::new(),
                netns: String::new(),
            },
            conf_name: "weft".into(),
        }
    }

    fn stages(records: &Records) -> Vec<Stage> {
        records.list().unwrap().0.into_iter().map(|(stage, _)| stage).collect()
    }

    #[test]
    fn a_record_goes_through_its_stages_and_survives_reopening() {
        let folder = tempfile::tempdir().unwrap();
        let records = Records::open(folder.path(), "boot-1").unwrap().0;
        let a = record("a");
        records.begin(&a).unwrap();
        assert_eq!(stages(&records), [Stage::Adding]);
        records.advance(&a.attachment.id, Stage::Adding, Stage::Attached).unwrap();
        let again = Records::open(folder.path(), "boot-1").unwrap().0;
        assert_eq!(again.list().unwrap().0, [(Stage::Attached, a.clone())]);
        again.advance(&a.attachment.id, Stage::Attached, Stage::Deleting).unwrap();
        assert_eq!(stages(&again), [Stage::Deleting]);
        again.remove(&a.attachment.id).unwrap();
        again.remove(&a.attachment.id).unwrap();
        assert!(stages(&again).is_empty());
    }

    #[test]
    fn a_records_file_is_the_next_ones_and_nothing_is_left_of_it() {
        let folder = tempfile::tempdir().unwrap();
        let inode = |name: &str| fs::metadata(folder.path().join(name)).unwrap().ino();
        let (long, short) = (record(&"a".repeat(60)), record("b"));
        let records = Records::open(folder.path(), "boot-1").unwrap().0;
        records.begin(&long).unwrap();
        records.begin(&short).unwrap();
        let first = inode(&format!("{}:eth0.adding.json", "a".repeat(60)));
        records.remove(&long.attachment.id).unwrap();
        // There is one at most.
        records.remove(&short.attachment.id).unwrap();
        assert_eq!((stages(&records), fs::read_dir(folder.path()).unwrap().count()), (vec![], 2));
        // Also for the next agent, whatever the last one was at when it died.
        fs::write(folder.path().join(SPARE), "x".repeat(1000)).unwrap();
        let records = Records::open(folder.path(), "boot-1").unwrap().0;
        records.begin(&short).unwrap();
        assert_eq!(inode("b:eth0.adding.json"), first);
        assert_eq!(records.list().unwrap(), (vec![(Stage::Adding, short)], vec![]));
        records.begin(&long).unwrap();
        assert_eq!(stages(&records).len(), 2);
    }

    #[test]
    fn a_spare_file_that_somebody_removed_is_no_loss() {
        let folder = tempfile::tempdir().unwrap();
        let records = Records::open(folder.path(), "boot-1").unwrap().0;
        records.begin(&record("a")).unwrap();
        records.remove(&record("a").attachment.id).unwrap();
        fs::remove_file(folder.path().join(SPARE)).unwrap();
        records.begin(&record("b")).unwrap();
        assert_eq!(stages(&records), [Stage::Adding]);
    }

    #[test]
    fn what_somebody_else_put_in_the_spare_files_place_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let (spare, theirs) = (folder.path().join(SPARE), folder.path().join("theirs"));
        fs::write(&theirs, "theirs").unwrap();
        let check = |put: &dyn Fn()| {
            let records = Records::open(folder.path(), "boot-1").unwrap().0;
            for late in [false, true] {
                let _ = fs::remove_file(&spare);
                if !late {
                    put();
                }
                records.begin(&record("a")).unwrap();
                records.remove(&record("a").attachment.id).unwrap();
                if late {
                    // The agent believes that the spare one is its own.
                    let _ = fs::remove_file(&spare);
                    put();
                }
                records.begin(&record("b")).unwrap();
                assert_eq!(stages(&records), [Stage::Adding]);
                records.remove(&record("b").attachment.id).unwrap();
                assert_eq!(fs::read_to_string(&theirs).unwrap(), "theirs");
            }
        };
        check(&|| std::os::unix::fs::symlink(&theirs, &spare).unwrap());
        check(&|| fs::hard_link(&theirs, &spare).unwrap());
        check(&|| drop(fs::create_dir(&spare)));
    }

    /// A format: agents of other versions have written it, and will. What is added to it needs a default.
    #[test]
    fn a_record_of_the_first_version_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let records = Records::open(folder.path(), "boot-1").unwrap().0;
        let text = r#"{"attachment":{"id":{"container":"a","ifname":"eth0"},"network":"default",
            "pod":{"key":{"namespace":"shop","name":"web-1"},"uid":"u-1"},"addresses":["10.244.1.2","fd00::2"],
            "mac":"0a:58:0a:f4:01:02","mtu":null,"host_ports":[{"host_ip":"192.0.2.1","host_port":8080,
            "container_port":80,"protocol":"TCP"}],"netns":"/run/netns/a"},"conf_name":"weft","later":{}}"#;
        fs::write(folder.path().join("a:eth0.json"), text).unwrap();
        let (found, _) = records.list().unwrap();
        let [(Stage::Attached, read)] = &found[..] else { panic!("{found:?}") };
        assert_eq!(read.attachment.owner(), "shop/web-1");
        assert_eq!((read.attachment.addresses.len(), read.attachment.host_ports.len()), (2, 1));
        // And this version writes what the first one reads.
        let written = serde_json::to_value(read).unwrap();
        let mut first: serde_json::Value = serde_json::from_str(text).unwrap();
        first.as_object_mut().unwrap().remove("later");
        assert_eq!(written, first);
    }

    #[test]
    fn a_reboot_drops_all_and_a_broken_file_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let records = Records::open(folder.path(), "boot-1").unwrap().0;
        records.begin(&record("a")).unwrap();
        fs::write(folder.path().join("b:eth0.deleting.json"), b"{").unwrap();
        let (good, broken) = records.list().unwrap();
        assert_eq!((good.len(), broken.len()), (1, 1));
        assert!(broken[0].contains("b:eth0.deleting.json"), "{broken:?}");
        // One that nobody reads must not pass for one that isn't there.
        fs::write(folder.path().join("c:eth0.json"), b"{").unwrap();
        for tried in [Records::try_out(folder.path(), "boot-1"), records.list().map(drop)] {
            let text = tried.unwrap_err().to_string();
            assert!(text.contains("c:eth0.json") && text.contains("delete the pod"), "{text}");
        }
        Records::try_out(folder.path(), "boot-2").unwrap();
        Records::try_out(&folder.path().join("nothing"), "boot-1").unwrap();
        fs::write(folder.path().join(BOOT_ID), "").unwrap();
        Records::try_out(folder.path(), "boot-1").unwrap_err();
        fs::write(folder.path().join(BOOT_ID), "boot-1").unwrap();
        let (records, since) = Records::open(folder.path(), "boot-2").unwrap();
        assert_eq!(records.list().unwrap(), (Vec::new(), Vec::new()));
        assert_eq!(since, Since::EarlierBoot);
    }

    #[test]
    fn without_a_boot_id_records_are_kept_and_one_that_cannot_be_read_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let records = Records::open(folder.path(), "boot-1").unwrap().0;
        records.begin(&record("a")).unwrap();
        let boot_file = folder.path().join(BOOT_ID);
        fs::remove_file(&boot_file).unwrap();
        let (records, since) = Records::open(folder.path(), "boot-1").unwrap();
        assert_eq!((stages(&records).len(), since), (1, Since::ThisBoot));
        assert_eq!(fs::read_to_string(&boot_file).unwrap(), "boot-1");
        fs::remove_file(&boot_file).unwrap();
        fs::create_dir(&boot_file).unwrap();
        let error = Records::open(folder.path(), "boot-1").unwrap_err().to_string();
        assert!(error.contains(BOOT_ID), "{error}");
        assert_eq!(stages(&records).len(), 1);
    }

    #[test]
    fn ids_that_are_too_long_for_a_file_have_records_too() {
        let folder = tempfile::tempdir().unwrap();
        let records = Records::open(folder.path(), "boot-1").unwrap().0;
        let long = "c".repeat(300);
        for container in [format!("{long}1"), format!("{long}2")] {
            let record = record(&container);
            records.begin(&record).unwrap();
            records.advance(&record.attachment.id, Stage::Adding, Stage::Attached).unwrap();
        }
        assert_eq!(stages(&records), [Stage::Attached; 2]);
        records.remove(&record(&format!("{long}1")).attachment.id).unwrap();
        assert_eq!(stages(&records).len(), 1);
    }
}
