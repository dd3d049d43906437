//! Routes, policy rules, neighbours and forwarding entries: rows to messages, and messages to rows. Pure.

mod read;
mod render;

pub(crate) use read::{
    ROUTE_FIXED, fdb, list_all_routes, list_fdb, list_neighbours, list_routes, list_rules, neighbour, route,
    rule,
};
pub(crate) use render::{ONLINK, Presence, af, removal_done, remove, set};
