//! Where facts come from, and where a node's own facts go.

pub mod object;
