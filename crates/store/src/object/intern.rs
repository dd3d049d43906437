//! Strings that many objects have in common, kept once.
//!
//! Labels, node names and namespaces repeat in a hundred thousand pods. Sharing is only a saving: an interner may be
//! dropped or emptied at any time.

use std::sync::Arc;

use rustc_hash::{FxHashMap, FxHashSet};
use weft_model::{
    Endpoint, EndpointPort, Fact, InvalidName, Labels, NamespaceName, NetworkName, NodeName, Pod,
    ServiceKind, TargetPort,
};

/// Shares equal strings and names. One for each reader of objects.
#[derive(Debug, Default)]
pub struct Interner {
    strings: FxHashSet<Arc<str>>,
    labels: FxHashSet<Labels>,
    namespaces: FxHashMap<String, NamespaceName>,
    nodes: FxHashMap<String, NodeName>,
}

impl Interner {
    /// Where a table has grown beyond this, most of it is unique, and it starts anew.
    const LIMIT: usize = 65_536;

    /// The shared string equal to `text`.
    pub fn string(&mut self, text: &str) -> Arc<str> {
        if let Some(known) = self.strings.get(text) {
            return known.clone();
        }
        if self.strings.len() >= Self::LIMIT {
            self.strings.clear();
        }
        let new: Arc<str> = text.into();
        self.strings.insert(new.clone());
        new
    }

    /// Labels whose keys and values are shared, and all of which are where another object has the same.
    pub fn labels<'a>(&mut self, pairs: impl IntoIterator<Item = (&'a String, &'a String)>) -> Labels {
        let new = pairs.into_iter().map(|(k, v)| (self.string(k), self.string(v))).collect();
        self.shared_labels(new)
    }

    fn shared_labels(&mut self, new: Labels) -> Labels {
        if let Some(known) = self.labels.get(&new) {
            return known.clone();
        }
        if self.labels.len() >= Self::LIMIT {
            self.labels.clear();
        }
        self.labels.insert(new.clone());
        new
    }

    /// A shared namespace name.
    ///
    /// # Errors
    /// When `text` is none.
    pub fn namespace(&mut self, text: &str) -> Result<NamespaceName, InvalidName> {
        shared(&mut self.namespaces, text, NamespaceName::new)
    }

    /// A shared node name.
    ///
    /// # Errors
    /// When `text` is none.
    pub fn node(&mut self, text: &str) -> Result<NodeName, InvalidName> {
        shared(&mut self.nodes, text, NodeName::new)
    }

    /// Has a fact that was made without an interner share what the others share.
    pub fn share(&mut self, fact: &mut Fact) {
        match fact {
            Fact::Node(node) => self.share_labels(&mut node.labels),
            Fact::Pod(pod) => self.share_pod(pod),
            Fact::Service(service) => {
                self.share_namespace(&mut service.key.namespace);
                self.share_labels(&mut service.labels);
                service.selector.iter_mut().for_each(|selector| self.share_labels(selector));
                if let ServiceKind::ExternalName(name) = &mut service.kind {
                    *name = self.string(name);
                }
                for port in &mut service.ports {
                    port.name = self.string(&port.name);
                    if let TargetPort::Name(name) = &mut port.target {
                        *name = self.string(name);
                    }
                }
            }
            Fact::EndpointSlice(slice) => {
                self.share_namespace(&mut slice.key.namespace);
                for EndpointPort { name, .. } in Arc::make_mut(&mut slice.ports) {
                    *name = self.string(name);
                }
                for endpoint in Arc::make_mut(&mut slice.endpoints) {
                    self.share_endpoint(endpoint);
                }
            }
            Fact::Namespace(namespace) => {
                self.share_namespace(&mut namespace.name);
                self.share_labels(&mut namespace.labels);
            }
            Fact::Host(_) | Fact::Network(_) | Fact::ServiceCidr(_) | Fact::Attachment(_) => {}
        }
    }

    fn share_pod(&mut self, pod: &mut Pod) {
        self.share_namespace(&mut pod.key.namespace);
        self.share_labels(&mut pod.labels);
        pod.node.iter_mut().for_each(|node| self.share_node(node));
        pod.named_ports.iter_mut().for_each(|port| port.name = self.string(&port.name));
        for text in [&mut pod.hostname, &mut pod.subdomain].into_iter().flatten() {
            *text = self.string(text);
        }
        if pod.network == NetworkName::ordinary() {
            pod.network = NetworkName::ordinary();
        }
    }

    fn share_endpoint(&mut self, endpoint: &mut Endpoint) {
        endpoint.node.iter_mut().for_each(|node| self.share_node(node));
        endpoint.hint_nodes.iter_mut().for_each(|node| self.share_node(node));
        endpoint.pod.iter_mut().for_each(|pod| self.share_namespace(&mut pod.namespace));
        let zones = endpoint.zone.iter_mut().chain(&mut endpoint.hint_zones);
        for text in zones.chain(&mut endpoint.hostname) {
            *text = self.string(text);
        }
    }

    fn share_labels(&mut self, labels: &mut Labels) {
        let pairs: Vec<(Arc<str>, Arc<str>)> =
            labels.iter().map(|(key, value)| (self.string(key), self.string(value))).collect();
        *labels = self.shared_labels(pairs.into_iter().collect());
    }

    fn share_namespace(&mut self, name: &mut NamespaceName) {
        // A name that was one before is one still.
        if let Ok(shared) = self.namespace(name.as_str()) {
            *name = shared;
        }
    }

    fn share_node(&mut self, name: &mut NodeName) {
        if let Ok(shared) = self.node(name.as_str()) {
            *name = shared;
        }
    }
}

fn shared<T: Clone>(
    table: &mut FxHashMap<String, T>,
    text: &str,
    make: impl Fn(&str) -> Result<T, InvalidName>,
) -> Result<T, InvalidName> {
    if let Some(known) = table.get(text) {
        return Ok(known.clone());
    }
    let new = make(text)?;
    if table.len() >= Interner::LIMIT {
        table.clear();
    }
    table.insert(text.to_owned(), new.clone());
    Ok(new)
}

#[cfg(test)]
mod tests {
    use weft_model::ObjectKey;

    use super::*;

    #[test]
    fn what_was_made_apart_shares_afterwards() {
        let key = |name: &str| ObjectKey::new("shop", name).unwrap();
        let pod = |name: &str| {
            let mut pod = Pod::named(key(name));
            pod.labels = [("app", "web")].into_iter().collect();
            pod.node = Some(NodeName::new("n1").unwrap());
            pod
        };
        let mut names = Interner::default();
        let mut share = |pod: Pod| {
            let mut fact = Fact::Pod(pod.clone());
            names.share(&mut fact);
            assert_eq!(fact, Fact::Pod(pod));
            let Fact::Pod(pod) = fact else { unreachable!() };
            let place = |text: &str| text.as_ptr();
            let value = place(pod.labels.get("app").unwrap());
            (place(pod.key.namespace.as_str()), place(pod.node.as_ref().unwrap().as_str()), value)
        };
        assert_eq!(share(pod("a")), share(pod("b")));
    }
}
