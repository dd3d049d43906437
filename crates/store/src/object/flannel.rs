//! flannel's annotations of a node, for as long as a cluster moves in from it node by node: read here, and given their form for a
//! node of Weft's.
//!
//! What Weft publishes itself counts more: a node that has moved keeps its tunnel end's MAC, and says so itself from then on.
//! Source: flannel's `Documentation/kubernetes.md`, and `pkg/subnet/kube` there.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use weft_model::{Family, Flannel, FlannelBackend, Mac, Node, NodeAddress, Vni, machine_address};

use super::ADDRESSES_ANNOTATION;
use crate::store::{FlannelWords, PublishedNode};

/// `vxlan`, `host-gw`, and others that Weft has no like of.
const BACKEND_TYPE: &str = "flannel.alpha.coreos.com/backend-type";
/// JSON by backend; of vxlan's: `{"VNI":1,"VtepMAC":"02:…"}`, of host-gw's: `null`.
const BACKEND_DATA: &str = "flannel.alpha.coreos.com/backend-data";
/// The address that other nodes send tunnel packets to.
const PUBLIC_IP: &str = "flannel.alpha.coreos.com/public-ip";
/// The same two of IPv6, for which flannel has a tunnel end of its own.
const BACKEND_V6_DATA: &str = "flannel.alpha.coreos.com/backend-v6-data";
const PUBLIC_IPV6: &str = "flannel.alpha.coreos.com/public-ipv6";
/// `true`, or flannel passes over the node.
const MANAGED: &str = "flannel.alpha.coreos.com/kube-subnet-manager";
const VXLAN: &str = "vxlan";
const HOST_GW: &str = "host-gw";

/// All that flannel writes of a node and reads of others.
pub(crate) const KEYS: [&str; 6] =
    [BACKEND_TYPE, BACKEND_DATA, PUBLIC_IP, BACKEND_V6_DATA, PUBLIC_IPV6, MANAGED];

/// Annotation of a node of Weft's: which of flannel's it has from Weft, and with which values (JSON). Only these are changed or removed.
pub(crate) const OURS: &str = "weft.dev/flannel";

/// Adds what is known from flannel alone. What can't be read there is passed over: it isn't ours to complain about.
///
/// Where flannel runs on a node that has said nothing itself, the address that flannel chose comes first: its tunnel packets leave with it,
/// which need not be the kubelet's (`--iface`, `--public-ip`).
pub(super) fn complete<'a>(node: &mut Node, annotation: &dyn Fn(&str) -> Option<&'a str>) {
    if annotation(BACKEND_DATA).and_then(vtep_mac).is_some() {
        node.vtep6_mac = annotation(BACKEND_V6_DATA).and_then(vtep_mac);
    }
    if annotation(OURS).is_some() {
        // Weft's own words, of what it says in its own annotations.
        return;
    }
    let has_moved = annotation(ADDRESSES_ANNOTATION).is_some();
    if node.published_vtep_mac.is_none() {
        node.published_vtep_mac =
            [BACKEND_DATA, BACKEND_V6_DATA].into_iter().filter_map(annotation).find_map(vtep_mac);
    }
    let is_flannels =
        !has_moved && [BACKEND_DATA, BACKEND_V6_DATA].into_iter().any(|key| annotation(key).is_some());
    if is_flannels || node.addresses.is_empty() {
        let said = [PUBLIC_IP, PUBLIC_IPV6].into_iter().filter_map(annotation);
        let said: Vec<_> = said.filter_map(|text| machine_address(text.trim().parse().ok()?).ok()).collect();
        node.addresses.retain(|address| !said.contains(&address.ip));
        node.addresses.splice(..0, said.into_iter().map(|ip| NodeAddress { ip, prefix: None }));
    }
    if !has_moved {
        node.flannel = unmoved(annotation);
    }
}

/// What flannel says of a node that is its own.
fn unmoved<'a>(annotation: &dyn Fn(&str) -> Option<&'a str>) -> Option<Flannel> {
    let backend = match annotation(BACKEND_TYPE)?.trim() {
        VXLAN => FlannelBackend::Vxlan(
            [BACKEND_DATA, BACKEND_V6_DATA].into_iter().filter_map(annotation).find_map(vni),
        ),
        HOST_GW => FlannelBackend::HostGw,
        _ => return None,
    };
    let known = [(Family::V4, PUBLIC_IP), (Family::V6, PUBLIC_IPV6)];
    // One without IPv4 that has no tunnel says 0.0.0.0.
    let is_address = |key: &str| {
        annotation(key)
            .and_then(|text| text.trim().parse().ok())
            .is_some_and(|ip| machine_address(ip).is_ok())
    };
    let families = known.into_iter().filter(|(_, key)| is_address(key)).map(|(family, _)| family);
    Some(Flannel { backend, families: families.collect() })
}

fn vtep_mac(text: &str) -> Option<Mac> {
    serde_json::from_str::<Value>(text).ok()?["VtepMAC"].as_str()?.parse().ok()
}

fn vni(text: &str) -> Option<Vni> {
    let number = serde_json::from_str::<Value>(text).ok()?["VNI"].as_u64()?;
    Vni::new(u32::try_from(number).ok()?).ok()
}

/// What a node of Weft's says to flannel's nodes: none of it where these know no family in which it has an address.
pub(crate) fn words(said: &PublishedNode, words: &FlannelWords) -> BTreeMap<&'static str, String> {
    // In flannel's own order and writing: it compares text.
    let data = words
        .tunnel
        .map_or("null".to_owned(), |(vni, mac)| format!("{{\"VNI\":{},\"VtepMAC\":\"{mac}\"}}", vni.get()));
    let backend = if words.tunnel.is_some() { VXLAN } else { HOST_GW };
    let mut annotations = BTreeMap::new();
    for (family, address_key, data_key) in
        [(Family::V4, PUBLIC_IP, BACKEND_DATA), (Family::V6, PUBLIC_IPV6, BACKEND_V6_DATA)]
    {
        let own = said.addresses.iter().find(|address| Family::of(address.ip) == family);
        if let Some(own) = own.filter(|_| words.families.contains(&family)) {
            annotations.insert(address_key, own.ip.to_string());
            annotations.insert(data_key, data.clone());
        }
    }
    if !annotations.is_empty() {
        annotations.insert(BACKEND_TYPE, backend.to_owned());
        annotations.insert(MANAGED, "true".to_owned());
    }
    annotations
}

/// What has to be written (`null`: removed) so that a node that has the annotations `there` says `wanted` to flannel's nodes, and no more of
/// what Weft has written. flannel's own words of a node are left alone: they were true when the node moved, and it kept what they name.
pub(crate) fn difference(
    there: &BTreeMap<String, String>,
    wanted: &BTreeMap<&'static str, String>,
) -> serde_json::Map<String, Value> {
    let ours: BTreeMap<String, String> =
        there.get(OURS).and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
    let is_foreign = |key: &str| there.get(key).is_some_and(|value| ours.get(key) != Some(value));
    // A flanneld that came to this node has written its own over ours: from then on it relies on all of them.
    let is_flannels = KEYS.iter().any(|key| is_foreign(key));
    let marker = (!is_flannels && !wanted.is_empty()).then(|| json!(wanted).to_string());
    let changes = KEYS.iter().filter(|_| !is_flannels).map(|key| (*key, wanted.get(key)));
    let changes = changes.chain([(OURS, marker.as_ref())]);
    let differing = changes.filter(|(key, value)| there.get(*key) != *value);
    differing.map(|(key, value)| (key.to_owned(), value.map_or(Value::Null, |v| v.as_str().into()))).collect()
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

    #[test]
    fn the_families_of_flannels_nodes_are_those_in_which_it_has_addresses() {
        let check = |annotations: &[(&str, &str)], vni: Option<u32>, families: &[Family]| {
            let mut node = Node::named("n1".parse().unwrap());
            let said = |key: &str| annotations.iter().find(|(name, _)| *name == key).map(|(_, value)| *value);
            complete(&mut node, &said);
            let backend = match vni {
                Some(vni) => FlannelBackend::Vxlan(Vni::new(vni).ok()),
                None => FlannelBackend::HostGw,
            };
            assert_eq!(
                node.flannel,
                Some(Flannel { backend, families: families.to_vec() }),
                "{annotations:?}"
            );
            let mac = vni.map(|_| "7e:10:84:0a:3b:c6".parse().unwrap());
            assert_eq!(node.published_vtep_mac, mac, "{annotations:?}");
            let addresses: Vec<Family> = node.addresses.iter().map(|a| Family::of(a.ip)).collect();
            assert_eq!(addresses, families, "{annotations:?}");
        };
        let (data, v6) = (r#"{"VNI":1,"VtepMAC":"7e:10:84:0a:3b:c6"}"#, (PUBLIC_IPV6, "2001:db8::7"));
        let vxlan = (BACKEND_TYPE, "vxlan");
        // As flannel writes them with EnableIPv4=false: by its tunnel, and without one.
        check(&[vxlan, (BACKEND_V6_DATA, data), v6], Some(1), &[Family::V6]);
        let host_gw = [
            (BACKEND_TYPE, "host-gw"),
            (BACKEND_DATA, "null"),
            (PUBLIC_IP, "0.0.0.0"),
            (BACKEND_V6_DATA, "null"),
            v6,
        ];
        check(&host_gw, None, &[Family::V6]);
        let both = [vxlan, (BACKEND_DATA, data), (PUBLIC_IP, "192.0.2.7"), (BACKEND_V6_DATA, data), v6];
        check(&both, Some(1), &[Family::V4, Family::V6]);
    }

    #[test]
    fn a_node_is_flannels_until_it_has_moved() {
        let check = |backend: &str, data: &str, own: Option<&str>, expected: Option<FlannelBackend>| {
            let mut node = Node::named("n1".parse().unwrap());
            let said = |key: &str| match key {
                BACKEND_TYPE => Some(backend),
                BACKEND_DATA => Some(data),
                PUBLIC_IP => Some("192.0.2.7"),
                ADDRESSES_ANNOTATION => own,
                _ => None,
            };
            complete(&mut node, &said);
            let expected = expected.map(|backend| Flannel { backend, families: vec![Family::V4] });
            assert_eq!(node.flannel, expected, "{backend} {data} {own:?}");
        };
        let vni = Vni::new(7).ok();
        check("vxlan", r#"{"VNI":7,"VtepMAC":"7e:10:84:0a:3b:c2"}"#, None, Some(FlannelBackend::Vxlan(vni)));
        check("vxlan", r#"{"VtepMAC":"7e:10:84:0a:3b:c2"}"#, None, Some(FlannelBackend::Vxlan(None)));
        check("host-gw", "null", None, Some(FlannelBackend::HostGw));
        check("wireguard", "{}", None, None);
        check("host-gw", "null", Some("192.0.2.7/24"), None);
    }

    #[test]
    fn a_second_tunnel_end_is_known_where_there_are_two() {
        let check = |v4: Option<&str>, v6: Option<&str>, ours: Option<&str>, expected: Option<&str>| {
            let mut node = Node::named("n1".parse().unwrap());
            let said = |key: &str| match key {
                BACKEND_DATA => v4,
                BACKEND_V6_DATA => v6,
                OURS => ours,
                _ => None,
            };
            complete(&mut node, &said);
            assert_eq!(node.vtep6_mac.map(|mac| mac.to_string()).as_deref(), expected, "{v4:?} {v6:?}");
        };
        let (first, second) = (r#"{"VtepMAC":"02:00:00:00:00:01"}"#, r#"{"VtepMAC":"02:00:00:00:00:06"}"#);
        check(Some(first), Some(second), None, Some("02:00:00:00:00:06"));
        check(Some(first), Some(second), Some("{}"), Some("02:00:00:00:00:06"));
        check(Some(first), None, None, None);
        // IPv6 alone: it is the first.
        check(None, Some(second), None, None);
        check(Some("null"), Some("null"), None, None);
    }

    fn said(tunnel: Option<(Vni, Mac)>, families: &[Family]) -> BTreeMap<&'static str, String> {
        let address = |ip: &str| NodeAddress { ip: ip.parse().unwrap(), prefix: Some(24) };
        let said = PublishedNode {
            name: "n1".parse().unwrap(),
            addresses: vec![address("192.0.2.1"), address("2001:db8::1")],
            pod_cidrs: vec![],
            vtep_mac: None,
            flannel: None,
        };
        words(&said, &FlannelWords { tunnel, families: families.to_vec() })
    }

    #[test]
    fn a_node_of_ours_speaks_as_flannel_does() {
        let tunnel = Some((Vni::new(1).unwrap(), "02:00:00:00:00:01".parse().unwrap()));
        let data = r#"{"VNI":1,"VtepMAC":"02:00:00:00:00:01"}"#;
        let expect = |pairs: &[(&'static str, &str)]| -> BTreeMap<&'static str, String> {
            pairs.iter().map(|(key, value)| (*key, (*value).to_owned())).collect()
        };
        let v4 = [(BACKEND_TYPE, "vxlan"), (MANAGED, "true"), (PUBLIC_IP, "192.0.2.1"), (BACKEND_DATA, data)];
        assert_eq!(said(tunnel, &[Family::V4]), expect(&v4));
        let v6 = [(PUBLIC_IPV6, "2001:db8::1"), (BACKEND_V6_DATA, data)];
        assert_eq!(said(tunnel, &Family::ALL), expect(&[&v4[..], &v6].concat()));
        let next_hop =
            [(BACKEND_TYPE, "host-gw"), (MANAGED, "true"), (PUBLIC_IP, "192.0.2.1"), (BACKEND_DATA, "null")];
        assert_eq!(said(None, &[Family::V4]), expect(&next_hop));
        assert_eq!(said(None, &[]), expect(&[]));
    }

    #[test]
    fn only_what_is_ours_is_written_over_and_taken_back() {
        let wanted = said(None, &[Family::V4]);
        // Written, there, and taken back.
        let mut there = BTreeMap::from([("other.io/x".to_owned(), "y".to_owned())]);
        let apply = |there: &mut BTreeMap<String, String>, wanted: &BTreeMap<&'static str, String>| {
            let patch = difference(there, wanted);
            for (key, value) in &patch {
                match value.as_str() {
                    Some(text) => there.insert(key.clone(), text.to_owned()),
                    None => there.remove(key),
                };
            }
            patch.len()
        };
        assert_eq!(apply(&mut there, &wanted), 5);
        assert_eq!((there[PUBLIC_IP].as_str(), there.len()), ("192.0.2.1", 6));
        assert_eq!(apply(&mut there, &wanted), 0);
        let mut other_address = wanted.clone();
        other_address.insert(PUBLIC_IP, "192.0.2.9".into());
        assert_eq!(apply(&mut there, &other_address), 2);
        assert_eq!(apply(&mut there, &BTreeMap::new()), 5);
        assert_eq!(there, BTreeMap::from([("other.io/x".to_owned(), "y".to_owned())]));

        // flannel's own are left as they are.
        let theirs = BTreeMap::from([(PUBLIC_IP.to_owned(), "192.0.2.7".to_owned())]);
        for wanted in [&wanted, &BTreeMap::new()] {
            assert!(difference(&theirs, wanted).is_empty());
        }
        // It came after us: all is its own.
        apply(&mut there, &wanted);
        there.insert(PUBLIC_IP.into(), "192.0.2.7".into());
        assert_eq!(apply(&mut there, &wanted), 1);
        assert_eq!((there[PUBLIC_IP].as_str(), there.len()), ("192.0.2.7", 5), "{there:?}");
        assert_eq!(apply(&mut there, &BTreeMap::new()), 0);
    }
}
