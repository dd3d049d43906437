//! For how long a client keeps its endpoint.
//!
//! Each time has maps and chains of its own, because a rule that packets write by says it as a constant. Whoever may make
//! services may choose any of 86,400 times, so that they are rounded: every packet that opens a connection asks all there are.

/// The times that there are, in seconds, up to the longest that Kubernetes allows. Its default (three hours) is among them.
pub const STEPS: [u32; 14] =
    [1, 10, 30, 60, 300, 600, 1200, 1800, 3600, 7200, 10_800, 21_600, 43_200, 86_400];

/// Seconds for which a client is remembered that should be for so many: never fewer, up to a day.
pub fn kept_seconds(asked: u32) -> u32 {
    STEPS.into_iter().find(|step| *step >= asked).unwrap_or(STEPS[STEPS.len() - 1])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_forgotten_early() {
        assert!(STEPS.is_sorted());
        for (asked, kept) in [
            (1, 1),
            (2, 10),
            (10, 10),
            (11, 30),
            (10_800, 10_800),
            (10_801, 21_600),
            (86_400, 86_400),
            (u32::MAX, 86_400),
        ] {
            assert_eq!(kept_seconds(asked), kept);
        }
    }
}
