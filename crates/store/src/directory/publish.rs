//! What a node writes into the folder: Kubernetes-shaped objects, one a file, each replaced in one step.

use std::fs::File;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use serde_json::Value;
use weft_model::NodeName;

use super::layout;
use crate::store::{Forgotten, Published, StoreError};
use crate::words::{is_same, render_node, render_pod, stamp};

/// Names of files that are being written end so.
const STAGED: &str = ".tmp";

pub(super) fn publish(root: &Path, fact: &Published) -> Result<(), StoreError> {
    match fact {
        Published::Node(node) => {
            sweep(&layout::pods_dir(root, &node.name));
            write(
                root,
                layout::node_file(root, &node.name),
                render_node(node),
                &format!("node {}", node.name),
            )
        }
        Published::Pod(pod) => write(
            root,
            layout::pod_file(root, &pod.node, &pod.key),
            render_pod(pod),
            &format!("pod {}", pod.key),
        ),
        Published::PodGone { node, key } => {
            let path = layout::pod_file(root, node, key);
            match std::fs::remove_file(&path) {
                Err(source) if source.kind() != ErrorKind::NotFound => {
                    Err(StoreError::Publish { what: format!("pod {key}"), path, source })
                }
                _ => Ok(()),
            }
        }
    }
}

/// Writes an object, unless the file says the same already.
fn write(root: &Path, path: PathBuf, mut object: Value, what: &str) -> Result<(), StoreError> {
    if std::fs::read(&path).is_ok_and(|there| is_same(&there, &object)) {
        return Ok(());
    }
    stamp(&mut object);
    let text = format!("{object:#}\n");
    replace(root, &path, text.as_bytes()).map_err(|source| StoreError::Publish {
        what: what.to_owned(),
        path,
        source,
    })
}

/// Removes what a kill in the middle of publishing has left of a node's pods. An agent publishes its node first.
fn sweep(pods: &Path) {
    for entry in std::fs::read_dir(pods).into_iter().flatten().flatten() {
        let name = entry.file_name();
        if name.to_str().is_some_and(|name| name.starts_with('.') && name.ends_with(STAGED)) {
            // What can't be removed is hidden, and does no harm.
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

/// Makes `dir`, somewhere below `root`, with what is missing between the two. Never `root` itself: where it is away, that is an outage, and an
/// empty folder in its place would be taken for it, or be in the way of its return.
///
/// # Errors
/// The system's; `NotFound` where `root` is away.
pub(super) fn make_below(root: &Path, dir: &Path) -> std::io::Result<()> {
    let below = dir.strip_prefix(root).map_err(|_| ErrorKind::InvalidInput)?;
    let mut path = root.to_owned();
    for part in below.components() {
        path.push(part);
        match std::fs::create_dir(&path) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// Puts `bytes` in place of a file below `root` in one step. The temporary file is hidden, and its name is always the same: only
/// one node writes it, and what a kill leaves is overwritten next time, or swept.
pub(super) fn replace(root: &Path, path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let (Some(dir), Some(name)) = (path.parent(), path.file_name().and_then(|n| n.to_str())) else {
        return Err(ErrorKind::InvalidInput.into());
    };
    make_below(root, dir)?;
    let staged = dir.join(format!(".{name}{STAGED}"));
    let written = File::create(&staged).and_then(|mut file| {
        file.write_all(bytes)?;
        file.sync_all()
    });
    written.and_then(|()| std::fs::rename(&staged, path)).inspect_err(|_| {
        // A full disk must not keep the half of it.
        let _ = std::fs::remove_file(&staged);
    })
}

/// Removes all that a node has published.
pub(super) fn forget(root: &Path, node: &NodeName) -> Result<Forgotten, StoreError> {
    let file = layout::node_file(root, node);
    let pods = layout::pods_dir(root, node);
    let failed = |path: PathBuf| |source| StoreError::Forget { node: node.clone(), path, source };
    let pods = gone(std::fs::remove_dir_all(&pods)).map_err(failed(pods))?;
    Ok(pods | gone(std::fs::remove_file(&file)).map_err(failed(file))?)
}

/// What a removal came to: what isn't there needs none.
pub(super) fn gone(removed: std::io::Result<()>) -> std::io::Result<Forgotten> {
    match removed {
        Ok(()) => Ok(Forgotten::Something),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Forgotten::Nothing),
        Err(error) => Err(error),
    }
}
