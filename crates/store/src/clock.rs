//! Time since the machine's start.
//!
//! What always holds: it never goes back, nobody can set it, and it goes on while the machine sleeps (which
//! [`std::time::Instant`] doesn't on Linux). So an agent that was stopped, or a machine that slept, sees how long that was.

use std::ops::Add;
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// A moment, as the time since the machine's start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct BootTime(Duration);

impl BootTime {
    /// Now.
    pub fn now() -> Self {
        // The clock is there since Linux 2.6.39. Where it can't be read, every lease has run out long ago.
        Self(clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(Duration::MAX, Duration::from))
    }

    /// The moment at that time after the start.
    pub fn at(since_boot: Duration) -> Self {
        Self(since_boot)
    }

    /// The time since the machine's start.
    pub fn since_boot(self) -> Duration {
        self.0
    }

    /// How long until then from `now`; zero where it is past.
    pub fn after(self, now: Self) -> Duration {
        self.0.saturating_sub(now.0)
    }
}

impl Add<Duration> for BootTime {
    type Output = Self;

    fn add(self, time: Duration) -> Self {
        Self(self.0.saturating_add(time))
    }
}
