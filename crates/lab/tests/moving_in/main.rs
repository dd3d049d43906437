//! Nodes of other networks become Weft's with their pods running: connections go on, old and new pods reach each other, and
//! what the other network left is gone.

#[path = "../rig/programs.rs"]
mod programs;

mod bridge;
mod flannel;
mod flanneld;
mod joining;
mod site;
