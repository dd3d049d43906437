//! Places where a test can have a process killed: between any two steps of an ADD or DEL, or of moving a pod in.
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

/// Every place that a pod passes which moves in from another network.
pub const MOVING_IN: [&str; 2] = ["migrate:recorded", "migrate:taken"];

/// Dies here, as by `kill -9`, where the environment says so.
pub(crate) fn point(place: &str) {
    #[cfg(debug_assertions)]
    {
        debug_assert!(PLACES.contains(&place) || MOVING_IN.contains(&place), "{place}");
        if std::env::var_os(VARIABLE).is_some_and(|wanted| wanted == *place) {
            let _ = nix::sys::signal::raise(nix::sys::signal::Signal::SIGKILL);
        }
    }
    #[cfg(not(debug_assertions))]
    let _ = place;
}
