//! Short forms for writing sets, chains and elements.

use std::net::IpAddr;

use ipnet::IpNet;
use weft_model::{Cidr, FactKey, Family, IfName};
use weft_plan::filter::{Comparison, Element, HookKind, SetKind};
use weft_plan::kernel::LOCAL_TABLE;
use weft_plan::{
    Atom, Atoms, Chain, Field, Hook, Ident, KernelKey, KernelRow, Route, RouteKey, RouteKind, Rule, SetSpec,
    Statement, Type,
};

use crate::engine::Output;

/// The two sets or maps that a feature keeps, one a family.
#[derive(Debug, Clone, Copy)]
pub struct Pair {
    /// Name of the IPv4 one.
    pub v4: &'static str,
    /// Name of the IPv6 one.
    pub v6: &'static str,
}

impl Pair {
    /// The name for a family.
    pub fn of(&self, family: Family) -> Ident {
        Ident::new(match family {
            Family::V4 => self.v4,
            Family::V6 => self.v6,
        })
    }
}

/// The type of a family's addresses.
pub fn address_type(family: Family) -> Type {
    match family {
        Family::V4 => Type::Ipv4Addr,
        Family::V6 => Type::Ipv6Addr,
    }
}

impl Output {
    /// A set or map.
    pub fn table_set(&mut self, name: Ident, spec: SetSpec, origin: &FactKey) {
        debug_assert!(spec.kind == SetKind::Set || !spec.interval);
        self.kernel(KernelKey::Set(name), KernelRow::Set(Box::new(spec)), origin);
    }

    /// A base chain.
    pub fn base_chain(&mut self, name: &str, hook: Hook, rules: Vec<Rule>, origin: &FactKey) {
        let chain = Chain { hook: Some(hook), rules };
        self.kernel(KernelKey::Chain(Ident::new(name)), KernelRow::Chain(Box::new(chain)), origin);
    }

    /// A chain that others go on to.
    pub fn chain(&mut self, name: Ident, rules: Vec<Rule>, origin: &FactKey) {
        let chain = Chain { hook: None, rules };
        self.kernel(KernelKey::Chain(name), KernelRow::Chain(Box::new(chain)), origin);
    }

    /// An address that is this machine's own, though no link has it.
    pub fn local_address(&mut self, address: IpAddr, origin: &FactKey) {
        let key = RouteKey { table: LOCAL_TABLE, destination: Cidr::host(address), metric: 0 };
        let route = Route {
            kind: RouteKind::Local,
            link: Some(IfName::loopback()),
            via: None,
            onlink: false,
            source: None,
        };
        self.kernel(KernelKey::Route(key), KernelRow::Route(route), origin);
    }

    /// An element of a set.
    pub fn member(&mut self, set: Ident, key: impl Into<Atoms>, origin: &FactKey) {
        self.kernel(KernelKey::Element(set, key.into()), KernelRow::Element(Element::member()), origin);
    }

    /// An element of an interval set.
    pub fn block(&mut self, set: Ident, cidr: Cidr, origin: &FactKey) {
        self.member(set, [Atom::Net(cidr.net())], origin);
    }

    /// An element of a map.
    pub fn entry(&mut self, map: Ident, key: impl Into<Atoms>, data: impl Into<Atoms>, origin: &FactKey) {
        self.kernel(KernelKey::Element(map, key.into()), KernelRow::Element(Element::maps_to(data)), origin);
    }
}

/// A filter hook at a priority.
pub fn filter(at: HookKind, priority: i32) -> Hook {
    Hook { at, nat: false, priority }
}

/// A nat hook at a priority.
pub fn nat(at: HookKind, priority: i32) -> Hook {
    Hook { at, nat: true, priority }
}

/// The fields are a key of the set.
pub fn in_set(key: impl Into<Vec<Field>>, set: Ident) -> Statement {
    Statement::Lookup(key.into(), Comparison::Is, set)
}

/// The fields are no key of the set.
pub fn not_in_set(key: impl Into<Vec<Field>>, set: Ident) -> Statement {
    Statement::Lookup(key.into(), Comparison::IsNot, set)
}

/// Link-local addresses of IPv6: nobody forwards packets with one.
pub fn link_local_v6() -> IpNet {
    IpNet::from(ipnet::Ipv6Net::new_assert(std::net::Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 10))
}

/// The whole of IPv4's loopback block.
pub fn loopback_v4() -> IpNet {
    IpNet::from(ipnet::Ipv4Net::new_assert(std::net::Ipv4Addr::new(127, 0, 0, 0), 8))
}
