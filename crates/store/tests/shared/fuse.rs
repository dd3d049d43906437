//! A file system of this process: one folder of files that change as they do on another machine's disk, so that this
//! kernel hears nothing of it. The protocol is that of `linux/fuse.h`, as far as reading needs it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use nix::mount::{MntFlags, MsFlags, mount, umount2};

/// The folder's node; files have the ones above it.
const ROOT: u64 = 1;
const LOOKUP: u32 = 1;
const FORGET: u32 = 2;
const GETATTR: u32 = 3;
const OPEN: u32 = 14;
const READ: u32 = 15;
const STATFS: u32 = 17;
const RELEASE: u32 = 18;
const FLUSH: u32 = 25;
const INIT: u32 = 26;
const OPENDIR: u32 = 27;
const READDIR: u32 = 28;
const RELEASEDIR: u32 = 29;
const ACCESS: u32 = 34;
const INTERRUPT: u32 = 36;
const BATCH_FORGET: u32 = 42;
/// `FOPEN_DIRECT_IO`: nothing of a file is kept in this kernel.
const DIRECT_IO: u32 = 1;
/// Length of `struct fuse_in_header`.
const HEADER: usize = 40;

#[derive(Debug, Clone, Default)]
struct Content {
    node: u64,
    text: Vec<u8>,
    /// Seconds since 1970; each change is a second later.
    changed: u64,
}

type Files = Arc<Mutex<BTreeMap<String, Content>>>;

/// A mounted folder; it is unmounted when dropped.
pub struct RemoteFolder {
    files: Files,
    path: PathBuf,
    server: Option<JoinHandle<()>>,
}

impl RemoteFolder {
    /// Mounts it at a folder.
    pub fn mount(path: &Path) -> Result<Self, String> {
        let device = File::options()
            .read(true)
            .write(true)
            .open("/dev/fuse")
            .map_err(|e| format!("/dev/fuse: {e}"))?;
        let options = format!("fd={},rootmode=40755,user_id=0,group_id=0", device.as_raw_fd());
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
        mount(Some("remote"), path, Some("fuse"), flags, Some(options.as_str()))
            .map_err(|e| format!("mount: {e}"))?;
        let files = Files::default();
        let served = files.clone();
        let server = std::thread::spawn(move || serve(device, &served));
        Ok(Self { files, path: path.to_owned(), server: Some(server) })
    }

    /// Writes a file on the other machine.
    pub fn write(&self, name: &str, text: &str) {
        let mut files = self.files.lock().unwrap();
        let next = ROOT + 1 + files.len() as u64;
        let content = files.entry(name.to_owned()).or_insert(Content { node: next, ..Content::default() });
        content.text = text.into();
        content.changed += 1;
    }
}

impl Drop for RemoteFolder {
    fn drop(&mut self) {
        let _ = umount2(&self.path, MntFlags::MNT_DETACH);
        if let Some(server) = self.server.take() {
            let _ = server.join();
        }
    }
}

/// Answers until it is unmounted: then the device has nothing more to read.
fn serve(mut device: File, files: &Files) {
    let mut request = vec![0; 1 << 17];
    while let Ok(length) = device.read(&mut request) {
        let request = &request[..length];
        if let Some(answer) = answer(request, files) {
            let (error, body) = match answer {
                Ok(body) => (0, body),
                Err(errno) => (-errno, Vec::new()),
            };
            let mut message = ((16 + body.len()) as u32).to_ne_bytes().to_vec();
            message.extend(error.to_ne_bytes());
            message.extend(&request[8..16]);
            message.extend(body);
            // A request that was interrupted waits for no answer.
            let _ = device.write(&message);
        }
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap())
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_ne_bytes(bytes[at..at + 8].try_into().unwrap())
}

/// The body of the answer, or the error's number; `None` for what has no answer.
fn answer(request: &[u8], files: &Files) -> Option<Result<Vec<u8>, i32>> {
    const ENOENT: i32 = 2;
    const ENOSYS: i32 = 38;
    let (opcode, node, body) = (u32_at(request, 4), u64_at(request, 16), &request[HEADER..]);
    let files = files.lock().unwrap();
    let by_node = |node: u64| files.values().find(|content| content.node == node);
    let attributes = |node: u64| match by_node(node) {
        Some(content) => Some(attributes(node, 0o100_644, content.text.len() as u64, content.changed)),
        None if node == ROOT => Some(attributes(ROOT, 0o040_755, 0, 1)),
        None => None,
    };
    Some(match opcode {
        FORGET | BATCH_FORGET | INTERRUPT => return None,
        INIT => Ok(init(body)),
        LOOKUP => {
            let name =
                String::from_utf8_lossy(body.split(|b| *b == 0).next().unwrap_or_default()).into_owned();
            // Nothing is to be remembered: the times of validity are zero.
            files
                .get(&name)
                .and_then(|c| Some([words64(&[c.node, 0, 0, 0, 0]), attributes(c.node)?].concat()))
                .ok_or(ENOENT)
        }
        GETATTR => attributes(node).map(|a| [words64(&[0, 0]), a].concat()).ok_or(ENOENT),
        OPEN => Ok([words64(&[0]), words32(&[DIRECT_IO, 0])].concat()),
        OPENDIR => Ok(words64(&[0, 0])),
        READ => by_node(node).map(|content| part(&content.text, body)).ok_or(ENOENT),
        READDIR => Ok(part_of_listing(&files, body)),
        STATFS => Ok(vec![0; 80]),
        FLUSH | RELEASE | RELEASEDIR | ACCESS => Ok(Vec::new()),
        _ => Err(ENOSYS),
    })
}

/// `struct fuse_init_out` of version 7.31.
fn init(asked: &[u8]) -> Vec<u8> {
    let mut out = words32(&[7, 31, u32_at(asked, 8), 0, 0, 4096, 1]);
    out.resize(64, 0);
    out
}

fn words64(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

fn words32(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

/// `struct fuse_attr`.
fn attributes(node: u64, mode: u32, size: u64, changed: u64) -> Vec<u8> {
    let times = [changed; 3];
    [words64(&[node, size, 1]), words64(&times), words32(&[0, 0, 0, mode, 1, 0, 0, 0, 512, 0])].concat()
}

/// What `struct fuse_read_in` asks for.
fn part(text: &[u8], asked: &[u8]) -> Vec<u8> {
    let (offset, size) = (u64_at(asked, 8) as usize, u32_at(asked, 16) as usize);
    text.iter().skip(offset).take(size).copied().collect()
}

/// `struct fuse_dirent` of each file from the one that is asked for.
fn part_of_listing(files: &BTreeMap<String, Content>, asked: &[u8]) -> Vec<u8> {
    const REGULAR: u32 = 8;
    let (offset, size) = (u64_at(asked, 8) as usize, u32_at(asked, 16) as usize);
    let mut out = Vec::new();
    for (at, (name, content)) in files.iter().enumerate().skip(offset) {
        let mut entry = words64(&[content.node, at as u64 + 1]);
        entry.extend(words32(&[name.len() as u32, REGULAR]));
        entry.extend(name.as_bytes());
        entry.resize(entry.len().next_multiple_of(8), 0);
        if out.len() + entry.len() > size {
            break;
        }
        out.extend(entry);
    }
    out
}
