//! From facts to a plan, and what a plan does to a packet.
//!
//! `facts` are the cluster as one node knows it; `engine` recomputes what a change can have touched; each folder below
//! `rules` turns one kind of fact into rows, with the sets and chains that it needs. A feature is one such folder and
//! one line in `rules::all`.
//!
//! What is absent: I/O, clocks, async, failure. What can't be expressed fails closed, with a warning.

mod claims;
pub mod endpoints;
pub mod engine;
pub mod facts;
pub mod names;
pub mod oracle;
pub mod rules;
pub mod services;
pub mod settings;
pub mod topology;

pub use engine::{Compiler, Context, Output, Part, Rule, RuleKey, compile};
pub use facts::{Facts, Transition};
pub use settings::{DnsSettings, PodNames, ServiceSettings, Settings};
