//! Which node has which block of pod addresses, decided by files alone.
//!
//! What always holds: a claim's file appears with its contents, in one step, and only where there is none; it bears the
//! block's name and holds the node's. A node that finds, after its claim, another's claim that overlaps, steps back and
//! takes another block: so two nodes never keep one address between them, not even while they see different versions of
//! the network.

use std::fs::File;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use weft_model::{Cidr, Network, NodeName};

use super::layout;
use crate::blocks::{lowest_free, share_of};
use crate::store::{Claim, StoreError};

/// A claim that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Claimed {
    cidr: Cidr,
    node: String,
}

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
    std::fs::create_dir_all(&dir).map_err(failed)?;
    let mut claims = list(&dir).map_err(failed)?;
    let mut result = Claim::default();
    for block in &network.pod_cidrs {
        let share = share_of(network, block.family());
        let fits = |c: &Claimed| {
            c.node == node.as_str() && c.cidr.prefix() == share && block.net().contains(&c.cidr.net())
        };
        let own = claims.iter().find(|c| fits(c)).map(|c| c.cidr);
        let cidr = match own {
            Some(cidr) => cidr,
            None => take(&dir, network, *block, node, in_use, &mut claims)?,
        };
        result.cidrs.push(cidr);
    }
    let unfit = claims.iter().filter(|c| c.node == node.as_str() && !result.cidrs.contains(&c.cidr));
    result.unfit = unfit.map(|c| c.cidr).collect();
    Ok(result)
}

/// Takes the lowest free share of `block`.
fn take(
    dir: &Path,
    network: &Network,
    block: Cidr,
    node: &NodeName,
    in_use: &[Cidr],
    claims: &mut Vec<Claimed>,
) -> Result<Cidr, StoreError> {
    let failed = |source| StoreError::Claim { path: dir.to_owned(), source };
    let share = share_of(network, block.family());
    let mut steps_back = 0;
    loop {
        let busy: Vec<Cidr> = claims.iter().map(|c| c.cidr).chain(in_use.iter().copied()).collect();
        let Some(cidr) = lowest_free(block, share, &busy) else {
            return Err(StoreError::BlocksExhausted {
                network: network.name.to_string(),
                node: node.clone(),
                block,
                taken: busy.iter().filter(|c| c.overlaps(&block)).count(),
            });
        };
        let is_ours = create(dir, cidr, node)?;
        *claims = list(dir).map_err(failed)?;
        if !is_ours {
            continue;
        }
        let overlaps = |c: &Claimed| c.cidr.overlaps(&cidr) && (c.cidr != cidr || c.node != node.as_str());
        if !claims.iter().any(overlaps) {
            return Ok(cidr);
        }
        // Another node claimed a share of another size meanwhile: both may step back, and come again at other times.
        std::fs::remove_file(dir.join(layout::claim_name(cidr))).map_err(failed)?;
        claims.retain(|c| c.cidr != cidr || c.node != node.as_str());
        steps_back += 1;
        let jitter = u64::from(node.as_str().bytes().fold(0_u8, u8::wrapping_add)) % 17;
        std::thread::sleep(Duration::from_millis((steps_back * (3 + jitter)).min(200)));
    }
}

/// Every claim in a network's folder.
fn list(dir: &Path) -> std::io::Result<Vec<Claimed>> {
    let mut claims = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let Some(cidr) = entry.file_name().to_str().and_then(layout::claim_cidr) else { continue };
        match std::fs::read_to_string(entry.path()) {
            // A claim without a name is nobody's that we know of; it is left alone, like any other node's.
            Ok(node) => claims.push(Claimed { cidr, node: node.trim().to_owned() }),
            Err(e) if e.kind() == ErrorKind::NotFound => {}
            Err(e) => return Err(e),
        }
    }
    Ok(claims)
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
fn place(staged: &Path, path: &Path, dir: &Path) -> Result<bool, StoreError> {
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
pub(super) fn forget(root: &Path, node: &NodeName) -> Result<(), StoreError> {
    let failed = |path: PathBuf| move |source| StoreError::Forget { node: node.clone(), path, source };
    let claims = layout::claims_dir(root);
    let networks = match std::fs::read_dir(&claims) {
        Ok(networks) => networks,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(failed(claims)(e)),
    };
    for network in networks {
        let dir = network.map_err(failed(claims.clone()))?.path();
        for claim in list(&dir).map_err(failed(dir.clone()))? {
            let path = dir.join(layout::claim_name(claim.cidr));
            if claim.node == node.as_str() {
                std::fs::remove_file(&path).map_err(failed(path))?;
            }
        }
    }
    Ok(())
}
