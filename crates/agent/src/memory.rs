//! Memory that was needed once and is free now goes back to the system.
//!
//! The first snapshot and a full comparison pass through several times what stays. glibc keeps what was freed in the middle of
//! its heaps for later, which a daemon that has settled never needs.

/// Gives free pages back: for after what is rare and large. It takes some milliseconds for a heap of 100 MB.
#[allow(unsafe_code)]
pub fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it takes no pointer, and touches only what nobody has allocated.
    unsafe {
        libc::malloc_trim(0);
    }
}
