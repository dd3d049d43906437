//! Where a walk begins: a pod, a node or somebody outside gives a packet, or the answer to one, to a node.

use weft_model::{FactKey, Family, IfName};

use super::conntrack::Phase;
use super::index::HOST;
use super::look_up::LookUp;
use super::packet::{Headers, Packet, Start};
use super::trace::{Outcome, Receiver, Stage, Trace};
use super::walk::{Ended, InFlight, Step, Walk};
use super::world::spoken;

impl Walk<'_, '_> {
    pub(super) fn answer(&mut self, sender: &Receiver, headers: Headers) -> Trace {
        let packet = InFlight::new(headers, Phase::Answer);
        let (start, step) = match sender {
            Receiver::Pod { node, link, .. } => {
                let start = Start::Pod { node: node.clone(), link: *link };
                let step = match self.world.position(node) {
                    Some(at) => self.send_from_pod(at, *link, packet),
                    None => Err(self.stranger(&start)),
                };
                (start, step)
            }
            Receiver::Node { node } => {
                let start = Start::Node { node: node.clone() };
                let step = match self.world.position(node) {
                    Some(at) => Ok(Step::Emit { at, packet }),
                    None => Err(self.stranger(&start)),
                };
                (start, step)
            }
            Receiver::Outside { node, link, .. } => {
                let start = Start::Outside { node: node.clone(), link: Some(*link) };
                let entry = self.world.owner(headers.destination);
                let step = match entry.or_else(|| Some((self.world.position(node)?, *link))) {
                    Some((at, link)) => {
                        let text = match entry {
                            Some(_) => format!("from outside by {link}"),
                            None => format!("from outside by {link}, if routers there send it back this way"),
                        };
                        self.hop(at, Stage::Send, text, &HOST);
                        Ok(Step::Arrive { at, link, packet })
                    }
                    None => Err(self.stranger(&start)),
                };
                (start, step)
            }
        };
        self.finish(start, Some(headers), step.unwrap_or_else(Step::End))
    }

    /// The outcome for a sender that is in no plan of this world.
    fn stranger(&self, start: &Start) -> Box<Outcome> {
        let (node, what) = match start {
            Start::Pod { node, link } => (node, format!("there is no pod link {link} on {node}")),
            Start::Node { node } => (node, format!("{node} is not in this view")),
            Start::Outside { node, link: Some(link) } => {
                (node, format!("the machine {node} has no link {link}"))
            }
            Start::Outside { node, link: None } => (node, format!("the machine {node} has no link")),
        };
        let origin = FactKey::Node(node.clone());
        Box::new(Outcome::Unreachable { node: node.clone(), why: what, origin })
    }

    /// Gives the first packet to a node.
    pub(super) fn begin(&mut self, start: &Start, packet: Packet) -> Ended<(Headers, Step)> {
        let (Start::Pod { node, .. } | Start::Node { node } | Start::Outside { node, .. }) = start;
        let at = self.world.position(node).ok_or_else(|| self.stranger(start))?;
        let index = self.index(at);
        let family = Family::of(packet.destination);
        let source = match start {
            Start::Pod { link, .. } => {
                let (_, _, pod, _) = index.pod(*link).ok_or_else(|| self.stranger(start))?;
                pod.addresses.iter().copied().find(|a| Family::of(*a) == family)
            }
            Start::Node { .. } => index.own_source(packet.destination),
            Start::Outside { .. } => None,
        };
        let source = packet.source.or(source).filter(|source| Family::of(*source) == family);
        let Some(source) = source else {
            let why = match start {
                Start::Outside { .. } => "say which source address a packet from outside has".to_owned(),
                _ => format!("the sender has no {family} address for {}", packet.destination),
            };
            return Err(self.unreachable(at, why, &HOST));
        };
        let headers = packet.headers(source);
        let packet = InFlight::new(headers, Phase::Opening);
        let step = match start {
            Start::Pod { link, .. } => self.send_from_pod(at, *link, packet)?,
            Start::Node { .. } => {
                self.hop(at, Stage::Send, "from the node itself", &HOST);
                Step::Emit { at, packet }
            }
            Start::Outside { link, .. } => {
                let links = &index.host.links;
                let entry = match link {
                    Some(link) => links.iter().find(|l| l.name == *link),
                    None => index.host.link_of(headers.destination).or(links.first()),
                };
                let link = entry.ok_or_else(|| self.stranger(start))?.name;
                self.hop(at, Stage::Send, format!("from outside by {link}"), &HOST);
                Step::Arrive { at, link, packet }
            }
        };
        Ok((headers, step))
    }

    fn send_from_pod(&mut self, at: usize, link: IfName, packet: InFlight) -> Ended<Step> {
        let Some((_, row, pod, origin)) = self.index(at).pod(link) else {
            let node = self.world.nodes[at].name.clone();
            return Err(self.stranger(&Start::Pod { node, link }));
        };
        self.look_ups.push(LookUp::Link(link));
        let destination = packet.headers.destination;
        if destination.is_loopback() || pod.addresses.contains(&destination) {
            self.hop(at, Stage::Send, format!("pod {} keeps it to itself", spoken(row)), origin);
            return Ok(Step::End(self.delivered_to_pod(at, link, packet.headers)));
        }
        self.hop(at, Stage::Send, format!("from pod {} by {link}", spoken(row)), origin);
        Ok(Step::Arrive { at, link, packet })
    }

    pub(super) fn delivered_to_pod(&self, at: usize, link: IfName, seen: Headers) -> Box<Outcome> {
        match self.index(at).pod(link) {
            Some((_, row, pod, _)) => {
                let node = self.world.nodes[at].name.clone();
                let attachment = pod.attachment.clone();
                let to = Receiver::Pod { node, link, attachment, name: spoken(row) };
                Box::new(Outcome::Delivered { to, seen })
            }
            None => self.dropped(at, format!("there is no pod link {link}"), &HOST),
        }
    }
}
