//! What a plan does to a packet.
