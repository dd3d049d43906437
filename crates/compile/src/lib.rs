//! Facts to plan, and what a plan does to a packet
