//! Which node has which block of pod addresses, decided by files alone.
//!
//! What always holds: a claim's file appears with its contents, in one step, and only where there is none; it bears the
//! block's name and holds the node's. Beside it stands a mark from before it is made until the node has seen that no other
//! claim overlaps, in whichever network ([`crate::claiming`]): so two nodes never keep one address between them, not even while they
//! see different versions of the network, or are killed in between.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use weft_model::{Cidr, Network, NodeName};

use super::layout;
use super::publish::make_below;
use crate::claiming::{Another, Claimed, Standing, Step, Wanted, another, step};
use crate::store::{Claim, Forgotten, StoreError};

pub(super) fn claim(
    root: &Path,
    network: &Network,
    node: &NodeName,
    in_use: &[Cidr],
) -> Result<Claim, StoreError> {
    let dir = layout::network_claims(root, &network.name);
    let failed = |source| StoreError::Claim { path: dir.clone(), source };
    if network.pod_cidrs.is_empty() {
        return Ok(Claim::default());
    }
    make_below(root, &dir).map_err(failed)?;
    let mut result = Claim::default();
    for block in &network.pod_cidrs {
        let wanted = Wanted::of(network, *block, node.as_str(), in_use);
        result.cidrs.push(obtain(&dir, network, &wanted, node)?);
    }
    result.add(network, confirmed(&dir, node).map_err(failed)?);
    Ok(result)
}

/// Another share for a node whose shares of a family are `full`.
pub(super) fn claim_another(
    root: &Path,
    network: &Network,
    node: &NodeName,
    (full, in_use): (&[Cidr], &[Cidr]),
) -> Result<Cidr, StoreError> {
    let dir = layout::network_claims(root, &network.name);
    let given = || StoreError::BlocksGiven { network: network.name.to_string(), node: node.clone() };
    let own = match confirmed(&dir, node) {
        Ok(own) => own,
        Err(e) if e.kind() == ErrorKind::NotFound => Vec::new(),
        Err(source) => return Err(StoreError::Claim { path: dir, source }),
    };
    let blocks = match another(&own, network, full).ok_or_else(given)? {
        Another::Has(cidr) => return Ok(cidr),
        Another::In(blocks) => blocks,
    };
    let mut exhausted = given();
    for block in blocks {
        let wanted = Wanted { full, ..Wanted::of(network, block, node.as_str(), in_use) };
        match obtain(&dir, network, &wanted, node) {
            Err(error @ StoreError::BlocksExhausted { .. }) => exhausted = error,
            done => return done,
        }
    }
    Err(exhausted)
}

/// What a node has claimed and relies on.
fn confirmed(dir: &Path, node: &NodeName) -> std::io::Result<Vec<Cidr>> {
    let is_own = |c: &Claimed| c.node == node.as_str() && c.standing == Standing::Confirmed;
    Ok(list(dir)?.into_iter().filter(is_own).map(|c| c.cidr).collect())
}

/// The node's share of a block: the one that it has, or a free one.
fn obtain(dir: &Path, network: &Network, wanted: &Wanted<'_>, node: &NodeName) -> Result<Cidr, StoreError> {
    let failed = |source| StoreError::Claim { path: dir.to_owned(), source };
    let mut busy = wanted.busy.to_vec();
    let mut fruitless = 0;
    loop {
        let claims = list(dir).map_err(failed)?;
        if let Step::Keep(cidr) = step(&claims, wanted) {
            return Ok(cidr);
        }
        let elsewhere = list_elsewhere(dir, node).map_err(failed)?;
        match step(&claims, &Wanted { busy: &busy, elsewhere: &elsewhere, ..*wanted }) {
            Step::Keep(cidr) => return Ok(cidr),
            Step::Confirm(cidr) => {
                unmark(dir, cidr, node).map_err(failed)?;
                return Ok(cidr);
            }
            Step::Take(cidr) => {
                mark(dir, cidr, node).map_err(failed)?;
                if create(dir, cidr, node)? {
                    continue;
                }
                unmark(dir, cidr, node).map_err(failed)?;
                // Somebody was first, though perhaps no look at the folder shows it yet.
                busy.push(cidr);
            }
            Step::Back(cidr) => {
                remove(&dir.join(layout::claim_name(cidr))).map_err(failed)?;
                unmark(dir, cidr, node).map_err(failed)?;
            }
            Step::Exhausted(taken) => {
                let (network, block) = (network.name.to_string(), wanted.block);
                return Err(StoreError::BlocksExhausted { network, node: node.clone(), block, taken });
            }
        }
        // Others are at it too: all may have stepped back, and come again at other times.
        fruitless += 1;
        let longest = (fruitless * 10).min(200);
        std::thread::sleep(Duration::from_millis(fastrand::u64(1..=longest)));
    }
}

/// Every claim in a network's folder.
fn list(dir: &Path) -> std::io::Result<Vec<Claimed>> {
    let mut files = Vec::new();
    let mut marks = BTreeSet::new();
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        match layout::claim_cidr(&name) {
            Some(cidr) => files.push((cidr, entry.path())),
            None => drop(marks.insert(name)),
        }
    }
    let mut claims = Vec::new();
    for (cidr, path) in files {
        match std::fs::read_to_string(path) {
            // A claim without a name is nobody's that we know of; it is left alone, like any other node's.
            Ok(text) => {
                let node = text.trim().to_owned();
                let is_marked = marks.contains(&layout::claim_mark(cidr, &node));
                let standing = if is_marked { Standing::Made } else { Standing::Confirmed };
                claims.push(Claimed { cidr, node, standing });
            }
            Err(e) if e.kind() == ErrorKind::NotFound => {}
            Err(e) => return Err(e),
        }
    }
    Ok(claims)
}

/// Every block that is claimed in other networks' folders.
fn list_elsewhere(dir: &Path, node: &NodeName) -> std::io::Result<Vec<Cidr>> {
    let mut blocks = Vec::new();
    let Some(all) = dir.parent() else { return Ok(blocks) };
    for entry in std::fs::read_dir(all)? {
        let (other, kind) = entry.and_then(|entry| Ok((entry.path(), entry.file_type()?)))?;
        if other == dir || !kind.is_dir() {
            continue;
        }
        // A file server's client may list a folder from memory for a while, but not one in which it has just changed something. A folder
        // in which nobody can write gets no claims. One that a kill leaves is made again by the next look, and removed.
        let look = other.join(format!(".{node}.look"));
        if File::create(&look).is_ok() {
            remove(&look)?;
        }
        for entry in std::fs::read_dir(&other)? {
            blocks.extend(entry?.file_name().to_str().and_then(layout::claim_cidr));
        }
    }
    Ok(blocks)
}

/// Notes that a claim, which may be there or not, isn't relied on. That is on the disk before the claim is.
fn mark(dir: &Path, cidr: Cidr, node: &NodeName) -> std::io::Result<()> {
    File::create(dir.join(layout::claim_mark(cidr, node.as_str())))?;
    File::open(dir)?.sync_all()
}

fn unmark(dir: &Path, cidr: Cidr, node: &NodeName) -> std::io::Result<()> {
    remove(&dir.join(layout::claim_mark(cidr, node.as_str())))
}

/// Removes a file that may be gone already.
fn remove(path: &Path) -> std::io::Result<()> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

/// Makes the claim's file with its contents in one step. False where somebody was first.
fn create(dir: &Path, cidr: Cidr, node: &NodeName) -> Result<bool, StoreError> {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let path = dir.join(layout::claim_name(cidr));
    let unique = COUNTER.fetch_add(1, Ordering::Relaxed);
    // Left by a kill it is hidden and harmless; the node's name keeps nodes apart, whose process numbers may be equal.
    let staged = dir.join(format!(".{node}.{}.{unique}", std::process::id()));
    let failed = |source| StoreError::Claim { path: path.clone(), source };
    let stage = || -> std::io::Result<()> {
        let mut file = File::create(&staged)?;
        writeln!(file, "{node}")?;
        file.sync_all()
    };
    let made = stage().map_err(failed).and_then(|()| place(&staged, &path, dir));
    let _ = std::fs::remove_file(&staged);
    match made {
        // A file server may repeat a request that went well, and then say that the name exists.
        Ok(false) => Ok(std::fs::read_to_string(&path).is_ok_and(|holder| holder.trim() == node.as_str())),
        other => other,
    }
}

/// Gives the staged file its name, if nothing has it.
pub(super) fn place(staged: &Path, path: &Path, dir: &Path) -> Result<bool, StoreError> {
    let failed = |source| StoreError::Claim { path: path.to_owned(), source };
    match std::fs::hard_link(staged, path) {
        Ok(()) => return Ok(true),
        Err(e) if e.kind() == ErrorKind::AlreadyExists => return Ok(false),
        // File systems without links say so in several ways.
        Err(e) if e.raw_os_error().is_some_and(is_unsupported) => {}
        Err(e) => return Err(failed(e)),
    }
    match renameat2(AT_FDCWD, staged, AT_FDCWD, path, RenameFlags::RENAME_NOREPLACE) {
        Ok(()) => Ok(true),
        Err(Errno::EEXIST) => Ok(false),
        Err(e) if is_unsupported(e as i32) => Err(StoreError::ClaimUnsupported { path: dir.to_owned() }),
        Err(e) => Err(failed(e.into())),
    }
}

fn is_unsupported(errno: i32) -> bool {
    [Errno::EPERM, Errno::EOPNOTSUPP, Errno::ENOSYS, Errno::EINVAL].contains(&Errno::from_raw(errno))
}

/// Removes every claim of a node, in every network.
pub(super) fn forget(root: &Path, node: &NodeName) -> Result<Forgotten, StoreError> {
    let failed = |path: PathBuf| move |source| StoreError::Forget { node: node.clone(), path, source };
    let claims = layout::claims_dir(root);
    let networks = match std::fs::read_dir(&claims) {
        Ok(networks) => networks,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Forgotten::Nothing),
        Err(e) => return Err(failed(claims)(e)),
    };
    let mut forgotten = Forgotten::Nothing;
    for network in networks {
        let dir = network.map_err(failed(claims.clone()))?.path();
        for claim in list(&dir).map_err(failed(dir.clone()))? {
            let path = dir.join(layout::claim_name(claim.cidr));
            if claim.node == node.as_str() {
                remove(&path).map_err(failed(path))?;
                unmark(&dir, claim.cidr, node).map_err(failed(dir.clone()))?;
                forgotten = Forgotten::Something;
            }
        }
    }
    Ok(forgotten)
}
