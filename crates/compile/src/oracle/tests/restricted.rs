//! Who may use a balancer's address: source ranges in compiled clusters.

use weft_model::{IngressMode, LoadBalancerAddress, TrafficPolicy};
use weft_plan::KernelKey;

use super::cluster_services::{Cluster, check, ends_of, slices, web};
use super::rows::{from_outside, ip, tcp};

#[test]
fn only_the_balancers_sources() {
    let mut service = web();
    service.source_ranges = vec!["203.0.113.0/24".parse().unwrap()];
    let cluster = Cluster::new(service, slices(&[0]));
    let packet = |from: &str| tcp("198.51.100.8", 80).from(ip(from));
    check(&cluster, &from_outside("n0"), packet("203.0.113.9"), &["p0:8080 from outside"]);
    check(&cluster, &from_outside("n0"), packet("203.0.112.9"), &["dropped"]);
    // Of the balancer's addresses only.
    let other = tcp("198.51.100.7", 80).from(ip("203.0.112.9"));
    check(&cluster, &from_outside("n0"), other, &["p0:8080 from outside"]);
}

#[test]
fn every_length_of_ranges_ends_where_it_should() {
    let ranges = |ranges: &[&str]| {
        let mut service = web();
        service.source_ranges = ranges.iter().map(|range| range.parse().unwrap()).collect();
        let ip = ip("2001:db8:ffff::8");
        service.load_balancer.push(LoadBalancerAddress { ip, mode: IngressMode::Vip });
        Cluster::new(service, slices(&[0]))
    };
    let check_all = |cluster: &Cluster, balancer: &str, sources: &[(&str, bool)]| {
        for (source, may) in sources {
            let expected = if *may { "p0:8080 from outside" } else { "dropped" };
            check(cluster, &from_outside("n0"), tcp(balancer, 80).from(ip(source)), &[expected]);
        }
    };
    let cluster =
        ranges(&["203.0.113.64/26", "192.0.2.7/32", "128.0.0.0/2", "2001:db8:c::/47", "2001:db8:1::7/128"]);
    let v4 = [
        ("203.0.113.63", false),
        ("203.0.113.64", true),
        ("203.0.113.127", true),
        ("203.0.113.128", false),
        ("192.0.2.6", false),
        ("192.0.2.7", true),
        ("127.255.255.255", false),
        ("128.0.0.1", true),
        ("191.255.255.255", true),
    ];
    check_all(&cluster, "198.51.100.8", &v4);
    let v6 = [
        ("2001:db8:b:ffff::1", false),
        ("2001:db8:c::1", true),
        ("2001:db8:d:ffff::1", true),
        ("2001:db8:e::1", false),
        ("2001:db8:1::7", true),
        ("2001:db8:1::6", false),
    ];
    check_all(&cluster, "2001:db8:ffff::8", &v6);
    // A family of which the ranges have no block is shut out; one with a block of everybody is open.
    let cluster = ranges(&["0.0.0.0/0", "203.0.113.64/26"]);
    check_all(&cluster, "198.51.100.8", &[("203.0.112.9", true), ("203.0.113.64", true)]);
    check_all(&cluster, "2001:db8:ffff::8", &[("2001:db8:c::1", false)]);
}

/// As kube-proxy has it, whose firewall is asked before anything else.
#[test]
fn without_endpoints_only_the_balancers_sources_are_told() {
    let mut service = web();
    service.source_ranges = vec!["203.0.113.0/24".parse().unwrap()];
    let cluster = Cluster::new(service, Vec::new());
    let packet = |from: &str| tcp("198.51.100.8", 80).from(ip(from));
    check(&cluster, &from_outside("n0"), packet("203.0.113.9"), &["refused"]);
    check(&cluster, &from_outside("n0"), packet("203.0.112.9"), &["dropped"]);
}

/// The kernel may refuse any row, and it stays away; nobody comes in who may not, by whichever policy or memory.
#[test]
fn whichever_row_is_missing_keeps_strangers_out() {
    let mut service = web();
    service.source_ranges = vec!["203.0.113.0/24".parse().unwrap()];
    service.external_policy = TrafficPolicy::Local;
    let stranger = tcp("198.51.100.8", 80).from(ip("203.0.112.9"));
    for affinity in [None, Some(60)] {
        service.affinity_seconds = affinity;
        let mut plans = Cluster::new(service.clone(), slices(&[0])).plans();
        let whole = plans[0].clone();
        let all = whole.kernel.iter().map(|(key, _)| key);
        let elements: Vec<&KernelKey> = all.filter(|key| matches!(key, KernelKey::Element(..))).collect();
        assert!(elements.len() > 50);
        for key in elements {
            plans[0].kernel.remove(key);
            let ends = ends_of(&plans, &from_outside("n0"), stranger);
            assert!(ends.keys().all(|end| !end.contains("p0")), "without {key:?}: {ends:?}");
            plans[0] = whole.clone();
        }
    }
}
