//! Netfilter's hooks on a walk: everything that hangs at one, in order of priority, with the kernel's own parts in between.

use weft_model::{FactKey, IfName};
use weft_plan::filter::HookKind;

use super::conntrack::{Direction, Manip, Tracking};
use super::filter::{Interpreter, Note, Passage, Seen};
use super::index::{BaseChain, Event};
use super::trace::{Outcome, Stage};
use super::walk::{Ended, InFlight, Walk, Way};

impl<'a> Walk<'_, 'a> {
    /// Passes a packet through everything that hangs at a hook.
    pub(super) fn hook(
        &mut self,
        at: usize,
        hook: HookKind,
        packet: &mut InFlight,
        iif: Option<IfName>,
        way: Option<Way>,
    ) -> Ended<()> {
        let index = self.index(at);
        for event in index.events(hook) {
            match event {
                Event::Track => {
                    if packet.tracking == Tracking::None {
                        let connections = &mut self.memory(at).connections;
                        packet.tracking = connections.place(&packet.headers, packet.phase);
                    }
                }
                Event::Filter(base) => {
                    self.chain(at, hook, *base, None, packet, (iif, way))?;
                }
                Event::Translate(manip) => self.translate(at, hook, *manip, packet, (iif, way))?,
            }
        }
        if matches!(hook, HookKind::Input | HookKind::Postrouting)
            && let Tracking::Tracked(place, _) = packet.tracking
            && let Some(connection) = self.memory(at).connections.get_mut(place)
        {
            connection.confirmed = true;
        }
        Ok(())
    }

    /// Runs one base chain and notes what it did; returns the fact behind its last deed.
    fn chain(
        &mut self,
        at: usize,
        hook: HookKind,
        base: BaseChain<'a>,
        nat: Option<Manip>,
        packet: &mut InFlight,
        (iif, way): (Option<IfName>, Option<Way>),
    ) -> Ended<Option<FactKey>> {
        let mut seen = Seen {
            headers: packet.headers,
            phase: packet.phase,
            mark: &mut packet.mark,
            tracking: &mut packet.tracking,
            iif,
            oif: way.map(|way| way.link),
            next_hop: way.and_then(|way| way.via),
        };
        let mut interpreter = Interpreter {
            index: &self.world.nodes[at].index,
            memory: self.memory.entry(at).or_default(),
            random: self.random,
            budget: &mut self.budget,
            look_ups: &mut self.look_ups,
            notes: Vec::new(),
        };
        let passage = interpreter.run(base, nat, &mut seen);
        let notes = std::mem::take(&mut interpreter.notes);
        for note in &notes {
            self.decided(at, hook.into(), &base, note);
        }
        let node = || self.world.nodes[at].name.clone();
        match passage {
            Passage::Pass => Ok(notes.into_iter().next_back().map(|note| note.origin)),
            Passage::Endless => Err(Box::new(Outcome::Looped)),
            Passage::Drop(note) => {
                self.decided(at, hook.into(), &base, &note);
                let why = format!("chain {}: {}", base.name, note.text);
                Err(Box::new(Outcome::Dropped { node: node(), why, origin: note.origin }))
            }
            Passage::Reject(note) => {
                self.decided(at, hook.into(), &base, &note);
                let why = format!("chain {}: {}", base.name, note.text);
                Err(Box::new(Outcome::Rejected { node: node(), why, origin: note.origin }))
            }
        }
    }

    /// Address translation at a hook: nat chains for a connection's first packet, then what the connection says.
    fn translate(
        &mut self,
        at: usize,
        hook: HookKind,
        manip: Manip,
        packet: &mut InFlight,
        links: (Option<IfName>, Option<Way>),
    ) -> Ended<()> {
        let Tracking::Tracked(place, direction) = packet.tracking else {
            return Ok(());
        };
        let is_open = |walk: &mut Self| {
            let connection = walk.memory(at).connections.get(place);
            connection.is_some_and(|c| direction == Direction::Original && !c.answered && c.is_open(manip))
        };
        for base in self.index(at).nat_chains(hook) {
            if !is_open(self) {
                break;
            }
            let decided = self.chain(at, hook, *base, Some(manip), packet, links)?;
            if let Some(connection) = self.memory(at).connections.get_mut(place) {
                connection.decided_by(manip, decided);
            }
        }
        let settle = is_open(self);
        let Some(connection) = self.memory(at).connections.get_mut(place) else {
            return Ok(());
        };
        if settle {
            connection.settle(manip);
        }
        if connection.rewrite(manip, direction, &mut packet.headers) {
            let origin = connection.author(manip, direction).cloned().unwrap_or(FactKey::Host);
            let text = match manip {
                Manip::Destination => format!("the destination: {}", packet.headers),
                Manip::Source => format!("the source: {}", packet.headers),
            };
            self.hop(at, Stage::Translate, text, &origin);
        }
        Ok(())
    }

    fn decided(&mut self, at: usize, stage: Stage, base: &BaseChain<'_>, note: &Note) {
        self.hop(at, stage, note.text.clone(), &note.origin);
        if let Some(hop) = self.hops.last_mut() {
            hop.chain = Some(base.name.to_string());
        }
    }
}
