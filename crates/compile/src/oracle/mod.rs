//! What a plan does to a packet, and which object decided.
//!
//! A [`World`] is the plans of one or more nodes, with the links that each machine has of its own. [`trace`] sends one packet
//! into it and walks: hooks and chains with the kernel's meaning, address translation, routing, tunnels, wires between nodes,
//! delivery. [`converse`] sends the answer back too, since a connection works only both ways; in a [`Session`] each packet
//! finds what those before it left behind. [`explore`] repeats a walk for
//! every outcome of the random choices on its way.
//!
//! What always holds: a walk ends, whatever the plans say. It reads plans and hosts and nothing else; every step names
//! the fact behind the row that decided.
//!
//! What an oracle can't know, and doesn't guess: firewalls and routes that are not Weft's, whether a process listens, MTU,
//! and what networks outside do. A packet that gets there is *outside*, or is said to rely on them.

mod choice;
mod conntrack;
mod filter;
mod hooks;
mod index;
mod look_up;
mod memory;
mod packet;
mod routing;
mod sender;
mod trace;
mod tunnel;
mod walk;
mod world;

#[cfg(test)]
mod tests;

pub use choice::{Choices, Fixed, Random, explore};
pub use look_up::LookUp;
pub use packet::{Headers, Packet, Start, Transport};
pub use trace::{Conversation, Hop, KernelWord, Outcome, Receiver, Stage, Trace};
pub use walk::{Session, converse, converse_with, trace, trace_with};
pub use world::{NodeView, PodPlace, World};
