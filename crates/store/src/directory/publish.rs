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

/// Whether something may still be put in its place.
type May<'a> = &'a dyn Fn() -> std::io::Result<()>;

/// Makes a fact known, unless `may` says at the last moment that it is no longer to be: the folder may have been away for long meanwhile, and
/// another process of the node's may have spoken.
pub(super) fn publish(root: &Path, fact: &Published, may: May<'_>) -> Result<(), StoreError> {
    match fact {
        Published::Node(node) => {
            sweep(&layout::pods_dir(root, &node.name));
            let path = layout::node_file(root, &node.name);
            write(root, (path, may), render_node(node), &format!("node {}", node.name))
        }
        Published::Pod(pod) => {
            let path = layout::pod_file(root, &pod.node, &pod.key);
            write(root, (path, may), render_pod(pod), &format!("pod {}", pod.key))
        }
        Published::PodGone { node, key } => {
            let path = layout::pod_file(root, node, key);
            match may().and_then(|()| std::fs::remove_file(&path)) {
                Err(source) if source.kind() != ErrorKind::NotFound => {
                    Err(StoreError::Publish { what: format!("pod {key}"), path, source })
                }
                _ => Ok(()),
            }
        }
    }
}

/// Writes an object, unless the file says the same already.
fn write(
    root: &Path,
    (path, may): (PathBuf, May<'_>),
    mut object: Value,
    what: &str,
) -> Result<(), StoreError> {
    if std::fs::read(&path).is_ok_and(|there| is_same(&there, &object)) {
        return Ok(());
    }
    stamp(&mut object);
    let text = format!("{object:#}\n");
    replace_if(root, (&path, may), text.as_bytes()).map_err(|source| StoreError::Publish {
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
    replace_if(root, (path, &|| Ok(())), bytes)
}

fn replace_if(root: &Path, (path, may): (&Path, May<'_>), bytes: &[u8]) -> std::io::Result<()> {
    let (Some(dir), Some(name)) = (path.parent(), path.file_name().and_then(|n| n.to_str())) else {
        return Err(ErrorKind::InvalidInput.into());
    };
    make_below(root, dir)?;
    may()?;
    let staged = dir.join(format!(".{name}{STAGED}"));
    let written = File::create(&staged).and_then(|mut file| {
        file.write_all(bytes)?;
        file.sync_all()
    });
    written.and_then(|()| may()).and_then(|()| std::fs::rename(&staged, path)).inspect_err(|_| {
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

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use weft_model::{NetworkName, ObjectKey};

    use super::*;
    use crate::store::PublishedPod;

    /// The store may be stopped before anything is written, and while it is.
    #[test]
    fn what_is_no_longer_to_be_said_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let (node, key) = (NodeName::new("n1").unwrap(), ObjectKey::new("shop", "web").unwrap());
        let pod = |ip: &str| {
            Published::Pod(PublishedPod {
                key: key.clone(),
                uid: None,
                network: NetworkName::ordinary(),
                node: node.clone(),
                ips: vec![ip.parse().unwrap()],
                host_ports: Vec::new(),
            })
        };
        let path = layout::pod_file(folder.path(), &node, &key);
        let say = |fact: &Published, times: usize| {
            let left = Cell::new(times);
            let may = || match left.replace(left.get().saturating_sub(1)) {
                0 => Err(std::io::Error::other("this store was stopped")),
                _ => Ok(()),
            };
            publish(folder.path(), fact, &may)
        };
        say(&pod("10.244.1.6"), 2).unwrap();
        let there = std::fs::read(&path).unwrap();
        let gone = Published::PodGone { node: node.clone(), key: key.clone() };
        for (fact, times) in [(pod("10.244.1.5"), 0), (pod("10.244.1.5"), 1), (gone, 0)] {
            let error = say(&fact, times).unwrap_err().to_string();
            assert!(error.contains("this store was stopped"), "{error}");
            assert_eq!(std::fs::read(&path).unwrap(), there);
            assert_eq!(
                std::fs::read_dir(path.parent().unwrap()).unwrap().count(),
                1,
                "nothing is left beside it"
            );
        }
    }
}
