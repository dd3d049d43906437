//! A plan's own consistency: what no executor should have to find out from the kernel.
//!
//! What is absent: whether the plan does what the cluster wants; that is the oracle's.

use std::collections::BTreeMap;

use weft_model::Protocol;

use crate::filter::{
    Atoms, Field, Flush, Ident, NatTarget, Rule, SetKind, SetSpec, Statement, Type, Verdict,
};
use crate::kernel::{KernelKey, KernelRow, Link, Opening};
use crate::{Plan, health, text};

/// The least MTU that IPv4 allows for a host (RFC 791 §3.1).
const LEAST_MTU: u32 = 576;
/// `IFALIASZ` in the kernel, less the final zero.
const LONGEST_ALIAS: usize = 255;
const NO_NUMBER: &str = "there is no random number below 0";

impl Plan {
    /// Looks for rows that contradict each other: a neighbour on a link that nobody makes, an element or a look-up that
    /// doesn't fit its set, a jump into nothing, two base chains whose order nobody has said, a health port that nobody can
    /// reach. Returns a sentence each; a plan that `weft-compile` made has none.
    pub fn check(&self) -> Vec<String> {
        let mut faults = Vec::new();
        let mut hooks = BTreeMap::new();
        for (key, entry) in self.kernel.sorted() {
            match (key, &entry.value) {
                (KernelKey::Element(set, parts), KernelRow::Element(element)) => {
                    faults.extend(self.check_element(set, parts, &element.data));
                }
                (KernelKey::Set(name), KernelRow::Set(spec)) => faults.extend(check_set(name, spec)),
                (KernelKey::Chain(name), KernelRow::Chain(chain)) => {
                    let statements = chain.rules.iter().flat_map(|rule| &rule.statements);
                    let found = statements
                        .filter_map(|statement| self.check_statement(statement))
                        .chain(chain.rules.iter().filter_map(Rule::unreadable));
                    faults.extend(found.map(|fault| format!("chain {name}: {fault}")));
                    // Among equals the kernel runs first whichever was made first, which differs from start to start.
                    if let Some(hook) = chain.hook
                        && let Some(other) = hooks.insert((hook.at, hook.priority), name)
                    {
                        faults.push(format!(
                            "chain {name}: {other} is at {} {} as well, and which comes first is left to chance",
                            hook.at, hook.priority
                        ));
                    }
                }
                (KernelKey::Link(name), KernelRow::Link(link)) => {
                    faults.extend(check_link(link).map(|fault| format!("link {name}: {fault}")));
                }
                (KernelKey::Fdb(link, _) | KernelKey::Neighbour(link, _), row)
                    if self.kernel.get(&KernelKey::Link(*link)).is_none() =>
                {
                    faults.push(format!("{}: no such link in the plan", text::kernel_row(key, row)));
                }
                _ => {}
            }
        }
        for (key, entry) in self.health.sorted() {
            let opening = KernelKey::Opening(Opening::Input(Protocol::Tcp, key.port));
            if self.kernel.get(&opening).is_none() {
                faults.push(format!("{}: a closed firewall would hide it", health::line(key, &entry.value)));
            }
        }
        faults
    }

    fn set(&self, name: &Ident) -> Option<&SetSpec> {
        match self.kernel.get(&KernelKey::Set(name.clone())) {
            Some(KernelRow::Set(spec)) => Some(spec),
            _ => None,
        }
    }

    fn check_element(&self, set: &Ident, parts: &Atoms, data: &Atoms) -> Option<String> {
        let Some(spec) = self.set(set) else {
            return Some(format!("element of {set}: no such set"));
        };
        let kinds = |atoms: &Atoms| atoms.iter().map(|atom| atom.kind()).collect::<Vec<_>>();
        let wanted: &[Type] = match &spec.kind {
            SetKind::Set => &[],
            SetKind::Map(types) => types,
        };
        (kinds(parts) != spec.key || kinds(data) != wanted)
            .then(|| format!("element of {set}: {parts:?} : {data:?} does not have the set's types"))
    }

    fn check_statement(&self, statement: &Statement) -> Option<String> {
        match statement {
            Statement::Lookup(key, _, set)
            | Statement::SetMarkFrom(key, set)
            | Statement::SetCtMarkFrom(key, set)
            | Statement::VerdictFrom(key, set)
            | Statement::Dnat(NatTarget::AddressPortFrom { key, map: set, .. })
            | Statement::Snat(NatTarget::AddressPortFrom { key, map: set, .. }) => {
                let Some(spec) = self.set(set) else {
                    return Some(format!("no set {set}"));
                };
                if key.contains(&Field::Random(0)) {
                    return Some(NO_NUMBER.into());
                }
                let types: Option<Vec<Type>> = key.iter().map(|field| field.kind()).collect();
                (types.as_ref() != Some(&spec.key))
                    .then(|| format!("what is looked up in {set} does not have the set's types"))
            }
            Statement::Update { map, key, data, .. } | Statement::Delete { map, key, data } => {
                let Some(spec) = self.set(map) else {
                    return Some(format!("no set {map}"));
                };
                let types: Option<Vec<Type>> = key.iter().map(|field| field.kind()).collect();
                let fits = types.as_ref() == Some(&spec.key)
                    && spec.dynamic_timeout.is_some()
                    && spec.kind == SetKind::Map(data.kind().into_iter().collect());
                (!fits).then(|| format!("{map} is no map that packets may write such elements into"))
            }
            Statement::Verdict(Verdict::Jump(chain) | Verdict::Goto(chain))
                if self.kernel.get(&KernelKey::Chain(chain.clone())).is_none() =>
            {
                Some(format!("no chain {chain}"))
            }
            Statement::Match(Field::Random(0), ..) => Some(NO_NUMBER.into()),
            _ => None,
        }
    }
}

/// nft can declare plain numbers beside what `meta` gives only ([`Type::Number`]).
fn check_set(name: &Ident, spec: &SetSpec) -> Option<String> {
    let data: &[Type] = match &spec.kind {
        SetKind::Set => &[],
        SetKind::Map(types) => types,
    };
    let leads = matches!(data, [Type::Ipv4Addr | Type::Ipv6Addr, Type::InetService]);
    match &spec.flush {
        Some(Flush::Led)
            if !leads || ![Type::InetProto, Type::InetService].iter().all(|part| spec.key.contains(part)) =>
        {
            return Some(format!(
                "map {name}: to flush connections its key needs a protocol and a port, its data an address and a port"
            ));
        }
        Some(Flush::Served { .. } | Flush::Listed { .. })
            if !leads || spec.key != [data[0], Type::InetProto, Type::InetService, Type::Mark] =>
        {
            return Some(format!(
                "map {name}: to flush what it doesn't serve its key has to be an address, a protocol, a port and a mark"
            ));
        }
        _ => {}
    }
    let numbers = spec.key.contains(&Type::Number);
    let listable = spec.key.iter().all(|kind| kind.is_declared_with_numbers())
        && (data.is_empty() || data == [Type::Mark]);
    if data.contains(&Type::Number) {
        return Some(format!("map {name}: plain numbers can't be looked up to, marks can"));
    }
    (numbers && !listable).then(|| {
        format!(
            "set {name}: beside a plain number nft declares marks, protocols, ports and link names only, and of data a mark"
        )
    })
}

fn check_link(link: &Link) -> Option<String> {
    let mtu = link.kind.mtu();
    if mtu < LEAST_MTU {
        return Some(format!("MTU {mtu} is below {LEAST_MTU}"));
    }
    (link.alias.len() > LONGEST_ALIAS).then(|| format!("its alias has over {LONGEST_ALIAS} bytes"))
}

#[cfg(test)]
mod tests {
    use weft_model::{FactKey, Family, ObjectKey, Port};

    use super::*;
    use crate::Atom;
    use crate::diff::Difference;
    use crate::filter::{Chain, Element, Hook, HookKind};
    use crate::{HealthKey, HealthRow, Listen};

    fn set(name: &str, spec: SetSpec) -> (KernelKey, KernelRow) {
        (KernelKey::Set(name.into()), KernelRow::Set(Box::new(spec)))
    }

    fn chain(name: &str, hook: Option<Hook>, statement: Statement) -> (KernelKey, KernelRow) {
        let chain = Chain { hook, rules: vec![Rule::new("", [statement])] };
        (KernelKey::Chain(name.into()), KernelRow::Chain(Box::new(chain)))
    }

    fn check(rows: impl IntoIterator<Item = (KernelKey, KernelRow)>, expected: &[&str]) {
        let mut plan = Plan::default();
        for (key, row) in rows {
            plan.kernel.set(key, row, FactKey::Host);
        }
        assert_eq!(plan.check(), expected);
    }

    #[test]
    fn two_base_chains_have_an_order() {
        let at = |priority, nat| Some(Hook { at: HookKind::Prerouting, nat, priority });
        check(
            [chain("a", at(1, false), Statement::Counter), chain("b", at(2, false), Statement::Counter)],
            &[],
        );
        check(
            [chain("a", at(1, false), Statement::Counter), chain("b", at(1, true), Statement::Counter)],
            &["chain b: a is at prerouting 1 as well, and which comes first is left to chance"],
        );
    }

    #[test]
    fn what_is_looked_up_fits_the_set() {
        let map = || set("m", SetSpec::map(&[Type::Mark, Type::Number], &[Type::Mark], ""));
        let ask = |key: &[Field]| chain("c", None, Statement::SetMarkFrom(key.to_vec(), "m".into()));
        check([map(), ask(&[Field::Mark, Field::Random(3)])], &[]);
        let wrong = "chain c: what is looked up in m does not have the set's types";
        check([map(), ask(&[Field::Mark, Field::CtMark])], &[wrong]);
        check([map(), ask(&[Field::CtState])], &[wrong]);
        check([ask(&[Field::Mark])], &["chain c: no set m"]);
    }

    #[test]
    fn packets_write_into_maps_that_are_made_for_it() {
        let map = |dynamic_timeout| {
            set("m", SetSpec { dynamic_timeout, ..SetSpec::map(&[Type::Ipv4Addr], &[Type::Mark], "") })
        };
        let update = |source: Field| {
            let (map, key) = ("m".into(), vec![source]);
            chain("c", None, Statement::Update { map, key, timeout_seconds: 1, data: Field::CtMark })
        };
        let wrong = "chain c: m is no map that packets may write such elements into";
        check([map(Some(60)), update(Field::Saddr(Family::V4))], &[]);
        check([map(None), update(Field::Saddr(Family::V4))], &[wrong]);
        check([map(Some(60)), update(Field::L4Proto)], &[wrong]);
        check([update(Field::L4Proto)], &["chain c: no set m"]);
    }

    #[test]
    fn elements_and_jumps_lead_somewhere() {
        let element =
            (KernelKey::Element("s".into(), [Atom::Port(80)].into()), KernelRow::Element(Element::member()));
        check([set("s", SetSpec::set(&[Type::InetService], "")), element.clone()], &[]);
        check(
            [set("s", SetSpec::set(&[Type::Mark], "")), element.clone()],
            &["element of s: [Port(80)] : [] does not have the set's types"],
        );
        check([element], &["element of s: no such set"]);
        check([chain("c", None, Statement::Verdict(Verdict::Jump("d".into())))], &["chain c: no chain d"]);
    }

    #[test]
    fn a_health_port_can_be_reached() {
        let key = HealthKey { port: Port::new(31_000).unwrap() };
        let service = ObjectKey::new("shop", "web").unwrap();
        let mut plan = Plan::default();
        let listen = Listen::At(["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()].into());
        plan.health.set(key, HealthRow { service, local_endpoints: 2, listen }, FactKey::Host);
        let line = "health 31000 at 192.0.2.1, 2001:db8::1 of shop/web local endpoints 2";
        assert_eq!(plan.check(), [format!("{line}: a closed firewall would hide it")]);
        let opening = KernelKey::Opening(Opening::Input(Protocol::Tcp, key.port));
        plan.kernel.set(opening, KernelRow::Opening, FactKey::Host);
        assert_eq!(plan.check(), Vec::<String>::new());
        assert_eq!(plan.to_string(), format!("opening input tcp dport 31000\n{line}\n"));
        assert_eq!(
            Difference::between(&Plan::default(), &plan).to_string(),
            format!("+ opening input tcp dport 31000\n+ {line}\n")
        );
    }

    #[test]
    fn what_flushes_says_from_where_to_where() {
        let key = [Type::InetProto, Type::InetService];
        let flushing = |key: &[Type]| {
            let spec = SetSpec::map(key, &[Type::Ipv4Addr, Type::InetService], "");
            set("m", spec.flushing(Flush::Led))
        };
        check([flushing(&key)], &[]);
        check(
            [flushing(&key[1..])],
            &[
                "map m: to flush connections its key needs a protocol and a port, its data an address and a port",
            ],
        );
        let served = |key: &[Type]| {
            let spec = SetSpec::map(key, &[Type::Ipv4Addr, Type::InetService], "");
            set("m", spec.flushing(Flush::Served { mark: 1, listed: Ident::new("l") }))
        };
        check([served(&[Type::Ipv4Addr, Type::InetProto, Type::InetService, Type::Mark])], &[]);
        for wrong in [&key[..], &[Type::Ipv6Addr, Type::InetProto, Type::InetService, Type::Mark]] {
            check(
                [served(wrong)],
                &[
                    "map m: to flush what it doesn't serve its key has to be an address, a protocol, a port and a mark",
                ],
            );
        }
    }

    #[test]
    fn a_set_that_nft_cannot_declare_is_named() {
        check(
            [set("s", SetSpec::set(&[Type::Ipv4Addr, Type::Number], ""))],
            &[
                "set s: beside a plain number nft declares marks, protocols, ports and link names only, and of data a mark",
            ],
        );
        check(
            [set("v", SetSpec::map(&[Type::Number], &[Type::Verdict], ""))],
            &[
                "set v: beside a plain number nft declares marks, protocols, ports and link names only, and of data a mark",
            ],
        );
        check(
            [set("m", SetSpec::map(&[Type::Mark], &[Type::Number], ""))],
            &["map m: plain numbers can't be looked up to, marks can"],
        );
    }
}
