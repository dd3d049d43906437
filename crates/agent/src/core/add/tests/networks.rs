//! Networks that can't have what they are described with.

use super::*;

fn network(name: &str, block: &str) -> Change {
    let pod_cidrs = vec![block.parse().unwrap()];
    Change::set(Fact::Network(weft_model::Network {
        pod_cidrs,
        ..weft_model::Network::named(NetworkName::new(name).unwrap())
    }))
}

/// The networks of which blocks were asked for since the last look, each with blocks that can't be had.
fn asked(rig: &Rig) -> Vec<String> {
    let questions = rig.published.try_iter().filter_map(|work| match work {
        PublishWork::Claim(question) => Some(question),
        _ => None,
    });
    questions
        .map(|question| {
            let blocks = question.in_use.iter().map(|block| format!(" {block}"));
            format!("{}:{}", question.network.name, blocks.collect::<String>())
        })
        .collect()
}

/// Why no pod comes to a network: the message and its details.
fn refusal(rig: &mut Rig, network: &'static str) -> String {
    rig.network = network;
    let answer = rig.add(patient());
    rig.apply(Extent::All);
    let error = answer.try_recv().unwrap().unwrap_err();
    assert_eq!(error.code, Code::TRY_AGAIN_LATER);
    format!("{}: {}", error.msg, error.details)
}

#[test]
fn no_blocks_are_asked_for_in_a_network_that_overlaps_an_earlier_one() {
    let mut rig = Rig::running();
    let mut node = Node::named(rig.core.node().clone());
    let of = |network: &str, cidr: &str| NodeCidr {
        network: NetworkName::new(network).unwrap(),
        cidr: cidr.parse().unwrap(),
    };
    node.pod_cidrs = vec![of("default", "10.244.1.0/24")];
    let changes = vec![
        Change::set(Fact::Node(node)),
        network("default", "10.244.0.0/16"),
        network("red", "10.244.1.0/24"),
    ];
    rig.tell(Message::Store(Event::Changes(changes)));
    rig.tell(Message::Tick(Instant::now()));
    assert_eq!(asked(&rig), [""; 0]);
    let said = refusal(&mut rig, "red");
    assert_eq!(
        said,
        "nodes get no blocks of network red: spec.podCIDRs[0]: 10.244.1.0/24 lies in 10.244.0.0/16 of network default; give one of the two networks another"
    );
    // Mended: also what this node has in others can't be had.
    rig.tell(Message::Store(Event::Changes(vec![network("red", "10.9.0.0/16")])));
    rig.tell(Message::Tick(Instant::now()));
    assert_eq!(asked(&rig), ["red: 10.244.1.0/24"]);
}

#[test]
fn a_network_that_nobody_described_is_named() {
    let mut rig = Rig::running();
    rig.tell(Message::Store(Event::Changes(vec![network("red", "10.9.0.0/16")])));
    let said = refusal(&mut rig, "nope");
    assert_eq!(
        said,
        "nobody has described a Network nope: write one that there is in the runtime's network configuration (`network`: default, red), or describe nope as a Network"
    );
}
