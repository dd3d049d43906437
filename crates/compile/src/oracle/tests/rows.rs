//! Plans made by hand: `node("n1").own("eth0", "192.0.2.1/24").pod("web", "10.244.1.2")`.

use std::net::IpAddr;

use weft_model::{
    AttachmentId, Cidr, FactKey, Family, Host, HostLink, IfName, Mac, NodeName, Port, Protocol, Vni,
};
use weft_plan::filter::Element;
use weft_plan::filter::{Comparison, HookKind, NatTarget, Value};
use weft_plan::kernel::{LinkKind, MAIN_TABLE};
use weft_plan::{
    Atom, Chain, Fdb, Field, Hook, Ident, KernelKey, KernelRow, Link, Neighbour, Plan, PodLink, PolicyRule,
    Route, RouteKey, RouteKind, Rule, SetSpec, Statement, Type, Verdict, VxlanLink,
};

use crate::oracle::{NodeView, Packet, Start, World};

pub fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub fn link(text: &str) -> IfName {
    IfName::new(text).unwrap()
}

pub fn tcp(destination: &str, port: u16) -> Packet {
    Packet::to(Protocol::Tcp, ip(destination), port)
}

pub fn udp(destination: &str, port: u16) -> Packet {
    Packet::to(Protocol::Udp, ip(destination), port)
}

/// The host end of the pod `name`.
pub fn end_of(name: &str) -> IfName {
    attachment(name).host_link()
}

fn attachment(name: &str) -> AttachmentId {
    AttachmentId { container: name.into(), ifname: link("eth0") }
}

pub fn from_pod(node: &str, name: &str) -> Start {
    Start::Pod { node: NodeName::new(node).unwrap(), link: end_of(name) }
}

pub fn from_node(node: &str) -> Start {
    Start::Node { node: NodeName::new(node).unwrap() }
}

pub fn from_outside(node: &str) -> Start {
    Start::Outside { node: NodeName::new(node).unwrap(), link: None }
}

/// A node in the making.
pub struct Made {
    pub name: NodeName,
    pub plan: Plan,
    pub host: Host,
}

pub fn node(name: &str) -> Made {
    let made = Made { name: NodeName::new(name).unwrap(), plan: Plan::default(), host: Host::default() };
    made.sysctl("net/ipv4/ip_forward", "1").sysctl("net/ipv6/conf/all/forwarding", "1")
}

pub fn world(nodes: &[Made]) -> World<'_> {
    World::new(nodes.iter().map(Made::view))
}

impl Made {
    pub fn view(&self) -> NodeView<'_> {
        NodeView { name: self.name.clone(), plan: &self.plan, host: &self.host }
    }

    fn row(mut self, key: KernelKey, row: KernelRow, origin: FactKey) -> Self {
        self.plan.kernel.set(key, row, origin);
        self
    }

    /// Any row.
    pub fn with(self, key: KernelKey, row: KernelRow) -> Self {
        let origin = self.made_by();
        self.row(key, row, origin)
    }

    fn made_by(&self) -> FactKey {
        FactKey::Node(self.name.clone())
    }

    pub fn sysctl(self, path: &str, value: &str) -> Self {
        let origin = self.made_by();
        self.row(KernelKey::Sysctl(path.into()), KernelRow::Sysctl(value.into()), origin)
    }

    /// A link of the machine's own.
    pub fn own(mut self, name: &str, address: &str) -> Self {
        let (name, address) = (link(name), address.parse().unwrap());
        match self.host.links.iter_mut().find(|l| l.name == name) {
            Some(there) => there.addresses.push(address),
            None => self.host.links.push(HostLink {
                name,
                mtu: 1500,
                router_advertisements: false,
                addresses: vec![address],
            }),
        }
        self
    }

    /// A pod's link with the routes to it.
    pub fn pod(self, name: &str, addresses: &str) -> Self {
        let id = attachment(name);
        let origin = FactKey::Attachment(id.clone());
        let addresses: Vec<IpAddr> = addresses.split(' ').map(ip).collect();
        let end = id.host_link();
        let pod = PodLink {
            attachment: id,
            netns: "".into(),
            pod_mac: Mac::derived(name),
            addresses: addresses.clone(),
            mtu: 1450,
        };
        let row = Link { kind: LinkKind::Pod(pod), alias: format!("weft:default/{name}").into() };
        let mut made = self.row(KernelKey::Link(end), KernelRow::Link(Box::new(row)), origin.clone());
        for address in addresses {
            let key = RouteKey { table: MAIN_TABLE, destination: Cidr::host(address), metric: 0 };
            let route = Route {
                kind: RouteKind::Unicast,
                link: Some(end),
                via: None,
                onlink: false,
                source: made.host.address(Family::of(address)).map(|net| net.addr()),
            };
            made = made.row(KernelKey::Route(key), KernelRow::Route(route), origin.clone());
        }
        made
    }

    /// A route in `ip route`'s words, as far as these tests use them: `[unreachable|local] DST [via IP] [dev LINK] [table N]`.
    pub fn route(self, words: &str, origin: &str) -> Self {
        let mut words = words.split(' ').peekable();
        let kind = match words.peek() {
            Some(&"unreachable") => RouteKind::Unreachable,
            Some(&"local") => RouteKind::Local,
            _ => RouteKind::Unicast,
        };
        if kind != RouteKind::Unicast {
            words.next();
        }
        let destination: Cidr = words.next().unwrap().parse().unwrap();
        let mut route = Route { kind, link: None, via: None, onlink: false, source: None };
        let mut key = RouteKey { table: MAIN_TABLE, destination, metric: 0 };
        while let Some(word) = words.next() {
            let value = words.next().unwrap();
            match word {
                "via" => route.via = Some(ip(value)),
                "dev" => route.link = Some(link(value)),
                "table" => key.table = value.parse().unwrap(),
                "metric" => key.metric = value.parse().unwrap(),
                _ => panic!("{word:?}?"),
            }
        }
        self.row(KernelKey::Route(key), KernelRow::Route(route), of_node(origin))
    }

    /// A policy rule.
    pub fn rule(self, from: &str, table: u32) -> Self {
        let origin = self.made_by();
        let rule = PolicyRule { from: from.parse().unwrap(), table, priority: 100, unless_mark: 0 };
        self.row(KernelKey::Rule(rule), KernelRow::Rule, origin)
    }

    /// A tunnel end `weftx7` with VNI 7, port 4789 and the MAC of this node's name.
    pub fn tunnel(self, local: &str) -> Self {
        let vxlan = VxlanLink {
            vni: Vni::new(7).unwrap(),
            port: Port::new(4789).unwrap(),
            local: ip(local),
            mac: Mac::derived(self.name.as_str()),
            mtu: 1450,
        };
        let origin = self.made_by();
        let row = Link { kind: LinkKind::Vxlan(vxlan), alias: "weft:network default".into() };
        self.row(KernelKey::Link(link("weftx7")), KernelRow::Link(Box::new(row)), origin)
    }

    pub fn neighbour(self, address: &str, peer: &str) -> Self {
        let key = KernelKey::Neighbour(link("weftx7"), ip(address));
        self.row(key, KernelRow::Neighbour(Neighbour { mac: Mac::derived(peer) }), of_node(peer))
    }

    pub fn fdb(self, peer: &str, destination: &str) -> Self {
        let key = KernelKey::Fdb(link("weftx7"), Mac::derived(peer));
        self.row(key, KernelRow::Fdb(Fdb { destination: ip(destination) }), of_node(peer))
    }

    pub fn chain(self, name: &str, at: HookKind, priority: i32, rules: Vec<Rule>) -> Self {
        self.base(name, Some(Hook { at, nat: false, priority }), rules)
    }

    pub fn nat(self, name: &str, at: HookKind, priority: i32, rules: Vec<Rule>) -> Self {
        self.base(name, Some(Hook { at, nat: true, priority }), rules)
    }

    /// A chain that others jump to.
    pub fn sub(self, name: &str, rules: Vec<Rule>) -> Self {
        self.base(name, None, rules)
    }

    fn base(self, name: &str, hook: Option<Hook>, rules: Vec<Rule>) -> Self {
        let origin = self.made_by();
        let row = KernelRow::Chain(Box::new(Chain { hook, rules }));
        self.row(KernelKey::Chain(Ident::new(name)), row, origin)
    }

    pub fn set(self, name: &str, spec: SetSpec) -> Self {
        let origin = self.made_by();
        self.row(KernelKey::Set(Ident::new(name)), KernelRow::Set(Box::new(spec)), origin)
    }

    pub fn element(self, set: &str, key: &[Atom], data: &[Atom], origin: FactKey) -> Self {
        let row = KernelRow::Element(Element::maps_to(data));
        self.row(KernelKey::Element(Ident::new(set), key.into()), row, origin)
    }

    /// Pods send with their own addresses only.
    pub fn guarded(self) -> Self {
        let made = self.set("sources", SetSpec::set(&[Type::IfName, Type::Ipv4Addr], "pods' own addresses"));
        let pods: Vec<_> = made
            .plan
            .kernel
            .iter()
            .filter_map(|(key, entry)| match (key, &entry.value) {
                (KernelKey::Link(name), KernelRow::Link(row)) => match &row.kind {
                    LinkKind::Pod(pod) => Some((*name, pod.addresses.clone(), (*entry.origin).clone())),
                    LinkKind::Vxlan(_) => None,
                },
                _ => None,
            })
            .collect();
        let made = pods.into_iter().fold(made, |made, (name, addresses, origin)| {
            addresses.iter().fold(made, |made, address| {
                made.element("sources", &[Atom::Link(name), Atom::from(*address)], &[], origin.clone())
            })
        });
        let from_pods = Statement::Match(Field::Iifname, Comparison::Is, Value::LinkPrefix("weftp".into()));
        let own = Statement::Lookup(
            vec![Field::Iifname, Field::Saddr(Family::V4)],
            Comparison::IsNot,
            Ident::new("sources"),
        );
        made.chain("guard", HookKind::Prerouting, -310, vec![Rule::new("spoofed", [from_pods, own, drop()])])
    }

    /// Pods leave with the node's address, but to 10.0.0.0/8.
    pub fn island(self) -> Self {
        let cluster = "10.0.0.0/8".parse().unwrap();
        let within = |field, comparison| Statement::Match(field, comparison, Value::Net(cluster));
        let rule = Rule::new(
            "leaves the cluster",
            [
                within(Field::Saddr(Family::V4), Comparison::Is),
                within(Field::Daddr(Family::V4), Comparison::IsNot),
                Statement::Masquerade,
            ],
        );
        self.nat("edge", HookKind::Postrouting, 95, vec![rule])
    }

    /// TCP port 8080 of the node leads to port 80 of `pod`; a pod that reaches itself so gets the address `own`.
    pub fn host_port(self, pod: &str, own: &str) -> Self {
        let address = ip(pod);
        let made = self.set(
            "ports",
            SetSpec::map(&[Type::InetProto, Type::InetService], &[Type::Ipv4Addr, Type::InetService], ""),
        );
        let made = made.element(
            "ports",
            &[Atom::Proto(6), Atom::Port(8080)],
            &[Atom::from(address), Atom::Port(80)],
            FactKey::Attachment(attachment("mapped")),
        );
        let local = Statement::Match(Field::FibDaddrType, Comparison::Is, Value::Local);
        let target = NatTarget::AddressPortFrom {
            family: Family::V4,
            key: vec![Field::L4Proto, Field::Dport],
            map: Ident::new("ports"),
        };
        let rules = vec![Rule::new("port mappings", [local, Statement::Dnat(target)])];
        let same = |field| Statement::Match(field, Comparison::Is, Value::Address(address));
        let hairpin = [
            same(Field::Saddr(Family::V4)),
            same(Field::Daddr(Family::V4)),
            Statement::Snat(NatTarget::Address(ip(own))),
        ];
        let loopback = [
            Statement::Match(
                Field::Saddr(Family::V4),
                Comparison::Is,
                Value::Net("127.0.0.0/8".parse().unwrap()),
            ),
            Statement::Match(Field::Oifname, Comparison::Is, Value::LinkPrefix("weftp".into())),
            Statement::Snat(NatTarget::Address(ip(own))),
        ];
        let back = vec![Rule::new("hairpin", hairpin), Rule::new("from loopback", loopback)];
        made.nat("host_ports", HookKind::Prerouting, -110, rules.clone())
            .nat("host_ports_out", HookKind::Output, -110, rules)
            .nat("hairpin", HookKind::Postrouting, 90, back)
    }
}

pub fn of_node(name: &str) -> FactKey {
    FactKey::Node(NodeName::new(name).unwrap())
}

pub fn drop() -> Statement {
    Statement::Verdict(Verdict::Drop)
}

pub fn accept() -> Statement {
    Statement::Verdict(Verdict::Accept)
}
