//! Blocks of virtual addresses: the networks' own, and objects that come and go one by one.

use weft_compile::{Compiler, Settings};
use weft_model::{Change, Fact, FactKey, Network, NetworkName, NodeName, ObjectName, ServiceCidr};
use weft_plan::Plan;

fn blocks(name: &str, cidrs: &[&str]) -> Fact {
    Fact::ServiceCidr(ServiceCidr {
        name: ObjectName::new(name).unwrap(),
        cidrs: cidrs.iter().map(|cidr| cidr.parse().unwrap()).collect(),
    })
}

#[test]
fn they_are_the_clusters_for_as_long_as_somebody_names_them() {
    let mut compiler = Compiler::new(Settings::new(NodeName::new("n1").unwrap()));
    let mut plan = Plan::default();
    let mut check = |change: Change, expected: &[&str]| {
        compiler.apply(change);
        compiler.flush(&mut plan);
        let text = plan.to_string();
        for set in ["element cluster", "element service_range"] {
            let found = text.lines().filter_map(|line| line.strip_prefix(set));
            assert_eq!(found.collect::<Vec<_>>(), expected, "{set}");
        }
    };
    let mut network = Network::ordinary();
    network.service_cidrs = vec!["10.96.0.0/16".parse().unwrap()];
    check(Change::set(Fact::Network(network)), &["4 { 10.96.0.0/16 }"]);
    let more = blocks("more", &["10.200.0.0/16", "fd00:96::/112"]);
    let all = ["4 { 10.96.0.0/16 }", "4 { 10.200.0.0/16 }", "6 { fd00:96::/112 }"];
    check(Change::set(more.clone()), &all);
    // The same block twice is one.
    let same = blocks("same", &["10.96.0.0/16"]);
    check(Change::set(same.clone()), &all);
    check(Change::Remove(more.key()), &["4 { 10.96.0.0/16 }"]);
    check(Change::Remove(FactKey::Network(NetworkName::ordinary())), &["4 { 10.96.0.0/16 }"]);
    check(Change::Remove(same.key()), &[]);
}
