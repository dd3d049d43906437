//! A resolver and what experience says of it.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Silences in a row after which a resolver is asked last.
const FAILURES_UNTIL_ILL: u32 = 2;
/// How long it is asked last at first; each further silence doubles it.
const ILL_FOR: Duration = Duration::from_secs(5);
/// How long at most.
const ILL_AT_MOST: Duration = Duration::from_secs(60);

/// A resolver.
#[derive(Debug)]
pub struct Upstream {
    /// Where it is.
    pub address: SocketAddr,
    folds_case: AtomicBool,
    health: Mutex<Health>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Health {
    failures: u32,
    ill_until: Option<Instant>,
}

impl Upstream {
    /// A resolver that nothing is known of.
    pub fn new(address: SocketAddr) -> Self {
        Self { address, folds_case: AtomicBool::new(false), health: Mutex::default() }
    }

    /// It answered.
    pub fn succeeded(&self) {
        *self.health() = Health::default();
    }

    /// It was silent, or can't be reached.
    pub fn failed(&self, now: Instant) {
        let mut health = self.health();
        health.failures = health.failures.saturating_add(1);
        if let Some(doublings) = health.failures.checked_sub(FAILURES_UNTIL_ILL) {
            let time = ILL_FOR.saturating_mul(1 << doublings.min(8)).min(ILL_AT_MOST);
            health.ill_until = Some(now + time);
        }
    }

    /// True while it is to be asked last.
    pub fn is_ill(&self, now: Instant) -> bool {
        self.health().ill_until.is_some_and(|until| now < until)
    }

    /// It gave a name back in another case: it can't be asked with drawn cases.
    pub fn set_folds_case(&self) {
        self.folds_case.store(true, Ordering::Relaxed);
    }

    /// True where names must be sent as they are.
    pub fn folds_case(&self) -> bool {
        self.folds_case.load(Ordering::Relaxed)
    }

    fn health(&self) -> std::sync::MutexGuard<'_, Health> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_makes_a_resolver_ill_for_longer_and_longer() {
        let upstream = Upstream::new(([127, 0, 0, 53], 53).into());
        let start = Instant::now();
        let ill_at = |seconds| upstream.is_ill(start + Duration::from_secs(seconds));
        upstream.failed(start);
        assert!(!ill_at(0));
        upstream.failed(start);
        assert!(ill_at(4) && !ill_at(5));
        upstream.failed(start);
        assert!(ill_at(9) && !ill_at(10));
        (0..100).for_each(|_| upstream.failed(start));
        assert!(ill_at(59) && !ill_at(60));
        upstream.succeeded();
        assert!(!ill_at(0));
    }
}
