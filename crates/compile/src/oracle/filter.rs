//! The packet filter, interpreted with the kernel's meaning (`nft_do_chain`, and each expression's `eval`).
//!
//! A field that a packet doesn't have ends the rule, whichever way it is compared. An accept ends its base chain only; the next
//! one may still drop. Where a plan holds what the kernel would refuse to load, the rule ends there.

use std::net::IpAddr;

use weft_model::{Cidr, FactKey, Family, IfName, Protocol};
use weft_plan::filter::{Comparison, ConntrackState, ConntrackStatus, NatTarget, Value, address_hash};
use weft_plan::{Atom, Chain, Field, Ident, KernelKey, KernelRow, Rule, Statement, Verdict};

use super::choice::Random;
use super::conntrack::{Direction, Manip, Phase, Tracking};
use super::index::{BaseChain, Found, Index};
use super::look_up::LookUp;
use super::memory::Memory;
use super::packet::{Headers, Transport};

/// Jumps and gotos may follow each other this deep (`NFT_JUMP_STACK_SIZE`): the kernel refuses a table that goes deeper.
const CHAIN_DEPTH: usize = 16;

/// A packet at a hook.
#[derive(Debug)]
pub(super) struct Seen<'p> {
    pub headers: Headers,
    pub phase: Phase,
    pub mark: &'p mut u32,
    pub tracking: &'p mut Tracking,
    pub iif: Option<IfName>,
    pub oif: Option<IfName>,
    /// Where it goes next, at postrouting.
    pub next_hop: Option<IpAddr>,
}

/// A rule that did something, in words, and the fact behind it.
#[derive(Debug, Clone)]
pub(super) struct Note {
    pub text: String,
    pub origin: FactKey,
}

/// What a base chain decided.
#[derive(Debug)]
pub(super) enum Passage {
    /// On to the next chain.
    Pass,
    /// The end.
    Drop(Note),
    /// The end, and the sender is told.
    Reject(Note),
    /// Chains call each other without end.
    Endless,
}

/// What a statement does to its rule.
enum Step {
    /// On to the next statement.
    Next,
    /// The rule ends, the next one follows.
    Break,
    /// A verdict.
    Verdict(Verdict),
    /// A refusal.
    Reject,
}

/// A field's value.
enum Operand {
    Atom(Atom),
    /// There is a value, and it equals nothing that a rule can name.
    Nameless,
    Local(bool),
    State(Tracking, bool),
    Translated(bool),
    /// Which way of its connection it goes.
    Direction(Direction),
    /// It opens a TCP connection, or answers one that does: a walk has no other segments.
    Syn,
}

/// Runs chains of one node for one packet.
pub(super) struct Interpreter<'m, 'a> {
    pub index: &'m Index<'a>,
    pub memory: &'m mut Memory,
    pub random: &'m mut dyn Random,
    /// Statements that may still be evaluated on this walk.
    pub budget: &'m mut u32,
    /// What is asked of the kernel.
    pub look_ups: &'m mut Vec<LookUp>,
    /// What chains did, in order.
    pub notes: Vec<Note>,
}

impl<'a> Interpreter<'_, 'a> {
    /// Runs one base chain; `nat` for a nat chain, with what it may rewrite.
    pub fn run(&mut self, base: BaseChain<'a>, nat: Option<Manip>, packet: &mut Seen<'_>) -> Passage {
        let mut calls: Vec<(&'a Chain, usize, usize)> = Vec::new();
        let (mut chain, mut at, mut depth) = (base.chain, 0, 0);
        self.look_ups.push(LookUp::Chain(base.name.clone()));
        loop {
            let Some(rule) = chain.rules.get(at) else {
                match calls.pop() {
                    Some(caller) => (chain, at, depth) = caller,
                    None => return Passage::Pass,
                }
                continue;
            };
            at += 1;
            let Some(ended) = self.rule(rule, base.origin, nat, packet) else {
                return Passage::Endless;
            };
            match ended.step {
                Step::Next | Step::Break => {}
                Step::Reject => return Passage::Reject(ended.note),
                Step::Verdict(Verdict::Accept) => return Passage::Pass,
                Step::Verdict(Verdict::Drop) => return Passage::Drop(ended.note),
                Step::Verdict(Verdict::Return) => at = chain.rules.len(),
                Step::Verdict(Verdict::Jump(_) | Verdict::Goto(_)) if depth == CHAIN_DEPTH => {
                    return Passage::Endless;
                }
                Step::Verdict(Verdict::Jump(name)) => {
                    calls.push((chain, at, depth));
                    (chain, at, depth) = (self.chain(&name), 0, depth + 1);
                }
                Step::Verdict(Verdict::Goto(name)) => (chain, at, depth) = (self.chain(&name), 0, depth + 1),
            }
        }
    }

    fn chain(&mut self, name: &Ident) -> &'a Chain {
        self.look_ups.push(LookUp::Chain(name.clone()));
        // The kernel refuses a jump into nothing; here it returns at once.
        static NOTHING: Chain = Chain { hook: None, rules: Vec::new() };
        match self.index.plan.kernel.get(&KernelKey::Chain(name.clone())) {
            Some(KernelRow::Chain(chain)) => chain,
            _ => &NOTHING,
        }
    }

    /// Runs one rule; `None` when the budget is gone.
    fn rule(
        &mut self,
        rule: &'a Rule,
        origin: &FactKey,
        nat: Option<Manip>,
        packet: &mut Seen<'_>,
    ) -> Option<Ended> {
        let mut found = None;
        let mut acted = false;
        let mut step = Step::Next;
        for statement in &rule.statements {
            *self.budget = self.budget.checked_sub(1)?;
            let (next, element) = self.statement(statement, nat, packet);
            found = element.or(found);
            step = next;
            if matches!(step, Step::Break) {
                break;
            }
            acted |= acts(statement) || matches!(step, Step::Reject);
            if !matches!(step, Step::Next) {
                break;
            }
        }
        // What let the packet go on where others are turned away.
        acted |= found.is_some() && matches!(step, Step::Verdict(Verdict::Return));
        let ends =
            matches!(step, Step::Reject | Step::Verdict(Verdict::Accept) | Step::Verdict(Verdict::Drop));
        if !acted && !ends {
            return Some(Ended { step, note: Note { text: String::new(), origin: FactKey::Host } });
        }
        let note = note(rule, found.as_ref(), origin);
        let final_word = matches!(step, Step::Reject | Step::Verdict(Verdict::Drop));
        if !final_word {
            self.notes.push(note.clone());
        }
        Some(Ended { step, note })
    }

    fn statement(
        &mut self,
        statement: &'a Statement,
        nat: Option<Manip>,
        packet: &mut Seen<'_>,
    ) -> (Step, Option<Found<'a>>) {
        let step = match statement {
            Statement::Match(field, comparison, value) => match self.read(*field, packet) {
                Some(operand) if equals(&operand, value) == (*comparison == Comparison::Is) => Step::Next,
                _ => Step::Break,
            },
            Statement::Lookup(fields, comparison, set) => {
                let Some(key) = self.key(fields, packet) else {
                    return (Step::Break, None);
                };
                let found = key.and_then(|key| self.element(set, key));
                let holds = found.is_some() == (*comparison == Comparison::Is);
                return (if holds { Step::Next } else { Step::Break }, found);
            }
            Statement::Counter => Step::Next,
            Statement::Notrack => {
                if *packet.tracking == Tracking::None {
                    *packet.tracking = Tracking::Untracked;
                }
                Step::Next
            }
            Statement::SetMarkBits(bits) => {
                *packet.mark |= bits;
                Step::Next
            }
            Statement::SetMarkFrom(fields, map) => {
                let found = self.find(fields, map, packet);
                if let Some(Atom::Mark(mark)) = found.as_ref().and_then(|f| f.data.first()) {
                    *packet.mark = *mark;
                    return (Step::Next, found);
                }
                Step::Break
            }
            Statement::SaveMark => self.mark_connection(*packet.mark, packet),
            Statement::SetCtMark(mark) => self.mark_connection(*mark, packet),
            Statement::SetCtMarkFrom(fields, map) => {
                let found = self.find(fields, map, packet);
                if let Some(Atom::Mark(mark)) = found.as_ref().and_then(|f| f.data.first()) {
                    return (self.mark_connection(*mark, packet), found);
                }
                Step::Break
            }
            Statement::Update { map, key, data, .. } => self.update(map, key, *data, packet),
            Statement::Delete { map, key, data } => self.delete(map, key, *data, packet),
            Statement::VerdictFrom(fields, map) => {
                let found = self.find(fields, map, packet);
                if let Some(Atom::Verdict(verdict)) = found.as_ref().and_then(|f| f.data.first()) {
                    return (Step::Verdict(verdict.clone()), found);
                }
                Step::Break
            }
            Statement::Dnat(target) => return self.translate(Manip::Destination, target, nat, packet),
            Statement::Snat(target) => return self.translate(Manip::Source, target, nat, packet),
            Statement::Masquerade => self.masquerade(nat, packet),
            Statement::Reject(_) => Step::Reject,
            Statement::Verdict(verdict) => Step::Verdict(verdict.clone()),
        };
        (step, None)
    }

    /// Sets the connection's mark; a packet without a connection goes on all the same (`nft_ct_set_eval`).
    fn mark_connection(&mut self, mark: u32, packet: &Seen<'_>) -> Step {
        if let Tracking::Tracked(at, _) = *packet.tracking
            && let Some(connection) = self.memory.connections.get_mut(at)
        {
            connection.mark = mark;
        }
        Step::Next
    }

    fn update(&mut self, map: &Ident, key: &[Field], data: Field, packet: &Seen<'_>) -> Step {
        let Some(Some(key)) = self.key(key, packet) else {
            return Step::Break;
        };
        match (self.read(data, packet), self.index.written_by_packets(map)) {
            (Some(Operand::Atom(data)), Some(_)) => {
                self.memory.update(map, key, data);
                Step::Next
            }
            _ => Step::Break,
        }
    }

    /// The data that the form has is read all the same: a packet without it ends the rule.
    fn delete(&mut self, map: &Ident, key: &[Field], data: Field, packet: &Seen<'_>) -> Step {
        let (Some(Some(key)), Some(_)) = (self.key(key, packet), self.read(data, packet)) else {
            return Step::Break;
        };
        self.memory.delete(map, key);
        Step::Next
    }

    /// Decides a translation. One for the other family is passed over (`nft_nat_inet_eval`).
    fn translate(
        &mut self,
        manip: Manip,
        target: &NatTarget,
        nat: Option<Manip>,
        packet: &mut Seen<'_>,
    ) -> (Step, Option<Found<'a>>) {
        if nat != Some(manip) {
            return (Step::Break, None);
        }
        let family = packet.headers.family();
        let (address, port, found) = match target {
            NatTarget::Address(address) if Family::of(*address) != family => return (Step::Next, None),
            NatTarget::Address(address) => (*address, None, None),
            NatTarget::AddressPortFrom { family: wanted, .. } if *wanted != family => {
                return (Step::Next, None);
            }
            NatTarget::AddressPortFrom { key, map, .. } => {
                let found = self.find(key, map, packet);
                let data = found.as_ref().map_or(&[] as &[Atom], |f| &f.data);
                let (address, port) = match data {
                    [Atom::V4(a), Atom::Port(port)] => (IpAddr::V4(*a), *port),
                    [Atom::V6(a), Atom::Port(port)] => (IpAddr::V6(*a), *port),
                    _ => return (Step::Break, None),
                };
                (address, Some(port), found)
            }
        };
        if Family::of(address) != family {
            return (Step::Break, None);
        }
        self.decide(manip, address, port, packet);
        (Step::Verdict(Verdict::Accept), found)
    }

    /// Source translation to the leaving link's address; a packet that finds none is dropped (`nf_nat_masquerade_ipv4`).
    fn masquerade(&mut self, nat: Option<Manip>, packet: &mut Seen<'_>) -> Step {
        let (Some(Manip::Source), Some(link)) = (nat, packet.oif) else {
            return Step::Break;
        };
        let towards = packet.next_hop.unwrap_or(packet.headers.destination);
        let address = self
            .index
            .address_towards(link, towards)
            .or_else(|| self.index.address_towards(link, packet.headers.destination))
            .filter(|address| Family::of(*address) == packet.headers.family());
        match address {
            Some(address) => {
                self.decide(Manip::Source, address, None, packet);
                Step::Verdict(Verdict::Accept)
            }
            None => Step::Verdict(Verdict::Drop),
        }
    }

    fn decide(&mut self, manip: Manip, address: IpAddr, port: Option<u16>, packet: &Seen<'_>) {
        if let Tracking::Tracked(at, _) = *packet.tracking
            && let Some(connection) = self.memory.connections.get_mut(at)
        {
            connection.translate(manip, address, port);
        }
    }

    fn find(&mut self, fields: &[Field], map: &Ident, packet: &Seen<'_>) -> Option<Found<'a>> {
        let key = self.key(fields, packet)??;
        self.element(map, key)
    }

    /// An element that the plan has, or that a packet has put in.
    fn element(&mut self, set: &Ident, key: Vec<Atom>) -> Option<Found<'a>> {
        self.look_ups.push(LookUp::Element(set.clone(), key.clone()));
        let Some(origin) = self.index.written_by_packets(set) else {
            return self.index.element(set, key);
        };
        let data = vec![self.memory.written(set, &key)?.clone()];
        Some(Found { key: key.into(), data, origin })
    }

    /// A look-up's key: nothing where a field is missing, and no key where a part can't be in any set.
    fn key(&mut self, fields: &[Field], packet: &Seen<'_>) -> Option<Option<Vec<Atom>>> {
        let mut key = Some(Vec::with_capacity(fields.len()));
        for field in fields {
            match self.read(*field, packet)? {
                Operand::Atom(atom) => {
                    if let Some(key) = &mut key {
                        key.push(atom);
                    }
                }
                _ => key = None,
            }
        }
        Some(key)
    }

    /// A field of the packet; `None` where it has no such field.
    fn read(&mut self, field: Field, packet: &Seen<'_>) -> Option<Operand> {
        let headers = &packet.headers;
        let family = headers.family();
        let link =
            |name: Option<IfName>| name.map_or(Operand::Nameless, |name| Operand::Atom(Atom::Link(name)));
        let connection = match *packet.tracking {
            Tracking::Tracked(at, _) => self.memory.connections.get(at),
            _ => None,
        };
        Some(match field {
            Field::Iifname => link(packet.iif),
            Field::Oifname => link(packet.oif),
            Field::Mark => Operand::Atom(Atom::Mark(*packet.mark)),
            Field::CtMark => Operand::Atom(Atom::Mark(connection?.mark)),
            Field::CtMarkMasked(bits) => Operand::Atom(Atom::Mark(connection?.mark & bits)),
            Field::CtOriginalDaddr(wanted) => {
                let destination = connection?.original.destination;
                Operand::Atom((wanted == Family::of(destination)).then_some(destination)?.into())
            }
            Field::CtOriginalDport => match connection?.original {
                Headers { transport: Transport::Icmp, .. } => Operand::Nameless,
                original => Operand::Atom(Atom::Port(original.dport)),
            },
            Field::SaddrBlock(wanted, prefix) => {
                let source = (wanted == family).then_some(headers.source)?;
                Operand::Atom(Cidr::around(source, prefix).first().into())
            }
            Field::SaddrHash(wanted) => {
                Operand::Atom(Atom::Number(address_hash((wanted == family).then_some(headers.source)?)))
            }
            Field::DaddrHash(wanted) => {
                Operand::Atom(Atom::Number(address_hash((wanted == family).then_some(headers.destination)?)))
            }
            Field::L4Proto => Operand::Atom(Atom::Proto(headers.transport.number(family))),
            Field::Saddr(wanted) => Operand::Atom((wanted == family).then_some(headers.source)?.into()),
            Field::Daddr(wanted) => Operand::Atom((wanted == family).then_some(headers.destination)?.into()),
            Field::Sport | Field::Dport if headers.transport == Transport::Icmp => Operand::Nameless,
            Field::Sport => Operand::Atom(Atom::Port(headers.sport)),
            Field::Dport => Operand::Atom(Atom::Port(headers.dport)),
            Field::TcpFlags => {
                (headers.transport == Transport::Ports(Protocol::Tcp)).then_some(Operand::Syn)?
            }
            Field::Icmpv6Type => {
                (family == Family::V6 && headers.transport == Transport::Icmp).then_some(())?;
                Operand::Atom(Atom::Proto(if packet.phase == Phase::Opening { 128 } else { 129 }))
            }
            Field::FibDaddrType => Operand::Local(self.index.is_local(headers.destination)),
            Field::FibSaddrType => Operand::Local(self.index.is_local(headers.source)),
            Field::CtState => Operand::State(*packet.tracking, connection.is_some_and(|c| c.answered)),
            Field::CtStatus => Operand::Translated(connection?.dnat),
            Field::CtDirection => match *packet.tracking {
                Tracking::Tracked(_, direction) => Operand::Direction(direction),
                Tracking::None | Tracking::Untracked => return None,
            },
            Field::Random(modulus) => Operand::Atom(Atom::Number(self.random.pick(modulus.max(1)))),
        })
    }
}

/// How a rule ended.
struct Ended {
    step: Step,
    note: Note,
}

fn acts(statement: &Statement) -> bool {
    match statement {
        Statement::Notrack
        | Statement::SetMarkBits(_)
        | Statement::SetMarkFrom(..)
        | Statement::SaveMark
        | Statement::SetCtMark(_)
        | Statement::SetCtMarkFrom(..)
        | Statement::Update { .. }
        | Statement::Delete { .. }
        | Statement::Dnat(_)
        | Statement::Snat(_)
        | Statement::Masquerade => true,
        Statement::Match(..)
        | Statement::Lookup(..)
        | Statement::Counter
        | Statement::VerdictFrom(..)
        | Statement::Reject(_)
        | Statement::Verdict(_) => false,
    }
}

/// A rule in nft's words with the element that it found; that element's fact decided, else the chain's.
fn note(rule: &Rule, found: Option<&Found<'_>>, origin: &FactKey) -> Note {
    match found {
        None => Note { text: rule.to_string(), origin: origin.clone() },
        Some(found) => {
            let join = |atoms: &[Atom]| atoms.iter().map(ToString::to_string).collect::<Vec<_>>().join(" . ");
            let data =
                if found.data.is_empty() { String::new() } else { format!(" : {}", join(&found.data)) };
            let text = format!("{rule}; found {}{data}", join(&found.key.to_vec()));
            Note { text, origin: found.origin.clone() }
        }
    }
}

fn equals(operand: &Operand, value: &Value) -> bool {
    match (operand, value) {
        (Operand::Atom(Atom::Link(name)), Value::Link(wanted)) => name == wanted,
        (Operand::Atom(Atom::Link(name)), Value::LinkPrefix(prefix)) => name.as_str().starts_with(&**prefix),
        (Operand::Atom(Atom::Proto(number)), Value::Byte(wanted)) => number == wanted,
        (Operand::Atom(Atom::Port(port)), Value::Port(wanted)) => port == wanted,
        (Operand::Atom(Atom::V4(address)), Value::Address(wanted)) => IpAddr::V4(*address) == *wanted,
        (Operand::Atom(Atom::V6(address)), Value::Address(wanted)) => IpAddr::V6(*address) == *wanted,
        (Operand::Atom(Atom::V4(address)), Value::Net(net)) => net.contains(&IpAddr::V4(*address)),
        (Operand::Atom(Atom::V6(address)), Value::Net(net)) => net.contains(&IpAddr::V6(*address)),
        (Operand::Atom(Atom::Mark(mark)), Value::Mark(wanted)) => mark == wanted,
        (Operand::Atom(Atom::Number(number)), Value::Number(wanted)) => number == wanted,
        (Operand::Local(local), Value::Local) => *local,
        (Operand::Translated(dnat), Value::Status(ConntrackStatus::Dnat)) => *dnat,
        (Operand::Syn, Value::Syn) => true,
        (Operand::Direction(direction), Value::Reply) => *direction == Direction::Reply,
        (Operand::State(tracking, answered), Value::State(wanted)) => match wanted {
            ConntrackState::Invalid => *tracking == Tracking::None,
            ConntrackState::Untracked => *tracking == Tracking::Untracked,
            ConntrackState::EstablishedOrRelated => match tracking {
                Tracking::Tracked(_, direction) => *answered || *direction == Direction::Reply,
                Tracking::None | Tracking::Untracked => false,
            },
        },
        _ => false,
    }
}
