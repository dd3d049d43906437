//! As many ADDs at once as a node sees when it comes back: each pod has addresses of its own, and all of them go.

use std::collections::BTreeSet;
use std::thread;

use crate::node::{Node, sh};

/// Half of what the agent's socket serves at once.
const AT_ONCE: usize = 32;

#[test]
fn thirty_two_pods_come_at_once_and_go_at_once() {
    let Some(mut node) = Node::new() else { return };
    node.start(None);
    let names: Vec<String> = (0..AT_ONCE).map(|number| format!("many{number}")).collect();
    for name in &names {
        sh(&format!("ip netns add {name}"));
    }
    let runtime = &node;
    let results: Vec<_> = thread::scope(|scope| {
        let adds: Vec<_> = names.iter().map(|name| scope.spawn(move || runtime.add(name))).collect();
        adds.into_iter().map(|add| add.join().unwrap().unwrap()).collect()
    });
    let ips = results.iter().flat_map(|result| result["ips"].as_array().unwrap());
    let addresses: BTreeSet<&str> = ips.map(|ip| ip["address"].as_str().unwrap()).collect();
    assert_eq!(addresses.len(), 2 * AT_ONCE, "an address of each family for each: {addresses:?}");
    node.settles_with(AT_ONCE, "32 ADDs at once");
    // Half of them go by themselves, at once, and the rest by the runtime's GC.
    let (some, others) = names.split_at(AT_ONCE / 2);
    thread::scope(|scope| {
        let dels: Vec<_> = some.iter().map(|name| scope.spawn(move || runtime.del(name))).collect();
        dels.into_iter().for_each(|del| drop(del.join().unwrap().unwrap()));
    });
    node.settles_with(others.len(), "16 DELs at once");
    let one = &others[0];
    node.gc(&[one]);
    // GC has answered, so that nothing is under way any more.
    let status = node.status().unwrap();
    assert_eq!(status["pods"].as_array().map_or(0, Vec::len), 1);
    assert_eq!(status["pluginVersion"], weft_cni::VERSION);
    node.settles_with(1, "a GC of 15");
    node.del(one).unwrap();
    node.settles_with(0, "the last DEL");
    for name in &names {
        sh(&format!("ip netns del {name}"));
    }
}
