//! What Kubernetes promises of services, beside the oracle: services, endpoints, policies and clients are generated, a model
//! too simple to be wrong says where each packet may end and whom its receiver sees, and every outcome of the oracle's dice
//! must be one of those, each as often as the others.
//!
//! The model ([`model`]) knows nothing of rows, rules or facts; [`facts`] says the same cluster in facts.

mod facts;
mod model;

use std::collections::BTreeMap;

use proptest::prelude::{BoxedStrategy, Just, Strategy, any, prop_oneof, proptest};
use proptest::sample::{select, subsequence};
use weft_model::{Family, IngressMode, Protocol, TrafficDistribution, TrafficPolicy};

use crate::oracle::explore;
use model::{Backend, Client, Door, End, Offer, Ranges, Source, Spot, State, promised};

const NODES: usize = 3;
const PODS: usize = 2;
/// Services of one cluster.
const OFFERS: usize = 2;

fn spots() -> Vec<Spot> {
    let places = [None].into_iter().chain((0..PODS).map(Some));
    places.flat_map(|pod| (0..NODES).map(move |node| Spot { node, pod })).collect()
}

fn backend(spot: Spot) -> BoxedStrategy<Backend> {
    let state = prop_oneof![
        5 => Just(State::Ready),
        1 => Just(State::NotReady),
        2 => Just(State::Draining),
        1 => Just(State::Dying),
    ];
    let nodes = prop_oneof![1 => Just(Vec::new()), 2 => subsequence((0..NODES).collect::<Vec<_>>(), 1..=2)];
    let zones = prop_oneof![1 => Just(Vec::new()), 3 => subsequence(vec!['a', 'b'], 1..=2)];
    (state, nodes, zones, 0..2_usize)
        .prop_map(move |(state, nodes, zones, slice)| Backend { spot, state, nodes, zones, slice })
        .boxed()
}

/// None, few or all places; hints are rare enough that some services have them everywhere or nowhere.
fn backends() -> BoxedStrategy<Vec<Backend>> {
    (subsequence(spots(), 0..=5), select(vec!["none", "zones", "nodes", "some"]))
        .prop_flat_map(|(spots, hints)| {
            let all: Vec<_> = spots.into_iter().map(backend).collect();
            all.prop_map(move |mut backends| {
                for backend in &mut backends {
                    if !matches!(hints, "nodes" | "some") {
                        backend.nodes.clear();
                    }
                    if !matches!(hints, "zones" | "some") {
                        backend.zones.clear();
                    }
                }
                backends
            })
        })
        .boxed()
}

fn source() -> BoxedStrategy<Source> {
    let distribution =
        select(vec![None, Some(TrafficDistribution::SameZone), Some(TrafficDistribution::SameNode)]);
    let selected = (any::<bool>(), distribution)
        .prop_map(|(all, distribution)| Source::Selector { publish_not_ready: all, distribution });
    prop_oneof![2 => Just(Source::Slices), 1 => selected].boxed()
}

fn offer(number: usize) -> BoxedStrategy<Offer> {
    let policy = || select(vec![TrafficPolicy::Cluster, TrafficPolicy::Cluster, TrafficPolicy::Local]);
    let families = select(vec![vec![Family::V4], vec![Family::V6], Family::ALL.to_vec()]);
    let ports = subsequence(vec![Protocol::Tcp, Protocol::Udp, Protocol::Sctp], 1..=2);
    let balancer =
        select(vec![None, Some(IngressMode::Vip), Some(IngressMode::Vip), Some(IngressMode::Proxy)]);
    let ranges = select(vec![None, None, Some(Ranges::Outside), Some(Ranges::Pods)]);
    let doors = (any::<bool>(), any::<bool>(), balancer, ranges);
    (families, ports, doors, (policy(), policy()), any::<bool>(), (0..8_u8), source(), backends())
        .prop_map(move |(families, ports, doors, policies, affinity, other, source, backends)| Offer {
            number,
            families,
            ports,
            node_port: doors.0,
            external: doors.1,
            balancer: doors.2,
            ranges: doors.3,
            internal_policy: policies.0,
            external_policy: policies.1,
            affinity,
            is_ours: other != 0,
            source,
            backends,
        })
        .boxed()
}

fn clients() -> BoxedStrategy<Vec<Client>> {
    let pods =
        (0..NODES).flat_map(|node| (0..PODS).map(move |pod| Client::Pod(Spot { node, pod: Some(pod) })));
    let all: Vec<Client> =
        pods.chain((0..NODES).map(Client::Node)).chain((0..NODES).map(Client::Outside)).collect();
    subsequence(all, 4).boxed()
}

/// Every way to a service that a client has, and one to a port that it doesn't offer.
fn doors(client: Client) -> Vec<Door> {
    let ports = (0..NODES).filter(|at| !matches!(client, Client::Outside(entry) if entry != *at));
    [Door::Cluster, Door::Closed, Door::External, Door::Balancer]
        .into_iter()
        .chain(ports.map(Door::NodePort))
        .collect()
}

fn check(offers: &[Offer], clients: &[Client]) {
    let cluster = facts::Compiled::of(offers);
    let world = cluster.world();
    for (offer, client) in offers.iter().flat_map(|offer| clients.iter().map(move |client| (offer, *client)))
    {
        for (family, door) in offer
            .families
            .iter()
            .flat_map(|family| doors(client).into_iter().map(move |door| (*family, door)))
        {
            for port in 0..offer.ports.len() {
                let Some((start, packet)) = facts::packet(offer, port, client, door, family) else {
                    continue;
                };
                let mut ends: BTreeMap<End, usize> = BTreeMap::new();
                let conversations =
                    explore(64, |dice| crate::oracle::converse_with(&world, &start, packet, dice));
                for conversation in &conversations {
                    *ends.entry(facts::end(conversation, packet)).or_default() += 1;
                }
                let expected = promised(offer, client, door);
                let found: Vec<&End> = ends.keys().collect();
                let way =
                    || format!("{client:?} to {door:?} of {offer:#?}\n{packet:?}\n{}", conversations[0]);
                assert_eq!(found, expected.iter().collect::<Vec<_>>(), "{}", way());
                assert!(
                    ends.values().all(|n| n * ends.len() == conversations.len()),
                    "uneven {ends:?}: {}",
                    way()
                );
            }
        }
    }
}

proptest! {
    #![proptest_config(proptest::test_runner::Config { cases: 64, ..Default::default() })]
    #[test]
    fn generated_services_keep_what_kubernetes_promises(
        offers in (0..OFFERS).map(offer).collect::<Vec<_>>(),
        clients in clients(),
    ) {
        check(&offers, &clients);
    }
}

#[test]
fn the_model_can_say_no() {
    let ready = |node| Backend {
        spot: Spot { node, pod: Some(0) },
        state: State::Ready,
        nodes: Vec::new(),
        zones: Vec::new(),
        slice: 0,
    };
    let offer = Offer {
        number: 0,
        families: vec![Family::V4],
        ports: vec![Protocol::Tcp],
        node_port: true,
        external: false,
        balancer: None,
        ranges: None,
        internal_policy: TrafficPolicy::Cluster,
        external_policy: TrafficPolicy::Cluster,
        affinity: false,
        is_ours: true,
        source: Source::Slices,
        backends: vec![ready(0), ready(2)],
    };
    check(std::slice::from_ref(&offer), &[Client::Node(1)]);
    // The same facts against a model that was told another cluster.
    let other = Offer { backends: vec![ready(0)], ..offer.clone() };
    let differs = |told: &Offer| {
        promised(told, Client::Node(1), Door::Cluster) != promised(&offer, Client::Node(1), Door::Cluster)
    };
    assert!(differs(&other));
    let local = Offer { internal_policy: TrafficPolicy::Local, ..offer.clone() };
    assert_eq!(promised(&local, Client::Node(1), Door::Cluster), [End::Dropped].into());
    assert!(differs(&local) && !differs(&offer));
}
