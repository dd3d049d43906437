//! Two machines that have one node's name.

use std::net::TcpListener;
use std::sync::Arc;
use std::time::{Duration, Instant};

use weft_model::{NodeAddress, NodeName};
use weft_store::kubernetes::{AccessSource, Patience};
use weft_store::{Event, Hold, KubernetesOptions, KubernetesStore, Published, PublishedNode, Store};

use super::fake::{Fake, Faults};
use super::listening::Listening;
use super::watching::{NODES, Watching, impatient, node, options};

const ABOUT: &str = "machine of node n1";

fn machine(fake: &Fake, word: &str) -> Arc<KubernetesStore> {
    let options = KubernetesOptions { machine: word.to_owned(), ..options(fake, None, impatient()) };
    Arc::new(KubernetesStore::open(options).unwrap())
}

fn says(ip: &str) -> Published {
    Published::Node(PublishedNode {
        name: NodeName::new("n1").unwrap(),
        addresses: vec![NodeAddress { ip: ip.parse().unwrap(), prefix: None }],
        pod_cidrs: Vec::new(),
        vtep_mac: None,
        flannel: None,
    })
}

fn address(fake: &Fake) -> String {
    let node = fake.object(NODES, "n1").unwrap();
    node["metadata"]["annotations"]["weft.dev/addresses"].as_str().unwrap_or_default().to_owned()
}

fn is_refused(watching: &Watching, by: &str) -> bool {
    matches!(&watching.hold, Hold::Lapsed(reason) if reason.contains(&format!("another machine ({by}) is node n1 as well")))
}

#[test]
fn another_machine_of_the_nodes_name_is_refused_while_the_first_answers() {
    let fake = Fake::start();
    fake.put(NODES, node("n1", 1));
    let one = machine(&fake, "one");
    let mut first = Watching::synced(one.clone());
    one.publish(&says("192.0.2.1")).unwrap();
    // While nobody asks, nobody looks.
    let quiet = fake.requests().len();
    std::thread::sleep(Duration::from_secs(1));
    let looks = fake.requests().split_off(quiet);
    assert!(looks.iter().all(|(_, request)| !request.contains("nodes/n1")), "{looks:?}");

    let two = machine(&fake, "two");
    let mut second = Watching::synced(two.clone());
    second.until("the second's refusal", |w| is_refused(w, "one"));
    assert!(two.publish(&says("192.0.2.2")).unwrap_err().to_string().contains("another machine (one)"));
    assert!(two.announce_ready(&NodeName::new("n1").unwrap()).is_err());
    first.until("the first's warning", |w| w.notices.get(ABOUT).is_some_and(|text| text.contains("(two)")));
    // For longer than a silence lasts.
    std::thread::sleep(impatient().ask * 40);
    assert!(two.publish(&says("192.0.2.2")).is_err());
    one.publish(&says("192.0.2.3")).unwrap();
    assert_eq!(address(&fake), "192.0.2.3");

    // The first one restarts, and goes on.
    drop((first, one));
    let one = machine(&fake, "one");
    one.publish(&says("192.0.2.1")).unwrap();
    drop(one);

    // Where it stays away, it may be the second one before it was set up anew. A server that is away is no silence of the first one's.
    fake.set_faults(Faults { down: true, ..Faults::default() });
    std::thread::sleep(impatient().ask * 40);
    let asked = fake.requests().len();
    fake.set_faults(Faults::default());
    second.until("the silent one's place", |w| w.hold == Hold::Unbound);
    let looks = fake.requests().split_off(asked);
    let looks = looks.iter().filter(|(_, request)| request.starts_with("GET /api/v1/nodes/n1")).count();
    assert!(looks >= 10, "it waits for answers: {looks}");
    two.publish(&says("192.0.2.2")).unwrap();

    let one = machine(&fake, "one");
    let mut first = Watching::synced(one.clone());
    first.until("the first's refusal", |w| is_refused(w, "two"));
    assert!(one.publish(&says("192.0.2.1")).is_err());
    assert_eq!(address(&fake), "192.0.2.2");

    // A person decides, or the Node is made anew.
    drop((second, two));
    assert_eq!(one.machine_of(&NodeName::new("n1").unwrap()).unwrap().as_deref(), Some("two"));
    one.forget_node(&NodeName::new("n1").unwrap()).unwrap();
    one.publish(&says("192.0.2.1")).unwrap();
    assert_eq!(address(&fake), "192.0.2.1");
}

/// An agent that is told to end has nothing to ask any more.
#[test]
fn a_stop_waits_for_no_word_of_whose_node_it_is() {
    let fake = Fake::start();
    // It takes connections, and never answers.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let server = format!("http://{}", silent.local_addr().unwrap());
    let patience = Patience { ask: Duration::from_secs(60), ..impatient() };
    let options = KubernetesOptions {
        access: AccessSource { server: Some(server), ..AccessSource::default() },
        machine: "one".to_owned(),
        ..options(&fake, None, patience)
    };
    let listening = Listening::begin(Arc::new(KubernetesStore::open(options).unwrap()));
    assert!(matches!(listening.events.recv(), Ok(Event::Changes(_))), "the networks come first");
    silent.accept().unwrap();
    let told = Instant::now();
    drop(listening);
    assert!(told.elapsed() < Duration::from_secs(30), "{:?}", told.elapsed());
}
