//! How many requests of each client wait for resolvers: one pod must not take the places of all.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use rustc_hash::FxHashMap;

/// Clients that have requests waiting, and how many.
#[derive(Debug)]
pub(super) struct Clients {
    waiting: Mutex<FxHashMap<IpAddr, u32>>,
    most: u32,
}

/// A client's place; it is given back when dropped.
#[derive(Debug)]
pub(super) struct ClientPlace {
    clients: Arc<Clients>,
    client: IpAddr,
}

impl Clients {
    /// Each client may have `most` requests waiting.
    pub fn new(most: u32) -> Self {
        Self { waiting: Mutex::default(), most }
    }

    /// A place for one more request; `None` where the client has as many as it may.
    pub fn enter(self: &Arc<Self>, client: IpAddr) -> Option<ClientPlace> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let count = waiting.entry(client).or_default();
        if *count >= self.most {
            return None;
        }
        *count += 1;
        Some(ClientPlace { clients: self.clone(), client })
    }
}

impl Drop for ClientPlace {
    fn drop(&mut self) {
        let mut waiting = self.clients.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = waiting.get_mut(&self.client) {
            *count -= 1;
            if *count == 0 {
                waiting.remove(&self.client);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_come_back_and_nobody_is_remembered() {
        let clients = Arc::new(Clients::new(2));
        let (a, b) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
        let places = [clients.enter(a).unwrap(), clients.enter(a).unwrap()];
        assert!(clients.enter(a).is_none() && clients.enter(b).is_some());
        drop(places);
        assert!(clients.enter(a).is_some());
        assert!(clients.waiting.lock().unwrap().is_empty());
    }
}
