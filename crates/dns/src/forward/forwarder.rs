//! Which resolver is asked, when the next one is, and when it is enough.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use thiserror::Error;
use tokio::time::timeout;

use super::exchange::{self, Heard};
use super::pending::{Pending, Place};
use super::resolv_conf::{SourceState, UpstreamSource};
use super::upstream::Upstream;
use crate::answer::Transport;
use crate::relay::{Question, is_failure, is_truncated};
use crate::wire::{ExtendedError, Request};

/// Why no resolver's reply can be given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum ForwardError {
    /// The list is empty.
    #[error("no upstream resolver is configured; add a nameserver line to the node's resolv.conf")]
    NoUpstream,
    /// All were asked, in vain.
    #[error("no upstream resolver answered in time; see whether this node reaches them")]
    Silent,
    /// The request is one of our own, come back.
    #[error("an upstream resolver asks this server: name another one in the node's resolv.conf")]
    Loop,
    /// Too many requests wait: equal ones, of one client, or at all.
    #[error("too many requests wait for upstream resolvers: of one question, of one client, or at all")]
    TooMany,
}

impl ForwardError {
    /// What a client is told.
    pub fn reason(self) -> ExtendedError {
        match self {
            ForwardError::NoUpstream => ExtendedError::NO_UPSTREAM,
            ForwardError::Silent => ExtendedError::UPSTREAMS_SILENT,
            ForwardError::Loop => ExtendedError::FORWARD_LOOP,
            ForwardError::TooMany => ExtendedError::TOO_MANY,
        }
    }
}

/// How long a request may take. Clients give up after 5 seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// For one resolver.
    pub per_try: Duration,
    /// For all together.
    pub in_all: Duration,
    /// Largest UDP reply that is asked for, in bytes.
    pub udp_payload: u16,
}

/// Requests that one client's request may become.
const MAX_TRIES: usize = 4;
/// Requests to a resolver that is alone.
const TRIES_ALONE: usize = 3;

/// The node's resolvers.
#[derive(Debug)]
pub struct Forwarder {
    source: UpstreamSource,
    own: Vec<SocketAddr>,
    limits: Limits,
    upstreams: Mutex<(Option<SourceState>, Vec<Arc<Upstream>>)>,
    pending: Pending,
    chance: Chance,
}

/// Numbers that nobody outside can foresee: a keyed hash of a counter.
#[derive(Debug, Default)]
struct Chance(RandomState, AtomicU64);

impl Chance {
    fn draw(&self) -> u64 {
        self.0.hash_one(self.1.fetch_add(1, Ordering::Relaxed))
    }
}

impl Forwarder {
    /// A forwarder that never asks `own` addresses. Its list is empty until [`Forwarder::refresh`].
    pub fn new(source: UpstreamSource, own: Vec<SocketAddr>, limits: Limits) -> Self {
        Self {
            source,
            own,
            limits,
            upstreams: Mutex::default(),
            pending: Pending::default(),
            chance: Chance::default(),
        }
    }

    /// Reads the list again where its file has changed. What is known of resolvers that stay is kept; so is the whole list
    /// where the file can't be read.
    pub fn refresh(&self) {
        let state = self.source.state();
        let mut upstreams = self.upstreams.lock().unwrap_or_else(PoisonError::into_inner);
        if state == upstreams.0 && !upstreams.1.is_empty() {
            return;
        }
        let listed = match self.source.read() {
            Ok(listed) => listed,
            Err(error) => {
                if state != upstreams.0 || state.is_none() && upstreams.1.is_empty() {
                    tracing::warn!(
                        "the list of upstream resolvers can't be read ({error}); the last one stays"
                    );
                }
                return;
            }
        };
        let (ours, others): (Vec<_>, Vec<_>) = listed.into_iter().partition(|address| self.is_own(*address));
        if state != upstreams.0 {
            for address in ours {
                tracing::warn!("upstream resolver {address} is this server itself: it is left out");
            }
            for address in self.source.cut_off() {
                tracing::warn!(
                    "upstream resolver {address}: there is no such link; it is looked for again and again"
                );
            }
            tracing::info!("upstream resolvers: {others:?}");
        }
        let kept = |address: SocketAddr| {
            let old = upstreams.1.iter().find(|upstream| upstream.address == address);
            old.cloned().unwrap_or_else(|| Arc::new(Upstream::new(address)))
        };
        let list = others.into_iter().map(kept).collect();
        *upstreams = (state, list);
    }

    fn is_own(&self, address: SocketAddr) -> bool {
        self.own.iter().any(|own| {
            let everywhere = own.ip().is_unspecified() && address.ip().is_loopback();
            own.port() == address.port() && (own.ip() == address.ip() || everywhere)
        })
    }

    /// The resolvers in use, as listed.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        let upstreams = self.upstreams.lock().unwrap_or_else(PoisonError::into_inner);
        upstreams.1.iter().map(|upstream| upstream.address).collect()
    }

    /// True where a client's request is one that we sent to a resolver.
    pub fn is_loop(&self, request: &Request) -> bool {
        self.pending.is_ours(&request.name, request.rtype)
    }

    /// Asks resolvers until one knows. A cut reply is completed by TCP where `transport` is TCP, and given as it is
    /// otherwise: the client will come back by TCP itself.
    ///
    /// # Errors
    /// [`ForwardError`] where there is no reply at all; a resolver's own failure is a reply.
    pub async fn ask(&self, question: &Question, transport: Transport) -> Result<Vec<u8>, ForwardError> {
        let order = self.order(Instant::now());
        if order.is_empty() {
            return Err(ForwardError::NoUpstream);
        }
        let mut place = self.pending.enter(&question.name, question.rtype).ok_or(ForwardError::TooMany)?;
        let deadline = Instant::now() + self.limits.in_all;
        let mut last_failure = None;
        let mut replied = vec![false; order.len()];
        let tries = order.len().clamp(TRIES_ALONE, MAX_TRIES);
        for (at, upstream) in order.iter().enumerate().cycle().take(tries) {
            let left = deadline.saturating_duration_since(Instant::now());
            if replied[at] || left.is_zero() {
                continue;
            }
            let one = self.ask_one(upstream, question, transport, &mut place);
            match timeout(left.min(self.limits.per_try), one).await {
                Ok(Ok(Some(reply))) => {
                    upstream.succeeded();
                    replied[at] = true;
                    if !is_failure(&reply) {
                        return Ok(reply);
                    }
                    last_failure = Some(reply);
                }
                Ok(Ok(None)) => {
                    upstream.succeeded();
                    replied[at] = true;
                }
                Ok(Err(error)) => {
                    tracing::debug!("upstream resolver {}: {error}", upstream.address);
                    upstream.failed(Instant::now());
                }
                Err(_) => {
                    tracing::debug!("upstream resolver {}: silent", upstream.address);
                    upstream.failed(Instant::now());
                }
            }
        }
        last_failure.ok_or(ForwardError::Silent)
    }

    /// The resolvers as they should be asked: as listed, the ill ones last.
    fn order(&self, now: Instant) -> Vec<Arc<Upstream>> {
        let mut list = self.upstreams.lock().unwrap_or_else(PoisonError::into_inner).1.clone();
        list.sort_by_key(|upstream| upstream.is_ill(now));
        list
    }

    /// One resolver's reply; nothing where it refuses in a bare header.
    async fn ask_one(
        &self,
        upstream: &Upstream,
        question: &Question,
        transport: Transport,
        place: &mut Place<'_>,
    ) -> io::Result<Option<Vec<u8>>> {
        let reply = self.exchange(upstream, question, Transport::Udp, place).await?;
        match (transport, reply) {
            (Transport::Tcp, Some(reply)) if is_truncated(&reply) => {
                self.exchange(upstream, question, Transport::Tcp, place).await
            }
            (_, reply) => Ok(reply),
        }
    }

    async fn exchange(
        &self,
        upstream: &Upstream,
        question: &Question,
        transport: Transport,
        place: &mut Place<'_>,
    ) -> io::Result<Option<Vec<u8>>> {
        // A second round, where the resolver turns out to fold case.
        for _ in 0..2 {
            let mut sent = question.clone();
            if !upstream.folds_case() {
                sent.name.randomize_case(self.chance.draw());
                if sent.name != question.name {
                    place.sends(&sent.name);
                }
            }
            let message = sent.message(self.chance.draw() as u16);
            let heard = match transport {
                Transport::Udp => {
                    let buffer = usize::from(self.limits.udp_payload.max(512));
                    exchange::udp(upstream.address, &message, buffer).await
                }
                Transport::Tcp => exchange::tcp(upstream.address, &message).await,
            };
            match heard? {
                Heard::Reply(reply) => return Ok(Some(reply)),
                Heard::Refusal => return Ok(None),
                Heard::OtherCase if upstream.folds_case() => break,
                Heard::OtherCase => upstream.set_folds_case(),
            }
        }
        Ok(None)
    }
}
