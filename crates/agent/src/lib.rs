//! The event loop that wires a node together, and its local API
