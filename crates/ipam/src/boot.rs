//! Which boot of the machine this is: pods don't outlive a boot, and neither do their leases.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::LeaseError;

/// One boot of the machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Boot {
    /// A random identifier (`/proc/sys/kernel/random/boot_id`).
    pub id: String,
    /// When it began, by the clock as it is set now.
    pub began: SystemTime,
}

impl Boot {
    const ID: &str = "/proc/sys/kernel/random/boot_id";
    const STAT: &str = "/proc/stat";

    /// The boot that this process runs in.
    ///
    /// # Errors
    /// When `/proc` doesn't say.
    pub fn current() -> Result<Self, LeaseError> {
        let read =
            |path| std::fs::read_to_string(path).map_err(|source| LeaseError::ReadBoot { path, source });
        let id = read(Self::ID)?.trim().to_owned();
        let stat = read(Self::STAT)?;
        let seconds = stat.lines().find_map(|line| line.strip_prefix("btime ")?.trim().parse().ok());
        // Without a start time nothing counts as older than the boot, and reconciling frees what is dead.
        Ok(Self { id, began: UNIX_EPOCH + Duration::from_secs(seconds.unwrap_or(0)) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_current_boot_has_an_identity_and_began_in_the_past() {
        let boot = Boot::current().unwrap();
        assert_eq!(boot.id.len(), 36, "{boot:?}");
        assert!(boot.began > UNIX_EPOCH && boot.began <= SystemTime::now(), "{boot:?}");
    }
}
