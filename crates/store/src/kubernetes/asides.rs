//! What a watch tells beside facts: how far the node may rely on its blocks, and notices of files, conditions and other machines.
//!
//! What is absent: where any of it comes from.

use std::future::pending;
use std::sync::Arc;

use tokio::sync::watch::Receiver;

use super::place::Place;
use crate::seat::Dispute;
use crate::store::{Event, Hold, Notice};

/// See the module.
pub(super) struct Asides {
    /// What the node may rely on by its claims, where nodes make any.
    pub held: Option<Receiver<Hold>>,
    /// Which machine is the node, where that is known of machines.
    pub place: Option<(Arc<Place>, Receiver<Dispute>)>,
    /// What is told as it is.
    pub notices: [Receiver<Notice>; 3],
}

impl Asides {
    /// What is to be told before anything else.
    pub fn first(&mut self) -> Vec<Event> {
        let is_bound = self.held.is_some();
        let is_disputed = self.place.as_ref().is_some_and(|(_, found)| *found.borrow() != Dispute::default());
        let mut events = Vec::new();
        if is_bound || is_disputed {
            events.push(self.hold());
        }
        if is_disputed {
            events.extend(self.notice());
        }
        events
    }

    /// What is told next. May be dropped while it waits.
    pub async fn next(&mut self) -> Vec<Event> {
        let [objection, access, token] = &mut self.notices;
        let found = self.place.as_mut().map(|(_, found)| found);
        let is_found = tokio::select! {
            () = changed(self.held.as_mut()) => false,
            () = changed(found) => true,
            notice = news(objection) => return vec![Event::Notice(notice)],
            notice = news(access) => return vec![Event::Notice(notice)],
            notice = news(token) => return vec![Event::Notice(notice)],
        };
        let mut events = vec![self.hold()];
        if is_found {
            events.extend(self.notice());
        }
        events
    }

    /// A machine that isn't the node relies on nothing.
    fn hold(&mut self) -> Event {
        let held = self.held.as_mut().map(|held| held.borrow_and_update().clone()).unwrap_or_default();
        let refusal = self.place.as_mut().and_then(|(_, found)| found.borrow_and_update().refusal.clone());
        Event::Hold(refusal.map_or(held, Hold::Lapsed))
    }

    fn notice(&self) -> Option<Event> {
        let (place, found) = self.place.as_ref()?;
        Some(Event::Notice(place.notice(&found.borrow())))
    }
}

/// Waits until it has changed; for ever, where nobody changes it.
async fn changed<T>(told: Option<&mut Receiver<T>>) {
    if let Some(told) = told
        && told.changed().await.is_ok()
    {
        return;
    }
    pending::<()>().await;
}

async fn news<T: Clone>(told: &mut Receiver<T>) -> T {
    changed(Some(told)).await;
    told.borrow_and_update().clone()
}
