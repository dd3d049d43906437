//! Memory that was needed once and is free now goes back to the system.
//!
//! The first snapshot and a full comparison pass through several times what stays. glibc keeps what was freed in the middle of
//! its heaps for later, which a daemon that has settled never needs; and it has a heap for each of many threads, so that what
//! one has freed serves no other. Numbers: docs/benchmarks.md, 30,000 services.

/// Of a first snapshot four threads allocate much at a time: two that read or more, one that takes from them, and the one that plans. With fewer
/// heaps they wait for each other, and each wait is a call of the kernel's.
const HEAPS: i32 = 4;
/// Bytes from which on a piece of memory is mapped by itself and goes back at once. By itself glibc raises it to 32 MiB with the first large
/// piece that is freed, and tables that have outgrown their place stay in a heap as holes.
const MAPPED_FROM: i32 = 1 << 20;

/// Sets how memory is kept: before the first thread starts, for a process that lives long.
#[allow(unsafe_code)]
pub fn keep_little() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it takes numbers only, and no other thread is there yet. What it refuses stays as it was.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, HEAPS);
        libc::mallopt(libc::M_MMAP_THRESHOLD, MAPPED_FROM);
    }
}

/// Gives free pages back: for after what is rare and large. It takes some milliseconds for a heap of 100 MB.
#[allow(unsafe_code)]
pub fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it takes no pointer, and touches only what nobody has allocated.
    unsafe {
        libc::malloc_trim(0);
    }
}
