//! Threads whose work nobody waits for stand back behind those that bring the network up.

/// Gives the calling thread the least share of the processor: it gets all that others leave.
#[allow(unsafe_code)]
pub fn step_back() {
    // SAFETY: it takes no pointer. On Linux 0 is the calling thread (setpriority(2)), and to ask for less is always allowed.
    unsafe {
        libc::setpriority(libc::PRIO_PROCESS, 0, 19);
    }
}
