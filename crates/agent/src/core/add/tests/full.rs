//! A node whose blocks have no free address left.

use super::*;

const BLOCK: &str = "10.244.0.0/30";

fn node_with(rig: &Rig, blocks: &[&str]) -> Event {
    let mut node = Node::named(rig.core.node().clone());
    let network = NetworkName::ordinary();
    node.pod_cidrs
        .extend(blocks.iter().map(|text| NodeCidr { network: network.clone(), cidr: text.parse().unwrap() }));
    Event::Changes(vec![Change::set(Fact::Node(node))])
}

/// A node with a block of two addresses, and a network that has more of them.
fn small() -> Rig {
    let mut rig = Rig::running();
    let pod_cidrs = vec!["10.244.0.0/28".parse().unwrap()];
    let network = weft_model::Network { pod_cidrs, node_prefix_v4: 30, ..weft_model::Network::ordinary() };
    let said = node_with(&rig, &[BLOCK]);
    rig.tell(Message::Store(Event::Changes(vec![Change::set(Fact::Network(network))])));
    rig.tell(Message::Store(said));
    rig.apply(Extent::All);
    rig
}

/// A pod that comes; the error of one that can't.
fn come(rig: &mut Rig, container: &'static str) -> Option<CniError> {
    rig.container = container;
    let answer = rig.add(Instant::now() + Duration::from_secs(60));
    rig.apply(Extent::All);
    answer.try_recv().unwrap().err()
}

fn status(rig: &mut Rig) -> Result<Value, CniError> {
    let (reply, answer) = reply();
    let conf = json!({"cniVersion": "1.1.0", "name": "weft", "type": "weft", "network": "default"});
    let request = request::Request::read(Verb::Status, |_| None, conf).unwrap();
    let Ok(Request::Status(conf)) = Request::of(request) else { panic!("the call is not a STATUS") };
    rig.tell(Message::Cni(CniCall {
        verb: CniVerb::Status(conf),
        deadline: Instant::now(),
        reply,
        plugin_version: None,
    }));
    answer.try_recv().unwrap()
}

/// The full blocks of each question that the store was asked since the last look, and how many blocks the node said it has.
fn asked(rig: &Rig) -> (Vec<Vec<String>>, Vec<usize>) {
    let (mut questions, mut said) = (Vec::new(), Vec::new());
    for work in rig.published.try_iter() {
        match work {
            PublishWork::Claim(question) => {
                questions.push(question.full.iter().map(ToString::to_string).collect());
            }
            PublishWork::Publish(Published::Node(node)) => said.push(node.pod_cidrs.len()),
            _ => {}
        }
    }
    (questions, said)
}

#[test]
fn a_full_node_gets_another_block() {
    let mut rig = small();
    assert!(come(&mut rig, "c1").is_none());
    rig.tell(Message::Tick(Instant::now()));
    assert!(asked(&rig).0.is_empty());
    assert!(status(&mut rig).is_ok());
    assert!(come(&mut rig, "c2").is_none());
    // The last one is taken: the next is asked for before somebody needs it, and once.
    rig.tell(Message::Tick(Instant::now()));
    rig.tell(Message::Tick(Instant::now()));
    assert_eq!(asked(&rig).0, [[BLOCK]]);
    let error = come(&mut rig, "c3").unwrap();
    assert_eq!(error.code, Code::ADDRESSES_EXHAUSTED);
    assert!(error.details.contains(BLOCK) && error.details.contains("was asked for"), "{}", error.details);
    let error = status(&mut rig).unwrap_err();
    assert_eq!(error.code, Code::NOT_AVAILABLE);
    assert!(error.details.contains(BLOCK) && error.details.contains("was asked for"), "{}", error.details);
    assert_eq!((rig.leased(), rig.records()), (2, 2));
    // It is given: the node says so, and gives out its addresses when the cluster knows.
    let more = "10.244.0.4/30";
    rig.tell(Message::ClaimedAnother(NetworkName::ordinary(), Ok(more.parse().unwrap())));
    assert_eq!(asked(&rig), (vec![], vec![2]));
    assert_eq!(come(&mut rig, "c3").unwrap().code, Code::ADDRESSES_EXHAUSTED);
    let said = node_with(&rig, &[BLOCK, more]);
    rig.tell(Message::Store(said));
    rig.apply(Extent::All);
    assert!(come(&mut rig, "c3").is_none());
    assert!(status(&mut rig).is_ok());
    assert!(asked(&rig).0.is_empty());
    assert_eq!(rig.leased(), 3);
}

#[test]
fn why_a_full_node_gets_no_other_block_is_told() {
    let mut rig = small();
    assert!(come(&mut rig, "c1").is_none());
    assert!(come(&mut rig, "c2").is_none());
    // Nobody had looked since: the ADD itself asks.
    let error = come(&mut rig, "c3").unwrap();
    assert!(error.details.contains("was asked for"), "{}", error.details);
    assert_eq!(asked(&rig).0, [[BLOCK]]);
    rig.tell(Message::ClaimedAnother(NetworkName::ordinary(), Err("nothing is left".into())));
    let error = come(&mut rig, "c3").unwrap();
    assert_eq!(error.code, Code::ADDRESSES_EXHAUSTED);
    assert!(error.details.ends_with("nothing is left"), "{}", error.details);
    assert!(asked(&rig).0.is_empty(), "at a pace");
    let told = |rig: &Rig| rig.core.warnings().iter().any(|warning| warning.contains("nothing is left"));
    assert!(told(&rig));
    assert!(status(&mut rig).unwrap_err().details.ends_with("nothing is left"));
    // One goes, and the next finds its place.
    let id = AttachmentId { container: "c1".into(), ifname: IfName::new("eth0").unwrap() };
    let (reply, _answer) = reply();
    let deadline = Instant::now() + Duration::from_secs(60);
    rig.tell(Message::Cni(CniCall { verb: CniVerb::Del(id), deadline, reply, plugin_version: None }));
    rig.apply(Extent::All);
    rig.tell(Message::Tick(Instant::now()));
    assert!(!told(&rig));
    assert!(come(&mut rig, "c3").is_none());
}

/// A pod that had an address of services' would be reached by nobody.
#[test]
fn what_is_services_in_a_block_of_pods_is_given_to_no_pod() {
    let mut rig = Rig::running();
    let service_cidrs = vec!["10.244.0.0/25".parse().unwrap()];
    let network = weft_model::Network { service_cidrs, ..weft_model::Network::ordinary() };
    rig.tell(Message::Store(Event::Changes(vec![Change::set(Fact::Network(network))])));
    let pool = rig.core.pool(&NetworkName::ordinary());
    let given = pool.next(weft_model::Family::V4, None, &std::collections::BTreeMap::new());
    assert_eq!(given, Some("10.244.0.128".parse().unwrap()));
}
