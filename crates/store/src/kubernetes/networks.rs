//! Networks, as the configuration describes them: the API server knows of none.

use serde_json::{Map, Value, json};
use weft_model::{Fact, Network, NetworkName};

use crate::object::{Interner, ObjectError, ObjectId, Outcome, decode_value};

/// A network, and who gives its blocks to nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DescribedNetwork {
    /// The network.
    pub network: Network,
    /// Who gives nodes their blocks.
    pub blocks: BlockSource,
}

/// Who gives nodes their blocks of a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlockSource {
    /// A controller of the cluster, by `spec.podCIDRs` of the Node. Only the ordinary network has one.
    Cluster,
    /// The nodes themselves, by claims; where a Node has `spec.podCIDRs` all the same, those count.
    Nodes,
}

impl DescribedNetwork {
    /// Reads an entry of `store.kubernetes.networks`: `name`, `allocate`, and the fields of a Network's `spec`.
    ///
    /// # Errors
    /// With the field's path in the entry.
    pub fn from_entry(entry: &Map<String, Value>) -> Result<Self, ObjectError> {
        let mut spec = entry.clone();
        let name = match spec.remove("name") {
            None | Some(Value::Null) => {
                return Err(ObjectError::at(
                    "name",
                    "it is missing; write `default`, or a name of the network's own",
                ));
            }
            Some(name) => name,
        };
        let allocate = match spec.remove("allocate") {
            None | Some(Value::Null) => None,
            Some(Value::Bool(allocate)) => Some(allocate),
            Some(other) => {
                return Err(ObjectError::at("allocate", format!("{other} is neither true nor false")));
            }
        };
        let object = json!({ "metadata": { "name": name }, "spec": spec });
        let id = ObjectId { api_version: "weft.dev/v1".into(), kind: "Network".into() };
        let mut outcomes = decode_value(&object, &id, &mut Interner::default());
        let network = match outcomes.pop() {
            Some(Ok(Outcome::Facts(facts))) => facts.into_iter().find_map(|decoded| match decoded.fact {
                Fact::Network(network) => Some(network),
                _ => None,
            }),
            Some(Err(mut error)) => {
                let own = error.field.strip_prefix("spec.").or(error.field.strip_prefix("metadata."));
                error.field = own.unwrap_or(&error.field).to_owned();
                error.object = String::new();
                return Err(error);
            }
            _ => None,
        };
        let Some(network) = network else { return Err(ObjectError::at("", "it is no network")) };
        let is_ordinary = network.name == NetworkName::ordinary();
        let blocks = match allocate.unwrap_or(!is_ordinary) {
            true => BlockSource::Nodes,
            false if is_ordinary => BlockSource::Cluster,
            false => {
                let reason = "no controller gives out blocks of a network other than default; leave it out";
                return Err(ObjectError::at("allocate", reason));
            }
        };
        Ok(Self { network, blocks })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_a_network_and_who_gives_its_blocks() {
        let check = |entry: Value, expected: Result<BlockSource, &str>| {
            let read = DescribedNetwork::from_entry(entry.as_object().unwrap());
            let found = read.map(|described| described.blocks).map_err(|error| error.to_string());
            match expected {
                Ok(blocks) => assert_eq!(found, Ok(blocks), "{entry}"),
                Err(part) => assert!(found.as_ref().is_err_and(|e| e.contains(part)), "{entry}: {found:?}"),
            }
        };
        check(json!({ "name": "default", "podCIDRs": ["10.244.0.0/16"] }), Ok(BlockSource::Cluster));
        check(json!({ "name": "default", "allocate": true }), Ok(BlockSource::Nodes));
        check(json!({ "name": "blue" }), Ok(BlockSource::Nodes));
        check(json!({ "name": "blue", "allocate": false }), Err("allocate: no controller"));
        check(json!({ "name": "blue", "allocate": "yes" }), Err("allocate: \"yes\" is neither"));
        check(json!({ "name": "default", "podCIDRs": ["x"] }), Err("podCIDRs[0]"));
        check(json!({ "name": "default", "podCIDR": "10.0.0.0/8" }), Err("podCIDR"));
        check(json!({ "podCIDRs": [] }), Err("name: "));
    }
}
