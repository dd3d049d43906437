//! What a change of one network costs: the pieces of work that are done again, for each rule of the program; and what else
//! networks come to together with services.
//!
//! That the plan comes out right is `histories.rs`.

use std::net::IpAddr;
use std::sync::{Arc, Mutex};

use weft_compile::engine::{Context, Output, Rule, RuleKey};
use weft_compile::facts::Transition;
use weft_compile::{Compiler, Settings, rules};
use weft_model::{
    Attachment, AttachmentId, Change, Fact, FactKey, Host, HostLink, IfName, Mac, Network, NetworkName, Node,
    NodeAddress, NodeCidr, NodeName,
};
use weft_plan::kernel::MAIN_TABLE;
use weft_plan::{KernelKey, KernelRow, Plan, RouteKey};

/// A rule of the program, and what it was asked for.
struct Watched {
    rule: Box<dyn Rule>,
    seen: Arc<Mutex<Vec<RuleKey>>>,
}

impl Rule for Watched {
    fn affected(&mut self, transition: &Transition, context: &Context<'_>, dirty: &mut dyn FnMut(RuleKey)) {
        self.rule.affected(transition, context, dirty);
    }

    fn rows(&self, key: &RuleKey, context: &Context<'_>, out: &mut Output) {
        self.seen.lock().unwrap().push(key.clone());
        self.rule.rows(key, context, out);
    }
}

struct Bench {
    compiler: Compiler,
    plan: Plan,
    seen: Arc<Mutex<Vec<RuleKey>>>,
}

impl Bench {
    fn new() -> Self {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let watch = |rule| Box::new(Watched { rule, seen: Arc::clone(&seen) }) as Box<dyn Rule>;
        let rules = rules::all().into_iter().map(watch).collect();
        let compiler = Compiler::with_rules(Settings::new(node_name("n1")), rules);
        Self { compiler, plan: Plan::default(), seen }
    }

    /// The pieces that a change has done again, those apart of which there is one on a node.
    fn cost(&mut self, fact: Fact) -> String {
        assert!(self.compiler.apply(Change::set(fact)), "the fact is news");
        self.seen.lock().unwrap().clear();
        self.compiler.flush(&mut self.plan);
        let mut lines: Vec<String> = self.seen.lock().unwrap().iter().filter_map(line).collect();
        lines.sort();
        lines.dedup();
        lines.join("\n")
    }
}

fn line(key: &RuleKey) -> Option<String> {
    match key {
        RuleKey::Constant => None,
        RuleKey::Fact(key) => Some(key.to_string()),
        RuleKey::NodeIn(node, network) => Some(format!("node {node} in {network}")),
        other => Some(format!("{other:?}")),
    }
}

fn node_name(name: &str) -> NodeName {
    NodeName::new(name).unwrap()
}

fn network(name: &str, mtu: Option<u32>) -> Fact {
    let mut network = Network::named(NetworkName::new(name).unwrap());
    network.mtu = mtu;
    Fact::Network(network)
}

/// Node n2 has 10.2.0.0/24 in the first of these networks, 10.2.1.0/24 in the second.
fn node(number: u8, networks: &[&str]) -> Fact {
    let mut node = Node::named(node_name(&format!("n{number}")));
    node.addresses = vec![NodeAddress { ip: IpAddr::from([192, 0, 2, number]), prefix: Some(32) }];
    node.pod_cidrs = networks
        .iter()
        .enumerate()
        .map(|(at, name)| NodeCidr {
            network: NetworkName::new(name).unwrap(),
            cidr: format!("10.{number}.{at}.0/24").parse().unwrap(),
        })
        .collect();
    Fact::Node(node)
}

fn attachment(container: &str, network: &str, address: [u8; 4]) -> Fact {
    let id = AttachmentId { container: container.into(), ifname: IfName::new("eth0").unwrap() };
    Fact::Attachment(Attachment {
        network: NetworkName::new(network).unwrap(),
        pod: None,
        addresses: vec![IpAddr::from(address)],
        mac: Mac::derived(container),
        mtu: None,
        host_ports: Vec::new(),
        netns: String::new(),
        id,
    })
}

/// Three nodes, of which one is in no network but the ordinary one, and a pod here in each.
fn bench() -> Bench {
    let link = HostLink {
        name: IfName::new("eth0").unwrap(),
        mtu: 1500,
        addresses: vec!["192.0.2.1/32".parse().unwrap()],
        router_advertisements: false,
    };
    let mut bench = Bench::new();
    for fact in [
        Fact::Host(Host { links: vec![link], ..Host::default() }),
        network("default", None),
        network("blue", None),
        node(1, &["default", "blue"]),
        node(2, &["default", "blue"]),
        node(3, &["default"]),
        attachment("ours", "default", [10, 1, 0, 7]),
        attachment("theirs", "blue", [10, 1, 1, 7]),
    ] {
        bench.cost(fact);
    }
    bench
}

#[test]
fn a_network_that_changes_leaves_the_others_alone() {
    let mut bench = bench();
    insta::assert_snapshot!(bench.cost(network("blue", Some(1400))), @r"
    attachment theirs:eth0
    node n1
    node n1 in blue
    node n2
    node n2 in blue
    ");
    // Nobody is in it yet.
    assert_eq!(bench.cost(network("green", None)), "");
}

#[test]
fn a_node_that_comes_into_a_network_keeps_its_place_in_the_others() {
    let mut bench = bench();
    insta::assert_snapshot!(bench.cost(node(3, &["default", "blue"])), @r"
    node n3
    node n3 in blue
    ");
    let known = |bench: &Bench, name: &str| {
        let origin = FactKey::Node(node_name(name));
        bench.plan.kernel.iter().filter(|(_, entry)| *entry.origin == origin).count()
    };
    assert!(known(&bench, "n3") > 0);
    assert_eq!(known(&bench, "n3"), known(&bench, "n2"), "both are in the same networks now");
}

#[test]
fn what_the_nodes_share_concerns_all() {
    let mut bench = bench();
    insta::assert_snapshot!(bench.cost(node(1, &["default"])), @r"
    attachment ours:eth0
    attachment theirs:eth0
    node n1
    node n1 in blue
    node n1 in default
    node n2
    node n2 in blue
    node n2 in default
    node n3
    node n3 in default
    ");
}

#[test]
fn a_block_that_a_node_names_twice_is_the_ordinary_networks() {
    let in_two = |networks: [&str; 2]| {
        let Fact::Node(mut node) = node(2, &networks) else { unreachable!() };
        node.pod_cidrs[1].cidr = node.pod_cidrs[0].cidr;
        Fact::Node(node)
    };
    let says = |bench: &Bench| {
        let of_node =
            bench.plan.warnings.iter().filter(|warning| warning.object == FactKey::Node(node_name("n2")));
        of_node.map(|warning| warning.text.clone()).collect::<Vec<_>>()
    };
    let way = |bench: &Bench| {
        let destination = "10.2.0.0/24".parse().unwrap();
        let key = KernelKey::Route(RouteKey { table: MAIN_TABLE, destination, metric: 0 });
        let Some(KernelRow::Route(route)) = bench.plan.kernel.get(&key) else { panic!("no route") };
        route.link.map(|link| link.to_string())
    };
    let mut bench = bench();
    for networks in [["blue", "default"], ["default", "blue"]] {
        bench.cost(in_two(networks));
        let expected =
            "its block 10.2.0.0/24 is of the networks default and blue: it counts as the first one's";
        assert_eq!(says(&bench), [expected], "{networks:?}");
        assert_eq!(way(&bench).as_deref(), Some("weftx9338"), "{networks:?}");
    }
    // Out of the ordinary one it is the other's, and back.
    bench.cost(node(2, &["blue"]));
    assert_eq!(says(&bench), [""; 0]);
    assert!(way(&bench).is_some_and(|link| link.starts_with("weftx") && link != "weftx9338"));
    bench.cost(in_two(["default", "blue"]));
    assert_eq!(way(&bench).as_deref(), Some("weftx9338"));
}

/// A port of this node leads to pods of others: where somebody drops what is forwarded, their blocks are let through as well.
#[test]
fn all_pods_blocks_are_forwarded_where_there_are_services() {
    let check = |services: bool, expected: &[&str]| {
        let mut settings = Settings::new(node_name("n1"));
        if !services {
            settings.services = None;
        }
        let mut node = Node::named(settings.node.clone());
        let block = |cidr: &str| NodeCidr { network: NetworkName::ordinary(), cidr: cidr.parse().unwrap() };
        node.pod_cidrs = vec![block("10.244.1.0/24"), block("10.9.1.0/24")];
        let pod_cidrs = vec!["10.244.0.0/16".parse().unwrap()];
        let network = Network { pod_cidrs, ..Network::ordinary() };
        let text = weft_compile::compile(settings, [Fact::Node(node), Fact::Network(network)]).to_string();
        let found = text.lines().filter_map(|line| line.split("forward from and to ").nth(1));
        assert_eq!(found.collect::<Vec<_>>(), expected);
    };
    check(true, &["10.9.1.0/24", "10.244.0.0/16"]);
    check(false, &["10.9.1.0/24", "10.244.1.0/24"]);
}

/// A machine that was renamed stands in the store under both names, and can't reach the former one.
#[test]
fn a_machines_former_name_is_something_to_forget() {
    let node = |name: &str, cidr: &str| {
        let mut node = Node::named(node_name(name));
        node.addresses.push(NodeAddress { ip: "192.0.2.1".parse().unwrap(), prefix: Some(24) });
        node.pod_cidrs.push(NodeCidr { network: NetworkName::ordinary(), cidr: cidr.parse().unwrap() });
        Fact::Node(node)
    };
    let facts = [node("n1", "10.244.1.0/24"), node("former", "10.244.2.0/24")];
    let plan = weft_compile::compile(Settings::new(node_name("n1")), facts);
    let said = plan.warnings.iter().find(|warning| warning.object.to_string() == "node former");
    let text = &said.unwrap().text;
    assert!(
        text.contains("10.244.2.0/24") && text.contains("former name, forget it (`weft forget`"),
        "{text}"
    );
}
