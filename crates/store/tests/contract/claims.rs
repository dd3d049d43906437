//! Blocks of addresses: whom a store gives which, and to nobody twice.

use std::sync::Mutex;

use weft_model::{Cidr, Family, Network, NetworkName, NodeName};
use weft_store::StoreError;

use super::{Bench, cidr, network, node_name};

pub fn gives_every_node_blocks_of_its_own(bench: &(impl Bench + ?Sized)) {
    let network = network();
    let given: Mutex<Vec<(String, Vec<Cidr>)>> = Mutex::default();
    for i in 0..16 {
        bench.join(&node_name(&format!("node-{i}")));
    }
    bench.join(&node_name("late"));
    std::thread::scope(|scope| {
        for i in 0..12 {
            let (store, network, given) = (bench.store(), &network, &given);
            scope.spawn(move || {
                let name = format!("node-{i}");
                let in_use = [cidr("10.244.0.0/24")];
                let claim = store.claim_pod_cidrs(network, &node_name(&name), &in_use).unwrap();
                assert_eq!(claim.unfit, []);
                given.lock().unwrap().push((name, claim.cidrs));
            });
        }
    });
    let given = given.into_inner().unwrap();
    let all: Vec<Cidr> = given.iter().flat_map(|(_, c)| c.clone()).collect();
    for (i, a) in all.iter().enumerate() {
        assert!(all[i + 1..].iter().all(|b| !a.overlaps(b)), "{a} given twice: {given:?}");
        assert!(network.pod_cidrs.iter().any(|block| block.net().contains(&a.net())));
        assert_ne!(a.to_string(), "10.244.0.0/24");
    }
    let again = bench.store();
    for (name, cidrs) in &given {
        assert_eq!(again.claim_pod_cidrs(&network, &node_name(name), &[]).unwrap().cidrs, *cidrs);
        assert_eq!(cidrs.iter().map(Cidr::family).collect::<Vec<_>>(), Family::ALL);
    }
    // 16 shares of IPv4, 12 taken: four more nodes, and then an error that says so.
    for i in 12..16 {
        again.claim_pod_cidrs(&network, &node_name(&format!("node-{i}")), &[]).unwrap();
    }
    let error = again.claim_pod_cidrs(&network, &node_name("late"), &[]).unwrap_err().to_string();
    assert!(error.contains("10.244.0.0/20") && error.contains("late") && error.contains("16"), "{error}");
    // A network that has changed: the old share stays the node's, and a fitting one is added.
    let other = Network { pod_cidrs: vec![cidr("10.9.0.0/16")], node_prefix_v4: 26, ..network.clone() };
    let claim = again.claim_pod_cidrs(&other, &node_name("node-3"), &[]).unwrap();
    assert_eq!(claim.cidrs, [cidr("10.9.0.0/26")]);
    assert_eq!(claim.unfit.len(), 2);
    let nothing = Network::ordinary();
    assert_eq!(again.claim_pod_cidrs(&nothing, &node_name("node-3"), &[]).unwrap().cidrs, []);
}

pub fn gives_a_full_node_another_block(bench: &(impl Bench + ?Sized)) {
    let network = Network { pod_cidrs: vec![cidr("10.244.0.0/22"), cidr("fd00:244::/48")], ..network() };
    for name in ["full-1", "full-2"] {
        bench.join(&node_name(name));
    }
    let (store, n1, n2) = (bench.store(), node_name("full-1"), node_name("full-2"));
    let first = store.claim_pod_cidrs(&network, &n1, &[]).unwrap().cidrs;
    // Nothing of its own is full: whoever gave it that gives more.
    let foreign = store.claim_another(&network, &n2, &[cidr("10.244.9.0/24")], &[]).unwrap_err();
    assert!(matches!(foreign, StoreError::BlocksGiven { .. }), "{foreign}");
    let mut full = vec![first[0]];
    let busy = [cidr("10.244.1.0/24")];
    let more = store.claim_another(&network, &n1, &full, &busy).unwrap();
    assert!(!full.contains(&more) && more.prefix() == 24 && more != busy[0], "{more}");
    // The answer was lost, and the agent was started again: nothing is taken twice, and all of it is known.
    assert_eq!(store.claim_another(&network, &n1, &full, &busy).unwrap(), more);
    let again = bench.store();
    assert_eq!(again.claim_another(&network, &n1, &full, &busy).unwrap(), more);
    let claim = again.claim_pod_cidrs(&network, &n1, &[]).unwrap();
    let mut known = claim.cidrs.clone();
    known.sort_unstable();
    let mut expected = vec![first[0], first[1], more];
    expected.sort_unstable();
    assert_eq!((known, claim.unfit), (expected, vec![]));
    full.push(more);
    // Many at once, of two nodes: each gets its own, until nothing is left.
    let second = again.claim_pod_cidrs(&network, &n2, &[]).unwrap().cidrs[0];
    let last = std::thread::scope(|scope| {
        let ask = |node: NodeName, full: Vec<Cidr>| {
            let (store, network) = (bench.store(), &network);
            scope.spawn(move || store.claim_another(network, &node, &full, &[]))
        };
        let asked = [ask(n1.clone(), full.clone()), ask(n2.clone(), vec![second])];
        asked.map(|asked| asked.join().unwrap())
    });
    let (given, refused): (Vec<_>, Vec<_>) = last.into_iter().partition(Result::is_ok);
    let (given, refused) = (given[0].as_ref().unwrap(), refused[0].as_ref().unwrap_err());
    assert!(!full.contains(given) && *given != second, "{given} given twice");
    assert!(matches!(refused, StoreError::BlocksExhausted { .. }), "{refused}");
}

/// Networks whose blocks overlap, also where nobody has warned of it, or one of them comes later.
pub fn gives_no_address_in_two_networks(bench: &(impl Bench + ?Sized)) {
    let red = NetworkName::new("red").unwrap();
    let red = Network { pod_cidrs: vec![cidr("10.244.0.0/21")], node_prefix_v4: 26, ..Network::named(red) };
    let networks = [network(), red];
    let names: Vec<NodeName> = (0..10).map(|i| node_name(&format!("of-two-{i}"))).collect();
    names.iter().for_each(|name| bench.join(name));
    let store = bench.store();
    let claim = |at: usize| store.claim_pod_cidrs(&networks[at % 2], &names[at], &[]).unwrap().cidrs;
    let mut given: Vec<Cidr> = (0..2).flat_map(claim).collect();
    let first = given.clone();
    std::thread::scope(|scope| {
        let ask = |at: usize| {
            let (store, network, name) = (bench.store(), &networks[at % 2], &names[at]);
            scope.spawn(move || store.claim_pod_cidrs(network, name, &[]).unwrap().cidrs)
        };
        let asked: Vec<_> = (2..names.len()).map(ask).collect();
        given.extend(asked.into_iter().flat_map(|asked| asked.join().unwrap()));
    });
    // One of IPv4 for each, and one of IPv6 for those in the first network.
    assert_eq!(given.len(), names.len() * 3 / 2);
    for (at, a) in given.iter().enumerate() {
        assert!(given[at + 1..].iter().all(|b| !a.overlaps(b)), "{a} given twice: {given:?}");
    }
    // Nothing is taken from who was first; and one node may have blocks in both.
    assert_eq!((0..2).flat_map(claim).collect::<Vec<Cidr>>(), first);
    let both = store.claim_pod_cidrs(&networks[1], &names[0], &[]).unwrap();
    assert!(both.cidrs.len() == 1 && both.unfit.is_empty(), "{both:?}");
    assert!(given.iter().all(|a| !a.overlaps(&both.cidrs[0])), "{both:?} {given:?}");
}
