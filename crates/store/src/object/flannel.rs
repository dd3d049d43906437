//! What flannel publishes of a node, for as long as nodes of a cluster move in from it one by one.
//!
//! What Weft publishes itself counts more: a node that has moved keeps its tunnel end's MAC, and says so itself from then on.
//! Source: flannel's `Documentation/kubernetes.md`, and `pkg/subnet/kube` there.

use weft_model::{Mac, Node, NodeAddress, machine_address};

/// JSON by backend; of vxlan's: `{"VNI":1,"VtepMAC":"02:…"}`.
const BACKEND_DATA: &str = "flannel.alpha.coreos.com/backend-data";
/// The address that other nodes send tunnel packets to.
const PUBLIC_IP: &str = "flannel.alpha.coreos.com/public-ip";
/// The same of IPv6.
const PUBLIC_IPV6: &str = "flannel.alpha.coreos.com/public-ipv6";

/// Adds what is known from flannel alone. What can't be read there is passed over: it isn't ours to complain about.
pub(super) fn complete<'a>(node: &mut Node, annotation: &dyn Fn(&str) -> Option<&'a str>) {
    if node.published_vtep_mac.is_none() {
        node.published_vtep_mac = annotation(BACKEND_DATA).and_then(vtep_mac);
    }
    if node.addresses.is_empty() {
        let said = [PUBLIC_IP, PUBLIC_IPV6].into_iter().filter_map(annotation);
        let addresses = said.filter_map(|text| machine_address(text.trim().parse().ok()?).ok());
        node.addresses = addresses.map(|ip| NodeAddress { ip, prefix: None }).collect();
    }
}

fn vtep_mac(text: &str) -> Option<Mac> {
    serde_json::from_str::<serde_json::Value>(text).ok()?["VtepMAC"].as_str()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flannels_word_counts_where_there_is_no_other() {
        let check = |own: Option<&str>, data: &str, expected: Option<&str>| {
            let mut node = Node::named("n1".parse().unwrap());
            node.published_vtep_mac = own.map(|mac| mac.parse().unwrap());
            let said = |key: &str| match key {
                BACKEND_DATA => Some(data),
                PUBLIC_IP => Some("192.0.2.7"),
                _ => None,
            };
            complete(&mut node, &said);
            assert_eq!(node.published_vtep_mac.map(|mac| mac.to_string()).as_deref(), expected, "{data}");
            assert_eq!(node.addresses.len(), 1);
        };
        let data = r#"{"VNI":1,"VtepMAC":"7e:10:84:0a:3b:c2"}"#;
        check(None, data, Some("7e:10:84:0a:3b:c2"));
        check(Some("02:00:00:00:00:01"), data, Some("02:00:00:00:00:01"));
        check(None, "null", None);
        check(None, r#"{"VtepMAC":"x"}"#, None);
    }
}
