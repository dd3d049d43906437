//! Whether a watch's stream that says nothing is still one: pure.
//!
//! What always holds: a stream that is silent while etcd's revision goes on is doubted, and after [`Doubt::patience`] all keys are listed. Where the
//! list brings nothing that the stream owed, it was others' keys that were written, and the next doubt lasts twice as long, up to [`LONGEST`].
//! A stream that says anything is there, however far behind.
//!
//! What is absent: whether the member answers at all (the pulse, [`super::watch`]), and whether the connection stands (the kernel's own probes,
//! [`super::connection`]).

use std::time::{Duration, Instant};

/// The longest that a silent stream is believed while etcd's revision goes on.
const LONGEST: Duration = Duration::from_secs(20 * 60);

/// See the module.
#[derive(Debug)]
pub(super) struct Doubt {
    shortest: Duration,
    patience: Duration,
    since: Option<Instant>,
}

impl Doubt {
    /// One that waits at least so long.
    pub fn of(shortest: Duration) -> Self {
        Self { shortest, patience: shortest, since: None }
    }

    /// The stream has said something.
    pub fn end(&mut self) {
        self.since = None;
    }

    /// etcd is at `revision` now, and all up to `told` is known. True where the stream isn't to be believed any more.
    pub fn grows(&mut self, revision: i64, told: i64, now: Instant) -> bool {
        if revision <= told {
            self.since = None;
            return false;
        }
        now.duration_since(*self.since.get_or_insert(now)) >= self.patience
    }

    /// All keys were listed after it; `is_confirmed` says that the stream had owed some of them.
    pub fn settle(&mut self, is_confirmed: Owed) {
        self.since = None;
        self.patience = match is_confirmed {
            Owed::Something => self.shortest,
            Owed::Nothing => (self.patience * 2).min(LONGEST),
        };
    }
}

/// What a list brought that the stream before it should have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Owed {
    Something,
    Nothing,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_doubted_while_etcd_goes_on_without_it() {
        let start = Instant::now();
        let mut doubt = Doubt::of(Duration::from_secs(10));
        let check = |doubt: &mut Doubt, revision, told, second, expected: bool| {
            let now = start + Duration::from_secs(second);
            assert_eq!(doubt.grows(revision, told, now), expected, "{doubt:?} at {second}");
        };
        // Nothing was written.
        check(&mut doubt, 7, 7, 0, false);
        check(&mut doubt, 7, 7, 100, false);
        check(&mut doubt, 8, 7, 101, false);
        check(&mut doubt, 9, 7, 110, false);
        check(&mut doubt, 9, 7, 111, true);
        // Others' keys.
        doubt.settle(Owed::Nothing);
        check(&mut doubt, 10, 9, 112, false);
        check(&mut doubt, 10, 9, 131, false);
        check(&mut doubt, 10, 9, 132, true);
        doubt.settle(Owed::Something);
        check(&mut doubt, 11, 10, 133, false);
        doubt.end();
        check(&mut doubt, 11, 10, 143, false);
        check(&mut doubt, 11, 10, 153, true);
        (0..20).for_each(|_| doubt.settle(Owed::Nothing));
        assert_eq!(doubt.patience, LONGEST);
    }
}
