//! The walk: one packet, step by step, over the nodes of a world.
//!
//! A step ends in the next step or in an outcome, never in another walk, so that limits hold for the whole way: hop limits as in
//! the packet, and a budget of steps and statements for plans that send packets in circles.

use std::net::IpAddr;

use rustc_hash::FxHashMap;
use weft_model::{FactKey, IfName};
use weft_plan::RouteKind;
use weft_plan::filter::HookKind;

use super::choice::{Fixed, Random};
use super::conntrack::{Phase, Tracking};
use super::index::{Candidate, HOST, Index};
use super::look_up::LookUp;
use super::memory::Memory;
use super::packet::{Headers, Packet, Start};
use super::routing::{self, LinkSort};
use super::trace::{Conversation, Hop, Outcome, Receiver, Stage, Trace};
use super::tunnel::Frame;
use super::world::{World, spoken};

/// Hop limit of a new packet (`net.ipv4.ip_default_ttl`).
pub(super) const HOP_LIMIT: u8 = 64;
/// Steps of one walk.
const STEPS: u32 = 1_000;
/// Statements of one conversation.
const STATEMENTS: u32 = 20_000;

/// A packet inside a node.
#[derive(Debug)]
pub(super) struct InFlight {
    pub headers: Headers,
    pub phase: Phase,
    pub mark: u32,
    pub tracking: Tracking,
    pub hop_limit: u8,
    /// What a tunnel's outer packet carries.
    pub inner: Option<Box<Frame>>,
}

impl InFlight {
    pub fn new(headers: Headers, phase: Phase) -> Self {
        Self { headers, phase, mark: 0, tracking: Tracking::None, hop_limit: HOP_LIMIT, inner: None }
    }
}

/// How a packet leaves a node.
#[derive(Debug, Clone, Copy)]
pub(super) struct Way {
    pub link: IfName,
    /// The next hop that the route names.
    pub via: Option<IpAddr>,
}

/// What comes next.
pub(super) enum Step {
    /// It comes in by a link.
    Arrive { at: usize, link: IfName, packet: InFlight },
    /// A process of the node, or a tunnel end, sends it.
    Emit { at: usize, packet: InFlight },
    /// It is routed, and leaves.
    Leave { at: usize, from: Option<IfName>, way: Way, packet: InFlight },
    /// It leaves no more.
    End(Box<Outcome>),
}

/// A packet's fate, as soon as it is known.
pub(super) type Ended<T> = Result<T, Box<Outcome>>;

/// One packet's or one conversation's walk.
pub(super) struct Walk<'w, 'a> {
    pub world: &'w World<'a>,
    pub memory: FxHashMap<usize, Memory>,
    pub random: &'w mut dyn Random,
    pub hops: Vec<Hop>,
    /// What was asked of the kernel since the last hop.
    pub look_ups: Vec<LookUp>,
    pub budget: u32,
}

/// A world in which nodes remember: connections that packets opened, and what they wrote into maps, are found by those that
/// come after. Nothing is forgotten by the clock.
#[derive(Debug)]
pub struct Session<'w, 'a> {
    world: &'w World<'a>,
    memory: FxHashMap<usize, Memory>,
}

impl<'w, 'a> Session<'w, 'a> {
    /// A world whose nodes have seen nothing yet.
    pub fn new(world: &'w World<'a>) -> Self {
        Self { world, memory: FxHashMap::default() }
    }

    /// The same nodes with other plans: what they remember stays.
    pub fn go_on<'v, 'b>(self, world: &'v World<'b>) -> Session<'v, 'b> {
        Session { world, memory: self.memory }
    }

    /// What the plans do to one more packet, `random` throwing the dice.
    pub fn trace(&mut self, start: &Start, packet: Packet, random: &mut dyn Random) -> Trace {
        self.walk(random, |walk| walk.first(start, packet))
    }

    /// What they do to one more packet and to the answer of whoever gets it.
    pub fn converse(&mut self, start: &Start, packet: Packet, random: &mut dyn Random) -> Conversation {
        self.walk(random, |walk| {
            let forward = walk.first(start, packet);
            let reply = match &forward.outcome {
                Outcome::Delivered { to, seen } => Some(walk.answer(to, seen.reversed())),
                _ => None,
            };
            Conversation { forward, reply }
        })
    }

    fn walk<T>(&mut self, random: &mut dyn Random, go: impl FnOnce(&mut Walk<'_, 'a>) -> T) -> T {
        let memory = std::mem::take(&mut self.memory);
        let (hops, look_ups) = (Vec::new(), Vec::new());
        let mut walk = Walk { world: self.world, memory, random, hops, look_ups, budget: STATEMENTS };
        let result = go(&mut walk);
        self.memory = walk.memory;
        result
    }
}

/// What the plans of a world do to a packet. Where the kernel would throw dice, the first side is up.
pub fn trace(world: &World<'_>, start: &Start, packet: Packet) -> Trace {
    trace_with(world, start, packet, &mut Fixed(0))
}

/// The same with somebody else throwing the dice.
pub fn trace_with(world: &World<'_>, start: &Start, packet: Packet, random: &mut dyn Random) -> Trace {
    Session::new(world).trace(start, packet, random)
}

/// What they do to a packet and to the answer of whoever gets it.
pub fn converse(world: &World<'_>, start: &Start, packet: Packet) -> Conversation {
    converse_with(world, start, packet, &mut Fixed(0))
}

/// The same with somebody else throwing the dice.
pub fn converse_with(
    world: &World<'_>,
    start: &Start,
    packet: Packet,
    random: &mut dyn Random,
) -> Conversation {
    Session::new(world).converse(start, packet, random)
}

impl<'w, 'a> Walk<'w, 'a> {
    pub fn index(&self, at: usize) -> &'w Index<'a> {
        &self.world.nodes[at].index
    }

    pub fn hop(&mut self, at: usize, stage: Stage, text: impl Into<String>, origin: &FactKey) {
        let node = self.world.nodes[at].name.clone();
        let look_ups = std::mem::take(&mut self.look_ups);
        let (text, origin) = (text.into(), origin.clone());
        self.hops.push(Hop { node, stage, chain: None, text, origin, look_ups, kernel: None });
    }

    pub fn dropped(&self, at: usize, why: impl Into<String>, origin: &FactKey) -> Box<Outcome> {
        let node = self.world.nodes[at].name.clone();
        Box::new(Outcome::Dropped { node, why: why.into(), origin: origin.clone() })
    }

    pub fn unreachable(&self, at: usize, why: impl Into<String>, origin: &FactKey) -> Box<Outcome> {
        let node = self.world.nodes[at].name.clone();
        Box::new(Outcome::Unreachable { node, why: why.into(), origin: origin.clone() })
    }

    /// What a node remembers.
    pub fn memory(&mut self, at: usize) -> &mut Memory {
        self.memory.entry(at).or_default()
    }

    fn first(&mut self, start: &Start, packet: Packet) -> Trace {
        let (sent, step) = match self.begin(start, packet) {
            Ok((headers, step)) => (Some(headers), step),
            Err(outcome) => (None, Step::End(outcome)),
        };
        self.finish(start.clone(), sent, step)
    }

    pub(super) fn finish(&mut self, start: Start, sent: Option<Headers>, step: Step) -> Trace {
        let outcome = self.run(step);
        // What was asked after the last hop led to the outcome.
        let rest = std::mem::take(&mut self.look_ups);
        if let Some(last) = self.hops.last_mut() {
            last.look_ups.extend(rest);
        }
        Trace { start, sent, hops: std::mem::take(&mut self.hops), outcome }
    }

    fn run(&mut self, mut step: Step) -> Outcome {
        for _ in 0..STEPS {
            let next = match step {
                Step::Arrive { at, link, packet } => self.arrive(at, link, packet),
                Step::Emit { at, packet } => self.emit(at, packet),
                Step::Leave { at, from, way, packet } => self.leave(at, from, way, packet),
                Step::End(outcome) => return *outcome,
            };
            step = next.unwrap_or_else(Step::End);
        }
        Outcome::Looped
    }

    fn arrive(&mut self, at: usize, link: IfName, mut packet: InFlight) -> Ended<Step> {
        self.hook(at, HookKind::Prerouting, &mut packet, Some(link), None)?;
        let index = self.index(at);
        let Headers { source, destination, .. } = packet.headers;
        self.look_ups.push(LookUp::Arrive(link));
        if link != IfName::loopback()
            && let Some(why) = index.refuses(link, source, destination)
        {
            return Err(self.dropped(at, why, &HOST));
        }
        let candidate = self.route(at, source, destination, packet.mark)?;
        match candidate.route.kind {
            RouteKind::Local => {
                self.look_ups.push(LookUp::Deliver(packet.headers));
                self.hook(at, HookKind::Input, &mut packet, Some(link), None)?;
                match packet.inner.take() {
                    Some(frame) => self.decapsulate(at, &packet, *frame),
                    None => {
                        let node = self.world.nodes[at].name.clone();
                        let to = Receiver::Node { node };
                        Ok(Step::End(Box::new(Outcome::Delivered { to, seen: packet.headers })))
                    }
                }
            }
            RouteKind::Unicast | RouteKind::Unreachable => self.forward(at, link, &candidate, packet),
        }
    }

    fn forward(
        &mut self,
        at: usize,
        from: IfName,
        candidate: &Candidate<'_>,
        mut packet: InFlight,
    ) -> Ended<Step> {
        let family = packet.headers.family();
        self.look_ups.push(LookUp::Forward(packet.headers));
        if !self.index(at).forwards(family) {
            return Err(self.dropped(at, format!("the plan doesn't turn {family} forwarding on"), &HOST));
        }
        if let IpAddr::V6(source) = packet.headers.source
            && source.is_unicast_link_local()
        {
            return Err(self.unreachable(at, format!("source {source} is for one link only"), &HOST));
        }
        packet.hop_limit -= 1;
        if packet.hop_limit == 0 {
            return Err(Box::new(Outcome::Looped));
        }
        let way = self.way(at, candidate)?;
        self.hook(at, HookKind::Forward, &mut packet, Some(from), Some(way))?;
        Ok(Step::Leave { at, from: Some(from), way, packet })
    }

    fn emit(&mut self, at: usize, mut packet: InFlight) -> Ended<Step> {
        let mut way = self.own_way(at, &packet)?;
        let before = packet.headers.destination;
        self.hook(at, HookKind::Output, &mut packet, None, Some(way))?;
        if packet.headers.destination != before {
            way = self.own_way(at, &packet)?;
        }
        Ok(Step::Leave { at, from: None, way, packet })
    }

    /// The way for a packet of the node's own; to its own addresses that is the loopback.
    fn own_way(&mut self, at: usize, packet: &InFlight) -> Ended<Way> {
        let headers = &packet.headers;
        let candidate = self.route(at, headers.source, headers.destination, packet.mark)?;
        if candidate.route.kind == RouteKind::Local {
            return Ok(Way { link: IfName::loopback(), via: None });
        }
        let way = self.way(at, &candidate)?;
        let leaves = headers.source.is_ipv4() && self.index(at).routes_loopback(way.link);
        if headers.source.is_loopback() && !leaves {
            let why = format!("source {} can't leave by {}", headers.source, way.link);
            return Err(self.dropped(at, why, &HOST));
        }
        Ok(way)
    }

    fn route(&mut self, at: usize, source: IpAddr, destination: IpAddr, mark: u32) -> Ended<Candidate<'a>> {
        self.look_ups.push(LookUp::Route { source, destination });
        let Some(candidate) = self.index(at).resolve(Some(source), destination, mark).copied() else {
            return Err(self.unreachable(at, format!("no route to {destination}"), &HOST));
        };
        self.hop(at, Stage::Route, routing::line(&candidate), candidate.origin);
        Ok(candidate)
    }

    fn way(&self, at: usize, candidate: &Candidate<'_>) -> Ended<Way> {
        match (candidate.route.kind, candidate.route.link) {
            (RouteKind::Unicast, Some(link)) => Ok(Way { link, via: candidate.route.via }),
            _ => Err(self.unreachable(at, routing::line(candidate), candidate.origin)),
        }
    }

    fn leave(&mut self, at: usize, from: Option<IfName>, way: Way, mut packet: InFlight) -> Ended<Step> {
        self.hook(at, HookKind::Postrouting, &mut packet, from, Some(way))?;
        let index = self.index(at);
        self.look_ups.push(LookUp::Link(way.link));
        match index.link(way.link) {
            LinkSort::Loopback => Ok(Step::Arrive { at, link: way.link, packet }),
            LinkSort::Own => self.wire(at, way, packet),
            LinkSort::Tunnel(tunnel, origin) => self.encapsulate(at, way, tunnel, origin, packet),
            LinkSort::Missing => Err(self.dropped(at, format!("there is no link {}", way.link), &HOST)),
            LinkSort::Pod(row, pod, origin) => {
                let Headers { source, destination, .. } = packet.headers;
                self.hop(at, Stage::Link, format!("to pod {} by {}", spoken(row), way.link), origin);
                if packet.inner.is_some() {
                    return Err(self.dropped(at, "a tunnel packet reached a pod instead of a node", origin));
                }
                if !pod.addresses.contains(&destination) {
                    return Err(self.dropped(at, format!("the pod doesn't have {destination}"), origin));
                }
                if source.is_loopback() || (source.is_ipv4() && pod.addresses.contains(&source)) {
                    let why = format!("the pod's kernel takes {source} for its own address (martian source)");
                    return Err(self.dropped(at, why, origin));
                }
                Ok(Step::End(self.delivered_to_pod(at, way.link, packet.headers)))
            }
        }
    }

    /// Over a link of the machine's own: to the neighbour that has the next hop, or to wherever routers bring it.
    fn wire(&mut self, at: usize, way: Way, packet: InFlight) -> Ended<Step> {
        let destination = packet.headers.destination;
        let next_hop = way.via.unwrap_or(destination);
        let shared =
            self.index(at).host.links.iter().any(|link| {
                link.name == way.link && link.addresses.iter().any(|net| net.contains(&next_hop))
            });
        let neighbour = self.world.owner(next_hop).filter(|(node, _)| *node != at && shared);
        let (node, link, how) = match neighbour {
            Some((node, link)) => (node, link, "to"),
            None => match self.world.owner(destination).filter(|(node, _)| *node != at) {
                Some((node, link)) => (node, link, "by routers outside to"),
                None if packet.inner.is_some() => {
                    let why =
                        format!("tunnel packets to {destination}: no node of this view has that address");
                    return Err(self.unreachable(at, why, &HOST));
                }
                None => {
                    self.hop(at, Stage::Wire, format!("{} to the outside", way.link), &HOST);
                    let node = self.world.nodes[at].name.clone();
                    let to = Receiver::Outside { node, link: way.link, next_hop: way.via };
                    return Ok(Step::End(Box::new(Outcome::Delivered { to, seen: packet.headers })));
                }
            },
        };
        let peer = self.world.nodes[node].name.clone();
        self.hop(at, Stage::Wire, format!("{} {how} {peer} {link}", way.link), &FactKey::Node(peer));
        let packet = InFlight { mark: 0, tracking: Tracking::None, ..packet };
        Ok(Step::Arrive { at: node, link, packet })
    }
}
