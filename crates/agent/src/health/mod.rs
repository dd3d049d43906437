//! Health over HTTP: whether this node has endpoints of a service, and whether it does what it should with services.
//!
//! Load balancers ask the first at a service's own port (`healthCheckNodePort`; the rows are [`weft_plan::health`]), and the
//! second at the node's (`services.healthPort`, by custom 10256). [`state`] says what is true of the node, [`answer`] turns
//! that into a response, [`server`] has the sockets, on a thread of its own.
//!
//! What always holds: the server asks nobody while it answers, so it can't wait for the kernel or the store. It shares its
//! ports with another agent of the same user (SO_REUSEPORT), so that an upgrade can overlap. Of what a client sends only
//! the path counts.
//!
//! What is absent: which ports there are, and what they say. That is the plan's.

pub mod answer;
mod connection;
mod listener;
pub mod server;
pub mod state;

pub use server::{HealthServer, HealthServerError, Order};
pub use state::NodeHealth;

use tokio::sync::{mpsc, watch};

/// Where the server hears of ports and of the node.
#[derive(Debug)]
pub struct HealthNews {
    /// Ports to serve, and to serve no longer.
    pub orders: mpsc::UnboundedSender<Order>,
    /// How this node does.
    pub node: watch::Sender<NodeHealth>,
}

/// What [`HealthNews`] are heard by.
#[derive(Debug)]
pub struct HealthEars {
    /// The server's orders.
    pub orders: mpsc::UnboundedReceiver<Order>,
    /// How this node does.
    pub node: watch::Receiver<NodeHealth>,
}

/// Both ends.
pub fn news() -> (HealthNews, HealthEars) {
    let (orders, to_obey) = mpsc::unbounded_channel();
    let (node, seen) = watch::channel(NodeHealth::default());
    (HealthNews { orders, node }, HealthEars { orders: to_obey, node: seen })
}
