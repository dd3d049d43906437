//! One request from arrival to reply, whatever it came by.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use weft_plan::{DnsName, Plan};

use super::clients::{ClientPlace, Clients};
use super::config::Config;
use super::counters::{Tally, count};
use crate::answer::{Answer, Chase, Transport, Via, answer, failure};
use crate::forward::{ForwardError, Forwarder};
use crate::relay::{Question, compose, pass_on};
use crate::wire::{Rcode, Request};
use crate::zones::Zones;

/// What all sockets share.
pub(super) struct Service {
    pub tally: Arc<Tally>,
    pub forwarder: Forwarder,
    pub forwards: Arc<Semaphore>,
    pub max_forwards: u32,
    pub connections: Arc<Semaphore>,
    /// Who has connections, and how many.
    pub connected: Arc<Clients>,
    clients: Arc<Clients>,
    plan: Arc<RwLock<Plan>>,
    zones: Vec<DnsName>,
    udp_payload: u16,
    turn: AtomicU32,
}

/// What is to be done about a request.
pub(super) enum Step {
    /// Send what was written.
    Send,
    /// Send nothing.
    Drop,
    /// Wait for a resolver.
    Wait(Waiting),
}

/// A request that a resolver must be asked for.
pub(super) struct Waiting {
    what: What,
    via: Via,
    _permit: OwnedSemaphorePermit,
    _place: ClientPlace,
}

enum What {
    Forward(Request),
    Chase(Chase),
}

impl Service {
    pub fn new(config: &Config, plan: Arc<RwLock<Plan>>, forwarder: Forwarder, tally: Arc<Tally>) -> Self {
        Self {
            tally,
            forwarder,
            forwards: Arc::new(Semaphore::new(config.max_forwards as usize)),
            max_forwards: config.max_forwards,
            connections: Arc::new(Semaphore::new(config.max_connections)),
            connected: Arc::new(Clients::new(config.max_connections_per_client)),
            clients: Arc::new(Clients::new(config.max_forwards_per_client)),
            plan,
            zones: config.zones.clone(),
            udp_payload: config.udp_payload,
            turn: AtomicU32::new(0),
        }
    }

    /// Answers what our zones can; never waits. `client` is who asks.
    pub fn step(&self, query: &[u8], client: IpAddr, transport: Transport, out: &mut Vec<u8>) -> Step {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let via = Via { transport, udp_payload: self.udp_payload, turn };
        let answer = {
            let plan = self.plan.read().unwrap_or_else(PoisonError::into_inner);
            answer(&Zones::of(&plan, &self.zones), query, via, out)
        };
        let what = match answer {
            Answer::Reply(rcode) => {
                self.tally.reply(rcode);
                return Step::Send;
            }
            Answer::Silence => return Step::Drop,
            Answer::Forward(request) => What::Forward(request),
            Answer::Chase(chase) => What::Chase(chase),
        };
        let refused = match &what {
            What::Forward(request) if self.forwarder.is_loop(request) => Some(ForwardError::Loop),
            _ => None,
        };
        match (refused, self.clients.enter(client), self.forwards.clone().try_acquire_owned()) {
            (None, Some(_place), Ok(_permit)) => Step::Wait(Waiting { what, via, _permit, _place }),
            (refused, ..) => {
                self.fail(&what, refused.unwrap_or(ForwardError::TooMany), via, out);
                Step::Send
            }
        }
    }

    /// Asks resolvers and writes the reply.
    pub async fn wait(&self, waiting: Waiting, out: &mut Vec<u8>) {
        let Waiting { what, via, _permit, _place } = waiting;
        count(&self.tally.forwarded);
        // A client's datagram may be answered by a cut reply; what goes behind an alias had better be whole.
        let (question, transport) = match &what {
            What::Forward(request) => (Question::of(request, via), via.transport),
            What::Chase(chase) => (Question::behind(chase, via), Transport::Tcp),
        };
        match (self.forwarder.ask(&question, transport).await, &what) {
            (Ok(reply), What::Forward(request)) => self.tally.reply(pass_on(request, &reply, via, out)),
            (Ok(reply), What::Chase(chase)) => self.tally.reply(compose(chase, &reply, via, out)),
            (Err(error), what) => self.fail(what, error, via, out),
        }
    }

    fn fail(&self, what: &What, error: ForwardError, via: Via, out: &mut Vec<u8>) {
        count(&self.tally.failed);
        let (What::Forward(request) | What::Chase(Chase { request, .. })) = what;
        self.tally.reply(failure(request, Rcode::ServFail, Some(error.reason()), via, out));
    }
}
