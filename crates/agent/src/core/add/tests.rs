//! The core without threads: messages in, and what it asks of the kernel thread out.

mod full;
mod networks;
mod refusals;
mod removals;

use std::collections::BTreeSet;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use serde_json::{Value, json};
use weft_cni::weft::Request;
use weft_cni::{Verb, request};
use weft_model::{Host, HostLink, Node, NodeCidr};
use weft_plan::kernel::POD_LINK_PREFIX;
use weft_store::{BootTime, Claim, Event, Hold};

use super::super::{Around, Phase, PublishWork, SharedPlans};
use super::*;
use crate::health::news;
use crate::message::{CniCall, CniVerb, Message, Report};
use crate::status::Status;

struct Rig {
    core: Core,
    kernel: Receiver<Work>,
    published: Receiver<PublishWork>,
    folder: tempfile::TempDir,
    /// Whom the next ADD is for.
    container: &'static str,
    /// In which network.
    network: &'static str,
}

type Answer = Receiver<Result<Value, CniError>>;

fn reply() -> (CniReply, Answer) {
    let (send, answer) = channel();
    (CniReply::new(move |given| drop(send.send(given))), answer)
}

fn rig() -> Rig {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let config = json!({
        "node": "n1",
        "store": {"directory": at("cluster")},
        "stateDir": at("state"),
        "runDir": at("run"),
        "cni": {"confDir": at("cni"), "leaseDir": at("leases")},
    });
    let (to_kernel, kernel) = channel();
    let (to_publisher, published) = channel();
    let around = Around { kernel: to_kernel, publish: to_publisher, health: news().0 };
    let config = serde_json::from_value(config).unwrap();
    let core = Core::new(config, SharedPlans::default(), around).unwrap();
    Rig { core, kernel, published, folder, container: "c1", network: "default" }
}

impl Rig {
    fn tell(&mut self, message: Message) {
        assert!(self.core.take(message));
        self.core.flush();
    }

    /// What the host and the store have to say of a node with one block of addresses.
    fn tell_facts(&mut self) {
        let link = HostLink {
            name: IfName::new("eth0").unwrap(),
            mtu: 1500,
            addresses: vec!["192.0.2.1/24".parse().unwrap()],
            router_advertisements: false,
        };
        self.tell(Message::Host(Host { links: vec![link], ..Host::default() }));
        let mut node = Node::named(self.core.node().clone());
        let cidr = "10.244.0.0/24".parse().unwrap();
        node.pod_cidrs.push(NodeCidr { network: NetworkName::ordinary(), cidr });
        self.tell(Message::Store(Event::Changes(vec![Change::set(Fact::Node(node))])));
    }

    fn running() -> Self {
        let mut rig = rig();
        rig.tell_facts();
        rig.tell(Message::Store(Event::Synced));
        rig.apply(Extent::All);
        assert_eq!(*rig.core.phase(), Phase::Running);
        rig
    }

    /// The kernel thread's report that all of the plan is in force.
    fn apply(&mut self, extent: Extent) {
        let generation = self.core.plans().kernel.read().unwrap().generation;
        self.tell(Message::Applied(Report { generation, full: extent == Extent::All, ..Report::default() }));
    }

    /// A row of the pod that comes.
    fn own_row(&self) -> KernelKey {
        let plan = self.core.plans().kernel.read().unwrap();
        let its_own = |(_, entry): &(&KernelKey, &weft_plan::rows::Entry<_>)| {
            matches!(*entry.origin, FactKey::Attachment(_))
        };
        plan.kernel.iter().find(its_own).map(|(key, _)| key.clone()).unwrap()
    }

    /// The kernel thread's report that all of the plan is in force but for the row of a pod that comes.
    fn fail_with(&mut self, passing: BTreeSet<KernelKey>) {
        let generation = self.core.plans().kernel.read().unwrap().generation;
        let failed = vec![(self.own_row(), "its set is gone".to_owned())];
        self.tell(Message::Applied(Report { generation, failed, passing, ..Report::default() }));
    }

    fn add(&mut self, deadline: Instant) -> Answer {
        self.add_with(&json!({}), deadline)
    }

    fn add_with(&mut self, runtime_config: &Value, deadline: Instant) -> Answer {
        let container = self.container;
        let env = |key: &str| {
            let value = match key {
                "CNI_CONTAINERID" => container,
                "CNI_IFNAME" => "eth0",
                "CNI_NETNS" => "/run/netns/c1",
                "CNI_ARGS" => "K8S_POD_NAMESPACE=default;K8S_POD_NAME=web",
                _ => return None,
            };
            Some(value.to_owned())
        };
        let conf = json!({"cniVersion": "1.1.0", "name": "weft", "type": "weft", "network": self.network, "runtimeConfig": runtime_config});
        let request = request::Request::read(Verb::Add, env, conf).unwrap();
        let Ok(Request::Add(attach)) = Request::of(request) else { panic!("the call is not an ADD") };
        let netns = OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
        let (reply, answer) = reply();
        self.tell(Message::Cni(CniCall {
            verb: CniVerb::Add(attach, netns),
            deadline,
            reply,
            plugin_version: None,
        }));
        answer
    }

    fn asked_to_apply(&self) -> bool {
        self.kernel.try_iter().any(|work| matches!(work, Work::Sync | Work::Step))
    }

    /// Containers whose namespaces the kernel thread keeps.
    fn namespaces(&self) -> Vec<String> {
        let mut kept = Vec::new();
        for work in self.kernel.try_iter() {
            match work {
                Work::Netns(id, _) => kept.push(id.container.to_string()),
                Work::NoNetns(id) => kept.retain(|container| *container != *id.container),
                _ => {}
            }
        }
        kept
    }

    fn leased(&self) -> usize {
        self.core.leases().map(|(_, leases)| leases.len()).sum()
    }

    fn records(&self) -> usize {
        std::fs::read_dir(self.folder.path().join("state/attachments"))
            .unwrap()
            .flatten()
            .filter(|entry| entry.path().extension().is_some_and(|suffix| suffix == "json"))
            .count()
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Extent {
    All,
    Changes,
}

/// A minute from now: later than any test takes.
fn patient() -> Instant {
    Instant::now() + Duration::from_secs(60)
}

/// Invariant 1.
#[test]
fn nothing_is_applied_before_the_first_snapshot_is_complete() {
    let mut rig = rig();
    rig.tell_facts();
    rig.tell(Message::Tick(Instant::now()));
    let refusal = rig.add(patient()).try_recv().unwrap().unwrap_err();
    assert_eq!(refusal.code, Code::TRY_AGAIN_LATER, "{refusal:?}");
    assert!(!rig.asked_to_apply());
    assert!(rig.published.try_recv().is_err(), "nothing is known well enough to be told to others");
    assert!(rig.core.plans().kernel.read().unwrap().kernel.is_empty());
    assert_eq!((rig.leased(), rig.records()), (0, 0));

    rig.tell(Message::Store(Event::Synced));
    assert!(rig.asked_to_apply());
    assert!(!rig.core.plans().kernel.read().unwrap().kernel.is_empty());
}

/// Invariant 8, when all is well.
#[test]
fn an_add_is_answered_when_its_own_rows_are_in_force() {
    let mut rig = Rig::running();
    let answer = rig.add(patient());
    rig.tell(Message::Tick(Instant::now()));
    assert!(answer.try_recv().is_err(), "its rows are not in force yet");
    rig.apply(Extent::Changes);
    let result = answer.try_recv().unwrap().unwrap();
    assert_eq!(result["ips"][0]["address"], "10.244.0.1/32");
    assert_eq!((rig.leased(), rig.records()), (1, 1));
}

/// Another program flushes the packet filter while a pod comes: what will be mended is no refusal.
#[test]
fn an_add_waits_for_what_the_next_comparison_mends() {
    let mut rig = Rig::running();
    let answer = rig.add(patient());
    rig.fail_with(BTreeSet::from([rig.own_row()]));
    assert!(answer.try_recv().is_err(), "its rows are being mended");
    rig.apply(Extent::All);
    answer.try_recv().unwrap().unwrap();
    assert_eq!((rig.leased(), rig.records()), (1, 1));

    let mut rig = Rig::running();
    let deadline = Instant::now() + Duration::from_millis(1);
    let answer = rig.add(deadline);
    rig.fail_with(BTreeSet::from([rig.own_row()]));
    rig.tell(Message::Tick(deadline));
    assert_eq!(answer.try_recv().unwrap().unwrap_err().code, Code::TRY_AGAIN_LATER);

    let mut rig = Rig::running();
    let answer = rig.add(patient());
    rig.fail_with(BTreeSet::new());
    // What was made of it is taken back first.
    rig.apply(Extent::Changes);
    assert_eq!(answer.try_recv().unwrap().unwrap_err().code, Code::KERNEL_REFUSED);
}

#[test]
fn no_address_is_given_out_of_blocks_that_may_be_anothers_soon() {
    let mut rig = Rig::running();
    let past = BootTime::now();
    let soon = past + Duration::from_secs(60);
    let mut check = |hold: Hold, container: &'static str, expected: Option<&str>| {
        rig.tell(Message::Store(Event::Hold(hold)));
        rig.container = container;
        let answer = rig.add(patient());
        rig.apply(Extent::Changes);
        match (answer.try_recv().expect("it is answered"), expected) {
            (Ok(_), None) => {}
            (Err(error), Some(part)) => {
                assert_eq!(error.code, Code::TRY_AGAIN_LATER, "{error:?}");
                assert!(error.details.contains(part), "{error:?}");
            }
            (answer, _) => panic!("{container}: {answer:?}"),
        }
        rig.tell(Message::Tick(Instant::now()));
        assert_eq!(rig.core.troubles.contains_key("claims"), expected.is_some());
    };
    check(Hold::Until(soon), "c1", None);
    // Nothing was heard since, as when the agent was stopped: its own clock tells.
    check(Hold::Until(past), "c2", Some("the store was not reached"));
    check(Hold::Lapsed("n2 has it".into()), "c3", Some("n2 has it"));
    check(Hold::Unbound, "c4", None);
    assert_eq!(rig.leased(), 2, "whoever was there stays");
}

/// Invariant 8, when the kernel is late: `arrives` is what comes after the deadline.
fn check_late(arrives: impl FnOnce(&mut Rig, Instant)) {
    let mut rig = Rig::running();
    let deadline = Instant::now();
    let answer = rig.add(deadline);
    arrives(&mut rig, deadline + Duration::from_millis(1));
    let error = answer.try_recv().unwrap().unwrap_err();
    assert_eq!(error.code, Code::TRY_AGAIN_LATER, "{error:?}");
    // What was made until then is taken down, and only then is the address free.
    rig.apply(Extent::Changes);
    assert_eq!((rig.leased(), rig.records()), (0, 0));
    let left = rig.core.plans().kernel.read().unwrap();
    let of_pod =
        |key: &KernelKey| matches!(key, KernelKey::Link(name) if name.as_str().starts_with(POD_LINK_PREFIX));
    assert!(!left.kernel.iter().any(|(key, _)| of_pod(key)));
    assert!(answer.try_recv().is_err(), "it was answered once");
}

#[test]
fn an_add_past_its_deadline_is_told_to_come_again_and_leaves_nothing() {
    check_late(|rig, late| {
        rig.tell(Message::Tick(late));
        assert_eq!(rig.leased(), 1, "the kernel has not let go of the address yet");
    });
}

#[test]
fn a_report_after_the_deadline_does_not_make_a_late_add_succeed() {
    check_late(|rig, _| rig.apply(Extent::Changes));
}

#[test]
fn a_mapping_that_cannot_be_is_refused_and_leaves_nothing() {
    let tunnel = json!([{"hostPort": 4789, "containerPort": 80, "protocol": "udp"}]);
    let twice = json!([{"hostPort": 80, "containerPort": 80}, {"hostPort": 80, "containerPort": 81}]);
    for (mappings, expected) in [
        (tunnel, "host port 4789/udp is taken by the tunnel of network default"),
        (twice, "host port 80/tcp is mapped twice"),
    ] {
        let mut rig = Rig::running();
        let answer = rig.add_with(&json!({"portMappings": mappings}), patient());
        let error = answer.try_recv().expect("it is answered at once").unwrap_err();
        assert_eq!(error.msg, expected);
        assert_eq!((rig.leased(), rig.records()), (0, 0));
    }
}

/// A namespace is sent before it is known whether there will be a link.
#[test]
fn the_namespace_of_an_add_that_comes_to_nothing_is_let_go() {
    let mut rig = Rig::running();
    let twice = json!({"portMappings": [{"hostPort": 80, "containerPort": 80}, {"hostPort": 80, "containerPort": 81}]});
    let _answer = rig.add_with(&twice, patient());
    assert_eq!(rig.namespaces(), [""; 0], "refused");

    let _answer = rig.add(patient());
    let _answer = rig.add(patient());
    assert_eq!(
        rig.namespaces(),
        ["c1"],
        "the second of its name is refused, and the first one waits for its link"
    );

    rig.container = "c2";
    let deadline = Instant::now();
    let _answer = rig.add(deadline);
    rig.tell(Message::Tick(deadline + Duration::from_millis(1)));
    assert_eq!(rig.namespaces(), [""; 0], "too late");
}

#[test]
fn no_pod_gets_an_address_of_a_block_that_holds_the_nodes_own() {
    let mut rig = Rig::running();
    let mut node = Node::named(rig.core.node().clone());
    let cidr = "192.0.2.0/24".parse().unwrap();
    node.pod_cidrs.push(NodeCidr { network: NetworkName::ordinary(), cidr });
    rig.tell(Message::Store(Event::Changes(vec![Change::set(Fact::Node(node))])));
    let answer = rig.add(patient());
    let error = answer.try_recv().expect("it is answered at once").unwrap_err();
    let said = "this node's pod CIDR 192.0.2.0/24 holds an address of the node itself, 192.0.2.1";
    assert_eq!((error.code, error.msg.as_str()), (Code::TRY_AGAIN_LATER, said));
    assert_eq!(rig.leased(), 0);
}

#[test]
fn an_agent_that_starts_without_its_leases_makes_them_again() {
    let mut rig = Rig::running();
    let _answer = rig.add(patient());
    rig.apply(Extent::Changes);
    std::fs::remove_dir_all(rig.folder.path().join("leases")).unwrap();
    let around = Around { kernel: channel().0, publish: channel().0, health: news().0 };
    let again = Core::new(rig.core.config().clone(), SharedPlans::default(), around).unwrap();
    let leased: Vec<String> =
        again.leases().flat_map(|(_, leases)| leases).map(|lease| lease.address.to_string()).collect();
    assert_eq!(leased, ["10.244.0.1"]);
}

#[test]
fn the_status_names_the_plugin_that_called_last() {
    let mut rig = Rig::running();
    let _answer = rig.add(patient());
    for version in [Some("0.0.9"), None] {
        let id = AttachmentId { container: "gone".into(), ifname: IfName::new("eth0").unwrap() };
        let (reply, _answer) = reply();
        let plugin_version = version.map(str::to_owned);
        rig.tell(Message::Cni(CniCall {
            verb: CniVerb::Del(id),
            deadline: patient(),
            reply,
            plugin_version,
        }));
        assert_eq!(Status::of(&rig.core).plugin_version.as_deref(), version);
    }
}

#[test]
fn a_pods_old_sandbox_goes_without_its_new_one() {
    let mut rig = Rig::running();
    for container in ["old", "new"] {
        rig.container = container;
        let answer = rig.add(patient());
        rig.apply(Extent::Changes);
        answer.try_recv().unwrap().unwrap();
    }
    let id = AttachmentId { container: "old".into(), ifname: IfName::new("eth0").unwrap() };
    let (reply, _answer) = reply();
    rig.tell(Message::Cni(CniCall {
        verb: CniVerb::Del(id),
        deadline: patient(),
        reply,
        plugin_version: None,
    }));
    match rig.published.try_iter().last() {
        Some(PublishWork::Publish(Published::Pod(pod))) => {
            assert_eq!(pod.ips, ["10.244.0.2".parse::<IpAddr>().unwrap()]);
        }
        _ => panic!("the pod was taken back, though it is here"),
    }
}

#[test]
fn no_pod_gets_an_address_that_another_networks_pod_has() {
    let mut rig = Rig::running();
    let mut node = Node::named(rig.core.node().clone());
    for network in ["default", "blue"] {
        let network = NetworkName::new(network).unwrap();
        node.pod_cidrs.push(NodeCidr { network, cidr: "10.244.0.0/24".parse().unwrap() });
    }
    rig.tell(Message::Store(Event::Changes(vec![Change::set(Fact::Node(node))])));
    let answer = rig.add(patient());
    rig.apply(Extent::Changes);
    answer.try_recv().unwrap().unwrap();
    (rig.container, rig.network) = ("c2", "blue");
    let error = rig.add(patient()).try_recv().expect("it is answered at once").unwrap_err();
    assert_eq!(error.code, Code::CONFLICT);
    assert_eq!(error.msg, "address 10.244.0.1 is taken by default/web in network default");
    assert_eq!((rig.leased(), rig.records()), (1, 1));
    assert!(rig.core.warnings().iter().any(|text| text.contains("of network default lies in")));
}

#[test]
fn gc_after_the_leases_vanished_makes_them_again() {
    let mut rig = Rig::running();
    let answer = rig.add(patient());
    rig.apply(Extent::Changes);
    answer.try_recv().unwrap().unwrap();
    std::fs::remove_dir_all(rig.folder.path().join("leases")).unwrap();
    for _ in 0..2 {
        rig.core.free_ownerless();
        let file = rig.folder.path().join("leases/default/10.244.0.1");
        assert!(file.exists() && rig.leased() == 1);
    }
}

#[test]
fn a_node_with_two_links_has_the_address_by_which_the_cluster_knows_it() {
    let link = |name: &str, addresses: &[&str]| HostLink {
        name: IfName::new(name).unwrap(),
        mtu: 1500,
        addresses: addresses.iter().map(|text| text.parse().unwrap()).collect(),
        router_advertisements: false,
    };
    // The first has the default route.
    let links = vec![
        link("eth0", &["192.0.2.1/24", "2001:db8::1/64"]),
        link("eth1", &["10.99.0.1/24", "10.99.0.2/24", "fd99::1/64"]),
    ];
    let of = |links: &[HostLink], uplink: Option<&str>, registered: &[&str], expected: &[&str]| {
        let mut rig = rig();
        rig.core.config.uplink = uplink.map(|name| IfName::new(name).unwrap());
        rig.tell(Message::Host(Host { links: links.to_vec(), ..Host::default() }));
        let mut node = Node::named(rig.core.node().clone());
        node.registered = registered.iter().map(|text| text.parse().unwrap()).collect();
        rig.tell(Message::Store(Event::Changes(vec![Change::set(Fact::Node(node))])));
        let found: Vec<String> = rig
            .core
            .own_addresses()
            .iter()
            .map(|address| format!("{}/{}", address.ip, address.prefix.unwrap_or_default()))
            .collect();
        assert_eq!(found, expected, "{uplink:?} {registered:?}");
    };
    let check = |uplink, registered: &[&str], expected: &[&str]| of(&links, uplink, registered, expected);
    let default = ["192.0.2.1/24", "2001:db8::1/64"];
    check(None, &[], &default);
    // In one family alone: so the cluster is.
    check(None, &["10.99.0.2"], &["10.99.0.2/24"]);
    check(None, &["10.99.0.1", "2001:db8::1"], &["10.99.0.1/24", "2001:db8::1/64"]);
    check(None, &["fd99::1"], &["fd99::1/64"]);
    check(None, &["192.0.2.1"], &["192.0.2.1/24"]);
    // One that this machine doesn't have (a cloud's, translated on the way) is none to send from.
    check(None, &["203.0.113.7"], &default);
    check(Some("eth0"), &["10.99.0.1"], &default);
    check(Some("eth1"), &[], &["10.99.0.1/24", "fd99::1/64"]);
    // A bridge of another program's has the same address on every machine.
    let beside_a_bridge = [link("eth0", &["2001:db8::1/64"]), link("docker0", &["172.17.0.1/16"])];
    of(&beside_a_bridge, None, &["2001:db8::1"], &["2001:db8::1/64"]);
    of(&beside_a_bridge, None, &[], &["2001:db8::1/64"]);
}

#[test]
fn an_answer_that_is_ahead_of_its_echo_is_neither_taken_back_nor_asked_for_again() {
    let mut rig = rig();
    let link = HostLink {
        name: IfName::new("eth0").unwrap(),
        mtu: 1500,
        addresses: vec!["192.0.2.1/24".parse().unwrap()],
        router_advertisements: false,
    };
    rig.tell(Message::Host(Host { links: vec![link], ..Host::default() }));
    let pods = "10.244.0.0/16".parse().unwrap();
    let network = weft_model::Network { pod_cidrs: vec![pods], ..weft_model::Network::ordinary() };
    rig.tell(Message::Store(Event::Changes(vec![Change::set(Fact::Network(network))])));
    rig.tell(Message::Store(Event::Synced));
    let said = |rig: &Rig| -> (Vec<usize>, usize) {
        let work: Vec<PublishWork> = rig.published.try_iter().collect();
        let blocks = work.iter().filter_map(|work| match work {
            PublishWork::Publish(Published::Node(node)) => Some(node.pod_cidrs.len()),
            _ => None,
        });
        (blocks.collect(), work.iter().filter(|work| matches!(work, PublishWork::Claim(..))).count())
    };
    assert_eq!(said(&rig), (vec![0], 1));
    let block = "10.244.7.0/24".parse().unwrap();
    let claim = Claim { cidrs: vec![block], unfit: vec![] };
    rig.tell(Message::Claimed(NetworkName::ordinary(), claim.clone()));
    assert_eq!(said(&rig), (vec![1], 0));
    // The facts are late: first nothing, then what was published before the answer.
    let mut node = Node::named(rig.core.node().clone());
    rig.tell(Message::Tick(Instant::now()));
    assert_eq!(said(&rig), (vec![], 0));
    rig.tell(Message::Store(Event::Changes(vec![Change::set(Fact::Node(node.clone()))])));
    rig.tell(Message::Tick(Instant::now()));
    // Said again, since the store said something else, and with the block.
    assert_eq!(said(&rig), (vec![1], 0));
    node.pod_cidrs.push(NodeCidr { network: NetworkName::ordinary(), cidr: block });
    rig.tell(Message::Store(Event::Changes(vec![Change::set(Fact::Node(node))])));
    assert_eq!(said(&rig), (vec![1], 0));
    rig.tell(Message::Tick(Instant::now()));
    assert_eq!(said(&rig), (vec![], 0));
    // Somebody removes the node: it is asked for and said again, the block with the answer only.
    rig.tell(Message::Store(Event::Changes(vec![Change::Remove(FactKey::Node(rig.core.node().clone()))])));
    let (published, claims) = said(&rig);
    assert_eq!(claims, 1);
    assert!(published.iter().all(|blocks| *blocks == 0), "{published:?}");
    rig.tell(Message::Claimed(NetworkName::ordinary(), claim.clone()));
    assert_eq!(said(&rig), (vec![1], 0));
}

#[test]
fn a_link_or_an_address_that_the_configuration_names_and_is_not_there_is_warned_of() {
    let check = |named: Value, warning: &str| {
        let mut rig = rig();
        let mut config = serde_json::to_value(&rig.core.config).unwrap();
        config.as_object_mut().unwrap().extend(named.as_object().unwrap().clone());
        rig.core.config = serde_json::from_value(config).unwrap();
        let link = |address: &str| HostLink {
            name: IfName::new("eth0").unwrap(),
            mtu: 1500,
            addresses: vec![address.parse().unwrap()],
            router_advertisements: false,
        };
        let host = |address| Message::Host(Host { links: vec![link(address)], ..Host::default() });
        rig.tell(host("192.0.2.1/24"));
        rig.tell(Message::Store(Event::Synced));
        assert!(rig.core.warnings().iter().any(|text| text.contains(warning)), "{:?}", rig.core.warnings());
        rig.apply(Extent::All);
        rig.core.ready_for("default").unwrap_err()
    };
    // It is named where it is why the node isn't ready.
    let refusal = check(json!({"uplink": "eth7"}), "uplink: eth7 is no link");
    assert_eq!(refusal.msg, "this node has no address");
    assert!(refusal.details.starts_with("uplink: eth7 is no link"), "{refusal:?}");
    check(json!({"addresses": ["192.0.2.99"]}), "addresses: no link of this machine has 192.0.2.99");
}
