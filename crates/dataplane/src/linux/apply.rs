//! Applying a batch: runs of neighbouring changes of one sort go out together.
//!
//! What always holds: there are as many outcomes as changes, in the same order. A refused change keeps nothing else from being
//! tried, but for a transaction of the packet filter: those after it in the batch, which may build on it, are left for later.
//! When the batch is over, new pods' links carry packets, or have had their time to.
//! A route that isn't known to be ours is replaced only when the kernel has been asked and says that it is.
//!
//! What is absent: the order, which the batch comes in (`crate::order`), and trying again ([`crate::executor`]).

use rustc_hash::FxHashMap;
use weft_model::IfName;
use weft_plan::kernel::LinkKind;
use weft_plan::{KernelKey, KernelRow, text};

use super::LinuxKernel;
use crate::kernel::{Effect, Op, link_of};
use crate::ledger::Expected;
use crate::link::pod::{self, Pair, Wanted};
use crate::link::remove;
use crate::link::request::found;
use crate::link::state::by_name;
use crate::netlink::{Message, Reply};
use crate::route::{self, Presence};
use crate::{KernelError, overlay};

type Outcome = Result<Effect, KernelError>;

/// The most pairs of a batch that are waited for together.
const PAIRS: usize = 64;

/// What is applied in one go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sort {
    Sysctl,
    /// This transaction of the batch.
    Filter(u8),
    MakeLink,
    RemoveLink,
    Table,
    Opening,
}

fn sort(op: &Op<'_>) -> Sort {
    match (op.key(), op) {
        (KernelKey::Sysctl(_), _) => Sort::Sysctl,
        (KernelKey::Link(_), Op::Set { .. }) => Sort::MakeLink,
        (KernelKey::Link(_), Op::Remove { .. }) => Sort::RemoveLink,
        (KernelKey::Route(_) | KernelKey::Rule(_) | KernelKey::Neighbour(..) | KernelKey::Fdb(..), _) => {
            Sort::Table
        }
        (KernelKey::Opening(_), _) => Sort::Opening,
        (KernelKey::Set(_) | KernelKey::Chain(_) | KernelKey::Element(..), _) => Sort::Filter(op.turn()),
    }
}

impl LinuxKernel {
    pub(super) fn apply_runs(&mut self, batch: &[Op<'_>]) -> Vec<Outcome> {
        let mut results = Vec::with_capacity(batch.len());
        let mut refused = None;
        let mut pairs = Vec::new();
        for run in batch.chunk_by(|a, b| sort(a) == sort(b)) {
            match sort(&run[0]) {
                Sort::Sysctl => results.extend(run.iter().map(|op| self.apply_sysctl(op))),
                Sort::MakeLink => {
                    results.extend(run.iter().map(|op| self.make_expected_link(op, &mut pairs)));
                }
                Sort::RemoveLink => results.extend(self.remove_links(run)),
                Sort::Table => results.extend(self.apply_table(run, &pairs)),
                Sort::Filter(_) => results.extend(self.apply_filter(run, &mut refused)),
                Sort::Opening => results.extend(self.apply_openings(run)),
            }
        }
        pod::settle(&mut self.rtnl, pairs);
        results
    }

    fn apply_sysctl(&mut self, op: &Op<'_>) -> Outcome {
        match op {
            Op::Set { key: KernelKey::Sysctl(path), row: KernelRow::Sysctl(value), .. } => {
                self.originals.set(path, value)
            }
            Op::Remove { key: KernelKey::Sysctl(path), .. } => self.originals.restore(path),
            other => Err(inconsistent(other)),
        }
        .map(|()| Effect::Done)
    }

    /// Makes a link, and tells the ledger what to expect of it. `pairs` are those that are still to carry packets: of very many
    /// some are waited for at once, since each holds a socket open.
    fn make_expected_link(&mut self, op: &Op<'_>, pairs: &mut Vec<Pair>) -> Outcome {
        let (KernelKey::Link(name), Op::Set { row: KernelRow::Link(link), .. }) = (op.key(), op) else {
            return Err(inconsistent(op));
        };
        self.ledger.expect(*name, Expected::Busy);
        let outcome = self.make_link(op, pairs);
        if pairs.len() >= PAIRS {
            pod::settle(&mut self.rtnl, std::mem::take(pairs));
        }
        match outcome {
            Ok(_) => self.ledger.expect(*name, Expected::of(link)),
            Err(_) => self.ledger.forget(*name),
        }
        outcome
    }

    fn make_link(&mut self, op: &Op<'_>, pairs: &mut Vec<Pair>) -> Outcome {
        let Op::Set { key: KernelKey::Link(name), row: KernelRow::Link(link), was, .. } = op else {
            return Err(inconsistent(op));
        };
        match &link.kind {
            LinkKind::Pod(pod) => {
                let wanted = Wanted { name: *name, link, pod, was: *was };
                let brought = self.brought.get_mut(&pod.attachment);
                let (effect, pair) = pod::ensure(&mut self.rtnl, &mut self.announcer, wanted, brought)?;
                pairs.extend(pair);
                self.brought.remove(&pod.attachment);
                Ok(effect)
            }
            kind => match overlay::of(kind) {
                Some(overlay) => overlay::ensure(&mut self.rtnl, *name, link, overlay, *was),
                None => Err(inconsistent(op)),
            },
        }
    }

    fn remove_links(&mut self, run: &[Op<'_>]) -> Vec<Outcome> {
        let names: Vec<IfName> = run
            .iter()
            .filter_map(|op| match op.key() {
                KernelKey::Link(name) => Some(*name),
                _ => None,
            })
            .collect();
        for name in &names {
            self.ledger.forget(*name);
        }
        self.brought.retain(|id, _| !names.contains(&id.host_link()));
        let results = remove::all(&mut self.rtnl, &mut self.removals, &names);
        results.into_iter().map(|result| result.map(|()| Effect::Done)).collect()
    }

    /// Routes, rules, neighbours, forwarding entries: all requests of the run in few datagrams.
    fn apply_table(&mut self, run: &[Op<'_>], pairs: &[Pair]) -> Vec<Outcome> {
        let links = match self.indices(run, pairs) {
            Ok(links) => links,
            Err(error) => return run.iter().map(|_| Err(error.clone())).collect(),
        };
        let requests: Vec<Result<Message, Outcome>> = run.iter().map(|op| self.request(op, &links)).collect();
        for op in run {
            if let Op::Remove { key: KernelKey::Fdb(link, mac), .. } = op {
                self.ledger.leaves(*link, *mac);
            }
        }
        let messages: Vec<Message> = requests.iter().filter_map(|r| r.as_ref().ok().cloned()).collect();
        let mut replies = match self.rtnl.exchange(&messages) {
            Ok(replies) => replies.into_iter(),
            Err(error) => {
                let error = KernelError::from(error);
                return run.iter().map(|_| Err(error.clone())).collect();
            }
        };
        let mut results = Vec::with_capacity(run.len());
        for (op, request) in run.iter().zip(requests) {
            results.push(match request {
                Err(known) => known,
                // `exchange` returned as many replies as there were messages.
                Ok(_) => {
                    replies.next().map_or(Err(KernelError::Killed), |reply| self.judge(op, reply, &links))
                }
            });
        }
        results
    }

    /// The request for one change, or its outcome where none is needed.
    fn request(&self, op: &Op<'_>, links: &FxHashMap<IfName, u32>) -> Result<Message, Outcome> {
        match op {
            Op::Set { key, row, .. } => {
                let index = match link_of(key, row) {
                    None => 0,
                    Some(name) => *links.get(&name).ok_or(Err(KernelError::NoLink(name)))?,
                };
                route::set(key, row, index, self.presence(key)).ok_or_else(|| Err(inconsistent(op)))
            }
            Op::Remove { key, .. } => {
                let index = match key {
                    // With the link all that hung on it is gone.
                    KernelKey::Neighbour(name, _) | KernelKey::Fdb(name, _) => {
                        *links.get(name).ok_or(Ok(Effect::Done))?
                    }
                    _ => 0,
                };
                route::remove(key, index).ok_or_else(|| Err(inconsistent(op)))
            }
        }
    }

    fn presence(&self, key: &KernelKey) -> Presence {
        match key {
            KernelKey::Route(key) if !self.routes.contains(key) => Presence::Absent,
            _ => Presence::Ours,
        }
    }

    fn judge(&mut self, op: &Op<'_>, reply: Reply, links: &FxHashMap<IfName, u32>) -> Outcome {
        let refusal = match (op, reply.result) {
            (_, Ok(())) => {
                self.remember_route(op);
                return Ok(Effect::Done);
            }
            (Op::Remove { .. }, Err(refusal)) if route::removal_done(refusal.errno) => {
                self.remember_route(op);
                return Ok(Effect::Done);
            }
            (Op::Set { key, row, .. }, Err(refusal)) if refusal.errno == libc::EEXIST => match key {
                // The very same rule.
                KernelKey::Rule(_) => return Ok(Effect::Done),
                KernelKey::Route(_) => return self.replace_own_route(op, key, row, links),
                _ => refusal,
            },
            (_, Err(refusal)) => refusal,
        };
        let (action, object) = match op {
            Op::Set { key, row, .. } => ("set", text::kernel_row(key, row)),
            Op::Remove { key, .. } => ("remove", format!("{key:?}")),
        };
        Err(KernelError::Refused { action, object, refusal })
    }

    /// Something stands where we don't know of a route of ours: lists ours, and replaces it only if it is one.
    fn replace_own_route(
        &mut self,
        op: &Op<'_>,
        key: &KernelKey,
        row: &KernelRow,
        links: &FxHashMap<IfName, u32>,
    ) -> Outcome {
        if let KernelKey::Route(route) = key {
            self.relist_routes()?;
            if !self.routes.contains(route) {
                let object = text::kernel_row(key, row);
                return Err(KernelError::ForeignRoute { object });
            }
        }
        let message =
            self.request(op, links).map_err(|outcome| outcome.err().unwrap_or_else(|| inconsistent(op)))?;
        let reply = self.rtnl.ask(message)?;
        reply.result.map(|()| Effect::Done).map_err(|refusal| KernelError::Refused {
            action: "replace",
            object: text::kernel_row(key, row),
            refusal,
        })
    }

    fn remember_route(&mut self, op: &Op<'_>) {
        match op {
            Op::Set { key: KernelKey::Route(key), row: KernelRow::Route(route), .. } => {
                self.ledger.uses(route);
                self.routes.insert(*key);
            }
            Op::Remove { key: KernelKey::Route(key), .. } => {
                self.routes.remove(key);
            }
            _ => {}
        }
    }

    /// Indices of the links that a run names. Those of pairs that this batch has made are known; the others are looked up each time,
    /// because nothing says when an index has become another link's.
    fn indices(&mut self, run: &[Op<'_>], pairs: &[Pair]) -> Result<FxHashMap<IfName, u32>, KernelError> {
        let mut names: Vec<IfName> = run
            .iter()
            .filter_map(|op| match op {
                Op::Set { key, row, .. } => link_of(key, row),
                Op::Remove { key: KernelKey::Neighbour(name, _) | KernelKey::Fdb(name, _), .. } => {
                    Some(*name)
                }
                Op::Remove { .. } => None,
            })
            .collect();
        names.sort_unstable();
        names.dedup();
        let mut known: FxHashMap<IfName, u32> = FxHashMap::default();
        known.extend(pairs.iter().map(|pair| (pair.name, pair.index)));
        names.retain(|name| !known.contains_key(name));
        let looks: Vec<Message> = names.iter().map(|name| by_name(*name)).collect();
        let replies = self.rtnl.exchange(&looks)?;
        let looked_up = names.into_iter().zip(replies);
        known.extend(
            looked_up.filter_map(|(name, reply)| found(Some(reply)).map(|state| (name, state.index))),
        );
        Ok(known)
    }
}

fn inconsistent(op: &Op<'_>) -> KernelError {
    KernelError::Inconsistent(match op {
        Op::Set { key, row, .. } => text::kernel_row(key, row),
        Op::Remove { key, .. } => format!("{key:?}"),
    })
}
