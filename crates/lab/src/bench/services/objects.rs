//! The objects that every side gets: services with three endpoints each, as Kubernetes writes them. Pure.
//!
//! All endpoints differ, and lie in one block, so that one namespace can stand for all of their pods.

use std::net::Ipv4Addr;

use serde_json::{Value, json};

/// Block of all endpoints.
pub const ENDPOINTS: &str = "10.80.0.0/14";
const FIRST_ENDPOINT: u32 = 0x0a50_0000 + 256;
const FIRST_SERVICE: u32 = 0x0a2b_0000 + 256;
/// The services' port, and the endpoints'.
pub const PORT: u16 = 80;
pub const TARGET_PORT: u16 = 8080;
/// Services whose endpoints are changed, spread over all.
pub const CHANGING: usize = 20;
const NAMESPACES: usize = 100;

/// Where the third of a service's endpoints is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Third {
    Home,
    Moved,
}

impl Third {
    /// The other place.
    pub fn other(self) -> Self {
        match self {
            Self::Home => Self::Moved,
            Self::Moved => Self::Home,
        }
    }

    /// Its address in service `number`.
    pub fn address(self, number: usize) -> Ipv4Addr {
        endpoint(number, if self == Self::Home { 2 } else { 3 })
    }
}

/// Address of service `number`.
pub fn cluster_ip(number: usize) -> Ipv4Addr {
    Ipv4Addr::from(FIRST_SERVICE + index(number))
}

fn endpoint(number: usize, which: u32) -> Ipv4Addr {
    Ipv4Addr::from(FIRST_ENDPOINT + 4 * index(number) + which)
}

/// Numbers are below the sizes that [`super::MOST`] allows.
fn index(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX >> 8)
}

/// The services of `count` whose endpoints change.
pub fn changing(count: usize) -> impl Iterator<Item = usize> {
    let step = (count / CHANGING).max(1);
    (0..count).step_by(step).take(CHANGING)
}

fn namespace(number: usize) -> String {
    format!("ns-{:02}", number % NAMESPACES)
}

/// Service `number`.
pub fn service(number: usize) -> Value {
    let ip = cluster_ip(number);
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": format!("svc-{number}"),
            "namespace": namespace(number),
            "uid": format!("00000000-0000-0000-0001-{number:012}"),
            "resourceVersion": "1",
        },
        "spec": {
            "type": "ClusterIP",
            "clusterIP": ip,
            "clusterIPs": [ip],
            "ipFamilies": ["IPv4"],
            "ipFamilyPolicy": "SingleStack",
            "internalTrafficPolicy": "Cluster",
            "sessionAffinity": "None",
            "selector": {"app": format!("app-{number}")},
            "ports": [{"name": "http", "protocol": "TCP", "port": PORT, "targetPort": TARGET_PORT}],
        },
        "status": {"loadBalancer": {}},
    })
}

/// The endpoint slice of service `number` at `version`.
pub fn slice(number: usize, third: Third, version: u64) -> Value {
    let endpoints: Vec<Value> = [endpoint(number, 0), endpoint(number, 1), third.address(number)]
        .iter()
        .map(|address| {
            json!({
                "addresses": [address],
                "conditions": {"ready": true, "serving": true, "terminating": false},
                "nodeName": "elsewhere",
                "targetRef": {
                    "kind": "Pod",
                    "namespace": namespace(number),
                    "name": format!("pod-{address}"),
                },
            })
        })
        .collect();
    json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": format!("svc-{number}-abcde"),
            "namespace": namespace(number),
            "uid": format!("00000000-0000-0000-0002-{number:012}"),
            "resourceVersion": version.to_string(),
            "labels": {
                "kubernetes.io/service-name": format!("svc-{number}"),
                "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io",
            },
        },
        "addressType": "IPv4",
        "endpoints": endpoints,
        "ports": [{"name": "http", "protocol": "TCP", "port": TARGET_PORT}],
    })
}

/// A node with an address.
pub fn node(name: &str, address: Ipv4Addr) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": name,
            "uid": "00000000-0000-0000-0003-000000000000",
            "resourceVersion": "1",
            "labels": {"kubernetes.io/hostname": name},
        },
        "spec": {"podCIDR": "10.42.0.0/24", "podCIDRs": ["10.42.0.0/24"]},
        "status": {"addresses": [{"type": "InternalIP", "address": address}]},
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn all_addresses_differ_and_lie_in_their_blocks() {
        let count = super::super::MOST;
        let services: BTreeSet<Ipv4Addr> = (0..count).map(cluster_ip).collect();
        let endpoints: BTreeSet<Ipv4Addr> =
            (0..count).flat_map(|n| (0..4).map(move |which| endpoint(n, which))).collect();
        assert_eq!((services.len(), endpoints.len()), (count, 4 * count));
        assert!(services.iter().all(|a| a.octets()[..2] == [10, 43]));
        let block: ipnet::Ipv4Net = ENDPOINTS.parse().expect("a block");
        assert!(endpoints.iter().all(|a| block.contains(a)));
    }

    #[track_caller]
    fn check(count: usize, expected: &[usize]) {
        let found: Vec<usize> = changing(count).collect();
        assert_eq!(found[..expected.len()], *expected);
        assert!(found.len() == CHANGING.min(count) && found.iter().all(|n| *n < count), "{found:?}");
    }

    #[test]
    fn services_that_change_are_spread() {
        check(5, &[0, 1, 2, 3, 4]);
        check(100, &[0, 5, 10]);
        check(30_000, &[0, 1500, 3000]);
    }
}
