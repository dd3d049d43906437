//! What flannel publishes of a node, for as long as nodes of a cluster move in from it one by one.
//!
//! What Weft publishes itself counts more: a node that has moved keeps its tunnel end's MAC, and says so itself from then on.
//! Source: flannel's `Documentation/kubernetes.md`, and `pkg/subnet/kube` there.

use weft_model::{Mac, Node, NodeAddress, machine_address};

use super::ADDRESSES_ANNOTATION;

/// JSON by backend; of vxlan's: `{"VNI":1,"VtepMAC":"02:…"}`.
const BACKEND_DATA: &str = "flannel.alpha.coreos.com/backend-data";
/// The address that other nodes send tunnel packets to.
const PUBLIC_IP: &str = "flannel.alpha.coreos.com/public-ip";
/// The same of IPv6.
const PUBLIC_IPV6: &str = "flannel.alpha.coreos.com/public-ipv6";

/// Adds what is known from flannel alone. What can't be read there is passed over: it isn't ours to complain about.
///
/// Where flannel runs on a node that has said nothing itself, the address that flannel chose comes first: its tunnel packets leave with it,
/// which need not be the kubelet's (`--iface`, `--public-ip`).
pub(super) fn complete<'a>(node: &mut Node, annotation: &dyn Fn(&str) -> Option<&'a str>) {
    if node.published_vtep_mac.is_none() {
        node.published_vtep_mac = annotation(BACKEND_DATA).and_then(vtep_mac);
    }
    let is_flannels = annotation(BACKEND_DATA).is_some() && annotation(ADDRESSES_ANNOTATION).is_none();
    if is_flannels || node.addresses.is_empty() {
        let said = [PUBLIC_IP, PUBLIC_IPV6].into_iter().filter_map(annotation);
        let said: Vec<_> = said.filter_map(|text| machine_address(text.trim().parse().ok()?).ok()).collect();
        node.addresses.retain(|address| !said.contains(&address.ip));
        node.addresses.splice(..0, said.into_iter().map(|ip| NodeAddress { ip, prefix: None }));
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

    #[test]
    fn the_address_that_flannel_chose_comes_first() {
        let check = |there: &[&str], own: Option<&str>, data: Option<&str>, expected: &[&str]| {
            let mut node = Node::named("n1".parse().unwrap());
            let address = |ip: &&str| NodeAddress { ip: ip.parse().unwrap(), prefix: None };
            node.addresses = there.iter().map(address).collect();
            let said = |key: &str| match key {
                ADDRESSES_ANNOTATION => own,
                BACKEND_DATA => data,
                PUBLIC_IP => Some("192.0.2.7"),
                PUBLIC_IPV6 => Some("2001:db8::7"),
                _ => None,
            };
            complete(&mut node, &said);
            let found: Vec<String> = node.addresses.iter().map(|address| address.ip.to_string()).collect();
            assert_eq!(found, expected, "{there:?} {own:?} {data:?}");
        };
        let data = Some("null");
        check(&[], None, data, &["192.0.2.7", "2001:db8::7"]);
        // The kubelet's word.
        check(&["10.0.2.15"], None, data, &["192.0.2.7", "2001:db8::7", "10.0.2.15"]);
        check(&["10.0.2.15", "192.0.2.7"], None, data, &["192.0.2.7", "2001:db8::7", "10.0.2.15"]);
        // Flannel has left.
        check(&["10.0.2.15"], None, None, &["10.0.2.15"]);
        // The node has moved.
        check(&["198.51.100.1"], Some("198.51.100.1/24"), data, &["198.51.100.1"]);
    }
}
