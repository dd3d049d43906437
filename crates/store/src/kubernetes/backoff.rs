//! How long to wait before trying again: pure, but for the dice.

use std::time::Duration;

/// Pauses that grow while things go wrong.
#[derive(Debug, Clone)]
pub(super) struct Backoff {
    first: Duration,
    longest: Duration,
    failures: u32,
}

impl Backoff {
    pub fn new(first: Duration, longest: Duration) -> Self {
        Self { first, longest, failures: 0 }
    }

    /// Things go well.
    pub fn reset(&mut self) {
        self.failures = 0;
    }

    /// The pause after another failure: at least what the server asks for, and never the same for all nodes.
    pub fn next(&mut self, asked: Option<Duration>) -> Duration {
        let grown = self.first.saturating_mul(1 << self.failures.min(16)).min(self.longest);
        self.failures += 1;
        // A server that wants to be left alone for longer than this has lost its clock.
        let least = asked.unwrap_or_default().min(self.longest * 4);
        match least > grown {
            // All nodes were told the same.
            true => least.mul_f64(1.0 + 0.5 * fastrand::f64()),
            false => grown.mul_f64(0.75 + 0.5 * fastrand::f64()).max(least),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_limit_and_heed_the_server() {
        let seconds = Duration::from_secs;
        let mut backoff = Backoff::new(seconds(1), seconds(30));
        for expected in [1, 2, 4, 8, 16, 30, 30] {
            let pause = backoff.next(None);
            assert!(pause >= seconds(expected) * 3 / 4 && pause <= seconds(expected) * 5 / 4, "{pause:?}");
        }
        assert!(backoff.next(Some(seconds(60))) >= seconds(60));
        assert!(backoff.next(Some(seconds(86_400))) <= seconds(180));
        let mut pauses: Vec<_> = (0..40).map(|_| backoff.next(Some(seconds(60)))).collect();
        pauses.sort_unstable();
        pauses.dedup();
        assert!(pauses.len() > 30, "nodes come in step: {pauses:?}");
        backoff.reset();
        assert!(backoff.next(None) < seconds(2));
        backoff.failures = u32::MAX - 1;
        assert!(backoff.next(None) <= seconds(38));
    }
}
