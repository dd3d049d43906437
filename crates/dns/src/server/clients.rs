//! How many places each client has: requests that wait for resolvers, or connections. One pod must not take those of all.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use rustc_hash::FxHashMap;

/// Clients that have places, and how many.
#[derive(Debug)]
pub(super) struct Clients {
    taken: Mutex<FxHashMap<IpAddr, u32>>,
    most: u32,
}

/// A client's place; it is given back when dropped.
#[derive(Debug)]
pub(super) struct ClientPlace {
    clients: Arc<Clients>,
    client: IpAddr,
}

impl Clients {
    /// Each client may have `most` places.
    pub fn new(most: u32) -> Self {
        Self { taken: Mutex::default(), most }
    }

    /// One more place; `None` where the client has as many as it may.
    pub fn enter(self: &Arc<Self>, client: IpAddr) -> Option<ClientPlace> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let count = taken.entry(client).or_default();
        if *count >= self.most {
            return None;
        }
        *count += 1;
        Some(ClientPlace { clients: self.clone(), client })
    }
}

impl Drop for ClientPlace {
    fn drop(&mut self) {
        let mut taken = self.clients.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = taken.get_mut(&self.client) {
            *count -= 1;
            if *count == 0 {
                taken.remove(&self.client);
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
        assert!(clients.taken.lock().unwrap().is_empty());
    }
}
