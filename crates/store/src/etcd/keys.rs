//! Which key is what: pure.
//!
//! ```text
//! PREFIX/network/NAME            a Network                          people
//! PREFIX/objects/…               Kubernetes objects, at any depth   people
//! PREFIX/nodes/NODE              what a node says of itself         the node, under its lease
//! PREFIX/pods/NODE/NS/NAME       what it says of a pod on it        the node, under its lease
//! PREFIX/blocks/NETWORK/BLOCK    the node that has the block        the node, under its lease
//! PREFIX/sessions/NODE           the node is there, with that lease the node, under its lease
//! ```

use weft_model::{Cidr, NetworkName, NodeName, ObjectKey};

use crate::words::Writer;

/// The keys of one cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Keys {
    /// With the slash at its end.
    prefix: String,
}

/// Whose a key is, and how its value is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    /// A network's description.
    Network(String),
    /// Objects.
    Objects(Writer),
    /// None: nobody reads it.
    Nowhere,
}

impl Keys {
    pub fn under(prefix: &str) -> Self {
        Self { prefix: format!("{}/", prefix.trim_end_matches('/')) }
    }

    /// What all keys begin with.
    pub fn all(&self) -> &str {
        &self.prefix
    }

    pub fn node(&self, node: &NodeName) -> String {
        format!("{}nodes/{node}", self.prefix)
    }

    /// What the keys of a node's pods begin with.
    pub fn pods_of(&self, node: &NodeName) -> String {
        format!("{}pods/{node}/", self.prefix)
    }

    pub fn pod(&self, node: &NodeName, key: &ObjectKey) -> String {
        format!("{}pods/{node}/{}/{}", self.prefix, key.namespace, key.name)
    }

    pub fn session(&self, node: &NodeName) -> String {
        format!("{}sessions/{node}", self.prefix)
    }

    /// What the keys of all claims begin with.
    pub fn all_blocks(&self) -> String {
        format!("{}blocks/", self.prefix)
    }

    /// What the keys of a network's claims begin with.
    fn blocks(&self, network: &NetworkName) -> String {
        format!("{}blocks/{network}/", self.prefix)
    }

    /// A block's key; "/" in it is written as "_".
    pub fn block(&self, network: &NetworkName, cidr: Cidr) -> String {
        format!("{}{}", self.blocks(network), cidr.to_string().replace('/', "_"))
    }

    /// The network and the block of a claim's key.
    pub fn claimed(&self, key: &str) -> Option<(NetworkName, Cidr)> {
        let (network, block) = key.strip_prefix(&self.prefix)?.strip_prefix("blocks/")?.split_once('/')?;
        Some((NetworkName::new(network).ok()?, block.replace('_', "/").parse().ok()?))
    }

    /// True for a key that holds facts and that people write.
    pub fn is_of_people(&self, key: &str) -> bool {
        matches!(self.place(key), Some((_, Place::Network(_) | Place::Objects(Writer::User))))
    }

    /// The part of a key after the prefix, and what is there; nothing for keys of claims and sessions, which hold no facts, and
    /// for those of others.
    pub fn place<'a>(&self, key: &'a str) -> Option<(&'a str, Place)> {
        let path = key.strip_prefix(&self.prefix)?;
        let (folder, rest) = path.split_once('/').unwrap_or((path, ""));
        let node = |name: &str| {
            NodeName::new(name).map_or(Place::Nowhere, |name| Place::Objects(Writer::Node(name)))
        };
        let place = match (folder, rest.split_once('/')) {
            ("blocks" | "sessions", _) => return None,
            ("network", None) if !rest.is_empty() => Place::Network(rest.to_owned()),
            ("objects", _) if path != folder => Place::Objects(Writer::User),
            ("nodes", None) => node(rest),
            ("pods", Some((name, _))) => node(name),
            _ => Place::Nowhere,
        };
        Some((path, place))
    }
}

/// The end of the range of keys that begin with `start` (exclusive), as etcd has it: the last byte, one up.
pub(super) fn end_of(start: &str) -> Vec<u8> {
    let mut end = start.as_bytes().to_vec();
    while let Some(last) = end.pop() {
        if last < 0xff {
            end.push(last + 1);
            return end;
        }
    }
    // All keys.
    vec![0]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_say_who_writes() {
        let keys = Keys::under("/weft/");
        let node = |name: &str| Some(Place::Objects(Writer::Node(NodeName::new(name).unwrap())));
        for (key, expected) in [
            ("/weft/network/default", Some(Place::Network("default".into()))),
            ("/weft/network/default/x", Some(Place::Nowhere)),
            ("/weft/networks/default", Some(Place::Nowhere)),
            ("/weft/services/web", Some(Place::Nowhere)),
            ("/weft/config", Some(Place::Nowhere)),
            ("/weft/objects", Some(Place::Nowhere)),
            ("/weft/objects/apps/web", Some(Place::Objects(Writer::User))),
            ("/weft/objects/web", Some(Place::Objects(Writer::User))),
            ("/weft/nodes/n1", node("n1")),
            ("/weft/nodes/N_1", Some(Place::Nowhere)),
            ("/weft/pods/n1/shop/web", node("n1")),
            ("/weft/pods/n1", Some(Place::Nowhere)),
            ("/weft/blocks/default/10.244.0.0_24", None),
            ("/weft/sessions/n1", None),
            ("/wefting/objects/web", None),
        ] {
            assert_eq!(keys.place(key).map(|(_, place)| place), expected, "{key}");
        }
    }

    #[test]
    fn claims_name_their_block() {
        let keys = Keys::under("/weft");
        for cidr in ["10.244.1.0/24", "fd00:244::/64"] {
            let (network, cidr) = (NetworkName::ordinary(), cidr.parse().unwrap());
            assert_eq!(keys.claimed(&keys.block(&network, cidr)), Some((network, cidr)));
        }
        assert_eq!(keys.claimed("/weft/blocks/default/many"), None);
    }

    #[test]
    fn a_range_ends_where_its_keys_end() {
        assert_eq!(end_of("/weft/"), b"/weft0");
        assert_eq!(end_of("a\u{7f}"), b"a\x80");
    }
}
