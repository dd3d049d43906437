//! Which file is what: pure.

use std::path::{Path, PathBuf};

use weft_model::name::file_stem;
use weft_model::{Cidr, NetworkName, NodeName, ObjectKey};

use crate::words::Writer;

/// The nodes' own part of the folder.
pub(super) const WEFT: &str = ".weft";

/// The writer of a file, by its path in the folder; `None` for files that hold no manifest.
pub(super) fn writer_of(path: &str) -> Option<Writer> {
    let (dir, name) = path.rsplit_once('/').unwrap_or(("", path));
    if !is_manifest(name) {
        return None;
    }
    let Some(inner) = path.strip_prefix(".weft/") else { return Some(Writer::User) };
    let mut parts = inner.split('/');
    let node = match (parts.next(), parts.next(), parts.next(), parts.next()) {
        (Some("nodes"), Some(file), None, None) => file.strip_suffix(".json")?,
        (Some("pods"), Some(node), Some(_), None) if !dir.is_empty() => node,
        _ => return None,
    };
    NodeName::new(node).ok().map(Writer::Node)
}

/// True for names of manifests. Hidden files, and those of editors and half-done copies, are none.
pub(super) fn is_manifest(name: &str) -> bool {
    let has_ending = [".yaml", ".yml", ".json"].iter().any(|e| name.len() > e.len() && name.ends_with(e));
    has_ending && !name.starts_with(['.', '#', '~'])
}

/// True for folders that are looked into: not hidden ones, except the nodes' own, and in that not the claims.
pub(super) fn is_entered(dir: &str, name: &str) -> bool {
    match dir {
        "" => name == WEFT || !name.starts_with('.'),
        WEFT => matches!(name, "nodes" | "pods"),
        _ => !name.starts_with('.'),
    }
}

pub(super) fn node_file(root: &Path, node: &NodeName) -> PathBuf {
    root.join(WEFT).join("nodes").join(format!("{node}.json"))
}

pub(super) fn machine_file(root: &Path, node: &NodeName) -> PathBuf {
    root.join(WEFT).join("machines").join(node.as_str())
}

pub(super) fn pods_dir(root: &Path, node: &NodeName) -> PathBuf {
    root.join(WEFT).join("pods").join(node.as_str())
}

/// Neither part of a key can hold an underscore, so names don't collide.
pub(super) fn pod_file(root: &Path, node: &NodeName, key: &ObjectKey) -> PathBuf {
    let name = format!("{}_{}", key.namespace, key.name);
    pods_dir(root, node).join(format!("{}.json", file_stem(&name)))
}

pub(super) fn claims_dir(root: &Path) -> PathBuf {
    root.join(WEFT).join("claims")
}

pub(super) fn network_claims(root: &Path, network: &NetworkName) -> PathBuf {
    claims_dir(root).join(network.as_str())
}

/// `10.244.1.0_24`, `fd00:244::_64`.
pub(super) fn claim_name(cidr: Cidr) -> String {
    cidr.to_string().replace('/', "_")
}

pub(super) fn claim_cidr(name: &str) -> Option<Cidr> {
    name.replace('_', "/").parse().ok()
}

/// The mark beside a claim on which its node doesn't rely yet.
pub(super) fn claim_mark(cidr: Cidr, node: &str) -> String {
    format!(".{}.{node}.unconfirmed", claim_name(cidr))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_who_writes() {
        let node = |name: &str| Some(Writer::Node(NodeName::new(name).unwrap()));
        for (path, expected) in [
            ("web.yaml", Some(Writer::User)),
            ("apps/deep/web.json", Some(Writer::User)),
            (".weft/nodes/n1.json", node("n1")),
            (".weft/pods/n1/shop_web-0.json", node("n1")),
            (".weft/claims/default/x.json", None),
            (".weft/nodes/.n1.json.tmp", None),
            (".weft/nodes/n1.yaml", None),
            ("web.yaml~", None),
            (".web.yaml.swp", None),
            (".hidden.yaml", None),
            ("#web.yaml#", None),
            ("notes.txt", None),
            (".yaml", None),
        ] {
            assert_eq!(writer_of(path), expected, "{path}");
        }
    }

    #[test]
    fn a_pod_with_a_long_name_has_a_file_of_its_own() {
        let node = NodeName::new("n1").unwrap();
        let file = |last: &str| {
            let key = ObjectKey::new("shop", &format!("{}{last}", "web.".repeat(62))).unwrap();
            pod_file(Path::new(""), &node, &key)
        };
        let (one, another) = (file("a"), file("b"));
        assert_ne!(one, another);
        // What replaces it has a longer name for a while.
        assert!(one.file_name().unwrap().len() < 240, "{one:?}");
        assert_eq!(
            writer_of(&format!(".weft/pods/n1/{}", one.file_name().unwrap().display())),
            Some(Writer::Node(node))
        );
    }

    #[test]
    fn claims_name_their_block() {
        for cidr in ["10.244.1.0/24", "fd00:244::/64"] {
            let cidr: Cidr = cidr.parse().unwrap();
            assert_eq!(claim_cidr(&claim_name(cidr)), Some(cidr));
        }
        assert_eq!(claim_cidr(".tmp-1"), None);
    }
}
