//! Nodes that still are flannel's, while a cluster moves in node by node, and what this one says to them.
//!
//! What always holds: it is said only where packets would arrive, that is where the network is as flannel's nodes have it; where it isn't,
//! the difference is told. What is absent: how it is said, which is the store's.

use std::collections::BTreeMap;

use weft_model::{
    Change, Fact, FactKey, Family, Flannel, FlannelBackend, Mac, Network, NetworkName, Node, NodeName,
    Overlay,
};
use weft_store::FlannelWords;

use super::Core;

/// The other nodes that are flannel's.
#[derive(Debug, Default)]
pub(super) struct Unmoved(BTreeMap<NodeName, Flannel>);

impl Unmoved {
    /// Takes a change of facts.
    pub(super) fn hear(&mut self, change: &Change, own: &NodeName) {
        match change {
            Change::Set(fact) => {
                let Fact::Node(node) = &**fact else { return };
                match &node.flannel {
                    Some(flannel) if node.name != *own => self.0.insert(node.name.clone(), flannel.clone()),
                    _ => self.0.remove(&node.name),
                };
            }
            Change::Remove(FactKey::Node(name)) => {
                self.0.remove(name);
            }
            Change::Remove(_) => {}
        }
    }

    /// What a node with this tunnel end says to them: nothing where there are none; an error where the network isn't theirs.
    fn words(&self, network: &Network, mac: Mac) -> Result<Option<FlannelWords>, String> {
        if let Some((name, difference)) =
            self.0.iter().find_map(|(name, flannel)| Some((name, difference(flannel.backend, network)?)))
        {
            return Err(format!(
                "node {name} still is flannel's, {difference}: until the last such node has moved, pods of the two don't reach each other"
            ));
        }
        let Some(first) = self.0.values().next() else { return Ok(None) };
        let is_known = |family: &Family| self.0.values().any(|flannel| flannel.families.contains(family));
        let tunnel = matches!(first.backend, FlannelBackend::Vxlan(_)).then_some((network.vni, mac));
        Ok(Some(FlannelWords { tunnel, families: Family::ALL.into_iter().filter(is_known).collect() }))
    }
}

/// What of a network isn't as flannel's nodes have it, and the mend.
fn difference(backend: FlannelBackend, network: &Network) -> Option<String> {
    let name = &network.name;
    match (backend, network.overlay) {
        (FlannelBackend::Vxlan(_), Overlay::HostGw) => Some(format!(
            "with backend vxlan; give network {name} `overlay: vxlan`, and flannel's `vni` and `vxlanPort`"
        )),
        (FlannelBackend::HostGw, Overlay::Vxlan) => {
            Some(format!("with backend host-gw; give network {name} `overlay: host-gw`"))
        }
        (FlannelBackend::Vxlan(Some(vni)), _) if vni != network.vni => {
            let (theirs, ours) = (vni.get(), network.vni.get());
            Some(format!(
                "with VNI {theirs}; give network {name} `vni: {theirs}` instead of {ours}, and flannel's `vxlanPort`"
            ))
        }
        _ => None,
    }
}

impl Core {
    /// What this node says to nodes that are flannel's.
    pub(super) fn words_to_flannel(&mut self) -> Option<FlannelWords> {
        let facts = self.compiler.facts();
        let network = facts.network_or_default(&NetworkName::ordinary());
        let own = facts.node(&self.node).cloned().unwrap_or_else(|| Node::named(self.node.clone()));
        let words = self.unmoved.words(&network, own.vtep_mac());
        self.trouble("flannel", words.as_ref().err().cloned());
        words.ok().flatten()
    }
}

#[cfg(test)]
mod tests {
    use weft_model::Vni;

    use super::*;

    fn node(name: &str, backend: Option<FlannelBackend>) -> Change {
        let mut node = Node::named(name.parse().unwrap());
        node.flannel = backend.map(|backend| Flannel { backend, families: vec![Family::V4] });
        Change::set(Fact::Node(node))
    }

    #[test]
    fn as_long_as_one_node_is_flannels_it_is_spoken_to() {
        let (own, mac): (NodeName, Mac) = ("n1".parse().unwrap(), "02:00:00:00:00:01".parse().unwrap());
        let vni = Vni::new(1).unwrap();
        let network = Network { vni, overlay: Overlay::Vxlan, ..Network::ordinary() };
        let mut unmoved = Unmoved::default();
        let vxlan = Some(FlannelBackend::Vxlan(Some(vni)));
        for name in ["n1", "n2", "n3"] {
            unmoved.hear(&node(name, vxlan), &own);
        }
        let words = FlannelWords { tunnel: Some((vni, mac)), families: vec![Family::V4] };
        assert_eq!(unmoved.words(&network, mac), Ok(Some(words.clone())));
        unmoved.hear(&node("n2", None), &own);
        assert_eq!(unmoved.words(&network, mac), Ok(Some(words)));
        unmoved.hear(&Change::Remove(FactKey::Node("n3".parse().unwrap())), &own);
        assert_eq!(unmoved.words(&network, mac), Ok(None));
    }

    #[test]
    fn a_network_that_is_not_flannels_is_named_with_the_mend() {
        let check = |backend: FlannelBackend, overlay: Overlay, vni: u32, expected: Option<&str>| {
            let network = Network { vni: Vni::new(vni).unwrap(), overlay, ..Network::ordinary() };
            let mut unmoved = Unmoved::default();
            unmoved.hear(&node("n2", Some(backend)), &"n1".parse().unwrap());
            let words = unmoved.words(&network, "02:00:00:00:00:01".parse().unwrap());
            match (words, expected) {
                (Ok(Some(_)), None) => {}
                (Err(text), Some(expected)) => assert!(text.contains(expected), "{text}"),
                other => panic!("{backend:?} {overlay:?} {vni}: {other:?}"),
            }
        };
        let vxlan = FlannelBackend::Vxlan(Vni::new(1).ok());
        check(vxlan, Overlay::Vxlan, 1, None);
        check(vxlan, Overlay::Auto, 1, None);
        check(vxlan, Overlay::Vxlan, 9338, Some("`vni: 1` instead of 9338"));
        check(FlannelBackend::Vxlan(None), Overlay::Vxlan, 9338, None);
        check(vxlan, Overlay::HostGw, 1, Some("`overlay: vxlan`"));
        check(FlannelBackend::HostGw, Overlay::HostGw, 1, None);
        check(FlannelBackend::HostGw, Overlay::Vxlan, 1, Some("`overlay: host-gw`"));
    }
}
