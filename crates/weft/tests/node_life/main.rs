//! The life of a node with a real agent: crashes at every step, restarts, and a store that is away.
//!
//! Needs root: each test works in a network and mount namespace of its own.

mod crash_points;
mod interfaces;
mod kernel;
mod many;
mod networkd;
mod node;
mod restart;
mod sctp;
mod take_over;
