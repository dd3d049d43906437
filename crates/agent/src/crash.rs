//! Places where a test can have the agent killed: between any two steps of an ADD or DEL.
//!
//! Debug builds only; a release build has nothing of it.

/// The environment variable that names the place.
pub const VARIABLE: &str = "WEFT_CRASH_AT";

/// Every place, in the order in which an ADD and then a DEL pass them.
pub const PLACES: [&str; 10] = [
    "add:asked",
    "add:leased",
    "add:recorded",
    "add:fact",
    "add:in-force",
    "add:attached",
    "del:asked",
    "del:marked",
    "del:gone",
    "del:released",
];

/// Dies here, as by `kill -9`, where the environment says so.
pub(crate) fn point(place: &str) {
    #[cfg(debug_assertions)]
    {
        debug_assert!(PLACES.contains(&place), "{place}");
        if std::env::var_os(VARIABLE).is_some_and(|wanted| wanted == *place) {
            let _ = nix::sys::signal::raise(nix::sys::signal::Signal::SIGKILL);
        }
    }
    #[cfg(not(debug_assertions))]
    let _ = place;
}
