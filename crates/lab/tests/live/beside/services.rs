//! The services of these tests: one of each sort, and what somebody who asks must see of each, whoever translates.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use serde_json::{Value, json};
use weft_dataplane::conntrack::{Conntrack, Entry, Narrowing};
use weft_lab::probe::{Outcome, Target, Transport};
use weft_lab::serve::{self, Greeting};
use weft_lab::topology::CLIENT;
use weft_model::Protocol;

use super::super::objects::{Endpoint, TCP, UDP, cluster_ips, put, service, slices};
use super::super::rig::Rig;
use super::place;

/// The node where the others run, and who asks: a pod of it, itself, and somebody outside who goes by it.
pub const NODE: &str = "n1";
pub const ASKERS: [&str; 3] = ["test/a1", NODE, CLIENT];
/// Where a load balancer leads; the router sends it to the node.
const BALANCER: [&str; 2] = ["100.64.0.50", "2001:db8:e::50"];
/// The port of the server that swallows.
pub const SINK: u16 = 82;
/// Times that each way is asked: so often that every endpoint comes up, by one way or another.
const TIMES: usize = 8;
const FILE: &str = "60-beside.yaml";

/// What is special about a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sort {
    /// Nothing: node ports, and any endpoint.
    Plain,
    /// A client stays with its endpoint.
    Kept,
    /// A load balancer's address; from outside only this node's endpoints, who see their client.
    Local,
    /// No endpoints: refused.
    Empty,
    /// Its only endpoint is the pod that asks.
    Own,
}

/// Who translates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    /// Weft, alone or first.
    Weft,
    /// Another proxy alone. It refuses by ICMP, of which kernels send one client only so many a second, and of a client's first
    /// packets, which come at once, each may be led elsewhere.
    Another,
}

/// A service and who is behind it.
#[derive(Debug, Clone)]
pub struct Offer {
    pub sort: Sort,
    /// Pods.
    pub endpoints: Vec<&'static str>,
}

impl Offer {
    pub fn name(&self) -> String {
        format!("{:?}", self.sort).to_lowercase()
    }

    fn number(&self) -> u16 {
        self.sort as u16
    }

    fn node_port(&self) -> u16 {
        31_080 + 4 * self.number()
    }

    /// The service as an API server has it.
    pub fn service(&self) -> Value {
        let mut object = service(&self.name(), self.number());
        let port = json!({"name": "sink", "protocol": "TCP", "port": SINK, "targetPort": serve::SINK});
        object["spec"]["ports"].as_array_mut().expect("it has ports").push(port);
        for (index, more) in (0..3).zip(0..) {
            object["spec"]["ports"][index]["nodePort"] = json!(self.node_port() + more);
        }
        object["metadata"]["uid"] = json!(format!("00000000-0000-0000-0001-{:012}", self.number()));
        let spec = &mut object["spec"];
        spec["clusterIP"] = spec["clusterIPs"][0].clone();
        spec["type"] = json!("NodePort");
        spec["internalTrafficPolicy"] = json!("Cluster");
        spec["externalTrafficPolicy"] = json!("Cluster");
        spec["sessionAffinity"] = json!("None");
        match self.sort {
            Sort::Kept => {
                spec["sessionAffinity"] = json!("ClientIP");
                spec["sessionAffinityConfig"] = json!({"clientIP": {"timeoutSeconds": 10_800}});
            }
            Sort::Local => {
                spec["type"] = json!("LoadBalancer");
                spec["externalTrafficPolicy"] = json!("Local");
                spec["healthCheckNodePort"] = json!(32_000);
                object["status"]["loadBalancer"]["ingress"] = json!(BALANCER.map(|ip| json!({"ip": ip})));
            }
            Sort::Plain | Sort::Empty | Sort::Own => {}
        }
        object
    }

    /// Its slices as an API server has them, one for each family.
    pub fn slices(&self, rig: &Rig) -> [Value; 2] {
        let endpoints: Vec<Endpoint> = self.endpoints.iter().map(|pod| Endpoint::ready(rig, pod)).collect();
        let mut slices = slices(&self.name(), &endpoints);
        for (number, slice) in (0..).zip(&mut slices) {
            let uid = format!("00000000-0000-0000-0002-{:012}", 2 * self.number() + number);
            slice["metadata"]["uid"] = json!(uid);
            let port = json!({"name": "sink", "protocol": "TCP", "port": serve::SINK});
            slice["ports"].as_array_mut().expect("it has ports").push(port);
            for endpoint in slice["endpoints"].as_array_mut().expect("there is a list") {
                endpoint.as_object_mut().expect("it is an object").remove("hints");
            }
        }
        slices
    }

    /// Every address and port where an asker finds it.
    pub fn ways(&self, rig: &Rig) -> Vec<(Transport, SocketAddr)> {
        let both = |ip: IpAddr, first: u16| {
            [(Transport::Http, first), (Transport::Udp, first + UDP - TCP)]
                .map(|(transport, port)| (transport, SocketAddr::new(ip, port)))
        };
        let node = rig.lab.topology().machine(NODE).expect("it is in the topology");
        let cluster = cluster_ips(self.number()).into_iter().map(|ip| (ip, TCP));
        let mut ways: Vec<(IpAddr, u16)> =
            cluster.chain(node.addresses().map(|ip| (ip, self.node_port()))).collect();
        if self.sort == Sort::Local {
            ways.extend(BALANCER.map(|ip| (ip.parse().expect("an address"), TCP)));
        }
        ways.into_iter().flat_map(|(ip, port)| both(ip, port)).collect()
    }

    /// Where a connection that lasts is opened.
    pub fn sink(&self) -> SocketAddr {
        SocketAddr::new(cluster_ips(self.number())[0], SINK)
    }
}

/// One of each sort.
pub fn offers() -> Vec<Offer> {
    let offer = |sort, endpoints: &[&'static str]| Offer { sort, endpoints: endpoints.to_vec() };
    vec![
        offer(Sort::Plain, &["test/a2", "test/b1", "test/c1"]),
        offer(Sort::Kept, &["test/a2", "test/b1", "test/c1"]),
        offer(Sort::Local, &["test/a2", "test/b1"]),
        offer(Sort::Empty, &[]),
        offer(Sort::Own, &["test/a1"]),
    ]
}

/// Tells Weft of them.
pub fn tell(rig: &Rig, offers: &[Offer]) {
    let objects = offers.iter().flat_map(|offer| {
        let slices = offer.slices(rig);
        std::iter::once(offer.service()).chain(slices)
    });
    put(rig, FILE, &objects.collect::<Vec<_>>());
}

/// Has the node forget whose datagrams went where, as it does by itself after two minutes: from a port that had asked before whoever
/// translates now, they would go on as they went then, and others go where their client is kept now.
pub fn forget_datagrams(rig: &Rig) {
    let node = rig.lab.machine(NODE).expect("it runs");
    let is_datagrams = |entry: &Entry| entry.original.protocol == Protocol::Udp.number();
    let forgotten = node.enter_net(|| Conntrack::open()?.forget(&Narrowing::None, &is_datagrams));
    forgotten.expect("the namespace can be entered").expect("the kernel forgets");
}

/// What is wrong with what every asker sees of every service by every way; nothing where all is right.
pub fn objections(rig: &Rig, offers: &[Offer], by: By) -> Vec<String> {
    let one = |asker: &&'static str, offer: &Offer| -> Vec<String> {
        let said = ask(rig, asker, offer);
        let tolerated =
            |outcome: &Outcome| (offer.sort, by, outcome) == (Sort::Empty, By::Another, &Outcome::Silent);
        let noted = said.iter().filter(|(_, outcome)| !tolerated(outcome));
        let wrong = noted.filter_map(|(way, outcome)| wrong(rig, asker, offer, *way, outcome));
        let mut wrong: Vec<String> = wrong.collect();
        if (offer.sort, by) != (Sort::Kept, By::Another) {
            wrong.extend(together(asker, offer, &said));
        }
        wrong.into_iter().map(|text| format!("{asker} to {}: {text}", offer.name())).collect()
    };
    std::thread::scope(|scope| {
        let one = &one;
        let threads: Vec<_> = ASKERS
            .iter()
            .map(|asker| {
                scope.spawn(move || offers.iter().flat_map(|offer| one(asker, offer)).collect::<Vec<_>>())
            })
            .collect();
        threads.into_iter().flat_map(|thread| thread.join().expect("all is asked")).collect()
    })
}

type Said = ((Transport, SocketAddr), Outcome);

fn ask(rig: &Rig, asker: &str, offer: &Offer) -> Vec<Said> {
    let ways = offer.ways(rig);
    // Refusals of datagrams are told by ICMP, of which kernels send only so many a second.
    let ways: Vec<_> = ways
        .into_iter()
        .filter(|(transport, _)| offer.sort != Sort::Empty || *transport == Transport::Http)
        .collect();
    let probe = |ways: &[(Transport, SocketAddr)]| {
        let targets: Vec<Target> = ways.iter().map(|(transport, to)| Target::new(*transport, *to)).collect();
        place(rig, asker).probe(rig.lab.tool(), &targets).expect("it can ask")
    };
    if offer.sort == Sort::Kept {
        // A client's very first packets may be led apart when they come at once, on two processors: neither remembers the other.
        probe(&ways);
    }
    let many: Vec<_> = ways.iter().copied().cycle().take(TIMES * ways.len()).collect();
    let outcomes = probe(&many);
    many.into_iter().zip(outcomes).collect()
}

/// What is wrong with one answer.
fn wrong(
    rig: &Rig,
    asker: &str,
    offer: &Offer,
    way: (Transport, SocketAddr),
    outcome: &Outcome,
) -> Option<String> {
    let greeting = match (offer.sort, outcome) {
        (Sort::Empty, Outcome::Refused(_)) => return None,
        (_, Outcome::Answered { greeting, .. }) => greeting,
        _ => return Some(format!("{way:?}: {outcome:?}")),
    };
    let Greeting { name, client, .. } = greeting;
    let from_outside = asker == CLIENT;
    let is_its_own = |of: &str| place(rig, of).addresses.contains(&client.ip());
    let at_cluster_ip = cluster_ips(offer.number()).contains(&way.1.ip());
    let server_is_right = match offer.sort {
        // The others' endpoints are for those who come by other nodes.
        Sort::Local if from_outside && !at_cluster_ip => name == "test/a2",
        _ => offer.endpoints.contains(&name.as_str()),
    };
    // Its own address or the node's, and never another: it was masqueraded once at most.
    let client_is_right = match offer.sort {
        Sort::Local if from_outside && !at_cluster_ip => is_its_own(asker),
        _ if asker.contains('/') && at_cluster_ip && name != asker => is_its_own(asker),
        _ => is_its_own(asker) || is_its_own(NODE),
    };
    (!server_is_right || !client_is_right).then(|| format!("{way:?}: {name} answered, and saw {client}"))
}

/// What is wrong with all answers of a service together.
fn together(asker: &str, offer: &Offer, said: &[Said]) -> Vec<String> {
    let names = |said: &[&Said]| -> BTreeSet<String> {
        said.iter().filter_map(|(_, outcome)| outcome.greeting().map(|g| g.name.clone())).collect()
    };
    match offer.sort {
        Sort::Plain => {
            let (names, expected) = (names(&said.iter().collect::<Vec<_>>()), offer.endpoints.iter());
            let expected: BTreeSet<String> = expected.map(ToString::to_string).collect();
            if names == expected { Vec::new() } else { vec![format!("{names:?} instead of {expected:?}")] }
        }
        Sort::Kept => {
            let ways: BTreeSet<SocketAddr> = said.iter().map(|((_, to), _)| *to).collect();
            let by =
                |way: SocketAddr| names(&said.iter().filter(|((_, to), _)| *to == way).collect::<Vec<_>>());
            let several = ways.into_iter().map(|way| (way, by(way))).filter(|(_, names)| names.len() > 1);
            several.map(|(way, names)| format!("{asker} at {way} was sent to {names:?}")).collect()
        }
        Sort::Local | Sort::Empty | Sort::Own => Vec::new(),
    }
}
